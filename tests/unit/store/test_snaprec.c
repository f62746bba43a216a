/* SPDX-License-Identifier: Apache-2.0 */
/* Small records: round trip, every truncation, every flipped bit, limits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/snaprec.h"
#include "tests/unit/store/store_fix.h"

static const uint8_t uuid[16] = { 1, 2, 3 };

static struct snap_rec sample(struct snap_blob blobs[3])
{
	struct snap_rec r = {
		.info = { .id = 77,
			  .vm = { 4, 5 },
			  .number = 3,
			  .tag = "before-upgrade",
			  .created_ns = 10,
			  .frozen_at_ns = 11,
			  .parent = 76,
			  .pages_stored = 12,
			  .bytes_stored = 13,
			  .nblobs = 3,
			  .nmaps = 2 },
		.hidden = true,
		.blobs = blobs,
	};
	snprintf(r.info.maps[0].name, 16, "memory");
	r.info.maps[0].len_bytes = 1234567;
	r.info.maps[0].root_id = 9;
	r.info.maps[0].height = 1;
	r.info.maps[0].user[31] = 8;
	snprintf(r.info.maps[1].name, 16, "fifteen-chars-x");
	blobs[0] = (struct snap_blob){ .kind = 1, .index = 0, .len = 5 };
	blobs[1] = (struct snap_blob){ .kind = 1, .index = 2, .len = BLOB_BYTES_MAX };
	blobs[2] = (struct snap_blob){ .kind = 3, .index = 0, .len = 0 };
	r.info.root = snaprec_root(&r);
	return r;
}

static void snapshot_round_trip(void **state)
{
	(void)state;
	struct snap_blob blobs[3];
	struct snap_rec r = sample(blobs);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
	snaprec_encode(&w, uuid, &r);
	OK(wbuf_check(&w));
	struct snap_rec got;
	OK(snaprec_decode(w.p, w.len, uuid, 77, &got));
	assert_true(got.hidden);
	assert_memory_equal(&got.info, &r.info, sizeof(r.info));
	assert_memory_equal(got.blobs, blobs, sizeof(blobs));
	struct sha256 root = snaprec_root(&got);
	assert_true(sha256_equal(&root, &r.info.root));
	snaprec_done(&got);
	FAILS(ERR_CORRUPT, "", snaprec_decode(w.p, w.len, uuid, 78, &got));
	uint8_t other[16] = { 1, 2, 4 };
	FAILS(ERR_CORRUPT, "", snaprec_decode(w.p, w.len, other, 77, &got));
	/* Every truncation and every flipped bit. */
	for (size_t len = 0; len < w.len; len++) {
		FAILS(ERR_CORRUPT, "", snaprec_decode(w.p, len, uuid, 77, &got));
	}
	for (size_t bit = 0; bit < w.len * 8; bit++) {
		w.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		struct err *e = snaprec_decode(w.p, w.len, uuid, 77, &got);
		assert_non_null(e);
		assert_true(err_class(e) == ERR_CORRUPT || err_class(e) == ERR_INCOMPAT);
		err_free(e);
		w.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* Truncation behind a good checksum: the decoder itself must notice. */
static void snapshot_resealed_short(void **state)
{
	(void)state;
	struct snap_blob blobs[3];
	struct snap_rec r = sample(blobs);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
	snaprec_encode(&w, uuid, &r);
	for (size_t len = 0; len < w.len - RECORD_HEAD_BYTES - RECORD_TAIL_BYTES; len++) {
		SCOPE(wbuf_done) struct wbuf s = wbuf_make(SNAP_BYTES_MAX);
		record_begin(&s, RECORD_SNAP, 77);
		wbuf_put(&s, w.p + RECORD_HEAD_BYTES, len);
		record_seal(&s, RECORD_SNAP, uuid, 77);
		struct snap_rec got;
		FAILS(ERR_CORRUPT, "", snaprec_decode(s.p, s.len, uuid, 77, &got));
	}
}

static void root_covers_content_only(void **state)
{
	(void)state;
	struct snap_blob blobs[3];
	struct snap_rec r = sample(blobs);
	struct sha256 root = r.info.root;
	r.info.id = 1;
	r.info.number = 9;
	r.info.tag[0] = 'x';
	r.info.parent = 0;
	r.info.maps[0].root_id = 1000;
	r.hidden = false;
	struct sha256 same = snaprec_root(&r);
	assert_true(sha256_equal(&root, &same));
	r.info.maps[0].digest.b[0] ^= 1;
	struct sha256 differs = snaprec_root(&r);
	assert_false(sha256_equal(&root, &differs));
	r.info.maps[0].digest.b[0] ^= 1;
	blobs[1].digest.b[5] ^= 1;
	differs = snaprec_root(&r);
	assert_false(sha256_equal(&root, &differs));
	blobs[1].digest.b[5] ^= 1;
	r.info.frozen_at_ns++;
	differs = snaprec_root(&r);
	assert_false(sha256_equal(&root, &differs));
}

static void limits(void **state)
{
	(void)state;
	struct snap_blob blobs[3];
	struct snap_rec r = sample(blobs);
	struct snap_rec got;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
	blobs[1].len = BLOB_BYTES_MAX + 1;
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "blob 1.2", snaprec_decode(w.p, w.len, uuid, 77, &got));
	r = sample(blobs);
	blobs[2] = blobs[0];
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "order", snaprec_decode(w.p, w.len, uuid, 77, &got));
	r = sample(blobs);
	r.info.maps[1].name[0] = 0;
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "name", snaprec_decode(w.p, w.len, uuid, 77, &got));
	/* Names go to terminals, and a walk over 2^43 leaves would never end. */
	r = sample(blobs);
	r.info.maps[1].name[3] = '\033';
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "0x1b", snaprec_decode(w.p, w.len, uuid, 77, &got));
	r = sample(blobs);
	snprintf(r.info.tag, sizeof(r.info.tag), "a\nb");
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "0x0a", snaprec_decode(w.p, w.len, uuid, 77, &got));
	r = sample(blobs);
	r.info.maps[0].len_bytes = SNAP_MAP_BYTES_MAX + 1;
	snaprec_encode(&w, uuid, &r);
	FAILS(ERR_CORRUPT, "memory", snaprec_decode(w.p, w.len, uuid, 77, &got));
}

static void blobs_pends_counters(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(4096);
	struct bytes data;
	blob_encode(&w, uuid, 5, 2, 300, (struct bytes){ "hello", 5 });
	OK(blob_decode(w.p, w.len, uuid, 5, 2, 300, &data));
	assert_int_equal(data.len, 5);
	assert_memory_equal(data.p, "hello", 5);
	FAILS(ERR_CORRUPT, "2.301", blob_decode(w.p, w.len, uuid, 5, 2, 301, &data));
	FAILS(ERR_CORRUPT, "", blob_decode(w.p, w.len, uuid, 6, 2, 300, &data));
	for (size_t len = 0; len < w.len; len++) {
		FAILS(ERR_CORRUPT, "", blob_decode(w.p, len, uuid, 5, 2, 300, &data));
	}
	struct pend_rec p = { .holder = { 1, 9 }, .first = 5, .count = 6, .started_ns = 7 };
	struct pend_rec q;
	pend_encode(&w, uuid, &p);
	OK(pend_decode(w.p, w.len, uuid, p.holder, &q));
	assert_memory_equal(&p, &q, sizeof(p));
	uint8_t holder[16] = { 1, 9, 0, 0, 0, 0, 0, 0, 1 };
	FAILS(ERR_CORRUPT, "another", pend_decode(w.p, w.len, uuid, holder, &q));
	p.first = UINT64_MAX;
	pend_encode(&w, uuid, &p);
	FAILS(ERR_CORRUPT, "impossible", pend_decode(w.p, w.len, uuid, p.holder, &q));
	uint64_t a;
	uint64_t b;
	struct bytes key = { "next", 4 };
	meta_encode(&w, uuid, key, 1, UINT64_MAX);
	OK(meta_decode(w.p, w.len, uuid, key, &a, &b));
	assert_true(a == 1 && b == UINT64_MAX);
	FAILS(ERR_CORRUPT, "", meta_decode(w.p, w.len, uuid, (struct bytes){ "nexu", 4 }, &a, &b));
	for (size_t len = 0; len < w.len; len++) {
		FAILS(ERR_CORRUPT, "", meta_decode(w.p, len, uuid, key, &a, &b));
	}
}

static void keys(void **state)
{
	(void)state;
	struct key_blob k = key_of_blob(0x0102030405060708, 0x090a, 0x0b0c);
	for (uint8_t i = 0; i < 12; i++) {
		assert_int_equal(k.b[i], i + 1);
	}
	struct key8 id = key_of_id(0xff00);
	uint64_t back;
	OK(id_of_key(KEY_BYTES(id), "frame", &back));
	assert_int_equal(back, 0xff00);
	FAILS(ERR_CORRUPT, "frame", id_of_key((struct bytes){ id.b, 7 }, "frame", &back));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_round_trip),
		cmocka_unit_test(snapshot_resealed_short),
		cmocka_unit_test(root_covers_content_only),
		cmocka_unit_test(limits),
		cmocka_unit_test(blobs_pends_counters),
		cmocka_unit_test(keys),
	};
	return cmocka_run_group_tests_name("snaprec", tests, NULL, NULL);
}
