/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a small record of a family as read from a store: snapshot, blob, pending session,
 * counter or hint, by the first byte. The checksum is set right first. Property: what decodes has
 * no other encoding.
 */
#include <string.h>

#include "store/snaprec.h"
#include "tests/fuzz/fuzz.h"

#define ID 7u
#define BLOB_KIND 2u
#define BLOB_INDEX 3u

static const uint8_t uuid[16];
static const uint8_t holder[16] = { 1, 2, 3, 4, 5, 6, 7, 8 };
static const struct bytes meta_key = { "next", 4 };

static void seal(uint8_t *p, size_t len, enum record_kind kind, uint64_t id)
{
	if (len >= RECORD_HEAD_BYTES + RECORD_TAIL_BYTES) {
		size_t at = len - RECORD_TAIL_BYTES;
		put_le64(p + at, hash_xxh3_64(p, at, record_seed(kind, uuid, id, 0)));
	}
}

/* True when decoded; an error is checked and dropped. */
static bool decoded(struct err *e)
{
	if (e == NULL) {
		return true;
	}
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
	return false;
}

static void same(const struct wbuf *w, const uint8_t *p, size_t len)
{
	BUG_ON(w->failed != 0 || w->len != len || memcmp(w->p, p, len) != 0);
}

static void run_snap(uint8_t *p, size_t len)
{
	seal(p, len, RECORD_SNAP, ID);
	struct snap_rec r = { 0 };
	if (!decoded(snaprec_decode(p, len, uuid, ID, &r))) {
		BUG_ON(r.blobs != NULL);
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
	snaprec_encode(&w, uuid, &r);
	same(&w, p, len);
	snaprec_done(&r);
}

static void run_blob(uint8_t *p, size_t len)
{
	seal(p, len, RECORD_BLOB, ID);
	struct bytes data;
	if (!decoded(blob_decode(p, len, uuid, ID, BLOB_KIND, BLOB_INDEX, &data))) {
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(BLOB_RECORD_BYTES_MAX);
	blob_encode(&w, uuid, ID, BLOB_KIND, BLOB_INDEX, data);
	same(&w, p, len);
}

static void run_pend(uint8_t *p, size_t len)
{
	seal(p, len, RECORD_PEND, get_be64(holder));
	struct pend_rec r;
	if (!decoded(pend_decode(p, len, uuid, holder, &r))) {
		return;
	}
	BUG_ON(r.first == 0 || r.first + r.count < r.first);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SMALL_BYTES_MAX);
	pend_encode(&w, uuid, &r);
	same(&w, p, len);
}

static void run_meta(uint8_t *p, size_t len)
{
	seal(p, len, RECORD_META, hash_xxh3_64(meta_key.p, meta_key.len, 0));
	uint64_t a;
	uint64_t b;
	if (!decoded(meta_decode(p, len, uuid, meta_key, &a, &b))) {
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SMALL_BYTES_MAX);
	meta_encode(&w, uuid, meta_key, a, b);
	same(&w, p, len);
}

static void run_hint(uint8_t *p, size_t len)
{
	seal(p, len, RECORD_HINT, ID);
	struct bytes data;
	if (!decoded(hint_decode(p, len, uuid, ID, &data))) {
		return;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(HINT_RECORD_BYTES_MAX);
	hint_encode(&w, uuid, ID, data);
	same(&w, p, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static void (*const runs[])(uint8_t * p, size_t len) = { run_snap, run_blob, run_pend,
								 run_meta, run_hint };
	if (len < 1) {
		return 0;
	}
	SCOPE(freep) uint8_t *p = malloc(len);
	BUG_ON(p == NULL);
	memcpy(p, data + 1, len - 1);
	runs[data[0] % ARRAY_LEN(runs)](p, len - 1);
	return 0;
}
