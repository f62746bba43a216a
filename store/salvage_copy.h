/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one snapshot anew in another store. For salvage.c; one thread. */
#ifndef TORPOR_STORE_SALVAGE_COPY_H
#define TORPOR_STORE_SALVAGE_COPY_H

#include "store/store.h"

/* What has been copied between two families, for parents and for maps that are the same. */
struct salvage_copied {
	struct salvage_pair {
		struct snap_info from;
		struct snap_info to;
	} * pair; /* owned */
	size_t n;
};
void salvage_copied_done(struct salvage_copied *c);

/*
 * Copies a snapshot with its number and tag and adds it to *done. Needs address space and memory
 * for its largest map. Errors: ERR_CORRUPT when it cannot be read whole (then nothing is added to
 * the new family), those of a session.
 */
MUST_USE struct err *salvage_copy_snap(struct family *from, struct family *to,
				       const struct snap_info *info, struct salvage_copied *done);
/* The VM's next snapshot gets a higher number than this one. */
MUST_USE struct err *salvage_number_reserve(struct family *to, const struct snap_info *info);

#endif
