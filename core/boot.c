/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds out what kind of kernel a file is, and loads it with initrd and command line. See boot.h.
 *
 * Guest memory must read as zero: what a kernel calls BSS is claimed, not written.
 */
#include "core/boot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/boot_bzimage.h"
#include "core/boot_elf.h"
#include "core/boot_internal.h"
#include "core/boot_linux64.h"
#include "core/boot_multiboot.h"
#include "core/boot_pvh.h"

/* Where an initrd may end when the kernel does not say: Linux's own default. */
#define INITRD_END_MAX 0x80000000ull
/* Linux's COMMAND_LINE_SIZE on x86, less the NUL; longer ones would be cut without a word. */
#define LINUX_CMDLINE_MAX 2047u

enum entry_kind { ENTRY_PVH, ENTRY_LINUX64, ENTRY_MULTIBOOT };

/* A kernel file after detection. */
struct image {
	struct boot_file file; /* as given */
	bool is_bzimage;
	struct boot_bzimage bz;
	struct boot_file inner; /* unpacked payload; owns memory */
	bool has_elf; /* false: multiboot by address fields, or bzImage not unpacked yet */
	struct boot_elf elf;
	struct boot_multiboot mb;
	enum entry_kind kind;
};

static void image_done(struct image *im)
{
	boot_file_done(&im->inner);
}

struct err *boot_put(struct boot_env *env, const char *what, const void *p, size_t len,
		     uint64_t align, gpa_t *ret_gpa)
{
	gpa_t gpa = GPA(0);
	TRY(boot_place_low(&env->place, what, len, align, &gpa));
	TRY(gmem_write(env->gmem, gpa, p, len));
	*ret_gpa = gpa;
	return NULL;
}

/* An ELF file: PVH goes before multiboot, multiboot before Linux's 64-bit entry. */
static struct err *detect_elf(struct image *im, const struct boot_file *f, bool has_mb)
{
	TRY(boot_elf_parse(f, &im->elf));
	im->has_elf = true;
	if (im->elf.has_pvh) {
		im->kind = ENTRY_PVH;
	} else if (has_mb && (!im->elf.is64 || im->mb.has_addresses)) {
		im->kind = ENTRY_MULTIBOOT;
	} else {
		ENSURE(im->elf.is64, ERR_INCOMPAT,
		       "%s: a 32-bit ELF file with neither a PVH note nor a multiboot header; "
		       "build "
		       "the kernel with CONFIG_PVH or for 64 bits",
		       f->name);
		im->kind = ENTRY_LINUX64;
	}
	return NULL;
}

/* Everything but the inside of a bzImage. */
static struct err *detect(const char *name, int fd, struct image *im)
{
	TRY(boot_file_init(name, fd, KERNEL_FILE_BYTES_MAX, &im->file));
	uint8_t head[BOOT_MULTIBOOT_SEARCH_BYTES];
	size_t len = (size_t)MIN(im->file.size, (uint64_t)sizeof(head));
	TRY(boot_file_read(&im->file, 0, head, len));
	if (boot_bzimage_is(head, len)) {
		im->is_bzimage = true;
		return boot_bzimage_parse(&im->file, &im->bz);
	}
	bool has_mb = boot_multiboot_find(head, len, &im->mb);
	if (boot_elf_is(head, len)) {
		return detect_elf(im, &im->file, has_mb);
	}
	ENSURE(has_mb && im->mb.has_addresses, ERR_CORRUPT,
	       "%s: not a kernel: neither ELF, nor bzImage, nor multiboot", name);
	im->kind = ENTRY_MULTIBOOT;
	return NULL;
}

static struct err *unpack(struct image *im, uint64_t mem_bytes)
{
	TRY(boot_bzimage_unpack(&im->bz, &im->file, mem_bytes, &im->inner));
	uint8_t head[4];
	size_t len = (size_t)MIN(im->inner.size, (uint64_t)sizeof(head));
	TRY(boot_file_read(&im->inner, 0, head, len));
	ENSURE(boot_elf_is(head, len), ERR_CORRUPT,
	       "%s: what is packed in the bzImage is no ELF file", im->file.name);
	return detect_elf(im, &im->inner, false);
}

static struct err *init_env(struct boot_env *env, struct gmem *gmem, const struct boot_input *in)
{
	*env = (struct boot_env){ .gmem = gmem, .in = in };
	env->cmdline = in->cmdline != NULL ? in->cmdline : "";
	TRY(boot_place_init(&env->place, gmem, in->acpi_base, in->acpi_len));
	struct gmem_region high = { 0 };
	if (gmem_nregions(gmem) > 1) {
		high = gmem_region(gmem, 1);
	}
	boot_e820_build(gmem_region(gmem, 0).len_bytes, high.base.v, high.len_bytes,
			in->acpi_base.v, in->acpi_len, &env->e820);
	return NULL;
}

/* Loads the kernel's bytes and gives the physical entry address. */
static struct err *load_kernel(struct boot_env *env, const struct image *im, uint64_t *ret_entry)
{
	const struct boot_file *f = im->is_bzimage ? &im->inner : &im->file;
	if (im->kind == ENTRY_MULTIBOOT) {
		TRY(boot_multiboot_check(&im->mb, f));
		if (im->mb.has_addresses) {
			return boot_multiboot_load(&im->mb, f, env->gmem, &env->place, ret_entry);
		}
	}
	TRY(boot_elf_load(&im->elf, f, env->gmem, &env->place));
	uint64_t entry = im->kind == ENTRY_PVH ? im->elf.pvh_entry : im->elf.entry;
	TRY(boot_elf_phys(&im->elf, f, entry, &entry));
	ENSURE(im->kind == ENTRY_LINUX64 || entry <= UINT32_MAX, ERR_CORRUPT,
	       "%s: entry point 0x%" PRIx64 " is not below 4 GiB", f->name, entry);
	*ret_entry = entry;
	return NULL;
}

static struct err *load_initrd(struct boot_env *env, uint64_t end_max)
{
	const struct boot_input *in = env->in;
	if (in->initrd_fd < 0) {
		return NULL;
	}
	struct boot_file f;
	TRY(boot_file_init(in->initrd_name, in->initrd_fd, INITRD_BYTES_MAX, &f));
	gpa_t gpa = GPA(0);
	bool found = false;
	TRY(boot_place_high(&env->place, "the initrd", f.size, end_max, &gpa, &found));
	uint64_t low_end = gmem_region(env->gmem, 0).len_bytes;
	ENSURE(found, ERR_LIMIT,
	       "%s: initrd of %" PRIu64 " bytes does not fit beside the kernel into the %llu MiB "
	       "of memory below address 0x%" PRIx64 "; %s",
	       in->initrd_name, f.size, MIN(low_end, end_max) / MIB, MIN(low_end, end_max),
	       low_end < end_max ? "give the VM more (--mem) or make the initrd smaller"
				 : "make the initrd smaller");
	void *to = gmem_at(env->gmem, gpa, f.size);
	BUG_ON(to == NULL); /* low RAM is one region */
	TRY(boot_file_read(&f, 0, to, (size_t)f.size));
	gmem_mark_dirty(env->gmem, gpa, f.size);
	env->initrd_gpa = gpa;
	env->initrd_len = f.size;
	return NULL;
}

static struct err *put_cmdline(struct boot_env *env, const struct image *im)
{
	size_t len = strlen(env->cmdline);
	size_t max = CMDLINE_BYTES_MAX - 1;
	if (im->is_bzimage && im->bz.hdr.cmdline_size != 0) {
		max = MIN(max, (size_t)im->bz.hdr.cmdline_size);
	} else if (im->kind == ENTRY_LINUX64 || (im->has_elf && im->elf.is_linux)) {
		max = LINUX_CMDLINE_MAX;
	}
	ENSURE(len <= max, ERR_LIMIT, "command line of %zu bytes, but %s takes at most %zu", len,
	       im->file.name, max);
	return boot_put(env, "the command line", env->cmdline, len + 1, 16, &env->cmdline_gpa);
}

struct err *boot_load(struct gmem *gmem, const struct boot_input *in, struct boot_regs *ret_regs)
{
	SCOPE(image_done) struct image im = { .inner.fd = -1 };
	TRY(detect(in->kernel_name, in->kernel_fd, &im));
	if (im.is_bzimage) {
		TRY(unpack(&im, gmem_bytes(gmem)));
	}
	struct boot_env env;
	TRY(init_env(&env, gmem, in));
	uint64_t entry = 0;
	TRY(load_kernel(&env, &im, &entry));
	const struct setup_header *hdr = im.is_bzimage ? &im.bz.hdr : NULL;
	uint64_t end_max = INITRD_END_MAX;
	if (hdr != NULL && hdr->initrd_addr_max != 0) {
		end_max = (uint64_t)hdr->initrd_addr_max + 1;
	}
	TRY(load_initrd(&env, end_max));
	TRY(put_cmdline(&env, &im));
	switch (im.kind) {
	case ENTRY_PVH:
		return boot_pvh_build(&env, entry, ret_regs);
	case ENTRY_MULTIBOOT:
		return boot_multiboot_build(&env, entry, ret_regs);
	case ENTRY_LINUX64:
		break;
	}
	return boot_linux64_build(&env, &im.elf, entry, hdr, ret_regs);
}

struct err *boot_kind(int kernel_fd, char *ret_text, size_t len)
{
	SCOPE(image_done) struct image im = { .inner.fd = -1 };
	TRY(detect("kernel", kernel_fd, &im));
	if (im.is_bzimage) {
		snprintf(ret_text, len, "bzImage (%s)", boot_pack_name(im.bz.pack));
		return NULL;
	}
	static const char *const names[] = {
		[ENTRY_PVH] = "PVH ELF",
		[ENTRY_LINUX64] = "ELF64 vmlinux",
		[ENTRY_MULTIBOOT] = "multiboot",
	};
	snprintf(ret_text, len, "%s", names[im.kind]);
	return NULL;
}
