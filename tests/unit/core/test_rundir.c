/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/rundir.c: name locks between processes, stale sockets, listing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "core/base/io.h"
#include "core/rundir.h"
#include "tests/lib/expect.h"
#include "tests/lib/tmp_root.h"

static char base[128]; /* XDG_RUNTIME_DIR of the running test */

static int setup(void **state)
{
	(void)state;
	snprintf(base, sizeof(base), "%s/rundir-XXXXXX", tmp_root());
	return mkdtemp(base) != NULL ? setenv("XDG_RUNTIME_DIR", base, 1) : -1;
}

static int teardown(void **state)
{
	(void)state;
	char cmd[200];
	snprintf(cmd, sizeof(cmd), "rm -r %s", base);
	return system(cmd);
}

static void refused(struct err *e, enum err_class class, const char *text)
{
	assert_non_null(e);
	if (err_class(e) != class || strstr(err_msg(e), text) == NULL) {
		fail_msg("%s: %s", err_class_name(err_class(e)), err_msg(e));
	}
	err_free(e);
}

/* ---- another process that claims a name and lives until told ---- */

struct other {
	pid_t pid;
	int go; /* closing it ends the process */
};

static struct other other_start(const char *name, bool listens)
{
	int up[2];
	int go[2];
	assert_int_equal(pipe2(up, O_CLOEXEC), 0);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct fd lock = FD_NONE;
		struct fd sock = FD_NONE;
		char path[256];
		char c = 'y';
		close(go[1]);
		struct err *e = rundir_claim(name, "/some/store", NULL, &lock);
		if (e == NULL && listens) {
			e = rundir_listen(name, NULL, &sock, path, sizeof(path));
		}
		if (e != NULL) {
			c = 'n';
		}
		(void)!write(up[1], &c, 1);
		(void)!read(go[0], &c, 1);
		_exit(0); /* no clean end: lock file and socket stay behind */
	}
	close(up[1]);
	close(go[0]);
	char c = 0;
	assert_int_equal(read(up[0], &c, 1), 1);
	assert_int_equal(c, 'y');
	close(up[0]);
	return (struct other){ pid, go[1] };
}

static void other_end(struct other *o)
{
	close(o->go);
	assert_int_equal(waitpid(o->pid, NULL, 0), o->pid);
}

static void path_honours_xdg(void **state)
{
	(void)state;
	char want[200];
	char got[4096];
	snprintf(want, sizeof(want), "%s/torpor", base);
	ok(rundir_path(got, sizeof(got)));
	assert_string_equal(got, want);
	struct stat st;
	assert_int_equal(stat(got, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	/* An open folder is closed. */
	assert_int_equal(chmod(got, 0755), 0);
	ok(rundir_path(got, sizeof(got)));
	assert_int_equal(stat(got, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	char tiny[4] = "abc";
	refused(rundir_path(tiny, sizeof(tiny)), ERR_USAGE, "too long");
	assert_string_equal(tiny, "abc");
	setenv("XDG_RUNTIME_DIR", "relative/dir", 1);
	refused(rundir_path(got, sizeof(got)), ERR_USAGE, "absolute");
	setenv("XDG_RUNTIME_DIR", base, 1);
}

static void path_of_another_user_is_refused(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		skip();
	}
	char dir[200];
	char got[4096];
	snprintf(dir, sizeof(dir), "%s/torpor", base);
	assert_int_equal(mkdir(dir, 0777), 0);
	assert_int_equal(chown(dir, 12345, 12345), 0);
	refused(rundir_path(got, sizeof(got)), ERR_NOT_NOW, "belongs to user 12345");
}

static void a_name_is_claimed_once(void **state)
{
	(void)state;
	struct other o = other_start("vm", false);
	char want[64];
	snprintf(want, sizeof(want), "already running (pid %d)", (int)o.pid);
	SCOPE(fd_close) struct fd lock = FD_NONE;
	refused(rundir_claim("vm", "/s", NULL, &lock), ERR_NOT_NOW, want);
	assert_int_equal(lock.n, -1);
	/* Another name is free. */
	SCOPE(fd_close) struct fd lock2 = FD_NONE;
	ok(rundir_claim("vm2", "/s", NULL, &lock2));
	/* And so is this one once its holder is dead, however it died. */
	other_end(&o);
	ok(rundir_claim("vm", "/s", NULL, &lock));
	/* A second claim in the same process is refused as well. */
	SCOPE(fd_close) struct fd lock3 = FD_NONE;
	refused(rundir_claim("vm", "/s", NULL, &lock3), ERR_NOT_NOW, "already running");
}

static void claim_after_a_clean_end(void **state)
{
	(void)state;
	char path[256];
	SCOPE(fd_close) struct fd sock = FD_NONE;
	SCOPE(fd_close) struct fd lock = FD_NONE;
	ok(rundir_claim("vm", "/s", NULL, &lock));
	ok(rundir_listen("vm", NULL, &sock, path, sizeof(path)));
	rundir_unlink("vm", path);
	assert_int_equal(access(path, F_OK), -1);
	/* The old holder still has its descriptor: the new lock is on a new file. */
	SCOPE(fd_close) struct fd lock2 = FD_NONE;
	ok(rundir_claim("vm", "/s", NULL, &lock2));
	bool found;
	struct rundir_vm vm;
	ok(rundir_find("vm", &found, &vm));
	assert_true(found);
}

static void bad_names_are_refused(void **state)
{
	(void)state;
	static const char *const names[] = { "", "../x", "a/b", ".hidden", "-x", "a@b", "a b" };
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		SCOPE(fd_close) struct fd f = FD_NONE;
		struct rundir_vm vm;
		bool found;
		char path[256];
		refused(rundir_claim(names[i], "/s", NULL, &f), ERR_USAGE, "");
		refused(rundir_listen(names[i], NULL, &f, path, sizeof(path)), ERR_USAGE, "");
		refused(rundir_find(names[i], &found, &vm), ERR_USAGE, "");
	}
}

static void listing_shows_the_living(void **state)
{
	(void)state;
	struct rundir_vm *vms = NULL;
	size_t n = 77;
	ok(rundir_list(&vms, &n));
	assert_int_equal(n, 0);
	free(vms);

	struct other b = other_start("bbb", false);
	struct other a = other_start("aaa", false);
	struct other c = other_start("ccc", false);
	other_end(&c);
	char junk[300];
	snprintf(junk, sizeof(junk), "%s/torpor/..lock", base);
	SCOPE(fd_close) struct fd f = FD_NONE;
	ok(io_open(junk, O_RDWR | O_CREAT, 0600, &f));
	ok(rundir_list(&vms, &n));
	assert_int_equal(n, 2);
	assert_string_equal(vms[0].name, "aaa");
	assert_string_equal(vms[1].name, "bbb");
	assert_int_equal(vms[0].pid, a.pid);
	assert_string_equal(vms[0].store_dir, "/some/store");
	snprintf(junk, sizeof(junk), "%s/torpor/aaa.sock", base);
	assert_string_equal(vms[0].socket_path, junk);
	free(vms);
	bool found = true;
	struct rundir_vm vm;
	ok(rundir_find("ccc", &found, &vm));
	assert_false(found);
	ok(rundir_find("never", &found, &vm));
	assert_false(found);
	ok(rundir_find("bbb", &found, &vm));
	assert_true(found);
	assert_int_equal(vm.pid, b.pid);
	other_end(&a);
	other_end(&b);
}

static void broken_lock_file_is_no_vm(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd lock = FD_NONE;
	ok(rundir_claim("vm", "/s", NULL, &lock));
	static const char *const texts[] = {
		"",
		"{",
		"[]\n",
		"{\"pid\":-1,\"store\":\"/s\",\"socket\":\"/t\"}\n",
		"{\"pid\":\"1\",\"store\":\"/s\",\"socket\":\"/t\"}\n",
		"{\"pid\":99999999999,\"store\":\"/s\",\"socket\":\"/t\"}\n",
		"{\"pid\":1,\"store\":\"/s\"}\n",
	};
	for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
		assert_int_equal(ftruncate(lock.n, 0), 0);
		ok(io_pwrite_full(lock.n, texts[i], strlen(texts[i]), 0));
		bool found = true;
		struct rundir_vm vm;
		ok(rundir_find("vm", &found, &vm));
		assert_false(found);
		SCOPE(fd_close) struct fd second = FD_NONE;
		refused(rundir_claim("vm", "/s", NULL, &second), ERR_NOT_NOW, "being started");
	}
}

static int connects(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	strcpy(addr.sun_path, path);
	SCOPE(fd_close) struct fd f = { .n = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) };
	assert_true(f.n >= 0);
	return connect(f.n, (struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : errno;
}

static void stale_socket_is_replaced(void **state)
{
	(void)state;
	struct other o = other_start("vm", true);
	char want[200];
	snprintf(want, sizeof(want), "%s/torpor/vm.sock", base);
	assert_int_equal(connects(want), 0);
	char path[256] = "untouched";
	SCOPE(fd_close) struct fd sock = FD_NONE;
	refused(rundir_listen("vm", NULL, &sock, path, sizeof(path)), ERR_NOT_NOW, "in use");
	assert_string_equal(path, "untouched");
	other_end(&o);
	assert_int_equal(connects(want), ECONNREFUSED); /* it is there, and dead */
	ok(rundir_listen("vm", NULL, &sock, path, sizeof(path)));
	assert_string_equal(path, want);
	assert_int_equal(connects(want), 0);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true((fcntl(sock.n, F_GETFD) & FD_CLOEXEC) != 0);
}

static void other_files_are_left_alone(void **state)
{
	(void)state;
	char path[300];
	char got[256];
	snprintf(path, sizeof(path), "%s/precious", base);
	SCOPE(fd_close) struct fd f = FD_NONE;
	ok(io_open(path, O_RDWR | O_CREAT, 0600, &f));
	SCOPE(fd_close) struct fd sock = FD_NONE;
	refused(rundir_listen("vm", path, &sock, got, sizeof(got)), ERR_NOT_NOW, "no socket");
	assert_int_equal(access(path, F_OK), 0);
	/* A living socket of another type is somebody else's too. */
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%.90s/s", base);
	SCOPE(fd_close) struct fd s = { .n = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	assert_int_equal(bind(s.n, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(s.n, 1), 0);
	refused(rundir_listen("vm", addr.sun_path, &sock, got, sizeof(got)), ERR_NOT_NOW, "in use");
	snprintf(path, sizeof(path), "%s/absent/x.sock", base);
	refused(rundir_listen("vm", path, &sock, got, sizeof(got)), ERR_NOTFOUND, "absent");
}

static void long_socket_path_has_a_remedy(void **state)
{
	(void)state;
	char path[300];
	char got[256];
	int n = snprintf(path, sizeof(path), "%s/", base);
	memset(path + n, 'x', sizeof(path) - (size_t)n);
	SCOPE(fd_close) struct fd sock = FD_NONE;
	path[108] = '\0';
	refused(rundir_listen("vm", path, &sock, got, sizeof(got)), ERR_USAGE, "XDG_RUNTIME_DIR");
	path[107] = '\0'; /* the longest that fits */
	ok(rundir_listen("vm", path, &sock, got, sizeof(got)));
	assert_string_equal(got, path);
	fd_close(&sock);
	refused(rundir_listen("vm", path, &sock, got, 20), ERR_USAGE, "too long");
}

static void relative_paths_are_told_in_full(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd lock = FD_NONE;
	char cwd[4096];
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(chdir(base), 0);
	ok(rundir_claim("vm", "store", "a.sock", &lock));
	assert_int_equal(chdir(cwd), 0);
	struct rundir_vm vm;
	bool found;
	ok(rundir_find("vm", &found, &vm));
	assert_true(found);
	assert_int_equal(vm.pid, getpid());
	assert_int_equal(vm.store_dir[0], '/');
	assert_string_equal(strrchr(vm.store_dir, '/'), "/store");
	assert_string_equal(strrchr(vm.socket_path, '/'), "/a.sock");
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(path_honours_xdg),
		TEST(path_of_another_user_is_refused),
		TEST(a_name_is_claimed_once),
		TEST(claim_after_a_clean_end),
		TEST(bad_names_are_refused),
		TEST(listing_shows_the_living),
		TEST(broken_lock_file_is_no_vm),
		TEST(stale_socket_is_replaced),
		TEST(other_files_are_left_alone),
		TEST(long_socket_path_has_a_remedy),
		TEST(relative_paths_are_told_in_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
