/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The saved structs of KVM's parts and what the kvm_state*.c files share. Included by those and by
 * their unit test only.
 *
 * Saved structs mirror the registers, not KVM's UAPI structs: the UAPI may grow, a snapshot may
 * not. Two members are byte images laid down by the architecture: the local APIC's register page
 * (SDM 3A 11.4.1) and the XSAVE area (SDM 1 13.4, standard form).
 *
 * Invariants of struct kvm_state:
 * I1 held != HELD_NO: clock, tmcct[] and deadline[] say where guest time stands; nothing in KVM
 *    counts for it any more. I2 held == HELD_NO: KVM's clocks are the guest's.
 */
#ifndef TORPOR_CORE_KVM_STATE_INTERNAL_H
#define TORPOR_CORE_KVM_STATE_INTERNAL_H

#include "core/kvm_state.h"

enum {
	XCRS_MAX = 16,       /* KVM_MAX_XCRS */
	LAPIC_BYTES = 1024,  /* KVM_APIC_REG_SIZE */
	LAPIC_TPR = 0x80,    /* task priority */
	LAPIC_PPR = 0xa0,    /* processor priority, read-only */
	LAPIC_ISR = 0x100,   /* in service: 256 bits, 32 in each 16 bytes */
	LAPIC_LVTT = 0x320,  /* timer entry */
	LAPIC_TMICT = 0x380, /* timer, initial count */
	LAPIC_TMCCT = 0x390, /* timer, current count */
	IOAPIC_PINS = 24,    /* KVM_IOAPIC_NUM_PINS */
};

#define MSR_TSC 0x10u
#define MSR_TSC_DEADLINE 0x6e0u

struct vcpu_regs_state {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rip, rflags;
};

struct vcpu_segment_state {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl, unusable;
	uint8_t pad;
};

struct vcpu_table_state {
	uint64_t base;
	uint16_t limit;
	uint8_t pad[6];
};

struct vcpu_sregs_state {
	struct vcpu_segment_state cs, ds, es, fs, gs, ss, tr, ldt;
	struct vcpu_table_state gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
	/* PAE paging reads these four once, so they may differ from memory. */
	uint64_t pdptrs[4];
	bool pdptrs_valid;
	uint8_t pad[7];
};

struct vcpu_debug_state {
	uint64_t db[4];
	uint64_t dr6, dr7;
};

struct vcpu_events_state {
	uint8_t exception_injected, exception_nr, exception_has_error_code, exception_pending;
	uint32_t exception_error_code;
	uint8_t interrupt_injected, interrupt_nr, interrupt_soft, interrupt_shadow;
	uint8_t nmi_injected, nmi_pending, nmi_masked, triple_fault;
	uint32_t sipi_vector;
	uint8_t smm, smi_pending, smm_inside_nmi, latched_init;
	uint64_t exception_payload;
	uint8_t exception_has_payload;
	uint8_t pad[7];
};

struct vcpu_cpuid_state {
	uint32_t leaf, sub, flags;
	uint32_t eax, ebx, ecx, edx;
};

struct kvm_vcpu_state {
	uint32_t tsc_khz;      /* 0: the host could not say */
	uint32_t mp_state;     /* KVM_MP_STATE_* */
	uint64_t tsc_deadline; /* MSR 0x6e0; guest TSC at which the local timer fires, 0: off */
	struct vcpu_regs_state regs;
	struct vcpu_sregs_state sregs;
	struct vcpu_debug_state debug;
	struct vcpu_events_state events;
	uint32_t ncpuid;
	uint32_t nmsrs;
	uint32_t nxcrs;
	uint32_t xsave_len; /* bytes */
	struct vcpu_cpuid_state cpuid[CPUID_MAX];
	uint32_t msr_index[MSRS_MAX];
	uint64_t msr_value[MSRS_MAX];
	uint32_t xcr_index[XCRS_MAX];
	uint64_t xcr_value[XCRS_MAX];
	uint8_t lapic[LAPIC_BYTES];
	uint8_t xsave[XSAVE_BYTES_MAX];
};

struct pic_state {
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll;
	uint8_t special_mask, init_state, auto_eoi, rotate_on_auto_eoi;
	uint8_t special_fully_nested_mode, init4, elcr, elcr_mask;
};

struct kvm_irqchip_state {
	struct pic_state master, slave;
	uint64_t ioapic_base;
	uint32_t ioapic_ioregsel, ioapic_id, ioapic_irr;
	uint32_t pad;
	uint64_t ioapic_redirect[IOAPIC_PINS];
};

struct pit_channel_state {
	uint32_t count; /* 1..65536 */
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch;
	uint8_t rw_mode, mode, bcd, gate;
	/* Channels 1 and 2: time since the count was loaded. KVM does not tell channel 0's. */
	uint64_t elapsed_ns;
};

struct kvm_pit_saved {
	struct pit_channel_state channel[3];
	uint32_t flags; /* KVM_PIT_FLAGS_* */
	uint32_t pad;
};

struct kvm_clock_saved {
	uint64_t clock_ns;    /* kvmclock when the vCPUs stopped */
	uint64_t realtime_ns; /* the host's wall clock at that instant */
	/* Real time that the guest's clocks were held back so far (suspends, restores that
	 * continue): a jump makes up for it too. */
	uint64_t lag_ns;
	uint32_t ncpus;
	uint32_t pad;
	uint64_t tsc[VCPUS_MAX]; /* guest TSC of each vCPU at that instant */
};

enum held {
	HELD_NO,
	HELD_LIVE,   /* by kvm_state_clock_hold */
	HELD_LOADED, /* by the commit of a loaded clock */
};

/* One vCPU's part. */
struct vcpu_part {
	struct kvm_state *all;
	struct kvm_vcpu *vcpu;        /* borrowed */
	unsigned index;               /* in kvm_state's arrays; also the part's instance */
	struct kvm_vcpu_state *state; /* owned */
	/* While held: where the local timer stood. */
	uint32_t tmcct;
	uint64_t deadline;
	uint64_t due; /* the deadline on the TSC that the release gave the guest */
};

struct kvm_state {
	struct kvm_vm *vm; /* borrowed */
	unsigned n;
	struct vcpu_part vcpu[VCPUS_MAX];
	struct kvm_irqchip_state irqchip;
	struct kvm_pit_saved pit;
	struct kvm_clock_saved clock; /* the part's state; also what is held */
	struct snap_part parts[VCPUS_MAX + 3];

	/* const after init: what this host has */
	bool has_sregs2;
	bool has_payload;
	bool has_triple_fault;
	bool has_tsc_offset;
	bool has_tsc_control;
	bool has_kvmclock_ctrl;
	uint32_t xsave_len;
	uint32_t nmsrs;
	uint32_t msrs[MSRS_MAX];

	enum held held;
	uint64_t held_mono_ns; /* HELD_LIVE: when, on the clock that KVM's PIT counts by */
	enum clock_policy policy;
	bool started;        /* the guest's time has begun: released once, or loaded */
	uint64_t stopped_ns; /* guest time that holds took away, since the start */
	uint64_t lag_ns;
};

/* kvm_state_msr.c: which MSRs there are to save, found once; reading and setting them. */
MUST_USE struct err *kvm_state_msr_find(struct kvm_state *s);
MUST_USE struct err *kvm_state_msr_fetch(const struct kvm_state *s, struct vcpu_part *p);
/* With findings (else NULL) each MSR that this host does not take is told, and the rest goes on. */
MUST_USE struct err *kvm_state_msr_commit(const struct kvm_state *s, struct vcpu_part *p,
					  const struct findings *f);
MUST_USE struct err *kvm_state_msr_get(const struct kvm_vcpu *v, uint32_t msr, uint64_t *ret);
MUST_USE struct err *kvm_state_msr_set(const struct kvm_vcpu *v, uint32_t msr, uint64_t value);

/* kvm_state_clock.c */
extern const struct snap_part_ops kvm_state_clock_ops;
/* kvm_state_irq.c */
extern const struct snap_part_ops kvm_state_irqchip_ops;
extern const struct snap_part_ops kvm_state_pit_ops;
/*
 * The PIT goes on: as loaded (its commit lets it stand), or where it was held. A periodic channel 0
 * starts afresh, without the ticks that piled up while guest time stood.
 */
MUST_USE struct err *kvm_state_pit_release(const struct kvm_state *s);
/* kvm_state_vcpu.c */
extern const struct snap_part_ops kvm_state_vcpu_ops;

#endif
