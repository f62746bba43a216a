/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run-time of the freestanding test guests: console, command line, memory map, clocks, local APIC,
 * interrupts, and calls into ring 0. Everything runs in ring 3 unless it says otherwise.
 *
 * The sync port tells a test harness how far the guest is; on a machine where nobody owns the port
 * reads give all ones and the guest goes on at once.
 */
#ifndef TESTS_GUEST_RT_H
#define TESTS_GUEST_RT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYNC_PORT 0x5e0
#define SYNC_DONE 0xd0 /* all assertions held */
#define SYNC_SKIP 0xe5 /* this machine cannot bring the guest there; the console says why */
#define SYNC_FAIL 0xf1 /* one did not; the console says which */
#define SYNC_HOLD 0x00 /* read from the port: wait; anything else: go on */

#define PAGE 4096ull
#define NSEC_PER_MSEC 1000000ull

struct frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
	uint64_t vec, err, rip, cs, rflags, rsp, ss;
};

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}
static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return ((uint64_t)hi << 32) | lo;
}
static inline void cpu_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* The guest itself. Never returns. */
void guest_main(void) __attribute__((noreturn));
/* Each application processor, ring 3; at most three. */
void guest_ap_main(void) __attribute__((noreturn));

/* ---- console ---- */
void put_char(char c);
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int get_char(void); /* -1: none waiting */

/* ---- what the loader told us ---- */
uint64_t arg_number(const char *key, uint64_t dflt); /* key=NUMBER on the command line */
bool arg_is(const char *key, const char *value);     /* key=value */
struct ram {
	uint64_t base, end;
};
size_t ram_ranges(struct ram *out, size_t max); /* page-aligned, from 2 MiB above us on */
/* Makes [0, end) accessible; memory for the tables comes from `pool`, whose new start is returned. */
uint64_t rt_map(uint64_t end, uint64_t pool);

/* ---- ring 0 ---- */
/* Runs fn(frame, arg) in ring 0 with interrupts off. fn sees the caller's registers. */
typedef uint64_t ring0_fn(struct frame *f, uint64_t arg);
uint64_t call0(ring0_fn *fn, uint64_t arg);
void irq_on(void);
void irq_off(void);
void halt(void);          /* sti; hlt in ring 0: returns after one interrupt */
uint64_t msr_get(uint32_t msr);
void msr_set(uint32_t msr, uint64_t v);
uint64_t call_msr_set(struct frame *f, uint64_t arg); /* for call0: arg points to {msr, value} */
void avx_on(void);        /* CR4.OSXSAVE and XCR0 */
void reset_by_i8042(void) __attribute__((noreturn));
void triple_fault(void) __attribute__((noreturn));

/* Handlers run in ring 0 with interrupts off: keep them short. */
typedef void irq_fn(struct frame *f);
void irq_handler(unsigned vec, irq_fn *fn); /* exceptions too, all but call0's own */

/* ---- local APIC, 8259, clocks ---- */
enum { LAPIC_ID = 0x20, LAPIC_EOI = 0xb0, LAPIC_SVR = 0xf0, LAPIC_IRR = 0x200, LAPIC_ICR_LO = 0x300,
       LAPIC_ICR_HI = 0x310, LAPIC_LVTT = 0x320, LAPIC_LVT0 = 0x350, LAPIC_TMICT = 0x380,
       LAPIC_TMCCT = 0x390, LAPIC_TDCR = 0x3e0 };
uint32_t lapic_get(uint32_t reg);
void lapic_set(uint32_t reg, uint32_t v);
/* A handler for irq_handler: the timer has done its work by waking the guest. */
void irq_tick(struct frame *f);
void lapic_on(void);
void lapic_oneshot(unsigned vec, uint64_t ns); /* KVM's APIC bus runs at 1 GHz */
void pic_init(unsigned base_vec, uint8_t mask_master, uint8_t mask_slave);
uint64_t tsc_khz(void); /* from kvmclock, else the PIT; measured once */
uint64_t clock_ns(void); /* kvmclock */
void delay_ns(uint64_t ns);

/* ---- sync ---- */
void sync_say(uint8_t stage);
void sync_hold(void); /* waits while the port reads SYNC_HOLD */
void done(void) __attribute__((noreturn));
void skip(const char *why) __attribute__((noreturn));
void fail(const char *why, uint64_t value) __attribute__((noreturn));
#define CHECK(cond, value)                                                                         \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fail(#cond, (uint64_t)(value));                                            \
		}                                                                                  \
	} while (0)

#endif
