/* SPDX-License-Identifier: Apache-2.0 */
/* The set of ids: against a plain model. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/idset.h"
#include "tests/unit/store/store_fix.h"

static void against_a_model(void **state)
{
	(void)state;
	enum {
		N = 50000,
	};
	SCOPE(idset_done) struct idset s = { 0 };
	bool *in = calloc(N, 1);
	assert_false(idset_has(&s, 1));
	uint64_t seed = 1;
	size_t count = 0;
	for (unsigned i = 0; i < N; i++) {
		/* Ids of several sessions: dense runs far apart. */
		uint64_t k = fix_rnd(&seed) % N;
		uint64_t id = (k % 7 << 32) + k / 7 + 1;
		bool fresh;
		OK(idset_add(&s, id, &fresh));
		assert_int_equal(fresh, !in[k]);
		count += !in[k];
		in[k] = true;
	}
	assert_int_equal(s.n, count);
	for (uint64_t k = 0; k < N; k++) {
		assert_int_equal(idset_has(&s, (k % 7 << 32) + k / 7 + 1), in[k]);
	}
	assert_false(idset_has(&s, UINT64_MAX));
	free(in);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(against_a_model) };
	return cmocka_run_group_tests_name("idset", tests, NULL, NULL);
}
