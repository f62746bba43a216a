/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small compile-time and run-time checks that every layer uses: must-use results, array lengths,
 * overflow-checked arithmetic, and BUG_ON for our own mistakes.
 *
 * BUG_ON is never for bytes that came from a guest, a file, a socket or a user: those get an error
 * object (err.h). Callable from any thread.
 */
#ifndef TORPOR_BASE_CHECK_H
#define TORPOR_BASE_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))

#define ARRAY_LEN(a)                                                                               \
	(sizeof(a) / sizeof((a)[0]) +                                                              \
	 0 * sizeof(char[1 - 2 * __builtin_types_compatible_p(__typeof__(a), __typeof__(&(a)[0]))]))

#define CONTAINER_OF(ptr, type, member)                                                            \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#define MIN(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) min_a_ = (a);                                                        \
		__typeof__(b) min_b_ = (b);                                                        \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define MAX(a, b)                                                                                  \
	({                                                                                         \
		__typeof__(a) max_a_ = (a);                                                        \
		__typeof__(b) max_b_ = (b);                                                        \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})

/* True when a + b or a * b does not fit; *ret holds the wrapped value then and must not be used. */
#define ADD_OVERFLOWS(a, b, ret) __builtin_add_overflow((a), (b), (ret))
#define MUL_OVERFLOWS(a, b, ret) __builtin_mul_overflow((a), (b), (ret))

static inline uint64_t round_up_u64(uint64_t v, uint64_t unit)
{
	return (v + unit - 1) / unit * unit;
}

/* Prints the condition and its place, then aborts. */
NORETURN void bug_report(const char *cond, const char *file, int line);

#define BUG_ON(cond)                                                                               \
	do {                                                                                       \
		if (__builtin_expect(!!(cond), 0)) {                                               \
			bug_report(#cond, __FILE__, __LINE__);                                     \
		}                                                                                  \
	} while (0)

#endif
