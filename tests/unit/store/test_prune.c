/* SPDX-License-Identifier: Apache-2.0 */
/* What policies keep, and what a VM's snapshots take. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/store/store_fix.h"

enum {
	N = 10,
};
#define HOUR 3600000000000ull

/* Ages in hours before a full day; 'x' doomed, '.' kept; the 4th (a) is pinned. */
static void expect(const struct prune_policy *p, const char *want)
{
	static const unsigned at[N] = { 1, 2, 25, 26, 49, 50, 50, 51, 51, 51 };
	struct snap_info s[N] = { 0 };
	bool doomed[N];
	char got[N + 1] = "";
	for (unsigned i = 0; i < N; i++) {
		s[i].frozen_at_ns = (24 * 1000 + at[i]) * HOUR + i * 1000;
		s[i].pinned = i == 3;
	}
	s[4].created_ns = s[4].frozen_at_ns; /* the time of its publishing does as well */
	s[4].frozen_at_ns = 0;
	prune_choose(s, N, p, doomed);
	for (unsigned i = 0; i < N; i++) {
		got[i] = doomed[i] ? 'x' : '.';
	}
	assert_string_equal(got, want);
}

static void policies(void **state)
{
	(void)state;
	expect(&(struct prune_policy){ 0 }, "..........");
	expect(&(struct prune_policy){ .keep_last = 1 }, "xxx.xxxxx.");
	expect(&(struct prune_policy){ .keep_last = 3 }, "xxx.xxx...");
	expect(&(struct prune_policy){ .keep_last = 99 }, "..........");
	expect(&(struct prune_policy){ .keep_hourly = 1 }, "xxx.xxxxx.");
	expect(&(struct prune_policy){ .keep_hourly = 3 }, "xxx..x.xx.");
	expect(&(struct prune_policy){ .keep_hourly = 99 }, ".....x.xx.");
	expect(&(struct prune_policy){ .keep_daily = 2 }, "xxx.xxxxx.");
	expect(&(struct prune_policy){ .keep_daily = 3 }, "x.x.xxxxx.");
	expect(&(struct prune_policy){ .keep_daily = 3, .keep_last = 2 }, "x.x.xxxx..");
	prune_choose(NULL, 0, &(struct prune_policy){ .keep_last = 1 }, NULL);
}

static void bytes_of_a_vm(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img = fix_image(1, 1000);
	struct snap_info a;
	struct snap_info b;
	struct snap_info c;
	OK(fix_take(f, fix_vm1, "", img, 1000, &a));
	OK(fix_take(f, fix_vm1, "", img, 1000, &b));
	struct session *w = NULL;
	OK(session_open(f, &(struct session_opts){ 0 }, &w));
	OK(session_map_share(w, a.id, "memory"));
	struct snap_meta meta = { 0 };
	memcpy(meta.vm, fix_vm2, 16);
	OK(session_publish(w, &meta, &c));
	session_free(w);
	uint64_t both;
	uint64_t one;
	uint64_t none;
	uint64_t clone;
	uint64_t ids[] = { a.id, b.id };
	OK(vm_bytes(f, fix_vm1, ids, (bool[]){ false, false }, 2, &both));
	OK(vm_bytes(f, fix_vm1, ids, (bool[]){ true, false }, 2, &one));
	OK(vm_bytes(f, fix_vm1, ids, (bool[]){ true, true }, 2, &none));
	OK(vm_bytes(f, fix_vm2, NULL, NULL, 0, &clone));
	assert_int_equal(none, 0);
	assert_true(one > b.bytes_stored && one < both && both > a.bytes_stored + b.bytes_stored);
	assert_true(clone > a.bytes_stored && clone < both); /* what it shares counts */
	struct family_stat st;
	OK(family_stat(f, &st));
	assert_true(both <= st.record_bytes && both + 4096 > st.record_bytes);
	family_stat_done(&st);
	OK(family_remove(f, &a.id, 1));
	uint64_t after;
	OK(vm_bytes(f, fix_vm1, NULL, NULL, 0, &after));
	assert_int_equal(after, one);
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policies),
		cmocka_unit_test(bytes_of_a_vm),
	};
	return cmocka_run_group_tests_name("prune", tests, NULL, NULL);
}
