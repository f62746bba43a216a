/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of boot placement: no two claims overlap, first fit, bounds, full. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "tests/lib/boot_check.h"

#include "core/boot_place.h"

#define ACPI_AT 0xe0000

static struct gmem *gmem;

static int setup(void **state)
{
	(void)state;
	ok(gmem_new(16 * MIB, &gmem));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	gmem_free(gmem);
	return 0;
}

static void check_disjoint(const struct boot_place *p)
{
	for (unsigned i = 3; i < p->n; i++) { /* the first three are areas that may nest */
		for (unsigned j = 0; j < i; j++) {
			assert_true(p->claim[i].hi <= p->claim[j].lo ||
				    p->claim[j].hi <= p->claim[i].lo);
		}
	}
}

static void test_claim(void **state)
{
	(void)state;
	struct boot_place p;
	ok(boot_place_init(&p, gmem, GPA(ACPI_AT), 0x10000));
	ok(boot_place_claim(&p, 0x100000, 0x1000, "segment %u", 0));
	ok(boot_place_claim(&p, 0x101000, 1, "segment %u", 1)); /* touching is no overlap */
	ok(boot_place_claim(&p, 0x1000, 0x1000, "low"));
	ok(boot_place_claim(&p, 16 * MIB - 1, 1, "last byte"));
	bad(boot_place_claim(&p, 0x100fff, 1, "segment %u", 2), ERR_CORRUPT,
	    "segment 2 [0x100fff, 0x101000) overlaps segment 0 [0x100000, 0x101000)");
	bad(boot_place_claim(&p, 0xff000, 0x200000, "big"), ERR_CORRUPT, "overlaps");
	bad(boot_place_claim(&p, 0, 1, "null"), ERR_CORRUPT, "the first page");
	bad(boot_place_claim(&p, 0xb8000, 1, "screen"), ERR_CORRUPT, "reserved area below 1 MiB");
	check_disjoint(&p);
}

static void test_claim_outside(void **state)
{
	(void)state;
	struct boot_place p;
	ok(boot_place_init(&p, gmem, GPA(0), 0));
	bad(boot_place_claim(&p, 16 * MIB, 1, "x"), ERR_LIMIT, "16 MiB; give the VM more (--mem)");
	bad(boot_place_claim(&p, 16 * MIB - 1, 2, "x"), ERR_LIMIT, "outside");
	bad(boot_place_claim(&p, UINT64_MAX, 2, "x"), ERR_LIMIT, "outside");
	bad(boot_place_claim(&p, 0x100000, UINT64_MAX, "x"), ERR_LIMIT, "outside");
	bad(boot_place_init(&p, gmem, GPA(16 * MIB), 0x1000), ERR_LIMIT, "ACPI");
}

static void test_low(void **state)
{
	(void)state;
	struct boot_place p;
	gpa_t a;
	ok(boot_place_init(&p, gmem, GPA(ACPI_AT), 0x10000));
	ok(boot_place_low(&p, "a", 10, 16, &a));
	assert_int_equal(a.v, 0x10000);
	ok(boot_place_low(&p, "b", 4096, 4096, &a));
	assert_int_equal(a.v, 0x11000);
	ok(boot_place_low(&p, "c", 16, 16, &a)); /* fits in front of b */
	assert_int_equal(a.v, 0x10010);
	/* A kernel that takes nearly everything from 64 KiB up: then the first 64 KiB are used. */
	ok(boot_place_claim(&p, 0x12000, 0x9fc00 - 0x12000, "kernel"));
	ok(boot_place_low(&p, "d", 4096, 4096, &a));
	assert_int_equal(a.v, 0x1000);
	bad(boot_place_low(&p, "tables", 0x10000, 4096, &a), ERR_LIMIT, "no room below 640 KiB");
	check_disjoint(&p);
}

static void test_high(void **state)
{
	(void)state;
	struct boot_place p;
	gpa_t a;
	bool found = false;
	ok(boot_place_init(&p, gmem, GPA(16 * MIB - 0x1000), 0x1000));
	ok(boot_place_high(&p, "i", 0x1001, UINT64_MAX, &a, &found));
	assert_true(found);
	assert_int_equal(a.v, 16 * MIB - 0x3000);
	ok(boot_place_claim(&p, 8 * MIB, 4 * MIB, "kernel"));
	ok(boot_place_high(&p, "j", 4 * MIB, UINT64_MAX, &a, &found));
	assert_true(
		found); /* 12 MiB .. 16 MiB - 12 KiB is too small, the room below 8 MiB is not */
	assert_int_equal(a.v, 4 * MIB);
	ok(boot_place_high(&p, "k", 3 * MIB, UINT64_MAX, &a, &found));
	assert_true(found);
	ok(boot_place_high(&p, "l", 4 * MIB, UINT64_MAX, &a, &found));
	assert_false(found);
	ok(boot_place_high(&p, "m", UINT64_MAX, UINT64_MAX, &a, &found));
	assert_false(found);
	ok(boot_place_high(&p, "n", 1, 0xfffff, &a, &found));
	assert_false(found); /* never below 1 MiB */
	check_disjoint(&p);
}

static void test_full(void **state)
{
	(void)state;
	struct boot_place p;
	gpa_t a;
	ok(boot_place_init(&p, gmem, GPA(0), 0));
	while (p.n < BOOT_CLAIMS_MAX) {
		ok(boot_place_low(&p, "x", 1, 1, &a));
	}
	bad(boot_place_low(&p, "x", 1, 1, &a), ERR_LIMIT, "more than 64 pieces");
	bad(boot_place_claim(&p, 0x100000, 1, "x"), ERR_LIMIT, "more than 64 pieces");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_claim), cmocka_unit_test(test_claim_outside),
		cmocka_unit_test(test_low),   cmocka_unit_test(test_high),
		cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
