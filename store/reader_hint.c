/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hints: opaque bytes beside a snapshot that make reading it faster. Implements the hint part of
 * store.h. Any thread.
 *
 * A hint is no part of the snapshot: its root does not cover it, an export leaves it out, a salvage
 * loses it, and one that is damaged is as none. It lies among the snapshot's blobs under a kind
 * that no blob has, so it goes with them when the snapshot does (gc.c).
 */
#include <string.h>

#include "store/family.h"
#include "store/reader_internal.h"

static struct key_blob key_of_hint(uint64_t snap_id)
{
	return key_of_blob(snap_id, HINT_KIND, 0);
}

struct err *family_hint_put(struct family *f, uint64_t snap_id, const void *p, size_t len)
{
	ENSURE(!f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	ENSURE(len <= STORE_HINT_BYTES_MAX, ERR_LIMIT, "a hint of %zu bytes, at most %u", len,
	       STORE_HINT_BYTES_MAX);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(HINT_RECORD_BYTES_MAX);
	hint_encode(&w, f->uuid, snap_id, (struct bytes){ p, len });
	TRY(wbuf_check(&w));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	bool found;
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(family_snap_get(f, t, snap_id, &found, &r));
	/* Else it would stay when the snapshot is gone. */
	ENSURE(found && !r.hidden, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)snap_id);
	struct key_blob key = key_of_hint(snap_id);
	TRY(ltxn_put(t, FAMILY_BLOB, KEY_BYTES(key), (struct bytes){ w.p, w.len }));
	return ltxn_commit(MOVE(t));
}

static struct err *read_hint(struct reader *r, uint8_t **ret_p, size_t *ret_len)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(r->f->env, false, &t));
	struct key_blob key = key_of_hint(r->rec.info.id);
	bool found;
	struct bytes data = { 0 };
	TRY(ltxn_get(t, FAMILY_BLOB, KEY_BYTES(key), HINT_RECORD_BYTES_MAX, &b, &found));
	if (!found) {
		return NULL;
	}
	TRY(hint_decode(b.p, b.len, r->f->uuid, r->rec.info.id, &data));
	uint8_t *p = malloc(data.len + 1);
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	memcpy(p, data.p, data.len);
	*ret_p = p;
	*ret_len = data.len;
	return NULL;
}

void reader_hint(struct reader *r, uint8_t **ret_p, size_t *ret_len)
{
	*ret_p = NULL;
	*ret_len = 0;
	err_drop(read_hint(r, ret_p, ret_len), "a hint that cannot be read is as none");
}
