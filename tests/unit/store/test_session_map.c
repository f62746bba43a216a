/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps that start from a snapshot's, and maps that take pages again: content, digests, what is
 * shared and what is written, removal in any order, live memory, misuse.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 70 * 512 + 100, /* 71 leaves: two nodes and a root above them */
	SMALL = 3 * 512,
};

static struct err *begin(struct family *f, uint64_t npages, const struct map_opts *o,
			 struct session **ret_s)
{
	SCOPE(session_freep) struct session *s = NULL;
	uint8_t user[32] = { 7 };
	TRY(session_open(f, &(struct session_opts){ .workers = 2 }, &s));
	TRY(session_map_begin_as(s, "memory", npages * PAGE_BYTES, user, o));
	*ret_s = MOVE(s);
	return NULL;
}

static struct err *finish(struct session *s, struct snap_info *ret_info)
{
	TRY(session_map_end(s));
	TRY(session_blob(s, 1, 0, "the manifest of this snapshot", 29));
	TRY(session_blob(s, 3, 1, "second blob", 11));
	struct snap_meta meta = { .frozen_at_ns = 12345 };
	memcpy(meta.vm, fix_vm1, 16);
	return session_publish(s, &meta, ret_info);
}

/* Gives every page whose bit is set, in runs. */
static struct err *give(struct session *s, const uint8_t *img, const uint8_t *dirty,
			uint64_t npages)
{
	for (uint64_t i = 0; i < npages;) {
		uint64_t n = 0;
		while (i + n < npages && dirty[i + n] != 0) {
			n++;
		}
		if (n > 0) {
			TRY(session_map_pages(s, i, img + i * PAGE_BYTES, n));
		}
		i += n + 1;
	}
	return NULL;
}

/* The content's digest as a take of everything gives it, in a family of its own. */
static struct sha256 digest_of(struct fix_store *x, const uint8_t *img, uint64_t npages)
{
	uint8_t fam[16] = { 77 };
	struct family *f = NULL;
	struct snap_info info;
	OK(family_open(x->s, fam, true, &f));
	OK(fix_take(f, fix_vm2, "", img, npages, &info));
	OK(family_remove(f, &info.id, 1));
	family_close(f);
	return info.maps[0].digest;
}

/* Changes n pages, here and there or together; a few become zero or one value. */
static void scribble(uint8_t *img, uint8_t *dirty, uint64_t npages, unsigned n, uint64_t *seed)
{
	uint64_t at = fix_rnd(seed) % npages;
	bool together = fix_rnd(seed) % 2 == 0;
	for (unsigned i = 0; i < n; i++) {
		at = together ? (at + 1) % npages : fix_rnd(seed) % npages;
		uint64_t v = fix_rnd(seed);
		uint8_t *p = img + at * PAGE_BYTES;
		switch (fix_rnd(seed) % 6) {
		case 0:
			memset(p, 0, PAGE_BYTES);
			break;
		case 1:
			memset(p, (int)(v & 0xff), PAGE_BYTES);
			break;
		default:
			memcpy(p + v % 500 * 8, &v, sizeof(v));
			break;
		}
		dirty[at] = 1;
	}
}

static void starts_from_a_snapshot(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(1, PAGES);
	uint8_t *dirty = calloc(1, PAGES);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	struct store_usage before;
	struct store_usage after;
	OK(family_usage(x->f, &before));

	/* Nothing changed: the same root, and no record more. */
	struct session *s = NULL;
	OK(begin(x->f, PAGES, &(struct map_opts){ .base = a.id }, &s));
	OK(finish(s, &b));
	session_free(s);
	assert_int_equal(b.maps[0].root_id, a.maps[0].root_id);
	assert_int_equal(b.pages_stored + b.bytes_stored, 0);
	OK(family_usage(x->f, &after));
	assert_int_equal(after.frames + after.leaves + after.nodes,
			 before.frames + before.leaves + before.nodes);

	/* One page: one leaf, the node above it and the root; the other node is the same. */
	img[600ull * PAGE_BYTES] ^= 1;
	img[600ull * PAGE_BYTES + 99] ^= 1;
	dirty[600] = 1;
	OK(begin(x->f, PAGES, &(struct map_opts){ .base = b.id }, &s));
	OK(give(s, img, dirty, PAGES));
	OK(finish(s, &b));
	session_free(s);
	OK(family_usage(x->f, &after));
	assert_int_equal(after.leaves, before.leaves + 1);
	assert_int_equal(after.nodes, before.nodes + 2);
	assert_int_equal(after.frames, before.frames + 1);
	assert_int_equal(b.pages_stored, 1);
	struct sha256 want = digest_of(x, img, PAGES);
	assert_memory_equal(&b.maps[0].digest, &want, sizeof(want));
	fix_same(x->f, b.id, "memory", img, PAGES);
	fix_sound(x->f, b.id);

	/* A leaf that becomes all zero has no record, and its old one is not taken over. */
	memset(img + 512ull * PAGE_BYTES, 0, 512ull * PAGE_BYTES);
	memset(dirty + 512, 1, 512);
	OK(begin(x->f, PAGES, &(struct map_opts){ .base = b.id }, &s));
	OK(give(s, img, dirty, PAGES));
	OK(finish(s, &b));
	session_free(s);
	fix_same(x->f, b.id, "memory", img, PAGES);
	fix_sound(x->f, b.id);
	want = digest_of(x, img, PAGES);
	assert_memory_equal(&b.maps[0].digest, &want, sizeof(want));
	free(img);
	free(dirty);
}

/* Takes from takes, some in rounds; snapshots go in any order, the base during the take, too. */
static void any_order(void **state)
{
	struct fix_store *x = *state;
	enum {
		STEPS = 60,
		KEPT = 6,
	};
	uint64_t seed = 42;
	uint8_t *img = fix_image(2, SMALL);
	uint8_t *dirty = calloc(1, SMALL);
	uint8_t *copy[KEPT] = { NULL };
	struct snap_info snap[KEPT];
	uint64_t base = 0;
	for (unsigned step = 0; step < STEPS; step++) {
		bool rounds = fix_rnd(&seed) % 2 == 0;
		struct session *s = NULL;
		struct snap_info info;
		if (base == 0) {
			memset(dirty, 1, SMALL);
		}
		OK(begin(x->f, SMALL, &(struct map_opts){ .base = base, .rounds = rounds }, &s));
		for (uint64_t r = rounds ? fix_rnd(&seed) % 4 : 0; r > 0; r--) {
			OK(give(s, img, dirty, SMALL));
			OK(session_map_round(s));
			memset(dirty, 0, SMALL);
			scribble(img, dirty, SMALL, 1 + (unsigned)(fix_rnd(&seed) % 40), &seed);
		}
		OK(give(s, img, dirty, SMALL));
		OK(session_settle(s));
		if (base != 0 && fix_rnd(&seed) % 8 == 0) {
			/* Leased by the session: hidden, and freed later. */
			OK(family_remove(x->f, &base, 1));
			for (unsigned i = 0; i < KEPT; i++) {
				if (copy[i] != NULL && snap[i].id == base) {
					free(copy[i]);
					copy[i] = NULL;
				}
			}
		}
		OK(finish(s, &info));
		session_free(s);
		memset(dirty, 0, SMALL);
		base = info.id;
		unsigned at = (unsigned)(fix_rnd(&seed) % KEPT);
		if (copy[at] != NULL) {
			OK(family_remove(x->f, &snap[at].id, 1));
			free(copy[at]);
		}
		copy[at] = malloc((size_t)SMALL * PAGE_BYTES);
		memcpy(copy[at], img, (size_t)SMALL * PAGE_BYTES);
		snap[at] = info;
		scribble(img, dirty, SMALL, 1 + (unsigned)(fix_rnd(&seed) % 300), &seed);
		for (unsigned i = 0; i < KEPT; i++) {
			if (copy[i] != NULL && fix_rnd(&seed) % 3 == 0) {
				fix_same(x->f, snap[i].id, "memory", copy[i], SMALL);
				fix_sound(x->f, snap[i].id);
			}
		}
	}
	struct sha256 want = digest_of(x, copy[0] != NULL ? copy[0] : img, SMALL);
	if (copy[0] != NULL) {
		assert_memory_equal(&snap[0].maps[0].digest, &want, sizeof(want));
	}
	uint64_t findings;
	struct fix_findings fi = { 0 };
	OK(family_verify(x->f, fix_report, &fi, &findings));
	assert_int_equal(findings, 0);
	for (unsigned i = 0; i < KEPT; i++) {
		if (copy[i] != NULL) {
			fix_same(x->f, snap[i].id, "memory", copy[i], SMALL);
			OK(family_remove(x->f, &snap[i].id, 1));
			free(copy[i]);
		}
	}
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.frames + u.leaves + u.nodes + u.blobs + u.snaps, 0);
	free(img);
	free(dirty);
}

/* Of rounds only the last content is reachable, and each leaf is written once. */
static void rounds_write_no_leaf_twice(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(3, SMALL);
	uint8_t *all = malloc(SMALL);
	memset(all, 1, SMALL);
	struct session *s = NULL;
	struct snap_info a;
	struct snap_info b;
	OK(begin(x->f, SMALL, &(struct map_opts){ .rounds = true }, &s));
	for (unsigned i = 0; i < 4; i++) {
		OK(give(s, img, all, SMALL));
		OK(session_map_round(s));
		for (unsigned p = 0; p < SMALL; p += 3) {
			img[p * (size_t)PAGE_BYTES + 8 * i] ^= 0x55;
		}
	}
	OK(give(s, img, all, SMALL));
	OK(finish(s, &a));
	session_free(s);
	fix_same(x->f, a.id, "memory", img, SMALL);
	fix_sound(x->f, a.id);
	struct sha256 want = digest_of(x, img, SMALL);
	assert_memory_equal(&a.maps[0].digest, &want, sizeof(want));
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.leaves, SMALL / 512);
	/* What the earlier rounds wrote is garbage once the session is over. */
	struct gc_result res;
	OK(family_gc(x->f, &res));
	assert_true(res.frames_freed > 0);
	fix_same(x->f, a.id, "memory", img, SMALL);
	/* A round in which nothing was given. */
	OK(begin(x->f, SMALL, &(struct map_opts){ .rounds = true, .base = a.id }, &s));
	OK(session_map_round(s));
	OK(session_map_round(s));
	OK(finish(s, &b));
	session_free(s);
	assert_int_equal(b.maps[0].root_id, a.maps[0].root_id);
	free(img);
	free(all);
}

struct writer {
	uint8_t *img;
	atomic_bool stop;
};

/* It stands for a guest, whose writes no sanitizer sees: a worker copies a page first and works on
 * the copy, and which of two values a word has in it does not matter, since the page is taken
 * again. */
__attribute__((no_sanitize("thread"))) static void *write_on(void *arg)
{
	struct writer *w = arg;
	uint64_t seed = 9;
	while (!atomic_load(&w->stop)) {
		uint64_t r = fix_rnd(&seed);
		volatile uint64_t *p =
			(volatile uint64_t *)(void *)(w->img + r % SMALL * PAGE_BYTES);
		for (unsigned i = 0; i < PAGE_BYTES / 8; i++) {
			p[i] = r % 3 == 0 ? 0 : r % 3 == 1 ? r : fix_rnd(&seed);
		}
	}
	return NULL;
}

static void live_memory(void **state)
{
	struct fix_store *x = *state;
	struct writer w = { .img = fix_image(4, SMALL) };
	uint8_t *all = malloc(SMALL);
	memset(all, 1, SMALL);
	uint64_t base = 0;
	for (unsigned k = 0; k < 4; k++) {
		pthread_t t;
		struct session *s = NULL;
		struct snap_info info;
		atomic_store(&w.stop, false);
		OK(begin(x->f, SMALL, &(struct map_opts){ .rounds = true, .base = base }, &s));
		assert_int_equal(pthread_create(&t, NULL, write_on, &w), 0);
		for (unsigned i = 0; i < 3; i++) {
			OK(give(s, w.img, all, SMALL));
			OK(session_map_round(s));
		}
		atomic_store(&w.stop, true);
		pthread_join(t, NULL);
		if (k % 2 == 0) { /* the last content, or something in between that is sound */
			OK(give(s, w.img, all, SMALL));
		}
		OK(finish(s, &info));
		session_free(s);
		fix_sound(x->f, info.id);
		if (k % 2 == 0) {
			fix_same(x->f, info.id, "memory", w.img, SMALL);
		}
		base = info.id;
	}
	free(w.img);
	free(all);
}

static void misuse(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(5, SMALL);
	struct snap_info a;
	struct session *s = NULL;
	uint8_t user[32] = { 0 };
	OK(fix_take(x->f, fix_vm1, "", img, SMALL, &a));
	FAILS(ERR_NOTFOUND, "does not exist",
	      begin(x->f, SMALL, &(struct map_opts){ .base = a.id + 9 }, &s));
	FAILS(ERR_NOTFOUND, "no map memory",
	      begin(x->f, SMALL + 1, &(struct map_opts){ .base = a.id }, &s));
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	FAILS(ERR_NOTFOUND, "no map other",
	      session_map_begin_as(s, "other", (uint64_t)SMALL * PAGE_BYTES, user,
				   &(struct map_opts){ .base = a.id }));
	FAILS(ERR_NOT_NOW, "takes pages again", session_map_round(s));
	OK(session_map_begin_as(s, "memory", (uint64_t)SMALL * PAGE_BYTES, user,
				&(struct map_opts){ .base = a.id }));
	FAILS(ERR_NOT_NOW, "takes pages again", session_map_round(s));
	OK(session_map_pages(s, 600, img, 1));
	FAILS(ERR_USAGE, "order", session_map_pages(s, 600, img, 1));
	session_free(s); /* in the middle of a leaf */
	OK(begin(x->f, SMALL, &(struct map_opts){ .base = a.id, .rounds = true }, &s));
	OK(session_map_pages(s, 600, img, 900));
	OK(session_map_round(s));
	OK(session_map_pages(s, 0, img, 900));
	session_free(s); /* with leaves in memory */
	/* The lease of a session that is over holds nothing. */
	OK(family_remove(x->f, &a.id, 1));
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.frames + u.leaves + u.nodes + u.snaps, 0);
	free(img);
}

/* A base that is removed by force (its record was damaged) is noticed in the publish. */
static void base_vanishes(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(6, SMALL);
	struct snap_info a;
	struct snap_info b;
	struct session *s = NULL;
	struct session *s2 = NULL;
	OK(fix_take(x->f, fix_vm1, "", img, SMALL, &a));
	OK(begin(x->f, SMALL, &(struct map_opts){ .base = a.id }, &s));
	OK(session_map_pages(s, 5, img, 1));
	/* While leased it stays, whoever collects. */
	OK(family_remove(x->f, &a.id, 1));
	struct gc_result res;
	OK(family_gc(x->f, &res));
	OK(begin(x->f, SMALL, &(struct map_opts){ .base = a.id }, &s2)); /* hidden will do */
	OK(finish(s, &b));
	session_free(s);
	memcpy(img + 5 * PAGE_BYTES, img, PAGE_BYTES);
	fix_same(x->f, b.id, "memory", img, SMALL);
	session_free(s2);
	OK(family_gc(x->f, &res));
	FAILS(ERR_NOTFOUND, "does not exist",
	      begin(x->f, SMALL, &(struct map_opts){ .base = a.id }, &s));
	fix_same(x->f, b.id, "memory", img, SMALL);
	fix_sound(x->f, b.id);
	free(img);
}

/* Damage below the base: an error that names it, never a snapshot with it. */
static void damaged_base(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(7, SMALL);
	struct snap_info a;
	struct snap_info b;
	struct session *s = NULL;
	char path[600];
	uint8_t head[32];
	OK(fix_take(x->f, fix_vm1, "", img, SMALL, &a));
	family_close(x->f);
	fix_data_path(x->dir, fix_fam, path, sizeof(path));
	for (uint64_t at = 40; at < 400; at += 180) {
		uint64_t id = fix_record(path, RECORD_FRAME, 0, true, at, head);
		OK(family_open(x->s, fix_fam, false, &x->f));
		OK(begin(x->f, SMALL, &(struct map_opts){ .base = a.id, .rounds = at > 100 }, &s));
		struct err *e = NULL;
		for (uint64_t p = 1; p < SMALL && e == NULL; p += 512) {
			e = session_map_pages(s, p, img, 1);
		}
		e = err_first(e, finish(s, &b));
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		assert_non_null(strstr(err_msg(e), "frame"));
		assert_non_null(strstr(err_msg(e), "of map memory of snapshot id"));
		err_free(e);
		session_free(s);
		struct snap_info *list;
		size_t n;
		OK(family_snaps(x->f, &list, &n));
		assert_int_equal(n, 1);
		free(list);
		family_close(x->f);
		fix_record(path, RECORD_FRAME, id, true, at, head); /* back */
	}
	OK(family_open(x->s, fix_fam, false, &x->f));
	OK(begin(x->f, SMALL, &(struct map_opts){ .base = a.id }, &s));
	OK(session_map_pages(s, 0, img, 1));
	OK(finish(s, &b));
	session_free(s);
	fix_same(x->f, b.id, "memory", img, SMALL);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(starts_from_a_snapshot, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(any_order, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(rounds_write_no_leaf_twice, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(live_memory, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(misuse, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(base_vanishes, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(damaged_base, fix_setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("session_map", tests, NULL, NULL);
}
