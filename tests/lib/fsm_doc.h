/* SPDX-License-Identifier: Apache-2.0 */
/* A state machine's table as the picture that its page shows. Header only, after cmocka.h. */
#ifndef TORPOR_TESTS_FSM_DOC_H
#define TORPOR_TESTS_FSM_DOC_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/fsm.h"
#include "core/base/io.h"

static UNUSED void fsm_draw(const struct fsm_desc *d, struct wbuf *w)
{
	char line[256];
	static const char head[] = "```mermaid\nstateDiagram-v2\n";
	wbuf_put(w, head, strlen(head));
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

/* docs/NAME ends with the picture; TORPOR_UPDATE_DOCS=1 rewrites that end of it. */
static UNUSED void fsm_doc_check(const struct fsm_desc *d, const char *name)
{
	char path[512];
	snprintf(path, sizeof(path), TORPOR_SOURCE_DIR "/docs/%s", name);
	for (bool again = getenv("TORPOR_UPDATE_DOCS") != NULL;; again = false) {
		struct wbuf w = wbuf_make(64 * 1024);
		uint8_t *p = NULL;
		size_t len = 0;
		assert_null(io_slurp(path, 64 * 1024, &p, &len));
		const char *picture = memmem(p, len, "```mermaid", 10);
		assert_non_null(picture);
		wbuf_put(&w, p, (size_t)(picture - (const char *)p));
		fsm_draw(d, &w);
		assert_null(wbuf_check(&w));
		if (again) {
			assert_null(io_replace(TORPOR_SOURCE_DIR "/docs", name, w.p, w.len));
		} else {
			assert_int_equal(len, w.len);
			assert_memory_equal(p, w.p, len);
		}
		free(p);
		wbuf_done(&w);
		if (!again) {
			return;
		}
	}
}

/* Each empty cell refuses with an error that names the state, and changes nothing. */
static UNUSED void fsm_check_empty(const struct fsm_desc *d)
{
	unsigned empty = 0;
	for (unsigned s = 0; s < d->nstates; s++) {
		for (unsigned ev = 0; ev < d->nevents; ev++) {
			if (fsm_cell(d, s, ev)->legal) {
				continue;
			}
			empty++;
			struct fsm m = { .desc = d, .state = (uint8_t)s };
			struct err *e = fsm_step(&m, ev, NULL, NULL);
			assert_non_null(e);
			assert_int_equal(err_class(e), ERR_NOT_NOW);
			assert_non_null(strstr(err_msg(e), d->state_names[s]));
			assert_int_equal(m.state, s);
			err_free(e);
		}
	}
	assert_true(empty > 0);
}

#endif
