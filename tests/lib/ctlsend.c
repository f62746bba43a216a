/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Speaks to a control socket below any client library: packets that no sound client sends too.
 *   ctlsend SOCKET                 one packet from stdin, its answer to stdout
 *   ctlsend SOCKET --fill BYTES    one packet of blanks
 *   ctlsend SOCKET --lines         a packet per line of stdin; an answer line each
 *   ctlsend SOCKET --follow N      "Subscribe" of torpor's, then the first N packets, 60 s each
 *   ctlsend --listen PATH N        listens at PATH; prints "listening", then N packets, 60 s each
 *   ctlsend --listen PATH hold     listens at PATH, takes one connection and never reads
 * With --eventfd or --memfd BYTES at the end each packet carries one such descriptor. A descriptor
 * that comes with an answer is told as " +fd PATH-OF-IT".
 * Exit: 0 an answer came, 3 the socket was closed without one, 1 other trouble.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PACKET_MAX (1u << 20)

static char buf[PACKET_MAX + 1];
static int with_fd = -1;

static int address(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a->sun_path)) {
		fprintf(stderr, "ctlsend: path too long\n");
		return -1;
	}
	strcpy(a->sun_path, path);
	return 0;
}

static int send_packet(int fd, size_t len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { buf, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (with_fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
		m->cmsg_level = SOL_SOCKET;
		m->cmsg_type = SCM_RIGHTS;
		m->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(m), &with_fd, sizeof(int));
	}
	/* Closed already, it may have left an answer. */
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) != (ssize_t)len && errno != EPIPE) {
		/* A packet the kernel refuses to queue is no answer of the VM's. */
		perror("ctlsend: send");
		return 1;
	}
	return 0;
}

static int print_packet(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 60000) != 1) {
		fprintf(stderr, "ctlsend: no answer in 60 s\n");
		return 1;
	}
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { buf, PACKET_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	if (got <= 0) {
		fprintf(stderr, "ctlsend: closed without an answer\n");
		return 3;
	}
	printf("%.*s", (int)got, buf);
	struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
	if (m != NULL && m->cmsg_type == SCM_RIGHTS) {
		char path[64];
		char target[256];
		int came;
		memcpy(&came, CMSG_DATA(m), sizeof(came));
		snprintf(path, sizeof(path), "/proc/self/fd/%d", came);
		ssize_t n = readlink(path, target, sizeof(target) - 1);
		printf(" +fd %.*s", n > 0 ? (int)n : 1, n > 0 ? target : "?");
		close(came);
	}
	printf("\n");
	fflush(stdout);
	return 0;
}

static int lines(int fd)
{
	while (fgets(buf, PACKET_MAX, stdin) != NULL) {
		int rc = send_packet(fd, strcspn(buf, "\n"));
		rc = rc == 0 ? print_packet(fd) : rc;
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int packets(int fd, int n)
{
	for (int i = 0; i < n; i++) {
		int rc = print_packet(fd);
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int listen_at(const char *path, const char *how_many)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (address(path, &a) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, 4) < 0) {
		perror("ctlsend: listen");
		return 1;
	}
	printf("listening\n");
	fflush(stdout);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 60000) != 1) {
		fprintf(stderr, "ctlsend: nobody connected in 60 s\n");
		return 1;
	}
	int peer = accept(fd, NULL, NULL);
	if (strcmp(how_many, "hold") == 0) {
		pause();
	}
	return packets(peer, atoi(how_many));
}

int main(int argc, char **argv)
{
	int size = 2 << 20;
	size_t len = 0;
	ssize_t got;

	if (argc > 2 && strcmp(argv[argc - 1], "--eventfd") == 0) {
		with_fd = eventfd(0, EFD_CLOEXEC);
		argc--;
	} else if (argc > 3 && strcmp(argv[argc - 2], "--memfd") == 0) {
		with_fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (with_fd >= 0 && ftruncate(with_fd, atol(argv[argc - 1])) < 0) {
			perror("ctlsend: memfd");
			return 1;
		}
		argc -= 2;
	}
	if (argc == 4 && strcmp(argv[1], "--listen") == 0) {
		return listen_at(argv[2], argv[3]);
	}
	struct sockaddr_un a;
	if (argc < 2 || address(argv[1], &a) < 0) {
		fprintf(stderr, "usage: see the top of tests/lib/ctlsend.c\n");
		return 2;
	}
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("ctlsend: connect");
		return 1;
	}
	if (argc == 3 && strcmp(argv[2], "--lines") == 0) {
		return lines(fd);
	}
	if (argc == 4 && strcmp(argv[2], "--follow") == 0) {
		len = (size_t)sprintf(buf, "{\"Torpor\":{\"v\":1,\"cmd\":\"Subscribe\"}}");
		return send_packet(fd, len) != 0 ? 1 : packets(fd, atoi(argv[3]));
	}
	if (argc == 4 && strcmp(argv[2], "--fill") == 0) {
		len = strtoul(argv[3], NULL, 10);
		len = len > PACKET_MAX ? PACKET_MAX : len;
		memset(buf, ' ', len);
	} else {
		while ((got = read(0, buf + len, PACKET_MAX - len)) > 0) {
			len += (size_t)got;
		}
	}
	int rc = send_packet(fd, len);
	return rc != 0 ? rc : print_packet(fd);
}
