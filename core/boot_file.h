/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel or initrd as a run of bytes with a known length, in a file or in memory (an unpacked
 * payload). All boot loaders read through it, so no offset from the file is used unchecked.
 * Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_FILE_H
#define TORPOR_CORE_BOOT_FILE_H

#include "core/base/err.h"

struct boot_file {
	const char *name; /* borrowed, for messages */
	int fd;           /* borrowed; -1 when mem is set */
	uint8_t *mem;     /* owned */
	uint64_t size;    /* bytes */
};

/* ERR_CORRUPT when empty, ERR_LIMIT when longer than max_bytes. */
MUST_USE struct err *boot_file_init(const char *name, int fd, uint64_t max_bytes,
				    struct boot_file *ret_file);
void boot_file_done(struct boot_file *f);
/*
 * ERR_CORRUPT "NAME: THING ends at byte X of Y" unless [off, off + len) lies in the file; the
 * format names the thing.
 */
MUST_USE struct err *boot_file_check(const struct boot_file *f, uint64_t off, uint64_t len,
				     const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Checked read of exactly len bytes. */
MUST_USE struct err *boot_file_read(const struct boot_file *f, uint64_t off, void *ret, size_t len);

#endif
