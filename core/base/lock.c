/* SPDX-License-Identifier: Apache-2.0 */
/* Ranked mutexes. See lock.h. */
#include "core/base/lock.h"

#include <errno.h>
#include <time.h>

#ifndef NDEBUG
enum { HELD_MAX = 8 };
static __thread struct {
	const struct lock *held[HELD_MAX];
	unsigned n;
} mine;

static void note_take(const struct lock *l)
{
	BUG_ON(mine.n >= HELD_MAX);
	BUG_ON(mine.n > 0 && mine.held[mine.n - 1]->rank >= l->rank);
	mine.held[mine.n++] = l;
}

static void note_drop(const struct lock *l)
{
	BUG_ON(mine.n == 0 || mine.held[mine.n - 1] != l);
	mine.n--;
}

void lock_assert_held(const struct lock *l)
{
	for (unsigned i = 0; i < mine.n; i++) {
		if (mine.held[i] == l) {
			return;
		}
	}
	BUG_ON("lock is not held");
}
#else
static void note_take(const struct lock *l)
{
	(void)l;
}

static void note_drop(const struct lock *l)
{
	(void)l;
}

void lock_assert_held(const struct lock *l)
{
	(void)l;
}
#endif

void lock_init(struct lock *l, enum lock_rank rank)
{
	BUG_ON(pthread_mutex_init(&l->m, NULL) != 0);
	l->rank = rank;
}

void lock_done(struct lock *l)
{
	BUG_ON(pthread_mutex_destroy(&l->m) != 0);
}

void lock_take(struct lock *l)
{
	note_take(l);
	BUG_ON(pthread_mutex_lock(&l->m) != 0);
}

void lock_drop(struct lock *l)
{
	note_drop(l);
	BUG_ON(pthread_mutex_unlock(&l->m) != 0);
}

void cond_init(struct cond *c)
{
	pthread_condattr_t a;
	BUG_ON(pthread_condattr_init(&a) != 0);
	BUG_ON(pthread_condattr_setclock(&a, CLOCK_MONOTONIC) != 0);
	BUG_ON(pthread_cond_init(&c->c, &a) != 0);
	pthread_condattr_destroy(&a);
}

void cond_done(struct cond *c)
{
	BUG_ON(pthread_cond_destroy(&c->c) != 0);
}

void cond_wait(struct cond *c, struct lock *l)
{
	BUG_ON(pthread_cond_wait(&c->c, &l->m) != 0);
}

bool cond_wait_until(struct cond *c, struct lock *l, uint64_t deadline_mono_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_mono_ns / 1000000000ull),
		.tv_nsec = (long)(deadline_mono_ns % 1000000000ull),
	};
	int rc = pthread_cond_timedwait(&c->c, &l->m, &ts);
	BUG_ON(rc != 0 && rc != ETIMEDOUT);
	return rc == 0;
}

void cond_wake_all(struct cond *c)
{
	BUG_ON(pthread_cond_broadcast(&c->c) != 0);
}
