/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A failing disk: take, read, remove and collect, with the n-th operation on a file of the store
 * failing, for every n and each kind of failure (faultio.h). Demands: no signal and no hang; an
 * error of the right class, or success; the snapshots that were there are intact for a new process;
 * this process can take, read and remove again once the disk works; no descriptor is leaked.
 *
 * TORPOR_TIER=long: every n; else every fifth from a seeded start.
 */
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "tests/crash/faultio.h"
#include "tests/crash/rot_judge.h"

enum verdict_code {
	V_OK = 0,
	V_CLASS = 20, /* an error whose class says something else */
	V_SILENT,     /* success, but the result is not there, or wrong */
	V_STUCK,      /* does not work again afterwards */
	V_LEAK,       /* descriptors, or memory where a leak checker is linked in */
	V_CODES,
};
static const char *const verdict_name[] = { "an error of a wrong class", "silently wrong",
					    "does not work again", "leaks" };

static const char *const kind_name[FAULTIO_KINDS] = { "EIO", "ENOSPC", "short", "dead", "full" };

struct shared {
	char text[1000];
	uint64_t seen;
	bool fired;
	char what[16];
};

/* Of the leak checker, if it is there. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static struct shared *sh;
static enum faultio_kind fault;

/* The error must be one of a disk. */
static bool failed_as(struct err *e, const char *what)
{
	if (e == NULL) {
		return false;
	}
	size_t len = strlen(sh->text);
	snprintf(sh->text + len, sizeof(sh->text) - len, "%s%s: %s: %s", len > 0 ? " | " : "", what,
		 err_class_name(err_class(e)), err_msg(e));
	bool full = fault == FAULTIO_ENOSPC || fault == FAULTIO_FULL;
	enum err_class c = err_class(e);
	bool right = full ? c == ERR_NOSPACE : c == ERR_SYS || c == ERR_NOSPACE;
	/* Only LMDB's own read of the head can be short and stay so: it takes that for the end. */
	right = right || (fault == FAULTIO_SHORT && c == ERR_CORRUPT &&
			  (strcmp(what, "open") == 0 || strcmp(what, "family") == 0));
	err_free(e);
	if (!right) {
		_exit(V_CLASS);
	}
	return true;
}

static unsigned open_fds(void)
{
	unsigned n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (d != NULL && readdir(d) != NULL) {
		n++;
	}
	closedir(d);
	return n;
}

static struct err *scenario(const struct crash_store *ref, const char *dir, bool *ret_removed,
			    struct crash_snap *ret_made, bool *ret_took)
{
	struct store *s = NULL;
	struct family *f = NULL;
	*ret_removed = false;
	*ret_took = false;
	if (failed_as(store_open(dir, STORE_WRITE, &s), "open")) {
		return NULL;
	}
	struct store_vm vm = crash_vm(3);
	(void)failed_as(store_vm_put(s, &vm), "put");
	if (failed_as(family_open(s, crash_family, false, &f), "family")) {
		store_close(s);
		return NULL;
	}
	*ret_took = !failed_as(crash_take(f, 500, ref->snap[0].info.id, ret_made), "take");
	bool wrong = false;
	(void)failed_as(crash_compare(f, &ref->snap[1], &wrong), "read");
	*ret_removed = !failed_as(family_remove(f, &ref->snap[0].info.id, 1), "remove");
	struct gc_result unused;
	(void)failed_as(family_gc(f, &unused), "collect");
	family_close(f);
	store_close(s);
	if (wrong) {
		_exit(V_SILENT);
	}
	return NULL;
}

#define AGAIN(expr)                                                                                \
	do {                                                                                       \
		struct err *again_e_ = (expr);                                                     \
		if (again_e_ != NULL) {                                                            \
			size_t len_ = strlen(sh->text);                                            \
			snprintf(sh->text + len_, sizeof(sh->text) - len_, " | AGAIN %s: %s",      \
				 #expr, err_msg(again_e_));                                        \
			_exit(V_STUCK);                                                            \
		}                                                                                  \
	} while (0)

/* The disk works again: so must everything else, in this process. */
static void again(const struct crash_store *ref, const char *dir, const struct crash_snap *made,
		  bool took, bool removed)
{
	struct store *s = NULL;
	struct family *f = NULL;
	struct crash_snap more = { 0 };
	struct gc_result unused;
	bool wrong = false;
	bool found;
	struct snap_info info;
	uint64_t n = 0;
	AGAIN(store_open(dir, STORE_WRITE, &s));
	AGAIN(family_open(s, crash_family, false, &f));
	AGAIN(crash_take(f, 501, ref->snap[1].info.id, &more));
	AGAIN(crash_compare(f, &more, &wrong));
	AGAIN(crash_compare(f, &ref->snap[1], &wrong));
	if (took) {
		AGAIN(crash_compare(f, made, &wrong));
	}
	AGAIN(family_snap_by_id(f, ref->snap[0].info.id, &found, &info));
	AGAIN(family_gc(f, &unused));
	AGAIN(family_verify(f, on_finding, sh->text, &n));
	free(more.memory);
	free(more.kernel);
	family_close(f);
	store_close(s);
	if (wrong || n > 0 || (found && removed)) {
		_exit(V_SILENT);
	}
}

static int run_faulty(const struct crash_store *ref, const char *dir, uint64_t nth)
{
	struct stat st;
	struct crash_snap made = { 0 };
	bool took;
	bool removed;
	if (stat(dir, &st) < 0) {
		return 99;
	}
	unsigned fds = open_fds();
	faultio_arm(st.st_dev, fault, nth);
	struct err *e = scenario(ref, dir, &removed, &made, &took);
	sh->seen = faultio_disarm(&sh->fired);
	snprintf(sh->what, sizeof(sh->what), "%s", faultio_what());
	err_free(e);
	if (open_fds() != fds) {
		return V_LEAK;
	}
	again(ref, dir, &made, took, removed);
	free(made.memory);
	free(made.kernel);
	memset(&made, 0, sizeof(made));
	bool leaks = open_fds() != fds;
	if (__lsan_do_recoverable_leak_check != NULL) {
		leaks = __lsan_do_recoverable_leak_check() != 0 || leaks;
	}
	return leaks ? V_LEAK : V_OK;
}

/* What a new process finds: the snapshot that nobody touched, and a clean verify. */
static int run_after(const struct crash_store *ref, const char *dir)
{
	struct store *s = NULL;
	struct family *f = NULL;
	bool wrong = false;
	uint64_t n = 0;
	AGAIN(store_open(dir, STORE_WRITE, &s));
	AGAIN(store_verify(s, on_finding, sh->text, &n));
	AGAIN(family_open(s, crash_family, false, &f));
	AGAIN(family_verify(f, on_finding, sh->text, &n));
	AGAIN(crash_compare(f, &ref->snap[1], &wrong));
	return wrong || n > 0 ? V_SILENT : V_OK;
}

static int in_child(const struct crash_store *ref, const char *dir, uint64_t nth, bool after,
		    int *ret_signal)
{
	pid_t pid = fork();
	if (pid == 0) {
		judge_limit();
		_exit(after ? run_after(ref, dir) : run_faulty(ref, dir, nth));
	}
	int st = 0;
	while (waitpid(pid, &st, 0) < 0 && errno == EINTR) {
	}
	*ret_signal = WIFSIGNALED(st) ? WTERMSIG(st) : 0;
	return WIFSIGNALED(st) ? 98 : WEXITSTATUS(st);
}

/* ---- a file system that is mounted read-only ---- */

/* 0, 77 (not allowed to mount), or a verdict. In a mount namespace of its own. */
static int run_readonly(const struct crash_store *ref, const char *master, const char *dir)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mkdir(dir, 0700) < 0 || mount("none", dir, "tmpfs", 0, "size=64m") < 0) {
		return 77;
	}
	char sub[400];
	snprintf(sub, sizeof(sub), "%s/store", dir);
	crash_copy_dir(master, sub);
	if (mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0) {
		return 77;
	}
	struct store *s = NULL;
	struct family *f = NULL;
	bool wrong = false;
	uint64_t n = 0;
	if (!failed_as(store_open(sub, STORE_WRITE, &s), "open")) {
		return V_SILENT;
	}
	AGAIN(store_open(sub, STORE_READ, &s));
	AGAIN(store_verify(s, on_finding, sh->text, &n));
	AGAIN(family_open(s, crash_family, false, &f));
	AGAIN(crash_compare(f, &ref->snap[0], &wrong));
	AGAIN(crash_compare(f, &ref->snap[1], &wrong));
	AGAIN(family_verify(f, on_finding, sh->text, &n));
	family_close(f);
	store_close(s);
	if (wrong || n > 0) {
		return V_SILENT;
	}
	if (mount(NULL, dir, NULL, MS_REMOUNT, NULL) < 0) {
		return 77;
	}
	return run_after(ref, sub);
}

int main(int argc, char **argv)
{
	static struct crash_store ref;
	char master[256];
	char dir[300];
	struct rlimit none = { 0, 0 };
	const char *tier = getenv("TORPOR_TIER");
	const char *text = getenv("TORPOR_SEED");
	uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : 1;
	uint64_t step = tier != NULL && strcmp(tier, "long") == 0 ? 1 : 5;
	setrlimit(RLIMIT_CORE, &none);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seed %llu\n", (unsigned long long)seed);
	crash_tmpdir(master);
	crash_build(master, &ref);
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t runs = 0;
	uint64_t errors = 0;
	uint64_t bad = 0;
	uint64_t began = clock_mono_ns();
	for (int k = 0; k < FAULTIO_KINDS; k++) {
		fault = (enum faultio_kind)k;
		uint64_t n = argc == 3 ? strtoull(argv[2], NULL, 10) : 1 + crash_rnd(&seed) % step;
		if (argc == 3 && strcmp(argv[1], kind_name[k]) != 0) {
			continue;
		}
		for (bool fired = true; fired; n += step, runs++) {
			int sig;
			snprintf(dir, sizeof(dir), "%s-f", master);
			crash_copy_dir(master, dir);
			memset(sh, 0, sizeof(*sh));
			int rc = in_child(&ref, dir, n, false, &sig);
			fired = sh->fired || rc >= 98 || rc == V_CLASS;
			if (rc == 0) {
				rc = in_child(&ref, dir, n, true, &sig);
			}
			crash_rmdir(dir);
			errors += sh->text[0] != 0;
			if (rc != 0) {
				bad++;
				printf("FAILED: %s at %llu (%s): %s, signal %d; %s\n", kind_name[k],
				       (unsigned long long)n, sh->what,
				       rc >= V_CLASS && rc < V_CODES ? verdict_name[rc - V_CLASS]
								     : "died",
				       sig, sh->text);
			}
			if (argc == 3 || n > 100000) {
				break;
			}
		}
	}
	memset(sh, 0, sizeof(*sh));
	fault = FAULTIO_EIO;
	snprintf(dir, sizeof(dir), "%s-m", master);
	pid_t pid = fork();
	if (pid == 0) {
		judge_limit();
		_exit(run_readonly(&ref, master, dir));
	}
	int st;
	if (waitpid(pid, &st, 0) == pid && !(WIFEXITED(st) && WEXITSTATUS(st) == 77)) {
		bad += st != 0;
		printf("read-only file system: %s; %s\n", st == 0 ? "right" : "FAILED", sh->text);
	} else {
		printf("read-only file system: not tried, mounts are not allowed\n");
	}
	crash_rmdir(dir);
	crash_rmdir(master);
	printf("faults: %llu runs, %llu with an error, %llu breaches; %llu s\n",
	       (unsigned long long)runs, (unsigned long long)errors, (unsigned long long)bad,
	       (unsigned long long)(clock_mono_ns() - began) / 1000000000);
	return bad > 0 ? 1 : 0;
}
