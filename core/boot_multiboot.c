/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1. See boot_multiboot.h. */
#include "core/boot_multiboot.h"

#include <inttypes.h>

#include "core/base/bytes.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_BYTES 12u
#define HEADER_ADDR_BYTES 32u /* with the address fields */
#define FLAG_PAGE_ALIGN 0x1u
#define FLAG_MEMORY_INFO 0x2u
#define FLAG_ADDRESSES 0x10000u
#define FLAGS_MUST 0xffffu /* a loader that does not know one of these must refuse */

#define INFO_MEMORY 0x1u
#define INFO_CMDLINE 0x4u
#define INFO_MODULES 0x8u
#define INFO_MEMORY_MAP 0x40u
#define INFO_LOADER_NAME 0x200u
#define TABLES_BYTES_MAX 4096u

bool boot_multiboot_find(const uint8_t *head, size_t len, struct boot_multiboot *ret_mb)
{
	size_t end = MIN(len, (size_t)BOOT_MULTIBOOT_SEARCH_BYTES);
	for (size_t at = 0; at + HEADER_BYTES <= end; at += 4) {
		const uint8_t *h = head + at;
		uint32_t flags = get_le32(h + 4);
		if (get_le32(h) != HEADER_MAGIC || HEADER_MAGIC + flags + get_le32(h + 8) != 0) {
			continue;
		}
		struct boot_multiboot mb = { .flags = flags, .header_off = at };
		mb.has_addresses = (flags & FLAG_ADDRESSES) != 0;
		if (mb.has_addresses) {
			if (at + HEADER_ADDR_BYTES > end) {
				continue;
			}
			mb.header_addr = get_le32(h + 12);
			mb.load_addr = get_le32(h + 16);
			mb.load_end_addr = get_le32(h + 20);
			mb.bss_end_addr = get_le32(h + 24);
			mb.entry_addr = get_le32(h + 28);
		}
		*ret_mb = mb;
		return true;
	}
	return false;
}

struct err *boot_multiboot_check(const struct boot_multiboot *mb, const struct boot_file *f)
{
	uint32_t unknown = mb->flags & FLAGS_MUST & ~(FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO);
	ENSURE(unknown == 0, ERR_INCOMPAT,
	       "%s: the multiboot header demands features 0x%x (4 is a video mode), which torpor "
	       "does "
	       "not have; build the kernel without them",
	       f->name, unknown);
	return NULL;
}

struct err *boot_multiboot_load(const struct boot_multiboot *mb, const struct boot_file *f,
				struct gmem *gmem, struct boot_place *place, uint64_t *ret_entry)
{
	uint64_t load = mb->load_addr;
	ENSURE(mb->header_addr >= load && mb->header_addr - load <= mb->header_off, ERR_CORRUPT,
	       "%s: multiboot header at byte %" PRIu64
	       " with address 0x%x but load address 0x%" PRIx64,
	       f->name, mb->header_off, mb->header_addr, load);
	uint64_t off = mb->header_off - (mb->header_addr - load);
	/* 0 stands for all of the file, and for no BSS. */
	uint64_t load_end = mb->load_end_addr != 0 ? mb->load_end_addr : load + (f->size - off);
	uint64_t end = mb->bss_end_addr != 0 ? mb->bss_end_addr : load_end;
	ENSURE(load_end > load && end >= load_end, ERR_CORRUPT,
	       "%s: multiboot addresses out of order: load 0x%" PRIx64 ", end 0x%" PRIx64
	       ", end of BSS 0x%" PRIx64,
	       f->name, load, load_end, end);
	uint64_t len = load_end - load;
	TRY(boot_file_check(f, off, len, "truncated multiboot kernel: the image"));
	ENSURE(mb->entry_addr >= load && mb->entry_addr < end, ERR_CORRUPT,
	       "%s: multiboot entry 0x%x lies outside of the image", f->name, mb->entry_addr);
	struct err *e = boot_place_claim(place, load, end - load, "the multiboot image");
	if (e != NULL) {
		return err_wrap(e, "%s", f->name);
	}
	void *to = gmem_at(gmem, GPA(load), len);
	BUG_ON(to == NULL); /* the claim saw to it */
	TRY(boot_file_read(f, off, to, (size_t)len));
	gmem_mark_dirty(gmem, GPA(load), len);
	*ret_entry = mb->entry_addr;
	return NULL;
}

static struct err *put_memory_map(struct boot_env *env, gpa_t *ret_gpa, size_t *ret_len)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(TABLES_BYTES_MAX);
	for (unsigned i = 0; i < env->e820.n; i++) {
		wbuf_u32(&w, 20); /* bytes of the entry behind this field */
		wbuf_u64(&w, env->e820.e[i].base);
		wbuf_u64(&w, env->e820.e[i].len);
		wbuf_u32(&w, env->e820.e[i].type);
	}
	TRY(wbuf_check(&w));
	*ret_len = w.len;
	return boot_put(env, "the multiboot memory map", w.p, w.len, 4, ret_gpa);
}

static struct err *put_modules(struct boot_env *env, gpa_t *ret_gpa)
{
	/* The module's string: empty, as its own bytes so that nobody needs a null pointer check.
	 */
	gpa_t string = GPA(0);
	TRY(boot_put(env, "the module's string", "", 1, 4, &string));
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(TABLES_BYTES_MAX);
	wbuf_u32(&w, (uint32_t)env->initrd_gpa.v);
	wbuf_u32(&w, (uint32_t)(env->initrd_gpa.v + env->initrd_len));
	wbuf_u32(&w, (uint32_t)string.v);
	wbuf_u32(&w, 0);
	TRY(wbuf_check(&w));
	return boot_put(env, "the multiboot module list", w.p, w.len, 4, ret_gpa);
}

struct err *boot_multiboot_build(struct boot_env *env, uint64_t entry, struct boot_regs *ret_regs)
{
	static const char loader[] = "torpor";
	gpa_t loader_gpa = GPA(0);
	gpa_t map = GPA(0);
	gpa_t modules = GPA(0);
	size_t map_len = 0;
	bool has_initrd = env->initrd_len > 0;
	TRY(boot_put(env, "the boot loader's name", loader, sizeof(loader), 4, &loader_gpa));
	TRY(put_memory_map(env, &map, &map_len));
	if (has_initrd) {
		TRY(put_modules(env, &modules));
	}
	uint64_t low_end = gmem_region(env->gmem, 0).len_bytes;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(TABLES_BYTES_MAX);
	wbuf_u32(&w, INFO_MEMORY | INFO_CMDLINE | INFO_MEMORY_MAP | INFO_LOADER_NAME |
			     (has_initrd ? INFO_MODULES : 0));
	wbuf_u32(&w, BOOT_EBDA_START / 1024);                        /* mem_lower, KiB */
	wbuf_u32(&w, (uint32_t)((low_end - BOOT_HIGH_START) / KIB)); /* mem_upper, KiB */
	wbuf_u32(&w, 0);                                             /* boot_device */
	wbuf_u32(&w, (uint32_t)env->cmdline_gpa.v);
	wbuf_u32(&w, has_initrd ? 1 : 0);
	wbuf_u32(&w, (uint32_t)modules.v);
	for (unsigned i = 0; i < 4; i++) {
		wbuf_u32(&w, 0); /* symbols */
	}
	wbuf_u32(&w, (uint32_t)map_len);
	wbuf_u32(&w, (uint32_t)map.v);
	for (unsigned i = 0; i < 3; i++) {
		wbuf_u32(&w, 0); /* drives, ROM configuration table */
	}
	wbuf_u32(&w, (uint32_t)loader_gpa.v);
	for (unsigned i = 0; i < 13; i++) {
		wbuf_u32(&w, 0); /* APM, VBE, frame buffer: not announced by the flags */
	}
	TRY(wbuf_check(&w));
	gpa_t info = GPA(0);
	TRY(boot_put(env, "the multiboot information", w.p, w.len, 8, &info));
	*ret_regs = (struct boot_regs){ .mode = BOOT_MULTIBOOT32, .rip = entry, .rbx = info.v };
	return NULL;
}
