/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery of a damaged store into a new one: which copy of each family is the best one, and what
 * goes into the new store. See salvage.h; called by `torpor store recover`, one thread.
 *
 * I1: files of the damaged store are opened for reading only, and never by LMDB.
 * I2: a snapshot counts as saved only when all of it was verified in the copy, and, if it was
 *     written anew, when the root of what was written is the same.
 */
#include "store/salvage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "store/family.h"
#include "store/guest.h"
#include "store/salvage_copy.h"
#include "store/salvage_file.h"
#include "store/salvage_scan.h"

enum {
	STAGE_SCAN = 3, /* after: as it is; by the newer meta page; by the older one */
	STAGES,
	PATH_BYTES = FAMILY_DIR_MAX + 64,
	WHY_BYTES = 512,
};

/* A snapshot met in one copy of a family. */
struct seen {
	struct snap_info info; /* only the id is known unless `listed` */
	bool listed;
	bool sound;
	char why[WHY_BYTES]; /* its first finding */
};

/* One way to read a family. */
struct copy {
	bool opens;
	bool listed; /* all of its snapshots are in `snap` */
	bool whole;  /* nothing at all was found */
	char dir[STORE_DIR_MAX + 64];
	char why[WHY_BYTES];
	struct seen *snap; /* owned */
	size_t n;
	size_t nsound;
};

struct salvage {
	const char *from;
	char to[STORE_DIR_MAX];
	char work[STORE_DIR_MAX + 8];
	salvage_report_fn *report;
	void *arg;
	struct salvage_result result;
	struct store *dst;    /* owned */
	struct store_vm *vms; /* owned */
	bool *saved;          /* owned: of each VM, whether it has a snapshot in the new store */
	size_t nvms;
	unsigned ncopies;
};

/* Lack of room or of memory ends the recovery; what a damaged disk or file causes does not. */
static bool is_host_error(const struct err *e)
{
	return err_class(e) == ERR_NOSPACE || (err_class(e) == ERR_SYS && err_errno(e) != EIO);
}

static void why_of(char why[WHY_BYTES], struct err *e)
{
	if (why[0] == 0) {
		snprintf(why, WHY_BYTES, "%s", err_msg(e));
	}
	err_drop(e, "reported as the reason of a loss");
}

static void saved(struct salvage *s, const char *what)
{
	s->result.saved++;
	s->report(s->arg, SALVAGE_SAVED, what, "");
}

static void lost(struct salvage *s, const char *what, const char *why)
{
	s->result.lost++;
	s->report(s->arg, SALVAGE_LOST, what, why);
}

/* ---- copies ---- */

/* A fresh directory for one copy. */
static struct err *copy_dir(struct salvage *s, char *ret_dir, size_t len)
{
	snprintf(ret_dir, len, "%s/%u", s->work, s->ncopies++);
	return io_mkdirs(ret_dir);
}

/* Which meta page a stage relies on: first that with the higher transaction number. */
static struct err *stage_keep(const char *file, unsigned stage, uint64_t *ret_txnid)
{
	uint64_t number[2] = { 0, 0 };
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(file, O_RDONLY, 0, &f));
	for (unsigned i = 0; i < 2; i++) {
		uint8_t b[8];
		struct err *e = io_pread_full(f.n, b, sizeof(b), (uint64_t)i * PAGE_BYTES + 144);
		if (e != NULL) {
			return err_reclass(e, ERR_CORRUPT);
		}
		number[i] = get_le64(b);
	}
	unsigned newer = number[1] > number[0];
	return salvage_meta_keep(file, stage == 1 ? newer : 1 - newer, ret_txnid);
}

/* The damaged store's environment of that name goes to the copy in dir, as of that stage. */
static struct err *copy_env(const struct salvage *s, const char *dir, const char *env,
			    unsigned stage)
{
	char a[PATH_BYTES];
	char b[PATH_BYTES];
	uint64_t txnid = 0;
	snprintf(b, sizeof(b), "%s/%s", dir, env);
	TRY(io_mkdirs(b));
	snprintf(a, sizeof(a), "%s/%s/data.mdb", s->from, env);
	snprintf(b, sizeof(b), "%s/%s/data.mdb", dir, env);
	TRY(salvage_copy(a, b));
	return stage > 0 ? stage_keep(b, stage, &txnid) : NULL;
}

/* ---- the catalog ---- */

static struct err *catalog_try(struct salvage *s, unsigned stage)
{
	char dir[STORE_DIR_MAX + 64];
	char a[PATH_BYTES];
	char b[PATH_BYTES];
	TRY(copy_dir(s, dir, sizeof(dir)));
	snprintf(a, sizeof(a), "%s/families", dir);
	TRY(io_mkdirs(a));
	TRY(copy_env(s, dir, "catalog", stage));
	snprintf(a, sizeof(a), "%s/FORMAT", s->from);
	snprintf(b, sizeof(b), "%s/FORMAT", dir);
	TRY(salvage_copy(a, b));
	SCOPE(store_closep) struct store *copy = NULL;
	TRY(store_open(dir, STORE_WRITE, &copy));
	return store_vm_list(copy, &s->vms, &s->nvms);
}

static struct err *catalog_read(struct salvage *s)
{
	char why[WHY_BYTES] = "";
	for (unsigned stage = 0; stage < STAGES; stage++) {
		struct err *e = catalog_try(s, stage);
		if (e == NULL && stage > 0) {
			s->report(s->arg, SALVAGE_NOTE, "catalog",
				  "its last commit is damaged; read as an earlier one left it");
		}
		if (e == NULL || is_host_error(e) || err_class(e) == ERR_INCOMPAT) {
			return e;
		}
		why_of(why, e);
	}
	lost(s, "catalog", why);
	return NULL;
}

/* ---- the registry of guests ---- */

static struct err *uuid_of(const char *from, uint8_t ret_uuid[16])
{
	char path[PATH_BYTES];
	SCOPE(freep) uint8_t *text = NULL;
	size_t len = 0;
	snprintf(path, sizeof(path), "%s/FORMAT", from);
	TRY(io_slurp(path, PAGE_BYTES, &text, &len));
	ENSURE(len > 37, ERR_CORRUPT, "FORMAT is cut short");
	text[len - 1] = 0;
	return uuid_parse((const char *)text + len - 37, ret_uuid);
}

static struct err *guests_try(struct salvage *s, unsigned stage, struct store_guest **ret,
			      size_t *ret_n)
{
	struct store copy = { .rdonly = false };
	char dir[STORE_DIR_MAX + 64];
	TRY(uuid_of(s->from, copy.uuid));
	TRY(copy_dir(s, dir, sizeof(dir)));
	ENSURE(strlen(dir) < sizeof(copy.dir), ERR_LIMIT, "%s: the path is too long", dir);
	memcpy(copy.dir, dir, strlen(dir) + 1);
	TRY(copy_env(s, dir, "guests", stage));
	return store_guest_list(&copy, ret, ret_n);
}

static struct err *guest_put(void *arg, bool found, struct store_guest *g, enum guest_verdict *ret)
{
	const struct store_guest *from = arg;
	(void)found;
	free(g->wanted);
	free(g->record);
	g->wanted = strdup(from->wanted);
	g->record = strdup(from->record);
	ENSURE(g->wanted != NULL && g->record != NULL, ERR_SYS, "out of memory");
	*ret = GUEST_PUT;
	return NULL;
}

static struct err *guests_salvage(struct salvage *s)
{
	char path[PATH_BYTES];
	char why[WHY_BYTES] = "";
	struct stat st;
	snprintf(path, sizeof(path), "%s/guests/data.mdb", s->from);
	if (stat(path, &st) < 0) {
		return NULL; /* nobody ever defined one */
	}
	for (unsigned stage = 0; stage < STAGE_SCAN; stage++) {
		struct store_guest *g = NULL;
		size_t n = 0;
		struct err *e = guests_try(s, stage, &g, &n);
		if (e != NULL && is_host_error(e)) {
			return e;
		}
		if (e != NULL) {
			why_of(why, e);
			continue;
		}
		for (size_t i = 0; i < n && e == NULL; i++) {
			e = store_guest_change(s->dst, g[i].name, guest_put, &g[i]);
		}
		store_guests_free(g, n);
		if (stage > 0) {
			s->report(s->arg, SALVAGE_NOTE, "registry of guests",
				  "its last commit is damaged; read as an earlier one left it");
		}
		return e;
	}
	lost(s, "registry of guests", why);
	return NULL;
}

/* A VM that no catalog knows is registered under a name made from its uuid. */
static struct err *vm_saved(struct salvage *s, const uint8_t uuid[16], const uint8_t family[16])
{
	size_t i = 0;
	while (i < s->nvms && memcmp(s->vms[i].uuid, uuid, 16) != 0) {
		i++;
	}
	if (i == s->nvms) {
		struct store_vm *more = realloc(s->vms, (i + 1) * sizeof(*more));
		ENSURE(more != NULL, ERR_SYS, "out of memory");
		s->vms = more;
		more[i] = (struct store_vm){ .holds_name = true };
		memcpy(more[i].uuid, uuid, 16);
		memcpy(more[i].family, family, 16);
		snprintf(more[i].name, sizeof(more[i].name), "recovered-%016llx",
			 (unsigned long long)get_be64(uuid));
		s->nvms++;
	}
	bool *flags = realloc(s->saved, s->nvms * sizeof(*flags));
	ENSURE(flags != NULL, ERR_SYS, "out of memory");
	s->saved = flags;
	s->saved[i] = true;
	return NULL;
}

/* Former holders of a name first, so that the last one to get it is the one that had it. */
static struct err *vms_register(struct salvage *s)
{
	for (unsigned holders = 0; holders < 2; holders++) {
		for (size_t i = 0; i < s->nvms; i++) {
			if (s->saved != NULL && s->saved[i] &&
			    s->vms[i].holds_name == (holders == 1)) {
				TRY(store_vm_put(s->dst, &s->vms[i]));
			}
		}
	}
	return NULL;
}

/* ---- one way to read a family ---- */

static struct err *seen_add(struct copy *c, const struct snap_info *info, uint64_t id,
			    struct seen **ret)
{
	struct seen *more = realloc(c->snap, (c->n + 1) * sizeof(*more));
	ENSURE(more != NULL, ERR_SYS, "out of memory");
	c->snap = more;
	struct seen *one = &more[c->n++];
	memset(one, 0, sizeof(*one));
	one->info.id = id;
	if (info != NULL) {
		one->info = *info;
		one->listed = true;
	}
	*ret = one;
	return NULL;
}

static struct err *on_snap(void *arg, const struct snap_rec *r)
{
	struct seen *unused;
	return r->hidden ? NULL : seen_add(arg, &r->info, r->info.id, &unused);
}

static struct err *on_damaged(void *arg, uint64_t id, struct err *e)
{
	struct seen *one = NULL;
	struct err *bad = seen_add(arg, NULL, id, &one);
	if (bad == NULL) {
		why_of(one->why, e);
	} else {
		err_drop(e, "no memory to report it");
	}
	return bad;
}

static void on_finding(void *arg, const char *text)
{
	char *why = arg;
	if (why[0] == 0) {
		snprintf(why, WHY_BYTES, "%s", text);
	}
}

static struct err *list_snaps(struct family *f, struct copy *c)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	return family_snap_each(
		f, t,
		&(struct family_snap_visit){ .snap = on_snap, .damaged = on_damaged, .arg = c });
}

static struct err *check_copy(struct family *f, struct copy *c)
{
	uint64_t n = 0;
	struct err *e = list_snaps(f, c);
	if (e != NULL && is_host_error(e)) {
		return e;
	}
	c->listed = e == NULL;
	if (e != NULL) {
		why_of(c->why, e); /* what was listed before that is tried */
	}
	for (size_t i = 0; i < c->n; i++) {
		struct seen *one = &c->snap[i];
		if (!one->listed) {
			continue;
		}
		e = family_verify_snap(f, one->info.id, on_finding, one->why, &n);
		if (e != NULL && is_host_error(e)) {
			return e;
		}
		one->sound = e == NULL && n == 0;
		c->nsound += one->sound;
		if (e != NULL) {
			why_of(one->why, e);
		}
	}
	e = family_verify(f, on_finding, c->why, &n);
	if (e != NULL && !is_host_error(e)) {
		why_of(c->why, e);
		return NULL;
	}
	c->whole = e == NULL && n == 0 && c->nsound == c->n;
	return e;
}

/* Opens the family in a copy of the store. */
static struct err *copy_open(const struct copy *c, const uint8_t uuid[16], bool create,
			     struct family **ret)
{
	SCOPE(freep) struct store *st = calloc(1, sizeof(*st));
	ENSURE(st != NULL, ERR_SYS, "out of memory");
	size_t len = strlen(c->dir);
	ENSURE(len < sizeof(st->dir), ERR_LIMIT, "the path of a copy is too long: %.64s...",
	       c->dir);
	memcpy(st->dir, c->dir, len + 1);
	return family_open(st, uuid, create, ret);
}

static struct err *copy_try(struct salvage *s, struct copy *c, unsigned stage,
			    const uint8_t uuid[16])
{
	char text[37];
	char env[64];
	char path[PATH_BYTES];
	uuid_text(uuid, text);
	TRY(copy_dir(s, c->dir, sizeof(c->dir)));
	snprintf(env, sizeof(env), "families/%s", text);
	TRY(copy_env(s, c->dir, env, stage));
	snprintf(path, sizeof(path), "%s/%s/holders", c->dir, env);
	TRY(io_mkdirs(path));
	snprintf(path, sizeof(path), "%s/%s", c->dir, env);
	TRY(io_replace(path, "open.lock", "", 0));
	SCOPE(family_closep) struct family *f = NULL;
	TRY(copy_open(c, uuid, false, &f));
	c->opens = true;
	return check_copy(f, c);
}

/* The family anew from the records that are found in its file. */
static struct err *copy_scan(struct salvage *s, struct copy *c, const uint8_t uuid[16])
{
	char text[37];
	char a[PATH_BYTES];
	uuid_text(uuid, text);
	TRY(copy_dir(s, c->dir, sizeof(c->dir)));
	SCOPE(family_closep) struct family *f = NULL;
	TRY(copy_open(c, uuid, true, &f));
	snprintf(a, sizeof(a), "%s/families/%s/data.mdb", s->from, text);
	struct salvage_scanned n;
	TRY(salvage_scan(a, f, &n));
	ENSURE(n.snaps > 0, ERR_CORRUPT, "%s: no snapshot's record is left in it", a);
	c->opens = true;
	return check_copy(f, c);
}

/* ---- a family ---- */

static void snap_text(const struct salvage *s, const struct seen *one, const uint8_t family[16],
		      char *ret, size_t len)
{
	const struct snap_info *in = &one->info;
	char uuid[37];
	uuid_text(family, uuid);
	if (!one->listed) {
		snprintf(ret, len, "snapshot id %llu of family %s", (unsigned long long)in->id,
			 uuid);
		return;
	}
	uuid_text(in->vm, uuid);
	const char *name = uuid;
	for (size_t i = 0; i < s->nvms; i++) {
		if (memcmp(s->vms[i].uuid, in->vm, 16) == 0 && s->vms[i].holds_name) {
			name = s->vms[i].name;
		}
	}
	if (in->tag[0] != 0) {
		snprintf(ret, len, "%s@%s", name, in->tag);
	} else {
		snprintf(ret, len, "%s@%llu", name, (unsigned long long)in->number);
	}
}

/* The whole copy becomes the family of the new store. */
static struct err *take_over(struct salvage *s, const struct copy *c, const char *text)
{
	char a[PATH_BYTES];
	char b[PATH_BYTES];
	snprintf(a, sizeof(a), "%s/families/%s", c->dir, text);
	TRY(io_sync_dir(a));
	snprintf(b, sizeof(b), "%s/families/%s", s->to, text);
	if (rename(a, b) < 0) {
		return ERR_ERRNO("moving %s to %s", a, b);
	}
	snprintf(b, sizeof(b), "%s/families", s->to);
	return io_sync_dir(b);
}

static struct seen *find_snap(const struct copy *c, uint64_t id)
{
	for (size_t i = 0; i < c->n; i++) {
		if (c->snap[i].info.id == id) {
			return &c->snap[i];
		}
	}
	return NULL;
}

/* Whether copy k is the first to have the snapshot; with `sound`, to have it whole. */
static bool is_first(const struct copy copies[STAGES], unsigned k, uint64_t id, bool sound)
{
	for (unsigned m = 0; m < k; m++) {
		const struct seen *one = find_snap(&copies[m], id);
		if (one != NULL && (one->sound || !sound)) {
			return false;
		}
	}
	return true;
}

/* Writes the sound snapshots of a copy anew. What cannot be read after all becomes unsound. */
static struct err *copy_over(struct salvage *s, struct copy copies[STAGES], unsigned k,
			     const uint8_t uuid[16])
{
	struct copy *c = &copies[k];
	SCOPE(family_closep) struct family *from = NULL;
	TRY(copy_open(c, uuid, false, &from));
	SCOPE(family_closep) struct family *to = NULL;
	TRY(family_open(s->dst, uuid, true, &to));
	SCOPE(salvage_copied_done) struct salvage_copied done = { 0 };
	for (size_t i = 0; i < c->n; i++) {
		struct seen *one = &c->snap[i];
		struct err *e = one->sound && is_first(copies, k, one->info.id, true)
					? salvage_copy_snap(from, to, &one->info, &done)
					: NULL;
		if (e != NULL && is_host_error(e)) {
			return e;
		}
		if (e != NULL) {
			one->sound = false;
			why_of(one->why, e);
		}
	}
	/* Numbers of lost snapshots are not given again. */
	for (size_t i = 0; i < c->n; i++) {
		if (c->snap[i].listed) {
			TRY(salvage_number_reserve(to, &c->snap[i].info));
		}
	}
	return NULL;
}

static bool is_saved(const struct copy copies[STAGES], uint64_t id)
{
	return !is_first(copies, STAGES, id, true);
}

/* Tells what became of every snapshot that any of the copies knows. */
static struct err *family_report(struct salvage *s, const struct copy copies[STAGES],
				 const uint8_t uuid[16])
{
	char what[256];
	for (unsigned k = 0; k < STAGES; k++) {
		for (size_t i = 0; i < copies[k].n; i++) {
			const struct seen *one = &copies[k].snap[i];
			snap_text(s, one, uuid, what, sizeof(what));
			if (one->sound && is_first(copies, k, one->info.id, true)) {
				TRY(vm_saved(s, one->info.vm, uuid));
				saved(s, what);
			} else if (!is_saved(copies, one->info.id) &&
				   is_first(copies, k, one->info.id, false)) {
				lost(s, what, one->why);
			}
		}
	}
	return NULL;
}

/* Is there a snapshot that no copy so far holds whole, or no list of them at all? */
static bool needs_scan(const struct copy copies[STAGES])
{
	bool list = false;
	for (unsigned k = 0; k < STAGE_SCAN; k++) {
		list |= copies[k].listed;
		for (size_t i = 0; i < copies[k].n; i++) {
			if (!is_saved(copies, copies[k].snap[i].info.id)) {
				return true;
			}
		}
	}
	return !list;
}

/* A list tells which of the records that a scan has found are of removed snapshots. */
static void drop_removed(struct copy copies[STAGES])
{
	struct copy *scan = &copies[STAGE_SCAN];
	bool list = false;
	for (unsigned k = 0; k < STAGE_SCAN; k++) {
		list |= copies[k].listed;
	}
	size_t n = 0;
	for (size_t i = 0; list && i < scan->n; i++) {
		bool known = false;
		for (unsigned k = 0; k < STAGE_SCAN; k++) {
			known |= find_snap(&copies[k], scan->snap[i].info.id) != NULL;
		}
		if (known) {
			scan->snap[n++] = scan->snap[i];
		} else {
			scan->nsound -= scan->snap[i].sound;
		}
	}
	scan->n = list ? n : scan->n;
}

/* Does another copy hold a snapshot whole that this one does not? */
static bool has_more(const struct copy copies[STAGES], const struct copy *best)
{
	for (unsigned k = 0; k < STAGES; k++) {
		for (size_t i = 0; i < copies[k].n; i++) {
			const struct seen *one = find_snap(best, copies[k].snap[i].info.id);
			if (copies[k].snap[i].sound && (one == NULL || !one->sound)) {
				return true;
			}
		}
	}
	return false;
}

static struct err *family_finish(struct salvage *s, struct copy copies[STAGES],
				 const uint8_t uuid[16])
{
	struct copy *best = NULL;
	char text[37];
	char what[64];
	uuid_text(uuid, text);
	snprintf(what, sizeof(what), "family %s", text);
	for (unsigned k = 0; k < STAGES; k++) {
		struct copy *c = &copies[k];
		if (c->opens && (best == NULL || c->nsound > best->nsound ||
				 (c->nsound == best->nsound && c->whole && !best->whole))) {
			best = c;
		}
	}
	if (best == NULL) {
		lost(s, what, copies[0].why);
		return NULL;
	}
	if (best != &copies[0]) {
		char why[WHY_BYTES + 128];
		snprintf(why, sizeof(why), "%s: %s",
			 best == &copies[STAGE_SCAN]
				 ? "its tables are damaged, records were looked for in all of its "
				   "file"
				 : "the last commit is damaged, an earlier one was used, too",
			 copies[0].why);
		s->report(s->arg, SALVAGE_NOTE, what, why);
	}
	/* A scan also finds what was removed: only what is wanted of it is copied. */
	if (best->whole && best != &copies[STAGE_SCAN] && !has_more(copies, best)) {
		TRY(take_over(s, best, text));
	} else {
		for (unsigned k = 0; k < STAGES; k++) {
			TRY(copies[k].nsound > 0 ? copy_over(s, copies, k, uuid) : NULL);
		}
	}
	return family_report(s, copies, uuid);
}

/* What each way gives; the error of the first that ends the recovery. */
static struct err *copies_make(struct salvage *s, struct copy copies[STAGES],
			       const uint8_t uuid[16])
{
	for (unsigned k = 0; k < STAGES; k++) {
		if (k == STAGE_SCAN && !needs_scan(copies)) {
			return NULL;
		}
		struct err *e = k == STAGE_SCAN ? copy_scan(s, &copies[k], uuid)
						: copy_try(s, &copies[k], k, uuid);
		if (e != NULL && is_host_error(e)) {
			return e;
		}
		if (e != NULL) {
			why_of(copies[k].why, e);
		}
		if (copies[k].whole && k == 0) {
			return NULL;
		}
	}
	drop_removed(copies);
	return NULL;
}

static struct err *family_salvage(struct salvage *s, const uint8_t uuid[16])
{
	SCOPE(freep) struct copy *copies = calloc(STAGES, sizeof(*copies));
	ENSURE(copies != NULL, ERR_SYS, "out of memory");
	struct err *e = copies_make(s, copies, uuid);
	if (e == NULL) {
		e = family_finish(s, copies, uuid);
	}
	for (unsigned k = 0; k < STAGES; k++) {
		free(copies[k].snap);
		if (copies[k].dir[0] != 0) {
			e = err_first(e, salvage_rmtree(copies[k].dir));
		}
	}
	return e;
}

/* ---- the store ---- */

static void dir_closep(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

/* A copy of files that change meanwhile would be worth nothing. */
static struct err *not_in_use(const char *from, const char *text)
{
	char path[PATH_BYTES];
	snprintf(path, sizeof(path), "%s/families/%s/open.lock", from, text);
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct err *e = io_open(path, O_RDONLY, 0, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "nobody can hold it");
		return NULL;
	}
	TRY(e);
	bool locked = false;
	TRY(io_is_locked(f.n, &locked));
	ENSURE(!locked, ERR_NOT_NOW, "store %s is in use: stop its VMs first, or recover a copy",
	       from);
	return NULL;
}

/* Calls fn for each family that has a data file. */
static struct err *each_family(struct salvage *s,
			       struct err *(*fn)(struct salvage *s, const char *text,
						 const uint8_t uuid[16]))
{
	char path[PATH_BYTES];
	snprintf(path, sizeof(path), "%s/families", s->from);
	SCOPE(dir_closep) DIR *d = opendir(path);
	ENSURE(d != NULL, ERR_NOTFOUND, "%s is no torpor store: it has no folder families",
	       s->from);
	const struct dirent *ent;
	while ((ent = readdir(d)) != NULL) {
		uint8_t uuid[16];
		struct stat st;
		char file[PATH_BYTES];
		struct err *e = uuid_parse(ent->d_name, uuid);
		if (e != NULL) {
			err_drop(e, "no family");
			continue;
		}
		snprintf(file, sizeof(file), "%s/families/%.36s/data.mdb", s->from, ent->d_name);
		if (stat(file, &st) == 0) {
			TRY(fn(s, ent->d_name, uuid));
		}
	}
	return NULL;
}

static struct err *check_one(struct salvage *s, const char *text, const uint8_t uuid[16])
{
	(void)uuid;
	return not_in_use(s->from, text);
}

static struct err *salvage_one(struct salvage *s, const char *text, const uint8_t uuid[16])
{
	(void)text;
	return family_salvage(s, uuid);
}

static struct err *salvage_run(struct salvage *s)
{
	TRY(io_mkdirs(s->work));
	TRY(catalog_read(s));
	TRY(store_open(s->to, STORE_CREATE, &s->dst));
	TRY(guests_salvage(s));
	TRY(each_family(s, salvage_one));
	return vms_register(s);
}

struct err *store_salvage(const char *from, const char *to, salvage_report_fn *report, void *arg,
			  struct salvage_result *ret_result)
{
	SCOPE(freep) struct salvage *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	s->from = from;
	s->report = report;
	s->arg = arg;
	ENSURE(strlen(to) < sizeof(s->to) && strlen(from) < sizeof(s->to), ERR_LIMIT,
	       "the path of a store has at most %u bytes", STORE_DIR_MAX - 1);
	snprintf(s->to, sizeof(s->to), "%s", to);
	snprintf(s->work, sizeof(s->work), "%s.work", to);
	struct stat st;
	ENSURE(stat(s->work, &st) < 0, ERR_NOT_NOW,
	       "%s exists: another recovery runs, or remove what an earlier one left", s->work);
	ENSURE(stat(to, &st) < 0 || rmdir(to) == 0, ERR_NOT_NOW,
	       "%s is not an empty folder: the new store needs one of its own", to);
	TRY(each_family(s, check_one));
	struct err *e = salvage_run(s);
	store_close(s->dst);
	free(s->vms);
	free(s->saved);
	e = err_first(e, salvage_rmtree(s->work));
	*ret_result = s->result;
	return err_wrap(e, "recovering store %s", from);
}
