/* SPDX-License-Identifier: Apache-2.0 */
/* Saving one guest and ending it, for `torpor guests stop` and for who looks after it. One thread.
 */
#ifndef TORPOR_TOOLS_GUEST_STOP_H
#define TORPOR_TOOLS_GUEST_STOP_H

#include "core/base/err.h"

#define GUEST_SAVED_TAG "auto-saved-"

struct guest_saved {
	uint64_t number;
	uint64_t bytes_stored;
	uint64_t elapsed_us;
};
/*
 * Suspends the VM, takes a generation, notes it as clean, ends the VM. By deadline_ns
 * (CLOCK_MONOTONIC) it has succeeded or failed. *interrupted (may be NULL) is looked at now and
 * then; set by a signal, it gives up. After a failure the VM runs on, and nothing half-written is
 * listed.
 */
MUST_USE struct err *guest_save(const char *store_dir, const char *name, uint64_t deadline_ns,
				const volatile int *interrupted, struct guest_saved *ret);

#endif
