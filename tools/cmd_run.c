/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor run`: boots a VM. Called by main. */
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
#include "tools/storecmd.h"
#include "tools/vmm.h"

static const char about[] =
	"Boots a VM. The kernel is a bzImage, an ELF vmlinux, an ELF with a PVH note or a "
	"multiboot\n"
	"ELF. In the foreground the exit status tells how the VM ended: 0 guest powered off or\n"
	"stopped, 32 reset with --no-reboot, 33 crash, 34 guest panic, 36 watchdog, 64 to 95 by\n"
	"the guest through --exit-device, 1 error.";

struct run {
	const char *name;
	const char *kernel;
	const char *initrd;
	const char *cmdline;
	const char *cpu;
	unsigned cpus;
	uint64_t mem;
	bool no_reboot;
	bool battery;
	bool gpe_methods;
	bool exit_device;
	bool replace;
	bool rng;
	unsigned vsock; /* CID, 0: none */
	bool balloon;
	struct opt_list disks;
	struct opt_list nets;
};

/* Regular files and block devices only: the size must be known. */
static struct err *open_input(const char *option, const char *path, struct fd *ret)
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

static struct err *fill_config(const struct run *r, bool console, struct config *c)
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
	v->json = a->json;
	TRY(opts_store_dir(a, v->store_dir, sizeof(v->store_dir)));
	TRY(fill_config(r, v->console != NULL, &v->config));
	v->nnet_fds = nets_fds(&r->nets, v->net_fds, ARRAY_LEN(v->net_fds));
	TRY(open_input("kernel", r->kernel, &v->kernel));
	if (r->initrd != NULL) {
		TRY(open_input("initrd", r->initrd, &v->initrd));
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
	struct run r = { .cmdline = "", .cpu = "host", .cpus = 1, .mem = 512 * MIB };
	SCOPE(vmm_donep) struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = {
		{ "name", "NAME", OPT_TEXT, &r.name,
		  "the VM's name; up to 64 of A-Z a-z 0-9 . _ -" },
		{ "kernel", "FILE", OPT_TEXT, &r.kernel, "the kernel to boot" },
		{ "initrd", "FILE", OPT_TEXT, &r.initrd, "its initial RAM disk" },
		{ "cmdline", "TEXT", OPT_TEXT, &r.cmdline, "its command line" },
		{ "cpus", "N", OPT_UINT, &r.cpus, "virtual CPUs, 1 to 64; default 1" },
		{ "mem", "SIZE", OPT_SIZE, &r.mem, "memory, at least 16M; default 512M" },
		{ "cpu", "MODEL", OPT_TEXT, &r.cpu, "host (the default), x86-64-v2 or x86-64-v3" },
		{ "disk", "PATH[,ro]...", OPT_LIST, &r.disks,
		  "a virtio disk over a file or block device; may be given several times:\n"
		  "ro, capture=off (writable; snapshots do not hold it), id=NAME,\n"
		  "queues=N, slot=N; a comma in PATH is doubled" },
		{ "net", "WHERE[,mac=MAC]...", OPT_LIST, &r.nets,
		  "a virtio network device; may be given several times. WHERE is\n"
		  "tap=NAME (an interface that exists), user (user networking:\n"
		  "hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT, restrict, loopback), fd=N\n"
		  "(a tap or socket that the caller opened) or none; mac=MAC, mtu=N,\n"
		  "id=NAME, slot=N" },
		{ "rng", NULL, OPT_FLAG, &r.rng, "a virtio entropy device" },
		{ "vsock", "CID", OPT_UINT, &r.vsock,
		  "a virtio socket device: programs of the guest, which has that number\n"
		  "(from 3), and of the host meet at Unix sockets, see --vsock-path" },
		{ "balloon", NULL, OPT_FLAG, &r.balloon,
		  "a virtio balloon: the guest's unused memory goes back to the host, by\n"
		  "itself and on 'torpor balloon'" },
		VMM_OPTS(&v),
		{ "no-reboot", NULL, OPT_FLAG, &r.no_reboot,
		  "a reset by the guest ends the VM with status 32" },
		{ "battery", NULL, OPT_FLAG, &r.battery, "a battery and an AC adapter" },
		{ "gpe-methods", NULL, OPT_FLAG, &r.gpe_methods,
		  "ACPI methods for all general-purpose events, so that the guest\n"
		  "enables and counts them" },
		{ "exit-device", NULL, OPT_FLAG, &r.exit_device,
		  "let the guest end the VM with status 64 + N by writing N (0 to 31)\n"
		  "to port 0x501; for tests" },
		{ "replace", NULL, OPT_FLAG, &r.replace,
		  "take the name from another VM in the store, whose snapshots stay\n"
		  "under its uuid" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 0, 0));
	if (a->help) {
		return NULL;
	}
	return run_parsed(a, &v, &r, ret_status);
}
