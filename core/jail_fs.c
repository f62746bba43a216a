/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Landlock: from now on this process opens files below the store and the run folder, /dev/kvm, and
 * what describes the host's CPUs and memory; nothing else. What is open stays usable. Called by
 * jail.c once, before other threads exist. Source: Linux Documentation/userspace-api/landlock.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "core/base/io.h"
#include "core/jail_internal.h"

/* Rights of newer kernels than the build host's headers may know. */
#define FS_REFER (1ull << 13)    /* ABI 2 */
#define FS_TRUNCATE (1ull << 14) /* ABI 3 */
#define NET_BIND_TCP (1ull << 0) /* ABI 4 */
#define NET_CONNECT_TCP (1ull << 1)

/* struct landlock_ruleset_attr as of ABI 4; older kernels take its first member alone. */
struct ruleset {
	uint64_t fs;
	uint64_t net;
};

#define FS_FILE                                                                                    \
	((uint64_t)LANDLOCK_ACCESS_FS_READ_FILE | (uint64_t)LANDLOCK_ACCESS_FS_WRITE_FILE |        \
	 FS_TRUNCATE)
#define FS_TREE                                                                                    \
	(FS_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR |                   \
	 LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |                            \
	 LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | FS_REFER)
#define FS_ALL                                                                                     \
	(FS_TREE | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR |                     \
	 LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |                            \
	 LANDLOCK_ACCESS_FS_MAKE_SYM)

static struct err *allow(int ruleset, const char *path, uint64_t rights, bool must_exist)
{
	SCOPE(fd_close) struct fd fd = { open(path, O_PATH | O_CLOEXEC) };
	if (fd.n < 0) {
		if (!must_exist) {
			return NULL;
		}
		return ERR_ERRNO("opening '%s' for the sandbox", path);
	}
	struct stat st;
	if (fstat(fd.n, &st) != 0) {
		return ERR_ERRNO("looking at '%s' for the sandbox", path);
	}
	struct landlock_path_beneath_attr rule = {
		.allowed_access = S_ISDIR(st.st_mode) ? rights : rights & FS_FILE,
		.parent_fd = fd.n,
	};
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
		return ERR_ERRNO("Landlock rule for '%s'", path);
	}
	return NULL;
}

/* Host facts that the C library and the machine look up while a VM lives; read only. */
static struct err *allow_facts(int ruleset, uint64_t known)
{
	static const char *const facts[] = {
		"/proc/cpuinfo",           "/proc/meminfo",   "/proc/stat",
		"/sys/devices/system/cpu", "/sys/module/kvm", "/sys/module/kvm_intel",
		"/sys/module/kvm_amd",
	};
	const uint64_t rights =
		(LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR) & known;
	for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
		TRY(allow(ruleset, facts[i], rights, false));
	}
	if (JAIL_SANITIZED) { /* maps, symbols, the threads of the leak check */
		TRY(allow(ruleset, "/proc", rights, false));
	}
	return NULL;
}

/* An empty set of rules; *ret as much of `set` as this kernel knows. ret_fd -1: it has no Landlock.
 */
static struct err *new_ruleset(bool net, struct ruleset *ret, struct fd *ret_fd)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1) {
		return NULL; /* not built in, or switched off at boot */
	}
	struct ruleset set = { .fs = FS_ALL };
	if (abi < 2) {
		set.fs &= ~FS_REFER;
	}
	if (abi < 3) {
		set.fs &= ~FS_TRUNCATE;
	}
	if (abi >= 4 && net) {
		set.net = NET_BIND_TCP | NET_CONNECT_TCP;
	}
	SCOPE(fd_close)
	struct fd ruleset = { (int)syscall(SYS_landlock_create_ruleset, &set,
					   abi >= 4 ? sizeof(set) : sizeof(set.fs), 0) };
	if (ruleset.n < 0) {
		return ERR_ERRNO("making a Landlock rule set");
	}
	*ret = set;
	*ret_fd = fd_move(&ruleset);
	return NULL;
}

static struct err *enforce(int ruleset, bool *ret_done)
{
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) {
		return ERR_ERRNO("putting the Landlock rules in force");
	}
	*ret_done = true;
	return NULL;
}

struct err *jail_fs_restrict(const char *store_dir, const char *run_dir, bool *ret_done)
{
	struct ruleset set = { 0 };
	SCOPE(fd_close) struct fd ruleset = FD_NONE;
	TRY(new_ruleset(true, &set, &ruleset));
	if (ruleset.n < 0) {
		*ret_done = false;
		return NULL;
	}
	TRY(allow(ruleset.n, store_dir, FS_TREE & set.fs, true));
	TRY(allow(ruleset.n, run_dir, FS_TREE & set.fs, true));
	TRY(allow(ruleset.n, "/dev/kvm", FS_FILE & set.fs & ~FS_TRUNCATE, false));
	TRY(allow_facts(ruleset.n, set.fs));
	return enforce(ruleset.n, ret_done);
}

struct err *jail_fs_restrict_usernet(bool *ret_done)
{
	/* The file, wherever a link leads, and the folders of those who write it anew. */
	static const char *const names[] = { "/etc/resolv.conf", "/run/systemd/resolve",
					     "/run/resolvconf" };
	struct ruleset set = { 0 };
	SCOPE(fd_close) struct fd ruleset = FD_NONE;
	TRY(new_ruleset(false, &set, &ruleset));
	if (ruleset.n < 0) {
		*ret_done = false;
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		TRY(allow(ruleset.n, names[i], LANDLOCK_ACCESS_FS_READ_FILE & set.fs, false));
	}
	if (JAIL_SANITIZED) {
		TRY(allow(ruleset.n, "/proc", LANDLOCK_ACCESS_FS_READ_FILE & set.fs, false));
	}
	return enforce(ruleset.n, ret_done);
}
