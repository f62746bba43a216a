/* SPDX-License-Identifier: Apache-2.0 */
/* What gc.c shares: removal in bounded transactions, and which ids belong to living sessions. Called
 * by session.c, stat.c and compact.c on any thread. */
#ifndef TORPOR_STORE_GC_H
#define TORPOR_STORE_GC_H

#include "store/family.h"

/*
 * Removes what a session that never published has written: all records in its id range, then its
 * pend record. Does nothing when there is no pend record (the session has published after all).
 */
MUST_USE struct err *gc_drop_session(struct family *f, const uint8_t holder[HOLDER_ID_BYTES],
				     struct gc_result *ret_result);

/* The ids that a mark of the same transaction may not call dead. */
struct gc_living {
	struct pend_rec *v; /* owned */
	size_t n;
	uint64_t bound; /* first id that no session had: a later one has higher ones */
};
MUST_USE struct err *gc_living_get(struct family *f, struct ltxn *t, struct gc_living *ret);
void gc_living_done(struct gc_living *l);
bool gc_is_living(const struct gc_living *l, uint64_t id);

/* How to go on removing when the disk is full. */
struct gc_room {
	struct family *f;
	size_t step; /* records per transaction */
	bool full;
	unsigned tries;
};
void gc_room_init(struct gc_room *r, struct family *f);
/* After a transaction that failed: NULL means try again, with r->step records. Takes over e. */
MUST_USE struct err *gc_room_make(struct gc_room *r, struct err *e);
/* After one that did not. */
void gc_room_used(struct gc_room *r);
/* One durable transaction of fn, which writes a few pages; also on a full disk. fn may be called more
 * than once. */
MUST_USE struct err *gc_write_small(struct family *f, struct err *(*fn)(void *arg, struct ltxn *t),
				    void *arg);

#endif
