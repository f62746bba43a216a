/* SPDX-License-Identifier: Apache-2.0 */
/* Removal in bounded transactions, shared by gc.c and session.c. Any thread. */
#ifndef TORPOR_STORE_GC_H
#define TORPOR_STORE_GC_H

#include "store/family.h"

/*
 * Removes what a session that never published has written: all records in its id range, then its
 * pend record. Does nothing when there is no pend record (the session has published after all).
 */
MUST_USE struct err *gc_drop_session(struct family *f, const uint8_t holder[HOLDER_ID_BYTES],
				     struct gc_result *ret_result);

#endif
