/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captured disks in a take, and out of a snapshot (snapshot.h, snap_disk_ops). A disk is one map of
 * the store: its blocks, each a page, and from the next multiple of 512 pages on one bit for each
 * block that says whether the snapshot holds it, or it is what lies below. So a map is complete,
 * and shares with older ones what did not change, as that of memory does.
 *
 * Called by save on the thread of the take, but for disks_freeze (in the pause); by load and core.
 */
#ifndef TORPOR_SNAPSHOT_DISKS_H
#define TORPOR_SNAPSHOT_DISKS_H

#include "snapshot/manifest.h"

struct disks_take {
	const struct snap_vm *vm;
	struct manifest *m;
	uint64_t base[MANIFEST_DISKS_MAX];
	bool frozen;
};

/* Bytes of the map of a disk. */
uint64_t disks_map_bytes(uint64_t len_bytes);

/* Names the disks in the manifest. ERR_LIMIT: more than a snapshot has room for. */
MUST_USE struct err *disks_begin(struct disks_take *t, const struct snap_vm *vm,
				 struct manifest *m);
void disks_freeze(struct disks_take *t);
/* Writes their maps; no map of the session may be open. ERR_NOTFOUND: the base of one is gone. */
MUST_USE struct err *disks_save(struct disks_take *t, struct session *s,
				const struct snap_take_opts *opts, uint64_t *ret_blocks);
/* Tells the disks; without a freeze, or a second time, nobody. */
void disks_end(struct disks_take *t, uint64_t snap_id);

#endif
