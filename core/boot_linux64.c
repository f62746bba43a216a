/* SPDX-License-Identifier: Apache-2.0 */
/* Zero page, identity page tables and GDT for Linux's 64-bit entry. See boot_linux64.h. */
#include "core/boot_linux64.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/bytes.h"

#define BOOT_FLAG 0xaa55u
#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define PROTOCOL 0x020fu         /* what is filled in for a vmlinux without a setup header */
#define LOADER_UNDEFINED 0xffu   /* no assigned boot loader number */
#define LOADFLAGS_HIGH 0x01u

#define PTE_TABLE 0x3ull  /* present, writable */
#define PTE_LARGE 0x83ull /* present, writable, 2 MiB */
#define LARGE_BYTES (2 * MIB)
#define TABLE_ENTRIES 512u
#define MAP_GIB_MAX 512u /* one table of 1 GiB entries: kernels above 512 GiB are refused */
#define MAP_GIB_MIN 4u

static struct err *put_zero_page(struct boot_env *env, const struct setup_header *hdr,
				 gpa_t *ret_gpa)
{
	_Static_assert(sizeof(struct boot_params) == PAGE_BYTES, "the zero page is one page");
	_Static_assert(BOOT_E820_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "the memory map fits");
	struct boot_params bp = { 0 };
	if (hdr != NULL) {
		bp.hdr = *hdr;
	} else {
		bp.hdr.version = PROTOCOL;
		bp.hdr.boot_flag = BOOT_FLAG;
		bp.hdr.header = HEADER_MAGIC;
	}
	bp.hdr.type_of_loader = LOADER_UNDEFINED;
	bp.hdr.loadflags |= LOADFLAGS_HIGH;
	bp.hdr.setup_data = 0;
	bp.hdr.cmd_line_ptr = (uint32_t)env->cmdline_gpa.v;
	bp.ext_cmd_line_ptr = (uint32_t)(env->cmdline_gpa.v >> 32);
	if (env->initrd_len > 0) {
		bp.hdr.ramdisk_image = (uint32_t)env->initrd_gpa.v;
		bp.ext_ramdisk_image = (uint32_t)(env->initrd_gpa.v >> 32);
		bp.hdr.ramdisk_size = (uint32_t)env->initrd_len;
		bp.ext_ramdisk_size = (uint32_t)(env->initrd_len >> 32);
	}
	bp.acpi_rsdp_addr = env->in->rsdp.v;
	bp.e820_entries = (uint8_t)env->e820.n;
	for (unsigned i = 0; i < env->e820.n; i++) {
		bp.e820_table[i].addr = env->e820.e[i].base;
		bp.e820_table[i].size = env->e820.e[i].len;
		bp.e820_table[i].type = env->e820.e[i].type;
	}
	return boot_put(env, "the zero page", &bp, sizeof(bp), PAGE_BYTES, ret_gpa);
}

/* Marks the GiBs that must be mapped: the first four, and wherever the kernel lies. */
static struct err *choose_gibs(const struct boot_elf *elf, const char *name, bool *want,
			       unsigned *ret_n)
{
	for (unsigned g = 0; g < MAP_GIB_MIN; g++) {
		want[g] = true;
	}
	for (unsigned i = 0; i < elf->nsegs; i++) {
		const struct boot_elf_seg *s = &elf->seg[i];
		uint64_t last = (s->paddr + s->memsz - 1) / GIB;
		ENSURE(last < MAP_GIB_MAX, ERR_LIMIT,
		       "%s: segment %u ends above %u GiB, where the 64-bit entry maps nothing; "
		       "link the kernel lower",
		       name, s->phdr, MAP_GIB_MAX);
		for (uint64_t g = s->paddr / GIB; g <= last; g++) {
			want[g] = true;
		}
	}
	*ret_n = 0;
	for (unsigned g = 0; g < MAP_GIB_MAX; g++) {
		*ret_n += want[g];
	}
	return NULL;
}

static struct err *write_table(struct boot_env *env, uint64_t gpa, const uint64_t *table)
{
	return gmem_write(env->gmem, GPA(gpa), table, TABLE_ENTRIES * sizeof(*table));
}

/* One table of 512 GiB entries, one of 1 GiB entries, then one of 2 MiB pages per wanted GiB. */
static struct err *put_page_tables(struct boot_env *env, const struct boot_elf *elf, gpa_t *ret_gpa)
{
	bool want[MAP_GIB_MAX] = { false };
	unsigned n = 0;
	TRY(choose_gibs(elf, env->in->kernel_name, want, &n));
	gpa_t root = GPA(0);
	TRY(boot_place_low(&env->place, "page tables", (2 + (uint64_t)n) * PAGE_BYTES, PAGE_BYTES,
			   &root));
	uint64_t table[TABLE_ENTRIES] = { (root.v + PAGE_BYTES) | PTE_TABLE };
	TRY(write_table(env, root.v, table));
	uint64_t at = root.v + 2 * PAGE_BYTES;
	uint64_t gibs[TABLE_ENTRIES] = { 0 };
	for (unsigned g = 0; g < MAP_GIB_MAX; g++) {
		if (!want[g]) {
			continue;
		}
		gibs[g] = at | PTE_TABLE;
		for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
			table[i] = (g * GIB + i * LARGE_BYTES) | PTE_LARGE;
		}
		TRY(write_table(env, at, table));
		at += PAGE_BYTES;
	}
	TRY(write_table(env, root.v + PAGE_BYTES, gibs));
	*ret_gpa = root;
	return NULL;
}

struct err *boot_linux64_build(struct boot_env *env, const struct boot_elf *elf, uint64_t entry,
			       const struct setup_header *hdr, struct boot_regs *ret_regs)
{
	/* Flat segments; the selectors' indexes are the protocol's. */
	static const uint64_t gdt[] = {
		0, 0, 0x00af9b000000ffff, /* 0x10: 64-bit code */
		0x00cf93000000ffff,       /* 0x18: data */
	};
	gpa_t zero_page = GPA(0);
	gpa_t gdt_gpa = GPA(0);
	gpa_t root = GPA(0);
	TRY(put_zero_page(env, hdr, &zero_page));
	TRY(boot_put(env, "the GDT", gdt, sizeof(gdt), 8, &gdt_gpa));
	TRY(put_page_tables(env, elf, &root));
	*ret_regs = (struct boot_regs){
		.mode = BOOT_LINUX64,
		.rip = entry,
		.rsi = zero_page.v,
		.cr3 = root.v,
		.gdt_base = gdt_gpa.v,
		.gdt_limit = sizeof(gdt) - 1,
	};
	return NULL;
}
