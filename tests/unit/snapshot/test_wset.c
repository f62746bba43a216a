/* SPDX-License-Identifier: Apache-2.0 */
/* Working sets: bytes and back, what is refused, what a new one makes of an old one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "snapshot/wset.h"
#include "tests/lib/snap_fake.h"

enum { NPAGES = 1000 }; /* 63 pieces */

static struct page_order list(const uint64_t *gfn, size_t n)
{
	struct page_order o = { .gfn = malloc((n + 1) * sizeof(*gfn)), .n = n };
	assert_non_null(o.gfn);
	memcpy(o.gfn, gfn, n * sizeof(*gfn));
	return o;
}
#define LIST(...)                                                                                  \
	list((const uint64_t[]){ __VA_ARGS__ }, sizeof((const uint64_t[]){ __VA_ARGS__ }) / 8)

static void same(const struct page_order *o, const uint64_t *gfn, size_t n)
{
	assert_int_equal(o->n, n);
	assert_memory_equal(o->gfn, gfn, n * sizeof(*gfn));
}
#define SAME(o, ...)                                                                               \
	same(o, (const uint64_t[]){ __VA_ARGS__ }, sizeof((const uint64_t[]){ __VA_ARGS__ }) / 8)

static void round_trip(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(4096);
	SCOPE(page_order_done) struct page_order in = LIST(999, 0, 17, 992, 500);
	SCOPE(page_order_done) struct page_order out = { 0 };
	wset_encode(&w, &in);
	static const uint8_t bytes[] = { 1, 5, 124, 123, 2, 122, 61 };
	assert_int_equal(w.len, sizeof(bytes));
	assert_memory_equal(w.p, bytes, sizeof(bytes));
	OK(wset_decode((struct bytes){ w.p, w.len }, NPAGES, &out));
	SAME(&out, 992, 0, 16, 992, 496);
	for (size_t n = 0; n < w.len; n++) {
		struct page_order none = { 0 };
		REFUSED(wset_decode((struct bytes){ w.p, n }, NPAGES, &none), ERR_CORRUPT, "");
		assert_null(none.gfn);
	}
}

static void refuse(const uint8_t *p, size_t len, enum err_class class, const char *text)
{
	struct page_order none = { 0 };
	REFUSED(wset_decode((struct bytes){ p, len }, NPAGES, &none), class, text);
	assert_null(none.gfn);
}
#define REFUSE(class, text, ...)                                                                   \
	refuse((const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }), class,  \
	       text)

static void hostile(void **state)
{
	(void)state;
	REFUSE(ERR_INCOMPAT, "version 2", 2, 0);
	REFUSE(ERR_CORRUPT, "", 1, 0, 0);                         /* a byte behind */
	REFUSE(ERR_CORRUPT, "pieces", 1, 0xff, 0xff, 0xff, 0x7f); /* too many */
	REFUSE(ERR_CORRUPT, "piece 63 ", 1, 1, 126);              /* behind the memory */
	REFUSE(ERR_CORRUPT, "piece", 1, 2, 2, 5);                 /* before it */
	uint64_t seed = 4;
	for (unsigned i = 0; i < 20000; i++) {
		uint8_t b[24] = { 1 };
		for (size_t k = 1; k < sizeof(b); k++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			b[k] = (uint8_t)(seed >> (i % 2 == 0 ? 58 : 56));
		}
		SCOPE(page_order_done) struct page_order o = { 0 };
		struct err *e = wset_decode((struct bytes){ b, 2 + i % 22 }, NPAGES, &o);
		for (size_t k = 0; e == NULL && k < o.n; k++) {
			assert_true(o.gfn[k] < NPAGES);
		}
		err_free(e);
	}
}

/* The record of a full list fits where it is kept. */
static void largest(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(STORE_HINT_BYTES_MAX);
	SCOPE(page_order_done)
	struct page_order in = {
		.gfn = calloc(WSET_PIECES_MAX + 1, 8),
		.n = WSET_PIECES_MAX + 1,
	};
	SCOPE(page_order_done) struct page_order out = { 0 };
	const uint64_t npages = 64ull << 30 >> 12 << 10; /* 64 TiB */
	for (size_t i = 0; i < in.n; i++) {
		in.gfn[i] = i % 2 == 0 ? npages - 1 : 0;
	}
	wset_encode(&w, &in);
	OK(wbuf_check(&w));
	OK(wset_decode((struct bytes){ w.p, w.len }, npages, &out));
	assert_int_equal(out.n, WSET_PIECES_MAX);
}

static void merges(void **state)
{
	(void)state;
	SCOPE(page_order_done) struct page_order none = { 0 };
	SCOPE(page_order_done) struct page_order now = LIST(40, 33, 1 << 20, 0, 5);
	SCOPE(page_order_done) struct page_order first = { 0 };
	bool more = false;
	OK(wset_merge(&none, &now, NPAGES, &first, &more));
	assert_true(more);
	SAME(&first, 32, 0);
	/* What came in time is kept, behind what did not. */
	SCOPE(page_order_done) struct page_order later = LIST(5, 70);
	SCOPE(page_order_done) struct page_order second = { 0 };
	OK(wset_merge(&first, &later, NPAGES, &second, &more));
	assert_true(more);
	SAME(&second, 0, 64, 32);
	SCOPE(page_order_done) struct page_order third = { 0 };
	OK(wset_merge(&second, &later, NPAGES, &third, &more));
	assert_false(more);
}

/* With a snapshot: what is put comes back, and what is there in its place without meaning does not.
 */
static void of_a_snapshot(void **state)
{
	(void)state;
	static struct fake_vm f;
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	fake_fill(&f, 3);
	struct snap_result r;
	OK(snap_take(f.store, &f.vm, &(struct snap_take_opts){ 0 }, &r));
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	OK(snap_image_open(f.store, "fake", &img));
	SCOPE(page_order_done) struct page_order now = LIST(48, 16, 160);
	SCOPE(page_order_done) struct page_order got = { 0 };
	snap_image_wset(img, &got);
	assert_int_equal(got.n, 0);
	OK(snap_image_wset_put(img, &now));
	snap_image_wset(img, &got);
	SAME(&got, 48, 16, 160);
	page_order_done(&got);

	struct store_ref ref;
	OK(store_ref_resolve(f.store, "fake", &ref));
	OK(family_hint_put(ref.family, ref.snap.id, "nonsense", 8));
	store_ref_done(&ref);
	snap_image_wset(img, &got);
	assert_int_equal(got.n, 0);
	OK(snap_image_wset_put(img, &now));
	page_order_done(&got);
	snap_image_wset(img, &got);
	SAME(&got, 48, 16, 160);
	snap_image_free(MOVE(img));
	fake_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),    cmocka_unit_test(hostile),
		cmocka_unit_test(largest),       cmocka_unit_test(merges),
		cmocka_unit_test(of_a_snapshot),
	};
	return cmocka_run_group_tests_name("wset", tests, NULL, NULL);
}
