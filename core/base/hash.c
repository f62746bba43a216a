/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums and digests. See hash.h.
 *
 * SHA-256 by libcrypto's direct functions, not by EVP: EVP loads a provider and its configuration
 * file at the first digest, which costs 0.5 MiB of private memory per VM and a refused open in the
 * jail. They are the interface of OpenSSL 1.1, kept by 3; hence the level below.
 */
#define OPENSSL_API_COMPAT 10100
#include "core/base/hash.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

struct sha256_ctx {
	SHA256_CTX sha;
};

uint64_t hash_xxh3_64(const void *p, size_t len, uint64_t seed)
{
	return XXH3_64bits_withSeed(p, len, seed);
}

struct hash128 hash_xxh3_128(const void *p, size_t len)
{
	XXH128_canonical_t c;
	XXH128_canonicalFromHash(&c, XXH3_128bits(p, len));
	struct hash128 h;
	_Static_assert(sizeof(c) == sizeof(h), "XXH3-128 is 16 bytes");
	memcpy(h.b, c.digest, sizeof(h.b));
	return h;
}

struct sha256_ctx *sha256_new(void)
{
	struct sha256_ctx *c = calloc(1, sizeof(*c));
	BUG_ON(c == NULL);
	BUG_ON(SHA256_Init(&c->sha) != 1);
	return c;
}

void sha256_update(struct sha256_ctx *c, const void *p, size_t len)
{
	BUG_ON(SHA256_Update(&c->sha, p, len) != 1);
}

struct sha256 sha256_final(struct sha256_ctx *c)
{
	struct sha256 s;
	BUG_ON(SHA256_Final(s.b, &c->sha) != 1);
	BUG_ON(SHA256_Init(&c->sha) != 1);
	return s;
}

void sha256_free(struct sha256_ctx *c)
{
	free(c);
}

struct sha256 sha256_of(const void *p, size_t len)
{
	struct sha256_ctx *c = sha256_new();
	sha256_update(c, p, len);
	struct sha256 s = sha256_final(c);
	sha256_free(c);
	return s;
}

bool sha256_equal(const struct sha256 *a, const struct sha256 *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

void sha256_hex(const struct sha256 *s, char out[65])
{
	for (size_t i = 0; i < sizeof(s->b); i++) {
		snprintf(out + 2 * i, 3, "%02x", s->b[i]);
	}
}

struct err *random_bytes(void *ret, size_t len)
{
	BUG_ON(len > 256);
	if (getrandom(ret, len, 0) != (ssize_t)len) {
		return ERR_ERRNO("reading random bytes");
	}
	return NULL;
}

struct err *uuid_make(uint8_t ret_uuid[16])
{
	uint8_t u[16];
	TRY(random_bytes(u, sizeof(u)));
	u[6] = (uint8_t)((u[6] & 0x0f) | 0x40);
	u[8] = (uint8_t)((u[8] & 0x3f) | 0x80);
	memcpy(ret_uuid, u, sizeof(u));
	return NULL;
}

void uuid_text(const uint8_t u[16], char out[37])
{
	snprintf(out, 37,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		 u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		 u[15]);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	if (c >= 'a' && c <= 'f') {
		return c - 'a' + 10;
	}
	return -1;
}

struct err *uuid_parse(const char *text, uint8_t ret_uuid[16])
{
	uint8_t u[16];
	ENSURE(strlen(text) == 36, ERR_CORRUPT, "not a UUID: %.64s", text);
	const char *p = text;
	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10) {
			ENSURE(*p == '-', ERR_CORRUPT, "not a UUID: %s", text);
			p++;
		}
		int hi = hex_digit(p[0]);
		int lo = hex_digit(p[1]);
		ENSURE(hi >= 0 && lo >= 0, ERR_CORRUPT, "not a UUID: %s", text);
		u[i] = (uint8_t)(hi << 4 | lo);
		p += 2;
	}
	memcpy(ret_uuid, u, sizeof(u));
	return NULL;
}
