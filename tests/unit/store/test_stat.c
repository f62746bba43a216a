/* SPDX-License-Identifier: Apache-2.0 */
/* What the figures of family_stat promise, against removals that are then made. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/family.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 3000,
};

/* What must hold of any family at rest. */
static void sums(const struct family_stat *st)
{
	assert_int_equal(st->record_bytes, st->live_bytes + st->partly_dead_bytes + st->dead_bytes +
						   st->pending_bytes);
	uint64_t unique = 0;
	for (size_t i = 0; i < st->nsnaps; i++) {
		unique += st->snap[i].unique_bytes;
		assert_true(st->snap[i].shared_bytes <= st->shared_bytes);
	}
	if (st->hidden == 0) {
		assert_int_equal(unique + st->shared_bytes, st->live_bytes);
	}
	assert_true(st->disk_bytes > st->live_bytes);
	assert_int_equal(st->damaged, 0);
}

static void empty(void **state)
{
	struct fix_store *x = *state;
	struct family_stat st;
	OK(family_stat(x->f, &st));
	sums(&st);
	assert_int_equal(st.nsnaps + st.live_bytes + st.frames, 0);
	family_stat_done(&st);
}

static void one_owns_all(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(1, PAGES);
	struct snap_info info;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &info));
	struct family_stat st;
	OK(family_stat(x->f, &st));
	sums(&st);
	assert_int_equal(st.nsnaps, 1);
	assert_int_equal(st.shared_bytes + st.dead_bytes + st.partly_dead_bytes, 0);
	assert_int_equal(st.snap[0].unique_bytes, st.live_bytes);
	assert_int_equal(st.snap[0].rm_bytes, st.live_bytes);
	assert_true(st.live_pages > 0 && st.live_pages <= info.pages_stored);
	assert_int_equal(st.dead_pages, 0);
	assert_true(st.live_bytes > info.bytes_stored);
	assert_false(st.snap[0].leased);
	family_stat_done(&st);
	struct reader *r = NULL;
	OK(reader_open(x->f, info.id, &r));
	OK(family_stat(x->f, &st));
	assert_true(st.snap[0].leased);
	family_stat_done(&st);
	reader_close(r);
	free(img);
}

/* A shared map belongs to both; what removing frees is what the next figures lack. */
static void sharing_and_removing(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(2, PAGES);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	OK(session_map_share(s, a.id, "memory"));
	fix_map(s, "own", img, 700);
	OK(session_publish(s, &(struct snap_meta){ .vm = { 1, 1, 1, 1 } }, &b));
	session_free(s);
	struct family_stat st;
	OK(family_stat(x->f, &st));
	sums(&st);
	assert_int_equal(st.nsnaps, 2);
	assert_int_equal(st.snap[0].shared_bytes, st.shared_bytes);
	assert_int_equal(st.snap[1].shared_bytes, st.shared_bytes);
	assert_true(st.shared_bytes > a.bytes_stored);
	assert_true(st.snap[0].unique_bytes < 1000);
	assert_true(st.snap[1].unique_bytes > b.bytes_stored);
	uint64_t live = st.live_bytes;
	uint64_t rm = st.snap[1].rm_bytes;
	uint64_t unique = st.snap[1].unique_bytes;
	assert_int_equal(rm, unique);
	family_stat_done(&st);
	OK(family_remove(x->f, &b.id, 1));
	OK(family_stat(x->f, &st));
	sums(&st);
	assert_int_equal(st.live_bytes, live - unique);
	assert_int_equal(st.dead_bytes + st.shared_bytes, 0);
	assert_true(st.free_bytes > 0);
	family_stat_done(&st);
	free(img);
}

/* A session's bytes are pending while it lives, and dead, for gc, when its owner was killed. */
static void pending(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(3, PAGES);
	struct session *s = NULL;
	struct snap_info info;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &info));
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	for (int i = 0; i < 8; i++) { /* more than one batch */
		char name[8];
		snprintf(name, sizeof(name), "m%d", i);
		fix_map(s, name, img, PAGES);
	}
	OK(session_settle(s));
	struct family_stat st;
	for (int i = 0; i < 6000; i++) {
		OK(family_stat(x->f, &st));
		sums(&st);
		assert_int_equal(st.dead_bytes, 0);
		if (st.pending_bytes > 0) {
			break;
		}
		family_stat_done(&st);
		usleep(10000);
	}
	assert_true(st.pending_bytes > 0);
	family_stat_done(&st);
	session_free(s);
	OK(family_stat(x->f, &st));
	sums(&st);
	assert_int_equal(st.pending_bytes + st.dead_bytes, 0);
	family_stat_done(&st);
	free(img);
}

/* A damaged record is counted, and the rest is still told. */
static void damage(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(4, PAGES);
	struct snap_info a;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	char path[4096];
	fix_data_path(x->dir, fix_fam, path, sizeof(path));
	family_close(x->f);
	uint8_t head[32];
	(void)fix_record(path, RECORD_FRAME, 0, true, 40, head);
	OK(family_open(x->s, fix_fam, false, &x->f));
	struct family_stat st;
	OK(family_stat(x->f, &st));
	assert_int_equal(st.damaged, 1);
	assert_int_equal(st.nsnaps, 1);
	assert_true(st.live_bytes > a.bytes_stored / 2);
	family_stat_done(&st);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(empty, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(one_owns_all, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(sharing_and_removing, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(pending, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(damage, fix_setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("stat", tests, NULL, NULL);
}
