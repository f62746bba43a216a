/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: connections, packets, one table from variant to handler. See ctl.h for its
 * place and docs/control.md for the packets. Everything runs on the main loop's thread; nothing
 * blocks: a take is answered when it is done, all else at once.
 *
 * I1: every packet gets exactly one answer, in the order of completion.
 * I2: a connection whose peer does not read its answers is not read from until it does, so what
 *     it can make us keep is bounded by what it had asked for.
 * I3: a take outlives its connection, and a take's memory outlives the ctl: it is freed when its
 *     end is reported, by whoever is left.
 */
#include "core/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/ctl_proto.h"

enum {
	CONNS_MAX = 64,        /* each costs a descriptor; more are told to come back */
	PACKETS_PER_TURN = 16, /* from one connection before others get their turn */
};

struct answer {
	struct answer *next;
	char *text; /* owned, see ctl_answer_free */
};

struct conn {
	struct conn *next;
	struct ctl *ctl;
	struct fd fd;
	struct loop_fd *watch;
	struct answer *queue; /* answers that the socket did not take yet, oldest first */
	bool eof;             /* the peer sends no more, but still waits for a take's answer */
};

/* A take that was asked for here. done runs exactly once and frees it. */
struct pending {
	struct pending *next; /* in ctl->pending */
	struct ctl *ctl;      /* NULL once the ctl is gone */
	struct conn *conn;    /* NULL once the asker is gone */
	bool typed;           /* answer with the result's fields, not "Ok" */
	char tag[NAME_BYTES_MAX + 1];
	char name[NAME_BYTES_MAX + 1];
};

struct ctl {
	struct loop *loop;
	struct fd listen;
	struct fd
		spare; /* given up for a moment to turn a client away when no descriptor is left */
	struct loop_fd *watch;
	struct life *life;
	struct conn *conns;
	unsigned nconns;
	struct pending *pending;
	uint8_t *buf; /* CTL_PACKET_BYTES_MAX, for the packet being read */
};

/* ---- answers ---- */

/* True: sent or the peer is gone (then nobody misses it); false: the socket is full. */
static bool send_text(const struct conn *c, const char *text)
{
	ssize_t n;
	do {
		n = send(c->fd.n, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
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

/* Takes over text. */
static void answer(struct conn *c, char *text)
{
	if (c->queue == NULL && send_text(c, text)) {
		ctl_answer_free(text);
		return;
	}
	struct answer *a = calloc(1, sizeof(*a));
	BUG_ON(a == NULL);
	a->text = text;
	struct answer **tail = &c->queue;
	while (*tail != NULL) {
		tail = &(*tail)->next;
	}
	*tail = a;
	watch_events(c);
}

static void answer_err(struct conn *c, struct err *e)
{
	answer(c, ctl_answer_error(err_msg(e)));
	err_free(e);
}

static void answer_result(struct conn *c, struct err *e)
{
	if (e != NULL) {
		answer_err(c, e);
	} else {
		answer(c, ctl_answer_ok());
	}
}

static void conn_free(struct conn *c)
{
	struct ctl *ctl = c->ctl;
	for (struct pending *p = ctl->pending; p != NULL; p = p->next) {
		if (p->conn == c) {
			p->conn = NULL;
		}
	}
	for (struct conn **at = &ctl->conns; *at != NULL; at = &(*at)->next) {
		if (*at == c) {
			*at = c->next;
			ctl->nconns--;
			break;
		}
	}
	while (c->queue != NULL) {
		struct answer *a = c->queue;
		c->queue = a->next;
		ctl_answer_free(a->text);
		free(a);
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

/* Frees a connection whose peer sends no more once it has all its answers. */
static void conn_end_if_done(struct conn *c)
{
	if (c->eof && c->queue == NULL && !has_pending(c)) {
		conn_free(c);
	}
}

/* ---- handlers ---- */

static void do_exit(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	/* The answer goes first: after life_stop there may be no loop turn left. "Ok" says that the
	 * end was accepted; that it happened shows by the process. */
	struct life *life = c->ctl->life;
	answer(c, ctl_answer_ok());
	life_stop(life);
}

static void do_suspend_vcpus(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	answer_result(c, life_suspend_vcpus(c->ctl->life));
}

static void do_resume_vcpus(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	answer_result(c, life_resume_vcpus(c->ctl->life));
}

static void do_suspend(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	answer_result(c, life_suspend(c->ctl->life));
}

static void do_resume(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	answer_result(c, life_resume(c->ctl->life));
}

static void do_vcpu_pid_tid(struct conn *c, const struct ctl_request *r)
{
	(void)r;
	const struct config *config = life_config(c->ctl->life);
	json_t *map = json_object();
	for (unsigned i = 0; i < config->ncpus; i++) {
		int tid = 0;
		struct err *e = life_vcpu_tid(c->ctl->life, i, &tid);
		if (e != NULL) {
			json_decref(map);
			answer_err(c, e);
			return;
		}
		char key[16];
		snprintf(key, sizeof(key), "%u", i);
		json_object_set_new(map, key, json_pack("[ii]", (int)getpid(), tid));
	}
	answer(c,
	       ctl_answer_json(json_pack("{s:{s:o}}", "VcpuPidTidResponse", "pid_tid_map", map)));
}

/* ---- takes ---- */

static json_t *take_json(const struct pending *p, const struct snap_result *r)
{
	char ref[2 * NAME_BYTES_MAX + 24];
	if (p->tag[0] != 0) {
		snprintf(ref, sizeof(ref), "%s@%s", p->name, p->tag);
	} else {
		snprintf(ref, sizeof(ref), "%s@%llu", p->name, (unsigned long long)r->number);
	}
	return json_pack("{s:{s:{s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:I}}}", "Torpor", "Take", "ref",
			 ref, "name", p->name, "number", (json_int_t)r->number, "tag", p->tag,
			 "frozen_at_ns", (json_int_t)r->frozen_at_ns, "pause_us",
			 (json_int_t)r->pause_us, "elapsed_us", (json_int_t)r->elapsed_us,
			 "pages_stored", (json_int_t)r->pages_stored, "bytes_stored",
			 (json_int_t)r->bytes_stored);
}

static void take_done(void *arg, struct err *e, const struct snap_result *result)
{
	struct pending *p = arg;
	if (p->ctl != NULL) {
		for (struct pending **at = &p->ctl->pending; *at != NULL; at = &(*at)->next) {
			if (*at == p) {
				*at = p->next;
				break;
			}
		}
	}
	if (p->conn == NULL) {
		if (e != NULL) {
			log_err(err_wrap(e, "snapshot of '%s', whose client has left", p->name));
		}
	} else {
		if (e != NULL) {
			answer_err(p->conn, e);
		} else if (p->typed) {
			answer(p->conn, ctl_answer_json(take_json(p, result)));
		} else {
			answer(p->conn, ctl_answer_ok());
		}
		conn_end_if_done(p->conn);
	}
	free(p);
}

static void start_take(struct conn *c, const struct ctl_request *r, bool typed)
{
	struct pending *p = calloc(1, sizeof(*p));
	if (p == NULL) {
		answer(c, ctl_answer_error("out of memory"));
		return;
	}
	p->ctl = c->ctl;
	p->conn = c;
	p->typed = typed;
	snprintf(p->tag, sizeof(p->tag), "%s", r->tag);
	snprintf(p->name, sizeof(p->name), "%s", life_config(c->ctl->life)->name);
	p->next = c->ctl->pending;
	c->ctl->pending = p;
	struct err *e = life_take(c->ctl->life, r->tag[0] != 0 ? r->tag : NULL, take_done, p);
	if (e != NULL) { /* take_done will not be called: take its part */
		take_done(p, e, NULL);
	}
}

static void do_snapshot(struct conn *c, const struct ctl_request *r)
{
	start_take(c, r, false);
}

static void answer_status(struct conn *c)
{
	struct life_status s;
	life_status(c->ctl->life, &s);
	const struct config *config = life_config(c->ctl->life);
	char uuid[37];
	char family[37];
	uuid_text(config->uuid, uuid);
	uuid_text(config->family, family);
	json_t *body =
		json_pack("{s:s,s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:s}", "name", config->name,
			  "uuid", uuid, "family", family, "state", s.state, "taking", (int)s.taking,
			  "resets", (json_int_t)s.resets, "mem_bytes", (json_int_t)s.mem_bytes,
			  "mem_allocated", (json_int_t)s.mem_allocated, "cpus", (json_int_t)s.ncpus,
			  "pid", (json_int_t)getpid(), "store", life_store_dir(c->ctl->life));
	answer(c, ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Status", body)));
}

static void answer_take_status(struct conn *c)
{
	char step[64] = "";
	uint64_t done = 0;
	uint64_t total = 0;
	bool taking = life_take_progress(c->ctl->life, step, sizeof(step), &done, &total);
	json_t *body = taking ? json_pack("{s:b,s:s,s:I,s:I}", "taking", 1, "step", step, "done",
					  (json_int_t)done, "total", (json_int_t)total)
			      : json_pack("{s:b}", "taking", 0);
	answer(c, ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "TakeStatus", body)));
}

static void do_torpor(struct conn *c, const struct ctl_request *r)
{
	switch (r->torpor) {
	case CTL_TORPOR_STATUS:
		answer_status(c);
		break;
	case CTL_TORPOR_TAKE:
		start_take(c, r, true);
		break;
	case CTL_TORPOR_TAKE_STATUS:
		answer_take_status(c);
		break;
	}
}

/* The dispatcher. Variants without a handler never come here: ctl_parse refuses them by name. */
static void (*const handlers[CTL__COUNT])(struct conn *c, const struct ctl_request *r) = {
	[CTL_EXIT] = do_exit,
	[CTL_SUSPEND_VCPUS] = do_suspend_vcpus,
	[CTL_RESUME_VCPUS] = do_resume_vcpus,
	[CTL_SUSPEND_VM] = do_suspend,
	[CTL_RESUME_VM] = do_resume,
	[CTL_SNAPSHOT] = do_snapshot,
	[CTL_VCPU_PID_TID] = do_vcpu_pid_tid,
	[CTL_TORPOR] = do_torpor,
};

/* ---- packets ---- */

enum read_result { READ_PACKET, READ_TOO_LONG, READ_NOTHING, READ_EOF };

/*
 * One packet into ctl->buf. Descriptors that came along are closed: no request takes any. With
 * SO_PASSCRED every packet carries credentials and the end of the stream does not, which is how an
 * empty packet is told from it.
 */
static enum read_result read_packet(struct conn *c, size_t *ret_len)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX) +
			   CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = { c->ctl->buf, CTL_PACKET_BYTES_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;
	do {
		n = recvmsg(c->fd.n, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
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
			size_t nfds = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			for (size_t i = 0; i < nfds; i++) {
				int fd;
				memcpy(&fd, CMSG_DATA(m) + i * sizeof(fd), sizeof(fd));
				close(fd);
			}
		}
	}
	if (n == 0 && !credentials) {
		return READ_EOF;
	}
	*ret_len = (size_t)n;
	return (msg.msg_flags & MSG_TRUNC) != 0 ? READ_TOO_LONG : READ_PACKET;
}

static void serve_packet(struct conn *c, size_t len)
{
	struct ctl_request r;
	struct err *e = ctl_parse(c->ctl->buf, len, &r);
	if (e != NULL) {
		answer_err(c, e);
		return;
	}
	BUG_ON(handlers[r.variant] == NULL);
	LOG_D("control: %s", ctl_variant_name(r.variant));
	handlers[r.variant](c, &r);
}

static void flush_queue(struct conn *c)
{
	while (c->queue != NULL && send_text(c, c->queue->text)) {
		struct answer *a = c->queue;
		c->queue = a->next;
		ctl_answer_free(a->text);
		free(a);
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

static void on_conn(void *arg, uint32_t events)
{
	struct conn *c = arg;
	if (c->queue != NULL || c->eof) {
		if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
			conn_free(c); /* the reader of the answers has gone */
			return;
		}
		flush_queue(c);
		conn_end_if_done(c);
		return; /* I2: reading goes on with the next event */
	}
	for (unsigned i = 0; i < PACKETS_PER_TURN && c->queue == NULL; i++) {
		size_t len = 0;
		switch (read_packet(c, &len)) {
		case READ_PACKET:
			serve_packet(c, len);
			break;
		case READ_TOO_LONG:
			answer(c, ctl_answer_error("the packet is longer than 131072 bytes"));
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
static void turn_away(int fd, const char *why)
{
	char *text = ctl_answer_error(why);
	const struct conn c = { .fd = { fd } };
	(void)send_text(&c, text);
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
	ENSURE(peer.uid == 0 || peer.uid == geteuid(), ERR_PEER,
	       "user %u may not control this VM: only user %u and root", (unsigned)peer.uid,
	       (unsigned)geteuid());
	return NULL;
}

static struct err *conn_new(struct ctl *ctl, struct fd *fd)
{
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
	c->fd = fd_move(fd);
	c->next = ctl->conns;
	ctl->conns = c;
	ctl->nconns++;
	c = NULL;
	return NULL;
}

static int accept_one(const struct ctl *ctl)
{
	return accept4(ctl->listen.n, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* A client that cannot be served must not stay in the queue: the loop would spin on it. */
static void turn_away_one(struct ctl *ctl)
{
	fd_close(&ctl->spare);
	SCOPE(fd_close) struct fd fd = { accept_one(ctl) };
	if (fd.n >= 0) {
		turn_away(fd.n, "the VM's process has no free file descriptor: try again");
		fd_close(&fd);
	}
	ctl->spare.n = fcntl(ctl->listen.n, F_DUPFD_CLOEXEC, 0);
}

static void on_listen(void *arg, uint32_t events)
{
	(void)events;
	struct ctl *ctl = arg;
	SCOPE(fd_close) struct fd fd = { accept_one(ctl) };
	if (fd.n < 0) {
		if (errno == EMFILE || errno == ENFILE) {
			turn_away_one(ctl);
		}
		return; /* else the peer left again */
	}
	struct err *e = conn_new(ctl, &fd);
	if (e != NULL) {
		turn_away(fd.n, err_msg(e));
		err_free(e);
	}
}

struct err *ctl_new(struct loop *loop, int listen_fd, struct life *life, struct ctl **ret_ctl)
{
	SCOPE(ctl_freep) struct ctl *c = calloc(1, sizeof(*c));
	if (c == NULL) {
		close(listen_fd);
		return ERR(ERR_SYS, "out of memory");
	}
	c->loop = loop;
	c->listen = (struct fd){ listen_fd };
	c->spare = (struct fd){ fcntl(listen_fd, F_DUPFD_CLOEXEC, 0) };
	c->life = life;
	c->buf = malloc(CTL_PACKET_BYTES_MAX);
	ENSURE(c->buf != NULL, ERR_SYS, "out of memory");
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
	TRY(loop_fd_add(loop, listen_fd, EPOLLIN, on_listen, c, &c->watch));
	*ret_ctl = MOVE(c);
	return NULL;
}

void ctl_free(struct ctl *c)
{
	if (c == NULL) {
		return;
	}
	while (c->conns != NULL) {
		conn_free(c->conns);
	}
	for (struct pending *p = c->pending; p != NULL; p = p->next) {
		p->ctl = NULL; /* I3 */
	}
	loop_fd_del(c->watch);
	fd_close(&c->spare);
	fd_close(&c->listen);
	free(c->buf);
	free(c);
}
