/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel payload decompression. See boot_unpack.h. */
#include "core/boot_unpack.h"

#include <inttypes.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"

#define CHUNK_BYTES (256 * KIB)
/* The kernel's own build packs with dictionaries of up to 128 MiB; liblzma needs a bit more. */
#define XZ_MEMORY_MAX (256 * MIB)
#define ZSTD_WINDOW_LOG_MAX 27
#define LZ4_MAGIC 0x184c2102u
#define LZ4_BLOCK_BYTES (8 * MIB) /* fixed by the legacy framing */

/* The packed bytes, chunk by chunk, and the room for the unpacked ones. */
struct job {
	const struct boot_file *f;
	uint64_t pos; /* next byte to read */
	uint64_t end;
	uint8_t *in; /* CHUNK_BYTES */
	uint8_t *out;
	size_t size; /* room at out */
	size_t done; /* bytes at out */
};

struct packing {
	const char *name;
	uint8_t magic[BOOT_PACK_HEAD_BYTES];
	uint8_t magic_len;
	struct err *(*unpack)(struct job *j);
};

static struct err *next_chunk(struct job *j, size_t *ret_len)
{
	size_t n = (size_t)MIN(j->end - j->pos, (uint64_t)CHUNK_BYTES);
	TRY(boot_file_read(j->f, j->pos, j->in, n));
	j->pos += n;
	*ret_len = n;
	return NULL;
}

static struct err *truncated(void)
{
	return ERR(ERR_CORRUPT, "the compressed kernel ends early");
}

static struct err *too_long(const struct job *j)
{
	return ERR(ERR_CORRUPT, "the kernel unpacks to more than the %zu bytes it announces",
		   j->size);
}

static void inflate_done(z_stream *z)
{
	inflateEnd(z);
}

static struct err *unpack_gzip(struct job *j)
{
	SCOPE(inflate_done) z_stream z = { 0 };
	/* 16: a gzip header is expected; 15: the largest window. */
	ENSURE(inflateInit2(&z, 16 + 15) == Z_OK, ERR_SYS, "zlib cannot start");
	for (;;) {
		if (z.avail_in == 0) {
			size_t n = 0;
			TRY(next_chunk(j, &n));
			z.next_in = j->in;
			z.avail_in = (uInt)n;
		}
		/* avail_* are 32 bits wide; sizes are at most KERNEL_FILE_BYTES_MAX. */
		z.next_out = j->out + j->done;
		z.avail_out = (uInt)(j->size - j->done);
		bool full = z.avail_out == 0;
		int rc = inflate(&z, Z_NO_FLUSH);
		j->done = j->size - z.avail_out;
		if (rc == Z_STREAM_END) {
			return NULL;
		}
		if (rc == Z_BUF_ERROR || rc == Z_OK) {
			if (z.avail_in == 0 && j->pos == j->end) {
				return truncated();
			}
			if (full && z.avail_in > 0) {
				return too_long(j);
			}
			continue;
		}
		return ERR(ERR_CORRUPT, "gzip data: %s", z.msg != NULL ? z.msg : "damaged");
	}
}

static void lzma_done(lzma_stream *s)
{
	lzma_end(s);
}

static struct err *unpack_xz(struct job *j)
{
	SCOPE(lzma_done) lzma_stream s = LZMA_STREAM_INIT;
	ENSURE(lzma_stream_decoder(&s, XZ_MEMORY_MAX, 0) == LZMA_OK, ERR_SYS,
	       "liblzma cannot start");
	s.next_out = j->out;
	s.avail_out = j->size;
	for (;;) {
		if (s.avail_in == 0) {
			TRY(next_chunk(j, &s.avail_in));
			s.next_in = j->in;
		}
		bool last = s.avail_in == 0;
		lzma_ret rc = lzma_code(&s, LZMA_RUN);
		j->done = j->size - s.avail_out;
		switch (rc) {
		case LZMA_STREAM_END:
			return NULL;
		case LZMA_OK:
			break;
		case LZMA_BUF_ERROR:
			return last ? truncated() : too_long(j);
		case LZMA_MEMLIMIT_ERROR:
			return ERR(ERR_LIMIT, "xz data needs more than %llu MiB to unpack",
				   XZ_MEMORY_MAX / MIB);
		case LZMA_MEM_ERROR:
			return ERR(ERR_SYS, "no memory to unpack xz data");
		default:
			return ERR(ERR_CORRUPT, "xz data is damaged (liblzma error %d)", (int)rc);
		}
	}
}

static void zstd_freep(ZSTD_DCtx **d)
{
	ZSTD_freeDCtx(*d);
}

static struct err *unpack_zstd(struct job *j)
{
	SCOPE(zstd_freep) ZSTD_DCtx *d = ZSTD_createDCtx();
	ENSURE(d != NULL, ERR_SYS, "no memory to unpack zstd data");
	BUG_ON(ZSTD_isError(ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX)));
	ZSTD_outBuffer out = { .dst = j->out, .size = j->size };
	for (;;) {
		ZSTD_inBuffer in = { .src = j->in };
		TRY(next_chunk(j, &in.size));
		if (in.size == 0) {
			return truncated();
		}
		while (in.pos < in.size) {
			size_t in_pos = in.pos;
			size_t out_pos = out.pos;
			size_t rc = ZSTD_decompressStream(d, &out, &in);
			ENSURE(!ZSTD_isError(rc), ERR_CORRUPT, "zstd data: %s",
			       ZSTD_getErrorName(rc));
			j->done = out.pos;
			if (rc == 0) {
				return NULL;
			}
			if (in.pos == in_pos && out.pos == out_pos) {
				return too_long(j);
			}
		}
	}
}

/*
 * Legacy framing: a magic, then blocks of {length, data}, each of which unpacks to 8 MiB except the
 * last one; another magic may stand in place of a length.
 */
static struct err *unpack_lz4(struct job *j)
{
	const size_t block_max = (size_t)LZ4_COMPRESSBOUND(LZ4_BLOCK_BYTES);
	SCOPE(freep) uint8_t *block = malloc(block_max);
	ENSURE(block != NULL, ERR_SYS, "no memory to unpack lz4 data");
	while (j->pos < j->end) {
		uint8_t raw[4];
		if (j->end - j->pos < sizeof(raw)) {
			return truncated();
		}
		TRY(boot_file_read(j->f, j->pos, raw, sizeof(raw)));
		j->pos += sizeof(raw);
		uint32_t len = get_le32(raw);
		if (len == LZ4_MAGIC) {
			continue;
		}
		ENSURE(len > 0 && len <= block_max, ERR_CORRUPT, "lz4 data: block of %u bytes",
		       len);
		if (len > j->end - j->pos) {
			return truncated();
		}
		TRY(boot_file_read(j->f, j->pos, block, len));
		j->pos += len;
		size_t room = MIN(j->size - j->done, (size_t)LZ4_BLOCK_BYTES);
		int n = LZ4_decompress_safe((const char *)block, (char *)j->out + j->done, (int)len,
					    (int)room);
		ENSURE(n >= 0, ERR_CORRUPT,
		       "lz4 data is damaged or unpacks to more than the %zu bytes it announces",
		       j->size);
		j->done += (size_t)n;
	}
	return NULL;
}

static const struct packing packings[] = {
	[BOOT_PACK_GZIP] = { "gzip", { 0x1f, 0x8b }, 2, unpack_gzip },
	[BOOT_PACK_XZ] = { "xz", { 0xfd, '7', 'z', 'X', 'Z', 0x00 }, 6, unpack_xz },
	[BOOT_PACK_ZSTD] = { "zstd", { 0x28, 0xb5, 0x2f, 0xfd }, 4, unpack_zstd },
	[BOOT_PACK_LZ4] = { "lz4", { 0x02, 0x21, 0x4c, 0x18 }, 4, unpack_lz4 },
	[BOOT_PACK_BZIP2] = { "bzip2", { 'B', 'Z', 'h' }, 3, NULL },
	[BOOT_PACK_LZMA] = { "lzma", { 0x5d, 0x00, 0x00 }, 3, NULL },
	[BOOT_PACK_LZO] = { "lzo", { 0x89, 'L', 'Z', 'O' }, 4, NULL },
	[BOOT_PACK_NONE] = { "not compressed", { 0x7f, 'E', 'L', 'F' }, 4, NULL },
	[BOOT_PACK_UNKNOWN] = { "unknown packing", { 0 }, 0, NULL },
};

enum boot_pack boot_pack_of(const uint8_t *head, size_t len)
{
	for (unsigned i = 0; i < BOOT_PACK_UNKNOWN; i++) {
		const struct packing *p = &packings[i];
		if (len >= p->magic_len && memcmp(head, p->magic, p->magic_len) == 0) {
			return (enum boot_pack)i;
		}
	}
	return BOOT_PACK_UNKNOWN;
}

const char *boot_pack_name(enum boot_pack pack)
{
	BUG_ON((unsigned)pack >= ARRAY_LEN(packings));
	return packings[pack].name;
}

struct err *boot_pack_check(enum boot_pack pack, const char *name)
{
	ENSURE(pack != BOOT_PACK_UNKNOWN && pack != BOOT_PACK_NONE, ERR_INCOMPAT,
	       "%s: the kernel inside is packed in an unknown way; give its vmlinux instead", name);
	ENSURE(packings[pack].unpack != NULL, ERR_INCOMPAT,
	       "%s: a kernel packed with %s is not supported; rebuild it with CONFIG_KERNEL_ZSTD, "
	       "_GZIP, _XZ or _LZ4, or give its vmlinux",
	       name, boot_pack_name(pack));
	return NULL;
}

static struct err *run(struct job *j, enum boot_pack pack)
{
	TRY(packings[pack].unpack(j));
	ENSURE(j->done == j->size, ERR_CORRUPT,
	       "the kernel unpacks to %zu bytes, but announces %zu", j->done, j->size);
	return NULL;
}

struct err *boot_unpack(const struct boot_file *f, uint64_t off, uint64_t len, uint64_t size,
			struct boot_file *ret_file)
{
	BUG_ON(size == 0 || size > KERNEL_FILE_BYTES_MAX);
	TRY(boot_file_check(f, off, len, "truncated file: the compressed kernel"));
	uint8_t head[BOOT_PACK_HEAD_BYTES];
	size_t head_len = (size_t)MIN(len, (uint64_t)sizeof(head));
	TRY(boot_file_read(f, off, head, head_len));
	enum boot_pack pack = boot_pack_of(head, head_len);
	TRY(boot_pack_check(pack, f->name));
	struct job j = { .f = f, .pos = off, .end = off + len, .size = (size_t)size };
	SCOPE(freep) uint8_t *in = malloc(CHUNK_BYTES);
	/* Untouched pages cost nothing: a lie about the size takes address space only. */
	SCOPE(freep) uint8_t *out = malloc(j.size);
	ENSURE(in != NULL && out != NULL, ERR_SYS, "%s: no memory to unpack %zu bytes", f->name,
	       j.size);
	j.in = in;
	j.out = out;
	struct err *e = run(&j, pack);
	if (e != NULL) {
		return err_wrap(e, "%s", f->name);
	}
	*ret_file =
		(struct boot_file){ .name = f->name, .fd = -1, .mem = MOVE(out), .size = j.size };
	return NULL;
}
