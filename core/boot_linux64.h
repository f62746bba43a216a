/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux's 64-bit boot protocol: zero page, identity page tables, GDT. Selectors 0x10 (code) and
 * 0x18 (data), as the protocol demands. Used by core/boot.c only.
 */
#ifndef TORPOR_CORE_BOOT_LINUX64_H
#define TORPOR_CORE_BOOT_LINUX64_H

#include <asm/bootparam.h>

#include "core/boot_elf.h"
#include "core/boot_internal.h"

/*
 * Kernel, initrd and command line are in place; entry is a physical address. hdr: the setup header
 * of the bzImage that the kernel came in, or NULL.
 */
MUST_USE struct err *boot_linux64_build(struct boot_env *env, const struct boot_elf *elf,
					uint64_t entry, const struct setup_header *hdr,
					struct boot_regs *ret_regs);

#endif
