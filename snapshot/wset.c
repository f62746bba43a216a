/* SPDX-License-Identifier: Apache-2.0 */
/* Working sets as bytes and as lists. See wset.h. */
#include "snapshot/wset.h"

#include <stdlib.h>

#include "snapshot/image.h"

enum { WSET_VERSION = 1 };

static uint64_t zigzag(uint64_t d)
{
	return d << 1 ^ (uint64_t)((int64_t)d >> 63);
}

static uint64_t unzigzag(uint64_t z)
{
	return z >> 1 ^ (0 - (z & 1));
}

void wset_encode(struct wbuf *w, const struct page_order *order)
{
	uint64_t last = 0;
	size_t n = MIN(order->n, (size_t)WSET_PIECES_MAX);
	wbuf_reset(w);
	wbuf_u8(w, WSET_VERSION);
	wbuf_varint(w, n);
	for (size_t i = 0; i < n; i++) {
		uint64_t piece = order->gfn[i] / STORE_PIECE_PAGES;
		wbuf_varint(w, zigzag(piece - last));
		last = piece;
	}
}

static struct err *decode(struct rcur *c, uint64_t npages, struct page_order *ret)
{
	uint8_t version;
	uint64_t n;
	TRY(rcur_u8(c, &version));
	ENSURE(version == WSET_VERSION, ERR_INCOMPAT, "version %u", version);
	TRY(rcur_varint(c, &n));
	ENSURE(n <= WSET_PIECES_MAX && n <= rcur_left(c), ERR_CORRUPT, "%llu pieces",
	       (unsigned long long)n);
	ret->gfn = calloc(n + 1, sizeof(*ret->gfn));
	ENSURE(ret->gfn != NULL, ERR_SYS, "out of memory");
	uint64_t piece = 0;
	for (; ret->n < n; ret->n++) {
		uint64_t d;
		TRY(rcur_varint(c, &d));
		piece += unzigzag(d);
		ENSURE(piece <= (npages - 1) / STORE_PIECE_PAGES, ERR_CORRUPT,
		       "piece %llu of a memory of %llu pages", (unsigned long long)piece,
		       (unsigned long long)npages);
		ret->gfn[ret->n] = piece * STORE_PIECE_PAGES;
	}
	return rcur_end(c);
}

struct err *wset_decode(struct bytes b, uint64_t npages, struct page_order *ret)
{
	struct rcur c = rcur_of(b.p, b.len);
	SCOPE(page_order_done) struct page_order order = { 0 };
	BUG_ON(npages == 0);
	TRY(err_wrap(decode(&c, npages, &order), "working set"));
	*ret = order;
	order = (struct page_order){ 0 };
	return NULL;
}

/* Adds what is not there yet; true if something was added. */
static bool add(struct page_order *to, const struct page_order *from, uint64_t npages,
		uint8_t *seen)
{
	size_t before = to->n;
	for (size_t i = 0; i < from->n && to->n < WSET_PIECES_MAX; i++) {
		uint64_t piece = from->gfn[i] / STORE_PIECE_PAGES;
		uint8_t bit = (uint8_t)(1u << piece % 8);
		if (from->gfn[i] < npages && (seen[piece / 8] & bit) == 0) {
			seen[piece / 8] |= bit;
			to->gfn[to->n++] = piece * STORE_PIECE_PAGES;
		}
	}
	return to->n > before;
}

struct err *wset_merge(const struct page_order *old, const struct page_order *now, uint64_t npages,
		       struct page_order *ret, bool *ret_more)
{
	size_t bytes = npages / STORE_PIECE_PAGES / 8 + 1;
	SCOPE(freep) uint8_t *had = calloc(bytes, 1);
	SCOPE(freep) uint8_t *seen = calloc(bytes, 1);
	SCOPE(page_order_done) struct page_order more = { 0 };
	SCOPE(page_order_done) struct page_order out = { 0 };
	more.gfn = calloc(WSET_PIECES_MAX, sizeof(*more.gfn));
	out.gfn = calloc(WSET_PIECES_MAX, sizeof(*out.gfn));
	ENSURE(had != NULL && seen != NULL && more.gfn != NULL && out.gfn != NULL, ERR_SYS,
	       "out of memory");
	(void)add(&more, old, npages, had);
	more.n = 0;
	*ret_more = add(&more, now, npages, had);
	(void)add(&out, now, npages, seen);
	(void)add(&out, old, npages, seen);
	*ret = out;
	out = (struct page_order){ 0 };
	return NULL;
}

/* ---- of a snapshot ---- */

static uint64_t pages_of(const struct snap_image *img)
{
	return manifest_gfn_end(img->manifest);
}

void snap_image_wset(struct snap_image *img, struct page_order *ret)
{
	SCOPE(freep) uint8_t *p = NULL;
	size_t len = 0;
	*ret = (struct page_order){ 0 };
	reader_hint(img->reader, &p, &len);
	if (p != NULL) {
		err_drop(wset_decode((struct bytes){ p, len }, pages_of(img), ret),
			 "a hint that does not decode is as none");
	}
}

struct err *snap_image_wset_put(struct snap_image *img, const struct page_order *now)
{
	SCOPE(page_order_done) struct page_order old = { 0 };
	SCOPE(page_order_done) struct page_order all = { 0 };
	bool more;
	/* Read again: another restore of the snapshot may have put one meanwhile. */
	snap_image_wset(img, &old);
	TRY(wset_merge(&old, now, pages_of(img), &all, &more));
	if (!more) {
		return NULL;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(STORE_HINT_BYTES_MAX);
	wset_encode(&w, &all);
	TRY(wbuf_check(&w));
	return family_hint_put(img->ref.family, img->ref.snap.id, w.p, w.len);
}
