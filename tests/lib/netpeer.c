/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other end of a guest's network, for the tests with tests/guest/free/net.c.
 *
 *	netpeer wire LOG COMMAND...	runs COMMAND with descriptor 9, a socket, and
 *					sends each frame back
 *	netpeer udp ADDRESS PORT	sends each datagram back, for ever
 *
 * With `wire` every number must be one more than the one before it: the VMM neither loses nor
 * repeats what the guest sends. LOG gets "FAIL ..." at once, and "frames N" at the end.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_FD = 9, ETHERNET = 14, FRAME_MAX = 65536 };

static uint8_t frame[FRAME_MAX];

static int fail(const char *what)
{
	fprintf(stderr, "netpeer: %s: %s\n", what, strerror(errno));
	return 1;
}

static int echo(int fd, FILE *log)
{
	uint64_t count = 0;
	uint32_t last = 0;
	for (;;) {
		ssize_t n = recv(fd, frame, sizeof(frame), 0);
		if (n <= 0) {
			break;
		}
		uint32_t seq = 0;
		if (n < ETHERNET + 8) {
			fprintf(log, "FAIL a frame of %zd bytes\n", n);
			continue;
		}
		memcpy(&seq, frame + ETHERNET, sizeof(seq));
		if (last != 0 && seq != last + 1) {
			fprintf(log, "FAIL frame %u after %u\n", seq, last);
			fflush(log);
		}
		last = seq;
		count++;
		if (send(fd, frame, (size_t)n, MSG_NOSIGNAL) != n) {
			break;
		}
	}
	fprintf(log, "frames %llu\n", (unsigned long long)count);
	return 0;
}

static int run_wire(const char *log_path, char **command)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) {
		return fail("socketpair");
	}
	fflush(NULL);
	pid_t child = fork();
	if (child < 0) {
		return fail("fork");
	}
	if (child == 0) {
		FILE *log = fopen(log_path, "w");
		/* Nothing of the VM's may stay open here, its pipes least of all. */
		close(ends[1]);
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		_exit(log == NULL ? 1 : echo(ends[0], log) | (fclose(log) != 0));
	}
	close(ends[0]);
	if (dup2(ends[1], WIRE_FD) < 0) {
		return fail("dup2");
	}
	if (ends[1] != WIRE_FD) {
		close(ends[1]);
	}
	execv(command[0], command);
	return fail(command[0]);
}

static int run_udp(const char *address, int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (inet_pton(AF_INET, address, &at.sin_addr) != 1 || fd < 0 ||
	    bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0) {
		return fail(address);
	}
	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, frame, sizeof(frame), 0, (struct sockaddr *)&from, &len);
		if (n >= 0) {
			/* A guest that is gone for the moment loses it. */
			(void)!sendto(fd, frame, (size_t)n, 0, (struct sockaddr *)&from, len);
		} else if (errno != EINTR) {
			return fail("recvfrom");
		}
	}
}

int main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "wire") == 0) {
		return run_wire(argv[2], argv + 3);
	}
	if (argc == 4 && strcmp(argv[1], "udp") == 0) {
		return run_udp(argv[2], atoi(argv[3]));
	}
	fprintf(stderr, "usage: netpeer wire LOG COMMAND... | netpeer udp ADDRESS PORT\n");
	return 2;
}
