/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor snapshot rm`: removes snapshots. Called by main.
 *
 * Every REF is resolved before anything is removed; then it is all or nothing per family. A VM
 * whose last snapshot went is forgotten and an empty family's directory removed, unless a living VM
 * still has that family open.
 */
#include <stdio.h>
#include <string.h>

#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Removes snapshots and frees what only they used. Other snapshots of the VM are whole by\n"
	"themselves and stay. If any REF does not exist, or is pinned, nothing is removed.";

struct doomed {
	struct store_vm vm;
	uint64_t id;
	char ref[STORECMD_REF_BYTES];
	bool done;
};

static struct err *resolve_all(struct store *s, struct args *a, struct doomed *d)
{
	for (int i = 0; i < a->npos; i++) {
		struct store_ref r;
		TRY(store_ref_resolve(s, a->pos[i], &r));
		d[i].vm = r.vm;
		d[i].id = r.snap.id;
		storecmd_ref(&r.vm, &r.snap, d[i].ref, sizeof(d[i].ref));
		store_ref_done(&r);
	}
	return NULL;
}

static bool same_family(const struct store_vm *a, const struct store_vm *b)
{
	return memcmp(a->family, b->family, sizeof(a->family)) == 0;
}

/* Removes all of the family of d[first]. */
static struct err *remove_family(struct store *s, struct doomed *d, size_t n, size_t first,
				 bool force)
{
	SCOPE(freep) uint64_t *ids = calloc(n, sizeof(*ids));
	ENSURE(ids != NULL, ERR_SYS, "out of memory");
	size_t nids = 0;
	for (size_t i = first; i < n; i++) {
		if (!same_family(&d[i].vm, &d[first].vm)) {
			continue;
		}
		bool seen = false; /* two REFs may name one snapshot */
		for (size_t k = 0; k < nids && !seen; k++) {
			seen = ids[k] == d[i].id;
		}
		if (!seen) {
			ids[nids++] = d[i].id;
		}
		d[i].done = true;
	}
	SCOPE(family_closep) struct family *f = NULL;
	TRY(family_open(s, d[first].vm.family, false, &f));
	TRY(force ? family_remove(f, ids, nids) : family_remove_unpinned(f, ids, nids));
	uint64_t unused;
	return family_punch(f, false, &unused);
}

/* Has a living VM of this store the family? Who cannot be asked counts as having it. */
static struct err *family_lives(struct store *s, const struct store_vm *vm, bool *ret_lives)
{
	SCOPE(freep) struct rundir_vm *vms = NULL;
	size_t n = 0;
	TRY(rundir_list(&vms, &n));
	char family[37];
	uuid_text(vm->family, family);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(vms[i].store_dir, store_dir(s)) != 0) {
			continue;
		}
		SCOPE(client_closep) struct client *c = NULL;
		SCOPE(json_put) json_t *status = NULL;
		struct err *e = client_connect(&vms[i], &c);
		if (e == NULL) {
			e = client_torpor(c, json_string("Status"), "Status", &status);
		}
		const json_t *theirs = json_object_get(status, "family");
		if (e != NULL || !json_is_string(theirs) ||
		    strcmp(json_string_value(theirs), family) == 0) {
			err_drop(e, "the family is kept, which costs an empty directory");
			*ret_lives = true;
			return NULL;
		}
	}
	*ret_lives = false;
	return NULL;
}

static struct err *tidy(struct store *s, const struct doomed *d, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool lives = false;
		TRY(family_lives(s, &d[i].vm, &lives));
		struct store_vm vm;
		bool found = false;
		TRY(store_vm_by_uuid(s, d[i].vm.uuid, &found, &vm));
		if (lives || !found) {
			continue;
		}
		SCOPE(freep) struct snap_info *snaps = NULL;
		size_t left = 0;
		TRY(storecmd_snaps(s, &vm, &snaps, &left));
		if (left == 0) {
			TRY(store_vm_forget(s, vm.uuid));
			TRY(family_remove_empty(s, vm.family));
		}
	}
	return NULL;
}

static struct err *tell(struct args *a, const struct doomed *d, size_t n)
{
	if (!a->json) {
		return NULL;
	}
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(list, json_string(d[i].ref));
	}
	return out_json(json_pack("{s:o}", "removed", list));
}

struct err *cmd_rm(struct args *a, int *ret_status)
{
	(void)ret_status;
	bool force = false;
	const struct opt opts[] = {
		{ "force", NULL, OPT_FLAG, &force, "remove pinned ones, too" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, -1));
	if (a->help) {
		return NULL;
	}
	size_t n = (size_t)a->npos;
	SCOPE(freep) struct doomed *d = calloc(n, sizeof(*d));
	ENSURE(d != NULL, ERR_SYS, "out of memory");
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s));
	TRY(resolve_all(s, a, d));
	for (size_t i = 0; i < n; i++) {
		if (!d[i].done) {
			TRY(err_wrap(remove_family(s, d, n, i, force), "removing '%s'", d[i].ref));
		}
	}
	TRY(tidy(s, d, n));
	return tell(a, d, n);
}
