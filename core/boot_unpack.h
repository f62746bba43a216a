/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unpacks a compressed kernel payload (gzip, xz, zstd, lz4 in its legacy framing) into memory.
 * The only includer of zlib, liblzma and liblz4, and of libzstd outside of the store.
 * The payload is hostile input: the output never passes the length given by the caller.
 * Used by core/boot*.c only, on the thread that builds the VM.
 */
#ifndef TORPOR_CORE_BOOT_UNPACK_H
#define TORPOR_CORE_BOOT_UNPACK_H

#include "core/boot_file.h"

enum boot_pack {
	BOOT_PACK_GZIP,
	BOOT_PACK_XZ,
	BOOT_PACK_ZSTD,
	BOOT_PACK_LZ4,
	BOOT_PACK_BZIP2, /* recognized, not unpacked */
	BOOT_PACK_LZMA,
	BOOT_PACK_LZO,
	BOOT_PACK_NONE, /* a plain ELF file */
	BOOT_PACK_UNKNOWN,
};

#define BOOT_PACK_HEAD_BYTES 6u

enum boot_pack boot_pack_of(const uint8_t *head, size_t len);
const char *boot_pack_name(enum boot_pack pack);
/* ERR_INCOMPAT with a remedy unless boot_unpack can unpack it; `name` is the kernel's. */
MUST_USE struct err *boot_pack_check(enum boot_pack pack, const char *name);
/*
 * Unpacks [off, off + len) of f into new memory of exactly `size` bytes, and fails unless that is
 * what comes out. ERR_INCOMPAT for a packing that is recognized but not unpacked. ret_file keeps
 * f's name and owns the memory.
 */
MUST_USE struct err *boot_unpack(const struct boot_file *f, uint64_t off, uint64_t len,
				 uint64_t size, struct boot_file *ret_file);

#endif
