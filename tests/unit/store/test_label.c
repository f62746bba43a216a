/* SPDX-License-Identifier: Apache-2.0 */
/* Tags and pins of published snapshots. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/store/store_fix.h"

static struct snap_info info_of(struct family *f, uint64_t id)
{
	bool found;
	struct snap_info info;
	OK(family_snap_by_id(f, id, &found, &info));
	assert_true(found);
	return info;
}

static void labels(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img = fix_image(1, 100);
	struct snap_info a;
	struct snap_info b;
	struct snap_info other;
	OK(fix_take(f, fix_vm1, "one", img, 100, &a));
	OK(fix_take(f, fix_vm1, "", img, 100, &b));
	OK(fix_take(f, fix_vm2, "two", img, 100, &other));

	FAILS(ERR_NOT_NOW, "taken by snapshot 1",
	      family_label(f, b.id, &(struct snap_label){ .tag = "one" }));
	OK(family_label(f, a.id, &(struct snap_label){ .tag = "one" })); /* its own */
	OK(family_label(f, b.id, &(struct snap_label){ .tag = "two" })); /* another VM's */
	assert_string_equal(info_of(f, b.id).tag, "two");
	OK(family_label(f, a.id, &(struct snap_label){ .tag = "" }));
	assert_string_equal(info_of(f, a.id).tag, "");
	OK(family_label(f, b.id, &(struct snap_label){ .tag = "one" }));
	char longest[NAME_BYTES_MAX + 2];
	memset(longest, 'x', sizeof(longest));
	longest[NAME_BYTES_MAX + 1] = 0;
	FAILS(ERR_USAGE, "longer", family_label(f, a.id, &(struct snap_label){ .tag = longest }));
	longest[NAME_BYTES_MAX] = 0;
	OK(family_label(f, a.id, &(struct snap_label){ .tag = longest }));
	FAILS(ERR_USAGE, "digits", family_label(f, a.id, &(struct snap_label){ .tag = "12" }));
	FAILS(ERR_USAGE, "", family_label(f, a.id, &(struct snap_label){ .tag = "a@b" }));
	FAILS(ERR_NOTFOUND, "99", family_label(f, 99, &(struct snap_label){ .tag = "x" }));
	assert_string_equal(info_of(f, a.id).tag, longest);

	/* A pin: kept over a reopening, and by removal unless forced; a tag changes without it. */
	assert_false(info_of(f, a.id).pinned);
	OK(family_label(f, a.id, &(struct snap_label){ .set_pin = true, .pinned = true }));
	family_close(f);
	OK(family_open(s, fix_fam, false, &f));
	assert_true(info_of(f, a.id).pinned);
	OK(family_label(f, a.id, &(struct snap_label){ .tag = "p" }));
	assert_true(info_of(f, a.id).pinned);
	struct snap_info now = info_of(f, a.id);
	assert_memory_equal(&now.root, &a.root, sizeof(a.root));
	uint64_t both[] = { b.id, a.id };
	FAILS(ERR_NOT_NOW, "pinned", family_remove_unpinned(f, both, 2));
	fix_same(f, b.id, "memory", img, 100);
	OK(family_label(f, a.id, &(struct snap_label){ .set_pin = true }));
	OK(family_label(f, b.id, &(struct snap_label){ .set_pin = true, .pinned = true }));
	OK(family_remove_unpinned(f, &a.id, 1));
	FAILS(ERR_NOTFOUND, "", family_label(f, a.id, &(struct snap_label){ .tag = "x" }));
	OK(family_remove(f, &b.id, 1));
	fix_sound(f, other.id);
	family_close(f);
	store_close(s);
	OK(store_open(dir, STORE_READ, &s));
	OK(family_open(s, fix_fam, false, &f));
	FAILS(ERR_NOT_NOW, "reading only",
	      family_label(f, other.id, &(struct snap_label){ .tag = "x" }));
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(labels) };
	return cmocka_run_group_tests_name("label", tests, NULL, NULL);
}
