/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Would this snapshot run on this host? Builds its machine beside everything else, over empty
 * memory that nobody touches, asks each part what it would refuse, and takes the machine away
 * again. No vCPU runs, no device does I/O, nothing is written. Called by `torpor restore --check`
 * on its only thread.
 */
#ifndef TORPOR_CORE_PREFLIGHT_H
#define TORPOR_CORE_PREFLIGHT_H

#include "core/base/finding.h"
#include "core/config.h"
#include "core/host_end.h"
#include "snapshot/snapshot.h"

/*
 * config: the image's, checked. ends: its disks; those that are missing there are taken as told of
 * already, and only their records are checked. Areas: kvm, memory, cpu, msr, clock, device, disk,
 * state.
 */
void preflight(const struct config *config, struct snap_image *image, const struct host_ends *ends,
	       const struct findings *f);

#endif
