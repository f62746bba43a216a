/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of checked kernel file reads: bounds, overflow, limits, memory and descriptor alike. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#include "core/boot_file.h"

static void test_init(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = { .n = fk_file("12345", 5) };
	SCOPE(fd_close) struct fd none = { .n = fk_file("", 0) };
	struct boot_file f;
	ok(boot_file_init("k", fd.n, 5, &f));
	assert_int_equal(f.size, 5);
	bad(boot_file_init("k", fd.n, 4, &f), ERR_LIMIT, "k: 5 bytes, at most 4 are read");
	bad(boot_file_init("k", none.n, 4, &f), ERR_CORRUPT, "k: the file is empty");
	struct err *e = boot_file_init("k", -1, 4, &f);
	assert_non_null(e);
	err_free(e);
}

static void test_bounds(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = { .n = fk_file("12345", 5) };
	struct boot_file f[2];
	ok(boot_file_init("k", fd.n, 5, &f[0]));
	f[1] = (struct boot_file){ .name = "k", .fd = -1, .mem = malloc(5), .size = 5 };
	memcpy(f[1].mem, "12345", 5);
	for (unsigned i = 0; i < 2; i++) {
		char got[8] = { 0 };
		ok(boot_file_read(&f[i], 1, got, 4));
		assert_string_equal(got, "2345");
		ok(boot_file_check(&f[i], 5, 0, "x"));
		bad(boot_file_check(&f[i], 0, 6, "thing %d", 7), ERR_CORRUPT,
		    "k: thing 7 ends at byte 6 of 5");
		bad(boot_file_check(&f[i], 6, 0, "x"), ERR_CORRUPT, "ends at byte 6 of 5");
		bad(boot_file_check(&f[i], UINT64_MAX, 2, "x"), ERR_CORRUPT, "beyond 64-bit");
		bad(boot_file_check(&f[i], 2, UINT64_MAX, "x"), ERR_CORRUPT, "beyond 64-bit");
		bad(boot_file_read(&f[i], 4, got, 2), ERR_CORRUPT, "ends at byte 6 of 5");
		boot_file_done(&f[i]);
		assert_null(f[i].mem);
	}
}

/* Somebody shortens the file between the look at its size and the read. */
static void test_shrinks(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = { .n = fk_file("12345", 5) };
	struct boot_file f;
	ok(boot_file_init("k", fd.n, 5, &f));
	assert_int_equal(ftruncate(fd.n, 2), 0);
	char got[8];
	bad(boot_file_read(&f, 1, got, 4), ERR_CORRUPT, "k: ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_init),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_shrinks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
