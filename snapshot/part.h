/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct snap_part: all that the snapshot engine sees of a vCPU, an interrupt controller or a
 * device: a state struct with its field table, and four operations. Core makes the list; the engine
 * never sees what stands behind it.
 *
 * Order: parts are parked and fetched in rising park_rank, unparked in falling park_rank, committed
 * in rising commit_rank. Operations are called by the thread that runs the take or the load, while
 * all vCPUs are parked.
 */
#ifndef TORPOR_SNAPSHOT_PART_H
#define TORPOR_SNAPSHOT_PART_H

#include "core/base/finding.h"
#include "snapshot/desc.h"

struct snap_part_ops {
	/*
	 * From return until unpark the part changes neither its state nor guest memory and raises
	 * no interrupt. May be NULL. A part whose park failed is not unparked.
	 */
	struct err *(*park)(void *self);
	void (*unpark)(void *self);
	/* Fills *state from the live thing. Never NULL. ERR_NOT_NOW if it cannot be saved now. */
	struct err *(*fetch)(void *self);
	/*
	 * Could the live thing become what that state says? Asked before anything is changed, while
	 * the VM may run; `state` is decoded and passed its table's rules. NULL: always.
	 */
	struct err *(*check)(void *self, const void *state);
	/* Makes the live thing what *state says. Touches no other part. Never NULL. */
	struct err *(*commit)(void *self);
	/*
	 * Reports what commit would refuse on this host, all of it, for a VM that never runs. May
	 * use up *state and what KVM has of the part; moves nothing on the host and asks no storage
	 * for anything. NULL: commit takes all that decodes.
	 */
	void (*probe)(void *self, const struct findings *f);
};

struct snap_part {
	const char *name; /* equals desc->name */
	uint32_t instance;
	int park_rank;
	int commit_rank;
	const struct state_desc *desc;
	void *state; /* desc->size bytes, owned by the part */
	const struct snap_part_ops *ops;
	void *self;
};

/* Ranks used by core; gaps are left for what comes. */
enum snap_rank {
	SNAP_RANK_DEVICE = 100, /* sources of interrupts are parked first */
	SNAP_RANK_IRQCHIP = 200,
	SNAP_RANK_VCPU = 300,
	SNAP_RANK_CLOCK = 400, /* committed last: time starts when all else is in place */
};

#endif
