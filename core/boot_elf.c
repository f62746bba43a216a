/* SPDX-License-Identifier: Apache-2.0 */
/* ELF program headers, PVH note, segments into guest memory. See boot_elf.h. */
#include "core/boot_elf.h"

#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "core/base/bytes.h"

#define NOTES_BYTES_MAX (1 * MIB)
#define NOTE_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY */

/* The fields that both classes have, widened. */
struct phdr {
	uint32_t type;
	uint64_t off, vaddr, paddr, filesz, memsz, align;
};

bool boot_elf_is(const uint8_t *head, size_t len)
{
	return len >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static struct phdr phdr_of(bool is64, const uint8_t *p)
{
	if (is64) {
		return (struct phdr){
			.type = get_le32(p + offsetof(Elf64_Phdr, p_type)),
			.off = get_le64(p + offsetof(Elf64_Phdr, p_offset)),
			.vaddr = get_le64(p + offsetof(Elf64_Phdr, p_vaddr)),
			.paddr = get_le64(p + offsetof(Elf64_Phdr, p_paddr)),
			.filesz = get_le64(p + offsetof(Elf64_Phdr, p_filesz)),
			.memsz = get_le64(p + offsetof(Elf64_Phdr, p_memsz)),
			.align = get_le64(p + offsetof(Elf64_Phdr, p_align)),
		};
	}
	return (struct phdr){
		.type = get_le32(p + offsetof(Elf32_Phdr, p_type)),
		.off = get_le32(p + offsetof(Elf32_Phdr, p_offset)),
		.vaddr = get_le32(p + offsetof(Elf32_Phdr, p_vaddr)),
		.paddr = get_le32(p + offsetof(Elf32_Phdr, p_paddr)),
		.filesz = get_le32(p + offsetof(Elf32_Phdr, p_filesz)),
		.memsz = get_le32(p + offsetof(Elf32_Phdr, p_memsz)),
		.align = get_le32(p + offsetof(Elf32_Phdr, p_align)),
	};
}

/* Skips len bytes and the padding after them; the padding of the last note may be cut off. */
static struct err *skip_padded(struct rcur *c, uint32_t len, uint64_t align)
{
	TRY(rcur_skip(c, len));
	uint64_t pad = round_up_u64(len, align) - len;
	return rcur_skip(c, (size_t)MIN(pad, (uint64_t)rcur_left(c)));
}

static struct err *parse_notes(struct rcur *c, uint64_t align, struct boot_elf *elf)
{
	while (rcur_left(c) >= sizeof(Elf64_Nhdr)) {
		uint32_t namesz;
		uint32_t descsz;
		uint32_t type;
		TRY(rcur_u32(c, &namesz));
		TRY(rcur_u32(c, &descsz));
		TRY(rcur_u32(c, &type));
		struct rcur name = *c;
		TRY(skip_padded(c, namesz, align));
		struct rcur desc = *c;
		TRY(skip_padded(c, descsz, align));
		if (namesz == 6 && memcmp(name.p + name.pos, "Linux", 6) == 0) {
			elf->is_linux = true;
		}
		if (type != NOTE_PHYS32_ENTRY || namesz != 4 ||
		    memcmp(name.p + name.pos, "Xen", 4) != 0) {
			continue;
		}
		uint64_t entry = 0;
		if (descsz == 8) {
			TRY(rcur_u64(&desc, &entry));
		} else {
			uint32_t entry32;
			ENSURE(descsz == 4, ERR_CORRUPT, "PVH note of %u bytes, not 4 or 8",
			       descsz);
			TRY(rcur_u32(&desc, &entry32));
			entry = entry32;
		}
		ENSURE(entry <= UINT32_MAX, ERR_CORRUPT,
		       "PVH entry 0x%" PRIx64 " is not below 4 GiB", entry);
		elf->has_pvh = true;
		elf->pvh_entry = (uint32_t)entry;
	}
	return NULL;
}

static struct err *read_notes(const struct boot_file *f, unsigned i, const struct phdr *ph,
			      struct boot_elf *elf)
{
	TRY(boot_file_check(f, ph->off, ph->filesz, "truncated ELF: note segment %u", i));
	ENSURE(ph->filesz <= NOTES_BYTES_MAX, ERR_LIMIT,
	       "%s: note segment %u of %" PRIu64 " bytes, at most %llu are read", f->name, i,
	       ph->filesz, NOTES_BYTES_MAX);
	if (ph->filesz == 0) {
		return NULL;
	}
	size_t len = (size_t)ph->filesz;
	SCOPE(freep) uint8_t *notes = malloc(len);
	ENSURE(notes != NULL, ERR_SYS, "%s: no memory for %zu bytes of notes", f->name, len);
	TRY(boot_file_read(f, ph->off, notes, len));
	struct rcur c = rcur_of(notes, len);
	/* Notes are padded to 4 bytes in either class, except in segments aligned to 8. */
	struct err *e = parse_notes(&c, ph->align == 8 ? 8 : 4, elf);
	return e == NULL ? NULL : err_wrap(e, "%s: note segment %u", f->name, i);
}

static struct err *add_segment(const struct boot_file *f, unsigned i, const struct phdr *ph,
			       struct boot_elf *elf)
{
	TRY(boot_file_check(f, ph->off, ph->filesz, "truncated ELF: segment %u", i));
	ENSURE(ph->filesz <= ph->memsz, ERR_CORRUPT,
	       "%s: segment %u has %" PRIu64 " bytes in the file but %" PRIu64 " in memory",
	       f->name, i, ph->filesz, ph->memsz);
	if (ph->memsz == 0) {
		return NULL;
	}
	uint64_t end;
	ENSURE(!ADD_OVERFLOWS(ph->paddr, ph->memsz, &end), ERR_CORRUPT,
	       "%s: segment %u of %" PRIu64 " bytes at address 0x%" PRIx64
	       " ends beyond 64-bit addresses",
	       f->name, i, ph->memsz, ph->paddr);
	ENSURE(elf->nsegs < BOOT_ELF_SEGS_MAX, ERR_LIMIT, "%s: more than %u loadable segments",
	       f->name, BOOT_ELF_SEGS_MAX);
	elf->seg[elf->nsegs++] = (struct boot_elf_seg){
		.phdr = i,
		.off = ph->off,
		.filesz = ph->filesz,
		.vaddr = ph->vaddr,
		.paddr = ph->paddr,
		.memsz = ph->memsz,
	};
	return NULL;
}

/* Checks the identification and gives the place of the program headers. */
static struct err *parse_header(const struct boot_file *f, struct boot_elf *elf, uint64_t *ret_off,
				unsigned *ret_n)
{
	uint8_t h[sizeof(Elf64_Ehdr)];
	TRY(boot_file_check(f, 0, EI_NIDENT, "truncated ELF: the identification"));
	TRY(boot_file_read(f, 0, h, EI_NIDENT));
	ENSURE(boot_elf_is(h, EI_NIDENT), ERR_CORRUPT, "%s: not an ELF file", f->name);
	ENSURE(h[EI_DATA] == ELFDATA2LSB && h[EI_VERSION] == EV_CURRENT &&
		       (h[EI_CLASS] == ELFCLASS32 || h[EI_CLASS] == ELFCLASS64),
	       ERR_INCOMPAT, "%s: not a little-endian ELF file of 32 or 64 bits", f->name);
	elf->is64 = h[EI_CLASS] == ELFCLASS64;
	size_t len = elf->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr);
	TRY(boot_file_check(f, 0, len, "truncated ELF: the header"));
	TRY(boot_file_read(f, 0, h, len));
	uint16_t machine = get_le16(h + offsetof(Elf64_Ehdr, e_machine));
	uint16_t type = get_le16(h + offsetof(Elf64_Ehdr, e_type));
	ENSURE(machine == (elf->is64 ? EM_X86_64 : EM_386), ERR_INCOMPAT,
	       "%s: an ELF file for machine %u, not a kernel for x86", f->name, machine);
	ENSURE(type == ET_EXEC || type == ET_DYN, ERR_CORRUPT,
	       "%s: ELF type %u is no executable (a linked kernel is needed)", f->name, type);
	elf->entry = elf->is64 ? get_le64(h + offsetof(Elf64_Ehdr, e_entry))
			       : get_le32(h + offsetof(Elf32_Ehdr, e_entry));
	unsigned entsize = get_le16(h + (elf->is64 ? offsetof(Elf64_Ehdr, e_phentsize)
						   : offsetof(Elf32_Ehdr, e_phentsize)));
	*ret_n = get_le16(
		h + (elf->is64 ? offsetof(Elf64_Ehdr, e_phnum) : offsetof(Elf32_Ehdr, e_phnum)));
	*ret_off = elf->is64 ? get_le64(h + offsetof(Elf64_Ehdr, e_phoff))
			     : get_le32(h + offsetof(Elf32_Ehdr, e_phoff));
	ENSURE(*ret_n > 0, ERR_CORRUPT, "%s: ELF file without program headers", f->name);
	ENSURE(*ret_n <= BOOT_ELF_PHDRS_MAX, ERR_LIMIT,
	       "%s: %u program headers, at most %u are read", f->name, *ret_n, BOOT_ELF_PHDRS_MAX);
	ENSURE(entsize == (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)), ERR_CORRUPT,
	       "%s: program headers of %u bytes", f->name, entsize);
	return NULL;
}

struct err *boot_elf_parse(const struct boot_file *f, struct boot_elf *ret_elf)
{
	struct boot_elf elf = { 0 };
	uint64_t off = 0;
	unsigned n = 0;
	TRY(parse_header(f, &elf, &off, &n));
	size_t entsize = elf.is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	for (unsigned i = 0; i < n; i++) {
		uint8_t raw[sizeof(Elf64_Phdr)];
		uint64_t at;
		ENSURE(!ADD_OVERFLOWS(off, (uint64_t)i * entsize, &at), ERR_CORRUPT,
		       "%s: program headers at byte %" PRIu64 " end beyond 64-bit offsets", f->name,
		       off);
		TRY(boot_file_check(f, at, entsize, "truncated ELF: program header %u", i));
		TRY(boot_file_read(f, at, raw, entsize));
		struct phdr ph = phdr_of(elf.is64, raw);
		if (ph.type == PT_LOAD) {
			TRY(add_segment(f, i, &ph, &elf));
		} else if (ph.type == PT_NOTE) {
			TRY(read_notes(f, i, &ph, &elf));
		}
	}
	ENSURE(elf.nsegs > 0, ERR_CORRUPT, "%s: ELF file with nothing to load", f->name);
	*ret_elf = elf;
	return NULL;
}

struct err *boot_elf_load(const struct boot_elf *elf, const struct boot_file *f, struct gmem *gmem,
			  struct boot_place *place)
{
	for (unsigned i = 0; i < elf->nsegs; i++) {
		const struct boot_elf_seg *s = &elf->seg[i];
		struct err *e = boot_place_claim(place, s->paddr, s->memsz, "segment %u", s->phdr);
		if (e != NULL) {
			return err_wrap(e, "%s", f->name);
		}
	}
	for (unsigned i = 0; i < elf->nsegs; i++) {
		const struct boot_elf_seg *s = &elf->seg[i];
		if (s->filesz == 0) {
			continue;
		}
		void *to = gmem_at(gmem, GPA(s->paddr), s->filesz);
		BUG_ON(to == NULL); /* the claim saw to it */
		TRY(boot_file_read(f, s->off, to, (size_t)s->filesz));
		gmem_mark_dirty(gmem, GPA(s->paddr), s->filesz);
	}
	return NULL;
}

struct err *boot_elf_phys(const struct boot_elf *elf, const struct boot_file *f, uint64_t addr,
			  uint64_t *ret_phys)
{
	for (unsigned i = 0; i < elf->nsegs; i++) {
		const struct boot_elf_seg *s = &elf->seg[i];
		if (addr >= s->paddr && addr - s->paddr < s->memsz) {
			*ret_phys = addr;
			return NULL;
		}
	}
	for (unsigned i = 0; i < elf->nsegs; i++) {
		const struct boot_elf_seg *s = &elf->seg[i];
		if (addr >= s->vaddr && addr - s->vaddr < s->memsz) {
			*ret_phys = s->paddr + (addr - s->vaddr);
			return NULL;
		}
	}
	return ERR(ERR_CORRUPT, "%s: entry point 0x%" PRIx64 " lies in no loaded segment", f->name,
		   addr);
}
