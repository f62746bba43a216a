/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a function that reads a mapped file, and survives when the file is damaged or shorter than
 * it should be: SIGBUS and SIGSEGV inside the map end the function instead of the process.
 *
 * Only for code that reads the map, and that holds neither locks of ours nor half-done work in our
 * own structures at that moment: the function is left by siglongjmp. store_lmdb.c is the only user.
 *
 * The handlers are process-wide. Faults that are not ours go to whoever handled them before. Any
 * thread; one guard at a time per thread.
 */
#ifndef TORPOR_STORE_FAULT_GUARD_H
#define TORPOR_STORE_FAULT_GUARD_H

#include "core/base/check.h"

/* Makes our handlers the current ones, again if somebody else has put theirs in their place.
 * Not to be called by two threads at once. */
void fault_guard_install(void);

/*
 * Calls fn(arg); returns false when it was ended by a fault in [map, map + map_bytes), through a
 * null pointer, or anywhere while map is NULL, or by fault_guard_trip. *ret_rc is what fn returned.
 */
MUST_USE bool fault_guard_run(const void *map, uint64_t map_bytes, int (*fn)(void *arg), void *arg,
			      int *ret_rc);
/* Ends the guarded function of this thread; returns only if there is none. */
void fault_guard_trip(void);

#endif
