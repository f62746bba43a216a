/* SPDX-License-Identifier: Apache-2.0 */
/* A token bucket. See rate_limit.h. */
#include "core/base/rate_limit.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"

enum { AHEAD_S = 8 }; /* seconds' worth that a loaded state may have taken ahead */

__extension__ typedef unsigned __int128 u128;
#define NS_PER_S 1000000000ull

struct rate_limit rate_limit_of(uint64_t per_s)
{
	BUG_ON(per_s > RATE_LIMIT_MAX);
	return (struct rate_limit){ .per_s = per_s, .left = (int64_t)per_s };
}

void rate_limit_resume(struct rate_limit *r, uint64_t now_ns)
{
	r->at_ns = now_ns;
}

/* Whole tokens only; the time of a part of one is kept. */
static void fill(struct rate_limit *r, uint64_t now_ns)
{
	uint64_t ns = now_ns > r->at_ns ? now_ns - r->at_ns : 0;
	u128 more = (u128)ns * r->per_s / NS_PER_S;
	if (more >= (u128)((int64_t)r->per_s - r->left)) {
		r->left = (int64_t)r->per_s;
		r->at_ns += ns;
		return;
	}
	r->left += (int64_t)more;
	r->at_ns += (uint64_t)(more * NS_PER_S / r->per_s);
}

uint64_t rate_limit_wait(struct rate_limit *r, uint64_t now_ns)
{
	if (r->per_s == 0) {
		return 0;
	}
	fill(r, now_ns);
	if (r->left > 0) {
		return 0;
	}
	u128 tokens = (u128)(1 - r->left);
	uint64_t full_at = r->at_ns + (uint64_t)((tokens * NS_PER_S + r->per_s - 1) / r->per_s);
	return full_at > now_ns ? full_at - now_ns : 1;
}

void rate_limit_take(struct rate_limit *r, uint64_t n)
{
	if (r->per_s > 0) {
		r->left -= (int64_t)MIN(n, RATE_LIMIT_MAX);
	}
}

uint64_t rate_limit_save(const struct rate_limit *r)
{
	return (uint64_t)r->left;
}

void rate_limit_load(struct rate_limit *r, uint64_t saved)
{
	int64_t most = (int64_t)r->per_s;
	int64_t left = (int64_t)saved;
	r->left = MAX(MIN(left, most), -AHEAD_S * most);
}
