/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process of user networking. See usernet.h. It was forked from the VM's process before that
 * had threads; from then on they share the socket and nothing else.
 *
 * I1: what it holds for the guest is bounded: descriptors and data by resource limits, frames to
 * the guest by the socket (one that does not fit is lost, and TCP sends it again).
 */
#include "core/usernet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libslirp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/jail.h"

enum {
	DESCRIPTORS_MAX = 512,
	POLLS_MAX = DESCRIPTORS_MAX + 1,
	DATA_BYTES_MAX = 512 << 20,
	FRAME_MAX = 65536 + 64,
	TURN_FRAMES = 64,
	SOCKET_BYTES = 1 << 20, /* asked for; the host's limit counts */
	ANSWER_MAX = 512,       /* of the process when it starts: "R", or "E" and why */
};
#define GUEST_NETWORK "10.0.2.0"
#define GUEST_MASK "255.255.255.0"
#define GUEST_GATEWAY "10.0.2.2"
#define GUEST_NAMES "10.0.2.3"
#define GUEST_ADDRESS "10.0.2.15"

struct usernet {
	int wire; /* frames from and to the VM */
	Slirp *slirp;
	unsigned npolls;
	struct pollfd polls[POLLS_MAX]; /* the first is the wire */
	uint8_t frame[FRAME_MAX];
};

/* ---- forwards ---- */

/* "ADDRESS:PORT" or ":PORT"; keeps *addr if there is no address. */
static bool parse_end(const char *text, struct in_addr *addr, uint16_t *port)
{
	char word[INET_ADDRSTRLEN];
	const char *colon = strchr(text, ':');
	if (colon == NULL || (size_t)(colon - text) >= sizeof(word)) {
		return false;
	}
	snprintf(word, sizeof(word), "%.*s", (int)(colon - text), text);
	char *end = NULL;
	unsigned long n = strtoul(colon + 1, &end, 10);
	if (end == colon + 1 || *end != 0 || n == 0 || n > UINT16_MAX || colon[1] < '0') {
		return false;
	}
	*port = (uint16_t)n;
	return word[0] == 0 || inet_pton(AF_INET, word, addr) == 1;
}

struct err *usernet_parse_forward(const char *text, struct usernet_forward *ret)
{
	struct usernet_forward f = { .host.s_addr = htonl(INADDR_LOOPBACK) };
	char host[64] = "";
	const char *colon = strchr(text, ':');
	const char *dash = colon != NULL ? strchr(colon, '-') : NULL;
	bool sound = dash != NULL && (size_t)(dash - colon) < sizeof(host);
	f.udp = strncmp(text, "udp:", 4) == 0;
	sound = sound && (f.udp || strncmp(text, "tcp:", 4) == 0 || colon == text);
	sound = sound && inet_pton(AF_INET, GUEST_ADDRESS, &f.guest) == 1;
	if (sound) {
		snprintf(host, sizeof(host), "%.*s", (int)(dash - colon - 1), colon + 1);
	}
	ENSURE(sound && parse_end(host, &f.host, &f.host_port) &&
		       parse_end(dash + 1, &f.guest, &f.guest_port),
	       ERR_USAGE, "hostfwd='%.60s' is not like tcp:[ADDRESS]:PORT-[ADDRESS]:PORT", text);
	*ret = f;
	return NULL;
}

/* ---- what libslirp asks for ---- */

static ssize_t on_frame(const void *p, size_t len, void *opaque)
{
	const struct usernet *u = opaque;
	/* I1. A VM that is gone is noticed by the loop. */
	(void)!send(u->wire, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return (ssize_t)len;
}

static void on_guest_error(const char *text, void *opaque)
{
	(void)opaque;
	LOG_D("user networking: %s", text);
}

static int64_t on_clock(void *opaque)
{
	(void)opaque;
	return (int64_t)clock_mono_ns();
}

/* Timers are for IPv6's router advertisements, which are off. */
static void *on_timer_new(SlirpTimerCb fn, void *arg, void *opaque)
{
	(void)fn;
	(void)arg;
	return opaque;
}

static void on_timer_free(void *timer, void *opaque)
{
	(void)timer;
	(void)opaque;
}

static void on_timer_mod(void *timer, int64_t at_ms, void *opaque)
{
	(void)timer;
	(void)at_ms;
	(void)opaque;
}

static void on_poll_fd(int fd, void *opaque)
{
	(void)fd; /* every turn asks for all of them */
	(void)opaque;
}

static void on_notify(void *opaque)
{
	(void)opaque; /* there is but one thread */
}

static const SlirpCb callbacks = {
	.send_packet = on_frame,
	.guest_error = on_guest_error,
	.clock_get_ns = on_clock,
	.timer_new = on_timer_new,
	.timer_free = on_timer_free,
	.timer_mod = on_timer_mod,
	.register_poll_fd = on_poll_fd,
	.unregister_poll_fd = on_poll_fd,
	.notify = on_notify,
};

/* ---- the loop ---- */

static const struct {
	int slirp;
	short poll;
} poll_bits[] = {
	{ SLIRP_POLL_IN, POLLIN },   { SLIRP_POLL_OUT, POLLOUT }, { SLIRP_POLL_PRI, POLLPRI },
	{ SLIRP_POLL_ERR, POLLERR }, { SLIRP_POLL_HUP, POLLHUP },
};

static int add_poll(int fd, int events, void *opaque)
{
	struct usernet *u = opaque;
	if (u->npolls == POLLS_MAX) {
		return -1; /* cannot be: the limit of descriptors is below it */
	}
	struct pollfd *p = &u->polls[u->npolls];
	*p = (struct pollfd){ .fd = fd };
	for (size_t i = 0; i < ARRAY_LEN(poll_bits); i++) {
		if ((events & poll_bits[i].slirp) != 0) {
			p->events = (short)(p->events | poll_bits[i].poll);
		}
	}
	return (int)u->npolls++;
}

static int get_events(int i, void *opaque)
{
	const struct usernet *u = opaque;
	int events = 0;
	for (size_t k = 0; k < ARRAY_LEN(poll_bits); k++) {
		events |= (u->polls[i].revents & poll_bits[k].poll) != 0 ? poll_bits[k].slirp : 0;
	}
	return events;
}

/* False: the VM is gone. */
static bool take_frames(struct usernet *u)
{
	for (unsigned i = 0; i < TURN_FRAMES; i++) {
		ssize_t n = recv(u->wire, u->frame, sizeof(u->frame), MSG_DONTWAIT);
		if (n > 0) {
			slirp_input(u->slirp, u->frame, (int)n);
		} else {
			return n < 0 && (errno == EAGAIN || errno == EINTR);
		}
	}
	return true;
}

static void serve(struct usernet *u)
{
	bool alive = true;
	while (alive) {
		uint32_t wait_ms = UINT32_MAX;
		u->polls[0] = (struct pollfd){ .fd = u->wire, .events = POLLIN };
		u->npolls = 1;
		slirp_pollfds_fill(u->slirp, &wait_ms, add_poll, u);
		int rc = poll(u->polls, u->npolls, wait_ms > INT32_MAX ? -1 : (int)wait_ms);
		slirp_pollfds_poll(u->slirp, rc < 0, get_events, u);
		if (rc > 0 && u->polls[0].revents != 0) {
			alive = take_frames(u);
		}
	}
}

/* ---- the start ---- */

static struct err *limit(int what, rlim_t value)
{
	struct rlimit l;
	if (getrlimit(what, &l) != 0) {
		return ERR_ERRNO("reading a resource limit");
	}
	l.rlim_cur = MIN(l.rlim_cur, value);
	l.rlim_max = l.rlim_cur;
	if (setrlimit(what, &l) != 0) {
		return ERR_ERRNO("setting a resource limit");
	}
	return NULL;
}

static struct in_addr address(const char *text)
{
	struct in_addr a = { 0 };
	BUG_ON(inet_pton(AF_INET, text, &a) != 1);
	return a;
}

/* errno says why. */
static struct err *no_forward(const struct usernet_forward *f)
{
	int why = errno;
	char text[INET_ADDRSTRLEN] = "?";
	inet_ntop(AF_INET, &f->host, text, sizeof(text));
	return ERR_SYSNO(why, "forwarding %s port %u of %s", f->udp ? "UDP" : "TCP", f->host_port,
			 text);
}

static struct err *forward(struct usernet *u, const struct usernet_forward *f)
{
	return slirp_add_hostfwd(u->slirp, f->udp, f->host, f->host_port, f->guest,
				 f->guest_port) == 0
		       ? NULL
		       : no_forward(f);
}

struct err *usernet_look(const struct usernet_opts *o)
{
	for (unsigned i = 0; i < o->n; i++) {
		const struct usernet_forward *f = &o->forward[i];
		const struct sockaddr_in at = { .sin_family = AF_INET,
						.sin_addr = f->host,
						.sin_port = htons(f->host_port) };
		const int one = 1;
		SCOPE(fd_close)
		struct fd fd = { socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC,
					0) };
		/* As libslirp does: a port whose last connections are still ending is free. */
		if (fd.n < 0 ||
		    (!f->udp &&
		     setsockopt(fd.n, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0) ||
		    bind(fd.n, (const struct sockaddr *)&at, sizeof(at)) != 0) {
			return err_wrap(no_forward(f), "user networking");
		}
	}
	return NULL;
}

static struct err *begin(struct usernet *u, const struct usernet_opts *o)
{
	/* Ctrl-C is the VM's business; this process ends when the VM does. */
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	for (size_t i = 0; i < ARRAY_LEN(ignored); i++) {
		(void)signal(ignored[i], SIG_IGN);
	}
	(void)prctl(PR_SET_NAME, "usernet");
	TRY(limit(RLIMIT_NOFILE, DESCRIPTORS_MAX));
#ifndef __SANITIZE_ADDRESS__ /* whose runtime maps more than any machine has */
	TRY(limit(RLIMIT_DATA, DATA_BYTES_MAX));
#endif
	const SlirpConfig config = {
		.version = 1,
		.restricted = o->restricted,
		.in_enabled = true,
		.vnetwork = address(GUEST_NETWORK),
		.vnetmask = address(GUEST_MASK),
		.vhost = address(GUEST_GATEWAY),
		.vnameserver = address(GUEST_NAMES),
		.vdhcp_start = address(GUEST_ADDRESS),
		.disable_host_loopback = !o->loopback,
	};
	u->slirp = slirp_new(&config, &callbacks, u);
	ENSURE(u->slirp != NULL, ERR_SYS, "libslirp does not start");
	for (unsigned i = 0; i < o->n; i++) {
		TRY(forward(u, &o->forward[i]));
	}
	return jail_usernet();
}

/* Never returns. */
static void run(int wire, const struct usernet_opts *o)
{
	/* Nothing of the VM's stays open, its lock on the name least of all. */
	if (dup2(wire, STDERR_FILENO + 1) < 0 || close_range(STDERR_FILENO + 2, ~0u, 0) != 0) {
		_exit(1);
	}
	(void)close(STDIN_FILENO);
	(void)close(STDOUT_FILENO);
	struct usernet *u = calloc(1, sizeof(*u));
	if (u == NULL) {
		_exit(1);
	}
	u->wire = STDERR_FILENO + 1;
	struct err *e = begin(u, o);
	if (e != NULL) {
		char answer[ANSWER_MAX];
		snprintf(answer, sizeof(answer), "E%s", err_msg(e));
		(void)!send(u->wire, answer, strlen(answer), MSG_NOSIGNAL);
		_exit(1);
	}
	if (send(u->wire, "R", 1, MSG_NOSIGNAL) == 1) {
		serve(u);
	}
	_exit(0);
}

struct err *usernet_start(const struct usernet_opts *o, struct fd *ret_frames)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
		return ERR_ERRNO("user networking: making its socket");
	}
	SCOPE(fd_close) struct fd ours = { ends[0] };
	SCOPE(fd_close) struct fd its = { ends[1] };
	for (unsigned i = 0; i < 2; i++) {
		const int bytes = SOCKET_BYTES;
		(void)setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	}
	fflush(NULL); /* what is buffered is printed once */
	pid_t child = fork();
	if (child < 0) {
		return ERR_ERRNO("user networking: starting its process");
	}
	if (child == 0) {
		run(its.n, o);
	}
	fd_close(&its);
	char answer[ANSWER_MAX];
	ssize_t n;
	do {
		n = recv(ours.n, answer, sizeof(answer) - 1, 0);
	} while (n < 0 && errno == EINTR);
	ENSURE(n > 0, ERR_SYS, "user networking: its process ended before it was ready");
	answer[n] = 0;
	ENSURE(answer[0] == 'R', ERR_SYS, "user networking: %s", answer + 1);
	*ret_frames = fd_move(&ours);
	return NULL;
}
