/* SPDX-License-Identifier: Apache-2.0 */
/* The registry of guests: changes, refusals, stores of before, damage, two processes at once. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "store/guest.h"
#include "tests/unit/store/store_fix.h"

static char dir[512];

static int setup(void **state)
{
	*state = fix_tmpdir();
	snprintf(dir, sizeof(dir), "%s/store", (char *)*state);
	return 0;
}

static int teardown(void **state)
{
	fix_rmdir(*state);
	return 0;
}

static struct store *open_as(enum store_mode mode)
{
	struct store *s = NULL;
	OK(store_open(dir, mode, &s));
	return s;
}

/* Appends arg to the record; "remove" and "fail" do that. */
static struct err *append(void *arg, bool found, struct store_guest *g, enum guest_verdict *ret)
{
	const char *text = arg;
	ENSURE(strcmp(text, "fail") != 0, ERR_CANCELLED, "asked to fail");
	if (strcmp(text, "remove") == 0) {
		assert_true(found);
		*ret = GUEST_REMOVE;
		return NULL;
	}
	char *both = NULL;
	assert_true(asprintf(&both, "%s%s", g->record, text) >= 0);
	free(g->record);
	g->record = both;
	if (!found) {
		free(g->wanted);
		g->wanted = strdup("what is wanted");
	}
	*ret = GUEST_PUT;
	return NULL;
}

static void change(struct store *s, const char *name, const char *text)
{
	OK(store_guest_change(s, name, append, (void *)(uintptr_t)text));
}

static void expect(struct store *s, const char *name, const char *record)
{
	struct store_guest g;
	bool found = false;
	OK(store_guest_get(s, name, &found, &g));
	assert_int_equal(found, record != NULL);
	if (found) {
		assert_string_equal(g.name, name);
		assert_string_equal(g.wanted, "what is wanted");
		assert_string_equal(g.record, record);
		store_guest_done(&g);
	}
}

static void a_store_without(void **state)
{
	(void)state;
	char path[600];
	struct stat st;
	struct store *s = open_as(STORE_CREATE);
	struct store_guest *g = NULL;
	size_t n = 9;
	uint64_t findings = 9;
	expect(s, "a", NULL);
	OK(store_guest_list(s, &g, &n));
	assert_int_equal(n, 0);
	store_guests_free(g, n);
	OK(store_verify(s, NULL, NULL, &findings));
	assert_int_equal(findings, 0);
	/* Looking makes nothing, and nothing is left of a change that was not made. */
	snprintf(path, sizeof(path), "%s/guests", dir);
	assert_int_equal(stat(path, &st), -1);
	FAILS(ERR_CANCELLED, "", store_guest_change(s, "a", append, (void *)(uintptr_t) "fail"));
	expect(s, "a", NULL);
	store_close(s);
}

static void changes(void **state)
{
	(void)state;
	struct store *s = open_as(STORE_CREATE);
	change(s, "b", "1");
	change(s, "a", "x");
	change(s, "b", "2");
	FAILS(ERR_CANCELLED, "", store_guest_change(s, "b", append, (void *)(uintptr_t) "fail"));
	expect(s, "b", "12");
	store_close(s);
	s = open_as(STORE_READ);
	struct store_guest *g = NULL;
	size_t n = 0;
	OK(store_guest_list(s, &g, &n));
	assert_int_equal(n, 2);
	assert_string_equal(g[0].name, "a");
	assert_string_equal(g[1].record, "12");
	store_guests_free(g, n);
	store_close(s);
	s = open_as(STORE_WRITE);
	change(s, "b", "remove");
	expect(s, "b", NULL);
	expect(s, "a", "x");
	store_close(s);
}

static void refusals(void **state)
{
	(void)state;
	struct store *s = open_as(STORE_CREATE);
	char name[80];
	memset(name, 'n', sizeof(name));
	name[NAME_BYTES_MAX + 1] = 0;
	FAILS(ERR_USAGE, "name", store_guest_change(s, "", append, NULL));
	FAILS(ERR_USAGE, "name", store_guest_change(s, name, append, NULL));
	name[NAME_BYTES_MAX] = 0;
	char *text = malloc(GUEST_TEXT_BYTES_MAX + 2);
	memset(text, 't', GUEST_TEXT_BYTES_MAX + 1);
	text[GUEST_TEXT_BYTES_MAX + 1] = 0;
	FAILS(ERR_LIMIT, "bytes of text", store_guest_change(s, name, append, text));
	expect(s, name, NULL);
	text[GUEST_TEXT_BYTES_MAX] = 0;
	change(s, name, text);
	expect(s, name, text);
	free(text);
	store_close(s);
}

/* A creation that was cut short is gone on with. */
static void half_made(void **state)
{
	(void)state;
	char path[600];
	struct store *s = open_as(STORE_CREATE);
	snprintf(path, sizeof(path), "%s/guests.new", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	change(s, "a", "x");
	expect(s, "a", "x");
	struct stat st;
	assert_int_equal(stat(path, &st), -1);
	store_close(s);
}

static void damage(void **state)
{
	(void)state;
	char path[600];
	struct store *s = open_as(STORE_CREATE);
	change(s, "a", "the-record-of-a");
	store_close(s);
	snprintf(path, sizeof(path), "%s/guests/data.mdb", dir);
	int fd = open(path, O_RDWR);
	char buf[65536];
	ssize_t n = pread(fd, buf, sizeof(buf), 0);
	char *at = memmem(buf, (size_t)n, "the-record-of-a", 15);
	assert_non_null(at);
	assert_int_equal(pwrite(fd, "X", 1, at - buf), 1);
	close(fd);
	s = open_as(STORE_WRITE);
	struct store_guest g;
	bool found = false;
	uint64_t findings = 0;
	FAILS(ERR_CORRUPT, "", store_guest_get(s, "a", &found, &g));
	OK(store_verify(s, NULL, NULL, &findings));
	assert_int_equal(findings, 1);
	store_close(s);
}

/* None overwrites what another one has added. */
static void several_processes(void **state)
{
	(void)state;
	enum { PROCESSES = 4, TIMES = 20 };
	for (int i = 0; i < PROCESSES; i++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct store *s = NULL;
			struct err *e = store_open(dir, STORE_CREATE, &s);
			for (int k = 0; k < TIMES && e == NULL; k++) {
				e = store_guest_change(s, "a", append, (void *)(uintptr_t) "x");
			}
			_exit(e != NULL);
		}
	}
	for (int i = 0; i < PROCESSES; i++) {
		int status;
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	struct store *s = open_as(STORE_READ);
	struct store_guest g;
	bool found = false;
	OK(store_guest_get(s, "a", &found, &g));
	assert_true(found);
	assert_int_equal(strlen(g.record), PROCESSES * TIMES);
	store_guest_done(&g);
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_store_without, setup, teardown),
		cmocka_unit_test_setup_teardown(changes, setup, teardown),
		cmocka_unit_test_setup_teardown(refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(half_made, setup, teardown),
		cmocka_unit_test_setup_teardown(damage, setup, teardown),
		cmocka_unit_test_setup_teardown(several_processes, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
