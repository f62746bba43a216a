/* SPDX-License-Identifier: Apache-2.0 */
/* Tables in memory in place of LMDB. See fake_lmdb.h; used by fuzz targets. */
#include "tests/fuzz/fake_lmdb.h"

#include <string.h>

#define RECORDS_MAX 256u

struct rec {
	unsigned db;
	size_t klen;
	size_t vlen;
	uint8_t *val; /* owned, exactly vlen bytes: a sanitizer sees a read behind its end */
	uint8_t key[LENV_KEY_MAX];
};

struct lenv {
	struct rec rec[RECORDS_MAX]; /* by (db, key) */
	size_t n;
};

struct ltxn {
	struct lenv *l;
};

struct lcur {
	struct lenv *l;
	unsigned db;
	size_t at;
	uint8_t key[LENV_KEY_MAX]; /* copies: a deletion moves the records */
	size_t klen;
};

static struct lenv env;
static struct ltxn txn = { &env };

struct lenv *fake_env(void)
{
	return &env;
}

void fake_clear(void)
{
	for (size_t i = 0; i < env.n; i++) {
		free(env.rec[i].val);
	}
	env.n = 0;
}

static int order(const struct rec *r, unsigned db, struct bytes key)
{
	if (r->db != db) {
		return r->db < db ? -1 : 1;
	}
	size_t n = MIN(r->klen, key.len);
	int c = n > 0 ? memcmp(r->key, key.p, n) : 0;
	return c != 0 ? c : r->klen < key.len ? -1 : r->klen > key.len;
}

/* First record not below (db, key); *ret_same: it is that one. */
static size_t place(unsigned db, struct bytes key, bool *ret_same)
{
	size_t i = 0;
	while (i < env.n && order(&env.rec[i], db, key) < 0) {
		i++;
	}
	*ret_same = i < env.n && order(&env.rec[i], db, key) == 0;
	return i;
}

bool fake_put(unsigned db, struct bytes key, struct bytes val)
{
	bool same;
	size_t i = place(db, key, &same);
	if (key.len == 0 || key.len > LENV_KEY_MAX || (!same && env.n == RECORDS_MAX)) {
		return false;
	}
	uint8_t *copy = malloc(MAX(val.len, (size_t)1));
	BUG_ON(copy == NULL);
	if (val.len > 0) {
		memcpy(copy, val.p, val.len);
	}
	struct rec *r = &env.rec[i];
	if (same) {
		free(r->val);
	} else {
		memmove(r + 1, r, (env.n - i) * sizeof(*r));
		env.n++;
		r->db = db;
		r->klen = key.len;
		memcpy(r->key, key.p, key.len);
	}
	r->val = copy;
	r->vlen = val.len;
	return true;
}

struct err *lenv_open(const struct lenv_opts *opts, struct lenv **ret_env)
{
	(void)opts;
	*ret_env = &env;
	return NULL;
}

void lenv_close(struct lenv *l)
{
	(void)l;
}

struct err *ltxn_begin(struct lenv *l, bool write, struct ltxn **ret_txn)
{
	(void)write;
	BUG_ON(l != &env);
	*ret_txn = &txn;
	return NULL;
}

struct err *ltxn_commit(struct ltxn *t)
{
	(void)t;
	return NULL;
}

void ltxn_abort(struct ltxn *t)
{
	(void)t;
}

void lbuf_done(struct lbuf *b)
{
	free(b->p);
	*b = (struct lbuf){ 0 };
}

/* Into a buffer of exactly that size. */
static struct err *copy_out(const struct rec *r, size_t max, struct lbuf *b)
{
	ENSURE(r->vlen <= max, ERR_CORRUPT, "a value of %zu bytes, at most %zu", r->vlen, max);
	free(b->p);
	b->p = malloc(MAX(r->vlen, (size_t)1));
	BUG_ON(b->p == NULL);
	memcpy(b->p, r->val, r->vlen);
	b->len = r->vlen;
	b->cap = r->vlen;
	return NULL;
}

struct err *ltxn_get(struct ltxn *t, unsigned db, struct bytes key, size_t max, struct lbuf *buf,
		     bool *ret_found)
{
	(void)t;
	size_t i = place(db, key, ret_found);
	return *ret_found ? copy_out(&env.rec[i], max, buf) : NULL;
}

/* A place's offset is the address of the bytes. */
struct err *ltxn_where(struct ltxn *t, unsigned db, struct bytes key, struct lplace *ret_place,
		       bool *ret_found)
{
	(void)t;
	size_t i = place(db, key, ret_found);
	if (*ret_found) {
		*ret_place =
			(struct lplace){ (uint64_t)(uintptr_t)env.rec[i].val, env.rec[i].vlen };
	}
	return NULL;
}

struct err *lenv_pread(struct lenv *l, void *ret, size_t len, uint64_t off)
{
	(void)l;
	memcpy(ret, (const void *)(uintptr_t)off, len);
	return NULL;
}

struct err *ltxn_put(struct ltxn *t, unsigned db, struct bytes key, struct bytes val)
{
	(void)t;
	ENSURE(fake_put(db, key, val), ERR_NOSPACE, "the fake store is full");
	return NULL;
}

struct err *ltxn_del(struct ltxn *t, unsigned db, struct bytes key, bool *ret_found)
{
	(void)t;
	size_t i = place(db, key, ret_found);
	if (*ret_found) {
		free(env.rec[i].val);
		env.n--;
		memmove(&env.rec[i], &env.rec[i + 1], (env.n - i) * sizeof(env.rec[0]));
	}
	return NULL;
}

struct err *ltxn_count(struct ltxn *t, unsigned db, uint64_t *ret_n)
{
	(void)t;
	*ret_n = 0;
	for (size_t i = 0; i < env.n; i++) {
		*ret_n += env.rec[i].db == db;
	}
	return NULL;
}

struct err *lcur_open(struct ltxn *t, unsigned db, struct lcur **ret_cur)
{
	struct lcur *c = calloc(1, sizeof(*c));
	BUG_ON(c == NULL);
	c->l = t->l;
	c->db = db;
	*ret_cur = c;
	return NULL;
}

void lcur_close(struct lcur *c)
{
	free(c);
}

static struct err *stand(struct lcur *c, bool *ret_found)
{
	*ret_found = c->at < env.n && env.rec[c->at].db == c->db;
	if (*ret_found) {
		c->klen = env.rec[c->at].klen;
		memcpy(c->key, env.rec[c->at].key, c->klen);
	}
	return NULL;
}

struct err *lcur_seek(struct lcur *c, struct bytes key, bool *ret_found)
{
	bool same;
	c->at = place(c->db, key, &same);
	return stand(c, ret_found);
}

struct err *lcur_next(struct lcur *c, bool *ret_found)
{
	c->at++;
	return stand(c, ret_found);
}

struct bytes lcur_key(const struct lcur *c)
{
	return (struct bytes){ c->key, c->klen };
}

size_t lcur_value_len(const struct lcur *c)
{
	return env.rec[c->at].vlen;
}

struct err *lcur_value(struct lcur *c, size_t max, struct lbuf *buf)
{
	return copy_out(&env.rec[c->at], max, buf);
}

void lenv_will_need(struct lenv *l, uint64_t off, uint64_t len_bytes)
{
	(void)l;
	(void)off;
	(void)len_bytes;
}

void lenv_prealloc(struct lenv *l, uint64_t len_bytes)
{
	(void)l;
	(void)len_bytes;
}

struct err *lenv_trim(struct lenv *l)
{
	(void)l;
	return NULL;
}

struct err *lenv_space(struct lenv *l, struct lenv_space *ret_space)
{
	(void)l;
	*ret_space = (struct lenv_space){ 0 };
	return NULL;
}

/* Tables in memory have no pages that could be damaged. */
struct err *lenv_check(struct lenv *l, enum lcheck how, uint64_t *ret_lost)
{
	(void)l;
	(void)how;
	*ret_lost = 0;
	return NULL;
}
