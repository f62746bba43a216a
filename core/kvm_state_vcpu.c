/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Part "vcpu", one per vCPU. Called by the take or the load while all vCPUs are parked: vCPU ioctls
 * of another thread would wait for KVM_RUN otherwise.
 *
 * Fetch order: mp_state first, because reading it makes KVM act on a pending INIT or start-up
 * message, which changes registers; events next, because without exception payloads reading them
 * moves a payload into CR2 or DR6.
 *
 * Commit order and why:
 *	CPUID		decides which bits all later calls accept
 *	TSC rate	before anything that counts in it
 *	sregs		CR4, EFER and the APIC base: the base decides between xAPIC and x2APIC
 *	LAPIC		in the mode that the base says
 *	xcrs, xsave	XCR0 says which components are live
 *	MSRs		after sregs (EFER.LME rules) and LAPIC (PV EOI)
 *	regs		clears pending exceptions, so before events
 *	debugregs, events
 *	mp_state	last: a processor that waits for start-up must not be woken by the others
 * The TSC itself and the TSC deadline wait for the clock (kvm_state_clock.c): the deadline means
 * nothing before the TSC is right.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/kvm_state_internal.h"

#ifndef KVM_VCPUEVENT_VALID_TRIPLE_FAULT
#define KVM_VCPUEVENT_VALID_TRIPLE_FAULT 0x20
#endif

_Static_assert(sizeof(struct kvm_lapic_state) == LAPIC_BYTES, "the register page has 1 KiB");
_Static_assert(KVM_MAX_XCRS == XCRS_MAX, "KVM has room for 16 XCRs");

#define L1_ECX_OSXSAVE (1u << 27)
#define L7_ECX_OSPKE (1u << 4)
/* KVM treats rates this close as the same: measurements of one host differ by that much. */
#define TSC_TOLERANCE_PPM 250u

/* An ioctl on the vCPU whose name goes into the message. */
#define VCPU_IOCTL(p, request, arg)                                                                \
	(ioctl(kvm_vcpu_fd((p)->vcpu), (request), (arg)) < 0 ? ERR_ERRNO(#request) : NULL)

/* X(member): the same name on both sides. */
#define REGS(X)                                                                                    \
	X(rax)                                                                                     \
	X(rbx)                                                                                     \
	X(rcx)                                                                                     \
	X(rdx)                                                                                     \
	X(rsi)                                                                                     \
	X(rdi) X(rsp) X(rbp) X(r8) X(r9) X(r10) X(r11) X(r12) X(r13) X(r14) X(r15) X(rip) X(rflags)
#define SEGMENT(X)                                                                                 \
	X(base)                                                                                    \
	X(limit) X(selector) X(type) X(present) X(dpl) X(db) X(s) X(l) X(g) X(avl) X(unusable)
#define SEGMENTS(X) X(cs) X(ds) X(es) X(fs) X(gs) X(ss) X(tr) X(ldt)
#define TABLES(X) X(gdt) X(idt)
#define CONTROLS(X) X(cr0) X(cr2) X(cr3) X(cr4) X(cr8) X(efer) X(apic_base)

static void segment_from_kvm(const struct kvm_segment *k, struct vcpu_segment_state *ret)
{
#define X(m) ret->m = k->m;
	SEGMENT(X)
#undef X
}

static void segment_to_kvm(const struct vcpu_segment_state *st, struct kvm_segment *ret)
{
	memset(ret, 0, sizeof(*ret));
#define X(m) ret->m = st->m;
	SEGMENT(X)
#undef X
}

static struct err *fetch_regs(struct vcpu_part *p)
{
	struct kvm_regs k;
	TRY(VCPU_IOCTL(p, KVM_GET_REGS, &k));
#define X(m) p->state->regs.m = k.m;
	REGS(X)
#undef X
	return NULL;
}

static struct err *commit_regs(struct vcpu_part *p)
{
	struct kvm_regs k;
#define X(m) k.m = p->state->regs.m;
	REGS(X)
#undef X
	return VCPU_IOCTL(p, KVM_SET_REGS, &k);
}

/* kvm_sregs and kvm_sregs2 have these members by the same names. */
#define SREGS_FROM(k, st)                                                                          \
	do {                                                                                       \
		SEGMENTS(SREGS_FROM_SEGMENT)                                                       \
		TABLES(SREGS_FROM_TABLE)                                                           \
		CONTROLS(SREGS_FROM_CONTROL)                                                       \
	} while (0)
#define SREGS_FROM_SEGMENT(m) segment_from_kvm(&k.m, &st->m);
#define SREGS_FROM_TABLE(m)                                                                        \
	st->m.base = k.m.base;                                                                     \
	st->m.limit = k.m.limit;
#define SREGS_FROM_CONTROL(m) st->m = k.m;

#define SREGS_TO(st, k)                                                                            \
	do {                                                                                       \
		SEGMENTS(SREGS_TO_SEGMENT)                                                         \
		TABLES(SREGS_TO_TABLE)                                                             \
		CONTROLS(SREGS_TO_CONTROL)                                                         \
	} while (0)
#define SREGS_TO_SEGMENT(m) segment_to_kvm(&st->m, &k.m);
#define SREGS_TO_TABLE(m)                                                                          \
	k.m.base = st->m.base;                                                                     \
	k.m.limit = st->m.limit;
#define SREGS_TO_CONTROL(m) k.m = st->m;

static struct err *fetch_sregs(struct vcpu_part *p)
{
	struct vcpu_sregs_state *st = &p->state->sregs;
	if (!p->all->has_sregs2) {
		/* Its interrupt bitmap says the same as the events do. */
		struct kvm_sregs k;
		TRY(VCPU_IOCTL(p, KVM_GET_SREGS, &k));
		SREGS_FROM(k, st);
		st->pdptrs_valid = false;
		memset(st->pdptrs, 0, sizeof(st->pdptrs));
		return NULL;
	}
	struct kvm_sregs2 k;
	memset(&k, 0, sizeof(k));
	TRY(VCPU_IOCTL(p, KVM_GET_SREGS2, &k));
	SREGS_FROM(k, st);
	st->pdptrs_valid = (k.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0;
	for (unsigned i = 0; i < 4; i++) {
		st->pdptrs[i] = st->pdptrs_valid ? k.pdptrs[i] : 0;
	}
	return NULL;
}

static struct err *commit_sregs(struct vcpu_part *p)
{
	const struct vcpu_sregs_state *st = &p->state->sregs;
	if (!p->all->has_sregs2) {
		ENSURE(!st->pdptrs_valid, ERR_INCOMPAT,
		       "the guest uses PAE paging and this host's KVM lacks KVM_SET_SREGS2: "
		       "restore it on a newer kernel");
		struct kvm_sregs k;
		memset(&k, 0, sizeof(k));
		SREGS_TO(st, k);
		return VCPU_IOCTL(p, KVM_SET_SREGS, &k);
	}
	struct kvm_sregs2 k;
	memset(&k, 0, sizeof(k));
	SREGS_TO(st, k);
	if (st->pdptrs_valid) {
		k.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		for (unsigned i = 0; i < 4; i++) {
			k.pdptrs[i] = st->pdptrs[i];
		}
	}
	return VCPU_IOCTL(p, KVM_SET_SREGS2, &k);
}

static struct kvm_cpuid2 *cpuid_alloc(void)
{
	struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + CPUID_MAX * sizeof(k->entries[0]));
	if (k != NULL) {
		k->nent = CPUID_MAX;
	}
	return k;
}

/* Bits that mirror CR4 are left out: KVM derives them anew. */
static uint32_t ecx_without_mirrors(const struct kvm_cpuid_entry2 *e)
{
	if (e->function == 1) {
		return e->ecx & ~L1_ECX_OSXSAVE;
	}
	if (e->function == 7 && e->index == 0) {
		return e->ecx & ~L7_ECX_OSPKE;
	}
	return e->ecx;
}

static struct err *fetch_cpuid(struct vcpu_part *p)
{
	SCOPE(freep) struct kvm_cpuid2 *k = cpuid_alloc();
	ENSURE(k != NULL, ERR_SYS, "CPUID: out of memory");
	TRY(VCPU_IOCTL(p, KVM_GET_CPUID2, k));
	ENSURE(k->nent <= CPUID_MAX, ERR_LIMIT, "KVM has %u CPUID entries, more than %u", k->nent,
	       CPUID_MAX);
	p->state->ncpuid = k->nent;
	for (uint32_t i = 0; i < k->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &k->entries[i];
		p->state->cpuid[i] = (struct vcpu_cpuid_state){
			.leaf = e->function,
			.sub = e->index,
			/* All other flags are of KVM's moment. */
			.flags = e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = e->eax,
			.ebx = e->ebx,
			.ecx = ecx_without_mirrors(e),
			.edx = e->edx,
		};
	}
	return NULL;
}

static void cpuid_entry(const struct vcpu_cpuid_state *c, struct kvm_cpuid_entry2 *ret)
{
	*ret = (struct kvm_cpuid_entry2){
		.function = c->leaf,
		.index = c->sub,
		.flags = c->flags,
		.eax = c->eax,
		.ebx = c->ebx,
		.ecx = c->ecx,
		.edx = c->edx,
	};
}

void kvm_state_cpuid(const void *vcpu_state, struct cpuid_table *ret_table)
{
	const struct kvm_vcpu_state *st = vcpu_state;
	memset(ret_table, 0, sizeof(*ret_table));
	ret_table->n = MIN(st->ncpuid, (uint32_t)CPUID_MAX);
	for (uint32_t i = 0; i < ret_table->n; i++) {
		cpuid_entry(&st->cpuid[i], &ret_table->e[i]);
	}
}

uint64_t kvm_state_xcr0_used(const struct kvm_state *s)
{
	uint64_t used = 0;
	for (unsigned i = 0; i < s->n; i++) {
		const struct kvm_vcpu_state *st = s->vcpu[i].state;
		for (uint32_t k = 0; k < st->ncpuid; k++) {
			const struct vcpu_cpuid_state *c = &st->cpuid[k];
			if (c->leaf == 0xd && c->sub == 0) { /* SDM 2A, CPUID: EDX:EAX */
				used |= c->eax | (uint64_t)c->edx << 32;
			}
		}
		for (uint32_t k = 0; k < st->nxcrs; k++) {
			used |= st->xcr_index[k] == 0 ? st->xcr_value[k] : 0;
		}
	}
	return used;
}

/* With findings: all that is lacking is told, and the rest goes on. */
static struct err *check_cpuid(const struct vcpu_part *p, const struct findings *f)
{
	SCOPE(freep) struct cpuid_table *t = malloc(sizeof(*t));
	ENSURE(t != NULL, ERR_SYS, "CPUID: out of memory");
	kvm_state_cpuid(p->state, t);
	int kvm = kvm_vm_kvm(p->all->vm);
	return f != NULL ? cpuid_check_all(kvm, t, f) : cpuid_check(kvm, t);
}

static struct err *set_cpuid(struct vcpu_part *p)
{
	const struct kvm_vcpu_state *st = p->state;
	SCOPE(freep) struct kvm_cpuid2 *k = cpuid_alloc();
	ENSURE(k != NULL, ERR_SYS, "CPUID: out of memory");
	k->nent = st->ncpuid;
	for (uint32_t i = 0; i < st->ncpuid; i++) {
		cpuid_entry(&st->cpuid[i], &k->entries[i]);
	}
	return VCPU_IOCTL(p, KVM_SET_CPUID2, k);
}

static struct err *commit_cpuid(struct vcpu_part *p)
{
	/* All vCPUs show the same features: the first is checked against the host. */
	if (p->index == 0) {
		TRY(check_cpuid(p, NULL));
	}
	return set_cpuid(p);
}

/* -EIO: the host's TSC is unstable, and its rate means nothing. */
static uint32_t tsc_khz(const struct vcpu_part *p)
{
	int khz = ioctl(kvm_vcpu_fd(p->vcpu), KVM_GET_TSC_KHZ, 0);
	return khz > 0 ? (uint32_t)khz : 0;
}

static struct err *commit_tsc_khz(struct vcpu_part *p)
{
	uint32_t want = p->state->tsc_khz;
	uint32_t have = tsc_khz(p);
	if (want == 0 || want == have) {
		return NULL;
	}
	if (p->all->has_tsc_control) {
		struct err *e = VCPU_IOCTL(p, KVM_SET_TSC_KHZ, (unsigned long)want);
		return err_wrap(e, "TSC of %u kHz", want);
	}
	uint64_t diff = want > have ? want - have : have - want;
	ENSURE(diff * 1000000 <= (uint64_t)want * TSC_TOLERANCE_PPM, ERR_INCOMPAT,
	       "the guest's TSC counts %u kHz, this host's %u kHz, and its KVM cannot scale it "
	       "(no KVM_CAP_TSC_CONTROL): restore it on a host with that rate or with scaling",
	       want, have);
	return NULL;
}

/*
 * A one-shot timer that is over, its interrupt delivered: with an initial count KVM_SET_LAPIC would
 * let it expire again. The guest reads 0 there after a restore.
 */
static void drop_expired(struct vcpu_part *p)
{
	uint8_t *regs = p->state->lapic;
	uint32_t left = p->all->held != HELD_NO ? p->tmcct : get_le32(regs + LAPIC_TMCCT);
	if (left == 0 && (get_le32(regs + LAPIC_LVTT) >> 17 & 3) == 0) {
		put_le32(regs + LAPIC_TMICT, 0);
	}
}

/*
 * The processor priority follows from task priority and what is in service (SDM 3A 11.8.3.1). KVM
 * works it out when it is read or used; what stands in the page may be old.
 */
static void refresh_ppr(uint8_t *regs)
{
	uint32_t tpr = get_le32(regs + LAPIC_TPR) & 0xff;
	uint32_t in_service = 0;
	for (uint32_t vec = 255; vec > 15 && in_service == 0; vec--) {
		if ((get_le32(regs + LAPIC_ISR + vec / 32 * 16) >> (vec % 32) & 1) != 0) {
			in_service = vec & 0xf0;
		}
	}
	put_le32(regs + LAPIC_PPR, (tpr & 0xf0) >= in_service ? tpr : in_service);
}

static struct err *fetch_lapic(struct vcpu_part *p)
{
	struct kvm_lapic_state k;
	TRY(VCPU_IOCTL(p, KVM_GET_LAPIC, &k));
	memcpy(p->state->lapic, k.regs, LAPIC_BYTES);
	drop_expired(p);
	refresh_ppr(p->state->lapic);
	if (p->all->held != HELD_NO) {
		/* KVM's timer has run on since guest time stopped. */
		memcpy(p->state->lapic + LAPIC_TMCCT, &p->tmcct, sizeof(p->tmcct));
		p->state->tsc_deadline = p->deadline;
		return NULL;
	}
	p->state->tsc_deadline = 0;
	struct err *e = kvm_state_msr_get(p->vcpu, MSR_TSC_DEADLINE, &p->state->tsc_deadline);
	if (e != NULL && err_class(e) == ERR_INCOMPAT) {
		err_drop(e, "a host without the TSC-deadline timer: none can be armed");
		e = NULL;
	}
	return e;
}

static struct err *commit_lapic(struct vcpu_part *p)
{
	struct kvm_lapic_state k;
	memcpy(k.regs, p->state->lapic, LAPIC_BYTES);
	TRY(VCPU_IOCTL(p, KVM_SET_LAPIC, &k));
	memcpy(&p->tmcct, p->state->lapic + LAPIC_TMCCT, sizeof(p->tmcct));
	p->deadline = p->state->tsc_deadline;
	return NULL;
}

static struct err *fetch_xstate(struct vcpu_part *p)
{
	struct kvm_vcpu_state *st = p->state;
	struct kvm_xcrs k;
	memset(&k, 0, sizeof(k));
	TRY(VCPU_IOCTL(p, KVM_GET_XCRS, &k));
	ENSURE(k.nr_xcrs <= XCRS_MAX, ERR_LIMIT, "KVM has %u XCRs, more than %u", k.nr_xcrs,
	       XCRS_MAX);
	st->nxcrs = k.nr_xcrs;
	for (uint32_t i = 0; i < k.nr_xcrs; i++) {
		st->xcr_index[i] = k.xcrs[i].xcr;
		st->xcr_value[i] = k.xcrs[i].value;
	}
	st->xsave_len = p->all->xsave_len;
	if (st->xsave_len > sizeof(struct kvm_xsave)) {
		return VCPU_IOCTL(p, KVM_GET_XSAVE2, st->xsave);
	}
	return VCPU_IOCTL(p, KVM_GET_XSAVE, st->xsave);
}

/* XSTATE_BV of the XSAVE header (SDM 1, 13.4.2). */
static uint64_t xstate_bv(const struct kvm_vcpu_state *st)
{
	uint64_t bv;
	memcpy(&bv, st->xsave + 512, sizeof(bv));
	return bv;
}

static struct err *commit_xstate(struct vcpu_part *p)
{
	struct kvm_vcpu_state *st = p->state;
	uint32_t host_len = p->all->xsave_len;
	struct kvm_xcrs k;
	memset(&k, 0, sizeof(k));
	k.nr_xcrs = st->nxcrs;
	for (uint32_t i = 0; i < st->nxcrs; i++) {
		k.xcrs[i].xcr = st->xcr_index[i];
		k.xcrs[i].value = st->xcr_value[i];
	}
	TRY(VCPU_IOCTL(p, KVM_SET_XCRS, &k));
	for (uint32_t i = host_len; i < st->xsave_len; i++) {
		ENSURE(st->xsave[i] == 0, ERR_INCOMPAT,
		       "the guest has live vector state (components 0x%llx) beyond the %u bytes "
		       "that this host saves",
		       (unsigned long long)xstate_bv(st), host_len);
	}
	if (st->xsave_len < host_len) {
		memset(st->xsave + st->xsave_len, 0, host_len - st->xsave_len);
	}
	struct err *e = VCPU_IOCTL(p, KVM_SET_XSAVE, st->xsave);
	if (e != NULL && err_errno(e) == EINVAL) {
		e = err_reclass(e, ERR_INCOMPAT);
	}
	return err_wrap(e, "vector state components 0x%llx", (unsigned long long)xstate_bv(st));
}

static struct err *fetch_debug(struct vcpu_part *p)
{
	struct kvm_debugregs k;
	memset(&k, 0, sizeof(k));
	TRY(VCPU_IOCTL(p, KVM_GET_DEBUGREGS, &k));
	for (unsigned i = 0; i < 4; i++) {
		p->state->debug.db[i] = k.db[i];
	}
	p->state->debug.dr6 = k.dr6;
	p->state->debug.dr7 = k.dr7;
	return NULL;
}

static struct err *commit_debug(struct vcpu_part *p)
{
	struct kvm_debugregs k;
	memset(&k, 0, sizeof(k));
	for (unsigned i = 0; i < 4; i++) {
		k.db[i] = p->state->debug.db[i];
	}
	k.dr6 = p->state->debug.dr6;
	k.dr7 = p->state->debug.dr7;
	return VCPU_IOCTL(p, KVM_SET_DEBUGREGS, &k);
}

#define EVENTS(X)                                                                                  \
	X(exception_injected, exception.injected)                                                  \
	X(exception_nr, exception.nr)                                                              \
	X(exception_has_error_code, exception.has_error_code)                                      \
	X(exception_pending, exception.pending)                                                    \
	X(exception_error_code, exception.error_code)                                              \
	X(interrupt_injected, interrupt.injected)                                                  \
	X(interrupt_nr, interrupt.nr)                                                              \
	X(interrupt_soft, interrupt.soft)                                                          \
	X(interrupt_shadow, interrupt.shadow)                                                      \
	X(nmi_injected, nmi.injected)                                                              \
	X(nmi_pending, nmi.pending)                                                                \
	X(nmi_masked, nmi.masked)                                                                  \
	X(sipi_vector, sipi_vector)                                                                \
	X(smm, smi.smm)                                                                            \
	X(smi_pending, smi.pending)                                                                \
	X(smm_inside_nmi, smi.smm_inside_nmi)                                                      \
	X(latched_init, smi.latched_init)                                                          \
	X(exception_has_payload, exception_has_payload) X(exception_payload, exception_payload)

static struct err *fetch_events(struct vcpu_part *p)
{
	struct kvm_vcpu_events k;
	memset(&k, 0, sizeof(k));
	TRY(VCPU_IOCTL(p, KVM_GET_VCPU_EVENTS, &k));
	struct vcpu_events_state *st = &p->state->events;
#define X(ours, theirs) st->ours = k.theirs;
	EVENTS(X)
#undef X
	st->triple_fault = 0;
	if ((k.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0) {
		st->triple_fault = k.triple_fault.pending;
	}
	return NULL;
}

static struct err *commit_events(struct vcpu_part *p)
{
	const struct kvm_state *s = p->all;
	const struct vcpu_events_state *st = &p->state->events;
	struct kvm_vcpu_events k;
	memset(&k, 0, sizeof(k));
#define X(ours, theirs) k.theirs = st->ours;
	EVENTS(X)
#undef X
	k.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
		  KVM_VCPUEVENT_VALID_SMM;
	if (p->state->mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		k.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	}
	if (s->has_payload) {
		k.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
	} else {
		ENSURE(st->exception_pending == 0 && st->exception_has_payload == 0, ERR_INCOMPAT,
		       "an exception with payload is pending and this host's KVM lacks "
		       "EXCEPTION_PAYLOAD: restore it on a newer kernel");
	}
	if (s->has_triple_fault) {
		k.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		k.triple_fault.pending = st->triple_fault;
	} else {
		ENSURE(st->triple_fault == 0, ERR_INCOMPAT,
		       "a triple fault is pending and this host's KVM lacks "
		       "X86_TRIPLE_FAULT_EVENT: restore it on a newer kernel");
	}
	return VCPU_IOCTL(p, KVM_SET_VCPU_EVENTS, &k);
}

static struct err *fetch_mp_state(struct vcpu_part *p)
{
	struct kvm_mp_state k;
	TRY(VCPU_IOCTL(p, KVM_GET_MP_STATE, &k));
	p->state->mp_state = k.mp_state;
	return NULL;
}

static struct err *commit_mp_state(struct vcpu_part *p)
{
	struct kvm_mp_state k = { .mp_state = p->state->mp_state };
	struct err *e = VCPU_IOCTL(p, KVM_SET_MP_STATE, &k);
	return err_wrap(e, "state %u", k.mp_state);
}

static struct err *fetch_msrs(struct vcpu_part *p)
{
	return kvm_state_msr_fetch(p->all, p);
}

static struct err *commit_msrs(struct vcpu_part *p)
{
	return kvm_state_msr_commit(p->all, p, NULL);
}

static struct err *run_steps(struct vcpu_part *p, struct err *(*const *steps)(struct vcpu_part *),
			     size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct err *e = steps[i](p);
		if (e != NULL) {
			return err_wrap(e, "vCPU %u", p->index);
		}
	}
	return NULL;
}

static struct err *vcpu_fetch(void *self)
{
	static struct err *(*const steps[])(struct vcpu_part *) = {
		fetch_mp_state, fetch_events, fetch_regs,   fetch_sregs, fetch_debug,
		fetch_cpuid,    fetch_lapic,  fetch_xstate, fetch_msrs,
	};
	struct vcpu_part *p = self;
	p->state->tsc_khz = tsc_khz(p);
	return run_steps(p, steps, ARRAY_LEN(steps));
}

/* What follows the CPUID, in order. */
static struct err *(*const commit_steps[])(struct vcpu_part *) = {
	commit_tsc_khz, commit_sregs, commit_lapic,  commit_xstate,   commit_msrs,
	commit_regs,    commit_debug, commit_events, commit_mp_state,
};

static struct err *vcpu_commit(void *self)
{
	struct vcpu_part *p = self;
	TRY(err_wrap(commit_cpuid(p), "vCPU %u", p->index));
	return run_steps(p, commit_steps, ARRAY_LEN(commit_steps));
}

static const char *step_area(struct err *(*step)(struct vcpu_part *))
{
	return step == commit_tsc_khz ? "clock" : step == commit_msrs ? "msr" : "cpu";
}

/* On a vCPU that never runs, KVM itself is asked: each step is tried, whatever the others said. */
static void vcpu_probe(void *self, const struct findings *f)
{
	struct vcpu_part *p = self;
	if (p->index == 0) {
		finding(f, "cpu", check_cpuid(p, f));
	}
	finding(f, "cpu", err_wrap(set_cpuid(p), "vCPU %u", p->index));
	for (size_t i = 0; i < ARRAY_LEN(commit_steps); i++) {
		if (commit_steps[i] == commit_tsc_khz && !p->all->has_tsc_control) {
			continue; /* snapshot/compat.c tells */
		}
		struct err *e = commit_steps[i] == commit_msrs ? kvm_state_msr_commit(p->all, p, f)
							       : commit_steps[i](p);
		finding(f, step_area(commit_steps[i]), err_wrap(e, "vCPU %u", p->index));
	}
}

const struct snap_part_ops kvm_state_vcpu_ops = {
	.fetch = vcpu_fetch,
	.commit = vcpu_commit,
	.probe = vcpu_probe,
};
