/* SPDX-License-Identifier: Apache-2.0 */
/* Record heads: bytes by hand, wrong kind, version, place; every length. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/hash.h"
#include "store/record.h"
#include "tests/lib/expect.h"

static const uint8_t uuid[16] = { 1, 2, 3 };

static void make(struct wbuf *w)
{
	wbuf_reset(w);
	record_begin(w, RECORD_PEND, 0x1122334455667788ull);
	wbuf_u32(w, 0xcafe);
	record_seal(w, RECORD_PEND, uuid, 0x1122334455667788ull);
	assert_null(wbuf_check(w));
}

static void test_bytes(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(100);
	struct rcur c;
	uint32_t v = 0;
	make(&w);
	static const uint8_t want[] = { 'T',  'P',  'P',  'E',  1,    0,    0,    0,    0x88, 0x77,
					0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xfe, 0xca, 0,    0 };
	assert_int_equal(w.len, sizeof(want) + 8);
	assert_memory_equal(w.p, want, sizeof(want));
	uint8_t place[32] = { 'T',  'P',  'P',  'E',  0,    0,    0, 0, 0x88, 0x77,
			      0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 2, 3 };
	assert_int_equal(get_le64(w.p + 20),
			 hash_xxh3_64(want, sizeof(want), hash_xxh3_64(place, sizeof(place), 0)));
	assert_null(record_open(w.p, w.len, RECORD_PEND, uuid, 0x1122334455667788ull, &c));
	assert_null(rcur_u32(&c, &v));
	assert_int_equal(v, 0xcafe);
	assert_null(rcur_end(&c));
	wbuf_done(&w);
}

static void test_refused(void **state)
{
	(void)state;
	const uint64_t id = 0x1122334455667788ull;
	const uint8_t other[16] = { 1, 2, 4 };
	struct wbuf w = wbuf_make(100);
	struct rcur c;
	make(&w);
	fails(record_open(w.p, w.len, RECORD_BLOB, uuid, id, &c), ERR_CORRUPT);
	fails(record_open(w.p, w.len, RECORD_PEND, other, id, &c), ERR_CORRUPT);
	fails(record_open(w.p, w.len, RECORD_PEND, uuid, id + 1, &c), ERR_CORRUPT);
	for (size_t cut = 0; cut < w.len; cut++) {
		fails(record_open(w.p, cut, RECORD_PEND, uuid, id, &c), ERR_CORRUPT);
	}
	w.p[4] = 2;
	fails(record_open(w.p, w.len, RECORD_PEND, uuid, id, &c), ERR_INCOMPAT);
	/* Reserved bytes and id that are wrong under a good checksum. */
	for (size_t at = 5; at < 16; at++) {
		make(&w);
		w.p[at] ^= 1;
		w.len -= 8;
		record_seal(&w, RECORD_PEND, uuid, id);
		fails(record_open(w.p, w.len, RECORD_PEND, uuid, id, &c), ERR_CORRUPT);
	}
	wbuf_done(&w);
}

static void test_full(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(20);
	record_begin(&w, RECORD_PEND, 1);
	wbuf_u32(&w, 1);
	record_seal(&w, RECORD_PEND, uuid, 1);
	struct err *e = wbuf_check(&w);
	assert_non_null(e);
	err_free(e);
	wbuf_done(&w);
}

static void test_seeds_differ(void **state)
{
	(void)state;
	const uint8_t other[16] = { 1, 2, 4 };
	uint64_t s = record_seed(RECORD_FRAME, uuid, 1, 0);
	assert_true(s != record_seed(RECORD_LEAF, uuid, 1, 0));
	assert_true(s != record_seed(RECORD_FRAME, other, 1, 0));
	assert_true(s != record_seed(RECORD_FRAME, uuid, 2, 0));
	assert_true(s != record_seed(RECORD_FRAME, uuid, 1, 1));
	assert_string_equal(record_kind_name(RECORD_FRAME), "frame");
	assert_string_equal(record_kind_name(RECORD_NAME), "name record");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_seeds_differ),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
