/* SPDX-License-Identifier: Apache-2.0 */
/* Collection against a reference model, and that freed space is used again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 2200,
	SNAPS = 8,
};

/* What the model knows of one snapshot: two maps, one of which may be another one's. */
struct model {
	bool alive;
	uint64_t id;
	uint8_t *memory;
	uint8_t *kernel;
	unsigned kernel_of; /* content is that of this snapshot's own kernel */
};

static void model_take(struct fix_store *x, struct model *m, unsigned i, uint64_t *seed)
{
	struct session *s = NULL;
	struct snap_info info;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	m[i].memory = fix_image(fix_rnd(seed), PAGES);
	fix_map(s, "memory", m[i].memory, PAGES);
	unsigned from = (unsigned)(fix_rnd(seed) % (i + 1));
	if (from < i && m[from].alive) {
		m[i].kernel_of = m[from].kernel_of;
		m[i].kernel = m[from].kernel;
		OK(session_map_share(s, m[from].id, "kernel"));
	} else {
		m[i].kernel_of = i;
		m[i].kernel = fix_image(fix_rnd(seed), 700);
		fix_map(s, "kernel", m[i].kernel, 700);
	}
	OK(session_publish(s, &(struct snap_meta){ .vm = { 1 } }, &info));
	session_free(s);
	m[i].id = info.id;
	m[i].alive = true;
}

static void model_check(struct fix_store *x, const struct model *m, unsigned n)
{
	unsigned alive = 0;
	for (unsigned i = 0; i < n; i++) {
		bool found;
		struct snap_info info;
		OK(family_snap_by_id(x->f, m[i].id, &found, &info));
		assert_int_equal(found, m[i].alive);
		if (m[i].alive) {
			alive++;
			fix_same(x->f, m[i].id, "memory", m[i].memory, PAGES);
			fix_same(x->f, m[i].id, "kernel", m[i].kernel, 700);
			fix_sound(x->f, m[i].id);
		}
	}
	struct fix_findings fi = { 0 };
	uint64_t findings;
	OK(family_verify(x->f, fix_report, &fi, &findings));
	assert_int_equal(findings, 0);
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.snaps, alive);
	if (alive == 0) {
		assert_int_equal(u.frames + u.leaves + u.nodes + u.blobs, 0);
	}
	struct gc_result res; /* nothing is left to do */
	OK(family_gc(x->f, &res));
	assert_int_equal(res.frames_freed, 0);
}

static void random_deletion_order(void **state)
{
	struct fix_store *x = *state;
	for (uint64_t round = 0; round < 3; round++) {
		uint64_t seed = 4000 + round;
		struct model m[SNAPS] = { 0 };
		for (unsigned i = 0; i < SNAPS; i++) {
			model_take(x, m, i, &seed);
		}
		model_check(x, m, SNAPS);
		for (unsigned left = SNAPS; left > 0;) {
			/* One or two at once. */
			uint64_t ids[2];
			size_t n = 0;
			size_t want = 1 + fix_rnd(&seed) % 2;
			while (n < want && n < left) {
				unsigned i = (unsigned)(fix_rnd(&seed) % SNAPS);
				if (m[i].alive) {
					ids[n++] = m[i].id;
					m[i].alive = false;
				}
			}
			left -= (unsigned)n;
			OK(family_remove(x->f, ids, n));
			model_check(x, m, SNAPS);
		}
		for (unsigned i = 0; i < SNAPS; i++) {
			free(m[i].memory);
			if (m[i].kernel_of == i) {
				free(m[i].kernel);
			}
		}
	}
}

/* Twenty takes, each after removing the one before the last: the file stops growing. */
static void space_is_used_again(void **state)
{
	struct fix_store *x = *state;
	enum {
		BIG = 6000,
	};
	uint64_t ids[20];
	uint64_t early = 0;
	for (unsigned i = 0; i < 20; i++) {
		uint8_t *img = fix_image(i + 1, BIG);
		struct snap_info info;
		OK(fix_take(x->f, fix_vm1, "", img, BIG, &info));
		free(img);
		ids[i] = info.id;
		if (i >= 2) {
			OK(family_remove(x->f, &ids[i - 2], 1));
		}
		struct store_usage u;
		OK(family_usage(x->f, &u));
		if (i == 5) {
			early = u.file_bytes;
		}
		if (i > 5) {
			assert_true(u.file_bytes < early + early / 3);
		}
	}
}

static void unknown_ids_remove_nothing(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(1, 100);
	struct snap_info info;
	OK(fix_take(x->f, fix_vm1, "", img, 100, &info));
	uint64_t ids[] = { info.id, 77 };
	FAILS(ERR_NOTFOUND, "77", family_remove(x->f, ids, 2));
	fix_same(x->f, info.id, "memory", img, 100);
	OK(family_remove(x->f, ids, 0));
	fix_sound(x->f, info.id);
	free(img);
}

struct beside {
	struct family *f;
	atomic_bool stop;
	unsigned rounds;
	struct err *err;
};

static void *collect_all_the_time(void *arg)
{
	struct beside *b = arg;
	while (!atomic_load(&b->stop) && b->err == NULL) {
		struct gc_result res;
		b->err = family_gc(b->f, &res);
		b->rounds++;
	}
	return NULL;
}

/* Collecting beside a session takes nothing of it, and nothing of what it shares. */
static void beside_a_running_session(void **state)
{
	struct fix_store *x = *state;
	struct beside b = { .f = x->f };
	uint8_t *img = fix_image(3, PAGES);
	struct snap_info last;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &last));
	pthread_t t;
	assert_int_equal(pthread_create(&t, NULL, collect_all_the_time, &b), 0);
	for (unsigned i = 0; i < 8; i++) {
		struct session *s = NULL;
		struct snap_info info;
		OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
		OK(session_map_share(s, last.id, "memory"));
		fix_map(s, "own", img, PAGES);
		OK(session_settle(s));
		OK(session_publish(s, &(struct snap_meta){ .vm = { 1 } }, &info));
		session_free(s);
		OK(family_remove(x->f, &last.id, 1));
		last = info;
		fix_same(x->f, info.id, "memory", img, PAGES);
		fix_same(x->f, info.id, "own", img, PAGES);
		fix_sound(x->f, info.id);
	}
	atomic_store(&b.stop, true);
	pthread_join(t, NULL);
	OK(b.err);
	assert_true(b.rounds > 0);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(random_deletion_order, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(space_is_used_again, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(unknown_ids_remove_nothing, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(beside_a_running_session, fix_setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("gc", tests, NULL, NULL);
}
