/* SPDX-License-Identifier: Apache-2.0 */
/* Error objects: classes from errno, context, traces, clamped length. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "core/base/err.h"

static struct err *inner(void)
{
	return ERR_SYSNO(EIO, "disk %d", 7);
}

static struct err *outer(void)
{
	TRY(inner());
	fail_msg("TRY went on after an error");
	return NULL;
}

static struct err *guarded(int n)
{
	ENSURE(n < 3, ERR_LIMIT, "%d is too many", n);
	return NULL;
}

static void test_message_class_and_trace(void **state)
{
	(void)state;
	struct err *e = err_wrap(outer(), "store %s", "/x");
	assert_string_equal(err_msg(e), "store /x: disk 7: Input/output error");
	assert_int_equal(err_class(e), ERR_SYS);
	assert_int_equal(err_errno(e), EIO);
	assert_int_equal(err_to_errno(e), EIO);
	assert_non_null(strstr(err_trace_text(e), " < "));
	err_free(e);
}

static void test_full_disk_is_its_own_class(void **state)
{
	(void)state;
	struct err *e = ERR_SYSNO(ENOSPC, "write");
	assert_int_equal(err_class(e), ERR_NOSPACE);
	err_free(e);
	e = ERR_SYSNO(EDQUOT, "write");
	assert_int_equal(err_class(e), ERR_NOSPACE);
	err_free(e);
	e = ERR_SYSNO(ENOENT, "open");
	assert_int_equal(err_class(e), ERR_NOTFOUND);
	err_free(e);
}

static void test_ensure_returns(void **state)
{
	(void)state;
	assert_null(guarded(2));
	struct err *e = guarded(3);
	assert_non_null(e);
	assert_string_equal(err_msg(e), "3 is too many");
	err_free(e);
}

static void test_first_error_wins(void **state)
{
	(void)state;
	struct err *e = err_first(ERR(ERR_PEER, "a"), ERR(ERR_GUEST, "b"));
	assert_string_equal(err_msg(e), "a");
	err_free(e);
	e = err_first(NULL, ERR(ERR_GUEST, "b"));
	assert_string_equal(err_msg(e), "b");
	err_free(e);
	assert_null(err_first(NULL, NULL));
	assert_null(err_wrap(NULL, "nothing"));
}

static void test_long_messages_are_cut(void **state)
{
	(void)state;
	char big[5000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	struct err *e = ERR_SYSNO(EIO, "%s", big);
	for (int i = 0; i < 100; i++) {
		e = err_wrap(e, "%s", big);
		e = err_trace(e, "some/long/file/name.c", i);
	}
	assert_true(strlen(err_msg(e)) < 1024);
	err_free(e);
}

/* What is quoted in a message may come from anywhere: it neither ends the line nor moves a cursor.
 */
static void test_messages_are_one_line(void **state)
{
	(void)state;
	struct err *e = ERR(ERR_USAGE, "unknown request '%s'", "a\nb\r\033[2Jc\177\td");
	assert_string_equal(err_msg(e), "unknown request 'a?b??[2Jc??d'");
	e = err_wrap(e, "line\nbreak");
	assert_string_equal(err_msg(e), "line?break: unknown request 'a?b??[2Jc??d'");
	err_free(e);
	e = ERR(ERR_USAGE, "caf\303\251"); /* other letters stay */
	assert_string_equal(err_msg(e), "caf\303\251");
	err_free(e);
}

static void test_every_class_has_an_errno_and_a_name(void **state)
{
	(void)state;
	for (int c = 0; c < ERR__COUNT; c++) {
		struct err *e = ERR((enum err_class)c, "x");
		assert_int_not_equal(err_to_errno(e), 0);
		assert_string_not_equal(err_class_name((enum err_class)c), "");
		err_free(e);
	}
}

/* The class stays; the number is the protocol's. */
static void test_errno_of_its_own(void **state)
{
	(void)state;
	struct err *e = err_set_errno(ERR(ERR_NOT_NOW, "no disk"), ENODEV);
	assert_int_equal(err_class(e), ERR_NOT_NOW);
	assert_int_equal(err_to_errno(e), ENODEV);
	assert_string_equal(err_msg(e), "no disk");
	err_free(e);
	assert_null(err_set_errno(NULL, ENODEV));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_class_and_trace),
		cmocka_unit_test(test_full_disk_is_its_own_class),
		cmocka_unit_test(test_ensure_returns),
		cmocka_unit_test(test_first_error_wins),
		cmocka_unit_test(test_long_messages_are_cut),
		cmocka_unit_test(test_messages_are_one_line),
		cmocka_unit_test(test_every_class_has_an_errno_and_a_name),
		cmocka_unit_test(test_errno_of_its_own),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
