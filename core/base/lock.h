/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranked mutexes and their condition variables. A thread takes locks in rising rank only; debug
 * builds (and all test builds) abort on a breach. docs/locking.md lists every lock, its rank and
 * what it protects. No lock is held over KVM_RUN, fsync or socket I/O.
 */
#ifndef TORPOR_BASE_LOCK_H
#define TORPOR_BASE_LOCK_H

#include <pthread.h>

#include "core/base/check.h"

/* Low ranks are taken first. One line each in docs/locking.md. */
enum lock_rank {
	RANK_LIFE = 10,   /* VM lifecycle state */
	RANK_GATE = 20,   /* device callbacks of the main loop against parking */
	RANK_IRQ = 30,    /* interrupt lines shared by devices */
	RANK_PORT = 38,   /* a PCIe root port: before the device behind it */
	RANK_DEVICE = 40, /* a device's state */
	RANK_BUS = 42,    /* PCI: who decodes which address, shared interrupt lines */
	RANK_PM = 43,     /* ACPI fixed hardware: other devices bring events to it */
	RANK_PARK = 45,   /* vCPU rendezvous counters */
	RANK_GMEM = 50,   /* host-side dirty marks */
	RANK_DISK = 55,   /* where the blocks of a captured disk are */
	RANK_QUEUE = 60,  /* compressor and writer queues */
	RANK_STORE = 70,  /* handles inside the store library */
	RANK_PLACE = 75,  /* page server: a page is just being placed */
	RANK_LOOP =
		80, /* calls handed to the main loop: may be made under any lock but the log's */
	RANK_LOG = 90,
};

struct lock {
	pthread_mutex_t m;
	enum lock_rank rank;
};

struct cond {
	pthread_cond_t c;
};

void lock_init(struct lock *l, enum lock_rank rank);
void lock_done(struct lock *l);
void lock_take(struct lock *l);
void lock_drop(struct lock *l);
/* Aborts in debug builds unless this thread holds a lock of that rank. */
void lock_assert_held(const struct lock *l);

void cond_init(struct cond *c); /* waits use CLOCK_MONOTONIC */
void cond_done(struct cond *c);
void cond_wait(struct cond *c, struct lock *l);
/* False when deadline_mono_ns passed without a wake-up. */
bool cond_wait_until(struct cond *c, struct lock *l, uint64_t deadline_mono_ns);
void cond_wake_all(struct cond *c);

struct lock_scope {
	struct lock *l;
};
static inline UNUSED void lock_scope_end(struct lock_scope *s)
{
	lock_drop(s->l);
}
/* Holds the lock until the end of the enclosing block. */
#define LOCK_SCOPE(lk)                                                                             \
	__attribute__((cleanup(lock_scope_end), unused)) struct lock_scope lock_scope_ =           \
		(lock_take(lk), (struct lock_scope){ (lk) })

#endif
