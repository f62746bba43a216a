/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the virtio socket device and their ends on the host. See virtio_vsock.h; called by
 * virtio_vsock.c with the device's lock, on the main loop.
 *
 * I1: a descriptor is watched for input only while nothing is known to be in it, and for output
 *     only while there is something for it: a host that has closed its end wakes nobody in vain.
 * I2: what a guest sends beyond the room it was told of resets its connection.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/log.h"
#include "devices/virtio_vsock_internal.h"

enum { FIRST_HOST_PORT = 1u << 30 };

struct vsock_conn *vsock_find(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct vsock_conn *c = &s->conn[i];
		if (c->state > VSOCK_HELLO && c->guest_port == guest_port &&
		    c->host_port == host_port) {
			return c;
		}
	}
	return NULL;
}

static struct vsock_conn *new_conn(struct virtio_vsock *s)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		if (s->conn[i].state == VSOCK_FREE) {
			s->conn[i] = (struct vsock_conn){ .fd = -1 };
			return &s->conn[i];
		}
	}
	return NULL;
}

static void close_fd(struct virtio_vsock *s, struct vsock_conn *c)
{
	if (c->fd < 0) {
		return;
	}
	if (c->watched != 0) {
		err_drop(virtio_watch(&s->v, c->fd, VSOCK_TAG_CONN, 0), "it is closed next");
		c->watched = 0;
	}
	close(c->fd);
	c->fd = -1;
}

void vsock_drop(struct virtio_vsock *s, struct vsock_conn *c)
{
	close_fd(s, c);
	free(c->buf);
	*c = (struct vsock_conn){ .state = VSOCK_FREE, .fd = -1 };
}

void vsock_reset(struct virtio_vsock *s, struct vsock_conn *c)
{
	struct vsock_conn was = *c;
	vsock_drop(s, c);
	c->state = VSOCK_DEAD;
	c->guest_port = was.guest_port;
	c->host_port = was.host_port;
	c->owes = VSOCK_OWE_RST;
}

void vsock_watch(struct virtio_vsock *s, struct vsock_conn *c)
{
	uint32_t want = 0;
	if (c->state == VSOCK_HELLO || (c->state == VSOCK_OPEN && !c->readable && !c->host_ended)) {
		want |= EPOLLIN;
	}
	if (c->state == VSOCK_OPEN && c->len > 0) {
		want |= EPOLLOUT;
	}
	if (c->fd < 0 || want == c->watched) {
		return;
	}
	struct err *e =
		virtio_watch(&s->v, c->fd, (uint32_t)(VSOCK_TAG_CONN + (c - s->conn)), want);
	if (e != NULL) {
		log_err(err_wrap(e, "%s: a connection ends", s->v.id));
		vsock_reset(s, c);
		return;
	}
	c->watched = want;
}

/* ---- to the host ---- */

/* The next piece of the ring, for up to *len bytes; *len says how many. */
static uint8_t *ring_room(const struct vsock_conn *c, uint32_t *len)
{
	uint32_t at = (c->head + c->len) % VSOCK_BUF_BYTES;
	*len = MIN(*len, VSOCK_BUF_BYTES - at);
	return c->buf + at;
}

static bool has_buf(struct vsock_conn *c)
{
	if (c->buf == NULL) {
		c->buf = malloc(VSOCK_BUF_BYTES);
	}
	return c->buf != NULL;
}

static void taken(struct vsock_conn *c, uint32_t n)
{
	uint32_t own = MIN(c->own, n);
	c->own -= own;
	c->forwarded += n - own;
	c->head = (c->head + n) % VSOCK_BUF_BYTES;
	c->len -= n;
}

/* Gives the host what it takes now. */
static void flush(struct virtio_vsock *s, struct vsock_conn *c)
{
	while (c->state == VSOCK_OPEN && c->len > 0) {
		uint32_t piece = MIN(c->len, VSOCK_BUF_BYTES - c->head);
		ssize_t n = send(c->fd, c->buf + c->head, piece, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0 && errno == EAGAIN) {
			break;
		}
		if (n <= 0) {
			vsock_reset(s, c);
			return;
		}
		taken(c, (uint32_t)n);
	}
	if (c->state != VSOCK_OPEN) {
		return;
	}
	if (c->forwarded - c->told >= VSOCK_BUF_BYTES / 2) {
		c->owes |= VSOCK_OWE_CREDIT;
	}
	if (c->len == 0 && c->guest_ended && !c->end_passed_on) {
		c->end_passed_on = true;
		(void)shutdown(c->fd, SHUT_WR);
	}
	if (c->len == 0 && c->guest_ended && c->guest_deaf) {
		vsock_reset(s, c); /* the answer to the end of both directions */
		return;
	}
	vsock_watch(s, c);
}

/* What the host takes at once of len bytes of the chain at hand goes there without a copy. An error
 * comes again with the next send. */
static uint32_t send_direct(struct virtio_vsock *s, struct vsock_conn *c, uint64_t at, uint32_t len)
{
	if (c->len > 0 || len == 0) {
		return 0; /* after what waits */
	}
	const struct msghdr m = {
		.msg_iov = s->iov,
		.msg_iovlen = virtq_map(&s->v.q[1], &s->chain, false, at, len, s->iov),
	};
	ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n <= 0) {
		return 0;
	}
	c->forwarded += (uint32_t)n;
	return (uint32_t)n;
}

void vsock_forward(struct virtio_vsock *s, struct vsock_conn *c, uint64_t at, uint32_t len)
{
	if (c->state != VSOCK_OPEN || c->guest_ended || len > VSOCK_BUF_BYTES - c->len) { /* I2 */
		vsock_reset(s, c);
		return;
	}
	uint32_t sent = send_direct(s, c, at, len);
	if (sent < len && !has_buf(c)) {
		vsock_reset(s, c);
		return;
	}
	while (sent < len) {
		uint32_t piece = len - sent;
		uint8_t *to = ring_room(c, &piece);
		virtq_read(&s->v.q[1], &s->chain, at + sent, to, piece);
		c->len += piece;
		sent += piece;
	}
	flush(s, c);
}

void vsock_guest_shutdown(struct virtio_vsock *s, struct vsock_conn *c, uint32_t flags)
{
	c->guest_deaf = c->guest_deaf || (flags & VSOCK_SHUT_RCV) != 0;
	c->guest_ended = c->guest_ended || (flags & VSOCK_SHUT_SEND) != 0;
	if (c->state != VSOCK_OPEN) {
		vsock_reset(s, c);
		return;
	}
	if (c->guest_deaf) {
		c->readable = false;
		c->host_ended = true; /* what it still sends nobody wants */
		(void)shutdown(c->fd, SHUT_RD);
	}
	flush(s, c);
}

/* ---- from the host ---- */

uint32_t vsock_wanted(const struct vsock_conn *c)
{
	uint32_t on_its_way = c->sent - c->peer_taken; /* a lie only harms who tells it */
	if (c->state != VSOCK_OPEN || !c->readable || on_its_way >= c->peer_room) {
		return 0;
	}
	return c->peer_room - on_its_way;
}

/* It sends no more: has it gone altogether? */
static void host_end(struct virtio_vsock *s, struct vsock_conn *c)
{
	struct pollfd p = { .fd = c->fd };
	c->host_ended = true;
	c->readable = false;
	c->owes |= VSOCK_OWE_SHUTDOWN;
	c->shut_flags = VSOCK_SHUT_SEND;
	if (poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0) {
		c->shut_flags = VSOCK_SHUT_BOTH;
		c->state = VSOCK_GONE;
		close_fd(s, c);
	}
}

uint32_t vsock_receive(struct virtio_vsock *s, struct vsock_conn *c, uint64_t at, uint32_t most)
{
	struct msghdr m = {
		.msg_iov = s->iov,
		.msg_iovlen = virtq_map(&s->v.q[0], &s->chain, true, at, most, s->iov),
	};
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	if (n > 0) {
		virtq_mark(&s->v.q[0], &s->chain, at, (uint64_t)n);
		c->sent += (uint32_t)n;
		return (uint32_t)n;
	}
	if (n == 0) {
		host_end(s, c);
	} else if (errno == EAGAIN) {
		c->readable = false;
	} else if (errno != EINTR) {
		vsock_reset(s, c);
	}
	vsock_watch(s, c);
	return 0;
}

/* ---- beginnings ---- */

void vsock_accept(struct virtio_vsock *s)
{
	for (;;) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			return;
		}
		struct vsock_conn *c = new_conn(s);
		if (c == NULL) {
			close(fd);
			continue;
		}
		c->fd = fd;
		c->state = VSOCK_HELLO;
		vsock_watch(s, c);
		if (c->state == VSOCK_DEAD) { /* the guest has never heard of it */
			vsock_drop(s, c);
		}
	}
}

bool vsock_connect(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port,
		   struct vsock_conn **ret)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct vsock_conn *c = new_conn(s);
	if (c == NULL) {
		return false;
	}
	snprintf(a.sun_path, sizeof(a.sun_path), "%.*s_%u", VSOCK_PATH_BYTES_MAX, s->path,
		 host_port);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&a, sizeof(a)) != 0) {
		vsock_drop(s, c);
		return false;
	}
	c->state = VSOCK_OPEN;
	c->guest_port = guest_port;
	c->host_port = host_port;
	c->owes = VSOCK_OWE_RESPONSE;
	*ret = c;
	return true;
}

/* "CONNECT <port>\n", the number without sign or leading zero. */
static bool parse_hello(const char *text, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	uint64_t port = 0;
	const char *p = text + sizeof(word) - 1;
	if (strncmp(text, word, sizeof(word) - 1) != 0 || *p == '\n' ||
	    (*p == '0' && p[1] != '\n')) {
		return false;
	}
	for (; *p >= '0' && *p <= '9' && port <= UINT32_MAX; p++) {
		port = port * 10 + (uint64_t)(*p - '0');
	}
	*ret_port = (uint32_t)port;
	return *p == '\n' && port < UINT32_MAX; /* the highest means "any" */
}

static uint32_t free_port(struct virtio_vsock *s, uint32_t guest_port)
{
	do {
		s->next_port = s->next_port < FIRST_HOST_PORT || s->next_port >= UINT32_MAX - 1
				       ? FIRST_HOST_PORT
				       : s->next_port + 1;
	} while (vsock_find(s, guest_port, s->next_port) != NULL);
	return s->next_port;
}

/* Byte by byte: what follows the line is the guest's. */
static void hello(struct virtio_vsock *s, struct vsock_conn *c)
{
	char b = 0;
	while (b != '\n') {
		ssize_t n = recv(c->fd, &b, 1, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			return;
		}
		if (n <= 0 || c->hello_len == VSOCK_HELLO_MAX - 1) {
			vsock_drop(s, c);
			return;
		}
		c->hello[c->hello_len++] = b;
	}
	uint32_t port;
	if (!parse_hello(c->hello, &port)) {
		vsock_drop(s, c);
		return;
	}
	c->host_port = free_port(s, port);
	c->guest_port = port;
	c->state = VSOCK_ASKED;
	c->owes = VSOCK_OWE_REQUEST;
	vsock_watch(s, c);
}

void vsock_answered(struct virtio_vsock *s, struct vsock_conn *c)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "OK %u\n", c->host_port);
	if (!has_buf(c)) {
		vsock_reset(s, c);
		return;
	}
	c->state = VSOCK_OPEN;
	memcpy(c->buf, text, (size_t)n); /* the first of all */
	c->len = (uint32_t)n;
	c->own = (uint32_t)n;
	flush(s, c);
}

void vsock_ready(struct virtio_vsock *s, struct vsock_conn *c, uint32_t epoll_events)
{
	if (c->state == VSOCK_HELLO) {
		hello(s, c);
		return;
	}
	if (c->state != VSOCK_OPEN) {
		return;
	}
	if ((epoll_events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !c->host_ended) {
		c->readable = true;
	}
	flush(s, c);
	if (c->state == VSOCK_OPEN) {
		vsock_watch(s, c);
	}
}
