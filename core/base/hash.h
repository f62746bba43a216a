/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums and digests: XXH3 for rot, SHA-256 for identity of maps and roots.
 * The only includer of xxhash.h and of OpenSSL. Any thread.
 */
#ifndef TORPOR_BASE_HASH_H
#define TORPOR_BASE_HASH_H

#include "core/base/err.h"

struct hash128 {
	uint8_t b[16]; /* canonical (big-endian) XXH3-128 */
};
struct sha256 {
	uint8_t b[32];
};

uint64_t hash_xxh3_64(const void *p, size_t len, uint64_t seed);
struct hash128 hash_xxh3_128(const void *p, size_t len);

/* Streaming SHA-256; no failure but lack of memory, which aborts (BUG_ON): inputs are bounded. */
struct sha256_ctx;
struct sha256_ctx *sha256_new(void);
void sha256_update(struct sha256_ctx *c, const void *p, size_t len);
/* Gives the digest and makes the context ready for the next message. */
struct sha256 sha256_final(struct sha256_ctx *c);
void sha256_free(struct sha256_ctx *c);
struct sha256 sha256_of(const void *p, size_t len);
bool sha256_equal(const struct sha256 *a, const struct sha256 *b);
/* Lower-case hex with NUL into out[65]. */
void sha256_hex(const struct sha256 *s, char out[65]);

DEFINE_SCOPE(struct sha256_ctx, sha256_free)

/* 16 random bytes with the version-4 UUID bits set. */
/* Random bytes of the kernel; len at most 256, so that the call is never cut short. */
MUST_USE struct err *random_bytes(void *ret, size_t len);
MUST_USE struct err *uuid_make(uint8_t ret_uuid[16]);
void uuid_text(const uint8_t uuid[16], char out[37]);
MUST_USE struct err *uuid_parse(const char *text, uint8_t ret_uuid[16]);

#endif
