/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that does what a VMM must survive. Command line: do=WHAT, n=N, seed=N.
 *
 *  reset   asks for a reset at once
 *  off     powers off at once
 *  race    two processors: one powers off while the other asks for a reset
 *  string  asks for a reset thousands of times with one instruction
 *  timers  sets a device's timer anew without pause, for ever
 *  storm   n accesses to random ports, in and out, of 1, 2 and 4 bytes, single and string
 */
#include "rt.h"

#define PM1_CNT_HIGH 0x605
#define SLP_EN_S5 0x34 /* sleep type 5, sleep enable */

static volatile unsigned ap_alive;
static volatile uint64_t race_at; /* TSC when both act; 0: not yet known */
static uint8_t buf[256];

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static void __attribute__((noreturn)) power_off(void)
{
	outb(PM1_CNT_HIGH, SLP_EN_S5);
	for (;;) {
		cpu_relax();
	}
}

static void wait_until(uint64_t tsc)
{
	while ((int64_t)(tsc - rdtsc()) > 0) {
		cpu_relax();
	}
}

static void __attribute__((noreturn)) race(void)
{
	lapic_on();
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0xc500); /* INIT */
	delay_ns(10 * NSEC_PER_MSEC);
	lapic_set(LAPIC_ICR_HI, 1u << 24);
	lapic_set(LAPIC_ICR_LO, 0x4608); /* start-up at page 8 */
	while (ap_alive == 0) {
		cpu_relax();
	}
	race_at = rdtsc() + 5 * tsc_khz();
	wait_until(race_at);
	power_off();
}

void guest_ap_main(void)
{
	ap_alive = 1;
	while (race_at == 0) {
		cpu_relax();
	}
	wait_until(race_at);
	reset_by_i8042();
}

/* Ports that would end the storm: keyboard controller (reset line), PM1 control, reset register. */
static bool ends_us(unsigned port, unsigned len)
{
	static const unsigned ports[] = { 0x60, 0x64, 0x604, 0x605, 0xcf9 };
	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++) {
		if (port <= ports[i] && ports[i] < port + len) {
			return true;
		}
	}
	return false;
}

/* Chips in the kernel that interrupt us, and the sync port. */
static bool is_kernels(unsigned port)
{
	return port < 0x70 || (port >= 0x9e && port < 0xa2) || (port >= 0x4cd && port < 0x4d2) ||
	       (port >= 0x5dd && port < 0x5e1);
}

static void access(uint16_t port, unsigned kind, uint32_t v)
{
	uint64_t n = v % 32 + 1;
	void *p = buf;
	switch (kind) {
	case 0:
		outb(port, (uint8_t)v);
		break;
	case 1:
		inb(port);
		break;
	case 2:
		__asm__ volatile("outw %w0, %1" ::"a"(v), "Nd"(port));
		break;
	case 3:
		__asm__ volatile("inw %1, %w0" : "=a"(v) : "Nd"(port));
		break;
	case 4:
		__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
		break;
	case 5:
		__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
		break;
	case 6:
		__asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(port) : "memory");
		break;
	default:
		__asm__ volatile("rep insl" : "+D"(p), "+c"(n) : "d"(port) : "memory");
		break;
	}
}

static void storm(uint64_t n, uint64_t seed)
{
	/* The VMM's own devices; interrupt controller and timer chip are the kernel's. */
	static const uint16_t known[] = { 0x70,  0x71,  0x600, 0x602, 0x608, 0x60a, 0x3f9,
					  0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff };
	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = mix(seed + i);
		uint16_t port = r & 1 ? known[(r >> 8) % (sizeof(known) / sizeof(known[0]))]
				      : (uint16_t)(r >> 8);
		if (!ends_us(port, 4) && !is_kernels(port)) {
			access(port, (r >> 24) % 8, (uint32_t)(r >> 32));
		}
	}
}

void guest_main(void)
{
	if (arg_is("do", "reset")) {
		reset_by_i8042();
	}
	if (arg_is("do", "off")) {
		power_off();
	}
	if (arg_is("do", "race")) {
		race();
	}
	if (arg_is("do", "string")) {
		const void *p = buf;
		uint64_t n = sizeof(buf);
		for (unsigned i = 0; i < sizeof(buf); i++) {
			buf[i] = 0xfe;
		}
		__asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(0x64) : "memory");
		fail("a reset that was not", n);
	}
	if (arg_is("do", "timers")) {
		outb(0x70, 0x0b);
		outb(0x71, 0x42); /* periodic interrupt, 24 hours */
		print("hostile\n");
		for (;;) {
			outb(0x70, 0x0a);
			outb(0x71, (uint8_t)(0x26 + (rdtsc() >> 8 & 7)));
			outb(0x70, 0x0c);
			inb(0x71); /* acknowledges, so that the next one is due */
		}
	}
	if (arg_is("do", "storm")) {
		print("hostile\n");
		storm(arg_number("n", 20000), arg_number("seed", 1));
		/* Whatever the serial port's registers are by now. */
		outb(0x3fb, 3);
		outb(0x3fc, 3);
		outb(0x3f9, 0);
		print("\nsurvived\n");
		power_off();
	}
	fail("do=WHAT is missing", 0);
}
