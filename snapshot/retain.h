/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which automatic snapshots of a VM stay. Called by core on the thread of a take, after it has
 * succeeded, or when the disk was too full for it.
 */
#ifndef TORPOR_SNAPSHOT_RETAIN_H
#define TORPOR_SNAPSHOT_RETAIN_H

#include "store/store.h"

struct snap_retain {
	uint8_t vm[16];
	uint8_t family[16];
	const char *prefix; /* of the tags of those that may go; all others are not looked at */
	struct prune_policy policy;
};

/* Removes what the policy does not keep. *ret_removed: how many. Pinned ones and the newest stay. */
MUST_USE struct err *snap_retain(struct store *s, const struct snap_retain *r, size_t *ret_removed);
/* Removes the oldest that is not pinned, unless it is the only one: room for the next. */
MUST_USE struct err *snap_retain_less(struct store *s, const struct snap_retain *r,
				      size_t *ret_removed);

/*
 * What removals leave in frames that are still used comes together, a little at a time: if a good part
 * of the family's bytes is dead pages, some of the frames are compacted. *ret_bytes: freed; 0: there was
 * nothing to do. ERR_CANCELLED: *cancel (atomic access) was set. For when no take is at work.
 */
MUST_USE struct err *snap_retain_tidy(struct store *s, const struct snap_retain *r,
				      const bool *cancel, uint64_t *ret_bytes);

#endif
