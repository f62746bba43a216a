/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map that a booted kernel is told, in ascending order and without overlaps. The boot
 * kinds translate it to their own forms. Used by core/boot*.c only.
 */
#ifndef TORPOR_CORE_BOOT_E820_H
#define TORPOR_CORE_BOOT_E820_H

#include "core/base/err.h"

#define BOOT_E820_RAM 1u
#define BOOT_E820_RESERVED 2u
#define BOOT_E820_MAX 16u

/* Where the extended BIOS data area starts: conventional memory ends here, as guests expect. */
#define BOOT_EBDA_START 0x9fc00u
#define BOOT_VGA_START 0xa0000u
#define BOOT_HIGH_START 0x100000u /* 1 MiB */
/* IOAPIC, LAPIC and the pages that KVM keeps for itself (TSS and identity map). */
#define BOOT_APIC_START 0xfec00000u
#define BOOT_APIC_END 0x100000000ull

struct boot_e820_range {
	uint64_t base;
	uint64_t len; /* bytes */
	uint32_t type;
};

struct boot_e820 {
	unsigned n;
	struct boot_e820_range e[BOOT_E820_MAX];
};

/*
 * low_end: end of the RAM that starts at 0, above 1 MiB. high_len 0: no RAM at high_base.
 * acpi_len 0: no tables; they may lie anywhere below low_end and are reported as reserved.
 */
void boot_e820_build(uint64_t low_end, uint64_t high_base, uint64_t high_len, uint64_t acpi_base,
		     uint64_t acpi_len, struct boot_e820 *ret_map);

#endif
