/* SPDX-License-Identifier: Apache-2.0 */
/* The memory map that a booted kernel is told. See boot_e820.h. */
#include "core/boot_e820.h"

static void add(struct boot_e820 *m, uint64_t lo, uint64_t hi, uint32_t type)
{
	if (lo >= hi) {
		return;
	}
	BUG_ON(m->n == BOOT_E820_MAX);
	m->e[m->n++] = (struct boot_e820_range){ .base = lo, .len = hi - lo, .type = type };
}

/* RAM [lo, hi) without what lies in [hole_lo, hole_hi). */
static void add_ram(struct boot_e820 *m, uint64_t lo, uint64_t hi, uint64_t hole_lo,
		    uint64_t hole_hi)
{
	add(m, lo, MIN(hi, MAX(lo, hole_lo)), BOOT_E820_RAM);
	add(m, MAX(lo, MIN(hi, hole_hi)), hi, BOOT_E820_RAM);
}

static void sort(struct boot_e820 *m)
{
	for (unsigned i = 1; i < m->n; i++) {
		struct boot_e820_range r = m->e[i];
		unsigned at = i;
		while (at > 0 && m->e[at - 1].base > r.base) {
			m->e[at] = m->e[at - 1];
			at--;
		}
		m->e[at] = r;
	}
}

void boot_e820_build(uint64_t low_end, uint64_t high_base, uint64_t high_len, uint64_t acpi_base,
		     uint64_t acpi_len, struct boot_e820 *ret_map)
{
	BUG_ON(low_end <= BOOT_HIGH_START || low_end > BOOT_APIC_START);
	BUG_ON(acpi_base > low_end || acpi_len > low_end - acpi_base);
	struct boot_e820 m = { 0 };
	/* An empty hole at low_end cuts nothing. */
	uint64_t hole_lo = acpi_len > 0 ? acpi_base : low_end;
	uint64_t hole_hi = hole_lo + acpi_len;
	add_ram(&m, 0, BOOT_EBDA_START, hole_lo, hole_hi);
	/* Tables that reach into the EBDA page are covered by its entry. */
	add(&m, BOOT_EBDA_START, BOOT_VGA_START, BOOT_E820_RESERVED);
	add(&m, hole_lo, MIN(hole_hi, MAX(hole_lo, (uint64_t)BOOT_EBDA_START)), BOOT_E820_RESERVED);
	add(&m, MAX(hole_lo, (uint64_t)BOOT_VGA_START), hole_hi, BOOT_E820_RESERVED);
	add_ram(&m, BOOT_HIGH_START, low_end, hole_lo, hole_hi);
	add(&m, BOOT_APIC_START, BOOT_APIC_END, BOOT_E820_RESERVED);
	add(&m, high_base, high_base + high_len, BOOT_E820_RAM);
	sort(&m);
	*ret_map = m;
}
