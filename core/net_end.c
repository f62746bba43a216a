/* SPDX-License-Identifier: Apache-2.0 */
/* What network devices are tied to. See net_end.h. Source: Linux
 * Documentation/networking/tuntap.rst. */
#include "core/net_end.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/base/io.h"
#include "devices/virtio_net.h"

/* A tap's frames get virtio's header, where it has one at all. */
static struct err *set_header(int fd, short flags, struct host_end *end)
{
	ENSURE((flags & IFF_TAP) != 0 && (flags & IFF_NO_PI) != 0, ERR_USAGE,
	       "it is no tap, or one with packet information (IFF_NO_PI is not set)");
	end->header = (flags & IFF_VNET_HDR) != 0;
	int bytes = VIRTIO_NET_HEADER_BYTES;
	if (end->header && ioctl(fd, TUNSETVNETHDRSZ, &bytes) != 0) {
		return ERR_ERRNO("setting the size of its header");
	}
	return NULL;
}

struct err *net_end_there(const char *name)
{
	ENSURE(if_nametoindex(name) != 0, ERR_NOTFOUND,
	       "there is no interface '%s': 'ip tuntap add %s mode tap user %d' makes one", name,
	       name, (int)getuid());
	return NULL;
}

struct err *net_end_tap(const char *name, struct host_end *end)
{
	TRY(net_end_there(name));
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open("/dev/net/tun", O_RDWR | O_NONBLOCK, 0, &fd));
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (ioctl(fd.n, TUNSETIFF, &r) != 0) {
		ENSURE(errno != EBUSY, ERR_NOT_NOW, "tap '%s' is in use by another program", name);
		ENSURE(errno != EINVAL, ERR_USAGE, "'%s' is no tap, or one made with multi_queue",
		       name);
		return ERR_ERRNO("tap '%s'", name);
	}
	TRY(err_wrap(set_header(fd.n, r.ifr_flags, end), "tap '%s'", name));
	end->fd = fd_move(&fd);
	return NULL;
}

struct err *net_end_fd_look(int n, struct host_end *end)
{
	struct ifreq r = { 0 };
	ENSURE(fcntl(n, F_GETFD) >= 0, ERR_USAGE, "descriptor %d is not open", n);
	end->header = ioctl(n, TUNGETIFF, &r) == 0 && (r.ifr_flags & IFF_VNET_HDR) != 0;
	return NULL;
}

struct err *net_end_fd(int n, struct host_end *end)
{
	int type = 0;
	socklen_t len = sizeof(type);
	struct ifreq r = { 0 };
	ENSURE(fcntl(n, F_GETFD) >= 0, ERR_USAGE, "descriptor %d is not open", n);
	if (ioctl(n, TUNGETIFF, &r) == 0) {
		TRY(err_wrap(set_header(n, r.ifr_flags, end), "descriptor %d", n));
	} else {
		ENSURE(getsockopt(n, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
			       (type == SOCK_SEQPACKET || type == SOCK_DGRAM),
		       ERR_USAGE,
		       "descriptor %d is neither a tap nor a socket that keeps messages apart", n);
	}
	if (fcntl(n, F_SETFL, fcntl(n, F_GETFL) | O_NONBLOCK) != 0) {
		return ERR_ERRNO("descriptor %d", n);
	}
	end->fd = (struct fd){ n };
	return NULL;
}
