/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One KVM vCPU: creation, CPUID, the run page, boot registers, and a readable report of how it
 * ended. Threads: kvm_vcpu_run on the vCPU's own thread; the rest on that thread or while the vCPU
 * is parked (other vCPU ioctls block while it runs). kvm_vcpu_set_immediate_exit from any thread.
 */
#ifndef TORPOR_CORE_KVM_VCPU_H
#define TORPOR_CORE_KVM_VCPU_H

#include <linux/kvm.h>

#include "core/base/finding.h"
#include "core/kvm_vm.h"

struct kvm_vcpu;

/* CPUID as given to guests; a record of the snapshot. */
struct cpuid_table {
	uint32_t n;
	uint32_t pad;
	struct kvm_cpuid_entry2 e[CPUID_MAX];
};
/*
 * The table for a new VM: the host's supported CPUID with VMX and SVM hidden, hypervisor bit and
 * KVM leaves kept, topology for `ncpus`, and `model` applied ("host", "x86-64-v2", "x86-64-v3").
 * ERR_INCOMPAT when the host lacks what the model needs, or shows its own CPUID whatever is set
 * (software KVM) and model is not "host". Per-vCPU fields (APIC ids) are set by kvm_vcpu_new.
 */
MUST_USE struct err *cpuid_make(int kvm, const char *model, unsigned ncpus,
				struct cpuid_table *ret_table);
/* ERR_INCOMPAT naming the first feature that `want` shows the guest and this host lacks. */
MUST_USE struct err *cpuid_check(int kvm, const struct cpuid_table *want);
/* The same, with everything that is lacking; its own error: it could not find out. */
MUST_USE struct err *cpuid_check_all(int kvm, const struct cpuid_table *want,
				     const struct findings *f);
/* True where the guest sees the host's CPUID whatever KVM_SET_CPUID2 said. */
bool kvm_is_software(int kvm);

/* Creates vCPU `id` with its CPUID (APIC id patched in), xAPIC, MP state as KVM gives it. */
MUST_USE struct err *kvm_vcpu_new(struct kvm_vm *vm, unsigned id, const struct cpuid_table *cpuid,
				  struct kvm_vcpu **ret_vcpu);
void kvm_vcpu_free(struct kvm_vcpu *v);
DEFINE_SCOPE(struct kvm_vcpu, kvm_vcpu_free)
unsigned kvm_vcpu_id(const struct kvm_vcpu *v);
int kvm_vcpu_fd(const struct kvm_vcpu *v); /* for kvm_state.c only */
struct kvm_run *kvm_vcpu_page(struct kvm_vcpu *v);
void kvm_vcpu_set_immediate_exit(struct kvm_vcpu *v, bool on);

enum kvm_run_result {
	KVM_RUN_EXIT,        /* page->exit_reason says why */
	KVM_RUN_INTERRUPTED, /* EINTR or EAGAIN: look at the requests */
	KVM_RUN_FAILED,      /* errno in *ret_errno */
};
/*
 * KVM makes an expired local timer an interrupt only inside KVM_RUN; in between, no ioctl shows it.
 * Before a park the vCPU's thread therefore looks (true: the timer may have expired), lets KVM
 * deliver it (the kick signal waits, so no guest code runs), and looks again. What the last look
 * saw of a timer that still counts stays known: kvm_vcpu_timer_seen, 0 if none counts.
 */
bool kvm_vcpu_timer_look(struct kvm_vcpu *v, bool first); /* first: of this park */
MUST_USE enum kvm_run_result kvm_vcpu_run_signalled(struct kvm_vcpu *v, int sig, int *ret_errno);
uint32_t kvm_vcpu_timer_seen(const struct kvm_vcpu *v);
/* For the calling thread's KVM_RUN: `sig` gets through even where the thread blocks it. */
MUST_USE struct err *kvm_vcpu_run_mask(struct kvm_vcpu *v, int sig);

/* KVM_RUN. Hot path: no error object. */
MUST_USE enum kvm_run_result kvm_vcpu_run(struct kvm_vcpu *v, int *ret_errno);

/* How a vCPU enters the guest at boot; filled by the boot loaders (boot.h). */
enum boot_mode { BOOT_PVH32, BOOT_LINUX64, BOOT_MULTIBOOT32 };
struct boot_regs {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rbx; /* PVH: hvm_start_info; multiboot: info */
	uint64_t rsi; /* Linux 64: boot_params */
	uint64_t rsp; /* scratch stack, 0 if none */
	/* Linux 64-bit entry: page tables and GDT that the loader put into guest memory */
	uint64_t cr3;
	uint64_t gdt_base;
	uint16_t gdt_limit;
};
/* Sets sregs/regs/FPU of the boot processor for the entry. */
MUST_USE struct err *kvm_vcpu_set_boot(struct kvm_vcpu *v, const struct boot_regs *regs);

/*
 * Many-line report of a vCPU that cannot go on: exit reason by name with its sub-fields, registers,
 * control registers, and instruction bytes at rip where guest memory can be read. Never fails; what
 * cannot be read says so. *ret_text is malloc'ed.
 */
void kvm_vcpu_report(struct kvm_vcpu *v, const struct gmem *gmem, char **ret_text);
const char *kvm_exit_name(uint32_t exit_reason);

#endif
