/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of every field table that goes into a snapshot: each covers its struct byte by byte,
 * and all of them together are what docs/desc.lock says. With `--write` it writes that file anew.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/machine.h"
#include "snapshot/manifest.h"

enum { TABLES_MAX = 256 };
static const struct state_desc *tables[TABLES_MAX];
static size_t ntables;

/* The manifest's own, then all that core can find by name. */
static void collect(void)
{
	size_t n = 0;
	const struct state_desc *const *descs = machine_descs(&n);
	tables[ntables++] = &manifest_desc;
	for (size_t i = 0; i < n && ntables < TABLES_MAX; i++) {
		tables[ntables++] = descs[i];
	}
}

static void lock_path(char *out, size_t size)
{
	snprintf(out, size, "%s/docs/desc.lock", TORPOR_SOURCE_DIR);
}

static void dump_all(struct wbuf *out)
{
	static const char head[] =
		"# All field tables: what a part record holds. A test compares this file with the "
		"tables.\n"
		"# A change of a table needs a new version of it, new tags for new fields, and "
		"this file\n"
		"# written anew: see tests/unit/core/test_desc_lock.c --write.\n";
	wbuf_put(out, head, sizeof(head) - 1);
	for (size_t i = 0; i < ntables; i++) {
		wbuf_u8(out, '\n');
		desc_dump(tables[i], out);
	}
}

static void test_coverage(void **state)
{
	(void)state;
	unsigned bad = 0;
	for (size_t i = 0; i < ntables; i++) {
		SCOPE(err_freep) struct err *e = desc_check_coverage(tables[i]);
		if (e != NULL) {
			print_error("%s\n", err_msg(e));
			bad++;
		}
	}
	assert_int_equal(bad, 0);
}

static void test_names_differ(void **state)
{
	(void)state;
	for (size_t i = 0; i < ntables; i++) {
		for (size_t k = 0; k < i; k++) {
			assert_string_not_equal(tables[i]->name, tables[k]->name);
		}
	}
}

static void test_lock_file(void **state)
{
	(void)state;
	char path[4096];
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(4 * MIB);
	SCOPE(freep) uint8_t *have = NULL;
	size_t len = 0;
	dump_all(&out);
	assert_int_equal(out.failed, 0);
	lock_path(path, sizeof(path));
	SCOPE(err_freep) struct err *e = io_slurp(path, 4 * MIB, &have, &len);
	if (e != NULL) {
		fail_msg("%s", err_msg(e));
	}
	size_t at = 0;
	size_t line = 1;
	while (at < len && at < out.len && have[at] == out.p[at]) {
		line += have[at] == '\n';
		at++;
	}
	if (at != len || at != out.len) {
		fail_msg(
			"field tables and %s differ from line %zu on. Give each table that changed "
			"a new version, and each new field a new tag with .since; then run "
			"`test_desc_lock --write` from the build directory's tests folder.",
			path, line);
	}
}

static int write_lock(void)
{
	char path[4096];
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(4 * MIB);
	dump_all(&out);
	lock_path(path, sizeof(path));
	FILE *f = fopen(path, "w");
	if (out.failed != 0 || f == NULL || fwrite(out.p, 1, out.len, f) != out.len ||
	    fclose(f) != 0) {
		perror(path);
		return 1;
	}
	printf("%s written\n", path);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_coverage),
		cmocka_unit_test(test_names_differ),
		cmocka_unit_test(test_lock_file),
	};
	collect();
	if (argc == 2 && strcmp(argv[1], "--write") == 0) {
		return write_lock();
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
