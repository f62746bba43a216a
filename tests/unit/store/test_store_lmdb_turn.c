/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writers of several processes: one that is stopped delays others for a bounded time only, one that
 * is killed not at all; killed readers and removed lock files do no harm.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "core/base/clock.h"
#include "store/store_lmdb.h"
#include "tests/unit/store/store_fix.h"

static const char *const dbs[] = { "one" };

static struct lenv *env_at(const char *dir, bool create)
{
	struct lenv *l = NULL;
	struct lenv_opts o = { .dir = dir,
			       .dbs = dbs,
			       .ndbs = 1,
			       .map_bytes = 16 * GIB,
			       .create = create,
			       .write_wait_ms = 400 };
	OK(lenv_open(&o, &l));
	return l;
}

static void write_one(struct lenv *l, uint32_t k, size_t len)
{
	static uint8_t val[200000];
	struct ltxn *t = NULL;
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_put(t, 0, (struct bytes){ &k, 4 }, (struct bytes){ val, len }));
	OK(ltxn_commit(t));
}

/* A child that begins a transaction and tells; on a byte from `go` it commits and ends. */
static pid_t child_with_txn(const char *dir, bool write_txn, int *ret_go)
{
	int ready[2];
	int go[2];
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct lenv *l = env_at(dir, false);
		struct ltxn *t = NULL;
		uint32_t k = 77;
		char c = 0;
		OK(ltxn_begin(l, write_txn, &t));
		if (write_txn) {
			OK(ltxn_put(t, 0, (struct bytes){ &k, 4 }, (struct bytes){ &k, 4 }));
		}
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1) {
			_exit(1);
		}
		OK(ltxn_commit(t));
		_exit(0);
	}
	char c;
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	close(go[0]);
	*ret_go = go[1];
	return pid;
}

static void a_stopped_writer_is_not_waited_for_for_ever(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 10);
	int go;
	pid_t pid = child_with_txn(dir, true, &go);
	kill(pid, SIGSTOP);
	uint64_t began = clock_mono_ns();
	struct ltxn *t = NULL;
	FAILS(ERR_NOT_NOW, "another writer has not finished", ltxn_begin(l, true, &t));
	uint64_t ms = (clock_mono_ns() - began) / 1000000;
	assert_true(ms >= 300 && ms < 5000);
	/* Readers go on. */
	uint64_t n;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 1);
	ltxn_abort(t);
	/* It goes on, too, and then it is our turn. */
	kill(pid, SIGCONT);
	assert_int_equal(write(go, "", 1), 1);
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	write_one(l, 2, 10);
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 3);
	ltxn_abort(t);
	close(go);
	lenv_close(l);
	fix_rmdir(dir);
}

static void a_killed_writer_is_not_waited_for(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	for (unsigned i = 0; i < 5; i++) {
		int go;
		pid_t pid = child_with_txn(dir, true, &go);
		kill(pid, i % 2 == 0 ? SIGSTOP : SIGCONT);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		close(go);
		write_one(l, i, 10);
	}
	struct ltxn *t = NULL;
	uint64_t n;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 5); /* nothing of theirs */
	ltxn_abort(t);
	lenv_close(l);
	fix_rmdir(dir);
}

static void *begin_in_thread(void *arg)
{
	struct ltxn *t = NULL;
	FAILS(ERR_NOT_NOW, "another writer", ltxn_begin(arg, true, &t));
	return NULL;
}

/* The same between threads of one process; then two processes take turns without losing any. */
static void turns(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	struct ltxn *t = NULL;
	pthread_t other;
	OK(ltxn_begin(l, true, &t));
	assert_int_equal(pthread_create(&other, NULL, begin_in_thread, l), 0);
	pthread_join(other, NULL);
	ltxn_abort(t);
	pid_t pid = fork();
	/* The child uses the handle that it inherited: its environment and its turn are its own. */
	for (uint32_t i = 0; i < 100; i++) {
		write_one(l, i + (pid == 0 ? 1000 : 0), 3000);
	}
	if (pid == 0) {
		_exit(0);
	}
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	uint64_t n;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 200);
	ltxn_abort(t);
	lenv_close(l);
	fix_rmdir(dir);
}

/* A reader that is killed keeps no pages from being used again, though the file stays open here. */
static void killed_readers_keep_nothing(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 200000);
	int go;
	pid_t pid = child_with_txn(dir, false, &go);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(go);
	struct lenv_space sp;
	for (unsigned i = 0; i < 60; i++) {
		OK(lenv_space(l, &sp)); /* as every take does first */
		write_one(l, 1, 200000);
	}
	OK(lenv_space(l, &sp));
	assert_true(sp.file_bytes < 10 * 200000);
	lenv_close(l);
	fix_rmdir(dir);
}

static void lock_files_may_be_lost(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 10);
	lenv_close(l);
	char path[300];
	snprintf(path, sizeof(path), "%s/lock.mdb", dir);
	assert_int_equal(unlink(path), 0);
	snprintf(path, sizeof(path), "%s/write.lock", dir);
	assert_int_equal(unlink(path), 0);
	l = env_at(dir, false);
	write_one(l, 2, 10);
	uint64_t lost;
	OK(lenv_check(l, LCHECK_DEEP, &lost));
	lenv_close(l);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stopped_writer_is_not_waited_for_for_ever),
		cmocka_unit_test(a_killed_writer_is_not_waited_for),
		cmocka_unit_test(turns),
		cmocka_unit_test(killed_readers_keep_nothing),
		cmocka_unit_test(lock_files_may_be_lost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
