/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One round of compaction, in the order of its steps. For compact.c only, which has the invariants;
 * compact_choose.c and compact_round.c implement it. One thread.
 */
#ifndef TORPOR_STORE_COMPACT_ROUND_H
#define TORPOR_STORE_COMPACT_ROUND_H

#include "store/frame.h"
#include "store/idrange.h"
#include "store/idset.h"
#include "store/pagemark.h"

/* What all rounds share. */
struct compact {
	struct family *f;
	const struct compact_opts *opts;
	unsigned live_percent;
	struct idset kept;    /* frames that are not worth it, or damaged: not looked at again */
	uint64_t total_bytes; /* of the first round's look: what is to be moved */
	uint64_t done_bytes;
};

/* ERR_CANCELLED when who asked wants no more of it: between two steps, and two frames. */
MUST_USE struct err *compact_cancelled(const struct compact *c);

/* A snapshot that may be switched. */
struct compact_snap {
	struct snap_rec rec; /* as it was when the round began; owned */
	struct holder lease;
	uint64_t root[STORE_MAPS_MAX]; /* new ones */
	bool changed;
};

/* A frame that is given up. */
struct compact_victim {
	uint64_t id;
	uint32_t nslots;
	uint32_t live_bytes;
	uint32_t len;
	bool bad;             /* damaged: it stays */
	bool *live;           /* owned; nslots of them */
	struct page_ref *to;  /* owned; where each live slot is now */
};

/* A record to be written. */
struct compact_record {
	enum family_db db;
	uint64_t id;
	uint8_t *p; /* owned */
	size_t len;
};

struct compact_ids {
	uint64_t *slot; /* owned; pairs of old and new id, open addressing */
	size_t cap;     /* of pairs */
	size_t n;
};

struct compact_round {
	struct compact *c;
	struct family *f;
	struct compact_snap *snap; /* owned */
	size_t nsnaps;
	struct compact_victim *victim; /* owned; ascending ids */
	size_t nvictims;
	struct idrange range;
	bool opened; /* range */
	struct compact_record *out; /* owned; not written yet */
	size_t nout;
	size_t cap_out;
	size_t out_bytes;
	struct compact_ids remap; /* leaves and nodes; new 0: stays */
	uint64_t nmoved;
	uint64_t frames_made;
	uint64_t pages_moved;
	uint64_t old_bytes; /* of moved frames */
	uint64_t new_bytes;
};
void compact_round_done(struct compact_round *r);

/* Leases what may be switched and picks victims with at most `budget` live bytes together. */
MUST_USE struct err *compact_choose(struct compact_round *r, uint64_t budget);
/* Writes what is live of the victims into new frames. */
MUST_USE struct err *compact_move(struct compact_round *r);
/* Makes and writes new leaves and nodes for all that names a moved page. */
MUST_USE struct err *compact_remap(struct compact_round *r);
/* The one transaction that makes it count. */
MUST_USE struct err *compact_switch(struct compact_round *r);

#endif
