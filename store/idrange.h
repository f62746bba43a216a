/* SPDX-License-Identifier: Apache-2.0 */
/* A writer's own range of record ids and the pend record that says so. For compact.c; any thread. */
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

/* Takes a holder of a session and a range, in one durable transaction. */
MUST_USE struct err *idrange_open(struct family *f, struct idrange *ret);
/* Drops the holder; what was written and not released goes with it. */
void idrange_close(struct idrange *r);
MUST_USE struct err *idrange_take(struct idrange *r, uint64_t *ret_id);
/* Within the transaction that makes everything of the range reachable: the pend record goes. Once it
 * is committed the caller sets r->reserved to false. */
MUST_USE struct err *idrange_release(struct idrange *r, struct ltxn *t);

#endif
