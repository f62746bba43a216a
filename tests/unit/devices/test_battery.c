/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/battery.c: each property, its limits and its interrupt, the saved state. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "devices/battery.h"
#include "tests/lib/fake_host.h"

enum { GSI = 5 };
enum {
	INT_STATUS = 0,
	INT_ENABLE = 4,
	AC = 8,
	STATUS = 12,
	HEALTH = 16,
	PRESENT = 20,
	CAPACITY = 24,
	COUNTER = 0x24,
	FULL = 0x38
};

struct rig {
	struct fake_host f;
	struct device *dev;
};

static void rig_init(struct rig *r)
{
	fake_host_init(&r->f);
	ok_(battery_new(&r->f.host, &r->dev));
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
}

static uint32_t get(struct rig *r, unsigned reg)
{
	uint64_t v = UINT64_MAX;
	r->dev->ops->read(r->dev, 0, reg, 4, &v);
	return (uint32_t)v;
}

static void put(struct rig *r, unsigned reg, uint32_t v)
{
	r->dev->ops->write(r->dev, 0, reg, 4, v);
}

static void full_and_plugged_in(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(get(&r, AC), 1);
	assert_int_equal(get(&r, STATUS), 4);
	assert_int_equal(get(&r, HEALTH), 1);
	assert_int_equal(get(&r, PRESENT), 1);
	assert_int_equal(get(&r, CAPACITY), 100);
	assert_int_equal(get(&r, COUNTER), get(&r, FULL));
	assert_int_equal(get(&r, INT_STATUS), 0);
	assert_int_equal(get(&r, 0x3c), 0); /* a hole */
	assert_int_equal(get(&r, 0xffc), 0);
	rig_done(&r);
}

static void each_property(void **state)
{
	(void)state;
	static const struct {
		enum battery_property what;
		unsigned reg;
		uint32_t to, shown;
		unsigned bit;
	} rows[] = {
		{ BATTERY_STATUS, STATUS, 0, 0, 1 },
		{ BATTERY_STATUS, STATUS, 3, 3, 1 },
		{ BATTERY_HEALTH, HEALTH, 9, 9, 1 },
		{ BATTERY_HEALTH, HEALTH, 0, 0, 1 },
		{ BATTERY_PRESENT, PRESENT, 0, 0, 1 },
		{ BATTERY_PRESENT, PRESENT, 77, 1, 1 },
		{ BATTERY_CAPACITY, CAPACITY, 0, 0, 1 },
		{ BATTERY_CAPACITY, CAPACITY, 55, 55, 1 },
		{ BATTERY_CAPACITY, CAPACITY, 101, 100, 1 },
		{ BATTERY_CAPACITY, CAPACITY, 7, 7, 1 },
		{ BATTERY_CAPACITY, CAPACITY, UINT32_MAX, 100, 1 },
		{ BATTERY_AC_ONLINE, AC, 0, 0, 2 },
		{ BATTERY_AC_ONLINE, AC, 2, 1, 2 },
	};
	struct rig r;
	rig_init(&r);
	put(&r, INT_ENABLE, UINT32_MAX);
	assert_int_equal(get(&r, INT_ENABLE), 3);
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		ok_(battery_set(r.dev, rows[i].what, rows[i].to));
		assert_false(r.f.level[GSI]); /* on the main loop, not here */
		fake_advance(&r.f, 0);
		assert_true(r.f.level[GSI]);
		assert_int_equal(get(&r, rows[i].reg), rows[i].shown);
		assert_int_equal(get(&r, INT_STATUS), rows[i].bit);
		assert_false(r.f.level[GSI]);
		/* The same again is no change. */
		ok_(battery_set(r.dev, rows[i].what, rows[i].to));
		fake_advance(&r.f, 0);
		assert_false(r.f.level[GSI]);
	}
	rig_done(&r);
}

static void bad_values_change_nothing(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	put(&r, INT_ENABLE, 3);
	static const struct {
		enum battery_property what;
		uint32_t to;
	} bad[] = { { BATTERY_STATUS, 5 }, { BATTERY_HEALTH, 10 }, { BATTERY_STATUS, UINT32_MAX } };
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		struct err *e = battery_set(r.dev, bad[i].what, bad[i].to);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_USAGE);
		err_free(e);
	}
	assert_int_equal(get(&r, STATUS), 4);
	assert_int_equal(get(&r, HEALTH), 1);
	assert_int_equal(get(&r, INT_STATUS), 0);
	rig_done(&r);
}

static void fake_values(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	put(&r, INT_ENABLE, 3);
	ok_(battery_set(r.dev, BATTERY_FAKE_MAX, 30));
	fake_advance(&r.f, 0);
	assert_int_equal(get(&r, INT_STATUS), 3);
	assert_int_equal(get(&r, AC), 0);
	assert_int_equal(get(&r, STATUS), 2);
	assert_int_equal(get(&r, CAPACITY), 30);
	assert_int_equal(get(&r, COUNTER), get(&r, FULL) / 100 * 30);
	ok_(battery_set(r.dev, BATTERY_CAPACITY, 20)); /* what is real goes on behind it */
	assert_int_equal(get(&r, CAPACITY), 20);
	ok_(battery_set(r.dev, BATTERY_CAPACITY, 80));
	ok_(battery_set(r.dev, BATTERY_FAKE_MAX, 200));
	assert_int_equal(get(&r, CAPACITY), 80);
	battery_cancel_fake(r.dev);
	assert_int_equal(get(&r, AC), 1);
	assert_int_equal(get(&r, STATUS), 4);
	assert_int_equal(get(&r, INT_STATUS), 3);
	battery_cancel_fake(r.dev); /* without one: nothing */
	assert_int_equal(get(&r, INT_STATUS), 0);
	rig_done(&r);
}

/* Changes wait until they are enabled; other widths and other registers do nothing. */
static void enabling_and_odd_accesses(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	ok_(battery_set(r.dev, BATTERY_AC_ONLINE, 0));
	fake_advance(&r.f, 0);
	assert_false(r.f.level[GSI]);
	put(&r, INT_ENABLE, 1);
	assert_false(r.f.level[GSI]); /* another kind */
	put(&r, INT_ENABLE, 2);
	assert_true(r.f.level[GSI]);
	put(&r, INT_ENABLE, 0);
	assert_false(r.f.level[GSI]);
	put(&r, CAPACITY, 3);
	assert_int_equal(get(&r, CAPACITY), 100);
	static const unsigned lens[] = { 1, 2, 8 };
	for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
		uint64_t v = 99;
		r.dev->ops->read(r.dev, 0, INT_STATUS, lens[i], &v);
		assert_int_equal(v, 0);
		r.dev->ops->write(r.dev, 0, INT_ENABLE, lens[i], 3);
		assert_int_equal(get(&r, INT_ENABLE), 0);
	}
	assert_int_equal(get(&r, INT_STATUS), 2); /* none of them read it away */
	rig_done(&r);
}

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&battery_desc));
}

/* A value set while nothing runs is in the state, and its interrupt comes once, afterwards. */
static void carried_over(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	put(&a, INT_ENABLE, 3);
	ok_(a.dev->part.ops->park(a.dev->part.self));
	ok_(battery_set(a.dev, BATTERY_CAPACITY, 42));
	a.dev->ops->on_timer(a.dev);
	assert_false(a.f.level[GSI]);
	dev_carry_over(a.dev, b.dev);
	assert_false(b.f.level[GSI]);
	assert_int_equal(get(&b, CAPACITY), 42);
	fake_advance(&b.f, 0);
	assert_true(b.f.level[GSI]);
	a.dev->part.ops->unpark(a.dev->part.self);
	assert_true(a.f.level[GSI]);
	/* And with the line up already. */
	struct rig c;
	rig_init(&c);
	dev_carry_over(a.dev, c.dev);
	fake_advance(&c.f, 0);
	assert_int_equal(c.f.rises[GSI], 0);
	assert_int_equal(get(&c, INT_STATUS), 1);
	assert_false(c.f.level[GSI]);
	rig_done(&a);
	rig_done(&b);
	rig_done(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_and_plugged_in),
		cmocka_unit_test(each_property),
		cmocka_unit_test(bad_values_change_nothing),
		cmocka_unit_test(fake_values),
		cmocka_unit_test(enabling_and_odd_accesses),
		cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
