/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --disk and --disk-map: what they say, and opening the files behind a VM's disks before the jail.
 * Used by cmd_run.c, cmd_restore.c and vmm.c on their one thread.
 */
#ifndef TORPOR_TOOLS_DISKS_H
#define TORPOR_TOOLS_DISKS_H

#include "core/base/finding.h"
#include "core/config.h"
#include "core/host_end.h"
#include "tools/opts.h"

/* "PATH[,ro][,id=NAME][,slot=N][,queues=N][,capture=on|off]" becomes a device of the configuration.
 * A comma in PATH is written twice. */
MUST_USE struct err *disks_add(const char *text, struct config_devs *devs);
/* The same for one that is plugged in: what it says, and opening it. */
MUST_USE struct err *disks_parse(const char *text, struct config_dev *ret);
MUST_USE struct err *disks_open_one(const struct config_dev *d, struct fd *ret);
/* Opens each disk: where the vmm's disk_map ("id=PATH") says, else where the configuration does;
 * of a captured one its layer, too, in the store. With the store open and the image, if any. */
struct vmm;
MUST_USE struct err *disks_open(struct vmm *v);
/*
 * The same for a check: changes and locks nothing, opens for reading, and tells of every disk that
 * could not be used. ret has the others.
 */
void disks_look(const struct config_devs *devs, const struct opt_list *map, bool accept_changed,
		const struct findings *f, struct host_ends *ret);

#endif
