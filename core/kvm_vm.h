/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /dev/kvm and one KVM virtual machine: memory slots, irqchip, PIT, interrupt lines, clock.
 *
 * kvm_*.c issue all KVM ioctls of torpor and turn each failure into an error with its name. Nothing
 * here knows devices, the store or the snapshot engine. Source: Linux Documentation/virt/kvm/api.rst,
 * section numbers at the functions.
 *
 * Threads: built and freed by core's VM thread; kvm_vm_irq from any thread.
 */
#ifndef TORPOR_CORE_KVM_VM_H
#define TORPOR_CORE_KVM_VM_H

#include "core/gmem.h"

struct kvm_vm;

/* Opens /dev/kvm; the message says what to do (absent, no permission, old API). */
MUST_USE struct err *kvm_open(struct fd *ret_kvm);

/*
 * Creates the VM in the order that costs least: KVM_CREATE_VM, identity map and TSS address, memory
 * slots, then in-kernel irqchip and PIT2 (slots first: after the irqchip they take milliseconds).
 * kvm is borrowed until kvm_vm_free.
 */
MUST_USE struct err *kvm_vm_new(int kvm, const struct gmem *gmem, struct kvm_vm **ret_vm);
/* The same, with the dirty log on from the first instant and nothing dirty. */
MUST_USE struct err *kvm_vm_new_logged(int kvm, const struct gmem *gmem, struct kvm_vm **ret_vm);
void kvm_vm_free(struct kvm_vm *vm);
DEFINE_SCOPE(struct kvm_vm, kvm_vm_free)

int kvm_vm_fd(const struct kvm_vm *vm);  /* for kvm_*.c, and to be handed out */
int kvm_vm_kvm(const struct kvm_vm *vm); /* the /dev/kvm descriptor */
const struct gmem *kvm_vm_gmem(const struct kvm_vm *vm); /* borrowed; for kvm_state_vcpu.c */
/* KVM_IRQ_LINE: level of a GSI. */
MUST_USE struct err *kvm_vm_irq_line(struct kvm_vm *vm, unsigned gsi, bool level);

/* KVM_SIGNAL_MSI: delivered to the local APICs on return. Any thread. */
MUST_USE struct err *kvm_vm_msi(struct kvm_vm *vm, uint64_t addr, uint32_t data);
/* KVM_IOEVENTFD: a write of any width at the MMIO address gpa adds to eventfd fd (or no longer). */
MUST_USE struct err *kvm_vm_ioeventfd(struct kvm_vm *vm, int fd, uint64_t gpa, bool on);

/*
 * The dirty log: a bit per page that the guest or KVM for it has written (not the VMM: gmem.h). Any
 * thread; never two calls at once. Start: every page counts as dirty; the guest pays nothing until a
 * page is cleared. Fetch writes the whole bitmap of a region and leaves the log as it is; clear takes
 * back the bits that are set in it for [first, first + npages): a write after that sets its bit again.
 * first and npages are multiples of 64, but for a range that ends with the region. Where KVM cannot
 * clear by itself a fetch clears, and clear does nothing.
 */
bool kvm_vm_log_on(const struct kvm_vm *vm);
MUST_USE struct err *kvm_vm_log_start(struct kvm_vm *vm);
MUST_USE struct err *kvm_vm_log_fetch(struct kvm_vm *vm, unsigned region, uint64_t *bits);
MUST_USE struct err *kvm_vm_log_clear(struct kvm_vm *vm, unsigned region, uint64_t first,
				      uint64_t npages, const uint64_t *bits);

/*
 * kvmclock. Read with KVM_GET_CLOCK; set with KVM_SET_CLOCK. realtime_ns/host_tsc are 0 where the
 * host does not give them.
 */
struct kvm_clock_state {
	uint64_t clock_ns;
	uint64_t realtime_ns;
	uint64_t host_tsc;
};
MUST_USE struct err *kvm_vm_clock_get(struct kvm_vm *vm, struct kvm_clock_state *ret);
MUST_USE struct err *kvm_vm_clock_set(struct kvm_vm *vm, uint64_t clock_ns);

#endif
