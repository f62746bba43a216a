/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of kernel loading as a whole: which kind is chosen, initrd, command line, mutations. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#define MUTATIONS 10000u

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

static void check_kind(const void *p, size_t len, const char *want)
{
	SCOPE(fd_close) struct fd fd = { .n = fk_file(p, len) };
	char text[64] = "";
	ok(boot_kind(fd.n, text, sizeof(text)));
	assert_string_equal(text, want);
}

static void test_kinds(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_elf(&w, &k);
	check_kind(w.p, w.len, "ELF64 vmlinux");
	/* A PVH note goes first, a multiboot header in an ELF64 file without address fields last.
	 */
	k.multiboot = true;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	check_kind(w.p, w.len, "ELF64 vmlinux");
	k.pvh_bytes = 8;
	k.pvh_entry = 0x100000;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	check_kind(w.p, w.len, "PVH ELF");
	k = fk_small(false);
	k.multiboot = true;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	check_kind(w.p, w.len, "multiboot");
	wbuf_reset(&w);
	fk_make_mb_raw(&w);
	check_kind(w.p, w.len, "multiboot");
	static const char *const packs[] = { "bzImage (gzip)", "bzImage (xz)", "bzImage (zstd)",
					     "bzImage (lz4)" };
	k = fk_small(true);
	for (unsigned i = 0; i < ARRAY_LEN(packs); i++) {
		wbuf_reset(&w);
		fk_make_bzimage_of(&w, i, &k);
		check_kind(w.p, w.len, packs[i]);
	}
}

static void test_no_kernel(void **state)
{
	(void)state;
	struct boot_regs r;
	SCOPE(freep) uint8_t *zeros = calloc(1, 10000);
	bad(load_bytes(gmem, zeros, 0, "", &r), ERR_CORRUPT, "kernel: the file is empty");
	bad(load_bytes(gmem, zeros, 1, "", &r), ERR_CORRUPT, "kernel: not a kernel");
	bad(load_bytes(gmem, zeros, 10000, "", &r), ERR_CORRUPT, "kernel: not a kernel");
	/* Not bootable though ELF: 32 bits, no note, no header. */
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(false);
	fk_make_elf(&w, &k);
	bad(load_bytes(gmem, w.p, w.len, "", &r), ERR_INCOMPAT, "neither a PVH note nor");
	/* A bzImage with something else inside. */
	wbuf_reset(&w);
	SCOPE(wbuf_done) struct wbuf packed = wbuf_make(FK_FILE_MAX);
	fk_pack(&packed, BOOT_PACK_XZ, zeros, 10000);
	fk_make_bzimage(&w, packed.p, packed.len);
	bad(load_bytes(gmem, w.p, w.len, "", &r), ERR_CORRUPT, "is no ELF file");
	/* A descriptor that cannot be read. */
	struct boot_input in = { .kernel_name = "kernel", .kernel_fd = -1, .initrd_fd = -1 };
	struct err *e = boot_load(gmem, &in, &r);
	assert_non_null(e);
	err_free(e);
}

/* bzImage with a PVH kernel inside: entered by PVH. */
static void test_bzimage_pvh(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	k.pvh_bytes = 8;
	k.pvh_entry = 0x100008;
	fk_make_bzimage_of(&w, BOOT_PACK_ZSTD, &k);
	struct boot_regs r;
	ok(load_bytes(gmem, w.p, w.len, "", &r));
	assert_int_equal(r.mode, BOOT_PVH32);
	assert_int_equal(r.rip, 0x100008);
}

/* Like load_bytes, with an initrd of `len` bytes that takes no room on the host. */
static struct err *load_with_initrd(struct gmem *g, const struct wbuf *w, uint64_t len,
				    struct boot_regs *r)
{
	SCOPE(fd_close) struct fd fd = { .n = fk_file(w->p, w->len) };
	SCOPE(fd_close) struct fd rd = { .n = fk_file("", 0) };
	assert_int_equal(ftruncate(rd.n, (off_t)len), 0);
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = fd.n,
		.initrd_name = "rd.img",
		.initrd_fd = rd.n,
		.cmdline = "",
	};
	return boot_load(g, &in, r);
}

static void test_initrd_size(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_elf(&w, &k);
	struct boot_regs r;
	/* The kernel takes the first two pages above 1 MiB. */
	ok(load_with_initrd(gmem, &w, 15 * MIB - 2 * PAGE_BYTES, &r));
	bad(load_with_initrd(gmem, &w, 15 * MIB - 2 * PAGE_BYTES + 1, &r), ERR_LIMIT,
	    "rd.img: initrd of 15720449 bytes does not fit beside the kernel into the 16 MiB of "
	    "memory below address 0x1000000; give the VM more (--mem) or make the initrd smaller");
	bad(load_with_initrd(gmem, &w, INITRD_BYTES_MAX, &r), ERR_LIMIT, "rd.img: initrd of");
	bad(load_with_initrd(gmem, &w, INITRD_BYTES_MAX + 1, &r), ERR_LIMIT, "rd.img: 8589934593");
	bad(load_with_initrd(gmem, &w, 0, &r), ERR_CORRUPT, "rd.img: the file is empty");
}

/* The initrd ends where the kernel's header allows. */
static void test_initrd_limit(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_bzimage_of(&w, BOOT_PACK_LZ4, &k);
	put_le32(w.p + 0x22c, 0x7fffff);
	struct boot_regs r;
	ok(load_with_initrd(gmem, &w, 5000, &r));
	assert_int_equal(rd32(gmem, r.rsi + 0x218), 8 * MIB - 2 * PAGE_BYTES);
	bad(load_with_initrd(gmem, &w, 8 * MIB, &r), ERR_LIMIT,
	    "8 MiB of memory below address 0x800000; make the initrd smaller");
}

static void test_cmdline(void **state)
{
	(void)state;
	SCOPE(freep) char *text = malloc(5001);
	memset(text, 'c', 5000);
	text[5000] = '\0';
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct boot_regs r;
	struct fk_elf k = fk_small(true);
	/* {kernel kind, longest command line} */
	for (unsigned kind = 0; kind < 3; kind++) {
		static const size_t max[] = { 2047, 255, 4095 };
		wbuf_reset(&w);
		if (kind == 1) {
			fk_make_bzimage_of(&w, BOOT_PACK_GZIP, &k);
		} else {
			k.pvh_bytes = kind == 2 ? 8 : 0;
			k.pvh_entry = 0x100000;
			fk_make_elf(&w, &k);
		}
		ok(load_bytes(gmem, w.p, w.len, text + 5000 - max[kind], &r));
		bad(load_bytes(gmem, w.p, w.len, text + 5000 - max[kind] - 1, &r), ERR_LIMIT,
		    "bytes, but kernel takes at most");
		bad(load_bytes(gmem, w.p, w.len, text, &r), ERR_LIMIT,
		    "command line of 5000 bytes");
	}
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/*
 * Random damage: one to four changes of a byte, a word or a doubleword to something random or to a
 * value at an edge. Whatever comes out is an error of one line or registers that point into memory.
 */
static void mutate(const struct wbuf *w, uint64_t seed)
{
	static const uint64_t edges[] = {
		0,          1,        0x7fffffff, 0x80000000, UINT32_MAX,
		UINT64_MAX, 0x100000, 0xa0000,    16 * MIB,   1ull << 63
	};
	SCOPE(fd_close) struct fd fd = { .n = fk_file(w->p, w->len) };
	SCOPE(freep) uint8_t *m = malloc(w->len);
	uint64_t x = seed;
	unsigned good = 0;
	for (unsigned i = 0; i < MUTATIONS; i++) {
		memcpy(m, w->p, w->len);
		for (uint64_t n = next_random(&x) % 4 + 1; n > 0; n--) {
			size_t bytes = 1u << next_random(&x) % 4;
			size_t at = next_random(&x) % (w->len - bytes);
			uint64_t v = next_random(&x);
			if (v % 2) {
				v = edges[v / 2 % ARRAY_LEN(edges)];
			}
			memcpy(m + at, &v, bytes);
		}
		ok(io_pwrite_full(fd.n, m, w->len, 0));
		struct boot_input in = {
			.kernel_name = "kernel",
			.kernel_fd = fd.n,
			.initrd_fd = -1,
			.cmdline = "a",
		};
		struct boot_regs r = { 0 };
		struct err *e = boot_load(gmem, &in, &r);
		if (e == NULL) {
			good++;
			assert_non_null(gmem_at(gmem, GPA(r.rip), 1));
			assert_true(r.rbx != 0 || r.rsi != 0);
		} else {
			assert_true(strlen(err_msg(e)) > 8);
			assert_null(strchr(err_msg(e), '\n'));
			err_free(e);
		}
	}
	/* Otherwise nothing behind the first check was reached. */
	assert_true(good > 0 && good < MUTATIONS);
}

static void test_mutations(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	k.nsegs = 2;
	k.seg[1] = (struct fk_seg){ 0, 0x200000, 32, 64 };
	fk_make_elf(&w, &k);
	mutate(&w, 1);
	k.pvh_bytes = 8;
	k.pvh_entry = 0x100000;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	mutate(&w, 2);
	k.is64 = false;
	k.pvh_bytes = 0;
	k.multiboot = true;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	mutate(&w, 3);
	wbuf_reset(&w);
	fk_make_mb_raw(&w);
	mutate(&w, 4);
}

static void test_mutations_bzimage(void **state)
{
	(void)state;
	struct fk_elf k = fk_small(true);
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		fk_make_bzimage_of(&w, pack, &k);
		mutate(&w, 5 + pack);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kinds),        cmocka_unit_test(test_no_kernel),
		cmocka_unit_test(test_bzimage_pvh),  cmocka_unit_test(test_initrd_size),
		cmocka_unit_test(test_initrd_limit), cmocka_unit_test(test_cmdline),
		cmocka_unit_test(test_mutations),    cmocka_unit_test(test_mutations_bzimage),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
