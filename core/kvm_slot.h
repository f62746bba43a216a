/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory slots beside those of guest RAM (kvm_vm.c has these): memory of others, mapped into the
 * guest. Any thread, also while vCPUs run.
 */
#ifndef TORPOR_CORE_KVM_SLOT_H
#define TORPOR_CORE_KVM_SLOT_H

#include "core/kvm_vm.h"

enum { KVM_SLOT_FIRST_FREE = 16 }; /* below are guest RAM's */

/* Maps [host, host + len) at gpa; len 0 takes the slot away: from then on nobody owns its
 * addresses. */
MUST_USE struct err *kvm_slot_set(struct kvm_vm *vm, unsigned slot, uint64_t gpa,
				  uint64_t len_bytes, void *host);

#endif
