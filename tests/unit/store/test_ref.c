/* SPDX-License-Identifier: Apache-2.0 */
/* References to snapshots: forms, messages, damaged neighbours, replaced names. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/store/store_fix.h"

struct fixture {
	char *dir;
	struct store *s;
	uint8_t *img;
	struct snap_info snap[4];
};

static void take(struct fixture *x, struct family *f, unsigned i, const char *tag)
{
	OK(fix_take(f, fix_vm1, tag, x->img, 50, &x->snap[i]));
}

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	x->dir = fix_tmpdir();
	x->img = fix_image(1, 50);
	OK(store_open(x->dir, STORE_CREATE, &x->s));
	struct store_vm vm = { .name = "web", .created_ns = 5 };
	memcpy(vm.uuid, fix_vm1, 16);
	memcpy(vm.family, fix_fam, 16);
	OK(store_vm_put(x->s, &vm));
	struct family *f = NULL;
	OK(family_open(x->s, fix_fam, true, &f));
	take(x, f, 0, "");
	take(x, f, 1, "good");
	take(x, f, 2, "");
	/* Another VM of the family, with a newer snapshot and the same tag. */
	OK(fix_take(f, fix_vm2, "good", x->img, 50, &x->snap[3]));
	family_close(f);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	store_close(x->s);
	fix_rmdir(x->dir);
	free(x->img);
	free(x);
	return 0;
}

static void expect(struct fixture *x, const char *ref, unsigned i)
{
	struct store_ref r;
	OK(store_ref_resolve(x->s, ref, &r));
	assert_int_equal(r.snap.id, x->snap[i].id);
	assert_memory_equal(r.vm.uuid, fix_vm1, 16);
	fix_same(r.family, r.snap.id, "memory", x->img, 50);
	store_ref_done(&r);
}

static void forms(void **state)
{
	struct fixture *x = *state;
	expect(x, "web", 2);
	expect(x, "web@1", 0);
	expect(x, "web@good", 1);
	expect(x, "web@2", 1);
	expect(x, "web@3", 2);
	expect(x, "01010101-0000-0000-0000-000000000000@1", 0);
	struct store_ref r;
	FAILS(ERR_NOTFOUND, "no VM db", store_ref_resolve(x->s, "db", &r));
	FAILS(ERR_NOTFOUND, "it has web", store_ref_resolve(x->s, "db", &r));
	FAILS(ERR_NOTFOUND, "it has 3, 2 (good), 1", store_ref_resolve(x->s, "web@9", &r));
	FAILS(ERR_NOTFOUND, "no snapshot bad", store_ref_resolve(x->s, "web@bad", &r));
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, "", &r));
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, "@1", &r));
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, "web@", &r));
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, "web@a@b", &r));
	FAILS(ERR_USAGE, "from 1", store_ref_resolve(x->s, "web@0", &r));
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, "web@99999999999999999999999", &r));
	char longer[300];
	memset(longer, 'n', sizeof(longer));
	longer[299] = 0;
	FAILS(ERR_USAGE, "", store_ref_resolve(x->s, longer, &r));
}

static void vms_without_snapshots(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm = { .uuid = { 7 }, .family = { 7 }, .name = "new" };
	OK(store_vm_put(x->s, &vm));
	struct store_ref r;
	FAILS(ERR_NOTFOUND, "VM new has no snapshot", store_ref_resolve(x->s, "new", &r));
	struct family *f = NULL;
	OK(family_open(x->s, vm.family, true, &f));
	family_close(f);
	FAILS(ERR_NOTFOUND, "VM new has no snapshot", store_ref_resolve(x->s, "new", &r));
	FAILS(ERR_NOTFOUND, "VM new has no snapshot", store_ref_resolve(x->s, "new@1", &r));
	store_close(x->s);
	char dir[300];
	snprintf(dir, sizeof(dir), "%s-empty", x->dir);
	OK(store_open(dir, STORE_CREATE, &x->s));
	FAILS(ERR_NOTFOUND, "none at all", store_ref_resolve(x->s, "web", &r));
	fix_rmdir(strdup(dir));
}

/* A damaged record hides no other snapshot, but "the newest" is not guessed. */
static void beside_damage(void **state)
{
	struct fixture *x = *state;
	char path[600];
	uint8_t head[32];
	fix_data_path(x->dir, fix_fam, path, sizeof(path));
	fix_record(path, RECORD_SNAP, x->snap[2].id, true, 40, head);
	expect(x, "web@1", 0);
	expect(x, "web@good", 1);
	struct store_ref r;
	FAILS(ERR_CORRUPT, "checksum", store_ref_resolve(x->s, "web", &r));
	FAILS(ERR_CORRUPT, "checksum", store_ref_resolve(x->s, "web@3", &r));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(forms, setup, teardown),
		cmocka_unit_test_setup_teardown(vms_without_snapshots, setup, teardown),
		cmocka_unit_test_setup_teardown(beside_damage, setup, teardown),
	};
	return cmocka_run_group_tests_name("ref", tests, NULL, NULL);
}
