/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor restore`: brings a snapshot to life, under its own name or as a clone. Called by main. */
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/nets.h"
#include "tools/restore.h"
#include "tools/storecmd.h"

static const char about[] =
	"Brings a snapshot to life in a new process. Everything but the host's side (serial port,\n"
	"socket) comes from the snapshot. With another --name than the VM's own a clone is made: "
	"a\n"
	"VM of its own with a new uuid, whose snapshots share what they have in common. REF is "
	"NAME\n"
	"(newest snapshot), NAME@TAG or NAME@NUMBER. Exit status as for 'torpor run'; with\n"
	"--check 0 if it would be restored, 1 if not.";

struct err *restore_name_free(struct store *store, const struct config *c)
{
	struct store_vm vm;
	bool taken = false;
	TRY(store_vm_by_name(store, c->name, &taken, &vm));
	if (!taken || memcmp(vm.uuid, c->uuid, sizeof(vm.uuid)) == 0) {
		return NULL;
	}
	SCOPE(freep) struct snap_info *snaps = NULL;
	size_t n = 0;
	TRY(storecmd_snaps(store, &vm, &snaps, &n));
	ENSURE(n == 0, ERR_NOT_NOW,
	       "the name '%s' belongs to another VM with %zu snapshot%s in this store: give "
	       "another "
	       "--name",
	       c->name, n, n == 1 ? "" : "s");
	return NULL;
}

struct err *restore_config(struct vmm *v, const struct restore *r)
{
	const struct bytes text = snap_image_config(v->image);
	TRY(err_wrap(config_parse(text.p, text.len, &v->config), "snapshot '%s'", r->ref));
	const struct store_vm *vm = snap_image_vm(v->image);
	ENSURE(memcmp(v->config.uuid, vm->uuid, sizeof(vm->uuid)) == 0, ERR_CORRUPT,
	       "snapshot '%s' says that it is of another VM than the store says", r->ref);
	/* The registry's family is the one whose records the image shares. */
	memcpy(v->config.family, vm->family, sizeof(v->config.family));
	const char *own = vm->name[0] != 0 ? vm->name : v->config.name;
	if (r->name != NULL && strcmp(r->name, own) != 0) {
		TRY(uuid_make(v->config.uuid));
		TRY(config_devs_new_macs(&v->config.devs));
		own = r->name;
	}
	TRY(config_check_name(own));
	snprintf(v->config.name, sizeof(v->config.name), "%s", own);
	return NULL;
}

static struct err *prepare(struct vmm *v, void *arg)
{
	const struct restore *r = arg;
	TRY(store_open(v->store_dir, STORE_WRITE, &v->store));
	TRY(snap_image_open(v->store, r->ref, &v->image));
	TRY(restore_config(v, r));
	if (v->share) { /* the name alone may say another one soon */
		const struct store_vm *vm = snap_image_vm(v->image);
		int n = vm->holds_name
				? snprintf(v->ref, sizeof(v->ref), "%s@%llu", vm->name,
					   (unsigned long long)snap_image_info(v->image)->number)
				: snprintf(v->ref, sizeof(v->ref), "%s", r->ref);
		ENSURE(n > 0 && (size_t)n < sizeof(v->ref), ERR_USAGE, "'%s' is too long", r->ref);
	}
	return restore_name_free(v->store, &v->config);
}

static UNUSED void vmm_donep(struct vmm *v)
{
	vmm_done(v);
}

struct err *cmd_restore(struct args *a, int *ret_status)
{
	struct restore r = { .clock = "continue", .mode = "lazy" };
	SCOPE(vmm_donep) struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = {
		{ "name", "NAME", OPT_TEXT, &r.name,
		  "another name than the VM's own: makes a clone" },
		{ "clock", "continue|jump", OPT_CHOICE, &r.clock,
		  "the guest's wall time goes on where it stopped (the default), or\n"
		  "is the host's" },
		{ "mode", "lazy|eager", OPT_CHOICE, &r.mode,
		  "lazy (the default): the guest runs at once and its memory is read when\n"
		  "it is touched, the rest in the background; eager: all is read and\n"
		  "checked before" },
		{ "no-fill", NULL, OPT_FLAG, &v.no_fill,
		  "with lazy: read only what is touched; for clones that do little" },
		{ "share-memory", NULL, OPT_FLAG, &v.share,
		  "memory is shared with all that restore the same snapshot so, page by\n"
		  "page until it is written; the first waits until all of it is read" },
		{ "disk-map", "ID=PATH", OPT_LIST, &v.disk_map,
		  "where a disk is now; may be given several times" },
		{ "net-map", "ID=WHERE", OPT_LIST, &v.net_map,
		  "what is behind a network device now, as for 'torpor run --net'; may be\n"
		  "given several times" },
		{ "check", NULL, OPT_FLAG, &r.check,
		  "start nothing and touch nothing: tell all that stands against it" },
		VMM_OPTS(&v),
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	r.ref = a->pos[0];
	if (r.name != NULL) {
		TRY(config_check_name(r.name));
	}
	v.json = a->json;
	v.accept_disks = strcmp(v.disk_changed, "accept") == 0;
	v.lazy = strcmp(r.mode, "lazy") == 0;
	ENSURE(!v.share || !v.no_fill, ERR_USAGE,
	       "--share-memory and --no-fill exclude each other");
	v.lazy = v.lazy && !v.share; /* it is complete when it is given */
	v.clock = strcmp(r.clock, "jump") == 0 ? CLOCK_JUMP : CLOCK_CONTINUE;
	TRY(opts_store_dir(a, v.store_dir, sizeof(v.store_dir)));
	v.nnet_fds = nets_fds(&v.net_map, v.net_fds, ARRAY_LEN(v.net_fds));
	if (r.check) {
		return restore_check(&v, &r, ret_status);
	}
	v.prepare = prepare;
	v.arg = &r;
	return vmm_run(&v, ret_status);
}
