/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who lies where in guest memory at boot: every range that a boot loader fills or keeps free is
 * claimed here, and no two claims overlap.
 *
 * Small tables (start info, zero page, command line, page tables, module lists) go to conventional
 * memory, first fit from 64 KiB up; the initrd goes as high as possible. The first 64 KiB are used
 * last, because guests put the start-up code of their other processors there.
 * Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_PLACE_H
#define TORPOR_CORE_BOOT_PLACE_H

#include "core/gmem.h"

#define BOOT_CLAIMS_MAX 64u

struct boot_claim {
	uint64_t lo;
	uint64_t hi;   /* exclusive */
	char what[40]; /* for messages */
};

struct boot_place {
	const struct gmem *gmem; /* borrowed */
	unsigned n;
	struct boot_claim claim[BOOT_CLAIMS_MAX];
};

/* Starts with page 0 and everything from the EBDA to 1 MiB claimed, and the ACPI tables if any. */
MUST_USE struct err *boot_place_init(struct boot_place *p, const struct gmem *gmem, gpa_t acpi_base,
				     uint64_t acpi_len);
/*
 * Claims [lo, lo + len), which must be RAM of one region and free; len > 0. The format names the
 * thing. ERR_LIMIT when outside of memory, ERR_CORRUPT when it overlaps another claim.
 */
MUST_USE struct err *boot_place_claim(struct boot_place *p, uint64_t lo, uint64_t len,
				      const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Finds and claims room in conventional memory; align is a power of two. ERR_LIMIT when full. */
MUST_USE struct err *boot_place_low(struct boot_place *p, const char *what, uint64_t len,
				    uint64_t align, gpa_t *ret_gpa);
/*
 * Finds and claims the highest page-aligned room in low RAM above 1 MiB whose end is at most
 * `limit`. *ret_found says whether there was any.
 */
MUST_USE struct err *boot_place_high(struct boot_place *p, const char *what, uint64_t len,
				     uint64_t limit, gpa_t *ret_gpa, bool *ret_found);

#endif
