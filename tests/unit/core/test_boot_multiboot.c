/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of multiboot: header search, address fields, information structure by offsets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#include "core/boot_multiboot.h"

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

static void test_find(void **state)
{
	(void)state;
	SCOPE(freep) uint8_t *head = calloc(1, 8192 + 64);
	struct boot_multiboot mb;
	SCOPE(wbuf_done) struct wbuf h = wbuf_make(64);
	fk_mb_header(&h, 0x10003);
	memset(wbuf_room(&h, 20), 0, 20);
	assert_false(boot_multiboot_find(head, 8192, &mb));
	memcpy(head + 8192 - 32, h.p, 32);
	assert_true(boot_multiboot_find(head, 8192 + 64, &mb));
	assert_int_equal(mb.header_off, 8192 - 32);
	assert_true(mb.has_addresses);
	assert_false(boot_multiboot_find(head, 8192 - 1, &mb));
	/* One word later it reaches beyond the first 8 KiB. */
	memset(head, 0, 8192 + 64);
	memcpy(head + 8192 - 28, h.p, 32);
	assert_false(boot_multiboot_find(head, 8192 + 64, &mb));
	/* Not aligned to 4; wrong checksum. */
	memset(head, 0, 8192 + 64);
	memcpy(head + 2, h.p, 32);
	assert_false(boot_multiboot_find(head, 8192, &mb));
	memset(head, 0, 8192);
	memcpy(head + 4, h.p, 32);
	head[4 + 8] ^= 1;
	assert_false(boot_multiboot_find(head, 8192, &mb));
	assert_false(boot_multiboot_find(head, 0, &mb));
}

static void test_demands(void **state)
{
	(void)state;
	struct boot_file f = { .name = "k" };
	ok(boot_multiboot_check(&(struct boot_multiboot){ .flags = 0x10003 }, &f));
	bad(boot_multiboot_check(&(struct boot_multiboot){ .flags = 0x7 }, &f), ERR_INCOMPAT,
	    "k: the multiboot header demands features 0x4");
	bad(boot_multiboot_check(&(struct boot_multiboot){ .flags = 0x8000 }, &f), ERR_INCOMPAT,
	    "0x8000");
}

/* Information as the specification gives it, by offsets. */
static void check_info(const struct boot_regs *r, const char *cmdline, uint32_t initrd_len)
{
	assert_int_equal(r->mode, BOOT_MULTIBOOT32);
	uint64_t i = r->rbx;
	assert_true(i >= 0x1000 && i + 120 <= 0x9fc00);
	assert_int_equal(rd32(gmem, i), 0x1 | 0x4 | 0x40 | 0x200 | (initrd_len > 0 ? 8 : 0));
	assert_int_equal(rd32(gmem, i + 4), 639);
	assert_int_equal(rd32(gmem, i + 8), 15 * 1024);
	check_string(gmem, rd32(gmem, i + 16), cmdline);
	assert_int_equal(rd32(gmem, i + 20), initrd_len > 0);
	if (initrd_len > 0) {
		uint64_t m = rd32(gmem, i + 24);
		assert_int_equal(rd32(gmem, m), 16 * MIB - PAGE_BYTES);
		assert_int_equal(rd32(gmem, m + 4), 16 * MIB - PAGE_BYTES + initrd_len);
		check_string(gmem, rd32(gmem, m + 8), "");
	}
	uint32_t map_len = rd32(gmem, i + 44);
	uint64_t map = rd32(gmem, i + 48);
	assert_int_equal(map_len, 5 * 24);
	assert_int_equal(rd32(gmem, map), 20);
	assert_int_equal(rd64(gmem, map + 4), 0);
	assert_int_equal(rd64(gmem, map + 12), 0x9fc00);
	assert_int_equal(rd32(gmem, map + 20), 1);
	assert_int_equal(rd64(gmem, map + 3 * 24 + 4), 0x100000);
	assert_int_equal(rd64(gmem, map + 3 * 24 + 12), 15 * MIB);
	check_string(gmem, rd32(gmem, i + 64), "torpor");
}

static void test_elf(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(false);
	k.multiboot = true;
	k.entry = 0xc0100010; /* virtual */
	fk_make_elf(&w, &k);
	struct boot_regs r;
	ok(gmem_clear(gmem));
	ok(load_bytes(gmem, w.p, w.len, "a=1 b", &r));
	assert_int_equal(r.rip, 0x100010);
	check_segments(gmem, &k);
	check_info(&r, "a=1 b", 0);
	check_truncation(gmem, &w);
}

static void test_initrd(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(false);
	k.multiboot = true;
	fk_make_elf(&w, &k);
	SCOPE(fd_close) struct fd fd = { .n = fk_file(w.p, w.len) };
	SCOPE(fd_close) struct fd rd = { .n = fk_file("initrd", 6) };
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = fd.n,
		.initrd_name = "rd",
		.initrd_fd = rd.n,
		.cmdline = "x",
	};
	struct boot_regs r;
	in.acpi_base = GPA(0xe0000);
	in.acpi_len = 0x10000;
	ok(boot_load(gmem, &in, &r));
	check_info(&r, "x", 6);
	assert_memory_equal(gmem_at(gmem, GPA(16 * MIB - PAGE_BYTES), 6), "initrd", 6);
}

/* No ELF: the address fields say where the file goes. */
static void test_raw(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	fk_make_mb_raw(&w);
	struct boot_regs r;
	ok(gmem_clear(gmem));
	ok(load_bytes(gmem, w.p, w.len, "c", &r));
	assert_int_equal(r.rip, FK_MB_LOAD + 0x40);
	assert_memory_equal(gmem_at(gmem, GPA(FK_MB_LOAD), FK_MB_BYTES), w.p, FK_MB_BYTES);
	check_info(&r, "c", 0);
	check_truncation(gmem, &w);
	/* load_end 0: the whole file; bss_end 0: nothing behind it. */
	put_le32(w.p + 8 + 20, 0);
	put_le32(w.p + 8 + 24, 0);
	ok(load_bytes(gmem, w.p, w.len, "", &r));
	put_le32(w.p + 8 + 28, FK_MB_LOAD + FK_MB_BYTES);
	bad(load_bytes(gmem, w.p, w.len, "", &r), ERR_CORRUPT, "lies outside of the image");
}

static void spoil_raw(size_t field, uint32_t v, enum err_class class, const char *part)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	fk_make_mb_raw(&w);
	put_le32(w.p + 8 + field, v);
	struct boot_regs r;
	bad(load_bytes(gmem, w.p, w.len, "", &r), class, part);
}

static void test_bad_raw(void **state)
{
	(void)state;
	spoil_raw(12, FK_MB_LOAD - 1, ERR_CORRUPT,
		  "kernel: multiboot header at byte 8 with address");
	spoil_raw(12, FK_MB_LOAD + 9, ERR_CORRUPT, "multiboot header at byte 8");
	spoil_raw(16, FK_MB_LOAD + 9, ERR_CORRUPT, "multiboot header at byte 8");
	spoil_raw(16, 0, ERR_CORRUPT, "multiboot header at byte 8");
	spoil_raw(20, FK_MB_LOAD, ERR_CORRUPT, "out of order");
	spoil_raw(20, FK_MB_LOAD + 0x2000, ERR_CORRUPT,
		  "truncated multiboot kernel: the image ends");
	spoil_raw(20, FK_MB_LOAD + 0x5000, ERR_CORRUPT, "out of order");
	spoil_raw(24, FK_MB_LOAD + 1, ERR_CORRUPT, "out of order");
	spoil_raw(24, UINT32_MAX, ERR_LIMIT, "kernel: the multiboot image of");
	spoil_raw(28, 0, ERR_CORRUPT, "lies outside of the image");
	spoil_raw(28, UINT32_MAX, ERR_CORRUPT, "lies outside of the image");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find), cmocka_unit_test(test_demands),
		cmocka_unit_test(test_elf),  cmocka_unit_test(test_initrd),
		cmocka_unit_test(test_raw),  cmocka_unit_test(test_bad_raw),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
