/* SPDX-License-Identifier: Apache-2.0 */
/* Environments, transactions and cursors: values of all sizes, places, sharing, read only. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sys/wait.h>

#include "store/store_lmdb.h"
#include "tests/unit/store/store_fix.h"

static const char *const dbs[] = { "one", "two" };

static struct lenv *env_at(const char *dir, bool create, bool rdonly)
{
	struct lenv *l = NULL;
	struct lenv_opts o = { .dir = dir,
			       .dbs = dbs,
			       .ndbs = 2,
			       .map_bytes = 1024 * GIB,
			       .create = create,
			       .rdonly = rdonly };
	OK(lenv_open(&o, &l));
	return l;
}

static struct bytes key_of(uint32_t *k)
{
	return (struct bytes){ k, 4 };
}

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		p[i] = (uint8_t)fix_rnd(&seed);
	}
}

static void values_of_all_sizes(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true, false);
	static const size_t sizes[] = { 0,    1,    100,  2000, 2022,  2023,
					2038, 2039, 4080, 4081, 65520, 1000000 };
	uint8_t *p = malloc(1000000);
	struct ltxn *t = NULL;
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	bool found;
	OK(ltxn_begin(l, true, &t));
	for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
		fill(p, sizes[i], i);
		OK(ltxn_put(t, 1, key_of(&i), (struct bytes){ p, sizes[i] }));
		/* Also before the commit, from LMDB's own memory. */
		OK(ltxn_get(t, 1, key_of(&i), 1000000, &b, &found));
		assert_true(found && b.len == sizes[i] && memcmp(b.p, p, b.len) == 0);
	}
	OK(ltxn_commit(t));
	OK(ltxn_begin(l, false, &t));
	for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
		fill(p, sizes[i], i);
		OK(ltxn_get(t, 1, key_of(&i), 1000000, &b, &found));
		assert_true(found && b.len == sizes[i] && memcmp(b.p, p, b.len) == 0);
		struct lplace at;
		OK(ltxn_where(t, 1, key_of(&i), &at, &found));
		assert_true(found && at.len == sizes[i]);
		memset(b.p, 0, b.len);
		OK(lenv_pread(l, b.p, at.len, at.off));
		assert_int_equal(memcmp(b.p, p, at.len), 0);
		if (sizes[i] > 0) {
			FAILS(ERR_CORRUPT, "at most",
			      ltxn_get(t, 1, key_of(&i), sizes[i] - 1, &b, &found));
		}
		OK(ltxn_get(t, 0, key_of(&i), 100, &b, &found));
		assert_false(found);
	}
	uint64_t n;
	OK(ltxn_count(t, 1, &n));
	assert_int_equal(n, ARRAY_LEN(sizes));
	FAILS(ERR_CORRUPT, "data.mdb", lenv_pread(l, b.p, 100, 1ull << 40));
	ltxn_abort(t);
	lenv_close(l);
	free(p);
	fix_rmdir(dir);
}

static void cursors_and_deletion(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true, false);
	struct ltxn *t = NULL;
	OK(ltxn_begin(l, true, &t));
	for (uint64_t i = 100; i > 0; i--) { /* descending: not the append path */
		uint8_t k[8];
		put_be64(k, i * 10);
		OK(ltxn_put(t, 0, (struct bytes){ k, 8 }, (struct bytes){ &i, 8 }));
	}
	OK(ltxn_commit(t));
	OK(ltxn_begin(l, true, &t));
	struct lcur *c = NULL;
	bool found;
	uint8_t k[8];
	OK(lcur_open(t, 0, &c));
	put_be64(k, 495);
	OK(lcur_seek(c, (struct bytes){ k, 8 }, &found));
	assert_true(found);
	for (uint64_t i = 50; i <= 100; i++) {
		SCOPE(lbuf_done) struct lbuf b = { 0 };
		assert_true(found);
		assert_int_equal(get_be64(lcur_key(c).p), i * 10);
		assert_int_equal(lcur_value_len(c), 8);
		OK(lcur_value(c, 8, &b));
		assert_int_equal(get_le64(b.p), i);
		OK(lcur_next(c, &found));
	}
	assert_false(found);
	put_be64(k, 1001);
	OK(lcur_seek(c, (struct bytes){ k, 8 }, &found));
	assert_false(found);
	lcur_close(c);
	put_be64(k, 10);
	OK(ltxn_del(t, 0, (struct bytes){ k, 8 }, &found));
	assert_true(found);
	OK(ltxn_del(t, 0, (struct bytes){ k, 8 }, &found));
	assert_false(found);
	ltxn_abort(t); /* the deletion is undone */
	OK(ltxn_begin(l, false, &t));
	uint64_t n;
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 100);
	ltxn_abort(t);
	lenv_close(l);
	fix_rmdir(dir);
}

static void one_environment_per_process(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv_opts o = { .dir = dir, .dbs = dbs, .ndbs = 2, .map_bytes = GIB };
	struct lenv *a = NULL;
	FAILS(ERR_NOTFOUND, "", lenv_open(&o, &a));
	a = env_at(dir, true, false);
	struct lenv *b = env_at(dir, false, true);
	assert_ptr_equal(a, b);
	lenv_close(a);
	lenv_close(b);
	/* Read only first, then for writing: opened again, the first handle goes on. */
	a = env_at(dir, false, true);
	struct ltxn *t = NULL;
	FAILS(ERR_NOT_NOW, "reading only", ltxn_begin(a, true, &t));
	b = env_at(dir, false, false);
	OK(ltxn_begin(b, true, &t));
	uint32_t k = 1;
	OK(ltxn_put(t, 0, key_of(&k), key_of(&k)));
	OK(ltxn_commit(t));
	OK(ltxn_begin(a, false, &t));
	uint64_t n;
	OK(ltxn_count(t, 0, &n));
	assert_int_equal(n, 1);
	ltxn_abort(t);
	lenv_close(b);
	lenv_close(a);
	lenv_close(NULL);
	fix_rmdir(dir);
}

/* The descriptors of an environment do not leak into programs that are started. */
static void descriptors_close_on_exec(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true, false);
	unsigned seen = 0;
	for (int fd = 3; fd < 64; fd++) {
		char link[64];
		char target[512];
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, target, sizeof(target) - 1);
		if (n < 0) {
			continue;
		}
		target[n] = 0;
		if (strncmp(target, dir, strlen(dir)) == 0) {
			seen++;
			assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
		}
	}
	assert_true(seen >= 2);
	lenv_close(l);
	fix_rmdir(dir);
}

static void space(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = env_at(dir, true, false);
	struct lenv_space before;
	struct lenv_space sp;
	OK(lenv_space(l, &before));
	lenv_prealloc(l, 8 * MIB);
	OK(lenv_space(l, &sp));
	assert_int_equal(sp.file_bytes, before.file_bytes);
	assert_true(sp.allocated_bytes >= before.allocated_bytes + 7 * MIB);
	OK(lenv_trim(l));
	OK(lenv_space(l, &sp));
	assert_true(sp.allocated_bytes < before.allocated_bytes + MIB);
	/* Deleted records become free pages inside the file. */
	struct ltxn *t = NULL;
	uint8_t *p = calloc(1, MIB);
	uint32_t k = 1;
	bool found;
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_put(t, 0, key_of(&k), (struct bytes){ p, MIB }));
	OK(ltxn_commit(t));
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_del(t, 0, key_of(&k), &found));
	OK(ltxn_commit(t));
	OK(lenv_space(l, &sp));
	assert_true(sp.free_bytes >= MIB);
	free(p);
	lenv_close(l);
	fix_rmdir(dir);
}

static void *count_up(void *arg)
{
	struct lenv *l = arg;
	for (unsigned i = 0; i < 20; i++) {
		struct ltxn *t = NULL;
		SCOPE(lbuf_done) struct lbuf b = { 0 };
		bool found;
		uint64_t v = 0;
		struct err *e = ltxn_begin(l, true, &t);
		e = e != NULL ? e : ltxn_get(t, 0, (struct bytes){ "n", 1 }, 8, &b, &found);
		if (e == NULL && found) {
			v = get_le64(b.p);
		}
		v++;
		e = e != NULL ? e
			      : ltxn_put(t, 0, (struct bytes){ "n", 1 }, (struct bytes){ &v, 8 });
		e = e != NULL ? e : ltxn_commit(t);
		if (e != NULL) {
			return e;
		}
	}
	return NULL;
}

static void threads_and_processes_take_turns(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	lenv_close(env_at(dir, true, false));
	pid_t pid = fork();
	if (pid == 0) {
		struct lenv *l = env_at(dir, false, false);
		_exit(count_up(l) != NULL);
	}
	struct lenv *l = env_at(dir, false, false);
	pthread_t th[3];
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&th[i], NULL, count_up, l), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		void *e;
		pthread_join(th[i], &e);
		assert_null(e);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	struct ltxn *t = NULL;
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	bool found;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_get(t, 0, (struct bytes){ "n", 1 }, 8, &b, &found));
	assert_int_equal(get_le64(b.p), 80);
	ltxn_abort(t);
	lenv_close(l);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_of_all_sizes),
		cmocka_unit_test(cursors_and_deletion),
		cmocka_unit_test(one_environment_per_process),
		cmocka_unit_test(descriptors_close_on_exec),
		cmocka_unit_test(space),
		cmocka_unit_test(threads_and_processes_take_turns),
	};
	return cmocka_run_group_tests_name("store_lmdb", tests, NULL, NULL);
}
