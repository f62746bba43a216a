/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included before everything else that Frama-C parses: GCC's type-generic builtins, which it does not
 * know, in plain C. Used by tests/proofs/run only.
 */
#ifndef TORPOR_TESTS_FRAMA_H
#define TORPOR_TESTS_FRAMA_H

#include <string.h>

#include "core/base/check.h"

#undef ADD_OVERFLOWS
#define ADD_OVERFLOWS(a, b, ret) proof_add_overflows((a), (b), (ret))
static inline bool proof_add_overflows(uint64_t a, uint64_t b, uint64_t *ret)
{
	*ret = a + b; /* unsigned: wraps, as the builtin does */
	return *ret < a;
}
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "one function serves both");

#undef ARRAY_LEN
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define __builtin_memcpy memcpy
static inline uint64_t proof_bswap64(uint64_t v)
{
	uint64_t r = 0;
	for (unsigned i = 0; i < 64; i += 8) {
		r = r << 8 | (v >> i & 0xff);
	}
	return r;
}
#define __builtin_bswap64 proof_bswap64
#define __builtin_expect(x, v) (x)

#endif
