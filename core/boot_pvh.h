/* SPDX-License-Identifier: Apache-2.0 */
/* PVH entry: the start info of the x86/HVM direct boot ABI. Used by core/boot.c only. */
#ifndef TORPOR_CORE_BOOT_PVH_H
#define TORPOR_CORE_BOOT_PVH_H

#include "core/boot_internal.h"

/* Kernel, initrd and command line are in place; entry is a physical address. */
MUST_USE struct err *boot_pvh_build(struct boot_env *env, uint64_t entry,
				    struct boot_regs *ret_regs);

#endif
