/* SPDX-License-Identifier: Apache-2.0 */
/* Ranked locks: exclusion, timed waits, and (debug builds) the abort on a breach of rank. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/lock.h"

static struct lock a;
static struct lock b;
static struct cond c;
static long counter;

static void *count_up(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++) {
		LOCK_SCOPE(&a);
		counter++;
	}
	return NULL;
}

static void test_exclusion(void **state)
{
	(void)state;
	pthread_t t[4];
	counter = 0;
	for (int i = 0; i < 4; i++) {
		assert_int_equal(pthread_create(&t[i], NULL, count_up, NULL), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
	}
	assert_int_equal(counter, 80000);
}

static void test_timed_wait_ends(void **state)
{
	(void)state;
	LOCK_SCOPE(&a);
	uint64_t until = clock_mono_ns() + 20000000;
	while (cond_wait_until(&c, &a, until)) {
	}
	assert_true(clock_mono_ns() >= until);
}

#ifndef NDEBUG
static int status_of(void (*fn)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		close(STDERR_FILENO);
		signal(SIGABRT, SIG_DFL);
		fn();
		_exit(0);
	}
	int st;
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return st;
}

static void rising(void)
{
	lock_take(&a);
	lock_take(&b);
	lock_drop(&b);
	lock_drop(&a);
}

static void falling(void)
{
	lock_take(&b);
	lock_take(&a);
}

static void not_held(void)
{
	lock_assert_held(&a);
}

static void test_rank_breach_aborts(void **state)
{
	(void)state;
	assert_int_equal(status_of(rising), 0);
	assert_true(WIFSIGNALED(status_of(falling)));
	assert_true(WIFSIGNALED(status_of(not_held)));
}
#endif

int main(void)
{
	lock_init(&a, RANK_LIFE);
	lock_init(&b, RANK_QUEUE);
	cond_init(&c);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exclusion),
		cmocka_unit_test(test_timed_wait_ends),
#ifndef NDEBUG
		cmocka_unit_test(test_rank_breach_aborts),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
