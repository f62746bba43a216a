/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of clients in the guest: memfds that are mapped at guest physical addresses where no RAM
 * is (RegisterMemory, UnregisterMemory). The regions belong to the VM's life: they stay over
 * suspend and reset, and over the client's end. They are no part of guest RAM: devices do not reach
 * them, swap and snapshots know nothing of them. Main loop's thread.
 */
#ifndef TORPOR_CORE_EXTMEM_H
#define TORPOR_CORE_EXTMEM_H

#include "core/kvm_slot.h"

struct extmem;

enum { EXTMEM_MAX = 16 };

MUST_USE struct err *extmem_new(struct extmem **ret_x);
void extmem_free(struct extmem *x); /* after the machine: KVM uses the mappings */
DEFINE_SCOPE(struct extmem, extmem_free)

/*
 * Maps [offset, offset + (end - start)) of the memfd fd (borrowed) at [start, end). The file must
 * be sealed against shrinking, or be sealable: a page that went away under the guest would end it.
 * ERR_USAGE for a bad range, ERR_NOT_NOW for a place that is taken, ERR_LIMIT, ERR_SYS.
 */
MUST_USE struct err *extmem_add(struct extmem *x, struct kvm_vm *vm, int fd, uint64_t offset,
				uint64_t start, uint64_t end);
/* The region that starts there; ERR_NOTFOUND. */
MUST_USE struct err *extmem_remove(struct extmem *x, struct kvm_vm *vm, uint64_t start);
/* Maps all regions into a new VM (a reset). */
MUST_USE struct err *extmem_attach(struct extmem *x, struct kvm_vm *vm);
/* How many there are, and where the first is. */
unsigned extmem_count(const struct extmem *x, uint64_t *ret_first);

#endif
