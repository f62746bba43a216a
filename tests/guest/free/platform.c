/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest for the platform devices that tell the VMM something, or that the VMM tells something
 * (it_platform.sh): do=panic and do=exit n=N end the VM; do=genid prints the VM generation id
 * every 50 ms and how often it has changed under the guest. do=hang, do=loop: after a line a second for n=N seconds the
 * processor halts, or loops, with interrupts disabled; do=busy: it loops with them enabled, and do=idle halts so.
 */
#include "rt.h"

#define GENID 0xef000ull

static void genid(void)
{
	const volatile uint64_t *id = (const volatile uint64_t *)GENID;
	uint64_t lo = id[0], hi = id[1], changes = 0;

	for (uint64_t n = 1;; n++) {
		/* Many looks per line: an id that changes while the guest runs shows. */
		for (unsigned i = 0; i < 50; i++) {
			if (id[0] != lo || id[1] != hi) {
				lo = id[0];
				hi = id[1];
				changes++;
			}
			delay_ns(NSEC_PER_MSEC);
		}
		print("look %lu changes %lu id %lx-%lx\n", n, changes, hi, lo);
		if (get_char() == 'r') {
			reset_by_i8042();
		}
	}
}

static uint64_t hang0(struct frame *f, uint64_t loops)
{
	(void)f;
	for (;;) {
		if (loops) {
			cpu_relax();
		} else {
			__asm__ volatile("cli; hlt");
		}
	}
	return 0;
}

/* Stands still in one of four ways; returns if none was asked for. */
static void stand_still(void)
{
	bool hang = arg_is("do", "hang"), loop = arg_is("do", "loop");
	bool busy = arg_is("do", "busy"), idle = arg_is("do", "idle");

	if (!hang && !loop && !busy && !idle) {
		return;
	}
	for (uint64_t i = 0; i < arg_number("n", 0); i++) {
		print("second %lu\n", i);
		delay_ns(1000 * NSEC_PER_MSEC);
	}
	print("standing still\n");
	if (hang || loop) {
		call0(hang0, loop);
	}
	irq_on();
	for (;;) {
		if (idle) {
			halt();
		}
	}
}

void guest_main(void)
{
	print("platform guest\n");
	stand_still();
	if (arg_is("do", "panic")) {
		CHECK(inb(0x505) == 1, inb(0x505));
		outb(0x505, 2); /* a crash kernel would take over: no reason to end */
		print("panicking\n");
		outb(0x505, 1);
	} else if (arg_is("do", "exit")) {
		outb(0x501, (uint8_t)arg_number("n", 0));
	} else {
		genid();
	}
	for (;;) {
		print("still here\n");
		delay_ns(100 * NSEC_PER_MSEC);
	}
}

void guest_ap_main(void)
{
	for (;;) {
		cpu_relax();
	}
}
