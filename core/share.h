/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of a snapshot that several VMs share (`torpor restore --share-memory`): a keeper, a small
 * process per snapshot, reads all of it from the store, verified, into a sealed memfd, and then
 * hands it to whoever restores that snapshot; each maps it privately, so what a VM writes is its
 * own. docs/decisions/0020-shared-memory.md has the reasons.
 *
 * Beside the run folder, where no jailed VM can write, is RUN_FOLDER-share/ with ROOT.sock and
 * ROOT.lock, ROOT being the first half of the snapshot's root digest: equal content, one keeper. A
 * VM's connection to the keeper is its hold:
 * when the last one is closed the keeper ends, also when the VM was killed. A VM whose keeper was
 * killed keeps the memory that it has, which is all.
 *
 * Threads: the main thread, before there are others and before the jail closes.
 */
#ifndef TORPOR_CORE_SHARE_H
#define TORPOR_CORE_SHARE_H

#include "core/base/hash.h"
#include "core/base/limits.h"

/*
 * A process that may become a keeper: forked before the caller opens a store, it waits to be told.
 * It ends when the caller lets go of it without a word.
 */
struct share_spare {
	struct fd wire;
};
MUST_USE struct err *share_spare_begin(struct share_spare *ret_spare);
void share_spare_end(struct share_spare *s);

#define SHARE_DIR_MAX 200
struct share_want {
	char store_dir[4096];
	char run_dir[SHARE_DIR_MAX];
	char ref[REF_BYTES_MAX + 1];
	struct sha256 root; /* of what ref was when it was looked at */
	uint64_t bytes;     /* of guest memory */
	bool no_jail;
};
struct shared_memory {
	struct fd memory; /* for gmem_new_clone */
	struct fd hold;   /* open as long as the VM lives */
};
/* From the keeper there is, or from `spare`, which becomes it; waits until all memory is read. An
 * error of that names the page or record. */
MUST_USE struct err *share_join(const struct share_want *want, struct share_spare *spare,
				struct shared_memory *ret_shared);
void shared_memory_done(struct shared_memory *s);

#endif
