/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stage guests: each brings the machine into one state that a snapshot must carry, says so on the
 * sync port, waits there while the harness holds it, then runs on and checks that nothing was lost
 * or happened twice. Command line: stage=NAME. Ends with SYNC_DONE or SYNC_FAIL on the port.
 *
 * Waiting polls the port, so a take at a stage always meets a vCPU that leaves the guest often; the
 * halted stage waits in hlt instead.
 */
#include "stages.h"

volatile unsigned timer_count, self_count, pit_count;
static volatile unsigned serial_count;

void eoi(void)
{
	lapic_set(LAPIC_EOI, 0);
}

static void on_timer(struct frame *f)
{
	(void)f;
	timer_count++;
	eoi();
}

void on_self(struct frame *f)
{
	(void)f;
	self_count++;
	eoi();
}

void on_pit(struct frame *f)
{
	(void)f;
	pit_count++;
	outb(0x20, 0x20);
}

void stage(uint8_t n)
{
	sync_say(n);
	sync_hold();
}

bool lapic_bit(uint32_t reg, unsigned vec)
{
	return lapic_get(reg + vec / 32 * 0x10) >> (vec % 32) & 1;
}

void send_nmi(unsigned apic_id)
{
	lapic_set(LAPIC_ICR_HI, apic_id << 24);
	lapic_set(LAPIC_ICR_LO, 0x4400);
}

void start_ap(unsigned apic_id)
{
	lapic_set(LAPIC_ICR_HI, apic_id << 24);
	lapic_set(LAPIC_ICR_LO, 0xc500); /* INIT */
	delay_ns(10 * NSEC_PER_MSEC);
	lapic_set(LAPIC_ICR_HI, apic_id << 24);
	lapic_set(LAPIC_ICR_LO, 0x4608); /* start-up at page 8 */
}

uint64_t rdmsr0(uint32_t msr)
{
	uint32_t lo, hi;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return ((uint64_t)hi << 32) | lo;
}

void wrmsr0(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

void wait_count(volatile unsigned *count, unsigned want)
{
	uint64_t end = rdtsc() + 5000 * tsc_khz();

	while (*count < want && (int64_t)(end - rdtsc()) > 0) {
		cpu_relax();
	}
	CHECK(*count == want, *count);
}

void wait_least(volatile unsigned *count, unsigned want)
{
	uint64_t end = rdtsc() + 5000 * tsc_khz();

	while (*count < want && (int64_t)(end - rdtsc()) > 0) {
		cpu_relax();
	}
	CHECK(*count >= want, *count);
}

bool no_service;

void find_service(unsigned vec)
{
	no_service = arg_number("softkvm", 0) && !lapic_bit(LAPIC_ISR, vec);
}

void skip_service(void)
{
	if (no_service) {
		skip("all else held, but this KVM ends an interrupt when it delivers it: none is "
		     "ever in service");
	}
}

/* A one-shot local APIC timer runs while the snapshot is taken. */
static void stage_timer(void)
{
	uint64_t t0;

	irq_on();
	t0 = rdtsc();
	lapic_oneshot(VEC_TIMER, 300 * NSEC_PER_MSEC);
	CHECK(lapic_get(LAPIC_TMCCT) != 0, 0);
	stage(1);
	CHECK(timer_count == 0 || rdtsc() - t0 > 290 * tsc_khz(), timer_count);
	wait_count(&timer_count, 1);
	CHECK(rdtsc() - t0 > 290 * tsc_khz(), rdtsc() - t0);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(timer_count == 1, timer_count);
	CHECK(lapic_get(LAPIC_TMCCT) == 0, 0);
}

/* Two interrupts wait with interrupts off: one in the local APIC, one in the 8259. */
static void stage_pending(void)
{
	unsigned reg = LAPIC_IRR + VEC_SELF / 32 * 0x10;

	pic_init(VEC_PIC, 0xfe, 0xff);
	irq_handler(VEC_PIC, on_pit);
	irq_handler(VEC_SELF, on_self);
	lapic_set(LAPIC_ICR_LO, 0x40000 | VEC_SELF); /* to self, fixed */
	CHECK(lapic_get(reg) & (1u << VEC_SELF % 32), lapic_get(reg));
	/* PIT channel 0, mode 0: the line rises once and stays. */
	outb(0x43, 0x30);
	outb(0x40, 100);
	outb(0x40, 0);
	outb(0x20, 0x0a); /* next read: IRR */
	for (unsigned i = 0; !(inb(0x20) & 1); i++) {
		CHECK(i < 100000, i);
	}
	stage(1);
	CHECK(self_count == 0 && pit_count == 0, self_count);
	CHECK(lapic_get(reg) & (1u << VEC_SELF % 32), lapic_get(reg));
	outb(0x20, 0x0a);
	CHECK(inb(0x20) & 1, 0);
	irq_on();
	wait_count(&self_count, 1);
	wait_count(&pit_count, 1);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(self_count == 1 && pit_count == 1, self_count * 16 + pit_count);
}

/* Halted, waiting for a timer that fires after the hold. */
static void stage_halted(void)
{
	uint64_t t0 = rdtsc();

	lapic_oneshot(VEC_TIMER, 700 * NSEC_PER_MSEC);
	sync_say(1);
	halt();
	CHECK(timer_count == 1, timer_count);
	CHECK(rdtsc() - t0 > 690 * tsc_khz(), rdtsc() - t0);
}

/* All sixteen ymm registers, mxcsr and the x87 stack hold a pattern in ring 3. */
static void stage_avx(void)
{
	static uint8_t in[16][32] __attribute__((aligned(32)));
	static uint8_t out[16][32] __attribute__((aligned(32)));
	static const uint64_t x87_in[2] = { 0x0123456789abcdefull, 0x1122334455667788ull };
	uint64_t x87_out[2] = { 0, 0 };
	uint32_t mxcsr = 0x1fc0, mxcsr_out = 0; /* DAZ, default masks */

	avx_on();
	for (unsigned i = 0; i < sizeof(in); i++) {
		in[i / 32][i % 32] = (uint8_t)(i * 37 + 11);
	}
	__asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
	__asm__ volatile("fninit; fildll %0; fildll %1" ::"m"(x87_in[0]), "m"(x87_in[1]));
#define LOAD(n) "vmovdqa " #n "*32(%0), %%ymm" #n "\n"
#define STORE(n) "vmovdqa %%ymm" #n ", " #n "*32(%0)\n"
#define ALL(op)                                                                                    \
	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13)    \
		op(14) op(15)
	__asm__ volatile(ALL(LOAD)::"r"(in) : "memory");
	stage(1);
	__asm__ volatile(ALL(STORE)::"r"(out) : "memory");
	__asm__ volatile("fistpll %0; fistpll %1" : "=m"(x87_out[1]), "=m"(x87_out[0]));
	__asm__ volatile("stmxcsr %0" : "=m"(mxcsr_out));
	for (unsigned i = 0; i < sizeof(in); i++) {
		CHECK(in[i / 32][i % 32] == out[i / 32][i % 32], i);
	}
	CHECK(mxcsr_out == mxcsr, mxcsr_out);
	CHECK(x87_out[0] == x87_in[0] && x87_out[1] == x87_in[1], x87_out[0]);
}

static volatile bool nested;

/* Ring 0: held inside the handler, before EOI; a second one of the same vector waits behind it. */
static void on_timer_slow(struct frame *f)
{
	(void)f;
	timer_count++;
	if (timer_count == 1) {
		nested = true;
		find_service(VEC_TIMER);
		lapic_set(LAPIC_ICR_LO, 0x40000 | VEC_TIMER);
		sync_say(1);
		sync_hold();
		nested = false;
	} else if (nested) {
		timer_count += 100;
	}
	eoi();
}

static void stage_handler(void)
{
	irq_handler(VEC_TIMER, on_timer_slow);
	irq_on();
	lapic_oneshot(VEC_TIMER, 5 * NSEC_PER_MSEC);
	while (timer_count == 0) {
		cpu_relax();
	}
	wait_count(&timer_count, 2);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(timer_count == 2, timer_count);
	skip_service();
}

#define SERIAL_HALF 13
static const char serial_text[] = "abcdefghijklmnopqrstuvwxyz0123456789";
static volatile unsigned serial_at, serial_stop;

/* One character per transmitter-empty interrupt; interrupts off at half of the line, none at its
 * end. */
static void on_serial(struct frame *f)
{
	serial_count++;
	uint8_t iir = inb(0x3fa) & 0x0f;
	if (iir == 2) {
		if (serial_at < serial_stop) {
			outb(0x3f8, (uint8_t)serial_text[serial_at++]);
			if (serial_at == SERIAL_HALF) {
				f->rflags &= ~0x200ull; /* the next interrupt waits */
			}
		} else {
			outb(0x3f9, 0); /* nothing more to send: no more interrupts */
		}
	}
	outb(0x20, 0x20);
}

/* Interrupt-driven output stands half-way, with the next transmitter interrupt already waiting. */
static void stage_serial(void)
{
	uint64_t end;

	pic_init(VEC_PIC, 0xef, 0xff);
	irq_handler(VEC_PIC + 4, on_serial);
	serial_stop = sizeof(serial_text) - 1;
	print("serial:");
	irq_on();
	outb(0x3f9, 2);
	end = rdtsc() + 1000 * tsc_khz();
	while (serial_at < SERIAL_HALF && (int64_t)(end - rdtsc()) > 0) {
		cpu_relax();
	}
	CHECK(serial_at == SERIAL_HALF, serial_at);
	stage(1);
	irq_on();
	while (serial_at < serial_stop && (int64_t)(end - rdtsc()) > 0) {
		cpu_relax();
	}
	delay_ns(5 * NSEC_PER_MSEC);
	irq_off();
	outb(0x3f9, 0);
	print("\n");
	CHECK(serial_at == serial_stop, serial_at);
}

static volatile unsigned ap_state;
static volatile uint64_t ap_work;

/* The second processor has not been started when the snapshot is taken. */
static void stage_ap(void)
{
	stage(1);
	CHECK(ap_state == 0, ap_state);
	start_ap(1);
	wait_count(&ap_state, 1);
	/* And once more with both running: the second take of this guest meets a live AP. */
	stage(2);
	uint64_t before = ap_work;
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(ap_work > before, ap_work);
}

void guest_ap_main(void)
{
	if (arg_is("stage", "barrier2") || arg_is("stage", "barrier4")) {
		ap_barrier();
	}
	if (!arg_is("stage", "ap")) {
		ap_wake();
	}
	ap_state = 1;
	for (;;) {
		ap_work++;
		cpu_relax();
	}
}

/* A TSC deadline is set. */
static void stage_deadline(void)
{
	uint64_t t0;

	lapic_set(LAPIC_LVTT, VEC_TIMER | (2u << 17));
	CHECK((lapic_get(LAPIC_LVTT) & (3u << 17)) == 2u << 17, lapic_get(LAPIC_LVTT));
	irq_on();
	t0 = rdtsc();
	msr_set(0x6e0, t0 + 300 * tsc_khz());
	CHECK(timer_count == 0 && msr_get(0x6e0) == t0 + 300 * tsc_khz(), msr_get(0x6e0));
	stage(1);
	CHECK(timer_count == 0 || rdtsc() - t0 >= 300 * tsc_khz(), timer_count);
	wait_count(&timer_count, 1);
	CHECK(rdtsc() - t0 >= 300 * tsc_khz(), rdtsc() - t0);
	CHECK(msr_get(0x6e0) == 0, msr_get(0x6e0));
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(timer_count == 1, timer_count);
}

/* Debug registers, MSRs that only the kernel uses, and the pair of clocks. */
static uint64_t do_set_dr0(struct frame *f, uint64_t v)
{
	(void)f;
	__asm__ volatile("mov %0, %%dr0" ::"r"(v));
	return 0;
}

static uint64_t do_get_dr0(struct frame *f, uint64_t arg)
{
	uint64_t v;
	(void)f;
	(void)arg;
	__asm__ volatile("mov %%dr0, %0" : "=r"(v));
	return v;
}

static void stage_registers(void)
{
	uint64_t ns0 = clock_ns(), tsc0 = rdtsc();

	call0(do_set_dr0, 0x123450ull);
	msr_set(0xc0000081, 0x0023001000000000ull); /* STAR */
	msr_set(0xc0000082, 0xffffffff81234560ull); /* LSTAR */
	msr_set(0xc0000102, 0xffff888012345678ull); /* KERNEL_GS_BASE */
	msr_set(0x277, 0x0007010600070106ull);      /* PAT */
	stage(1);
	CHECK(call0(do_get_dr0, 0) == 0x123450ull, call0(do_get_dr0, 0));
	CHECK(msr_get(0xc0000081) == 0x0023001000000000ull, msr_get(0xc0000081));
	CHECK(msr_get(0xc0000082) == 0xffffffff81234560ull, msr_get(0xc0000082));
	CHECK(msr_get(0xc0000102) == 0xffff888012345678ull, msr_get(0xc0000102));
	CHECK(msr_get(0x277) == 0x0007010600070106ull, msr_get(0x277));
	uint64_t ns = clock_ns() - ns0, tsc = rdtsc() - tsc0;
	CHECK((int64_t)ns >= 0 && (int64_t)tsc >= 0, ns);
	/* kvmclock and TSC went the same way, whatever happened in between: within 20 ms. A
	 * software KVM lets ring 3 read the host's TSC, which nobody can stop. */
	int64_t apart = (int64_t)(ns - tsc * 1000 / (tsc_khz() / 1000));
	CHECK(arg_number("softkvm", 0) || (apart < 20000000 && apart > -20000000), apart);
}

void guest_main(void)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} stages[] = {
		{ "timer", stage_timer },
		{ "pending", stage_pending },
		{ "halted", stage_halted },
		{ "avx", stage_avx },
		{ "handler", stage_handler },
		{ "serial", stage_serial },
		{ "ap", stage_ap },
		{ "deadline", stage_deadline },
		{ "registers", stage_registers },
		{ "nested", stage_nested },
		{ "nmi", stage_nmi },
		{ "fault", stage_fault },
		{ "periodic", stage_periodic },
		{ "frozen", stage_frozen },
		{ "late", stage_late },
		{ "pit0", stage_pit0 },
		{ "pit0-over", stage_pit0_over },
		{ "pit2", stage_pit2 },
		{ "pit3", stage_pit3 },
		{ "gate", stage_gate },
		{ "pic", stage_pic },
		{ "level", stage_level },
		{ "sci", stage_sci },
		{ "x2apic", stage_x2apic },
		{ "xapic", stage_xapic },
		{ "alarm", stage_alarm },
		{ "sleepbtn", stage_sleepbtn },
		{ "gpe", stage_gpe },
		{ "gpe-off", stage_gpe_off },
		{ "gpe-held", stage_gpe_held },
		{ "sci-service", stage_sci_service },
		{ "rtc-sci", stage_rtc_sci },
		{ "battery", stage_battery },
		{ "kvmclock", stage_kvmclock },
		{ "msrs", stage_msrs },
		{ "break", stage_break },
		{ "fpu", stage_fpu },
		{ "cr3", stage_cr3 },
		{ "outs", stage_outs },
		{ "ins", stage_ins },
		{ "pio", stage_pio },
		{ "mmio", stage_mmio },
		{ "bigmem", stage_bigmem },
		{ "input", stage_input },
		{ "alone", stage_alone },
		{ "barrier2", stage_barrier },
		{ "barrier4", stage_barrier },
		{ "init", stage_init },
		{ "hlt-if0", stage_hlt_if0 },
	};

	tsc_khz();
	lapic_on();
	irq_handler(VEC_TIMER, on_timer);
	for (unsigned i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
		if (arg_is("stage", stages[i].name)) {
			print("stage %s\n", stages[i].name);
			stages[i].run();
			done();
		}
	}
	fail("no such stage", 0);
}
