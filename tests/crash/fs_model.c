/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a power cut may leave of a directory. See fs_model.h; used by replay.c.
 *
 * I1: `cur` of a file is its newest content, `dur` its durable one; `pend` are the writes between,
 *     oldest first, which lead from dur to cur.
 * I2: `names` of a directory are its durable entries; steps that are not durable stand in
 *     fs_model.step, oldest first. The newest entries are names with all steps taken.
 */
#include "tests/crash/fs_model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/bytes.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "tests/crash/crash_vm.h"

enum {
	SECTOR = 512,
	SECTORS = PAGE_BYTES / SECTOR,
	NAME_LEN = 128,
	NAMES_MAX = 64, /* of one directory */
	HANDLES_MAX = 65536,
	FILE_BYTES_MAX = 256 << 20,
};

struct image {
	uint8_t *p; /* owned */
	size_t len;
	size_t cap;
};

struct pend {
	uint64_t off;
	uint64_t len;     /* of the write; of the file after a truncate */
	const uint8_t *p; /* NULL: a truncate */
	bool durable;     /* through O_DSYNC and returned */
};

struct name {
	char text[NAME_LEN];
	struct node *node; /* NULL: unused */
};

struct node {
	struct node *next; /* of all, to free them */
	bool dir;
	bool lock_file; /* its bytes are a map's: any may be found */
	struct image cur;
	struct image dur;
	struct pend *pend; /* owned */
	size_t npend;
	size_t cap_pend;
	struct name names[]; /* NAMES_MAX of them in a directory */
};

/* A change of one name (b NULL) or a move from a to b. */
struct step {
	struct node *dir_a;
	char a[NAME_LEN];
	struct node *node_a; /* what a is afterwards; NULL: nothing */
	struct node *dir_b;  /* NULL: no second name */
	char b[NAME_LEN];
	struct node *node_b;
};

struct fs_model {
	struct node *all;
	struct node *root;
	struct node **handle; /* owned; HANDLES_MAX */
	struct step *step;    /* owned */
	size_t nsteps;
	size_t cap_steps;
};

/* ---- images ---- */

static void image_write(struct image *im, uint64_t off, const uint8_t *p, uint64_t len)
{
	BUG_ON(off + len > FILE_BYTES_MAX);
	if (off + len > im->cap) {
		size_t cap = MAX(im->cap * 2, (size_t)(off + len));
		im->p = realloc(im->p, cap);
		BUG_ON(im->p == NULL);
		im->cap = cap;
	}
	if (off > im->len) {
		memset(im->p + im->len, 0, off - im->len);
	}
	if (len > 0) {
		memcpy(im->p + off, p, len);
	}
	im->len = MAX(im->len, (size_t)(off + len));
}

static void image_resize(struct image *im, uint64_t len)
{
	if (len > im->len) {
		image_write(im, len, NULL, 0);
	}
	im->len = len;
}

static void image_copy(struct image *to, const struct image *from)
{
	to->len = 0;
	image_write(to, 0, from->p, from->len);
}

/* ---- nodes and names ---- */

static struct node *node_new(struct fs_model *m, bool dir)
{
	struct node *n = calloc(1, sizeof(*n) + (dir ? NAMES_MAX * sizeof(struct name) : 0));
	BUG_ON(n == NULL);
	n->dir = dir;
	n->next = m->all;
	m->all = n;
	return n;
}

static struct node **name_slot(struct name names[NAMES_MAX], const char *text)
{
	struct name *unused = NULL;
	for (size_t i = 0; i < NAMES_MAX; i++) {
		if (names[i].node != NULL && strcmp(names[i].text, text) == 0) {
			return &names[i].node;
		}
		if (names[i].node == NULL && unused == NULL) {
			unused = &names[i];
		}
	}
	BUG_ON(unused == NULL || strlen(text) >= NAME_LEN);
	snprintf(unused->text, NAME_LEN, "%s", text);
	return &unused->node;
}

static void step_take(const struct step *s, struct node *dir, struct name names[NAMES_MAX])
{
	if (s->dir_a == dir) {
		*name_slot(names, s->a) = s->node_a;
	}
	if (s->dir_b == dir) {
		*name_slot(names, s->b) = s->node_b;
	}
}

/* The newest entries of a directory. */
static void names_now(const struct fs_model *m, struct node *dir, struct name names[NAMES_MAX])
{
	memcpy(names, dir->names, NAMES_MAX * sizeof(names[0]));
	for (size_t i = 0; i < m->nsteps; i++) {
		step_take(&m->step[i], dir, names);
	}
}

/* The directory of a path and its last name. */
static struct err *walk(const struct fs_model *m, const char *path, size_t len,
			struct node **ret_dir, char ret_name[NAME_LEN])
{
	struct node *dir = m->root;
	const char *end = path + len;
	for (;;) {
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash != NULL ? slash : end) - path);
		ENSURE(n > 0 && n < NAME_LEN, ERR_CORRUPT, "trace: a path that is none");
		memcpy(ret_name, path, n);
		ret_name[n] = 0;
		if (slash == NULL) {
			*ret_dir = dir;
			return NULL;
		}
		struct name names[NAMES_MAX];
		names_now(m, dir, names);
		struct node *next = *name_slot(names, ret_name);
		ENSURE(next != NULL && next->dir, ERR_CORRUPT, "trace: %s is no directory",
		       ret_name);
		dir = next;
		path = slash + 1;
	}
}

static struct node *lookup(const struct fs_model *m, struct node *dir, const char *name)
{
	struct name names[NAMES_MAX];
	names_now(m, dir, names);
	return *name_slot(names, name);
}

static void step_add(struct fs_model *m, const struct step *s)
{
	if (m->nsteps == m->cap_steps) {
		m->cap_steps = MAX(m->cap_steps * 2, (size_t)64);
		m->step = realloc(m->step, m->cap_steps * sizeof(*m->step));
		BUG_ON(m->step == NULL);
	}
	m->step[m->nsteps++] = *s;
}

/* Everything of that directory becomes durable. */
static void sync_dir(struct fs_model *m, struct node *dir)
{
	size_t kept = 0;
	for (size_t i = 0; i < m->nsteps; i++) {
		struct step s = m->step[i];
		if (s.dir_a == dir || s.dir_b == dir) {
			BUG_ON(s.dir_b != NULL && s.dir_a != s.dir_b);
			step_take(&s, dir, dir->names);
		} else {
			m->step[kept++] = s;
		}
	}
	m->nsteps = kept;
}

/* ---- operations ---- */

static void pend_add(struct node *n, struct pend p)
{
	if (n->npend == n->cap_pend) {
		n->cap_pend = MAX(n->cap_pend * 2, (size_t)64);
		n->pend = realloc(n->pend, n->cap_pend * sizeof(*n->pend));
		BUG_ON(n->pend == NULL);
	}
	n->pend[n->npend++] = p;
	if (p.p == NULL) {
		image_resize(&n->cur, p.len);
	} else {
		image_write(&n->cur, p.off, p.p, p.len);
	}
}

static struct err *apply_open(struct fs_model *m, const struct trace_head *h, const char *path)
{
	struct node *dir;
	char name[NAME_LEN];
	ENSURE(h->handle < HANDLES_MAX, ERR_CORRUPT, "trace: handle %u", h->handle);
	if (h->path_len == 0) {
		m->handle[h->handle] = m->root;
		return NULL;
	}
	TRY(walk(m, path, h->path_len, &dir, name));
	struct node *n = lookup(m, dir, name);
	ENSURE((n == NULL) == (h->made != 0), ERR_CORRUPT, "trace: %s %s", name,
	       n == NULL ? "was opened but never made" : "was made twice");
	if (n == NULL) {
		n = node_new(m, false);
		n->lock_file = strcmp(name, "lock.mdb") == 0 || strstr(name, "-lock") != NULL;
		struct step s = { .dir_a = dir, .node_a = n };
		snprintf(s.a, sizeof(s.a), "%s", name);
		step_add(m, &s);
	} else if ((h->arg & O_TRUNC) != 0) {
		pend_add(n, (struct pend){ .len = 0 });
	}
	m->handle[h->handle] = n;
	return NULL;
}

static struct err *apply_names(struct fs_model *m, const struct trace_head *h, const char *path,
			       const uint8_t *bytes)
{
	struct step s = { 0 };
	TRY(walk(m, path, h->path_len, &s.dir_a, s.a));
	if (h->op == TRACE_MKDIR) {
		s.node_a = node_new(m, true);
	} else if (h->op != TRACE_UNLINK) {
		TRY(walk(m, (const char *)bytes, h->len, &s.dir_b, s.b));
		s.node_b = lookup(m, s.dir_a, s.a);
		s.node_a = h->op == TRACE_LINK ? s.node_b : NULL;
		ENSURE(s.node_b != NULL && s.dir_a == s.dir_b, ERR_CORRUPT,
		       "trace: a move of %s that the model does not know", s.a);
	}
	step_add(m, &s);
	return NULL;
}

struct err *fs_model_apply(struct fs_model *m, const struct trace_head *h, const char *path,
			   const uint8_t *bytes)
{
	ENSURE(h->handle < HANDLES_MAX, ERR_CORRUPT, "trace: handle %u", h->handle);
	struct node *n = m->handle[h->handle];
	switch (h->op) {
	case TRACE_OPEN:
		return apply_open(m, h, path);
	case TRACE_MKDIR:
	case TRACE_RENAME:
	case TRACE_LINK:
	case TRACE_UNLINK:
		return apply_names(m, h, path, bytes);
	case TRACE_MARK:
		return NULL;
	default:
		break;
	}
	ENSURE(n != NULL, ERR_CORRUPT, "trace: operation %u on a handle that is closed", h->op);
	switch (h->op) {
	case TRACE_CLOSE:
		m->handle[h->handle] = NULL;
		return NULL;
	case TRACE_WRITE:
		pend_add(n, (struct pend){ .off = h->off,
					   .len = h->len,
					   .p = bytes,
					   .durable = h->made != 0 });
		return NULL;
	case TRACE_TRUNCATE:
		if (h->off != n->cur.len) {
			pend_add(n, (struct pend){ .len = h->off });
		}
		return NULL;
	case TRACE_SYNC:
		if (n->dir) {
			sync_dir(m, n);
		} else {
			image_copy(&n->dur, &n->cur);
			n->npend = 0;
		}
		return NULL;
	case TRACE_MAPPED:
		ENSURE(n->lock_file, ERR_CORRUPT, "a file but lock.mdb is mapped for writing");
		return NULL;
	default:
		return ERR(ERR_CORRUPT, "trace: operation %u", h->op);
	}
}

/* ---- cuts: bytes ---- */

struct lot {
	enum fs_cut cut;
	uint64_t seed;
	unsigned keep_percent; /* this state's own inclination */
	bool noise;            /* what was never written reads as noise */
};

static bool lot_keep(struct lot *l)
{
	return crash_random(&l->seed) % 100 < l->keep_percent;
}

/* How many of the `all` changes of a page or sector, but at least `least`, are there. */
static unsigned lot_pick(struct lot *l, unsigned least, unsigned all)
{
	if (l->cut == FS_NOTHING) {
		return least;
	}
	if (l->cut == FS_ALL || lot_keep(l)) {
		return all;
	}
	return least + (unsigned)(crash_random(&l->seed) % (all - least + 1));
}

/* The length: any between what O_DSYNC or the last sync left and the newest. */
static uint64_t lot_len(struct lot *l, const struct node *n)
{
	uint64_t least = n->dur.len;
	for (size_t i = 0; i < n->npend; i++) {
		if (n->pend[i].durable) {
			least = MAX(least, n->pend[i].off + n->pend[i].len);
		}
	}
	uint64_t most = n->cur.len;
	if (l->cut == FS_NOTHING || most <= least) {
		return least;
	}
	if (l->cut == FS_ALL || lot_keep(l)) {
		return most;
	}
	uint64_t at = least + crash_random(&l->seed) % (most - least + 1);
	return l->cut == FS_TORN ? at - at % SECTOR : MAX(least, at - at % PAGE_BYTES);
}

/* With a truncate among the changes: a prefix of them, in order. */
static void cut_prefix(struct lot *l, const struct node *n, struct image *out)
{
	unsigned k = lot_pick(l, 0, (unsigned)n->npend);
	for (unsigned i = 0; i < k; i++) {
		const struct pend *p = &n->pend[i];
		if (p->p == NULL) {
			image_resize(out, p->len);
		} else {
			image_write(out, p->off, p->p, p->len);
		}
	}
}

/* Number of changes of each page, and how many of them an O_DSYNC write made durable. */
static void count_changes(const struct node *n, unsigned *all, unsigned *least)
{
	for (size_t i = 0; i < n->npend; i++) {
		const struct pend *p = &n->pend[i];
		for (uint64_t pg = p->off / PAGE_BYTES; pg * PAGE_BYTES < p->off + p->len; pg++) {
			all[pg]++;
			if (p->durable) {
				least[pg] = all[pg];
			}
		}
	}
}

/* Writes the part of p that lies in sector s of page pg. */
static void write_sector(struct image *out, const struct pend *p, uint64_t pg, unsigned s)
{
	uint64_t from = MAX(p->off, pg * PAGE_BYTES + s * SECTOR);
	uint64_t to = MIN(p->off + p->len, pg * PAGE_BYTES + (s + 1) * SECTOR);
	if (from < to) {
		image_write(out, from, p->p + (from - p->off), to - from);
	}
}

static void cut_pages(struct lot *l, const struct node *n, struct image *out)
{
	uint64_t len = lot_len(l, n);
	size_t pages = n->cur.len / PAGE_BYTES + 1;
	unsigned *all = calloc(pages, sizeof(*all));
	unsigned *least = calloc(pages, sizeof(*least));
	unsigned *seen = calloc(pages, sizeof(*seen));
	unsigned(*pick)[SECTORS] = calloc(pages, sizeof(*pick));
	BUG_ON(all == NULL || least == NULL || seen == NULL || pick == NULL);
	count_changes(n, all, least);
	for (size_t pg = 0; pg < pages; pg++) {
		bool torn = l->cut == FS_TORN && crash_random(&l->seed) % 2 == 0;
		unsigned whole = lot_pick(l, least[pg], all[pg]);
		for (unsigned s = 0; s < SECTORS; s++) {
			pick[pg][s] = torn ? lot_pick(l, least[pg], all[pg]) : whole;
		}
	}
	if (l->noise && len > out->len) {
		size_t from = out->len;
		image_resize(out, len);
		for (size_t i = from; i < len; i++) {
			out->p[i] = (uint8_t)(i * 31 + (i >> 9) + l->seed);
		}
	}
	for (size_t i = 0; i < n->npend; i++) {
		const struct pend *p = &n->pend[i];
		for (uint64_t pg = p->off / PAGE_BYTES; pg * PAGE_BYTES < p->off + p->len; pg++) {
			seen[pg]++;
			for (unsigned s = 0; s < SECTORS; s++) {
				if (seen[pg] <= pick[pg][s]) {
					write_sector(out, p, pg, s);
				}
			}
		}
	}
	image_resize(out, len);
	free(all);
	free(least);
	free(seen);
	free(pick);
}

/* lock.mdb is written through a map: after a cut it may hold anything. */
static void cut_lock(struct lot *l, struct image *out)
{
	static const size_t lens[] = { 0, 100, 8192, 65536 };
	size_t len = lens[crash_random(&l->seed) % ARRAY_LEN(lens)];
	bool zero = crash_random(&l->seed) % 2 == 0;
	image_resize(out, 0);
	image_resize(out, len);
	for (size_t i = 0; i < len && !zero; i++) {
		out->p[i] = (uint8_t)crash_random(&l->seed);
	}
}

static void cut_file(struct lot *l, const struct node *n, struct image *out)
{
	image_copy(out, &n->dur);
	bool cuts_off = false;
	for (size_t i = 0; i < n->npend; i++) {
		cuts_off |= n->pend[i].p == NULL;
	}
	if (n->lock_file) {
		cut_lock(l, out);
	} else if (cuts_off) {
		cut_prefix(l, n, out);
	} else if (n->npend > 0) {
		cut_pages(l, n, out);
	}
}

/* ---- cuts: names ---- */

static bool names_meet(const struct step *x, const struct step *y)
{
	const struct node *xd[] = { x->dir_a, x->dir_b };
	const char *xn[] = { x->a, x->b };
	for (size_t i = 0; i < 2; i++) {
		if (xd[i] != NULL && ((xd[i] == y->dir_a && strcmp(xn[i], y->a) == 0) ||
				      (xd[i] == y->dir_b && strcmp(xn[i], y->b) == 0))) {
			return true;
		}
	}
	return false;
}

/* Which steps are there. A step is lost with any earlier one on one of its names. */
static void cut_steps(struct lot *l, const struct fs_model *m, bool *kept)
{
	bool journal = crash_random(&l->seed) % 2 == 0; /* a prefix, as journals give */
	size_t prefix = lot_pick(l, 0, (unsigned)m->nsteps);
	for (size_t i = 0; i < m->nsteps; i++) {
		kept[i] = l->cut == FS_ALL ||
			  (l->cut != FS_NOTHING && (journal ? i < prefix : lot_keep(l)));
		for (size_t k = 0; k < i; k++) {
			if (!kept[k] && names_meet(&m->step[k], &m->step[i])) {
				kept[i] = false;
			}
		}
	}
}

/* ---- cuts: writing them out ---- */

struct writing {
	const struct fs_model *m;
	struct lot lot;
	const bool *kept; /* per step */
	uint64_t digest;
};

static struct err *write_dir(struct writing *w, struct node *dir, const char *path);

static struct err *write_entry(struct writing *w, const struct name *e, const char *path)
{
	char at[4096];
	snprintf(at, sizeof(at), "%s/%s", path, e->text);
	w->digest = hash_xxh3_64(at, strlen(at), w->digest);
	if (e->node->dir) {
		if (mkdir(at, 0700) < 0) {
			return ERR_ERRNO("%s", at);
		}
		return write_dir(w, e->node, at);
	}
	struct image im = { 0 };
	cut_file(&w->lot, e->node, &im);
	if (!e->node->lock_file) {
		w->digest = hash_xxh3_64(im.p, im.len, w->digest);
	}
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct err *err = io_open(at, O_WRONLY | O_CREAT | O_EXCL, 0600, &f);
	if (err == NULL) {
		err = io_write_full(f.n, im.p, im.len);
	}
	free(im.p);
	return err;
}

static int by_text(const void *pa, const void *pb)
{
	const struct name *a = pa;
	const struct name *b = pb;
	return strcmp(a->node == NULL ? "" : a->text, b->node == NULL ? "" : b->text);
}

static struct err *write_dir(struct writing *w, struct node *dir, const char *path)
{
	struct name names[NAMES_MAX];
	memcpy(names, dir->names, sizeof(names));
	for (size_t i = 0; i < w->m->nsteps; i++) {
		if (w->kept[i]) {
			step_take(&w->m->step[i], dir, names);
		}
	}
	qsort(names, NAMES_MAX, sizeof(names[0]), by_text);
	for (size_t i = 0; i < NAMES_MAX; i++) {
		if (names[i].node != NULL) {
			TRY(write_entry(w, &names[i], path));
		}
	}
	return NULL;
}

/* What apply did for an operation in flight, to be taken back. */
struct undo {
	size_t nsteps;
	struct node *node; /* with one more pend */
	struct image cur;
};

static struct err *flight_begin(struct fs_model *m, const struct trace_head *h, const char *path,
				const uint8_t *bytes, struct undo *u)
{
	*u = (struct undo){ .nsteps = m->nsteps };
	if (h == NULL || h->op == TRACE_SYNC || h->op == TRACE_CLOSE || h->op == TRACE_MAPPED ||
	    h->op == TRACE_MARK) {
		return NULL;
	}
	struct node *n =
		h->op == TRACE_WRITE || h->op == TRACE_TRUNCATE ? m->handle[h->handle] : NULL;
	if (n == NULL) {
		struct node *keep = m->handle[h->handle];
		TRY(fs_model_apply(m, h, path, bytes));
		m->handle[h->handle] = keep;
		return NULL; /* O_TRUNC of a file that exists: see fs_model_cut */
	}
	size_t before = n->npend;
	image_copy(&u->cur, &n->cur);
	TRY(fs_model_apply(m, h, path, bytes));
	if (n->npend > before) {
		n->pend[n->npend - 1].durable = false;
		u->node = n;
	}
	return NULL;
}

static void flight_end(struct fs_model *m, struct undo *u)
{
	m->nsteps = u->nsteps;
	if (u->node != NULL) {
		u->node->npend--;
		image_copy(&u->node->cur, &u->cur);
	}
	free(u->cur.p);
}

struct err *fs_model_cut(struct fs_model *m, const struct trace_head *flight, const char *path,
			 const uint8_t *bytes, enum fs_cut cut, uint64_t seed, const char *dir,
			 uint64_t *ret_digest)
{
	struct undo u;
	if (flight != NULL && flight->op == TRACE_OPEN && !flight->made) {
		flight = NULL; /* an O_TRUNC in flight is the same as one that was lost */
	}
	TRY(flight_begin(m, flight, path, bytes, &u));
	bool *kept = calloc(m->nsteps + 1, sizeof(*kept));
	BUG_ON(kept == NULL);
	struct writing w = { .m = m, .lot = { .cut = cut, .seed = seed }, .kept = kept };
	w.lot.keep_percent = (unsigned)(crash_random(&w.lot.seed) % 101);
	w.lot.noise = cut >= FS_MIXED && crash_random(&w.lot.seed) % 6 == 0;
	cut_steps(&w.lot, m, kept);
	struct err *e = write_dir(&w, m->root, dir);
	free(kept);
	flight_end(m, &u);
	TRY(e);
	*ret_digest = w.digest;
	return NULL;
}

/* ---- loading and comparing ---- */

static void dir_closep(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

static struct err *load_dir(struct fs_model *m, struct node *dir, const char *path)
{
	SCOPE(dir_closep) DIR *d = opendir(path);
	if (d == NULL) {
		return ERR_ERRNO("%s", path);
	}
	const struct dirent *ent;
	while ((ent = readdir(d)) != NULL) {
		if (ent->d_name[0] == '.') {
			continue;
		}
		char at[4096];
		snprintf(at, sizeof(at), "%s/%s", path, ent->d_name);
		struct stat st;
		if (stat(at, &st) < 0) {
			return ERR_ERRNO("%s", at);
		}
		struct node *n = node_new(m, S_ISDIR(st.st_mode));
		*name_slot(dir->names, ent->d_name) = n;
		if (n->dir) {
			TRY(load_dir(m, n, at));
			continue;
		}
		n->lock_file = strcmp(ent->d_name, "lock.mdb") == 0;
		TRY(io_slurp(at, FILE_BYTES_MAX, &n->dur.p, &n->dur.len));
		n->dur.cap = n->dur.len;
		image_copy(&n->cur, &n->dur);
	}
	return NULL;
}

struct err *fs_model_load(const char *dir, struct fs_model **ret_model)
{
	SCOPE(fs_model_freep) struct fs_model *m = calloc(1, sizeof(*m));
	BUG_ON(m == NULL);
	m->handle = calloc(HANDLES_MAX, sizeof(struct node *));
	BUG_ON(m->handle == NULL);
	m->root = node_new(m, true);
	TRY(load_dir(m, m->root, dir));
	*ret_model = MOVE(m);
	return NULL;
}

static struct err *compare_dir(const struct fs_model *m, struct node *dir, const char *path)
{
	struct name names[NAMES_MAX];
	names_now(m, dir, names);
	size_t n = 0;
	for (size_t i = 0; i < NAMES_MAX; i++) {
		if (names[i].node == NULL) {
			continue;
		}
		n++;
		char at[4096];
		snprintf(at, sizeof(at), "%s/%s", path, names[i].text);
		if (names[i].node->dir) {
			TRY(compare_dir(m, names[i].node, at));
			continue;
		}
		SCOPE(freep) uint8_t *p = NULL;
		size_t len;
		TRY(io_slurp(at, FILE_BYTES_MAX, &p, &len));
		const struct image *im = &names[i].node->cur;
		ENSURE(names[i].node->lock_file ||
			       (len == im->len && (len == 0 || memcmp(p, im->p, len) == 0)),
		       ERR_CORRUPT, "the recorder missed something: %s differs from the trace", at);
	}
	SCOPE(dir_closep) DIR *d = opendir(path);
	if (d == NULL) {
		return ERR_ERRNO("%s", path);
	}
	const struct dirent *ent;
	while ((ent = readdir(d)) != NULL) {
		n -= ent->d_name[0] != '.';
	}
	ENSURE(n == 0, ERR_CORRUPT, "the recorder missed something: other names in %s", path);
	return NULL;
}

struct err *fs_model_compare(struct fs_model *m, const char *dir)
{
	return compare_dir(m, m->root, dir);
}

void fs_model_free(struct fs_model *m)
{
	if (m == NULL) {
		return;
	}
	while (m->all != NULL) {
		struct node *n = m->all;
		m->all = n->next;
		free(n->cur.p);
		free(n->dur.p);
		free(n->pend);
		free(n);
	}
	free(m->handle);
	free(m->step);
	free(m);
}
