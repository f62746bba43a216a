/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaves and nodes: round trips, bytes typed by hand, one encoding per value, every flipped bit,
 * every length, wrong place; digests.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "store/frame.h"
#include "store/mapcodec.h"
#include "store/record.h"
#include "tests/lib/expect.h"

static const uint8_t uuid_a[16] = { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
static const uint8_t uuid_b[16] = { 0xb0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return rng_state >> 33;
}

static struct wbuf w;
static struct map_zero zero;

static int setup(void **state)
{
	(void)state;
	w = wbuf_make(LEAF_BYTES_MAX);
	map_zero_init(&zero);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	wbuf_done(&w);
	return 0;
}

static void leaf_round_trip(const struct leaf *l)
{
	static struct leaf back;
	leaf_encode(&w, uuid_a, l);
	ok(wbuf_check(&w));
	ok(leaf_decode(w.p, w.len, uuid_a, l->id, &back));
	assert_memory_equal(&back, l, sizeof(back));
}

static void test_leaf_round_trip(void **state)
{
	(void)state;
	static struct leaf l;
	for (unsigned round = 0; round < 2000; round++) {
		rng_state = round;
		l = (struct leaf){ .id = rng() + 1 };
		memset(l.digest.b, (int)rng(), sizeof(l.digest.b));
		unsigned longest = 1u << rng() % 10;
		for (unsigned at = 0; at < LEAF_PAGES;) {
			unsigned n = MIN(1 + (unsigned)rng() % longest, LEAF_PAGES - at);
			unsigned kind = (unsigned)rng() % 4;
			uint64_t frame = kind < 2    ? 0
					 : kind == 2 ? 40 + rng() % 3
						     : rng() << 33 | 1;
			uint64_t v = kind == 0   ? 0
				     : kind == 1 ? 1 + rng() % 3
						 : rng() % (FRAME_SLOTS_MAX - n + 1);
			for (unsigned i = 0; i < n; i++, at++) {
				l.ref[at].frame = frame;
				l.ref[at].v = kind < 2 ? v : v + i;
			}
		}
		l.ref[rng() % LEAF_PAGES] = (struct page_ref){ .frame = 0, .v = 77 };
		leaf_round_trip(&l);
	}
}

/* The worst leaf still fits: every page in another far frame. */
static void test_leaf_worst(void **state)
{
	(void)state;
	static struct leaf l;
	l.id = UINT64_MAX;
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		l.ref[i].frame = i % 2 != 0 ? UINT64_MAX : 1ull << 62;
		l.ref[i].v = FRAME_SLOTS_MAX - 1;
	}
	leaf_round_trip(&l);
	assert_true(w.len <= LEAF_BYTES_MAX);
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		l.ref[i] = (struct page_ref){ .frame = 0, .v = UINT64_MAX - i };
	}
	leaf_round_trip(&l);
}

static void seal(enum record_kind kind, uint64_t id)
{
	record_seal(&w, kind, uuid_a, id);
	ok(wbuf_check(&w));
}

/* The extents of a leaf, by hand: 100 zero, 12 of a value, 396 in frame 9 from slot 0 on, 4 more.
 */
static void test_leaf_bytes(void **state)
{
	(void)state;
	static struct leaf l;
	static const uint8_t extents[] = {
		0x8c, 0x03,                            /* 100 zero pages: 99 << 2 | 0 */
		0x2d, 8,    7,    6,    5, 4, 3, 2, 1, /* 12 of a value: 11 << 2 | 1 */
		0xae, 0x0c, 0x12, 0x00,                /* 396 pages, frame 0 + 9, slot 0 */
		0x0f, 0x07,                            /* 4 pages, same frame, slot 396 - 4 */
	};
	l = (struct leaf){ .id = 5 };
	for (unsigned i = 100; i < LEAF_PAGES; i++) {
		l.ref[i].frame = i < 112 ? 0 : 9;
		l.ref[i].v = i < 112 ? 0x0102030405060708ull : i < 508 ? i - 112 : i - 508 + 392;
	}
	leaf_encode(&w, uuid_a, &l);
	ok(wbuf_check(&w));
	assert_int_equal(w.len, 16 + 32 + sizeof(extents) + 8);
	assert_memory_equal(w.p, "TPLF\1\0\0\0\5\0\0\0\0\0\0\0", 16);
	assert_memory_equal(w.p + 48, extents, sizeof(extents));
}

/* Bodies that decode to something, but not by the rules, under a good checksum. */
static void test_leaf_strict(void **state)
{
	(void)state;
	static const struct {
		const char *bytes;
		size_t len;
	} bad[] = {
		{ "", 0 },
		{ "\xfc\x0f", 2 },                     /* all zero */
		{ "\xfe\x0f\x00\x00", 4 },             /* frame difference 0 */
		{ "\xff\x0f\x00", 3 },                 /* same frame, but none before */
		{ "\xfd\x0f\0\0\0\0\0\0\0\0", 10 },    /* value 0 */
		{ "\x82\x10\x02\x00", 4 },             /* 513 pages */
		{ "\xfe\x8f\x00\x02\x00", 5 },         /* over-long number */
		{ "\xfe\x0f\x02\x81\x04", 5 },         /* slots 513..1024 */
		{ "\xfe\x0f\x02\x00\x00", 5 },         /* a byte too many */
		{ "\xfa\x0f\x02\x00", 4 },             /* a page too few */
		{ "\x00\x00\xf6\x0f\x02\x00", 6 },     /* zero after zero */
		{ "\x02\x02\x00\xfb\x0f\x00", 6 },     /* goes on where it ended */
		{ "\x02\x02\x00\xfb\x0f\x03", 6 },     /* slot below 0 */
		{ "\x02\x02\x00\xfa\x0f\x01\x00", 7 }, /* frame 1 - 1 */
		{ "\x01\1\0\0\0\0\0\0\0\xf9\x0f\1\0\0\0\0\0\0\0", 19 }, /* same value twice */
	};
	static struct leaf l;
	const uint8_t digest[32] = { 0 };
	for (size_t i = 0; i <= ARRAY_LEN(bad); i++) {
		wbuf_reset(&w);
		record_begin(&w, RECORD_LEAF, 5);
		wbuf_put(&w, digest, sizeof(digest));
		if (i == ARRAY_LEN(bad)) { /* a good one, as a check on this test */
			wbuf_put(&w, "\xfe\x0f\x02\x00", 4);
			seal(RECORD_LEAF, 5);
			ok(leaf_decode(w.p, w.len, uuid_a, 5, &l));
			break;
		}
		wbuf_put(&w, bad[i].bytes, bad[i].len);
		seal(RECORD_LEAF, 5);
		struct err *e = leaf_decode(w.p, w.len, uuid_a, 5, &l);
		if (e == NULL) {
			fail_msg("case %zu decodes", i);
		}
		assert_true(strncmp(err_msg(e), "leaf 5: at offset ", 18) == 0);
		fails(e, ERR_CORRUPT);
	}
}

static struct leaf *some_leaf(void)
{
	static struct leaf l;
	l = (struct leaf){ .id = 5 };
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		l.ref[i].frame = i < 100 ? 0 : i < 300 ? 17 : 18 + i / 400;
		l.ref[i].v = i < 50 ? 0 : i < 100 ? 0x20 : i;
	}
	return &l;
}

static void some_node(struct node *n)
{
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	*n = (struct node){ .id = 6, .level = 2 };
	for (unsigned i = 0; i < NODE_FANOUT; i += 13) {
		n->child[i].id = 1000 + i;
		memset(n->child[i].digest.b, (int)i, sizeof(n->child[i].digest.b));
	}
	n->digest = node_digest(c, &zero, n);
}

static struct err *decode_either(bool leaf, const void *p, size_t len, const uint8_t uuid[16],
				 uint64_t id)
{
	static struct leaf l;
	static struct node n;
	return leaf ? leaf_decode(p, len, uuid, id, &l)
		    : node_decode(p, len, uuid, id, 2, &zero, &n);
}

static void damage(bool leaf, uint64_t id)
{
	size_t len = w.len;
	ok(decode_either(leaf, w.p, len, uuid_a, id));
	for (size_t bit = 0; bit < len * 8; bit++) {
		w.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		struct err *e = decode_either(leaf, w.p, len, uuid_a, id);
		if (e == NULL) {
			fail_msg("bit %zu flipped and not noticed", bit);
		}
		assert_true(err_class(e) == ERR_CORRUPT || err_class(e) == ERR_INCOMPAT);
		assert_non_null(strstr(err_msg(e), leaf ? "leaf 5" : "node 6"));
		err_free(e);
		w.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *p = malloc(cut + 1);
		assert_non_null(p);
		memcpy(p, w.p, cut);
		fails(decode_either(leaf, p, cut, uuid_a, id), ERR_CORRUPT);
		free(p);
	}
	wbuf_u8(&w, 0);
	fails(decode_either(leaf, w.p, len + 1, uuid_a, id), ERR_CORRUPT);
	fails(decode_either(leaf, w.p, len, uuid_a, id + 1), ERR_CORRUPT);
	fails(decode_either(leaf, w.p, len, uuid_b, id), ERR_CORRUPT);
	fails(decode_either(!leaf, w.p, len, uuid_a, id), ERR_CORRUPT);
	fails(decode_either(leaf, w.p, len, uuid_a, 0), ERR_CORRUPT);
	/* Cut by the writer, under a good checksum: the body's own checks must see it. */
	for (size_t body = 16; body < len - 8; body++) {
		struct wbuf cut = wbuf_make(LEAF_BYTES_MAX);
		wbuf_put(&cut, w.p, body);
		record_seal(&cut, leaf ? RECORD_LEAF : RECORD_NODE, uuid_a, id);
		ok(wbuf_check(&cut));
		fails(decode_either(leaf, cut.p, cut.len, uuid_a, id), ERR_CORRUPT);
		wbuf_done(&cut);
	}
}

static void test_leaf_damage(void **state)
{
	(void)state;
	leaf_encode(&w, uuid_a, some_leaf());
	ok(wbuf_check(&w));
	damage(true, 5);
}

static void test_node_damage(void **state)
{
	(void)state;
	static struct node n;
	some_node(&n);
	node_encode(&w, uuid_a, &n);
	ok(wbuf_check(&w));
	damage(false, 6);
}

static void test_node_round_trip(void **state)
{
	(void)state;
	static struct node n;
	static struct node back;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	for (unsigned round = 0; round < 300; round++) {
		rng_state = round;
		n = (struct node){ .id = rng() + 1,
				   .level = (uint8_t)(1 + round % NODE_LEVEL_MAX) };
		for (unsigned i = 0; i < NODE_FANOUT; i++) {
			if (rng() % 3 == 0 || i == 9) {
				n.child[i].id = UINT64_MAX - rng();
				memset(n.child[i].digest.b, (int)rng(), 32);
			}
		}
		n.digest = node_digest(c, &zero, &n);
		node_encode(&w, uuid_a, &n);
		ok(wbuf_check(&w));
		ok(node_decode(w.p, w.len, uuid_a, n.id, n.level, &zero, &back));
		assert_memory_equal(&back, &n, sizeof(n));
	}
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		n.child[i].id = 1;
	}
	n.digest = node_digest(c, &zero, &n);
	node_encode(&w, uuid_a, &n);
	ok(wbuf_check(&w));
	assert_true(w.len <= NODE_BYTES_MAX);
}

static void test_node_strict(void **state)
{
	(void)state;
	static struct node n;
	static struct node back;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	some_node(&n);

	node_encode(&w, uuid_a, &n);
	fails(node_decode(w.p, w.len, uuid_a, 6, 1, &zero, &back), ERR_CORRUPT);
	fails(node_decode(w.p, w.len, uuid_a, 6, 3, &zero, &back), ERR_CORRUPT);

	n.digest.b[0] ^= 1; /* written wrong, under a good checksum */
	node_encode(&w, uuid_a, &n);
	fails(node_decode(w.p, w.len, uuid_a, 6, 2, &zero, &back), ERR_CORRUPT);
	n.digest.b[0] ^= 1;
	n.child[13].digest.b[5] ^= 1;
	node_encode(&w, uuid_a, &n);
	fails(node_decode(w.p, w.len, uuid_a, 6, 2, &zero, &back), ERR_CORRUPT);

	/* No children; a child of id 0. */
	for (uint64_t present = 0; present < 2; present++) {
		n = (struct node){ .level = 2 };
		n.digest = node_digest(c, &zero, &n);
		wbuf_reset(&w);
		record_begin(&w, RECORD_NODE, 6);
		wbuf_u64(&w, 2);
		wbuf_put(&w, n.digest.b, 32);
		wbuf_u64(&w, present);
		for (unsigned i = 0; i < 5 * present; i++) {
			wbuf_u64(&w, 0);
		}
		seal(RECORD_NODE, 6);
		fails(node_decode(w.p, w.len, uuid_a, 6, 2, &zero, &back), ERR_CORRUPT);
	}
}

static void test_digests(void **state)
{
	(void)state;
	static struct hash128 page[LEAF_PAGES];
	static uint8_t message[13 + LEAF_PAGES * 16];
	static const uint8_t zeros[PAGE_BYTES];
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();

	struct hash128 h = hash_xxh3_128(zeros, PAGE_BYTES);
	assert_memory_equal(&h, &zero.page, sizeof(h));

	memcpy(message, "torpor leaf 1", 13);
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		page[i] = i == 3 ? page_value_digest(0x2020202020202020ull) : zero.page;
		memcpy(message + 13 + (size_t)i * 16, page[i].b, 16);
	}
	struct sha256 want = sha256_of(message, sizeof(message));
	struct sha256 have = leaf_digest(c, page);
	assert_true(sha256_equal(&want, &have));
	assert_false(sha256_equal(&have, &zero.subtree[0]));
	page[3] = zero.page;
	have = leaf_digest(c, page);
	assert_true(sha256_equal(&have, &zero.subtree[0]));

	/* A level-2 node with one child, by hand. */
	static struct node n = { .id = 1, .level = 2 };
	n.child[63].id = 9;
	memset(n.child[63].digest.b, 7, 32);
	memcpy(message, "torpor node 1\2", 14);
	for (unsigned i = 0; i < 64; i++) {
		memcpy(message + 14 + (size_t)i * 32,
		       i == 63 ? n.child[63].digest.b : zero.subtree[1].b, 32);
	}
	want = sha256_of(message, 14 + 64 * 32);
	have = node_digest(c, &zero, &n);
	assert_true(sha256_equal(&want, &have));
	assert_false(sha256_equal(&zero.subtree[1], &zero.subtree[2]));
}

/* Garbage under a good checksum is refused or has exactly one encoding. */
static void test_leaf_garbage(void **state)
{
	(void)state;
	static struct leaf l;
	unsigned good = 0;
	leaf_encode(&w, uuid_a, some_leaf());
	ok(wbuf_check(&w));
	uint8_t base[256];
	size_t body = w.len - 8;
	memcpy(base, w.p, body);
	for (unsigned round = 0; round < 20000; round++) {
		rng_state = round;
		wbuf_reset(&w);
		wbuf_put(&w, base, body);
		for (unsigned k = 0; k < 1 + round % 3; k++) {
			w.p[16 + rng() % (body - 16)] = (uint8_t)rng();
		}
		record_seal(&w, RECORD_LEAF, uuid_a, 5);
		struct err *e = leaf_decode(w.p, w.len, uuid_a, 5, &l);
		if (e == NULL) {
			uint8_t copy[512];
			size_t len = w.len;
			memcpy(copy, w.p, len);
			leaf_encode(&w, uuid_a, &l);
			assert_int_equal(w.len, len);
			assert_memory_equal(w.p, copy, len);
			good++;
		}
		err_free(e);
	}
	assert_true(good > 100 && good < 19900);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaf_round_trip), cmocka_unit_test(test_leaf_worst),
		cmocka_unit_test(test_leaf_bytes),      cmocka_unit_test(test_leaf_strict),
		cmocka_unit_test(test_leaf_damage),     cmocka_unit_test(test_leaf_garbage),
		cmocka_unit_test(test_node_round_trip), cmocka_unit_test(test_node_damage),
		cmocka_unit_test(test_node_strict),     cmocka_unit_test(test_digests),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
