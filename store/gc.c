/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Removing snapshots and collecting what nothing reaches: exact mark and sweep in transactions of
 * bounded size. Implements family_remove and family_gc of store.h; any thread, any number of
 * processes at once.
 *
 * Why it is exact (docs/store.md, "Collection"):
 * I1: marks, the bound of ids and the ranges of sessions come from one read transaction. Ids are
 *     never used again, so what was unreachable then cannot be reached later: a later session has
 *     ids above the bound, and sharing a map needs a snapshot whose record is there at publish.
 * I2: a snapshot's record goes away only after a transaction that hid it, and only if no lease is
 *     on it then. A reader first takes its lease and then looks whether the snapshot is hidden. So
 *     either the reader sees it hidden, or the collector sees the lease.
 * I3: a session whose holder is dead writes nothing any more.
 */
#include "store/gc.h"

#include <stdio.h>
#include <string.h>

#include "store/idset.h"
#include "store/mapwalk.h"

enum {
	SWEEP_RECORDS = 1024, /* per transaction: at most 64 MiB of frames become free pages */
	/*
	 * On a full disk: the list of so few freed pages fits in the free pages that every earlier
	 * transaction left, so that removing needs no room of the disk. What it frees can be used
	 * two transactions later.
	 */
	SWEEP_RECORDS_FULL = 8,
};

/* A growing list of ids. */
struct ids {
	uint64_t *v; /* owned */
	size_t n;
	size_t cap;
};

static void ids_done(struct ids *l)
{
	free(l->v);
	*l = (struct ids){ 0 };
}

static struct err *ids_add(struct ids *l, uint64_t id)
{
	if (l->n == l->cap) {
		size_t cap = l->cap == 0 ? 256 : l->cap * 2;
		uint64_t *p = realloc(l->v, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		l->v = p;
		l->cap = cap;
	}
	l->v[l->n++] = id;
	return NULL;
}

static const enum family_db swept_dbs[] = { FAMILY_FRAME, FAMILY_LEAF, FAMILY_NODE };

/* ---- sessions ---- */

/* Ids of a table within [first, end), at most max; the bytes of their values are added up. */
static struct err *ids_in_range(struct ltxn *t, enum family_db db, uint64_t first, uint64_t end,
				size_t max, struct ids *out, uint64_t *bytes)
{
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, db, &c));
	struct key8 key = key_of_id(first);
	bool found;
	TRY(lcur_seek(c, KEY_BYTES(key), &found));
	while (found && out->n < max) {
		uint64_t id;
		TRY(id_of_key(lcur_key(c), "of records", &id));
		if (id >= end) {
			break;
		}
		TRY(ids_add(out, id));
		*bytes += lcur_value_len(c);
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

static struct err *delete_ids(struct ltxn *t, enum family_db db, const uint64_t *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct key8 key = key_of_id(v[i]);
		bool found; /* another collector may have been faster */
		TRY(ltxn_del(t, db, KEY_BYTES(key), &found));
	}
	return NULL;
}

/* After a failed transaction: a smaller step when the disk is full, else the error itself. */
static struct err *smaller_step(struct err *e, size_t *step)
{
	if (err_class(e) != ERR_NOSPACE || *step <= SWEEP_RECORDS_FULL) {
		return e;
	}
	err_drop(e, "tried again with less at once");
	*step = SWEEP_RECORDS_FULL;
	return NULL;
}

/* One transaction's worth. *ret_done: the session is gone. */
static struct err *drop_some(struct family *f, const uint8_t holder[HOLDER_ID_BYTES], size_t step,
			     struct gc_result *res, bool *ret_done)
{
	struct bytes key = { holder, HOLDER_ID_BYTES };
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	bool found;
	TRY(ltxn_get(t, FAMILY_PEND, key, SMALL_BYTES_MAX, &b, &found));
	*ret_done = !found;
	if (!found) {
		return NULL;
	}
	struct pend_rec p;
	TRY(pend_decode(b.p, b.len, f->uuid, holder, &p));
	SCOPE(ids_done) struct ids ids = { 0 };
	bool left = false;
	uint64_t frames = 0;
	uint64_t bytes = 0;
	for (size_t i = 0; i < ARRAY_LEN(swept_dbs) && !left; i++) {
		uint64_t b_here = 0;
		ids.n = 0;
		TRY(ids_in_range(t, swept_dbs[i], p.first, p.first + p.count, step, &ids, &b_here));
		TRY(delete_ids(t, swept_dbs[i], ids.v, ids.n));
		left = ids.n == step;
		if (swept_dbs[i] == FAMILY_FRAME) {
			frames = ids.n;
			bytes = b_here;
		}
	}
	if (!left) {
		TRY(ltxn_del(t, FAMILY_PEND, key, &found));
	}
	TRY(ltxn_commit(MOVE(t)));
	res->frames_freed += frames;
	res->bytes_freed += bytes;
	*ret_done = !left;
	return NULL;
}

struct err *gc_drop_session(struct family *f, const uint8_t holder[HOLDER_ID_BYTES],
			    struct gc_result *ret_result)
{
	bool done = false;
	size_t step = SWEEP_RECORDS;
	while (!done) {
		struct err *e = drop_some(f, holder, step, ret_result, &done);
		if (e != NULL) {
			TRY(smaller_step(e, &step));
		}
	}
	return NULL;
}

/* Calls fn with each pend record. */
static struct err *each_pend(struct family *f, struct ltxn *t,
			     struct err *(*fn)(void *arg, const struct pend_rec *p), void *arg)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, FAMILY_PEND, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		struct bytes key = lcur_key(c);
		ENSURE(key.len == HOLDER_ID_BYTES, ERR_CORRUPT, "table pend: a key of %zu bytes",
		       key.len);
		TRY(lcur_value(c, SMALL_BYTES_MAX, &b));
		struct pend_rec p;
		TRY(pend_decode(b.p, b.len, f->uuid, key.p, &p));
		TRY(fn(arg, &p));
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

/* Pend records, in a list. */
struct pends {
	struct pend_rec *v; /* owned */
	size_t n;
};

static void pends_done(struct pends *l)
{
	free(l->v);
}

static struct err *pends_add(void *arg, const struct pend_rec *p)
{
	struct pends *l = arg;
	struct pend_rec *v = realloc(l->v, (l->n + 1) * sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	l->v = v;
	l->v[l->n++] = *p;
	return NULL;
}

static struct err *see_holder(void *arg, const uint8_t id[HOLDER_ID_BYTES], const char *text)
{
	(void)arg;
	(void)id;
	(void)text;
	return NULL;
}

static struct err *clear_sessions(struct family *f, struct gc_result *res)
{
	SCOPE(pends_done) struct pends l = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	TRY(each_pend(f, t, pends_add, &l));
	ltxn_abort(MOVE(t));
	for (size_t i = 0; i < l.n; i++) {
		bool alive;
		TRY(holder_alive(f->holders, l.v[i].holder, FAMILY_SESSION_TEXT, true, &alive));
		if (!alive) {
			TRY(gc_drop_session(f, l.v[i].holder, res));
			res->sessions_cleared++;
		}
	}
	/* Files of dead readers, and of writers that ended before their pend record. */
	return holder_each(f->holders, true, see_holder, NULL);
}

/* ---- snapshots ---- */

/* The record and all blobs of a snapshot, sound or not. */
static struct err *delete_snap(struct ltxn *t, uint64_t id)
{
	struct key8 key = key_of_id(id);
	bool found;
	TRY(ltxn_del(t, FAMILY_SNAP, KEY_BYTES(key), &found));
	struct key_blob from = key_of_blob(id, 0, 0);
	for (;;) {
		struct key_blob at;
		{
			SCOPE(lcur_closep) struct lcur *c = NULL;
			TRY(lcur_open(t, FAMILY_BLOB, &c));
			TRY(lcur_seek(c, KEY_BYTES(from), &found));
			struct bytes k = found ? lcur_key(c) : (struct bytes){ 0 };
			if (!found || k.len != sizeof(at.b) || get_be64(k.p) != id) {
				return NULL;
			}
			memcpy(at.b, k.p, sizeof(at.b));
		}
		TRY(ltxn_del(t, FAMILY_BLOB, KEY_BYTES(at), &found));
	}
}

static struct err *list_hidden(void *arg, const struct snap_rec *r)
{
	return r->hidden ? ids_add(arg, r->info.id) : NULL;
}

static struct err *skip_damaged(void *arg, uint64_t id, struct err *e)
{
	(void)arg;
	(void)id;
	err_drop(e, "the mark phase comes upon it again and refuses");
	return NULL;
}

/* Removes hidden snapshots that no lease is on (I2). */
static struct err *clear_hidden(struct family *f)
{
	SCOPE(ids_done) struct ids hidden = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	TRY(family_snap_each(f, t,
			     &(struct family_snap_visit){
				     .snap = list_hidden,
				     .damaged = skip_damaged,
				     .arg = &hidden,
			     }));
	ltxn_abort(MOVE(t));
	for (size_t i = 0; i < hidden.n; i++) {
		bool leased;
		TRY(family_leased(f, hidden.v[i], &leased));
		if (leased) {
			continue;
		}
		SCOPE(ltxn_abortp) struct ltxn *w = NULL;
		TRY(ltxn_begin(f->env, true, &w));
		TRY(delete_snap(w, hidden.v[i]));
		TRY(ltxn_commit(MOVE(w)));
	}
	return NULL;
}

/* ---- mark and sweep ---- */

struct marking {
	struct family *f;
	struct ltxn *t;
	struct idset seen;
	struct pends living;
	uint64_t bound; /* first id that no session had at the time of the marks */
};

static struct err *mark_enter(void *arg, uint64_t id, bool *ret_go)
{
	struct marking *m = arg;
	return idset_add(&m->seen, id, ret_go);
}

static struct err *mark_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct marking *m = arg;
	(void)index;
	uint64_t last = 0;
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		uint64_t id = l->ref[i].frame;
		if (id != 0 && id != last) {
			bool unused;
			TRY(idset_add(&m->seen, id, &unused));
			last = id;
		}
	}
	return NULL;
}

static struct err *mark_snap(void *arg, const struct snap_rec *r)
{
	struct marking *m = arg;
	struct mapwalk w = {
		.f = m->f,
		.t = m->t,
		.to_leaf = UINT64_MAX,
		.enter = mark_enter,
		.leaf = mark_leaf,
		.arg = m,
	};
	for (uint32_t i = 0; i < r->info.nmaps; i++) {
		TRY(err_wrap(mapwalk_run(&w, &r->info.maps[i]), "snapshot id %llu",
			     (unsigned long long)r->info.id));
	}
	return NULL;
}

static bool is_garbage(const struct marking *m, uint64_t id)
{
	if (id >= m->bound || idset_has(&m->seen, id)) {
		return false;
	}
	for (size_t i = 0; i < m->living.n; i++) {
		if (id >= m->living.v[i].first &&
		    id - m->living.v[i].first < m->living.v[i].count) {
			return false;
		}
	}
	return true;
}

/* Fills one list per swept table with what nothing reaches. */
static struct err *find_garbage(struct family *f, struct ids out[ARRAY_LEN(swept_dbs)],
				uint64_t *ret_bytes)
{
	struct marking m = { .f = f };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	m.t = t;
	uint64_t next_snap;
	struct err *e = family_meta_get(f, t, FAMILY_KEY_NEXT, &m.bound, &next_snap);
	if (e == NULL) {
		e = each_pend(f, t, pends_add, &m.living);
	}
	if (e == NULL) {
		/* Without a damaged record's references nothing can be called garbage. */
		e = err_wrap(
			family_snap_each(
				f, t, &(struct family_snap_visit){ .snap = mark_snap, .arg = &m }),
			"nothing is collected while a record is damaged");
	}
	uint64_t bytes = 0;
	for (size_t i = 0; e == NULL && i < ARRAY_LEN(swept_dbs); i++) {
		SCOPE(lcur_closep) struct lcur *c = NULL;
		bool found = false;
		e = lcur_open(t, swept_dbs[i], &c);
		if (e == NULL) {
			e = lcur_seek(c, (struct bytes){ 0 }, &found);
		}
		while (e == NULL && found) {
			uint64_t id = 0;
			e = id_of_key(lcur_key(c), "of records", &id);
			if (e == NULL && is_garbage(&m, id)) {
				bytes += swept_dbs[i] == FAMILY_FRAME ? lcur_value_len(c) : 0;
				e = ids_add(&out[i], id);
			}
			if (e == NULL) {
				e = lcur_next(c, &found);
			}
		}
	}
	idset_done(&m.seen);
	pends_done(&m.living);
	TRY(e);
	*ret_bytes = bytes;
	return NULL;
}

static struct err *sweep_some(struct family *f, enum family_db db, const uint64_t *v, size_t n)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	TRY(delete_ids(t, db, v, n));
	return ltxn_commit(MOVE(t));
}

static struct err *sweep(struct family *f, enum family_db db, const struct ids *l)
{
	size_t step = SWEEP_RECORDS;
	for (size_t at = 0; at < l->n;) {
		size_t n = MIN(l->n - at, step);
		struct err *e = sweep_some(f, db, l->v + at, n);
		if (e != NULL) {
			TRY(smaller_step(e, &step));
			continue;
		}
		at += n;
	}
	return NULL;
}

struct err *family_gc(struct family *f, struct gc_result *ret_result)
{
	ENSURE(!f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	struct gc_result res = { 0 };
	TRY(clear_sessions(f, &res));
	TRY(clear_hidden(f));
	struct ids garbage[ARRAY_LEN(swept_dbs)] = { 0 };
	uint64_t bytes = 0;
	struct err *e = find_garbage(f, garbage, &bytes);
	/* Parents first: a crash in between leaves no parent without its children. */
	for (size_t i = ARRAY_LEN(swept_dbs); e == NULL && i > 0; i--) {
		e = sweep(f, swept_dbs[i - 1], &garbage[i - 1]);
	}
	if (e == NULL) {
		res.frames_freed += garbage[0].n;
		res.bytes_freed += bytes;
	}
	for (size_t i = 0; i < ARRAY_LEN(swept_dbs); i++) {
		ids_done(&garbage[i]);
	}
	TRY(e);
	*ret_result = res;
	return NULL;
}

/* Hides one snapshot; a damaged record cannot be read under a lease anyway and goes at once. */
static struct err *hide(struct family *f, struct ltxn *t, uint64_t id)
{
	bool found;
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	struct err *e = family_snap_get(f, t, id, &found, &r);
	if (e != NULL && err_class(e) == ERR_CORRUPT) {
		err_drop(e, "removing is what is left to do with it");
		return delete_snap(t, id);
	}
	TRY(e);
	ENSURE(found && !r.hidden, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)id);
	r.hidden = true;
	return family_snap_put(f, t, &r);
}

struct err *family_remove(struct family *f, const uint64_t *ids, size_t n)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	for (size_t i = 0; i < n; i++) {
		TRY(hide(f, t, ids[i]));
	}
	TRY(ltxn_commit(MOVE(t)));
	struct gc_result unused;
	return err_wrap(family_gc(f, &unused), "removed, but its space is not free yet");
}
