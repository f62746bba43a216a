/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writers' turns. See store_lmdb_internal.h; called by store_lmdb_txn.c around every write
 * transaction, on any thread.
 *
 * LMDB's own lock is waited for without limit: a writer that is stopped (SIGSTOP, a debugger) would
 * hang all others for ever. So a writer first gets the turn, with a limit: within the process a
 * flag under a lock, between processes two bytes of DIR/write.lock. Byte 0 is the turn. Byte 1 is
 * held while waiting for it and taken first, so that a process which writes without a pause lets
 * others in between. Both belong to the open file, so they end with the process, however it ends.
 *
 * Without the file (it could not be made) writers have LMDB's lock alone.
 */
#include "store/store_lmdb_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/io.h"

enum {
	BYTE_TURN = 0,
	BYTE_QUEUE = 1,
	POLL_NS = 1000000,
	POLL_LATER_NS = 5000000,
	POLLS_SHORT = 50,
};

void store_lmdb_turn_init(struct lenv *l)
{
	lock_init(&l->turn_lock, RANK_STORE);
	cond_init(&l->turn_free);
	l->turn_taken = false;
}

void store_lmdb_turn_open(struct lenv *l)
{
	char path[4096];
	fd_close(&l->turn_file);
	snprintf(path, sizeof(path), "%s/write.lock", l->dir);
	struct fd f = FD_NONE;
	struct err *e = io_open(path, O_RDWR | O_CREAT, 0600, &f);
	if (e != NULL) {
		err_drop(e, "then LMDB's own lock must do");
		return;
	}
	l->turn_file = f;
}

static bool byte_lock(const struct lenv *l, short type, off_t byte)
{
	struct flock k = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int rc;
	do {
		rc = fcntl(l->turn_file.n, F_OFD_SETLK, &k);
	} while (rc < 0 && errno == EINTR);
	/* What cannot be locked at all is not waited for. */
	return rc == 0 || (errno != EAGAIN && errno != EACCES);
}

static bool byte_wait(const struct lenv *l, off_t byte, uint64_t deadline)
{
	for (unsigned i = 0; !byte_lock(l, F_WRLCK, byte); i++) {
		if (clock_mono_ns() >= deadline) {
			return false;
		}
		struct timespec ts = { .tv_nsec = i < POLLS_SHORT ? POLL_NS : POLL_LATER_NS };
		nanosleep(&ts, NULL);
	}
	return true;
}

static bool thread_turn(struct lenv *l, uint64_t deadline)
{
	LOCK_SCOPE(&l->turn_lock);
	while (l->turn_taken) {
		if (!cond_wait_until(&l->turn_free, &l->turn_lock, deadline)) {
			return false;
		}
	}
	l->turn_taken = true;
	return true;
}

static void thread_drop(struct lenv *l)
{
	LOCK_SCOPE(&l->turn_lock);
	l->turn_taken = false;
	cond_wake_all(&l->turn_free);
}

struct err *store_lmdb_turn_take(struct lenv *l)
{
	uint64_t deadline = clock_mono_ns() + l->turn_ms * 1000000ull;
	bool mine = thread_turn(l, deadline);
	bool got = mine;
	if (mine && l->turn_file.n >= 0) {
		got = byte_wait(l, BYTE_QUEUE, deadline);
		if (got) {
			got = byte_wait(l, BYTE_TURN, deadline);
			(void)byte_lock(l, F_UNLCK, BYTE_QUEUE);
		}
	}
	if (mine && !got) {
		thread_drop(l);
	}
	ENSURE(got, ERR_NOT_NOW,
	       "%s: another writer has not finished for %llu s; if a torpor process is stopped, "
	       "continue or end it",
	       l->dir, (unsigned long long)l->turn_ms / 1000);
	return NULL;
}

void store_lmdb_turn_drop(struct lenv *l)
{
	if (l->turn_file.n >= 0) {
		(void)byte_lock(l, F_UNLCK, BYTE_TURN);
	}
	thread_drop(l);
}
