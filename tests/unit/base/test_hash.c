/* SPDX-License-Identifier: Apache-2.0 */
/* Digests against published vectors; UUID text round trip and refusal. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/base/hash.h"

static void test_sha256_vectors(void **state)
{
	(void)state;
	char hex[65];
	struct sha256 s = sha256_of("abc", 3); /* FIPS 180-4 example */
	sha256_hex(&s, hex);
	assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	for (int round = 0; round < 3; round++) {
		sha256_update(c, "a", 1);
		sha256_update(c, "bc", 2);
		struct sha256 again = sha256_final(c);
		assert_true(sha256_equal(&s, &again));
	}
	s = sha256_of("", 0);
	sha256_hex(&s, hex);
	assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_xxh3_is_stable(void **state)
{
	(void)state;
	/* XXH3 of the empty input, seed 0: published in the algorithm's own test values. */
	assert_true(hash_xxh3_64("", 0, 0) == 0x2d06800538d394c2ull);
	struct hash128 h = hash_xxh3_128("", 0);
	const uint8_t want[16] = { 0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
				   0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f };
	assert_memory_equal(h.b, want, 16);
	assert_true(hash_xxh3_64("abc", 3, 1) != hash_xxh3_64("abc", 3, 2));
}

static void test_uuid(void **state)
{
	(void)state;
	uint8_t a[16];
	uint8_t b[16];
	assert_null(uuid_make(a));
	assert_null(uuid_make(b));
	assert_memory_not_equal(a, b, 16);
	char text[37];
	uuid_text(a, text);
	assert_int_equal(text[14], '4');
	assert_null(uuid_parse(text, b));
	assert_memory_equal(a, b, 16);
	const char *bad[] = { "", "x", "0123456789abcdef0123456789abcdef0123",
			      "0123456-89ab-4def-8123-456789abcdefff", "g1234567-89ab-4def-8123-456789abcdef" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err *e = uuid_parse(bad[i], b);
		assert_non_null(e);
		err_free(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256_vectors),
		cmocka_unit_test(test_xxh3_is_stable),
		cmocka_unit_test(test_uuid),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
