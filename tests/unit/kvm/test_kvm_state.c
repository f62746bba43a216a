/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved KVM state: tables, a round trip of odd values through the wire form into a fresh VM, a
 * guest that runs on in another VM, clocks, and refusals.
 *
 * Fields that move by themselves, and what is done about each:
 *  - TSC, kvmclock, local timer counts: held by kvm_state_clock_hold, so both sides are exact.
 *  - kvm_clock's realtime: part of what was held, so equal too.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/base/clock.h"
#include "core/kvm_state_internal.h"
#include "tests/lib/found.h"

enum { CODE = 0x100000, COUNTER = 0x200000, NVCPUS = 2 };

static struct fd kvm = { -1 };

static void ok(struct err *e)
{
	if (e != NULL) {
		fail_msg("%s (%s)", err_msg(e), err_trace_text(e));
	}
}

static void expect(struct err *e, enum err_class class, const char *part)
{
	assert_non_null(e);
	if (err_class(e) != class || strstr(err_msg(e), part) == NULL) {
		fail_msg("%s error \"%s\" does not name %s", err_class_name(err_class(e)),
			 err_msg(e), part);
	}
	err_free(e);
}

struct rig {
	struct gmem *g;
	struct kvm_vm *vm;
	struct kvm_vcpu *v[NVCPUS];
	struct kvm_state *s;
};

static void rig_up(struct rig *r)
{
	struct cpuid_table t;
	ok(gmem_new(GMEM_MIN_BYTES, &r->g));
	ok(kvm_vm_new(kvm.n, r->g, &r->vm));
	ok(cpuid_make(kvm.n, "host", NVCPUS, &t));
	for (unsigned i = 0; i < NVCPUS; i++) {
		ok(kvm_vcpu_new(r->vm, i, &t, &r->v[i]));
	}
	ok(kvm_state_new(r->vm, r->v, NVCPUS, &r->s));
}

static void rig_down(struct rig *r)
{
	kvm_state_free(r->s);
	for (unsigned i = 0; i < NVCPUS; i++) {
		kvm_vcpu_free(r->v[i]);
	}
	kvm_vm_free(r->vm);
	gmem_free(r->g);
}

static void fetch_all(struct rig *r)
{
	ok(kvm_state_clock_hold(r->s));
	for (unsigned i = 0; i < kvm_state_nparts(r->s); i++) {
		struct snap_part *p = kvm_state_part(r->s, i);
		ok(p->ops->fetch(p->self));
	}
}

/* In commit rank, as the engine does. */
static struct err *commit_all(struct rig *r)
{
	int done = -1;
	for (;;) {
		int next = INT32_MAX;
		for (unsigned i = 0; i < kvm_state_nparts(r->s); i++) {
			int rank = kvm_state_part(r->s, i)->commit_rank;
			if (rank > done && rank < next) {
				next = rank;
			}
		}
		if (next == INT32_MAX) {
			return NULL;
		}
		for (unsigned i = 0; i < kvm_state_nparts(r->s); i++) {
			struct snap_part *p = kvm_state_part(r->s, i);
			if (p->commit_rank == next) {
				TRY(p->ops->commit(p->self));
			}
		}
		done = next;
	}
}

/* From one VM to another through the wire form. */
static void carry(struct rig *from, struct rig *to)
{
	for (unsigned i = 0; i < kvm_state_nparts(from->s); i++) {
		struct snap_part *a = kvm_state_part(from->s, i);
		struct snap_part *b = kvm_state_part(to->s, i);
		struct wbuf w = wbuf_make(PART_BYTES_MAX);
		ok(desc_encode(a->desc, a->instance, a->state, &w));
		ok(wbuf_check(&w));
		memset(b->state, 0xee, b->desc->size);
		ok(desc_decode(b->desc, b->instance, w.p, w.len, b->state));
		wbuf_done(&w);
	}
}

static void carry_memory(struct rig *from, struct rig *to)
{
	struct gmem_region a = gmem_region(from->g, 0);
	ok(gmem_place(to->g, (gfn_t){ 0 }, a.host, a.len_bytes / PAGE_BYTES));
}

static void test_tables(void **state)
{
	(void)state;
	ok(desc_check_coverage(&kvm_vcpu_desc));
	ok(desc_check_coverage(&kvm_irqchip_desc));
	ok(desc_check_coverage(&kvm_pit_desc));
	ok(desc_check_coverage(&kvm_clock_desc));
}

static bool has_msr(const struct kvm_state *s, uint32_t msr)
{
	for (uint32_t i = 0; i < s->nmsrs; i++) {
		if (s->msrs[i] == msr) {
			return true;
		}
	}
	return false;
}

static void test_msr_list(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r);
	static const uint32_t must[] = {
		0x277,      0x2ff,      0x200,      0x20f,      0x250,      0x26f,      0x1a0,
		0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0xc0000081, 0xc0000102,
	};
	for (size_t i = 0; i < ARRAY_LEN(must); i++) {
		if (!has_msr(r.s, must[i])) {
			fail_msg("MSR 0x%x is not saved", must[i]);
		}
	}
	assert_false(has_msr(r.s, MSR_TSC));
	assert_false(has_msr(r.s, MSR_TSC_DEADLINE));
	rig_down(&r);
}

/* MSRs that other monitors forgot, by the bug's number in docs/known-bugs.md. Each that this host's
 * KVM reads must be in the list; one with a value must arrive in another VM with it. */
static void test_known_msrs(void **state)
{
	(void)state;
	static const struct {
		unsigned bug;
		uint32_t msr;
		uint64_t value; /* 0: only the list is looked at */
	} known[] = {
		{ 5, 0x4b564d06, 0xec }, /* async page faults: vector, before they are enabled */
		{ 5, 0x4b564d02, 0x300000 | 1 | 8 }, /* place, enabled, by interrupt */
		{ 5, 0x4b564d07, 0 },                /* and its acknowledgement */
		{ 6, 0xda0, 0 },
		{ 6, 0x6a0, 0 },
		{ 6, 0x6a2, 0 },
		{ 6, 0x6a4, 0 },
		{ 6, 0x6a5, 0 },
		{ 6, 0x6a6, 0 },
		{ 6, 0x6a7, 0 },
		{ 6, 0x6a8, 0 },
		{ 7, 0x200, 0xc0000000 },
		{ 7, 0x201, 0xfc0000800 },
		{ 7, 0x20e, 0xfeb00006 },
		{ 7, 0x20f, 0xffff00800 },
	};
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		uint64_t v;
		struct err *e = kvm_state_msr_get(a.v[0], known[i].msr, &v);
		if (e != NULL) {
			print_message("bug %u: no MSR 0x%x on this host\n", known[i].bug,
				      known[i].msr);
			err_drop(e, "nothing to lose then");
			continue;
		}
		if (!has_msr(a.s, known[i].msr)) {
			fail_msg("bug %u: MSR 0x%x is not saved", known[i].bug, known[i].msr);
		}
		if (known[i].value != 0) {
			ok(kvm_state_msr_set(a.v[0], known[i].msr, known[i].value));
		}
	}
	fetch_all(&a);
	carry(&a, &b);
	ok(commit_all(&b));
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		uint64_t v = 0;
		if (known[i].value == 0 || !has_msr(a.s, known[i].msr)) {
			continue;
		}
		ok(kvm_state_msr_get(b.v[0], known[i].msr, &v));
		if (v != known[i].value) {
			fail_msg("bug %u: MSR 0x%x was 0x%llx, is 0x%llx", known[i].bug,
				 known[i].msr, (unsigned long long)known[i].value,
				 (unsigned long long)v);
		}
	}
	rig_down(&a);
	rig_down(&b);
}

static void odd_regs(struct kvm_vcpu *v, uint64_t seed)
{
	int fd = kvm_vcpu_fd(v);
	struct kvm_regs r;
	uint64_t *p = (uint64_t *)(void *)&r;
	for (size_t i = 0; i < sizeof(r) / 8; i++) {
		p[i] = (seed + i) * 0x9e3779b97f4a7c15ull;
	}
	r.rip = 0x100000 + seed;
	r.rflags = 0x202 | 1u << 6;
	assert_int_equal(ioctl(fd, KVM_SET_REGS, &r), 0);
	struct kvm_sregs s;
	assert_int_equal(ioctl(fd, KVM_GET_SREGS, &s), 0);
	s.cr2 = 0x123456000 + seed;
	s.fs.base = 0x7f0000000000 + seed;
	s.gs.base = 0x1000 * seed;
	s.gdt.base = 0x5000 + seed;
	s.gdt.limit = 0x7f;
	s.idt.base = 0x6000 + seed;
	s.idt.limit = 0xfff;
	s.cr4 |= 1u << 18; /* OSXSAVE, else XCR0 does not count */
	assert_int_equal(ioctl(fd, KVM_SET_SREGS, &s), 0);
	struct kvm_debugregs d;
	memset(&d, 0, sizeof(d));
	d.db[0] = 0x1000 + seed;
	d.db[3] = 0x4000 + seed;
	d.dr6 = 0xffff0ff1;
	d.dr7 = 0x400;
	assert_int_equal(ioctl(fd, KVM_SET_DEBUGREGS, &d), 0);
}

static void odd_xstate(struct kvm_vcpu *v, uint8_t seed)
{
	int fd = kvm_vcpu_fd(v);
	struct kvm_xcrs x;
	assert_int_equal(ioctl(fd, KVM_GET_XCRS, &x), 0);
	x.xcrs[0].value = 7; /* x87, SSE, AVX */
	if (ioctl(fd, KVM_SET_XCRS, &x) != 0) {
		x.xcrs[0].value = 3;
		assert_int_equal(ioctl(fd, KVM_SET_XCRS, &x), 0);
	}
	struct kvm_xsave s;
	assert_int_equal(ioctl(fd, KVM_GET_XSAVE, &s), 0);
	uint8_t *b = (uint8_t *)s.region;
	put_le16(b, 0x27f);       /* fcw */
	put_le32(b + 24, 0x1f80); /* mxcsr */
	for (unsigned i = 160; i < 416; i++) {
		b[i] = (uint8_t)(i * seed); /* xmm0..15 */
	}
	put_le64(b + 512, x.xcrs[0].value);
	if (x.xcrs[0].value == 7) {
		for (unsigned i = 576; i < 832; i++) {
			b[i] = (uint8_t)(i * 3 + seed); /* upper halves of ymm */
		}
	}
	assert_int_equal(ioctl(fd, KVM_SET_XSAVE, &s), 0);
}

static void odd_lapic(struct kvm_vcpu *v, bool deadline)
{
	int fd = kvm_vcpu_fd(v);
	struct kvm_lapic_state l;
	assert_int_equal(ioctl(fd, KVM_GET_LAPIC, &l), 0);
	put_le32(l.regs + 0xf0, 0x1ff);                              /* SVR: enabled */
	put_le32(l.regs + LAPIC_LVTT, deadline ? 0x40040 : 0x20041); /* deadline or periodic */
	put_le32(l.regs + 0x3e0, 0xb);                               /* divide by 1 */
	put_le32(l.regs + LAPIC_TMICT, 4000000000u);
	put_le32(l.regs + LAPIC_TMCCT, 3000000000u);
	put_le32(l.regs + 0x80, 0x20);      /* TPR */
	put_le32(l.regs + 0x220, 1u << 17); /* IRR: vector 0x51 pending */
	put_le32(l.regs + 0x120, 1u << 1);  /* ISR: vector 0x41 in service */
	assert_int_equal(ioctl(fd, KVM_SET_LAPIC, &l), 0);
}

static void odd_msrs(struct kvm_vcpu *v, uint64_t seed)
{
	ok(kvm_state_msr_set(v, 0xc0000082, 0xffffffff81000000 + seed)); /* LSTAR */
	ok(kvm_state_msr_set(v, 0xc0000102, 0xffff888000000000 + seed)); /* KERNEL_GS_BASE */
	ok(kvm_state_msr_set(v, 0x175, 0x9000 + seed));                  /* SYSENTER_ESP */
	ok(kvm_state_msr_set(v, 0x277, 0x0007040600070406));             /* PAT */
	ok(kvm_state_msr_set(v, 0x200, 0x80000006));                     /* MTRR base 0 */
	ok(kvm_state_msr_set(v, 0x201, 0xffff80000800));
	ok(kvm_state_msr_set(v, 0x250, 0x0606060606060606));
	ok(kvm_state_msr_set(v, 0x4b564d04, 0x8001));               /* PV EOI */
	ok(kvm_state_msr_set(v, 0x4b564d01, 0x9001 + 0x40 * seed)); /* kvmclock */
	ok(kvm_state_msr_set(v, 0x4b564d03, 0xa001 + 0x40 * seed)); /* steal time */
}

static void odd_vm(struct rig *r)
{
	int fd = kvm_vm_fd(r->vm);
	struct kvm_pit_state2 pit;
	assert_int_equal(ioctl(fd, KVM_GET_PIT2, &pit), 0);
	pit.channels[0].mode = 2;
	pit.channels[0].count = 0xfff0;
	pit.channels[0].rw_mode = 3;
	pit.channels[2].mode = 3;
	pit.channels[2].count = 1193;
	pit.channels[2].gate = 1;
	assert_int_equal(ioctl(fd, KVM_SET_PIT2, &pit), 0);
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };
	assert_int_equal(ioctl(fd, KVM_GET_IRQCHIP, &c), 0);
	c.chip.ioapic.id = 5;
	c.chip.ioapic.ioregsel = 0x12;
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		/* masked; level-triggered from pin 16 on */
		c.chip.ioapic.redirtbl[i].bits =
			0x10000 | (0x30 + i) | (i >= 16 ? 0x8000 : 0) | (uint64_t)(i & 1) << 56;
	}
	c.chip.ioapic.irr = 1u << 17 | 1u << 4;
	assert_int_equal(ioctl(fd, KVM_SET_IRQCHIP, &c), 0);
	c = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_PIC_MASTER };
	assert_int_equal(ioctl(fd, KVM_GET_IRQCHIP, &c), 0);
	c.chip.pic.irq_base = 0x30;
	c.chip.pic.imr = 0xfb;
	c.chip.pic.irr = 0x10;
	assert_int_equal(ioctl(fd, KVM_SET_IRQCHIP, &c), 0);
}

static void odd_everything(struct rig *r)
{
	for (unsigned i = 0; i < NVCPUS; i++) {
		odd_regs(r->v[i], i + 1);
		odd_xstate(r->v[i], (uint8_t)(i + 3));
		odd_lapic(r->v[i], i == 1);
		odd_msrs(r->v[i], i + 1);
	}
	odd_vm(r);
	uint64_t tsc;
	ok(kvm_state_msr_get(r->v[1], MSR_TSC, &tsc));
	ok(kvm_state_msr_set(r->v[1], MSR_TSC_DEADLINE, tsc + 1000000000000ull));
	struct kvm_vcpu_events ev;
	assert_int_equal(ioctl(kvm_vcpu_fd(r->v[0]), KVM_GET_VCPU_EVENTS, &ev), 0);
	ev.nmi.pending = 1;
	ev.nmi.masked = 1;
	ev.interrupt.shadow = 1;
	ev.exception.pending = 1;
	ev.exception.nr = 14;
	ev.exception.has_error_code = 1;
	ev.exception.error_code = 6;
	ev.exception_has_payload = 1;
	ev.exception_payload = 0xdead000;
	assert_int_equal(ioctl(kvm_vcpu_fd(r->v[0]), KVM_SET_VCPU_EVENTS, &ev), 0);
	/* vCPU 1 stays as KVM made it: waiting for its start-up message. */
}

static void test_round_trip(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	odd_everything(&a);
	fetch_all(&a);
	struct kvm_vcpu_state *st = kvm_state_part(a.s, 0)->state;
	assert_int_equal(st->regs.rip, CODE + 1);
	assert_int_equal(st->events.exception_payload, 0xdead000);
	assert_int_equal(st->debug.db[3], 0x4001);
	st = kvm_state_part(a.s, 1)->state;
	assert_int_equal(st->mp_state, KVM_MP_STATE_UNINITIALIZED);
	assert_int_not_equal(st->tsc_deadline, 0);

	carry(&a, &b);
	ok(commit_all(&b));
	fetch_all(&b);
	for (unsigned i = 0; i < kvm_state_nparts(a.s); i++) {
		struct snap_part *p = kvm_state_part(a.s, i);
		ok(desc_compare(p->desc, p->state, kvm_state_part(b.s, i)->state));
	}
	/* The comparison is not blind. */
	st = kvm_state_part(b.s, 1)->state;
	st->msr_value[3] ^= 1;
	expect(desc_compare(&kvm_vcpu_desc, kvm_state_part(a.s, 1)->state, st), ERR_NOT_NOW,
	       "msr_value");
	rig_down(&a);
	rig_down(&b);
}

/*
 * Does this host's KVM give a guest a TSC of its own? A software KVM takes the offset and drops it;
 * its guests read the host's TSC, and the assertions about TSC values say so instead.
 */
static bool has_own_tsc(struct rig *r)
{
	uint64_t before;
	uint64_t after;
	ok(kvm_state_msr_get(r->v[0], MSR_TSC, &before));
	ok(kvm_state_msr_set(r->v[0], MSR_TSC, before + (1ull << 50)));
	ok(kvm_state_msr_get(r->v[0], MSR_TSC, &after));
	return after - before >= 1ull << 50;
}

/* What was committed is really in KVM, not only in our structs. */
static void test_commit_reaches_kvm(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	odd_everything(&a);
	fetch_all(&a);
	carry(&a, &b);
	ok(commit_all(&b));
	ok(kvm_state_clock_release(b.s, false));
	assert_false(kvm_state_clock_held(b.s));

	uint64_t v;
	ok(kvm_state_msr_get(b.v[1], 0xc0000082, &v));
	assert_int_equal(v, 0xffffffff81000002);
	/* As far off as it was: on the saved TSC, or on the one that the host gives. */
	ok(kvm_state_msr_get(b.v[1], MSR_TSC_DEADLINE, &v));
	const struct kvm_vcpu_state *st = kvm_state_part(a.s, 1)->state;
	uint64_t khz = (uint64_t)ioctl(kvm_vcpu_fd(b.v[1]), KVM_GET_TSC_KHZ, 0);
	uint64_t was_off = st->tsc_deadline - a.s->clock.tsc[1];
	uint64_t tsc;
	ok(kvm_state_msr_get(b.v[1], MSR_TSC, &tsc));
	uint64_t is_off = v - tsc;
	assert_true(is_off <= was_off && was_off - is_off < 500 * khz);
	if (has_own_tsc(&b)) {
		assert_int_equal(v, st->tsc_deadline);
	}
	struct kvm_lapic_state l;
	assert_int_equal(ioctl(kvm_vcpu_fd(b.v[0]), KVM_GET_LAPIC, &l), 0);
	uint32_t tmcct = get_le32(l.regs + LAPIC_TMCCT);
	/* One tick is a nanosecond: it counts on from where it was held. */
	uint32_t held = a.s->vcpu[0].tmcct;
	assert_true(tmcct > 0 && tmcct <= held && held - tmcct < 1000000000u);
	assert_int_equal(get_le32(l.regs + 0x220), 1u << 17);
	struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC };
	assert_int_equal(ioctl(kvm_vm_fd(b.vm), KVM_GET_IRQCHIP, &c), 0);
	assert_int_equal(c.chip.ioapic.irr, 1u << 17 | 1u << 4);
	rig_down(&a);
	rig_down(&b);
}

static uint32_t counter(struct rig *r)
{
	uint32_t n;
	ok(gmem_read(r->g, GPA(COUNTER), &n, sizeof(n)));
	return n;
}

/* Runs vCPU 0 until it has left through `port` n times; the program's only exit. */
static void run_outs(struct rig *r, unsigned n)
{
	while (n > 0) {
		int err = 0;
		enum kvm_run_result res = kvm_vcpu_run(r->v[0], &err);
		if (res == KVM_RUN_INTERRUPTED) {
			continue;
		}
		assert_int_equal(res, KVM_RUN_EXIT);
		assert_int_equal(kvm_vcpu_page(r->v[0])->exit_reason, KVM_EXIT_IO);
		n--;
	}
}

/* Completes the port access under way and stops: what parking does. */
static void finish_io(struct rig *r)
{
	int err = 0;
	kvm_vcpu_set_immediate_exit(r->v[0], true);
	assert_int_equal(kvm_vcpu_run(r->v[0], &err), KVM_RUN_INTERRUPTED);
	kvm_vcpu_set_immediate_exit(r->v[0], false);
}

static void test_program_moves(void **state)
{
	(void)state;
	/* loop: incl COUNTER; out %al, $0x77; jmp loop */
	static const uint8_t code[] = { 0xff, 0x05, 0, 0, 0x20, 0, 0xe6, 0x77, 0xeb, 0xf6 };
	struct rig a;
	rig_up(&a);
	ok(gmem_write(a.g, GPA(CODE), code, sizeof(code)));
	struct boot_regs boot = { .mode = BOOT_PVH32, .rip = CODE };
	ok(kvm_vcpu_set_boot(a.v[0], &boot));
	run_outs(&a, 10);
	finish_io(&a);
	assert_int_equal(counter(&a), 10);
	for (unsigned hop = 1; hop <= 3; hop++) {
		struct rig b;
		rig_up(&b);
		fetch_all(&a);
		carry(&a, &b);
		carry_memory(&a, &b);
		ok(commit_all(&b));
		rig_down(&a);
		ok(kvm_state_clock_release(b.s, false));
		run_outs(&b, 10);
		finish_io(&b);
		assert_int_equal(counter(&b), 10 + 10 * hop);
		a = b;
	}
	rig_down(&a);
}

static uint64_t tsc_of(struct rig *r, unsigned i)
{
	uint64_t v;
	ok(kvm_state_msr_get(r->v[i], MSR_TSC, &v));
	return v;
}

static void wait_ns(uint64_t ns)
{
	uint64_t end = clock_mono_ns() + ns;
	while (clock_mono_ns() < end) {
	}
}

#define MS 1000000ull

/* A take: nothing is set, both clocks run through it. */
static void test_clock_take(void **state)
{
	(void)state;
	struct rig a;
	rig_up(&a);
	uint64_t c0;
	uint64_t c1;
	expect(kvm_state_part(a.s, NVCPUS + 2)->ops->fetch(a.s), ERR_NOT_NOW, "clock");
	uint64_t m0 = clock_mono_ns();
	ok(kvm_state_vm_time_ns(a.s, &c0));
	ok(kvm_state_clock_hold(a.s));
	uint64_t held;
	ok(kvm_state_vm_time_ns(a.s, &held));
	assert_true(held >= c0);
	wait_ns(30 * MS);
	ok(kvm_state_clock_hold(a.s)); /* a second hold keeps the first */
	uint64_t again;
	ok(kvm_state_vm_time_ns(a.s, &again));
	assert_int_equal(held, again);
	ok(kvm_state_clock_release(a.s, true));
	ok(kvm_state_vm_time_ns(a.s, &c1));
	uint64_t m1 = clock_mono_ns();
	assert_true(c1 - c0 >= 30 * MS);
	assert_true(c1 - c0 <= m1 - m0 + 1 * MS);
	assert_int_equal(a.s->lag_ns, 0);
	rig_down(&a);
}

/* Suspend and resume: both clocks stand, are set once, and keep their distance. */
static void test_clock_suspend(void **state)
{
	(void)state;
	struct rig a;
	rig_up(&a);
	bool own_tsc = has_own_tsc(&a);
	ok(kvm_state_clock_hold(a.s));
	ok(kvm_state_clock_release(a.s, false)); /* the start */
	assert_int_equal(a.s->lag_ns, 0);
	/* The second vCPU's TSC is far from the first's: that must stay so to the cycle. */
	ok(kvm_state_msr_set(a.v[1], MSR_TSC, tsc_of(&a, 0) + 500000000000ull));
	ok(kvm_state_clock_hold(a.s));
	uint64_t clock = a.s->clock.clock_ns;
	uint64_t t0 = a.s->clock.tsc[0];
	uint64_t gap = a.s->clock.tsc[1] - t0;
	wait_ns(50 * MS);
	/* From here on the clocks may go, for as long as this thread takes, and no 50 ms more. */
	uint64_t m = clock_mono_ns();
	ok(kvm_state_clock_release(a.s, false));
	assert_true(a.s->lag_ns >= 50 * MS);
	uint64_t now;
	ok(kvm_state_vm_time_ns(a.s, &now));
	uint64_t tsc = tsc_of(&a, 0);
	uint64_t khz = (uint64_t)ioctl(kvm_vcpu_fd(a.v[0]), KVM_GET_TSC_KHZ, 0);
	uint64_t most = clock_mono_ns() - m + 40 * MS;
	assert_true(now >= clock && now - clock < most);
	if (own_tsc) {
		assert_true(tsc >= t0 && tsc - t0 < most / 1000 * khz / 1000);
	} else {
		assert_true(tsc - t0 >= 50 * khz);
	}
	/* A second release does nothing. */
	ok(kvm_state_clock_release(a.s, false));
	ok(kvm_state_vm_time_ns(a.s, &now));
	assert_true(now - clock <= clock_mono_ns() - m + 40 * MS);
	ok(kvm_state_clock_hold(a.s));
	if (a.s->has_tsc_offset) {
		assert_int_equal(a.s->clock.tsc[1] - a.s->clock.tsc[0], gap);
	}
	if (!own_tsc) {
		rig_down(&a);
		return;
	}
	/* kvmclock and TSC moved by the same time, within 100 us. */
	uint64_t by_clock = a.s->clock.clock_ns - clock;
	uint64_t by_tsc = (a.s->clock.tsc[0] - t0) * 1000000 / khz;
	assert_in_range(by_clock + 100000 - by_tsc, 0, 200000);
	rig_down(&a);
}

static void load_with_policy(struct rig *a, struct rig *b, enum clock_policy policy)
{
	rig_up(b);
	carry(a, b);
	kvm_state_set_clock_policy(b->s, policy);
	ok(commit_all(b));
	assert_true(kvm_state_clock_held(b->s));
	ok(kvm_state_clock_release(b->s, false));
}

static void test_clock_policy(void **state)
{
	(void)state;
	struct rig a;
	rig_up(&a);
	bool own_tsc = has_own_tsc(&a);
	fetch_all(&a);
	/* Saved an hour ago, at a wall time one hour back. */
	const uint64_t hour = 3600ull * 1000 * MS;
	a.s->clock.realtime_ns -= hour;
	uint64_t saved = a.s->clock.clock_ns;
	uint64_t tsc = a.s->clock.tsc[0];
	uint64_t khz = (uint64_t)ioctl(kvm_vcpu_fd(a.v[0]), KVM_GET_TSC_KHZ, 0);
	uint64_t now;

	struct rig b;
	load_with_policy(&a, &b, CLOCK_CONTINUE);
	ok(kvm_state_vm_time_ns(b.s, &now));
	assert_true(now >= saved && now - saved < 500 * MS);
	assert_true(tsc_of(&b, 0) - tsc < 2000 * khz);
	assert_true(b.s->lag_ns >= hour);

	/* Saved again: a jump makes up for the hour it was held back. */
	fetch_all(&b);
	struct rig c;
	load_with_policy(&b, &c, CLOCK_JUMP);
	ok(kvm_state_vm_time_ns(c.s, &now));
	assert_true(now - saved >= hour && now - saved < hour + 2000 * MS);
	uint64_t moved = tsc_of(&c, 0) - tsc;
	if (own_tsc) {
		assert_true(moved >= hour / 1000000 * khz);
		assert_true(moved < (hour / 1000000 + 2000) * khz);
	}
	assert_int_equal(c.s->lag_ns, 0);
	rig_down(&c);

	/* A host whose wall clock is behind takes nothing back. */
	fetch_all(&a);
	a.s->clock.realtime_ns += 2 * hour;
	load_with_policy(&a, &c, CLOCK_JUMP);
	ok(kvm_state_vm_time_ns(c.s, &now));
	assert_true(now >= saved && now - saved < 1000 * MS);
	rig_down(&c);
	rig_down(&b);
	rig_down(&a);
}

/* Setting the wall-clock MSR makes KVM write memory; the guest's bytes must survive a load. */
static void test_wall_clock_memory(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	ok(kvm_state_msr_set(a.v[0], 0x4b564d00, 0x7000));
	uint8_t mine[32];
	memset(mine, 0xa5, sizeof(mine));
	ok(gmem_write(a.g, GPA(0x7000), mine, sizeof(mine)));
	fetch_all(&a);
	carry(&a, &b);
	carry_memory(&a, &b);
	ok(commit_all(&b));
	uint8_t got[32];
	ok(gmem_read(b.g, GPA(0x7000), got, sizeof(got)));
	assert_memory_equal(got, mine, sizeof(mine));
	uint64_t v;
	ok(kvm_state_msr_get(b.v[0], 0x4b564d00, &v));
	assert_int_equal(v, 0x7000);
	rig_down(&a);
	rig_down(&b);
}

/* What CPUID shows counts, and what XCR0 has on any vCPU; nothing else. */
static void test_xcr0_used(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r);
	fetch_all(&r);
	uint64_t used = kvm_state_xcr0_used(r.s);
	assert_true((used & 3) == 3); /* x87 and SSE are always there */
	for (unsigned i = 0; i < NVCPUS; i++) {
		struct kvm_vcpu_state *st = r.s->vcpu[i].state;
		for (uint32_t k = 0; k < st->ncpuid; k++) {
			if (st->cpuid[k].leaf == 0xd) {
				bool head = st->cpuid[k].sub == 0;
				st->cpuid[k].eax = head ? 0x7 : 0xffff;
				st->cpuid[k].edx = head ? 0x80000000u : 0xffff;
			}
		}
		assert_true(st->nxcrs >= 1 && st->xcr_index[0] == 0);
		st->xcr_value[0] = 1;
	}
	assert_int_equal(kvm_state_xcr0_used(r.s), 0x8000000000000007ull);
	r.s->vcpu[NVCPUS - 1].state->xcr_value[0] = 0x60001;
	assert_int_equal(kvm_state_xcr0_used(r.s), 0x8000000000060007ull);
	rig_down(&r);
}

static void test_refusals(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	fetch_all(&a);
	struct snap_part *p = kvm_state_part(b.s, 0);
	struct kvm_vcpu_state *st = p->state;

	carry(&a, &b);
	st->cpuid[0].eax = 0x7fffffff;
	for (uint32_t i = 0; i < st->ncpuid; i++) {
		if (st->cpuid[i].leaf == 1) {
			st->cpuid[i].ecx |= 1u << 16;
		}
	}
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "0x1.0 ECX bit 16");

	carry(&a, &b);
	st->msr_index[st->nmsrs] = 0xdeadbeef;
	st->msr_value[st->nmsrs++] = 5;
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "MSR 0xdeadbeef");
	st->msr_value[st->nmsrs - 1] = 0; /* never used: nothing is lost */
	ok(p->ops->commit(p->self));

	carry(&a, &b);
	put_le64(st->xsave + 512, 1ull << 60);
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "0x1000000000000000");

	carry(&a, &b);
	st->xsave_len = b.s->xsave_len + 64;
	st->xsave[b.s->xsave_len + 5] = 1;
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "beyond");

	if (!b.s->has_tsc_control && st->tsc_khz != 0) {
		carry(&a, &b);
		st->tsc_khz *= 2;
		expect(p->ops->commit(p->self), ERR_INCOMPAT, "kHz");
	}
	/* A host without the newer calls says what is missing. */
	carry(&a, &b);
	b.s->has_triple_fault = false;
	st->events.triple_fault = 1;
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "TRIPLE_FAULT");
	carry(&a, &b);
	b.s->has_payload = false;
	st->events.exception_pending = 1;
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "EXCEPTION_PAYLOAD");
	carry(&a, &b);
	b.s->has_sregs2 = false;
	st->sregs.pdptrs_valid = true;
	expect(p->ops->commit(p->self), ERR_INCOMPAT, "SREGS2");

	carry(&a, &b);
	b.s->clock.ncpus = 1;
	struct snap_part *clock = kvm_state_part(b.s, NVCPUS + 2);
	expect(clock->ops->commit(clock->self), ERR_CORRUPT, "2");
	rig_down(&a);
	rig_down(&b);
}

/* All of it at once, and the rest of the state is tried as well. */
static void test_probe(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	struct found found = { 0 };
	const struct findings f = { found_add, &found };
	rig_up(&a);
	rig_up(&b);
	fetch_all(&a);
	carry(&a, &b);
	struct snap_part *p = kvm_state_part(b.s, 0);
	struct kvm_vcpu_state *st = p->state;
	p->ops->probe(p->self, &f);
	struct snap_part *clock = kvm_state_part(b.s, NVCPUS + 2);
	clock->ops->probe(clock->self, &f);
	if (found.n != 0) {
		fail_msg("found in a sound state: %s", found.text);
	}
	for (uint32_t i = 0; i < st->ncpuid; i++) {
		if (st->cpuid[i].leaf == 1) {
			st->cpuid[i].ecx |= 1u << 16;
		}
	}
	for (uint32_t k = 0; k < 2; k++) {
		st->msr_index[st->nmsrs] = 0xdeadbeee + k;
		st->msr_value[st->nmsrs++] = 5;
	}
	st->msr_index[st->nmsrs] = 0xdeadbef0; /* never used */
	st->msr_value[st->nmsrs++] = 0;
	put_le64(st->xsave + 512, 1ull << 60);
	b.s->has_triple_fault = false;
	st->events.triple_fault = 1;
	p->ops->probe(p->self, &f);
	assert_true(found_has(&found, "cpu", "0x1.0 ECX bit 16"));
	assert_true(found_has(&found, "msr", "MSR 0xdeadbeee"));
	assert_true(found_has(&found, "msr", "MSR 0xdeadbeef"));
	assert_false(found_has(&found, "msr", "MSR 0xdeadbef0"));
	assert_true(found_has(&found, "cpu", "0x1000000000000000"));
	assert_true(found_has(&found, "cpu", "TRIPLE_FAULT"));
	assert_int_equal(found.n, 5);
	b.s->clock.ncpus = 1;
	clock->ops->probe(clock->self, &f);
	assert_int_equal(found.n, 6);
	rig_down(&a);
	rig_down(&b);
}

/* The older ways, on this host: SREGS instead of SREGS2, TSC by value. */
static void test_fallbacks(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_up(&a);
	rig_up(&b);
	odd_everything(&a);
	a.s->has_sregs2 = false;
	b.s->has_sregs2 = false;
	a.s->has_tsc_offset = false;
	b.s->has_tsc_offset = false;
	fetch_all(&a);
	uint64_t khz = (uint64_t)ioctl(kvm_vcpu_fd(a.v[0]), KVM_GET_TSC_KHZ, 0);
	carry(&a, &b);
	ok(commit_all(&b));
	fetch_all(&b);
	for (unsigned i = 0; i < kvm_state_nparts(a.s); i++) {
		struct snap_part *p = kvm_state_part(a.s, i);
		ok(desc_compare(p->desc, p->state, kvm_state_part(b.s, i)->state));
	}
	ok(kvm_state_clock_release(b.s, false));
	uint64_t tsc = tsc_of(&b, 0);
	assert_true(tsc >= a.s->clock.tsc[0] && tsc - a.s->clock.tsc[0] < 500 * khz);
	rig_down(&a);
	rig_down(&b);
}

static void test_check(void **state)
{
	(void)state;
	struct rig a;
	rig_up(&a);
	fetch_all(&a);
	struct snap_part *p = kvm_state_part(a.s, 0);
	struct kvm_vcpu_state *st = p->state;
	ok(kvm_vcpu_desc.check(st));
	uint32_t keep = st->msr_index[2];
	st->msr_index[2] = MSR_TSC;
	expect(kvm_vcpu_desc.check(st), ERR_CORRUPT, "0x10");
	st->msr_index[2] = st->msr_index[1];
	expect(kvm_vcpu_desc.check(st), ERR_CORRUPT, "order");
	st->msr_index[2] = keep;
	struct cpuid_table t;
	kvm_state_cpuid(st, &t);
	assert_int_equal(t.n, st->ncpuid);
	ok(cpuid_check(kvm.n, &t));
	rig_down(&a);
}

int main(void)
{
	struct err *e = kvm_open(&kvm);
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_msr_list),
		cmocka_unit_test(test_known_msrs),
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_commit_reaches_kvm),
		cmocka_unit_test(test_program_moves),
		cmocka_unit_test(test_clock_take),
		cmocka_unit_test(test_clock_suspend),
		cmocka_unit_test(test_clock_policy),
		cmocka_unit_test(test_wall_clock_memory),
		cmocka_unit_test(test_xcr0_used),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_fallbacks),
		cmocka_unit_test(test_check),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	fd_close(&kvm);
	return rc;
}
