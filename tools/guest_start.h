/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing a defined guest up, and looking after it until it ends: `torpor start`. One thread; the
 * VM is a process of its own.
 *
 * Which generation: the newest that verifies to its last byte and fits this host. One that does not
 * is pinned and told of, and the one before is tried. A guest is booted only where it has nothing
 * to bring back (it never had a generation, or it powered itself off), or its policy says so.
 *
 * Fences: NAME.start in the run folder is locked from the look at the guest until it lives, so two
 * who start one guest do so one after the other, and the second finds it living. A generation that
 * has been brought back by itself on this boot of the host, and whose run did not end by anybody's
 * will, is not brought back by itself again; by hand it is.
 */
#ifndef TORPOR_TOOLS_GUEST_START_H
#define TORPOR_TOOLS_GUEST_START_H

#include "core/base/err.h"

struct guest_start {
	const char *store_dir; /* absolute */
	const char *name;
	bool automatic;  /* nobody asked for this guest: the fence of generations holds */
	bool foreground; /* this process looks after it, instead of one behind it */
	bool json;
};

MUST_USE struct err *guest_start(const struct guest_start *s, int *ret_status);

#endif
