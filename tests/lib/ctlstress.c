/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on a control socket, below any client library.
 *   ctlstress SOCKET stress SECONDS SEED  8 clients send valid requests, damaged ones and garbage,
 * with descriptors or not, whole, half-closed or cut off ctlstress SOCKET cycles N             N
 * suspends and resumes, of the VM and of its vCPUs in turn ctlstress SOCKET connects N SEED      N
 * connections that ask, or do not, and close in some way ctlstress SOCKET roundtrip N median of N
 * round trips of VcpuPidTid, and of as many packets of the same lengths through a socket of this
 * machine Each packet on a connection that is kept must get exactly one answer within 240 s. Prints
 * what was done; exit 1 on a breach.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS = 8, PACKET_MAX = 160 * 1024, ANSWER_MS = 240000 };

#define MEMORY_REQUEST                                                                             \
	"{\"RegisterMemory\":{\"fd\":0,\"offset\":0,\"range_start\":1073741824,"                   \
	"\"range_end\":1073745920,\"cache_coherent\":false}}"

static const char *const requests[] = {
	"\"SuspendVcpus\"",
	"\"ResumeVcpus\"",
	"\"SuspendVm\"",
	"\"ResumeVm\"",
	"\"ResumeVm\"",
	"\"VcpuPidTid\"",
	"\"GetVmDescriptor\"",
	"\"Powerbtn\"",
	"{\"Throttle\":[0,300]}",
	"{\"Gpe\":{\"gpe\":5,\"clear_evt\":null}}",
	"{\"Swap\":\"Status\"}",
	"{\"BalloonCommand\":{\"Adjust\":{\"num_bytes\":4096,\"wait_for_success\":false}}}",
	"{\"DiskCommand\":{\"disk_index\":0,\"command\":{\"Resize\":{\"new_size\":4096}}}}",
	"{\"BatCommand\":[\"goldfish\",{\"SetCapacity\":40}]}",
	"{\"RegisterListener\":{\"socket_addr\":\"/nowhere\",\"event\":\"StateChange\"}}",
	MEMORY_REQUEST,
	"{\"UnregisterMemory\":{\"region_id\":1073741824}}",
	"{\"Torpor\":{\"v\":1,\"cmd\":\"Status\"}}",
	"{\"Torpor\":{\"v\":1,\"cmd\":\"TakeStatus\"}}",
	"{\"Torpor\":{\"v\":1,\"cmd\":\"Take\"}}",
};
#define NREQUESTS (sizeof(requests) / sizeof(requests[0]))

static char buf[PACKET_MAX + 1];
static uint64_t rng;
static struct sockaddr_un address;
static int memfd = -1;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void breach(const char *what, const char *packet)
{
	printf("%s: %.200s\n", what, packet);
	exit(1);
}

/* The VM turns away the 65th client with an answer: that is what the caller sees then. */
static int connect_vm(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		perror("ctlstress: connect");
		exit(1);
	}
	return fd;
}

/* False when the VM has closed already, having turned us away. */
static bool send_packet(int fd, const char *p, size_t len, int with_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)p, len };
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
	return sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)len;
}

/* One answer into buf. */
static void receive(int fd, const char *packet)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
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
	if (poll(&p, 1, ANSWER_MS) != 1) {
		breach("no answer", packet);
	}
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	if (n <= 0) {
		breach("closed without an answer", packet);
	}
	buf[n] = 0;
	struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
	if (m != NULL && m->cmsg_type == SCM_RIGHTS) {
		int came;
		memcpy(&came, CMSG_DATA(m), sizeof(came));
		close(came);
	}
	if (strcmp(buf, "\"Ok\"") != 0 && strncmp(buf, "{\"", 2) != 0) {
		breach("an answer of no known form", buf);
	}
}

static void no_more(int fd, const char *packet)
{
	char byte;
	if (recv(fd, &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN) {
		breach("a second answer", packet);
	}
}

/* A packet: as it should be, damaged in a byte, cut, or nothing but noise. */
static size_t make_packet(char *p)
{
	/* A take now and then only: it holds the others' suspends up. */
	size_t which = rnd(40) == 0 ? NREQUESTS - 1 : rnd(NREQUESTS - 1);
	size_t len = strlen(requests[which]);
	memcpy(p, requests[which], len + 1);
	switch (rnd(8)) {
	case 0:
		p[rnd(len)] = (char)rnd(256);
		return len;
	case 1:
		return rnd(len);
	case 2:
		len = rnd(rnd(16) == 0 ? 150 * 1024 : 300);
		for (size_t i = 0; i < len; i++) {
			p[i] = (char)rnd(256);
		}
		return len;
	default:
		return len;
	}
}

static int client(unsigned seconds, uint64_t seed)
{
	static char packet[PACKET_MAX];
	uint64_t end = now_ns() + seconds * 1000000000ull;
	unsigned long asked = 0;
	rng = seed * 0x9e3779b97f4a7c15ull + 1;
	int fd = connect_vm();
	while (now_ns() < end) {
		size_t len = make_packet(packet);
		packet[len] = 0;
		if (!send_packet(fd, packet, len, rnd(3) == 0 ? memfd : -1)) {
			breach("not taken", packet);
		}
		asked++;
		uint64_t how = rnd(32);
		if (how == 0) { /* gone before the answer */
			close(fd);
			fd = connect_vm();
			continue;
		}
		if (how == 1) {
			shutdown(fd, SHUT_WR);
		}
		receive(fd, packet);
		if (how == 1) {
			close(fd);
			fd = connect_vm();
		} else if (how < 8) {
			no_more(fd, packet);
		}
	}
	close(fd);
	printf("%lu packets\n", asked);
	return 0;
}

static int stress(unsigned seconds, uint64_t seed)
{
	int status = 0;
	fflush(stdout);
	for (unsigned i = 0; i < CLIENTS; i++) {
		if (fork() == 0) {
			exit(client(seconds, seed * CLIENTS + i));
		}
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		int s;
		wait(&s);
		status |= s;
	}
	return status != 0;
}

/* Another client may be taking a snapshot, which refuses these for a moment. */
static void want_ok(int fd, const char *request)
{
	for (uint64_t end = now_ns() + ANSWER_MS * 1000000ull; now_ns() < end;) {
		if (!send_packet(fd, request, strlen(request), -1)) {
			breach("not taken", request);
		}
		receive(fd, request);
		if (strcmp(buf, "\"Ok\"") == 0) {
			return;
		}
		if (strstr(buf, "EBUSY") == NULL) {
			breach(request, buf);
		}
		if (strstr(buf, "ResumeVm") != NULL) { /* another client suspended the whole VM */
			request = "\"ResumeVm\"";
		}
		usleep(1000);
	}
	breach("refused for good", request);
}

static int cycles(unsigned n)
{
	int fd = connect_vm();
	for (unsigned i = 0; i < n; i++) {
		bool whole = i % 2 == 0;
		want_ok(fd, whole ? "\"SuspendVm\"" : "\"SuspendVcpus\"");
		want_ok(fd, whole ? "\"ResumeVm\"" : "\"ResumeVcpus\"");
	}
	close(fd);
	printf("%u cycles\n", n);
	return 0;
}

static int connects(unsigned n, uint64_t seed)
{
	static const char request[] = "\"VcpuPidTid\"";
	unsigned answered = 0;
	rng = seed + 1;
	for (unsigned i = 0; i < n; i++) {
		int fd = connect_vm();
		switch (rnd(4)) {
		case 0: /* says nothing */
			break;
		case 1: /* asks and leaves */
			(void)send_packet(fd, request, strlen(request), memfd);
			break;
		case 2: /* half closed without a request */
			shutdown(fd, SHUT_WR);
			break;
		default:
			if (send_packet(fd, request, strlen(request), -1)) {
				receive(fd, request);
				answered++;
			}
			break;
		}
		close(fd);
	}
	printf("%u connects, %u answered\n", n, answered);
	return 0;
}

/* ---- round trips ---- */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t one_trip(int fd, const char *p, size_t len)
{
	uint64_t from = now_ns();
	if (!send_packet(fd, p, len, -1)) {
		breach("not taken", p);
	}
	if (recv(fd, buf, PACKET_MAX, 0) <= 0) {
		breach("no answer", p);
	}
	return now_ns() - from;
}

/* The other end of the machine's own round trip: waits with epoll's cost, as any server does. */
static void echo(int fd, size_t answer_len)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		poll(&p, 1, -1);
		if (recv(fd, buf, PACKET_MAX, 0) <= 0 ||
		    send(fd, buf, answer_len, MSG_NOSIGNAL) < 0) {
			_exit(0);
		}
	}
}

static int roundtrip(unsigned n)
{
	static const char request[] = "\"VcpuPidTid\"";
	size_t len = strlen(request);
	uint64_t *vm = calloc(n, sizeof(*vm));
	uint64_t *own = calloc(n, sizeof(*own));
	int pair[2];
	int fd = connect_vm();
	if (vm == NULL || own == NULL || n == 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
		return 1;
	}
	(void)send_packet(fd, request, len, -1);
	size_t answer_len = (size_t)recv(fd, buf, PACKET_MAX, 0);
	if (fork() == 0) {
		close(pair[0]);
		echo(pair[1], answer_len);
	}
	close(pair[1]);
	for (unsigned i = 0; i < n; i++) { /* interleaved: both see the same load */
		own[i] = one_trip(pair[0], request, len);
		vm[i] = one_trip(fd, request, len);
	}
	close(pair[0]);
	close(fd);
	wait(NULL);
	qsort(vm, n, sizeof(*vm), by_value);
	qsort(own, n, sizeof(*own), by_value);
	size_t middle = n / 2;
	double asked_us = (double)vm[middle] / 1e3;
	double own_us = (double)own[middle] / 1e3;
	printf("VcpuPidTid %.1f us, the machine's own %.1f us, beyond it %.1f us (medians of %u)\n",
	       asked_us, own_us, asked_us - own_us, n);
	return 0;
}

int main(int argc, char **argv)
{
	address.sun_family = AF_UNIX;
	if (argc < 4 || strlen(argv[1]) >= sizeof(address.sun_path)) {
		fprintf(stderr, "usage: see the top of tests/lib/ctlstress.c\n");
		return 2;
	}
	strcpy(address.sun_path, argv[1]);
	memfd = memfd_create("ctlstress", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (memfd < 0 || ftruncate(memfd, 4096) != 0) {
		return 1;
	}
	unsigned n = (unsigned)strtoul(argv[3], NULL, 10);
	uint64_t seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
	if (strcmp(argv[2], "stress") == 0) {
		return stress(n, seed);
	}
	if (strcmp(argv[2], "cycles") == 0) {
		return cycles(n);
	}
	if (strcmp(argv[2], "connects") == 0) {
		return connects(n, seed);
	}
	return strcmp(argv[2], "roundtrip") == 0 ? roundtrip(n) : 2;
}
