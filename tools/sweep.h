/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets that stand where a jailed VM may not remove anything: a process of its own, forked before
 * the jail closes, removes them when the VM's process has ended, in whatever way. Used by vmm.c.
 */
#ifndef TORPOR_TOOLS_SWEEP_H
#define TORPOR_TOOLS_SWEEP_H

#include "core/base/err.h"
#include "core/base/io.h"

enum { SWEEP_PATHS_MAX = 4 };

struct sweep {
	struct fd end; /* its other end is the process's; FD_NONE: there is none */
};

/*
 * From now on the n sockets at `paths` (absolute) go with this process: each as long as it is still
 * the one that is there now. No other thread may exist yet.
 */
MUST_USE struct err *sweep_begin(const char *const *paths, unsigned n, struct sweep *s);
/* Now; returns when they are gone. */
void sweep_end(struct sweep *s);

#endif
