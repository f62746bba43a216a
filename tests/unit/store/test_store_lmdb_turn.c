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

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "core/base/clock.h"
#include "store/store_lmdb.h"
#include "tests/unit/store/store_fix.h"

static const char *const dbs[] = { "one" };

enum {
	SOON_MS = 400, /* where a wait in vain is expected */
	HANG_S = 200,  /* also on a loaded machine */
};

static struct err *open_env(const char *dir, bool create, unsigned wait_ms, struct lenv **ret)
{
	struct lenv_opts o = { .dir = dir,
			       .dbs = dbs,
			       .ndbs = 1,
			       .map_bytes = 16 * GIB,
			       .create = create,
			       .write_wait_ms = wait_ms };
	return lenv_open(&o, ret);
}

static struct lenv *env_at(const char *dir, bool create)
{
	struct lenv *l = NULL;
	OK(open_env(dir, create, HANG_S * 1000, &l));
	return l;
}

static struct lenv *hasty_env_at(const char *dir, bool create)
{
	struct lenv *l = NULL;
	OK(open_env(dir, create, SOON_MS, &l));
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

static void expect_records(struct lenv *l, uint64_t want)
{
	struct ltxn *t = NULL;
	uint64_t n;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, want);
	ltxn_abort(t);
}

static void ends_well(pid_t pid)
{
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
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
	struct lenv *l = hasty_env_at(dir, true);
	write_one(l, 1, 10);
	int go;
	pid_t pid = child_with_txn(dir, true, &go);
	kill(pid, SIGSTOP);
	uint64_t began = clock_mono_ns();
	struct ltxn *t = NULL;
	FAILS(ERR_NOT_NOW, "another writer has not finished", ltxn_begin(l, true, &t));
	uint64_t ms = (clock_mono_ns() - began) / 1000000;
	assert_true(ms >= 300 && ms < 60000);
	/* Readers go on. */
	expect_records(l, 1);
	/* It goes on, too, and then it is our turn. */
	kill(pid, SIGCONT);
	assert_int_equal(write(go, "", 1), 1);
	ends_well(pid);
	write_one(l, 2, 10);
	expect_records(l, 3);
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
	expect_records(l, 5); /* nothing of theirs */
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
	struct lenv *l = hasty_env_at(dir, true);
	struct ltxn *t = NULL;
	pthread_t other;
	OK(ltxn_begin(l, true, &t));
	assert_int_equal(pthread_create(&other, NULL, begin_in_thread, l), 0);
	pthread_join(other, NULL);
	ltxn_abort(t);
	lenv_close(l);
	l = env_at(dir, false);
	pid_t pid = fork();
	/* The child uses the handle that it inherited: its environment and its turn are its own. */
	for (uint32_t i = 0; i < 100; i++) {
		write_one(l, i + (pid == 0 ? 1000 : 0), 3000);
	}
	if (pid == 0) {
		_exit(0);
	}
	ends_well(pid);
	expect_records(l, 200);
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

/* Waits for a child that must not hang; its exit status, 256 for a signal. */
static int child_end(pid_t pid)
{
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 256;
}

/* A child that opens the environment, begins to write and exits with the error's class. */
static pid_t child_that_writes(const char *dir, bool create)
{
	pid_t pid = fork();
	if (pid == 0) {
		struct lenv *l = NULL;
		struct ltxn *t = NULL;
		alarm(HANG_S);
		struct err *e = open_env(dir, create, SOON_MS, &l);
		if (e == NULL) {
			e = ltxn_begin(l, true, &t);
		}
		_exit(e == NULL ? 0 : (int)err_class(e));
	}
	return pid;
}

static void finish_child(pid_t pid, int go)
{
	kill(pid, SIGCONT);
	assert_int_equal(write(go, "", 1), 1);
	assert_int_equal(child_end(pid), 0);
	close(go);
}

/* Nothing that can be removed from the directory lets a second writer past a stopped one. */
static void removed_lock_files_let_nobody_hang(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[300];
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 10);
	lenv_close(l);
	int go;
	pid_t pid = child_with_txn(dir, true, &go);
	kill(pid, SIGSTOP);
	snprintf(path, sizeof(path), "%s/write.lock", dir);
	unlink(path);
	assert_int_equal(child_end(child_that_writes(dir, false)), ERR_NOT_NOW);
	assert_int_equal(child_end(child_that_writes(dir, true)), ERR_NOT_NOW);
	finish_child(pid, go);
	assert_int_equal(child_end(child_that_writes(dir, false)), 0);
	fix_rmdir(dir);
}

/* An opener that must mend lock.mdb needs the write lock, too. */
static void opening_does_not_hang_on_a_stopped_writer(void **state)
{
	(void)state;
	enum {
		TXNID_AT = 48, /* in lock.mdb: behind magic, format and the readers' mutex */
	};
	char *dir = fix_tmpdir();
	char path[300];
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 10);
	lenv_close(l);
	int go;
	pid_t pid = child_with_txn(dir, true, &go);
	kill(pid, SIGSTOP);
	snprintf(path, sizeof(path), "%s/lock.mdb", dir);
	int fd = open(path, O_RDWR);
	uint64_t txnid = 0;
	assert_int_equal(pread(fd, &txnid, 8, TXNID_AT), 8);
	assert_true(txnid >= 2 && txnid < 10);
	uint64_t behind = txnid - 1; /* as a writer leaves it that is stopped after its meta page */
	assert_int_equal(pwrite(fd, &behind, 8, TXNID_AT), 8);
	assert_int_equal(child_end(child_that_writes(dir, false)), ERR_NOT_NOW);
	assert_int_equal(pwrite(fd, &txnid, 8, TXNID_AT), 8);
	close(fd);
	finish_child(pid, go);
	fix_rmdir(dir);
}

/* Nor on one that was stopped while it opened or closed the environment. */
static void opening_does_not_hang_on_a_stopped_opener(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	lenv_close(env_at(dir, true));
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(child_end(child_that_writes(dir, false)), ERR_NOT_NOW);
	assert_int_equal(child_end(child_that_writes(dir, true)), ERR_NOT_NOW);
	close(fd);
	assert_int_equal(child_end(child_that_writes(dir, false)), 0);
	fix_rmdir(dir);
}

/* The next in the queue is stopped; once the writer has ended, others pass it by. */
static void a_stopped_waiter_is_passed_by(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true);
	write_one(l, 1, 10);
	int go;
	pid_t writer = child_with_txn(dir, true, &go);
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t waiter = fork();
	if (waiter == 0) {
		struct ltxn *t = NULL;
		struct lenv *mine = env_at(dir, false);
		assert_int_equal(write(ready[1], "", 1), 1);
		OK(ltxn_begin(mine, true, &t));
		_exit(0);
	}
	char c;
	assert_int_equal(read(ready[0], &c, 1), 1);
	usleep(100000); /* it waits now; if it does not yet, the test is only easier */
	kill(waiter, SIGSTOP);
	finish_child(writer, go);
	for (uint32_t i = 0; i < 3; i++) {
		write_one(l, 10 + i, 10);
	}
	kill(waiter, SIGKILL);
	assert_int_equal(child_end(waiter), 256);
	close(ready[0]);
	close(ready[1]);
	lenv_close(l);
	fix_rmdir(dir);
}

struct greedy {
	struct lenv *l;
	atomic_uint done;
	atomic_bool stop;
};

static void *write_without_pause(void *arg)
{
	struct greedy *g = arg;
	for (uint32_t k = 0; !atomic_load(&g->stop); k++) {
		write_one(g->l, k % 8, 1000);
		atomic_fetch_add(&g->done, 1);
	}
	return NULL;
}

/* A thread that writes without a pause lets another one of its process in between. */
static void threads_are_served_in_turn(void **state)
{
	(void)state;
	enum {
		ROUNDS = 50,
	};
	char *dir = fix_tmpdir();
	struct greedy g = { .l = env_at(dir, true) };
	pthread_t other;
	write_one(g.l, 1, 10);
	assert_int_equal(pthread_create(&other, NULL, write_without_pause, &g), 0);
	while (atomic_load(&g.done) < 3) {
		usleep(100);
	}
	unsigned before = atomic_load(&g.done);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		write_one(g.l, 100 + i, 10);
	}
	unsigned passed = atomic_load(&g.done) - before;
	atomic_store(&g.stop, true);
	pthread_join(other, NULL);
	/* One each would be fair; without a queue it is hundreds, or the limit is reached. */
	assert_true(passed <= 5 * ROUNDS);
	lenv_close(g.l);
	fix_rmdir(dir);
}

/* A child that gives up what it inherited gives up nothing of its parent's. */
static void a_fork_keeps_its_hands_off_the_turn(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = hasty_env_at(dir, true);
	struct ltxn *t = NULL;
	write_one(l, 1, 10);
	OK(ltxn_begin(l, true, &t));
	uint32_t k = 5;
	OK(ltxn_put(t, 0, (struct bytes){ &k, 4 }, (struct bytes){ &k, 4 }));
	for (unsigned commit = 0; commit < 2; commit++) {
		pid_t pid = fork();
		if (pid == 0) {
			alarm(HANG_S);
			struct err *e = NULL;
			if (commit) {
				e = ltxn_commit(t);
			} else {
				ltxn_abort(t);
			}
			_exit(commit ? e == NULL || err_class(e) != ERR_NOT_NOW : 0);
		}
		assert_int_equal(child_end(pid), 0);
	}
	assert_int_equal(child_end(child_that_writes(dir, false)), ERR_NOT_NOW);
	OK(ltxn_commit(t));
	assert_int_equal(child_end(child_that_writes(dir, false)), 0);
	expect_records(l, 2);
	lenv_close(l);
	fix_rmdir(dir);
}

/*
 * A write that ends in a fault (here: the file is cut off beneath it) may leave LMDB's lock taken
 * for as long as the process lives. Others must not wait for it without a limit.
 */
static void a_fault_in_a_commit_hangs_nobody(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[300];
	struct lenv *l = hasty_env_at(dir, true);
	for (uint32_t k = 0; k < 400; k++) {
		write_one(l, k, 1500);
	}
	int ready[2];
	int go[2];
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	pid_t other = fork();
	if (other == 0) { /* has the environment open and checked before it is damaged */
		struct lenv *mine = hasty_env_at(dir, false);
		struct ltxn *t = NULL;
		char c;
		write_one(mine, 1, 10);
		assert_int_equal(write(ready[1], "", 1), 1);
		assert_int_equal(read(go[0], &c, 1), 1);
		alarm(HANG_S);
		struct err *e = ltxn_begin(mine, true, &t);
		_exit(e == NULL ? 0 : (int)err_class(e));
	}
	char c;
	assert_int_equal(read(ready[0], &c, 1), 1);
	struct ltxn *t = NULL;
	OK(ltxn_begin(l, true, &t));
	uint32_t k = 3;
	OK(ltxn_put(t, 0, (struct bytes){ &k, 4 }, (struct bytes){ &k, 4 }));
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	int fd = open(path, O_RDWR);
	uint8_t *copy = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, copy, (size_t)st.st_size, 0), st.st_size);
	assert_int_equal(ftruncate(fd, 0), 0);
	struct err *e = ltxn_commit(t);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_CORRUPT);
	err_free(e);
	assert_int_equal(pwrite(fd, copy, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	free(copy);
	assert_int_equal(write(go[1], "", 1), 1);
	int got = child_end(other);
	assert_true(got == 0 || got == ERR_NOT_NOW);
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
		cmocka_unit_test(removed_lock_files_let_nobody_hang),
		cmocka_unit_test(opening_does_not_hang_on_a_stopped_writer),
		cmocka_unit_test(opening_does_not_hang_on_a_stopped_opener),
		cmocka_unit_test(a_stopped_waiter_is_passed_by),
		cmocka_unit_test(threads_are_served_in_turn),
		cmocka_unit_test(a_fork_keeps_its_hands_off_the_turn),
		cmocka_unit_test(a_fault_in_a_commit_hangs_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
