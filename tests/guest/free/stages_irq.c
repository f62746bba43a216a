/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of interrupt controllers, timers and events: see stages.c. Handlers run in ring 0, where a
 * software KVM interprets every instruction.
 */
#include "stages.h"

#define VEC_HIGH 0x61
#define IOAPIC 0xfec00000ull
#define PIT_HZ 1193182u

static volatile bool inside;
static volatile unsigned high_count, nmi_count, fault_count, level_count;

/* ---- local APIC ---- */

static void on_high(struct frame *f)
{
	(void)f;
	high_count++;
	find_service(VEC_HIGH);
	sync_say(1);
	sync_hold();
	CHECK(inside, high_count);
	CHECK(no_service || (lapic_bit(LAPIC_ISR, VEC_TIMER) && lapic_bit(LAPIC_ISR, VEC_HIGH)), 0);
	eoi();
	CHECK(no_service || (lapic_bit(LAPIC_ISR, VEC_TIMER) && !lapic_bit(LAPIC_ISR, VEC_HIGH)), 0);
}

static void on_low(struct frame *f)
{
	(void)f;
	timer_count++;
	inside = true;
	lapic_set(LAPIC_ICR_LO, 0x40000 | VEC_HIGH);
	__asm__ volatile("sti" ::: "memory");
	for (unsigned i = 0; high_count == 0 && i < 1000000; i++) {
		cpu_relax();
	}
	__asm__ volatile("cli" ::: "memory");
	inside = false;
	eoi();
}

/* Held in the handler of a higher interrupt that came inside the handler of a lower one. */
void stage_nested(void)
{
	irq_handler(VEC_TIMER, on_low);
	irq_handler(VEC_HIGH, on_high);
	irq_on();
	lapic_oneshot(VEC_TIMER, 2 * NSEC_PER_MSEC);
	wait_count(&timer_count, 1);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(high_count == 1 && timer_count == 1 && !inside, high_count);
	skip_service();
}

static void on_nmi(struct frame *f)
{
	(void)f;
	nmi_count++;
	if (nmi_count == 1) {
		send_nmi(0); /* NMIs wait until this one's iret */
		sync_say(1);
		sync_hold();
		CHECK(nmi_count == 1, nmi_count);
	}
}

/* Held inside an NMI handler, with the next NMI behind it. */
void stage_nmi(void)
{
	irq_handler(2, on_nmi);
	send_nmi(0);
	wait_count(&nmi_count, 2);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(nmi_count == 2, nmi_count);
}

#define NO_PAGE 0x200000123ull /* beyond what the page tables map */
static volatile uint64_t fault_cr2, fault_err;

static void on_fault(struct frame *f)
{
	uint64_t cr2;
	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	fault_count++;
	fault_cr2 = cr2;
	fault_err = f->err;
	f->rip += 1; /* insb is one byte */
}

static uint64_t do_fault(struct frame *f, uint64_t va)
{
	(void)f;
	__asm__ volatile("insb" : "+D"(va) : "d"(STOP_PORT) : "memory");
	return va;
}

/* The port read that stops the machine cannot store its byte: a page fault waits at the park. */
void stage_fault(void)
{
	irq_handler(14, on_fault);
	CHECK(call0(do_fault, NO_PAGE) == NO_PAGE, 0);
	CHECK(fault_count == 1, fault_count);
	CHECK(fault_cr2 == NO_PAGE, fault_cr2);
	CHECK(fault_err == 2, fault_err); /* a write by ring 0 to no page */
}

/* The local timer repeats every 20 ms. */
void stage_periodic(void)
{
	unsigned seen;
	uint64_t t0;

	irq_on();
	lapic_set(LAPIC_TDCR, 0xb);
	lapic_set(LAPIC_LVTT, VEC_TIMER | (1u << 17));
	lapic_set(LAPIC_TMICT, 20000000);
	wait_least(&timer_count, 1);
	delay_ns(5 * NSEC_PER_MSEC);
	stage(1);
	CHECK(lapic_get(LAPIC_TMICT) == 20000000, lapic_get(LAPIC_TMICT));
	seen = timer_count;
	t0 = rdtsc();
	while (timer_count < seen + 10 && rdtsc() - t0 < 5000 * tsc_khz()) {
		cpu_relax();
	}
	CHECK(timer_count >= seen + 10, timer_count);
	/* Nine whole periods lie between the first and the tenth tick. */
	CHECK(rdtsc() - t0 > 150 * tsc_khz(), rdtsc() - t0);
	lapic_set(LAPIC_TMICT, 0);
}

/* A one-shot timer falls due while everything stands: it counts guest time, not the host's. */
void stage_frozen(void)
{
	uint64_t t0 = clock_ns();

	irq_on();
	lapic_oneshot(VEC_TIMER, 100 * NSEC_PER_MSEC);
	stage(1);
	wait_count(&timer_count, 1);
	CHECK(clock_ns() - t0 > 99 * NSEC_PER_MSEC, clock_ns() - t0);
	delay_ns(150 * NSEC_PER_MSEC);
	CHECK(timer_count == 1, timer_count);
}

/*
 * One-shot timers, one after the other, while the harness parks at any moment: between a timer's
 * expiry and the interrupt that it becomes, too. None may be lost or come twice.
 */
void stage_late(void)
{
	uint32_t random = 12345;

	irq_on();
	for (uint8_t n = 1; n <= 12; n++) {
		sync_say(n);
		do {
			unsigned before = timer_count;
			uint64_t t0 = rdtsc();
			random = random * 1664525 + 1013904223;
			lapic_oneshot(VEC_TIMER, 500000 + (random >> 8) % 1000000);
			while (timer_count == before) {
				CHECK(rdtsc() - t0 < 3000 * tsc_khz(), n);
				cpu_relax();
			}
			CHECK(timer_count == before + 1, timer_count);
		} while (inb(SYNC_PORT) == SYNC_HOLD);
	}
}

/* ---- PIT ---- */

static void pit_set(uint8_t mode, uint16_t count)
{
	outb(0x43, (uint8_t)(0x30 | mode << 1));
	outb(0x40, (uint8_t)count);
	outb(0x40, (uint8_t)(count >> 8));
}

static void pit_begin(void)
{
	pic_init(VEC_PIC, 0xfe, 0xff);
	irq_handler(VEC_PIC, on_pit);
	irq_on();
}

/*
 * Mode 0: one interrupt, 55 ms after the start; held before it comes. KVM counts it in the host's
 * time while the vCPUs stand, and tells nobody how far it is: it may come early, but once.
 */
void stage_pit0(void)
{
	pit_begin();
	pit_set(0, 0xffff);
	stage(1);
	wait_count(&pit_count, 1);
	delay_ns(120 * NSEC_PER_MSEC);
	CHECK(pit_count == 1, pit_count);
}

/* Mode 0, held after its one interrupt came. */
void stage_pit0_over(void)
{
	pit_begin();
	pit_set(0, 11932);
	wait_count(&pit_count, 1);
	stage(1);
	delay_ns(120 * NSEC_PER_MSEC);
	/* KVM does not tell whether a count is over: one more tick is what a restore may cost. */
	CHECK(pit_count <= 2, pit_count);
}

static void pit_periodic(uint8_t mode, unsigned ms)
{
	unsigned seen;
	uint64_t t0;

	pit_begin();
	pit_set(mode, (uint16_t)(PIT_HZ * ms / 1000));
	wait_least(&pit_count, 2);
	stage(1);
	seen = pit_count;
	t0 = rdtsc();
	while (pit_count < seen + 10 && rdtsc() - t0 < 5000 * tsc_khz()) {
		cpu_relax();
	}
	CHECK(pit_count >= seen + 10, pit_count - seen);
	/* No ticks that piled up while nothing ran. */
	CHECK(rdtsc() - t0 > 7 * ms * tsc_khz(), rdtsc() - t0);
}

void stage_pit2(void)
{
	pit_periodic(2, 10);
}

void stage_pit3(void)
{
	pit_periodic(3, 20);
}

/* Channel 2 counts with its gate on, a count is latched and half of it read. */
void stage_gate(void)
{
	unsigned count;
	uint64_t t0, began;

	outb(0x61, (uint8_t)((inb(0x61) & ~2) | 1));
	began = clock_ns();
	outb(0x43, 0xb0);
	outb(0x42, 0xff);
	outb(0x42, 0xff);
	outb(0x43, 0x80); /* latch */
	count = inb(0x42);
	stage(1);
	count |= (unsigned)inb(0x42) << 8;
	CHECK(count > 0x100 && count <= 0xffff, count);
	CHECK(inb(0x61) & 1, inb(0x61));
	t0 = rdtsc();
	while (!(inb(0x61) & 0x20)) {
		CHECK(rdtsc() - t0 < 3000 * tsc_khz(), inb(0x61));
	}
	/* 65535 ticks are 54.9 ms of the guest's time. */
	CHECK(clock_ns() - began > 54 * NSEC_PER_MSEC, clock_ns() - began);
}

/* ---- 8259 ---- */

static void on_pit_slow(struct frame *f)
{
	(void)f;
	pit_count++;
	if (pit_count == 1) {
		sync_say(1);
		sync_hold();
		outb(0x20, 0x0b); /* next read: ISR */
		CHECK(inb(0x20) == 1, inb(0x20));
		CHECK(inb(0x21) == 0xfa && inb(0xa1) == 0xdf, inb(0x21));
		CHECK(inb(0x4d0) == 0x20 && inb(0x4d1) == 0x08, inb(0x4d0));
	}
	outb(0x20, 0x20);
}

/* An interrupt of the 8259 in service, not acknowledged; odd masks and edge/level register. */
void stage_pic(void)
{
	pit_begin();
	irq_handler(VEC_PIC, on_pit_slow);
	outb(0x21, 0xfa);
	outb(0xa1, 0xdf);
	outb(0x4d0, 0x20);
	outb(0x4d1, 0x08);
	pit_set(2, 11932);
	wait_least(&pit_count, 5);
}

/* ---- IOAPIC ---- */

uint32_t ioapic_get(uint32_t reg)
{
	*(volatile uint32_t *)IOAPIC = reg;
	return *(volatile uint32_t *)(IOAPIC + 0x10);
}

void ioapic_set(uint32_t reg, uint32_t v)
{
	*(volatile uint32_t *)IOAPIC = reg;
	*(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

uint8_t rtc_get(uint8_t index)
{
	outb(0x70, index);
	return inb(0x71);
}

void rtc_set(uint8_t index, uint8_t v)
{
	outb(0x70, index);
	outb(0x71, v);
}

static void on_level(struct frame *f)
{
	uint32_t entry = 0x10 + 2 * PIN_RTC;
	(void)f;
	level_count++;
	find_service(VEC_LEVEL);
	CHECK(no_service || (ioapic_get(entry) & IOAPIC_REMOTE_IRR), level_count);
	if (level_count == 1) {
		sync_say(1);
		sync_hold();
		CHECK(no_service || (ioapic_get(entry) & IOAPIC_REMOTE_IRR), level_count);
		eoi(); /* the line is still up: it comes again at once */
		return;
	}
	/* Ended at delivery with the line up, it comes once more behind this one. */
	CHECK((rtc_get(12) & 0x80) || no_service, level_count);
	eoi();
}

/* A level-triggered line is up and in service in the IOAPIC and the local APIC. */
void stage_level(void)
{
	pic_init(VEC_PIC, 0xff, 0xff);
	irq_handler(VEC_LEVEL, on_level);
	rtc_get(12);
	ioapic_set(0x11 + 2 * PIN_RTC, 0);
	ioapic_set(0x10 + 2 * PIN_RTC, VEC_LEVEL | IOAPIC_LEVEL);
	irq_on();
	rtc_set(10, 0x2d); /* 8 Hz */
	rtc_set(11, 0x42);
	wait_least(&level_count, 6); /* the second acknowledges the first's event */
	rtc_set(11, 0x02);
	rtc_get(12);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(!(ioapic_get(0x10 + 2 * PIN_RTC) & IOAPIC_REMOTE_IRR), 0);
	skip_service();
}

static void on_sci(struct frame *f)
{
	uint16_t sts;
	(void)f;
	find_service(VEC_LEVEL);
	__asm__ volatile("inw %1, %0" : "=a"(sts) : "Nd"((uint16_t)0x600));
	CHECK((sts & 0x100) || no_service, sts);
	level_count += sts >> 8 & 1;
	__asm__ volatile("outw %0, %1" ::"a"((uint16_t)0x100), "Nd"((uint16_t)0x600));
	eoi();
}

/* The harness presses the power button: SCI is up, delivered, and waits for interrupts on. */
void stage_sci(void)
{
	pic_init(VEC_PIC, 0xff, 0xff);
	irq_handler(VEC_LEVEL, on_sci);
	ioapic_set(0x11 + 2 * PIN_SCI, 0);
	ioapic_set(0x10 + 2 * PIN_SCI, VEC_LEVEL | IOAPIC_LEVEL);
	__asm__ volatile("outw %0, %1" ::"a"((uint16_t)0x100), "Nd"((uint16_t)0x602));
	stage(1);
	CHECK(lapic_bit(LAPIC_IRR, VEC_LEVEL) && level_count == 0, level_count);
	irq_on();
	wait_count(&level_count, 1);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(level_count == 1, level_count);
	CHECK(!(ioapic_get(0x10 + 2 * PIN_SCI) & IOAPIC_REMOTE_IRR), 0);
}

/* ---- the APIC's two modes ---- */

static void on_x2_timer(struct frame *f)
{
	(void)f;
	timer_count++;
	wrmsr0(0x80b, 0);
}

static void on_x2_self(struct frame *f)
{
	(void)f;
	self_count++;
	wrmsr0(0x80b, 0);
}

/* x2APIC mode with an interrupt waiting, a timer counting and a task priority set. */
void stage_x2apic(void)
{
	uint64_t id, ldr;

	irq_handler(VEC_TIMER, on_x2_timer);
	irq_handler(VEC_SELF, on_x2_self);
	msr_set(0x1b, msr_get(0x1b) | 0xc00);
	CHECK((msr_get(0x1b) & 0xc00) == 0xc00, msr_get(0x1b));
	id = msr_get(0x802);
	ldr = msr_get(0x80d);
	msr_set(0x808, 0x20);
	msr_set(0x83f, VEC_SELF);
	msr_set(0x83e, 0xb);
	msr_set(0x832, VEC_TIMER);
	msr_set(0x838, 300 * NSEC_PER_MSEC);
	stage(1);
	CHECK((msr_get(0x1b) & 0xc00) == 0xc00, msr_get(0x1b));
	CHECK(msr_get(0x802) == id && msr_get(0x80d) == ldr, msr_get(0x80d));
	CHECK(msr_get(0x808) == 0x20, msr_get(0x808));
	CHECK(msr_get(0x820 + VEC_SELF / 32) & (1u << VEC_SELF % 32), 0);
	CHECK(self_count == 0 && timer_count == 0, self_count);
	/* To oneself by logical address. */
	irq_on();
	wait_count(&self_count, 1);
	msr_set(0x830, ldr << 32 | 0x800 | VEC_SELF);
	wait_count(&self_count, 2);
	wait_count(&timer_count, 1);
	CHECK(self_count == 2, self_count);
}

/* xAPIC mode: logical addressing, odd local vectors, and an interrupt below the task priority. */
void stage_xapic(void)
{
	irq_handler(VEC_SELF, on_self);
	lapic_set(LAPIC_DFR, 0x0fffffff);
	lapic_set(LAPIC_LDR, 0x21000000);
	lapic_set(LAPIC_LVT_THERMAL, 0x10044);
	lapic_set(LAPIC_LVT_PMC, 0x10045);
	lapic_set(LAPIC_LVT1, 0x0a446 & ~0x4000u);
	lapic_set(LAPIC_LVT_ERROR, 0x47);
	lapic_set(LAPIC_TPR, 0x65);
	irq_on();
	lapic_set(LAPIC_ICR_HI, 0x21000000);
	lapic_set(LAPIC_ICR_LO, 0x800 | VEC_SELF);
	stage(1);
	CHECK(self_count == 0 && lapic_bit(LAPIC_IRR, VEC_SELF), self_count);
	CHECK(lapic_get(LAPIC_DFR) == 0x0fffffff, lapic_get(LAPIC_DFR));
	CHECK(lapic_get(LAPIC_LDR) == 0x21000000, lapic_get(LAPIC_LDR));
	CHECK(lapic_get(LAPIC_LVT_THERMAL) == 0x10044, lapic_get(LAPIC_LVT_THERMAL));
	CHECK(lapic_get(LAPIC_LVT_ERROR) == 0x47, lapic_get(LAPIC_LVT_ERROR));
	CHECK(lapic_get(LAPIC_TPR) == 0x65, lapic_get(LAPIC_TPR));
	CHECK(lapic_get(LAPIC_ICR_HI) == 0x21000000, lapic_get(LAPIC_ICR_HI));
	lapic_set(LAPIC_TPR, 0);
	wait_count(&self_count, 1);
	delay_ns(5 * NSEC_PER_MSEC);
	CHECK(self_count == 1, self_count);
	lapic_set(LAPIC_LVT1, 0x10000);
}

/* ---- real-time clock ---- */

static volatile unsigned alarm_count;

static void on_alarm(struct frame *f)
{
	(void)f;
	CHECK((rtc_get(12) & 0xa0) == 0xa0, alarm_count);
	alarm_count++;
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

/* The alarm is set for two seconds later. */
void stage_alarm(void)
{
	unsigned at;

	pic_init(VEC_PIC, 0xfb, 0xfe);
	irq_handler(VEC_PIC + 8, on_alarm);
	rtc_set(11, 0x06); /* binary, 24 hours */
	at = (rtc_get(0) + 2u) % 60;
	rtc_set(1, (uint8_t)at);
	rtc_set(3, 0xff);
	rtc_set(5, 0xff);
	rtc_get(12);
	rtc_set(0x40, 0x5a); /* its memory, too */
	rtc_set(11, 0x26);
	irq_on();
	outb(0x70, 0x40); /* the index register stands here over the save */
	stage(1);
	CHECK(inb(0x71) == 0x5a, inb(0x71));
	CHECK(alarm_count == 0, alarm_count);
	wait_count(&alarm_count, 1);
	CHECK(rtc_get(0) == at, rtc_get(0));
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(alarm_count == 1, alarm_count);
}
