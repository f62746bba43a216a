/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the unit tests of the boot loaders share: expectations on errors, and loading a kernel from
 * bytes. Header only, after cmocka.h and fake_kernel.h. One thread.
 */
#ifndef TORPOR_TESTS_BOOT_CHECK_H
#define TORPOR_TESTS_BOOT_CHECK_H

#include "core/boot.h"
#include "tests/lib/fake_kernel.h"
#include "tests/lib/expect.h"

/* The error has this class, holds this text, and is one line. */
static inline UNUSED void bad(struct err *e, enum err_class class, const char *part)
{
	if (e == NULL) {
		fail_msg("no error, where \"%s\" was expected", part);
		return;
	}
	if (strstr(err_msg(e), part) == NULL) {
		fail_msg("\"%s\" lacks \"%s\"", err_msg(e), part);
	}
	assert_null(strchr(err_msg(e), '\n'));
	assert_int_equal(err_class(e), class);
	err_free(e);
}

/* boot_load of these bytes without initrd. */
static inline UNUSED struct err *load_bytes(struct gmem *g, const void *p, size_t len,
					    const char *cmdline, struct boot_regs *ret_regs)
{
	SCOPE(fd_close) struct fd fd = { .n = fk_file(p, len) };
	assert_true(fd.n >= 0);
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = fd.n,
		.initrd_fd = -1,
		.cmdline = cmdline,
		.rsdp = GPA(0xe0000),
		.acpi_base = GPA(0xe0000),
		.acpi_len = 0x10000,
	};
	return boot_load(g, &in, ret_regs);
}

/* Every shorter file must fail, and without a crash. */
static inline UNUSED void check_truncation(struct gmem *g, const struct wbuf *w)
{
	struct boot_regs regs;
	for (size_t len = 0; len < w->len; len++) {
		struct err *e = load_bytes(g, w->p, len, "", &regs);
		if (e == NULL) {
			fail_msg("%zu of %zu bytes were taken for a kernel", len, w->len);
		}
		assert_true(strncmp(err_msg(e), "kernel: ", 8) == 0);
		err_free(e);
	}
	ok(load_bytes(g, w->p, w->len, "", &regs));
}

/* Segment bytes in place and BSS zero. */
static inline UNUSED void check_segments(struct gmem *g, const struct fk_elf *k)
{
	for (unsigned i = 0; i < k->nsegs; i++) {
		const uint8_t *m = gmem_at(g, GPA(k->seg[i].paddr), k->seg[i].memsz);
		assert_non_null(m);
		uint64_t from = i == 0 && k->multiboot ? 12 : 0;
		for (uint64_t b = from; b < k->seg[i].memsz; b++) {
			assert_int_equal(m[b], b < k->seg[i].filesz ? fk_byte(i, b) : 0);
		}
	}
}

static inline UNUSED uint64_t rd64(struct gmem *g, uint64_t gpa)
{
	uint64_t v = 0;
	ok(gmem_read(g, GPA(gpa), &v, sizeof(v)));
	return v;
}

static inline UNUSED uint32_t rd32(struct gmem *g, uint64_t gpa)
{
	return (uint32_t)rd64(g, gpa);
}

static inline UNUSED void check_string(struct gmem *g, uint64_t gpa, const char *want)
{
	const char *at = gmem_at(g, GPA(gpa), strlen(want) + 1);
	assert_non_null(at);
	assert_string_equal(at, want);
}

#endif
