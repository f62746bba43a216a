/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One snapshot as a stream of bytes: docs/format.md, "Export stream", has them. Encoding and decoding
 * are functions of their arguments and touch no store; a stream may come from a stranger. For
 * transfer.c; one thread.
 */
#ifndef TORPOR_STORE_STREAM_H
#define TORPOR_STORE_STREAM_H

#include "core/base/bytes.h"
#include "store/zcodec.h"
#include "store/store.h"

#define STREAM_RUN_PAGES 16u /* pages compressed together */
#define STREAM_RUN_BYTES (STREAM_RUN_PAGES * PAGE_BYTES)
#define STREAM_PAGES_BYTES (256u * 1024u) /* a chunk of pages is ended when it has that much */
#define STREAM_CHUNK_BYTES_MAX (BLOB_BYTES_MAX + 64) /* body */

/* What the head says; the rest follows from the stream. */
struct stream_head {
	char name[NAME_BYTES_MAX + 1]; /* of the VM */
	uint8_t family[16];
	struct snap_info info; /* vm, number, tag, frozen, nmaps, nblobs, root */
};

/* ---- writing ---- */

struct stream_out {
	struct err *(*write)(void *arg, const void *p, size_t len);
	void *arg;
	uint64_t chunks;
	struct sha256_ctx *sha;
	struct wbuf body;
	struct wbuf pages; /* the chunk of pages that is being filled */
	struct zcodec *z;
	uint8_t *scratch; /* owned: STREAM_RUN_BYTES */
};
MUST_USE struct err *stream_out_init(struct stream_out *o);
void stream_out_done(struct stream_out *o);
MUST_USE struct err *stream_put_head(struct stream_out *o, const struct stream_head *h);
MUST_USE struct err *stream_put_map(struct stream_out *o, const struct snap_map *m);
/* Ascending; pages of zeros need not be given. */
MUST_USE struct err *stream_put_pages(struct stream_out *o, uint64_t index, const uint8_t *pages,
				      uint64_t npages);
MUST_USE struct err *stream_put_blob(struct stream_out *o, uint16_t kind, uint16_t index,
				     const void *p, size_t len);
MUST_USE struct err *stream_put_end(struct stream_out *o);

/* ---- reading ---- */

/*
 * Calls come in the order of the stream, each with bytes whose checksum holds and whose numbers are
 * within their limits. An error ends it. Whether the content is that of the root is the caller's to
 * check: until `end` it may still come to nothing.
 */
struct stream_in {
	/* Fills buf; *ret_len 0: the end of the bytes. */
	struct err *(*read)(void *arg, void *buf, size_t cap, size_t *ret_len);
	struct err *(*head)(void *arg, const struct stream_head *h);
	/* name, len_bytes, digest, user and height. */
	struct err *(*map)(void *arg, const struct snap_map *m);
	/* Ascending within the map; good only during the call. */
	struct err *(*pages)(void *arg, uint64_t index, const uint8_t *pages, uint64_t npages);
	struct err *(*blob)(void *arg, uint16_t kind, uint16_t index, const uint8_t *p, size_t len);
	void *arg;
};
/* Errors: ERR_CORRUPT (also a stream that ends early or goes on behind its end), ERR_INCOMPAT. */
MUST_USE struct err *stream_decode(const struct stream_in *in);

#endif
