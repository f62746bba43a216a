/* SPDX-License-Identifier: Apache-2.0 */
/* A set of record ids, which are never 0: the marks of a collection. One thread at a time. */
#ifndef TORPOR_STORE_IDSET_H
#define TORPOR_STORE_IDSET_H

#include "core/base/err.h"

struct idset {
	uint64_t *slot; /* owned; open addressing, 0 is free */
	size_t cap;     /* a power of two, or 0 */
	size_t n;
};

void idset_done(struct idset *s);
/* *ret_new false: it was there. */
MUST_USE struct err *idset_add(struct idset *s, uint64_t id, bool *ret_new);
bool idset_has(const struct idset *s, uint64_t id);

#endif
