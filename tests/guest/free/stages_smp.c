/* SPDX-License-Identifier: Apache-2.0 */
/* Stages of several processors: see stages.c. */
#include "stages.h"

#define CPUS_MAX 4

static volatile unsigned ap_here, nmi_seen, halted_here;
static volatile bool stop;
static volatile uint64_t rounds[CPUS_MAX];
static unsigned arrived;
static volatile unsigned turn;

static unsigned cpu_id(void)
{
	return lapic_get(LAPIC_ID) >> 24;
}

/* All must come before any goes on. */
static void barrier(unsigned ncpus)
{
	unsigned now = turn;

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == ncpus) {
		__atomic_store_n(&arrived, 0, __ATOMIC_SEQ_CST);
		turn = now + 1;
		return;
	}
	while (turn == now) {
		cpu_relax();
	}
}

static void meet(unsigned ncpus, unsigned id)
{
	barrier(ncpus);
	rounds[id]++;
	barrier(ncpus);
	for (unsigned i = 0; i < ncpus; i++) {
		CHECK(rounds[i] == rounds[id], rounds[i]);
	}
}

void ap_barrier(void)
{
	unsigned id = cpu_id(), ncpus = (unsigned)arg_number("ncpus", 2);

	__atomic_add_fetch(&ap_here, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		meet(ncpus, id);
	}
}

/* All processors spin on each other. */
void stage_barrier(void)
{
	unsigned ncpus = (unsigned)arg_number("ncpus", 2);
	uint64_t before;

	for (unsigned i = 1; i < ncpus; i++) {
		start_ap(i);
	}
	wait_count(&ap_here, ncpus - 1);
	for (unsigned i = 0; i < 10; i++) {
		meet(ncpus, 0);
	}
	sync_say(1);
	do {
		meet(ncpus, 0);
	} while (inb(SYNC_PORT) == SYNC_HOLD);
	before = rounds[0];
	for (unsigned i = 0; i < 20; i++) {
		meet(ncpus, 0);
	}
	CHECK(rounds[0] == before + 20, rounds[0]);
}

/* The second processor got INIT; the start-up message comes after the hold. */
void stage_init(void)
{
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0xc500);
	delay_ns(20 * NSEC_PER_MSEC);
	stage(1);
	CHECK(ap_here == 0, ap_here);
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0x4608);
	wait_count(&ap_here, 1);
	/* And INIT again, to a processor that runs: it stops, and keeps so over a save. */
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0xc500);
	delay_ns(20 * NSEC_PER_MSEC);
	stage(2);
	uint64_t before = rounds[1];
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(rounds[1] == before, rounds[1]);
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0x4608);
	wait_count(&ap_here, 2);
}

static void on_nmi(struct frame *f)
{
	(void)f;
	nmi_seen++;
}

static uint64_t do_halt_if0(struct frame *f, uint64_t arg)
{
	(void)f;
	(void)arg;
	lapic_set(LAPIC_ICR_LO, 0x40000 | VEC_SELF); /* waits: interrupts are off */
	halted_here = 1;
	__asm__ volatile("cli; hlt" ::: "memory");
	halted_here = 2;
	return 0;
}

/* Halted with interrupts off: an interrupt waits and must not wake it, the other's NMI does. */
void stage_hlt_if0(void)
{
	irq_handler(2, on_nmi);
	irq_handler(VEC_SELF, on_self);
	start_ap(1);
	wait_count(&ap_here, 1);
	call0(do_halt_if0, 0);
	CHECK(nmi_seen == 1 && self_count == 0, nmi_seen);
	irq_on();
	wait_count(&self_count, 1);
	CHECK(nmi_seen == 1, nmi_seen);
}

/* The other processor of stage_hlt_if0, and of stage_init: counts, and wakes the first. */
void ap_wake(void)
{
	__atomic_add_fetch(&ap_here, 1, __ATOMIC_SEQ_CST);
	if (!arg_is("stage", "hlt-if0")) {
		for (;;) {
			rounds[1]++;
			cpu_relax();
		}
	}
	while (halted_here == 0) {
		cpu_relax();
	}
	delay_ns(20 * NSEC_PER_MSEC);
	stage(1);
	delay_ns(50 * NSEC_PER_MSEC);
	CHECK(halted_here == 1, halted_here);
	send_nmi(0);
	for (;;) {
		cpu_relax();
	}
}
