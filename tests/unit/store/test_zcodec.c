/* SPDX-License-Identifier: Apache-2.0 */
/* Compression: round trips, caps, damaged and hostile input. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "store/zcodec.h"
#include "tests/lib/expect.h"

static uint64_t rng_state;

static uint64_t rng(void)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return rng_state >> 33;
}

enum { LEN = 16384 };
static uint8_t src[LEN], packed[2 * LEN], out[LEN + 64];

static void make_text(void)
{
	rng_state = 1;
	for (size_t i = 0; i < LEN; i++) {
		src[i] = (uint8_t)("the sea "[rng() % 8]);
	}
}

static void test_round_trip(void **state)
{
	(void)state;
	static const int levels[] = { -3, 0, 1, 3, 19 };
	make_text();
	for (size_t k = 0; k < ARRAY_LEN(levels); k++) {
		SCOPE(zcodec_freep) struct zcodec *z = NULL;
		ok(zcodec_new(levels[k], &z));
		for (size_t len = 1; len <= LEN; len = len * 3 + 1) {
			size_t got = 0;
			ok(zcodec_compress(z, packed, sizeof(packed), src, len, &got));
			assert_true(got > 0);
			memset(out, 0xee, sizeof(out));
			ok(zcodec_decompress(z, out, len, packed, got));
			assert_memory_equal(out, src, len);
			assert_int_equal(out[len], 0xee);
		}
	}
}

static void test_cap(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	size_t full = 0;
	make_text();
	ok(zcodec_new(1, &z));
	ok(zcodec_compress(z, packed, sizeof(packed), src, LEN, &full));
	for (size_t cap = 0; cap < full; cap += 97) {
		size_t got = 1;
		packed[cap] = 0xee;
		ok(zcodec_compress(z, packed, cap, src, LEN, &got));
		assert_int_equal(got, 0);
		assert_int_equal(packed[cap], 0xee);
	}
	/* Random bytes gain nothing. */
	for (size_t i = 0; i < LEN; i++) {
		src[i] = (uint8_t)rng();
	}
	size_t got = 1;
	ok(zcodec_compress(z, packed, LEN, src, LEN, &got));
	assert_int_equal(got, 0);
}

static void test_wrong_length(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	size_t len = 0;
	make_text();
	ok(zcodec_new(0, &z));
	ok(zcodec_compress(z, packed, sizeof(packed), src, LEN, &len));
	memset(out, 0xee, sizeof(out));
	fails(zcodec_decompress(z, out, LEN - 1, packed, len), ERR_CORRUPT);
	assert_int_equal(out[LEN - 1], 0xee); /* never more than asked for */
	fails(zcodec_decompress(z, out, LEN + 1, packed, len), ERR_CORRUPT);
	for (size_t cut = 0; cut < len; cut++) {
		fails(zcodec_decompress(z, out, LEN, packed, cut), ERR_CORRUPT);
	}
	ok(zcodec_decompress(z, out, LEN, packed, len)); /* still usable */
}

/* Hostile bytes give an error or some bytes, and never write past the cap (ASan watches too). */
static void test_garbage(void **state)
{
	(void)state;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	size_t len = 0;
	make_text();
	ok(zcodec_new(0, &z));
	ok(zcodec_compress(z, packed, sizeof(packed), src, LEN, &len));
	static uint8_t bad[2 * LEN];
	for (unsigned round = 0; round < 3000; round++) {
		memcpy(bad, packed, len);
		for (unsigned k = 0; k < 1 + round % 5; k++) {
			bad[rng() % len] ^= (uint8_t)(1u << rng() % 8);
		}
		memset(out + LEN, 0xee, 64);
		struct err *e = zcodec_decompress(z, out, LEN, bad, len);
		assert_true(e == NULL || err_class(e) == ERR_CORRUPT);
		err_free(e);
		for (size_t i = 0; i < 64; i++) {
			assert_int_equal(out[LEN + i], 0xee);
		}
	}
	for (size_t i = 0; i < 256; i++) {
		bad[i] = (uint8_t)rng();
	}
	fails(zcodec_decompress(z, out, LEN, bad, 256), ERR_CORRUPT);
}

static void test_levels(void **state)
{
	(void)state;
	struct zcodec *z = NULL;
	fails(zcodec_new(23, &z), ERR_LIMIT);
	fails(zcodec_new(-1000000, &z), ERR_LIMIT);
	assert_null(z);
	zcodec_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_cap),
		cmocka_unit_test(test_wrong_length), cmocka_unit_test(test_garbage),
		cmocka_unit_test(test_levels),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
