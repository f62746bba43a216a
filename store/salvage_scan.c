/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds records by what they say of themselves. See salvage_scan.h; called by salvage.c.
 *
 * Every record begins with a magic number and its id, at an even offset, and has a checksum that is
 * bound to the family, its kind and its id. So what passes is one of this family's records, where
 * and when ever it was written; and since ids are never used again, two with the same id are the
 * same, but for a snapshot's that was hidden later. Of a frame this holds for its front only: what
 * is left of a freed one may have an overwritten end, and must not replace the living one.
 * Only frames and blobs know their length. That
 * of others is found by trying: a record in pages of its own ends in the last of them, as their
 * head says; any other one ends in its page.
 */
#include "store/salvage_scan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "store/frame.h"
#include "store/zcodec.h"

enum {
	PAGE_HEAD = 16, /* LMDB's */
	FLAG_OVERFLOW = 4,
	CHUNK_PAGES = 256,
	FRAME_LEN_AT = 28,
	BLOB_LEN_AT = RECORD_HEAD_BYTES + 4,
	BLOB_FIXED = RECORD_HEAD_BYTES + 8 + RECORD_TAIL_BYTES,
	/* Longest record whose length is tried without knowing its pages. */
	TRIED_MAX = 16384 + PAGE_BYTES,
};
#define BATCH_BYTES (16 * MIB)

struct scan {
	int fd;
	uint64_t file_bytes;
	struct family *to;
	struct ltxn *t; /* NULL between batches */
	size_t batch_bytes;
	struct lbuf rec;
	struct lbuf old;
	struct zcodec *z; /* owned, as the next two */
	uint8_t *pages;   /* FRAME_SUB_BYTES */
	struct frame *frame;
	uint64_t next_id;
	uint64_t next_snap;
	struct salvage_scanned n;
};

/* Where a record may lie: it begins at off; its length is within least..most. */
struct place {
	uint64_t off;
	size_t least;
	size_t most;
	const uint8_t *head; /* its first bytes: RECORD_HEAD_BYTES at least */
};

/* ---- writing ---- */

static struct err *batch_end(struct scan *s)
{
	s->batch_bytes = 0;
	return s->t != NULL ? ltxn_commit(MOVE(s->t)) : NULL;
}

static struct err *put(struct scan *s, enum family_db db, struct bytes key, struct bytes val)
{
	if (s->t == NULL) {
		TRY(ltxn_begin(s->to->env, true, &s->t));
	}
	TRY(ltxn_put(s->t, db, key, val));
	s->batch_bytes += val.len + PAGE_BYTES;
	s->n.records++;
	return s->batch_bytes >= BATCH_BYTES ? batch_end(s) : NULL;
}

static struct err *has(struct scan *s, enum family_db db, struct bytes key, bool *ret_found)
{
	if (s->t == NULL) {
		TRY(ltxn_begin(s->to->env, true, &s->t));
	}
	return ltxn_get(s->t, db, key, BLOB_RECORD_BYTES_MAX, &s->old, ret_found);
}

/* ---- records ---- */

/* A snapshot's record replaces only one that is not hidden. */
static struct err *put_snap(struct scan *s, uint64_t id, struct bytes val)
{
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	struct err *e = snaprec_decode(val.p, val.len, s->to->uuid, id, &r);
	if (e != NULL) {
		err_drop(e, "its checksum fits, its content does not: not ours");
		return NULL;
	}
	struct key8 key = key_of_id(id);
	bool found;
	TRY(has(s, FAMILY_SNAP, KEY_BYTES(key), &found));
	if (found && !r.hidden) {
		return NULL;
	}
	s->n.snaps += !found;
	s->next_snap = MAX(s->next_snap, id + 1);
	return put(s, FAMILY_SNAP, KEY_BYTES(key), val);
}

static struct err *put_blob(struct scan *s, uint64_t id, struct bytes val)
{
	struct bytes data;
	const uint8_t *body = (const uint8_t *)val.p + RECORD_HEAD_BYTES;
	uint16_t kind = get_le16(body);
	uint16_t index = get_le16(body + 2);
	struct err *e = blob_decode(val.p, val.len, s->to->uuid, id, kind, index, &data);
	if (e != NULL) {
		err_drop(e, "not a blob of ours");
		return NULL;
	}
	struct key_blob key = key_of_blob(id, kind, index);
	return put(s, FAMILY_BLOB, KEY_BYTES(key), val);
}

/* A frame with a damaged sub-frame replaces nothing; it is kept for the pages of the others. */
static struct err *put_frame(struct scan *s, uint64_t id, struct bytes val)
{
	struct key8 key = key_of_id(id);
	bool found = false;
	for (unsigned sub = 0; sub < s->frame->nsub; sub++) {
		struct err *e = frame_sub(s->frame, sub, s->z, s->pages);
		if (e != NULL) {
			err_drop(e, "verifying tells which snapshots need it");
			TRY(has(s, FAMILY_FRAME, KEY_BYTES(key), &found));
			break;
		}
	}
	s->next_id = MAX(s->next_id, id + 1);
	return found ? NULL : put(s, FAMILY_FRAME, KEY_BYTES(key), val);
}

static struct err *put_record(struct scan *s, enum record_kind kind, uint64_t id, struct bytes val)
{
	struct key8 key = key_of_id(id);
	if (kind == RECORD_SNAP) {
		return put_snap(s, id, val);
	}
	if (kind == RECORD_FRAME) {
		return put_frame(s, id, val);
	}
	if (kind == RECORD_BLOB) {
		return put_blob(s, id, val);
	}
	s->next_id = MAX(s->next_id, id + 1);
	return put(s, kind == RECORD_LEAF ? FAMILY_LEAF : FAMILY_NODE, KEY_BYTES(key), val);
}

/* The length with which the bytes at p are a record, or 0; a frame is then in s->frame. */
static size_t length_of(struct scan *s, enum record_kind kind, uint64_t id, const struct place *at,
			const uint8_t *p)
{
	if (kind == RECORD_FRAME) {
		size_t len = at->most > FRAME_LEN_AT + 4 ? get_le32(p + FRAME_LEN_AT) : 0;
		if (len < FRAME_HEAD_BYTES || len > at->most) {
			return 0;
		}
		struct err *e = frame_parse(p, len, s->to->uuid, id, s->frame);
		if (e != NULL) {
			err_drop(e, "bytes that only look like a frame");
			return 0;
		}
		return len;
	}
	uint64_t seed = record_seed(kind, s->to->uuid, id, 0);
	for (size_t len = at->least; len <= at->most; len++) {
		if (hash_xxh3_64(p, len - RECORD_TAIL_BYTES, seed) ==
		    get_le64(p + len - RECORD_TAIL_BYTES)) {
			return len;
		}
	}
	return 0;
}

static struct err *try_record(struct scan *s, struct place *at)
{
	enum record_kind kind = (enum record_kind)get_le32(at->head);
	uint64_t id = get_le64(at->head + 8);
	at->most = (size_t)MIN((uint64_t)at->most, s->file_bytes - at->off);
	if (id == 0 || id == UINT64_MAX || at->least > at->most) {
		return NULL;
	}
	if (s->rec.cap < at->most) {
		lbuf_done(&s->rec);
		s->rec.p = malloc(at->most);
		ENSURE(s->rec.p != NULL, ERR_SYS, "out of memory");
		s->rec.cap = at->most;
	}
	struct err *e = io_pread_full(s->fd, s->rec.p, at->most, at->off);
	if (e != NULL) {
		err_drop(e, "what the disk does not give is lost");
		return NULL;
	}
	if (kind == RECORD_BLOB) { /* says its length itself */
		uint64_t len = (uint64_t)get_le32(s->rec.p + BLOB_LEN_AT) + BLOB_FIXED;
		if (len < at->least || len > at->most) {
			return NULL;
		}
		at->least = at->most = (size_t)len;
	}
	size_t len = length_of(s, kind, id, at, s->rec.p);
	return len > 0 ? put_record(s, kind, id, (struct bytes){ s->rec.p, len }) : NULL;
}

/* ---- pages ---- */

static size_t longest(enum record_kind kind)
{
	switch (kind) {
	case RECORD_FRAME:
		return FRAME_BYTES_MAX;
	case RECORD_LEAF:
		return LEAF_BYTES_MAX;
	case RECORD_NODE:
		return NODE_BYTES_MAX;
	case RECORD_BLOB:
		return BLOB_RECORD_BYTES_MAX;
	case RECORD_SNAP:
		return SNAP_BYTES_MAX;
	default:
		return 0;
	}
}

/* A record at the beginning of pages of its own, or within a page of many. */
static struct err *scan_at(struct scan *s, const uint8_t *page, uint64_t off, size_t in)
{
	struct place at = { .off = off + in, .head = page + in };
	enum record_kind kind = (enum record_kind)get_le32(at.head);
	size_t most = longest(kind);
	bool zeros = at.head[5] == 0 && at.head[6] == 0 && at.head[7] == 0;
	if (most == 0 || at.head[4] != RECORD_VERSION || (kind != RECORD_FRAME && !zeros)) {
		return NULL;
	}
	at.least = kind == RECORD_BLOB ? BLOB_FIXED : RECORD_HEAD_BYTES + RECORD_TAIL_BYTES;
	at.most = PAGE_BYTES - in;
	if (in == PAGE_HEAD) {
		uint64_t pages = get_le32(page + 12);
		bool own = get_le16(page + 10) == FLAG_OVERFLOW && pages > 0 &&
			   pages <= most / PAGE_BYTES + 2;
		if (own && kind != RECORD_FRAME && kind != RECORD_BLOB) {
			at.most = (size_t)pages * PAGE_BYTES - PAGE_HEAD;
			at.least = MAX(at.least, at.most - PAGE_BYTES + 1);
		} else {
			at.most = kind == RECORD_FRAME || kind == RECORD_BLOB
					  ? most
					  : MIN(most, (size_t)TRIED_MAX);
		}
	}
	at.most = MIN(at.most, most);
	return try_record(s, &at);
}

static struct err *scan_page(struct scan *s, const uint8_t *page, uint64_t off)
{
	for (size_t in = 0; in + RECORD_HEAD_BYTES + RECORD_TAIL_BYTES <= PAGE_BYTES; in += 2) {
		if (page[in] == 'T' && page[in + 1] == 'P') {
			TRY(scan_at(s, page, off, in));
		}
	}
	return NULL;
}

static struct err *scan_file(struct scan *s)
{
	SCOPE(freep) uint8_t *buf = malloc(CHUNK_PAGES * PAGE_BYTES);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	uint64_t pages = s->file_bytes / PAGE_BYTES;
	for (uint64_t pg = 0; pg < pages;) {
		uint64_t n = MIN(pages - pg, (uint64_t)CHUNK_PAGES);
		struct err *e = io_pread_full(s->fd, buf, n * PAGE_BYTES, pg * PAGE_BYTES);
		for (uint64_t i = 0; i < n; i++) {
			struct err *one = NULL;
			if (e != NULL) { /* page by page around what cannot be read */
				one = io_pread_full(s->fd, buf + i * PAGE_BYTES, PAGE_BYTES,
						    (pg + i) * PAGE_BYTES);
			}
			if (one != NULL) {
				err_drop(one, "what the disk does not give is lost");
				continue;
			}
			one = scan_page(s, buf + i * PAGE_BYTES, (pg + i) * PAGE_BYTES);
			if (one != NULL) {
				err_free(e);
				return one;
			}
		}
		err_free(e);
		pg += n;
	}
	return NULL;
}

/* ---- afterwards ---- */

struct tags {
	struct snap_rec *v; /* owned; blobs are not kept */
	size_t n;
};

static void tags_done(struct tags *l)
{
	free(l->v);
}

static struct err *tags_add(void *arg, const struct snap_rec *r)
{
	struct tags *l = arg;
	struct snap_rec *v = realloc(l->v, (l->n + 1) * sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	l->v = v;
	l->v[l->n] = *r;
	l->v[l->n++].blobs = NULL;
	return NULL;
}

/* An older snapshot with the tag of a younger one was removed before that one was taken. */
static struct err *drop_old_tags(struct scan *s)
{
	SCOPE(tags_done) struct tags l = { 0 };
	TRY(ltxn_begin(s->to->env, true, &s->t));
	TRY(family_snap_each(s->to, s->t,
			     &(struct family_snap_visit){ .snap = tags_add, .arg = &l }));
	for (size_t i = 0; i < l.n; i++) {
		const struct snap_info *a = &l.v[i].info;
		bool old = false;
		for (size_t k = i + 1; k < l.n; k++) {
			const struct snap_info *b = &l.v[k].info;
			old |= a->tag[0] != 0 && strcmp(a->tag, b->tag) == 0 &&
			       memcmp(a->vm, b->vm, sizeof(a->vm)) == 0;
		}
		bool found;
		struct key8 key = key_of_id(a->id);
		TRY(old ? ltxn_del(s->t, FAMILY_SNAP, KEY_BYTES(key), &found) : NULL);
	}
	return batch_end(s);
}

static struct err *run(struct scan *s)
{
	s->pages = malloc(FRAME_SUB_BYTES);
	s->frame = malloc(sizeof(*s->frame));
	ENSURE(s->pages != NULL && s->frame != NULL, ERR_SYS, "out of memory");
	TRY(zcodec_new(1, &s->z));
	TRY(scan_file(s));
	TRY(batch_end(s));
	TRY(drop_old_tags(s));
	TRY(ltxn_begin(s->to->env, true, &s->t));
	TRY(family_meta_put(s->to, s->t, FAMILY_KEY_NEXT, s->next_id, s->next_snap));
	return batch_end(s);
}

struct err *salvage_scan(const char *data_file, struct family *to, struct salvage_scanned *ret)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct scan s = { .to = to, .next_id = 1, .next_snap = 1 };
	TRY(io_open(data_file, O_RDONLY, 0, &f));
	TRY(io_size(f.n, &s.file_bytes));
	s.fd = f.n;
	struct err *e = run(&s);
	ltxn_abort(s.t);
	lbuf_done(&s.rec);
	lbuf_done(&s.old);
	zcodec_free(s.z);
	free(s.pages);
	free(s.frame);
	*ret = s.n;
	return e;
}
