/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gives the blocks of free pages back to the file system, which LMDB never does. See store_lmdb.h;
 * called by gc.c and compact.c, never on a take's path, on any thread.
 *
 * LMDB keeps free pages in records by the transaction that freed them. While nobody else can
 * write, a page is punched only if LMDB itself could use it for something new now:
 *
 * P1: the write lock is held, by a transaction that is aborted afterwards. Its number is W; the
 *     newest commit is W - 1 and stands in one meta page, W - 2 in the other, both durable.
 * P2: a page on a record of transaction K is in no tree of transaction K or later. Only records
 *     with K <= W - 2 are taken: their pages are in neither meta page's trees. So neither a power
 *     cut nor recovery from the older meta page can come upon a hole.
 * P3: and only those with K below every reader's transaction. A reader that starts meanwhile reads
 *     W - 1.
 * P4: what LMDB puts into a free page it writes whole, so a hole is as good as any other page.
 */
#include "store/store_lmdb_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
	PUNCH_PAGES_MIN = 4, /* shorter runs only make the file's extents more */
	PUNCH_PAGES_MAX =
		1 << 16, /* while the write lock is held: a quarter of a GiB, about 0.1 s */
};

struct pages {
	uint64_t *v; /* owned */
	size_t n;
	size_t cap;
};

static void pages_done(struct pages *p)
{
	free(p->v);
}

static struct err *pages_room(struct pages *p, size_t more)
{
	if (p->n + more > p->cap) {
		size_t cap = MAX(p->cap * 2, p->n + more);
		uint64_t *v = realloc(p->v, cap * sizeof(*v));
		ENSURE(v != NULL, ERR_SYS, "out of memory");
		p->v = v;
		p->cap = cap;
	}
	return NULL;
}

/* One line of mdb_reader_list: pid, thread, and the transaction or "-". */
static int see_reader(const char *line, void *arg)
{
	uint64_t *oldest = arg;
	int pid;
	unsigned long long thread;
	unsigned long long txn;
	if (sscanf(line, "%d %llx %llu", &pid, &thread, &txn) == 3) {
		*oldest = MIN(*oldest, (uint64_t)txn);
	}
	return 0;
}

static int op_reader_list(struct op *o)
{
	int rc = mdb_reader_list(o->env, see_reader, o->dst);
	return rc < 0 ? EIO : 0;
}

/* Moves to the next record of the free list and copies its key; *dst: size_t[2], key and count. */
static int op_free_next(struct op *o)
{
	int rc = mdb_cursor_get(o->cur, &o->key, &o->val, o->cur_op);
	if (rc == 0) {
		size_t *to = o->dst;
		if (o->key.mv_size != 8 || o->val.mv_size < 8) {
			return MDB_CORRUPTED;
		}
		to[0] = get_le64(o->key.mv_data);
		to[1] = get_le64(o->val.mv_data);
		if (to[1] > o->val.mv_size / 8 - 1) {
			return MDB_CORRUPTED;
		}
	}
	return rc;
}

static int op_free_copy(struct op *o)
{
	memcpy(o->dst, (const uint8_t *)o->val.mv_data + 8, o->n * 8);
	return 0;
}

static int op_free_open(struct op *o)
{
	return mdb_cursor_open(o->txn, 0, o->cur_out);
}

/* All pages of records below `oldest` (P2, P3). */
static struct err *collect(struct lenv *l, struct ltxn *r, uint64_t oldest, struct pages *out)
{
	MDB_cursor *cur = NULL;
	struct op o = { .txn = r->txn, .cur_out = &cur };
	int rc = store_lmdb_run(l, op_free_open, &o);
	struct err *e = NULL;
	for (MDB_cursor_op how = MDB_FIRST; rc == 0; how = MDB_NEXT) {
		size_t head[2];
		o = (struct op){ .cur = cur, .cur_op = how, .dst = head };
		rc = store_lmdb_run(l, op_free_next, &o);
		if (rc != 0 || head[0] >= oldest) {
			break;
		}
		e = pages_room(out, head[1]);
		if (e != NULL) {
			break;
		}
		o.dst = out->v + out->n;
		o.n = head[1];
		rc = store_lmdb_run(l, op_free_copy, &o);
		out->n += rc == 0 ? head[1] : 0;
	}
	if (cur != NULL && !atomic_load(&l->dead)) {
		mdb_cursor_close(cur);
	}
	if (e != NULL) {
		return e;
	}
	return rc == 0 || rc == MDB_NOTFOUND ? NULL
					     : store_lmdb_err(l, rc, "reading the free list");
}

static int page_order(const void *pa, const void *pb)
{
	uint64_t a;
	uint64_t b;
	memcpy(&a, pa, sizeof(a));
	memcpy(&b, pb, sizeof(b));
	return a < b ? -1 : a > b;
}

/* *ret_can false: this file system has no holes. */
static struct err *punch_run(struct lenv *l, uint64_t first, uint64_t n, bool *ret_can)
{
	if (fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * LMDB_PAGE),
		      (off_t)(n * LMDB_PAGE)) < 0) {
		if (errno != EOPNOTSUPP && errno != ENOSYS) {
			return ERR_ERRNO("%s/data.mdb: giving back free pages", l->dir);
		}
		*ret_can = false;
	}
	return NULL;
}

/* Punches runs from page *from on, at most PUNCH_PAGES_MAX; *from is where to go on. */
static struct err *punch_pages(struct lenv *l, const struct pages *p, uint64_t last_pg,
			       uint64_t *from, bool *ret_can)
{
	uint64_t done = 0;
	size_t i = 0;
	while (i < p->n && p->v[i] < *from) {
		i++;
	}
	while (i < p->n && done < PUNCH_PAGES_MAX && *ret_can) {
		size_t end = i + 1;
		while (end < p->n && p->v[end] == p->v[end - 1] + 1) {
			end++;
		}
		ENSURE(p->v[i] >= 2 && p->v[end - 1] <= last_pg, ERR_CORRUPT,
		       "%s: the data file is damaged: page %llu is on the free list", l->dir,
		       (unsigned long long)(p->v[i] < 2 ? p->v[i] : p->v[end - 1]));
		if (end - i >= PUNCH_PAGES_MIN) {
			TRY(punch_run(l, p->v[i], end - i, ret_can));
			done += end - i;
		}
		i = end;
	}
	*from = i < p->n ? p->v[i] : UINT64_MAX;
	return NULL;
}

static struct err *punch_some(struct lenv *l, uint64_t *from, bool *ret_can)
{
	SCOPE(ltxn_abortp) struct ltxn *w = NULL;
	SCOPE(ltxn_abortp) struct ltxn *r = NULL;
	TRY(ltxn_begin(l, true, &w)); /* P1 */
	TRY(ltxn_begin(l, false, &r));
	uint64_t oldest = mdb_txn_id(w->txn) - 1;
	ENSURE(mdb_txn_id(r->txn) == oldest, ERR_NOT_NOW, "%s: a reader sees transaction %llu",
	       l->dir, (unsigned long long)mdb_txn_id(r->txn));
	int dead;
	(void)mdb_reader_check(l->env, &dead); /* a failure only keeps more */
	struct op o = { .env = l->env, .dst = &oldest };
	int rc = store_lmdb_run(l, op_reader_list, &o);
	MDB_envinfo info;
	if (rc == 0) {
		rc = mdb_env_info(l->env, &info);
	}
	if (rc != 0) {
		return store_lmdb_err(l, rc, "listing its readers");
	}
	SCOPE(pages_done) struct pages p = { 0 };
	TRY(collect(l, r, oldest, &p));
	if (p.n == 0) {
		*from = UINT64_MAX;
		return NULL;
	}
	qsort(p.v, p.n, sizeof(*p.v), page_order);
	return punch_pages(l, &p, info.me_last_pgno, from, ret_can);
}

struct err *lenv_punch(struct lenv *l, uint64_t *ret_bytes)
{
	struct stat before;
	struct stat after;
	bool can = true;
	if (fstat(l->fd, &before) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	for (uint64_t from = 0; can && from != UINT64_MAX;) {
		TRY(punch_some(l, &from, &can));
	}
	if (fstat(l->fd, &after) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	*ret_bytes = after.st_blocks < before.st_blocks
			     ? (uint64_t)(before.st_blocks - after.st_blocks) * 512
			     : 0;
	return NULL;
}
