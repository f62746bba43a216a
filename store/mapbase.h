/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The map of a published snapshot that a session's map starts from: who its leaves and nodes are,
 * so that those without a change are taken over as they are, and what an old leaf says.
 *
 * Opened by session_map.c; mapbase_leaf is called by the compressors, several at once.
 *
 * I1: the lease is taken before the snapshot is looked up and kept until mapbase_free: its records
 *     stay where they are (gc.c, I2).
 */
#ifndef TORPOR_STORE_MAPBASE_H
#define TORPOR_STORE_MAPBASE_H

#include "store/family.h"
#include "store/pack.h"

struct mapbase {
	struct family *f;
	struct holder lease;
	struct snap_map map;
	uint64_t snap_id;
	/* [0]: all leaves, [n]: all nodes of level n, up to [map.height], the root. Owned. */
	struct node_child *level[NODE_LEVEL_MAX + 1];
};

/*
 * Reads all nodes. ERR_NOTFOUND: no such snapshot, or no map of that name and length in it. A
 * hidden snapshot whose record is still there will do.
 */
MUST_USE struct err *mapbase_open(struct family *f, uint64_t snap_id, const char *name,
				  uint64_t len_bytes, struct mapbase **ret_base);
void mapbase_free(struct mapbase *b);
DEFINE_SCOPE(struct mapbase, mapbase_free)

/*
 * The leaf as it was. Digests are filled in for the pages that are NULL in page[] only; of the
 * frames just the front is read.
 */
MUST_USE struct err *mapbase_leaf(const struct mapbase *b, uint64_t index,
				  const void *const page[LEAF_PAGES], struct pack_leaf *ret_leaf);

#endif
