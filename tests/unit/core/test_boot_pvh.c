/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of PVH start info: every field by its offset in the ABI, with and without initrd. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

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

static struct fk_elf pvh_kernel(bool is64)
{
	struct fk_elf k = fk_small(is64);
	k.pvh_bytes = is64 ? 8 : 4;
	k.pvh_entry = 0x100020;
	return k;
}

static void check_start_info(const struct boot_regs *r, const char *cmdline, bool initrd)
{
	assert_int_equal(r->mode, BOOT_PVH32);
	assert_int_equal(r->rip, 0x100020);
	uint64_t s = r->rbx;
	assert_true(s % 8 == 0 && s >= 0x1000 && s + 56 <= 0x9fc00);
	assert_int_equal(rd32(gmem, s), 0x336ec578);
	assert_int_equal(rd32(gmem, s + 4), 1);
	assert_int_equal(rd32(gmem, s + 8), 0);
	assert_int_equal(rd32(gmem, s + 12), initrd);
	check_string(gmem, rd64(gmem, s + 24), cmdline);
	assert_int_equal(rd64(gmem, s + 32), 0xe0000);
	uint64_t map = rd64(gmem, s + 40);
	assert_int_equal(rd32(gmem, s + 48), 5);
	assert_int_equal(rd64(gmem, map), 0);
	assert_int_equal(rd64(gmem, map + 8), 0x9fc00);
	assert_int_equal(rd32(gmem, map + 16), 1);
	assert_int_equal(rd64(gmem, map + 3 * 24), 0x100000);
	assert_int_equal(rd64(gmem, map + 3 * 24 + 8), 15 * MIB);
	assert_int_equal(rd64(gmem, map + 4 * 24), 0xfec00000);
	assert_int_equal(rd32(gmem, map + 4 * 24 + 16), 2);
	uint64_t mods = rd64(gmem, s + 16);
	if (initrd) {
		assert_int_equal(rd64(gmem, mods), 16 * MIB - PAGE_BYTES);
		assert_int_equal(rd64(gmem, mods + 8), 4096);
		assert_int_equal(rd64(gmem, mods + 16), 0);
		assert_int_equal(rd64(gmem, mods + 24), 0);
	} else {
		assert_int_equal(mods, 0);
	}
}

static void test_both_classes(void **state)
{
	(void)state;
	for (unsigned is64 = 0; is64 < 2; is64++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = pvh_kernel(is64);
		fk_make_elf(&w, &k);
		struct boot_regs r;
		ok(gmem_clear(gmem));
		ok(load_bytes(gmem, w.p, w.len, "console=ttyS0", &r));
		check_segments(gmem, &k);
		check_start_info(&r, "console=ttyS0", false);
		check_truncation(gmem, &w);
	}
}

static void test_initrd(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = pvh_kernel(true);
	fk_make_elf(&w, &k);
	uint8_t disk[4096];
	memset(disk, 0xa5, sizeof(disk));
	SCOPE(fd_close) struct fd fd = { .n = fk_file(w.p, w.len) };
	SCOPE(fd_close) struct fd rd = { .n = fk_file(disk, sizeof(disk)) };
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = fd.n,
		.initrd_name = "rd",
		.initrd_fd = rd.n,
		.cmdline = NULL, /* as an empty one */
		.rsdp = GPA(0xe0000),
		.acpi_base = GPA(0xe0000),
		.acpi_len = 0x10000,
	};
	struct boot_regs r;
	ok(boot_load(gmem, &in, &r));
	check_start_info(&r, "", true);
	assert_memory_equal(gmem_at(gmem, GPA(16 * MIB - 4096), 4096), disk, 4096);
}

/* A kernel in conventional memory: the tables go around it. */
static void test_low_kernel(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = pvh_kernel(false);
	k.pvh_entry = 0x10000;
	k.seg[0] = (struct fk_seg){ 0x10000, 0x10000, 3000, 0x9f000 - 0x10000 };
	fk_make_elf(&w, &k);
	struct boot_regs r;
	ok(gmem_clear(gmem));
	ok(load_bytes(gmem, w.p, w.len, "x", &r));
	check_segments(gmem, &k);
	assert_true(r.rbx >= 0x9f000 || r.rbx < 0x10000);
	/* One that leaves nothing. */
	wbuf_reset(&w);
	k.nsegs = 2;
	k.seg[0] = (struct fk_seg){ 0x10000, 0x10000, 3000, 0x9fc00 - 0x10000 };
	k.seg[1] = (struct fk_seg){ 0x1000, 0x1000, 0, 0xf000 };
	fk_make_elf(&w, &k);
	bad(load_bytes(gmem, w.p, w.len, "x", &r), ERR_LIMIT, "no room below 640 KiB");
}

static void test_bad_entry(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = pvh_kernel(true);
	k.pvh_entry = 0x300000;
	fk_make_elf(&w, &k);
	struct boot_regs r;
	bad(load_bytes(gmem, w.p, w.len, "", &r), ERR_CORRUPT, "lies in no loaded segment");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_classes),
		cmocka_unit_test(test_initrd),
		cmocka_unit_test(test_low_kernel),
		cmocka_unit_test(test_bad_entry),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
