/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: connections and packets. See ctl.h for its place, docs/control.md for the
 * packets, ctl_handlers.c for what they do. Everything runs on the main loop's thread; nothing
 * blocks: a take is answered when it is done, what waits for an automatic one when that has given
 * way, all else at once.
 *
 * I1: every packet gets exactly one answer, in the order of completion. Events come behind it on a
 *     connection that subscribed.
 * I2: a connection whose peer does not read its answers is not read from until it does, so what
 *     it can make us keep is bounded by what it had asked for.
 * I3: what is pending outlives its connection, and its memory outlives the ctl: it is freed when
 *     its end is reported, by whoever is left.
 */
#include "core/ctl_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/base/log.h"

enum {
	CONNS_MAX = 64,        /* each costs a descriptor; more are told to come back */
	PACKETS_PER_TURN = 16, /* from one connection before others get their turn */
};

/* ---- answers ---- */

/* True: sent or the peer is gone (then nobody misses it); false: the socket is full. */
static bool send_text(const struct conn *c, const char *text, int with_fd)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (with_fd >= 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = sizeof(control.bytes);
		struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
		m->cmsg_level = SOL_SOCKET;
		m->cmsg_type = SCM_RIGHTS;
		m->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(m), &with_fd, sizeof(with_fd));
	}
	ssize_t n;
	do {
		n = sendmsg(c->fd.n, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n >= 0 || (errno != EAGAIN && errno != ENOBUFS);
}

static void watch_events(struct conn *c)
{
	uint32_t events = 0;
	if (c->queue != NULL) {
		events = EPOLLOUT;
	} else if (!c->eof) {
		events = EPOLLIN;
	}
	err_drop(loop_fd_events(c->watch, events),
		 "then the connection stalls and its peer sees it");
}

void ctl_reply_fd(struct conn *c, char *text, struct fd *fd)
{
	if (c->queue == NULL && send_text(c, text, fd->n)) {
		ctl_answer_free(text);
		fd_close(fd);
		return;
	}
	struct answer *a = calloc(1, sizeof(*a));
	BUG_ON(a == NULL);
	a->text = text;
	a->fd = fd_move(fd);
	struct answer **tail = &c->queue;
	while (*tail != NULL) {
		tail = &(*tail)->next;
	}
	*tail = a;
	watch_events(c);
}

void ctl_reply(struct conn *c, char *text)
{
	struct fd none = FD_NONE;
	ctl_reply_fd(c, text, &none);
}

void ctl_reply_err(struct conn *c, struct err *e)
{
	ctl_reply(c, ctl_answer_err(e));
	err_free(e);
}

void ctl_reply_result(struct conn *c, struct err *e)
{
	if (e != NULL) {
		ctl_reply_err(c, e);
	} else {
		ctl_reply(c, ctl_answer_ok());
	}
}

static void pop_answer(struct conn *c)
{
	struct answer *a = c->queue;
	c->queue = a->next;
	ctl_answer_free(a->text);
	fd_close(&a->fd);
	free(a);
}

static void conn_free(struct conn *c)
{
	struct ctl *ctl = c->ctl;
	ctl_jobs_conn_gone(ctl, c);
	for (struct conn **at = &ctl->conns; *at != NULL; at = &(*at)->next) {
		if (*at == c) {
			*at = c->next;
			ctl->nconns--;
			break;
		}
	}
	while (c->queue != NULL) {
		pop_answer(c);
	}
	loop_fd_del(c->watch);
	fd_close(&c->fd);
	free(c);
}

static bool has_pending(const struct conn *c)
{
	for (const struct pending *p = c->ctl->pending; p != NULL; p = p->next) {
		if (p->conn == c) {
			return true;
		}
	}
	return false;
}

void ctl_conn_end_if_done(struct conn *c)
{
	if (c->eof && c->queue == NULL && !has_pending(c)) {
		conn_free(c);
	}
}

/* ---- packets ---- */

enum read_result { READ_PACKET, READ_TOO_LONG, READ_NOTHING, READ_EOF };

/* Descriptors that came with a packet, as far as there is room in the call. */
static void keep_fds(struct call *call, struct cmsghdr *m)
{
	size_t n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < n; i++) {
		struct fd fd;
		memcpy(&fd.n, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
		if (call->nfds < CTL_FDS_MAX) {
			call->fds[call->nfds++] = fd;
		} else {
			fd_close(&fd);
		}
	}
}

/*
 * One packet into ctl->buf, or what the kernel says instead. With SO_PASSCRED every packet carries
 * credentials and the end of the stream does not, which is how an empty packet is told from it.
 */
static enum read_result read_once(struct call *call, size_t *ret_len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX) +
			   CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = { call->ctl->buf, CTL_PACKET_BYTES_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;
	do {
		n = recvmsg(call->conn->fd.n, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return errno == EAGAIN ? READ_NOTHING : READ_EOF;
	}
	bool credentials = false;
	for (struct cmsghdr *m = CMSG_FIRSTHDR(&msg); m != NULL; m = CMSG_NXTHDR(&msg, m)) {
		if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_CREDENTIALS) {
			credentials = true;
		}
		if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS) {
			keep_fds(call, m);
		}
	}
	if (n == 0 && !credentials) {
		return READ_EOF;
	}
	*ret_len = (size_t)n;
	return (msg.msg_flags & MSG_TRUNC) != 0 ? READ_TOO_LONG : READ_PACKET;
}

/*
 * An end counts when it is told twice. The kernel looks for a packet first and for the end then: a
 * packet that comes between the two, with the end behind it, is there although the read says end.
 * A reset, too, is told before the packets that the peer had sent. Behind either nothing new comes.
 */
static enum read_result read_packet(struct call *call, size_t *ret_len)
{
	enum read_result res = read_once(call, ret_len);
	return res == READ_EOF ? read_once(call, ret_len) : res;
}

static struct err *check_rights(const struct conn *c, const struct ctl_request *r)
{
	if (!c->readonly || ctl_is_readonly(r)) {
		return NULL;
	}
	return err_set_errno(ERR(ERR_NOT_NOW,
				 "%s: this socket is for status and events: ask the VM's control "
				 "socket",
				 ctl_variant_name(r->variant)),
			     EPERM);
}

static void serve_packet(struct call *call, size_t len)
{
	struct ctl_request r;
	struct err *e = ctl_parse(call->ctl->buf, len, call->nfds, &r);
	if (e == NULL) {
		e = check_rights(call->conn, &r);
	}
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	LOG_D("control: %s", ctl_variant_name(r.variant));
	call->req = &r;
	ctl_serve(call);
}

static void flush_queue(struct conn *c)
{
	while (c->queue != NULL && send_text(c, c->queue->text, c->queue->fd.n)) {
		pop_answer(c);
	}
	if (c->queue == NULL) {
		watch_events(c);
	}
}

/* The peer has closed, or only its sending side. */
static void end_of_packets(struct conn *c, uint32_t events)
{
	if ((events & (EPOLLERR | EPOLLHUP)) == 0 && has_pending(c)) {
		c->eof = true;
		watch_events(c);
		return;
	}
	conn_free(c);
}

/* Reads and serves one packet, if there is one. */
static enum read_result serve_one(struct conn *c)
{
	struct call call = { .conn = c, .ctl = c->ctl };
	size_t len = 0;
	enum read_result res = read_packet(&call, &len);
	if (res == READ_PACKET) {
		serve_packet(&call, len);
	} else if (res == READ_TOO_LONG) {
		ctl_reply(c, ctl_answer_error(EMSGSIZE, "the packet is longer than 131072 bytes"));
	}
	for (unsigned i = 0; i < call.nfds; i++) {
		fd_close(&call.fds[i]);
	}
	return res;
}

static void on_conn(void *arg, uint32_t events)
{
	struct conn *c = arg;
	if (c->queue != NULL || c->eof) {
		if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
			conn_free(c); /* the reader of the answers has gone */
			return;
		}
		flush_queue(c);
		ctl_conn_end_if_done(c);
		return; /* I2: reading goes on with the next event */
	}
	for (unsigned i = 0; i < PACKETS_PER_TURN && c->queue == NULL; i++) {
		switch (serve_one(c)) {
		case READ_PACKET:
		case READ_TOO_LONG:
			break;
		case READ_NOTHING:
			return;
		case READ_EOF:
			end_of_packets(c, events);
			return;
		}
	}
}

/* ---- connections ---- */

_Static_assert(CTL_PACKET_BYTES_MAX == 131072, "the error text names the limit");

/* The one packet that somebody who may not come in gets. */
static void turn_away(int fd, int sys, const char *why)
{
	char *text = ctl_answer_error(sys, why);
	const struct conn c = { .fd = { fd } };
	(void)send_text(&c, text, -1);
	ctl_answer_free(text);
	/* Closed with a packet unread, the socket would give the peer ECONNRESET instead of the
	 * answer. A peer that keeps sending gets that. */
	char byte;
	for (int i = 0; i < PACKETS_PER_TURN && recv(fd, &byte, sizeof(byte), MSG_DONTWAIT) > 0;
	     i++) {
	}
}

static struct err *check_peer(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
		return ERR_ERRNO("asking who connected");
	}
	if (peer.uid == 0 || peer.uid == geteuid()) {
		return NULL;
	}
	return err_set_errno(ERR(ERR_PEER, "user %u may not control this VM: only user %u and root",
				 (unsigned)peer.uid, (unsigned)geteuid()),
			     EPERM);
}

static struct err *conn_new(const struct door *door, struct fd *fd)
{
	struct ctl *ctl = door->ctl;
	TRY(check_peer(fd->n));
	ENSURE(ctl->nconns < CONNS_MAX, ERR_NOT_NOW,
	       "%u clients are connected already: close one and try again", ctl->nconns);
	const int on = 1;
	if (setsockopt(fd->n, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
		return ERR_ERRNO("asking for credentials on the control socket");
	}
	SCOPE(freep) struct conn *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	TRY(loop_fd_add(ctl->loop, fd->n, EPOLLIN, on_conn, c, &c->watch));
	c->ctl = ctl;
	c->readonly = door->readonly;
	c->fd = fd_move(fd);
	c->next = ctl->conns;
	ctl->conns = c;
	ctl->nconns++;
	c = NULL;
	return NULL;
}

static int accept_one(const struct door *door)
{
	return accept4(door->listen.n, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* A client that cannot be served must not stay in the queue: the loop would spin on it. */
static void turn_away_one(struct door *door)
{
	fd_close(&door->spare);
	SCOPE(fd_close) struct fd fd = { accept_one(door) };
	if (fd.n >= 0) {
		turn_away(fd.n, EMFILE, "the VM's process has no free file descriptor: try again");
		fd_close(&fd);
	}
	door->spare.n = fcntl(door->listen.n, F_DUPFD_CLOEXEC, 0);
}

static void on_listen(void *arg, uint32_t events)
{
	(void)events;
	struct door *door = arg;
	SCOPE(fd_close) struct fd fd = { accept_one(door) };
	if (fd.n < 0) {
		if (errno == EMFILE || errno == ENFILE) {
			turn_away_one(door);
		}
		return; /* else the peer left again */
	}
	struct err *e = conn_new(door, &fd);
	if (e != NULL) {
		turn_away(fd.n, err_to_errno(e), err_msg(e));
		err_free(e);
	}
}

static struct err *door_open(struct ctl *ctl, int listen_fd, bool readonly)
{
	struct door *d = &ctl->doors[ctl->ndoors++];
	d->ctl = ctl;
	d->readonly = readonly;
	d->listen = (struct fd){ listen_fd };
	d->spare = (struct fd){ fcntl(listen_fd, F_DUPFD_CLOEXEC, 0) };
	/* A peer that leaves before accept must not make it block. */
	int flags = fcntl(listen_fd, F_GETFL);
	if (flags < 0 || fcntl(listen_fd, F_SETFL, flags | O_NONBLOCK) != 0) {
		return ERR_ERRNO("preparing the control socket");
	}
	/* Packets sent before accept carry credentials too. */
	const int on = 1;
	if (setsockopt(listen_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
		return ERR_ERRNO("asking for credentials on the control socket");
	}
	return loop_fd_add(ctl->loop, listen_fd, EPOLLIN, on_listen, d, &d->watch);
}

struct err *ctl_new(struct loop *loop, int listen_fd, int readonly_fd, struct life *life,
		    struct ctl **ret_ctl)
{
	SCOPE(fd_close) struct fd monitors = { readonly_fd };
	SCOPE(ctl_freep) struct ctl *c = calloc(1, sizeof(*c));
	if (c == NULL) {
		close(listen_fd);
		return ERR(ERR_SYS, "out of memory");
	}
	c->loop = loop;
	c->life = life;
	TRY(door_open(c, listen_fd, false));
	if (monitors.n >= 0) {
		TRY(door_open(c, fd_move(&monitors).n, true));
	}
	c->buf = malloc(CTL_PACKET_BYTES_MAX);
	ENSURE(c->buf != NULL, ERR_SYS, "out of memory");
	TRY(loop_timer_add(loop, ctl_balloon_look, c, &c->balloon_timer));
	TRY(loop_timer_add(loop, ctl_job_timer, c, &c->job_timer));
	life_watch(life, ctl_on_news, c);
	*ret_ctl = MOVE(c);
	return NULL;
}

void ctl_free(struct ctl *c)
{
	if (c == NULL) {
		return;
	}
	life_watch(c->life, NULL, NULL);
	while (c->conns != NULL) {
		conn_free(c->conns);
	}
	loop_timer_del(c->balloon_timer);
	ctl_jobs_done(c); /* I3 */
	ctl_listeners_free(c);
	for (unsigned i = 0; i < c->ndoors; i++) {
		loop_fd_del(c->doors[i].watch);
		fd_close(&c->doors[i].spare);
		fd_close(&c->doors[i].listen);
	}
	free(c->buf);
	free(c);
}
