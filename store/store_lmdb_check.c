/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the structure of an environment's data file without LMDB: meta pages, B-trees, free list.
 * See store_lmdb_internal.h; called when an environment is opened, before its first write
 * transaction, and by verify, on any thread.
 *
 * LMDB has no checksums of its own and trusts what it reads: a flipped bit in its structure can
 * hide records, make it write over live pages, or lead it to wild addresses. This file reads pages
 * with pread into memory of its own, checks every length and number before it is used, and refuses
 * what LMDB 0.9 cannot have written (pages of 4 KiB, a 64-bit little-endian machine, no DUPSORT):
 *
 * C1: a meta page's transaction number has the parity of its page, the two numbers differ by one,
 *     and each is the newest key of its own free list: a commit always frees the pages that it
 *     replaced. So neither page can pass for a newer or older one. The older page may be without
 *     trees instead: what a commit that failed had left there is taken out (store_lmdb_mend_meta),
 *     and recovery makes such pages.
 * C2: each page of a tree carries its own number and the flags of its level; its nodes fill it
 *     from `upper` to the end without gap or overlap; keys ascend and keep to their branch's range.
 * C3: no page belongs to two owners (trees, big values, free list) and none lies behind the end.
 * C4: the counts of a table's description are those of its tree.
 */
#include "store/store_lmdb_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/io.h"
#include "core/base/limits.h"

enum {
	META_BYTES = 152, /* of a meta page: header and what LMDB keeps in it */
	DEPTH_MAX = 16,   /* trees of that height hold more than the largest file could */
	META_TRIES = 20,  /* while another process commits, a read may fall between */
	FLAG_BRANCH = 1,
	FLAG_LEAF = 2,
	FLAG_OVERFLOW = 4,
	FLAG_META = 8,
	NODE_HEAD = 8,
	NODE_BIG = 1,
	NODE_TABLE = 2,
	NODE_MAX = 2038, /* larger nodes have their value in pages of its own */
	TABLE_BYTES = 48,
	KEY_MAX = 511,
	FREE_DB_FLAGS = 8, /* MDB_INTEGERKEY */
};
#define META_MAGIC 0xBEEFC0DEu
#define META_VERSION 1u
#define NO_PAGE UINT64_MAX

/* A table's description, as in a meta page or in a node of the main tree. */
struct table {
	uint32_t pad;
	uint16_t flags;
	uint16_t depth;
	uint64_t branch_pages;
	uint64_t leaf_pages;
	uint64_t big_pages;
	uint64_t entries;
	uint64_t root;
};

struct meta {
	struct table free;
	struct table main;
	uint64_t last_pg;
	uint64_t txnid;
};

struct check {
	int fd;
	const char *dir;
	const struct lenv *l;
	enum lcheck how;
	struct meta meta;
	uint8_t *owned; /* owned: a bit per page that has an owner; NULL: not asked for */
	uint64_t nowned;
	unsigned nfound; /* our tables in the main tree */
	/* The tree in hand. */
	const char *name;
	bool is_free;
	bool is_main;
	struct table seen;
	uint8_t page[DEPTH_MAX + 1][LMDB_PAGE];
	uint64_t last_free_key;
};

struct key {
	const uint8_t *p; /* NULL: no bound */
	size_t len;
};

#define BROKEN(c, pg, ...) check_error((c), (pg), __VA_ARGS__)

PRINTF_LIKE(3, 4)
static struct err *check_error(const struct check *c, uint64_t pg, const char *fmt, ...)
{
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return ERR(ERR_CORRUPT,
		   "%s: the data file is damaged: page %llu (table %s): %s; stop using it and run "
		   "verify on a copy",
		   c->dir, (unsigned long long)pg, c->name, text);
}

static struct err *read_at(const struct check *c, void *ret, size_t len, uint64_t off)
{
	return err_wrap(io_pread_full(c->fd, ret, len, off), "%s/data.mdb at offset %llu", c->dir,
			(unsigned long long)off);
}

/* ---- meta pages ---- */

static void table_parse(const uint8_t p[TABLE_BYTES], struct table *t)
{
	t->pad = get_le32(p);
	t->flags = get_le16(p + 4);
	t->depth = get_le16(p + 6);
	t->branch_pages = get_le64(p + 8);
	t->leaf_pages = get_le64(p + 16);
	t->big_pages = get_le64(p + 24);
	t->entries = get_le64(p + 32);
	t->root = get_le64(p + 40);
}

static bool root_fits(const struct table *t, uint64_t last_pg)
{
	return t->root == NO_PAGE ? t->depth == 0 && t->entries == 0
				  : t->root >= 2 && t->root <= last_pg && t->depth >= 1 &&
					    t->depth <= DEPTH_MAX;
}

static struct err *meta_parse(const struct check *c, unsigned i, const uint8_t p[META_BYTES],
			      struct meta *m)
{
	if (get_le16(p + 10) != FLAG_META || get_le32(p + 16) != META_MAGIC) {
		return BROKEN(c, i, "not a meta page");
	}
	if (get_le32(p + 20) != META_VERSION) {
		return ERR(ERR_INCOMPAT, "%s: made by another version of LMDB, or damaged", c->dir);
	}
	table_parse(p + 40, &m->free);
	table_parse(p + 88, &m->main);
	m->last_pg = get_le64(p + 136);
	m->txnid = get_le64(p + 144);
	if (m->free.pad != LMDB_PAGE || m->free.flags != FREE_DB_FLAGS || m->main.pad != 0 ||
	    m->main.flags != 0) {
		return BROKEN(c, i, "page size or flags are impossible");
	}
	if (m->last_pg < 1 || m->last_pg >= UINT64_MAX / LMDB_PAGE ||
	    !root_fits(&m->free, m->last_pg) || !root_fits(&m->main, m->last_pg)) {
		return BROKEN(c, i, "its trees are impossible");
	}
	return NULL;
}

static struct err *metas_once(const struct check *c, struct meta m[2])
{
	uint8_t p[2][META_BYTES];
	TRY(read_at(c, p[0], META_BYTES, 0));
	TRY(read_at(c, p[1], META_BYTES, LMDB_PAGE));
	TRY(meta_parse(c, 0, p[0], &m[0]));
	TRY(meta_parse(c, 1, p[1], &m[1]));
	uint64_t a = m[0].txnid;
	uint64_t b = m[1].txnid;
	bool fresh = a == 0 && b == 0;
	if (!fresh && (a % 2 != 0 || b % 2 != 1 || (a != b + 1 && b != a + 1))) {
		return BROKEN(c, 0, "transaction numbers %llu and %llu of the meta pages",
			      (unsigned long long)a, (unsigned long long)b);
	}
	return NULL;
}

static void short_sleep(void)
{
	struct timespec ts = { .tv_nsec = 1000000 };
	nanosleep(&ts, NULL);
}

/* Both meta pages, read again while another process may be writing one. */
static struct err *metas_read(const struct check *c, struct meta m[2])
{
	struct err *e = metas_once(c, m);
	for (int i = 1; e != NULL && i < META_TRIES; i++) {
		err_drop(e, "perhaps read while it was being written");
		short_sleep();
		e = metas_once(c, m);
	}
	return e;
}

struct err *store_lmdb_check_metas(const char *dir)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct err *e = io_open(path, O_RDONLY, 0, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "to be made");
		return NULL;
	}
	TRY(e);
	uint64_t len;
	TRY(io_size(f.n, &len));
	if (len == 0) { /* a creator was killed before its first write */
		return NULL;
	}
	struct check c = { .fd = f.n, .dir = dir, .name = "meta" };
	struct meta m[2];
	return metas_read(&c, m);
}

/* ---- pages ---- */

static struct err *own(struct check *c, uint64_t pg, uint64_t n)
{
	if (pg < 2 || pg > c->meta.last_pg || n > c->meta.last_pg - pg + 1) {
		return BROKEN(c, pg, "%llu pages from there on do not exist",
			      (unsigned long long)n);
	}
	for (uint64_t i = pg; c->owned != NULL && i < pg + n; i++) {
		uint8_t bit = (uint8_t)(1u << i % 8);
		if ((c->owned[i / 8] & bit) != 0) {
			return BROKEN(c, i, "it has two owners");
		}
		c->owned[i / 8] |= bit;
		c->nowned++;
	}
	return NULL;
}

static int key_cmp(const struct check *c, struct key a, struct key b)
{
	if (c->is_free) {
		uint64_t x = get_le64(a.p);
		uint64_t y = get_le64(b.p);
		return x < y ? -1 : x > y;
	}
	int rc = memcmp(a.p, b.p, MIN(a.len, b.len));
	return rc != 0 ? rc : a.len < b.len ? -1 : a.len > b.len;
}

/* A page's header and node pointers; *ret_n: how many nodes. */
static struct err *page_head(const struct check *c, uint64_t pg, const uint8_t *p, bool leaf,
			     unsigned *ret_n)
{
	if (get_le64(p) != pg) {
		return BROKEN(c, pg, "it carries another number, %llu",
			      (unsigned long long)get_le64(p));
	}
	if (get_le16(p + 10) != (leaf ? FLAG_LEAF : FLAG_BRANCH)) {
		return BROKEN(c, pg, "flags 0x%x, expected a %s", get_le16(p + 10),
			      leaf ? "leaf" : "branch");
	}
	unsigned lower = get_le16(p + 12);
	unsigned upper = get_le16(p + 14);
	unsigned least = leaf || c->is_free ? 1 : 2;
	if (lower % 2 != 0 || lower < LMDB_PAGE_HEAD + 2 * least || lower > upper ||
	    upper > LMDB_PAGE) {
		return BROKEN(c, pg, "bounds %u and %u are impossible", lower, upper);
	}
	*ret_n = (lower - LMDB_PAGE_HEAD) / 2;
	return NULL;
}

/* Bytes of the node at `at` within the page, rounded as LMDB does; 0: impossible. */
static unsigned node_size(const uint8_t *p, unsigned at, bool leaf)
{
	if (at % 2 != 0 || at + NODE_HEAD > LMDB_PAGE) {
		return 0;
	}
	const uint8_t *n = p + at;
	uint64_t size = NODE_HEAD + (uint64_t)get_le16(n + 6);
	if (leaf) {
		size += (get_le16(n + 4) & NODE_BIG) != 0 ? 8 : get_le32(n);
	}
	size += size % 2;
	return size <= LMDB_PAGE - at ? (unsigned)size : 0;
}

/* The nodes fill the page from `upper` on, each byte once. */
static struct err *page_nodes(const struct check *c, uint64_t pg, const uint8_t *p, bool leaf,
			      unsigned n)
{
	uint8_t taken[LMDB_PAGE / 2] = { 0 };
	unsigned upper = get_le16(p + 14);
	unsigned total = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned at = get_le16(p + LMDB_PAGE_HEAD + 2 * i);
		unsigned size = at >= upper ? node_size(p, at, leaf) : 0;
		if (size == 0) {
			return BROKEN(c, pg, "node %u lies outside", i);
		}
		for (unsigned k = at / 2; k < (at + size) / 2; k++) {
			if (taken[k]++ != 0) {
				return BROKEN(c, pg, "node %u overlaps another", i);
			}
		}
		total += size;
	}
	if (total != LMDB_PAGE - upper) {
		return BROKEN(c, pg, "its nodes have %u bytes, not %u", total, LMDB_PAGE - upper);
	}
	return NULL;
}

/* A node's key within the page's range; prev is the one before it. */
static struct err *node_key(const struct check *c, uint64_t pg, const uint8_t *n, struct key prev,
			    struct key low, struct key high, struct key *ret)
{
	struct key k = { .p = n + NODE_HEAD, .len = get_le16(n + 6) };
	if (k.len == 0 || k.len > KEY_MAX || (c->is_free && k.len != 8)) {
		return BROKEN(c, pg, "a key of %zu bytes", k.len);
	}
	if ((prev.p != NULL && key_cmp(c, prev, k) >= 0) ||
	    (low.p != NULL && key_cmp(c, low, k) > 0) ||
	    (high.p != NULL && key_cmp(c, k, high) >= 0)) {
		return BROKEN(c, pg, "keys out of order");
	}
	*ret = k;
	return NULL;
}

/* ---- values ---- */

/* A value with pages of its own. *ret_pg: the first. */
static struct err *big_value(struct check *c, uint64_t pg, const uint8_t *n, uint64_t *ret_pg)
{
	uint64_t len = get_le32(n);
	uint64_t at = get_le64(n + NODE_HEAD + get_le16(n + 6));
	uint64_t npages = store_lmdb_big_pages(len);
	if (c->is_free || c->how == LCHECK_DEEP) {
		if (at < 2 || at > c->meta.last_pg) {
			return BROKEN(c, pg, "a value at page %llu", (unsigned long long)at);
		}
		uint8_t head[LMDB_PAGE_HEAD];
		TRY(read_at(c, head, sizeof(head), at * LMDB_PAGE));
		uint64_t have = get_le32(head + 12);
		/* LMDB may leave a page too many with a free list that shrank. */
		if (get_le64(head) != at || get_le16(head + 10) != FLAG_OVERFLOW || have < npages ||
		    (have > npages && !c->is_free)) {
			return BROKEN(c, at, "it does not begin a value of %llu bytes",
				      (unsigned long long)len);
		}
		npages = have;
	}
	c->seen.big_pages += npages;
	*ret_pg = at;
	return own(c, at, npages);
}

/* One record of the free list: a count and pages in descending order. */
static struct err *free_record(struct check *c, uint64_t pg, const uint8_t *key, const uint8_t *v,
			       size_t len)
{
	uint64_t n = len >= 8 ? get_le64(v) : UINT64_MAX;
	c->last_free_key = get_le64(key);
	if (len % 8 != 0 || n > len / 8 - 1 || c->last_free_key > c->meta.txnid) {
		return BROKEN(c, pg, "a free list of %zu bytes is impossible", len);
	}
	for (uint64_t i = 1; i <= n; i++) {
		uint64_t at = get_le64(v + 8 * i);
		if (i > 1 && at >= get_le64(v + 8 * (i - 1))) {
			return BROKEN(c, pg, "a free list out of order");
		}
		TRY(own(c, at, 1));
	}
	return NULL;
}

static struct err *free_value(struct check *c, uint64_t pg, const uint8_t *n)
{
	size_t len = get_le32(n);
	const uint8_t *key = n + NODE_HEAD;
	if ((get_le16(n + 4) & NODE_BIG) == 0) {
		return free_record(c, pg, key, key + 8, len);
	}
	uint64_t at;
	TRY(big_value(c, pg, n, &at));
	if (len / 8 > c->meta.last_pg + 1) {
		return BROKEN(c, pg, "a free list of %zu bytes is impossible", len);
	}
	SCOPE(freep) uint8_t *v = malloc(len);
	ENSURE(v != NULL, ERR_SYS, "out of memory");
	TRY(read_at(c, v, len, at * LMDB_PAGE + LMDB_PAGE_HEAD));
	return free_record(c, pg, key, v, len);
}

/* One leaf node. Tables in the main tree are only checked as such; see check_tables. */
static struct err *leaf_node(struct check *c, uint64_t pg, const uint8_t *n)
{
	unsigned flags = get_le16(n + 4);
	uint64_t size = NODE_HEAD + (uint64_t)get_le16(n + 6) + get_le32(n);
	bool big = (flags & NODE_BIG) != 0;
	if ((flags & ~(unsigned)(NODE_BIG | NODE_TABLE)) != 0 ||
	    (big != (size > NODE_MAX) && !(big && c->is_free)) ||
	    ((flags & NODE_TABLE) != 0) != c->is_main ||
	    (c->is_main && get_le32(n) != TABLE_BYTES)) {
		return BROKEN(c, pg, "a node with flags 0x%x and %u bytes", flags, get_le32(n));
	}
	c->seen.entries++;
	if (c->is_free) {
		return free_value(c, pg, n);
	}
	uint64_t unused;
	return big ? big_value(c, pg, n, &unused) : NULL;
}

/* ---- trees ---- */

static struct err *walk(struct check *c, uint64_t pg, unsigned left, struct key low,
			struct key high);

static struct err *branch(struct check *c, uint64_t pg, unsigned left, unsigned n, struct key low,
			  struct key high)
{
	const uint8_t *p = c->page[left];
	struct key from = low;
	struct key prev = { 0 };
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *node = p + get_le16(p + LMDB_PAGE_HEAD + 2 * i);
		struct key to = high;
		if (i + 1 < n) {
			const uint8_t *next = p + get_le16(p + LMDB_PAGE_HEAD + 2 * (i + 1));
			TRY(node_key(c, pg, next, prev, low, high, &to));
			prev = to;
		}
		uint64_t child = get_le32(node) | (uint64_t)get_le16(node + 4) << 32;
		TRY(walk(c, child, left - 1, from, to));
		from = to;
	}
	return NULL;
}

/* The page and all below it; `left` is 1 for leaves. */
static struct err *walk(struct check *c, uint64_t pg, unsigned left, struct key low,
			struct key high)
{
	uint8_t *p = c->page[left];
	unsigned n;
	TRY(own(c, pg, 1));
	TRY(read_at(c, p, LMDB_PAGE, pg * LMDB_PAGE));
	TRY(page_head(c, pg, p, left == 1, &n));
	TRY(page_nodes(c, pg, p, left == 1, n));
	if (left > 1) {
		c->seen.branch_pages++;
		return branch(c, pg, left, n, low, high);
	}
	c->seen.leaf_pages++;
	struct key prev = { 0 };
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *node = p + get_le16(p + LMDB_PAGE_HEAD + 2 * i);
		TRY(node_key(c, pg, node, prev, low, high, &prev));
		TRY(leaf_node(c, pg, node));
	}
	return NULL;
}

static struct err *check_tree(struct check *c, const char *name, const struct table *t)
{
	c->name = name;
	c->seen = (struct table){ 0 };
	c->last_free_key = 0;
	if (!root_fits(t, c->meta.last_pg)) {
		return BROKEN(c, t->root, "its root is impossible");
	}
	if (t->root != NO_PAGE) {
		struct key none = { 0 };
		TRY(walk(c, t->root, t->depth, none, none));
	}
	if (c->seen.branch_pages != t->branch_pages || c->seen.leaf_pages != t->leaf_pages ||
	    c->seen.big_pages != t->big_pages || c->seen.entries != t->entries) {
		return BROKEN(c, t->root,
			      "%llu records in %llu+%llu+%llu pages, listed %llu in "
			      "%llu+%llu+%llu",
			      (unsigned long long)c->seen.entries,
			      (unsigned long long)c->seen.branch_pages,
			      (unsigned long long)c->seen.leaf_pages,
			      (unsigned long long)c->seen.big_pages, (unsigned long long)t->entries,
			      (unsigned long long)t->branch_pages,
			      (unsigned long long)t->leaf_pages, (unsigned long long)t->big_pages);
	}
	return NULL;
}

/* ---- tables ---- */

/* One description in the main tree; *ret_db: which of our tables. */
static struct err *table_of(struct check *c, uint64_t pg, const uint8_t *n, unsigned *ret_db,
			    struct table *ret)
{
	size_t len = get_le16(n + 6);
	for (unsigned i = 0; i < c->l->ndbs; i++) {
		if (strlen(c->l->dbs[i]) == len && memcmp(c->l->dbs[i], n + NODE_HEAD, len) == 0) {
			table_parse(n + NODE_HEAD + len, ret);
			if (ret->pad != 0 || ret->flags != 0) {
				return BROKEN(c, pg, "table %s has impossible flags", c->l->dbs[i]);
			}
			*ret_db = i;
			return NULL;
		}
	}
	return BROKEN(c, pg, "an unknown table");
}

/* The main tree is one leaf: there are at most LENV_DBS_MAX tables. */
static struct err *check_tables(struct check *c)
{
	c->is_main = true;
	TRY(check_tree(c, "main", &c->meta.main));
	c->is_main = false;
	if (c->meta.main.root == NO_PAGE) {
		return NULL; /* nothing has been made yet */
	}
	struct table t[LENV_DBS_MAX];
	const uint8_t *p = c->page[1];
	unsigned n = (get_le16(p + 12) - (unsigned)LMDB_PAGE_HEAD) / 2;
	if (c->meta.main.depth != 1 || n != c->l->ndbs) {
		return BROKEN(c, c->meta.main.root, "%u tables, not %u", n, c->l->ndbs);
	}
	for (unsigned i = 0; i < n; i++) {
		unsigned db = 0;
		struct table one;
		TRY(table_of(c, c->meta.main.root, p + get_le16(p + LMDB_PAGE_HEAD + 2 * i), &db,
			     &one));
		t[db] = one;
	}
	for (unsigned i = 0; i < n; i++) {
		if (c->how != LCHECK_LISTS || (c->l->lists >> i & 1) != 0) {
			TRY(check_tree(c, c->l->dbs[i], &t[i]));
		}
	}
	return NULL;
}

static bool is_void(const struct meta *m)
{
	return m->free.root == NO_PAGE && m->main.root == NO_PAGE;
}

/* C1 for one meta page: the newest record of its free list is its own. */
static struct err *newest_free(struct check *c, unsigned i, const struct meta *m)
{
	c->name = "free";
	uint64_t newest = 0;
	uint64_t pg = m->free.root;
	uint8_t *p = c->page[0];
	c->is_free = true;
	for (unsigned left = pg == NO_PAGE ? 0 : m->free.depth; left > 0; left--) {
		unsigned n;
		if (pg < 2 || pg > m->last_pg) {
			return BROKEN(c, i, "its free list is impossible");
		}
		TRY(read_at(c, p, LMDB_PAGE, pg * LMDB_PAGE));
		TRY(page_head(c, pg, p, left == 1, &n));
		TRY(page_nodes(c, pg, p, left == 1, n));
		const uint8_t *node = p + get_le16(p + LMDB_PAGE_HEAD + 2 * (n - 1));
		if (left == 1 && get_le16(node + 6) != 8) {
			return BROKEN(c, pg, "a key of %u bytes", get_le16(node + 6));
		}
		newest = left == 1 ? get_le64(node + NODE_HEAD) : 0;
		pg = get_le32(node) | (uint64_t)get_le16(node + 4) << 32;
	}
	c->is_free = false;
	if (newest != m->txnid && !(m->txnid <= 1 && newest == 0)) {
		return BROKEN(c, i,
			      "a meta page of transaction %llu whose newest record is of %llu",
			      (unsigned long long)m->txnid, (unsigned long long)newest);
	}
	return NULL;
}

static struct err *check_all(struct check *c, uint64_t *ret_lost)
{
	if (c->how != LCHECK_LISTS) {
		c->owned = calloc(c->meta.last_pg / 8 + 1, 1);
		ENSURE(c->owned != NULL, ERR_SYS, "out of memory");
	}
	c->is_free = true;
	TRY(check_tree(c, "free", &c->meta.free));
	c->is_free = false;
	TRY(check_tables(c));
	*ret_lost = c->owned != NULL ? c->meta.last_pg - 1 - c->nowned : 0;
	return NULL;
}

static void check_free(struct check *c)
{
	if (c != NULL) {
		free(c->owned);
		free(c);
	}
}
DEFINE_SCOPE(struct check, check_free)

/*
 * C1 for both pages, read into m. Another process may be between a commit that failed and the end
 * of store_lmdb_mend_meta, so a page that is not as it should be is looked at again for a while.
 */
static struct err *metas_check(struct check *c, unsigned mine, struct meta m[2])
{
	struct err *e = NULL;
	for (int i = 0; i < META_TRIES; i++) {
		err_drop(e, "perhaps read while it was being mended");
		TRY(metas_read(c, m));
		e = newest_free(c, mine, &m[mine]);
		if (e == NULL && !is_void(&m[1 - mine])) {
			e = newest_free(c, 1 - mine, &m[1 - mine]);
		}
		if (e == NULL) {
			return NULL;
		}
		short_sleep();
	}
	return e;
}

static struct err *check_new(struct lenv *l, enum lcheck how, struct check **ret)
{
	struct check *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->fd = l->fd;
	c->dir = l->dir;
	c->l = l;
	c->how = how;
	c->name = "meta";
	*ret = c;
	return NULL;
}

struct err *store_lmdb_check(struct lenv *l, uint64_t txnid, enum lcheck how, uint64_t *ret_lost)
{
	SCOPE(check_freep) struct check *c = NULL;
	TRY(check_new(l, how, &c));
	struct meta m[2];
	unsigned mine = txnid % 2;
	TRY(metas_check(c, mine, m));
	/* Two commits since our transaction began have written over its meta page. */
	bool overtaken = m[mine].txnid != txnid;
	if (overtaken && m[mine].txnid > txnid) {
		return ERR(ERR_NOT_NOW, "%s: is being written to", l->dir);
	}
	if (overtaken || txnid + 1 < m[1 - mine].txnid) {
		return BROKEN(c, mine, "transaction %llu has vanished", (unsigned long long)txnid);
	}
	c->meta = m[mine];
	uint64_t len;
	TRY(io_size(c->fd, &len));
	if (len / LMDB_PAGE <= c->meta.last_pg) {
		return BROKEN(c, c->meta.last_pg, "the file ends before it, after %llu bytes",
			      (unsigned long long)len);
	}
	return check_all(c, ret_lost);
}

struct err *store_lmdb_mend_meta(struct lenv *l)
{
	enum {
		TREES_AT = 40,
		TREES_END = 136,
	};
	SCOPE(check_freep) struct check *c = NULL;
	TRY(check_new(l, LCHECK_LISTS, &c));
	struct meta m[2];
	TRY(metas_read(c, m));
	unsigned older = m[0].txnid > m[1].txnid ? 1 : 0;
	if (is_void(&m[older])) {
		return NULL;
	}
	struct err *e = newest_free(c, older, &m[older]);
	if (e == NULL) {
		return NULL;
	}
	err_drop(e, "this is what is mended");
	uint8_t p[META_BYTES];
	TRY(read_at(c, p, sizeof(p), (uint64_t)older * LMDB_PAGE));
	for (unsigned t = TREES_AT; t < TREES_END; t += TABLE_BYTES) {
		memset(p + t + 6, 0, TABLE_BYTES - 6); /* page size and flags stay */
		put_le64(p + t + 40, NO_PAGE);
	}
	return io_pwrite_full(c->fd, p + TREES_AT, TREES_END - TREES_AT,
			      (uint64_t)older * LMDB_PAGE + TREES_AT);
}
