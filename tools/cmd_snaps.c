/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot list`: the snapshots of a store. Called by main; reads only. */
#include <stdio.h>
#include <string.h>

#include "core/config.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] = "Lists the snapshots in the store, or those of one VM. A VM whose name "
			    "was taken by another\n"
			    "is listed under its uuid.";

static void add_row(struct table *t, const struct store_vm *vm, const struct snap_info *snap)
{
	char ref[STORECMD_REF_BYTES];
	char when[24];
	char memory[16];
	char stored[16];
	storecmd_ref(vm, snap, ref, sizeof(ref));
	table_cell(t, "%s", ref);
	table_cell(t, "%llu", (unsigned long long)snap->number);
	table_cell(t, "%s", snap->tag[0] != 0 ? snap->tag : "-");
	table_cell(t, "%s", out_time(snap->frozen_at_ns, when));
	table_cell(t, "%s", out_size(storecmd_memory(snap), memory));
	table_cell(t, "%s", out_size(snap->bytes_stored, stored));
	table_cell(t, "%s", snap->pinned ? "pinned" : "-");
}

/* Adds the snapshots of one VM to the table or the array, whichever is there. */
static struct err *add_vm(struct store *s, const struct store_vm *vm, struct table *t,
			  json_t *array)
{
	SCOPE(freep) struct snap_info *snaps = NULL;
	size_t n = 0;
	TRY(storecmd_snaps(s, vm, &snaps, &n));
	for (size_t i = 0; i < n; i++) {
		if (array != NULL) {
			ENSURE(json_array_append_new(array, storecmd_json(vm, &snaps[i])) == 0,
			       ERR_SYS, "a snapshot of '%s' cannot be put as JSON", vm->name);
		} else {
			add_row(t, vm, &snaps[i]);
		}
	}
	return NULL;
}

static struct err *add_all(struct store *s, const char *name, struct table *t, json_t *array)
{
	SCOPE(freep) struct store_vm *vms = NULL;
	size_t n = 0;
	TRY(store_vm_list(s, &vms, &n));
	bool found = false;
	for (size_t i = 0; i < n; i++) {
		/* A name lists its holder and those that had it before. */
		if (name == NULL || strcmp(name, vms[i].name) == 0) {
			found = true;
			TRY(add_vm(s, &vms[i], t, array));
		}
	}
	ENSURE(found || name == NULL, ERR_NOTFOUND, "the store '%s' has no VM '%s'", store_dir(s),
	       name);
	return NULL;
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

struct err *cmd_snaps(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about, NULL, 0, 0, 1));
	if (a->help) {
		return NULL;
	}
	const char *name = a->npos > 0 ? a->pos[0] : NULL;
	if (name != NULL) {
		TRY(config_check_name(name));
	}
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_READ, &s));
	SCOPE(table_freep) struct table *t = table_new(7);
	static const char *const head[] = { "REF",    "NUMBER", "TAG", "WHEN",
					    "MEMORY", "STORED", "KEEP" };
	for (size_t i = 0; i < ARRAY_LEN(head); i++) {
		table_cell(t, "%s", head[i]);
	}
	SCOPE(json_put) json_t *array = a->json ? json_array() : NULL;
	TRY(add_all(s, name, t, array));
	if (a->json) {
		return out_json(MOVE(array));
	}
	table_print(t);
	return NULL;
}
