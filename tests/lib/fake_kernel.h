/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes small kernel files of every kind in memory, for the tests of the boot loaders. What is made
 * is sound unless a test changes it afterwards. Offsets are fixed so that tests can name them.
 * Header only: included by unit tests and by the maker of the fuzz corpus. One thread.
 */
#ifndef TORPOR_TESTS_FAKE_KERNEL_H
#define TORPOR_TESTS_FAKE_KERNEL_H

#include <asm/bootparam.h>
#include <elf.h>
#include <fcntl.h>
#include <lz4hc.h>
#include <lzma.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/bytes.h"
#include "core/base/io.h"
#include "core/boot_unpack.h"

#define FK_SEGS_MAX 40u
#define FK_FILE_MAX (4u << 20)

struct fk_seg {
	uint64_t vaddr, paddr, filesz, memsz;
};

struct fk_elf {
	bool is64;
	uint64_t entry;
	unsigned pvh_bytes; /* 0: no PVH note; 4 or 8 */
	uint64_t pvh_entry;
	bool multiboot; /* a header at the start of the first segment */
	unsigned nsegs;
	struct fk_seg seg[FK_SEGS_MAX];
};

/* One segment of 64 bytes at 1 MiB with a BSS of a page: the smallest sound kernel. */
static inline UNUSED struct fk_elf fk_small(bool is64)
{
	return (struct fk_elf){
		.is64 = is64,
		.entry = 0x100000,
		.nsegs = 1,
		.seg = { { is64 ? 0xffffffff80100000 : 0xc0100000, 0x100000, 64, 64 + 4096 } },
	};
}

static inline UNUSED uint8_t fk_byte(unsigned seg, uint64_t i)
{
	return (uint8_t)(seg * 31 + i * 7 + 1);
}

static inline UNUSED void fk_put(struct wbuf *w, bool is64, uint64_t v)
{
	if (is64) {
		wbuf_u64(w, v);
	} else {
		wbuf_u32(w, (uint32_t)v);
	}
}

static inline UNUSED void fk_phdr(struct wbuf *w, bool is64, uint32_t type, uint64_t off,
				  const struct fk_seg *s)
{
	wbuf_u32(w, type);
	if (is64) {
		wbuf_u32(w, PF_R | PF_W | PF_X);
	}
	fk_put(w, is64, off);
	fk_put(w, is64, s->vaddr);
	fk_put(w, is64, s->paddr);
	fk_put(w, is64, s->filesz);
	fk_put(w, is64, s->memsz);
	if (!is64) {
		wbuf_u32(w, PF_R | PF_W | PF_X);
	}
	fk_put(w, is64, 4);
}

static inline UNUSED void fk_mb_header(struct wbuf *w, uint32_t flags)
{
	wbuf_u32(w, 0x1badb002);
	wbuf_u32(w, flags);
	wbuf_u32(w, (uint32_t) - (0x1badb002 + flags));
}

/* Header, program headers (note first), note, segments; the last segment ends the file. */
static inline UNUSED void fk_make_elf(struct wbuf *w, const struct fk_elf *k)
{
	size_t ehsize = k->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	size_t phsize = k->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	unsigned phnum = k->nsegs + (k->pvh_bytes > 0);
	wbuf_put(w, ELFMAG, SELFMAG);
	wbuf_u8(w, k->is64 ? ELFCLASS64 : ELFCLASS32);
	wbuf_u8(w, ELFDATA2LSB);
	wbuf_u8(w, EV_CURRENT);
	memset(wbuf_room(w, 9), 0, 9);
	wbuf_u16(w, ET_EXEC);
	wbuf_u16(w, k->is64 ? EM_X86_64 : EM_386);
	wbuf_u32(w, EV_CURRENT);
	fk_put(w, k->is64, k->entry);
	fk_put(w, k->is64, ehsize);
	fk_put(w, k->is64, 0);
	wbuf_u32(w, 0);
	wbuf_u16(w, (uint16_t)ehsize);
	wbuf_u16(w, (uint16_t)phsize);
	wbuf_u16(w, (uint16_t)phnum);
	memset(wbuf_room(w, 6), 0, 6);
	uint64_t off = ehsize + phnum * phsize;
	if (k->pvh_bytes > 0) {
		struct fk_seg note = { .filesz = 16 + k->pvh_bytes, .memsz = 16 + k->pvh_bytes };
		fk_phdr(w, k->is64, PT_NOTE, off, &note);
		off += note.filesz;
	}
	for (unsigned i = 0; i < k->nsegs; i++) {
		fk_phdr(w, k->is64, PT_LOAD, off, &k->seg[i]);
		off += k->seg[i].filesz;
	}
	if (k->pvh_bytes > 0) {
		wbuf_u32(w, 4);
		wbuf_u32(w, k->pvh_bytes);
		wbuf_u32(w, 18);
		wbuf_put(w, "Xen", 4);
		fk_put(w, k->pvh_bytes == 8, k->pvh_entry);
	}
	for (unsigned i = 0; i < k->nsegs; i++) {
		uint64_t from = 0;
		if (i == 0 && k->multiboot) {
			fk_mb_header(w, 3);
			from = 12;
		}
		for (uint64_t b = from; b < k->seg[i].filesz; b++) {
			wbuf_u8(w, fk_byte(i, b));
		}
	}
}

/* Multiboot by address fields, no ELF: the whole file is loaded at 1 MiB, header at byte 8. */
#define FK_MB_LOAD 0x100000u
#define FK_MB_BYTES 256u
static inline UNUSED void fk_make_mb_raw(struct wbuf *w)
{
	wbuf_u64(w, 0x9090909090909090);
	fk_mb_header(w, 0x10003);
	wbuf_u32(w, FK_MB_LOAD + 8);
	wbuf_u32(w, FK_MB_LOAD);
	wbuf_u32(w, FK_MB_LOAD + FK_MB_BYTES);
	wbuf_u32(w, FK_MB_LOAD + 0x4000);
	wbuf_u32(w, FK_MB_LOAD + 0x40);
	while (w->len < FK_MB_BYTES) {
		wbuf_u8(w, (uint8_t)w->len);
	}
}

static inline UNUSED void fk_pack_gzip(struct wbuf *w, const uint8_t *p, size_t len)
{
	z_stream z = { 0 };
	BUG_ON(deflateInit2(&z, 9, Z_DEFLATED, 16 + 15, 8, Z_DEFAULT_STRATEGY) != Z_OK);
	SCOPE(freep) uint8_t *in = malloc(len);
	memcpy(in, p, len);
	z.next_in = in;
	z.avail_in = (uInt)len;
	size_t room = deflateBound(&z, len);
	size_t at = w->len;
	z.next_out = wbuf_room(w, room);
	z.avail_out = (uInt)room;
	BUG_ON(deflate(&z, Z_FINISH) != Z_STREAM_END);
	w->len = at + z.total_out;
	deflateEnd(&z);
}

static inline UNUSED void fk_pack_xz(struct wbuf *w, const uint8_t *p, size_t len)
{
	size_t room = lzma_stream_buffer_bound(len);
	size_t at = w->len;
	uint8_t *out = wbuf_room(w, room);
	size_t n = 0;
	BUG_ON(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, p, len, out, &n, room) !=
	       LZMA_OK);
	w->len = at + n;
}

/* As the zstd tool does from a pipe: a frame without the length of its content. */
static inline UNUSED void fk_pack_zstd(struct wbuf *w, const uint8_t *p, size_t len)
{
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
	size_t room = ZSTD_compressBound(len);
	size_t at = w->len;
	uint8_t *out = wbuf_room(w, room);
	size_t n = ZSTD_compress2(c, out, room, p, len);
	BUG_ON(ZSTD_isError(n));
	w->len = at + n;
	ZSTD_freeCCtx(c);
}

static inline UNUSED void fk_pack_lz4(struct wbuf *w, const uint8_t *p, size_t len)
{
	const size_t block = 8u << 20;
	wbuf_u32(w, 0x184c2102);
	for (size_t at = 0; at < len; at += block) {
		int n = (int)MIN(block, len - at);
		int room = LZ4_compressBound(n);
		SCOPE(freep) char *out = malloc((size_t)room);
		int got = LZ4_compress_HC((const char *)p + at, out, n, room, 9);
		BUG_ON(got <= 0);
		wbuf_u32(w, (uint32_t)got);
		wbuf_put(w, out, (size_t)got);
	}
}

static inline UNUSED void fk_pack(struct wbuf *w, enum boot_pack pack, const uint8_t *p, size_t len)
{
	switch (pack) {
	case BOOT_PACK_GZIP:
		fk_pack_gzip(w, p, len);
		return; /* ends with the length already */
	case BOOT_PACK_XZ:
		fk_pack_xz(w, p, len);
		break;
	case BOOT_PACK_ZSTD:
		fk_pack_zstd(w, p, len);
		break;
	default:
		fk_pack_lz4(w, p, len);
		break;
	}
	wbuf_u32(w, (uint32_t)len);
}

/* A boot sector and one setup sector, then 16 bytes of code, then the payload. */
#define FK_BZ_PAYLOAD 1040u
static inline UNUSED void fk_make_bzimage(struct wbuf *w, const uint8_t *payload, size_t len)
{
	struct setup_header h = {
		.setup_sects = 1,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* jmp to 0x26c, behind the header of this version */
		.header = 0x53726448,
		.version = 0x20f,
		.loadflags = 1,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.cmdline_size = 255,
		.payload_offset = FK_BZ_PAYLOAD - 1024,
		.payload_length = (uint32_t)len,
		.pref_address = 0x1000000,
		.init_size = 0x1000000,
	};
	uint8_t head[FK_BZ_PAYLOAD] = { 0 };
	memcpy(head + 0x1f1, &h, sizeof(h));
	wbuf_put(w, head, sizeof(head));
	wbuf_put(w, payload, len);
}

static inline UNUSED void fk_make_bzimage_of(struct wbuf *w, enum boot_pack pack,
					     const struct fk_elf *k)
{
	SCOPE(wbuf_done) struct wbuf elf = wbuf_make(FK_FILE_MAX);
	SCOPE(wbuf_done) struct wbuf packed = wbuf_make(FK_FILE_MAX);
	fk_make_elf(&elf, k);
	fk_pack(&packed, pack, elf.p, elf.len);
	fk_make_bzimage(w, packed.p, packed.len);
}

/* A memfd with these bytes; -1 on failure. The caller closes it. */
static inline UNUSED int fk_file(const void *p, size_t len)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	if (fd < 0) {
		return -1;
	}
	struct err *e = io_pwrite_full(fd, p, len, 0);
	if (e != NULL) {
		err_free(e);
		close(fd);
		return -1;
	}
	return fd;
}

#endif
