/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of Linux's 64-bit entry: zero page by offsets, page tables walked, GDT, high kernels.
 */
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

/* Physical address that the boot page tables give for va; UINT64_MAX: not mapped. */
static uint64_t walk(struct gmem *g, uint64_t cr3, uint64_t va)
{
	uint64_t table = cr3;
	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		uint64_t e = rd64(g, table + (va >> shift & 511) * 8);
		if ((e & 3) != 3) {
			return UINT64_MAX;
		}
		if (shift == 21) {
			assert_true(e & 0x80);
			return (e & ~0x1fffffull) + (va & 0x1fffff);
		}
		assert_false(e & 0x80);
		table = e & ~0xfffull;
	}
	return UINT64_MAX;
}

static void check_entry(struct gmem *g, const struct boot_regs *r)
{
	assert_int_equal(r->mode, BOOT_LINUX64);
	for (uint64_t va = 0; va < 4 * GIB; va += 2 * MIB - 1) {
		assert_int_equal(walk(g, r->cr3, va), va);
	}
	assert_int_equal(r->gdt_limit, 31);
	assert_int_equal(rd64(g, r->gdt_base + 0x10), 0x00af9b000000ffff);
	assert_int_equal(rd64(g, r->gdt_base + 0x18), 0x00cf93000000ffff);
}

static void test_zero_page(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_elf(&w, &k);
	SCOPE(fd_close) struct fd fd = { .n = fk_file(w.p, w.len) };
	SCOPE(fd_close) struct fd rd = { .n = fk_file("initrd", 6) };
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = fd.n,
		.initrd_name = "rd",
		.initrd_fd = rd.n,
		.cmdline = "console=ttyS0",
		.rsdp = GPA(0xe0010),
		.acpi_base = GPA(0xe0000),
		.acpi_len = 0x10000,
	};
	struct boot_regs r;
	ok(gmem_clear(gmem));
	ok(boot_load(gmem, &in, &r));
	assert_int_equal(r.rip, 0x100000);
	check_segments(gmem, &k);
	check_entry(gmem, &r);
	assert_int_equal(walk(gmem, r.cr3, 4 * GIB), UINT64_MAX);
	uint64_t z = r.rsi;
	assert_int_equal(z % PAGE_BYTES, 0);
	assert_int_equal(rd64(gmem, z + 0x70), 0xe0010);
	assert_int_equal(rd32(gmem, z + 0x1fe) & 0xffff, 0xaa55);
	assert_int_equal(rd32(gmem, z + 0x202), 0x53726448);
	assert_int_equal(rd32(gmem, z + 0x210) & 0x1ff, 0x1ff); /* type_of_loader, loadflags */
	assert_int_equal(rd32(gmem, z + 0x218), 16 * MIB - PAGE_BYTES);
	assert_int_equal(rd32(gmem, z + 0x21c), 6);
	assert_int_equal(rd64(gmem, z + 0xc0), 0); /* upper halves */
	check_string(gmem, rd32(gmem, z + 0x228), "console=ttyS0");
	assert_int_equal(rd32(gmem, z + 0x1e8) & 0xff, 5);
	assert_int_equal(rd64(gmem, z + 0x2d0), 0);
	assert_int_equal(rd64(gmem, z + 0x2d0 + 8), 0x9fc00);
	assert_int_equal(rd32(gmem, z + 0x2d0 + 16), 1);
	assert_int_equal(rd64(gmem, z + 0x2d0 + 3 * 20), 0x100000);
	assert_int_equal(rd64(gmem, z + 0x2d0 + 3 * 20 + 8), 15 * MIB);
	assert_memory_equal(gmem_at(gmem, GPA(16 * MIB - PAGE_BYTES), 6), "initrd", 6);
	check_truncation(gmem, &w);
}

/* The header of a bzImage is handed on, with the loader's fields set. */
static void test_bzimage(void **state)
{
	(void)state;
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = fk_small(true);
		fk_make_bzimage_of(&w, pack, &k);
		struct boot_regs r;
		ok(gmem_clear(gmem));
		ok(load_bytes(gmem, w.p, w.len, "x", &r));
		check_segments(gmem, &k);
		check_entry(gmem, &r);
		assert_int_equal(rd32(gmem, r.rsi + 0x206) & 0xffff, 0x20f);
		assert_int_equal(rd32(gmem, r.rsi + 0x210) & 0x1ff, 0x1ff);
		assert_int_equal(rd32(gmem, r.rsi + 0x22c), 0x7fffffff);
		check_truncation(gmem, &w);
	}
}

/* A kernel above 4 GiB: its pages are mapped too. Needs 6 GiB of address space, no memory. */
static void test_high_kernel(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	struct err *e = gmem_new(5 * GIB, &g);
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		skip();
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	k.seg[0].paddr = 5 * GIB - 32; /* across a GiB */
	k.entry = 5 * GIB;
	fk_make_elf(&w, &k);
	struct boot_regs r;
	ok(load_bytes(g, w.p, w.len, "x", &r));
	assert_int_equal(r.rip, 5 * GIB);
	check_segments(g, &k);
	check_entry(g, &r);
	assert_int_equal(walk(g, r.cr3, 5 * GIB - 32), 5 * GIB - 32);
	assert_int_equal(walk(g, r.cr3, 5 * GIB + 4096), 5 * GIB + 4096);
	assert_int_equal(walk(g, r.cr3, 6 * GIB), UINT64_MAX);
	/* Memory map with RAM above 4 GiB. */
	assert_int_equal(rd32(g, r.rsi + 0x1e8) & 0xff, 6);
	assert_int_equal(rd64(g, r.rsi + 0x2d0 + 3 * 20 + 8), 3 * GIB - MIB);
	assert_int_equal(rd64(g, r.rsi + 0x2d0 + 5 * 20), 4 * GIB);
	assert_int_equal(rd64(g, r.rsi + 0x2d0 + 5 * 20 + 8), 2 * GIB);
	/* In the hole between the two parts of memory, and across its edge. */
	wbuf_reset(&w);
	k.seg[0].paddr = 3 * GIB - 32;
	k.entry = 3 * GIB - 32;
	fk_make_elf(&w, &k);
	bad(load_bytes(g, w.p, w.len, "x", &r), ERR_LIMIT, "outside of the guest's memory");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_page),
		cmocka_unit_test(test_bzimage),
		cmocka_unit_test(test_high_kernel),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
