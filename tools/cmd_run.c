/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor run`: boots a VM. Called by main; cmd_define.c uses its options and its checks. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "core/kvm_vm.h"
#include "core/rundir.h"
#include "tools/cmd.h"
#include "tools/disks.h"
#include "tools/nets.h"
#include "tools/run.h"
#include "tools/storecmd.h"
#include "tools/vmm.h"

static const char about[] =
	"Boots a VM. The kernel is a bzImage, an ELF vmlinux, an ELF with a PVH note or a "
	"multiboot\n"
	"ELF. In the foreground the exit status tells how the VM ended: 0 guest powered off or\n"
	"stopped, 32 reset with --no-reboot, 33 crash, 34 guest panic, 36 watchdog, 64 to 95 by\n"
	"the guest through --exit-device, 1 error.";

/* Regular files and block devices only: the size must be known. */
struct err *run_open(const char *option, const char *path, struct fd *ret)
{
	TRY(err_wrap(io_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, ret), "--%s", option));
	struct stat st;
	if (fstat(ret->n, &st) != 0) {
		return ERR_ERRNO("--%s: looking at '%s'", option, path);
	}
	ENSURE(!S_ISDIR(st.st_mode), ERR_CORRUPT, "--%s: '%s' is a directory", option, path);
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_CORRUPT,
	       "--%s: '%s' is no regular file", option, path);
	ENSURE(!S_ISREG(st.st_mode) || st.st_size > 0, ERR_CORRUPT, "--%s: '%s' is empty", option,
	       path);
	return NULL;
}

struct err *run_config(const struct run *r, bool console, struct config *c)
{
	TRY(config_check_name(r->name));
	snprintf(c->name, sizeof(c->name), "%s", r->name);
	TRY(uuid_make(c->uuid));
	memcpy(c->family, c->uuid, sizeof(c->family)); /* the first of its family */
	c->ncpus = r->cpus;
	c->mem_bytes = r->mem;
	ENSURE(strlen(r->cpu) < sizeof(c->cpu_model), ERR_USAGE,
	       "--cpu: unknown model '%.31s': use host, x86-64-v2 or x86-64-v3", r->cpu);
	snprintf(c->cpu_model, sizeof(c->cpu_model), "%s", r->cpu);
	const char *base = strrchr(r->kernel, '/');
	c->cmdline = strdup(r->cmdline);
	c->kernel_name = strdup(base != NULL ? base + 1 : r->kernel);
	ENSURE(c->cmdline != NULL && c->kernel_name != NULL, ERR_SYS, "out of memory");
	c->has_initrd = r->initrd != NULL;
	c->no_reboot = r->no_reboot;
	c->vmgenid = true;
	c->battery = r->battery;
	c->s2idle = r->s2idle;
	c->gpe_methods = r->gpe_methods;
	c->exit_device = r->exit_device;
	if (r->rng) {
		TRY(config_dev_add(&c->devs, &(struct config_dev){ .kind = CONFIG_RNG }, NULL));
	}
	if (r->balloon) {
		TRY(config_dev_add(&c->devs, &(struct config_dev){ .kind = CONFIG_BALLOON }, NULL));
	}
	if (console) {
		TRY(config_dev_add(&c->devs, &(struct config_dev){ .kind = CONFIG_CONSOLE }, NULL));
	}
	if (r->vsock != 0) {
		const struct config_dev d = { .kind = CONFIG_VSOCK, .cid = r->vsock };
		TRY(err_wrap(config_dev_add(&c->devs, &d, NULL), "--vsock"));
	}
	for (unsigned i = 0; i < r->disks.n; i++) {
		TRY(disks_add(r->disks.v[i], &c->devs));
	}
	for (unsigned i = 0; i < r->nets.n; i++) {
		TRY(nets_add(r->nets.v[i], &c->devs));
	}
	/* Behind all others, whose slots stay as they were. */
	const struct config_dev port = { .kind = CONFIG_PORT };
	for (unsigned i = 0; i < r->ports; i++) {
		TRY(err_wrap(config_dev_add(&c->devs, &port, NULL), "--ports"));
	}
	return config_check(c);
}

/* The store is opened (made) now: what is wrong with it shows before the guest runs, not at its
 * first snapshot. */
static struct err *prepare(struct vmm *v, void *arg)
{
	const struct run *r = arg;
	/* The claim decides; this is for the better message when the name is taken here as well. */
	struct rundir_vm living;
	bool found = false;
	TRY(rundir_find(r->name, &found, &living));
	ENSURE(!found, ERR_NOT_NOW,
	       "VM %s: already running (pid %d); stop it first or use another name", r->name,
	       living.pid);
	TRY(io_mkdirs(v->store_dir));
	TRY(store_open(v->store_dir, STORE_CREATE, &v->store));
	struct store_vm vm;
	bool taken = false;
	TRY(store_vm_by_name(v->store, r->name, &taken, &vm));
	if (taken && r->again) {
		memcpy(v->config.uuid, vm.uuid, sizeof(vm.uuid));
		memcpy(v->config.family, vm.family, sizeof(vm.family));
		return NULL;
	}
	if (!taken || r->replace) {
		return NULL;
	}
	SCOPE(freep) struct snap_info *snaps = NULL;
	size_t n = 0;
	TRY(storecmd_snaps(v->store, &vm, &snaps, &n));
	ENSURE(n == 0, ERR_NOT_NOW,
	       "the name '%s' belongs to a VM with %zu snapshot%s in this store: 'torpor restore "
	       "%s' continues it, --replace takes the name from it",
	       r->name, n, n == 1 ? "" : "s", r->name);
	return NULL;
}

static struct err *run_parsed(struct args *a, struct vmm *v, struct run *r, int *ret_status)
{
	ENSURE(r->name != NULL, ERR_USAGE, "--name NAME is missing");
	ENSURE(r->kernel != NULL, ERR_USAGE, "--kernel FILE is missing");
	ENSURE(!r->again || !r->replace, ERR_USAGE, "--again and --replace contradict each other");
	v->json = a->json;
	TRY(opts_store_dir(a, v->store_dir, sizeof(v->store_dir)));
	TRY(run_config(r, v->console != NULL, &v->config));
	v->nnet_fds = nets_fds(&r->nets, v->net_fds, ARRAY_LEN(v->net_fds));
	TRY(run_open("kernel", r->kernel, &v->kernel));
	if (r->initrd != NULL) {
		TRY(run_open("initrd", r->initrd, &v->initrd));
		uint64_t len = 0;
		TRY(io_size(v->initrd.n, &len));
		ENSURE(len < r->mem, ERR_LIMIT,
		       "--initrd: '%s' has %llu MiB and does not fit into %llu MiB of memory: give "
		       "--mem",
		       r->initrd, (unsigned long long)(len / MIB),
		       (unsigned long long)(r->mem / MIB));
	}
	/* Told apart from all else before anything is claimed. */
	SCOPE(fd_close) struct fd kvm = FD_NONE;
	TRY(kvm_open(&kvm));
	fd_close(&kvm);
	v->prepare = prepare;
	v->arg = r;
	return vmm_run(v, ret_status);
}

static UNUSED void vmm_donep(struct vmm *v)
{
	vmm_done(v);
}

struct err *cmd_run(struct args *a, int *ret_status)
{
	struct run r = RUN_DEFAULTS;
	SCOPE(vmm_donep) struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = {
		{ "name", "NAME", OPT_TEXT, &r.name,
		  "the VM's name; up to 64 of A-Z a-z 0-9 . _ -" },
		RUN_OPTS(&r),
		VMM_OPTS(&v),
		{ "replace", NULL, OPT_FLAG, &r.replace,
		  "take the name from another VM in the store, whose snapshots stay\n"
		  "under its uuid" },
		{ "again", NULL, OPT_FLAG, &r.again,
		  "if the store has a VM of that name, this is that VM, booted anew: its\n"
		  "snapshots stay, and their numbers go on" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 0, 0));
	if (a->help) {
		return NULL;
	}
	return run_parsed(a, &v, &r, ret_status);
}
