/* SPDX-License-Identifier: Apache-2.0 */
/* Cursors: round trips, every bound, over-long and truncated numbers, sticky write failure. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/base/bytes.h"
#include "tests/lib/expect.h"

static void test_scalars_are_little_endian(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(64);
	wbuf_u8(&w, 0x01);
	wbuf_u16(&w, 0x0302);
	wbuf_u32(&w, 0x07060504);
	wbuf_u64(&w, 0x0f0e0d0c0b0a0908ull);
	ok(wbuf_check(&w));
	assert_int_equal(w.len, 15);
	for (size_t i = 0; i < w.len; i++) {
		assert_int_equal(w.p[i], i + 1);
	}
	struct rcur c = rcur_of(w.p, w.len);
	uint8_t a;
	uint16_t b;
	uint32_t d;
	uint64_t e;
	ok(rcur_u8(&c, &a));
	ok(rcur_u16(&c, &b));
	ok(rcur_u32(&c, &d));
	ok(rcur_u64(&c, &e));
	ok(rcur_end(&c));
	assert_int_equal(a, 0x01);
	assert_int_equal(b, 0x0302);
	assert_int_equal(d, 0x07060504);
	assert_true(e == 0x0f0e0d0c0b0a0908ull);
	wbuf_done(&w);
}

static void test_every_read_checks_its_bound(void **state)
{
	(void)state;
	uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	for (size_t len = 0; len < 8; len++) {
		struct rcur c = rcur_of(bytes, len);
		uint64_t v = 77;
		fails(rcur_u64(&c, &v), ERR_CORRUPT);
		assert_true(v == 77); /* untouched on failure */
		assert_int_equal(c.pos, 0);
	}
	struct rcur c = rcur_of(bytes, 8);
	const uint8_t *p;
	fails(rcur_take(&c, 9, &p), ERR_CORRUPT);
	fails(rcur_skip(&c, SIZE_MAX), ERR_CORRUPT);
	ok(rcur_skip(&c, 8));
	ok(rcur_end(&c));
	uint8_t b;
	fails(rcur_u8(&c, &b), ERR_CORRUPT);
}

static void test_left_over_bytes_are_refused(void **state)
{
	(void)state;
	struct rcur c = rcur_of("ab", 2);
	fails(rcur_end(&c), ERR_CORRUPT);
}

static void test_varint_round_trip(void **state)
{
	(void)state;
	uint64_t seed = 88172645463325252ull;
	for (int i = 0; i < 20000; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		uint64_t v = seed >> (i % 64);
		struct wbuf w = wbuf_make(16);
		wbuf_varint(&w, v);
		ok(wbuf_check(&w));
		struct rcur c = rcur_of(w.p, w.len);
		uint64_t back;
		ok(rcur_varint(&c, &back));
		ok(rcur_end(&c));
		assert_true(back == v);
		for (size_t len = 0; len < w.len; len++) {
			struct rcur cut = rcur_of(w.p, len);
			fails(rcur_varint(&cut, &back), ERR_CORRUPT);
		}
		wbuf_done(&w);
	}
}

static void test_varint_has_one_form_only(void **state)
{
	(void)state;
	uint64_t v;
	struct rcur c = rcur_of("\x80\x00", 2); /* zero in two bytes */
	fails(rcur_varint(&c, &v), ERR_CORRUPT);
	c = rcur_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10); /* 65 bits */
	fails(rcur_varint(&c, &v), ERR_CORRUPT);
	c = rcur_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11); /* 11 bytes */
	fails(rcur_varint(&c, &v), ERR_CORRUPT);
	c = rcur_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
	ok(rcur_varint(&c, &v));
	assert_true(v == UINT64_MAX);
}

static void test_write_limit_is_sticky(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(10);
	wbuf_u64(&w, 1);
	wbuf_u32(&w, 2); /* 12 bytes: too many */
	wbuf_u8(&w, 3);  /* would fit, but nothing is taken any more */
	assert_int_equal(w.len, 8);
	fails(wbuf_check(&w), ERR_LIMIT);
	wbuf_reset(&w);
	wbuf_u8(&w, 3);
	ok(wbuf_check(&w));
	wbuf_done(&w);
}

static void test_write_grows_and_patches(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(100000);
	wbuf_u32(&w, 0);
	for (int i = 0; i < 20000; i++) {
		wbuf_u32(&w, (uint32_t)i);
	}
	wbuf_patch_u32(&w, 0, (uint32_t)w.len);
	ok(wbuf_check(&w));
	assert_int_equal(get_le32(w.p), 80004);
	assert_int_equal(get_le32(w.p + 4 + 4 * 12345), 12345);
	wbuf_done(&w);
}

static void test_big_endian_keys_sort(void **state)
{
	(void)state;
	uint8_t a[8];
	uint8_t b[8];
	put_be64(a, 255);
	put_be64(b, 256);
	assert_true(memcmp(a, b, 8) < 0);
	assert_true(get_be64(b) == 256);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scalars_are_little_endian),
		cmocka_unit_test(test_every_read_checks_its_bound),
		cmocka_unit_test(test_left_over_bytes_are_refused),
		cmocka_unit_test(test_varint_round_trip),
		cmocka_unit_test(test_varint_has_one_form_only),
		cmocka_unit_test(test_write_limit_is_sticky),
		cmocka_unit_test(test_write_grows_and_patches),
		cmocka_unit_test(test_big_endian_keys_sort),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
