/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the proofs assume of the functions around the decoders: an error is some object, a digest is
 * any value and its input is readable. BUG_ON must not be reached. Parsed by Frama-C only.
 */
#include "__fc_builtin.h"
#include "core/base/err.h"
#include "core/base/hash.h"

struct err {
	int unused;
};
static struct err some_error;

struct err *err_make(enum err_class class, int sys, const char *file, int line, const char *fmt,
		     ...)
{
	return &some_error;
}

struct err *err_wrap(struct err *e, const char *fmt, ...)
{
	return e;
}

struct err *err_trace(struct err *e, const char *file, int line)
{
	return e;
}

void err_free(struct err *e)
{
}

void bug_report(const char *cond, const char *file, int line)
{
	/*@ assert never_a_bug: \false; */
	for (;;) {
	}
}

/* Tables nested deeper than the proof's: tests/proofs/prepare. */
struct err *nested_too_deep(void)
{
	/*@ assert never_so_deep: \false; */
	return &some_error;
}

/* Both ends are read: what lies between is in the same object. */
static void read_all(const void *p, size_t len)
{
	const unsigned char *b = p;
	volatile unsigned char sink;
	if (len > 0) {
		sink = b[0];
		sink = b[len - 1];
	}
}

uint64_t hash_xxh3_64(const void *p, size_t len, uint64_t seed)
{
	read_all(p, len);
	return Frama_C_unsigned_long_interval(0, UINT64_MAX);
}

struct hash128 hash_xxh3_128(const void *p, size_t len)
{
	struct hash128 h;
	read_all(p, len);
	Frama_C_make_unknown((char *)h.b, sizeof(h.b));
	return h;
}

struct sha256_ctx {
	int unused;
};
static struct sha256_ctx context;

struct sha256_ctx *sha256_new(void)
{
	return &context;
}

void sha256_free(struct sha256_ctx *c)
{
}

void sha256_update(struct sha256_ctx *c, const void *p, size_t len)
{
	read_all(p, len);
}

struct sha256 sha256_final(struct sha256_ctx *c)
{
	struct sha256 s;
	Frama_C_make_unknown((char *)s.b, sizeof(s.b));
	return s;
}

bool sha256_equal(const struct sha256 *a, const struct sha256 *b)
{
	read_all(a->b, sizeof(a->b));
	read_all(b->b, sizeof(b->b));
	return Frama_C_interval(0, 1);
}
