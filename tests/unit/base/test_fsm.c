/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine runner: legal steps, empty cells, failing actions. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/base/fsm.h"

enum { OFF, ON, BROKEN, NSTATES };
enum { FLIP, KICK, NEVENTS };

static struct err *act(void *self, void *arg)
{
	int *count = self;
	(*count)++;
	if (arg != NULL) {
		return ERR(ERR_SYS, "no power");
	}
	return NULL;
}

static const char *const states[] = { "off", "on", "broken" };
static const char *const events[] = { "flip", "kick" };
static const struct fsm_cell cells[NSTATES][NEVENTS] = {
	[OFF] = { [FLIP] = { .legal = true, .next = ON, .on_fail = BROKEN, .action = act } },
	[ON] = { [FLIP] = { .legal = true, .next = OFF },
		 [KICK] = { .legal = true, .next = ON, .on_fail = ON, .action = act } },
};
static const struct fsm_desc desc = {
	.name = "lamp", .nstates = NSTATES, .nevents = NEVENTS,
	.state_names = states, .event_names = events, .cells = &cells[0][0],
};

static void test_steps(void **state)
{
	(void)state;
	int count = 0;
	struct fsm m = { .desc = &desc, .state = OFF };
	assert_null(fsm_step(&m, FLIP, &count, NULL));
	assert_int_equal(m.state, ON);
	assert_null(fsm_step(&m, KICK, &count, NULL));
	assert_null(fsm_step(&m, FLIP, &count, NULL));
	assert_int_equal(m.state, OFF);
	assert_int_equal(count, 2);
}

static void test_empty_cell_names_state_and_event(void **state)
{
	(void)state;
	int count = 0;
	struct fsm m = { .desc = &desc, .state = OFF };
	assert_false(fsm_allows(&m, KICK));
	struct err *e = fsm_step(&m, KICK, &count, NULL);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_NOT_NOW);
	assert_string_equal(err_msg(e), "lamp is off: 'kick' is not possible now");
	assert_int_equal(m.state, OFF);
	assert_int_equal(count, 0);
	err_free(e);
}

static void test_failed_action_goes_where_the_table_says(void **state)
{
	(void)state;
	int count = 0;
	struct fsm m = { .desc = &desc, .state = OFF };
	struct err *e = fsm_step(&m, FLIP, &count, &count);
	assert_non_null(e);
	err_free(e);
	assert_int_equal(m.state, BROKEN);
	for (unsigned ev = 0; ev < NEVENTS; ev++) {
		e = fsm_step(&m, ev, &count, NULL);
		assert_non_null(e);
		err_free(e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_steps),
		cmocka_unit_test(test_empty_cell_names_state_and_event),
		cmocka_unit_test(test_failed_action_goes_where_the_table_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
