/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other end of a guest's network, for the tests with tests/guest/free/net.c.
 *
 *	netpeer wire LOG COMMAND...	runs COMMAND with descriptor 9, a socket, and
 *					sends each frame back
 *	netpeer udp ADDRESS PORT	sends each datagram back, for ever
 *	netpeer tcp ADDRESS PORT KIB	sends that much and checks what comes back
 *
 * With `wire` every number must be one more than the one before it: the VMM neither loses nor
 * repeats what the guest sends. LOG gets "FAIL ..." at once, and "frames N from FIRST to LAST" at
 *the end. `tcp` says "kib N" now and then, "done" at the end, "FAIL ..." before it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
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
	uint32_t first = 0;
	uint32_t last = 0;
	for (;;) {
		ssize_t n = recv(fd, frame, sizeof(frame), 0);
		if (n < 0 && errno == ECONNRESET) {
			continue; /* told once; what was sent before is still there */
		}
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
		first = count == 0 ? seq : first;
		last = seq;
		count++;
		/* To a VM that is gone nothing comes back; what it sent before counts. */
		(void)!send(fd, frame, (size_t)n, MSG_NOSIGNAL);
	}
	fprintf(log, "frames %llu from %u to %u\n", (unsigned long long)count, first, last);
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

/* ---- TCP ---- */

enum { PIECE = 8192, TELL_KIB = 16 };

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 7 ^ i >> 8 ^ i >> 16);
}

static int fail_tcp(const char *what, uint64_t at)
{
	printf("FAIL %s after %llu bytes: %s\n", what, (unsigned long long)at, strerror(errno));
	return 1;
}

static int stream(int fd, uint64_t bytes)
{
	uint64_t out = 0, in = 0, told = 0;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	printf("connected\n");
	while (in < bytes) {
		struct pollfd p = { .fd = fd,
				    .events = (short)(POLLIN | (out < bytes ? POLLOUT : 0)) };
		poll(&p, 1, -1);
		if ((p.revents & POLLOUT) != 0) {
			size_t n = bytes - out < PIECE ? bytes - out : PIECE;
			for (size_t i = 0; i < n; i++) {
				frame[i] = pattern(out + i);
			}
			ssize_t sent = send(fd, frame, n, MSG_NOSIGNAL);
			if (sent < 0 && errno != EAGAIN) {
				return fail_tcp("send", in);
			}
			out += sent > 0 ? (uint64_t)sent : 0;
		}
		if ((p.revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
			ssize_t n = recv(fd, frame, PIECE, 0);
			if (n == 0 || (n < 0 && errno != EAGAIN)) {
				return fail_tcp("recv", in);
			}
			for (ssize_t i = 0; i < n; i++, in++) {
				if (frame[i] != pattern(in)) {
					return fail_tcp("another byte", in);
				}
			}
		}
		if (in / 1024 / TELL_KIB != told) {
			told = in / 1024 / TELL_KIB;
			printf("kib %llu\n", (unsigned long long)(in / 1024));
		}
	}
	printf("done\n");
	return 0;
}

static int run_tcp(const char *address, int port, uint64_t kib)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (inet_pton(AF_INET, address, &at.sin_addr) != 1 || fd < 0) {
		return fail(address);
	}
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) != 0) {
		return fail_tcp("connect", 0);
	}
	return stream(fd, kib * 1024);
}

int main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "wire") == 0) {
		return run_wire(argv[2], argv + 3);
	}
	if (argc == 4 && strcmp(argv[1], "udp") == 0) {
		return run_udp(argv[2], atoi(argv[3]));
	}
	if (argc == 5 && strcmp(argv[1], "tcp") == 0) {
		return run_tcp(argv[2], atoi(argv[3]), strtoull(argv[4], NULL, 10));
	}
	fprintf(stderr, "usage: netpeer wire LOG COMMAND... | udp ADDRESS PORT | tcp ADDRESS PORT "
			"KIB\n");
	return 2;
}
