/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store directory and its catalog: creation, opening, and the registry of VMs and names.
 * Implements the first parts of store.h; any thread.
 *
 * I1: FORMAT is written last at creation, by atomic replace under DIR/lock, so a directory with a
 *     FORMAT is complete, and two creators make one store.
 * I2: a name's holder is the VM in the name table, nothing in a VM's row; so a name has one holder.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "core/base/io.h"
#include "store/family.h"
#include "store/guest.h"

#define FORMAT_WORD "torpor-store "
#define FORMAT_NUMBER 1ul
#define CATALOG_MAP_BYTES (16ull * GIB)

enum catalog_db {
	CATALOG_VM,
	CATALOG_NAME,
	CATALOG__DBS,
};
static const char *const catalog_dbs[CATALOG__DBS] = {
	[CATALOG_VM] = "vm",
	[CATALOG_NAME] = "name",
};

/* ---- the directory ---- */

static void dir_closep(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

/* May a store be made here: is there nothing but what an unfinished creation left? */
static struct err *dir_usable(const char *dir, bool *ret_empty, bool *ret_usable)
{
	SCOPE(dir_closep) DIR *d = opendir(dir);
	if (d == NULL) {
		ENSURE(errno != ENOTDIR, ERR_CORRUPT,
		       "%s is no torpor store: it is not a directory", dir);
		return ERR_ERRNO("store %s", dir);
	}
	bool others = false;
	bool ours = false;
	bool lock = false;
	const struct dirent *ent;
	while ((ent = readdir(d)) != NULL) {
		const char *n = ent->d_name;
		if (strcmp(n, ".") == 0 || strcmp(n, "..") == 0) {
			continue;
		}
		if (strcmp(n, "lock") == 0) {
			lock = true;
		} else if (strcmp(n, "catalog") == 0 || strcmp(n, "families") == 0 ||
			   strcmp(n, "FORMAT.tmp") == 0) {
			ours = true;
		} else {
			others = true;
		}
	}
	*ret_empty = !others && !ours && !lock;
	*ret_usable = !others && (lock || !ours);
	return NULL;
}

/* Network file systems have neither the locks nor the shared mappings that LMDB needs. */
static struct err *check_fs(const char *dir)
{
	struct statfs v;
	if (statfs(dir, &v) < 0) {
		return ERR_ERRNO("store %s", dir);
	}
	switch ((uint32_t)v.f_type) {
	case 0x6969u:     /* NFS */
	case 0x01021997u: /* 9p */
	case 0xFF534D42u: /* CIFS */
	case 0xFE534D42u: /* SMB2 */
		return ERR(ERR_INCOMPAT, "store %s: on a network file system, use a local one",
			   dir);
	default:
		return NULL;
	}
}

/* Reads FORMAT. *ret_found false: there is none. */
static struct err *format_read(const char *dir, bool *ret_found, uint8_t ret_uuid[16])
{
	char path[STORE_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/FORMAT", dir);
	SCOPE(freep) uint8_t *text = NULL;
	size_t len;
	struct err *e = io_slurp(path, 4096, &text, &len);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "the caller decides what its absence means");
		*ret_found = false;
		return NULL;
	}
	if (e != NULL && err_errno(e) == ENOTDIR) {
		err_drop(e, "replaced by a clearer one");
		return ERR(ERR_CORRUPT, "%s is no torpor store: it is not a directory", dir);
	}
	TRY(e);
	const char *s = (const char *)text;
	size_t word = strlen(FORMAT_WORD);
	ENSURE(len > word && strncmp(s, FORMAT_WORD, word) == 0 && isdigit((unsigned char)s[word]),
	       ERR_CORRUPT, "%s is no torpor store: its FORMAT file is not one", dir);
	char *end;
	errno = 0;
	unsigned long number = strtoul(s + word, &end, 10);
	ENSURE(errno == 0 && number == FORMAT_NUMBER, ERR_INCOMPAT,
	       "store %s has format %lu, this torpor knows format %lu", dir, number, FORMAT_NUMBER);
	size_t at = (size_t)(end - s);
	ENSURE(len == at + 38 && s[at] == ' ' && s[len - 1] == '\n', ERR_CORRUPT,
	       "%s is no torpor store: its FORMAT file is damaged", dir);
	text[len - 1] = 0;
	TRY(err_wrap(uuid_parse(s + at + 1, ret_uuid), "store %s: FORMAT", dir));
	*ret_found = true;
	return NULL;
}

static struct err *catalog_open(const char *dir, bool create, bool rdonly, struct lenv **ret_env)
{
	char path[STORE_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/catalog", dir);
	struct lenv_opts opts = {
		.dir = path,
		.dbs = catalog_dbs,
		.ndbs = CATALOG__DBS,
		.map_bytes = CATALOG_MAP_BYTES,
		.create = create,
		.rdonly = rdonly,
		.lists = 1u << CATALOG_VM | 1u << CATALOG_NAME,
	};
	return lenv_open(&opts, ret_env);
}

/* Makes what FORMAT promises, then FORMAT. NEEDS(the DIR/lock file). */
static struct err *store_make(const char *dir)
{
	/* First the lock file's name: without it dir_usable takes the rest for somebody else's. */
	TRY(io_sync_dir(dir));
	static const char *const subdirs[] = { "catalog", "families" };
	for (size_t i = 0; i < ARRAY_LEN(subdirs); i++) {
		char path[STORE_DIR_MAX + 16];
		snprintf(path, sizeof(path), "%s/%s", dir, subdirs[i]);
		TRY(io_mkdirs(path));
	}
	SCOPE(lenv_closep) struct lenv *env = NULL;
	TRY(catalog_open(dir, true, false, &env));
	char path[STORE_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/catalog", dir);
	TRY(io_sync_dir(path));
	uint8_t uuid[16];
	TRY(uuid_make(uuid));
	char text[37];
	char line[80];
	uuid_text(uuid, text);
	int n = snprintf(line, sizeof(line), "%s%lu %s\n", FORMAT_WORD, FORMAT_NUMBER, text);
	return io_replace(dir, "FORMAT", line, (size_t)n);
}

static struct err *store_create(const char *dir, uint8_t ret_uuid[16])
{
	bool empty;
	bool usable;
	TRY(dir_usable(dir, &empty, &usable));
	bool found;
	if (!usable) {
		/* Another creator may have finished since FORMAT was looked for. */
		TRY(format_read(dir, &found, ret_uuid));
		ENSURE(found, ERR_CORRUPT,
		       "%s is no torpor store: it has no FORMAT file and is not empty", dir);
		return NULL;
	}
	char path[STORE_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/lock", dir);
	SCOPE(fd_close) struct fd lock = FD_NONE;
	bool got;
	TRY(holder_lock_file(path, HOLDER_ALONE, true, &lock, &got));
	TRY(format_read(dir, &found, ret_uuid));
	if (!found) {
		TRY(store_make(dir));
		TRY(format_read(dir, &found, ret_uuid));
		ENSURE(found, ERR_SYS, "store %s: its FORMAT file vanished", dir);
	}
	return NULL;
}

struct err *store_open(const char *dir, enum store_mode mode, struct store **ret_store)
{
	SCOPE(store_closep) struct store *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	int n = snprintf(s->dir, sizeof(s->dir), "%s", dir);
	ENSURE(n > 0 && (size_t)n < sizeof(s->dir), ERR_USAGE,
	       "store: an empty path, or longer than %u bytes", STORE_DIR_MAX - 1);
	s->rdonly = mode == STORE_READ;
	if (mode == STORE_CREATE) {
		TRY(err_wrap(io_mkdirs(dir), "store"));
	}
	bool found;
	TRY(format_read(dir, &found, s->uuid));
	if (!found && mode == STORE_CREATE) {
		TRY(store_create(dir, s->uuid));
	} else if (!found) {
		bool empty;
		bool usable;
		TRY(dir_usable(dir, &empty, &usable));
		ENSURE(!empty, ERR_NOTFOUND, "store %s is empty: nothing has been stored yet", dir);
		return ERR(ERR_CORRUPT, "%s is no torpor store: it has no FORMAT file", dir);
	}
	TRY(check_fs(dir));
	TRY(err_wrap(catalog_open(dir, false, s->rdonly, &s->catalog), "store"));
	*ret_store = MOVE(s);
	return NULL;
}

void store_close(struct store *s)
{
	if (s != NULL) {
		lenv_close(s->catalog);
		free(s);
	}
}

const char *store_dir(const struct store *s)
{
	return s->dir;
}

/* ---- VM rows ---- */

enum {
	ROW_BYTES_MAX = 512,
};

static struct bytes uuid_key(const uint8_t uuid[16])
{
	return (struct bytes){ .p = uuid, .len = 16 };
}

static struct bytes name_key(const char *name)
{
	return (struct bytes){ .p = name, .len = strlen(name) };
}

static struct err *put_row(struct store *s, struct ltxn *t, const struct store_vm *vm)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(ROW_BYTES_MAX);
	uint64_t id = get_be64(vm->uuid);
	record_begin(&w, RECORD_VM, id);
	wbuf_put(&w, vm->uuid, sizeof(vm->uuid));
	wbuf_put(&w, vm->family, sizeof(vm->family));
	wbuf_u64(&w, vm->created_ns);
	wbuf_u8(&w, (uint8_t)strlen(vm->name));
	wbuf_put(&w, vm->name, strlen(vm->name));
	record_seal(&w, RECORD_VM, s->uuid, id);
	TRY(wbuf_check(&w));
	return ltxn_put(t, CATALOG_VM, uuid_key(vm->uuid), (struct bytes){ w.p, w.len });
}

/* All but holds_name. */
static struct err *row_decode(struct store *s, const struct lbuf *b, const uint8_t uuid[16],
			      struct store_vm *ret_vm)
{
	struct rcur c;
	TRY(record_open(b->p, b->len, RECORD_VM, s->uuid, get_be64(uuid), &c));
	struct store_vm vm = { 0 };
	uint8_t n;
	TRY(rcur_copy(&c, vm.uuid, sizeof(vm.uuid)));
	TRY(rcur_copy(&c, vm.family, sizeof(vm.family)));
	TRY(rcur_u64(&c, &vm.created_ns));
	TRY(rcur_u8(&c, &n));
	ENSURE(n <= NAME_BYTES_MAX && memcmp(vm.uuid, uuid, sizeof(vm.uuid)) == 0, ERR_CORRUPT,
	       "VM row: a name of %u bytes, or another VM's row", n);
	TRY(rcur_copy(&c, vm.name, n));
	TRY(rcur_end(&c));
	ENSURE(memchr(vm.name, 0, n) == NULL, ERR_CORRUPT, "VM row: a name with a NUL in it");
	*ret_vm = vm;
	return NULL;
}

static struct err *put_name(struct store *s, struct ltxn *t, const char *name,
			    const uint8_t uuid[16])
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(ROW_BYTES_MAX);
	struct bytes key = name_key(name);
	uint64_t id = hash_xxh3_64(key.p, key.len, 0);
	record_begin(&w, RECORD_NAME, id);
	wbuf_put(&w, uuid, 16);
	wbuf_put(&w, key.p, key.len);
	record_seal(&w, RECORD_NAME, s->uuid, id);
	TRY(wbuf_check(&w));
	return ltxn_put(t, CATALOG_NAME, key, (struct bytes){ w.p, w.len });
}

/* Which VM holds the name. */
static struct err *get_name(struct store *s, struct ltxn *t, const char *name, bool *ret_found,
			    uint8_t ret_uuid[16])
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	struct bytes key = name_key(name);
	bool found = false;
	if (key.len > 0 && key.len <= NAME_BYTES_MAX) {
		TRY(ltxn_get(t, CATALOG_NAME, key, ROW_BYTES_MAX, &b, &found));
	}
	if (found) {
		struct rcur c;
		TRY(err_wrap(record_open(b.p, b.len, RECORD_NAME, s->uuid,
					 hash_xxh3_64(key.p, key.len, 0), &c),
			     "name %s", name));
		uint8_t uuid[16];
		const uint8_t *text;
		TRY(rcur_copy(&c, uuid, sizeof(uuid)));
		ENSURE(rcur_left(&c) == key.len, ERR_CORRUPT, "name %s: another name's row", name);
		TRY(rcur_take(&c, key.len, &text));
		ENSURE(memcmp(text, key.p, key.len) == 0, ERR_CORRUPT,
		       "name %s: another name's row", name);
		memcpy(ret_uuid, uuid, sizeof(uuid));
	}
	*ret_found = found;
	return NULL;
}

static struct err *fill_holds(struct store *s, struct ltxn *t, struct store_vm *vm)
{
	bool found;
	uint8_t holder[16];
	TRY(get_name(s, t, vm->name, &found, holder));
	vm->holds_name = found && memcmp(holder, vm->uuid, sizeof(holder)) == 0;
	return NULL;
}

static struct err *get_row(struct store *s, struct ltxn *t, const uint8_t uuid[16], bool *ret_found,
			   struct store_vm *ret_vm)
{
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	bool found;
	TRY(ltxn_get(t, CATALOG_VM, uuid_key(uuid), ROW_BYTES_MAX, &b, &found));
	if (found) {
		struct store_vm vm;
		TRY(row_decode(s, &b, uuid, &vm));
		TRY(fill_holds(s, t, &vm));
		*ret_vm = vm;
	}
	*ret_found = found;
	return NULL;
}

/* Removes the VM's name row if the VM is its holder. */
static struct err *release_name(struct store *s, struct ltxn *t, const uint8_t uuid[16])
{
	bool found;
	struct store_vm old;
	TRY(get_row(s, t, uuid, &found, &old));
	if (found && old.holds_name) {
		TRY(ltxn_del(t, CATALOG_NAME, name_key(old.name), &found));
	}
	return NULL;
}

struct err *store_vm_put(struct store *s, const struct store_vm *vm)
{
	size_t len = strnlen(vm->name, sizeof(vm->name));
	ENSURE(len > 0 && len <= NAME_BYTES_MAX, ERR_USAGE, "a VM name has 1 to %u bytes",
	       NAME_BYTES_MAX);
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->catalog, true, &t));
	TRY(release_name(s, t, vm->uuid));
	TRY(put_row(s, t, vm));
	TRY(put_name(s, t, vm->name, vm->uuid));
	return ltxn_commit(MOVE(t));
}

struct err *store_vm_by_uuid(struct store *s, const uint8_t uuid[16], bool *ret_found,
			     struct store_vm *ret_vm)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->catalog, false, &t));
	return get_row(s, t, uuid, ret_found, ret_vm);
}

struct err *store_vm_by_name(struct store *s, const char *name, bool *ret_found,
			     struct store_vm *ret_vm)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->catalog, false, &t));
	uint8_t uuid[16];
	bool found;
	TRY(get_name(s, t, name, &found, uuid));
	if (found) {
		TRY(get_row(s, t, uuid, &found, ret_vm));
		ENSURE(found, ERR_CORRUPT, "store %s: the name %s belongs to a VM without a row",
		       s->dir, name);
	}
	*ret_found = found;
	return NULL;
}

static int vm_order(const void *pa, const void *pb)
{
	const struct store_vm *a = pa;
	const struct store_vm *b = pb;
	int c = strcmp(a->name, b->name);
	if (c == 0) {
		c = a->created_ns < b->created_ns ? -1 : a->created_ns > b->created_ns;
	}
	return c != 0 ? c : memcmp(a->uuid, b->uuid, sizeof(a->uuid));
}

struct err *store_vm_list(struct store *s, struct store_vm **ret_vms, size_t *ret_n)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->catalog, false, &t));
	uint64_t count;
	TRY(ltxn_count(t, CATALOG_VM, &count));
	SCOPE(freep) struct store_vm *vms = calloc(MAX(count, (uint64_t)1), sizeof(*vms));
	ENSURE(vms != NULL, ERR_SYS, "out of memory");
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(t, CATALOG_VM, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	size_t n = 0;
	while (found && n < count) {
		struct bytes key = lcur_key(c);
		ENSURE(key.len == 16, ERR_CORRUPT, "store %s: a VM key of %zu bytes", s->dir,
		       key.len);
		TRY(lcur_value(c, ROW_BYTES_MAX, &b));
		TRY(row_decode(s, &b, key.p, &vms[n]));
		TRY(fill_holds(s, t, &vms[n]));
		n++;
		TRY(lcur_next(c, &found));
	}
	qsort(vms, n, sizeof(*vms), vm_order);
	*ret_vms = MOVE(vms);
	*ret_n = n;
	return NULL;
}

struct err *store_vm_forget(struct store *s, const uint8_t uuid[16])
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->catalog, true, &t));
	TRY(release_name(s, t, uuid));
	bool found;
	TRY(ltxn_del(t, CATALOG_VM, uuid_key(uuid), &found));
	return ltxn_commit(MOVE(t));
}

/* ---- verification ---- */

struct catalog_check {
	struct store *s;
	struct ltxn *t;
	verify_report_fn *report;
	void *arg;
	uint64_t findings;
};

/* Damage becomes a finding; errors of the host are returned. */
static struct err *catalog_finding(struct catalog_check *k, struct err *e)
{
	if (e == NULL || (err_class(e) == ERR_SYS && err_errno(e) != EIO)) {
		return e;
	}
	k->findings++;
	if (k->report != NULL) {
		k->report(k->arg, err_msg(e));
	}
	err_drop(e, "it has become a finding");
	return NULL;
}

static struct err *check_vm_row(struct catalog_check *k, const struct lcur *c)
{
	struct bytes key = lcur_key(c);
	ENSURE(key.len == 16, ERR_CORRUPT, "store %s: a VM key of %zu bytes", k->s->dir, key.len);
	bool found;
	struct store_vm vm;
	return get_row(k->s, k->t, key.p, &found, &vm);
}

static struct err *check_name_row(struct catalog_check *k, const struct lcur *c)
{
	struct bytes key = lcur_key(c);
	ENSURE(key.len <= NAME_BYTES_MAX && memchr(key.p, 0, key.len) == NULL, ERR_CORRUPT,
	       "store %s: a name of %zu bytes, or with a NUL in it", k->s->dir, key.len);
	char name[NAME_BYTES_MAX + 1] = "";
	memcpy(name, key.p, key.len);
	bool found;
	uint8_t uuid[16];
	struct store_vm vm;
	TRY(get_name(k->s, k->t, name, &found, uuid));
	ENSURE(found, ERR_CORRUPT, "store %s: the name %s cannot be looked up", k->s->dir, name);
	TRY(get_row(k->s, k->t, uuid, &found, &vm));
	ENSURE(found, ERR_CORRUPT, "store %s: the name %s belongs to a VM without a row", k->s->dir,
	       name);
	ENSURE(strcmp(vm.name, name) == 0, ERR_CORRUPT, "store %s: the name %s belongs to VM %s",
	       k->s->dir, name, vm.name);
	return NULL;
}

static struct err *check_rows(struct catalog_check *k, enum catalog_db db)
{
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(k->t, db, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		TRY(catalog_finding(k,
				    db == CATALOG_VM ? check_vm_row(k, c) : check_name_row(k, c)));
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

static struct err *check_catalog(struct catalog_check *k)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(k->s->catalog, false, &t));
	k->t = t;
	TRY(check_rows(k, CATALOG_VM));
	return check_rows(k, CATALOG_NAME);
}

struct err *store_verify(struct store *s, verify_report_fn *report, void *arg,
			 uint64_t *ret_findings)
{
	struct catalog_check k = { .s = s, .report = report, .arg = arg };
	uint64_t lost = 0;
	TRY(catalog_finding(&k, lenv_check(s->catalog, LCHECK_DEEP, &lost)));
	if (lost > 0) {
		TRY(catalog_finding(&k, ERR(ERR_CORRUPT,
					    "store %s: catalog: %llu pages belong to nothing",
					    s->dir, (unsigned long long)lost)));
	}
	TRY(catalog_finding(&k, check_catalog(&k)));
	uint64_t guests;
	TRY(catalog_finding(&k, store_guest_check(s, &guests)));
	*ret_findings = k.findings;
	return NULL;
}
