/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of bzImage parsing: header fields by hand, versions, payload bounds, announced size. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#include "core/base/limits.h"
#include "core/boot_bzimage.h"

#define HDR(field) (0x1f1 + offsetof(struct setup_header, field))

static void make(struct wbuf *w, enum boot_pack pack)
{
	struct fk_elf k = fk_small(true);
	fk_make_bzimage_of(w, pack, &k);
}

static struct err *parse(const struct wbuf *w, struct boot_bzimage *ret)
{
	struct boot_file f = { .name = "k", .fd = -1, .mem = w->p, .size = w->len };
	return boot_bzimage_parse(&f, ret);
}

static void test_good(void **state)
{
	(void)state;
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		make(&w, pack);
		assert_true(boot_bzimage_is(w.p, w.len));
		assert_false(boot_bzimage_is(w.p, 0x205));
		struct boot_bzimage bz;
		ok(parse(&w, &bz));
		assert_int_equal(bz.pack, pack);
		assert_int_equal(bz.payload_off, FK_BZ_PAYLOAD);
		assert_int_equal(bz.payload_len, w.len - FK_BZ_PAYLOAD);
		assert_int_equal(bz.unpacked_size, 64 + 56 + 64);
		assert_int_equal(bz.hdr.initrd_addr_max, 0x7fffffff);
		struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
		struct boot_file elf;
		bad(boot_bzimage_unpack(&bz, &f, 183, &elf), ERR_LIMIT,
		    "k: unpacks to 184 bytes, but at most 183 can be loaded; give the VM more");
		ok(boot_bzimage_unpack(&bz, &f, 184, &elf));
		assert_int_equal(elf.size, 184);
		assert_memory_equal(elf.mem, ELFMAG, SELFMAG);
		boot_file_done(&elf);
	}
}

/* An old header is shorter: what lies behind it is code and must not be taken for fields. */
static void test_short_header(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	make(&w, BOOT_PACK_GZIP);
	put_le16(w.p + HDR(version), 0x208);
	w.p[0x201] = (uint8_t)(HDR(setup_data) - 0x202);
	memset(w.p + HDR(setup_data), 0xcc, 24);
	struct boot_bzimage bz;
	ok(parse(&w, &bz));
	assert_int_equal(bz.hdr.pref_address, 0);
	assert_int_equal(bz.hdr.init_size, 0);
	w.p[0x201]--;
	bad(parse(&w, &bz), ERR_CORRUPT, "k: bzImage with a setup header of");
}

static void spoil(size_t at, uint64_t v, size_t bytes, enum err_class class, const char *part)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	make(&w, BOOT_PACK_ZSTD);
	memcpy(w.p + at, &v, bytes);
	struct boot_bzimage bz;
	bad(parse(&w, &bz), class, part);
}

static void test_bad_header(void **state)
{
	(void)state;
	spoil(HDR(version), 0x207, 2, ERR_INCOMPAT, "boot protocol 2.07, but 2.08");
	spoil(HDR(header), 0, 4, ERR_CORRUPT, "not a bzImage");
	spoil(HDR(boot_flag), 0, 2, ERR_CORRUPT, "not a bzImage");
	spoil(HDR(payload_length), 0, 4, ERR_CORRUPT, "payload of 0 bytes");
	spoil(HDR(payload_length), 10, 4, ERR_CORRUPT, "payload of 10 bytes");
	spoil(HDR(payload_length), UINT32_MAX, 4, ERR_CORRUPT,
	      "truncated bzImage: the payload ends");
	spoil(HDR(payload_offset), UINT32_MAX, 4, ERR_CORRUPT,
	      "truncated bzImage: the payload ends");
	spoil(HDR(setup_sects), 64, 1, ERR_CORRUPT, "truncated bzImage: the payload ends");
	spoil(HDR(setup_sects), 0, 1, ERR_CORRUPT, "truncated bzImage: the payload ends");
}

static void test_bad_payload(void **state)
{
	(void)state;
	static const struct {
		const char *head;
		const char *part;
	} cases[] = {
		{ "BZh9", "k: a kernel packed with bzip2 is not supported; rebuild it with" },
		{ "\x5d\0\0\0", "lzma" },
		{ "\x89LZO", "lzo" },
		{ "\x7f"
		  "ELF",
		  "unknown way" },
		{ "abcd", "unknown way" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		make(&w, BOOT_PACK_ZSTD);
		memcpy(w.p + FK_BZ_PAYLOAD, cases[i].head, 4);
		struct boot_bzimage bz;
		ok(parse(&w, &bz)); /* its kind can be told all the same */
		struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
		struct boot_file elf;
		bad(boot_bzimage_unpack(&bz, &f, GIB, &elf), ERR_INCOMPAT, cases[i].part);
	}
}

static void test_announced_size(void **state)
{
	(void)state;
	static const struct {
		uint32_t size;
		enum err_class class;
		const char *part;
	} cases[] = {
		{ 0, ERR_CORRUPT, "is empty" },
		{ UINT32_MAX, ERR_LIMIT, "unpacks to 4294967295 bytes, but at most 1073741824" },
		{ GIB, ERR_CORRUPT, "unpacks to 184 bytes, but announces 1073741824" },
		{ 183, ERR_CORRUPT, "more than the 183 bytes" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
		make(&w, BOOT_PACK_XZ);
		put_le32(w.p + w.len - 4, cases[i].size);
		struct boot_bzimage bz;
		ok(parse(&w, &bz));
		struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
		struct boot_file elf;
		bad(boot_bzimage_unpack(&bz, &f, UINT64_MAX, &elf), cases[i].class, cases[i].part);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),           cmocka_unit_test(test_short_header),
		cmocka_unit_test(test_bad_header),     cmocka_unit_test(test_bad_payload),
		cmocka_unit_test(test_announced_size),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
