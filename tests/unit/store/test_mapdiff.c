/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading what differs between two snapshots: applied to the one's content it gives the other's, in
 * both directions, zero pages too, and no page that both find in the same place is read.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 70 * 512 + 100, /* 71 leaves: two nodes and a root above them */
	CHANGES = 40,
};

struct target {
	uint8_t *img;
	const uint8_t *also; /* a byte per page, NULL: none */
	uint64_t npages;
	atomic_ullong placed;
	uint64_t zeroed;
};

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct target *t = arg;
	assert_true(index + npages <= t->npages);
	memcpy(t->img + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	atomic_fetch_add(&t->placed, npages);
	return NULL;
}

static struct err *zero(void *arg, uint64_t index, uint64_t npages)
{
	struct target *t = arg;
	assert_true(index + npages <= t->npages);
	memset(t->img + index * PAGE_BYTES, 0, npages * PAGE_BYTES);
	t->zeroed += npages;
	return NULL;
}

static uint64_t also(void *arg, uint64_t index)
{
	const struct target *t = arg;
	uint64_t bits = 0;
	for (uint64_t i = 0; t->also != NULL && i < 64; i++) {
		/* Behind the end, too: nothing of that may come back. */
		bits |= index + i >= t->npages || t->also[index + i] != 0 ? 1ull << i : 0;
	}
	return bits;
}

static void go(struct family *f, uint64_t from, uint64_t to, struct target *t)
{
	SCOPE(reader_closep) struct reader *a = NULL;
	SCOPE(reader_closep) struct reader *b = NULL;
	OK(reader_open(f, from, &a));
	OK(reader_open(f, to, &b));
	atomic_store(&t->placed, 0);
	t->zeroed = 0;
	const struct read_opts ro = {
		.workers = 2,
		.place = place,
		.since = a,
		.zero = zero,
		.also = also,
		.arg = t,
	};
	OK(reader_map_read(b, "memory", &ro));
}

/* A take that starts from `base`; dirty pages only. */
static void take_on(struct family *f, uint64_t base, const uint8_t *img, const uint8_t *dirty,
		    uint64_t npages, struct snap_info *ret)
{
	SCOPE(session_freep) struct session *s = NULL;
	uint8_t user[32] = { 7 };
	OK(session_open(f, &(struct session_opts){ .workers = 2 }, &s));
	OK(session_map_begin_as(s, "memory", npages * PAGE_BYTES, user,
				&(struct map_opts){ .base = base }));
	for (uint64_t i = 0; i < npages; i++) {
		if (dirty[i] != 0) {
			OK(session_map_pages(s, i, img + i * PAGE_BYTES, 1));
		}
	}
	OK(session_map_end(s));
	struct snap_meta meta = { .frozen_at_ns = 12345 };
	memcpy(meta.vm, fix_vm1, 16);
	OK(session_publish(s, &meta, ret));
}

static void change(uint8_t *img, uint8_t *dirty, uint64_t npages, uint64_t *seed)
{
	for (unsigned i = 0; i < CHANGES; i++) {
		uint64_t at = fix_rnd(seed) % npages;
		uint64_t v = fix_rnd(seed);
		uint8_t *p = img + at * PAGE_BYTES;
		if (v % 3 == 0) {
			memset(p, 0, PAGE_BYTES);
		} else {
			memcpy(p + v % 500 * 8, &v, sizeof(v));
		}
		dirty[at] = 1;
	}
}

static void both_ways(struct fix_store *x, uint64_t npages, uint64_t seed)
{
	struct snap_info first;
	struct snap_info second;
	uint8_t *was = fix_image(seed, npages);
	uint8_t *now = malloc(npages * PAGE_BYTES);
	uint8_t *have = malloc(npages * PAGE_BYTES);
	uint8_t *dirty = calloc(npages, 1);
	memcpy(now, was, npages * PAGE_BYTES);
	change(now, dirty, npages, &seed);
	OK(fix_take(x->f, fix_vm1, "", was, npages, &first));
	take_on(x->f, first.id, now, dirty, npages, &second);

	struct target t = { .img = have, .npages = npages };
	memcpy(have, was, npages * PAGE_BYTES);
	go(x->f, first.id, second.id, &t);
	assert_int_equal(memcmp(have, now, npages * PAGE_BYTES), 0);
	assert_true(t.placed + t.zeroed > 0);
	assert_true(t.placed + t.zeroed <= CHANGES);
	go(x->f, second.id, first.id, &t);
	assert_int_equal(memcmp(have, was, npages * PAGE_BYTES), 0);
	assert_true(t.placed + t.zeroed <= CHANGES);
	go(x->f, first.id, first.id, &t);
	assert_int_equal(t.placed + t.zeroed, 0);

	/* Pages that are known to be something else by now. */
	memset(dirty, 0, npages);
	for (unsigned i = 0; i < CHANGES; i++) {
		uint64_t at = fix_rnd(&seed) % npages;
		memset(have + at * PAGE_BYTES, 0x5a, PAGE_BYTES);
		dirty[at] = 1;
	}
	t.also = dirty;
	go(x->f, first.id, second.id, &t);
	assert_int_equal(memcmp(have, now, npages * PAGE_BYTES), 0);
	assert_true(t.placed + t.zeroed <= 2 * CHANGES);
	/* All of them: what was there does not matter. */
	memset(have, 0x77, npages * PAGE_BYTES);
	memset(dirty, 1, npages);
	go(x->f, second.id, first.id, &t);
	assert_int_equal(memcmp(have, was, npages * PAGE_BYTES), 0);
	assert_int_equal(t.placed + t.zeroed, npages);
	free(was);
	free(now);
	free(have);
	free(dirty);
}

static void differences_lead_from_one_to_the_other(void **state)
{
	static const uint64_t sizes[] = { 1, 63, 512, 513, 64 * 512, PAGES };
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		both_ways(*state, sizes[i], 100 + i);
	}
}

static void all_zero_maps(void **state)
{
	struct fix_store *x = *state;
	enum { N = 1000 };
	struct snap_info none;
	struct snap_info some;
	uint8_t *img = calloc(N, PAGE_BYTES);
	struct target t = { .img = img, .npages = N };
	OK(fix_take(x->f, fix_vm1, "", img, N, &none));
	memset(img, 0x11, N * PAGE_BYTES);
	OK(fix_take(x->f, fix_vm1, "", img, N, &some));
	go(x->f, some.id, none.id, &t);
	assert_int_equal(t.placed, 0);
	assert_int_equal(t.zeroed, N);
	go(x->f, none.id, some.id, &t);
	assert_int_equal(t.placed, N);
	assert_int_equal(img[N * PAGE_BYTES - 1], 0x11);
	free(img);
}

/* After a compaction the same content may be elsewhere: more is written, and it is right. */
static void over_a_compaction(void **state)
{
	struct fix_store *x = *state;
	enum { N = 4000 };
	struct snap_info first;
	struct snap_info second;
	struct snap_info third;
	uint64_t seed = 5;
	uint8_t *was = fix_image(9, N);
	uint8_t *now = malloc((size_t)N * PAGE_BYTES);
	uint8_t *dirty = calloc(N, 1);
	memcpy(now, was, (size_t)N * PAGE_BYTES);
	OK(fix_take(x->f, fix_vm1, "", was, N, &first));
	for (int i = 0; i < 60; i++) {
		change(now, dirty, N, &seed);
	}
	take_on(x->f, first.id, now, dirty, N, &second);
	memset(dirty, 0, N);
	uint8_t *later = malloc((size_t)N * PAGE_BYTES);
	memcpy(later, now, (size_t)N * PAGE_BYTES);
	change(later, dirty, N, &seed);
	take_on(x->f, second.id, later, dirty, N, &third);
	OK(family_remove(x->f, &first.id, 1));
	struct compact_result res;
	OK(family_compact(x->f, &(struct compact_opts){ .live_percent = 99 }, &res));
	assert_true(res.frames_moved > 0);
	struct target t = { .img = later, .npages = N };
	go(x->f, third.id, second.id, &t);
	assert_int_equal(memcmp(later, now, (size_t)N * PAGE_BYTES), 0);
	free(was);
	free(now);
	free(later);
	free(dirty);
}

static void refuses_what_is_no_pair(void **state)
{
	struct fix_store *x = *state;
	static const uint8_t other[16] = { 8 };
	struct snap_info one;
	struct snap_info longer;
	struct snap_info elsewhere;
	struct family *f = NULL;
	uint8_t *img = fix_image(3, 20);
	OK(fix_take(x->f, fix_vm1, "", img, 20, &one));
	OK(fix_take(x->f, fix_vm1, "", img, 19, &longer));
	OK(family_open(x->s, other, true, &f));
	OK(fix_take(f, fix_vm2, "", img, 20, &elsewhere));
	struct reader *r = NULL;
	struct reader *shorter = NULL;
	struct reader *alien = NULL;
	OK(reader_open(x->f, one.id, &r));
	OK(reader_open(x->f, longer.id, &shorter));
	OK(reader_open(f, elsewhere.id, &alien));
	struct target t = { .img = img, .npages = 20 };
	struct read_opts ro = { .place = place, .zero = zero, .since = shorter, .arg = &t };
	FAILS(ERR_USAGE, "family or length", reader_map_read(r, "memory", &ro));
	ro.since = alien;
	FAILS(ERR_USAGE, "family or length", reader_map_read(r, "memory", &ro));
	reader_close(r);
	reader_close(shorter);
	reader_close(alien);
	family_close(f);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(differences_lead_from_one_to_the_other, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(all_zero_maps, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(over_a_compaction, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(refuses_what_is_no_pair, fix_setup, fix_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
