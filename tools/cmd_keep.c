/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor store stat|gc|compact`: where the store's bytes are, collecting and compacting. Called by
 * main; the families of the named VMs, or all.
 */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about_stat[] =
	"Says where the bytes of the store are: of all VM families, or of those of the VMs named.\n"
	"LIVE is what snapshots use, DEAD what nothing uses any more (of it, IN FRAMES is freed "
	"by\n"
	"'store compact', the rest by 'store gc'), FREE what the data file has room for inside.\n"
	"For each snapshot, UNIQUE is what nothing else uses, and RM what removing it frees at "
	"once.";

static const char about_gc[] =
	"Frees what nothing uses: what killed takes have left, and snapshots removed while they\n"
	"were being read; then gives free pages back to the file system. Removing a snapshot does\n"
	"the first by itself. May run beside everything else.";

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

/* What a family is called: the names of its VMs. */
static void label_of(const struct store_vm *vms, size_t n, const uint8_t family[16], char *ret,
		     size_t len)
{
	size_t at = 0;
	ret[0] = 0;
	for (size_t i = 0; i < n; i++) {
		if (memcmp(vms[i].family, family, 16) != 0 || at + 1 >= len) {
			continue;
		}
		char uuid[37];
		uuid_text(vms[i].uuid, uuid);
		at += (size_t)snprintf(ret + at, len - at, "%s%s", at > 0 ? "," : "",
				       vms[i].holds_name ? vms[i].name : uuid);
	}
}

static bool is_meant(const struct args *a, const struct store_vm *vm)
{
	for (int i = 0; i < a->npos; i++) {
		char uuid[37];
		uuid_text(vm->uuid, uuid);
		if ((vm->holds_name && strcmp(a->pos[i], vm->name) == 0) ||
		    strcmp(a->pos[i], uuid) == 0) {
			return true;
		}
	}
	return a->npos == 0;
}

static struct err *check_names(const struct args *a, const struct store_vm *vms, size_t n)
{
	for (int k = 0; k < a->npos; k++) {
		bool found = false;
		struct args one = { .npos = 1, .pos = a->pos + k };
		for (size_t i = 0; i < n && !found; i++) {
			found = is_meant(&one, &vms[i]);
		}
		ENSURE(found, ERR_NOTFOUND, "the store has no VM %s: see 'torpor snapshot list'",
		       a->pos[k]);
	}
	return NULL;
}

struct each {
	struct err *(*fn)(void *arg, const struct each *e, struct family *f);
	void *arg;
	const struct store_vm *vms;
	size_t nvms;
	const struct store_vm *vm; /* the family's first */
	char label[128];
	enum store_mode mode;
};

/* Calls e->fn for each family that is meant and has an environment. */
static struct err *each_family(const struct args *a, struct each *e)
{
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, e->mode, &s));
	SCOPE(freep) struct store_vm *vms = NULL;
	size_t n = 0;
	TRY(store_vm_list(s, &vms, &n));
	TRY(check_names(a, vms, n));
	e->vms = vms;
	e->nvms = n;
	for (size_t i = 0; i < n; i++) {
		bool seen = false;
		for (size_t k = 0; k < i && !seen; k++) {
			seen = memcmp(vms[k].family, vms[i].family, 16) == 0 &&
			       is_meant(a, &vms[k]);
		}
		if (seen || !is_meant(a, &vms[i])) {
			continue;
		}
		SCOPE(family_closep) struct family *f = NULL;
		struct err *err = family_open(s, vms[i].family, false, &f);
		if (err != NULL && err_class(err) == ERR_NOTFOUND) {
			err_drop(err, "registered, but nothing was ever published");
			continue;
		}
		e->vm = &vms[i];
		label_of(vms, n, vms[i].family, e->label, sizeof(e->label));
		TRY(err_wrap(err, "VM %s", e->label));
		TRY(err_wrap(e->fn(e->arg, e, f), "VM %s", e->label));
	}
	return NULL;
}

/* ---- stat ---- */

struct told {
	json_t *families; /* NULL without --json */
	struct table *t;
	struct table *snaps;
	struct family_stat sum;
};

static json_t *stat_json(const struct family_stat *st)
{
	return json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}",
		"disk_bytes", (json_int_t)st->disk_bytes, "file_bytes", (json_int_t)st->file_bytes,
		"free_bytes", (json_int_t)st->free_bytes, "record_bytes",
		(json_int_t)st->record_bytes, "live_bytes", (json_int_t)st->live_bytes,
		"shared_bytes", (json_int_t)st->shared_bytes, "partly_dead_bytes",
		(json_int_t)st->partly_dead_bytes, "dead_bytes", (json_int_t)st->dead_bytes,
		"pending_bytes", (json_int_t)st->pending_bytes, "live_pages",
		(json_int_t)st->live_pages, "dead_pages", (json_int_t)st->dead_pages, "frames",
		(json_int_t)st->frames, "partly_dead_frames", (json_int_t)st->partly_dead_frames,
		"leaves", (json_int_t)st->leaves, "nodes", (json_int_t)st->nodes, "snapshots",
		(json_int_t)st->nsnaps, "hidden", (json_int_t)st->hidden, "damaged",
		(json_int_t)st->damaged);
}

static void add_sum(struct family_stat *sum, const struct family_stat *st)
{
	sum->disk_bytes += st->disk_bytes;
	sum->file_bytes += st->file_bytes;
	sum->free_bytes += st->free_bytes;
	sum->record_bytes += st->record_bytes;
	sum->live_bytes += st->live_bytes;
	sum->shared_bytes += st->shared_bytes;
	sum->partly_dead_bytes += st->partly_dead_bytes;
	sum->dead_bytes += st->dead_bytes;
	sum->pending_bytes += st->pending_bytes;
	sum->live_pages += st->live_pages;
	sum->dead_pages += st->dead_pages;
	sum->frames += st->frames;
	sum->partly_dead_frames += st->partly_dead_frames;
	sum->leaves += st->leaves;
	sum->nodes += st->nodes;
	sum->nsnaps += st->nsnaps;
	sum->hidden += st->hidden;
	sum->damaged += st->damaged;
}

static void stat_row(struct table *t, const char *name, const struct family_stat *st)
{
	char text[16];
	table_cell(t, "%s", name);
	table_cell(t, "%zu", st->nsnaps);
	table_cell(t, "%s", out_size(st->disk_bytes, text));
	table_cell(t, "%s", out_size(st->live_bytes, text));
	table_cell(t, "%s", out_size(st->dead_bytes + st->partly_dead_bytes, text));
	table_cell(t, "%s", out_size(st->partly_dead_bytes, text));
	table_cell(t, "%s", out_size(st->free_bytes, text));
}

static const struct store_vm *vm_of(const struct each *e, const struct snap_info *info)
{
	for (size_t i = 0; i < e->nvms; i++) {
		if (memcmp(e->vms[i].uuid, info->vm, 16) == 0) {
			return &e->vms[i];
		}
	}
	return e->vm;
}

static struct err *snap_rows(struct told *to, const struct each *e, const struct family_stat *st,
			     json_t *list)
{
	for (size_t i = 0; i < st->nsnaps; i++) {
		const struct snap_usage *u = &st->snap[i];
		char ref[STORECMD_REF_BYTES];
		char text[16];
		storecmd_ref(vm_of(e, &u->info), &u->info, ref, sizeof(ref));
		if (list != NULL) {
			ENSURE(json_array_append_new(
				       list, json_pack("{s:s,s:I,s:I,s:I,s:I,s:b}", "ref", ref,
						       "number", (json_int_t)u->info.number,
						       "unique_bytes", (json_int_t)u->unique_bytes,
						       "shared_bytes", (json_int_t)u->shared_bytes,
						       "rm_bytes", (json_int_t)u->rm_bytes,
						       "leased", (int)u->leased)) == 0,
			       ERR_SYS, "out of memory");
			continue;
		}
		table_cell(to->snaps, "%s", ref);
		table_cell(to->snaps, "%s", out_size(u->unique_bytes, text));
		table_cell(to->snaps, "%s", out_size(u->shared_bytes, text));
		table_cell(to->snaps, "%s", out_size(u->rm_bytes, text));
		table_cell(to->snaps, "%s", u->leased ? "yes" : "-");
	}
	return NULL;
}

static struct err *stat_family(void *arg, const struct each *e, struct family *f)
{
	struct told *to = arg;
	SCOPE(family_stat_done) struct family_stat st = { 0 };
	TRY(family_stat(f, &st));
	add_sum(&to->sum, &st);
	if (to->families == NULL) {
		stat_row(to->t, e->label, &st);
		return snap_rows(to, e, &st, NULL);
	}
	char family[37];
	uuid_text(e->vm->family, family);
	json_t *row = stat_json(&st);
	json_t *list = json_array();
	ENSURE(row != NULL && list != NULL, ERR_SYS, "out of memory");
	json_object_set_new(row, "family", json_string(family));
	json_object_set_new(row, "vms", json_string(e->label));
	json_object_set_new(row, "list", list);
	json_array_append_new(to->families, row);
	return snap_rows(to, e, &st, list);
}

static void stat_heads(struct told *to)
{
	static const char *const head[] = { "VM",   "SNAPSHOTS", "DISK", "LIVE",
					    "DEAD", "IN FRAMES", "FREE" };
	static const char *const snap_head[] = { "SNAPSHOT", "UNIQUE", "SHARED", "RM", "IN USE" };
	for (size_t i = 0; i < ARRAY_LEN(head); i++) {
		table_cell(to->t, "%s", head[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(snap_head); i++) {
		table_cell(to->snaps, "%s", snap_head[i]);
	}
}

struct err *cmd_store_stat(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_stat, NULL, 0, 0, -1));
	if (a->help) {
		return NULL;
	}
	SCOPE(json_put) json_t *families = a->json ? json_array() : NULL;
	SCOPE(table_freep) struct table *t = table_new(7);
	SCOPE(table_freep) struct table *snaps = table_new(5);
	struct told to = { .families = families, .t = t, .snaps = snaps };
	stat_heads(&to);
	struct each e = { .fn = stat_family, .arg = &to, .mode = STORE_READ };
	TRY(each_family(a, &e));
	if (a->json) {
		return out_json(
			json_pack("{s:o,s:O}", "total", stat_json(&to.sum), "families", families));
	}
	stat_row(t, "total", &to.sum);
	table_print(t);
	printf("\n");
	table_print(snaps);
	if (to.sum.damaged > 0) {
		printf("\n%llu damaged records are not counted: see 'torpor store verify'\n",
		       (unsigned long long)to.sum.damaged);
	}
	return NULL;
}

/* ---- gc ---- */

struct freed {
	struct gc_result gc;
	uint64_t punched;
};

static struct err *gc_family(void *arg, const struct each *e, struct family *f)
{
	(void)e;
	struct freed *sum = arg;
	struct gc_result res = { 0 };
	uint64_t punched = 0;
	TRY(family_gc(f, &res));
	TRY(family_punch(f, true, &punched));
	sum->punched += punched;
	sum->gc.frames_freed += res.frames_freed;
	sum->gc.bytes_freed += res.bytes_freed;
	sum->gc.sessions_cleared += res.sessions_cleared;
	return NULL;
}

struct err *cmd_store_gc(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_gc, NULL, 0, 0, -1));
	if (a->help) {
		return NULL;
	}
	struct freed sum = { 0 };
	struct each e = { .fn = gc_family, .arg = &sum, .mode = STORE_WRITE };
	TRY(each_family(a, &e));
	if (a->json) {
		return out_json(json_pack("{s:I,s:I,s:I,s:I}", "frames_freed",
					  (json_int_t)sum.gc.frames_freed, "bytes_freed",
					  (json_int_t)sum.gc.bytes_freed, "sessions_cleared",
					  (json_int_t)sum.gc.sessions_cleared, "bytes_punched",
					  (json_int_t)sum.punched));
	}
	char text[16];
	char disk[16];
	printf("%s freed, %llu unfinished takes cleared away, %s given back to the disk\n",
	       out_size(sum.gc.bytes_freed, text), (unsigned long long)sum.gc.sessions_cleared,
	       out_size(sum.punched, disk));
	return NULL;
}

/* ---- compact ---- */

static const char about_compact[] =
	"Moves what is in use of partly dead frames together, collects, and gives free pages back\n"
	"to the file system. Snapshots stay as they are. May run beside takes and restores: what\n"
	"somebody is reading is left for another time. Needs some free room for a while.";

struct compacting {
	struct compact_opts opts;
	struct compact_result sum;
	struct progress *p;
};

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
	const struct compacting *k = arg;
	progress_show(k->p, "compacting", done, total);
}

static struct err *compact_family(void *arg, const struct each *e, struct family *f)
{
	(void)e;
	struct compacting *k = arg;
	struct compact_result res = { 0 };
	TRY(family_compact(f, &k->opts, &res));
	k->sum.rounds += res.rounds;
	k->sum.frames_moved += res.frames_moved;
	k->sum.frames_made += res.frames_made;
	k->sum.pages_moved += res.pages_moved;
	k->sum.bytes_freed += res.bytes_freed;
	k->sum.bytes_punched += res.bytes_punched;
	return NULL;
}

struct err *cmd_store_compact(struct args *a, int *ret_status)
{
	(void)ret_status;
	unsigned below = 0;
	const struct opt opts[] = {
		{ "below", "PERCENT", OPT_UINT, &below,
		  "rewrite frames with less of their bytes in use (default 75)" },
	};
	TRY(opts_parse(a, about_compact, opts, ARRAY_LEN(opts), 0, -1));
	if (a->help) {
		return NULL;
	}
	ENSURE(below <= 100, ERR_USAGE, "--below: %u is no percentage", below);
	SCOPE(progress_freep) struct progress *p = progress_new();
	struct compacting k = { .opts = { .live_percent = below, .progress = on_progress },
				.p = p };
	k.opts.arg = &k;
	struct each e = { .fn = compact_family, .arg = &k, .mode = STORE_WRITE };
	TRY(each_family(a, &e));
	if (a->json) {
		return out_json(json_pack(
			"{s:I,s:I,s:I,s:I,s:I}", "frames_moved", (json_int_t)k.sum.frames_moved,
			"frames_made", (json_int_t)k.sum.frames_made, "pages_moved",
			(json_int_t)k.sum.pages_moved, "bytes_freed", (json_int_t)k.sum.bytes_freed,
			"bytes_punched", (json_int_t)k.sum.bytes_punched));
	}
	char text[16];
	char disk[16];
	printf("%llu partly dead frames became %llu: %s freed, %s given back to the disk\n",
	       (unsigned long long)k.sum.frames_moved, (unsigned long long)k.sum.frames_made,
	       out_size(k.sum.bytes_freed, text), out_size(k.sum.bytes_punched, disk));
	return NULL;
}
