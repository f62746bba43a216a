/* SPDX-License-Identifier: Apache-2.0 */
/* The fault guard: faults inside the map, elsewhere, in several threads, with blocked signals. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "store/fault_guard.h"
#include "tests/unit/store/store_fix.h"

enum {
	MAP_BYTES = 16 * 4096,
};

/* A map of 16 pages whose file has one. */
static uint8_t *short_map(void)
{
	char *dir = fix_tmpdir();
	char path[300];
	snprintf(path, sizeof(path), "%s/f", dir);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 4096), 0);
	uint8_t *p = mmap(NULL, MAP_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	close(fd);
	fix_rmdir(dir);
	return p;
}

static int read_byte(void *arg)
{
	return *(volatile uint8_t *)arg;
}

static int trip(void *arg)
{
	(void)arg;
	fault_guard_trip();
	return 1;
}

static void inside_the_map(void **state)
{
	(void)state;
	uint8_t *p = short_map();
	int rc = -1;
	fault_guard_install();
	assert_true(fault_guard_run(p, MAP_BYTES, read_byte, p, &rc));
	assert_int_equal(rc, 0);
	for (int i = 0; i < 100; i++) { /* again and again: the signal must not stay blocked */
		assert_false(fault_guard_run(p, MAP_BYTES, read_byte, p + 5 * 4096, &rc));
		assert_false(fault_guard_run(NULL, 0, read_byte, p + 5 * 4096, &rc));
		assert_false(fault_guard_run(p, MAP_BYTES, trip, NULL, &rc));
	}
	fault_guard_trip(); /* outside: returns */
	munmap(p, MAP_BYTES);
}

static void *in_thread(void *arg)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	uint8_t *p = arg;
	uintptr_t caught = 0;
	for (int i = 0; i < 1000; i++) {
		int rc;
		caught += !fault_guard_run(p, MAP_BYTES, read_byte, p + 4096 * (1 + i % 15), &rc);
	}
	return (void *)caught;
}

static void many_threads_all_blocked(void **state)
{
	(void)state;
	uint8_t *p = short_map();
	pthread_t t[4];
	fault_guard_install();
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_create(&t[i], NULL, in_thread, p), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		void *caught;
		pthread_join(t[i], &caught);
		assert_int_equal((uintptr_t)caught, 1000);
	}
	munmap(p, MAP_BYTES);
}

static void previous_handler(int sig)
{
	_exit(sig == SIGBUS ? 42 : 43);
}

static int run_child(void (*prev)(int), bool guarded, bool foreign)
{
	pid_t pid = fork();
	if (pid == 0) {
		uint8_t *p = short_map();
		uint8_t *q = foreign ? short_map() : p;
		signal(SIGBUS, prev);
		fault_guard_install();
		fault_guard_install();
		int rc;
		if (guarded) {
			bool ok = fault_guard_run(p, MAP_BYTES, read_byte, q + 4096, &rc);
			_exit(ok ? 1 : 0);
		}
		read_byte(q + 4096);
		_exit(2);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* What is not ours goes to the handler before us, or ends the process as it would have. */
static void others_faults(void **state)
{
	(void)state;
	int st = run_child(previous_handler, true, false);
	assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 0);
	st = run_child(previous_handler, true, true);
	assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 42);
	st = run_child(previous_handler, false, false);
	assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 42);
	st = run_child(SIG_DFL, false, false);
	assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGBUS);
	st = run_child(SIG_DFL, true, true);
	assert_true(WIFSIGNALED(st) && WTERMSIG(st) == SIGBUS);
}

int main(void)
{
#ifdef __SANITIZE_THREAD__
	/* TSan's own handler runs with all signals blocked, and leaving it by a jump keeps them so.
	 */
	return 77;
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(inside_the_map),
		cmocka_unit_test(many_threads_all_blocked),
		cmocka_unit_test(others_faults),
	};
	return cmocka_run_group_tests_name("fault_guard", tests, NULL, NULL);
}
