/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, directories, atomic replace, locks between processes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/base/io.h"
#include "tests/lib/expect.h"
#include "tests/lib/tmp_root.h"

static char dir[128];

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "%.100s/torpor-io-XXXXXX", tmp_root());
	return mkdtemp(dir) == NULL;
}

static int teardown(void **state)
{
	(void)state;
	char cmd[160];
	snprintf(cmd, sizeof(cmd), "rm -rf -- %s", dir);
	return system(cmd);
}

static void path_of(char out[160], const char *name)
{
	snprintf(out, 160, "%s/%s", dir, name);
}

static void test_short_file_is_an_error(void **state)
{
	(void)state;
	char path[160];
	path_of(path, "short");
	SCOPE(fd_close) struct fd f = FD_NONE;
	ok(io_open(path, O_RDWR | O_CREAT, 0600, &f));
	ok(io_write_full(f.n, "abc", 3));
	char buf[4] = "zzz";
	fails(io_pread_full(f.n, buf, 4, 0), ERR_CORRUPT);
	ok(io_pread_full(f.n, buf, 3, 0));
	assert_memory_equal(buf, "abc", 3);
	uint64_t n;
	ok(io_size(f.n, &n));
	assert_int_equal(n, 3);
}

static void test_missing_file_names_the_path(void **state)
{
	(void)state;
	struct fd f = FD_NONE;
	struct err *e = io_open("/nonexistent/x", O_RDONLY, 0, &f);
	assert_non_null(e);
	assert_non_null(strstr(err_msg(e), "/nonexistent/x"));
	fails(e, ERR_NOTFOUND);
	assert_int_equal(f.n, -1);
}

static void test_mkdirs(void **state)
{
	(void)state;
	char path[160];
	path_of(path, "a/b/c");
	ok(io_mkdirs(path));
	ok(io_mkdirs(path));
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	path_of(path, "file");
	struct fd f = FD_NONE;
	ok(io_open(path, O_WRONLY | O_CREAT, 0600, &f));
	fd_close(&f);
	fails(io_mkdirs(path), ERR_NOT_NOW);
}

static void test_replace_and_slurp(void **state)
{
	(void)state;
	ok(io_replace(dir, "r", "one", 3));
	ok(io_replace(dir, "r", "twotwo", 6));
	char path[160];
	path_of(path, "r");
	uint8_t *p;
	size_t len;
	ok(io_slurp(path, 100, &p, &len));
	assert_int_equal(len, 6);
	assert_string_equal((char *)p, "twotwo");
	free(p);
	fails(io_slurp(path, 5, &p, &len), ERR_LIMIT);
	path_of(path, "r.tmp");
	assert_int_equal(access(path, F_OK), -1);
}

static void test_lock_is_seen_by_others_and_dies_with_its_holder(void **state)
{
	(void)state;
	char path[160];
	path_of(path, "lock");
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct fd f = FD_NONE;
		bool got = false;
		err_drop(io_open(path, O_RDWR | O_CREAT, 0600, &f), "the parent looks");
		err_drop(io_try_lock(f.n, &got), "the parent looks");
		ssize_t n = write(ready[1], got ? "y" : "n", 1);
		(void)n;
		pause();
		_exit(0);
	}
	char c;
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(c, 'y');
	SCOPE(fd_close) struct fd f = FD_NONE;
	ok(io_open(path, O_RDWR, 0, &f));
	bool got = true;
	ok(io_try_lock(f.n, &got));
	assert_false(got);
	bool locked = false;
	ok(io_is_locked(f.n, &locked));
	assert_true(locked);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	ok(io_is_locked(f.n, &locked));
	assert_false(locked);
	ok(io_try_lock(f.n, &got));
	assert_true(got);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_short_file_is_an_error),
		cmocka_unit_test(test_missing_file_names_the_path),
		cmocka_unit_test(test_mkdirs),
		cmocka_unit_test(test_replace_and_slurp),
		cmocka_unit_test(test_lock_is_seen_by_others_and_dies_with_its_holder),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
