/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves and nodes to bytes and back. See mapcodec.h; the bytes are in docs/format.md. Called by
 * the compressor pool, the session and the readers, on their threads; no state of its own.
 *
 * A leaf's references are a list of extents. One varint begins an extent: (pages - 1) << 2 | kind.
 * Frames are written as the difference to the frame of the last slot extent before (0 at the
 * start), slots of the same frame as the difference to where that extent ended.
 */
#include "store/mapcodec.h"

#include <inttypes.h>
#include <string.h>

#include "store/frame.h"
#include "store/record.h"

enum extent_kind {
	EXTENT_ZERO = 0,  /* zero pages */
	EXTENT_VALUE = 1, /* u64: pages filled with this value, not 0 */
	EXTENT_FRAME = 2, /* zigzag frame difference (not 0), slot: a run in another frame */
	EXTENT_SAME = 3,  /* zigzag slot difference: a run in the same frame */
};

#define LEAF_TAG "torpor leaf 1"
#define NODE_TAG "torpor node 1"
#define NODE_CHILD_BYTES 40u /* u64 id, 32-byte digest */

/* The worst leaf: an extent per page of 2 + 10 + 2 bytes. */
_Static_assert(LEAF_BYTES_MAX >= RECORD_HEAD_BYTES + 32 + LEAF_PAGES * 14 + RECORD_TAIL_BYTES,
	       "leaf limit");
_Static_assert(NODE_BYTES_MAX >=
		       RECORD_HEAD_BYTES + 48 + NODE_FANOUT * NODE_CHILD_BYTES + RECORD_TAIL_BYTES,
	       "node limit");
_Static_assert(NODE_FANOUT == 64, "presence bitmap is a u64");

static uint64_t zigzag(uint64_t diff)
{
	return diff << 1 ^ (uint64_t)((int64_t)diff >> 63);
}

static uint64_t unzigzag(uint64_t v)
{
	return v >> 1 ^ (0 - (v & 1));
}

/* ---- digests ---- */

struct hash128 page_value_digest(uint64_t v)
{
	uint64_t page[PAGE_BYTES / sizeof(uint64_t)];
	for (size_t i = 0; i < ARRAY_LEN(page); i++) {
		page[i] = v;
	}
	return hash_xxh3_128(page, sizeof(page));
}

struct sha256 leaf_digest(struct sha256_ctx *c, const struct hash128 page[LEAF_PAGES])
{
	sha256_update(c, LEAF_TAG, sizeof(LEAF_TAG) - 1);
	sha256_update(c, page, LEAF_PAGES * sizeof(page[0]));
	return sha256_final(c);
}

struct sha256 node_digest(struct sha256_ctx *c, const struct map_zero *zero, const struct node *n)
{
	BUG_ON(n->level < 1 || n->level > NODE_LEVEL_MAX);
	sha256_update(c, NODE_TAG, sizeof(NODE_TAG) - 1);
	sha256_update(c, &n->level, 1);
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		const struct sha256 *d =
			n->child[i].id != 0 ? &n->child[i].digest : &zero->subtree[n->level - 1];
		sha256_update(c, d->b, sizeof(d->b));
	}
	return sha256_final(c);
}

void map_zero_init(struct map_zero *ret_zero)
{
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	struct hash128 page[LEAF_PAGES];
	struct node n = { .level = 0 };

	ret_zero->page = page_value_digest(0);
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		page[i] = ret_zero->page;
	}
	ret_zero->subtree[0] = leaf_digest(c, page);
	for (uint8_t level = 1; level <= NODE_LEVEL_MAX; level++) {
		n.level = level;
		ret_zero->subtree[level] = node_digest(c, ret_zero, &n);
	}
}

bool leaf_is_zero(const struct leaf *l)
{
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		if (l->ref[i].frame != 0 || l->ref[i].v != 0) {
			return false;
		}
	}
	return true;
}

bool node_is_zero(const struct node *n)
{
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		if (n->child[i].id != 0) {
			return false;
		}
	}
	return true;
}

/* ---- leaves ---- */

/* Pages from `at` that one extent holds. */
static unsigned extent_pages(const struct leaf *l, unsigned at)
{
	const struct page_ref *first = &l->ref[at];
	unsigned n = 1;
	while (at + n < LEAF_PAGES) {
		const struct page_ref *r = &l->ref[at + n];
		uint64_t want = first->frame != 0 ? first->v + n : first->v;
		if (r->frame != first->frame || r->v != want) {
			break;
		}
		n++;
	}
	return n;
}

void leaf_encode(struct wbuf *w, const uint8_t uuid[16], const struct leaf *l)
{
	BUG_ON(l->id == 0 || leaf_is_zero(l));
	wbuf_reset(w);
	record_begin(w, RECORD_LEAF, l->id);
	wbuf_put(w, l->digest.b, sizeof(l->digest.b));

	uint64_t frame = 0;
	uint64_t slot = 0; /* behind the last slot extent */
	for (unsigned at = 0, n; at < LEAF_PAGES; at += n) {
		const struct page_ref *r = &l->ref[at];
		n = extent_pages(l, at);
		uint64_t head = (uint64_t)(n - 1) << 2;
		if (r->frame == 0 && r->v == 0) {
			wbuf_varint(w, head | EXTENT_ZERO);
		} else if (r->frame == 0) {
			wbuf_varint(w, head | EXTENT_VALUE);
			wbuf_u64(w, r->v);
		} else if (r->frame != frame) {
			BUG_ON(r->v + n > FRAME_SLOTS_MAX);
			wbuf_varint(w, head | EXTENT_FRAME);
			wbuf_varint(w, zigzag(r->frame - frame));
			wbuf_varint(w, r->v);
			frame = r->frame;
			slot = r->v + n;
		} else {
			BUG_ON(r->v + n > FRAME_SLOTS_MAX);
			wbuf_varint(w, head | EXTENT_SAME);
			wbuf_varint(w, zigzag(r->v - slot));
			slot = r->v + n;
		}
	}
	record_seal(w, RECORD_LEAF, uuid, l->id);
}

/* Where decoding stands: the frame and slot that differences refer to, and the extent before. */
struct leaf_pos {
	uint64_t frame;
	uint64_t slot;
	unsigned at;
	enum extent_kind before;
	uint64_t before_v; /* of a value extent */
};

/* Decodes one extent into its first reference and its kind. */
static struct err *decode_extent(struct rcur *c, const struct leaf_pos *pos, enum extent_kind kind,
				 struct page_ref *ret_ref)
{
	struct page_ref r = { .frame = 0, .v = 0 };
	uint64_t v;
	switch (kind) {
	case EXTENT_ZERO:
		ENSURE(pos->at == 0 || pos->before != EXTENT_ZERO, ERR_CORRUPT,
		       "zero extent after a zero extent");
		break;
	case EXTENT_VALUE:
		TRY(rcur_u64(c, &r.v));
		ENSURE(r.v != 0, ERR_CORRUPT, "value extent of value 0");
		ENSURE(pos->at == 0 || pos->before != EXTENT_VALUE || pos->before_v != r.v,
		       ERR_CORRUPT, "value extent after one of the same value");
		break;
	case EXTENT_FRAME:
		TRY(rcur_varint(c, &v));
		ENSURE(v != 0, ERR_CORRUPT, "extent in another frame names the same frame");
		r.frame = pos->frame + unzigzag(v);
		ENSURE(r.frame != 0, ERR_CORRUPT, "extent in frame 0");
		TRY(rcur_varint(c, &r.v));
		break;
	case EXTENT_SAME:
		ENSURE(pos->frame != 0, ERR_CORRUPT, "extent in the same frame, but none before");
		TRY(rcur_varint(c, &v));
		ENSURE(v != 0 || (pos->before != EXTENT_FRAME && pos->before != EXTENT_SAME),
		       ERR_CORRUPT, "extent goes on where the one before ended");
		r.frame = pos->frame;
		r.v = pos->slot + unzigzag(v);
		break;
	}
	*ret_ref = r;
	return NULL;
}

static struct err *decode_extents(struct rcur *c, struct leaf *l)
{
	struct leaf_pos pos = { .before = EXTENT_ZERO };
	bool some = false;
	while (pos.at < LEAF_PAGES) {
		uint64_t head;
		struct page_ref r = { 0 };
		TRY(rcur_varint(c, &head));
		enum extent_kind kind = (enum extent_kind)(head & 3);
		ENSURE(head >> 2 < LEAF_PAGES - pos.at, ERR_CORRUPT,
		       "extent of more than the %u pages left", LEAF_PAGES - pos.at);
		unsigned n = (unsigned)(head >> 2) + 1;
		TRY(decode_extent(c, &pos, kind, &r));
		if (r.frame != 0) {
			ENSURE(r.v <= FRAME_SLOTS_MAX - n, ERR_CORRUPT,
			       "slots from %" PRIu64 " on do not exist", r.v);
			pos.frame = r.frame;
			pos.slot = r.v + n;
		}
		for (unsigned i = 0; i < n; i++) {
			l->ref[pos.at + i] = (struct page_ref){
				.frame = r.frame,
				.v = r.frame != 0 ? r.v + i : r.v,
			};
		}
		some = some || kind != EXTENT_ZERO;
		pos.at += n;
		pos.before = kind;
		pos.before_v = r.v;
	}
	ENSURE(some, ERR_CORRUPT, "all zero: must not have a record");
	return rcur_end(c);
}

struct err *leaf_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
			struct leaf *ret_leaf)
{
	struct rcur c;
	struct leaf l = { .id = id };
	ENSURE(id != 0 && len <= LEAF_BYTES_MAX, ERR_CORRUPT, "leaf %" PRIu64 ": %zu bytes long",
	       id, len);
	TRY(record_open(p, len, RECORD_LEAF, uuid, id, &c));
	struct err *e = rcur_copy(&c, l.digest.b, sizeof(l.digest.b));
	if (e == NULL) {
		e = decode_extents(&c, &l);
	}
	if (e != NULL) {
		return err_wrap(e, "leaf %" PRIu64 ": at offset %zu", id,
				c.pos + RECORD_HEAD_BYTES);
	}
	*ret_leaf = l;
	return NULL;
}

/* ---- nodes ---- */

void node_encode(struct wbuf *w, const uint8_t uuid[16], const struct node *n)
{
	BUG_ON(n->id == 0 || n->level < 1 || n->level > NODE_LEVEL_MAX || node_is_zero(n));
	uint64_t present = 0;
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		present |= (uint64_t)(n->child[i].id != 0) << i;
	}
	wbuf_reset(w);
	record_begin(w, RECORD_NODE, n->id);
	wbuf_u64(w, n->level); /* u8 and 7 reserved bytes */
	wbuf_put(w, n->digest.b, sizeof(n->digest.b));
	wbuf_u64(w, present);
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		if (n->child[i].id != 0) {
			wbuf_u64(w, n->child[i].id);
			wbuf_put(w, n->child[i].digest.b, sizeof(n->child[i].digest.b));
		}
	}
	record_seal(w, RECORD_NODE, uuid, n->id);
}

static struct err *decode_node_body(struct rcur *c, unsigned level, const struct map_zero *zero,
				    struct node *n)
{
	uint64_t have;
	uint64_t present;
	TRY(rcur_u64(c, &have));
	ENSURE(have == level, ERR_CORRUPT, "level is %" PRIu64 ", not %u", have, level);
	TRY(rcur_copy(c, n->digest.b, sizeof(n->digest.b)));
	TRY(rcur_u64(c, &present));
	ENSURE(present != 0, ERR_CORRUPT, "no children: must not have a record");
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		if ((present >> i & 1) == 0) {
			continue;
		}
		struct node_child *child = &n->child[i];
		TRY(rcur_u64(c, &child->id));
		ENSURE(child->id != 0, ERR_CORRUPT, "child %u has id 0", i);
		TRY(rcur_copy(c, child->digest.b, sizeof(child->digest.b)));
	}
	TRY(rcur_end(c));
	SCOPE(sha256_freep) struct sha256_ctx *ctx = sha256_new();
	struct sha256 d = node_digest(ctx, zero, n);
	ENSURE(sha256_equal(&d, &n->digest), ERR_CORRUPT, "digest differs from its children's");
	return NULL;
}

struct err *node_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
			unsigned level, const struct map_zero *zero, struct node *ret_node)
{
	struct rcur c;
	BUG_ON(level < 1 || level > NODE_LEVEL_MAX);
	struct node n = { .id = id, .level = (uint8_t)level };
	ENSURE(id != 0 && len <= NODE_BYTES_MAX, ERR_CORRUPT, "node %" PRIu64 ": %zu bytes long",
	       id, len);
	TRY(record_open(p, len, RECORD_NODE, uuid, id, &c));
	struct err *e = decode_node_body(&c, level, zero, &n);
	if (e != NULL) {
		return err_wrap(e, "node %" PRIu64 ": at offset %zu", id,
				c.pos + RECORD_HEAD_BYTES);
	}
	*ret_node = n;
	return NULL;
}
