/* SPDX-License-Identifier: Apache-2.0 */
/* What `torpor restore` and its --check share: cmd_restore.c and restore_check.c. One thread. */
#ifndef TORPOR_TOOLS_RESTORE_H
#define TORPOR_TOOLS_RESTORE_H

#include "tools/vmm.h"

struct restore {
	const char *ref;
	const char *name;
	const char *clock;
	const char *mode;
	bool check;
};

/* v->config from v->image, under the name that it is to have. */
MUST_USE struct err *restore_config(struct vmm *v, const struct restore *r);
/* A name that holds somebody else's snapshots is not taken silently. */
MUST_USE struct err *restore_name_free(struct store *store, const struct config *c);

/*
 * Tells everything that stands against the restore and touches nothing. *ret_status 1: there is
 * something. An error: it could not find out or could not tell.
 */
MUST_USE struct err *restore_check(struct vmm *v, const struct restore *r, int *ret_status);

#endif
