/* SPDX-License-Identifier: Apache-2.0 */
/* The store directory and its registry: creation, refusal, names, parallel creators. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "core/base/io.h"
#include "tests/unit/store/store_fix.h"

static void path_of(char out[512], const char *dir, const char *name)
{
	snprintf(out, 512, "%s/%s", dir, name);
}

static void put_file(const char *dir, const char *name, const char *text)
{
	char path[512];
	path_of(path, dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static int setup(void **state)
{
	*state = fix_tmpdir();
	return 0;
}

static int teardown(void **state)
{
	fix_rmdir(*state);
	return 0;
}

static void create_and_reopen(void **state)
{
	char dir[512];
	path_of(dir, *state, "a/b/store");
	struct store *s = NULL;
	FAILS(ERR_NOTFOUND, "", store_open(dir, STORE_WRITE, &s));
	FAILS(ERR_NOTFOUND, "", store_open(dir, STORE_READ, &s));
	OK(store_open(dir, STORE_CREATE, &s));
	assert_string_equal(store_dir(s), dir);
	store_close(s);
	struct stat st;
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	char path[600];
	snprintf(path, sizeof(path), "%s/catalog/data.mdb", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	uint8_t *text;
	size_t len;
	snprintf(path, sizeof(path), "%s/FORMAT", dir);
	OK(io_slurp(path, 100, &text, &len));
	assert_int_equal(strncmp((char *)text, "torpor-store 1 ", 15), 0);
	assert_int_equal(len, 15 + 36 + 1);
	free(text);
	OK(store_open(dir, STORE_WRITE, &s));
	struct store *again = NULL;
	OK(store_open(dir, STORE_READ, &again)); /* a second handle in one process */
	store_close(s);
	store_close(again);
	OK(store_open(dir, STORE_CREATE, &s));
	store_close(s);
}

static void refuses_what_is_no_store(void **state)
{
	const char *dir = *state;
	struct store *s = NULL;
	FAILS(ERR_NOTFOUND, "empty", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "holiday.jpg", "x");
	FAILS(ERR_CORRUPT, "is no torpor store", store_open(dir, STORE_CREATE, &s));
	FAILS(ERR_CORRUPT, "is no torpor store", store_open(dir, STORE_WRITE, &s));
	char path[512];
	path_of(path, dir, "lock");
	assert_int_equal(access(path, F_OK), -1); /* nothing was left in a foreign directory */
	path_of(path, dir, "holiday.jpg");
	FAILS(ERR_CORRUPT, "is no torpor store", store_open(path, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "something else\n");
	FAILS(ERR_CORRUPT, "is no torpor store", store_open(dir, STORE_WRITE, &s));
	FAILS(ERR_USAGE, "", store_open("", STORE_READ, &s));
}

static void refuses_other_versions(void **state)
{
	const char *dir = *state;
	struct store *s = NULL;
	put_file(dir, "FORMAT", "torpor-store 2 01234567-89ab-4def-8123-456789abcdef\n");
	FAILS(ERR_INCOMPAT, "format 2", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "torpor-store 99999999999999999999999 x\n");
	FAILS(ERR_INCOMPAT, "", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "torpor-store 1\n");
	FAILS(ERR_CORRUPT, "", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "torpor-store 1 01234567-89ab-4def-8123-456789abcde\n");
	FAILS(ERR_CORRUPT, "", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "torpor-store 1 0123456789ab-4def-8123-456789abcdeff1\n");
	FAILS(ERR_CORRUPT, "", store_open(dir, STORE_WRITE, &s));
	put_file(dir, "FORMAT", "torpor-store ");
	FAILS(ERR_CORRUPT, "", store_open(dir, STORE_WRITE, &s));
}

static void unfinished_creation_is_finished(void **state)
{
	char dir[512];
	char path[600];
	path_of(dir, *state, "s");
	OK(io_mkdirs(dir));
	put_file(dir, "lock", "");
	snprintf(path, sizeof(path), "%s/catalog", dir);
	OK(io_mkdirs(path));
	struct store *s = NULL;
	FAILS(ERR_CORRUPT, "", store_open(dir, STORE_WRITE, &s));
	OK(store_open(dir, STORE_CREATE, &s));
	store_close(s);
}

/* Eight processes create one store at once: all get the same one. */
static void parallel_creation(void **state)
{
	enum {
		N = 8,
	};
	char dir[512];
	path_of(dir, *state, "p");
	pid_t pid[N];
	for (unsigned i = 0; i < N; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (pid[i] == 0) {
			struct store *s = NULL;
			struct err *e = store_open(dir, STORE_CREATE, &s);
			struct store_vm vm = { .created_ns = i };
			vm.uuid[0] = (uint8_t)(i + 1);
			snprintf(vm.name, sizeof(vm.name), "vm%u", i);
			if (e == NULL) {
				e = store_vm_put(s, &vm);
			}
			if (e != NULL) {
				fprintf(stderr, "%s\n", err_msg(e));
			}
			store_close(s);
			_exit(e != NULL);
		}
	}
	for (unsigned i = 0; i < N; i++) {
		int status;
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	struct store *s = NULL;
	OK(store_open(dir, STORE_READ, &s));
	struct store_vm *vms;
	size_t n;
	OK(store_vm_list(s, &vms, &n));
	assert_int_equal(n, N);
	free(vms);
	FAILS(ERR_NOT_NOW, "reading only", store_vm_forget(s, fix_vm1));
	store_close(s);
}

static struct store_vm make_vm(uint8_t id, const char *name, uint64_t created)
{
	struct store_vm vm = { .uuid = { id }, .family = { 0x80, id }, .created_ns = created };
	snprintf(vm.name, sizeof(vm.name), "%s", name);
	return vm;
}

static void names(void **state)
{
	struct store *s = NULL;
	OK(store_open(*state, STORE_CREATE, &s));
	struct store_vm a = make_vm(1, "web", 100);
	struct store_vm b = make_vm(2, "web", 200);
	struct store_vm c = make_vm(3, "db", 300);
	struct store_vm got;
	bool found = true;
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_false(found);
	OK(store_vm_put(s, &a));
	OK(store_vm_put(s, &c));
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_true(found && got.holds_name);
	assert_memory_equal(got.uuid, a.uuid, 16);
	assert_memory_equal(got.family, a.family, 16);
	/* b takes the name over; a keeps its row, nameless. */
	OK(store_vm_put(s, &b));
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_true(found);
	assert_memory_equal(got.uuid, b.uuid, 16);
	OK(store_vm_by_uuid(s, a.uuid, &found, &got));
	assert_true(found && !got.holds_name);
	assert_string_equal(got.name, "web");
	struct store_vm *vms;
	size_t n;
	OK(store_vm_list(s, &vms, &n));
	assert_int_equal(n, 3);
	assert_string_equal(vms[0].name, "db");
	assert_int_equal(vms[1].created_ns, 100);
	assert_int_equal(vms[2].created_ns, 200);
	assert_false(vms[1].holds_name);
	assert_true(vms[2].holds_name);
	free(vms);
	/* Renaming frees the old name; forgetting frees it too, but not another's. */
	struct store_vm b2 = make_vm(2, "api", 200);
	OK(store_vm_put(s, &b2));
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_false(found);
	OK(store_vm_put(s, &a));
	OK(store_vm_put(s, &b));
	OK(store_vm_forget(s, a.uuid));
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_true(found);
	OK(store_vm_forget(s, b.uuid));
	OK(store_vm_by_name(s, "web", &found, &got));
	assert_false(found);
	OK(store_vm_by_uuid(s, b.uuid, &found, &got));
	assert_false(found);
	OK(store_vm_forget(s, b.uuid)); /* absent is fine */
	store_close(s);
}

static void name_limits(void **state)
{
	struct store *s = NULL;
	OK(store_open(*state, STORE_CREATE, &s));
	struct store_vm vm = make_vm(1, "", 1);
	FAILS(ERR_USAGE, "", store_vm_put(s, &vm));
	memset(vm.name, 'n', sizeof(vm.name));
	FAILS(ERR_USAGE, "", store_vm_put(s, &vm));
	vm.name[NAME_BYTES_MAX] = 0;
	OK(store_vm_put(s, &vm));
	bool found;
	struct store_vm got;
	OK(store_vm_by_name(s, vm.name, &found, &got));
	assert_true(found);
	OK(store_vm_by_name(s, "", &found, &got));
	assert_false(found);
	char longer[200];
	memset(longer, 'n', sizeof(longer));
	longer[199] = 0;
	OK(store_vm_by_name(s, longer, &found, &got));
	assert_false(found);
	store_close(s);
}

static void damaged_row_is_named(void **state)
{
	struct store *s = NULL;
	OK(store_open(*state, STORE_CREATE, &s));
	struct store_vm vm = make_vm(5, "web", 1);
	OK(store_vm_put(s, &vm));
	store_close(s);
	char path[512];
	path_of(path, *state, "catalog/data.mdb");
	uint8_t head[32];
	fix_record(path, RECORD_VM, 0, true, 20, head);
	OK(store_open(*state, STORE_WRITE, &s));
	bool found;
	struct store_vm got;
	FAILS(ERR_CORRUPT, "", store_vm_by_uuid(s, vm.uuid, &found, &got));
	FAILS(ERR_CORRUPT, "", store_vm_by_name(s, "web", &found, &got));
	struct store_vm *vms;
	size_t n;
	FAILS(ERR_CORRUPT, "", store_vm_list(s, &vms, &n));
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(create_and_reopen, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_what_is_no_store, setup, teardown),
		cmocka_unit_test_setup_teardown(refuses_other_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(unfinished_creation_is_finished, setup, teardown),
		cmocka_unit_test_setup_teardown(parallel_creation, setup, teardown),
		cmocka_unit_test_setup_teardown(names, setup, teardown),
		cmocka_unit_test_setup_teardown(name_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged_row_is_named, setup, teardown),
	};
	return cmocka_run_group_tests_name("catalog", tests, NULL, NULL);
}
