/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/base/rate_limit.c: rates over any steps of time, what is taken ahead, saved and
 * loaded values. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/rate_limit.h"

#define S 1000000000ull

static void test_none(void **state)
{
	(void)state;
	struct rate_limit r = rate_limit_of(0);
	rate_limit_take(&r, UINT64_MAX);
	assert_int_equal(rate_limit_wait(&r, 0), 0);
	assert_int_equal(rate_limit_wait(&r, UINT64_MAX), 0);
}

/* A second's worth at once, then the rate, however time is cut. */
static void test_rates(void **state)
{
	(void)state;
	static const uint64_t rates[] = { 1, 3, 50, 999, 1000000007, RATE_LIMIT_MAX };
	for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++) {
		struct rate_limit r = rate_limit_of(rates[i]);
		uint64_t now = 5 * S, piece = rates[i] / 7 + 1, taken = 0, step = 0;
		rate_limit_resume(&r, now);
		while (now < 25 * S) {
			uint64_t wait = rate_limit_wait(&r, now);
			if (wait == 0) {
				rate_limit_take(&r, piece);
				taken += piece;
				continue;
			}
			/* Asked too early it tells the rest. */
			step = (step * 7 + 1) % 5;
			uint64_t part = step == 0 ? wait : wait / (step + 1);
			now += part > 0 ? part : 1;
			assert_true(rate_limit_wait(&r, now) <= wait);
		}
		/* 21 seconds' worth and a piece ahead, each a token at most too few or too many. */
		assert_true(taken + 2 * piece >= 21 * rates[i]);
		assert_true(taken <= 21 * rates[i] + 2 * piece);
	}
}

/* A pause brings a second's worth, not more; stopped time nothing. */
static void test_pauses(void **state)
{
	(void)state;
	struct rate_limit r = rate_limit_of(10);
	rate_limit_resume(&r, 0);
	rate_limit_take(&r, 10);
	assert_int_equal(rate_limit_wait(&r, 0), S / 10);
	assert_int_equal(rate_limit_wait(&r, S / 10 - 1), 1);
	assert_int_equal(rate_limit_wait(&r, S / 10), 0);
	rate_limit_take(&r, 1);
	rate_limit_resume(&r, 1000 * S);
	assert_int_equal(rate_limit_wait(&r, 1000 * S), S / 10);
	assert_int_equal(rate_limit_wait(&r, 2000 * S), 0);
	assert_int_equal(r.left, 10);
	assert_int_equal(rate_limit_wait(&r, 1 * S), 0); /* a time that has been */
	/* Ahead by three seconds' worth: one more than that until the next. */
	rate_limit_take(&r, 40);
	assert_int_equal(rate_limit_wait(&r, 2000 * S), 3 * S + S / 10);
	assert_int_equal(rate_limit_wait(&r, 2003 * S + S / 10), 0);
}

static void test_saved(void **state)
{
	(void)state;
	struct rate_limit r = rate_limit_of(100), other = rate_limit_of(100);
	rate_limit_take(&r, 130);
	rate_limit_load(&other, rate_limit_save(&r));
	assert_int_equal(other.left, -30);
	/* Whatever was saved: never more than a second's worth, never stuck for long. */
	rate_limit_load(&other, INT64_MAX);
	assert_int_equal(other.left, 100);
	rate_limit_load(&other, 1ull << 63);
	assert_int_equal(other.left, -800);
	struct rate_limit none = rate_limit_of(0);
	rate_limit_load(&none, 5);
	assert_int_equal(none.left, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_rates),
		cmocka_unit_test(test_pauses),
		cmocka_unit_test(test_saved),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
