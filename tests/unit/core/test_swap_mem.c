/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that may be out, over a real store: threads that write and check pages of their own while
 * everything is unmapped, trimmed, written out, brought back and given to a balloon, in any order.
 * Skipped where userfaultfd may not be used.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "core/swap_mem.h"
#include "core/uffd.h"
#include "tests/lib/expect.h"
#include "tests/unit/store/store_fix.h"

enum { MEM_PAGES = 8192, WORDS = PAGE_BYTES / 8, TOUCHERS = 3 };

struct rig {
	char *dir;
	struct gmem *gmem;
	struct swap_mem *mem;
	struct swap_home *home;
	atomic_uint stuck;
	atomic_bool stop;
	atomic_ullong bad;    /* pages with other bytes than were written */
	atomic_uint touchers; /* that have started */
	atomic_ullong touched;
	uint64_t expect[MEM_PAGES]; /* what a page is filled with; of the thread it belongs to */
	uint64_t seed;
};

static void on_stuck(void *arg, const char *text)
{
	struct rig *r = arg;
	print_message("stuck: %s\n", text);
	atomic_fetch_add(&r->stuck, 1);
}

static uint64_t *page_at(const struct rig *r, uint64_t page)
{
	return gmem_at(r->gmem, GPA(page * PAGE_BYTES), PAGE_BYTES);
}

static void fill_page(struct rig *r, uint64_t page, uint64_t value)
{
	uint64_t *p = page_at(r, page);
	for (unsigned i = 0; i < WORDS; i++) {
		p[i] = value == 0 ? 0 : value * 0x9e3779b97f4a7c15ull + i / 64 + value % (i + 1);
	}
	r->expect[page] = value;
}

static bool page_ok(const struct rig *r, uint64_t page)
{
	const uint64_t *p = page_at(r, page);
	uint64_t v = r->expect[page];
	for (unsigned i = 0; i < WORDS; i++) {
		if (p[i] != (v == 0 ? 0 : v * 0x9e3779b97f4a7c15ull + i / 64 + v % (i + 1))) {
			return false;
		}
	}
	return true;
}

static void check_all(const struct rig *r)
{
	for (uint64_t i = 0; i < MEM_PAGES; i++) {
		if (!page_ok(r, i)) {
			fail_msg("page %llu is not what was written", (unsigned long long)i);
		}
	}
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));
	SCOPE(fd_close) struct fd uffd = FD_NONE;
	struct err *e = uffd_open_minor(&uffd);
	*state = NULL;
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		free(r);
		return 0;
	}
	r->dir = fix_tmpdir();
	OK(gmem_new(MEM_PAGES * PAGE_BYTES, &r->gmem));
	const struct swap_home_opts ho = {
		.store_dir = r->dir, .vm = { 1 }, .family = { 2 }, .gmem = r->gmem
	};
	OK(swap_home_open(&ho, &r->home));
	const struct swap_mem_opts mo = {
		.gmem = r->gmem, .uffd = fd_move(&uffd).n, .on_stuck = on_stuck, .arg = r
	};
	OK(swap_mem_new(&mo, &r->mem));
	for (uint64_t i = 0; i < MEM_PAGES; i++) {
		if (i % 5 != 3) {
			fill_page(r, i, i % 7 == 0 ? 0 : i + 1);
		}
	}
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;
	if (r != NULL) {
		swap_mem_free(r->mem);
		swap_home_close(r->home);
		gmem_free(r->gmem);
		fix_rmdir(r->dir);
		free(r);
	}
	return 0;
}

static struct swap_mem_status look(const struct rig *r)
{
	struct swap_mem_status s;
	swap_mem_status(r->mem, &s);
	return s;
}

static struct swap_step out(struct rig *r)
{
	struct swap_step step;
	OK(swap_mem_out(r->mem, r->home, NULL, &step));
	return step;
}

static void enable(struct rig *r)
{
	if (!swap_mem_begun(r->mem)) {
		OK(swap_mem_begin(r->mem));
	}
	OK(swap_mem_unmap(r->mem, NULL));
}

static void disable(struct rig *r)
{
	uint64_t pages;
	OK(swap_mem_fill(r->mem, NULL, &pages));
	OK(swap_mem_end(r->mem));
	swap_mem_forget(r->mem);
}

static void staging_gives_back(void **state)
{
	struct rig *r = given(state);
	enable(r);
	struct swap_mem_status s = look(r);
	assert_int_equal(s.resident, 0);
	assert_true(s.staged > MEM_PAGES / 2);
	check_all(r);
	s = look(r);
	assert_int_equal(s.out, 0);
	assert_true(s.from_staging > 0 && s.zeroed > 0 && s.faults > 0);
	assert_int_equal(s.from_store, 0);
	disable(r);
	check_all(r);
}

static void out_leaves_nothing_and_comes_back(void **state)
{
	struct rig *r = given(state);
	enable(r);
	struct swap_step step = out(r);
	struct swap_mem_status s = look(r);
	assert_int_equal(s.staged + s.resident, 0);
	assert_int_equal(s.out, step.stored_pages);
	assert_true(step.zero > 0 && step.same == 0 && step.stored_bytes > 0);
	assert_int_equal(step.pages, step.zero + step.stored_pages);
	check_all(r);
	s = look(r);
	assert_int_equal(s.from_store, step.stored_pages);
	assert_int_equal(s.out, 0);
	assert_int_equal(s.from_staging, 0);
	disable(r);
	check_all(r);
	assert_int_equal(atomic_load(&r->stuck), 0);
}

/* A second out writes what changed, and trim drops the rest without writing. */
static void second_out_writes_changes(void **state)
{
	struct rig *r = given(state);
	enable(r);
	out(r);
	check_all(r);
	for (uint64_t i = 0; i < 64; i++) {
		fill_page(r, 4000 + i, 77777 + i);
	}
	enable(r);
	struct swap_step step;
	OK(swap_mem_trim(r->mem, NULL, &step));
	assert_int_equal(step.stored_pages, 0);
	assert_true(step.same > MEM_PAGES / 2);
	assert_int_equal(look(r).staged, 64);
	step = out(r);
	assert_int_equal(step.stored_pages, 64);
	assert_int_equal(look(r).staged, 0);
	check_all(r);
	/* All out but one page, which goes back to the host: it is zero from then on. */
	enable(r);
	out(r);
	OK(swap_mem_give_back(r->mem, GPA(4001 * PAGE_BYTES), PAGE_BYTES));
	r->expect[4001] = 0;
	uint64_t pages;
	OK(swap_mem_fill(r->mem, NULL, &pages));
	assert_int_equal(look(r).out, 0);
	check_all(r);
	disable(r);
	check_all(r);
}

static void a_step_is_given_up(void **state)
{
	struct rig *r = given(state);
	static const bool yes = true;
	struct swap_step step;
	uint64_t pages;
	OK(swap_mem_begin(r->mem));
	FAILS(ERR_CANCELLED, "", swap_mem_unmap(r->mem, &yes));
	OK(swap_mem_unmap(r->mem, NULL));
	FAILS(ERR_CANCELLED, "", swap_mem_out(r->mem, r->home, &yes, &step));
	check_all(r);
	enable(r);
	out(r);
	FAILS(ERR_CANCELLED, "", swap_mem_fill(r->mem, &yes, &pages));
	check_all(r);
	/* Nothing is left in the store but what is in use. */
	disable(r);
	OK(swap_home_collect(r->home));
}

/* What a thread reads is what it wrote last, whatever happens to its memory. */
static void *toucher(void *arg)
{
	struct rig *r = arg;
	uint64_t me = atomic_fetch_add(&r->touchers, 1);
	uint64_t seed = r->seed + me;
	uint64_t n = 1;
	while (!atomic_load(&r->stop)) {
		uint64_t page = fix_rnd(&seed) % (MEM_PAGES / TOUCHERS) * TOUCHERS + me;
		if (!page_ok(r, page)) {
			atomic_fetch_add(&r->bad, 1);
		}
		switch (fix_rnd(&seed) % 8) {
		case 0:
		case 1:
			fill_page(r, page, (n++ << 8) + me + 1);
			break;
		case 2:
			fill_page(r, page, 0);
			break;
		case 3:
			OK(swap_mem_give_back(r->mem, GPA(page * PAGE_BYTES), PAGE_BYTES));
			r->expect[page] = 0;
			break;
		default:
			break;
		}
		atomic_fetch_add(&r->touched, 1);
	}
	return NULL;
}

static void walk_under_load(void **state)
{
	struct rig *r = given(state);
	pthread_t t[TOUCHERS];
	uint64_t seed = 4711;
	unsigned walks = getenv("TORPOR_TIER") != NULL ? 400 : 60;
	r->seed = 99;
	for (unsigned i = 0; i < TOUCHERS; i++) {
		assert_int_equal(pthread_create(&t[i], NULL, toucher, r), 0);
	}
	for (unsigned i = 0; i < walks; i++) {
		struct swap_step step;
		uint64_t pages;
		switch (fix_rnd(&seed) % 6) {
		case 0:
		case 1:
			enable(r);
			break;
		case 2:
			if (swap_mem_begun(r->mem)) {
				OK(swap_mem_trim(r->mem, NULL, &step));
			}
			break;
		case 3:
			if (swap_mem_begun(r->mem)) {
				OK(swap_mem_fill(r->mem, NULL, &pages));
			}
			break;
		case 4:
			if (swap_mem_begun(r->mem)) {
				out(r);
			}
			break;
		default:
			disable(r);
			break;
		}
	}
	atomic_store(&r->stop, true);
	for (unsigned i = 0; i < TOUCHERS; i++) {
		pthread_join(t[i], NULL);
	}
	assert_int_equal(atomic_load(&r->bad), 0);
	assert_int_equal(atomic_load(&r->stuck), 0);
	assert_true(atomic_load(&r->touched) > 0);
	check_all(r);
	disable(r);
	check_all(r);
}

/* A page that was given back, used again and put away is not taken for zero. */
static void given_back_is_not_put_away(void **state)
{
	struct rig *r = given(state);
	OK(gmem_give_back(r->gmem, GPA(9 * PAGE_BYTES), PAGE_BYTES));
	assert_true(gmem_is_given(r->gmem, 0, 9));
	fill_page(r, 9, 123);
	enable(r);
	out(r);
	assert_false(gmem_is_given(r->gmem, 0, 9));
	check_all(r);
	disable(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(staging_gives_back, setup, teardown),
		cmocka_unit_test_setup_teardown(out_leaves_nothing_and_comes_back, setup, teardown),
		cmocka_unit_test_setup_teardown(second_out_writes_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_step_is_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(given_back_is_not_put_away, setup, teardown),
		cmocka_unit_test_setup_teardown(walk_under_load, setup, teardown),
	};
	return cmocka_run_group_tests_name("swap_mem", tests, NULL, NULL);
}
