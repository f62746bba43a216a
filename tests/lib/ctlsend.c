/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends one raw packet to a control socket and prints the one answer. For tests with packets that
 * no sound client sends. Usage: ctlsend SOCKET (packet from stdin) | ctlsend SOCKET --fill BYTES
 * Exit: 0 an answer came, 3 the socket was closed without one, 1 other trouble.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PACKET_MAX (1u << 20)

int main(int argc, char **argv)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char *buf = malloc(PACKET_MAX);
	int size = 2 << 20;
	size_t len = 0;
	ssize_t got;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (argc < 2 || !buf || strlen(argv[1]) >= sizeof(a.sun_path)) {
		fprintf(stderr, "usage: ctlsend SOCKET [--fill BYTES]\n");
		return 2;
	}
	strcpy(a.sun_path, argv[1]);
	if (argc == 4 && strcmp(argv[2], "--fill") == 0) {
		len = strtoul(argv[3], NULL, 10);
		len = len > PACKET_MAX ? PACKET_MAX : len;
		memset(buf, ' ', len);
	} else {
		while ((got = read(0, buf + len, PACKET_MAX - len)) > 0) {
			len += (size_t)got;
		}
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("ctlsend: connect");
		return 1;
	}
	if (send(fd, buf, len, MSG_NOSIGNAL) != (ssize_t)len) {
		/* A packet the kernel refuses to queue is no answer of the VM's. */
		perror("ctlsend: send");
		return 1;
	}
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 10000) != 1) {
		fprintf(stderr, "ctlsend: no answer in 10 s\n");
		return 1;
	}
	got = recv(fd, buf, PACKET_MAX, 0);
	if (got <= 0) {
		fprintf(stderr, "ctlsend: closed without an answer\n");
		return 3;
	}
	printf("%.*s\n", (int)got, buf);
	return 0;
}
