/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Full checks of snapshots and families. Implements the verification part of store.h; any thread,
 * beside running takes.
 *
 * Findings never end a check: what a damaged record would have told is left out, and everything
 * else is still checked. An error means that the check itself could not go on: lack of memory, a
 * file that cannot be read, or a B-tree so damaged that LMDB cannot walk it. The last is also
 * reported as a finding, so a damaged store never verifies as sound.
 *
 * A page is checked through its sub-frame's checksum, its own digest in the frame, its leaf's
 * digest over 512 of those, the nodes' digests, and the map's digest in the snapshot's root.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/family.h"
#include "store/idset.h"
#include "store/mapbuild.h"
#include "store/mapruns.h"

/* State of a leaf of the stretch in hand. */
enum leaf_state {
	LEAF_ZERO,    /* no record */
	LEAF_GOOD,    /* decoded; its digest is to be compared */
	LEAF_UNKNOWN, /* something in or below it is damaged and has been reported */
};

struct verify {
	struct family *f;
	verify_report_fn *report;
	void *arg;
	uint64_t findings;
	char prefix[64];
	struct ltxn *t; /* of the stretch or table in hand */
	/* Of the snapshot in hand, when no lease can be had (a store opened for reading only): what
	 * is removed or moved meanwhile stays where this transaction sees it. Else NULL. */
	struct ltxn *hold;
	struct zcodec *z;
	struct sha256_ctx *sha;
	struct frame frame;
	uint8_t *record; /* owned: FRAME_BYTES_MAX */
	uint8_t *pages;  /* owned: FRAME_SUB_BYTES */
	/* Frames whose bytes have been checked and are sound: only their heads are read again. */
	struct idset sound;
	/* The stretch in hand. */
	const struct snap_map *map;
	uint64_t first_leaf;
	uint64_t nleaves;
	struct mapruns runs;
	enum leaf_state *state; /* owned: MAPRUNS_LEAVES */
	struct sha256 *listed;  /* owned: MAPRUNS_LEAVES, digest in the leaf */
	struct hash128 *digest; /* owned: MAPRUNS_LEAVES * LEAF_PAGES page digests */
};

PRINTF_LIKE(2, 3)
static void find(struct verify *v, const char *fmt, ...)
{
	char text[1024];
	int n = snprintf(text, sizeof(text), "%s", v->prefix);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text + n, sizeof(text) - (size_t)n, fmt, ap);
	va_end(ap);
	v->findings++;
	if (v->report != NULL) {
		v->report(v->arg, text);
	}
}

/*
 * Turns an error about the store's bytes into a finding; `where` (may be NULL) says what it
 * concerns. Errors of the host (memory) are returned.
 */
static struct err *finding(struct verify *v, struct err *e, const char *where)
{
	bool host = err_class(e) == ERR_SYS && err_errno(e) != EIO /* the disk lost it */;
	if (host) {
		return e;
	}
	if (where != NULL) {
		find(v, "%s (%s)", err_msg(e), where);
	} else {
		find(v, "%s", err_msg(e));
	}
	err_drop(e, "it has become a finding");
	return NULL;
}

static void verify_done(struct verify *v)
{
	zcodec_free(v->z);
	sha256_free(v->sha);
	free(v->record);
	free(v->pages);
	idset_done(&v->sound);
	mapruns_done(&v->runs);
	free(v->state);
	free(v->listed);
	free(v->digest);
}

static struct err *verify_init(struct verify *v, struct family *f, verify_report_fn *report,
			       void *arg)
{
	*v = (struct verify){ .f = f, .report = report, .arg = arg };
	v->sha = sha256_new();
	v->record = malloc(FRAME_BYTES_MAX);
	v->pages = malloc(FRAME_SUB_BYTES);
	v->state = calloc(MAPRUNS_LEAVES, sizeof(*v->state));
	v->listed = calloc(MAPRUNS_LEAVES, sizeof(*v->listed));
	v->digest = malloc((size_t)MAPRUNS_LEAVES * LEAF_PAGES * sizeof(*v->digest));
	ENSURE(v->record != NULL && v->pages != NULL && v->state != NULL && v->listed != NULL &&
		       v->digest != NULL,
	       ERR_SYS, "out of memory");
	return zcodec_new(0, &v->z);
}

/* ---- frames ---- */

/* Checksum, decoding and page digests of one sub-frame. */
static struct err *check_sub(struct verify *v, unsigned sub)
{
	TRY(frame_sub(&v->frame, sub, v->z, v->pages));
	return frame_sub_digests(&v->frame, sub, v->pages);
}

/* The runs of one frame that touch a sub-frame, cut to it. Returns how many. */
static size_t runs_in_sub(const struct map_run *run, size_t n, const struct frame_sub_at *at,
			  struct map_run *out, size_t max)
{
	size_t k = 0;
	for (size_t i = 0; i < n && k < max; i++) {
		uint64_t from = MAX(run[i].v, (uint64_t)at->first_slot);
		uint64_t to = MIN(run[i].v + run[i].npages, (uint64_t)at->first_slot + at->npages);
		if (from < to) {
			out[k++] = (struct map_run){
				.frame = run[i].frame,
				.v = from,
				.page = run[i].page + (from - run[i].v),
				.npages = (uint32_t)(to - from),
			};
		}
	}
	return k;
}

static void spoil_leaves(struct verify *v, const struct map_run *run, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t leaf = run[i].page / LEAF_PAGES - v->first_leaf;
		if (leaf < MAPRUNS_LEAVES) {
			v->state[leaf] = LEAF_UNKNOWN;
		}
	}
}

/* A loaded frame against the runs that refer to it; fills in page digests, which stand in the head
 * and so are sound even where a sub-frame is not. */
static struct err *check_runs(struct verify *v, const struct map_run *run, size_t n)
{
	enum {
		CUT_MAX = 64,
	};
	struct map_run cut[CUT_MAX];
	char where[256];
	bool known = idset_has(&v->sound, v->frame.id);
	for (unsigned sub = 0; !known && sub < v->frame.nsub; sub++) {
		size_t k = runs_in_sub(run, n, &v->frame.sub[sub], cut, CUT_MAX);
		struct err *e = k > 0 ? check_sub(v, sub) : NULL;
		if (e != NULL) {
			mapruns_text(cut, k, v->map->name, where, sizeof(where));
			TRY(finding(v, e, where));
		}
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t end = run[i].v + run[i].npages;
		if (end > v->frame.nslots) {
			mapruns_text(&run[i], 1, v->map->name, where, sizeof(where));
			find(v, "frame %llu: has %u slots, but slot %llu is referred to (%s)",
			     (unsigned long long)v->frame.id, v->frame.nslots,
			     (unsigned long long)end - 1, where);
			spoil_leaves(v, &run[i], 1);
			continue;
		}
		for (uint32_t k = 0; k < run[i].npages; k++) {
			v->digest[run[i].page - v->first_leaf * LEAF_PAGES + k] =
				frame_digest(&v->frame, (unsigned)(run[i].v + k));
		}
	}
	return NULL;
}

static struct err *load_frame(struct verify *v, uint64_t id)
{
	struct lplace at;
	TRY(frame_place(v->f, v->t, id, &at));
	return frame_load(v->f, &at, id, v->record, &v->frame);
}

static struct err *check_frames(struct verify *v)
{
	char where[256];
	for (size_t i = 0; i < v->runs.nframes; i++) {
		const struct map_run *run = &v->runs.run[v->runs.start[i]];
		size_t n = v->runs.start[i + 1] - v->runs.start[i];
		struct err *e = load_frame(v, run->frame);
		if (e == NULL) {
			TRY(check_runs(v, run, n));
			continue;
		}
		mapruns_text(run, n, v->map->name, where, sizeof(where));
		spoil_leaves(v, run, n);
		TRY(finding(v, e, where));
	}
	return NULL;
}

/* ---- maps ---- */

static struct err *on_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct verify *v = arg;
	uint64_t at = index - v->first_leaf;
	v->state[at] = LEAF_GOOD;
	v->listed[at] = l->digest;
	return mapruns_add(&v->runs, index, l);
}

static struct err *on_damage(void *arg, uint64_t first, uint64_t n, struct err *e)
{
	struct verify *v = arg;
	uint64_t end = MIN(first + n, map_leaves(v->map->len_bytes));
	char where[96];
	snprintf(where, sizeof(where), "pages 0x%llx-0x%llx of map %s",
		 (unsigned long long)first * LEAF_PAGES,
		 (unsigned long long)MAX(end, first + 1) * LEAF_PAGES - 1, v->map->name);
	/* A node above several stretches is met in each of them, and reported in the first. */
	if (first < v->first_leaf) {
		err_drop(e, "reported with an earlier stretch");
		return NULL;
	}
	return finding(v, e, where);
}

static void check_leaf_digests(struct verify *v)
{
	for (uint64_t i = 0; i < v->nleaves; i++) {
		if (v->state[i] != LEAF_GOOD) {
			continue;
		}
		struct sha256 have = leaf_digest(v->sha, v->digest + i * LEAF_PAGES);
		if (!sha256_equal(&have, &v->listed[i])) {
			uint64_t page = (v->first_leaf + i) * LEAF_PAGES;
			find(v,
			     "map %s: the digest of a leaf differs from its pages' (pages "
			     "0x%llx-0x%llx of map %s)",
			     v->map->name, (unsigned long long)page,
			     (unsigned long long)page + LEAF_PAGES - 1, v->map->name);
		}
	}
}

static struct err *check_stretch(struct verify *v)
{
	memset(v->state, 0, MAPRUNS_LEAVES * sizeof(*v->state));
	for (size_t i = 0; i < v->nleaves * LEAF_PAGES; i++) {
		v->digest[i] = v->f->zero.page;
	}
	struct mapwalk w = {
		.f = v->f,
		.t = v->t,
		.from_leaf = v->first_leaf,
		.to_leaf = v->first_leaf + v->nleaves,
		.leaf = on_leaf,
		.damaged = on_damage,
		.arg = v,
	};
	TRY(mapwalk_run(&w, v->map));
	TRY(mapruns_sort(&v->runs));
	for (size_t i = 0; i < v->runs.nvalues; i++) {
		const struct map_run *run = &v->runs.run[i];
		for (uint32_t k = 0; k < run->npages; k++) {
			v->digest[run->page - v->first_leaf * LEAF_PAGES + k] =
				page_value_digest(run->v);
		}
	}
	TRY(check_frames(v));
	check_leaf_digests(v);
	return NULL;
}

static struct err *check_map(struct verify *v, const struct snap_map *m)
{
	v->map = m;
	uint64_t leaves = map_leaves(m->len_bytes);
	for (uint64_t at = 0; at < leaves; at += MAPRUNS_LEAVES) {
		v->first_leaf = at;
		v->nleaves = MIN(leaves - at, (uint64_t)MAPRUNS_LEAVES);
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		if (v->hold == NULL) {
			TRY(ltxn_begin(v->f->env, false, &t));
		}
		v->t = v->hold != NULL ? v->hold : t;
		struct err *e = check_stretch(v);
		v->t = NULL;
		mapruns_done(&v->runs);
		TRY(e);
	}
	return NULL;
}

/* ---- snapshots ---- */

static struct err *check_blob(struct verify *v, const struct snap_rec *r, const struct snap_blob *b)
{
	SCOPE(lbuf_done) struct lbuf buf = { 0 };
	struct key_blob key = key_of_blob(r->info.id, b->kind, b->index);
	bool found;
	TRY(ltxn_get(v->t, FAMILY_BLOB, KEY_BYTES(key), BLOB_RECORD_BYTES_MAX, &buf, &found));
	ENSURE(found, ERR_CORRUPT, "blob %u.%u of snapshot id %llu is missing", b->kind, b->index,
	       (unsigned long long)r->info.id);
	struct bytes data;
	TRY(blob_decode(buf.p, buf.len, v->f->uuid, r->info.id, b->kind, b->index, &data));
	struct sha256 have = sha256_of(data.p, data.len);
	ENSURE(data.len == b->len && sha256_equal(&have, &b->digest), ERR_CORRUPT,
	       "blob %u.%u of snapshot id %llu: its digest is not the one in the snapshot's record",
	       b->kind, b->index, (unsigned long long)r->info.id);
	return NULL;
}

static struct err *check_blobs(struct verify *v, const struct snap_rec *r)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	if (v->hold == NULL) {
		TRY(ltxn_begin(v->f->env, false, &t));
	}
	v->t = v->hold != NULL ? v->hold : t;
	for (uint32_t i = 0; i < r->info.nblobs; i++) {
		struct err *e = check_blob(v, r, &r->blobs[i]);
		if (e != NULL) {
			TRY(finding(v, e, NULL));
		}
	}
	v->t = NULL;
	return NULL;
}

static struct err *check_snap(struct verify *v, const struct snap_rec *r)
{
	struct sha256 root = snaprec_root(r);
	if (!sha256_equal(&root, &r->info.root)) {
		find(v, "snapshot record %llu: its root differs from its content",
		     (unsigned long long)r->info.id);
	}
	TRY(check_blobs(v, r));
	for (uint32_t i = 0; i < r->info.nmaps; i++) {
		TRY(check_map(v, &r->info.maps[i]));
	}
	return NULL;
}

/* Reads the record and checks the snapshot; a damaged record is a finding. */
static struct err *verify_id(struct verify *v, uint64_t id)
{
	/* A lease, so that a removal meanwhile does not look like damage. */
	SCOPE(holder_drop) struct holder lease = { .file = FD_NONE };
	if (!v->f->rdonly) {
		char text[HOLDER_TEXT_MAX + 1];
		snprintf(text, sizeof(text), FAMILY_LEASE_FMT, (unsigned long long)id);
		TRY(holder_take(v->f->holders, text, &lease));
	}
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	bool found = false;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(v->f->env, false, &t));
	struct err *e = family_snap_get(v->f, t, id, &found, &r);
	if (!v->f->rdonly) {
		ltxn_abort(MOVE(t));
	}
	if (e != NULL) {
		return finding(v, e, NULL);
	}
	ENSURE(found && !r.hidden, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)id);
	v->hold = t;
	e = check_snap(v, &r);
	v->hold = NULL;
	return e;
}

/* Ends a check: what stopped it because of damage is a finding as well. */
static struct err *conclude(struct verify *v, struct err *e, uint64_t *ret_findings)
{
	if (e != NULL && err_class(e) == ERR_CORRUPT) {
		find(v, "%s", err_msg(e));
		err_drop(e, "it has become a finding");
		e = NULL;
	}
	*ret_findings = v->findings;
	return e;
}

struct err *family_verify_snap(struct family *f, uint64_t snap_id, verify_report_fn *report,
			       void *arg, uint64_t *ret_findings)
{
	SCOPE(freep) struct verify *v = malloc(sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	struct err *e = verify_init(v, f, report, arg);
	if (e == NULL) {
		e = verify_id(v, snap_id);
	}
	e = conclude(v, e, ret_findings);
	verify_done(v);
	return e;
}

/* ---- the whole family ---- */

static size_t record_max(enum family_db db)
{
	switch (db) {
	case FAMILY_LEAF:
		return LEAF_BYTES_MAX;
	case FAMILY_BLOB:
		return BLOB_RECORD_BYTES_MAX;
	case FAMILY_PEND:
		return SMALL_BYTES_MAX;
	default:
		return NODE_BYTES_MAX;
	}
}

/* One record by its table. */
static struct err *check_record(struct verify *v, enum family_db db, struct bytes key,
				const struct lbuf *b, void *scratch)
{
	const uint8_t *k = key.p;
	uint64_t id = 0;
	if (db == FAMILY_BLOB) {
		struct bytes unused;
		ENSURE(key.len == sizeof(struct key_blob), ERR_CORRUPT,
		       "table blob: a key of %zu bytes", key.len);
		if ((k[8] << 8 | k[9]) == HINT_KIND) {
			ENSURE(k[10] == 0 && k[11] == 0, ERR_CORRUPT,
			       "hint of snapshot id %llu: it has index %u, where nobody looks for "
			       "it",
			       (unsigned long long)get_be64(k), (unsigned)(k[10] << 8 | k[11]));
			return hint_decode(b->p, b->len, v->f->uuid, get_be64(k), &unused);
		}
		return blob_decode(b->p, b->len, v->f->uuid, get_be64(k),
				   (uint16_t)(k[8] << 8 | k[9]), (uint16_t)(k[10] << 8 | k[11]),
				   &unused);
	}
	if (db == FAMILY_PEND) {
		struct pend_rec unused;
		ENSURE(key.len == HOLDER_ID_BYTES, ERR_CORRUPT, "table pend: a key of %zu bytes",
		       key.len);
		return pend_decode(b->p, b->len, v->f->uuid, k, &unused);
	}
	TRY(id_of_key(key, "of records", &id));
	switch (db) {
	case FAMILY_LEAF:
		return leaf_decode(b->p, b->len, v->f->uuid, id, scratch);
	case FAMILY_NODE: {
		/* Any level is fine here: the walks from the snapshots check it. */
		struct rcur c;
		return record_open(b->p, b->len, RECORD_NODE, v->f->uuid, id, &c);
	}
	default:
		return NULL;
	}
}

static struct err *check_table(struct verify *v, enum family_db db)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(freep) struct leaf *scratch = malloc(sizeof(*scratch));
	ENSURE(scratch != NULL, ERR_SYS, "out of memory");
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(v->t, db, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		struct err *e = lcur_value(c, record_max(db), &b);
		if (e == NULL) {
			e = check_record(v, db, lcur_key(c), &b, scratch);
		}
		if (e != NULL) {
			TRY(finding(v, e, NULL));
		}
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

/* All bytes of all frames, also of slots that nothing refers to any more. */
static struct err *check_frame_table(struct verify *v)
{
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(v->t, FAMILY_FRAME, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		uint64_t id = 0;
		bool sound = true;
		struct err *e = id_of_key(lcur_key(c), "frame", &id);
		if (e == NULL) {
			e = load_frame(v, id);
		}
		if (e != NULL) {
			sound = false;
			TRY(finding(v, e, NULL));
		}
		for (unsigned sub = 0; sound && sub < v->frame.nsub; sub++) {
			/* Which pages are lost is told when their snapshot is checked. */
			e = check_sub(v, sub);
			if (e != NULL) {
				sound = false;
				TRY(finding(v, e, NULL));
			}
		}
		if (sound) {
			bool unused;
			TRY(idset_add(&v->sound, id, &unused));
		}
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

struct snap_ids {
	struct verify *v;
	uint64_t *id; /* owned */
	size_t n;
};

static struct err *list_snap(void *arg, const struct snap_rec *r)
{
	struct snap_ids *l = arg;
	if (r->hidden) {
		return NULL;
	}
	uint64_t *p = realloc(l->id, (l->n + 1) * sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	l->id = p;
	l->id[l->n++] = r->info.id;
	return NULL;
}

static struct err *list_damaged(void *arg, uint64_t id, struct err *e)
{
	struct snap_ids *l = arg;
	(void)id;
	return finding(l->v, e, NULL);
}

static struct err *verify_tables(struct verify *v, struct snap_ids *snaps)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(v->f->env, false, &t));
	v->t = t;
	uint64_t a;
	uint64_t b;
	struct err *e = family_meta_get(v->f, t, FAMILY_KEY_NEXT, &a, &b);
	if (e != NULL) {
		e = finding(v, e, NULL);
	}
	if (e == NULL) {
		e = family_meta_check(v->f, t, &a);
		e = e != NULL ? finding(v, e, NULL) : NULL;
	}
	static const enum family_db tables[] = { FAMILY_NODE, FAMILY_LEAF, FAMILY_BLOB,
						 FAMILY_PEND };
	for (size_t i = 0; e == NULL && i < ARRAY_LEN(tables); i++) {
		e = check_table(v, tables[i]);
	}
	if (e == NULL) {
		e = check_frame_table(v);
	}
	if (e == NULL) {
		e = family_snap_each(v->f, t,
				     &(struct family_snap_visit){
					     .snap = list_snap,
					     .damaged = list_damaged,
					     .arg = snaps,
				     });
	}
	v->t = NULL;
	return e;
}

/* LMDB's trees and free list; the rest is checked beside that as far as LMDB gets. */
static struct err *verify_structure(struct verify *v)
{
	uint64_t lost = 0;
	struct err *e = lenv_check(v->f->env, LCHECK_DEEP, &lost);
	if (e != NULL) {
		return finding(v, e, NULL);
	}
	if (lost > 0) {
		find(v, "%llu pages of the data file belong to nothing", (unsigned long long)lost);
	}
	return NULL;
}

static struct err *verify_all(struct verify *v)
{
	struct snap_ids snaps = { .v = v };
	TRY(verify_structure(v));
	struct err *e = verify_tables(v, &snaps);
	for (size_t i = 0; e == NULL && i < snaps.n; i++) {
		snprintf(v->prefix, sizeof(v->prefix),
			 "snapshot id %llu: ", (unsigned long long)snaps.id[i]);
		e = verify_id(v, snaps.id[i]);
		if (e != NULL && err_class(e) == ERR_NOTFOUND) {
			err_drop(e, "removed while the family was being checked");
			e = NULL;
		}
		v->prefix[0] = 0;
	}
	free(snaps.id);
	return e;
}

struct err *family_verify(struct family *f, verify_report_fn *report, void *arg,
			  uint64_t *ret_findings)
{
	SCOPE(freep) struct verify *v = malloc(sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	struct err *e = verify_init(v, f, report, arg);
	if (e == NULL) {
		e = verify_all(v);
	}
	e = conclude(v, e, ret_findings);
	verify_done(v);
	return e;
}
