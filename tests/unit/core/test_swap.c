/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap's states: every cell of the table, its picture, and requests in and out of turn over real
 * memory and a real store. The latter are skipped where userfaultfd may not be used.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "core/base/clock.h"
#include "core/swap.h"
#include "core/uffd.h"
#include "tests/lib/fsm_doc.h"
#include "tests/lib/expect.h"
#include "tests/unit/store/store_fix.h"

enum { MEM_PAGES = 4096, WAIT_S = 60 };

/* Next state of each event, as in the header's order; '-': refused. R P T O A I F are the states.
 */
static const char *const want_cells[SWAP__STATES] = {
	[SWAP_READY] = "P--R---R",     [SWAP_PENDING] = "PTOIPFRR", [SWAP_TRIMMING] = "P--IPFRR",
	[SWAP_GOING_OUT] = "P--IAFRR", [SWAP_ACTIVE] = "P--I-F-R",  [SWAP_COMING_IN] = "P--IRF-R",
	[SWAP_FAILED] = "P--I-F-R",
};

static void test_every_cell(void **state)
{
	(void)state;
	static const char letters[SWAP__STATES + 1] = "RPTOAIF";
	for (unsigned s = 0; s < SWAP__STATES; s++) {
		assert_int_equal(strlen(want_cells[s]), SWAP__EVENTS);
		for (unsigned ev = 0; ev < SWAP__EVENTS; ev++) {
			const struct fsm_cell *c = fsm_cell(&swap_fsm_desc, s, ev);
			char want = want_cells[s][ev];
			assert_int_equal(c->legal ? letters[c->next] : '-', want);
		}
	}
	fsm_check_empty(&swap_fsm_desc);
}

static void test_the_picture_is_the_table(void **state)
{
	(void)state;
	fsm_doc_check(&swap_fsm_desc, "swap.md");
}

struct rig {
	char *dir;
	struct loop *loop;
	struct loop_timer *timer;
	struct gmem *gmem;
	struct swap *swap;
	unsigned enabled, refused; /* answers to enables */
	unsigned readies;          /* atomic access */
	bool not_ready;
	unsigned nstates;
	const char *states[64];
	char error[256]; /* of the state told last */
	char why[256];   /* of the enable refused last */
	const char *until;
	bool timed_out;
};

static struct err *on_ready(void *arg, const bool *cancel)
{
	struct rig *r = arg;
	(void)cancel;
	__atomic_fetch_add(&r->readies, 1, __ATOMIC_RELAXED);
	return r->not_ready ? ERR(ERR_SYS, "the rest cannot be read") : NULL;
}

static uint64_t no_parent(void *arg)
{
	(void)arg;
	return 0;
}

static void on_state(void *arg, const char *name, const char *error)
{
	struct rig *r = arg;
	if (r->nstates < ARRAY_LEN(r->states)) {
		r->states[r->nstates++] = name;
	}
	snprintf(r->error, sizeof(r->error), "%s", error != NULL ? error : "");
	if (r->until != NULL && strcmp(name, r->until) == 0) {
		loop_quit(r->loop);
	}
}

static void on_stuck(void *arg, const char *text)
{
	(void)arg;
	fail_msg("stuck: %s", text);
}

static void on_time(void *arg)
{
	struct rig *r = arg;
	r->timed_out = true;
	loop_quit(r->loop);
}

static uint64_t value_of(uint64_t page)
{
	return page % 9 == 4 ? 0 : page * 7919 + 1;
}

static uint64_t *page_at(const struct rig *r, uint64_t page)
{
	return gmem_at(r->gmem, GPA(page * PAGE_BYTES), PAGE_BYTES);
}

static void check_memory(const struct rig *r)
{
	for (uint64_t i = 0; i < MEM_PAGES; i++) {
		assert_int_equal(page_at(r, i)[i % 512], value_of(i));
	}
}

static int setup_with(void **state, bool can)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct fd uffd = FD_NONE;
	struct err *e = can ? uffd_open_minor(&uffd) : NULL;
	*state = NULL;
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		free(r);
		return 0;
	}
	r->dir = fix_tmpdir();
	OK(loop_new(&r->loop));
	OK(loop_timer_add(r->loop, on_time, r, &r->timer));
	OK(gmem_new(MEM_PAGES * PAGE_BYTES, &r->gmem));
	const struct swap_opts o = {
		.loop = r->loop,
		.gmem = r->gmem,
		.uffd = uffd.n,
		.why_not = "there is no userfaultfd",
		.store_dir = r->dir,
		.vm = { 3 },
		.family = { 4 },
		.ready = on_ready,
		.parent = no_parent,
		.on_state = on_state,
		.on_stuck = on_stuck,
		.arg = r,
	};
	OK(swap_new(&o, &r->swap));
	for (uint64_t i = 0; i < MEM_PAGES; i++) {
		page_at(r, i)[i % 512] = value_of(i);
	}
	*state = r;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, true);
}

static int setup_without(void **state)
{
	return setup_with(state, false);
}

static int teardown(void **state)
{
	struct rig *r = *state;
	if (r != NULL) {
		swap_free(r->swap);
		loop_timer_del(r->timer);
		loop_free(r->loop);
		gmem_free(r->gmem);
		fix_rmdir(r->dir);
		free(r);
	}
	return 0;
}

static void run(struct rig *r)
{
	loop_timer_set(r->timer, clock_mono_ns() + WAIT_S * 1000000000ull);
	OK(loop_run(r->loop));
	assert_false(r->timed_out);
}

static struct swap_status look(const struct rig *r)
{
	struct swap_status s;
	swap_status(r->swap, &s);
	return s;
}

/* Until that state has been told. */
static void run_to(struct rig *r, const char *state)
{
	r->until = state;
	while (strcmp(look(r).state, state) != 0) {
		run(r); /* an answer ends it, too */
	}
	r->until = NULL;
	assert_string_equal(look(r).state, state);
}

static void on_enabled(void *arg, struct err *e)
{
	struct rig *r = arg;
	*(e == NULL ? &r->enabled : &r->refused) += 1;
	if (e != NULL) {
		snprintf(r->why, sizeof(r->why), "%s", err_msg(e));
	}
	err_free(e);
	loop_quit(r->loop);
}

static void enable(struct rig *r)
{
	unsigned before = r->enabled;
	OK(swap_enable(r->swap, on_enabled, r));
	assert_string_equal(look(r).state, "Pending");
	while (r->enabled == before) {
		run(r);
	}
}

static void there_and_back(void **state)
{
	struct rig *r = given(state);
	enable(r);
	assert_int_equal(look(r).mem.resident, 0); /* the answer comes when it is true */
	assert_true(look(r).mem.staged > MEM_PAGES / 2);
	OK(swap_trim(r->swap));
	FAILS(ERR_NOT_NOW, "TrimInProgress", swap_out(r->swap));
	run_to(r, "Pending");
	assert_true(look(r).zero > 0);
	OK(swap_out(r->swap));
	FAILS(ERR_NOT_NOW, "SwapOutInProgress", swap_trim(r->swap));
	run_to(r, "Active");
	assert_int_equal(look(r).mem.staged, 0);
	assert_true(look(r).mem.out > MEM_PAGES / 2 && look(r).stored_bytes > 0);
	check_memory(r);
	OK(swap_disable(r->swap, true));
	run_to(r, "Ready");
	check_memory(r);
	FAILS(ERR_NOT_NOW, "swap is Ready", swap_out(r->swap));
	OK(swap_disable(r->swap, false));
	static const char *const told[] = { "Pending", "TrimInProgress",
					    "Pending", "SwapOutInProgress",
					    "Active",  "SwapInInProgress",
					    "Ready" };
	assert_int_equal(r->nstates, ARRAY_LEN(told));
	for (unsigned i = 0; i < ARRAY_LEN(told); i++) {
		assert_string_equal(r->states[i], told[i]);
	}
	assert_int_equal(__atomic_load_n(&r->readies, __ATOMIC_RELAXED), 1);
}

/* What is overtaken ends in the state of what overtook it, and all who wait are answered. */
static void overtaken(void **state)
{
	struct rig *r = given(state);
	OK(swap_enable(r->swap, on_enabled, r));
	OK(swap_enable(r->swap, on_enabled, r));
	OK(swap_out(r->swap)); /* behind the unmapping */
	while (r->enabled < 2) {
		run(r);
	}
	enable(r); /* instead of the out, or after it */
	assert_string_equal(look(r).state, "Pending");
	OK(swap_out(r->swap));
	OK(swap_disable(r->swap, false));
	run_to(r, "Ready");
	check_memory(r);
	OK(swap_enable(r->swap, on_enabled, r));
	OK(swap_disable(r->swap, false));
	run_to(r, "Ready");
	assert_int_equal(r->refused, 1);
	assert_non_null(strstr(r->why, "disabled"));
	OK(swap_enable(r->swap, on_enabled, r));
	swap_reset(r->swap);
	assert_int_equal(r->refused, 2);
	assert_string_equal(look(r).state, "Ready");
	check_memory(r);
}

/* Nothing leaves while somebody holds; an out goes on afterwards. */
static void held(void **state)
{
	struct rig *r = given(state);
	static const bool never = false;
	enable(r);
	OK(swap_out(r->swap));
	run_to(r, "Active");
	swap_hold(r->swap);
	OK(swap_bring_in(r->swap, &never));
	assert_int_equal(look(r).mem.out, 0);
	enable(r);
	OK(swap_out(r->swap));
	assert_int_equal(look(r).mem.out, 0);
	assert_string_equal(look(r).state, "SwapOutInProgress");
	swap_unhold(r->swap);
	run_to(r, "Active");
	assert_true(look(r).mem.out > MEM_PAGES / 2);
	/* One that is under way is given up for it. */
	enable(r);
	check_memory(r);
	enable(r);
	OK(swap_out(r->swap));
	swap_hold(r->swap);
	swap_unhold(r->swap);
	run_to(r, "Active");
	check_memory(r);
}

static void a_store_that_fails(void **state)
{
	struct rig *r = given(state);
	char path[512];
	snprintf(path, sizeof(path), "%s/FORMAT", r->dir);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs("something else\n", f);
	fclose(f);
	enable(r);
	OK(swap_out(r->swap));
	run_to(r, "Failed");
	assert_true(strlen(r->error) > 0);
	assert_string_equal(look(r).error, r->error);
	check_memory(r);
	FAILS(ERR_NOT_NOW, "Failed", swap_out(r->swap));
	unlink(path);
	enable(r);
	assert_string_equal(look(r).error, "");
	OK(swap_out(r->swap));
	run_to(r, "Active");
	check_memory(r);
}

static void a_start_that_fails(void **state)
{
	struct rig *r = given(state);
	r->not_ready = true;
	OK(swap_enable(r->swap, on_enabled, r));
	OK(swap_out(r->swap));
	run_to(r, "Ready");
	assert_int_equal(r->refused, 1);
	assert_non_null(strstr(look(r).error, "cannot be read"));
	check_memory(r);
	r->not_ready = false;
	enable(r);
	check_memory(r);
}

static void not_here(void **state)
{
	struct rig *r = given(state);
	struct err *e = swap_enable(r->swap, on_enabled, r);
	assert_non_null(e);
	assert_int_equal(err_to_errno(e), EOPNOTSUPP);
	assert_non_null(strstr(err_msg(e), "there is no userfaultfd"));
	err_free(e);
	FAILS(ERR_NOT_NOW, "not available", swap_out(r->swap));
	FAILS(ERR_NOT_NOW, "not available", swap_disable(r->swap, false));
	swap_reset(r->swap);
	swap_retry(r->swap);
	OK(swap_give_back(r->swap, GPA(0), PAGE_BYTES));
	assert_string_equal(look(r).state, "Ready");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_cell),
		cmocka_unit_test(test_the_picture_is_the_table),
		cmocka_unit_test_setup_teardown(there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(overtaken, setup, teardown),
		cmocka_unit_test_setup_teardown(held, setup, teardown),
		cmocka_unit_test_setup_teardown(a_store_that_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(a_start_that_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(not_here, setup_without, teardown),
	};
	return cmocka_run_group_tests_name("swap", tests, NULL, NULL);
}
