/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of guest memory on its way to and from the store: which pages are given in which
 * chunks, and which are accepted. The two store functions it needs are this file's own, so nothing
 * of the store is linked.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "snapshot/pages.h"
#include "tests/lib/expect.h"

enum { LEAF_PAGES = 512, CALLS_MAX = 64 };

static struct call {
	uint64_t index;
	const void *pages;
	uint64_t npages;
} calls[CALLS_MAX];
static size_t ncalls;
static size_t fail_call; /* the store refuses this one */
static bool cancel;
static size_t cancel_call; /* somebody cancels during this one */

struct err *session_map_pages(struct session *s, uint64_t index, const void *pages, uint64_t npages)
{
	(void)s;
	assert_true(ncalls < CALLS_MAX);
	calls[ncalls++] = (struct call){ index, pages, npages };
	cancel = cancel || ncalls == cancel_call;
	ENSURE(ncalls != fail_call, ERR_NOSPACE, "disk full");
	return NULL;
}

/* What the reader gives: one run. */
static struct call run;

struct err *reader_map_read(struct reader *r, const char *name, const struct read_opts *opts)
{
	(void)r;
	assert_string_equal(name, "memory");
	opts->progress(opts->arg, 1, 2);
	return opts->place(opts->arg, run.index, run.pages, run.npages);
}

static void refused(struct err *e, enum err_class class, const char *text)
{
	assert_non_null(e);
	if (err_class(e) != class || strstr(err_msg(e), text) == NULL) {
		fail_msg("%s: %s", err_class_name(err_class(e)), err_msg(e));
	}
	err_free(e);
}

static int setup(void **state)
{
	(void)state;
	ncalls = fail_call = cancel_call = 0;
	cancel = false;
	return 0;
}

static void touch(struct gmem *g, uint64_t gfn, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint8_t b = (uint8_t)(gfn + i + 1);
		ok(gmem_write(g, GPA((gfn + i) * PAGE_BYTES), &b, 1));
	}
}

static const struct snap_take_opts quiet;
static const struct snap_take_opts cancellable = { .cancel = &cancel };

/* All that was touched; nothing is known of changes. */
static struct err *save_all(struct gmem *g, const struct snap_take_opts *opts)
{
	const struct snap_vm vm = { .gmem = g };
	return pages_save(NULL, &vm, NULL, true, opts);
}

static void test_chunks(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	uint64_t end = gmem_gfn_end(g);
	ok(save_all(g, &quiet));
	assert_int_equal(ncalls, 0); /* nothing touched, nothing given */
	touch(g, 3, 2);
	touch(g, 500, 3 * LEAF_PAGES);
	touch(g, end - 1, 1);
	ok(save_all(g, &quiet));
	static const struct call want[] = {
		{ 3, NULL, 2 },      { 500, NULL, 12 },   { 512, NULL, 512 },
		{ 1024, NULL, 512 }, { 1536, NULL, 500 }, { 0, NULL, 1 },
	};
	assert_int_equal(ncalls, ARRAY_LEN(want));
	for (size_t i = 0; i < ncalls; i++) {
		uint64_t index = want[i].index != 0 ? want[i].index : end - 1;
		assert_int_equal(calls[i].index, index);
		assert_int_equal(calls[i].npages, want[i].npages);
		assert_ptr_equal(calls[i].pages,
				 gmem_at(g, GPA(index * PAGE_BYTES), want[i].npages * PAGE_BYTES));
	}
}

static void test_high_region(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	struct err *e = gmem_new(GMEM_LOW_END + 16 * MIB, &g);
	if (e != NULL && err_class(e) == ERR_LIMIT) {
		err_free(e);
		skip(); /* the host has less memory than that */
	}
	ok(e);
	uint64_t low_end = GMEM_LOW_END / PAGE_BYTES;
	uint64_t high = GMEM_HIGH_START / PAGE_BYTES;
	touch(g, low_end - 1, 1);
	touch(g, high, 1);
	ok(save_all(g, &quiet));
	/* neighbours in the file, not in the guest */
	assert_int_equal(ncalls, 2);
	assert_int_equal(calls[0].index, low_end - 1);
	assert_int_equal(calls[0].npages, 1);
	assert_int_equal(calls[1].index, high);
	assert_int_equal(calls[1].npages, 1);
}

static void test_store_fails_and_cancel(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	touch(g, 0, 1200);
	fail_call = 2;
	refused(save_all(g, &quiet), ERR_NOSPACE, "memory region 0: disk full");
	assert_int_equal(ncalls, 2);
	ncalls = fail_call = 0;
	cancel_call = 2;
	refused(save_all(g, &cancellable), ERR_CANCELLED, "cancelled");
	assert_int_equal(ncalls, 2);
	ncalls = 0;
	refused(save_all(g, &cancellable), ERR_CANCELLED, "cancelled");
	assert_int_equal(ncalls, 0);
	refused(pages_check_cancel(&cancel), ERR_CANCELLED, "cancelled");
	ok(pages_check_cancel(NULL));
}

static void test_place(void **state)
{
	(void)state;
	static uint8_t two[2 * PAGE_BYTES];
	SCOPE(gmem_freep) struct gmem *g = NULL;
	uint8_t got = 0;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	uint64_t end = gmem_gfn_end(g);
	memset(two, 0x5a, sizeof(two));
	run = (struct call){ 7, two, 2 };
	ok(pages_load(NULL, g, &quiet.progress));
	ok(gmem_read(g, GPA(9 * PAGE_BYTES - 1), &got, 1));
	assert_int_equal(got, 0x5a);
	run.index = end - 2;
	ok(pages_load(NULL, g, &quiet.progress));
	run.index = end - 1;
	refused(pages_load(NULL, g, &quiet.progress), ERR_CORRUPT, "where there is no RAM");
	run.index = end;
	refused(pages_load(NULL, g, &quiet.progress), ERR_CORRUPT, "where there is no RAM");
	run = (struct call){ UINT64_MAX, two, 1 };
	refused(pages_load(NULL, g, &quiet.progress), ERR_CORRUPT, "where there is no RAM");
	run = (struct call){ 1, two, UINT64_MAX };
	refused(pages_load(NULL, g, &quiet.progress), ERR_CORRUPT, "where there is no RAM");
}

struct seen {
	uint64_t done, total;
	bool fell; /* it went backwards or past the total */
};

static void note(void *arg, const char *step, uint64_t done, uint64_t total)
{
	struct seen *s = arg;
	assert_string_equal(step, "memory");
	s->fell = s->fell || done < s->done || done > total;
	s->done = done;
	s->total = total;
}

static void test_progress(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	struct seen seen = { 0 };
	const struct snap_progress p = { note, &seen };
	static uint8_t page[PAGE_BYTES];
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	touch(g, 100, 700);
	ok(save_all(g, &(struct snap_take_opts){ .progress = p }));
	assert_false(seen.fell);
	assert_int_equal(seen.done, GMEM_MIN_BYTES);
	assert_int_equal(seen.total, GMEM_MIN_BYTES);
	run = (struct call){ 1, page, 1 };
	ok(pages_load(NULL, g, &p));
	assert_int_equal(seen.done, PAGE_BYTES);
	assert_int_equal(seen.total, 2 * PAGE_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_chunks, setup),
		cmocka_unit_test_setup(test_high_region, setup),
		cmocka_unit_test_setup(test_store_fails_and_cancel, setup),
		cmocka_unit_test_setup(test_place, setup),
		cmocka_unit_test_setup(test_progress, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
