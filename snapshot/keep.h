/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kept files: kernel and initrd, which a VM needs to boot again, as maps of its snapshots. Written
 * once per family: a snapshot whose file another one has already shares that map.
 *
 * Called by save on the thread of the take, before the freeze (the files do not change with the
 * guest), and by load.
 */
#ifndef TORPOR_SNAPSHOT_KEEP_H
#define TORPOR_SNAPSHOT_KEEP_H

#include "snapshot/manifest.h"

/* What is to be done for each file, found out before a session is opened. */
struct keep_plan {
	struct {
		const struct snap_file *file;
		uint64_t share_snap; /* share the map of this snapshot; 0: write it */
	} items[MANIFEST_FILES_MAX];
	size_t nitems;
	uint64_t write_bytes; /* content that has to be written */
};

/* Digests the files, looks them up in the family, and fills the manifest's list of files. */
MUST_USE struct err *keep_plan(struct family *f, const struct snap_vm *vm, const bool *cancel,
			       struct manifest *m, struct keep_plan *ret_plan);
/* Writes or shares all of them; no map of the session may be open. */
MUST_USE struct err *keep_write(const struct keep_plan *plan, struct session *s,
				const struct manifest *m, const bool *cancel,
				const struct snap_progress *progress);
/* Reads a kept file and checks every frame and page reference of it; nothing is copied out. With a
 * cancel flag (atomic) on the caller's thread alone; NULL: with all CPUs. */
MUST_USE struct err *keep_check(struct reader *r, const struct manifest_file *file,
				const bool *cancel);
/* Copies a file out into a sealed memfd and checks its digest. */
MUST_USE struct err *keep_read(struct reader *r, const struct manifest_file *file,
			       struct fd *ret_fd);

#endif
