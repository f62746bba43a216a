/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved state of what KVM models: one part per vCPU, one for the irqchip (two PICs and the IOAPIC),
 * one for the PIT, one for the clock. State structs with field tables; fetch and commit by ioctl.
 *
 * Order inside a vCPU commit (why is told at the function): CPUID, sregs2, LAPIC, xcrs before xsave,
 * MSRs (TSC_DEADLINE after TSC offset and LAPIC), regs, debugregs, vcpu_events, mp_state.
 *
 * Threads: part operations only while all vCPUs are parked.
 */
#ifndef TORPOR_CORE_KVM_STATE_H
#define TORPOR_CORE_KVM_STATE_H

#include "core/kvm_vcpu.h"
#include "snapshot/part.h"

/* How guest time goes on after a load; set by core before the commits. */
enum clock_policy { CLOCK_CONTINUE, CLOCK_JUMP };

struct kvm_state; /* all KVM parts of one VM */

/* vcpus: borrowed array of n, all created; state objects are freed by kvm_state_free. */
MUST_USE struct err *kvm_state_new(struct kvm_vm *vm, struct kvm_vcpu *const *vcpus, unsigned n,
				   struct kvm_state **ret_state);
void kvm_state_free(struct kvm_state *s);
DEFINE_SCOPE(struct kvm_state, kvm_state_free)
/* The parts, for core's list: vCPUs, irqchip, PIT, clock. */
unsigned kvm_state_nparts(const struct kvm_state *s);
struct snap_part *kvm_state_part(struct kvm_state *s, unsigned i);

/*
 * The clock is read once, right after the vCPUs stopped, and set exactly once, right before they go
 * on. kvm_state_clock_hold reads kvmclock, host TSC and realtime; the clock part's fetch gives what
 * was held. kvm_state_clock_release sets kvmclock (and, per vCPU, the TSC offset) so that guest time
 * goes on where it stopped, and forgets what was held: a second release does nothing.
 * `stopped_time_counts`: the guest's clocks move on by the real time that passed (a take of a
 * running VM moves no guest clock: nothing is to be set, only what was held is dropped).
 */
MUST_USE struct err *kvm_state_clock_hold(struct kvm_state *s);
/* For how long guest time has stood still in all (since the build), as the releases left it. */
uint64_t kvm_state_clock_stopped_ns(const struct kvm_state *s);
MUST_USE struct err *kvm_state_clock_release(struct kvm_state *s, bool stopped_time_counts);
bool kvm_state_clock_held(const struct kvm_state *s);
/* For a load: what the clock part's commit is to do with wall time. Default CLOCK_CONTINUE. */
void kvm_state_set_clock_policy(struct kvm_state *s, enum clock_policy policy);
/* Guest's kvmclock now (VM time), from the held value while held. */
MUST_USE struct err *kvm_state_vm_time_ns(struct kvm_state *s, uint64_t *ret_ns);

/*
 * CPUID table in a decoded state of kvm_vcpu_desc, for cpuid_check before anything is committed.
 * The commit of vCPU 0 checks it as well.
 */
void kvm_state_cpuid(const void *vcpu_state, struct cpuid_table *ret_table);
/*
 * XSAVE components that the guest can have in use: those that its CPUID record shows (leaf 0xd) and
 * those in its XCR0. Of what was fetched last. Where the guest sees the host's CPUID whatever the
 * record says, the caller adds the host's.
 */
uint64_t kvm_state_xcr0_used(const struct kvm_state *s);

extern const struct state_desc kvm_vcpu_desc;
extern const struct state_desc kvm_irqchip_desc;
extern const struct state_desc kvm_pit_desc;
extern const struct state_desc kvm_clock_desc;

#endif
