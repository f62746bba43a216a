/* SPDX-License-Identifier: Apache-2.0 */
/* See latency.h; called by the page servers, pager.c and swap_mem.c. */
#include "core/latency.h"

#include "core/base/check.h"

/* The highest bit and the two below it. */
static unsigned bucket_of(uint64_t ns)
{
	unsigned top = ns < 4 ? 2 : 63 - (unsigned)__builtin_clzll(ns);
	return MIN((unsigned)LATENCY_BUCKETS - 1, (top - 2) * 4 + (unsigned)(ns >> (top - 2) & 3));
}

/* Upper end of a bucket. */
static uint64_t bucket_ns(unsigned b)
{
	return (uint64_t)(4 + b % 4 + 1) << (b / 4);
}

void latency_add(struct latency *l, uint64_t ns)
{
	atomic_fetch_add(&l->took[bucket_of(ns)], 1);
	uint64_t max = atomic_load(&l->max_ns);
	while (ns > max && !atomic_compare_exchange_weak(&l->max_ns, &max, ns)) {
	}
}

uint64_t latency_percentile(const struct latency *l, unsigned percent)
{
	uint64_t n = 0;
	for (unsigned b = 0; b < LATENCY_BUCKETS; b++) {
		n += atomic_load(&l->took[b]);
	}
	uint64_t before = (n * percent + 99) / 100;
	for (unsigned b = 0; b < LATENCY_BUCKETS && n > 0; b++) {
		uint64_t here = atomic_load(&l->took[b]);
		if (here >= before) {
			return MIN(bucket_ns(b), atomic_load(&l->max_ns));
		}
		before -= here;
	}
	return n > 0 ? atomic_load(&l->max_ns) : 0;
}

void latency_reset(struct latency *l)
{
	for (unsigned b = 0; b < LATENCY_BUCKETS; b++) {
		atomic_store(&l->took[b], 0);
	}
	atomic_store(&l->max_ns, 0);
}
