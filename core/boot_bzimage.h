/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The setup header of a bzImage (Linux boot protocol 2.08 and later) and the kernel packed in it.
 * Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_BZIMAGE_H
#define TORPOR_CORE_BOOT_BZIMAGE_H

#include <asm/bootparam.h>

#include "core/boot_unpack.h"

struct boot_bzimage {
	struct setup_header hdr; /* as in the file; fields that its version lacks are 0 */
	uint64_t payload_off;
	uint64_t payload_len; /* with the length that the kernel's build appends */
	enum boot_pack pack;
	uint64_t unpacked_size; /* as announced; not checked against any limit yet */
};

/* Looks at the first `len` bytes of a file for the magic numbers. */
bool boot_bzimage_is(const uint8_t *head, size_t len);
/* The file is hostile input. */
MUST_USE struct err *boot_bzimage_parse(const struct boot_file *f, struct boot_bzimage *ret_bz);
/*
 * The ELF file inside, in memory. ERR_LIMIT when it announces more than max_bytes.
 */
MUST_USE struct err *boot_bzimage_unpack(const struct boot_bzimage *bz, const struct boot_file *f,
					 uint64_t max_bytes, struct boot_file *ret_elf);

#endif
