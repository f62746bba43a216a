/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User networking: libslirp in a process of its own, which answers the guest's frames with sockets
 * of the user. The process has nothing of the VM's but a socket for frames, and a jail of its own
 * (JAIL_USERNET); it ends with the VM. See docs/decisions/0014-user-networking.md.
 *
 * The guest gets 10.0.2.15 by DHCP, its gateway is 10.0.2.2, its name server 10.0.2.3. Called by
 * the program's start-up, on its one thread.
 */
#ifndef TORPOR_CORE_USERNET_H
#define TORPOR_CORE_USERNET_H

#include <netinet/in.h>

#include "core/base/err.h"
#include "core/base/io.h"

enum { USERNET_FORWARDS_MAX = 32 };

struct usernet_forward {
	bool udp;
	struct in_addr host, guest;
	uint16_t host_port, guest_port;
};

struct usernet_opts {
	bool restricted; /* forwards alone: the guest reaches nothing by itself */
	bool loopback;   /* what listens on this host's 127.0.0.1 is at 10.0.2.2 */
	unsigned n;
	struct usernet_forward forward[USERNET_FORWARDS_MAX];
};

/* "[tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT"; the host's address is 127.0.0.1 unless given, the
 * guest's 10.0.2.15. ERR_USAGE. */
MUST_USE struct err *usernet_parse_forward(const char *text, struct usernet_forward *ret);
/* Would its forwards find their ports free now? Nothing is started. */
MUST_USE struct err *usernet_look(const struct usernet_opts *opts);
/* Starts the process; *ret_frames carries one frame per message. */
MUST_USE struct err *usernet_start(const struct usernet_opts *opts, struct fd *ret_frames);

#endif
