/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the boot kinds share while one kernel is loaded: memory, placement, memory map, and where
 * command line and initrd went. Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_INTERNAL_H
#define TORPOR_CORE_BOOT_INTERNAL_H

#include "core/boot.h"
#include "core/boot_e820.h"
#include "core/boot_place.h"

struct boot_env {
	struct gmem *gmem;           /* borrowed */
	const struct boot_input *in; /* borrowed */
	const char *cmdline;         /* borrowed; never NULL */
	struct boot_place place;
	struct boot_e820 e820;
	gpa_t cmdline_gpa;
	gpa_t initrd_gpa;
	uint64_t initrd_len; /* bytes; 0: none */
};

/* Finds room in conventional memory for len bytes and writes them there. */
MUST_USE struct err *boot_put(struct boot_env *env, const char *what, const void *p, size_t len,
			      uint64_t align, gpa_t *ret_gpa);

#endif
