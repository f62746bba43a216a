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
#include "devices/pci.h"

/*
 * Calls posted to the main loop may outlive the machine that posted them: they hold the anchor, and
 * find anchor->m NULL after machine_free. refs is atomic; m is written on the main loop only.
 */
struct machine_anchor {
	atomic_uint refs;
	struct machine *m;
};

enum { MACHINE_SLOTS_MAX = 64 }; /* ISA devices, what fits on the PCI bus and behind its ports */

/* What core keeps per device. */
struct dev_slot {
	struct device *dev;          /* NULL: free, or its device was unplugged */
	struct loop_timer *timer;    /* main loop */
	atomic_uint_least64_t at_ns; /* VM time, UINT64_MAX: off */
	struct loop_fd *fd;          /* main loop */
	int fd_n;                    /* [main loop] the descriptor behind fd */
	atomic_int want_fd;          /* what the device asked for */
	atomic_uint want_events;
	atomic_bool arm_posted;   /* a call that arms the timer is on its way */
	atomic_bool watch_posted; /* likewise for the descriptor */
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
	struct device *vmgenid;       /* borrowed from its slot; NULL: the VM has none */
	struct pci_host *pci;         /* likewise */
	const struct host_ends *ends; /* borrowed */
	struct dev_slot slots[MACHINE_SLOTS_MAX];
	struct device *pm; /* ACPI hardware, made before all devices that tell it events */
	struct snap_part *parts[VCPUS_MAX + MACHINE_SLOTS_MAX + 16];
	size_t nparts;
	struct machine_state own;
	struct snap_part own_part;
	atomic_uint_least64_t wall_offset_ns;
	struct machine_anchor *anchor;
	/* Held by main-loop device callbacks; closed keeps them out. */
	struct lock gate;
	bool closed;                   /* [gate] */
	atomic_uint_least64_t park_ms; /* limit of a park; 0: the usual */
	void (*on_event)(void *arg, enum machine_event ev, char *report);
	void (*on_balloon)(void *arg);
	void (*on_slot)(void *arg);
	void (*on_s2idle)(void *arg);
	struct err *(*give_back)(void *arg, gpa_t gpa, uint64_t len_bytes);
	void (*on_needs_reset)(void *arg, const char *id, const char *why);
	atomic_bool balloon_posted; /* its news are on their way */
	atomic_bool slot_posted;    /* likewise of a root port */
	bool give_back_failed;      /* [main loop] and told */
	void *arg;
};

extern const struct state_desc machine_desc;

/* Puts a built device on the machine's bus and its part on the list; it is the machine's from then
 * on, also when this fails. */
MUST_USE struct err *machine_add_device(struct machine *m, struct device *dev);
/* Takes a device off the machine again and frees it; its part leaves the list. Main loop. */
void machine_remove_device(struct machine *m, struct device *dev);
MUST_USE struct err *machine_build_pci(struct machine *m);
/* Forgets what a device asked of the main loop. */
void machine_host_forget(struct machine *m, struct dev_slot *slot);
MUST_USE struct err *machine_host_init(struct machine *m);
void machine_host_done(struct machine *m);
/* Parks the vCPUs for PARK_REQUEST and tells life on the main loop. Any thread. Takes report. */
void machine_tell(struct machine *m, enum machine_event ev, char *report);

#endif
