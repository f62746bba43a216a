/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a map leaf (first byte even) or node (odd) as read from a store. Checksum and, for a
 * node, digest are set right first. Property: what decodes has no other encoding.
 */
#include <string.h>

#include "store/mapcodec.h"
#include "store/record.h"
#include "tests/fuzz/fuzz.h"

#define ID 7u

static const uint8_t uuid[16];

static void refused(struct err *e)
{
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
}

static void seal(uint8_t *p, size_t len, enum record_kind kind)
{
	if (len >= RECORD_HEAD_BYTES + RECORD_TAIL_BYTES) {
		size_t at = len - RECORD_TAIL_BYTES;
		put_le64(p + at, hash_xxh3_64(p, at, record_seed(kind, uuid, ID, 0)));
	}
}

static void run_leaf(uint8_t *p, size_t len)
{
	static struct leaf l;
	seal(p, len, RECORD_LEAF);
	struct err *e = leaf_decode(p, len, uuid, ID, &l);
	if (e != NULL) {
		refused(e);
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(LEAF_BYTES_MAX);
	leaf_encode(&w, uuid, &l);
	BUG_ON(w.failed != 0 || w.len != len || memcmp(w.p, p, len) != 0);
}

/* Puts the digest that the children at p give into the record, if they are all there. */
static void fix_digest(uint8_t *p, size_t len, unsigned level, const struct map_zero *zero)
{
	const size_t children = RECORD_HEAD_BYTES + 8 + 32 + 8;
	if (len < children) {
		return;
	}
	struct node n = { .id = ID, .level = (uint8_t)level };
	struct rcur c = rcur_of(p + children, len - children);
	uint64_t present = get_le64(p + children - 8);
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		if ((present >> i & 1) != 0 && rcur_left(&c) >= 40) {
			n.child[i].id = get_le64(c.p + c.pos);
			memcpy(n.child[i].digest.b, c.p + c.pos + 8, 32);
			c.pos += 40;
		}
	}
	SCOPE(sha256_freep) struct sha256_ctx *ctx = sha256_new();
	struct sha256 d = node_digest(ctx, zero, &n);
	memcpy(p + RECORD_HEAD_BYTES + 8, d.b, 32);
}

static void run_node(uint8_t *p, size_t len, unsigned level)
{
	static struct map_zero zero;
	static bool ready;
	if (!ready) {
		map_zero_init(&zero);
		ready = true;
	}
	fix_digest(p, len, level, &zero);
	seal(p, len, RECORD_NODE);
	struct node n;
	struct err *e = node_decode(p, len, uuid, ID, level, &zero, &n);
	if (e != NULL) {
		refused(e);
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(NODE_BYTES_MAX);
	node_encode(&w, uuid, &n);
	BUG_ON(w.failed != 0 || w.len != len || memcmp(w.p, p, len) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len < 1) {
		return 0;
	}
	SCOPE(freep) uint8_t *p = malloc(len);
	BUG_ON(p == NULL);
	memcpy(p, data + 1, len - 1);
	if (data[0] % 2 == 0) {
		run_leaf(p, len - 1);
	} else {
		run_node(p, len - 1, 1 + data[0] / 2 % NODE_LEVEL_MAX);
	}
	return 0;
}
