/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stages of ACPI hardware: fixed and general-purpose events at each of their states, see stages.c.
 * The harness brings the events in while the guest stands at its hold. Handlers run in ring 0.
 */
#include "stages.h"

enum { PM1_STS = 0x600, PM1_EN = 0x602, GPE_STS = 0x620, GPE_EN = 0x640 };
enum { STS_SLEEP = 0x200, STS_RTC = 0x400 };
/* The harness's events, see it_stages.c. */
enum { GPE_OFF = 37, GPE_ON = 200, GPE_BIT_OFF = 1 << GPE_OFF % 8, GPE_BIT_ON = 1 << GPE_ON % 8 };

static volatile unsigned sci_count, sleep_count, on_count, off_count, rtc_count;

static uint16_t inw(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}

/* Counts and clears everything that is set; returns false if nothing was. */
static bool take_events(void)
{
	uint16_t pm1 = inw(PM1_STS);
	uint8_t on = inb(GPE_STS + GPE_ON / 8);
	uint8_t off = inb(GPE_STS + GPE_OFF / 8);

	sleep_count += (pm1 & STS_SLEEP) != 0;
	rtc_count += (pm1 & STS_RTC) != 0;
	on_count += (on & GPE_BIT_ON) != 0;
	off_count += (off & GPE_BIT_OFF) != 0;
	outw(PM1_STS, pm1);
	outb(GPE_STS + GPE_ON / 8, on);
	outb(GPE_STS + GPE_OFF / 8, off);
	return pm1 != 0 || on != 0 || off != 0;
}

static void on_sci(struct frame *f)
{
	(void)f;
	find_service(VEC_LEVEL);
	sci_count++;
	/* Ended at delivery with the line still up, a software KVM asks once more. */
	CHECK(take_events() || no_service, sci_count);
	eoi();
}

static void sci_begin(irq_fn *handler)
{
	pic_init(VEC_PIC, 0xff, 0xff);
	irq_handler(VEC_LEVEL, handler);
	ioapic_set(0x11 + 2 * PIN_SCI, 0);
	ioapic_set(0x10 + 2 * PIN_SCI, VEC_LEVEL | IOAPIC_LEVEL);
}

static void sci_end(void)
{
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(!(ioapic_get(0x10 + 2 * PIN_SCI) & IOAPIC_REMOTE_IRR), 0);
	CHECK(inw(PM1_STS) == 0, inw(PM1_STS));
}

/* The sleep button is pressed: its event is pending and enabled, SCI waits for interrupts on. */
void stage_sleepbtn(void)
{
	sci_begin(on_sci);
	outw(PM1_EN, STS_SLEEP);
	stage(1);
	CHECK(inw(PM1_STS) == STS_SLEEP && sleep_count == 0, inw(PM1_STS));
	CHECK(inw(PM1_EN) == STS_SLEEP, inw(PM1_EN));
	irq_on();
	wait_count(&sleep_count, 1);
	sci_end();
	CHECK(sleep_count == 1, sleep_count);
}

/* GPE_ON is pending and enabled; GPE_OFF is pending, and raises SCI once it is enabled. */
void stage_gpe(void)
{
	sci_begin(on_sci);
	outb(GPE_EN + GPE_ON / 8, GPE_BIT_ON);
	stage(1);
	CHECK(inb(GPE_STS + GPE_ON / 8) == GPE_BIT_ON, inb(GPE_STS + GPE_ON / 8));
	CHECK(inb(GPE_EN + GPE_ON / 8) == GPE_BIT_ON, inb(GPE_EN + GPE_ON / 8));
	irq_on();
	wait_count(&on_count, 1);
	sci_end();
	CHECK(on_count == 1, on_count);
}

void stage_gpe_off(void)
{
	unsigned before;

	sci_begin(on_sci);
	irq_on();
	stage(1);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(sci_count == 0, sci_count);
	before = off_count;
	outb(GPE_EN + GPE_OFF / 8, GPE_BIT_OFF);
	wait_count(&off_count, before + 1);
	sci_end();
	CHECK(off_count == 1, off_count);
}

/*
 * The harness brings GPE_ON in with a clear event: SCI comes back however often the guest clears
 * it, and stays away once the clear event has fired. All of it happens during the hold.
 */
void stage_gpe_held(void)
{
	unsigned seen;

	sci_begin(on_sci);
	outb(GPE_EN + GPE_ON / 8, GPE_BIT_ON);
	irq_on();
	stage(1);
	CHECK(on_count >= 3, on_count);
	seen = on_count;
	sci_end();
	CHECK(on_count == seen, on_count);
	CHECK(inb(GPE_STS + GPE_ON / 8) == 0, inb(GPE_STS + GPE_ON / 8));
}

static void on_sci_slow(struct frame *f)
{
	(void)f;
	find_service(VEC_LEVEL);
	sci_count++;
	if (sci_count == 1) {
		sync_say(1);
		sync_hold();
		CHECK(no_service || lapic_bit(LAPIC_ISR, VEC_LEVEL), sci_count);
		eoi(); /* nothing was cleared: it comes again at once */
		return;
	}
	CHECK(take_events() || no_service, sci_count);
	eoi();
}

/* Held inside SCI's handler: the line is up, the interrupt in service and not acknowledged. */
void stage_sci_service(void)
{
	sci_begin(on_sci_slow);
	outw(PM1_EN, STS_RTC);
	rtc_get(12);
	rtc_set(11, 0x06);
	rtc_set(1, 0xff); /* every second */
	rtc_set(3, 0xff);
	rtc_set(5, 0xff);
	irq_on();
	rtc_set(11, 0x26);
	wait_count(&rtc_count, 1);
	CHECK(sci_count >= 2, sci_count);
	rtc_set(11, 0x06);
	rtc_get(12);
	sci_end();
	skip_service();
}

/* The alarm of the real-time clock, due in two seconds, as a fixed event; its own line is masked. */
void stage_rtc_sci(void)
{
	sci_begin(on_sci);
	outw(PM1_EN, STS_RTC);
	rtc_set(11, 0x06); /* binary, 24 hours */
	rtc_set(1, (uint8_t)((rtc_get(0) + 2u) % 60));
	rtc_set(3, 0xff);
	rtc_set(5, 0xff);
	rtc_get(12);
	rtc_set(11, 0x26);
	irq_on();
	stage(1);
	CHECK(rtc_count == 0, rtc_count);
	wait_count(&rtc_count, 1);
	CHECK((rtc_get(12) & 0xa0) == 0xa0, rtc_count);
	sci_end();
	CHECK(rtc_count == 1, rtc_count);
}

/* ---- battery ---- */

#define BATTERY 0xfea00000ull
enum { BAT_INT_STATUS, BAT_INT_ENABLE, BAT_AC, BAT_STATUS, BAT_HEALTH, BAT_PRESENT, BAT_CAPACITY };
#define PIN_BATTERY 5

static volatile unsigned bat_count, bat_bits;

static uint32_t bat_get(unsigned reg)
{
	return ((volatile uint32_t *)BATTERY)[reg];
}

static void on_battery(struct frame *f)
{
	(void)f;
	bat_count++;
	bat_bits |= bat_get(BAT_INT_STATUS);
	eoi();
}

/* The harness sets values at the hold: the interrupt waits for interrupts on, the values are there. */
void stage_battery(void)
{
	pic_init(VEC_PIC, 0xff, 0xff);
	irq_handler(VEC_LEVEL, on_battery);
	ioapic_set(0x11 + 2 * PIN_BATTERY, 0);
	ioapic_set(0x10 + 2 * PIN_BATTERY, VEC_LEVEL);
	CHECK(bat_get(BAT_CAPACITY) == 100 && bat_get(BAT_AC) == 1, bat_get(BAT_CAPACITY));
	((volatile uint32_t *)BATTERY)[BAT_INT_ENABLE] = 3;
	stage(1);
	CHECK(bat_get(BAT_CAPACITY) == 42, bat_get(BAT_CAPACITY));
	CHECK(bat_get(BAT_AC) == 0, bat_get(BAT_AC));
	CHECK(bat_get(BAT_HEALTH) == 2, bat_get(BAT_HEALTH));
	CHECK(bat_get(BAT_STATUS) == 2, bat_get(BAT_STATUS));
	CHECK(bat_get(BAT_PRESENT) == 1, bat_get(BAT_PRESENT));
	CHECK(bat_count == 0, bat_count);
	irq_on();
	wait_count(&bat_count, 1);
	delay_ns(20 * NSEC_PER_MSEC);
	CHECK(bat_count == 1 && bat_bits == 3, bat_bits);
}
