/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Standing still: freezes a VM, parks its parts in rank order, reads their state, and undoes exactly
 * what was done, in reverse. Called by save, on the thread of the take.
 *
 * Order and why: vCPUs first (freeze), so that nothing starts new work; then parts by rank, devices
 * before the interrupt controller, so that what they raise last still arrives; then flush_irqs; then
 * every state is read in the same order.
 *
 * Facts:
 * I1 parts order[0 .. nparked) are parked, no other.
 * I2 frozen is true from the return of freeze to the call of thaw.
 * I3 quiesce_end undoes I1 from the last to the first, then I2; calling it again does nothing.
 */
#ifndef TORPOR_SNAPSHOT_QUIESCE_H
#define TORPOR_SNAPSHOT_QUIESCE_H

#include "snapshot/snapshot.h"

struct quiesce {
	const struct snap_vm *vm;
	uint8_t *states;  /* owned; copies of all parts' states, as fetched */
	size_t *state_at; /* owned; offset of part i of vm->parts in states */
	struct snap_part **order; /* owned; by park_rank, equal ranks as listed */
	size_t nparked;
	bool frozen;
	uint64_t started_mono_ns; /* just before freeze */
	uint64_t frozen_at_ns;    /* CLOCK_REALTIME, freeze returned */
	uint64_t pause_us;        /* set by quiesce_end: from before freeze to after thaw */
};

/* Sorts; freezes nothing yet. Errors: ERR_LIMIT, ERR_SYS. */
MUST_USE struct err *quiesce_init(struct quiesce *q, const struct snap_vm *vm);
/* Freezes and holds. On failure everything is undone before it returns. */
MUST_USE struct err *quiesce_begin(struct quiesce *q);
void quiesce_end(struct quiesce *q);
/*
 * For a VM that has been frozen otherwise (snap_vm_ops.freeze_and): parks, flushes, fetches and copies
 * the states; allocates nothing. On failure it is undone before it returns. quiesce_release undoes it.
 */
MUST_USE struct err *quiesce_hold(struct quiesce *q);
void quiesce_release(struct quiesce *q);
/* The copied state of vm->parts[i]; good until quiesce_done, whatever the part does. */
const void *quiesce_state(const struct quiesce *q, size_t i);
/* Ends if need be, and frees. */
void quiesce_done(struct quiesce *q);

/* Parts by rank, stable; commit picks commit_rank. *ret is malloc'ed. */
MUST_USE struct err *quiesce_sort(struct snap_part *const *parts, size_t nparts, bool commit,
				  struct snap_part ***ret);

#endif
