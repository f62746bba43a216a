/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of kernel decompression: every packing, lies about the length, damage, truncation. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/boot_check.h"

#include "core/base/limits.h"
#include "core/boot_unpack.h"

#define PLAIN_BYTES (3u << 20)

static uint8_t *plain;

/* Half text-like, half random: several chunks of input in every packing. */
static int setup(void **state)
{
	(void)state;
	plain = malloc(PLAIN_BYTES);
	uint64_t x = 88172645463325252;
	for (size_t i = 0; i < PLAIN_BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		plain[i] = (uint8_t)(i % 8192 < 4096 ? i / 64 : x);
	}
	return plain == NULL;
}

static int teardown(void **state)
{
	(void)state;
	free(plain);
	return 0;
}

/* Packs len bytes and unpacks them, announcing `size`. */
static struct err *round_trip(enum boot_pack pack, size_t len, size_t size, struct boot_file *ret)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(64 * MIB);
	wbuf_put(&w, "front", 5);
	fk_pack(&w, pack, plain, len);
	BUG_ON(w.failed != 0);
	struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
	size_t tail = pack == BOOT_PACK_GZIP ? 0 : 4;
	return boot_unpack(&f, 5, w.len - 5 - tail, size, ret);
}

static void test_round_trip(void **state)
{
	(void)state;
	static const size_t lens[] = { 1, 1000, 65536, 256 * 1024, PLAIN_BYTES };
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		for (unsigned i = 0; i < ARRAY_LEN(lens); i++) {
			struct boot_file out;
			ok(round_trip(pack, lens[i], lens[i], &out));
			assert_int_equal(out.size, lens[i]);
			assert_memory_equal(out.mem, plain, lens[i]);
			assert_string_equal(out.name, "k");
			boot_file_done(&out);
		}
	}
}

/* More than one block of 8 MiB, and a second magic between them. */
static void test_lz4_blocks(void **state)
{
	(void)state;
	const size_t len = 17 * MIB;
	SCOPE(freep) uint8_t *p = calloc(1, len);
	p[len - 1] = 7;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(64 * MIB);
	fk_pack_lz4(&w, p, 9 * MIB);
	fk_pack_lz4(&w, p + 9 * MIB, len - 9 * MIB);
	struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
	struct boot_file out;
	ok(boot_unpack(&f, 0, w.len, len, &out));
	assert_memory_equal(out.mem, p, len);
	boot_file_done(&out);
}

static void test_wrong_size(void **state)
{
	(void)state;
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		struct boot_file out;
		bad(round_trip(pack, 100000, 100001, &out), ERR_CORRUPT,
		    "k: the kernel unpacks to 100000 bytes, but announces 100001");
		bad(round_trip(pack, 100000, 99999, &out), ERR_CORRUPT,
		    "more than the 99999 bytes");
		bad(round_trip(pack, 100000, 1, &out), ERR_CORRUPT, "more than the 1 bytes");
	}
}

/* A bomb: 64 MiB of zeros announced as 1 KiB stops there. */
static void test_bomb(void **state)
{
	(void)state;
	const size_t len = 64 * MIB;
	SCOPE(freep) uint8_t *zeros = calloc(1, len);
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(256 * MIB);
		fk_pack(&w, pack, zeros, len);
		struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
		struct boot_file out;
		bad(boot_unpack(&f, 0, w.len, 1024, &out), ERR_CORRUPT, "more than the 1024 bytes");
	}
}

static void test_truncated(void **state)
{
	(void)state;
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(4 * MIB);
		fk_pack(&w, pack, plain, 3000);
		struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
		size_t whole = w.len - (pack == BOOT_PACK_GZIP ? 0 : 4);
		for (size_t len = 0; len < whole; len++) {
			struct boot_file out;
			struct err *e = boot_unpack(&f, 0, len, 3000, &out);
			assert_non_null(e);
			err_free(e);
		}
		struct boot_file out;
		bad(boot_unpack(&f, 0, w.len + 1, 3000, &out), ERR_CORRUPT, "truncated file");
	}
}

/* Any single damaged byte: an error, or (where the packing has no checksum) the announced length.
 */
static void test_damage(void **state)
{
	(void)state;
	for (unsigned pack = 0; pack <= BOOT_PACK_LZ4; pack++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(4 * MIB);
		fk_pack(&w, pack, plain, 3000);
		size_t whole = w.len - (pack == BOOT_PACK_GZIP ? 0 : 4);
		unsigned refused = 0;
		for (size_t at = 0; at < whole; at++) {
			w.p[at] ^= 0x55;
			struct boot_file f = { .name = "k", .fd = -1, .mem = w.p, .size = w.len };
			struct boot_file out = { 0 };
			struct err *e = boot_unpack(&f, 0, whole, 3000, &out);
			refused += e != NULL;
			assert_true(e != NULL || out.size == 3000);
			err_free(e);
			boot_file_done(&out);
			w.p[at] ^= 0x55;
		}
		/* gzip, xz and zstd carry checksums of the content; a few header bytes do not
		 * matter. */
		assert_true(pack == BOOT_PACK_LZ4 || refused + 16 > whole);
	}
}

static void test_kinds(void **state)
{
	(void)state;
	static const struct {
		const char *head;
		enum boot_pack pack;
		const char *message;
	} cases[] = {
		{ "BZh91AY", BOOT_PACK_BZIP2, "packed with bzip2 is not supported; rebuild" },
		{ "\x5d\0\0\0\x04\xff", BOOT_PACK_LZMA, "packed with lzma is not supported" },
		{ "\x89LZO\0\r\n", BOOT_PACK_LZO, "packed with lzo is not supported" },
		{ "\x7f"
		  "ELF\2\1",
		  BOOT_PACK_NONE, "packed in an unknown way" },
		{ "hello world", BOOT_PACK_UNKNOWN, "packed in an unknown way" },
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(boot_pack_of((const uint8_t *)cases[i].head, 6), cases[i].pack);
		SCOPE(freep) uint8_t *mem = malloc(6);
		memcpy(mem, cases[i].head, 6);
		struct boot_file f = { .name = "k", .fd = -1, .mem = mem, .size = 6 };
		struct boot_file out;
		bad(boot_unpack(&f, 0, 6, 10, &out), ERR_INCOMPAT, cases[i].message);
	}
	assert_int_equal(boot_pack_of((const uint8_t *)"\x1f", 1), BOOT_PACK_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_lz4_blocks),
		cmocka_unit_test(test_wrong_size), cmocka_unit_test(test_bomb),
		cmocka_unit_test(test_truncated),  cmocka_unit_test(test_damage),
		cmocka_unit_test(test_kinds),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
