/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: runs, workers, errors of place, leases, single pages, truncated and failing files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 6000,
};

static int setup(void **state)
{
	fix_setup(state);
	struct fix_store *x = *state;
	fix_store_take(x, fix_image(77, PAGES), PAGES);
	return 0;
}

static void reopen(struct fix_store *x)
{
	family_close(x->f);
	x->f = NULL;
	OK(family_open(x->s, fix_fam, false, &x->f));
}

struct count {
	const uint8_t *img;
	_Atomic uint64_t pages;
	atomic_uchar seen[PAGES];
	_Atomic uint64_t last_done;
	unsigned fail_after;
	uint64_t calls;
};

static struct err *count_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct count *c = arg;
	ENSURE(memcmp(c->img + index * PAGE_BYTES, pages, npages * PAGE_BYTES) == 0, ERR_CORRUPT,
	       "page 0x%llx differs", (unsigned long long)index);
	for (uint64_t i = 0; i < npages; i++) {
		ENSURE(atomic_fetch_add(&c->seen[index + i], 1) == 0, ERR_CORRUPT, "twice");
	}
	uint64_t n = atomic_fetch_add(&c->pages, npages);
	ENSURE(c->fail_after == 0 || n < c->fail_after, ERR_CANCELLED, "enough of it");
	return NULL;
}

static void count_progress(void *arg, uint64_t done, uint64_t total)
{
	struct count *c = arg;
	c->calls++;
	assert_true(done <= total);
	assert_int_equal(total, PAGES);
	assert_true(done >= atomic_load(&c->last_done));
	atomic_store(&c->last_done, done);
}

/* Every non-zero page exactly once, zero pages never, with every number of workers. */
static void each_page_once(void **state)
{
	struct fix_store *x = *state;
	static const uint8_t zero[PAGE_BYTES];
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	for (unsigned workers = 0; workers < 5; workers++) {
		struct count *c = calloc(1, sizeof(*c));
		c->img = x->img;
		struct read_opts ro = { .workers = workers,
					.place = count_place,
					.progress = count_progress,
					.arg = c };
		OK(reader_map_read(r, "memory", &ro));
		for (uint64_t p = 0; p < PAGES; p++) {
			bool is_zero = memcmp(x->img + p * PAGE_BYTES, zero, PAGE_BYTES) == 0;
			assert_int_equal(c->seen[p], !is_zero);
		}
		assert_true(c->calls > 0);
		assert_int_equal(c->last_done, PAGES);
		free(c);
	}
	reader_close(r);
}

static void place_may_refuse(void **state)
{
	struct fix_store *x = *state;
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	struct count *c = calloc(1, sizeof(*c));
	c->img = x->img;
	c->fail_after = 500;
	struct read_opts ro = { .place = count_place, .arg = c };
	FAILS(ERR_CANCELLED, "enough", reader_map_read(r, "memory", &ro));
	FAILS(ERR_NOTFOUND, "no map disk", reader_map_read(r, "disk", &ro));
	free(c);
	reader_close(r);
	reader_close(NULL);
	FAILS(ERR_NOTFOUND, "", reader_open(x->f, 4711, &r));
}

static void single_pages(void **state)
{
	struct fix_store *x = *state;
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	uint8_t page[PAGE_BYTES];
	for (uint64_t p = 0; p < PAGES; p += 37) {
		OK(reader_map_page(r, "memory", p, page));
		assert_memory_equal(page, x->img + p * PAGE_BYTES, PAGE_BYTES);
	}
	FAILS(ERR_USAGE, "no page", reader_map_page(r, "memory", PAGES, page));
	FAILS(ERR_NOTFOUND, "", reader_map_page(r, "x", 0, page));
	reader_close(r);
}

struct seen_blobs {
	unsigned n;
	uint32_t key[4];
};

static struct err *see_blob(void *arg, uint16_t kind, uint16_t index)
{
	struct seen_blobs *s = arg;
	s->key[s->n++] = (uint32_t)kind << 16 | index;
	return s->n == 4 ? ERR(ERR_LIMIT, "too many") : NULL;
}

static void lists_blobs(void **state)
{
	struct fix_store *x = *state;
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	struct seen_blobs s = { 0 };
	OK(reader_blobs(r, see_blob, &s));
	assert_int_equal(s.n, 2);
	assert_int_equal(s.key[0], 1u << 16);
	assert_int_equal(s.key[1], 3u << 16 | 1);
	s.n = 3;
	FAILS(ERR_LIMIT, "too many", reader_blobs(r, see_blob, &s));
	uint8_t *p;
	size_t len;
	OK(reader_blob(r, 3, 1, &p, &len));
	assert_int_equal(len, 11);
	assert_memory_equal(p, "second blob", 11);
	free(p);
	reader_close(r);
}

/* A lease keeps the content of a removed snapshot until it ends. */
static void lease_hides_only(void **state)
{
	struct fix_store *x = *state;
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	OK(family_remove(x->f, &x->info.id, 1));
	struct snap_info *list;
	size_t n;
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 0);
	free(list);
	bool found;
	struct snap_info info;
	OK(family_snap_by_id(x->f, x->info.id, &found, &info));
	assert_false(found);
	struct reader *other = NULL;
	FAILS(ERR_NOTFOUND, "", reader_open(x->f, x->info.id, &other));
	FAILS(ERR_NOTFOUND, "", family_remove(x->f, &x->info.id, 1));
	struct gc_result res;
	OK(family_gc(x->f, &res));
	assert_int_equal(res.frames_freed, 0);
	uint8_t *out = calloc(PAGES, PAGE_BYTES);
	struct read_opts ro = { .place = fix_place, .arg = out };
	OK(reader_map_read(r, "memory", &ro));
	assert_int_equal(memcmp(out, x->img, (size_t)PAGES * PAGE_BYTES), 0);
	free(out);
	reader_close(r);
	OK(family_gc(x->f, &res));
	assert_true(res.frames_freed > 0);
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.frames + u.leaves + u.nodes + u.blobs + u.snaps, 0);
}

/* A lease of another process counts, and ends with it, however it ends. */
static void lease_ends_with_its_process(void **state)
{
	struct fix_store *x = *state;
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fix_fork(x);
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct reader *r = NULL;
		struct err *e = store_open(x->dir, STORE_WRITE, &s);
		e = e != NULL ? e : family_open(s, fix_fam, false, &f);
		e = e != NULL ? e : reader_open(f, x->info.id, &r);
		char c = e == NULL ? 'y' : 'n';
		if (write(ready[1], &c, 1) != 1) {
			_exit(1);
		}
		pause();
		_exit(0);
	}
	char c = 'n';
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(c, 'y');
	OK(store_open(x->dir, STORE_WRITE, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	OK(family_remove(x->f, &x->info.id, 1));
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.snaps, 1);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	struct gc_result res;
	OK(family_gc(x->f, &res));
	OK(family_usage(x->f, &u));
	assert_int_equal(u.snaps + u.frames, 0);
	close(ready[0]);
	close(ready[1]);
}

/* Cutting the file at any length is an error, never a signal. */
static void truncated_file(void **state)
{
	struct fix_store *x = *state;
	family_close(x->f);
	x->f = NULL;
	struct stat st;
	assert_int_equal(stat(x->data, &st), 0);
	unsigned refused = 0;
	for (off_t len = st.st_size - 4096; len > 0; len -= st.st_size / 16 + 1) {
		char cmd[1400];
		char copy[700];
		snprintf(copy, sizeof(copy), "%s.copy", x->data);
		snprintf(cmd, sizeof(cmd), "cp '%s' '%s'", x->data, copy);
		assert_int_equal(system(cmd), 0);
		assert_int_equal(truncate(x->data, len), 0);
		struct err *e = family_open(x->s, fix_fam, false, &x->f);
		assert_non_null(e);
		refused++;
		assert_true(err_class(e) == ERR_CORRUPT || err_class(e) == ERR_SYS);
		err_free(e);
		assert_int_equal(rename(copy, x->data), 0);
	}
	assert_true(refused >= 10);
	OK(family_open(x->s, fix_fam, false, &x->f));
	fix_same(x->f, x->info.id, "memory", x->img, PAGES);
}

/* The same while it is open: B-tree pages are read through the map, so this is the guard's work. */
static void truncated_while_open(void **state)
{
	struct fix_store *x = *state;
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	uint8_t other[16] = { 3 };
	struct family *f = NULL;
	/* cmocka has put its own signal handlers in place; opening brings the guard's back. */
	OK(family_open(x->s, other, true, &f));
	assert_int_equal(truncate(x->data, 3 * 4096), 0);
	uint8_t *out = calloc(PAGES, PAGE_BYTES);
	struct read_opts ro = { .place = fix_place, .arg = out };
	FAILS(ERR_CORRUPT, "", reader_map_read(r, "memory", &ro));
	FAILS(ERR_CORRUPT, "damaged or truncated", reader_map_read(r, "memory", &ro));
	struct snap_info info;
	FAILS(ERR_CORRUPT, "", fix_take(x->f, fix_vm1, "", x->img, PAGES, &info));
	free(out);
	reader_close(r);
	/* Another store of the same process is not affected. */
	OK(fix_take(f, fix_vm1, "", x->img, 100, &info));
	fix_same(f, info.id, "memory", x->img, 100);
	family_close(f);
}

static void survives_reopen_and_fork(void **state)
{
	struct fix_store *x = *state;
	reopen(x);
	fix_same(x->f, x->info.id, "memory", x->img, PAGES);
	/* Only the child goes on with the handles that it was born with. */
	pid_t pid = fork();
	if (pid == 0) {
		struct snap_info info;
		struct err *e = fix_take(x->f, fix_vm1, "", x->img, 500, &info);
		struct err *e2 = NULL;
		uint8_t *out = fix_read(x->f, x->info.id, "memory", PAGES, &e2);
		_exit(e != NULL || e2 != NULL ||
		      memcmp(out, x->img, (size_t)PAGES * PAGE_BYTES) != 0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	struct snap_info *list;
	size_t n;
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 2);
	free(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_page_once, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(place_may_refuse, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(single_pages, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(lists_blobs, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(lease_hides_only, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(lease_ends_with_its_process, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(truncated_file, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(truncated_while_open, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(survives_reopen_and_fork, setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("reader", tests, NULL, NULL);
}
