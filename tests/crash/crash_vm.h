/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small VM that the crash tests store, and the check of a family after a crash. What a take
 * contains follows from its seed alone, and its tag is "s<seed>": so whatever is listed can be
 * compared with what it must be.
 */
#ifndef TORPOR_TEST_CRASH_VM_H
#define TORPOR_TEST_CRASH_VM_H

#include "core/base/err.h"
#include "store/store.h"

#define CRASH_SEEDS_MAX 4096

extern const uint8_t crash_vm[16];
extern const uint8_t crash_family[16]; /* the scenario's main family */
extern const uint8_t crash_other[16];  /* one that is made and removed */

/* Pages of the map "memory"; 560 unless set. A quarter of them, in runs, is not zero. */
extern uint64_t crash_pages;

/* What may and what must be listed, by seed. */
enum crash_state {
	CRASH_ABSENT,
	CRASH_MAYBE,
	CRASH_SURE,
};
struct crash_want {
	uint8_t state[CRASH_SEEDS_MAX]; /* enum crash_state */
	bool bare[CRASH_SEEDS_MAX];     /* may be without its hint: who took it died before */
};

/*
 * Takes the VM of that seed, of two seeds one as what changed since the newest listed snapshot and
 * in rounds, as of a running VM; the map "kernel", which is always the same, is shared with any
 * listed snapshot. Every third gets a hint behind its publishing. The session ends without a
 * publish if `publish` is false.
 */
MUST_USE struct err *crash_take(struct family *f, unsigned seed, bool publish);
/* Reads an open snapshot back and compares every byte; the seed comes from its tag. A hint is its
 * own, or none. */
MUST_USE struct err *crash_same(struct reader *r);
/* The same for one that is opened for it. */
MUST_USE struct err *crash_read(struct family *f, const struct snap_info *info);
/* A rewind: the memory of `from`, some of it written since, becomes that of `to` by what differs.
 */
MUST_USE struct err *crash_rewind(struct family *f, const struct snap_info *from,
				  const struct snap_info *to);
/* The seed of a snapshot, or 0. */
unsigned crash_seed(const struct snap_info *info);
/*
 * Lists the family, compares with `want`, verifies all, reads all, and goes from each to the one
 * before it. A CRASH_SURE one has the hint that it got. Then every listed seed is
 * CRASH_SURE in want and every other one CRASH_ABSENT.
 */
MUST_USE struct err *crash_check(struct family *f, struct crash_want *want);
/*
 * Two collections and a full check: the second finds nothing left; no session is pending. The
 * records that exist are those of `want`'s snapshots; crash_check must have settled it.
 */
MUST_USE struct err *crash_collect(struct family *f, struct crash_want *want);

/* Reproducible random numbers. */
uint64_t crash_random(uint64_t *seed);

/* $TORPOR_SEED or now; $TORPOR_TIER is "long". */
uint64_t crash_run_seed(void);
bool crash_run_long(void);
/* A new directory: in memory if there is room (a power cut is only modelled), else in $TMPDIR. */
void crash_dir_make(char out[256]);
void crash_dir_remove(const char *dir);

#endif
