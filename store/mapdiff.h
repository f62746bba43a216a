/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differs between two maps of one family: pages that they find in different places. Leaves
 * that are the same record are the same pages and are not read. Called by reader.c, on the thread
 * of the reader's caller; both snapshots are leased.
 *
 * Same content in another place (a page written with what it held, a compacted frame) counts as
 * different: whoever uses the difference writes such a page for nothing, never a wrong one.
 */
#ifndef TORPOR_STORE_MAPDIFF_H
#define TORPOR_STORE_MAPDIFF_H

#include "store/mapruns.h"

struct mapdiff {
	struct family *f;
	struct ltxn *t;
	const struct snap_map *was;
	const struct snap_map *now; /* of the same length */
	/* Only leaves [from_leaf, to_leaf). */
	uint64_t from_leaf;
	uint64_t to_leaf;
	/* Those of the 64 pages from `index` that count as different in any case. NULL: none. */
	uint64_t (*also)(void *arg, uint64_t index);
	void *arg;
};
/* Adds the pages of `now` that differ, zero ones too. */
MUST_USE struct err *mapdiff_run(const struct mapdiff *d, struct mapruns *r);

#endif
