/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/bus.c: look-up, splitting, overlaps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/bus.h"
#include "tests/lib/expect.h"

struct seen {
	unsigned range;
	uint64_t off;
	unsigned len;
	uint64_t data;
};

struct probe {
	struct device dev;
	struct seen seen[16];
	unsigned n;
};

static void probe_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t *data)
{
	struct probe *p = CONTAINER_OF(dev, struct probe, dev);
	assert_true(len == 1 || len == 2 || len == 4 || len == 8);
	p->seen[p->n++] = (struct seen){ range, off, len, 0 };
	*data = 0x1122334455667788ull + off;
}

static void probe_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			uint64_t data)
{
	struct probe *p = CONTAINER_OF(dev, struct probe, dev);
	p->seen[p->n++] = (struct seen){ range, off, len, data };
}

static const struct dev_ops probe_ops = {
	.name = "probe",
	.read = probe_read,
	.write = probe_write,
};

static struct probe probe_make(enum dev_space space, uint64_t base, uint64_t len)
{
	return (struct probe){
		.dev = { .ops = &probe_ops, .ranges = { { space, base, len } }, .nranges = 1 },
	};
}

static void refused(struct err *e, enum err_class class)
{
	assert_non_null(e);
	assert_int_equal(err_class(e), class);
	err_free(e);
}

static void finds_the_owner(void **state)
{
	(void)state;
	enum { N = 40 };
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	static struct probe probes[N];
	for (unsigned i = 0; i < N; i++) {
		/* In an order that is neither rising nor falling. */
		unsigned at = i * 17 % N;
		probes[at] = probe_make(DEV_PIO, 0x100 + at * 0x10, 8);
		ok(bus_add(b, &probes[at].dev));
	}
	for (unsigned port = 0; port < 0x500; port++) {
		uint8_t v = 0;
		bus_read(b, DEV_PIO, port, &v, 1);
		unsigned i = (port - 0x100) / 0x10;
		if (port >= 0x100 && i < N && (port - 0x100) % 0x10 < 8) {
			assert_int_equal(probes[i].n, 1);
			assert_int_equal(probes[i].seen[0].off, port % 0x10);
			assert_int_equal(v, (uint8_t)(0x88 + port % 0x10));
			probes[i].n = 0;
		} else {
			assert_int_equal(v, 0xff);
		}
	}
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(probes[i].n, 0);
	}
}

static void nobody_reads_ones(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	uint8_t v[8] = { 0 };
	bus_read(b, DEV_MMIO, 0xfee00000, v, 8);
	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(v[i], 0xff);
	}
	bus_read(b, DEV_MMIO, UINT64_MAX - 2, v, 8); /* past the end of everything */
	bus_write(b, DEV_PIO, 0xffff, v, 4);
}

static void spaces_are_apart(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	struct probe p = probe_make(DEV_PIO, 0x1000, 4);
	struct probe m = probe_make(DEV_MMIO, 0x1000, 4);
	ok(bus_add(b, &p.dev));
	ok(bus_add(b, &m.dev));
	uint32_t v = 0xdeadbeef;
	bus_write(b, DEV_MMIO, 0x1000, &v, 4);
	assert_int_equal(p.n, 0);
	assert_int_equal(m.n, 1);
	assert_int_equal(m.seen[0].data, 0xdeadbeef);
}

static void odd_lengths_are_split(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	struct probe m = probe_make(DEV_MMIO, 0x1000, 0x100);
	ok(bus_add(b, &m.dev));
	static const struct {
		unsigned len, n, lens[3];
	} cases[] = {
		{ 1, 1, { 1 } },       { 2, 1, { 2 } },    { 3, 2, { 2, 1 } },
		{ 4, 1, { 4 } },       { 5, 2, { 4, 1 } }, { 6, 2, { 4, 2 } },
		{ 7, 3, { 4, 2, 1 } }, { 8, 1, { 8 } },    { 0, 0, { 0 } },
	};
	const uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	for (unsigned c = 0; c < ARRAY_LEN(cases); c++) {
		m.n = 0;
		bus_write(b, DEV_MMIO, 0x1010, data, cases[c].len);
		assert_int_equal(m.n, cases[c].n);
		uint64_t off = 0x10;
		for (unsigned i = 0; i < m.n; i++) {
			uint64_t want = 0;
			memcpy(&want, data + off - 0x10, cases[c].lens[i]);
			assert_int_equal(m.seen[i].len, cases[c].lens[i]);
			assert_int_equal(m.seen[i].off, off);
			assert_true(m.seen[i].data == want);
			off += cases[c].lens[i];
		}
	}
}

static void access_over_an_edge(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	struct probe lo = probe_make(DEV_MMIO, 0x1000, 3);
	struct probe hi = probe_make(DEV_MMIO, 0x1004, 4);
	ok(bus_add(b, &hi.dev));
	ok(bus_add(b, &lo.dev));
	uint8_t v[8];
	memset(v, 0xaa, sizeof(v));
	/* 0x1001..2 lo, 0x1003 nobody, 0x1004..7 hi, 0x1008 nobody */
	bus_read(b, DEV_MMIO, 0x1001, v, 8);
	assert_int_equal(lo.n, 1);
	assert_int_equal(lo.seen[0].off, 1);
	assert_int_equal(lo.seen[0].len, 2);
	assert_int_equal(hi.n, 1);
	assert_int_equal(hi.seen[0].len, 4);
	const uint8_t want[8] = { 0x89, 0x77, 0xff, 0x88, 0x77, 0x66, 0x55, 0xff };
	assert_memory_equal(v, want, 8);
}

static void overlaps_are_refused(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	struct probe a = probe_make(DEV_PIO, 0x100, 8);
	ok(bus_add(b, &a.dev));
	static const struct {
		uint64_t base, len;
		bool fits;
	} cases[] = {
		{ 0x0f8, 8, true },  { 0x108, 8, true },  { 0x0f9, 8, false },
		{ 0x107, 1, false }, { 0x102, 2, false }, { 0x0f0, 0x20, false },
		{ 0x100, 8, false },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		SCOPE(bus_freep) struct bus *c = NULL;
		ok(bus_new(&c));
		ok(bus_add(c, &a.dev));
		struct probe p = probe_make(DEV_PIO, cases[i].base, cases[i].len);
		if (cases[i].fits) {
			ok(bus_add(c, &p.dev));
		} else {
			refused(bus_add(c, &p.dev), ERR_NOT_NOW);
		}
	}
}

static void refused_device_leaves_nothing(void **state)
{
	(void)state;
	SCOPE(bus_freep) struct bus *b = NULL;
	ok(bus_new(&b));
	struct probe a = probe_make(DEV_PIO, 0x100, 8);
	struct probe two = probe_make(DEV_PIO, 0x200, 8);
	two.dev.ranges[1] = (struct dev_range){ DEV_MMIO, 0x5000, 16 };
	two.dev.ranges[2] = (struct dev_range){ DEV_PIO, 0x104, 1 };
	two.dev.nranges = 3;
	ok(bus_add(b, &a.dev));
	refused(bus_add(b, &two.dev), ERR_NOT_NOW);
	uint8_t v = 0;
	bus_read(b, DEV_PIO, 0x200, &v, 1);
	bus_read(b, DEV_MMIO, 0x5000, &v, 1);
	assert_int_equal(two.n, 0);
	two.dev.nranges = 2;
	ok(bus_add(b, &two.dev));
	bus_read(b, DEV_MMIO, 0x5008, &v, 1);
	assert_int_equal(two.seen[0].range, 1);
	assert_int_equal(two.seen[0].off, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_owner),
		cmocka_unit_test(nobody_reads_ones),
		cmocka_unit_test(spaces_are_apart),
		cmocka_unit_test(odd_lengths_are_split),
		cmocka_unit_test(access_over_an_edge),
		cmocka_unit_test(overlaps_are_refused),
		cmocka_unit_test(refused_device_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
