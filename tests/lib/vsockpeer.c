/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of a guest's socket connections, for integration tests:
 *
 *	vsockpeer pump PATH PORT BYTES	connects to the guest's echo at PORT, sends BYTES, and
 *					checks what comes back; then both ends end in good order
 *	vsockpeer hold PATH PORT	connects, exchanges a line ("held"), waits for the end
 *					("ended")
 *	vsockpeer serve PATH LINE	listens at PATH, prints the line that a guest sends,
 *					answers LINE
 *	vsockpeer mirror PATH		listens at PATH for ever, sends back what
 *					tests/guest/free/load_vsock.c sends and checks it; at each
 *					connection's end "conn FROM TO", which of the guest's words
 *					came whole, or "FAIL ..."
 *
 * Exit status 0 if all of it went well.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LIMIT_MS = 60000 };

static void die(const char *what)
{
	fprintf(stderr, "vsockpeer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int make(const char *path, struct sockaddr_un *ret)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (fd < 0 || strlen(path) >= sizeof(ret->sun_path)) {
		die("socket");
	}
	memcpy(ret->sun_path, path, strlen(path) + 1);
	return fd;
}

static void line_of(int fd, char *ret, size_t size)
{
	size_t n = 0;
	while (n < size - 1) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, LIMIT_MS) != 1 || read(fd, ret + n, 1) != 1) {
			die("no line");
		}
		if (ret[n++] == '\n') {
			break;
		}
	}
	ret[n] = 0;
}

static int connect_guest(const char *path, const char *port)
{
	struct sockaddr_un a;
	char text[64];
	int fd = make(path, &a);
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) != 0) {
		die("connect");
	}
	int n = snprintf(text, sizeof(text), "CONNECT %s\n", port);
	if (write(fd, text, (size_t)n) != n) {
		die("write");
	}
	line_of(fd, text, sizeof(text));
	if (strncmp(text, "OK ", 3) != 0) {
		die("no OK");
	}
	return fd;
}

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static void pump(int fd, uint64_t bytes)
{
	static uint8_t buf[65536];
	uint64_t out = 0;
	uint64_t in = 0;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		p.events = out < bytes ? POLLIN | POLLOUT : POLLIN;
		if (poll(&p, 1, LIMIT_MS) <= 0) {
			die("stands still");
		}
		if ((p.revents & POLLOUT) != 0 && out < bytes) {
			size_t n = 0;
			for (; n < sizeof(buf) && out + n < bytes; n++) {
				buf[n] = byte_at(out + n);
			}
			ssize_t w = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
			if (w < 0 && errno != EAGAIN) {
				die("send");
			}
			out += w > 0 ? (uint64_t)w : 0;
			if (out == bytes) {
				shutdown(fd, SHUT_WR);
			}
		}
		if ((p.revents & (POLLIN | POLLHUP)) == 0) {
			continue;
		}
		ssize_t r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (r < 0 && errno != EAGAIN) {
			die("recv");
		}
		for (ssize_t i = 0; i < r; i++) {
			if (buf[i] != byte_at(in + (uint64_t)i)) {
				die("other bytes came back");
			}
		}
		in += r > 0 ? (uint64_t)r : 0;
		if (r == 0) {
			break;
		}
	}
	if (in != bytes || out != bytes) {
		die("bytes are missing");
	}
	printf("echo %llu ok\n", (unsigned long long)in);
}

static void hold(int fd)
{
	char text[64];
	if (write(fd, "hold\n", 5) != 5) {
		die("write");
	}
	line_of(fd, text, sizeof(text));
	puts("held");
	fflush(stdout);
	ssize_t n = read(fd, text, 1);
	if (n > 0 || (n < 0 && errno != ECONNRESET)) {
		die("more came");
	}
	puts("ended");
}

static int listener(const char *path)
{
	struct sockaddr_un a;
	int l = make(path, &a);
	if (bind(l, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(l, 1) != 0) {
		die("listen");
	}
	return l;
}

static void serve(const char *path, const char *answer)
{
	char text[200];
	int l = listener(path);
	puts("listening");
	fflush(stdout);
	struct pollfd p = { .fd = l, .events = POLLIN };
	if (poll(&p, 1, LIMIT_MS) != 1) {
		die("nobody came");
	}
	int fd = accept(l, NULL, NULL);
	if (fd < 0) {
		die("accept");
	}
	line_of(fd, text, sizeof(text));
	fputs(text, stdout);
	if (dprintf(fd, "%s\n", answer) < 0) {
		die("answer");
	}
	close(fd);
}

static uint64_t mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

/* One connection of the load guest: the number of its first word, then words. */
static void mirror(int fd)
{
	static uint8_t buf[65536];
	uint64_t first = 0;
	uint64_t word = 0;
	uint64_t at = 0; /* bytes */
	ssize_t n;
	while ((n = recv(fd, buf, sizeof(buf), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++, at++) {
			if (at < 8) {
				first |= (uint64_t)buf[i] << 8 * at;
				continue;
			}
			word = at % 8 == 0 ? mix(first + at / 8 - 1) : word;
			if (buf[i] != (uint8_t)(word >> 8 * (at % 8))) {
				printf("FAIL byte %llu of the connection that began at %llu\n",
				       (unsigned long long)at, (unsigned long long)first);
				return;
			}
		}
		for (ssize_t sent = 0; sent < n;) {
			ssize_t w = send(fd, buf + sent, (size_t)(n - sent), MSG_NOSIGNAL);
			if (w < 0) {
				break; /* it has ended: what came before counts */
			}
			sent += w;
		}
	}
	printf("conn %llu %llu\n", (unsigned long long)first,
	       (unsigned long long)(first + (at < 8 ? 0 : at / 8 - 1)));
}

static void mirrors(const char *path)
{
	int l = listener(path);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (;;) {
		int fd = accept(l, NULL, NULL);
		if (fd < 0) {
			die("accept");
		}
		mirror(fd);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "pump") == 0) {
		pump(connect_guest(argv[2], argv[3]), strtoull(argv[4], NULL, 10));
	} else if (argc == 4 && strcmp(argv[1], "hold") == 0) {
		hold(connect_guest(argv[2], argv[3]));
	} else if (argc == 4 && strcmp(argv[1], "serve") == 0) {
		serve(argv[2], argv[3]);
	} else if (argc == 3 && strcmp(argv[1], "mirror") == 0) {
		mirrors(argv[2]);
	} else {
		fprintf(stderr, "vsockpeer: pump PATH PORT BYTES | hold PATH PORT | "
				"serve PATH LINE | mirror PATH\n");
		return 2;
	}
	return 0;
}
