/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of a map: merging, order, values, and the text that names pages. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/mapruns.h"
#include "tests/unit/store/store_fix.h"

static void merges_and_sorts(void **state)
{
	(void)state;
	struct leaf *l = calloc(1, sizeof(*l));
	for (unsigned i = 0; i < 10; i++) { /* slots 5..14 of frame 9 */
		l->ref[i] = (struct page_ref){ .frame = 9, .v = 5 + i };
	}
	for (unsigned i = 10; i < 14; i++) { /* a value */
		l->ref[i] = (struct page_ref){ .v = 0xff };
	}
	l->ref[14] = (struct page_ref){ .v = 0xfe };            /* another value */
	l->ref[20] = (struct page_ref){ .frame = 9, .v = 1 };   /* behind a gap of zeros */
	l->ref[21] = (struct page_ref){ .frame = 3, .v = 2 };   /* another frame */
	l->ref[22] = (struct page_ref){ .frame = 3, .v = 2 };   /* the same slot again */
	l->ref[511] = (struct page_ref){ .frame = 9, .v = 15 }; /* goes on in no run */
	SCOPE(mapruns_done) struct mapruns r = { 0 };
	OK(mapruns_add(&r, 3, l));
	OK(mapruns_sort(&r));
	assert_int_equal(r.nruns, 7);
	assert_int_equal(r.nvalues, 2);
	assert_int_equal(r.nframes, 2);
	assert_int_equal(r.npages, 10 + 5 + 4);
	assert_int_equal(r.run[0].page, 3 * 512 + 10);
	assert_int_equal(r.run[0].npages, 4);
	assert_int_equal(r.run[r.start[0]].frame, 3);
	assert_int_equal(r.start[1] - r.start[0], 2);
	assert_int_equal(r.run[r.start[1]].v, 1);
	assert_int_equal(r.run[r.start[1] + 1].npages, 10);
	assert_int_equal(r.run[r.start[1] + 2].page, 3 * 512 + 511);
	assert_int_equal(r.start[2], 7);
	char text[256];
	mapruns_text(&r.run[r.start[1]], 3, "memory", text, sizeof(text));
	assert_string_equal(text, "pages 0x614, 0x600-0x609, 0x7ff of map memory");
	mapruns_text(r.run, 7, "m", text, sizeof(text));
	assert_non_null(strstr(text, " and 3 more runs of map m"));
	for (size_t cap = 1; cap < sizeof(text); cap++) { /* never past the end */
		memset(text, 'x', sizeof(text));
		mapruns_text(r.run, 7, "m", text, cap);
		assert_true(memchr(text, 0, cap) != NULL);
		assert_true(cap == sizeof(text) || text[cap] == 'x');
	}
	free(l);
}

static void nothing(void **state)
{
	(void)state;
	SCOPE(mapruns_done) struct mapruns r = { 0 };
	OK(mapruns_sort(&r));
	assert_int_equal(r.nruns + r.nframes + r.nvalues + r.npages, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(merges_and_sorts),
					    cmocka_unit_test(nothing) };
	return cmocka_run_group_tests_name("mapruns", tests, NULL, NULL);
}
