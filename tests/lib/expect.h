/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What unit tests expect of a result: success, or a failure of one class. Header only, after
 * cmocka.h. One thread.
 */
#ifndef TORPOR_TESTS_EXPECT_H
#define TORPOR_TESTS_EXPECT_H

#include "core/base/err.h"

static inline UNUSED void ok(struct err *e)
{
	if (e != NULL) {
		fail_msg("%s", err_msg(e));
	}
}

/* Frees the error. */
static inline UNUSED void fails(struct err *e, enum err_class class)
{
	assert_non_null(e);
	assert_string_equal(err_class_name(err_class(e)), err_class_name(class));
	err_free(e);
}

/* What the setup made; a setup that could not, here, leaves none, and the test is skipped. */
static inline UNUSED void *given(void **state)
{
	if (*state == NULL) {
		skip();
	}
	return *state;
}

#endif
