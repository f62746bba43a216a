/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A token bucket: so much per second on average, and a second's worth at once after a pause. Taking
 * may go ahead of the tokens once; the next one waits until that is made up for, so that a piece
 * larger than the bucket passes, too.
 *
 * virtio_blk embeds two. Under the lock of who embeds it; `now` is a monotonic
 * time of the host, `left` alone belongs to a saved state.
 */
#ifndef TORPOR_CORE_BASE_RATE_LIMIT_H
#define TORPOR_CORE_BASE_RATE_LIMIT_H

#include <stdint.h>

#define RATE_LIMIT_MAX (1ull << 40) /* per second */

struct rate_limit {
	uint64_t per_s; /* at most RATE_LIMIT_MAX; 0: no limit */
	int64_t left;   /* below 0: taken ahead */
	uint64_t at_ns; /* `left` is of this time */
};

/* A full bucket whose time has not begun. */
struct rate_limit rate_limit_of(uint64_t per_s);
/* Time goes on from here; what went by before brings nothing. */
void rate_limit_resume(struct rate_limit *r, uint64_t now_ns);
/* Nanoseconds until something may be taken; 0: now. */
uint64_t rate_limit_wait(struct rate_limit *r, uint64_t now_ns);
void rate_limit_take(struct rate_limit *r, uint64_t n);

/* `left` as saved, and from what was saved elsewhere: within what this limit can mean. */
uint64_t rate_limit_save(const struct rate_limit *r);
void rate_limit_load(struct rate_limit *r, uint64_t saved);

#endif
