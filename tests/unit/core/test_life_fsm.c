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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/io.h"
#include "core/life_fsm.h"

#define DOC_PATH TORPOR_SOURCE_DIR "/docs/life.md"

static void test_empty_cells_refuse(void **state)
{
	(void)state;
	unsigned empty = 0;
	for (unsigned s = 0; s < LIFE__STATES; s++) {
		for (unsigned ev = 0; ev < LIFE__EVENTS; ev++) {
			if (fsm_cell(&life_fsm_desc, s, ev)->legal) {
				continue;
			}
			empty++;
			struct fsm m = { .desc = &life_fsm_desc, .state = (uint8_t)s };
			struct err *e = fsm_step(&m, ev, NULL, NULL);
			assert_non_null(e);
			assert_int_equal(err_class(e), ERR_NOT_NOW);
			assert_non_null(strstr(err_msg(e), life_fsm_desc.state_names[s]));
			assert_int_equal(m.state, s);
			err_free(e);
		}
	}
	assert_true(empty > 0);
}

static void test_failures_never_strand_the_guest(void **state)
{
	(void)state;
	/* What fails leaves the state as it was: a failed suspend runs on, a failed resume sleeps on. */
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

static void draw(struct wbuf *w)
{
	char line[256];
	const char *head = "# States of a VM's life\n\nDrawn from the table in `core/life.c`; what holds in "
			   "each state is said there (L1..L6).\nThe test `test_life_fsm` compares; "
			   "`TORPOR_UPDATE_DOCS=1` makes it rewrite this file.\n\n```mermaid\n"
			   "stateDiagram-v2\n";
	wbuf_put(w, head, strlen(head));
	const struct fsm_desc *d = &life_fsm_desc;
	for (unsigned s = 0; s < d->nstates; s++) {
		for (unsigned ev = 0; ev < d->nevents; ev++) {
			const struct fsm_cell *c = fsm_cell(d, s, ev);
			if (!c->legal) {
				continue;
			}
			int n = snprintf(line, sizeof(line), "    %s --> %s: %s\n",
					 d->state_names[s], d->state_names[c->next],
					 d->event_names[ev]);
			wbuf_put(w, line, (size_t)n);
		}
	}
	wbuf_put(w, "```\n", 4);
}

static void test_the_picture_is_the_table(void **state)
{
	(void)state;
	struct wbuf w = wbuf_make(64 * 1024);
	draw(&w);
	assert_null(wbuf_check(&w));
	if (getenv("TORPOR_UPDATE_DOCS") != NULL) {
		assert_null(io_replace(TORPOR_SOURCE_DIR "/docs", "life.md", w.p, w.len));
	}
	uint8_t *p = NULL;
	size_t len = 0;
	struct err *e = io_slurp(DOC_PATH, 64 * 1024, &p, &len);
	if (e != NULL) {
		fail_msg("%s", err_msg(e));
	}
	assert_int_equal(len, w.len);
	assert_memory_equal(p, w.p, len);
	free(p);
	wbuf_done(&w);
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
