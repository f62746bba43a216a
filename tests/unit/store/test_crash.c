/* SPDX-License-Identifier: Apache-2.0 */
/* SIGKILL at random instants of a take and of a removal: nothing partial, nothing lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "core/base/clock.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 12000, /* two batches or more */
	KILLS = 20,
};

struct shared {
	const char *dir;
	const uint8_t *img;
};

static void run_writer(const struct shared *x)
{
	struct store *s = NULL;
	struct family *f = NULL;
	struct snap_info info;
	struct err *e = store_open(x->dir, STORE_WRITE, &s);
	e = e != NULL ? e : family_open(s, fix_fam, false, &f);
	e = e != NULL ? e : fix_take(f, fix_vm1, "", x->img, PAGES, &info);
	if (e != NULL) {
		fprintf(stderr, "writer: %s\n", err_msg(e));
	}
	_exit(e != NULL);
}

static void run_remover(const struct shared *x)
{
	struct store *s = NULL;
	struct family *f = NULL;
	struct err *e = store_open(x->dir, STORE_WRITE, &s);
	e = e != NULL ? e : family_open(s, fix_fam, false, &f);
	struct snap_info *list = NULL;
	size_t n = 0;
	e = e != NULL ? e : family_snaps(f, &list, &n);
	e = e != NULL || n < 2 ? e : family_remove(f, &list[n - 1].id, 1);
	_exit(e != NULL);
}

/* Returns false when it ended by itself before the kill. */
static bool run_and_kill(void (*fn)(const struct shared *), const struct shared *x,
			 uint64_t after_ns, uint64_t *ret_took_ns)
{
	uint64_t t0 = clock_mono_ns();
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		fn(x);
	}
	if (after_ns != UINT64_MAX) {
		struct timespec ts = { .tv_sec = (time_t)(after_ns / 1000000000),
				       .tv_nsec = (long)(after_ns % 1000000000) };
		nanosleep(&ts, NULL);
		kill(pid, SIGKILL);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	*ret_took_ns = clock_mono_ns() - t0;
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return WIFSIGNALED(status);
}

/* Everything listed is whole; returns how many, and their record counts. */
static size_t check_store(const struct shared *x, struct store_usage *u, uint64_t *cleared)
{
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(x->dir, STORE_WRITE, &s));
	OK(family_open(s, fix_fam, false, &f));
	struct snap_info *list;
	size_t n;
	OK(family_snaps(f, &list, &n));
	for (size_t i = 0; i < n; i++) {
		fix_sound(f, list[i].id);
		fix_same(f, list[i].id, "memory", x->img, PAGES);
		for (size_t k = 0; k < i; k++) {
			assert_int_not_equal(list[i].number, list[k].number);
		}
	}
	struct gc_result res;
	OK(family_gc(f, &res));
	*cleared += res.sessions_cleared;
	OK(family_usage(f, u));
	assert_int_equal(u->snaps, n);
	assert_int_equal(u->blobs, 2 * n);
	struct fix_findings fi = { 0 };
	uint64_t findings;
	OK(family_verify(f, fix_report, &fi, &findings));
	assert_int_equal(findings, 0);
	char holders[700];
	fix_data_path(x->dir, fix_fam, holders, sizeof(holders) - 16);
	snprintf(strrchr(holders, '/'), 16, "/holders");
	DIR *d = opendir(holders);
	assert_non_null(d);
	unsigned files = 0;
	for (const struct dirent *ent; (ent = readdir(d)) != NULL;) {
		files += ent->d_name[0] != '.';
	}
	closedir(d);
	assert_int_equal(files, 0); /* lock files of the dead are gone */
	free(list);
	family_close(f);
	store_close(s);
	return n;
}

static void killed_takes(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	uint8_t *img = fix_image(5, PAGES);
	struct shared x = { .dir = dir, .img = img };
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	family_close(f);
	store_close(s);
	uint64_t took;
	assert_false(run_and_kill(run_writer, &x, UINT64_MAX, &took));
	struct store_usage one;
	uint64_t cleared = 0;
	assert_int_equal(check_store(&x, &one, &cleared), 1);
	uint64_t seed = 123;
	unsigned killed = 0;
	size_t n = 1;
	for (unsigned i = 0; i < KILLS; i++) {
		uint64_t unused;
		bool early = run_and_kill(run_writer, &x, fix_rnd(&seed) % took, &unused);
		killed += early;
		struct store_usage u;
		size_t now = check_store(&x, &u, &cleared);
		/* Either it had published, or there is nothing new. */
		assert_true(now == n || now == n + 1);
		assert_true(early || now == n + 1);
		n = now;
		assert_true(u.frames <= n * (one.frames + one.frames / 2 + 8));
	}
	assert_true(killed >= KILLS / 3);
	assert_true(cleared > 0); /* some died with a pend record */
	/* And removals, one by one, also killed. */
	for (unsigned i = 0; i < KILLS / 2 && n > 1; i++) {
		uint64_t unused;
		run_and_kill(run_remover, &x, fix_rnd(&seed) % 30000000, &unused);
		struct store_usage u;
		size_t now = check_store(&x, &u, &cleared);
		assert_true(now == n || now == n - 1);
		n = now;
	}
	free(img);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_takes),
	};
	return cmocka_run_group_tests_name("crash", tests, NULL, NULL);
}
