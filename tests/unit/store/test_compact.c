/* SPDX-License-Identifier: Apache-2.0 */
/* Compaction: space, content, roots, readers, sharers, crashes in between, damage. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "store/compact_round.h"
#include "tests/unit/store/store_fix.h"

enum {
	MAPS = 12,
	PAGES = 160,
};

struct fixture {
	char *dir;
	struct store *s;
	struct family *f;
	uint8_t *img[MAPS];
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	x->dir = fix_tmpdir();
	OK(store_open(x->dir, STORE_CREATE, &x->s));
	OK(family_open(x->s, fix_fam, true, &x->f));
	for (unsigned i = 0; i < MAPS; i++) {
		x->img[i] = fix_image(100 + i, PAGES);
	}
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	family_close(x->f);
	store_close(x->s);
	fix_rmdir(x->dir);
	for (unsigned i = 0; i < MAPS; i++) {
		free(x->img[i]);
	}
	free(x);
	return 0;
}

static void map_name(unsigned i, char out[8])
{
	snprintf(out, 8, "m%u", i);
}

/* All maps through one worker: they share frames. */
static void take_all(struct fixture *x, struct snap_info *info)
{
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ .workers = 1 }, &s));
	for (unsigned i = 0; i < MAPS; i++) {
		char name[8];
		map_name(i, name);
		fix_map(s, name, x->img[i], PAGES);
	}
	OK(session_publish(s, &(struct snap_meta){ .vm = { 1 }, .frozen_at_ns = 5 }, info));
	session_free(s);
}

/* Every nth map of another snapshot. */
static void take_some(struct fixture *x, const struct snap_info *from, unsigned nth,
		      struct snap_info *info)
{
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	for (unsigned i = 0; i < MAPS; i += nth) {
		char name[8];
		map_name(i, name);
		OK(session_map_share(s, from->id, name));
	}
	OK(session_blob(s, 1, 1, "blob", 4));
	OK(session_publish(s, &(struct snap_meta){ .vm = { 1 }, .frozen_at_ns = 6 }, info));
	session_free(s);
}

static void check_some(struct fixture *x, const struct snap_info *info, unsigned nth)
{
	for (unsigned i = 0; i < MAPS; i += nth) {
		char name[8];
		map_name(i, name);
		fix_same(x->f, info->id, name, x->img[i], PAGES);
	}
	fix_sound(x->f, info->id);
	bool found;
	struct snap_info now;
	OK(family_snap_by_id(x->f, info->id, &found, &now));
	assert_true(found);
	assert_int_equal(now.number, info->number);
	assert_memory_equal(&now.root, &info->root, sizeof(now.root));
}

static void clean(struct fixture *x)
{
	struct fix_findings fi = { 0 };
	uint64_t findings;
	OK(family_verify(x->f, fix_report, &fi, &findings));
	if (findings != 0) {
		print_error("%s", fi.all);
	}
	assert_int_equal(findings, 0);
	struct gc_result res;
	OK(family_gc(x->f, &res));
	assert_int_equal(res.frames_freed + res.sessions_cleared, 0);
}

static struct family_stat stat_now(struct fixture *x)
{
	struct family_stat st;
	OK(family_stat(x->f, &st));
	free(st.snap);
	st.snap = NULL;
	return st;
}

/* Whatever has one dead page. */
static const struct compact_opts all = { .live_percent = 100 };

/* Two of three pages die; what is left moves together. */
static void dead_pages_go(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	struct snap_info c;
	struct compact_result res;
	take_all(x, &a);
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	assert_int_equal(res.rounds, 0);
	take_some(x, &a, 3, &b);
	take_some(x, &a, 6, &c);
	OK(family_remove(x->f, &a.id, 1));
	struct family_stat before = stat_now(x);
	assert_true(before.partly_dead_bytes > before.live_bytes / 4);
	assert_true(before.dead_pages > 0);
	OK(family_compact(x->f, &all, &res));
	struct family_stat after = stat_now(x);
	assert_int_equal(res.rounds, 1);
	assert_true(res.frames_made > 0 && res.frames_made < res.frames_moved);
	assert_true(res.pages_moved > 0 && res.pages_moved <= before.live_pages);
	assert_int_equal(after.live_pages, before.live_pages);
	assert_int_equal(after.dead_pages + after.dead_bytes + after.hidden, 0);
	assert_true(after.record_bytes < before.record_bytes - before.partly_dead_bytes * 9 / 10);
	assert_true(after.disk_bytes < before.disk_bytes);
	check_some(x, &b, 3);
	check_some(x, &c, 6);
	clean(x);
	/* Again: nothing to do. */
	OK(family_compact(x->f, &all, &res));
	assert_int_equal(res.rounds, 0);
	/* A take that shares what has moved, and removing the rest. */
	struct snap_info d;
	take_some(x, &b, 6, &d);
	uint64_t ids[] = { b.id, c.id };
	OK(family_remove(x->f, ids, 2));
	check_some(x, &d, 6);
	clean(x);
	OK(family_remove(x->f, &d.id, 1));
	after = stat_now(x);
	assert_int_equal(after.frames + after.leaves + after.nodes, 0);
}

static struct err *count_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	return fix_place(arg, index, pages, npages);
}

/* Who has a snapshot open before, finds all that its record named; a second round waits for it. */
static void readers_stay(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	struct snap_info c;
	struct compact_result res;
	take_all(x, &a);
	take_some(x, &a, 3, &b);
	take_some(x, &a, 6, &c);
	OK(family_remove(x->f, &a.id, 1));
	struct reader *r = NULL;
	OK(reader_open(x->f, b.id, &r));
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	assert_int_equal(res.rounds, 0); /* b names all of them */
	check_some(x, &b, 3);
	reader_close(r);
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	assert_int_equal(res.rounds, 1);
	check_some(x, &b, 3);
	clean(x);
}

/* The steps by hand: a lease that is taken between choosing and switching keeps the old place. */
static void a_reader_in_between(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	struct gc_result gc;
	take_all(x, &a);
	take_some(x, &a, 3, &b);
	OK(family_remove(x->f, &a.id, 1));
	struct compact_opts opts = { 0 };
	struct compact c = { .f = x->f, .opts = &opts, .live_percent = 75 };
	struct compact_round r = { .c = &c, .f = x->f };
	OK(compact_choose(&r, 1 << 30));
	assert_true(r.nvictims > 0);
	struct reader *old = NULL;
	OK(reader_open(x->f, b.id, &old));
	OK(compact_move(&r));
	OK(compact_remap(&r));
	OK(family_gc(x->f, &gc)); /* takes nothing of a round that is not over */
	assert_int_equal(gc.frames_freed, 0);
	/* A session that shares, begun before and ended after the switch. */
	struct session *s = NULL;
	struct snap_info d;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	OK(session_map_share(s, b.id, "m0"));
	OK(compact_switch(&r));
	compact_round_done(&r);
	OK(family_gc(x->f, &gc));
	assert_int_equal(gc.frames_freed, 0);
	assert_int_equal(stat_now(x).hidden, 1);
	uint8_t *out = calloc(PAGES, PAGE_BYTES);
	OK(reader_map_read(old, "m3", &(struct read_opts){ .place = count_place, .arg = out }));
	assert_memory_equal(out, x->img[3], PAGES * PAGE_BYTES);
	free(out);
	/* It is left alone while that reader goes on. */
	struct compact_result res;
	OK(family_compact(x->f, &opts, &res));
	assert_int_equal(res.rounds, 0);
	assert_int_equal(stat_now(x).hidden, 1);
	reader_close(old);
	OK(family_gc(x->f, &gc));
	assert_true(gc.frames_freed > 0);
	assert_int_equal(stat_now(x).hidden, 0);
	OK(session_publish(s, &(struct snap_meta){ 0 }, &d));
	session_free(s);
	check_some(x, &b, 3);
	check_some(x, &d, MAPS);
	clean(x);
	idset_done(&c.kept);
}

/* A snapshot that changes or goes away while a round runs is left alone; so is one that comes. */
static void changes_in_between(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	struct snap_info c;
	struct snap_info d;
	take_all(x, &a);
	take_some(x, &a, 3, &b);
	take_some(x, &a, 6, &c);
	OK(family_remove(x->f, &a.id, 1));
	struct compact_opts opts = { 0 };
	struct compact k = { .f = x->f, .opts = &opts, .live_percent = 75 };
	struct compact_round r = { .c = &k, .f = x->f };
	OK(compact_choose(&r, 1 << 30));
	assert_int_equal(r.nsnaps, 2);
	take_some(x, &b, 3, &d);
	OK(family_remove(x->f, &c.id, 1));
	OK(compact_move(&r));
	OK(compact_remap(&r));
	OK(compact_switch(&r));
	compact_round_done(&r);
	check_some(x, &b, 3);
	check_some(x, &d, 3);
	struct gc_result gc;
	OK(family_gc(x->f, &gc));
	check_some(x, &b, 3);
	check_some(x, &d, 3);
	clean(x);
	/* The next one brings both together again. */
	struct compact_result res;
	OK(family_compact(x->f, &all, &res));
	assert_int_equal(res.rounds, 1);
	assert_int_equal(stat_now(x).dead_pages, 0);
	check_some(x, &b, 3);
	check_some(x, &d, 3);
	clean(x);
	idset_done(&k.kept);
}

/* A round that is killed before its switch leaves garbage only, one behind it all of its work. */
static void killed_rounds(void **state)
{
	struct fixture *x = *state;
	for (int step = 0; step < 4; step++) {
		struct snap_info a;
		struct snap_info b;
		take_all(x, &a);
		take_some(x, &a, 3, &b);
		OK(family_remove(x->f, &a.id, 1));
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct compact_opts opts = { 0 };
			struct compact c = { .f = x->f, .opts = &opts, .live_percent = 75 };
			struct compact_round r = { .c = &c, .f = x->f };
			struct err *e = compact_choose(&r, 1 << 30);
			e = e == NULL && step > 0 ? compact_move(&r) : e;
			e = e == NULL && step > 1 ? compact_remap(&r) : e;
			e = e == NULL && step > 2 ? compact_switch(&r) : e;
			_exit(e == NULL ? 7 : 1); /* no tidying up */
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WEXITSTATUS(status), 7);
		check_some(x, &b, 3);
		struct gc_result gc;
		OK(family_gc(x->f, &gc));
		assert_int_equal(gc.sessions_cleared, step == 1 || step == 2);
		check_some(x, &b, 3);
		clean(x);
		struct compact_result res;
		OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
		assert_int_equal(res.rounds, step < 3);
		check_some(x, &b, 3);
		clean(x);
		OK(family_remove(x->f, &b.id, 1));
	}
}

/* Rot in a frame is not given a new checksum: it stays, and is still found. */
static void damage_stays_damage(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	take_all(x, &a);
	take_some(x, &a, 3, &b);
	OK(family_remove(x->f, &a.id, 1));
	char path[4096];
	fix_data_path(x->dir, fix_fam, path, sizeof(path));
	family_close(x->f);
	uint8_t head[32];
	(void)fix_record(path, RECORD_FRAME, 0, true, 20000, head);
	OK(family_open(x->s, fix_fam, false, &x->f));
	uint64_t before;
	uint64_t after;
	struct fix_findings fi = { 0 };
	OK(family_verify_snap(x->f, b.id, fix_report, &fi, &before));
	struct compact_result res;
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	OK(family_verify_snap(x->f, b.id, fix_report, &fi, &after));
	assert_int_equal(before, after);
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	OK(family_verify_snap(x->f, b.id, fix_report, &fi, &after));
	assert_int_equal(before, after);
}

static void one_at_a_time(void **state)
{
	struct fixture *x = *state;
	struct compact_result res;
	char path[4096];
	snprintf(path, sizeof(path), "%s/compact.lock", x->f->dir);
	struct fd lock = FD_NONE;
	bool got;
	OK(holder_lock_file(path, HOLDER_TRY, true, &lock, &got));
	assert_true(got);
	FAILS(ERR_NOT_NOW, "another process",
	      family_compact(x->f, &(struct compact_opts){ 0 }, &res));
	fd_close(&lock);
	FAILS(ERR_USAGE, "percent",
	      family_compact(x->f, &(struct compact_opts){ .live_percent = 101 }, &res));
	OK(family_compact(x->f, &(struct compact_opts){ 0 }, &res));
}

/* One bounded round per call, until all is done; given up at once, nothing has changed. */
static void a_little_at_a_time(void **state)
{
	struct fixture *x = *state;
	struct snap_info a;
	struct snap_info b;
	struct compact_result res;
	const bool cancel = true;
	take_all(x, &a);
	take_some(x, &a, 3, &b);
	OK(family_remove(x->f, &a.id, 1));
	struct family_stat before = stat_now(x);
	FAILS(ERR_CANCELLED, "given up",
	      family_compact(x->f, &(struct compact_opts){ .cancel = &cancel }, &res));
	struct family_stat now = stat_now(x);
	assert_int_equal(now.frames, before.frames);
	assert_int_equal(now.record_bytes, before.record_bytes);
	const bool go_on = false;
	const struct compact_opts little = {
		.live_percent = 100,
		.max_bytes = before.live_bytes / 4,
		.cancel = &go_on,
	};
	unsigned calls = 0;
	do {
		OK(family_compact(x->f, &little, &res));
		assert_true(res.rounds <= 1);
		assert_true(res.pages_moved <= before.live_pages / 2);
		check_some(x, &b, 3);
		calls++;
	} while (res.rounds > 0 && calls < 100);
	assert_in_range(calls, 4, 99);
	assert_int_equal(stat_now(x).dead_pages, 0);
	clean(x);
}

struct beside {
	struct family *f;
	atomic_bool stop;
	unsigned rounds;
	struct err *err;
};

static void *compact_all_the_time(void *arg)
{
	struct beside *b = arg;
	while (!atomic_load(&b->stop) && b->err == NULL) {
		struct compact_result res;
		b->err = family_compact(b->f, &(struct compact_opts){ .live_percent = 100 }, &res);
		b->rounds += b->err == NULL ? (unsigned)res.rounds : 0;
	}
	return NULL;
}

/* Takes, removals and reads beside a compaction that never ends. */
static void beside_everything(void **state)
{
	struct fixture *x = *state;
	struct beside b = { .f = x->f };
	struct snap_info last;
	take_all(x, &last);
	pthread_t t;
	assert_int_equal(pthread_create(&t, NULL, compact_all_the_time, &b), 0);
	for (unsigned i = 0; i < 12; i++) {
		struct snap_info part;
		struct snap_info next;
		take_some(x, &last, 2 + i % 3, &part);
		take_all(x, &next);
		OK(family_remove(x->f, &last.id, 1));
		check_some(x, &part, 2 + i % 3);
		check_some(x, &next, 1);
		OK(family_remove(x->f, &part.id, 1));
		last = next;
	}
	atomic_store(&b.stop, true);
	pthread_join(t, NULL);
	OK(b.err);
	check_some(x, &last, 1);
	clean(x);
	assert_int_equal(stat_now(x).hidden, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(dead_pages_go, setup, teardown),
		cmocka_unit_test_setup_teardown(readers_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reader_in_between, setup, teardown),
		cmocka_unit_test_setup_teardown(changes_in_between, setup, teardown),
		cmocka_unit_test_setup_teardown(killed_rounds, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_stays_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(one_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(a_little_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(beside_everything, setup, teardown),
	};
	return cmocka_run_group_tests_name("compact", tests, NULL, NULL);
}
