/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory into a session of the store and back. Page index = gfn. Called by save and load.
 */
#ifndef TORPOR_SNAPSHOT_PAGES_H
#define TORPOR_SNAPSHOT_PAGES_H

#include "snapshot/snapshot.h"

/* ERR_CANCELLED once *cancel is set; NULL cannot be cancelled. */
MUST_USE struct err *pages_check_cancel(const bool *cancel);
/*
 * Queues all memory that was ever touched; the open map of the session is that of the memory.
 * The memory must stand still until session_settle has returned.
 */
MUST_USE struct err *pages_save(struct session *s, const struct gmem *g, const bool *cancel,
				const struct snap_progress *progress);
/* Reads map "memory" into fresh (all zero) guest memory. A page outside RAM: ERR_CORRUPT. */
MUST_USE struct err *pages_load(struct reader *r, struct gmem *g,
				const struct snap_progress *progress);

#endif
