/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/acpi_pm.c: events, sleep, timer, reset, the saved state, a hostile guest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/acpi_pm.h"
#include "tests/lib/fake_host.h"

#define NS 1000000000ull

enum { EVT, CNT, TMR, RESET, GPE, GSI = 9 };
enum { PWRBTN = 0x100, SLPBTN = 0x200, RTC = 0x400, PCIEXP_WAKE = 0x4000 };

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
	acpi_pm_powerbtn(r.dev);
	assert_false(r.f.level[GSI]); /* not enabled */
	assert_int_equal(get(&r, EVT, 0, 2), PWRBTN);
	put(&r, EVT, 0, 2, PWRBTN); /* write one to clear */
	assert_int_equal(get(&r, EVT, 0, 2), 0);
	put(&r, EVT, 2, 2, 0xffff);
	assert_int_equal(get(&r, EVT, 2, 2), 0x4721); /* only what there is */
	put(&r, EVT, 2, 2, PWRBTN);
	acpi_pm_powerbtn(r.dev);
	assert_true(r.f.timer_at == 0); /* the main loop's next turn, if the gate is open */
	fake_advance(&r.f, 0);
	assert_true(r.f.level[GSI]);
	put(&r, EVT, 0, 2, (uint16_t)~PWRBTN); /* zero leaves it */
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, EVT, 0, 4), (uint32_t)PWRBTN << 16 | PWRBTN);
	put(&r, EVT, 1, 1, 0x01); /* by the byte */
	assert_false(r.f.level[GSI]);
	rig_done(&r);
}

static void fixed_events(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	put(&r, EVT, 2, 2, SLPBTN | RTC);
	acpi_pm_sleepbtn(r.dev);
	fake_advance(&r.f, 0);
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, EVT, 0, 2), SLPBTN);
	put(&r, EVT, 0, 2, SLPBTN);
	assert_false(r.f.level[GSI]);
	ok_(acpi_pm_rtc(r.dev, -1));
	fake_advance(&r.f, 0);
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, EVT, 0, 2), RTC);
	put(&r, EVT, 0, 2, RTC);
	/* PCI Express wake raises no SCI whatever its bit among the enables says: it disables. */
	acpi_pm_pme(r.dev);
	assert_int_equal(get(&r, EVT, 0, 2), PCIEXP_WAKE);
	put(&r, EVT, 2, 2, 0x4721);
	assert_false(r.f.level[GSI]);
	assert_int_equal(r.f.rises[GSI], 2);
	rig_done(&r);
}

static void all_gpes(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	for (unsigned gpe = 0; gpe < 256; gpe++) {
		uint8_t bit = (uint8_t)(1u << gpe % 8);
		ok_(acpi_pm_gpe(r.dev, gpe, -1));
		fake_advance(&r.f, 0);
		assert_false(r.f.level[GSI]);
		for (unsigned i = 0; i < 32; i++) {
			assert_int_equal(get(&r, GPE, i, 1), i == gpe / 8 ? bit : 0);
		}
		dev_out(r.dev, GPE, 32 + gpe / 8, bit);
		assert_int_equal(dev_in(r.dev, GPE, 32 + gpe / 8), bit);
		assert_true(r.f.level[GSI]);
		dev_out(r.dev, GPE, gpe / 8, (uint8_t)~bit);
		assert_true(r.f.level[GSI]);
		dev_out(r.dev, GPE, gpe / 8, bit);
		assert_false(r.f.level[GSI]);
		dev_out(r.dev, GPE, 32 + gpe / 8, 0);
	}
	assert_int_equal(r.f.rises[GSI], 256);
	/* Wide accesses go across the bytes, also from status to enable. */
	put(&r, GPE, 32, 4, 0xa1b2c3d4);
	assert_true(get(&r, GPE, 32, 4) == 0xa1b2c3d4);
	ok_(acpi_pm_gpe(r.dev, 255, -1));
	assert_int_equal(get(&r, GPE, 30, 4), 0xc3d48000);
	rig_done(&r);
}

static void gpe_out_of_range(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	static const unsigned bad[] = { 256, 300, UINT32_MAX };
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		int fd = eventfd(0, EFD_CLOEXEC);
		struct err *e = acpi_pm_gpe(r.dev, bad[i], fd);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_USAGE);
		err_free(e);
		assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over, and closed */
	}
	rig_done(&r);
}

static void fire(int fd)
{
	uint64_t one = 1;
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* Set again whenever the guest clears it, until the clear event fires. */
static void held_until_cleared(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int mine[2];
	for (unsigned i = 0; i < 2; i++) {
		mine[i] = eventfd(0, EFD_CLOEXEC);
		assert_true(mine[i] >= 0);
	}
	dev_out(r.dev, GPE, 32 + 2, 0x10);
	put(&r, EVT, 2, 2, RTC);
	ok_(acpi_pm_gpe(r.dev, 20, dup(mine[0])));
	ok_(acpi_pm_rtc(r.dev, dup(mine[1])));
	fake_advance(&r.f, 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(r.f.level[GSI]);
		dev_out(r.dev, GPE, 2, 0xff);
		put(&r, EVT, 0, 2, 0xffff);
		assert_int_equal(dev_in(r.dev, GPE, 2), 0x10);
		assert_int_equal(get(&r, EVT, 0, 2), RTC);
	}
	fire(mine[0]);
	assert_int_equal(dev_in(r.dev, GPE, 2), 0x10); /* what is latched stays */
	dev_out(r.dev, GPE, 2, 0x10);
	assert_int_equal(dev_in(r.dev, GPE, 2), 0);
	assert_true(r.f.level[GSI]); /* the other one */
	fire(mine[1]);
	put(&r, EVT, 0, 2, RTC);
	assert_false(r.f.level[GSI]);
	assert_int_equal(r.f.rises[GSI], 1);
	/* Fired before the guest ever looked: told once. */
	ok_(acpi_pm_gpe(r.dev, 20, dup(mine[0])));
	fake_advance(&r.f, 0);
	assert_true(r.f.level[GSI]);
	dev_out(r.dev, GPE, 2, 0x10);
	assert_false(r.f.level[GSI]);
	close(mine[0]);
	close(mine[1]);
	rig_done(&r);
}

static void clear_events_are_bounded(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int fd = eventfd(0, EFD_CLOEXEC);
	for (unsigned round = 0; round < 3; round++) { /* a newer one replaces its elder */
		for (unsigned gpe = 0; gpe < ACPI_PM_CLEARS_MAX; gpe++) {
			ok_(acpi_pm_gpe(r.dev, gpe, dup(fd)));
		}
	}
	struct err *e = acpi_pm_gpe(r.dev, 100, dup(fd));
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_LIMIT);
	err_free(e);
	ok_(acpi_pm_gpe(r.dev, 100, -1));
	fire(fd);
	ok_(acpi_pm_gpe(r.dev, 101, dup(fd))); /* the fired ones made room */
	close(fd);
	rig_done(&r);
}

/* Noted while nobody may touch the device, in the state saved from then on, once. */
static void pressed_while_parked(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	put(&a, EVT, 2, 2, PWRBTN);
	dev_out(a.dev, GPE, 32, 1);
	const struct snap_part_ops *ops = a.dev->part.ops;
	ok_(ops->park(a.dev->part.self));
	acpi_pm_powerbtn(a.dev);
	ok_(acpi_pm_gpe(a.dev, 0, -1));
	a.dev->ops->on_timer(a.dev);
	assert_false(a.f.level[GSI]);
	dev_carry_over(a.dev, b.dev);
	assert_false(b.f.level[GSI]);
	fake_advance(&b.f, 0);
	assert_true(b.f.level[GSI]); /* the irqchip's record has it low: it is raised here */
	assert_int_equal(get(&b, EVT, 0, 2), PWRBTN);
	assert_int_equal(dev_in(b.dev, GPE, 0), 1);
	ops->unpark(a.dev->part.self);
	assert_true(a.f.level[GSI]);
	put(&a, EVT, 0, 2, PWRBTN);
	dev_out(a.dev, GPE, 0, 1);
	assert_false(a.f.level[GSI]);
	fake_advance(&a.f, NS);
	assert_int_equal(a.f.rises[GSI], 1);
	rig_done(&a);
	rig_done(&b);
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
	acpi_pm_powerbtn(a.dev);
	dev_out(a.dev, GPE, 32 + 31, 0x80);
	ok_(acpi_pm_gpe(a.dev, 255, -1));
	fake_advance(&a.f, 0);
	dev_carry_over(a.dev, b.dev);
	b.f.vm_ns = a.f.vm_ns;
	fake_advance(&b.f, 0);
	assert_true(b.f.level[GSI]);
	assert_int_equal(b.f.rises[GSI], 0); /* the irqchip has the line already */
	assert_int_equal(get(&b, CNT, 0, 2), 3 << 10 | 1);
	assert_int_equal(get(&b, TMR, 0, 4), get(&a, TMR, 0, 4));
	put(&b, EVT, 0, 2, PWRBTN);
	assert_true(b.f.level[GSI]);
	dev_out(b.dev, GPE, 31, 0x80);
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
	static const unsigned sizes[] = { 4, 2, 4, 1, 64 };
	for (unsigned i = 0; i < 100000; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		uint64_t v = s >> 16;
		unsigned range = (unsigned)(s % 5);
		unsigned off = (unsigned)((s >> 2) % sizes[range]);
		unsigned len = 1; /* the bus gives pieces that fit the range */
		while (len < 8 && len * 2 <= sizes[range] - off && ((s >> 8) & len) != 0) {
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
				acpi_pm_powerbtn(r.dev);
				ok_(acpi_pm_gpe(r.dev, (unsigned)(v >> 8) % 256, -1));
			}
			break;
		default:
			r.dev->ops->write(r.dev, range, off, len, v);
			break;
		}
		fake_advance(&r.f, 0);
		ok_(r.dev->part.ops->fetch(r.dev->part.self));
		const struct acpi_pm_state *st = r.dev->part.state;
		ok_(acpi_pm_desc.check(st));
		unsigned want = st->pm1_sts & st->pm1_en & 0x0721;
		for (unsigned k = 0; k < 32; k++) {
			want |= st->gpe_sts[k] & st->gpe_en[k];
		}
		assert_int_equal(r.f.level[GSI], want != 0);
	}
	rig_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_button),
		cmocka_unit_test(fixed_events),
		cmocka_unit_test(all_gpes),
		cmocka_unit_test(gpe_out_of_range),
		cmocka_unit_test(held_until_cleared),
		cmocka_unit_test(clear_events_are_bounded),
		cmocka_unit_test(pressed_while_parked),
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
