/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --net and --net-map: what they say, and opening what stands behind a VM's network devices before
 * the jail. Used by cmd_run.c, cmd_restore.c and vmm.c on their one thread.
 *
 * WHERE is tap=NAME (an interface that exists), fd=N (a descriptor that the caller opened: a tap,
 * or a Unix socket that keeps messages apart), user[,hostfwd=...][,restrict][,loopback] (user
 * networking, usernet.h), or none.
 */
#ifndef TORPOR_TOOLS_NETS_H
#define TORPOR_TOOLS_NETS_H

#include "core/base/finding.h"
#include "core/config.h"
#include "core/host_end.h"
#include "tools/opts.h"

/* "WHERE[,mac=MAC][,mtu=N][,id=NAME][,slot=N]" becomes a device of the configuration. */
MUST_USE struct err *nets_add(const char *text, struct config_devs *devs);
/* The same for one that is plugged in: what it says, and opening what is behind it. */
MUST_USE struct err *nets_parse(const char *text, struct config_dev *ret);
MUST_USE struct err *nets_open_one(const struct config_dev *d, struct host_end *end);
/* The descriptors that a list of WHEREs, or ("ID=WHERE") of maps, names; they stay over --detach.
 * At most max, further ones are left out. */
size_t nets_fds(const struct opt_list *list, int *ret, size_t max);
/* Opens each: where map says, else where the configuration does. restored: descriptors in the
 * configuration were those of another process. */
MUST_USE struct err *nets_open(const struct config_devs *devs, const struct opt_list *map,
			       bool restored, struct host_ends *ret);
/* The same for a check of a restore: opens nothing, and tells of each that could not be tied. */
void nets_look(const struct config_devs *devs, const struct opt_list *map, const struct findings *f,
	       struct host_ends *ret);

#endif
