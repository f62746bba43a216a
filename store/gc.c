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
 * I4: compaction puts a snapshot's maps elsewhere and leaves a hidden, moved record of where they
 * were. It goes like I2's: who had a lease before may still go by the old place; who takes one
 * later finds the new one.
 */
#include "store/gc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
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
	ROOM_TRIES = 20,     /* of one step */
	PUNCH_FILE_PART = 4, /* removing gives blocks back when a quarter of the file is free */
};
#define RESERVE_BYTES ((off_t)(2 * MIB)) /* a dozen transactions of SWEEP_RECORDS_FULL */
#define PUNCH_BYTES_MIN (64 * MIB)       /* and only when it is worth it */

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

/* ---- removing on a full disk ---- */

static void reserve_path(const struct family *f, char out[FAMILY_DIR_MAX + 16])
{
	snprintf(out, FAMILY_DIR_MAX + 16, "%s/reserve", f->dir);
}

/*
 * Once free pages are holes, a removal may need blocks for its bookkeeping: DIR/reserve has them.
 * Failure is no error: a removal on a disk that is full from now on may then need room.
 */
static void reserve_make(struct family *f)
{
	char path[FAMILY_DIR_MAX + 16];
	reserve_path(f, path);
	SCOPE(fd_close) struct fd file = FD_NONE;
	struct err *e = io_open(path, O_RDWR | O_CREAT, 0600, &file);
	if (e == NULL && fallocate(file.n, FALLOC_FL_KEEP_SIZE, 0, RESERVE_BYTES) < 0) {
		e = ERR_ERRNO("%s", path);
	}
	err_drop(e, "then without it");
}

/* False: there was none. */
static bool reserve_drop(struct family *f)
{
	char path[FAMILY_DIR_MAX + 16];
	reserve_path(f, path);
	return unlink(path) == 0;
}

void gc_room_init(struct gc_room *r, struct family *f)
{
	*r = (struct gc_room){ .f = f, .step = SWEEP_RECORDS };
}

/*
 * First the reserve, then smaller steps, then the blocks of what the steps before have freed. All
 * of it only makes sense while something is being freed, so the tries are counted.
 */
struct err *gc_room_make(struct gc_room *r, struct err *e)
{
	if (e == NULL || err_class(e) != ERR_NOSPACE || r->tries++ >= ROOM_TRIES) {
		return e;
	}
	bool dropped = reserve_drop(r->f);
	bool smaller = r->step > SWEEP_RECORDS_FULL;
	r->step = SWEEP_RECORDS_FULL;
	r->full = true;
	if (!dropped && !smaller) {
		uint64_t bytes = 0;
		struct err *no = lenv_punch(r->f->env, &bytes);
		if (no != NULL || bytes == 0) {
			err_drop(no, "the full disk is what is reported");
			return e;
		}
	}
	err_drop(e, "tried again with more room, or less at once");
	return NULL;
}

void gc_room_used(struct gc_room *r)
{
	r->tries = 0;
	if (r->full) {
		uint64_t unused;
		err_drop(lenv_punch(r->f->env, &unused), "then the next step may not fit");
	}
}

struct err *gc_write_small(struct family *f, struct err *(*fn)(void *arg, struct ltxn *t),
			   void *arg)
{
	struct gc_room room;
	gc_room_init(&room, f);
	for (;;) {
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		struct err *e = ltxn_begin(f->env, true, &t);
		if (e == NULL) {
			e = fn(arg, t);
		}
		if (e == NULL) {
			e = ltxn_commit(MOVE(t));
		}
		if (e == NULL) {
			return NULL;
		}
		ltxn_abort(MOVE(t));
		TRY(gc_room_make(&room, e));
	}
}

/* Writes the counters as they are. */
static struct err *touch(void *arg, struct ltxn *t)
{
	struct family *f = arg;
	uint64_t a;
	uint64_t b;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &a, &b));
	return family_meta_put(f, t, FAMILY_KEY_NEXT, a, b);
}

struct err *family_punch(struct family *f, bool all, uint64_t *ret_bytes)
{
	struct lenv_space was;
	struct lenv_space sp;
	*ret_bytes = 0;
	TRY(lenv_space(f->env, &was));
	if (all) { /* a writer may have been killed before it could do that */
		TRY(lenv_trim(f->env));
	}
	TRY(lenv_space(f->env, &sp));
	uint64_t trimmed = was.allocated_bytes - MIN(sp.allocated_bytes, was.allocated_bytes);
	*ret_bytes = trimmed;
	if (sp.free_bytes - sp.backed_bytes > (uint64_t)RESERVE_BYTES) {
		reserve_make(f); /* a removal on a full disk may have used it up */
	}
	if (sp.backed_bytes == 0 ||
	    (!all && sp.backed_bytes < MAX(PUNCH_BYTES_MIN, sp.file_bytes / PUNCH_FILE_PART))) {
		return NULL;
	}
	/* What the last commit freed can be had after one more. */
	TRY(gc_write_small(f, touch, f));
	TRY(lenv_punch(f->env, ret_bytes));
	*ret_bytes += trimmed;
	reserve_make(f);
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
	struct gc_room room;
	gc_room_init(&room, f);
	while (!done) {
		struct err *e = drop_some(f, holder, room.step, ret_result, &done);
		if (e != NULL) {
			TRY(gc_room_make(&room, e));
		} else {
			gc_room_used(&room);
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

void gc_living_done(struct gc_living *l)
{
	free(l->v);
	*l = (struct gc_living){ 0 };
}

static struct err *living_add(void *arg, const struct pend_rec *p)
{
	struct gc_living *l = arg;
	struct pend_rec *v = realloc(l->v, (l->n + 1) * sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	l->v = v;
	l->v[l->n++] = *p;
	return NULL;
}

struct err *gc_living_get(struct family *f, struct ltxn *t, struct gc_living *ret)
{
	uint64_t next_snap;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &ret->bound, &next_snap));
	return each_pend(f, t, living_add, ret);
}

bool gc_is_living(const struct gc_living *l, uint64_t id)
{
	for (size_t i = 0; i < l->n; i++) {
		if (id >= l->v[i].first && id - l->v[i].first < l->v[i].count) {
			return true;
		}
	}
	return id >= l->bound;
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
	SCOPE(gc_living_done) struct gc_living l = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	TRY(gc_living_get(f, t, &l));
	ltxn_abort(MOVE(t));
	for (size_t i = 0; i < l.n; i++) {
		bool alive;
		TRY(holder_alive(f->holders, l.v[i].holder, FAMILY_SESSION_TEXT, true, &alive));
		if (!alive) {
			TRY(gc_drop_session(f, l.v[i].holder, res));
			res->sessions_cleared++;
		}
	}
	if (res->sessions_cleared > 0) {
		err_drop(lenv_trim(f->env), "what the dead allocated ahead is in nobody's way");
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

/* Pairs: the record, and the snapshot whose leases keep it. */
static struct err *list_hidden(void *arg, const struct snap_rec *r)
{
	if (!r->hidden) {
		return NULL;
	}
	TRY(ids_add(arg, r->info.id));
	return ids_add(arg, r->moved ? r->info.parent : r->info.id);
}

static struct err *delete_snap_fn(void *arg, struct ltxn *t)
{
	return delete_snap(t, *(const uint64_t *)arg);
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
	for (size_t i = 0; i < hidden.n; i += 2) {
		bool leased;
		TRY(family_leased(f, hidden.v[i + 1], &leased));
		if (!leased) {
			TRY(gc_write_small(f, delete_snap_fn, &hidden.v[i]));
		}
	}
	return NULL;
}

/* ---- mark and sweep ---- */

struct marking {
	struct family *f;
	struct ltxn *t;
	struct idset seen;
	struct gc_living living;
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
	return !idset_has(&m->seen, id) && !gc_is_living(&m->living, id);
}

/* Fills one list per swept table with what nothing reaches. */
static struct err *find_garbage(struct family *f, struct ids out[ARRAY_LEN(swept_dbs)],
				uint64_t *ret_bytes)
{
	struct marking m = { .f = f };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	m.t = t;
	struct err *e = gc_living_get(f, t, &m.living);
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
	gc_living_done(&m.living);
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
	struct gc_room room;
	gc_room_init(&room, f);
	for (size_t at = 0; at < l->n;) {
		size_t n = MIN(l->n - at, room.step);
		struct err *e = sweep_some(f, db, l->v + at, n);
		if (e != NULL) {
			TRY(gc_room_make(&room, e));
			continue;
		}
		at += n;
		gc_room_used(&room);
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
static struct err *hide(struct family *f, struct ltxn *t, uint64_t id, bool unpinned)
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
	ENSURE(!unpinned || !r.info.pinned, ERR_NOT_NOW,
	       "snapshot %llu is pinned: unpin it first, or force its removal",
	       (unsigned long long)r.info.number);
	r.hidden = true;
	return family_snap_put(f, t, &r);
}

struct hiding {
	struct family *f;
	const uint64_t *ids;
	size_t n;
	bool unpinned; /* refuse pinned ones */
};

static struct err *hide_all(void *arg, struct ltxn *t)
{
	const struct hiding *h = arg;
	for (size_t i = 0; i < h->n; i++) {
		TRY(hide(h->f, t, h->ids[i], h->unpinned));
	}
	return NULL;
}

static struct err *remove_these(struct hiding *h)
{
	ENSURE(!h->f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	TRY(gc_write_small(h->f, hide_all, h));
	struct gc_result unused;
	return err_wrap(family_gc(h->f, &unused), "removed, but its space is not free yet");
}

struct err *family_remove(struct family *f, const uint64_t *ids, size_t n)
{
	return remove_these(&(struct hiding){ .f = f, .ids = ids, .n = n });
}

struct err *family_remove_unpinned(struct family *f, const uint64_t *ids, size_t n)
{
	return remove_these(&(struct hiding){ .f = f, .ids = ids, .n = n, .unpinned = true });
}
