/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field tables of KVM's parts: the wire form of kvm_state_internal.h's structs. Tags are never
 * reused. No I/O, any thread.
 */
#include <linux/kvm.h>

#include "core/kvm_state_internal.h"

#define R(tag, m) FIELD(struct vcpu_regs_state, tag, m)
static const struct state_field regs_fields[] = {
	R(1, rax),  R(2, rbx),  R(3, rcx),  R(4, rdx),  R(5, rsi),  R(6, rdi),
	R(7, rsp),  R(8, rbp),  R(9, r8),   R(10, r9),  R(11, r10), R(12, r11),
	R(13, r12), R(14, r13), R(15, r14), R(16, r15), R(17, rip), R(18, rflags),
};
static const struct state_desc regs_desc = {
	"regs", 1, 1, sizeof(struct vcpu_regs_state), regs_fields, ARRAY_LEN(regs_fields), NULL,
};

#define S(tag, m, ...) FIELD(struct vcpu_segment_state, tag, m, __VA_ARGS__)
static const struct state_field segment_fields[] = {
	S(1, base),
	S(2, limit),
	S(3, selector),
	S(4, type, FIELD_RANGE(0, 15)),
	S(5, present, FIELD_RANGE(0, 1)),
	S(6, dpl, FIELD_RANGE(0, 3)),
	S(7, db, FIELD_RANGE(0, 1)),
	S(8, s, FIELD_RANGE(0, 1)),
	S(9, l, FIELD_RANGE(0, 1)),
	S(10, g, FIELD_RANGE(0, 1)),
	S(11, avl, FIELD_RANGE(0, 1)),
	S(12, unusable, FIELD_RANGE(0, 1)),
	PAD(struct vcpu_segment_state, pad),
};
static const struct state_desc segment_desc = {
	"segment",
	1,
	1,
	sizeof(struct vcpu_segment_state),
	segment_fields,
	ARRAY_LEN(segment_fields),
	NULL,
};

static const struct state_field table_fields[] = {
	FIELD(struct vcpu_table_state, 1, base),
	FIELD(struct vcpu_table_state, 2, limit),
	PAD(struct vcpu_table_state, pad),
};
static const struct state_desc table_desc = {
	"table", 1, 1, sizeof(struct vcpu_table_state), table_fields, ARRAY_LEN(table_fields), NULL,
};

#define SR(tag, m) FIELD(struct vcpu_sregs_state, tag, m)
#define SEG(tag, m) FIELD_SUB(struct vcpu_sregs_state, tag, m, &segment_desc)
static const struct state_field sregs_fields[] = {
	SEG(1, cs),
	SEG(2, ds),
	SEG(3, es),
	SEG(4, fs),
	SEG(5, gs),
	SEG(6, ss),
	SEG(7, tr),
	SEG(8, ldt),
	FIELD_SUB(struct vcpu_sregs_state, 9, gdt, &table_desc),
	FIELD_SUB(struct vcpu_sregs_state, 10, idt, &table_desc),
	SR(11, cr0),
	SR(12, cr2),
	SR(13, cr3),
	SR(14, cr4),
	SR(15, cr8),
	SR(16, efer),
	SR(17, apic_base),
	FIELD_ARR(struct vcpu_sregs_state, 18, pdptrs),
	SR(19, pdptrs_valid),
	PAD(struct vcpu_sregs_state, pad),
};
static const struct state_desc sregs_desc = {
	"sregs", 1, 1, sizeof(struct vcpu_sregs_state), sregs_fields, ARRAY_LEN(sregs_fields), NULL,
};

static const struct state_field debug_fields[] = {
	FIELD_ARR(struct vcpu_debug_state, 1, db),
	FIELD(struct vcpu_debug_state, 2, dr6),
	FIELD(struct vcpu_debug_state, 3, dr7),
};
static const struct state_desc debug_desc = {
	"debug", 1, 1, sizeof(struct vcpu_debug_state), debug_fields, ARRAY_LEN(debug_fields), NULL,
};

#define E(tag, m, ...) FIELD(struct vcpu_events_state, tag, m, __VA_ARGS__)
static const struct state_field events_fields[] = {
	E(1, exception_injected, FIELD_RANGE(0, 1)),
	E(2, exception_nr, FIELD_RANGE(0, 31)),
	E(3, exception_has_error_code, FIELD_RANGE(0, 1)),
	E(4, exception_pending, FIELD_RANGE(0, 1)),
	E(5, exception_error_code),
	E(6, interrupt_injected, FIELD_RANGE(0, 1)),
	E(7, interrupt_nr),
	E(8, interrupt_soft, FIELD_RANGE(0, 1)),
	E(9, interrupt_shadow, FIELD_RANGE(0, 3)),
	E(10, nmi_injected, FIELD_RANGE(0, 1)),
	E(11, nmi_pending),
	E(12, nmi_masked, FIELD_RANGE(0, 1)),
	E(13, triple_fault, FIELD_RANGE(0, 1)),
	E(14, sipi_vector, FIELD_RANGE(0, 255)),
	E(15, smm, FIELD_RANGE(0, 1)),
	E(16, smi_pending, FIELD_RANGE(0, 1)),
	E(17, smm_inside_nmi, FIELD_RANGE(0, 1)),
	E(18, latched_init, FIELD_RANGE(0, 1)),
	E(19, exception_payload),
	E(20, exception_has_payload, FIELD_RANGE(0, 1)),
	PAD(struct vcpu_events_state, pad),
};
static const struct state_desc events_desc = {
	"events", 1, 1, sizeof(struct vcpu_events_state), events_fields, ARRAY_LEN(events_fields),
	NULL,
};

#define C(tag, m) FIELD(struct vcpu_cpuid_state, tag, m)
static const struct state_field cpuid_fields[] = {
	C(1, leaf), C(2, sub), C(3, flags), C(4, eax), C(5, ebx), C(6, ecx), C(7, edx),
};
static const struct state_desc cpuid_desc = {
	"cpuid", 1, 1, sizeof(struct vcpu_cpuid_state), cpuid_fields, ARRAY_LEN(cpuid_fields), NULL,
};

#define V(tag, m, ...) FIELD(struct kvm_vcpu_state, tag, m, __VA_ARGS__)
static const struct state_field vcpu_fields[] = {
	V(1, tsc_khz),
	V(2, mp_state, FIELD_RANGE(KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED)),
	V(3, tsc_deadline),
	FIELD_SUB(struct kvm_vcpu_state, 4, regs, &regs_desc),
	FIELD_SUB(struct kvm_vcpu_state, 5, sregs, &sregs_desc),
	FIELD_SUB(struct kvm_vcpu_state, 6, debug, &debug_desc),
	FIELD_SUB(struct kvm_vcpu_state, 7, events, &events_desc),
	V(8, ncpuid, FIELD_RANGE(1, CPUID_MAX)),
	V(9, nmsrs, FIELD_RANGE(0, MSRS_MAX)),
	V(10, nxcrs, FIELD_RANGE(0, XCRS_MAX)),
	V(11, xsave_len, FIELD_RANGE(576, XSAVE_BYTES_MAX)),
	FIELD_VSUBS(struct kvm_vcpu_state, 12, cpuid, ncpuid, &cpuid_desc),
	FIELD_VARR(struct kvm_vcpu_state, 13, msr_index, nmsrs),
	FIELD_VARR(struct kvm_vcpu_state, 14, msr_value, nmsrs),
	FIELD_VARR(struct kvm_vcpu_state, 15, xcr_index, nxcrs),
	FIELD_VARR(struct kvm_vcpu_state, 16, xcr_value, nxcrs),
	FIELD_BLOB(struct kvm_vcpu_state, 17, lapic),
	FIELD_VBLOB(struct kvm_vcpu_state, 18, xsave, xsave_len),
};

/* The TSC belongs to the clock part and the deadline has a field: set twice they would differ. */
static struct err *vcpu_check(const void *state)
{
	const struct kvm_vcpu_state *s = state;
	for (uint32_t i = 0; i < s->nmsrs; i++) {
		ENSURE(s->msr_index[i] != MSR_TSC && s->msr_index[i] != MSR_TSC_DEADLINE,
		       ERR_CORRUPT, "vcpu: MSR 0x%x does not belong in the list of MSRs",
		       s->msr_index[i]);
		ENSURE(i == 0 || s->msr_index[i] > s->msr_index[i - 1], ERR_CORRUPT,
		       "vcpu: MSR 0x%x is out of order", s->msr_index[i]);
	}
	return NULL;
}

const struct state_desc kvm_vcpu_desc = {
	"vcpu",     1, 1, sizeof(struct kvm_vcpu_state), vcpu_fields, ARRAY_LEN(vcpu_fields),
	vcpu_check,
};

#define P(tag, m, ...) FIELD(struct pic_state, tag, m, __VA_ARGS__)
static const struct state_field pic_fields[] = {
	P(1, last_irr),
	P(2, irr),
	P(3, imr),
	P(4, isr),
	P(5, priority_add),
	P(6, irq_base),
	P(7, read_reg_select),
	P(8, poll),
	P(9, special_mask),
	P(10, init_state),
	P(11, auto_eoi),
	P(12, rotate_on_auto_eoi),
	P(13, special_fully_nested_mode),
	P(14, init4),
	P(15, elcr),
	P(16, elcr_mask),
};
static const struct state_desc pic_desc = {
	"pic", 1, 1, sizeof(struct pic_state), pic_fields, ARRAY_LEN(pic_fields), NULL,
};

#define I(tag, m) FIELD(struct kvm_irqchip_state, tag, m)
static const struct state_field irqchip_fields[] = {
	FIELD_SUB(struct kvm_irqchip_state, 1, master, &pic_desc),
	FIELD_SUB(struct kvm_irqchip_state, 2, slave, &pic_desc),
	I(3, ioapic_base),
	I(4, ioapic_ioregsel),
	I(5, ioapic_id),
	I(6, ioapic_irr),
	PAD(struct kvm_irqchip_state, pad),
	FIELD_ARR(struct kvm_irqchip_state, 7, ioapic_redirect),
};
const struct state_desc kvm_irqchip_desc = {
	"irqchip",
	1,
	1,
	sizeof(struct kvm_irqchip_state),
	irqchip_fields,
	ARRAY_LEN(irqchip_fields),
	NULL,
};

#define T(tag, m, ...) FIELD(struct pit_channel_state, tag, m, __VA_ARGS__)
static const struct state_field pit_channel_fields[] = {
	T(1, count, FIELD_RANGE(0, 0x10000)),
	T(2, latched_count),
	T(3, count_latched),
	T(4, status_latched),
	T(5, status),
	T(6, read_state),
	T(7, write_state),
	T(8, write_latch),
	T(9, rw_mode),
	T(10, mode),
	T(11, bcd),
	T(12, gate),
	T(13, elapsed_ns, .since = 2, FIELD_RANGE(0, 1ull << 62)),
};
static const struct state_desc pit_channel_desc = {
	"channel",
	2,
	1,
	sizeof(struct pit_channel_state),
	pit_channel_fields,
	ARRAY_LEN(pit_channel_fields),
	NULL,
};
static const struct state_field pit_fields[] = {
	FIELD_SUBS(struct kvm_pit_saved, 1, channel, &pit_channel_desc),
	FIELD(struct kvm_pit_saved, 2, flags),
	PAD(struct kvm_pit_saved, pad),
};
const struct state_desc kvm_pit_desc = {
	"pit", 1, 1, sizeof(struct kvm_pit_saved), pit_fields, ARRAY_LEN(pit_fields), NULL,
};

#define K(tag, m, ...) FIELD(struct kvm_clock_saved, tag, m, __VA_ARGS__)
/* Times: far below where sums of two could wrap (2^62 ns is 146 years). */
#define TIME_MAX (1ull << 62)
static const struct state_field clock_fields[] = {
	K(1, clock_ns, FIELD_RANGE(0, TIME_MAX)), K(2, realtime_ns, FIELD_RANGE(0, TIME_MAX)),
	K(3, lag_ns, FIELD_RANGE(0, TIME_MAX)),   K(4, ncpus, FIELD_RANGE(1, VCPUS_MAX)),
	PAD(struct kvm_clock_saved, pad),         FIELD_VARR(struct kvm_clock_saved, 5, tsc, ncpus),
};
const struct state_desc kvm_clock_desc = {
	"clock", 1, 1, sizeof(struct kvm_clock_saved), clock_fields, ARRAY_LEN(clock_fields), NULL,
};
