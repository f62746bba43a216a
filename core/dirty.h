/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of a VM's memory may differ from a snapshot of it. KVM's dirty log and the host-side
 * bits of gmem come together here, and what was fetched is kept until a snapshot holds it: a take
 * that fails or is given up loses nothing.
 *
 * Owned by life, one per VM; outlives machines (a reset builds another one). Threads: the main loop
 * while there is no take; the thread of a take, or the vCPU thread that works for it meanwhile.
 *
 * I1: while base is not 0, every page that differs from that snapshot has its bit in `kept`, in KVM's
 *     log or in gmem's bits.
 */
#ifndef TORPOR_CORE_DIRTY_H
#define TORPOR_CORE_DIRTY_H

#include "core/kvm_vm.h"
#include "snapshot/snapshot.h"

struct dirty;

/* gmem is borrowed. */
MUST_USE struct err *dirty_new(struct gmem *gmem, struct dirty **ret_dirty);
void dirty_free(struct dirty *d);
DEFINE_SCOPE(struct dirty, dirty_free)

/* A machine over the memory was built; vm is borrowed until dirty_detach. */
void dirty_attach(struct dirty *d, struct kvm_vm *vm);
/* The machine goes away. What happens to the memory now is not tracked: there is no base any more. */
void dirty_detach(struct dirty *d);

/*
 * The memory is what that snapshot says: it was loaded under a log that runs since the machine was
 * built, or a take of all that dirty_ops gave has been published. 0: nothing is known.
 */
void dirty_set_base(struct dirty *d, uint64_t snap_id);
uint64_t dirty_base(const struct dirty *d);

/* For struct snap_vm; self is the struct dirty. */
extern const struct snap_dirty_ops dirty_ops;

#endif
