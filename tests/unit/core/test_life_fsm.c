/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of a VM's life: every empty cell refuses and changes nothing, the states that must be
 * reachable are, and docs/life.md shows exactly this table (TORPOR_UPDATE_DOCS=1 rewrites it).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/life_fsm.h"
#include "tests/lib/fsm_doc.h"

static void test_empty_cells_refuse(void **state)
{
	(void)state;
	fsm_check_empty(&life_fsm_desc);
}

static void test_failures_never_strand_the_guest(void **state)
{
	(void)state;
	/* What fails leaves the state as it was: a failed suspend runs on, a failed resume sleeps
	 * on. */
	for (unsigned s = 0; s < LIFE__STATES; s++) {
		for (unsigned ev = 0; ev < LIFE__EVENTS; ev++) {
			const struct fsm_cell *c = fsm_cell(&life_fsm_desc, s, ev);
			if (c->legal && c->action != NULL && ev != LIFE_EV_END) {
				assert_true(c->on_fail == s || c->on_fail == c->next);
			}
		}
	}
}

static void test_every_live_state_can_end(void **state)
{
	(void)state;
	for (unsigned s = 0; s < LIFE__STATES; s++) {
		const struct fsm_cell *c = fsm_cell(&life_fsm_desc, s, LIFE_EV_END);
		assert_true(c->legal);
		assert_int_equal(c->next, LIFE_ENDED);
	}
}

static void test_the_picture_is_the_table(void **state)
{
	(void)state;
	fsm_doc_check(&life_fsm_desc, "life.md");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_cells_refuse),
		cmocka_unit_test(test_failures_never_strand_the_guest),
		cmocka_unit_test(test_every_live_state_can_end),
		cmocka_unit_test(test_the_picture_is_the_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
