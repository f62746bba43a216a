/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transactions, values and cursors of LMDB behind error objects. See store_lmdb.h; called by all of
 * store/, on any thread. Every function first asks whether the environment is dead.
 */
#include "store/store_lmdb_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct lcur {
	struct ltxn *t;
	MDB_cursor *cur;
	unsigned db;
	MDB_val val; /* points into the map or a dirty page */
	size_t key_len;
	uint8_t key[LENV_KEY_MAX];
};

struct err *lenv_check(struct lenv *l, enum lcheck how, uint64_t *ret_lost)
{
	for (int i = 0;; i++) {
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		TRY(ltxn_begin(l, false, &t));
		struct err *e = store_lmdb_check(l, mdb_txn_id(t->txn), how, ret_lost);
		if (e == NULL || err_class(e) != ERR_NOT_NOW || i == CHECK_TRIES) {
			return e;
		}
		err_drop(e, "tried again with the newest state");
	}
}

/* Writing on a damaged structure would spread the damage: once per opening all of it is checked. */
static struct err *check_before_write(struct lenv *l)
{
	uint64_t lost;
	if (atomic_load(&l->checked) && l->pid == getpid()) {
		return NULL;
	}
	TRY(lenv_check(l, LCHECK_ALL, &lost));
	atomic_store(&l->checked, true);
	return NULL;
}

/* One attempt. *ret_again: LMDB refused because of an earlier failure; entering anew mends that. */
static struct err *begin_once(struct lenv *l, bool write, struct ltxn *t, bool *ret_again)
{
	*ret_again = false;
	TRY(store_lmdb_enter(l));
	struct err *e = write ? store_lmdb_turn_take(l) : NULL;
	if (e != NULL) {
		store_lmdb_leave(l);
		return e;
	}
	struct op o = { .env = l->env, .txn_out = &t->txn, .flags = write ? 0 : MDB_RDONLY };
	int rc = store_lmdb_run(l, op_txn_begin, &o);
	if (rc == MDB_BAD_RSLOT || rc == MDB_PANIC) {
		atomic_store(&l->panic, true);
		*ret_again = true;
	}
	if (rc != 0) {
		if (write) {
			/* A fault may have come while LMDB had its lock already. */
			store_lmdb_turn_drop(l, rc == RC_FAULT);
		}
		store_lmdb_leave(l);
		return store_lmdb_err(l, rc, "starting a transaction");
	}
	return NULL;
}

struct err *ltxn_begin(struct lenv *l, bool write, struct ltxn **ret_txn)
{
	ENSURE(!write || !l->rdonly, ERR_NOT_NOW, "%s: opened for reading only", l->dir);
	if (write) {
		TRY(check_before_write(l));
	}
	SCOPE(freep) struct ltxn *t = calloc(1, sizeof(*t));
	ENSURE(t != NULL, ERR_SYS, "out of memory");
	t->l = l;
	t->write = write;
	t->pid = getpid();
	bool again;
	struct err *e = begin_once(l, write, t, &again);
	if (e != NULL && again) {
		err_drop(e, "the environment is opened again if nobody else uses it");
		e = begin_once(l, write, t, &again);
	}
	TRY(e);
	if (write) {
		e = store_lmdb_check_length(l);
		if (e != NULL) {
			ltxn_abort(MOVE(t));
			return e;
		}
	}
	*ret_txn = MOVE(t);
	return NULL;
}

/* After a transaction in which LMDB's calls are over; lock_lost: it may still have its lock. */
static void txn_end(struct ltxn *t, bool lock_lost)
{
	if (t->write) {
		store_lmdb_turn_drop(t->l, lock_lost);
	}
	store_lmdb_leave(t->l);
	free(t);
}

struct err *ltxn_commit(struct ltxn *t)
{
	struct lenv *l = t->l;
	if (t->pid != getpid()) {
		struct err *e = ERR(ERR_NOT_NOW, "%s: a transaction of the process before the fork",
				    l->dir);
		ltxn_abort(t);
		return e;
	}
	if (atomic_load(&l->dead)) {
		ltxn_abort(t);
		return store_lmdb_dead(l);
	}
	struct op o = { .txn = t->txn };
	int rc = store_lmdb_run(l, op_txn_commit, &o);
	if (rc != 0 && rc != RC_FAULT && t->write) {
		err_drop(store_lmdb_mend_meta(l),
			 "the failure itself is reported; a disk that fails here, too, is refused "
			 "when it is opened again");
	}
	struct err *e = rc == 0 ? NULL : store_lmdb_err(l, rc, "committing");
	txn_end(t, rc == RC_FAULT);
	return e;
}

void ltxn_abort(struct ltxn *t)
{
	if (t == NULL) {
		return;
	}
	if (t->pid != getpid()) {
		free(t); /* LMDB's part and the locks are the parent's */
		return;
	}
	/*
	 * Also after a guard fired: faults only happen while LMDB reads the map, never inside
	 * malloc, and an abort reads only the heap. Without it a write transaction would keep the
	 * lock that other processes wait for until this one ends.
	 */
	struct op o = { .txn = t->txn };
	int rc = store_lmdb_run(t->l, op_txn_abort, &o);
	txn_end(t, rc == RC_FAULT);
}

void lbuf_done(struct lbuf *b)
{
	free(b->p);
	*b = (struct lbuf){ 0 };
}

static struct err *lbuf_room(struct lbuf *b, size_t len)
{
	if (b->p == NULL || len > b->cap) {
		size_t cap = MAX(b->cap * 2, (size_t)4096);
		cap = MAX(cap, len);
		uint8_t *p = realloc(b->p, cap);
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		b->p = p;
		b->cap = cap;
	}
	return NULL;
}

static int op_copy(struct op *o)
{
	memcpy(o->dst, o->val.mv_data, o->n);
	return 0;
}

static bool in_map(const struct lenv *l, const void *p)
{
	return (uintptr_t)p >= (uintptr_t)l->map && (uintptr_t)p - (uintptr_t)l->map < l->map_bytes;
}

static struct err *value_copy(struct lenv *l, const MDB_val *v, size_t max, struct lbuf *buf)
{
	/* A leaf page that a flipped bit calls one of keys only. */
	ENSURE(v->mv_data != NULL, ERR_CORRUPT, "%s: an entry without a record", l->dir);
	ENSURE(v->mv_size <= max, ERR_CORRUPT,
	       "%s: a record of %zu bytes, at most %zu are possible", l->dir, v->mv_size, max);
	TRY(lbuf_room(buf, v->mv_size));
	if (v->mv_size > INLINE_MAX && in_map(l, v->mv_data)) {
		TRY(lenv_pread(l, buf->p, v->mv_size,
			       (uint64_t)((uintptr_t)v->mv_data - (uintptr_t)l->map)));
	} else {
		struct op o = { .dst = buf->p, .val = *v, .n = v->mv_size };
		int rc = store_lmdb_run(l, op_copy, &o);
		if (rc != 0) {
			return store_lmdb_err(l, rc, "reading a record");
		}
	}
	buf->len = v->mv_size;
	return NULL;
}

static int op_get(struct op *o)
{
	return mdb_get(o->txn, o->dbi, &o->key, &o->val);
}

/* LMDB takes keys and values as pointers to non-const; it does not write through them. */
static MDB_val val_of(struct bytes b)
{
	return (MDB_val){ .mv_data = (void *)(uintptr_t)b.p, .mv_size = b.len };
}

static struct err *txn_find(struct ltxn *t, unsigned db, struct bytes key, MDB_val *ret_val,
			    bool *ret_found)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .key = val_of(key) };
	int rc = store_lmdb_run(l, op_get, &o);
	if (rc == MDB_NOTFOUND) {
		*ret_found = false;
		return NULL;
	}
	if (rc != 0) {
		return store_lmdb_err(l, rc, "looking for a record");
	}
	*ret_val = o.val;
	*ret_found = true;
	return NULL;
}

struct err *ltxn_get(struct ltxn *t, unsigned db, struct bytes key, size_t max, struct lbuf *buf,
		     bool *ret_found)
{
	MDB_val v = { 0 };
	bool found;
	TRY(txn_find(t, db, key, &v, &found));
	if (found) {
		TRY(value_copy(t->l, &v, max, buf));
	}
	*ret_found = found;
	return NULL;
}

struct err *ltxn_where(struct ltxn *t, unsigned db, struct bytes key, struct lplace *ret_place,
		       bool *ret_found)
{
	BUG_ON(t->write);
	MDB_val v = { 0 };
	bool found;
	TRY(txn_find(t, db, key, &v, &found));
	if (found) {
		ENSURE(in_map(t->l, v.mv_data), ERR_CORRUPT, "%s: a record lies outside the file",
		       t->l->dir);
		ret_place->off = (uint64_t)((uintptr_t)v.mv_data - (uintptr_t)t->l->map);
		ret_place->len = v.mv_size;
	}
	*ret_found = found;
	return NULL;
}

/*
 * LMDB frees the pages that the head of a big value's first page names. A damaged head would put
 * pages of others on the free list. base and n are the map, where committed pages are.
 */
static int old_value_check(struct op *o, bool *ret_big)
{
	enum {
		BIG = 4, /* flags of a page: P_OVERFLOW and P_DIRTY */
		DIRTY = 16,
	};
	MDB_val old = { 0 };
	int rc = mdb_get(o->txn, o->dbi, &o->key, &old);
	*ret_big = false;
	if (rc == 0 && old.mv_data == NULL) { /* see value_copy */
		return MDB_CORRUPTED;
	}
	if (rc == 0 && store_lmdb_is_big(o->key.mv_size, old.mv_size)) {
		const uint8_t *head = (const uint8_t *)old.mv_data - LMDB_PAGE_HEAD;
		*ret_big = true;
		uint64_t off = (uint64_t)((uintptr_t)head - (uintptr_t)o->base);
		bool committed = off < o->n;
		/* A committed page that calls itself dirty would be given to free(). */
		if (get_le16(head + 10) != (committed ? BIG : BIG | DIRTY) ||
		    get_le32(head + 12) != store_lmdb_big_pages(old.mv_size) ||
		    (committed && get_le64(head) != off / LMDB_PAGE)) {
			return MDB_CORRUPTED;
		}
	}
	return rc;
}

static int op_put(struct op *o)
{
	/* APPEND fills pages to the end; it fails harmlessly when the key is not the last. */
	int rc = mdb_put(o->txn, o->dbi, &o->key, &o->val, MDB_APPEND);
	if (rc == MDB_KEYEXIST) {
		bool big;
		rc = old_value_check(o, &big);
		if (rc == 0 && big) {
			/* In place LMDB would keep more pages than a shorter value needs. */
			rc = mdb_del(o->txn, o->dbi, &o->key, NULL);
		}
		if (rc == 0 || rc == MDB_NOTFOUND) {
			rc = mdb_put(o->txn, o->dbi, &o->key, &o->val, 0);
		}
	}
	return rc;
}

struct err *ltxn_put(struct ltxn *t, unsigned db, struct bytes key, struct bytes val)
{
	struct lenv *l = t->l;
	BUG_ON(key.len == 0 || key.len > LENV_KEY_MAX);
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	struct op o = { .txn = t->txn,
			.dbi = l->dbi[db],
			.key = val_of(key),
			.val = val_of(val),
			.base = l->map,
			.n = l->map_bytes };
	int rc = store_lmdb_run(l, op_put, &o);
	return rc == 0 ? NULL : store_lmdb_err(l, rc, "writing a record");
}

static int op_del(struct op *o)
{
	bool unused;
	int rc = old_value_check(o, &unused);
	return rc == 0 ? mdb_del(o->txn, o->dbi, &o->key, NULL) : rc;
}

struct err *ltxn_del(struct ltxn *t, unsigned db, struct bytes key, bool *ret_found)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	struct op o = { .txn = t->txn,
			.dbi = l->dbi[db],
			.key = val_of(key),
			.base = l->map,
			.n = l->map_bytes };
	int rc = store_lmdb_run(l, op_del, &o);
	if (rc != 0 && rc != MDB_NOTFOUND) {
		return store_lmdb_err(l, rc, "removing a record");
	}
	*ret_found = rc == 0;
	return NULL;
}

static int op_stat(struct op *o)
{
	return mdb_stat(o->txn, o->dbi, &o->stat);
}

struct err *ltxn_count(struct ltxn *t, unsigned db, uint64_t *ret_n)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db] };
	int rc = store_lmdb_run(l, op_stat, &o);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "counting records");
	}
	*ret_n = o.stat.ms_entries;
	return NULL;
}

/* ---- cursors ---- */

static int op_cur_open(struct op *o)
{
	return mdb_cursor_open(o->txn, o->dbi, o->cur_out);
}

struct err *lcur_open(struct ltxn *t, unsigned db, struct lcur **ret_cur)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	SCOPE(freep) struct lcur *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->t = t;
	c->db = db;
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .cur_out = &c->cur };
	int rc = store_lmdb_run(l, op_cur_open, &o);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "opening a cursor");
	}
	*ret_cur = MOVE(c);
	return NULL;
}

void lcur_close(struct lcur *c)
{
	if (c == NULL) {
		return;
	}
	if (!atomic_load(&c->t->l->dead)) {
		mdb_cursor_close(c->cur); /* touches only the heap */
	}
	free(c);
}

/* Moves and copies the key while still under the guard. */
static int op_cur_get(struct op *o)
{
	int rc = mdb_cursor_get(o->cur, &o->key, &o->val, o->cur_op);
	if (rc == 0) {
		if (o->key.mv_data == NULL || o->key.mv_size > LENV_KEY_MAX) {
			return MDB_CORRUPTED;
		}
		memcpy(o->dst, o->key.mv_data, o->key.mv_size);
	}
	return rc;
}

static struct err *cur_move(struct lcur *c, struct bytes key, MDB_cursor_op op, bool *ret_found)
{
	struct lenv *l = c->t->l;
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	struct op o = { .cur = c->cur, .cur_op = op, .key = val_of(key), .dst = c->key };
	int rc = store_lmdb_run(l, op_cur_get, &o);
	if (rc == MDB_NOTFOUND) {
		*ret_found = false;
		return NULL;
	}
	if (rc != 0) {
		return store_lmdb_err(l, rc, "walking records");
	}
	c->key_len = o.key.mv_size;
	c->val = o.val;
	*ret_found = true;
	return NULL;
}

struct err *lcur_seek(struct lcur *c, struct bytes key, bool *ret_found)
{
	return cur_move(c, key, key.len == 0 ? MDB_FIRST : MDB_SET_RANGE, ret_found);
}

struct err *lcur_next(struct lcur *c, bool *ret_found)
{
	return cur_move(c, (struct bytes){ 0 }, MDB_NEXT, ret_found);
}

struct bytes lcur_key(const struct lcur *c)
{
	return (struct bytes){ .p = c->key, .len = c->key_len };
}

size_t lcur_value_len(const struct lcur *c)
{
	return c->val.mv_size;
}

struct err *lcur_value(struct lcur *c, size_t max, struct lbuf *buf)
{
	if (atomic_load(&c->t->l->dead)) {
		return store_lmdb_dead(c->t->l);
	}
	return value_copy(c->t->l, &c->val, max, buf);
}
