/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor list`: living VMs (all stores) and VMs in this call's store. Called by main. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/guest.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Lists living VMs, whatever store they use, and the VMs that have snapshots in the store; "
	"with\n"
	"--all also the guests that are only defined ('torpor guests status' tells more of those).";

enum { ANSWER_MS = 2000 }; /* a VM that is being built does not answer yet */

/* Asks a VM for its status; without an answer in time *ret stays NULL. */
static void ask_status(const struct rundir_vm *vm, json_t **ret)
{
	SCOPE(client_closep) struct client *c = NULL;
	SCOPE(json_put) json_t *answer = NULL;
	bool ready = false;
	struct err *e = client_connect(vm, &c);
	if (e == NULL) {
		e = client_send(c, json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "Status"));
	}
	if (e == NULL) {
		e = client_receive(c, ANSWER_MS, &ready, &answer);
	}
	err_drop(e, "listed as starting: it has its name, but does not answer yet");
	json_t *body = json_object_get(json_object_get(answer, "Torpor"), "Status");
	*ret = json_incref(body);
}

struct list {
	struct table *table;
	json_t *array; /* NULL without --json */
	json_t *names; /* of this store's rows */
};

static bool listed(const struct list *l, const char *name)
{
	return json_object_get(l->names, name) != NULL;
}

static const char *text_of(const json_t *j, const char *key, const char *dflt)
{
	const json_t *v = json_object_get(j, key);
	return json_is_string(v) ? json_string_value(v) : dflt;
}

static struct err *add_living(const struct list *l, const struct rundir_vm *vm, size_t nsnaps,
			      bool here)
{
	SCOPE(json_put) json_t *status = NULL;
	if (here) {
		json_object_set_new(l->names, vm->name, json_true());
	}
	ask_status(vm, &status);
	const char *state = text_of(status, "state", "starting");
	if (l->array != NULL) {
		json_t *row = status != NULL ? json_copy(status) : json_object();
		json_object_set_new(row, "name", json_string(vm->name));
		json_object_set_new(row, "pid", json_integer(vm->pid));
		json_object_set_new(row, "state", json_string(state));
		json_object_set_new(row, "store", json_string(vm->store_dir));
		json_object_set_new(row, "socket", json_string(vm->socket_path));
		if (here) {
			json_object_set_new(row, "snapshots", json_integer((json_int_t)nsnaps));
		}
		json_array_append_new(l->array, row);
		return NULL;
	}
	char mem[16];
	table_cell(l->table, "%s", vm->name);
	table_cell(l->table, "%s%s", state,
		   json_is_true(json_object_get(status, "taking")) ? ", snapshot" : "");
	table_cell(l->table, "%d", vm->pid);
	table_cell(l->table, "%s",
		   status == NULL ? "-"
				  : out_size((uint64_t)json_integer_value(
						     json_object_get(status, "mem_bytes")),
					     mem));
	if (here) {
		table_cell(l->table, "%zu", nsnaps);
	} else {
		table_cell(l->table, "-");
	}
	table_cell(l->table, "%s", vm->store_dir);
	return NULL;
}

static struct err *add_stored(const struct list *l, const struct store_vm *vm, size_t nsnaps,
			      const char *store)
{
	char uuid[37];
	uuid_text(vm->uuid, uuid);
	const char *name = vm->holds_name ? vm->name : uuid;
	json_object_set_new(l->names, name, json_true());
	if (l->array != NULL) {
		json_array_append_new(l->array, json_pack("{s:s,s:s,s:s,s:s,s:I}", "name", name,
							  "uuid", uuid, "state", "stored", "store",
							  store, "snapshots", (json_int_t)nsnaps));
		return NULL;
	}
	table_cell(l->table, "%s", name);
	table_cell(l->table, "stored");
	table_cell(l->table, "-");
	table_cell(l->table, "-");
	table_cell(l->table, "%zu", nsnaps);
	table_cell(l->table, "%s", store);
	return NULL;
}

/* Guests that are neither alive nor have a snapshot. */
static struct err *add_defined(const struct list *l, struct store *s, const char *dir)
{
	struct store_guest *g = NULL;
	size_t n = 0;
	TRY(store_guest_list(s, &g, &n));
	for (size_t i = 0; i < n; i++) {
		if (listed(l, g[i].name)) {
			continue;
		}
		if (l->array != NULL) {
			json_array_append_new(l->array, json_pack("{s:s,s:s,s:s,s:i}", "name",
								  g[i].name, "state", "defined",
								  "store", dir, "snapshots", 0));
			continue;
		}
		const char *const cells[] = { g[i].name, "defined", "-", "-", "0", dir };
		for (size_t k = 0; k < ARRAY_LEN(cells); k++) {
			table_cell(l->table, "%s", cells[k]);
		}
	}
	store_guests_free(g, n);
	return NULL;
}

/* How many snapshots the living VM of that name has in the store at hand. */
static struct err *count_snaps(struct store *s, const char *name, size_t *ret_n)
{
	struct store_vm vm;
	bool found = false;
	*ret_n = 0;
	TRY(store_vm_by_name(s, name, &found, &vm));
	if (!found) {
		return NULL;
	}
	SCOPE(freep) struct snap_info *snaps = NULL;
	return storecmd_snaps(s, &vm, &snaps, ret_n);
}

static struct err *add_all(const struct list *l, struct store *s, const char *dir)
{
	SCOPE(freep) struct rundir_vm *living = NULL;
	size_t nliving = 0;
	TRY(rundir_list(&living, &nliving));
	for (size_t i = 0; i < nliving; i++) {
		bool here = s != NULL && strcmp(living[i].store_dir, dir) == 0;
		size_t nsnaps = 0;
		if (here) {
			TRY(count_snaps(s, living[i].name, &nsnaps));
		}
		TRY(add_living(l, &living[i], nsnaps, here));
	}
	SCOPE(freep) struct store_vm *vms = NULL;
	size_t nvms = 0;
	if (s != NULL) {
		TRY(store_vm_list(s, &vms, &nvms));
	}
	for (size_t i = 0; i < nvms; i++) {
		bool lives = false;
		for (size_t k = 0; k < nliving && vms[i].holds_name; k++) {
			lives = lives || (strcmp(living[k].name, vms[i].name) == 0 &&
					  strcmp(living[k].store_dir, dir) == 0);
		}
		SCOPE(freep) struct snap_info *snaps = NULL;
		size_t n = 0;
		TRY(storecmd_snaps(s, &vms[i], &snaps, &n));
		if (!lives && n > 0) {
			TRY(add_stored(l, &vms[i], n, dir));
		}
	}
	return NULL;
}

struct err *cmd_list(struct args *a, int *ret_status)
{
	(void)ret_status;
	bool all = false;
	const struct opt opts[] = {
		{ "all", NULL, OPT_FLAG, &all, "also guests that are only defined" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 0, 0));
	if (a->help) {
		return NULL;
	}
	char dir[PATH_MAX];
	TRY(opts_store_dir(a, dir, sizeof(dir)));
	SCOPE(store_closep) struct store *s = NULL;
	struct stat st;
	if (a->store != NULL || stat(dir, &st) == 0) {
		TRY(storecmd_open(a, STORE_READ, &s));
	}
	SCOPE(table_freep) struct table *t = table_new(6);
	static const char *const head[] = {
		"NAME", "STATE", "PID", "MEMORY", "SNAPSHOTS", "STORE"
	};
	for (size_t i = 0; i < ARRAY_LEN(head); i++) {
		table_cell(t, "%s", head[i]);
	}
	SCOPE(json_put) json_t *array = a->json ? json_array() : NULL;
	SCOPE(json_put) json_t *names = json_object();
	const struct list l = { t, array, names };
	TRY(add_all(&l, s, dir));
	if (all && s != NULL) {
		TRY(add_defined(&l, s, dir));
	}
	if (a->json) {
		return out_json(MOVE(array));
	}
	table_print(t);
	return NULL;
}
