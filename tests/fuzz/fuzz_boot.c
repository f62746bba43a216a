/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a kernel file, through boot_kind and boot_load. Property: an error of one line, or
 * registers that point into guest memory.
 */
#include <string.h>
#include <sys/mman.h>

#include "core/base/io.h"
#include "core/boot.h"
#include "tests/fuzz/fuzz.h"

#define MEM_BYTES (32 * MIB)

static void drop(struct err *e)
{
	BUG_ON(strlen(err_msg(e)) == 0 || strchr(err_msg(e), '\n') != NULL);
	err_drop(e, "hostile input is refused");
}

static void must(struct err *e)
{
	BUG_ON(e != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	/* Made once: what a load leaves in memory does not change what the next one does. */
	static struct gmem *gmem;
	static int kernel = -1;
	static int initrd = -1;
	if (gmem == NULL) {
		must(gmem_new(MEM_BYTES, &gmem));
		kernel = memfd_create("kernel", MFD_CLOEXEC);
		initrd = memfd_create("initrd", MFD_CLOEXEC);
		BUG_ON(kernel < 0 || initrd < 0);
		must(io_pwrite_full(initrd, "initrd", 6, 0));
	}
	BUG_ON(ftruncate(kernel, 0) != 0);
	must(io_pwrite_full(kernel, data, len, 0));
	char text[64];
	struct err *e = boot_kind(kernel, text, sizeof(text));
	bool known = e == NULL;
	if (e != NULL) {
		drop(e);
	}
	struct boot_input in = {
		.kernel_name = "kernel",
		.kernel_fd = kernel,
		.initrd_name = "initrd",
		.initrd_fd = initrd,
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
