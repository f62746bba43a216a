/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a family's bytes are: in use, dead, free; and what of them only one snapshot uses.
 * Implements family_stat of store.h; any thread, beside running takes; reads only.
 *
 * Everything comes from one read transaction, so the sums fit together.
 */
#include <string.h>

#include "store/frame.h"
#include "store/gc.h"
#include "store/pagemark.h"

struct stat_run {
	struct family *f;
	struct ltxn *t;
	struct pagemark marks;
	struct snap_rec *rec; /* owned; owner i + 1 is rec[i] */
	size_t nrec;
	size_t cap;
	struct snap_usage *use; /* owned; of rec[i], hidden ones too */
	uint8_t *buf;           /* owned: FRAME_BYTES_MAX */
	uint32_t now;           /* the owner whose records are being added up */
	struct family_stat out;
};

static void run_done(struct stat_run *s)
{
	pagemark_done(&s->marks);
	for (size_t i = 0; i < s->nrec; i++) {
		snaprec_done(&s->rec[i]);
	}
	free(s->rec);
	free(s->use);
	free(s->buf);
}

static struct err *add_snap(void *arg, const struct snap_rec *r)
{
	struct stat_run *s = arg;
	if (s->nrec == s->cap) {
		size_t cap = s->cap == 0 ? 16 : s->cap * 2;
		struct snap_rec *p = realloc(s->rec, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		s->rec = p;
		s->cap = cap;
	}
	struct snap_rec copy = *r;
	copy.blobs = malloc(MAX(r->info.nblobs, 1u) * sizeof(*copy.blobs));
	ENSURE(copy.blobs != NULL, ERR_SYS, "out of memory");
	memcpy(copy.blobs, r->blobs, r->info.nblobs * sizeof(*copy.blobs));
	s->rec[s->nrec++] = copy;
	return NULL;
}

static struct err *count_damage(struct stat_run *s, struct err *e)
{
	if (err_class(e) == ERR_SYS) {
		return e;
	}
	err_drop(e, "verify names it; what it would have told is left out");
	s->out.damaged++;
	return NULL;
}

static struct err *damaged_snap(void *arg, uint64_t id, struct err *e)
{
	(void)id;
	return count_damage(arg, e);
}

static struct err *damaged_map(void *arg, uint64_t first, uint64_t n, struct err *e)
{
	(void)first;
	(void)n;
	return count_damage(arg, e);
}

/* ---- marks ---- */

static struct err *mark_all(struct stat_run *s)
{
	for (size_t i = 0; i < s->nrec; i++) {
		struct pagemark_map how = {
			.f = s->f,
			.t = s->t,
			.owner = (uint32_t)i + 1,
			.damaged = damaged_map,
			.arg = s,
		};
		for (uint32_t k = 0; k < s->rec[i].info.nmaps; k++) {
			TRY(pagemark_map(&s->marks, &how, &s->rec[i].info.maps[k]));
		}
	}
	return NULL;
}

/* Something of one owner, or of several. */
static void add_live(struct stat_run *s, uint32_t owner, uint64_t bytes)
{
	s->out.live_bytes += bytes;
	if (owner != MARK_SHARED) {
		s->use[owner - 1].unique_bytes += bytes;
	} else {
		s->out.shared_bytes += bytes;
	}
}

static struct err *add_frame(struct stat_run *s, struct mark_rec *m, size_t len)
{
	struct err *e = pagemark_costs(m, s->f, s->t, s->buf, &len);
	if (e != NULL) {
		add_live(s, m->owner, len);
		return count_damage(s, e);
	}
	uint64_t dead = 0;
	add_live(s, m->owner, m->bytes);
	for (uint32_t i = 0; i < m->nslots; i++) {
		if (m->slot[i].owner != MARK_NONE) {
			add_live(s, m->slot[i].owner, m->slot[i].bytes);
			s->out.live_pages++;
		} else {
			dead += m->slot[i].bytes;
			s->out.dead_pages++;
		}
	}
	s->out.partly_dead_bytes += dead;
	s->out.partly_dead_frames += dead > 0;
	return NULL;
}

/* One record of frames, leaves or nodes. */
static struct err *add_record(struct stat_run *s, const struct gc_living *living, enum family_db db,
			      uint64_t id, size_t len)
{
	struct mark_rec *m = pagemark_find(&s->marks, id);
	s->out.record_bytes += len;
	if (m == NULL) {
		if (gc_is_living(living, id)) {
			s->out.pending_bytes += len;
		} else {
			s->out.dead_bytes += len;
		}
		return NULL;
	}
	if (m->owner != MARK_SHARED) {
		s->use[m->owner - 1].rm_bytes += len;
	}
	if (db == FAMILY_FRAME) {
		return add_frame(s, m, len);
	}
	m->bytes = (uint32_t)len;
	add_live(s, m->owner, len);
	return NULL;
}

static struct err *add_tables(struct stat_run *s, const struct gc_living *living)
{
	static const enum family_db dbs[] = { FAMILY_FRAME, FAMILY_LEAF, FAMILY_NODE };
	uint64_t *counts[] = { &s->out.frames, &s->out.leaves, &s->out.nodes };
	for (size_t i = 0; i < ARRAY_LEN(dbs); i++) {
		SCOPE(lcur_closep) struct lcur *c = NULL;
		TRY(lcur_open(s->t, dbs[i], &c));
		bool found;
		TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
		while (found) {
			uint64_t id;
			TRY(id_of_key(lcur_key(c), "of records", &id));
			TRY(add_record(s, living, dbs[i], id, lcur_value_len(c)));
			++*counts[i];
			TRY(lcur_next(c, &found));
		}
	}
	return NULL;
}

/* ---- what a snapshot shares ---- */

static struct err *share_enter(void *arg, uint64_t id, bool *ret_go)
{
	struct stat_run *s = arg;
	struct mark_rec *m = pagemark_find(&s->marks, id);
	*ret_go = m != NULL && m->stamp != s->now;
	if (*ret_go) {
		m->stamp = s->now;
		s->use[s->now - 1].shared_bytes += m->owner == MARK_SHARED ? m->bytes : 0;
	}
	return NULL;
}

static struct err *share_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct stat_run *s = arg;
	(void)index;
	struct mark_rec *m = NULL;
	struct snap_usage *u = &s->use[s->now - 1];
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		const struct page_ref *ref = &l->ref[i];
		if (ref->frame == 0) {
			continue;
		}
		if (m == NULL || m->id != ref->frame) {
			m = pagemark_find(&s->marks, ref->frame);
			if (m == NULL) {
				continue;
			}
			if (m->stamp != s->now) {
				m->stamp = s->now;
				u->shared_bytes += m->owner == MARK_SHARED ? m->bytes : 0;
			}
		}
		struct mark_slot *slot = ref->v < m->nslots ? &m->slot[ref->v] : NULL;
		if (slot != NULL && slot->stamp != s->now) {
			slot->stamp = s->now;
			u->shared_bytes += slot->owner == MARK_SHARED ? slot->bytes : 0;
		}
	}
	return NULL;
}

static struct err *quiet_damage(void *arg, uint64_t first, uint64_t n, struct err *e)
{
	(void)arg;
	(void)first;
	(void)n;
	if (err_class(e) == ERR_SYS) {
		return e;
	}
	err_drop(e, "the marks have counted it");
	return NULL;
}

static struct err *add_shared(struct stat_run *s)
{
	for (size_t i = 0; i < s->nrec; i++) {
		if (s->rec[i].hidden) {
			continue;
		}
		s->now = (uint32_t)i + 1;
		struct mapwalk w = {
			.f = s->f,
			.t = s->t,
			.to_leaf = UINT64_MAX,
			.enter = share_enter,
			.leaf = share_leaf,
			.damaged = quiet_damage,
			.arg = s,
		};
		for (uint32_t k = 0; k < s->rec[i].info.nmaps; k++) {
			TRY(mapwalk_run(&w, &s->rec[i].info.maps[k]));
		}
	}
	return NULL;
}

/* ---- the rest ---- */

static struct err *add_hint(struct stat_run *s, const struct snap_rec *r, uint64_t *bytes)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	struct key_blob key = key_of_blob(r->info.id, HINT_KIND, 0);
	bool found;
	TRY(ltxn_get(s->t, FAMILY_BLOB, KEY_BYTES(key), BLOB_RECORD_BYTES_MAX, &b, &found));
	*bytes += found ? b.len : 0;
	s->out.blobs += found;
	return NULL;
}

static struct err *add_snaps(struct stat_run *s)
{
	for (size_t i = 0; i < s->nrec; i++) {
		const struct snap_rec *r = &s->rec[i];
		uint64_t bytes = RECORD_HEAD_BYTES + RECORD_TAIL_BYTES;
		for (uint32_t k = 0; k < r->info.nblobs; k++) {
			bytes += r->blobs[k].len + RECORD_HEAD_BYTES + RECORD_TAIL_BYTES + 8;
			s->out.blobs++;
		}
		TRY(add_hint(s, r, &bytes));
		add_live(s, (uint32_t)i + 1, bytes);
		s->out.record_bytes += bytes;
		s->use[i].rm_bytes += bytes;
		s->use[i].info = r->info;
		s->out.hidden += r->hidden;
		if (!r->hidden) {
			TRY(family_leased(s->f, r->info.id, &s->use[i].leased));
		}
	}
	return NULL;
}

static int use_order(const void *pa, const void *pb)
{
	const struct snap_usage *a = pa;
	const struct snap_usage *b = pb;
	int c = memcmp(a->info.vm, b->info.vm, sizeof(a->info.vm));
	return c != 0 ? c
		      : (a->info.number < b->info.number ? -1 : a->info.number > b->info.number);
}

/* Only what is listed, in order. */
static void list_snaps(struct stat_run *s)
{
	size_t n = 0;
	for (size_t i = 0; i < s->nrec; i++) {
		if (!s->rec[i].hidden) {
			s->use[n++] = s->use[i];
		}
	}
	qsort(s->use, n, sizeof(*s->use), use_order);
	s->out.nsnaps = n;
	s->out.snap = s->use;
	s->use = NULL;
}

static struct err *stat_fill(struct stat_run *s, const struct gc_living *living)
{
	s->buf = malloc(FRAME_BYTES_MAX);
	ENSURE(s->buf != NULL, ERR_SYS, "out of memory");
	TRY(family_snap_each(s->f, s->t,
			     &(struct family_snap_visit){
				     .snap = add_snap,
				     .damaged = damaged_snap,
				     .arg = s,
			     }));
	s->use = calloc(MAX(s->nrec, (size_t)1), sizeof(*s->use));
	ENSURE(s->use != NULL, ERR_SYS, "out of memory");
	TRY(mark_all(s));
	TRY(add_tables(s, living));
	TRY(add_snaps(s));
	TRY(add_shared(s));
	list_snaps(s);
	return NULL;
}

struct err *family_stat(struct family *f, struct family_stat *ret_stat)
{
	struct lenv_space space;
	TRY(lenv_space(f->env, &space));
	SCOPE(run_done) struct stat_run s = { .f = f };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	s.t = t;
	s.out.file_bytes = space.file_bytes;
	s.out.disk_bytes = space.allocated_bytes;
	s.out.free_bytes = space.free_bytes;
	SCOPE(gc_living_done) struct gc_living living = { 0 };
	TRY(gc_living_get(f, t, &living));
	TRY(stat_fill(&s, &living));
	*ret_stat = s.out;
	return NULL;
}

void family_stat_done(struct family_stat *st)
{
	free(st->snap);
	*st = (struct family_stat){ 0 };
}
