/* SPDX-License-Identifier: Apache-2.0 */
/* Reading on demand: pieces in any order, at the map's end, from rotten and truncated stores. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 6005, /* twelve leaves, the last piece is not whole */
};

static int setup(void **state)
{
	fix_setup(state);
	struct fix_store *x = *state;
	uint8_t *img = fix_image(78, PAGES);
	memset(img + 1024 * PAGE_BYTES, 0, 512 * PAGE_BYTES); /* a leaf without a record */
	fix_store_take(x, img, PAGES);
	OK(reader_open(x->f, x->info.id, &x->r));
	return 0;
}

/* NULL if the piece of `index` is what was stored. */
static struct err *check(const struct fix_store *x, struct piece_reader *p, uint64_t index)
{
	static const uint8_t zero[PAGE_BYTES];
	struct piece piece;
	TRY(piece_read(p, index, &piece));
	uint64_t first = index - index % STORE_PIECE_PAGES;
	assert_int_equal(piece.first, first);
	assert_int_equal(piece.npages, MIN(PAGES - first, (uint64_t)STORE_PIECE_PAGES));
	uint32_t nzero = 0;
	for (uint32_t i = 0; i < piece.npages; i++) {
		const uint8_t *want = x->img + (first + i) * PAGE_BYTES;
		assert_memory_equal(piece.pages + i * PAGE_BYTES, want, PAGE_BYTES);
		nzero += memcmp(want, zero, PAGE_BYTES) == 0;
	}
	assert_int_equal(piece.nzero, nzero);
	return NULL;
}

static void in_order_and_by_chance(void **state)
{
	struct fix_store *x = *state;
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	OK(piece_reader_new(x->r, "memory", &p));
	for (uint64_t i = 0; i < PAGES; i += STORE_PIECE_PAGES) {
		OK(check(x, p, i));
	}
	OK(check(x, p, PAGES - 1));
	uint64_t seed = 5;
	for (unsigned i = 0; i < 2000; i++) {
		OK(check(x, p, fix_rnd(&seed) % PAGES));
	}
}

static void what_there_is_not(void **state)
{
	struct fix_store *x = *state;
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	struct piece piece;
	FAILS(ERR_NOTFOUND, "no map disk", piece_reader_new(x->r, "disk", &p));
	OK(piece_reader_new(x->r, "memory", &p));
	FAILS(ERR_CORRUPT, "no page", piece_read(p, PAGES, &piece));
	FAILS(ERR_CORRUPT, "no page", piece_read(p, UINT64_MAX, &piece));
	OK(check(x, p, 0));
	piece_reader_free(NULL);
}

struct walker {
	const struct fix_store *x;
	uint64_t seed;
	struct err *e;
};

static void *walk(void *arg)
{
	struct walker *w = arg;
	struct piece_reader *p = NULL;
	w->e = piece_reader_new(w->x->r, "memory", &p);
	for (unsigned i = 0; i < 1000 && w->e == NULL; i++) {
		struct piece piece;
		uint64_t at = fix_rnd(&w->seed) % PAGES;
		w->e = piece_read(p, at, &piece);
		if (w->e == NULL && memcmp(piece.pages, w->x->img + piece.first * PAGE_BYTES,
					   piece.npages * PAGE_BYTES) != 0) {
			w->e = ERR(ERR_CORRUPT, "page 0x%llx differs", (unsigned long long)at);
		}
	}
	piece_reader_free(p);
	return NULL;
}

/* Several of one reader, beside a read of everything. */
static void several_at_once(void **state)
{
	struct fix_store *x = *state;
	pthread_t t[3];
	struct walker w[3];
	for (unsigned i = 0; i < 3; i++) {
		w[i] = (struct walker){ .x = x, .seed = i };
		assert_int_equal(pthread_create(&t[i], NULL, walk, &w[i]), 0);
	}
	uint8_t *out = calloc(PAGES, PAGE_BYTES);
	struct read_opts ro = { .workers = 2, .place = fix_place, .arg = out };
	OK(reader_map_read(x->r, "memory", &ro));
	assert_memory_equal(out, x->img, (size_t)PAGES * PAGE_BYTES);
	free(out);
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		OK(w[i].e);
	}
}

/* Removed while it is leased: all is there until the lease ends. */
static void of_a_removed_snapshot(void **state)
{
	struct fix_store *x = *state;
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	OK(piece_reader_new(x->r, "memory", &p));
	OK(check(x, p, 17));
	OK(family_remove(x->f, &x->info.id, 1));
	struct gc_result res;
	OK(family_gc(x->f, &res));
	for (uint64_t i = 0; i < PAGES; i += STORE_PIECE_PAGES) {
		OK(check(x, p, i));
	}
}

/* Reads every piece: right or refused, never wrong. Returns how many were refused. */
static unsigned refused(struct fix_store *x, enum err_class class, const char *text)
{
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	unsigned n = 0;
	OK(piece_reader_new(x->r, "memory", &p));
	for (uint64_t i = 0; i < PAGES; i += STORE_PIECE_PAGES) {
		struct err *e = check(x, p, i);
		if (e != NULL) {
			n++;
			assert_int_equal(err_class(e), class);
			if (strstr(err_msg(e), text) == NULL) {
				fail_msg("%s", err_msg(e));
			}
			err_free(e);
		}
	}
	return n;
}

/* Only the pieces with pages in the rotten sub-frame are lost. */
static void rotten_sub_frame(void **state)
{
	struct fix_store *x = *state;
	uint8_t head[32];
	uint64_t id = fix_record(x->data, RECORD_FRAME, 0, false, 0, head);
	unsigned nslots = get_le16(head + 24);
	unsigned nsub = get_le16(head + 26);
	uint64_t front = 32 + nsub * 12u + nslots * 16u + 8;
	assert_true(get_le32(head + 28) > front + 100);
	fix_record(x->data, RECORD_FRAME, id, true, front + 50, head);
	unsigned n = refused(x, ERR_CORRUPT, "sub-frame 0: checksum differs");
	assert_in_range(n, 1, 4);
	fix_record(x->data, RECORD_FRAME, id, true, front + 50, head);
	assert_int_equal(refused(x, ERR_CORRUPT, ""), 0);
	/* Its table: nothing of the frame can be had. */
	fix_record(x->data, RECORD_FRAME, id, true, 40, head);
	assert_true(refused(x, ERR_CORRUPT, "checksum of its head differs") >= n);
	fix_record(x->data, RECORD_FRAME, id, true, 40, head);
}

static void rotten_leaf_and_node(void **state)
{
	struct fix_store *x = *state;
	uint8_t head[32];
	uint64_t leaf = fix_record(x->data, RECORD_LEAF, 0, false, 0, head);
	fix_record(x->data, RECORD_LEAF, leaf, true, 60, head);
	unsigned n = refused(x, ERR_CORRUPT, "leaf");
	assert_in_range(n, 1, 512 / STORE_PIECE_PAGES);
	fix_record(x->data, RECORD_LEAF, leaf, true, 60, head);
	uint64_t node = fix_record(x->data, RECORD_NODE, 0, false, 0, head);
	fix_record(x->data, RECORD_NODE, node, true, 50, head);
	n = refused(x, ERR_CORRUPT, "node");
	assert_int_equal(n, (PAGES + STORE_PIECE_PAGES - 1) / STORE_PIECE_PAGES);
	fix_record(x->data, RECORD_NODE, node, true, 50, head);
	assert_int_equal(refused(x, ERR_CORRUPT, ""), 0);
}

/* Cut off behind the front while it is open: what is kept stays right, the rest is refused. */
static void truncated_while_open(void **state)
{
	struct fix_store *x = *state;
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	OK(piece_reader_new(x->r, "memory", &p));
	OK(check(x, p, 3));
	struct family *other = NULL;
	const uint8_t uuid[16] = { 3 };
	/* cmocka has put its own signal handlers in place; opening brings the guard's back. */
	OK(family_open(x->s, uuid, true, &other));
	assert_int_equal(truncate(x->data, 3 * 4096), 0);
	OK(check(x, p, 3));
	unsigned n = refused(x, ERR_CORRUPT, "");
	assert_true(n > 100);
	family_close(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(in_order_and_by_chance, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(what_there_is_not, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(several_at_once, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(of_a_removed_snapshot, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(rotten_sub_frame, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(rotten_leaf_and_node, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(truncated_while_open, setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("reader_piece", tests, NULL, NULL);
}
