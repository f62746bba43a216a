/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames: records of up to 16 LMDB pages that hold compressed guest pages. A frame is filled by
 * compressed size. Its pages are its slots, numbered from 0; each sub-frame holds 1..4 consecutive
 * slots compressed together, or raw, with a checksum of its own, so that one page is read by
 * checking and decoding 16 KiB. docs/format.md has the bytes.
 *
 * Builders and parsed frames belong to one thread at a time. A parsed frame borrows its bytes.
 *
 * I1: slots of sub-frame s are [first_slot, first_slot + npages), sub-frames cover all slots.
 * I2: a parsed frame's metadata has been checked; a sub-frame's bytes only by frame_sub.
 */
#ifndef TORPOR_STORE_FRAME_H
#define TORPOR_STORE_FRAME_H

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "store/zcodec.h"

#define FRAME_BYTES_MAX (16u * 4096u - 16u) /* 16 LMDB pages less LMDB's header */
#define FRAME_SUBS_MAX 256u
#define FRAME_SUB_PAGES 4u
#define FRAME_SUB_BYTES (FRAME_SUB_PAGES * PAGE_BYTES)
#define FRAME_SLOTS_MAX (FRAME_SUBS_MAX * FRAME_SUB_PAGES)

#define FRAME_HEAD_BYTES 32u
#define FRAME_SUB_ENTRY_BYTES 12u
#define FRAME_DIGEST_BYTES 16u
#define FRAME_SUM_BYTES 8u
/* Head, table, digests and their checksum, at most. */
#define FRAME_FRONT_MAX                                                                            \
	(FRAME_HEAD_BYTES + FRAME_SUBS_MAX * FRAME_SUB_ENTRY_BYTES +                               \
	 FRAME_SLOTS_MAX * FRAME_DIGEST_BYTES + FRAME_SUM_BYTES)

/* ---- writing ---- */

struct frame_builder {
	uint8_t uuid[16];
	uint64_t id;
	unsigned nslots;
	unsigned nsub;
	size_t payload_len;
	uint8_t table[FRAME_SUBS_MAX * FRAME_SUB_ENTRY_BYTES];
	struct hash128 digest[FRAME_SLOTS_MAX];
	uint8_t payload[FRAME_BYTES_MAX];
};

/* Empties the builder for a new frame. id is not 0. */
void frame_builder_begin(struct frame_builder *b, const uint8_t uuid[16], uint64_t id);
/* One sub-frame as it will be stored. */
struct frame_sub_in {
	const void *stored; /* stored_len bytes, copied */
	size_t stored_len;  /* raw: npages * PAGE_BYTES; else 1 .. npages * PAGE_BYTES - 1 */
	unsigned npages;    /* 1..FRAME_SUB_PAGES */
	bool raw;
	const struct hash128 *digest; /* npages page digests */
};
bool frame_builder_fits(const struct frame_builder *b, const struct frame_sub_in *in);
/* False, with nothing changed, when it does not fit; an empty builder takes any. Otherwise its
 * pages become slots *ret_slot and up. */
MUST_USE bool frame_builder_add(struct frame_builder *b, const struct frame_sub_in *in,
				unsigned *ret_slot);
/* Bytes that frame_builder_finish will write. */
size_t frame_builder_bytes(const struct frame_builder *b);
/* Writes the record (not empty) to out, room for FRAME_BYTES_MAX; returns its length. */
size_t frame_builder_finish(const struct frame_builder *b, uint8_t *out);

/*
 * Compresses npages contiguous pages into a sub-frame in scratch (FRAME_SUB_BYTES), or names the
 * pages themselves as raw when the gain is under 1/16. *ret_in borrows pages, scratch and digest.
 * Errors: ERR_SYS (memory).
 */
MUST_USE struct err *frame_sub_pack(struct zcodec *z, const void *pages, unsigned npages,
				    const struct hash128 *digest, uint8_t *scratch,
				    struct frame_sub_in *ret_in);

/* ---- reading ---- */

struct frame_sub_at {
	uint32_t off; /* of the stored bytes in the record */
	uint16_t stored_len;
	uint16_t first_slot;
	uint8_t npages;
	bool raw;
	uint64_t sum;
};

struct frame {
	const uint8_t *p; /* borrowed */
	size_t len;
	uint64_t id;
	uint8_t uuid[16];
	unsigned nslots;
	unsigned nsub;
	const uint8_t *digests; /* nslots times 16 bytes, in p */
	struct frame_sub_at sub[FRAME_SUBS_MAX];
};

/*
 * Checks everything but the sub-frames' bytes. Touches only the metadata at the front (about 1 KiB,
 * 19.5 KiB at most); p must stay as it is while *ret_frame is used, which is scratch after an
 * error.
 * Errors: ERR_CORRUPT, ERR_INCOMPAT (version, codec, dictionary, key), naming the frame.
 */
MUST_USE struct err *frame_parse(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
				 struct frame *ret_frame);
/* Bytes before the sub-frames, as an unchecked head of FRAME_HEAD_BYTES says; at most
 * FRAME_FRONT_MAX. */
size_t frame_front_bytes(const void *head);
/* Verifies and decodes sub-frame `sub` (< nsub): npages * PAGE_BYTES bytes into out.
 * Errors: ERR_CORRUPT, ERR_SYS (memory). out (FRAME_SUB_BYTES) is scratch after an error. */
MUST_USE struct err *frame_sub(const struct frame *f, unsigned sub, struct zcodec *z, uint8_t *out);
/* Compares decoded pages of a sub-frame with their digests (verify only: rot is caught before). */
MUST_USE struct err *frame_sub_digests(const struct frame *f, unsigned sub, const uint8_t *pages);
/* Which sub-frame holds a slot, and as which page of it. ERR_CORRUPT: the frame has no such slot
 * (the slot comes from a leaf). */
MUST_USE struct err *frame_slot(const struct frame *f, unsigned slot, unsigned *ret_sub,
				unsigned *ret_page);
/* Digest of a slot's page; slot < nslots. */
struct hash128 frame_digest(const struct frame *f, unsigned slot);

#endif
