/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps as records: a leaf says where 512 pages are, a node names 64 leaves or nodes of the level
 * below. Leaves are level 0. All-zero leaves and subtrees have no record: their id is 0.
 *
 * Encoding and decoding are pure functions of their arguments. Every value has exactly one
 * encoding, and decoding refuses all others. docs/format.md has the bytes.
 */
#ifndef TORPOR_STORE_MAPCODEC_H
#define TORPOR_STORE_MAPCODEC_H

#include "core/base/bytes.h"
#include "core/base/hash.h"
#include "core/base/limits.h"

#define LEAF_PAGES 512u
#define LEAF_SPAN_BYTES ((uint64_t)LEAF_PAGES * PAGE_BYTES) /* 2 MiB of content */
#define NODE_FANOUT 64u
#define NODE_FANOUT_SHIFT 6u
#define NODE_LEVEL_MAX 7u     /* 2 MiB * 64^7 = 2^63 bytes */
#define LEAF_BYTES_MAX 16384u /* encoded; the worst mix of extents takes less */
#define NODE_BYTES_MAX 4096u

/*
 * Where a page is. frame 0: no frame, the page is filled with the 8 bytes `v` (0: a zero page).
 * Otherwise slot `v` of that frame.
 */
struct page_ref {
	uint64_t frame;
	uint64_t v;
};

struct leaf {
	uint64_t id;
	struct sha256 digest; /* leaf_digest of the pages' digests */
	struct page_ref ref[LEAF_PAGES];
};

struct node_child {
	uint64_t id; /* 0: all zero; digest is not looked at then */
	struct sha256 digest;
};
struct node {
	uint64_t id;
	uint8_t level; /* 1..NODE_LEVEL_MAX; children are of level - 1 */
	struct sha256 digest;
	struct node_child child[NODE_FANOUT];
};

/* Digests of nothing: a zero page, and all-zero subtrees of each level. Made once, then constant.
 */
struct map_zero {
	struct hash128 page;
	struct sha256 subtree[NODE_LEVEL_MAX + 1]; /* [0]: leaf */
};
void map_zero_init(struct map_zero *ret_zero);

/* SHA-256("torpor leaf 1" || 512 page digests); zero and absent pages by the zero page's. */
struct sha256 leaf_digest(struct sha256_ctx *c, const struct hash128 page[LEAF_PAGES]);
/* SHA-256("torpor node 1" || level || 64 child digests). */
struct sha256 node_digest(struct sha256_ctx *c, const struct map_zero *zero, const struct node *n);
/* The digest of a page that is filled with one value. */
struct hash128 page_value_digest(uint64_t v);

bool leaf_is_zero(const struct leaf *l);
bool node_is_zero(const struct node *n);

/*
 * Appends nothing to *w but this record; *w is emptied first. The leaf or node must be valid (id
 * not 0, not all zero, slots below FRAME_SLOTS_MAX): breaches are our own mistakes. node_encode
 * writes n->digest, which node_digest made. Failure shows in wbuf_check. w->max at least
 * LEAF_BYTES_MAX or NODE_BYTES_MAX.
 */
void leaf_encode(struct wbuf *w, const uint8_t uuid[16], const struct leaf *l);
void node_encode(struct wbuf *w, const uint8_t uuid[16], const struct node *n);

/*
 * Errors: ERR_CORRUPT, ERR_INCOMPAT (version), naming kind, id and offset. leaf_decode cannot check
 * the digest (it is over content); node_decode does.
 */
MUST_USE struct err *leaf_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
				 struct leaf *ret_leaf);
MUST_USE struct err *node_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
				 unsigned level, const struct map_zero *zero,
				 struct node *ret_node);

#endif
