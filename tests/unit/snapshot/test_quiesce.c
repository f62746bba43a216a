/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of standing still: order of operations, and the way back from each failure. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/quiesce.h"
#include "tests/lib/snap_fake.h"

/* Everything a take does to the VM up to the reading of its memory, in order. */
static const char *const forward[] = {
	"freeze", "park:serial0",  "park:cpu0",  "park:cpu1",  "park:clock0",
	"flush",  "fetch:serial0", "fetch:cpu0", "fetch:cpu1", "fetch:clock0",
};
/* What undoes forward[1..4] and forward[0]. */
static const char *const back[] = {
	"unpark:clock0", "unpark:cpu1", "unpark:cpu0", "unpark:serial0", "thaw",
};

/* The log after `n` forward steps, of which the last one failed if `failed`. */
static void expect(char *out, size_t size, size_t n, bool failed)
{
	out[0] = '\0';
	size_t done = failed ? n - 1 : n;
	size_t parked = done == 0 ? 0 : MIN(done - 1, (size_t)FAKE_PARTS);
	for (size_t i = 0; i < n; i++) {
		snprintf(out + strlen(out), size - strlen(out), "%s%s", i > 0 ? " " : "",
			 forward[i]);
	}
	for (size_t i = FAKE_PARTS - parked; i < FAKE_PARTS; i++) {
		snprintf(out + strlen(out), size - strlen(out), " %s", back[i]);
	}
	if (done > 0) {
		snprintf(out + strlen(out), size - strlen(out), " %s", back[FAKE_PARTS]);
	}
}

static void test_order(void **state)
{
	(void)state;
	struct fake_vm f;
	struct quiesce q;
	char want[1024];
	fake_init(&f, GMEM_MIN_BYTES);
	OK(quiesce_init(&q, &f.vm));
	assert_string_equal(f.log, "");
	OK(quiesce_begin(&q));
	assert_true(q.frozen);
	assert_int_equal(q.nparked, FAKE_PARTS);
	assert_true(q.frozen_at_ns > 0);
	assert_memory_equal(&f.p[1].state, &f.p[1].live, sizeof(f.p[1].live));
	quiesce_end(&q);
	quiesce_end(&q); /* does nothing */
	quiesce_done(&q);
	quiesce_done(&q);
	expect(want, sizeof(want), ARRAY_LEN(forward), false);
	assert_string_equal(f.log, want);
	fake_done(&f);
}

static void test_done_alone_undoes(void **state)
{
	(void)state;
	struct fake_vm f;
	struct quiesce q;
	char want[1024];
	fake_init(&f, GMEM_MIN_BYTES);
	OK(quiesce_init(&q, &f.vm));
	OK(quiesce_begin(&q));
	quiesce_done(&q);
	expect(want, sizeof(want), ARRAY_LEN(forward), false);
	assert_string_equal(f.log, want);
	fake_done(&f);
}

static void test_each_failure(void **state)
{
	(void)state;
	for (size_t n = 1; n <= ARRAY_LEN(forward); n++) {
		struct fake_vm f;
		struct quiesce q;
		char want[1024];
		fake_init(&f, GMEM_MIN_BYTES);
		f.fail_at = (int)n;
		OK(quiesce_init(&q, &f.vm));
		REFUSED(quiesce_begin(&q), ERR_NOT_NOW, "made to fail");
		assert_false(q.frozen);
		assert_int_equal(q.nparked, 0);
		expect(want, sizeof(want), n, true);
		assert_string_equal(f.log, want);
		quiesce_done(&q);
		assert_string_equal(f.log, want);
		fake_done(&f);
	}
}

static void test_optional_ops(void **state)
{
	(void)state;
	struct fake_vm f;
	struct quiesce q;
	struct snap_part_ops bare = { .fetch = fake_fetch, .commit = fake_commit };
	struct snap_vm_ops no_flush = fake_vm_ops;
	fake_init(&f, GMEM_MIN_BYTES);
	no_flush.flush_irqs = NULL;
	f.vm.ops = &no_flush;
	f.p[0].part.ops = &bare;
	OK(quiesce_init(&q, &f.vm));
	OK(quiesce_begin(&q));
	quiesce_done(&q);
	assert_string_equal(f.log, "freeze park:serial0 park:cpu1 park:clock0 fetch:serial0 "
				   "fetch:cpu0 fetch:cpu1 fetch:clock0 unpark:clock0 unpark:cpu1 "
				   "unpark:serial0 thaw");
	fake_done(&f);
}

static void test_limits(void **state)
{
	(void)state;
	struct fake_vm f;
	struct quiesce q;
	struct snap_part **order = NULL;
	fake_init(&f, GMEM_MIN_BYTES);
	f.vm.nparts = 0;
	REFUSED(quiesce_init(&q, &f.vm), ERR_LIMIT, "0 parts");
	f.vm.nparts = PARTS_MAX + 1;
	REFUSED(quiesce_init(&q, &f.vm), ERR_LIMIT, "4097 parts");
	OK(quiesce_sort(f.list, FAKE_PARTS, true, &order));
	/* serial has the irqchip's commit rank here; the two cpus keep their order */
	assert_ptr_equal(order[0], f.list[3]);
	assert_ptr_equal(order[1], f.list[0]);
	assert_ptr_equal(order[2], f.list[1]);
	assert_ptr_equal(order[3], f.list[2]);
	free(order);
	fake_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),        cmocka_unit_test(test_done_alone_undoes),
		cmocka_unit_test(test_each_failure), cmocka_unit_test(test_optional_ops),
		cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
