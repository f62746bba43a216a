/* SPDX-License-Identifier: Apache-2.0 */
/* Frames: round trips, fill, every flipped bit, every length, wrong place, hostile heads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/bytes.h"
#include "store/frame.h"
#include "store/record.h"
#include "tests/lib/expect.h"

static const uint8_t uuid_a[16] = { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
static const uint8_t uuid_b[16] = { 0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16 };

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return rng_state >> 33;
}

/* Some pages compress well, some hardly, some not at all. */
static void make_page(uint8_t *page, uint64_t seed)
{
	rng_state = seed * 7919 + 1;
	unsigned bits = (unsigned)(rng() % 9);
	for (size_t i = 0; i < PAGE_BYTES; i++) {
		page[i] = (uint8_t)(rng() & ((1u << bits) - 1));
	}
	put_le64(page, seed);
}

static struct frame_builder builder;
static uint8_t record[FRAME_BYTES_MAX + 64];
static uint8_t scratch[FRAME_SUB_BYTES];
static uint8_t pages[FRAME_SUB_BYTES];

/* Adds sub-frames of page seeds [*seed, ...) until one does not fit or max_subs are in. */
static void fill(struct zcodec *z, uint64_t id, uint64_t *seed, unsigned max_subs)
{
	frame_builder_begin(&builder, uuid_a, id);
	while (builder.nsub < max_subs) {
		unsigned n = 1 + (unsigned)(*seed * 2654435761u >> 7) % FRAME_SUB_PAGES;
		struct hash128 digest[FRAME_SUB_PAGES];
		struct frame_sub_in in;
		unsigned slot = 0;
		unsigned before = builder.nslots;
		for (unsigned i = 0; i < n; i++) {
			make_page(pages + (size_t)i * PAGE_BYTES, *seed + i);
			digest[i] = hash_xxh3_128(pages + (size_t)i * PAGE_BYTES, PAGE_BYTES);
		}
		ok(frame_sub_pack(z, pages, n, digest, scratch, &in));
		if (!frame_builder_add(&builder, &in, &slot)) {
			assert_int_equal(builder.nslots, before);
			return;
		}
		assert_int_equal(slot, before);
		*seed += n;
	}
}

static void test_round_trip(void **state)
{
	(void)state;
	static struct frame f;
	uint64_t seed = 0;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	for (uint64_t id = 1; id < 40; id++) {
		uint64_t first = seed;
		fill(z, id, &seed, id % 3 == 0 ? (unsigned)id : FRAME_SUBS_MAX);
		memset(record, 0xee, sizeof(record));
		size_t len = frame_builder_finish(&builder, record);
		assert_int_equal(len, frame_builder_bytes(&builder));
		assert_true(len <= FRAME_BYTES_MAX);
		assert_int_equal(record[len], 0xee);

		ok(frame_parse(record, len, uuid_a, id, &f));
		assert_int_equal(f.nslots, seed - first);
		for (unsigned slot = 0; slot < f.nslots; slot++) {
			unsigned sub = 99;
			unsigned page = 99;
			uint8_t want[PAGE_BYTES];
			ok(frame_slot(&f, slot, &sub, &page));
			assert_int_equal(f.sub[sub].first_slot + page, slot);
			ok(frame_sub(&f, sub, z, pages));
			ok(frame_sub_digests(&f, sub, pages));
			make_page(want, first + slot);
			assert_memory_equal(pages + (size_t)page * PAGE_BYTES, want, PAGE_BYTES);
			struct hash128 d = hash_xxh3_128(want, PAGE_BYTES);
			struct hash128 have = frame_digest(&f, slot);
			assert_memory_equal(&d, &have, sizeof(d));
		}
		unsigned sub;
		unsigned page;
		fails(frame_slot(&f, f.nslots, &sub, &page), ERR_CORRUPT);
		fails(frame_slot(&f, UINT32_MAX, &sub, &page), ERR_CORRUPT);
	}
}

/* Two small sub-frames, one compressed and one raw. */
static size_t small_frame(struct zcodec *z, uint64_t id)
{
	struct hash128 digest;
	struct frame_sub_in in;
	unsigned slot;
	frame_builder_begin(&builder, uuid_a, id);
	for (uint64_t k = 0; k < 2; k++) {
		rng_state = k;
		for (size_t i = 0; i < PAGE_BYTES; i++) {
			pages[i] = k == 0 ? (uint8_t)(i / 512) : (uint8_t)rng();
		}
		digest = hash_xxh3_128(pages, PAGE_BYTES);
		ok(frame_sub_pack(z, pages, 1, &digest, scratch, &in));
		assert_int_equal(in.raw, k == 1);
		assert_true(frame_builder_add(&builder, &in, &slot));
	}
	return frame_builder_finish(&builder, record);
}

/* Parses and decodes everything; the first error. */
static struct err *read_all(struct zcodec *z, const void *p, size_t len, const uint8_t uuid[16],
			    uint64_t id)
{
	static struct frame f;
	TRY(frame_parse(p, len, uuid, id, &f));
	for (unsigned i = 0; i < f.nsub; i++) {
		TRY(frame_sub(&f, i, z, pages));
	}
	return NULL;
}

static void test_every_bit(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	size_t len = small_frame(z, 7);
	ok(read_all(z, record, len, uuid_a, 7));
	for (size_t bit = 0; bit < len * 8; bit++) {
		record[bit / 8] ^= (uint8_t)(1u << bit % 8);
		struct err *e = read_all(z, record, len, uuid_a, 7);
		if (e == NULL) {
			fail_msg("bit %zu flipped and not noticed", bit);
		}
		assert_true(err_class(e) == ERR_CORRUPT || err_class(e) == ERR_INCOMPAT);
		assert_non_null(strstr(err_msg(e), "frame 7"));
		err_free(e);
		record[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	ok(read_all(z, record, len, uuid_a, 7));
}

/* Damage in one sub-frame leaves the others readable. */
static void test_damage_is_local(void **state)
{
	(void)state;
	static struct frame f;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	size_t len = small_frame(z, 7);
	record[len - 1] ^= 1;
	ok(frame_parse(record, len, uuid_a, 7, &f));
	ok(frame_sub(&f, 0, z, pages));
	struct err *e = frame_sub(&f, 1, z, pages);
	assert_non_null(e);
	assert_string_equal(err_msg(e), "frame 7 sub-frame 1: checksum differs");
	err_free(e);
}

static void test_every_length(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	size_t len = small_frame(z, 7);
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *p = malloc(cut + 1); /* of its own, so that ASan sees the end */
		assert_non_null(p);
		memcpy(p, record, cut);
		fails(read_all(z, p, cut, uuid_a, 7), ERR_CORRUPT);
		free(p);
	}
	memset(record + len, 0, 64);
	for (size_t more = 1; more < 64; more++) {
		fails(read_all(z, record, len + more, uuid_a, 7), ERR_CORRUPT);
	}
}

static void test_wrong_place(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	size_t len = small_frame(z, 7);
	fails(read_all(z, record, len, uuid_a, 8), ERR_CORRUPT);
	fails(read_all(z, record, len, uuid_b, 7), ERR_CORRUPT);
	put_le64(record + 8, 8); /* relabelled */
	fails(read_all(z, record, len, uuid_a, 8), ERR_CORRUPT);
}

/* Sub-frames with the same bytes have different sums: one is no replacement for another. */
static void test_swapped_subs(void **state)
{
	(void)state;
	static struct frame f;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	struct hash128 digest;
	struct frame_sub_in in;
	unsigned slot;
	ok(zcodec_new(1, &z));
	make_page(pages, 5);
	digest = hash_xxh3_128(pages, PAGE_BYTES);
	ok(frame_sub_pack(z, pages, 1, &digest, scratch, &in));
	frame_builder_begin(&builder, uuid_a, 3);
	assert_true(frame_builder_add(&builder, &in, &slot));
	assert_true(frame_builder_add(&builder, &in, &slot));
	size_t len = frame_builder_finish(&builder, record);
	ok(frame_parse(record, len, uuid_a, 3, &f));
	assert_true(f.sub[0].sum != f.sub[1].sum);
	f.sub[0].off = f.sub[1].off;
	f.sub[0].sum = f.sub[1].sum;
	fails(frame_sub(&f, 0, z, pages), ERR_CORRUPT);
}

/* Makes the head's checksum right again, as one who writes bad frames on purpose would. */
static void reseal(size_t front)
{
	put_le64(record + front - 8,
		 hash_xxh3_64(record, front - 8, record_seed(RECORD_FRAME, uuid_a, 7, 0)));
}

static void test_hostile_head(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		uint8_t value;
		enum err_class class;
	} bad[] = {
		{ 0, 'x', ERR_CORRUPT },    /* magic */
		{ 4, 2, ERR_INCOMPAT },     /* version */
		{ 5, 2, ERR_INCOMPAT },     /* codec */
		{ 6, 0, ERR_INCOMPAT },     /* digest kind */
		{ 7, 1, ERR_CORRUPT },      /* reserved */
		{ 16, 1, ERR_INCOMPAT },    /* dictionary */
		{ 20, 1, ERR_INCOMPAT },    /* key */
		{ 28, 1, ERR_CORRUPT },     /* length */
		{ 32 + 2, 0, ERR_CORRUPT }, /* no pages */
		{ 32 + 2, 5, ERR_CORRUPT }, /* too many pages */
		{ 32 + 2, 2, ERR_CORRUPT }, /* more slots than the frame has */
		{ 32 + 3, 2, ERR_CORRUPT }, /* unknown flag */
		{ 32 + 3, 1, ERR_CORRUPT }, /* raw, but short */
		{ 32, 0, ERR_CORRUPT },     /* stored length: too few bytes in all */
		{ 33, 0xff, ERR_CORRUPT },  /* stored length: past the end */
		{ 44 + 3, 0, ERR_CORRUPT }, /* not raw, but as long */
	};
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	ok(zcodec_new(1, &z));
	size_t front = FRAME_HEAD_BYTES + 2 * (FRAME_SUB_ENTRY_BYTES + FRAME_DIGEST_BYTES) + 8;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		size_t len = small_frame(z, 7);
		record[bad[i].at] = bad[i].value;
		reseal(front);
		fails(read_all(z, record, len, uuid_a, 7), bad[i].class);
	}
	/* Counts that lead past the end are seen before anything there is read. */
	size_t len = small_frame(z, 7);
	uint8_t *p = malloc(len);
	assert_non_null(p);
	for (uint32_t counts = 0; counts < 64; counts++) {
		memcpy(p, record, len);
		put_le16(p + 24, (uint16_t)(1u << counts % 16));
		put_le16(p + 26, (uint16_t)(counts < 32 ? 1u << counts % 11 : 0xffff));
		struct err *e = read_all(z, p, len, uuid_a, 7);
		assert_true(e != NULL || memcmp(p, record, len) == 0);
		err_free(e);
	}
	free(p);
}

static void test_limits(void **state)
{
	(void)state;
	static struct frame f;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	struct hash128 digest[FRAME_SUB_PAGES];
	struct frame_sub_in in;
	unsigned slot;
	ok(zcodec_new(1, &z));

	/* As many sub-frames as there may be. */
	memset(pages, 1, sizeof(pages));
	memset(digest, 0, sizeof(digest));
	ok(frame_sub_pack(z, pages, FRAME_SUB_PAGES, digest, scratch, &in));
	frame_builder_begin(&builder, uuid_a, UINT64_MAX);
	for (unsigned i = 0; i < FRAME_SUBS_MAX; i++) {
		assert_true(frame_builder_fits(&builder, &in));
		assert_true(frame_builder_add(&builder, &in, &slot));
		assert_int_equal(slot, i * FRAME_SUB_PAGES);
	}
	assert_false(frame_builder_fits(&builder, &in));
	assert_false(frame_builder_add(&builder, &in, &slot));
	size_t len = frame_builder_finish(&builder, record);
	ok(frame_parse(record, len, uuid_a, UINT64_MAX, &f));
	assert_int_equal(f.nslots, FRAME_SLOTS_MAX);
	unsigned sub;
	unsigned page;
	ok(frame_slot(&f, FRAME_SLOTS_MAX - 1, &sub, &page));
	assert_int_equal(sub, FRAME_SUBS_MAX - 1);
	assert_int_equal(page, FRAME_SUB_PAGES - 1);
	fails(frame_sub_digests(&f, 0, pages), ERR_CORRUPT); /* made up above */

	/* Fifteen raw pages and not one more. */
	in = (struct frame_sub_in){
		.stored = pages,
		.stored_len = PAGE_BYTES,
		.npages = 1,
		.raw = true,
		.digest = digest,
	};
	frame_builder_begin(&builder, uuid_a, 1);
	unsigned n = 0;
	while (frame_builder_add(&builder, &in, &slot)) {
		n++;
	}
	assert_int_equal(n, 15);
	ok(read_all(z, record, frame_builder_finish(&builder, record), uuid_a, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_every_bit),
		cmocka_unit_test(test_damage_is_local), cmocka_unit_test(test_every_length),
		cmocka_unit_test(test_wrong_place),     cmocka_unit_test(test_swapped_subs),
		cmocka_unit_test(test_hostile_head),    cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
