/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of snapshot/retain.c: which automatic snapshots go, and what is compacted behind them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/retain.h"
#include "tests/unit/store/store_fix.h"

enum {
	MAPS = 12,
	PAGES = 160,
};

struct fixture {
	char *dir;
	struct store *s;
	struct family *f;
	struct snap_info first;
	struct snap_retain keep;
};

static void map_name(unsigned i, char out[8])
{
	snprintf(out, 8, "m%u", i);
}

/* Of first's maps every nth but for those; NULL: all of them new, side by side in the frames. */
static void take(struct fixture *x, const char *tag, const struct snap_info *first, unsigned nth,
		 struct snap_info *info)
{
	struct session *s = NULL;
	struct snap_meta meta = { .frozen_at_ns = 5 };
	char name[8];
	uint8_t *img[MAPS] = { 0 };
	memcpy(meta.vm, fix_vm1, sizeof(meta.vm));
	snprintf(meta.tag, sizeof(meta.tag), "%s", tag);
	OK(session_open(x->f, &(struct session_opts){ .workers = 1 }, &s));
	for (unsigned i = 0; i < MAPS; i += nth) {
		map_name(i, name);
		if (first != NULL) {
			OK(session_map_share(s, first->id, name));
		} else {
			img[i] = fix_image(100 + i, PAGES); /* the session's until its end */
			fix_map(s, name, img[i], PAGES);
		}
	}
	OK(session_publish(s, &meta, info));
	session_free(s);
	for (unsigned i = 0; i < MAPS; i++) {
		free(img[i]);
	}
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	x->dir = fix_tmpdir();
	OK(store_open(x->dir, STORE_CREATE, &x->s));
	OK(family_open(x->s, fix_fam, true, &x->f));
	take(x, "auto-1", NULL, 1, &x->first);
	x->keep = (struct snap_retain){ .prefix = "auto-", .policy = { .keep_last = 1 } };
	memcpy(x->keep.vm, fix_vm1, sizeof(x->keep.vm));
	memcpy(x->keep.family, fix_fam, sizeof(x->keep.family));
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	family_close(x->f);
	store_close(x->s);
	fix_rmdir(x->dir);
	free(x);
	return 0;
}

static struct family_stat stat_now(struct fixture *x)
{
	struct family_stat st;
	OK(family_stat(x->f, &st));
	free(st.snap);
	st.snap = NULL;
	return st;
}

/* Automatic ones of this VM alone, never the newest or a pinned one; room is made one by one. */
static void automatic_ones_go(void **state)
{
	struct fixture *x = *state;
	struct snap_info s[4];
	size_t removed = 9;
	OK(snap_retain(x->s, &x->keep, &removed));
	assert_int_equal(removed, 0);
	take(x, "auto-2", &x->first, 1, &s[0]);
	take(x, "mine", &x->first, 1, &s[1]);
	take(x, "auto-3", &x->first, 1, &s[2]);
	take(x, "auto-4", &x->first, 1, &s[3]);
	OK(family_label(x->f, s[0].id, &(struct snap_label){ .set_pin = true, .pinned = true }));
	OK(snap_retain_less(x->s, &x->keep, &removed));
	assert_int_equal(removed, 1);
	OK(snap_retain(x->s, &x->keep, &removed));
	assert_int_equal(removed, 1);
	SCOPE(freep) struct snap_info *left = NULL;
	size_t n;
	OK(family_snaps(x->f, &left, &n));
	assert_int_equal(n, 3);
	assert_string_equal(left[0].tag, "auto-2");
	assert_string_equal(left[1].tag, "mine");
	assert_string_equal(left[2].tag, "auto-4");
	OK(snap_retain_less(x->s, &x->keep, &removed));
	assert_int_equal(removed, 0);
}

/* Much is dead behind a removal: the store gets smaller. */
static void dead_pages_go(void **state)
{
	struct fixture *x = *state;
	struct snap_info b;
	size_t removed;
	uint64_t bytes = 1;
	const bool cancel = true;
	const bool go_on = false;
	take(x, "auto-2", &x->first, 3, &b);
	OK(snap_retain_tidy(x->s, &x->keep, &go_on, &bytes));
	assert_int_equal(bytes, 0); /* nothing is dead yet */
	OK(snap_retain(x->s, &x->keep, &removed));
	assert_int_equal(removed, 1);
	struct family_stat before = stat_now(x);
	assert_true(before.partly_dead_bytes > before.record_bytes / 4);
	FAILS(ERR_CANCELLED, "given up", snap_retain_tidy(x->s, &x->keep, &cancel, &bytes));
	assert_int_equal(stat_now(x).record_bytes, before.record_bytes);
	OK(snap_retain_tidy(x->s, &x->keep, &go_on, &bytes));
	assert_true(bytes > 0);
	struct family_stat after = stat_now(x);
	assert_true(after.record_bytes + bytes <= before.record_bytes + KIB * 64);
	assert_true(after.partly_dead_bytes < before.partly_dead_bytes / 4);
	fix_sound(x->f, b.id);
	OK(snap_retain_tidy(x->s, &x->keep, &go_on, &bytes));
	assert_int_equal(bytes, 0);
}

/* A little that is dead is not worth the work. */
static void little_stays(void **state)
{
	struct fixture *x = *state;
	struct snap_info b;
	size_t removed;
	uint64_t bytes = 1;
	const bool go_on = false;
	struct session *s = NULL;
	struct snap_meta meta = { .frozen_at_ns = 6, .tag = "auto-2" };
	char name[8];
	memcpy(meta.vm, fix_vm1, sizeof(meta.vm));
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	for (unsigned i = 0; i + 1 < MAPS; i++) {
		map_name(i, name);
		OK(session_map_share(s, x->first.id, name));
	}
	OK(session_publish(s, &meta, &b));
	session_free(s);
	OK(snap_retain(x->s, &x->keep, &removed));
	assert_int_equal(removed, 1);
	struct family_stat before = stat_now(x);
	assert_true(before.partly_dead_bytes > 0);
	OK(snap_retain_tidy(x->s, &x->keep, &go_on, &bytes));
	assert_int_equal(bytes, 0);
	assert_int_equal(stat_now(x).record_bytes, before.record_bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(automatic_ones_go, setup, teardown),
		cmocka_unit_test_setup_teardown(dead_pages_go, setup, teardown),
		cmocka_unit_test_setup_teardown(little_stays, setup, teardown),
	};
	return cmocka_run_group_tests_name("retain", tests, NULL, NULL);
}
