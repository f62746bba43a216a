/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One VM family: its directory, its LMDB environment, its snapshot records. Implements the family
 * parts of store.h and what family.h shares; any thread.
 *
 * A handle holds a shared lock on DIR/open.lock for as long as it lives; family_remove_empty needs
 * it alone. So a directory never disappears under a handle, and a new handle never uses one that
 * is being removed.
 */
#include "store/family.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"

#define FAMILY_VERSION 1u

enum {
	OPEN_TRIES_MAX = 100, /* each means that the directory was removed just then */
};

static const char *const family_dbs[FAMILY__DBS] = {
	[FAMILY_META] = "meta", [FAMILY_SNAP] = "snap", [FAMILY_BLOB] = "blob",
	[FAMILY_NODE] = "node", [FAMILY_LEAF] = "leaf", [FAMILY_FRAME] = "frame",
	[FAMILY_PEND] = "pend",
};

/* ---- opening ---- */

static void family_path(const struct store *s, const uint8_t uuid[16], char out[FAMILY_DIR_MAX])
{
	char text[37];
	uuid_text(uuid, text);
	snprintf(out, FAMILY_DIR_MAX, "%s/families/%s", s->dir, text);
}

static struct err *env_of(const char *dir, bool create, bool rdonly, struct lenv **ret_env)
{
	struct lenv_opts opts = {
		.dir = dir,
		.dbs = family_dbs,
		.ndbs = FAMILY__DBS,
		.map_bytes = STORE_MAP_BYTES,
		.create = create,
		.rdonly = rdonly,
		.lists = 1u << FAMILY_META | 1u << FAMILY_SNAP | 1u << FAMILY_PEND,
	};
	return lenv_open(&opts, ret_env);
}

/* Takes the presence lock, making the directory if asked. *ret_gone: removed meanwhile. */
static struct err *presence_take(struct family *f, bool create, bool *ret_gone)
{
	*ret_gone = false;
	if (create) {
		TRY(io_mkdirs(f->holders));
	}
	char path[FAMILY_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/open.lock", f->dir);
	bool got;
	struct err *e = holder_lock_file(path, HOLDER_SHARED, create, &f->presence, &got);
	if (e != NULL && err_class(e) == ERR_NOTFOUND && create) {
		err_drop(e, "its directory was removed between making and locking it");
		*ret_gone = true;
		return NULL;
	}
	TRY(e);
	/* Under the lock the directory stays. A removal that was cut off may have left it without.
	 */
	return create || f->rdonly ? NULL : io_mkdirs(f->holders);
}

/*
 * Makes a new environment's directory entries durable, then writes its first records: whoever sees
 * those may rely on the entries, also when their maker is dead.
 */
static struct err *family_init(struct family *f, const char *families)
{
	TRY(io_sync_dir(f->dir));
	TRY(io_sync_dir(families));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	uint64_t version;
	uint64_t unused;
	TRY(family_meta_get(f, t, FAMILY_KEY_FORMAT, &version, &unused));
	if (version != 0) {
		return NULL;
	}
	TRY(family_meta_put(f, t, FAMILY_KEY_FORMAT, FAMILY_VERSION, 0));
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, 1, 1));
	return ltxn_commit(MOVE(t));
}

static struct err *family_check(struct family *f, const struct store *s, bool create)
{
	for (bool made = false;; made = true) {
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		TRY(ltxn_begin(f->env, false, &t));
		uint64_t version;
		uint64_t unused;
		/* All of them: a counter that cannot be found would begin again, and ids with it. */
		TRY(family_meta_check(f, t, &unused));
		ENSURE(unused == 0 || unused >= 2, ERR_CORRUPT, "family %s: a counter is missing",
		       f->dir);
		TRY(family_meta_get(f, t, FAMILY_KEY_FORMAT, &version, &unused));
		if (version == 0 && create && !made) {
			ltxn_abort(MOVE(t));
			char families[STORE_DIR_MAX + 16];
			snprintf(families, sizeof(families), "%s/families", s->dir);
			TRY(family_init(f, families));
			continue;
		}
		ENSURE(version != 0, ERR_NOTFOUND, "family %s: not set up", f->dir);
		ENSURE(version == FAMILY_VERSION, ERR_INCOMPAT,
		       "family %s has format %llu, this torpor knows %u", f->dir,
		       (unsigned long long)version, FAMILY_VERSION);
		return NULL;
	}
}

struct err *family_open(struct store *s, const uint8_t uuid[16], bool create,
			struct family **ret_family)
{
	create = create && !s->rdonly;
	SCOPE(family_closep) struct family *f = calloc(1, sizeof(*f));
	ENSURE(f != NULL, ERR_SYS, "out of memory");
	f->presence = FD_NONE;
	memcpy(f->uuid, uuid, sizeof(f->uuid));
	f->rdonly = s->rdonly;
	family_path(s, uuid, f->dir);
	snprintf(f->holders, sizeof(f->holders), "%s/holders", f->dir);
	map_zero_init(&f->zero);
	bool gone = true;
	for (int i = 0; gone && i < OPEN_TRIES_MAX; i++) {
		TRY(presence_take(f, create, &gone));
	}
	ENSURE(!gone, ERR_NOT_NOW, "family %s: is removed again and again", f->dir);
	TRY(env_of(f->dir, create, s->rdonly, &f->env));
	TRY(family_check(f, s, create));
	*ret_family = MOVE(f);
	return NULL;
}

void family_close(struct family *f)
{
	if (f != NULL) {
		lenv_close(f->env);
		fd_close(&f->presence);
		free(f);
	}
}

/* ---- removing the directory ---- */

static void dir_closep(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

/* Removes the files of one directory and the directory; no deeper ones. */
static struct err *remove_flat(const char *dir, const char *keep_for_last)
{
	SCOPE(dir_closep) DIR *d = opendir(dir);
	if (d == NULL) {
		return errno == ENOENT ? NULL : ERR_ERRNO("%s", dir);
	}
	const struct dirent *ent;
	while ((ent = readdir(d)) != NULL) {
		if (strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0 &&
		    strcmp(ent->d_name, keep_for_last) != 0 &&
		    unlinkat(dirfd(d), ent->d_name, 0) < 0 && errno != ENOENT && errno != EISDIR) {
			return ERR_ERRNO("removing %s/%s", dir, ent->d_name);
		}
	}
	if (keep_for_last[0] != 0 && unlinkat(dirfd(d), keep_for_last, 0) < 0) {
		return ERR_ERRNO("removing %s/%s", dir, keep_for_last);
	}
	if (rmdir(dir) < 0 && errno != ENOENT) {
		return ERR_ERRNO("removing %s", dir);
	}
	return NULL;
}

static struct err *count_published(void *arg, const struct snap_rec *r)
{
	size_t *n = arg;
	*n += !r->hidden;
	return NULL;
}

static struct err *is_empty(const char *dir, const uint8_t uuid[16], bool *ret_empty)
{
	struct family f = { .presence = FD_NONE };
	memcpy(f.uuid, uuid, sizeof(f.uuid));
	SCOPE(lenv_closep) struct lenv *env = NULL;
	struct err *e = env_of(dir, false, false, &env);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "a half-made environment holds nothing");
		*ret_empty = true;
		return NULL;
	}
	TRY(e);
	f.env = env;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(env, false, &t));
	size_t n = 0;
	/* A damaged record is an error: it may be a snapshot that can be rescued. */
	TRY(family_snap_each(&f, t,
			     &(struct family_snap_visit){ .snap = count_published, .arg = &n }));
	*ret_empty = n == 0;
	return NULL;
}

struct err *family_remove_empty(struct store *s, const uint8_t uuid[16])
{
	ENSURE(!s->rdonly, ERR_NOT_NOW, "store %s: opened for reading only", s->dir);
	char dir[FAMILY_DIR_MAX];
	char path[FAMILY_DIR_MAX + 16];
	family_path(s, uuid, dir);
	snprintf(path, sizeof(path), "%s/open.lock", dir);
	SCOPE(fd_close) struct fd lock = FD_NONE;
	bool got;
	struct err *e = holder_lock_file(path, HOLDER_TRY, false, &lock, &got);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "there is nothing to remove");
		return NULL;
	}
	TRY(e);
	/* Sessions and leases keep a family handle, so with the lock alone there is none. */
	bool empty = false;
	if (got) {
		TRY(is_empty(dir, uuid, &empty));
	}
	if (!empty) {
		return NULL;
	}
	snprintf(path, sizeof(path), "%s/holders", dir);
	TRY(remove_flat(path, ""));
	TRY(remove_flat(dir, "open.lock"));
	snprintf(path, sizeof(path), "%s/families", s->dir);
	return io_sync_dir(path);
}

/* ---- counters ---- */

struct err *family_meta_get(struct family *f, struct ltxn *t, struct bytes key, uint64_t *ret_a,
			    uint64_t *ret_b)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	bool found;
	TRY(ltxn_get(t, FAMILY_META, key, SMALL_BYTES_MAX, &b, &found));
	if (!found) {
		*ret_a = 0;
		*ret_b = 0;
		return NULL;
	}
	return err_wrap(meta_decode(b.p, b.len, f->uuid, key, ret_a, ret_b), "counter %.*s",
			(int)MIN(key.len, (size_t)3), (const char *)key.p);
}

/* A record stands for its key, so one that was moved by a damaged key is found. */
struct err *family_meta_check(struct family *f, struct ltxn *t, uint64_t *ret_n)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, FAMILY_META, &c));
	bool found;
	uint64_t n = 0;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	for (; found; n++) {
		uint64_t unused;
		TRY(lcur_value(c, SMALL_BYTES_MAX, &b));
		TRY(err_wrap(meta_decode(b.p, b.len, f->uuid, lcur_key(c), &unused, &unused),
			     "family %s: a counter", f->dir));
		TRY(lcur_next(c, &found));
	}
	*ret_n = n;
	return NULL;
}

struct err *family_meta_put(struct family *f, struct ltxn *t, struct bytes key, uint64_t a,
			    uint64_t b)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SMALL_BYTES_MAX);
	meta_encode(&w, f->uuid, key, a, b);
	TRY(wbuf_check(&w));
	return ltxn_put(t, FAMILY_META, key, (struct bytes){ w.p, w.len });
}

struct family_key_number family_key_number(const uint8_t vm[16])
{
	struct family_key_number k;
	memcpy(k.b, "num", 3);
	memcpy(k.b + 3, vm, 16);
	return k;
}

/* ---- snapshot records ---- */

struct err *family_snap_get(struct family *f, struct ltxn *t, uint64_t id, bool *ret_found,
			    struct snap_rec *ret_rec)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	struct key8 key = key_of_id(id);
	bool found;
	TRY(ltxn_get(t, FAMILY_SNAP, KEY_BYTES(key), SNAP_BYTES_MAX, &b, &found));
	if (found) {
		TRY(snaprec_decode(b.p, b.len, f->uuid, id, ret_rec));
	}
	*ret_found = found;
	return NULL;
}

struct err *family_snap_put(struct family *f, struct ltxn *t, const struct snap_rec *r)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SNAP_BYTES_MAX);
	snaprec_encode(&w, f->uuid, r);
	TRY(wbuf_check(&w));
	struct key8 key = key_of_id(r->info.id);
	return ltxn_put(t, FAMILY_SNAP, KEY_BYTES(key), (struct bytes){ w.p, w.len });
}

struct err *family_snap_each(struct family *f, struct ltxn *t, const struct family_snap_visit *v)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, FAMILY_SNAP, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		uint64_t id;
		struct snap_rec r;
		TRY(id_of_key(lcur_key(c), "snap", &id));
		struct err *e = lcur_value(c, SNAP_BYTES_MAX, &b);
		if (e == NULL) {
			e = snaprec_decode(b.p, b.len, f->uuid, id, &r);
		}
		if (e == NULL) {
			e = v->snap(v->arg, &r);
			snaprec_done(&r);
		} else if (v->damaged != NULL) {
			e = v->damaged(v->arg, id, e);
		}
		TRY(e);
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

struct snap_list {
	struct snap_info *infos; /* owned */
	size_t n;
	size_t cap;
	struct err *damage; /* owned; the first */
};

static struct err *list_add(void *arg, const struct snap_rec *r)
{
	struct snap_list *l = arg;
	if (r->hidden) {
		return NULL;
	}
	if (l->n == l->cap) {
		size_t cap = l->cap == 0 ? 16 : l->cap * 2;
		struct snap_info *p = realloc(l->infos, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		l->infos = p;
		l->cap = cap;
	}
	l->infos[l->n++] = r->info;
	return NULL;
}

static struct err *list_damage(void *arg, uint64_t id, struct err *e)
{
	struct snap_list *l = arg;
	(void)id; /* the message has it */
	l->damage = err_first(l->damage, e);
	return NULL;
}

static int snap_order(const void *pa, const void *pb)
{
	const struct snap_info *a = pa;
	const struct snap_info *b = pb;
	int c = memcmp(a->vm, b->vm, sizeof(a->vm));
	return c != 0 ? c : a->number < b->number ? -1 : a->number > b->number;
}

struct err *family_snaps_sound(struct family *f, struct snap_info **ret, size_t *ret_n,
			       struct err **ret_damage)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	struct snap_list l = { .infos = calloc(1, sizeof(struct snap_info)) };
	ENSURE(l.infos != NULL, ERR_SYS, "out of memory");
	l.cap = 1;
	struct err *e = family_snap_each(f, t,
					 &(struct family_snap_visit){
						 .snap = list_add,
						 .damaged = list_damage,
						 .arg = &l,
					 });
	if (e != NULL) {
		free(l.infos);
		err_free(l.damage);
		return e;
	}
	qsort(l.infos, l.n, sizeof(*l.infos), snap_order);
	*ret = l.infos;
	*ret_n = l.n;
	*ret_damage = l.damage;
	return NULL;
}

struct err *family_snaps(struct family *f, struct snap_info **ret, size_t *ret_n)
{
	struct err *damage;
	struct snap_info *infos;
	size_t n;
	TRY(family_snaps_sound(f, &infos, &n, &damage));
	if (damage != NULL) {
		free(infos);
		return damage;
	}
	*ret = infos;
	*ret_n = n;
	return NULL;
}

struct err *family_snap_by_id(struct family *f, uint64_t id, bool *ret_found,
			      struct snap_info *ret_info)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	bool found;
	struct snap_rec r;
	TRY(family_snap_get(f, t, id, &found, &r));
	if (found) {
		found = !r.hidden;
		if (found) {
			*ret_info = r.info;
		}
		snaprec_done(&r);
	}
	*ret_found = found;
	return NULL;
}

/* ---- leases ---- */

struct lease_search {
	uint64_t snap_id;
	bool found;
};

static struct err *lease_match(void *arg, const uint8_t id[HOLDER_ID_BYTES], const char *text)
{
	struct lease_search *s = arg;
	unsigned long long snap;
	(void)id;
	if (sscanf(text, FAMILY_LEASE_FMT, &snap) == 1 && snap == s->snap_id) {
		s->found = true;
	}
	return NULL;
}

struct err *family_leased(struct family *f, uint64_t snap_id, bool *ret_leased)
{
	struct lease_search s = { .snap_id = snap_id };
	TRY(holder_each(f->holders, true, lease_match, &s));
	*ret_leased = s.found;
	return NULL;
}

/* ---- usage ---- */

struct err *family_usage(struct family *f, struct store_usage *ret_usage)
{
	struct lenv_space space;
	TRY(lenv_space(f->env, &space));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	struct store_usage u = { .file_bytes = space.allocated_bytes };
	TRY(ltxn_count(t, FAMILY_FRAME, &u.frames));
	TRY(ltxn_count(t, FAMILY_LEAF, &u.leaves));
	TRY(ltxn_count(t, FAMILY_NODE, &u.nodes));
	TRY(ltxn_count(t, FAMILY_BLOB, &u.blobs));
	TRY(ltxn_count(t, FAMILY_SNAP, &u.snaps));
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, FAMILY_FRAME, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		u.frame_bytes += lcur_value_len(c);
		TRY(lcur_next(c, &found));
	}
	*ret_usage = u;
	return NULL;
}
