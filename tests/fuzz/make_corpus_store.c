/* SPDX-License-Identifier: Apache-2.0 */
/* The store's part of the corpus: map records, a frame, small records, a family. See make_corpus.h;
 * called by make_corpus.c. */
#include <stdio.h>
#include <string.h>

#include "core/base/limits.h"
#include "store/family.h"
#include "store/frame.h"
#include "store/mapcodec.h"
#include "store/stream.h"
#include "tests/fuzz/make_corpus.h"

static const uint8_t uuid[16];

static struct err *put_record(const char *root, const char *name, uint8_t selector,
			      const struct wbuf *record)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(1 + LEAF_BYTES_MAX);
	wbuf_u8(&w, selector);
	wbuf_put(&w, record->p, record->len);
	return corpus_put(root, "mapcodec", name, &w);
}

static struct err *make_mapcodec(const char *root)
{
	struct map_zero zero;
	map_zero_init(&zero);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(LEAF_BYTES_MAX);
	SCOPE(freep) struct leaf *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "no memory");
	l->id = 7;
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		unsigned run = i / 32;
		l->ref[i].frame = run % 4 == 0 ? 0 : 100 + run / 4;
		l->ref[i].v = run % 8 == 0 ? 0x1111 : l->ref[i].frame == 0 ? 0 : i % 64;
	}
	leaf_encode(&w, uuid, l);
	TRY(put_record(root, "leaf", 0, &w));
	struct node n = { .id = 7, .level = 1 };
	n.child[0].id = 8;
	n.child[63].id = 9;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	n.digest = node_digest(c, &zero, &n);
	node_encode(&w, uuid, &n);
	return put_record(root, "node", 1, &w);
}

/* Sub-frames of one to four pages: ten slots. */
static struct err *make_frame_of(uint64_t id, struct wbuf *w)
{
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	TRY(zcodec_new(0, &z));
	SCOPE(freep) struct frame_builder *b = malloc(sizeof(*b));
	SCOPE(freep) uint8_t *scratch = malloc(FRAME_SUB_BYTES);
	SCOPE(freep) uint8_t *pages = calloc(FRAME_SUB_PAGES, PAGE_BYTES);
	SCOPE(freep) uint8_t *out = malloc(FRAME_BYTES_MAX);
	ENSURE(b != NULL && scratch != NULL && pages != NULL && out != NULL, ERR_SYS, "no memory");
	frame_builder_begin(b, uuid, id);
	for (unsigned npages = 1; npages <= FRAME_SUB_PAGES; npages++) {
		struct hash128 digest[FRAME_SUB_PAGES];
		for (unsigned i = 0; i < npages; i++) {
			memset(pages + (size_t)i * PAGE_BYTES, (int)(npages * 16 + i), 100);
			digest[i] = hash_xxh3_128(pages + (size_t)i * PAGE_BYTES, PAGE_BYTES);
		}
		struct frame_sub_in in;
		unsigned slot = 0;
		TRY(frame_sub_pack(z, pages, npages, digest, scratch, &in));
		ENSURE(frame_builder_add(b, &in, &slot), ERR_LIMIT, "the frame is full");
	}
	wbuf_reset(w);
	wbuf_put(w, out, frame_builder_finish(b, out));
	return NULL;
}

static struct err *make_frame(const char *root)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FRAME_BYTES_MAX);
	TRY(make_frame_of(7, &w));
	return corpus_put(root, "frame", "zstd", &w);
}

/* ---- the small records, and a family ---- */

#define SNAP_ID 7u
#define NODE_ID 3u
#define LEAF_ID 2u
#define FRAME_ID 1u
static const uint8_t holder[16] = { 1, 2, 3, 4, 5, 6, 7, 8 };

static void make_snap(struct wbuf *w, struct snap_blob *blob)
{
	struct snap_rec r = { .info = { .id = SNAP_ID, .number = 1, .nmaps = 2, .nblobs = 1 } };
	struct snap_map *m = r.info.maps;
	snprintf(r.info.tag, sizeof(r.info.tag), "tag");
	snprintf(m[0].name, sizeof(m[0].name), "memory");
	m[0].len_bytes = 2 * LEAF_SPAN_BYTES;
	m[0].root_id = NODE_ID;
	m[0].height = 1;
	snprintf(m[1].name, sizeof(m[1].name), "kernel");
	m[1].len_bytes = 6 * PAGE_BYTES + 100;
	m[1].root_id = LEAF_ID;
	*blob = (struct snap_blob){ .kind = 2, .index = 3, .len = 4 };
	r.blobs = blob;
	snaprec_encode(w, uuid, &r);
}

static void make_leaf(struct wbuf *w, uint64_t id)
{
	struct leaf *l = calloc(1, sizeof(*l));
	BUG_ON(l == NULL);
	l->id = id;
	for (unsigned i = 0; i < 10; i++) { /* the frame of make_frame_of has ten slots */
		l->ref[i] = (struct page_ref){ .frame = FRAME_ID, .v = i };
	}
	l->ref[20].v = 0x2020202020202020;
	leaf_encode(w, uuid, l);
	free(l);
}

static void make_node(struct wbuf *w)
{
	struct map_zero zero;
	map_zero_init(&zero);
	struct node n = { .id = NODE_ID, .level = 1 };
	n.child[0].id = LEAF_ID;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	n.digest = node_digest(c, &zero, &n);
	node_encode(w, uuid, &n);
}

static void make_pend(struct wbuf *w)
{
	struct pend_rec p = { .first = 100, .count = 1000 };
	memcpy(p.holder, holder, sizeof(holder));
	pend_encode(w, uuid, &p);
}

static struct err *make_snaprec(const char *root)
{
	static const char *const names[] = { "snap", "blob", "pend", "meta", "hint" };
	for (uint8_t i = 0; i < ARRAY_LEN(names); i++) {
		SCOPE(wbuf_done) struct wbuf r = wbuf_make(SNAP_BYTES_MAX);
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
		struct snap_blob blob;
		switch (i) {
		case 0:
			make_snap(&r, &blob);
			break;
		case 1:
			blob_encode(&r, uuid, SNAP_ID, 2, 3, (struct bytes){ "blob", 4 });
			break;
		case 2:
			make_pend(&r);
			break;
		case 3:
			meta_encode(&r, uuid, FAMILY_KEY_NEXT, 2000, 8);
			break;
		default:
			hint_encode(&r, uuid, SNAP_ID, (struct bytes){ "\1\2\4\7", 4 });
			break;
		}
		wbuf_u8(&w, i);
		wbuf_put(&w, r.p, r.len);
		TRY(corpus_put(root, "snaprec", names[i], &w));
	}
	return NULL;
}

/* As fuzz_store reads it. */
static void add_record(struct wbuf *w, enum family_db db, struct bytes key, const struct wbuf *r)
{
	wbuf_u8(w, (uint8_t)db);
	wbuf_u8(w, (uint8_t)key.len);
	wbuf_u16(w, (uint16_t)r->len);
	wbuf_put(w, key.p, key.len);
	wbuf_put(w, r->p, r->len);
}

static struct err *make_store(const char *root, uint8_t choice, const char *name)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(MIB);
	SCOPE(wbuf_done) struct wbuf r = wbuf_make(SNAP_BYTES_MAX);
	struct snap_blob blob;
	wbuf_u8(&w, choice);
	struct key8 key = key_of_id(SNAP_ID);
	make_snap(&r, &blob);
	add_record(&w, FAMILY_SNAP, KEY_BYTES(key), &r);
	struct key_blob kb = key_of_blob(SNAP_ID, 2, 3);
	blob_encode(&r, uuid, SNAP_ID, 2, 3, (struct bytes){ "blob", 4 });
	add_record(&w, FAMILY_BLOB, KEY_BYTES(kb), &r);
	key = key_of_id(NODE_ID);
	make_node(&r);
	add_record(&w, FAMILY_NODE, KEY_BYTES(key), &r);
	key = key_of_id(LEAF_ID);
	make_leaf(&r, LEAF_ID);
	add_record(&w, FAMILY_LEAF, KEY_BYTES(key), &r);
	key = key_of_id(FRAME_ID);
	TRY(make_frame_of(FRAME_ID, &r));
	add_record(&w, FAMILY_FRAME, KEY_BYTES(key), &r);
	make_pend(&r);
	add_record(&w, FAMILY_PEND, (struct bytes){ holder, sizeof(holder) }, &r);
	meta_encode(&r, uuid, FAMILY_KEY_NEXT, 2000, 8);
	add_record(&w, FAMILY_META, FAMILY_KEY_NEXT, &r);
	return corpus_put(root, "store", name, &w);
}

static struct err *to_wbuf(void *arg, const void *p, size_t len)
{
	struct wbuf *w = arg;
	wbuf_put(w, p, len);
	return wbuf_check(w);
}

/* Two maps with pages of each kind, two blobs. */
static struct err *make_stream(const char *root)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(MIB);
	SCOPE(freep) uint8_t *img = calloc(8, PAGE_BYTES);
	ENSURE(img != NULL, ERR_SYS, "no memory");
	memset(img + PAGE_BYTES, 0x5a, 2 * (size_t)PAGE_BYTES);
	uint64_t noise = 1;
	for (size_t i = 0; i < PAGE_BYTES; i += 8) {
		noise = noise * 0x9e3779b97f4a7c15ull + 1;
		put_le64(img + 4 * PAGE_BYTES + i, noise);
	}
	snprintf((char *)img + 6 * PAGE_BYTES, 64, "a page that compresses well");
	struct stream_head h = {
		.name = "vm",
		.info = { .number = 3, .tag = "tag", .nmaps = 2, .nblobs = 2 },
	};
	struct snap_map m = { .name = "memory", .len_bytes = 8 * PAGE_BYTES };
	struct stream_out o = { .write = to_wbuf, .arg = &w };
	struct err *e = stream_out_init(&o);
	e = e == NULL ? stream_put_head(&o, &h) : e;
	e = e == NULL ? stream_put_map(&o, &m) : e;
	e = e == NULL ? stream_put_pages(&o, 0, img, 8) : e;
	snprintf(m.name, sizeof(m.name), "kernel");
	e = e == NULL ? stream_put_map(&o, &m) : e;
	e = e == NULL ? stream_put_pages(&o, 3, img + 4 * (size_t)PAGE_BYTES, 1) : e;
	e = e == NULL ? stream_put_blob(&o, 1, 0, "blob", 4) : e;
	e = e == NULL ? stream_put_blob(&o, 3, 7, "", 0) : e;
	e = e == NULL ? stream_put_end(&o) : e;
	stream_out_done(&o);
	TRY(e);
	return corpus_put(root, "stream", "whole", &w);
}

struct err *corpus_store(const char *root)
{
	TRY(make_stream(root));
	TRY(make_mapcodec(root));
	TRY(make_frame(root));
	TRY(make_snaprec(root));
	TRY(make_store(root, 0, "verify"));
	TRY(make_store(root, 1, "remove"));
	TRY(make_store(root, 5, "collect"));
	TRY(make_store(root, 2, "maps"));
	return make_store(root, 3, "pages");
}
