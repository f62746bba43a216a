/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of guests. See guest.h. Any thread.
 *
 * I1: DIR/guests is complete as soon as it has that name: it is made under another one, with its
 *     table, and renamed under DIR/lock. So whoever finds it can open it.
 */
#include "store/guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "store/family.h"

#define GUEST_MAP_BYTES (4ull * GIB)

enum {
	GUEST_DB, /* the only table */
	VALUE_BYTES_MAX = 2 * GUEST_TEXT_BYTES_MAX + 256,
};

static const char *const guest_dbs[] = { "guest" };

void store_guest_done(struct store_guest *g)
{
	free(g->wanted);
	free(g->record);
	g->wanted = NULL;
	g->record = NULL;
}

static UNUSED void guest_donep(struct store_guest *g)
{
	store_guest_done(g);
}

void store_guests_free(struct store_guest *g, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		store_guest_done(&g[i]);
	}
	free(g);
}

/* ---- the environment ---- */

static struct err *open_dir(const char *dir, bool create, bool rdonly, struct lenv **ret_env)
{
	const struct lenv_opts opts = {
		.dir = dir,
		.dbs = guest_dbs,
		.ndbs = ARRAY_LEN(guest_dbs),
		.map_bytes = GUEST_MAP_BYTES,
		.create = create,
		.rdonly = rdonly,
		.lists = 1u << GUEST_DB,
	};
	return lenv_open(&opts, ret_env);
}

static struct err *make_dir(const struct store *s, const char *path)
{
	char lock_path[STORE_DIR_MAX + 16];
	char made[STORE_DIR_MAX + 16];
	snprintf(lock_path, sizeof(lock_path), "%s/lock", s->dir);
	snprintf(made, sizeof(made), "%s/guests.new", s->dir);
	SCOPE(fd_close) struct fd lock = FD_NONE;
	bool got;
	TRY(holder_lock_file(lock_path, HOLDER_ALONE, true, &lock, &got));
	struct stat st;
	if (stat(path, &st) == 0) {
		return NULL; /* somebody else was first */
	}
	TRY(io_mkdirs(made)); /* one that was left half made is gone on with */
	SCOPE(lenv_closep) struct lenv *env = NULL;
	TRY(open_dir(made, true, false, &env));
	TRY(io_sync_dir(made));
	lenv_close(MOVE(env));
	if (rename(made, path) != 0) {
		return ERR_ERRNO("store %s: making the registry of guests", s->dir);
	}
	return io_sync_dir(s->dir);
}

/* *ret_env stays NULL where there is none and make is not set. */
static struct err *open_env(struct store *s, bool make, struct lenv **ret_env)
{
	char path[STORE_DIR_MAX + 16];
	struct stat st;
	snprintf(path, sizeof(path), "%s/guests", s->dir);
	if (stat(path, &st) != 0) {
		if (errno != ENOENT) {
			return ERR_ERRNO("%s", path);
		}
		if (!make) {
			return NULL;
		}
		TRY(make_dir(s, path));
	}
	return err_wrap(open_dir(path, false, s->rdonly, ret_env), "registry of guests");
}

/* ---- records ---- */

static struct err *put_guest(struct store *s, struct ltxn *t, const struct store_guest *g)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(VALUE_BYTES_MAX);
	const struct bytes key = { g->name, strlen(g->name) };
	const char *const texts[] = { g->wanted, g->record };
	uint64_t id = hash_xxh3_64(key.p, key.len, 0);
	record_begin(&w, RECORD_GUEST, id);
	wbuf_u8(&w, (uint8_t)key.len);
	wbuf_put(&w, key.p, key.len);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		size_t len = strlen(texts[i]);
		ENSURE(len <= GUEST_TEXT_BYTES_MAX, ERR_LIMIT,
		       "guest %s: %zu bytes of text, at most %u", g->name, len,
		       GUEST_TEXT_BYTES_MAX);
		wbuf_u32(&w, (uint32_t)len);
		wbuf_put(&w, texts[i], len);
	}
	record_seal(&w, RECORD_GUEST, s->uuid, id);
	TRY(wbuf_check(&w));
	return ltxn_put(t, GUEST_DB, key, (struct bytes){ w.p, w.len });
}

static struct err *text_decode(struct rcur *c, char **ret)
{
	uint32_t len;
	const uint8_t *p;
	TRY(rcur_u32(c, &len));
	ENSURE(len <= GUEST_TEXT_BYTES_MAX, ERR_CORRUPT, "a text of %u bytes", len);
	TRY(rcur_take(c, len, &p));
	ENSURE(memchr(p, 0, len) == NULL, ERR_CORRUPT, "a text with a NUL in it");
	char *text = strndup((const char *)p, len);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	*ret = text;
	return NULL;
}

static struct err *decode(struct store *s, struct bytes key, const struct lbuf *b,
			  struct store_guest *ret)
{
	struct rcur c;
	uint8_t n;
	const uint8_t *name;
	TRY(record_open(b->p, b->len, RECORD_GUEST, s->uuid, hash_xxh3_64(key.p, key.len, 0), &c));
	TRY(rcur_u8(&c, &n));
	TRY(rcur_take(&c, n, &name));
	ENSURE(n > 0 && n <= NAME_BYTES_MAX && n == key.len && memcmp(name, key.p, n) == 0 &&
		       memchr(name, 0, n) == NULL,
	       ERR_CORRUPT, "guest record: another guest's, or no name");
	SCOPE(guest_donep) struct store_guest g = { 0 };
	memcpy(g.name, name, n);
	TRY(err_wrap(text_decode(&c, &g.wanted), "guest %s", g.name));
	TRY(err_wrap(text_decode(&c, &g.record), "guest %s", g.name));
	TRY(rcur_end(&c));
	*ret = g;
	g = (struct store_guest){ 0 };
	return NULL;
}

static struct err *get(struct store *s, struct ltxn *t, const char *name, bool *ret_found,
		       struct store_guest *ret)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	const struct bytes key = { name, strlen(name) };
	bool found = false;
	if (key.len > 0 && key.len <= NAME_BYTES_MAX) {
		TRY(ltxn_get(t, GUEST_DB, key, VALUE_BYTES_MAX, &b, &found));
	}
	if (found) {
		TRY(decode(s, key, &b, ret));
	}
	*ret_found = found;
	return NULL;
}

/* ---- the interface ---- */

struct err *store_guest_get(struct store *s, const char *name, bool *ret_found,
			    struct store_guest *ret_guest)
{
	SCOPE(lenv_closep) struct lenv *env = NULL;
	TRY(open_env(s, false, &env));
	if (env == NULL) {
		*ret_found = false;
		return NULL;
	}
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(env, false, &t));
	return get(s, t, name, ret_found, ret_guest);
}

struct guest_list {
	struct store_guest *g;
	size_t n;
};

static UNUSED void list_free(struct guest_list *l)
{
	store_guests_free(l->g, l->n);
}

static struct err *read_all(struct store *s, struct lenv *env, struct guest_list *l)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(env, false, &t));
	uint64_t count;
	TRY(ltxn_count(t, GUEST_DB, &count));
	l->g = calloc(MAX(count, (uint64_t)1), sizeof(*l->g));
	ENSURE(l->g != NULL, ERR_SYS, "out of memory");
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, GUEST_DB, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found && l->n < count) {
		TRY(lcur_value(c, VALUE_BYTES_MAX, &b));
		TRY(decode(s, lcur_key(c), &b, &l->g[l->n]));
		l->n++;
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

struct err *store_guest_list(struct store *s, struct store_guest **ret, size_t *ret_n)
{
	SCOPE(lenv_closep) struct lenv *env = NULL;
	TRY(open_env(s, false, &env));
	SCOPE(list_free) struct guest_list l = { 0 };
	if (env != NULL) {
		TRY(read_all(s, env, &l));
	}
	*ret = MOVE(l.g);
	*ret_n = l.n;
	l.n = 0;
	return NULL;
}

struct err *store_guest_change(struct store *s, const char *name, guest_change_fn *fn, void *arg)
{
	size_t len = strlen(name);
	ENSURE(len > 0 && len <= NAME_BYTES_MAX, ERR_USAGE, "a guest's name has 1 to %u bytes",
	       NAME_BYTES_MAX);
	SCOPE(lenv_closep) struct lenv *env = NULL;
	TRY(open_env(s, true, &env));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(env, true, &t));
	SCOPE(guest_donep) struct store_guest g = { 0 };
	bool found;
	TRY(get(s, t, name, &found, &g));
	if (!found) {
		memcpy(g.name, name, len + 1);
		g.wanted = strdup("");
		g.record = strdup("");
		ENSURE(g.wanted != NULL && g.record != NULL, ERR_SYS, "out of memory");
	}
	enum guest_verdict verdict = GUEST_KEEP;
	TRY(fn(arg, found, &g, &verdict));
	if (verdict == GUEST_KEEP) {
		return NULL;
	}
	if (verdict == GUEST_REMOVE) {
		TRY(ltxn_del(t, GUEST_DB, (struct bytes){ name, len }, &found));
	} else {
		TRY(put_guest(s, t, &g));
	}
	return ltxn_commit(MOVE(t));
}

struct err *store_guest_check(struct store *s, uint64_t *ret_n)
{
	SCOPE(lenv_closep) struct lenv *env = NULL;
	SCOPE(list_free) struct guest_list l = { 0 };
	uint64_t lost = 0;
	TRY(open_env(s, false, &env));
	if (env != NULL) {
		TRY(lenv_check(env, LCHECK_DEEP, &lost));
		ENSURE(lost == 0, ERR_CORRUPT, "registry of guests: %llu pages belong to nothing",
		       (unsigned long long)lost);
		TRY(read_all(s, env, &l));
	}
	*ret_n = l.n;
	return NULL;
}
