/* SPDX-License-Identifier: Apache-2.0 */
/* The host's end of a serial port. See serial_link.h. */
#include "devices/serial_link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum slot { SLOT_IN, SLOT_OUT, SLOT_LISTEN, SLOT__COUNT };

/* What the epoll set holds for one of the descriptors. */
struct watch {
	bool in_set;
	uint32_t events;
};

struct serial_link {
	struct fd epoll;
	int in;     /* borrowed; the client while there is one; -1: none */
	int out;    /* likewise; may equal in */
	int listen; /* borrowed; -1: none */
	struct fd client;
	bool out_is_socket;
	int out_flags;  /* file status flags to put back, -1: nothing to do */
	bool in_always; /* a file or the like, which epoll refuses: always readable */
	bool in_ready;
	bool in_eof;
	bool out_busy;
	bool out_dead;
	bool deaf; /* accept failed for want of something: no new try before the next output */
	struct watch watches[SLOT__COUNT];
	struct wbuf kept; /* output of a device that is gone */
};

static bool is_kind(int fd, mode_t kind)
{
	struct stat st;
	return fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == kind;
}

static struct err *make_nonblocking(int fd, int *ret_old)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0) {
		return ERR_ERRNO("serial: descriptor %d", fd);
	}
	if ((flags & O_NONBLOCK) == 0) {
		if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
			return ERR_ERRNO("serial: making descriptor %d non-blocking", fd);
		}
		*ret_old = flags;
	}
	return NULL;
}

/*
 * Brings one descriptor's place in the epoll set up to date. With `keep` it stays there with no
 * events, so that a hang-up is told. A failure leaves the port deaf on that side, as an unplugged
 * cable would; it can only be lack of kernel memory.
 */
static void watch_set(struct serial_link *l, enum slot slot, int fd, uint32_t events, bool keep)
{
	struct watch *w = &l->watches[slot];
	bool want = fd >= 0 && (events != 0 || keep);
	if (!want && !w->in_set) {
		return;
	}
	if (want && w->in_set && w->events == events) {
		return;
	}
	struct epoll_event ev = { .events = events, .data.u32 = slot };
	int op = !want ? EPOLL_CTL_DEL : w->in_set ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	if (epoll_ctl(l->epoll.n, op, fd, &ev) < 0 && op == EPOLL_CTL_ADD) {
		return;
	}
	*w = (struct watch){ .in_set = want, .events = want ? events : 0 };
}

void serial_link_want(struct serial_link *l, bool input)
{
	bool in = input && l->in >= 0 && !l->in_eof && !l->in_always;
	uint32_t in_events = in ? (uint32_t)EPOLLIN : 0;
	uint32_t out_events = l->out_busy && !l->out_dead ? (uint32_t)EPOLLOUT : 0;
	if (l->in == l->out) {
		/* A client that sent its last byte is kept in the set to learn that it left. */
		watch_set(l, SLOT_IN, l->in, in_events | out_events, l->client.n >= 0 && l->in_eof);
	} else {
		watch_set(l, SLOT_IN, l->in, in_events, false);
		watch_set(l, SLOT_OUT, l->out, out_events, false);
	}
	bool accepts = l->client.n < 0 && !l->deaf;
	watch_set(l, SLOT_LISTEN, l->listen, accepts ? (uint32_t)EPOLLIN : 0, false);
}

struct err *serial_link_new(int in_fd, int out_fd, int listen_fd, struct serial_link **ret_link)
{
	SCOPE(serial_link_freep) struct serial_link *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	*l = (struct serial_link){
		.epoll = FD_NONE,
		.in = listen_fd >= 0 ? -1 : in_fd,
		.out = listen_fd >= 0 ? -1 : out_fd,
		.listen = listen_fd,
		.client = FD_NONE,
		.out_flags = -1,
		.kept = wbuf_make(SERIAL_LINK_KEEP),
	};
	l->epoll.n = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll.n < 0) {
		return ERR_ERRNO("serial: epoll_create1");
	}
	if (listen_fd >= 0) {
		int old = -1;
		TRY(make_nonblocking(listen_fd, &old));
	}
	if (l->in >= 0) {
		struct epoll_event ev = { .data.u32 = SLOT_IN };
		l->in_always = epoll_ctl(l->epoll.n, EPOLL_CTL_ADD, l->in, &ev) < 0;
		l->watches[SLOT_IN].in_set = !l->in_always;
	}
	if (l->out >= 0) {
		l->out_is_socket = is_kind(l->out, S_IFSOCK);
		/* A file never makes its writer wait; a socket is told per call. */
		if (!l->out_is_socket && !is_kind(l->out, S_IFREG)) {
			TRY(make_nonblocking(l->out, &l->out_flags));
		}
	}
	*ret_link = MOVE(l);
	return NULL;
}

void serial_link_free(struct serial_link *l)
{
	if (l == NULL) {
		return;
	}
	if (l->out_flags >= 0) {
		(void)fcntl(l->out, F_SETFL, l->out_flags);
	}
	fd_close(&l->client);
	fd_close(&l->epoll);
	wbuf_done(&l->kept);
	free(l);
}

int serial_link_fd(const struct serial_link *l)
{
	return l->epoll.n;
}

static void close_client(struct serial_link *l)
{
	watch_set(l, SLOT_IN, l->client.n, 0, false);
	fd_close(&l->client);
	l->in = -1;
	l->out = -1;
	l->in_ready = false;
	l->in_eof = false;
	l->out_busy = false;
}

static void accept_client(struct serial_link *l)
{
	struct fd c = { .n = accept4(l->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) };
	if (c.n < 0) {
		/* It may have left again. Anything else, such as no descriptor being free, would
		 * have the loop spin. */
		l->deaf = errno != EAGAIN && errno != ECONNABORTED && errno != EINTR;
		return;
	}
	l->client = c;
	l->in = c.n;
	l->out = c.n;
	l->out_is_socket = true;
}

void serial_link_poll(struct serial_link *l)
{
	struct epoll_event evs[SLOT__COUNT];
	int n = epoll_wait(l->epoll.n, evs, SLOT__COUNT, 0);
	for (int i = 0; i < n; i++) {
		uint32_t got = evs[i].events;
		bool gone = (got & (EPOLLHUP | EPOLLERR)) != 0;
		switch (evs[i].data.u32) {
		case SLOT_IN:
			if (gone && l->client.n >= 0 && l->in_eof) {
				close_client(l);
				break;
			}
			l->in_ready = l->in_ready || gone || (got & EPOLLIN) != 0;
			if (l->in != l->out) {
				break;
			}
			/* fall through */
		case SLOT_OUT:
			if (gone || (got & EPOLLOUT) != 0) {
				l->out_busy = false;
			}
			break;
		case SLOT_LISTEN:
			accept_client(l);
			break;
		}
	}
}

enum serial_sent serial_link_send(struct serial_link *l, const void *p, size_t len, size_t *ret_n)
{
	if (l->listen >= 0 && l->client.n < 0) {
		l->deaf = false;
		return SERIAL_NOBODY;
	}
	if (l->out < 0 || l->out_dead) {
		return SERIAL_LOST;
	}
	if (l->out_busy) {
		return SERIAL_WAIT;
	}
	ssize_t n;
	do {
		n = l->out_is_socket ? send(l->out, p, len, MSG_DONTWAIT | MSG_NOSIGNAL)
				     : write(l->out, p, len);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		*ret_n = (size_t)n;
		return SERIAL_SENT;
	}
	if (n == 0 || errno == EAGAIN) {
		l->out_busy = true;
		return SERIAL_WAIT;
	}
	if (l->client.n >= 0) {
		/* What it typed last and nobody read goes with it: the next client's turn counts.
		 */
		close_client(l);
		return SERIAL_NOBODY;
	}
	/* A full disk may have room later; everything else is a cut cable. */
	l->out_dead = errno != ENOSPC && errno != EDQUOT;
	return SERIAL_LOST;
}

void serial_link_retry(struct serial_link *l)
{
	l->out_busy = false;
}

size_t serial_link_recv(struct serial_link *l, void *ret, size_t room)
{
	/* A borrowed descriptor may be a blocking one: it is read only when it said it is ready. */
	if (l->in < 0 || l->in_eof || room == 0 || !(l->in_ready || l->in_always)) {
		return 0;
	}
	ssize_t n;
	do {
		n = read(l->in, ret, room);
	} while (n < 0 && errno == EINTR);
	l->in_ready = false;
	if (n > 0) {
		return (size_t)n;
	}
	if (n == 0 || errno != EAGAIN) {
		l->in_eof = true;
	}
	return 0;
}

bool serial_link_has_taker(const struct serial_link *l)
{
	return l->out >= 0 && !l->out_dead;
}

void serial_link_keep(struct serial_link *l, const void *p, size_t len)
{
	wbuf_put(&l->kept, p, MIN(len, (size_t)SERIAL_LINK_KEEP - l->kept.len));
}

size_t serial_link_kept(struct serial_link *l, void *ret, size_t room)
{
	size_t n = MIN(room, l->kept.len);
	if (n > 0) {
		memcpy(ret, l->kept.p, n);
	}
	wbuf_done(&l->kept);
	return n;
}
