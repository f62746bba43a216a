/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of the ELF loader: both classes, notes, hostile headers, segments, entry addresses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#include "core/boot_elf.h"

#define EHDR64(field) offsetof(Elf64_Ehdr, field)
#define PHDR64(i, field)                                                                           \
	(sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field))

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

static struct err *parse(const struct wbuf *w, struct boot_elf *ret)
{
	SCOPE(freep) uint8_t *copy = malloc(w->len);
	memcpy(copy, w->p, w->len);
	struct boot_file f = { .name = "k", .fd = -1, .mem = copy, .size = w->len };
	return boot_elf_parse(&f, ret);
}

static struct err *load(const struct wbuf *w, struct boot_place *place)
{
	SCOPE(freep) uint8_t *copy = malloc(w->len);
	memcpy(copy, w->p, w->len);
	struct boot_file f = { .name = "k", .fd = -1, .mem = copy, .size = w->len };
	struct boot_elf elf;
	TRY(boot_elf_parse(&f, &elf));
	TRY(boot_place_init(place, gmem, GPA(0xe0000), 0x10000));
	return boot_elf_load(&elf, &f, gmem, place);
}

static void test_good(void **state)
{
	(void)state;
	for (unsigned is64 = 0; is64 < 2; is64++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = fk_small(is64);
		k.pvh_bytes = is64 ? 8 : 4;
		k.pvh_entry = 0x100010;
		k.nsegs = 3;
		k.seg[1] = (struct fk_seg){ 0, 0x300000, 5000, 5001 };
		k.seg[2] = (struct fk_seg){ 0, 0x400000, 0, 100 };
		fk_make_elf(&w, &k);
		struct boot_elf elf;
		ok(parse(&w, &elf));
		assert_int_equal(elf.is64, is64);
		assert_int_equal(elf.entry, 0x100000);
		assert_true(elf.has_pvh);
		assert_int_equal(elf.pvh_entry, 0x100010);
		assert_false(elf.is_linux);
		assert_int_equal(elf.nsegs, 3);
		struct boot_place place;
		uint64_t bits[16 * MIB / PAGE_BYTES / 64] = { 0 };
		ok(gmem_clear(gmem));
		gmem_fetch_dirty(gmem, 0, bits); /* what the clearing itself marked */
		memset(bits, 0, sizeof(bits));
		ok(load(&w, &place));
		check_segments(gmem, &k);
		/* What was written is marked, so that the next snapshot sees it. */
		gmem_fetch_dirty(gmem, 0, bits);
		assert_true(bits[0x300000 / PAGE_BYTES / 64] & 1);
		assert_true(bits[0x300000 / PAGE_BYTES / 64] & 2);
		assert_false(bits[0x400000 / PAGE_BYTES / 64] & 1);
	}
}

/* One field of a sound 64-bit file is spoiled. */
static void spoil(size_t at, uint64_t v, size_t bytes, enum err_class class, const char *part)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	k.pvh_bytes = 8;
	k.pvh_entry = 0x100000;
	fk_make_elf(&w, &k);
	memcpy(w.p + at, &v, bytes);
	struct boot_elf elf;
	bad(parse(&w, &elf), class, part);
}

static void test_header(void **state)
{
	(void)state;
	spoil(0, 0, 1, ERR_CORRUPT, "not an ELF");
	spoil(EI_CLASS, 3, 1, ERR_INCOMPAT, "32 or 64 bits");
	spoil(EI_DATA, ELFDATA2MSB, 1, ERR_INCOMPAT, "little-endian");
	spoil(EI_VERSION, 9, 1, ERR_INCOMPAT, "little-endian");
	spoil(EHDR64(e_machine), EM_AARCH64, 2, ERR_INCOMPAT, "for machine 183");
	spoil(EHDR64(e_machine), EM_386, 2, ERR_INCOMPAT, "for machine 3");
	spoil(EHDR64(e_type), ET_REL, 2, ERR_CORRUPT, "ELF type 1 is no executable");
	spoil(EHDR64(e_phnum), 0, 2, ERR_CORRUPT, "without program headers");
	spoil(EHDR64(e_phnum), 0xffff, 2, ERR_LIMIT, "65535 program headers, at most 128");
	spoil(EHDR64(e_phnum), 128, 2, ERR_CORRUPT, "truncated ELF: ");
	spoil(EHDR64(e_phentsize), 32, 2, ERR_CORRUPT, "program headers of 32 bytes");
	spoil(EHDR64(e_phoff), UINT64_MAX, 8, ERR_CORRUPT, "beyond 64-bit offsets");
	spoil(EHDR64(e_phoff), UINT64_MAX - 50, 8, ERR_CORRUPT, "beyond 64-bit offsets");
	spoil(EHDR64(e_phoff), 200, 8, ERR_CORRUPT, "k: truncated ELF: program header 1 ends at");
}

static void test_program_headers(void **state)
{
	(void)state;
	spoil(PHDR64(1, p_filesz), UINT64_MAX, 8, ERR_CORRUPT, "beyond 64-bit offsets");
	spoil(PHDR64(1, p_filesz), 65, 8, ERR_CORRUPT,
	      "truncated ELF: segment 1 ends at byte 265 of");
	spoil(PHDR64(1, p_offset), UINT64_MAX, 8, ERR_CORRUPT, "beyond 64-bit offsets");
	spoil(PHDR64(1, p_memsz), 63, 8, ERR_CORRUPT, "64 bytes in the file but 63 in memory");
	spoil(PHDR64(1, p_memsz), UINT64_MAX, 8, ERR_CORRUPT, "beyond 64-bit addresses");
	spoil(PHDR64(1, p_paddr), UINT64_MAX - 5, 8, ERR_CORRUPT, "beyond 64-bit addresses");
	spoil(PHDR64(1, p_type), PT_NULL, 4, ERR_CORRUPT, "nothing to load");
	spoil(PHDR64(0, p_offset), 300, 8, ERR_CORRUPT, "truncated ELF: note segment 0 ends at");
	spoil(PHDR64(0, p_filesz), UINT64_MAX, 8, ERR_CORRUPT, "beyond 64-bit offsets");
}

static void test_notes(void **state)
{
	(void)state;
	const size_t note = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
	spoil(note, 1000, 4, ERR_CORRUPT, "k: note segment 0: ");
	spoil(note, UINT32_MAX, 4, ERR_CORRUPT, "k: note segment 0: ");
	spoil(note + 4, 9, 4, ERR_CORRUPT, "k: note segment 0: ");
	spoil(note + 4, 5, 4, ERR_CORRUPT, "PVH note of 5 bytes");
	spoil(note + 4, UINT32_MAX, 4, ERR_CORRUPT, "k: note segment 0: ");
	spoil(note + 20, 1, 4, ERR_CORRUPT, "is not below 4 GiB");
	/* Other owner, other type: no PVH note, but a sound file. */
	for (unsigned i = 0; i < 2; i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = fk_small(true);
		k.pvh_bytes = 8;
		fk_make_elf(&w, &k);
		w.p[note + (i == 0 ? 8 : 12)] ^= 1;
		struct boot_elf elf;
		ok(parse(&w, &elf));
		assert_false(elf.has_pvh);
	}
}

/* Several notes, odd lengths with padding, the PVH note last. */
static void test_many_notes(void **state)
{
	(void)state;
	for (unsigned align = 4; align <= 8; align += 4) {
		SCOPE(wbuf_done) struct wbuf notes = wbuf_make(4096);
		wbuf_u32(&notes, 6);
		wbuf_u32(&notes, 1);
		wbuf_u32(&notes, 257);
		wbuf_put(&notes, "Linux\0\0\0\x01\0\0\0\0\0\0\0", align == 8 ? 16 : 12);
		wbuf_u32(&notes, 4);
		wbuf_u32(&notes, 4);
		wbuf_u32(&notes, 18);
		wbuf_put(&notes, "Xen\0\0\0\0\0", align);
		wbuf_u32(&notes, 0x100020);
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = fk_small(true);
		k.pvh_bytes = 8;
		fk_make_elf(&w, &k);
		put_le64(w.p + PHDR64(0, p_offset), w.len);
		put_le64(w.p + PHDR64(0, p_filesz), notes.len);
		put_le64(w.p + PHDR64(0, p_align), align);
		wbuf_put(&w, notes.p, notes.len);
		struct boot_elf elf;
		ok(parse(&w, &elf));
		assert_true(elf.has_pvh);
		assert_int_equal(elf.pvh_entry, 0x100020);
		assert_true(elf.is_linux);
	}
}

static void test_segments(void **state)
{
	(void)state;
	static const struct {
		struct fk_seg second;
		enum err_class class;
		const char *part;
	} cases[] = {
		{ { 0, 0x100040, 8, 8 },
		  ERR_CORRUPT,
		  "k: segment 1 [0x100040, 0x100048) overlaps" },
		{ { 0, 0xff000, 0, 0x2000 }, ERR_CORRUPT, "overlaps" },
		{ { 0, 0x100000, 64, 64 }, ERR_CORRUPT, "overlaps segment 0" },
		{ { 0, 0xe8000, 8, 8 }, ERR_CORRUPT, "overlaps" },
		{ { 0, 0xa0000, 8, 8 }, ERR_CORRUPT, "the reserved area below 1 MiB" },
		{ { 0, 0, 8, 8 }, ERR_CORRUPT, "the first page" },
		{ { 0, 16 * MIB, 8, 8 }, ERR_LIMIT, "outside of the guest's memory of 16 MiB" },
		{ { 0, 16 * MIB - 8, 8, 9 }, ERR_LIMIT, "outside" },
		{ { 0, 0x200000, 8, 1ull << 50 }, ERR_LIMIT, "outside" },
		{ { 0, 5 * GIB, 8, 8 }, ERR_LIMIT, "outside" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		struct fk_elf k = fk_small(true);
		k.nsegs = 2;
		k.seg[1] = cases[i].second;
		fk_make_elf(&w, &k);
		struct boot_place place;
		bad(load(&w, &place), cases[i].class, cases[i].part);
	}
}

static void test_too_many(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	k.nsegs = BOOT_ELF_SEGS_MAX + 1;
	for (unsigned i = 1; i < k.nsegs; i++) {
		k.seg[i] = (struct fk_seg){ 0, 0x200000 + i * 0x1000, 8, 8 };
	}
	fk_make_elf(&w, &k);
	struct boot_elf elf;
	bad(parse(&w, &elf), ERR_LIMIT, "more than 32 loadable segments");
}

static void test_phys(void **state)
{
	(void)state;
	struct boot_file f = { .name = "k" };
	struct boot_elf elf = {
		.nsegs = 2,
		.seg = { { .vaddr = 0xffffffff81000000, .paddr = 0x1000000, .memsz = 0x1000 },
			 { .vaddr = 0x1000000, .paddr = 0x2000000, .memsz = 0x1000 } },
	};
	uint64_t at = 0;
	ok(boot_elf_phys(&elf, &f, 0x1000010, &at)); /* physical goes before virtual */
	assert_int_equal(at, 0x1000010);
	ok(boot_elf_phys(&elf, &f, 0xffffffff81000fff, &at));
	assert_int_equal(at, 0x1000fff);
	bad(boot_elf_phys(&elf, &f, 0x1001000, &at), ERR_CORRUPT,
	    "k: entry point 0x1001000 lies in no loaded segment");
	bad(boot_elf_phys(&elf, &f, UINT64_MAX, &at), ERR_CORRUPT, "no loaded segment");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_program_headers),
		cmocka_unit_test(test_notes),
		cmocka_unit_test(test_many_notes),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_too_many),
		cmocka_unit_test(test_phys),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
