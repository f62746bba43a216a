/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the stage guests share (stages*.c): the harness's ports, the helpers of stages.c, and the
 * stages themselves, one function per name in stages.c's table.
 */
#ifndef TESTS_GUEST_STAGES_H
#define TESTS_GUEST_STAGES_H

#include "rt.h"

/* Ports of the harness beside SYNC_PORT; all-ones where nobody owns them. */
#define STOP_PORT 0x5e1 /* any access stops all vCPUs right behind it */
#define SINK_PORT 0x5e2 /* the harness compares what arrives with a pattern */
#define FEED_PORT 0x5e3 /* reads give the pattern */
#define COUNT_PORT 0x5e4 /* 32 bits: each read gives one more than the last */
#define COUNT_GPA 0xd0000000ull /* the same by MMIO, 64 bits; writes must count likewise */
#define PATTERN(i) ((uint8_t)((i) * 7 + 3))

#define VEC_TIMER 0x40
#define VEC_SELF 0x51
#define VEC_PIC 0x30

#define VEC_LEVEL 0x58
#define IOAPIC_LEVEL 0x8000u
#define IOAPIC_REMOTE_IRR 0x4000u
#define PIN_RTC 8
#define PIN_SCI 9

enum { LAPIC_TPR = 0x80, LAPIC_LDR = 0xd0, LAPIC_DFR = 0xe0, LAPIC_ISR = 0x100,
       LAPIC_LVT_THERMAL = 0x330, LAPIC_LVT_PMC = 0x340, LAPIC_LVT1 = 0x360,
       LAPIC_LVT_ERROR = 0x370 };

extern volatile unsigned timer_count, self_count, pit_count;

void eoi(void);
void on_self(struct frame *f);
void on_pit(struct frame *f);
/* Says n and waits as long as the harness holds. */
void stage(uint8_t n);
/* Waits for *count to reach want, at most five seconds of TSC time. */
void wait_count(volatile unsigned *count, unsigned want);
void wait_least(volatile unsigned *count, unsigned want); /* or more */
/*
 * A software KVM may end an interrupt the moment it delivers it: no bit in service, no remote IRR.
 * A handler that needs them looks first; its stage asks to be skipped after all else held.
 */
extern bool no_service;
void find_service(unsigned vec);
void skip_service(void);
/* True if the interrupt is set in the 256-bit register that starts at reg. */
bool lapic_bit(uint32_t reg, unsigned vec);
void send_nmi(unsigned apic_id);
void start_ap(unsigned apic_id); /* INIT, a pause, start-up */
/* MSR access from ring 0. */
uint64_t rdmsr0(uint32_t msr);
void wrmsr0(uint32_t msr, uint64_t v);

/* IOAPIC registers, and CMOS bytes of the real-time clock. */
uint32_t ioapic_get(uint32_t reg);
void ioapic_set(uint32_t reg, uint32_t v);
uint8_t rtc_get(uint8_t index);
void rtc_set(uint8_t index, uint8_t v);

/* stages_acpi.c: events of ACPI hardware */
void stage_sleepbtn(void);
void stage_gpe(void);
void stage_gpe_off(void);
void stage_gpe_held(void);
void stage_sci_service(void);
void stage_rtc_sci(void);
void stage_battery(void);

/* stages_irq.c: interrupt controllers and timers */
void stage_nested(void);
void stage_nmi(void);
void stage_fault(void);
void stage_periodic(void);
void stage_frozen(void);
void stage_late(void);
void stage_pit0(void);
void stage_pit0_over(void);
void stage_pit2(void);
void stage_pit3(void);
void stage_gate(void);
void stage_pic(void);
void stage_level(void);
void stage_sci(void);
void stage_x2apic(void);
void stage_xapic(void);
void stage_alarm(void);

/* stages_cpu.c: registers, memory, I/O under way */
void stage_kvmclock(void);
void stage_msrs(void);
void stage_break(void);
void stage_fpu(void);
void stage_cr3(void);
void stage_outs(void);
void stage_ins(void);
void stage_pio(void);
void stage_mmio(void);
void stage_bigmem(void);
void stage_input(void);
void stage_alone(void);

/* stages_smp.c */
void stage_barrier(void);
void stage_init(void);
void stage_hlt_if0(void);
void ap_barrier(void);
void ap_wake(void);

#endif
