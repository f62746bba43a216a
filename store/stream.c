/* SPDX-License-Identifier: Apache-2.0 */
/* The export stream. See stream.h; called by transfer.c. */
#include "store/stream.h"

#include <string.h>

#include "store/mapbuild.h"
#include "store/snaprec.h"

#define STREAM_MAGIC 0x58455054u /* "TPEX" */
#define STREAM_VERSION 1u

enum {
	HEAD_BYTES = 16, /* of a chunk */
	ENTRY_BYTES = 20,
	END_BYTES = 40,
	VALUE_PAGES = 64, /* handed out at a time */
};

enum chunk_kind {
	CHUNK_HEAD = 1,
	CHUNK_MAP,
	CHUNK_PAGES,
	CHUNK_BLOB,
	CHUNK_END,
};

enum run_kind {
	RUN_RAW,
	RUN_ZSTD,
	RUN_VALUE,
};

/* A chunk's checksum covers its place in the stream, so that none can be left out or moved. */
static uint64_t chunk_sum(uint32_t kind, const void *p, size_t len, uint64_t seq)
{
	uint8_t place[16];
	put_le32(place, kind);
	put_le32(place + 4, (uint32_t)len);
	put_le64(place + 8, seq);
	return hash_xxh3_64(p, len, hash_xxh3_64(place, sizeof(place), 0));
}

/* ---- writing ---- */

struct err *stream_out_init(struct stream_out *o)
{
	o->body = wbuf_make(STREAM_CHUNK_BYTES_MAX);
	o->pages = wbuf_make(STREAM_CHUNK_BYTES_MAX);
	o->sha = sha256_new();
	o->scratch = malloc(STREAM_RUN_BYTES);
	ENSURE(o->scratch != NULL, ERR_SYS, "out of memory");
	return zcodec_new(0, &o->z);
}

void stream_out_done(struct stream_out *o)
{
	wbuf_done(&o->body);
	wbuf_done(&o->pages);
	sha256_free(o->sha);
	zcodec_free(o->z);
	free(o->scratch);
	*o = (struct stream_out){ 0 };
}

static struct err *put_chunk(struct stream_out *o, enum chunk_kind kind, const struct wbuf *body)
{
	uint8_t head[HEAD_BYTES];
	TRY(wbuf_check(body));
	put_le32(head, kind);
	put_le32(head + 4, (uint32_t)body->len);
	put_le64(head + 8, chunk_sum(kind, body->p, body->len, o->chunks));
	o->chunks++;
	sha256_update(o->sha, head, sizeof(head));
	sha256_update(o->sha, body->p, body->len);
	TRY(o->write(o->arg, head, sizeof(head)));
	return o->write(o->arg, body->p, body->len);
}

/* Ends the chunk of pages that is open. */
static struct err *flush_pages(struct stream_out *o)
{
	if (o->pages.len == 0) {
		return NULL;
	}
	TRY(put_chunk(o, CHUNK_PAGES, &o->pages));
	wbuf_reset(&o->pages);
	return NULL;
}

static void put_text(struct wbuf *w, const char *s)
{
	wbuf_u8(w, (uint8_t)strlen(s));
	wbuf_put(w, s, strlen(s));
}

struct err *stream_put_head(struct stream_out *o, const struct stream_head *h)
{
	struct wbuf *w = &o->body;
	wbuf_reset(w);
	wbuf_u32(w, STREAM_MAGIC);
	wbuf_u32(w, STREAM_VERSION);
	put_text(w, h->name);
	wbuf_put(w, h->family, sizeof(h->family));
	wbuf_put(w, h->info.vm, sizeof(h->info.vm));
	wbuf_u64(w, h->info.number);
	put_text(w, h->info.tag);
	wbuf_u64(w, h->info.frozen_at_ns);
	wbuf_u32(w, h->info.nmaps);
	wbuf_u32(w, h->info.nblobs);
	wbuf_put(w, h->info.root.b, sizeof(h->info.root.b));
	return put_chunk(o, CHUNK_HEAD, w);
}

struct err *stream_put_map(struct stream_out *o, const struct snap_map *m)
{
	struct wbuf *w = &o->body;
	TRY(flush_pages(o));
	wbuf_reset(w);
	put_text(w, m->name);
	wbuf_u64(w, m->len_bytes);
	wbuf_put(w, m->digest.b, sizeof(m->digest.b));
	wbuf_put(w, m->user, sizeof(m->user));
	return put_chunk(o, CHUNK_MAP, w);
}

static void put_entry(struct wbuf *w, uint64_t index, uint64_t npages, enum run_kind kind,
		      const void *p, size_t len)
{
	wbuf_u64(w, index);
	wbuf_u32(w, (uint32_t)npages);
	wbuf_u32(w, kind);
	wbuf_u32(w, (uint32_t)len);
	wbuf_put(w, p, len);
}

/* Is the page one repeated value? */
static bool one_value(const uint8_t *page, uint64_t *ret_v)
{
	*ret_v = get_le64(page);
	return memcmp(page, page + 8, PAGE_BYTES - 8) == 0;
}

/* Pages of one value from there on. */
static uint64_t value_run(const uint8_t *pages, uint64_t npages, uint64_t *ret_v)
{
	uint64_t n = 0;
	uint64_t v;
	while (n < npages && one_value(pages + n * PAGE_BYTES, &v) && (n == 0 || v == *ret_v)) {
		*ret_v = v;
		n++;
	}
	return n;
}

struct err *stream_put_pages(struct stream_out *o, uint64_t index, const uint8_t *pages,
			     uint64_t npages)
{
	while (npages > 0) {
		uint64_t v = 0;
		uint64_t n = MIN(value_run(pages, npages, &v), (uint64_t)UINT32_MAX);
		if (n > 0) {
			uint8_t value[8];
			put_le64(value, v);
			if (v != 0) {
				put_entry(&o->pages, index, n, RUN_VALUE, value, sizeof(value));
			}
		} else {
			uint64_t unused;
			for (n = 1; n < MIN(npages, (uint64_t)STREAM_RUN_PAGES) &&
				    !one_value(pages + n * PAGE_BYTES, &unused);) {
				n++;
			}
			size_t raw = (size_t)n * PAGE_BYTES;
			size_t len;
			TRY(zcodec_compress(o->z, o->scratch, raw - raw / 16, pages, raw, &len));
			put_entry(&o->pages, index, n, len > 0 ? RUN_ZSTD : RUN_RAW,
				  len > 0 ? o->scratch : pages, len > 0 ? len : raw);
		}
		if (o->pages.len >= STREAM_PAGES_BYTES) {
			TRY(flush_pages(o));
		}
		index += n;
		pages += n * PAGE_BYTES;
		npages -= n;
	}
	return NULL;
}

struct err *stream_put_blob(struct stream_out *o, uint16_t kind, uint16_t index, const void *p,
			    size_t len)
{
	struct wbuf *w = &o->body;
	TRY(flush_pages(o));
	wbuf_reset(w);
	wbuf_u16(w, kind);
	wbuf_u16(w, index);
	wbuf_put(w, p, len);
	return put_chunk(o, CHUNK_BLOB, w);
}

struct err *stream_put_end(struct stream_out *o)
{
	struct wbuf *w = &o->body;
	TRY(flush_pages(o));
	wbuf_reset(w);
	wbuf_u64(w, o->chunks);
	struct sha256 all = sha256_final(o->sha);
	wbuf_put(w, all.b, sizeof(all.b));
	return put_chunk(o, CHUNK_END, w);
}

/* ---- reading ---- */

struct decoder {
	const struct stream_in *in;
	uint64_t seq;
	uint64_t at; /* bytes read */
	struct sha256_ctx *sha;
	struct sha256 before; /* over all before the chunk in hand */
	struct zcodec *z;
	uint8_t *body;  /* owned: STREAM_CHUNK_BYTES_MAX */
	uint8_t *pages; /* owned: VALUE_PAGES */
	struct stream_head head;
	uint32_t nmaps; /* seen so far */
	uint32_t nblobs;
	uint64_t map_pages; /* of the map in hand */
	uint64_t next_page;
	uint32_t last_blob; /* kind and index of the last one */
};

static void decoder_free(struct decoder *d)
{
	if (d != NULL) {
		sha256_free(d->sha);
		zcodec_free(d->z);
		free(d->body);
		free(d->pages);
		free(d);
	}
}
DEFINE_SCOPE(struct decoder, decoder_free)

/* Reads len bytes. *ret_end (may be NULL: then it is an error): there was not one byte more. */
static struct err *read_bytes(struct decoder *d, uint8_t *p, size_t len, bool *ret_end)
{
	size_t have = 0;
	while (have < len) {
		size_t n;
		TRY(d->in->read(d->in->arg, p + have, len - have, &n));
		BUG_ON(n > len - have);
		if (n == 0) {
			ENSURE(have == 0 && ret_end != NULL, ERR_CORRUPT,
			       "the stream is cut off at byte %llu",
			       (unsigned long long)(d->at + have));
			*ret_end = true;
			return NULL;
		}
		have += n;
	}
	d->at += len;
	if (ret_end != NULL) {
		*ret_end = false;
	}
	return NULL;
}

/* One chunk into d->body. */
static struct err *read_chunk(struct decoder *d, uint32_t *ret_kind, struct rcur *ret_body,
			      bool *ret_end)
{
	uint8_t head[HEAD_BYTES];
	TRY(read_bytes(d, head, sizeof(head), ret_end));
	if (*ret_end) {
		return NULL;
	}
	uint32_t kind = get_le32(head);
	uint32_t len = get_le32(head + 4);
	ENSURE(d->seq > 0 || kind == CHUNK_HEAD, ERR_CORRUPT, "this is no torpor export stream");
	ENSURE(len <= STREAM_CHUNK_BYTES_MAX, ERR_CORRUPT,
	       "the stream is damaged: a chunk of %u bytes at byte %llu", len,
	       (unsigned long long)d->at);
	TRY(read_bytes(d, d->body, len, NULL));
	ENSURE(get_le64(head + 8) == chunk_sum(kind, d->body, len, d->seq), ERR_CORRUPT,
	       "the stream is damaged: chunk %llu, which ends at byte %llu: its checksum differs",
	       (unsigned long long)d->seq, (unsigned long long)d->at);
	if (kind == CHUNK_END) {
		d->before = sha256_final(d->sha);
	} else {
		sha256_update(d->sha, head, sizeof(head));
		sha256_update(d->sha, d->body, len);
	}
	d->seq++;
	*ret_kind = kind;
	*ret_body = rcur_of(d->body, len);
	return NULL;
}

static struct err *get_text(struct rcur *c, size_t max, char *ret_text)
{
	uint8_t n;
	const uint8_t *p;
	TRY(rcur_u8(c, &n));
	ENSURE(n <= max, ERR_CORRUPT, "a text of %u bytes, at most %zu are allowed", n, max);
	TRY(rcur_take(c, n, &p));
	for (size_t i = 0; i < n; i++) {
		ENSURE(p[i] > 0x20 && p[i] < 0x7f, ERR_CORRUPT, "a text with byte 0x%02x in it",
		       p[i]);
	}
	memset(ret_text, 0, max + 1);
	memcpy(ret_text, p, n);
	return NULL;
}

static struct err *take_head(struct decoder *d, struct rcur *c)
{
	struct stream_head *h = &d->head;
	uint32_t magic;
	uint32_t version;
	TRY(rcur_u32(c, &magic));
	TRY(rcur_u32(c, &version));
	ENSURE(magic == STREAM_MAGIC, ERR_CORRUPT, "this is no torpor export stream");
	ENSURE(version == STREAM_VERSION, ERR_INCOMPAT,
	       "the stream has format version %u, this torpor knows %u", version, STREAM_VERSION);
	TRY(get_text(c, NAME_BYTES_MAX, h->name));
	ENSURE(h->name[0] != 0, ERR_CORRUPT, "a VM without a name");
	TRY(rcur_copy(c, h->family, sizeof(h->family)));
	TRY(rcur_copy(c, h->info.vm, sizeof(h->info.vm)));
	TRY(rcur_u64(c, &h->info.number));
	ENSURE(h->info.number > 0 && h->info.number < UINT64_MAX, ERR_CORRUPT,
	       "a snapshot with number %llu", (unsigned long long)h->info.number);
	TRY(get_text(c, NAME_BYTES_MAX, h->info.tag));
	TRY(rcur_u64(c, &h->info.frozen_at_ns));
	TRY(rcur_u32(c, &h->info.nmaps));
	TRY(rcur_u32(c, &h->info.nblobs));
	ENSURE(h->info.nmaps <= STORE_MAPS_MAX && h->info.nblobs <= SNAP_BLOBS_MAX, ERR_CORRUPT,
	       "%u maps and %u blobs, at most %u and %u are allowed", h->info.nmaps, h->info.nblobs,
	       STORE_MAPS_MAX, SNAP_BLOBS_MAX);
	TRY(rcur_copy(c, h->info.root.b, sizeof(h->info.root.b)));
	TRY(rcur_end(c));
	return d->in->head(d->in->arg, h);
}

static struct err *take_map(struct decoder *d, struct rcur *c)
{
	ENSURE(d->nmaps < d->head.info.nmaps && d->nblobs == 0, ERR_CORRUPT,
	       "more maps than the head says, or one behind the blobs");
	struct snap_map *m = &d->head.info.maps[d->nmaps];
	TRY(get_text(c, STORE_MAP_NAME_MAX, m->name));
	ENSURE(m->name[0] != 0, ERR_CORRUPT, "a map without a name");
	for (uint32_t i = 0; i < d->nmaps; i++) {
		ENSURE(strcmp(d->head.info.maps[i].name, m->name) != 0, ERR_CORRUPT, "two maps %s",
		       m->name);
	}
	TRY(rcur_u64(c, &m->len_bytes));
	ENSURE(m->len_bytes <= SNAP_MAP_BYTES_MAX, ERR_CORRUPT,
	       "map %s: %llu bytes, at most %llu are allowed", m->name,
	       (unsigned long long)m->len_bytes, SNAP_MAP_BYTES_MAX);
	TRY(map_height(m->len_bytes, &m->height));
	TRY(rcur_copy(c, m->digest.b, sizeof(m->digest.b)));
	TRY(rcur_copy(c, m->user, sizeof(m->user)));
	TRY(rcur_end(c));
	d->nmaps++;
	d->map_pages = m->len_bytes / PAGE_BYTES + (m->len_bytes % PAGE_BYTES != 0);
	d->next_page = 0;
	return d->in->map(d->in->arg, m);
}

static struct err *give_value(struct decoder *d, uint64_t index, uint64_t npages, uint64_t v)
{
	for (size_t i = 0; i < VALUE_PAGES * PAGE_BYTES / 8; i++) {
		put_le64(d->pages + i * 8, v);
	}
	while (npages > 0) {
		uint64_t n = MIN(npages, (uint64_t)VALUE_PAGES);
		TRY(d->in->pages(d->in->arg, index, d->pages, n));
		index += n;
		npages -= n;
	}
	return NULL;
}

static struct err *take_run(struct decoder *d, struct rcur *c)
{
	uint64_t index;
	uint32_t npages;
	uint32_t kind;
	uint32_t len;
	const uint8_t *p;
	TRY(rcur_u64(c, &index));
	TRY(rcur_u32(c, &npages));
	TRY(rcur_u32(c, &kind));
	TRY(rcur_u32(c, &len));
	TRY(rcur_take(c, len, &p));
	ENSURE(npages > 0 && index >= d->next_page && index <= d->map_pages &&
		       npages <= d->map_pages - index,
	       ERR_CORRUPT, "pages 0x%llx+%u are out of order or behind the map's end",
	       (unsigned long long)index, npages);
	d->next_page = index + npages;
	if (kind == RUN_VALUE) {
		ENSURE(len == 8 && get_le64(p) != 0, ERR_CORRUPT, "a value of %u bytes, or 0", len);
		return give_value(d, index, npages, get_le64(p));
	}
	size_t raw = (size_t)npages * PAGE_BYTES;
	ENSURE(npages <= STREAM_RUN_PAGES && (kind == RUN_RAW || kind == RUN_ZSTD) &&
		       (kind == RUN_RAW ? len == raw : len > 0 && len < raw),
	       ERR_CORRUPT, "%u pages in %u bytes of kind %u", npages, len, kind);
	if (kind == RUN_RAW) {
		return d->in->pages(d->in->arg, index, p, npages);
	}
	TRY(zcodec_decompress(d->z, d->pages, raw, p, len));
	return d->in->pages(d->in->arg, index, d->pages, npages);
}

static struct err *take_pages(struct decoder *d, struct rcur *c)
{
	ENSURE(d->nmaps > 0 && d->nblobs == 0, ERR_CORRUPT, "pages outside of a map");
	ENSURE(rcur_left(c) > 0, ERR_CORRUPT, "a chunk without pages");
	while (rcur_left(c) > 0) {
		TRY(take_run(d, c));
	}
	return NULL;
}

static struct err *take_blob(struct decoder *d, struct rcur *c)
{
	uint16_t kind;
	uint16_t index;
	TRY(rcur_u16(c, &kind));
	TRY(rcur_u16(c, &index));
	size_t len = rcur_left(c);
	uint32_t order = (uint32_t)kind << 16 | index;
	ENSURE(d->nmaps == d->head.info.nmaps && d->nblobs < d->head.info.nblobs, ERR_CORRUPT,
	       "more blobs than the head says, or one before the maps");
	ENSURE(d->nblobs == 0 || order > d->last_blob, ERR_CORRUPT, "blob %u.%u: out of order",
	       kind, index);
	ENSURE(len <= BLOB_BYTES_MAX, ERR_CORRUPT, "blob %u.%u: %zu bytes", kind, index, len);
	d->last_blob = order;
	d->nblobs++;
	const uint8_t *p;
	TRY(rcur_take(c, len, &p));
	return d->in->blob(d->in->arg, kind, index, p, len);
}

static struct err *take_end(struct decoder *d, struct rcur *c)
{
	uint64_t chunks;
	struct sha256 all;
	TRY(rcur_u64(c, &chunks));
	TRY(rcur_copy(c, all.b, sizeof(all.b)));
	TRY(rcur_end(c));
	ENSURE(chunks == d->seq - 1 && sha256_equal(&all, &d->before), ERR_CORRUPT,
	       "the stream is damaged: its digest differs");
	ENSURE(d->nmaps == d->head.info.nmaps && d->nblobs == d->head.info.nblobs, ERR_CORRUPT,
	       "the stream ends after %u of %u maps and %u of %u blobs", d->nmaps,
	       d->head.info.nmaps, d->nblobs, d->head.info.nblobs);
	uint8_t byte;
	bool end;
	TRY(read_bytes(d, &byte, 1, &end));
	ENSURE(end, ERR_CORRUPT, "the stream goes on behind its end, byte %llu",
	       (unsigned long long)d->at - 1);
	return NULL;
}

static struct err *take_chunk(struct decoder *d, uint32_t kind, struct rcur *c)
{
	ENSURE(d->seq == 1 || kind != CHUNK_HEAD, ERR_CORRUPT, "a second head");
	switch (kind) {
	case CHUNK_HEAD:
		return take_head(d, c);
	case CHUNK_MAP:
		return take_map(d, c);
	case CHUNK_PAGES:
		return take_pages(d, c);
	case CHUNK_BLOB:
		return take_blob(d, c);
	case CHUNK_END:
		return take_end(d, c);
	default:
		return ERR(ERR_CORRUPT, "the stream is damaged: a chunk of kind %u", kind);
	}
}

struct err *stream_decode(const struct stream_in *in)
{
	SCOPE(decoder_freep) struct decoder *d = calloc(1, sizeof(*d));
	ENSURE(d != NULL, ERR_SYS, "out of memory");
	d->in = in;
	d->sha = sha256_new();
	d->body = malloc(STREAM_CHUNK_BYTES_MAX);
	d->pages = malloc(VALUE_PAGES * PAGE_BYTES);
	ENSURE(d->body != NULL && d->pages != NULL, ERR_SYS, "out of memory");
	TRY(zcodec_new(0, &d->z));
	uint32_t kind = 0;
	while (kind != CHUNK_END) {
		struct rcur c;
		bool end = false;
		TRY(read_chunk(d, &kind, &c, &end));
		ENSURE(!end, ERR_CORRUPT, "the stream is cut off at byte %llu",
		       (unsigned long long)d->at);
		TRY(take_chunk(d, kind, &c));
	}
	return NULL;
}
