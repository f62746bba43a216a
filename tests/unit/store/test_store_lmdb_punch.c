/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of free pages: given back, used again, never one that either meta page can reach. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "store/family.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 3000,
	META_TXNID_AT = 144,
};

static void clean(struct family *f)
{
	struct fix_findings fi = { 0 };
	uint64_t findings;
	OK(family_verify(f, fix_report, &fi, &findings));
	if (findings != 0) {
		print_error("%s", fi.all);
	}
	assert_int_equal(findings, 0);
}

static void blocks_come_back(void **state)
{
	struct fix_store *x = *state;
	struct snap_info info[3];
	uint8_t *img[3];
	for (unsigned i = 0; i < 3; i++) {
		img[i] = fix_image(i + 1, PAGES);
		OK(fix_take(x->f, fix_vm1, "", img[i], PAGES, &info[i]));
	}
	OK(family_remove(x->f, &info[1].id, 1));
	struct lenv_space before;
	struct lenv_space after;
	uint64_t bytes = 0;
	OK(lenv_space(x->f->env, &before));
	assert_true(before.backed_bytes > 1 << 20);
	OK(family_punch(x->f, false, &bytes)); /* not worth it */
	assert_int_equal(bytes, 0);
	OK(family_punch(x->f, true, &bytes));
	OK(lenv_space(x->f->env, &after));
	if (bytes == 0) {
		skip(); /* a file system without holes */
	}
	assert_true(bytes > before.backed_bytes / 2);
	assert_int_equal(after.allocated_bytes, before.allocated_bytes - bytes);
	assert_int_equal(after.file_bytes, before.file_bytes);
	assert_true(after.free_bytes + (1 << 19) > before.free_bytes);
	assert_true(after.backed_bytes < before.backed_bytes / 4);
	clean(x->f);
	fix_same(x->f, info[0].id, "memory", img[0], PAGES);
	fix_same(x->f, info[2].id, "memory", img[2], PAGES);
	/* Holes are used again before the file grows. */
	OK(fix_take(x->f, fix_vm1, "", img[1], PAGES, &info[1]));
	OK(lenv_space(x->f->env, &before));
	assert_true(before.file_bytes < after.file_bytes + after.file_bytes / 8);
	fix_same(x->f, info[1].id, "memory", img[1], PAGES);
	clean(x->f);
	for (unsigned i = 0; i < 3; i++) {
		free(img[i]);
	}
}

/* An open read transaction keeps what it sees, whatever is removed and punched. */
static void readers_keep_theirs(void **state)
{
	struct fix_store *x = *state;
	struct snap_info a;
	struct snap_info b;
	uint8_t *img = fix_image(1, PAGES);
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &b));
	int ready[2];
	int go[2];
	assert_int_equal(pipe(ready) + pipe(go), 0);
	pid_t pid = fix_fork(x);
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct ltxn *t = NULL;
		struct lcur *c = NULL;
		char byte = 1;
		bool found = false;
		unsigned n = 0;
		SCOPE(lbuf_done) struct lbuf buf = { 0 };
		struct err *e = store_open(x->dir, STORE_WRITE, &s);
		e = e == NULL ? family_open(s, fix_fam, false, &f) : e;
		e = e == NULL ? ltxn_begin(f->env, false, &t) : e;
		if (e != NULL || write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) {
			_exit(1);
		}
		e = lcur_open(t, FAMILY_FRAME, &c);
		e = e == NULL ? lcur_seek(c, (struct bytes){ 0 }, &found) : e;
		while (e == NULL && found) {
			e = lcur_value(c, 65536, &buf);
			if (e == NULL && get_le32(buf.p) != (uint32_t)RECORD_FRAME) {
				_exit(2);
			}
			n++;
			e = e == NULL ? lcur_next(c, &found) : e;
		}
		_exit(e == NULL && n > 4 ? 7 : 3);
	}
	char byte = 0;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	OK(store_open(x->dir, STORE_WRITE, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	uint64_t ids[] = { a.id, b.id };
	uint64_t bytes;
	OK(family_remove(x->f, ids, 2));
	OK(family_punch(x->f, true, &bytes));
	struct lenv_space held;
	OK(lenv_space(x->f->env, &held));
	assert_true(held.allocated_bytes > a.bytes_stored + b.bytes_stored);
	assert_int_equal(write(go[1], &byte, 1), 1);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	OK(family_punch(x->f, true, &bytes));
	struct lenv_space free_now;
	OK(lenv_space(x->f->env, &free_now));
	assert_true(bytes == 0 || free_now.allocated_bytes < held.allocated_bytes / 2);
	clean(x->f);
	free(img);
	close(ready[0]);
	close(ready[1]);
	close(go[0]);
	close(go[1]);
}

/* How much lies behind the end of the file, at least, but for what the file system needs to say so.
 */
static uint64_t room_ahead(struct fix_store *x)
{
	struct lenv_space sp;
	OK(lenv_space(x->f->env, &sp));
	uint64_t file = sp.file_bytes + 16 * PAGE_BYTES;
	return sp.allocated_bytes > file ? sp.allocated_bytes - file : 0;
}

/* What a writer allocated ahead does not outlive it for good, also if it was killed. */
static void room_of_the_dead_comes_back(void **state)
{
	struct fix_store *x = *state;
	uint64_t bytes;
	struct gc_result gc;
	uint8_t *img = fix_image(1, PAGES);
	pid_t pid = fix_fork(x);
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct session *w = NULL;
		struct err *e = store_open(x->dir, STORE_WRITE, &s);
		e = e == NULL ? family_open(s, fix_fam, false, &f) : e;
		e = e == NULL ? session_open(f, &(struct session_opts){ 0 }, &w) : e;
		if (e == NULL) {
			fix_map(w, "memory", img, PAGES);
		}
		_exit(e != NULL); /* as a kill: nobody gives anything back */
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	OK(store_open(x->dir, STORE_WRITE, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	bool can = room_ahead(x) > 16 * MIB; /* else the file system has no such thing */
	OK(family_gc(x->f, &gc));
	assert_int_equal(gc.sessions_cleared, 1);
	assert_int_equal(room_ahead(x), 0);
	/* Killed behind its publishing there is no session to clear. */
	lenv_prealloc(x->f->env, 64 * MIB);
	assert_true(!can || room_ahead(x) > 16 * MIB);
	OK(family_punch(x->f, true, &bytes));
	assert_int_equal(room_ahead(x), 0);
	assert_true(!can || bytes > 16 * MIB);
	free(img);
}

/* Takes the newer meta page out, as recovery does. */
static void back_one_commit(const char *path)
{
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	uint8_t id[2][8];
	assert_int_equal(pread(fd, id[0], 8, META_TXNID_AT), 8);
	assert_int_equal(pread(fd, id[1], 8, 4096 + META_TXNID_AT), 8);
	unsigned newer = get_le64(id[0]) > get_le64(id[1]) ? 0 : 1;
	uint8_t older[4096];
	assert_int_equal(pread(fd, older, sizeof(older), newer ? 0 : 4096), 4096);
	/* LMDB goes by the higher number: the newer page gets a lower one, without trees. */
	put_le64(older, newer);
	put_le64(older + META_TXNID_AT, get_le64(id[1 - newer]) - 1);
	for (unsigned t = 40; t < 136; t += 48) {
		memset(older + t + 6, 0, 42);
		put_le64(older + t + 40, UINT64_MAX);
	}
	assert_int_equal(pwrite(fd, older, sizeof(older), newer * 4096), 4096);
	close(fd);
}

/* After every kind of commit followed by a punch, the state before that commit is whole, too. */
static void the_older_meta_page_is_whole(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(9, PAGES);
	struct snap_info info[4];
	for (unsigned i = 0; i < 4; i++) {
		OK(fix_take(x->f, fix_vm1, "", img, PAGES, &info[i]));
		if (i > 0) {
			OK(family_remove(x->f, &info[i - 1].id, 1));
		}
		uint64_t bytes;
		OK(lenv_punch(x->f->env, &bytes));
		char *copy = fix_tmpdir();
		char cmd[8192];
		family_close(x->f);
		snprintf(cmd, sizeof(cmd), "cp -a --sparse=always %s/. %s", x->dir, copy);
		assert_int_equal(system(cmd), 0);
		OK(family_open(x->s, fix_fam, false, &x->f));
		clean(x->f);
		char path[4096];
		fix_data_path(copy, fix_fam, path, sizeof(path));
		back_one_commit(path);
		struct store *s = NULL;
		struct family *f = NULL;
		OK(store_open(copy, STORE_WRITE, &s));
		OK(family_open(s, fix_fam, false, &f));
		clean(f);
		if (i > 0) { /* of the first, the commit before is the one before its publishing */
			fix_same(f, info[i].id, "memory", img, PAGES);
		}
		family_close(f);
		store_close(s);
		fix_rmdir(copy);
	}
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(blocks_come_back, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(readers_keep_theirs, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(room_of_the_dead_comes_back, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(the_older_meta_page_is_whole, fix_setup,
						fix_teardown),
	};
	return cmocka_run_group_tests_name("store_lmdb_punch", tests, NULL, NULL);
}
