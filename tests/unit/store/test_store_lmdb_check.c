/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The structure check of data files: whatever LMDB writes passes, with every page accounted for;
 * damage that LMDB would follow is refused. The exhaustive flips are in tests/crash/rot.c.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/io.h"
#include "store/store_lmdb.h"
#include "tests/unit/store/store_fix.h"

static const char *const dbs[] = { "one", "two", "three" };

static struct err *env_try_at(const char *dir, bool create, struct lenv **ret)
{
	struct lenv_opts o = { .dir = dir,
			       .dbs = dbs,
			       .ndbs = 3,
			       .map_bytes = 64 * GIB,
			       .create = create,
			       .lists = 1 };
	return lenv_open(&o, ret);
}

static void sound(struct lenv *l)
{
	uint64_t lost;
	OK(lenv_check(l, LCHECK_LISTS, &lost));
	OK(lenv_check(l, LCHECK_ALL, &lost));
	assert_int_equal(lost, 0);
	OK(lenv_check(l, LCHECK_DEEP, &lost));
	assert_int_equal(lost, 0);
}

/* Random records of all sizes come and go; trees grow to three levels and shrink to nothing. */
static void what_lmdb_writes_passes(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct lenv *l = NULL;
	OK(env_try_at(dir, true, &l));
	sound(l);
	uint8_t *val = calloc(1, 300000);
	uint64_t seed = 5;
	for (unsigned round = 0; round < 400; round++) {
		struct ltxn *t = NULL;
		OK(ltxn_begin(l, true, &t));
		unsigned n = 1 + (unsigned)(fix_rnd(&seed) % (round % 50 == 0 ? 3000 : 30));
		bool shrink = round % 100 > 70;
		for (unsigned i = 0; i < n; i++) {
			uint8_t key[LENV_KEY_MAX];
			unsigned db = (unsigned)(fix_rnd(&seed) % 3);
			size_t klen = db == 0 ? 8 : 2 + fix_rnd(&seed) % 90;
			memset(key, (int)(fix_rnd(&seed) % 7), sizeof(key));
			put_le16(key, (uint16_t)(fix_rnd(&seed) % (round % 2 == 0 ? 200 : 5000)));
			bool found;
			size_t len = fix_rnd(&seed) % 60 == 0  ? fix_rnd(&seed) % 300000
				     : fix_rnd(&seed) % 4 == 0 ? fix_rnd(&seed) % 4200
							       : fix_rnd(&seed) % 120;
			if (fix_rnd(&seed) % 3 == 0 || shrink) {
				OK(ltxn_del(t, db, (struct bytes){ key, klen }, &found));
			} else {
				OK(ltxn_put(t, db, (struct bytes){ key, klen },
					    (struct bytes){ val, len }));
			}
		}
		if (round % 7 == 0) {
			ltxn_abort(t);
		} else {
			OK(ltxn_commit(t));
		}
		if (round % 4 == 0) {
			sound(l);
		}
		if (round % 90 == 89) {
			lenv_close(l);
			OK(env_try_at(dir, false, &l));
		}
	}
	sound(l);
	free(val);
	lenv_close(l);
	fix_rmdir(dir);
}

struct beside {
	struct lenv *l;
	atomic_bool stop;
};

static void *keep_writing(void *arg)
{
	struct beside *b = arg;
	uint64_t seed = 9;
	static uint8_t val[9000];
	while (!atomic_load(&b->stop)) {
		struct ltxn *t = NULL;
		OK(ltxn_begin(b->l, true, &t));
		for (unsigned i = 0; i < 20; i++) {
			uint64_t k = fix_rnd(&seed) % 500;
			OK(ltxn_put(t, 1, (struct bytes){ &k, 8 },
				    (struct bytes){ val, fix_rnd(&seed) % sizeof(val) }));
		}
		OK(ltxn_commit(t));
	}
	return NULL;
}

/* A check beside a writer sees one state, whole. */
static void beside_a_writer(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct beside b = { 0 };
	OK(env_try_at(dir, true, &b.l));
	pthread_t w;
	assert_int_equal(pthread_create(&w, NULL, keep_writing, &b), 0);
	unsigned busy = 0;
	for (unsigned i = 0; i < 150; i++) {
		uint64_t lost = 0;
		struct err *e = lenv_check(b.l, LCHECK_DEEP, &lost);
		if (e != NULL && err_class(e) == ERR_NOT_NOW) {
			busy++;
			err_free(e);
			continue;
		}
		OK(e);
		assert_int_equal(lost, 0);
	}
	assert_true(busy < 150);
	atomic_store(&b.stop, true);
	pthread_join(w, NULL);
	lenv_close(b.l);
	fix_rmdir(dir);
}

static void make_some(const char *dir, uint64_t commits)
{
	struct lenv *l = NULL;
	OK(env_try_at(dir, true, &l));
	for (uint64_t i = 0; i < commits; i++) {
		struct ltxn *t = NULL;
		OK(ltxn_begin(l, true, &t));
		OK(ltxn_put(t, 0, (struct bytes){ &i, 8 }, (struct bytes){ &i, 8 }));
		OK(ltxn_commit(t));
	}
	lenv_close(l);
}

/* A flipped transaction number would make LMDB take up the state before the last commit. */
static void no_commit_is_rolled_back(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	make_some(dir, 6);
	char path[300];
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	for (unsigned meta = 0; meta < 2; meta++) {
		for (unsigned bit = 0; bit < 64; bit++) {
			struct lenv *l = NULL;
			fix_flip(path, meta * 4096 + 144 + bit / 8, bit % 8);
			FAILS(ERR_CORRUPT, "meta page", env_try_at(dir, false, &l));
			fix_flip(path, meta * 4096 + 144 + bit / 8, bit % 8);
		}
	}
	struct lenv *l = NULL;
	OK(env_try_at(dir, false, &l));
	sound(l);
	lenv_close(l);
	fix_rmdir(dir);
}

/* A table whose name is damaged is damage, not an environment without tables. */
static void a_lost_table_is_damage(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	make_some(dir, 6);
	char path[300];
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	size_t len = 0;
	uint8_t *p = NULL;
	OK(io_slurp(path, 1000000, &p, &len));
	for (size_t i = 8192; i + 5 < len; i++) {
		if (memcmp(p + i, "three", 5) == 0) {
			fix_flip(path, i + 2, 1);
		}
	}
	free(p);
	struct lenv *l = NULL;
	FAILS(ERR_CORRUPT, "unknown table", env_try_at(dir, false, &l));
	fix_rmdir(dir);
}

/*
 * The head of a big value says what LMDB frees. Any flag of it that is not as it was written makes
 * replacing and removing an error; with the flag "dirty" LMDB would give the page to free().
 */
static void no_damaged_head_is_freed(void **state)
{
	(void)state;
	static uint8_t val[9000];
	char *dir = fix_tmpdir();
	char path[300];
	struct lenv *l = NULL;
	struct ltxn *t = NULL;
	struct bytes key = { "k", 1 };
	bool found;
	memset(val, 0x5a, sizeof(val));
	OK(env_try_at(dir, true, &l));
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_put(t, 0, key, (struct bytes){ val, sizeof(val) }));
	/* Within the transaction that wrote it the head is another one. */
	OK(ltxn_put(t, 0, key, (struct bytes){ val, sizeof(val) - 5000 }));
	OK(ltxn_put(t, 0, key, (struct bytes){ val, sizeof(val) }));
	OK(ltxn_commit(t));
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	struct lplace at;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_where(t, 0, key, &at, &found));
	assert_true(found);
	ltxn_abort(t);
	for (unsigned bit = 0; bit < 16; bit++) {
		uint64_t flags = at.off - 16 + 10 + bit / 8;
		fix_flip(path, flags, bit % 8);
		OK(ltxn_begin(l, true, &t));
		FAILS(ERR_CORRUPT, "", ltxn_del(t, 0, key, &found));
		ltxn_abort(t);
		OK(ltxn_begin(l, true, &t));
		FAILS(ERR_CORRUPT, "", ltxn_put(t, 0, key, (struct bytes){ val, 10 }));
		ltxn_abort(t);
		fix_flip(path, flags, bit % 8);
	}
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_del(t, 0, key, &found));
	assert_true(found);
	OK(ltxn_commit(t));
	sound(l);
	lenv_close(l);
	fix_rmdir(dir);
}

/*
 * Any one bit of the flags of a table's only leaf: an entry is what it was, or the call says that
 * it is damaged. A page that claims to hold keys only has entries without a record.
 */
static void no_entry_without_record(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[300];
	struct lenv *l = NULL;
	struct ltxn *t = NULL;
	struct bytes key = { "kkkkkkkk", 8 };
	bool found;
	unsigned refused = 0;
	OK(env_try_at(dir, true, &l));
	OK(ltxn_begin(l, true, &t));
	OK(ltxn_put(t, 0, key, (struct bytes){ "record", 6 }));
	OK(ltxn_commit(t));
	snprintf(path, sizeof(path), "%s/data.mdb", dir);
	struct lplace at;
	OK(ltxn_begin(l, false, &t));
	OK(ltxn_where(t, 0, key, &at, &found));
	assert_true(found);
	ltxn_abort(t);
	for (unsigned bit = 0; bit < 16; bit++) {
		uint64_t flags = at.off / PAGE_BYTES * PAGE_BYTES + 10 + bit / 8;
		SCOPE(lbuf_done) struct lbuf buf = { 0 };
		struct lcur *c = NULL;
		lenv_close(l); /* one that has met a fault serves no more */
		OK(env_try_at(dir, false, &l));
		fix_flip(path, flags, bit % 8);
		OK(ltxn_begin(l, false, &t));
		struct err *e = ltxn_get(t, 0, key, 100, &buf, &found);
		assert_true(e != NULL || !found ||
			    (buf.len == 6 && memcmp(buf.p, "record", 6) == 0));
		refused += e != NULL;
		err_drop(e, "or refused");
		found = false;
		e = lcur_open(t, 0, &c);
		e = e == NULL ? lcur_seek(c, (struct bytes){ 0 }, &found) : e;
		e = e == NULL && found ? lcur_value(c, 100, &buf) : e;
		err_drop(e, "or refused");
		lcur_close(c);
		ltxn_abort(t);
		fix_flip(path, flags, bit % 8);
	}
	assert_true(refused >= 1);
	lenv_close(l);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_lmdb_writes_passes),
		cmocka_unit_test(beside_a_writer),
		cmocka_unit_test(no_commit_is_rolled_back),
		cmocka_unit_test(a_lost_table_is_damage),
		cmocka_unit_test(no_damaged_head_is_freed),
		cmocka_unit_test(no_entry_without_record),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
