/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor doctor`: what this host can and cannot do, and what to change. Called by main; changes
 * nothing but the run folder, which it makes as every other verb does.
 *
 * A check answers ok, warn (works, but slower or less safe) or fail (VMs do not run).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "core/base/io.h"
#include "core/kvm_cap.h"
#include "core/kvm_vcpu.h"
#include "core/rundir.h"
#include "tools/cmd.h"
#include "tools/out.h"

static const char about[] =
	"Says what this host can and cannot do for torpor, and what to change: KVM and its\n"
	"capabilities, userfaultfd, io_uring, locked memory, huge pages, the sandbox, the run "
	"folder\n"
	"and the store's file system. Exit status 1 if VMs cannot run here.";

enum verdict { V_OK, V_WARN, V_FAIL };

static const char *const verdict_names[] = { [V_OK] = "ok", [V_WARN] = "warn", [V_FAIL] = "fail" };

struct doctor {
	const struct args *a;
	struct table *table;
	json_t *checks; /* NULL without --json */
	unsigned nfail;
};

/* One row; remedy NULL or "" where nothing is to be done. */
static void say(struct doctor *d, enum verdict v, const char *check, const char *remedy,
		const char *fmt, ...) PRINTF_LIKE(5, 6);
static void say(struct doctor *d, enum verdict v, const char *check, const char *remedy,
		const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	d->nfail += v == V_FAIL;
	if (d->checks != NULL) {
		json_t *row =
			json_pack("{s:s,s:s,s:s,s:s}", "check", check, "verdict", verdict_names[v],
				  "finding", text, "remedy", remedy != NULL ? remedy : "");
		if (row != NULL) {
			json_array_append_new(d->checks, row);
		}
		return;
	}
	table_cell(d->table, "%s", verdict_names[v]);
	table_cell(d->table, "%s", check);
	table_cell(d->table, "%s%s%s", text, v != V_OK && remedy != NULL ? "; " : "",
		   v != V_OK && remedy != NULL ? remedy : "");
}

/* First line of a small file of /proc or /sys without its newline; false where it is absent. */
static bool read_line(const char *path, char *ret, size_t len)
{
	SCOPE(freep) uint8_t *p = NULL;
	size_t n = 0;
	struct err *e = io_slurp(path, 4096, &p, &n);
	if (e != NULL) {
		err_drop(e, "an absent file is an answer");
		return false;
	}
	snprintf(ret, len, "%.*s", (int)strcspn((const char *)p, "\n"), (const char *)p);
	return true;
}

/* ---- KVM ---- */

static void check_caps(struct doctor *d, int kvm)
{
	const struct kvm_cap_info *cap;
	for (unsigned i = 0; (cap = kvm_cap_at(i)) != NULL; i++) {
		char check[80];
		snprintf(check, sizeof(check), "KVM %s", cap->name);
		int value = kvm_cap_value(kvm, cap->number);
		if (value > 0) {
			say(d, V_OK, check, NULL, "%d: %s", value, cap->why);
		} else {
			say(d, cap->required ? V_FAIL : V_WARN, check,
			    cap->required ? "a newer kernel is needed" : NULL, "absent: %s",
			    cap->why);
		}
	}
}

static void check_kvm(struct doctor *d)
{
	SCOPE(fd_close) struct fd kvm = { open("/dev/kvm", O_RDWR | O_CLOEXEC) };
	if (kvm.n < 0) {
		const char *remedy =
			errno == EACCES ? "join the group that owns it: usermod -aG kvm USER"
			: errno == ENOENT
				? "load kvm_intel or kvm_amd, and switch virtualization on in "
				  "the firmware (in a VM: nested virtualization on its host)"
				: "see the kernel's log";
		say(d, V_FAIL, "/dev/kvm", remedy, "cannot be opened: %s", strerror(errno));
		return;
	}
	say(d, V_OK, "/dev/kvm", NULL, "can be opened");
	check_caps(d, kvm.n);
	if (kvm_is_software(kvm.n)) {
		say(d, V_WARN, "hardware virtualization", "run on a host with VMX or SVM for speed",
		    "software KVM: the CPU has neither VMX nor SVM, guest kernel code is "
		    "interpreted, guests see the host's CPUID and --cpu must be host");
	} else {
		say(d, V_OK, "hardware virtualization", NULL, "VMX or SVM is in use");
	}
}

/* ---- what later features and speed need ---- */

static void check_userfaultfd(struct doctor *d)
{
	SCOPE(fd_close) struct fd dev = { open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) };
	if (dev.n >= 0) {
		say(d, V_OK, "userfaultfd", NULL, "by /dev/userfaultfd, kernel faults included");
		return;
	}
	/* Flag 0: faults of the kernel too, which KVM's are. */
	SCOPE(fd_close) struct fd uffd = { (int)syscall(SYS_userfaultfd, O_CLOEXEC) };
	if (uffd.n >= 0) {
		say(d, V_OK, "userfaultfd", NULL, "by system call, kernel faults included");
		return;
	}
	say(d, V_WARN, "userfaultfd",
	    "give access to /dev/userfaultfd or set sysctl vm.unprivileged_userfaultfd=1",
	    "not for kernel faults (%s): memory is always restored whole", strerror(errno));
}

static void check_io_uring(struct doctor *d)
{
	struct io_uring_params params = { 0 };
	SCOPE(fd_close) struct fd ring = { (int)syscall(SYS_io_uring_setup, 1, &params) };
	if (ring.n >= 0) {
		say(d, V_OK, "io_uring", NULL, "available (features 0x%x)", params.features);
	} else {
		say(d, V_WARN, "io_uring", "set sysctl kernel.io_uring_disabled=0",
		    "not available (%s): plain reads and writes are used", strerror(errno));
	}
}

static void check_memlock(struct doctor *d)
{
	struct rlimit lim = { 0 };
	getrlimit(RLIMIT_MEMLOCK, &lim);
	char text[16];
	if (lim.rlim_cur == RLIM_INFINITY) {
		say(d, V_OK, "locked memory", NULL, "unlimited");
	} else if (lim.rlim_cur < 8 * MIB) {
		say(d, V_WARN, "locked memory", "raise it: ulimit -l 8192", "limit of %s",
		    out_size(lim.rlim_cur, text));
	} else {
		say(d, V_OK, "locked memory", NULL, "limit of %s", out_size(lim.rlim_cur, text));
	}
}

static void check_pages(struct doctor *d)
{
	char line[128];
	if (read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", line,
		      sizeof(line))) {
		say(d, V_OK, "huge pages of 2 MiB", NULL, "%s reserved", line);
	} else {
		say(d, V_WARN, "huge pages of 2 MiB", NULL, "not in this kernel");
	}
	if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line))) {
		say(d, V_WARN, "transparent huge pages", NULL, "not in this kernel");
		return;
	}
	say(d, strstr(line, "[never]") != NULL ? V_WARN : V_OK, "transparent huge pages",
	    "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled", "%s", line);
	if (read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", line, sizeof(line))) {
		bool off = strstr(line, "[never]") != NULL || strstr(line, "[deny]") != NULL;
		say(d, off ? V_WARN : V_OK, "huge pages for guest memory",
		    "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled", "%s", line);
	}
}

/* ---- sandbox ---- */

static void check_sandbox(struct doctor *d)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi >= 1) {
		say(d, V_OK, "Landlock", NULL, "ABI %ld", abi);
	} else {
		say(d, V_WARN, "Landlock", "boot with landlock in the kernel's lsm= list",
		    "not available (%s): files are guarded by seccomp alone", strerror(errno));
	}
	const uint32_t action = SECCOMP_RET_TRAP;
	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0) {
		say(d, V_OK, "seccomp", NULL, "filters with traps");
	} else {
		say(d, V_FAIL, "seccomp", "use a kernel with CONFIG_SECCOMP_FILTER",
		    "no filters (%s)", strerror(errno));
	}
}

/* ---- places ---- */

static void check_run_folder(struct doctor *d)
{
	char path[PATH_MAX];
	struct err *e = rundir_path(path, sizeof(path));
	if (e != NULL) {
		say(d, V_FAIL, "run folder", "set XDG_RUNTIME_DIR to a folder of yours", "%s",
		    err_msg(e));
		err_free(e);
		return;
	}
	say(d, V_OK, "run folder", NULL, "%s", path);
}

struct bad_fs {
	long magic;
	const char *name;
	enum verdict verdict;
	const char *why;
};

static const struct bad_fs bad_fs[] = {
	{ NFS_SUPER_MAGIC, "NFS", V_FAIL, "locks and memory maps are not reliable on it" },
	{ V9FS_MAGIC, "9p", V_FAIL, "it has no coherent memory maps" },
	{ (long)0xff534d42, "CIFS", V_FAIL, "locks and memory maps are not reliable on it" },
	{ (long)0xfe534d42, "SMB2", V_FAIL, "locks and memory maps are not reliable on it" },
	{ OVERLAYFS_SUPER_MAGIC, "overlayfs", V_FAIL,
	  "a file may change its identity under an open map" },
	{ FUSE_SUPER_MAGIC, "FUSE", V_WARN, "its durability is that of its server" },
	{ TMPFS_MAGIC, "tmpfs", V_WARN, "snapshots there are gone after a reboot" },
};

/* The nearest folder above a path that exists. */
static void existing_parent(char *path)
{
	while (access(path, F_OK) != 0) {
		char *slash = strrchr(path, '/');
		if (slash == NULL || slash == path) {
			snprintf(path, 2, "/");
			return;
		}
		*slash = 0;
	}
}

static void check_store(struct doctor *d)
{
	char dir[PATH_MAX];
	struct err *e = opts_store_dir(d->a, dir, sizeof(dir));
	if (e != NULL) {
		say(d, V_FAIL, "store", "give --store DIR", "%s", err_msg(e));
		err_free(e);
		return;
	}
	char there[PATH_MAX];
	snprintf(there, sizeof(there), "%s", dir);
	existing_parent(there);
	struct statfs fs;
	if (statfs(there, &fs) != 0 || access(there, W_OK) != 0) {
		say(d, V_FAIL, "store", "give another with --store DIR", "'%s' is not writable: %s",
		    there, strerror(errno));
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(bad_fs); i++) {
		if ((uint32_t)fs.f_type == (uint32_t)bad_fs[i].magic) {
			say(d, bad_fs[i].verdict, "store", "use a local disk: --store DIR",
			    "'%s' is on %s: %s", dir, bad_fs[i].name, bad_fs[i].why);
			return;
		}
	}
	char room[16];
	uint64_t free_bytes = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	say(d, free_bytes < GIB ? V_WARN : V_OK, "store", "make room, or use --store DIR",
	    "'%s': %s free", dir, out_size(free_bytes, room));
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

struct err *cmd_doctor(struct args *a, int *ret_status)
{
	TRY(opts_parse(a, about, NULL, 0, 0, 0));
	if (a->help) {
		return NULL;
	}
	SCOPE(table_freep) struct table *t = table_new(3);
	SCOPE(json_put) json_t *checks = a->json ? json_array() : NULL;
	struct doctor d = { .a = a, .table = t, .checks = checks };
	check_kvm(&d);
	check_userfaultfd(&d);
	check_io_uring(&d);
	check_memlock(&d);
	check_pages(&d);
	check_sandbox(&d);
	check_run_folder(&d);
	check_store(&d);
	*ret_status = d.nfail == 0 ? 0 : 1;
	if (a->json) {
		return out_json(
			json_pack("{s:b,s:O}", "ok", (int)(d.nfail == 0), "checks", checks));
	}
	table_print(t);
	return NULL;
}
