/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest of a snapshot: its table, its rules, and how it is filled. See manifest.h. */
#include "snapshot/manifest.h"

#include <string.h>

static const struct state_field region_fields[] = {
	FIELD(struct manifest_region, 1, base),
	FIELD(struct manifest_region, 2, len_bytes),
};
static const struct state_desc region_desc = {
	.name = "region",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct manifest_region),
	.fields = region_fields,
	.nfields = ARRAY_LEN(region_fields),
};

static const struct state_field part_fields[] = {
	FIELD_BLOB(struct manifest_part, 1, name),
	FIELD(struct manifest_part, 2, instance),
	FIELD(struct manifest_part, 3, version),
	PAD(struct manifest_part, pad),
};
static const struct state_desc part_desc = {
	.name = "part",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct manifest_part),
	.fields = part_fields,
	.nfields = ARRAY_LEN(part_fields),
};

static const struct state_field file_fields[] = {
	FIELD_BLOB(struct manifest_file, 1, name),
	FIELD(struct manifest_file, 2, len_bytes, FIELD_RANGE(1, INITRD_BYTES_MAX)),
	FIELD_BLOB(struct manifest_file, 3, sha256),
};
static const struct state_desc file_desc = {
	.name = "file",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct manifest_file),
	.fields = file_fields,
	.nfields = ARRAY_LEN(file_fields),
};

static const struct state_field disk_fields[] = {
	FIELD_BLOB(struct manifest_disk, 1, id),
	FIELD_BLOB(struct manifest_disk, 2, map),
	FIELD(struct manifest_disk, 3, len_bytes, FIELD_RANGE(512, 1ull << 43)),
	FIELD(struct manifest_disk, 4, base_end),
	FIELD(struct manifest_disk, 5, base_bytes),
	FIELD(struct manifest_disk, 6, base_dev),
	FIELD(struct manifest_disk, 7, base_ino),
	FIELD(struct manifest_disk, 8, base_mtime_ns),
	FIELD(struct manifest_disk, 9, base_is_file),
	PAD(struct manifest_disk, pad),
};
static const struct state_desc disk_desc = {
	.name = "disk",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct manifest_disk),
	.fields = disk_fields,
	.nfields = ARRAY_LEN(disk_fields),
};

static const struct state_field host_fields[] = {
	FIELD(struct manifest_host, 1, xcr0_mask),      FIELD(struct manifest_host, 2, xcr0_used),
	FIELD(struct manifest_host, 3, tsc_khz),        FIELD(struct manifest_host, 4, tsc_scaling),
	FIELD(struct manifest_host, 5, software_kvm),   FIELD_BLOB(struct manifest_host, 6, kernel),
	FIELD_BLOB(struct manifest_host, 7, cpu_model),
};
static const struct state_desc host_desc = {
	.name = "host",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct manifest_host),
	.fields = host_fields,
	.nfields = ARRAY_LEN(host_fields),
};

static const struct state_field manifest_fields[] = {
	FIELD_BLOB(struct manifest, 1, torpor),
	FIELD_BLOB(struct manifest, 2, vm_name),
	FIELD(struct manifest, 3, page_bytes, FIELD_RANGE(PAGE_BYTES, PAGE_BYTES)),
	FIELD(struct manifest, 4, nregions, FIELD_RANGE(1, GMEM_REGIONS_MAX)),
	FIELD(struct manifest, 5, nparts, FIELD_RANGE(1, PARTS_MAX)),
	FIELD(struct manifest, 6, nfiles, FIELD_RANGE(0, MANIFEST_FILES_MAX)),
	FIELD_SUB(struct manifest, 7, host, &host_desc),
	FIELD_VSUBS(struct manifest, 8, regions, nregions, &region_desc),
	FIELD_VSUBS(struct manifest, 9, files, nfiles, &file_desc),
	FIELD_VSUBS(struct manifest, 10, parts, nparts, &part_desc),
	FIELD(struct manifest, 11, ndisks, FIELD_RANGE(0, MANIFEST_DISKS_MAX), .since = 2),
	PAD(struct manifest, pad),
	FIELD_VSUBS(struct manifest, 12, disks, ndisks, &disk_desc, .since = 2),
};

static struct snap_host host_facts; /* const once threads run */

void snap_set_host(const struct snap_host *here)
{
	host_facts = *here;
}

void manifest_text(uint8_t *dst, size_t size, const char *src)
{
	size_t len = strnlen(src, size - 1);
	memset(dst, 0, size);
	for (size_t i = 0; i < len; i++) {
		bool visible = src[i] >= 0x20 && src[i] < 0x7f;
		dst[i] = visible ? (uint8_t)src[i] : '?';
	}
}

static struct err *text_check(const uint8_t *p, size_t size, bool may_be_empty, const char *what)
{
	size_t len = strnlen((const char *)p, size);
	ENSURE(len < size && (len > 0 || may_be_empty), ERR_CORRUPT, "%s is %s", what,
	       len == 0 ? "empty" : "not terminated");
	for (size_t i = 0; i < size; i++) {
		ENSURE(i < len ? p[i] >= 0x20 && p[i] < 0x7f : p[i] == 0, ERR_CORRUPT,
		       "%s holds byte 0x%02x at %zu", what, p[i], i);
	}
	return NULL;
}

static struct err *regions_check(const struct manifest *m)
{
	uint64_t end = 0;
	for (uint32_t i = 0; i < m->nregions; i++) {
		const struct manifest_region *r = &m->regions[i];
		uint64_t r_end;
		ENSURE(r->len_bytes > 0 && r->len_bytes % PAGE_BYTES == 0 &&
			       r->base % PAGE_BYTES == 0 && r->base >= end &&
			       !ADD_OVERFLOWS(r->base, r->len_bytes, &r_end),
		       ERR_CORRUPT, "memory region %u (0x%llx bytes at 0x%llx) is malformed", i,
		       (unsigned long long)r->len_bytes, (unsigned long long)r->base);
		end = r->base + r->len_bytes;
	}
	return NULL;
}

static struct err *disks_check(const struct manifest *m)
{
	for (uint32_t i = 0; i < m->ndisks; i++) {
		const struct manifest_disk *d = &m->disks[i];
		TRY(text_check(d->id, sizeof(d->id), false, "disk name"));
		TRY(text_check(d->map, sizeof(d->map), false, "name of a disk's map"));
		ENSURE(manifest_find_disk(m, (const char *)d->id) == d, ERR_CORRUPT,
		       "disk %s is listed twice", (const char *)d->id);
		ENSURE(d->base_end <= d->len_bytes && d->len_bytes % 512 == 0, ERR_CORRUPT,
		       "disk %s has %llu bytes, %llu of them from below", (const char *)d->id,
		       (unsigned long long)d->len_bytes, (unsigned long long)d->base_end);
	}
	return NULL;
}

static struct err *manifest_check(const void *state)
{
	const struct manifest *m = state;
	TRY(text_check(m->torpor, sizeof(m->torpor), false, "torpor version"));
	TRY(text_check(m->vm_name, sizeof(m->vm_name), false, "VM name"));
	TRY(text_check(m->host.kernel, sizeof(m->host.kernel), true, "host kernel"));
	TRY(text_check(m->host.cpu_model, sizeof(m->host.cpu_model), true, "host CPU model"));
	TRY(regions_check(m));
	for (uint32_t i = 0; i < m->nfiles; i++) {
		const struct manifest_file *f = &m->files[i];
		TRY(text_check(f->name, sizeof(f->name), false, "file name"));
		ENSURE(manifest_find_file(m, (const char *)f->name) == f, ERR_CORRUPT,
		       "file %s is listed twice", (const char *)f->name);
	}
	TRY(disks_check(m));
	for (uint32_t i = 0; i < m->nparts; i++) {
		const struct manifest_part *p = &m->parts[i];
		TRY(text_check(p->name, sizeof(p->name), false, "part name"));
		ENSURE(manifest_find_part(m, (const char *)p->name, p->instance) == (int)i,
		       ERR_CORRUPT, "part %s/%u is listed twice", (const char *)p->name,
		       p->instance);
	}
	return NULL;
}

void manifest_set_host(struct manifest *m, const struct snap_vm *vm)
{
	struct manifest_host *h = &m->host;
	h->xcr0_mask = host_facts.xcr0_mask;
	h->xcr0_used =
		vm->ops->xcr0_used != NULL ? vm->ops->xcr0_used(vm->self) : host_facts.xcr0_mask;
	h->tsc_khz = host_facts.tsc_khz;
	h->tsc_scaling = host_facts.tsc_scaling;
	h->software_kvm = host_facts.software_kvm;
	manifest_text(h->kernel, sizeof(h->kernel), host_facts.kernel);
	manifest_text(h->cpu_model, sizeof(h->cpu_model), host_facts.cpu_model);
}

void manifest_get_host(const struct manifest *m, struct snap_host *ret)
{
	const struct manifest_host *h = &m->host;
	*ret = (struct snap_host){
		.tsc_khz = h->tsc_khz,
		.tsc_scaling = h->tsc_scaling,
		.software_kvm = h->software_kvm,
		.xcr0_mask = h->xcr0_mask,
	};
	_Static_assert(sizeof(ret->kernel) == sizeof(h->kernel), "copied whole");
	_Static_assert(sizeof(ret->cpu_model) == sizeof(h->cpu_model), "copied whole");
	memcpy(ret->kernel, h->kernel, sizeof(ret->kernel));
	memcpy(ret->cpu_model, h->cpu_model, sizeof(ret->cpu_model));
}

void manifest_set_regions(struct manifest *m, const struct gmem *g)
{
	m->page_bytes = PAGE_BYTES;
	m->nregions = gmem_nregions(g);
	for (uint32_t i = 0; i < m->nregions; i++) {
		struct gmem_region r = gmem_region(g, i);
		m->regions[i] = (struct manifest_region){ r.base.v, r.len_bytes };
	}
}

struct err *manifest_match_regions(const struct manifest *m, const struct gmem *g)
{
	ENSURE(m->nregions == gmem_nregions(g), ERR_CORRUPT,
	       "snapshot has %u memory regions, the VM built from its configuration has %u",
	       m->nregions, gmem_nregions(g));
	for (uint32_t i = 0; i < m->nregions; i++) {
		struct gmem_region r = gmem_region(g, i);
		ENSURE(m->regions[i].base == r.base.v && m->regions[i].len_bytes == r.len_bytes,
		       ERR_CORRUPT,
		       "memory region %u: 0x%llx bytes at 0x%llx in the snapshot, 0x%llx at 0x%llx "
		       "in the VM built from its configuration",
		       i, (unsigned long long)m->regions[i].len_bytes,
		       (unsigned long long)m->regions[i].base, (unsigned long long)r.len_bytes,
		       (unsigned long long)r.base.v);
	}
	return NULL;
}

uint64_t manifest_gfn_end(const struct manifest *m)
{
	const struct manifest_region *last = &m->regions[m->nregions - 1];
	return (last->base + last->len_bytes) / PAGE_BYTES;
}

const struct manifest_file *manifest_find_file(const struct manifest *m, const char *name)
{
	for (uint32_t i = 0; i < m->nfiles; i++) {
		if (strncmp((const char *)m->files[i].name, name, sizeof(m->files[i].name)) == 0) {
			return &m->files[i];
		}
	}
	return NULL;
}

const struct manifest_disk *manifest_find_disk(const struct manifest *m, const char *id)
{
	for (uint32_t i = 0; i < m->ndisks; i++) {
		if (strncmp((const char *)m->disks[i].id, id, sizeof(m->disks[i].id)) == 0) {
			return &m->disks[i];
		}
	}
	return NULL;
}

int manifest_find_part(const struct manifest *m, const char *name, uint32_t instance)
{
	for (uint32_t i = 0; i < m->nparts; i++) {
		const struct manifest_part *p = &m->parts[i];
		if (p->instance == instance &&
		    strncmp((const char *)p->name, name, sizeof(p->name)) == 0) {
			return (int)i;
		}
	}
	return -1;
}

const struct state_desc manifest_desc = {
	.name = "manifest",
	.version = 2,
	.oldest = 1,
	.size = sizeof(struct manifest),
	.fields = manifest_fields,
	.nfields = ARRAY_LEN(manifest_fields),
	.check = manifest_check,
};
