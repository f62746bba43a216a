/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper of a snapshot's memory: see share.h. A process of its own; its main thread serves
 * those who share, "tfill" reads the memory.
 *
 * K1: only this process can write to the memory (gmem_new_lent), it writes what the store has
 * verified, and it runs no guest: who shares need not trust each other. Nobody gets the memory
 * before all is in place: a page that is just being written is seen by whoever maps it, and
 * whoever touches a hole fills it with zeros.
 * K2: it ends only with the lock of share_lock in hand, after a last look at the socket: nobody
 * finds a keeper that is just ending, and it never removes the socket of another one.
 * K3: the snapshot is open, under a lease, until all is read; then its removal frees it.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "core/gmem.h"
#include "core/jail.h"
#include "core/share_internal.h"
#include "snapshot/snapshot.h"

enum {
	HOLDS_MAX = 1024, /* VMs of one snapshot on one host */
	BACKLOG = 128,
	LOCK_RETRY_MS = 10, /* somebody joins: that takes no longer */
	FIRST_HOLD_MS = 10000,
};

struct keeper {
	struct share_want want;
	struct gmem *gmem;
	struct fd listen;
	struct fd filled; /* eventfd: the filler has ended */
	struct store *store;
	struct snap_image *image;
	pthread_t filler;
	atomic_bool ends;
	struct err *fill_err; /* after `filled` */
	bool full;
	bool failed;
	struct pollfd polls[2 + HOLDS_MAX];
	nfds_t npolls; /* the listener, `filled`, and a hold each */
};

/* ---- filling ---- */

static struct err *place(void *arg, const struct page_run *run)
{
	const struct keeper *k = arg;
	return gmem_place(k->gmem, run->gfn, run->pages, run->npages);
}

static bool wanted(void *arg, gfn_t gfn, uint64_t npages)
{
	struct keeper *k = arg;
	(void)gfn;
	(void)npages;
	return !atomic_load(&k->ends);
}

static UNUSED void source_donep(struct page_source *s)
{
	page_source_done(s);
}

static struct err *fill(struct keeper *k)
{
	const struct page_fill f = { .place = place, .wanted = wanted, .arg = k };
	SCOPE(source_donep) struct page_source source = { NULL, NULL };
	TRY(snap_image_pages(k->image, &source));
	return source.ops->fill(source.self, &f);
}

static void *fill_main(void *arg)
{
	struct keeper *k = arg;
	const uint64_t one = 1;
	pthread_setname_np(pthread_self(), "tfill");
	k->fill_err = fill(k);
	err_drop(io_write_full(k->filled.n, &one, sizeof(one)), "an eventfd of 0 takes one");
	return NULL;
}

/* ---- those who share ---- */

/* A VM that is gone is seen by poll. */
static void send_memory(const struct keeper *k, int hold)
{
	char byte = SHARE_MEMORY;
	int fd = gmem_fd(k->gmem);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	(void)!sendmsg(hold, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say(int hold, char what, const char *text)
{
	char msg[SHARE_ANSWER_MAX];
	int n = snprintf(msg, sizeof(msg), "%c%s", what, text);
	(void)!send(hold, msg, MIN((size_t)n, sizeof(msg) - 1), MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* How things stand. */
static void tell(const struct keeper *k, int hold)
{
	if (k->full) {
		send_memory(k, hold);
	} else if (k->failed) {
		say(hold, SHARE_ERROR, err_msg(k->fill_err));
	} else {
		say(hold, SHARE_READS, "");
	}
}

static void tell_all(const struct keeper *k)
{
	for (nfds_t i = 2; i < k->npolls; i++) {
		tell(k, k->polls[i].fd);
	}
}

/* True if there was one. */
static bool let_in(struct keeper *k)
{
	int hold = accept4(k->listen.n, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (hold < 0) {
		return false;
	}
	if (k->npolls == ARRAY_LEN(k->polls)) {
		say(hold, SHARE_ERROR, "too many VMs share it");
		close(hold);
		return true;
	}
	k->polls[k->npolls++] = (struct pollfd){ .fd = hold, .events = POLLIN };
	tell(k, hold);
	return true;
}

/* A VM has nothing to say here: whatever comes is its end. */
static void let_go(struct keeper *k)
{
	for (nfds_t i = 2; i < k->npolls;) {
		if (k->polls[i].revents != 0) {
			close(k->polls[i].fd);
			k->polls[i] = k->polls[--k->npolls];
		} else {
			i++;
		}
	}
}

/* The snapshot is let go (K3), and what took memory for reading it. */
static void judge(struct keeper *k)
{
	pthread_join(k->filler, NULL);
	k->full = k->fill_err == NULL;
	k->failed = !k->full;
	snap_image_free(MOVE(k->image));
	store_close(MOVE(k->store));
	k->polls[1].fd = -1;
	(void)malloc_trim(0);
	tell_all(k);
}

/* K2. True: nobody shares any more, and the socket is gone. */
static bool may_end(struct keeper *k)
{
	char path[SHARE_PATH_MAX + 1];
	SCOPE(fd_close) struct fd lock = FD_NONE;
	bool got = false;
	struct err *e = share_lock(&k->want, false, &got, &lock);
	if (e != NULL) {
		err_drop(e, "the folder is gone: nobody finds the socket");
		return true;
	}
	if (!got || let_in(k)) {
		return false;
	}
	e = share_path(&k->want, "sock", path);
	if (e == NULL) {
		(void)unlink(path);
	}
	err_drop(e, "it was short enough at the start");
	return true;
}

static void serve(struct keeper *k)
{
	bool had = false; /* somebody shared */
	bool done = false;
	k->polls[0] = (struct pollfd){ .fd = k->listen.n, .events = POLLIN };
	k->polls[1] = (struct pollfd){ .fd = k->filled.n, .events = POLLIN };
	k->npolls = 2;
	while (!done) {
		int wait_ms = k->npolls > 2 ? (k->full || k->failed ? -1 : SHARE_ALIVE_MS)
			      : had         ? LOCK_RETRY_MS
					    : FIRST_HOLD_MS;
		int n = poll(k->polls, k->npolls, wait_ms);
		bool filled = n > 0 && k->polls[1].revents != 0;
		if (n > 0) {
			let_go(k);
			(void)let_in(k);
		}
		if (filled) {
			judge(k);
		}
		if (n == 0 && k->npolls > 2) {
			tell_all(k); /* that it goes on */
		}
		had = had || k->npolls > 2;
		done = k->npolls == 2 && (had || n == 0) && may_end(k);
	}
}

/* The lease's file goes with it, also when not all was read yet. */
static void end(struct keeper *k)
{
	atomic_store(&k->ends, true);
	if (!k->full && !k->failed) {
		judge(k);
	}
}

/* ---- the start ---- */

static struct err *listen_at(const struct share_want *want, struct fd *ret_fd)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char path[SHARE_PATH_MAX + 1];
	TRY(share_path(want, "sock", path));
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
	(void)unlink(path); /* of one that was killed: who sent us holds the lock */
	SCOPE(fd_close)
	struct fd fd = { socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (fd.n < 0 || bind(fd.n, (const struct sockaddr *)&at, sizeof(at)) != 0 ||
	    listen(fd.n, BACKLOG) != 0) {
		return ERR_ERRNO("listening on '%s'", path);
	}
	*ret_fd = fd_move(&fd);
	return NULL;
}

static struct err *begin(struct keeper *k)
{
	char dir[SHARE_DIR_MAX + 8];
	snprintf(dir, sizeof(dir), "%s-share", k->want.run_dir);
	TRY(listen_at(&k->want, &k->listen));
	if (k->want.no_jail) {
		jail_disable();
	}
	TRY(jail_keeper(k->want.store_dir, dir));
	k->filled.n = eventfd(0, EFD_CLOEXEC);
	if (k->filled.n < 0) {
		return ERR_ERRNO("making an eventfd");
	}
	TRY(store_open(k->want.store_dir, STORE_WRITE, &k->store)); /* for the lease */
	TRY(snap_image_open(k->store, k->want.ref, &k->image));
	ENSURE(sha256_equal(&snap_image_info(k->image)->root, &k->want.root), ERR_NOTFOUND,
	       "snapshot '%s' is another one by now", k->want.ref);
	TRY(gmem_new_lent(k->want.bytes, &k->gmem));
	int rc = pthread_create(&k->filler, NULL, fill_main, k);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting a thread");
	}
	return NULL;
}

/* Nothing of its parent's stays with it: neither its terminal nor its descriptors. */
static bool stand_alone(int wire)
{
	static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE };
	for (size_t i = 0; i < ARRAY_LEN(ignored); i++) {
		(void)signal(ignored[i], SIG_IGN);
	}
	(void)prctl(PR_SET_NAME, "keeper");
	(void)setsid();
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0) {
		return false;
	}
	for (int fd = 0; fd <= STDERR_FILENO; fd++) {
		if (dup2(null, fd) < 0) {
			return false;
		}
	}
	return dup2(wire, STDERR_FILENO + 1) >= 0 && close_range(STDERR_FILENO + 2, ~0u, 0) == 0;
}

void share_keeper_run(int wire)
{
	const int told = STDERR_FILENO + 1;
	if (!stand_alone(wire)) {
		_exit(1);
	}
	struct keeper *k = calloc(1, sizeof(*k));
	if (k != NULL) {
		k->listen = k->filled = FD_NONE;
	}
	if (k == NULL || recv(told, &k->want, sizeof(k->want), 0) != (ssize_t)sizeof(k->want)) {
		_exit(0); /* it is not needed */
	}
	struct err *e = begin(k);
	char answer[SHARE_ANSWER_MAX] = "R";
	if (e != NULL) {
		snprintf(answer, sizeof(answer), "E%s", err_msg(e));
	}
	(void)!send(told, answer, strlen(answer), MSG_NOSIGNAL);
	close(told);
	if (e == NULL) {
		serve(k);
		end(k);
	}
	_exit(0);
}
