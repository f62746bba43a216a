/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/vmgenid.c: a new id at each load, the event after it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/vmgenid.h"
#include "tests/lib/fake_host.h"

enum { AT = 0xef000 };

static void id_of(struct gmem *g, uint8_t id[16])
{
	ok_(gmem_read(g, GPA(AT), id, 16));
}

static void test_load(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	ok_(gmem_new(GMEM_MIN_BYTES, &g));
	struct fake_host f;
	fake_host_init(&f);
	f.host.gmem = g;
	struct device *dev = NULL;
	ok_(vmgenid_new(&f.host, GPA(AT), &dev));
	const uint8_t zero[16] = { 0 };
	uint8_t first[16], second[16], third[16];
	ok_(vmgenid_renew(dev));
	id_of(g, first);
	assert_memory_not_equal(first, zero, 16);
	assert_int_equal(f.timer_at, UINT64_MAX); /* no event at boot */
	struct snap_part *p = &dev->part;
	ok_(p->ops->fetch(p->self));
	assert_memory_equal(p->state, first, 16);
	ok_(p->ops->commit(p->self));
	id_of(g, second);
	assert_memory_not_equal(first, second, 16);
	assert_int_equal(f.events[DEV_EVENT_GENERATION], 0);
	fake_advance(&f, 1);
	assert_int_equal(f.events[DEV_EVENT_GENERATION], 1);
	ok_(p->ops->commit(p->self));
	id_of(g, third);
	assert_memory_not_equal(third, second, 16);
	ok_(desc_check_coverage(&vmgenid_desc));
	dev->ops->free(dev);
	gmem_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_load) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
