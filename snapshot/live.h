/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of a guest that runs on: rounds of changed pages go to the compressors until few are left,
 * the last ones are copied into a buffer, some of them while the guest stands still, and stored once
 * it runs again. Called by save.c on the thread of the take; live_last in the pause, on whatever
 * thread works then.
 */
#ifndef TORPOR_SNAPSHOT_LIVE_H
#define TORPOR_SNAPSHOT_LIVE_H

#include "snapshot/pages.h"

struct live;

/*
 * set: borrowed; full, or what changed so far, fetched and not cleared. touched: it is full. All
 * memory that the pause needs is allocated and touched here.
 */
MUST_USE struct err *live_new(const struct snap_vm *vm, struct session *s, struct pages_set *set,
			      bool touched, const struct snap_take_opts *opts,
			      struct live **ret_live);
void live_free(struct live *l);
DEFINE_SCOPE(struct live, live_free)

/* The guest runs: copies round by round, as long as that leaves less to do. */
MUST_USE struct err *live_rounds(struct live *l, struct snap_result *res);
/*
 * The guest stands still. Copies what changed since the last round; *ret_fits false: it is too much
 * for the buffer and stays in the set. Neither waits nor allocates. Fills in res->pause.
 */
MUST_USE struct err *live_last(struct live *l, struct snap_result *res, bool *ret_fits);
/* The guest runs again, or live_last's pages did not fit: gives the buffer to the session. */
MUST_USE struct err *live_give(struct live *l);

#endif
