/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which records and which slots of frames the snapshots of a family reach, and by which of them:
 * what stat.c and compact.c work from. Leaves, nodes and frames share one sequence of ids, so one
 * table holds them all. One thread at a time.
 *
 * An owner is a number from 1 that the caller gives to each snapshot. What two owners reach belongs
 * to MARK_SHARED.
 */
#ifndef TORPOR_STORE_PAGEMARK_H
#define TORPOR_STORE_PAGEMARK_H

#include "store/mapwalk.h"

#define MARK_NONE 0u
#define MARK_SHARED UINT32_MAX

struct mark_slot {
	uint32_t owner; /* MARK_NONE: dead */
	uint32_t stamp; /* the user's */
	uint16_t bytes; /* its part of the frame, once pagemark_costs has filled it in */
};

struct mark_rec {
	uint64_t id; /* 0: a free place of the table */
	uint32_t owner;
	uint32_t stamp;         /* the user's */
	uint32_t nslots;        /* of a frame: slots known so far; all of them after pagemark_costs */
	struct mark_slot *slot; /* owned; NULL: no frame */
	uint32_t bytes;         /* of a frame after pagemark_costs: what belongs to no slot */
};

struct pagemark {
	struct mark_rec *rec; /* owned; open addressing */
	size_t cap;
	size_t n;
};

void pagemark_done(struct pagemark *m);
/* NULL: nothing reaches it. Good until the next pagemark_map. */
struct mark_rec *pagemark_find(const struct pagemark *m, uint64_t id);
/*
 * Marks everything below a map for `owner`. damaged may be NULL (see mapwalk.h): what cannot be
 * read then ends it; its arg is given back.
 */
struct pagemark_map {
	struct family *f;
	struct ltxn *t;
	uint32_t owner;
	struct err *(*damaged)(void *arg, uint64_t first, uint64_t n, struct err *e);
	void *arg;
};
MUST_USE struct err *pagemark_map(struct pagemark *m, const struct pagemark_map *how,
				  const struct snap_map *map);
/*
 * Reads a frame's head and fills in what each slot and the rest of the record take; together they
 * are *ret_len. rec is the frame's mark. buf has room for FRAME_BYTES_MAX.
 */
MUST_USE struct err *pagemark_costs(struct mark_rec *rec, struct family *f, struct ltxn *t,
				    uint8_t *buf, size_t *ret_len);

#endif
