/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot 1: header, image without ELF (address fields), information for the kernel.
 * Used by core/boot.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_MULTIBOOT_H
#define TORPOR_CORE_BOOT_MULTIBOOT_H

#include "core/boot_file.h"
#include "core/boot_internal.h"

#define BOOT_MULTIBOOT_SEARCH_BYTES 8192u

struct boot_multiboot {
	uint32_t flags;
	uint64_t header_off; /* in the file */
	/* With address fields only: */
	bool has_addresses;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

/* Looks for a header in the first `len` bytes (at most 8 KiB are looked at). */
bool boot_multiboot_find(const uint8_t *head, size_t len, struct boot_multiboot *ret_mb);
/* ERR_INCOMPAT when the header demands what is not there. */
MUST_USE struct err *boot_multiboot_check(const struct boot_multiboot *mb,
					  const struct boot_file *f);
/* Loads by the address fields and gives the entry. */
MUST_USE struct err *boot_multiboot_load(const struct boot_multiboot *mb, const struct boot_file *f,
					 struct gmem *gmem, struct boot_place *place,
					 uint64_t *ret_entry);
/* Kernel, initrd and command line are in place; entry is a physical address. */
MUST_USE struct err *boot_multiboot_build(struct boot_env *env, uint64_t entry,
					  struct boot_regs *ret_regs);

#endif
