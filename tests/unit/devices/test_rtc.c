/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/rtc.c: calendar, encodings, interrupts, the saved state, a hostile guest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <time.h>

#include "devices/rtc.h"
#include "tests/lib/fake_host.h"

#define NS 1000000000ull

enum { GSI = 8, A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BIN = 4, H24 = 2, UIP = 0x80 };

struct rig {
	struct fake_host f;
	struct device *dev;
};

/* The guest's wall clock shows `seconds` since 1970. */
static void rig_init(struct rig *r, uint64_t seconds)
{
	fake_host_init(&r->f);
	r->f.vm_ns = 5 * NS;
	r->f.wall_offset_ns = seconds * NS - r->f.vm_ns;
	ok_(rtc_new(&r->f.host, &r->dev));
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
}

static uint8_t get(struct rig *r, unsigned index)
{
	dev_out(r->dev, 0, 0, index);
	return dev_in(r->dev, 0, 1);
}

static void put(struct rig *r, unsigned index, unsigned v)
{
	dev_out(r->dev, 0, 0, index);
	dev_out(r->dev, 0, 1, v);
}

static unsigned bcd(uint8_t v)
{
	return (v >> 4) * 10u + (v & 15u);
}

static void expect(struct rig *r, const struct tm *t)
{
	assert_int_equal(bcd(get(r, 0)), t->tm_sec);
	assert_int_equal(bcd(get(r, 2)), t->tm_min);
	assert_int_equal(bcd(get(r, 4)), t->tm_hour);
	assert_int_equal(bcd(get(r, 6)), t->tm_wday + 1);
	assert_int_equal(bcd(get(r, 7)), t->tm_mday);
	assert_int_equal(bcd(get(r, 8)), t->tm_mon + 1);
	assert_int_equal(bcd(get(r, 9)) + 100 * bcd(get(r, CENTURY)), t->tm_year + 1900);
}

/* Every date from 1970 to 2199 against the C library, at a moving time of day. */
static void calendar(void **state)
{
	(void)state;
	for (unsigned day = 0; day < 84006; day++) {
		time_t s = (time_t)day * 86400 + (time_t)(day * 7919u % 86400u);
		struct rig r;
		struct tm t;
		rig_init(&r, (uint64_t)s);
		gmtime_r(&s, &t);
		expect(&r, &t);
		rig_done(&r);
	}
}

static void set_date(struct rig *r, unsigned y, unsigned mo, unsigned d, unsigned h, unsigned mi,
		     unsigned s)
{
	put(r, B, get(r, B) | SET);
	static const unsigned regs[] = { 9, CENTURY, 8, 7, 4, 2, 0 };
	const unsigned values[] = { y % 100, y / 100, mo, d, h, mi, s };
	for (unsigned i = 0; i < ARRAY_LEN(regs); i++) {
		put(r, regs[i], values[i] / 10 * 16 + values[i] % 10);
	}
	put(r, B, get(r, B) & ~(unsigned)SET);
}

static void setting_the_time(void **state)
{
	(void)state;
	static const struct {
		unsigned y, mo, d;
		bool next_is_first; /* the next day is the first of a month */
	} dates[] = {
		{ 2024, 2, 28, false }, { 2024, 2, 29, true },  { 2023, 2, 28, true },
		{ 2000, 2, 28, false }, { 2000, 2, 29, true },  { 2100, 2, 28, true },
		{ 2099, 12, 31, true }, { 1999, 12, 31, true }, { 1970, 1, 1, false },
		{ 2026, 11, 30, true },
	};
	for (unsigned i = 0; i < ARRAY_LEN(dates); i++) {
		struct rig r;
		rig_init(&r, 1700000000);
		set_date(&r, dates[i].y, dates[i].mo, dates[i].d, 23, 59, 58);
		assert_int_equal(bcd(get(&r, 7)), dates[i].d);
		assert_int_equal(bcd(get(&r, 0)), 58);
		fake_advance(&r.f, 2 * NS);
		assert_int_equal(bcd(get(&r, 7)), dates[i].next_is_first ? 1 : dates[i].d + 1);
		assert_int_equal(bcd(get(&r, 0)), 0);
		assert_int_equal(bcd(get(&r, 4)), 0);
		if (dates[i].y == 2099) {
			assert_int_equal(bcd(get(&r, CENTURY)), 21);
			assert_int_equal(bcd(get(&r, 9)), 0);
		}
		/* Not only once: a day later it is still right. */
		fake_advance(&r.f, 86400 * NS);
		assert_int_equal(bcd(get(&r, 0)), 0);
		rig_done(&r);
	}
}

static void set_stops_the_time(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000);
	put(&r, B, SET | H24);
	uint8_t s = get(&r, 0);
	fake_advance(&r.f, 10 * NS);
	assert_int_equal(get(&r, 0), s);
	assert_int_equal(get(&r, A) & UIP, 0);
	put(&r, B, H24);
	assert_int_equal(get(&r, 0), s); /* goes on from what the registers said */
	fake_advance(&r.f, NS);
	assert_int_equal(bcd(get(&r, 0)), bcd(s) + 1);
	/* One register without SET. */
	put(&r, 2, 0x30);
	assert_int_equal(get(&r, 2), 0x30);
	assert_int_equal(bcd(get(&r, 0)), bcd(s) + 1);
	rig_done(&r);
}

static void encodings(void **state)
{
	(void)state;
	/* 12-hour BCD, then 24-hour binary, at each hour. */
	static const uint8_t h12[24] = { 0x12, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,
					 0x08, 0x09, 0x10, 0x11, 0x92, 0x81, 0x82, 0x83,
					 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x90, 0x91 };
	for (unsigned h = 0; h < 24; h++) {
		struct rig r;
		rig_init(&r, h * 3600ull + 59 * 60 + 47);
		put(&r, B, 0);
		assert_int_equal(get(&r, 4), h12[h]);
		put(&r, B, BIN | H24);
		assert_int_equal(get(&r, 4), h);
		assert_int_equal(get(&r, 2), 59);
		assert_int_equal(get(&r, 0), 47);
		put(&r, B, BIN);
		assert_int_equal(get(&r, 4), (h % 12 == 0 ? 12 : h % 12) | (h >= 12 ? 0x80u : 0u));
		/* And back: an hour written in 12-hour form. */
		put(&r, B, SET);
		put(&r, 4, h12[h]);
		put(&r, B, 0);
		put(&r, B, H24);
		assert_int_equal(bcd(get(&r, 4)), h);
		rig_done(&r);
	}
}

static void update_in_progress(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000);
	assert_int_equal(get(&r, A), 0x26);
	fake_advance(&r.f, NS - 245000);
	assert_int_equal(get(&r, A) & UIP, 0);
	fake_advance(&r.f, 2000);
	assert_int_equal(get(&r, A) & UIP, UIP);
	fake_advance(&r.f, 243000);
	assert_int_equal(get(&r, A) & UIP, 0);
	put(&r, A, 0xff); /* UIP cannot be written; this holds the divider in reset */
	assert_int_equal(get(&r, A), 0x7f);
	fake_advance(&r.f, NS - 100000);
	assert_int_equal(get(&r, A) & UIP, 0);
	assert_int_equal(get(&r, D), 0x80);
	rig_done(&r);
}

static void update_interrupt(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000);
	get(&r, C);
	put(&r, B, H24 | UIE);
	assert_false(r.f.level[GSI]);
	fake_advance(&r.f, NS - 1);
	assert_false(r.f.level[GSI]);
	fake_advance(&r.f, 1);
	assert_true(r.f.level[GSI]);
	fake_advance(&r.f, 10 * NS); /* held until C is read */
	assert_int_equal(r.f.rises[GSI], 1);
	assert_int_equal(get(&r, C) & 0x90, 0x90);
	assert_false(r.f.level[GSI]);
	assert_int_equal(get(&r, C), 0);
	fake_advance(&r.f, NS);
	assert_int_equal(r.f.rises[GSI], 2);
	put(&r, B, H24);
	assert_false(r.f.level[GSI]); /* disabling drops the line */
	rig_done(&r);
}

static void flags_without_interrupts(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000);
	put(&r, A, 0x20); /* no periodic rate */
	put(&r, 1, 0x59);
	put(&r, 3, 0x59);
	put(&r, 5, 0x23);
	get(&r, C);
	assert_int_equal(get(&r, C), 0);
	fake_advance(&r.f, NS);
	assert_int_equal(get(&r, C), UIE); /* set, though not enabled */
	assert_int_equal(r.f.rises[GSI], 0);
	assert_true(r.f.timer_at == UINT64_MAX); /* no host timer for that */
	rig_done(&r);
}

static void alarm_at_a_time(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 86400 - 10); /* 23:59:50 */
	put(&r, A, 0x20);
	put(&r, 5, 0x00);
	put(&r, 3, 0x01);
	put(&r, 1, 0x05);
	get(&r, C);
	put(&r, B, H24 | AIE);
	fake_advance(&r.f, 75 * NS - 1);
	assert_false(r.f.level[GSI]);
	fake_advance(&r.f, 1); /* 00:01:05 */
	assert_true(r.f.level[GSI]);
	assert_int_equal(get(&r, C), 0x80 | AIE | UIE);
	fake_advance(&r.f, 86400 * NS - 1);
	assert_int_equal(r.f.rises[GSI], 1);
	fake_advance(&r.f, 1);
	assert_int_equal(r.f.rises[GSI], 2);
	rig_done(&r);
}

/* Each rising edge of the alarm's interrupt is told to ACPI hardware, and nothing else is. */
static void alarm_is_told(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000000);
	put(&r, B, BIN | H24 | UIE);
	put(&r, 1, (get(&r, 0) + 2u) % 60);
	put(&r, 3, 0xff);
	put(&r, 5, 0xff);
	fake_advance(&r.f, 3 * NS);
	assert_int_equal(r.f.events[DEV_EVENT_RTC], 0); /* not enabled: a flag only */
	get(&r, C);
	put(&r, B, BIN | H24 | AIE);
	fake_advance(&r.f, 59 * NS);
	assert_int_equal(r.f.events[DEV_EVENT_RTC], 1);
	struct rig b;
	rig_init(&b, 1000000);
	dev_carry_over(r.dev, b.dev);
	b.f.vm_ns = r.f.vm_ns;
	fake_advance(&b.f, 0);
	assert_int_equal(b.f.events[DEV_EVENT_RTC], 0); /* it rang before the snapshot */
	r.dev->part.ops->unpark(r.dev->part.self);
	fake_advance(&r.f, 60 * NS);
	assert_int_equal(r.f.events[DEV_EVENT_RTC], 1); /* still up: no new edge */
	get(&r, C);
	fake_advance(&r.f, 60 * NS);
	assert_int_equal(r.f.events[DEV_EVENT_RTC], 2);
	rig_done(&r);
	rig_done(&b);
}

static void alarm_with_wildcards(void **state)
{
	(void)state;
	static const struct {
		uint8_t hour, min, sec;
		uint64_t first, second; /* seconds after 00:00:00 */
	} cases[] = {
		{ 0xff, 0xff, 0xff, 1, 2 },       { 0xc0, 0xc0, 0x30, 30, 90 },
		{ 0xc0, 0x10, 0x00, 600, 4200 },  { 0xc0, 0x00, 0xff, 1, 2 },
		{ 0x01, 0xff, 0xff, 3600, 3601 }, { 0x00, 0x00, 0x00, 86400, 172800 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig r;
		rig_init(&r, 0);
		put(&r, A, 0x20);
		put(&r, 5, cases[i].hour);
		put(&r, 3, cases[i].min);
		put(&r, 1, cases[i].sec);
		get(&r, C);
		put(&r, B, H24 | AIE);
		fake_advance(&r.f, cases[i].first * NS - 1);
		assert_int_equal(r.f.rises[GSI], 0);
		fake_advance(&r.f, 1);
		assert_int_equal(r.f.rises[GSI], 1);
		get(&r, C);
		fake_advance(&r.f, (cases[i].second - cases[i].first) * NS - 1);
		assert_int_equal(r.f.rises[GSI], 1);
		fake_advance(&r.f, 1);
		assert_int_equal(r.f.rises[GSI], 2);
		rig_done(&r);
	}
	/* One that can never come. */
	struct rig r;
	rig_init(&r, 0);
	put(&r, A, 0x20);
	put(&r, 5, 0x30);
	put(&r, B, H24 | AIE);
	assert_true(r.f.timer_at == UINT64_MAX);
	fake_advance(&r.f, 400000 * NS);
	assert_int_equal(r.f.rises[GSI], 0);
	rig_done(&r);
}

static void periodic_interrupt(void **state)
{
	(void)state;
	static const struct {
		uint8_t rate;
		unsigned per_16s;
	} cases[] = {
		{ 1, 256 * 16 }, { 2, 128 * 16 }, { 3, 8192 * 16 }, { 6, 1024 * 16 },
		{ 10, 64 * 16 }, { 15, 2 * 16 },  { 0, 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig r;
		rig_init(&r, 1000);
		put(&r, A, 0x20u | cases[i].rate);
		get(&r, C);
		put(&r, B, H24 | PIE);
		unsigned n = 0;
		uint64_t end = r.f.vm_ns + 16 * NS;
		while (r.f.timer_at <= end) {
			fake_advance(&r.f, r.f.timer_at - r.f.vm_ns);
			assert_true(r.f.level[GSI]);
			assert_int_equal(get(&r, C) & (0x80 | PIE), 0x80 | PIE);
			n++;
		}
		assert_int_equal(n, cases[i].per_16s);
		rig_done(&r);
	}
}

static void nvram(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	ok_(gmem_new(64 * MIB, &g));
	struct fake_host f;
	fake_host_init(&f);
	f.host.gmem = g;
	struct rig r = { .f = f };
	r.f.host.self = &r.f;
	ok_(rtc_new(&r.f.host, &r.dev));
	assert_int_equal(get(&r, 0x15) | get(&r, 0x16) << 8, 640);
	assert_int_equal(get(&r, 0x17) | get(&r, 0x18) << 8, 63 * 1024);
	assert_int_equal(get(&r, 0x34) | get(&r, 0x35) << 8, 48 * 16);
	assert_int_equal(get(&r, 0x5b) | get(&r, 0x5c) | get(&r, 0x5d), 0);
	for (unsigned i = 0x40; i < 0x80; i++) {
		put(&r, i | 0x80, i ^ 0x5a); /* bit 7 is the NMI mask */
	}
	for (unsigned i = 0x40; i < 0x80; i++) {
		assert_int_equal(get(&r, i), i ^ 0x5a);
	}
	assert_int_equal(dev_in(r.dev, 0, 0), 0xff);
	rig_done(&r);
}

static void wide_access_is_one_per_byte(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1000);
	r.dev->ops->write(r.dev, 0, 0, 2, 0x7750); /* index 0x50, value 0x77 */
	uint64_t v = 0;
	r.dev->ops->read(r.dev, 0, 0, 2, &v);
	assert_true(v == 0x77ff);
	rig_done(&r);
}

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&rtc_desc));
}

static void carried_over(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a, 1000);
	put(&a, A, 0x20);
	put(&a, 0x60, 0xab);
	set_date(&a, 2031, 5, 6, 7, 8, 9);
	put(&a, 5, 0x07);
	put(&a, 3, 0x08);
	put(&a, 1, 0x15);
	get(&a, C);
	put(&a, B, H24 | AIE);
	fake_advance(&a.f, 3 * NS); /* 07:08:12 */

	/* In a process with other clocks; core brings VM time and wall time back at the end. */
	rig_init(&b, 77);
	dev_carry_over(a.dev, b.dev);
	b.f.vm_ns = a.f.vm_ns;
	b.f.wall_offset_ns = a.f.wall_offset_ns;
	fake_advance(&b.f, 0);
	assert_int_equal(b.f.rises[GSI], 0);
	assert_int_equal(get(&b, 0), 0x12);
	assert_int_equal(get(&b, 9), 0x31);
	assert_int_equal(get(&b, 0x60), 0xab);
	fake_advance(&b.f, 3 * NS - 1);
	assert_int_equal(b.f.rises[GSI], 0);
	fake_advance(&b.f, 1);
	assert_int_equal(b.f.rises[GSI], 1);
	/* Parked, a timer does nothing; unparked, what was missed comes. */
	a.dev->ops->on_timer(a.dev);
	fake_advance(&a.f, 100 * NS);
	assert_int_equal(a.f.rises[GSI], 0);
	a.dev->part.ops->unpark(a.dev->part.self);
	assert_int_equal(a.f.rises[GSI], 1);
	rig_done(&a);
	rig_done(&b);
}

static void carried_over_with_a_pending_interrupt(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a, 1000);
	rig_init(&b, 1000);
	put(&a, B, H24 | UIE);
	fake_advance(&a.f, NS);
	assert_true(a.f.level[GSI]);
	dev_carry_over(a.dev, b.dev);
	assert_int_equal(b.f.rises[GSI], 0);
	assert_int_equal(get(&b, C) & 0x90, 0x90);
	assert_false(b.f.level[GSI]);
	rig_done(&a);
	rig_done(&b);
}

static void broken_states_are_refused(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct rtc_state st = { 0 };
		switch (i) {
		case 0:
			st.index = 128;
			break;
		case 1:
			st.reg_a = 0x80;
			break;
		case 2:
			st.reg_c = 0x80; /* IRQF without cause */
			break;
		case 3:
			st.reg_b = st.reg_c = 0x10; /* cause without IRQF */
			break;
		}
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 16);
		struct err *e = desc_encode(&rtc_desc, 0, &st, &w);
		assert_non_null(e);
		err_free(e);
	}
}

static void random_walk(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r, 1700000000);
	uint64_t s = 0x7274635f72ull;
	static const unsigned lens[] = { 1, 2, 4, 8 };
	for (unsigned i = 0; i < 100000; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		uint64_t v = s >> 20;
		unsigned off = (unsigned)(s & 1);
		unsigned len = lens[(s >> 1) & 3];
		if ((s >> 3) % 8 == 0) {
			fake_advance(&r.f, v % 3000000); /* up to 24 periodic events */
		} else if ((s >> 3) % 8 < 4) {
			r.dev->ops->read(r.dev, 0, off, len, &v);
		} else {
			/* Mostly the registers that do something. */
			unsigned index = (unsigned)((s >> 8) % 3 != 0 ? v % 14 : v % 128);
			put(&r, index, (unsigned)(v >> 8) & 0xff);
			r.dev->ops->write(r.dev, 0, off, len, v);
		}
		ok_(r.dev->part.ops->fetch(r.dev->part.self));
		const struct rtc_state *st = r.dev->part.state;
		ok_(rtc_desc.check(st));
		assert_int_equal(r.f.level[GSI], (st->reg_b & st->reg_c & 0x70) != 0);
	}
	rig_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calendar),
		cmocka_unit_test(setting_the_time),
		cmocka_unit_test(set_stops_the_time),
		cmocka_unit_test(encodings),
		cmocka_unit_test(update_in_progress),
		cmocka_unit_test(update_interrupt),
		cmocka_unit_test(flags_without_interrupts),
		cmocka_unit_test(alarm_at_a_time),
		cmocka_unit_test(alarm_is_told),
		cmocka_unit_test(alarm_with_wildcards),
		cmocka_unit_test(periodic_interrupt),
		cmocka_unit_test(nvram),
		cmocka_unit_test(wide_access_is_one_per_byte),
		cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over),
		cmocka_unit_test(carried_over_with_a_pending_interrupt),
		cmocka_unit_test(broken_states_are_refused),
		cmocka_unit_test(random_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
