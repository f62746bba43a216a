/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a kernel into guest memory and says how the boot processor enters it.
 *
 * Kinds: ELF with a PVH note (xen/interface/elfnote.h XEN_ELFNOTE_PHYS32_ENTRY), ELF64 vmlinux by
 * the 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst), bzImage (payload unpacked here:
 * gzip, xz, zstd, lz4, then entered as the ELF inside), ELF32 with a multiboot-1 header.
 * The kernel file is hostile input: every offset is checked, and a bad file changes nothing but
 * guest memory of a VM that is then destroyed.
 *
 * Called by core when a VM is built or rebuilt (reset), before vCPUs run.
 */
#ifndef TORPOR_CORE_BOOT_H
#define TORPOR_CORE_BOOT_H

#include "core/gmem.h"
#include "core/kvm_vcpu.h"

struct boot_input {
	const char *kernel_name; /* for messages */
	int kernel_fd;           /* borrowed */
	const char *initrd_name;
	int initrd_fd; /* borrowed; -1: none */
	const char *cmdline;
	gpa_t rsdp; /* ACPI root pointer; 0: none */
	/* Table memory in low RAM (ACPI), reported as reserved in the memory map. */
	gpa_t acpi_base;
	uint64_t acpi_len;
};

MUST_USE struct err *boot_load(struct gmem *gmem, const struct boot_input *in,
			       struct boot_regs *ret_regs);
/* Which kind a kernel is, for messages and doctor: "PVH ELF", "bzImage (zstd)", ... */
MUST_USE struct err *boot_kind(int kernel_fd, char *ret_text, size_t len);

#endif
