/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/acpi_pm.c: events, sleep, timer, reset, the saved state, a hostile guest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "devices/acpi_pm.h"
#include "tests/lib/fake_host.h"

#define NS 1000000000ull

enum { EVT, CNT, TMR, RESET, GSI = 9, PWRBTN = 0x100 };

struct rig {
	struct fake_host f;
	struct device *dev;
};

static void rig_init(struct rig *r)
{
	fake_host_init(&r->f);
	ok_(acpi_pm_new(&r->f.host, &r->dev));
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
}

static uint32_t get(struct rig *r, unsigned range, unsigned off, unsigned len)
{
	uint64_t v = 0;
	r->dev->ops->read(r->dev, range, off, len, &v);
	return (uint32_t)(v & (len == 4 ? UINT32_MAX : (1u << 8 * len) - 1));
}

static void put(struct rig *r, unsigned range, unsigned off, unsigned len, uint32_t v)
{
	r->dev->ops->write(r->dev, range, off, len, v);
}

static void power_button(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	acpi_pm_power_button(r.dev);
	assert_false(r.f.level[GSI]); /* not enabled */
	assert_int_equal(get(&r, EVT, 0, 2), PWRBTN);
	put(&r, EVT, 0, 2, PWRBTN); /* write one to clear */
	assert_int_equal(get(&r, EVT, 0, 2), 0);
	put(&r, EVT, 2, 2, 0xffff);
	assert_int_equal(get(&r, EVT, 2, 2), 0x0521); /* only what there is */
	put(&r, EVT, 2, 2, PWRBTN);
	acpi_pm_power_button(r.dev);
	assert_true(r.f.level[GSI]);
	put(&r, EVT, 0, 2, (uint16_t)~PWRBTN); /* zero leaves it */
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, EVT, 0, 4), (uint32_t)PWRBTN << 16 | PWRBTN);
	put(&r, EVT, 1, 1, 0x01); /* by the byte */
	assert_false(r.f.level[GSI]);
	rig_done(&r);
}

static void soft_off(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(get(&r, CNT, 0, 2), 1); /* SCI_EN */
	put(&r, CNT, 0, 2, 0);
	assert_int_equal(get(&r, CNT, 0, 2), 1);
	for (unsigned type = 0; type < 8; type++) {
		unsigned before = r.f.requests[DEV_POWEROFF];
		put(&r, CNT, 0, 2, type << 10);
		assert_int_equal(r.f.requests[DEV_POWEROFF], before);
		assert_int_equal(get(&r, CNT, 0, 2), type << 10 | 1);
		put(&r, CNT, 0, 2, type << 10 | 1 << 13);
		assert_int_equal(r.f.requests[DEV_POWEROFF] - before, type == 5);
		assert_int_equal(get(&r, CNT, 0, 2) & 1 << 13, 0);
	}
	rig_done(&r);
}

static void reset_register(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	put(&r, RESET, 0, 1, 0x02);
	assert_int_equal(r.f.requests[DEV_RESET], 0);
	assert_int_equal(get(&r, RESET, 0, 1), 0x02);
	put(&r, RESET, 0, 1, 0x06);
	assert_int_equal(r.f.requests[DEV_RESET], 1);
	assert_int_equal(get(&r, RESET, 0, 1), 0x02);
	rig_done(&r);
}

static void timer_counts(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(get(&r, TMR, 0, 4), 0);
	fake_advance(&r.f, NS);
	assert_int_equal(get(&r, TMR, 0, 4), 3579545);
	put(&r, TMR, 0, 4, 0);
	assert_int_equal(get(&r, TMR, 0, 4), 3579545);
	fake_advance(&r.f, 1000000 * NS); /* wraps at 32 bits; no overflow on the way */
	assert_int_equal(get(&r, TMR, 0, 4), (uint32_t)(3579545ull * 1000001));
	uint32_t all = get(&r, TMR, 0, 4);
	assert_int_equal(get(&r, TMR, 0, 2), all & 0xffff);
	assert_int_equal(get(&r, TMR, 2, 2), all >> 16);
	rig_done(&r);
}

static void timer_carry_interrupts(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	uint64_t half = (1ull << 31) * NS / 3579545 + 1; /* the top bit changes: 600 s */
	put(&r, EVT, 2, 2, 0x01);
	fake_advance(&r.f, half - 2);
	assert_false(r.f.level[GSI]);
	fake_advance(&r.f, 2);
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, EVT, 0, 2), 1);
	put(&r, EVT, 0, 2, 1);
	assert_false(r.f.level[GSI]);
	fake_advance(&r.f, half);
	assert_int_equal(r.f.rises[GSI], 2);
	/* Without the enable bit: status only, and no host timer. */
	put(&r, EVT, 2, 2, 0);
	put(&r, EVT, 0, 2, 1);
	assert_true(r.f.timer_at == UINT64_MAX);
	fake_advance(&r.f, half);
	assert_int_equal(get(&r, EVT, 0, 2), 1);
	rig_done(&r);
}

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&acpi_pm_desc));
}

static void carried_over(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	put(&a, CNT, 0, 2, 3 << 10);
	put(&a, EVT, 2, 2, PWRBTN | 1);
	fake_advance(&a.f, 599 * NS);
	acpi_pm_power_button(a.dev);
	dev_carry_over(a.dev, b.dev);
	b.f.vm_ns = a.f.vm_ns;
	fake_advance(&b.f, 0);
	assert_true(b.f.level[GSI]);
	assert_int_equal(b.f.rises[GSI], 0); /* the irqchip has the line already */
	assert_int_equal(get(&b, CNT, 0, 2), 3 << 10 | 1);
	assert_int_equal(get(&b, TMR, 0, 4), get(&a, TMR, 0, 4));
	put(&b, EVT, 0, 2, PWRBTN);
	assert_false(b.f.level[GSI]);
	fake_advance(&b.f, 2 * NS); /* the carry comes where it was due */
	assert_true(b.f.level[GSI]);
	rig_done(&a);
	rig_done(&b);
}

static void broken_states_are_refused(void **state)
{
	(void)state;
	const struct acpi_pm_state bad[] = {
		{ .pm1_sts = 0x0002 },
		{ .pm1_en = 0x8000 },
		{ .pm1_cnt = 0x2000 },
		{ .reset = 0x04 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 16);
		struct err *e = desc_encode(&acpi_pm_desc, 0, &bad[i], &w);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		err_free(e);
	}
}

static void random_walk(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	uint64_t s = 0x616370695full;
	static const unsigned sizes[] = { 4, 2, 4, 1 };
	for (unsigned i = 0; i < 100000; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		uint64_t v = s >> 16;
		unsigned range = s & 3;
		unsigned off = (unsigned)((s >> 2) % sizes[range]);
		unsigned len = 1; /* the bus gives pieces that fit the range */
		while (len * 2 <= sizes[range] - off && ((s >> 8) & len) != 0) {
			len *= 2;
		}
		switch ((s >> 12) & 3) {
		case 0:
			r.dev->ops->read(r.dev, range, off, len, &v);
			break;
		case 1:
			fake_advance(&r.f, v % (1000 * NS));
			break;
		case 2:
			if (v % 16 == 0) {
				acpi_pm_power_button(r.dev);
			}
			break;
		default:
			r.dev->ops->write(r.dev, range, off, len, v);
			break;
		}
		ok_(r.dev->part.ops->fetch(r.dev->part.self));
		const struct acpi_pm_state *st = r.dev->part.state;
		ok_(acpi_pm_desc.check(st));
		assert_int_equal(r.f.level[GSI], (st->pm1_sts & st->pm1_en) != 0);
	}
	rig_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_button),
		cmocka_unit_test(soft_off),
		cmocka_unit_test(reset_register),
		cmocka_unit_test(timer_counts),
		cmocka_unit_test(timer_carry_interrupts),
		cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over),
		cmocka_unit_test(broken_states_are_refused),
		cmocka_unit_test(random_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
