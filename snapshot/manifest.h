/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest: what a snapshot consists of, as a record with a field table of its own. Made by
 * save, read and checked by load; docs/format.md, "Manifest". No I/O, any thread.
 *
 * Texts are zero-padded byte arrays; manifest_check makes sure that they end within their array
 * and hold visible ASCII only, so that they may be used as C strings and printed.
 */
#ifndef TORPOR_SNAPSHOT_MANIFEST_H
#define TORPOR_SNAPSHOT_MANIFEST_H

#include "snapshot/snapshot.h"

#define MANIFEST_FILES_MAX (STORE_MAPS_MAX - 1u) /* one map is "memory" */

struct manifest_region {
	uint64_t base;
	uint64_t len_bytes;
};

struct manifest_part {
	uint8_t name[32];
	uint32_t instance;
	uint16_t version; /* of the record, as its own head says too */
	uint8_t pad[2];
};

struct manifest_file {
	uint8_t name[STORE_MAP_NAME_MAX + 1];
	uint64_t len_bytes;
	uint8_t sha256[32];
};

#define MANIFEST_DISKS_MAX MANIFEST_FILES_MAX

struct manifest_disk {
	uint8_t id[72];
	uint8_t map[STORE_MAP_NAME_MAX + 1];
	uint64_t len_bytes;
	uint64_t base_end;
	uint64_t base_bytes;
	uint64_t base_dev;
	uint64_t base_ino;
	uint64_t base_mtime_ns;
	bool base_is_file;
	uint8_t pad[7];
};

struct manifest_host {
	uint64_t xcr0_mask; /* XSAVE components of the host at the take */
	uint64_t xcr0_used; /* those that the guest can have in use */
	uint32_t tsc_khz;
	bool tsc_scaling;
	bool software_kvm;
	uint8_t kernel[65];
	uint8_t cpu_model[49];
};

struct manifest {
	uint8_t torpor[32]; /* version of the program that took it, informative */
	uint8_t vm_name[72];
	uint32_t page_bytes;
	uint32_t nregions;
	uint32_t nparts;
	uint32_t nfiles;
	struct manifest_host host;
	struct manifest_region regions[GMEM_REGIONS_MAX];
	struct manifest_file files[MANIFEST_FILES_MAX];
	uint32_t ndisks;
	uint8_t pad[4];
	struct manifest_disk disks[MANIFEST_DISKS_MAX];
	struct manifest_part parts[PARTS_MAX]; /* blob SNAP_BLOB_PART of the same index */
};

extern const struct state_desc manifest_desc;

/* Zero-padded copy; what is too long is cut, what is not visible ASCII becomes '?'. */
void manifest_text(uint8_t *dst, size_t size, const char *src);
/* The facts given to snap_set_host, and xcr0_used from the VM where it tells. */
void manifest_set_host(struct manifest *m, const struct snap_vm *vm);
void manifest_get_host(const struct manifest *m, struct snap_host *ret);
void manifest_set_regions(struct manifest *m, const struct gmem *g);
/* ERR_CORRUPT naming the region when the snapshot's memory is laid out otherwise. */
MUST_USE struct err *manifest_match_regions(const struct manifest *m, const struct gmem *g);
/* One past the highest RAM page. */
uint64_t manifest_gfn_end(const struct manifest *m);
/* NULL if there is none of that name. */
const struct manifest_file *manifest_find_file(const struct manifest *m, const char *name);
/* NULL if there is none of that id. */
const struct manifest_disk *manifest_find_disk(const struct manifest *m, const char *id);
/* Index of the part, or -1. */
int manifest_find_part(const struct manifest *m, const char *name, uint32_t instance);

#endif
