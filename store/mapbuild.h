/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the node records above a map's leaves, level by level up to one root. Called by
 * session.c when all leaves of the map are known; no state, any thread.
 */
#ifndef TORPOR_STORE_MAPBUILD_H
#define TORPOR_STORE_MAPBUILD_H

#include "store/mapcodec.h"

/* Number of 2 MiB leaves that len_bytes of content take, and levels above them (0: the root is a
 * leaf). At most NODE_LEVEL_MAX levels exist: ERR_LIMIT beyond. */
uint64_t map_leaves(uint64_t len_bytes);
MUST_USE struct err *map_height(uint64_t len_bytes, uint8_t *ret_height);

struct built_node {
	uint64_t id;
	uint8_t *p; /* owned; the record */
	size_t len;
};
struct built_nodes {
	struct built_node *node; /* owned */
	size_t n;
	size_t cap;
	size_t bytes;
};
void built_nodes_done(struct built_nodes *b);

struct mapbuild {
	const uint8_t *uuid; /* of the family */
	const struct map_zero *zero;
	/* Hands out a fresh node id. */
	struct err *(*next_id)(void *arg, uint64_t *ret_id);
	void *arg;
	/*
	 * NULL, or what a map of the same length has: base[0] its leaves, base[n] its nodes of
	 * level n, up to its root. A node none of whose children is another one than there is not
	 * made again.
	 */
	struct node_child *const *base;
};
/*
 * Adds the nodes to *out. leaf[nleaves] is overwritten; *ret_root is the map's root: a node, a leaf
 * when the height is 0, or id 0 with the digest of an all-zero map.
 */
MUST_USE struct err *map_build(const struct mapbuild *mb, struct node_child *leaf, uint64_t nleaves,
			       uint8_t height, struct built_nodes *out,
			       struct node_child *ret_root);

#endif
