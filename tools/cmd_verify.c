/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot verify`: checks every byte of a snapshot or of the whole store. Called by main.
 */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Reads a snapshot whole and checks every checksum and digest up to its root; with --all\n"
	"every record of every family in the store. What is damaged is named. Exit status 1 if\n"
	"anything was found.";

static const char about_store[] =
	"Reads the whole store: the catalog, and of every family the structure and free pages of\n"
	"its data file, every record, and every snapshot up to its root. What is damaged is "
	"named.\n"
	"Exit status 1 if anything was found; 'torpor store recover' saves what is sound.";

struct findings {
	json_t *list; /* NULL without --json */
	const char *where;
	uint64_t n;
};

/* Called by the thread that verifies, one finding at a time. */
static void on_finding(void *arg, const char *finding)
{
	struct findings *f = arg;
	f->n++;
	if (f->list == NULL) {
		printf("%s: %s\n", f->where, finding);
		return;
	}
	json_t *row = json_pack("{s:s,s:s}", "where", f->where, "finding", finding);
	if (row != NULL) {
		json_array_append_new(f->list, row);
	}
}

static struct err *verify_ref(struct store *s, const char *ref, struct findings *f)
{
	struct store_ref r;
	TRY(store_ref_resolve(s, ref, &r));
	f->where = ref;
	uint64_t n = 0;
	struct err *e = family_verify_snap(r.family, r.snap.id, on_finding, f, &n);
	store_ref_done(&r);
	return err_wrap(e, "verifying '%s'", ref);
}

static struct err *verify_family(struct store *s, const struct store_vm *vm, struct findings *f)
{
	char where[64];
	char uuid[37];
	uuid_text(vm->family, uuid);
	snprintf(where, sizeof(where), "family %s", uuid);
	SCOPE(family_closep) struct family *family = NULL;
	struct err *e = family_open(s, vm->family, false, &family);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "registered, but no snapshot was ever published");
		return NULL;
	}
	TRY(e);
	f->where = where;
	uint64_t n = 0;
	e = family_verify(family, on_finding, f, &n);
	f->where = NULL;
	return err_wrap(e, "verifying %s", where);
}

static struct err *verify_all(struct store *s, struct findings *f)
{
	uint64_t found = 0;
	f->where = "catalog";
	TRY(err_wrap(store_verify(s, on_finding, f, &found), "verifying the catalog"));
	f->where = NULL;
	SCOPE(freep) struct store_vm *vms = NULL;
	size_t n = 0;
	TRY(store_vm_list(s, &vms, &n));
	for (size_t i = 0; i < n; i++) {
		bool seen = false;
		for (size_t k = 0; k < i && !seen; k++) {
			seen = memcmp(vms[k].family, vms[i].family, sizeof(vms[i].family)) == 0;
		}
		if (!seen) {
			TRY(verify_family(s, &vms[i], f));
		}
	}
	return NULL;
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

/* One snapshot or, without `ref`, the whole store. */
static struct err *verify_run(const struct args *a, const char *ref, int *ret_status)
{
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_READ, &s));
	SCOPE(json_put) json_t *list = a->json ? json_array() : NULL;
	struct findings f = { .list = list };
	TRY(ref == NULL ? verify_all(s, &f) : verify_ref(s, ref, &f));
	*ret_status = f.n == 0 ? 0 : 1;
	if (a->json) {
		return out_json(json_pack("{s:b,s:O}", "ok", (int)(f.n == 0), "findings", list));
	}
	const char *what = ref == NULL ? store_dir(s) : ref;
	if (f.n == 0) {
		printf("%s: every byte is as it was written\n", what);
	} else {
		printf("%s: %llu finding%s\n", what, (unsigned long long)f.n, f.n == 1 ? "" : "s");
	}
	return NULL;
}

struct err *cmd_verify(struct args *a, int *ret_status)
{
	bool all = false;
	const struct opt opts[] = {
		{ "all", NULL, OPT_FLAG, &all, "the whole store instead of one snapshot" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 0, 1));
	if (a->help) {
		return NULL;
	}
	ENSURE(all != (a->npos == 1), ERR_USAGE, "give either a REF or --all");
	return verify_run(a, all ? NULL : a->pos[0], ret_status);
}

struct err *cmd_store_verify(struct args *a, int *ret_status)
{
	TRY(opts_parse(a, about_store, NULL, 0, 0, 0));
	return a->help ? NULL : verify_run(a, NULL, ret_status);
}
