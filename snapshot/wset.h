/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The working set of a snapshot: which pieces of memory guests have waited for after a lazy
 * restore, in the order in which they did. Kept as a hint of the store (docs/format.md, "Hint"), so
 * it is never trusted: what does not decode is as none, what does is only an order of reading.
 *
 * Pure functions over lists of pieces; snap_image_wset and snap_image_wset_put of snapshot.h use
 * them. Any thread.
 */
#ifndef TORPOR_SNAPSHOT_WSET_H
#define TORPOR_SNAPSHOT_WSET_H

#include "core/base/bytes.h"
#include "snapshot/page_source.h"
#include "store/store.h"

#define WSET_PIECES_MAX 16384u /* 1 GiB of pieces */

/* Pages become pieces; at most WSET_PIECES_MAX of them. */
void wset_encode(struct wbuf *w, const struct page_order *order);
/* Strict, of a memory of npages. ERR_CORRUPT, ERR_INCOMPAT (another version). */
MUST_USE struct err *wset_decode(struct bytes b, uint64_t npages, struct page_order *ret);
/*
 * What was waited for this time, then what is in old and was not: it came in time because it was
 * known. No piece twice, none beyond npages. *ret_more: there is one that old does not have.
 */
MUST_USE struct err *wset_merge(const struct page_order *old, const struct page_order *now,
				uint64_t npages, struct page_order *ret, bool *ret_more);

#endif
