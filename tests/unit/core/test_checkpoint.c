/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/checkpoint.c: intervals, refusals, failures, a VM that does not run. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/checkpoint.h"
#include "tests/lib/expect.h"

/* A VM that is none: it answers as told and ends the loop after `until` calls. */
struct fake {
	struct loop *loop;
	struct checkpoint *c; /* gets a longer interval while a take is under way */
	bool ran;
	enum { SUCCEED, BUSY, REFUSE, FAIL_LATER, GIVE_WAY, GIVE_WAY_SHORTLY } how;
	unsigned calls, asked, until;
	uint64_t call_ns[16];
	char tag[16][NAME_BYTES_MAX + 1];
	struct prune_policy keep;
	checkpoint_done_fn *done;
	void *done_arg;
};

static void answer(void *arg)
{
	struct fake *f = arg;
	const struct snap_result r = { .number = f->calls, .frozen_at_ns = 1000 + f->calls };
	if (f->how == FAIL_LATER) {
		f->done(f->done_arg, ERR(ERR_NOSPACE, "no room"), NULL);
	} else if (f->how == GIVE_WAY) {
		f->done(f->done_arg, ERR(ERR_CANCELLED, "somebody else"), NULL);
	} else if (f->how == GIVE_WAY_SHORTLY) {
		f->done(f->done_arg, ERR(ERR_NOT_NOW, "a moment"), NULL);
	} else {
		f->done(f->done_arg, NULL, &r);
	}
	if (f->calls >= f->until) {
		loop_quit(f->loop);
	}
}

static struct err *fake_take(void *self, const char *tag, const struct prune_policy *keep,
			     checkpoint_done_fn *done, void *arg)
{
	struct fake *f = self;
	assert_true(f->calls < ARRAY_LEN(f->call_ns));
	f->call_ns[f->calls] = clock_mono_ns();
	snprintf(f->tag[f->calls], sizeof(f->tag[0]), "%s", tag);
	f->calls++;
	f->keep = *keep;
	if (f->how == BUSY || f->how == REFUSE) {
		if (f->calls >= f->until) {
			loop_quit(f->loop);
		}
		return f->how == BUSY ? ERR(ERR_NOT_NOW, "busy") : ERR(ERR_SYS, "no thread");
	}
	if (f->c != NULL) {
		ok(checkpoint_set(f->c,
				  &(struct checkpoint_policy){ .every_ns = 3600000000000ull }));
	}
	f->done = done;
	f->done_arg = arg;
	loop_post(f->loop, answer, f);
	return NULL;
}

static bool fake_ran(void *self)
{
	struct fake *f = self;
	if (++f->asked >= f->until && !f->ran) {
		loop_quit(f->loop);
	}
	return f->ran;
}

static const struct checkpoint_ops ops = { .take = fake_take, .ran = fake_ran };

static void run(struct fake *f, uint64_t every_ns, struct checkpoint_status *ret)
{
	SCOPE(loop_freep) struct loop *loop = NULL;
	SCOPE(checkpoint_freep) struct checkpoint *c = NULL;
	ok(loop_new(&loop));
	f->loop = loop;
	ok(checkpoint_new(loop, &ops, f, &c));
	ok(checkpoint_set(c, &(struct checkpoint_policy){ .every_ns = every_ns,
							  .keep = { .keep_last = 7 } }));
	ok(loop_run(loop));
	checkpoint_status(c, ret);
}

static void test_interval(void **state)
{
	(void)state;
	struct fake f = { .ran = true, .how = SUCCEED, .until = 3 };
	struct checkpoint_status s;
	uint64_t began = clock_mono_ns();
	run(&f, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(s.taken, 3);
	assert_int_equal(s.failed, 0);
	assert_int_equal(s.last_number, 3);
	assert_int_equal(s.last_frozen_ns, 1003);
	assert_string_equal(s.last_error, "");
	assert_int_equal(f.keep.keep_last, 7);
	/* Never early. */
	assert_true(f.call_ns[0] - began >= CHECKPOINT_EVERY_MIN_NS);
	for (unsigned i = 1; i < 3; i++) {
		/* Counted from when the take was decided, a moment before the call. */
		assert_true(f.call_ns[i] - f.call_ns[i - 1] >= CHECKPOINT_EVERY_MIN_NS / 2);
		assert_true(strcmp(f.tag[i - 1], f.tag[i]) < 0);
		assert_memory_equal(f.tag[i], "auto-2", 6);
	}
}

/* A take by somebody else delays by moments, and is no failure. */
static void test_busy(void **state)
{
	(void)state;
	struct fake f = { .ran = true, .how = BUSY, .until = 4 };
	struct checkpoint_status s;
	run(&f, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(s.failed, 0);
	assert_int_equal(s.taken, 0);
	assert_false(s.taking);
}

static void test_failures_are_told(void **state)
{
	(void)state;
	struct checkpoint_status s;
	struct fake f = { .ran = true, .how = FAIL_LATER, .until = 1 };
	run(&f, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(s.failed, 1);
	assert_non_null(strstr(s.last_error, "no room"));
	struct fake g = { .ran = true, .how = REFUSE, .until = 1 };
	run(&g, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(s.failed, 1);
	assert_non_null(strstr(s.last_error, "no thread"));
	assert_false(s.taking);
}

/* An explicit take in its place is no failure, and the next one comes. */
static void test_gives_way(void **state)
{
	(void)state;
	struct checkpoint_status s;
	struct fake f = { .ran = true, .how = GIVE_WAY, .until = 2 };
	run(&f, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(f.calls, 2);
	assert_int_equal(s.failed + s.taken, 0);
	assert_string_equal(s.last_error, "");
}

/* What gave way to a moment's work is tried again long before the interval, an hour, is over. */
static void test_tried_again(void **state)
{
	(void)state;
	struct checkpoint_status s;
	struct fake f = { .ran = true, .how = GIVE_WAY_SHORTLY, .until = 2 };
	SCOPE(loop_freep) struct loop *loop = NULL;
	SCOPE(checkpoint_freep) struct checkpoint *c = NULL;
	ok(loop_new(&loop));
	f.loop = loop;
	ok(checkpoint_new(loop, &ops, &f, &c));
	ok(checkpoint_set(c, &(struct checkpoint_policy){ .every_ns = CHECKPOINT_EVERY_MIN_NS }));
	f.c = c;
	ok(loop_run(loop));
	checkpoint_status(c, &s);
	assert_int_equal(f.calls, 2);
	assert_int_equal(s.failed + s.taken, 0);
	assert_string_equal(s.last_error, "");
}

/* What has not run since the last take is not taken again. */
static void test_standing_vm(void **state)
{
	(void)state;
	struct fake f = { .ran = false, .how = SUCCEED, .until = 2 };
	struct checkpoint_status s;
	run(&f, CHECKPOINT_EVERY_MIN_NS, &s);
	assert_int_equal(f.calls, 0);
	assert_int_equal(f.asked, 2);
}

static void quit(void *arg)
{
	loop_quit(arg);
}

static void test_off(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *loop = NULL;
	SCOPE(checkpoint_freep) struct checkpoint *c = NULL;
	struct fake f = { .ran = true, .how = SUCCEED, .until = 1 };
	ok(loop_new(&loop));
	f.loop = loop;
	ok(checkpoint_new(loop, &ops, &f, &c));
	ok(checkpoint_set(c, &(struct checkpoint_policy){ .every_ns = CHECKPOINT_EVERY_MIN_NS }));
	ok(checkpoint_set(c, &(struct checkpoint_policy){ 0 }));
	struct loop_timer *t = NULL;
	ok(loop_timer_add(loop, quit, loop, &t));
	loop_timer_set(t, clock_mono_ns() + CHECKPOINT_EVERY_MIN_NS * 3 / 2);
	ok(loop_run(loop));
	assert_int_equal(f.calls, 0);
	fails(checkpoint_set(c, &(struct checkpoint_policy){ .every_ns = 1 }), ERR_LIMIT);
	fails(checkpoint_set(c, &(struct checkpoint_policy){ .every_ns = UINT64_MAX }), ERR_LIMIT);
	fails(checkpoint_set(c,
			     &(struct checkpoint_policy){
				     .keep = { .keep_daily = CHECKPOINT_KEEP_MAX + 1 } }),
	      ERR_LIMIT);
	loop_timer_del(t);
}

static void test_parse(void **state)
{
	(void)state;
	uint64_t ns = 1;
	static const struct {
		const char *text;
		uint64_t s;
	} good[] = { { "off", 0 },  { "1s", 1 },    { "30s", 30 },
		     { "5m", 300 }, { "2h", 7200 }, { "366d", 366 * 86400 },
		     { "007s", 7 } };
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		ok(checkpoint_parse_every(good[i].text, &ns));
		assert_int_equal(ns, good[i].s * 1000000000u);
	}
	static const char *const bad[] = { "",   "s",   "30",  "0s",  "-1s",          "1.5s",
					   "1w", "1sx", " 1s", "1 s", "99999999999s", "Off" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		ns = 5;
		fails(checkpoint_parse_every(bad[i], &ns), ERR_USAGE);
		assert_int_equal(ns, 5);
	}
	fails(checkpoint_parse_every("367d", &ns), ERR_LIMIT);
	fails(checkpoint_parse_every("999999999d", &ns), ERR_LIMIT);
}

static void test_parse_keep(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		struct prune_policy p;
	} good[] = {
		{ "all", { 0 } },
		{ "10", { .keep_last = 10 } },
		{ "last=3", { .keep_last = 3 } },
		{ "10,hourly=24,daily=7", { 10, 24, 7 } },
		{ "daily=100000,1", { .keep_last = 1, .keep_daily = 100000 } },
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct prune_policy p = { 9, 9, 9 };
		ok(checkpoint_parse_keep(good[i].text, &p));
		assert_memory_equal(&p, &good[i].p, sizeof(p));
	}
	static const char *const bad[] = { "",         "0",      "x",           "10,",
					   ",10",      "10,10",  "last=1,2",    "hourly=",
					   "weekly=1", "100001", "hourly=0",    "10 ",
					   "-1",       "all,3",  "10,,daily=1", "99999999999" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct prune_policy p;
		fails(checkpoint_parse_keep(bad[i], &p), ERR_USAGE);
	}
}

/* The texts are read as what they were made of. */
static void test_texts(void **state)
{
	(void)state;
	static const struct {
		uint64_t s;
		const char *text;
	} every[] = { { 0, "off" },     { 1, "1s" },    { 90, "90s" },
		      { 300, "5m" },    { 7200, "2h" }, { 86400 * 366ull, "366d" },
		      { 3601, "3601s" } };
	char text[CHECKPOINT_TEXT_MAX + 1];
	for (size_t i = 0; i < ARRAY_LEN(every); i++) {
		uint64_t ns = 1;
		checkpoint_every_text(every[i].s * 1000000000u, text);
		assert_string_equal(text, every[i].text);
		ok(checkpoint_parse_every(text, &ns));
		assert_int_equal(ns, every[i].s * 1000000000u);
	}
	static const struct {
		struct prune_policy p;
		const char *text;
	} keep[] = {
		{ { 0 }, "all" },
		{ { .keep_last = 10 }, "10" },
		{ { 10, 24, 7 }, "10,hourly=24,daily=7" },
		{ { .keep_daily = 3 }, "daily=3" },
		{ { 100000, 100000, 100000 }, "100000,hourly=100000,daily=100000" },
	};
	for (size_t i = 0; i < ARRAY_LEN(keep); i++) {
		struct prune_policy p = { 9, 9, 9 };
		checkpoint_keep_text(&keep[i].p, text);
		assert_string_equal(text, keep[i].text);
		ok(checkpoint_parse_keep(text, &p));
		assert_memory_equal(&p, &keep[i].p, sizeof(p));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interval),
		cmocka_unit_test(test_busy),
		cmocka_unit_test(test_failures_are_told),
		cmocka_unit_test(test_standing_vm),
		cmocka_unit_test(test_gives_way),
		cmocka_unit_test(test_tried_again),
		cmocka_unit_test(test_off),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_keep),
		cmocka_unit_test(test_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
