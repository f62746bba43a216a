/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/s2idle.c: what the guest says, who is to wake it, the saved state. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/s2idle.h"
#include "tests/lib/fake_host.h"

struct rig {
	struct fake_host f;
	struct device *dev;
};

static void rig_init(struct rig *r)
{
	fake_host_init(&r->f);
	ok_(s2idle_new(&r->f.host, &r->dev));
}

static void say(struct rig *r, uint64_t v)
{
	r->dev->ops->write(r->dev, 0, 0, 1, v);
}

static uint64_t get(struct rig *r)
{
	uint64_t v = UINT64_MAX;
	r->dev->ops->read(r->dev, 0, 0, 1, &v);
	return v;
}

static void sleeps_and_wakes(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	const unsigned *events = &r.f.events[DEV_EVENT_S2IDLE];
	assert_int_equal(get(&r), 0);
	assert_false(s2idle_asleep(r.dev));
	assert_false(s2idle_wake(r.dev)); /* it is awake */
	say(&r, 0);
	assert_int_equal(*events, 0);
	say(&r, 1);
	say(&r, 0xff);
	assert_int_equal(*events, 1); /* changes only */
	assert_int_equal(get(&r), 1);
	assert_true(s2idle_asleep(r.dev));
	assert_true(s2idle_wake(r.dev));
	assert_false(s2idle_wake(r.dev)); /* once per sleep: the next press would shut it down */
	assert_true(s2idle_asleep(r.dev));
	say(&r, 0xfe);
	assert_int_equal(*events, 2);
	assert_false(s2idle_asleep(r.dev));
	say(&r, 1);
	assert_true(s2idle_wake(r.dev));
	r.dev->ops->free(r.dev);
}

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&s2idle_desc));
}

/* A guest that was saved in its sleep is woken where it is restored. */
static void carried_over(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	say(&a, 1);
	assert_true(s2idle_wake(a.dev));
	dev_carry_over(a.dev, b.dev);
	assert_true(s2idle_asleep(b.dev));
	assert_int_equal(b.f.events[DEV_EVENT_S2IDLE], 0);
	assert_true(s2idle_wake(b.dev));
	assert_false(s2idle_wake(b.dev));
	a.dev->ops->free(a.dev);
	b.dev->ops->free(b.dev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sleeps_and_wakes),
		cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
