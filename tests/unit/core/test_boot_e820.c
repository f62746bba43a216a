/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of the boot memory map: exact content for small, full-low and split memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/limits.h"
#include "core/boot_e820.h"

static void expect(const struct boot_e820 *m, unsigned i, uint64_t lo, uint64_t hi, uint32_t type)
{
	assert_true(i < m->n);
	assert_int_equal(m->e[i].base, lo);
	assert_int_equal(m->e[i].base + m->e[i].len, hi);
	assert_int_equal(m->e[i].type, type);
}

static void test_16_mib(void **state)
{
	(void)state;
	struct boot_e820 m;
	boot_e820_build(16 * MIB, 0, 0, 0xe0000, 0x10000, &m);
	expect(&m, 0, 0, 0x9fc00, BOOT_E820_RAM);
	expect(&m, 1, 0x9fc00, 0xa0000, BOOT_E820_RESERVED);
	expect(&m, 2, 0xe0000, 0xf0000, BOOT_E820_RESERVED);
	expect(&m, 3, 0x100000, 16 * MIB, BOOT_E820_RAM);
	expect(&m, 4, 0xfec00000, 4 * GIB, BOOT_E820_RESERVED);
	assert_int_equal(m.n, 5);
}

static void test_3_gib(void **state)
{
	(void)state;
	struct boot_e820 m;
	boot_e820_build(3 * GIB, 0, 0, 0xe0000, 0x10000, &m);
	expect(&m, 3, 0x100000, 3 * GIB, BOOT_E820_RAM);
	expect(&m, 4, 0xfec00000, 4 * GIB, BOOT_E820_RESERVED);
	assert_int_equal(m.n, 5);
}

static void test_5_gib(void **state)
{
	(void)state;
	struct boot_e820 m;
	boot_e820_build(3 * GIB, 4 * GIB, 2 * GIB, 0xe0000, 0x10000, &m);
	expect(&m, 3, 0x100000, 3 * GIB, BOOT_E820_RAM);
	expect(&m, 4, 0xfec00000, 4 * GIB, BOOT_E820_RESERVED);
	expect(&m, 5, 4 * GIB, 6 * GIB, BOOT_E820_RAM);
	assert_int_equal(m.n, 6);
}

static void test_no_acpi(void **state)
{
	(void)state;
	struct boot_e820 m;
	boot_e820_build(16 * MIB, 0, 0, 0, 0, &m);
	assert_int_equal(m.n, 4);
	expect(&m, 0, 0, 0x9fc00, BOOT_E820_RAM);
	expect(&m, 2, 0x100000, 16 * MIB, BOOT_E820_RAM);
}

/* Whatever place the tables have: ascending, no overlap, tables never RAM, other RAM kept. */
static void test_acpi_anywhere(void **state)
{
	(void)state;
	static const uint64_t at[] = { 0x0,     0x1000,  0x9f000,  0x9fc00,  0x9e000,
				       0xa0000, 0xff000, 0x100000, 0x200000, 16 * MIB - 0x2000 };
	for (unsigned k = 0; k < ARRAY_LEN(at); k++) {
		struct boot_e820 m;
		boot_e820_build(16 * MIB, 0, 0, at[k], 0x2000, &m);
		uint64_t ram = 0;
		bool covered = false;
		for (unsigned i = 0; i < m.n; i++) {
			uint64_t end = m.e[i].base + m.e[i].len;
			assert_true(m.e[i].len > 0);
			assert_true(i + 1 == m.n || end <= m.e[i + 1].base);
			if (m.e[i].type == BOOT_E820_RAM) {
				ram += m.e[i].len;
				assert_true(end <= at[k] || m.e[i].base >= at[k] + 0x2000);
			}
			covered |= m.e[i].base <= at[k] && at[k] < end;
		}
		assert_true(covered);
		assert_true(ram >= 0x9fc00 + 15 * MIB - 0x2000);
		assert_true(ram <= 0x9fc00 + 15 * MIB);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_16_mib),        cmocka_unit_test(test_3_gib),
		cmocka_unit_test(test_5_gib),         cmocka_unit_test(test_no_acpi),
		cmocka_unit_test(test_acpi_anywhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
