/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long something took, counted in quarter octaves of nanoseconds: percentiles to within a
 * quarter. Zeroed memory is an empty one. Any thread, without locks.
 */
#ifndef TORPOR_CORE_LATENCY_H
#define TORPOR_CORE_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

enum { LATENCY_BUCKETS = 4 * 40 }; /* up to 18 minutes */

struct latency {
	atomic_uint_least64_t took[LATENCY_BUCKETS];
	atomic_uint_least64_t max_ns;
};

void latency_add(struct latency *l, uint64_t ns);
/* 0: nothing was counted. */
uint64_t latency_percentile(const struct latency *l, unsigned percent);
void latency_reset(struct latency *l);

#endif
