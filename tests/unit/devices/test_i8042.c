/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/i8042.c: a driver's probe, resets, the saved state, a hostile guest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "devices/i8042.h"
#include "tests/lib/fake_host.h"

enum { DATA = 0, CMD = 1, GSI = 1, FULL = 1 };

struct rig {
	struct fake_host f;
	struct device *dev;
};

static void rig_init(struct rig *r)
{
	fake_host_init(&r->f);
	ok_(i8042_new(&r->f.host, &r->dev));
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
}

static uint8_t status(struct rig *r)
{
	return dev_in(r->dev, CMD, 0);
}

static void command(struct rig *r, unsigned v)
{
	dev_out(r->dev, CMD, 0, v);
}

/* The answer that is there at once. */
static uint8_t answer(struct rig *r)
{
	assert_int_equal(status(r) & FULL, FULL);
	uint8_t v = dev_in(r->dev, DATA, 0);
	assert_int_equal(status(r) & FULL, 0);
	return v;
}

static void a_probe_gets_answers(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(status(&r) & FULL, 0);
	command(&r, 0x20);
	uint8_t config = answer(&r);
	command(&r, 0xaa);
	assert_int_equal(answer(&r), 0x55);
	command(&r, 0xab);
	assert_int_equal(answer(&r), 0x00);
	/* Mouse: the loop test comes back without the mouse bit, and the port test fails. */
	command(&r, 0xd3);
	dev_out(r.dev, DATA, 0, 0x5a);
	assert_int_equal(status(&r) & 0x20, 0);
	assert_int_equal(answer(&r), 0x5a);
	command(&r, 0xa9);
	assert_int_equal(answer(&r), 0x01);
	/* Configuration is kept. */
	command(&r, 0xad);
	command(&r, 0xa8);
	command(&r, 0x20);
	assert_int_equal(answer(&r), (config | 0x10) & ~0x20);
	command(&r, 0x60);
	dev_out(r.dev, DATA, 0, 0x74);
	command(&r, 0x20);
	assert_int_equal(answer(&r), 0x74);
	/* A byte to the keyboard: nobody understands it. */
	dev_out(r.dev, DATA, 0, 0xf2);
	assert_int_equal(answer(&r), 0xfe);
	assert_int_equal(r.f.requests[DEV_RESET], 0);
	rig_done(&r);
}

static void resets(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	for (unsigned v = 0xf0; v <= 0xff; v++) {
		unsigned before = r.f.requests[DEV_RESET];
		command(&r, v);
		assert_int_equal(r.f.requests[DEV_RESET] - before, (v & 1) == 0);
	}
	unsigned before = r.f.requests[DEV_RESET];
	command(&r, 0xd1);
	dev_out(r.dev, DATA, 0, 0x03);
	assert_int_equal(r.f.requests[DEV_RESET], before);
	command(&r, 0xd0);
	assert_int_equal(answer(&r), 0x03);
	command(&r, 0xd1);
	dev_out(r.dev, DATA, 0, 0x02);
	assert_int_equal(r.f.requests[DEV_RESET], before + 1);
	rig_done(&r);
}

static void keyboard_interrupt(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	command(&r, 0x60);
	dev_out(r.dev, DATA, 0, 0x01);
	assert_false(r.f.level[GSI]);
	command(&r, 0xaa);
	assert_true(r.f.level[GSI]);
	answer(&r);
	assert_false(r.f.level[GSI]);
	rig_done(&r);
}

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&i8042_desc));
}

static void carried_over(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	command(&a, 0x60);
	dev_out(a.dev, DATA, 0, 0x45);
	command(&a, 0xaa);
	command(&a, 0x60); /* its data byte is still to come */
	dev_carry_over(a.dev, b.dev);
	assert_int_equal(status(&b), status(&a));
	assert_int_equal(answer(&b), 0x55);
	dev_out(b.dev, DATA, 0, 0x44);
	command(&b, 0x20);
	assert_int_equal(answer(&b), 0x44);
	rig_done(&a);
	rig_done(&b);
}

static void broken_states_are_refused(void **state)
{
	(void)state;
	const struct i8042_state bad[] = {
		{ .outport = 1, .command = 0x20 },
		{ .outport = 0 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 16);
		struct err *e = desc_encode(&i8042_desc, 0, &bad[i], &w);
		assert_non_null(e);
		err_free(e);
	}
}

static void random_walk(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	uint64_t s = 0x69383034325full;
	for (unsigned i = 0; i < 100000; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		uint64_t v = s >> 16;
		unsigned len = 1u << ((s >> 2) & 3);
		if ((s & 2) != 0) {
			r.dev->ops->read(r.dev, s & 1, 0, len, &v);
		} else {
			r.dev->ops->write(r.dev, s & 1, 0, len, v);
		}
		ok_(r.dev->part.ops->fetch(r.dev->part.self));
		const struct i8042_state *st = r.dev->part.state;
		ok_(i8042_desc.check(st));
		assert_int_equal(r.f.level[GSI], st->full && (st->config & 1) != 0);
	}
	rig_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_probe_gets_answers), cmocka_unit_test(resets),
		cmocka_unit_test(keyboard_interrupt),   cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over),         cmocka_unit_test(broken_states_are_refused),
		cmocka_unit_test(random_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
