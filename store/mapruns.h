/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stretch of a map as runs of pages, sorted by frame: what reader.c and verify.c need to touch
 * each frame once, in the order of ids, which is about the order of the file. Also loads frames.
 * One thread builds; afterwards it is constant and may be read by all.
 */
#ifndef TORPOR_STORE_MAPRUNS_H
#define TORPOR_STORE_MAPRUNS_H

#include "store/frame.h"
#include "store/mapwalk.h"

/* Leaves per stretch: 4 GiB of content, so that the memory for it does not grow with the map. */
#define MAPRUNS_LEAVES 2048u

/* Consecutive pages in consecutive slots of a frame, or (frame 0) of one value. */
struct map_run {
	uint64_t frame;
	uint64_t v; /* first slot, or the value */
	uint64_t page;
	uint32_t npages;
};

struct mapruns {
	struct map_run *run; /* owned; sorted by (frame, slot), values first */
	size_t nruns;
	size_t cap;
	size_t nvalues; /* run[0..nvalues) are values */
	size_t *start;  /* owned; frame i has runs [start[i], start[i + 1]) */
	size_t nframes;
	uint64_t npages; /* all runs together */
};
void mapruns_done(struct mapruns *r);
/* Adds the pages of one leaf. */
MUST_USE struct err *mapruns_add(struct mapruns *r, uint64_t leaf_index, const struct leaf *l);
/* Adds those of its pages whose bit is set in want, zero ones too (value 0). */
MUST_USE struct err *mapruns_add_some(struct mapruns *r, uint64_t leaf_index, const struct leaf *l,
				      const uint64_t want[LEAF_PAGES / 64]);
/* Sorts; nothing is added afterwards. */
MUST_USE struct err *mapruns_sort(struct mapruns *r);

/* Which pages of a map some runs are: "pages 0x10-0x1f, 0x30 of map memory", shortened. */
void mapruns_text(const struct map_run *run, size_t n, const char *map, char *out, size_t cap);

/*
 * Reads a frame's record with pread. buf has room for FRAME_BYTES_MAX. ERR_CORRUPT when there is
 * none, it is damaged, or the file ends before it.
 */
MUST_USE struct err *frame_place(struct family *f, struct ltxn *t, uint64_t id,
				 struct lplace *ret_place);
MUST_USE struct err *frame_load(struct family *f, const struct lplace *at, uint64_t id,
				uint8_t *buf, struct frame *ret_frame);
/*
 * Reads and checks only what stands before the sub-frames: frame_slot and frame_digest work,
 * frame_sub does not. buf has room for FRAME_FRONT_MAX.
 */
MUST_USE struct err *frame_load_head(struct family *f, const struct lplace *at, uint64_t id,
				     uint8_t *buf, struct frame *ret_frame);

#endif
