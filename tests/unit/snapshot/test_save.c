/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of taking: a good take, and the VM and the store after every way to fail. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/resource.h>

#include "tests/lib/snap_fake.h"

static const char whole_take[] =
	"freeze park:serial0 park:cpu0 park:cpu1 park:clock0 flush fetch:serial0 fetch:cpu0 "
	"fetch:cpu1 fetch:clock0 unpark:clock0 unpark:cpu1 unpark:cpu0 unpark:serial0 thaw";

static struct fake_vm f;

static int setup(void **state)
{
	(void)state;
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	fake_fill(&f, 3);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_done(&f);
	return 0;
}

static struct err *take(const char *tag, struct snap_result *ret)
{
	const struct snap_take_opts opts = { .tag = tag };
	f.log[0] = '\0';
	f.ops = 0;
	return snap_take(f.store, &f.vm, &opts, ret);
}

static void test_take(void **state)
{
	(void)state;
	struct snap_result r = { 0 };
	struct store_vm vm;
	bool found = false;
	OK(take("first", &r));
	assert_string_equal(f.log, whole_take);
	assert_int_equal(r.number, 1);
	assert_true(r.snap_id != 0 && r.frozen_at_ns != 0);
	assert_true(r.pause_us <= r.elapsed_us);
	assert_true(r.pages_stored > 0 && r.bytes_stored > 0);
	OK(store_vm_by_name(f.store, "fake", &found, &vm));
	assert_true(found);
	assert_memory_equal(vm.uuid, f.vm.uuid, 16);
	assert_memory_equal(vm.family, f.vm.family, 16);
	assert_true(vm.holds_name);

	/* the second of an unchanged VM writes no page again */
	OK(take(NULL, &r));
	assert_int_equal(r.number, 2);
	assert_int_equal(fake_count_snaps(&f), 2);
}

/* Holes stay holes: a take allocates no guest memory. */
static void test_memory_stays_small(void **state)
{
	(void)state;
	struct snap_result r;
	uint64_t before, after;
	OK(gmem_allocated(f.gmem, &before));
	OK(take(NULL, &r));
	OK(gmem_allocated(f.gmem, &after));
	assert_int_equal(before, after);
	assert_true(after < gmem_bytes(f.gmem) / 2);
}

static void nothing_listed(void)
{
	struct store_vm *vms = NULL;
	size_t n = 0;
	char path[400];
	assert_int_equal(fake_count_snaps(&f), 0);
	OK(store_vm_list(f.store, &vms, &n));
	free(vms);
	assert_int_equal(n, 0);
	snprintf(path, sizeof(path), "%s/families/09080700-0000-0000-0000-000000000000",
		 f.store_dir);
	assert_int_equal(access(path, F_OK), -1);
}

/* After a failed take: unparked in the exact reverse order of what was parked, then thawed. */
static void undone(void)
{
	const char *stack[FAKE_PARTS];
	size_t depth = 0;
	bool frozen = false;
	char log[sizeof(f.log)];
	memcpy(log, f.log, sizeof(log));
	int op = 0;
	for (char *w = strtok(log, " "); w != NULL; w = strtok(NULL, " ")) {
		bool failed = ++op == f.fail_at;
		if (strncmp(w, "park:", 5) == 0 && !failed) {
			stack[depth++] = w + 5;
		} else if (strncmp(w, "unpark:", 7) == 0) {
			assert_true(depth > 0);
			assert_string_equal(stack[--depth], w + 7);
			assert_true(frozen);
		} else if (strcmp(w, "freeze") == 0 && !failed) {
			frozen = true;
		} else if (strcmp(w, "thaw") == 0) {
			assert_int_equal(depth, 0);
			assert_true(frozen);
			frozen = false;
		}
	}
	assert_int_equal(depth, 0);
	assert_false(frozen);
}

static void test_every_op_fails(void **state)
{
	(void)state;
	struct snap_result r = { 0 };
	for (int n = 1; n <= 10; n++) {
		f.fail_at = n;
		REFUSED(take("t", &r), ERR_NOT_NOW, "snapshot of fake: ");
		assert_int_equal(f.ops >= n, 1);
		undone();
		nothing_listed();
		assert_int_equal(r.number, 0); /* untouched */
	}
	f.fail_at = 0;
	OK(take("t", &r));
	assert_string_equal(f.log, whole_take);
	assert_int_equal(r.number, 1);
}

static void test_encode_fails(void **state)
{
	(void)state;
	struct snap_result r;
	f.p[1].live.b = 1000;
	REFUSED(take(NULL, &r), ERR_CORRUPT, "part cpu/1: field b");
	assert_string_equal(f.log, whole_take);
	nothing_listed();
	f.p[1].live.b = 666;
	REFUSED(take(NULL, &r), ERR_CORRUPT, "666 is never right");
	f.p[1].live.b = 1;
	f.p[2].part.instance = 0;
	f.p[0].part.instance = 1; /* cpu/1 twice */
	REFUSED(take(NULL, &r), ERR_CORRUPT, "part cpu/1 is listed twice");
	nothing_listed();
}

struct stop {
	bool cancel;
	const char *step;
};

static void stop_at(void *arg, const char *step, uint64_t done, uint64_t total)
{
	struct stop *s = arg;
	(void)done;
	(void)total;
	if (strcmp(step, s->step) == 0) {
		s->cancel = true;
	}
}

static void test_cancel(void **state)
{
	(void)state;
	struct snap_result r;
	struct stop stop = { .step = "memory" };
	const struct snap_take_opts opts = {
		.progress = { stop_at, &stop },
		.cancel = &stop.cancel,
	};
	f.log[0] = '\0';
	REFUSED(snap_take(f.store, &f.vm, &opts, &r), ERR_CANCELLED, "cancelled");
	assert_string_equal(f.log, whole_take);
	nothing_listed();
	f.log[0] = '\0';
	REFUSED(snap_take(f.store, &f.vm, &opts, &r), ERR_CANCELLED, "cancelled");
	assert_string_equal(f.log, ""); /* set from the start: nothing is frozen */
	nothing_listed();
	/* at each operation on the VM */
	f.cancel_flag = &stop.cancel;
	for (f.cancel_at = 1; f.cancel_at <= 15; f.cancel_at++) {
		const struct snap_take_opts quiet = { .cancel = &stop.cancel };
		stop.cancel = false;
		f.log[0] = '\0';
		f.ops = 0;
		REFUSED(snap_take(f.store, &f.vm, &quiet, &r), ERR_CANCELLED, "cancelled");
		assert_string_equal(f.log, whole_take);
		nothing_listed();
	}
}

static void test_tags(void **state)
{
	(void)state;
	struct snap_result r;
	char big[NAME_BYTES_MAX + 2];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	REFUSED(take(big, &r), ERR_USAGE, "tag of 65 bytes");
	REFUSED(take("12", &r), ERR_USAGE, "tag 12");
	assert_string_equal(f.log, "");
	nothing_listed();
	OK(take("a", &r));
	REFUSED(take("a", &r), ERR_NOT_NOW, "tag a already (number 1)");
	assert_string_equal(f.log, ""); /* refused before anything is frozen */
	OK(take("b", &r));
	big[NAME_BYTES_MAX] = '\0';
	OK(take(big, &r));
	assert_int_equal(fake_count_snaps(&f), 3);
}

/* A name that another VM holds goes over at a good take, and stays where it was at a failed one. */
static void test_name_taken_over(void **state)
{
	(void)state;
	struct snap_result r;
	struct store_vm vm;
	bool found;
	struct store_vm other = { .uuid = { 77 },
				  .family = { 78 },
				  .name = "fake",
				  .holds_name = true,
				  .created_ns = 5 };
	OK(store_vm_put(f.store, &other));
	f.fail_at = 3;
	REFUSED(take(NULL, &r), ERR_NOT_NOW, "made to fail");
	OK(store_vm_by_name(f.store, "fake", &found, &vm));
	assert_true(found);
	assert_int_equal(vm.uuid[0], 77);
	f.fail_at = 0;
	OK(take(NULL, &r));
	OK(store_vm_by_name(f.store, "fake", &found, &vm));
	assert_true(found);
	assert_int_equal(vm.uuid[0], 1);
	OK(store_vm_by_uuid(f.store, other.uuid, &found, &vm));
	assert_true(found);
	assert_false(vm.holds_name);
}

static void test_wrong_family(void **state)
{
	(void)state;
	struct snap_result r;
	OK(take(NULL, &r));
	f.vm.family[0] = 1;
	REFUSED(take(NULL, &r), ERR_CORRUPT, "another family");
}

static void test_limits(void **state)
{
	(void)state;
	struct snap_result r;
	struct bytes config = f.vm.config;
	f.vm.config.len = 0;
	REFUSED(take(NULL, &r), ERR_LIMIT, "configuration of 0 bytes");
	f.vm.config.len = BLOB_BYTES_MAX + 1;
	REFUSED(take(NULL, &r), ERR_LIMIT, "configuration of");
	f.vm.config = config;
	f.vm.name = "";
	REFUSED(take(NULL, &r), ERR_USAGE, "VM name of 0 bytes");
	f.vm.name = "fake";
	f.vm.nfiles = STORE_MAPS_MAX;
	REFUSED(take(NULL, &r), ERR_LIMIT, "files to keep");
	assert_string_equal(f.log, "");
	f.vm.nfiles = 0;
	nothing_listed();
}

/* A file system that takes no more: found by the writer while the guest stands still or after. */
static void test_no_room(void **state)
{
	(void)state;
	struct snap_result r;
	struct rlimit all, small;
	uint64_t x = 88172645463325252ull; /* xorshift64: pages that do not compress */
	uint64_t page[PAGE_BYTES / 8];
	for (uint64_t gfn = 0; gfn < 3000; gfn++) {
		for (size_t i = 0; i < ARRAY_LEN(page); i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			page[i] = x;
		}
		OK(gmem_write(f.gmem, GPA(gfn * PAGE_BYTES), page, sizeof(page)));
	}
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
	small = all;
	small.rlim_cur = 3 * MIB;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	struct err *e = take(NULL, &r);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
	assert_non_null(e);
	err_free(e);
	assert_string_equal(f.log, whole_take);
	nothing_listed();
	OK(take(NULL, &r));
	assert_int_equal(r.number, 1);
	assert_true(r.pages_stored >= 3000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_take, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_stays_small, setup, teardown),
		cmocka_unit_test_setup_teardown(test_every_op_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_encode_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tags, setup, teardown),
		cmocka_unit_test_setup_teardown(test_name_taken_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_family, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_room, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
