/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writers' turns. See store_lmdb_internal.h; called by store_lmdb_txn.c around every write
 * transaction, on any thread.
 *
 * LMDB's own lock is waited for without limit: a writer that is stopped (SIGSTOP, a debugger) would
 * hang all others for ever. So a writer first gets the turn, with a limit: within the process flags
 * under a lock, between processes two locked bytes of data.mdb, far behind its end: that file
 * cannot be removed or lost while anybody could write to it, as a lock file of its own could. In
 * both, one part is the turn; the other is the place at the head of the queue, taken first and held
 * while waiting for the turn, so that who writes without a pause lets others in between. The bytes
 * belong to the open file, so they end with the process, however it ends.
 */
#include "store/store_lmdb_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/io.h"

#define BYTE_TURN (1ll << 62)
#define BYTE_QUEUE (BYTE_TURN + 1)

enum {
	POLL_NS = 1000000,
	POLL_LATER_NS = 5000000,
	POLLS_SHORT = 50,
	/* Who is first in the queue takes a free turn within one poll, unless it is stopped. */
	POLLS_IDLE = 40,
};

void store_lmdb_turn_init(struct lenv *l)
{
	lock_init(&l->turn_lock, RANK_STORE);
	cond_init(&l->turn_free);
	l->turn_taken = false;
	l->turn_queued = false;
}

struct err *store_lmdb_turn_open(struct lenv *l)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/data.mdb", l->dir);
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(path, O_RDWR, 0, &f));
	struct stat mine;
	struct stat env;
	if (fstat(f.n, &mine) < 0 || fstat(l->fd, &env) < 0) {
		return ERR_ERRNO("%s", path);
	}
	ENSURE(mine.st_ino == env.st_ino && mine.st_dev == env.st_dev, ERR_NOT_NOW,
	       "%s: replaced while it was opened", path);
	fd_close(&l->turn_file);
	l->turn_file = fd_move(&f);
	return NULL;
}

static struct flock byte_flock(short type, off_t byte)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
}

static bool byte_lock(const struct lenv *l, short type, off_t byte)
{
	struct flock k = byte_flock(type, byte);
	int rc;
	do {
		rc = fcntl(l->turn_file.n, F_OFD_SETLK, &k);
	} while (rc < 0 && errno == EINTR);
	/* What cannot be locked at all is not waited for: LMDB's own lock must do. */
	return rc == 0 || (errno != EAGAIN && errno != EACCES);
}

static bool byte_is_free(const struct lenv *l, off_t byte)
{
	struct flock k = byte_flock(F_WRLCK, byte);
	return fcntl(l->turn_file.n, F_OFD_GETLK, &k) == 0 && k.l_type == F_UNLCK;
}

/* The turn among processes. A stopped one at the head of the queue is passed by. */
static bool bytes_take(struct lenv *l, uint64_t deadline)
{
	bool queued = false;
	bool got = false;
	unsigned idle = 0; /* polls in a row that saw a queue, but nobody at turn */
	for (unsigned i = 0; !got; i++) {
		queued = queued || byte_lock(l, F_WRLCK, BYTE_QUEUE);
		if (queued || idle >= POLLS_IDLE) {
			got = byte_lock(l, F_WRLCK, BYTE_TURN);
		} else {
			idle = byte_is_free(l, BYTE_TURN) ? idle + 1 : 0;
		}
		if (got || clock_mono_ns() >= deadline) {
			break;
		}
		struct timespec ts = { .tv_nsec = i < POLLS_SHORT ? POLL_NS : POLL_LATER_NS };
		nanosleep(&ts, NULL);
	}
	if (queued) {
		(void)byte_lock(l, F_UNLCK, BYTE_QUEUE);
	}
	return got;
}

/* Waits for a flag to become false, and sets it. NEEDS(turn_lock). */
static bool flag_take(struct lenv *l, bool *flag, uint64_t deadline)
{
	while (*flag) {
		if (!cond_wait_until(&l->turn_free, &l->turn_lock, deadline)) {
			return false;
		}
	}
	*flag = true;
	return true;
}

/* The turn among the threads of this process. */
static bool thread_take(struct lenv *l, uint64_t deadline)
{
	LOCK_SCOPE(&l->turn_lock);
	if (!flag_take(l, &l->turn_queued, deadline)) {
		return false;
	}
	bool got = flag_take(l, &l->turn_taken, deadline);
	l->turn_queued = false;
	cond_wake_all(&l->turn_free);
	return got;
}

static void thread_drop(struct lenv *l)
{
	LOCK_SCOPE(&l->turn_lock);
	l->turn_taken = false;
	cond_wake_all(&l->turn_free);
}

static struct err *turn_refused(const struct lenv *l)
{
	return ERR(
		ERR_NOT_NOW,
		"%s: another writer has not finished for %llu s; if a torpor process is stopped, "
		"continue or end it",
		l->dir, (unsigned long long)l->turn_ms / 1000);
}

struct err *store_lmdb_turn_take(struct lenv *l)
{
	uint64_t deadline = clock_mono_ns() + l->turn_ms * 1000000ull;
	if (!thread_take(l, deadline)) {
		return turn_refused(l);
	}
	if (!bytes_take(l, deadline)) {
		thread_drop(l);
		return turn_refused(l);
	}
	return NULL;
}

struct err *store_lmdb_turn_take_opener(struct lenv *l)
{
	bool got = bytes_take(l, clock_mono_ns() + l->turn_ms * 1000000ull);
	return got ? NULL : turn_refused(l);
}

void store_lmdb_turn_drop_opener(struct lenv *l)
{
	(void)byte_lock(l, F_UNLCK, BYTE_TURN);
}

void store_lmdb_turn_drop(struct lenv *l, bool keep)
{
	if (keep) {
		l->turn_kept = true;
	} else {
		(void)byte_lock(l, F_UNLCK, BYTE_TURN);
	}
	thread_drop(l);
}

void store_lmdb_turn_close(struct lenv *l)
{
	if (l->turn_kept && l->pid == getpid()) {
		l->turn_file = FD_NONE; /* stays open until the process ends */
	}
	l->turn_kept = false;
	fd_close(&l->turn_file); /* a parent's lock stays: its file is still open there */
}
