/* SPDX-License-Identifier: Apache-2.0 */
/* Small records of a family. See snaprec.h; called by store/ on any thread. */
#include "store/snaprec.h"

#include <string.h>

#define ROOT_LABEL "torpor snap 1"

enum {
	SNAP_FLAG_HIDDEN = 1,
	SNAP_FLAG_PINNED = 2,
	SNAP_FLAG_MOVED = 4,
	SNAP_FLAGS = 7,
};

void snaprec_done(struct snap_rec *r)
{
	free(r->blobs);
	r->blobs = NULL;
}

struct sha256 snaprec_root(const struct snap_rec *r)
{
	const struct snap_info *in = &r->info;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	uint8_t num[16];
	sha256_update(c, ROOT_LABEL, sizeof(ROOT_LABEL) - 1);
	sha256_update(c, in->vm, sizeof(in->vm));
	put_le64(num, in->frozen_at_ns);
	put_le32(num + 8, in->nmaps);
	put_le32(num + 12, in->nblobs);
	sha256_update(c, num, 16);
	for (uint32_t i = 0; i < in->nmaps; i++) {
		const struct snap_map *m = &in->maps[i];
		sha256_update(c, m->name, sizeof(m->name));
		put_le64(num, m->len_bytes);
		num[8] = m->height;
		sha256_update(c, num, 9);
		sha256_update(c, m->digest.b, sizeof(m->digest.b));
		sha256_update(c, m->user, sizeof(m->user));
	}
	for (uint32_t i = 0; i < in->nblobs; i++) {
		const struct snap_blob *b = &r->blobs[i];
		put_le16(num, b->kind);
		put_le16(num + 2, b->index);
		put_le32(num + 4, b->len);
		sha256_update(c, num, 8);
		sha256_update(c, b->digest.b, sizeof(b->digest.b));
	}
	return sha256_final(c);
}

static void put_text(struct wbuf *w, const char *s, size_t max)
{
	size_t n = strnlen(s, max);
	wbuf_u8(w, (uint8_t)n);
	wbuf_put(w, s, n);
}

/* ret_text has room for max + 1 bytes. */
static struct err *get_text(struct rcur *c, size_t max, char *ret_text)
{
	uint8_t n;
	TRY(rcur_u8(c, &n));
	ENSURE(n <= max, ERR_CORRUPT, "a text of %u bytes, at most %zu are allowed", n, max);
	const uint8_t *p;
	TRY(rcur_take(c, n, &p));
	for (size_t i = 0; i < n; i++) { /* as written; names go into lists and messages */
		ENSURE(p[i] > 0x20 && p[i] < 0x7f, ERR_CORRUPT, "a text with byte 0x%02x in it",
		       p[i]);
	}
	memset(ret_text, 0, max + 1);
	memcpy(ret_text, p, n);
	return NULL;
}

void snaprec_encode(struct wbuf *w, const uint8_t uuid[16], const struct snap_rec *r)
{
	const struct snap_info *in = &r->info;
	wbuf_reset(w);
	record_begin(w, RECORD_SNAP, in->id);
	wbuf_u32(w, (r->hidden ? SNAP_FLAG_HIDDEN : 0u) | (in->pinned ? SNAP_FLAG_PINNED : 0u) |
			    (r->moved ? SNAP_FLAG_MOVED : 0u));
	wbuf_put(w, in->vm, sizeof(in->vm));
	wbuf_u64(w, in->number);
	put_text(w, in->tag, NAME_BYTES_MAX);
	wbuf_u64(w, in->created_ns);
	wbuf_u64(w, in->frozen_at_ns);
	wbuf_u64(w, in->parent);
	wbuf_u64(w, in->pages_stored);
	wbuf_u64(w, in->bytes_stored);
	wbuf_put(w, in->root.b, sizeof(in->root.b));
	wbuf_u32(w, in->nmaps);
	for (uint32_t i = 0; i < in->nmaps; i++) {
		const struct snap_map *m = &in->maps[i];
		put_text(w, m->name, STORE_MAP_NAME_MAX);
		wbuf_u64(w, m->len_bytes);
		wbuf_put(w, m->digest.b, sizeof(m->digest.b));
		wbuf_put(w, m->user, sizeof(m->user));
		wbuf_u64(w, m->root_id);
		wbuf_u8(w, m->height);
	}
	wbuf_u32(w, in->nblobs);
	for (uint32_t i = 0; i < in->nblobs; i++) {
		const struct snap_blob *b = &r->blobs[i];
		wbuf_u16(w, b->kind);
		wbuf_u16(w, b->index);
		wbuf_u32(w, b->len);
		wbuf_put(w, b->digest.b, sizeof(b->digest.b));
	}
	record_seal(w, RECORD_SNAP, uuid, in->id);
}

static struct err *decode_map(struct rcur *c, struct snap_map *m)
{
	TRY(get_text(c, STORE_MAP_NAME_MAX, m->name));
	ENSURE(m->name[0] != 0, ERR_CORRUPT, "a map without a name");
	TRY(rcur_u64(c, &m->len_bytes));
	ENSURE(m->len_bytes <= SNAP_MAP_BYTES_MAX, ERR_CORRUPT,
	       "map %s: %llu bytes, at most %llu are allowed", m->name,
	       (unsigned long long)m->len_bytes, SNAP_MAP_BYTES_MAX);
	TRY(rcur_copy(c, m->digest.b, sizeof(m->digest.b)));
	TRY(rcur_copy(c, m->user, sizeof(m->user)));
	TRY(rcur_u64(c, &m->root_id));
	TRY(rcur_u8(c, &m->height));
	return NULL;
}

static struct err *decode_blobs(struct rcur *c, struct snap_rec *r)
{
	uint32_t n;
	TRY(rcur_u32(c, &n));
	ENSURE(n <= SNAP_BLOBS_MAX, ERR_CORRUPT, "%u blobs, at most %u are allowed", n,
	       SNAP_BLOBS_MAX);
	r->info.nblobs = n;
	r->blobs = calloc(MAX(n, 1u), sizeof(*r->blobs));
	ENSURE(r->blobs != NULL, ERR_SYS, "out of memory");
	for (uint32_t i = 0; i < n; i++) {
		struct snap_blob *b = &r->blobs[i];
		TRY(rcur_u16(c, &b->kind));
		TRY(rcur_u16(c, &b->index));
		TRY(rcur_u32(c, &b->len));
		TRY(rcur_copy(c, b->digest.b, sizeof(b->digest.b)));
		ENSURE(b->len <= BLOB_BYTES_MAX, ERR_CORRUPT, "blob %u.%u has %u bytes", b->kind,
		       b->index, b->len);
		ENSURE(i == 0 || b[-1].kind < b->kind ||
			       (b[-1].kind == b->kind && b[-1].index < b->index),
		       ERR_CORRUPT, "blobs out of order");
	}
	return NULL;
}

static struct err *decode_body(struct rcur *c, struct snap_rec *r)
{
	struct snap_info *in = &r->info;
	uint32_t flags;
	TRY(rcur_u32(c, &flags));
	ENSURE((flags & ~(uint32_t)SNAP_FLAGS) == 0, ERR_INCOMPAT, "unknown flags 0x%x", flags);
	r->hidden = (flags & SNAP_FLAG_HIDDEN) != 0;
	r->moved = (flags & SNAP_FLAG_MOVED) != 0;
	in->pinned = (flags & SNAP_FLAG_PINNED) != 0;
	ENSURE(!r->moved || r->hidden, ERR_CORRUPT, "flags 0x%x are impossible", flags);
	TRY(rcur_copy(c, in->vm, sizeof(in->vm)));
	TRY(rcur_u64(c, &in->number));
	TRY(get_text(c, NAME_BYTES_MAX, in->tag));
	TRY(rcur_u64(c, &in->created_ns));
	TRY(rcur_u64(c, &in->frozen_at_ns));
	TRY(rcur_u64(c, &in->parent));
	TRY(rcur_u64(c, &in->pages_stored));
	TRY(rcur_u64(c, &in->bytes_stored));
	TRY(rcur_copy(c, in->root.b, sizeof(in->root.b)));
	TRY(rcur_u32(c, &in->nmaps));
	ENSURE(in->nmaps <= STORE_MAPS_MAX, ERR_CORRUPT, "%u maps, at most %u are allowed",
	       in->nmaps, STORE_MAPS_MAX);
	for (uint32_t i = 0; i < in->nmaps; i++) {
		TRY(decode_map(c, &in->maps[i]));
	}
	TRY(decode_blobs(c, r));
	return rcur_end(c);
}

struct err *snaprec_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
			   struct snap_rec *ret_rec)
{
	struct rcur c;
	TRY(record_open(p, len, RECORD_SNAP, uuid, id, &c));
	struct snap_rec r = { .info = { .id = id } };
	struct err *e = decode_body(&c, &r);
	if (e != NULL) {
		snaprec_done(&r);
		return err_wrap(e, "snapshot record %llu", (unsigned long long)id);
	}
	*ret_rec = r;
	return NULL;
}

void blob_encode(struct wbuf *w, const uint8_t uuid[16], uint64_t snap_id, uint16_t kind,
		 uint16_t index, struct bytes data)
{
	wbuf_reset(w);
	record_begin(w, RECORD_BLOB, snap_id);
	wbuf_u16(w, kind);
	wbuf_u16(w, index);
	wbuf_u32(w, (uint32_t)data.len);
	wbuf_put(w, data.p, data.len);
	record_seal(w, RECORD_BLOB, uuid, snap_id);
}

struct err *blob_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t snap_id,
			uint16_t kind, uint16_t index, struct bytes *ret_data)
{
	struct rcur c;
	TRY(err_wrap(record_open(p, len, RECORD_BLOB, uuid, snap_id, &c), "blob %u.%u", kind,
		     index));
	uint16_t k;
	uint16_t i;
	uint32_t n;
	TRY(rcur_u16(&c, &k));
	TRY(rcur_u16(&c, &i));
	TRY(rcur_u32(&c, &n));
	ENSURE(k == kind && i == index && n == rcur_left(&c), ERR_CORRUPT,
	       "blob %u.%u of snapshot %llu: its record is that of %u.%u", kind, index,
	       (unsigned long long)snap_id, k, i);
	const uint8_t *data;
	TRY(rcur_take(&c, n, &data));
	*ret_data = (struct bytes){ .p = data, .len = n };
	return NULL;
}

void hint_encode(struct wbuf *w, const uint8_t uuid[16], uint64_t snap_id, struct bytes data)
{
	wbuf_reset(w);
	record_begin(w, RECORD_HINT, snap_id);
	wbuf_put(w, data.p, data.len);
	record_seal(w, RECORD_HINT, uuid, snap_id);
}

struct err *hint_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t snap_id,
			struct bytes *ret_data)
{
	struct rcur c;
	TRY(record_open(p, len, RECORD_HINT, uuid, snap_id, &c));
	size_t n = rcur_left(&c);
	const uint8_t *data;
	ENSURE(n <= STORE_HINT_BYTES_MAX, ERR_CORRUPT, "hint of snapshot id %llu: %zu bytes",
	       (unsigned long long)snap_id, n);
	TRY(rcur_take(&c, n, &data));
	*ret_data = (struct bytes){ .p = data, .len = n };
	return NULL;
}

void pend_encode(struct wbuf *w, const uint8_t uuid[16], const struct pend_rec *r)
{
	wbuf_reset(w);
	record_begin(w, RECORD_PEND, get_be64(r->holder));
	wbuf_put(w, r->holder, sizeof(r->holder));
	wbuf_u64(w, r->first);
	wbuf_u64(w, r->count);
	wbuf_u64(w, r->started_ns);
	record_seal(w, RECORD_PEND, uuid, get_be64(r->holder));
}

struct err *pend_decode(const void *p, size_t len, const uint8_t uuid[16], const uint8_t holder[16],
			struct pend_rec *ret_rec)
{
	struct rcur c;
	struct pend_rec r;
	TRY(record_open(p, len, RECORD_PEND, uuid, get_be64(holder), &c));
	TRY(rcur_copy(&c, r.holder, sizeof(r.holder)));
	TRY(rcur_u64(&c, &r.first));
	TRY(rcur_u64(&c, &r.count));
	TRY(rcur_u64(&c, &r.started_ns));
	TRY(rcur_end(&c));
	uint64_t end;
	ENSURE(memcmp(r.holder, holder, sizeof(r.holder)) == 0 && r.first != 0 &&
		       !ADD_OVERFLOWS(r.first, r.count, &end),
	       ERR_CORRUPT, "pend record: of another session, or impossible ids");
	*ret_rec = r;
	return NULL;
}

void meta_encode(struct wbuf *w, const uint8_t uuid[16], struct bytes key, uint64_t a, uint64_t b)
{
	uint64_t id = hash_xxh3_64(key.p, key.len, 0);
	wbuf_reset(w);
	record_begin(w, RECORD_META, id);
	wbuf_u8(w, (uint8_t)key.len);
	wbuf_put(w, key.p, key.len);
	wbuf_u64(w, a);
	wbuf_u64(w, b);
	record_seal(w, RECORD_META, uuid, id);
}

struct err *meta_decode(const void *p, size_t len, const uint8_t uuid[16], struct bytes key,
			uint64_t *ret_a, uint64_t *ret_b)
{
	struct rcur c;
	TRY(record_open(p, len, RECORD_META, uuid, hash_xxh3_64(key.p, key.len, 0), &c));
	uint8_t n;
	const uint8_t *k;
	uint64_t a;
	uint64_t b;
	TRY(rcur_u8(&c, &n));
	TRY(rcur_take(&c, n, &k));
	TRY(rcur_u64(&c, &a));
	TRY(rcur_u64(&c, &b));
	TRY(rcur_end(&c));
	ENSURE(n == key.len && memcmp(k, key.p, n) == 0, ERR_CORRUPT,
	       "meta record: stands under another key");
	*ret_a = a;
	*ret_b = b;
	return NULL;
}

struct key8 key_of_id(uint64_t id)
{
	struct key8 k;
	put_be64(k.b, id);
	return k;
}

struct key_blob key_of_blob(uint64_t snap_id, uint16_t kind, uint16_t index)
{
	struct key_blob k;
	put_be64(k.b, snap_id);
	k.b[8] = (uint8_t)(kind >> 8);
	k.b[9] = (uint8_t)kind;
	k.b[10] = (uint8_t)(index >> 8);
	k.b[11] = (uint8_t)index;
	return k;
}

struct err *id_of_key(struct bytes key, const char *table, uint64_t *ret_id)
{
	ENSURE(key.len == 8, ERR_CORRUPT, "table %s: a key of %zu bytes", table, key.len);
	*ret_id = get_be64(key.p);
	return NULL;
}
