/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor define`, `edit`, `undefine`, `autostart`: what is wanted of guests, kept in the store.
 * Called by main.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/ctl_wire.h"
#include "core/rundir.h"
#include "tools/cmd.h"
#include "tools/guestdef.h"
#include "tools/out.h"
#include "tools/run.h"
#include "tools/storecmd.h"
#include "tools/vmm.h"

static const char about_define[] =
	"Keeps a VM's options, and what is wanted of it, in the store under a name: 'torpor start\n"
	"NAME' starts it, 'torpor guests start' starts all that are wanted. Nothing is started "
	"here.\n"
	"Paths are kept as absolute ones. Without --checkpoint-every it is taken every 5 minutes.";
static const char about_edit[] =
	"Changes what 'torpor define' has said: options that are given replace those of before, "
	"the\n"
	"others stay. What describes the machine counts from the guest's next fresh boot on, "
	"since\n"
	"a generation that is brought back brings its own; the rest from the next start.";
static const char about_undefine[] =
	"Forgets a guest. Its snapshots stay, and a VM that runs goes on until it ends.";
static const char about_autostart[] =
	"Wants a guest from now on: 'torpor guests start' (when the host boots) brings it up, "
	"'torpor\n"
	"guests stop' (when the host goes down) saves it.";

static const char default_every[] = "5m";

/* ---- paths ---- */

/* `text` behind its first `skip` bytes becomes absolute. */
static json_t *absolute_json(const char *text, size_t skip)
{
	char path[PATH_MAX];
	char all[PATH_MAX + 16];
	struct err *e = opts_absolute(text + skip, path, sizeof(path));
	if (e != NULL) {
		err_drop(e, "whoever opens it says why it cannot be");
		return json_string(text);
	}
	snprintf(all, sizeof(all), "%.*s%s", (int)skip, text, path);
	return json_string(all);
}

/* A disk's PATH has its commas doubled. */
static json_t *absolute_disk(const char *text)
{
	char cwd[PATH_MAX];
	char all[3 * PATH_MAX];
	if (text[0] == '/' || getcwd(cwd, sizeof(cwd)) == NULL) {
		return json_string(text);
	}
	size_t n = 0;
	for (const char *p = cwd; *p != 0; p++) {
		all[n++] = *p;
		if (*p == ',') {
			all[n++] = ',';
		}
	}
	snprintf(all + n, sizeof(all) - n, "/%s", text);
	return json_string(all);
}

static size_t scheme(const char *text)
{
	return strncmp(text, "file:", 5) == 0 || strncmp(text, "unix:", 5) == 0 ? 5 : 0;
}

/* Whoever starts the guest has another working directory. */
static void make_absolute(json_t *vm)
{
	static const char *const paths[] = { "kernel", "initrd", "socket", "socket-readonly",
					     "vsock-path" };
	static const char *const ports[] = { "serial", "console" };
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		const char *text = json_string_value(json_object_get(vm, paths[i]));
		if (text != NULL) {
			json_object_set_new(vm, paths[i], absolute_json(text, 0));
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(ports); i++) {
		const char *text = json_string_value(json_object_get(vm, ports[i]));
		if (text != NULL && scheme(text) > 0) {
			json_object_set_new(vm, ports[i], absolute_json(text, scheme(text)));
		}
	}
	json_t *disks = json_object_get(vm, "disk");
	for (size_t i = 0; i < json_array_size(disks); i++) {
		const char *text = json_string_value(json_array_get(disks, i));
		json_array_set_new(disks, i, absolute_disk(text));
	}
}

/* ---- checks ---- */

/* What `run` would refuse is refused now. */
static struct err *check_vm(const char *name, const json_t *vm)
{
	struct run r = RUN_DEFAULTS;
	struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = { RUN_OPTS(&r), VMM_OPTS(&v) };
	TRY(opts_apply(vm, opts, ARRAY_LEN(opts)));
	r.name = name;
	ENSURE(r.kernel != NULL, ERR_USAGE, "--kernel FILE is missing");
	ENSURE(!v.paused && !v.detach && v.end_fd_number == 0, ERR_USAGE,
	       "--paused, --detach and --end-fd are not for guests that are started by themselves");
	ENSURE(v.serial == NULL || strcmp(v.serial, "stdio") != 0, ERR_USAGE,
	       "--serial stdio: a guest that is started by itself has none");
	ENSURE(v.console == NULL || strcmp(v.console, "stdio") != 0, ERR_USAGE,
	       "--console stdio: a guest that is started by itself has none");
	struct checkpoint_policy unused;
	TRY(err_wrap(checkpoint_parse_every(v.checkpoint_every, &unused.every_ns),
		     "--checkpoint-every"));
	TRY(err_wrap(checkpoint_parse_every(v.watchdog, &unused.every_ns), "--watchdog"));
	TRY(err_wrap(checkpoint_parse_keep(v.checkpoint_keep, &unused.keep), "--checkpoint-keep"));
	struct config c = { 0 };
	SCOPE(fd_close) struct fd kernel = FD_NONE;
	SCOPE(fd_close) struct fd initrd = FD_NONE;
	struct err *e = run_config(&r, v.console != NULL, &c);
	config_done(&c);
	TRY(e);
	TRY(run_open("kernel", r.kernel, &kernel));
	return r.initrd == NULL ? NULL : run_open("initrd", r.initrd, &initrd);
}

/* Would the guest need itself, by way of others? The list is short. */
static struct err *check_needs(struct store *s, const char *name, const struct guest_policy *p,
			       unsigned depth)
{
	for (unsigned i = 0; i < p->needs.n; i++) {
		const char *other = p->needs.v[i];
		SCOPE(guest_donep) struct guest g = { 0 };
		TRY(err_wrap(config_check_name(other), "--needs"));
		ENSURE(strcmp(other, name) != 0 && depth < 64, ERR_USAGE,
		       "--needs: guest '%s' would need itself", name);
		struct err *e = guest_load(s, other, &g);
		if (e != NULL && err_class(e) == ERR_NOTFOUND) {
			err_drop(e, "it may be defined later; a start tells if it was not");
			continue;
		}
		TRY(e);
		TRY(check_needs(s, name, &g.p, depth + 1));
	}
	return NULL;
}

static struct err *check_policy(struct store *s, const char *name, const json_t *policy)
{
	struct guest_policy p = GUEST_POLICY_DEFAULTS;
	const struct opt opts[] = { GUEST_POLICY_OPTS(&p) };
	TRY(opts_apply(policy, opts, ARRAY_LEN(opts)));
	ENSURE(p.priority <= GUEST_PRIORITY_MAX, ERR_USAGE, "--priority %u: 0 to %d", p.priority,
	       GUEST_PRIORITY_MAX);
	return check_needs(s, name, &p, 0);
}

/* ---- define and edit ---- */

struct define {
	struct store *store;
	const char *name;
	bool edit;
	json_t *vm; /* what was given */
	json_t *policy;
};

static struct err *open_store(const struct args *a, struct store **ret)
{
	char dir[PATH_MAX];
	TRY(opts_store_dir(a, dir, sizeof(dir)));
	return store_open(dir, STORE_CREATE, ret);
}

static struct err *put_wanted(void *arg, bool found, struct store_guest *g, enum guest_verdict *ret)
{
	const struct define *d = arg;
	SCOPE(json_put) json_t *vm = json_object();
	SCOPE(json_put) json_t *policy = json_object();
	ENSURE(found || !d->edit, ERR_NOTFOUND, "there is no guest '%s': 'torpor define' makes one",
	       d->name);
	ENSURE(!found || d->edit, ERR_NOT_NOW,
	       "guest '%s' is defined already: 'torpor edit' changes it", d->name);
	if (found) {
		SCOPE(guest_donep) struct guest old = { 0 };
		TRY(guest_parse(g, &old));
		json_object_update(vm, old.vm);
		json_object_update(policy, json_object_get(old.root, "policy"));
	} else {
		json_object_set_new(vm, "checkpoint-every", json_string(default_every));
	}
	json_object_update(vm, d->vm);
	json_object_update(policy, d->policy);
	char *text = NULL;
	if (!found || json_object_size(d->vm) > 0) { /* else it was looked at when it was said */
		TRY(check_vm(d->name, vm));
	}
	TRY(guest_wanted_text(json_incref(vm), json_incref(policy), &text));
	free(g->wanted);
	g->wanted = text;
	*ret = GUEST_PUT;
	return NULL;
}

static struct err *define(struct args *a, const char *about, bool edit)
{
	struct run r = RUN_DEFAULTS;
	struct vmm v;
	struct guest_policy p = GUEST_POLICY_DEFAULTS;
	vmm_init(&v);
	const struct opt opts[] = { RUN_OPTS(&r), VMM_OPTS(&v), GUEST_POLICY_OPTS(&p) };
	const struct opt policy_opts[] = { GUEST_POLICY_OPTS(&p) };
	const size_t nvm = ARRAY_LEN(opts) - ARRAY_LEN(policy_opts);
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	const char *name = a->pos[0];
	TRY(config_check_name(name));
	SCOPE(json_put) json_t *vm = opts_json(opts, nvm, a->given);
	SCOPE(json_put)
	json_t *policy = opts_json(policy_opts, ARRAY_LEN(policy_opts), a->given >> nvm);
	ENSURE(!edit || a->given != 0, ERR_USAGE, "nothing to change is given");
	make_absolute(vm);
	SCOPE(store_closep) struct store *s = NULL;
	TRY(open_store(a, &s));
	TRY(check_policy(s, name, policy));
	struct define d = { .store = s, .name = name, .edit = edit, .vm = vm, .policy = policy };
	TRY(store_guest_change(s, name, put_wanted, &d));
	if (!a->json) {
		return NULL;
	}
	SCOPE(guest_donep) struct guest g = { 0 };
	TRY(guest_load(s, name, &g));
	return out_json(json_pack("{s:s,s:O,s:O}", "name", name, "vm", g.vm, "policy",
				  json_object_get(g.root, "policy")));
}

struct err *cmd_define(struct args *a, int *ret_status)
{
	(void)ret_status;
	return define(a, about_define, false);
}

struct err *cmd_edit(struct args *a, int *ret_status)
{
	(void)ret_status;
	return define(a, about_edit, true);
}

/* ---- undefine and autostart ---- */

static struct err *forget(void *arg, bool found, struct store_guest *g, enum guest_verdict *ret)
{
	(void)arg;
	ENSURE(found, ERR_NOTFOUND, "there is no guest '%s': 'torpor list --all' shows them",
	       g->name);
	*ret = GUEST_REMOVE;
	return NULL;
}

static struct err *tell(const struct args *a, const char *key, const char *value)
{
	return a->json ? out_json(json_pack("{s:s,s:s}", "name", a->pos[0], key, value)) : NULL;
}

struct err *cmd_undefine(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_undefine, NULL, 0, 1, 1));
	if (a->help) {
		return NULL;
	}
	TRY(config_check_name(a->pos[0]));
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s));
	TRY(store_guest_change(s, a->pos[0], forget, NULL));
	return tell(a, "state", "undefined");
}

struct err *cmd_autostart(struct args *a, int *ret_status)
{
	(void)ret_status;
	bool off = false;
	const struct opt opts[] = { { "off", NULL, OPT_FLAG, &off, "no longer" } };
	TRY(opts_parse(a, about_autostart, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	const char *wanted = off ? "off" : "on";
	TRY(config_check_name(a->pos[0]));
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(json_put) json_t *vm = json_object();
	SCOPE(json_put) json_t *policy = json_pack("{s:s}", "wanted", wanted);
	TRY(storecmd_open(a, STORE_WRITE, &s));
	struct define d = {
		.store = s, .name = a->pos[0], .edit = true, .vm = vm, .policy = policy
	};
	TRY(store_guest_change(s, a->pos[0], put_wanted, &d));
	return tell(a, "wanted", wanted);
}
