/* SPDX-License-Identifier: Apache-2.0 */
/* A writer's own range of record ids and the pend record that says so. For session.c and compact.c;
 * any thread. */
#ifndef TORPOR_STORE_IDRANGE_H
#define TORPOR_STORE_IDRANGE_H

#include "store/family.h"

struct idrange {
	struct family *f;
	struct holder holder;
	struct pend_rec pend;
	uint64_t next;
	bool reserved; /* the pend record may exist */
};

/* A range for that holder, in one durable transaction. *ret_reserved is set before the commit: one
 * that failed may have happened all the same. */
MUST_USE struct err *idrange_reserve(struct family *f, const struct holder *holder,
				     struct pend_rec *ret, bool *ret_reserved);
/* Takes a holder of a session and a range. */
MUST_USE struct err *idrange_open(struct family *f, struct idrange *ret);
/* Drops the holder; what was written and not released goes with it. */
void idrange_close(struct idrange *r);
MUST_USE struct err *idrange_take(struct idrange *r, uint64_t *ret_id);
/* Within the transaction that makes everything of the range reachable: the pend record goes. Once
 * it is committed the caller sets r->reserved to false. */
MUST_USE struct err *idrange_release(struct idrange *r, struct ltxn *t);

#endif
