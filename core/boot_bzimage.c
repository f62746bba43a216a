/* SPDX-License-Identifier: Apache-2.0 */
/* Setup header and payload of a bzImage. See boot_bzimage.h. */
#include "core/boot_bzimage.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"

#define SECTOR_BYTES 512u
#define HDR_OFFSET 0x1f1u
#define JUMP_LEN_OFFSET 0x201u /* second byte of the short jump over the header: its length */
#define BOOT_FLAG_OFFSET 0x1feu
#define MAGIC_OFFSET 0x202u
#define MAGIC_TEXT "HdrS"
#define VERSION_MIN 0x208u /* the first with payload_offset and payload_length */
#define LEN_BYTES 4u       /* the unpacked length, appended to the payload */

bool boot_bzimage_is(const uint8_t *head, size_t len)
{
	return len >= MAGIC_OFFSET + 4 && head[BOOT_FLAG_OFFSET] == 0x55 &&
	       head[BOOT_FLAG_OFFSET + 1] == 0xaa &&
	       memcmp(head + MAGIC_OFFSET, MAGIC_TEXT, 4) == 0;
}

static struct err *find_payload(const struct boot_file *f, struct boot_bzimage *bz)
{
	/* 0 stands for 4 since the first boot sectors; one more sector is the boot sector itself.
	 */
	uint64_t setup_sects = bz->hdr.setup_sects != 0 ? bz->hdr.setup_sects : 4;
	bz->payload_off = (setup_sects + 1) * SECTOR_BYTES + bz->hdr.payload_offset;
	bz->payload_len = bz->hdr.payload_length;
	ENSURE(bz->payload_len > LEN_BYTES + BOOT_PACK_HEAD_BYTES, ERR_CORRUPT,
	       "%s: bzImage with a payload of %" PRIu64 " bytes", f->name, bz->payload_len);
	TRY(boot_file_check(f, bz->payload_off, bz->payload_len, "truncated bzImage: the payload"));
	uint8_t head[BOOT_PACK_HEAD_BYTES];
	TRY(boot_file_read(f, bz->payload_off, head, sizeof(head)));
	bz->pack = boot_pack_of(head, sizeof(head));
	/*
	 * The build appends the unpacked length to every packing that does not end with it anyway
	 * as gzip does: either way it is in the payload's last 4 bytes.
	 */
	uint8_t len[LEN_BYTES];
	TRY(boot_file_read(f, bz->payload_off + bz->payload_len - LEN_BYTES, len, sizeof(len)));
	bz->unpacked_size = get_le32(len);
	return NULL;
}

struct err *boot_bzimage_parse(const struct boot_file *f, struct boot_bzimage *ret_bz)
{
	struct boot_bzimage bz = { 0 };
	uint8_t head[HDR_OFFSET + sizeof(struct setup_header)];
	/* The fields up to payload_length are there from VERSION_MIN on. */
	size_t need = HDR_OFFSET + offsetof(struct setup_header, setup_data);
	TRY(boot_file_check(f, 0, need, "truncated bzImage: the setup header"));
	size_t have = (size_t)MIN(f->size, (uint64_t)sizeof(head));
	TRY(boot_file_read(f, 0, head, have));
	ENSURE(boot_bzimage_is(head, have), ERR_CORRUPT, "%s: not a bzImage", f->name);
	unsigned version = get_le16(head + HDR_OFFSET + offsetof(struct setup_header, version));
	ENSURE(version >= VERSION_MIN, ERR_INCOMPAT,
	       "%s: boot protocol %u.%02u, but 2.08 (Linux 2.6.26) or later is needed", f->name,
	       version >> 8, version & 0xff);
	/* The header ends where the jump at 0x200 leads to; what is behind is code. */
	size_t hdr_end = MAGIC_OFFSET + head[JUMP_LEN_OFFSET];
	ENSURE(hdr_end >= need, ERR_CORRUPT, "%s: bzImage with a setup header of %zu bytes",
	       f->name, hdr_end - HDR_OFFSET);
	/* `have` is at most what struct setup_header holds. */
	memcpy(&bz.hdr, head + HDR_OFFSET, MIN(hdr_end, have) - HDR_OFFSET);
	TRY(find_payload(f, &bz));
	*ret_bz = bz;
	return NULL;
}

struct err *boot_bzimage_unpack(const struct boot_bzimage *bz, const struct boot_file *f,
				uint64_t max_bytes, struct boot_file *ret_elf)
{
	TRY(boot_pack_check(bz->pack, f->name));
	uint64_t max = MIN(max_bytes, (uint64_t)KERNEL_FILE_BYTES_MAX);
	uint64_t size = bz->unpacked_size;
	ENSURE(size > 0, ERR_CORRUPT, "%s: the kernel inside the bzImage is empty", f->name);
	ENSURE(size <= max, ERR_LIMIT,
	       "%s: unpacks to %" PRIu64 " bytes, but at most %" PRIu64
	       " can be loaded; give the VM more memory (--mem)",
	       f->name, size, max);
	/* gzip's own last 4 bytes are the length; the others have it behind their data. */
	uint64_t len = bz->payload_len - (bz->pack == BOOT_PACK_GZIP ? 0 : LEN_BYTES);
	return boot_unpack(f, bz->payload_off, len, size, ret_elf);
}
