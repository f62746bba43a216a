/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest that sleeps on its sleep button and wakes by its power button (it_s2idle.sh): SCI in, a byte to
 * the port of the low-power idle device, HLT with no timer until the power button. A beat while awake.
 * Between beats it tells of the clock's alarm and of general-purpose event 5; battery=1: of the battery's capacity.
 * deaf=1: does not know the sleep button. slow=MS: takes so long from the button to the sleep.
 */
#include "rt.h"

enum { PM1_STS = 0x600, PM1_EN = 0x602, S2IDLE = 0x610, GPE_STS = 0x620, GPE_EN = 0x640 };
enum { STS_POWER = 0x100, STS_SLEEP = 0x200, STS_RTC = 0x400, GPE_5 = 1 << 5, BEAT_MS = 20 };
#define CAPACITY 0xfea00018ull /* devices/battery.c */
enum { VEC_TIMER = 0x40, VEC_SCI = 0x58, PIN_SCI = 9, LEVEL = 0x8000 };

static volatile unsigned power_count, sleep_count, rtc_count, gpe_count;

static void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

static void on_sci(struct frame *f)
{
	uint16_t sts;
	(void)f;
	__asm__ volatile("inw %1, %0" : "=a"(sts) : "Nd"((uint16_t)PM1_STS));
	power_count += (sts & STS_POWER) != 0;
	sleep_count += (sts & STS_SLEEP) != 0;
	rtc_count += (sts & STS_RTC) != 0;
	gpe_count += (inb(GPE_STS) & GPE_5) != 0;
	outw(PM1_STS, sts);
	outb(GPE_STS, GPE_5);
	lapic_set(LAPIC_EOI, 0);
}

static void on_timer(struct frame *f)
{
	(void)f;
	lapic_set(LAPIC_EOI, 0);
}

static void ioapic_set(uint32_t reg, uint32_t v)
{
	volatile uint32_t *io = (volatile uint32_t *)0xfec00000ull;
	io[0] = reg;
	io[4] = v;
}

static void wait_ms(unsigned ms)
{
	uint64_t end = clock_ns() + ms * NSEC_PER_MSEC;
	while (clock_ns() < end) {
		lapic_oneshot(VEC_TIMER, end - clock_ns() + 1000);
		halt();
	}
}

void guest_main(void)
{
	unsigned slept = 0, events = 0;
	uint32_t capacity = 0;
	bool battery = arg_number("battery", 0) != 0;
	bool deaf = arg_number("deaf", 0) != 0;
	unsigned slow = (unsigned)arg_number("slow", 0);

	lapic_on();
	pic_init(0x30, 0xff, 0xff);
	irq_handler(VEC_SCI, on_sci);
	irq_handler(VEC_TIMER, on_timer);
	ioapic_set(0x11 + 2 * PIN_SCI, 0);
	ioapic_set(0x10 + 2 * PIN_SCI, VEC_SCI | LEVEL);
	outw(PM1_EN, (deaf ? 0 : STS_SLEEP) | STS_POWER | STS_RTC);
	outb(GPE_EN, GPE_5);
	print("idle guest %u\n", (unsigned)inb(S2IDLE));
	for (unsigned n = 1;; n++) {
		wait_ms(BEAT_MS);
		print("beat %u slept %u power %u\n", n, slept, power_count);
		if (rtc_count + gpe_count != events) {
			events = rtc_count + gpe_count;
			print("rtc %u gpe %u\n", rtc_count, gpe_count);
		}
		if (battery && *(volatile uint32_t *)CAPACITY != capacity) {
			capacity = *(volatile uint32_t *)CAPACITY;
			print("capacity %u\n", capacity);
		}
		if (sleep_count == slept) {
			continue;
		}
		if (slow != 0) {
			wait_ms(slow);
		}
		slept = sleep_count;
		unsigned before = power_count;
		print("sleeps %u\n", slept);
		lapic_oneshot(VEC_TIMER, 0);
		outb(S2IDLE, 1);
		while (power_count == before) {
			halt();
		}
		outb(S2IDLE, 0);
		print("wakes %u power %u\n", slept, power_count);
	}
}

void guest_ap_main(void)
{
	for (;;) {
		cpu_relax();
	}
}
