/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the program headers and the PVH note of an x86 ELF file (32 or 64 bits), and puts its
 * PT_LOAD segments at their physical addresses. The file is hostile input.
 * Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_ELF_H
#define TORPOR_CORE_BOOT_ELF_H

#include "core/boot_file.h"
#include "core/boot_place.h"

#define BOOT_ELF_PHDRS_MAX 128u /* a Linux kernel has 5 to 8 */
#define BOOT_ELF_SEGS_MAX 32u

struct boot_elf_seg {
	unsigned phdr; /* number of its program header, for messages */
	uint64_t off;
	uint64_t filesz;
	uint64_t vaddr;
	uint64_t paddr;
	uint64_t memsz; /* >= filesz, > 0, and paddr + memsz does not wrap */
};

struct boot_elf {
	bool is64;
	uint64_t entry; /* as in the header */
	bool is_linux;  /* a note of owner "Linux" */
	bool has_pvh;
	uint32_t pvh_entry;
	unsigned nsegs;
	struct boot_elf_seg seg[BOOT_ELF_SEGS_MAX];
};

/* Does the file start with the ELF magic? Only looks at the first 4 of `len` bytes. */
bool boot_elf_is(const uint8_t *head, size_t len);
MUST_USE struct err *boot_elf_parse(const struct boot_file *f, struct boot_elf *ret_elf);
/* Claims every segment, then reads the file's bytes into place. The rest must read as zero already.
 */
MUST_USE struct err *boot_elf_load(const struct boot_elf *elf, const struct boot_file *f,
				   struct gmem *gmem, struct boot_place *place);
/*
 * The physical address of an entry point that the header gives as physical or, if it lies in no
 * segment that way, as virtual.
 */
MUST_USE struct err *boot_elf_phys(const struct boot_elf *elf, const struct boot_file *f,
				   uint64_t addr, uint64_t *ret_phys);

#endif
