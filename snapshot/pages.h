/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory into a session of the store and back. Page index = gfn. Called by save and load.
 */
#ifndef TORPOR_SNAPSHOT_PAGES_H
#define TORPOR_SNAPSHOT_PAGES_H

#include "snapshot/snapshot.h"

/* ERR_CANCELLED once *cancel is set; NULL cannot be cancelled. */
MUST_USE struct err *pages_check_cancel(const bool *cancel);

/* A set of pages of guest memory: a bit per page and region. */
struct pages_set {
	unsigned n;
	struct {
		uint64_t *bits; /* owned */
		uint64_t words;
	} r[GMEM_REGIONS_MAX];
};
MUST_USE struct err *pages_set_init(struct pages_set *set, const struct gmem *g);
void pages_set_done(struct pages_set *set);
void pages_set_clear(struct pages_set *set);
void pages_set_fill(struct pages_set *set);
uint64_t pages_set_count(const struct pages_set *set);
/* Adds what has changed. Nothing is allocated. */
MUST_USE struct err *pages_fetch(const struct snap_vm *vm, struct pages_set *set);

/*
 * Queues the pages of the set for the open map of the session, which is that of the memory, or all
 * that was ever touched (`touched`: then the set is full). Pages are cleared in vm->dirty just
 * before they are queued. set NULL: changes are not known, and touched pages are meant. Memory must
 * stand still until session_settle has returned, unless the map is one of rounds.
 */
MUST_USE struct err *pages_save(struct session *s, const struct snap_vm *vm,
				const struct pages_set *set, bool touched,
				const struct snap_take_opts *opts);
/* Reads map "memory" into fresh (all zero) guest memory. A page outside RAM: ERR_CORRUPT. */
MUST_USE struct err *pages_load(struct reader *r, struct gmem *g,
				const struct snap_progress *progress);
/* What memory is now: that snapshot's, but for the pages in the set (NULL: none). */
struct pages_present {
	struct reader *reader;
	const struct pages_set *changed;
};
/*
 * The same into such memory: only what differs is written. only_check: it is only read and
 * verified, g stays as it is. *ret_written: pages that differ.
 */
MUST_USE struct err *pages_load_diff(struct reader *r, struct gmem *g, bool only_check,
				     const struct pages_present *present,
				     const struct snap_progress *progress, uint64_t *ret_written);

#endif
