/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest for the platform devices that tell the VMM something, or that the VMM tells something
 * (it_platform.sh): do=panic and do=exit n=N end the VM; do=genid prints the VM generation id
 * every 50 ms and how often it has changed under the guest.
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

void guest_main(void)
{
	print("platform guest\n");
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
