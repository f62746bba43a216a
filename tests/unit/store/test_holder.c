/* SPDX-License-Identifier: Apache-2.0 */
/* Lock files: alive while locked, dead after any end, locks on files that vanish. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "store/holder.h"
#include "tests/unit/store/store_fix.h"

struct seen {
	unsigned n;
	char text[64];
};

static struct err *see(void *arg, const uint8_t id[HOLDER_ID_BYTES], const char *text)
{
	struct seen *s = arg;
	(void)id;
	s->n++;
	snprintf(s->text, sizeof(s->text), "%s", text);
	return NULL;
}

static unsigned files_in(const char *dir)
{
	DIR *d = opendir(dir);
	assert_non_null(d);
	unsigned n = 0;
	for (const struct dirent *e; (e = readdir(d)) != NULL;) {
		n += e->d_name[0] != '.';
	}
	closedir(d);
	return n;
}

static void take_and_drop(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct holder a;
	struct holder b;
	OK(holder_take(dir, "session", &a));
	OK(holder_take(dir, "lease-17", &b));
	bool alive;
	OK(holder_alive(dir, a.id, "session", false, &alive));
	assert_true(alive);
	OK(holder_alive(dir, a.id, "session", true, &alive));
	assert_true(alive);
	OK(holder_alive(dir, a.id, "lease-1", true, &alive));
	assert_false(alive);
	struct seen s = { 0 };
	OK(holder_each(dir, true, see, &s));
	assert_int_equal(s.n, 2);
	holder_drop(&a);
	holder_drop(&a); /* twice is fine */
	OK(holder_alive(dir, a.id, "session", false, &alive));
	assert_false(alive);
	s.n = 0;
	OK(holder_each(dir, false, see, &s));
	assert_int_equal(s.n, 1);
	assert_string_equal(s.text, "lease-17");
	holder_drop(&b);
	assert_int_equal(files_in(dir), 0);
	FAILS(ERR_NOTFOUND, "", holder_take("/nonexistent/dir", "session", &a));
	FAILS(ERR_NOTFOUND, "", holder_each("/nonexistent/dir", true, see, &s));
	fix_rmdir(dir);
}

/* A holder that was killed is dead; its file stays until somebody clears it. */
static void killed_holder(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	int p[2];
	assert_int_equal(pipe(p), 0);
	struct holder h;
	pid_t pid = fork();
	if (pid == 0) {
		struct err *e = holder_take(dir, "session", &h);
		if (e != NULL || write(p[1], h.id, sizeof(h.id)) != (ssize_t)sizeof(h.id)) {
			_exit(1);
		}
		pause();
	}
	uint8_t id[HOLDER_ID_BYTES];
	assert_int_equal(read(p[0], id, sizeof(id)), sizeof(id));
	bool alive;
	OK(holder_alive(dir, id, "session", true, &alive));
	assert_true(alive);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	OK(holder_alive(dir, id, "session", false, &alive));
	assert_false(alive);
	assert_int_equal(files_in(dir), 1);
	struct seen s = { 0 };
	OK(holder_each(dir, true, see, &s));
	assert_int_equal(s.n + files_in(dir), 0);
	close(p[0]);
	close(p[1]);
	fix_rmdir(dir);
}

static void shared_and_alone(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[300];
	snprintf(path, sizeof(path), "%s/open.lock", dir);
	struct fd a = FD_NONE;
	struct fd b = FD_NONE;
	struct fd c = FD_NONE;
	bool got;
	FAILS(ERR_NOTFOUND, "", holder_lock_file(path, HOLDER_SHARED, false, &a, &got));
	OK(holder_lock_file(path, HOLDER_SHARED, true, &a, &got));
	OK(holder_lock_file(path, HOLDER_SHARED, false, &b, &got));
	OK(holder_lock_file(path, HOLDER_TRY, false, &c, &got));
	assert_false(got);
	fd_close(&a);
	OK(holder_lock_file(path, HOLDER_TRY, false, &c, &got));
	assert_false(got);
	fd_close(&b);
	OK(holder_lock_file(path, HOLDER_TRY, false, &c, &got));
	assert_true(got);
	/* Who waits for a file that its holder removes gets the new one. */
	pid_t pid = fork();
	if (pid == 0) {
		struct fd d = FD_NONE;
		bool mine = false;
		fd_close(&c); /* the lock is the open file's, which the parent still has */
		struct err *e = holder_lock_file(path, HOLDER_ALONE, true, &d, &mine);
		struct stat st;
		_exit(e != NULL || !mine || stat(path, &st) != 0);
	}
	usleep(50000); /* lets it wait; nothing depends on it */
	assert_int_equal(unlink(path), 0);
	fd_close(&c);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fix_rmdir(dir);
}

static void foreign_files_are_left_alone(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	static const char *const names[] = { "README", "0123", "00112233445566778899aabbccddeeff",
					     "00112233445566778899aabbccddeefg-x" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char path[300];
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	struct seen s = { 0 };
	OK(holder_each(dir, true, see, &s));
	assert_int_equal(s.n, 0);
	assert_int_equal(files_in(dir), ARRAY_LEN(names));
	fix_rmdir(dir);
}

/*
 * Takes libc's place for the test below: at the first try of a lock, what two other processes may
 * do just then is done. One collector has removed the file of a dead holder, and a new holder has
 * made one of the same name (as holder_take does when its file vanished) and locked it.
 */
static const char *meddle_path; /* NULL: nothing is done */
static int meddle_fd = -1;

int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	va_start(ap, cmd);
	long arg = va_arg(ap, long);
	va_end(ap);
	if (cmd == F_OFD_SETLK && meddle_path != NULL) {
		const char *path = meddle_path;
		struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		meddle_path = NULL;
		unlink(path);
		meddle_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		assert_true(meddle_fd >= 0);
		assert_int_equal(syscall(SYS_fcntl, meddle_fd, F_OFD_SETLK, &l), 0);
	}
	return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

/*
 * Collectors clear files of dead holders. One that opened a file just before it was removed must
 * not remove its successor of the same name, whose owner lives.
 */
static void collectors_never_clear_the_living(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[400];
	struct holder h = { .file = FD_NONE };
	OK(holder_take(dir, "session", &h));
	uint8_t id[HOLDER_ID_BYTES];
	memcpy(id, h.id, sizeof(id));
	char hex[2 * HOLDER_ID_BYTES + 1];
	for (size_t i = 0; i < HOLDER_ID_BYTES; i++) {
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	}
	snprintf(path, sizeof(path), "%s/%s-session", dir, hex);
	fd_close(&h.file); /* as if it had been killed */
	meddle_path = path;
	struct seen s = { 0 };
	OK(holder_each(dir, true, see, &s));
	assert_int_equal(access(path, F_OK), 0);
	bool alive;
	OK(holder_alive(dir, id, "session", true, &alive));
	assert_true(alive);
	close(meddle_fd);
	OK(holder_alive(dir, id, "session", true, &alive));
	assert_false(alive);
	assert_int_not_equal(access(path, F_OK), 0);
	fix_rmdir(dir);
}

/* A process that is stopped while it has the lock does not hang others. */
static void waits_have_an_end(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	char path[400];
	snprintf(path, sizeof(path), "%s/open.lock", dir);
	SCOPE(fd_close) struct fd a = FD_NONE;
	SCOPE(fd_close) struct fd b = FD_NONE;
	bool got = false;
	OK(holder_lock_file(path, HOLDER_ALONE, true, &a, &got));
	assert_true(got);
	FAILS(ERR_NOT_NOW, "open.lock: locked by another process",
	      holder_lock_file_for(path, HOLDER_SHARED, false, 100, &b, &got));
	FAILS(ERR_NOT_NOW, "open.lock: locked by another process",
	      holder_lock_file_for(path, HOLDER_ALONE, true, 100, &b, &got));
	fd_close(&a);
	OK(holder_lock_file_for(path, HOLDER_SHARED, false, 100, &b, &got));
	assert_true(got);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(take_and_drop),
		cmocka_unit_test(killed_holder),
		cmocka_unit_test(shared_and_alone),
		cmocka_unit_test(foreign_files_are_left_alone),
		cmocka_unit_test(collectors_never_clear_the_living),
		cmocka_unit_test(waits_have_an_end),
	};
	return cmocka_run_group_tests_name("holder", tests, NULL, NULL);
}
