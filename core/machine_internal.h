/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a machine, shared by machine.c (wiring) and machine_host.c (services for devices).
 * Includable only by machine*.c.
 */
#ifndef TORPOR_CORE_MACHINE_INTERNAL_H
#define TORPOR_CORE_MACHINE_INTERNAL_H

#include <stdatomic.h>

#include "core/base/lock.h"
#include "core/machine.h"
#include "core/vcpu.h"

/*
 * Calls posted to the main loop may outlive the machine that posted them: they hold the anchor, and
 * find anchor->m NULL after machine_free. refs is atomic; m is written on the main loop only.
 */
struct machine_anchor {
	atomic_uint refs;
	struct machine *m;
};

/* What core keeps per device. */
struct dev_slot {
	struct device *dev;
	struct loop_timer *timer;     /* main loop */
	atomic_uint_least64_t at_ns;  /* VM time, UINT64_MAX: off */
	struct loop_fd *fd;           /* main loop */
	int fd_n;                     /* [main loop] the descriptor behind fd */
	atomic_int want_fd;           /* what the device asked for */
	atomic_uint want_events;
	atomic_bool arm_posted;       /* a call that arms the timer is on its way */
	atomic_bool watch_posted;     /* likewise for the descriptor */
};

struct machine_state {
	uint64_t wall_offset_ns; /* guest wall clock minus VM time */
};

struct machine {
	struct loop *loop;
	struct gmem *gmem;           /* borrowed */
	const struct config *config; /* borrowed */
	struct kvm_vm *vm;
	struct bus *bus;
	struct kvm_vcpu *vcpus[VCPUS_MAX];
	unsigned nvcpus;
	struct vcpu_group *group;
	struct kvm_state *kvm_state;
	struct dev_host host;
	struct dev_slot slots[8];
	unsigned nslots;
	struct snap_part *parts[VCPUS_MAX + 16];
	size_t nparts;
	struct machine_state own;
	struct snap_part own_part;
	atomic_uint_least64_t wall_offset_ns;
	struct machine_anchor *anchor;
	/* Held by main-loop device callbacks; closed keeps them out. */
	struct lock gate;
	bool closed; /* [gate] */
	void (*on_event)(void *arg, enum machine_event ev, char *report);
	void *arg;
};

extern const struct state_desc machine_desc;

MUST_USE struct err *machine_host_init(struct machine *m);
void machine_host_done(struct machine *m);
/* Parks the vCPUs for PARK_REQUEST and tells life on the main loop. Any thread. Takes report. */
void machine_tell(struct machine *m, enum machine_event ev, char *report);

#endif
