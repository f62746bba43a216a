/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's ends for tests/bench/run --devices.
 *
 *   devpeer sink PATH               listens there, takes what comes, for ever
 *   devpeer source PATH PORT        connects, asks for PORT of the guest, sends for ever
 *   devpeer flood IFNAME BYTES      sends frames of that length into an interface for ever
 *   devpeer plain BYTES MS          pieces of BYTES through a plain pair of Unix sockets for so
 *                                   long; prints pieces per second and microseconds of CPU per
 * piece
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BYTES_MAX = 65536, BATCH = 32, ETHERNET = 14, FRAME_TYPE = 0x88b5 };

static uint8_t buf[BYTES_MAX];

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "devpeer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(a.sun_path)) {
		die(path);
	}
	strcpy(a.sun_path, path);
	return a;
}

static void drain(int fd)
{
	while (recv(fd, buf, sizeof(buf), 0) > 0) {
	}
}

static void sink(const char *path)
{
	struct sockaddr_un a = address(path);
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(l, 1) != 0) {
		die(path);
	}
	for (;;) {
		int fd = accept(l, NULL, NULL);
		if (fd < 0) {
			die("accept");
		}
		drain(fd);
		close(fd);
	}
}

static void source(const char *path, const char *port)
{
	struct sockaddr_un a = address(path);
	char text[64];
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a)) != 0 ||
	    dprintf(fd, "CONNECT %s\n", port) < 0 || recv(fd, text, sizeof(text), 0) < 3) {
		die(path);
	}
	while (send(fd, buf, sizeof(buf), MSG_NOSIGNAL) > 0) {
	}
}

static void flood(const char *name, size_t bytes)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_ifindex = (int)if_nametoindex(name),
				  .sll_protocol = htons(FRAME_TYPE) };
	struct mmsghdr all[BATCH];
	struct iovec piece = { buf, bytes };
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&to, sizeof(to)) != 0) {
		die(name);
	}
	memset(buf, 0xff, 6);
	memcpy(buf + 6, "\2\0\0\0\0\2\x88\xb5", 8);
	memset(all, 0, sizeof(all));
	for (int i = 0; i < BATCH; i++) {
		all[i].msg_hdr.msg_iov = &piece;
		all[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) { /* what the interface has no room for is dropped */
		if (sendmmsg(fd, all, BATCH, 0) < 0 && errno != ENOBUFS && errno != EAGAIN) {
			die("sendmmsg");
		}
	}
}

static void plain(size_t bytes, uint64_t ms)
{
	int ends[2];
	struct rusage u;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
		die("socketpair");
	}
	pid_t child = fork();
	if (child == 0) {
		close(ends[0]);
		drain(ends[1]);
		_exit(0);
	}
	close(ends[1]);
	uint64_t begin = now_us(), n = 0;
	while (now_us() - begin < ms * 1000 && send(ends[0], buf, bytes, 0) == (ssize_t)bytes) {
		n++;
	}
	uint64_t took = now_us() - begin;
	close(ends[0]);
	if (n == 0 || waitpid(child, NULL, 0) != child) {
		die("plain");
	}
	/* Of the sender alone: the other end is nobody's VMM. */
	getrusage(RUSAGE_SELF, &u);
	double cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
		     (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
	printf("%.1f %.4f\n", (double)n * 1e6 / (double)took, cpu / (double)n);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "sink") == 0) {
		sink(argv[2]);
	} else if (argc == 4 && strcmp(argv[1], "source") == 0) {
		source(argv[2], argv[3]);
	} else if (argc == 4 && strcmp(argv[1], "flood") == 0) {
		flood(argv[2], strtoul(argv[3], NULL, 10));
	} else if (argc == 4 && strcmp(argv[1], "plain") == 0) {
		plain(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
	} else {
		fprintf(stderr, "usage: devpeer sink PATH | source PATH PORT | flood IFNAME BYTES "
				"| plain BYTES MS\n");
		return 2;
	}
	return 0;
}
