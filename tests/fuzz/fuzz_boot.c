/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a kernel file, through boot_kind and boot_load. Property: an error of one line, or
 * registers that point into guest memory.
 *
 * Fast, because nothing is written to a file and little memory is asked for: the linker puts the
 * functions below in place of those of core/base/io.h and of the unpackers' libraries (--wrap).
 */
#include <lzma.h>
#include <string.h>
#include <zstd.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"
#include "core/boot.h"
#include "tests/fuzz/fuzz.h"

#define MEM_BYTES GMEM_MIN_BYTES
#define XZ_BYTES_MAX (4 * MIB)      /* instead of 256 MiB of dictionary */
#define ZSTD_WINDOW_LOG_MAX_HERE 20 /* instead of 27 */

/* Descriptors that are no descriptors. */
enum { KERNEL_FD = 1000, INITRD_FD = 1001 };

static struct bytes kernel;
static const struct bytes initrd = { "initrd", 6 };

static const struct bytes *file_of(int fd)
{
	BUG_ON(fd != KERNEL_FD && fd != INITRD_FD);
	return fd == KERNEL_FD ? &kernel : &initrd;
}

struct err *__wrap_io_size(int fd, uint64_t *ret_bytes);
struct err *__wrap_io_size(int fd, uint64_t *ret_bytes)
{
	*ret_bytes = file_of(fd)->len;
	return NULL;
}

struct err *__wrap_io_pread_full(int fd, void *ret, size_t len, uint64_t off);
struct err *__wrap_io_pread_full(int fd, void *ret, size_t len, uint64_t off)
{
	const struct bytes *f = file_of(fd);
	BUG_ON(off > f->len || len > f->len - off); /* boot_file checks before it reads */
	if (len > 0) {
		memcpy(ret, (const uint8_t *)f->p + off, len);
	}
	return NULL;
}

lzma_ret __real_lzma_stream_decoder(lzma_stream *s, uint64_t memlimit, uint32_t flags);
lzma_ret __wrap_lzma_stream_decoder(lzma_stream *s, uint64_t memlimit, uint32_t flags);
lzma_ret __wrap_lzma_stream_decoder(lzma_stream *s, uint64_t memlimit, uint32_t flags)
{
	return __real_lzma_stream_decoder(s, MIN(memlimit, (uint64_t)XZ_BYTES_MAX), flags);
}

size_t __real_ZSTD_DCtx_setParameter(ZSTD_DCtx *d, ZSTD_dParameter p, int value);
size_t __wrap_ZSTD_DCtx_setParameter(ZSTD_DCtx *d, ZSTD_dParameter p, int value);
size_t __wrap_ZSTD_DCtx_setParameter(ZSTD_DCtx *d, ZSTD_dParameter p, int value)
{
	if (p == ZSTD_d_windowLogMax) {
		value = MIN(value, ZSTD_WINDOW_LOG_MAX_HERE);
	}
	return __real_ZSTD_DCtx_setParameter(d, p, value);
}

static void drop(struct err *e)
{
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	/* Made once: what a load leaves in memory does not change what the next one does. */
	static struct gmem *gmem;
	if (gmem == NULL) {
		struct err *e = gmem_new(MEM_BYTES, &gmem);
		BUG_ON(e != NULL);
	}
	kernel = (struct bytes){ data, len };
	char text[64];
	struct err *e = boot_kind(KERNEL_FD, text, sizeof(text));
	bool known = e == NULL;
	if (e != NULL) {
		drop(e);
	}
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = KERNEL_FD,
		.initrd_name = "initrd",
		.initrd_fd = INITRD_FD,
		.cmdline = "console=ttyS0",
		.rsdp = GPA(0xe0000),
		.acpi_base = GPA(0xe0000),
		.acpi_len = 0x10000,
	};
	struct boot_regs r = { 0 };
	e = boot_load(gmem, &in, &r);
	if (e != NULL) {
		drop(e);
		return 0;
	}
	BUG_ON(!known); /* what loads has a kind */
	BUG_ON(gmem_at(gmem, GPA(r.rip), 1) == NULL);
	BUG_ON((r.rbx == 0) == (r.rsi == 0));
	BUG_ON(gmem_at(gmem, GPA(r.rbx + r.rsi), 56) == NULL);
	BUG_ON((r.mode == BOOT_LINUX64) != (r.cr3 != 0));
	return 0;
}
