/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks a map's records from its root: every node and leaf is checked (checksum, id, family) and
 * compared with the digest that its parent lists. Used by reader.c, verify.c and gc.c; the walk
 * belongs to one thread and keeps one read transaction of the caller's.
 */
#ifndef TORPOR_STORE_MAPWALK_H
#define TORPOR_STORE_MAPWALK_H

#include "store/family.h"

struct mapwalk {
	struct family *f;
	struct ltxn *t;
	/* Only leaves [from_leaf, to_leaf) are visited. */
	uint64_t from_leaf;
	uint64_t to_leaf; /* UINT64_MAX: to the end */
	/* NULL: visit all. *ret_go false leaves the node or leaf and all below it out, unread. */
	struct err *(*enter)(void *arg, uint64_t id, bool *ret_go);
	/* NULL: leaves are neither read nor entered. */
	struct err *(*leaf)(void *arg, uint64_t index, const struct leaf *l);
	/* May be NULL. Before its children; `first` is the node's first leaf. */
	struct err *(*node)(void *arg, uint64_t first, const struct node *n);
	/*
	 * Takes over e: what is wrong with the record of leaves [first, first + n). When it returns
	 * NULL the walk goes on without them. NULL: e ends the walk.
	 */
	struct err *(*damaged)(void *arg, uint64_t first, uint64_t n, struct err *e);
	void *arg;
};
MUST_USE struct err *mapwalk_run(const struct mapwalk *w, const struct snap_map *m);
/* The record of one leaf, checked against the digest listed above it. Id 0: zero pages. */
MUST_USE struct err *mapwalk_leaf(struct family *f, struct ltxn *t, const struct node_child *c,
				  struct leaf *ret_leaf);

#endif
