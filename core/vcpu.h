/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads and their parking: a counted rendezvous (request, kick, acknowledge), never a sleep.
 *
 * All vCPUs of a machine form one group. A park request names a reason; vCPUs stay parked while any
 * reason stands. Only the vCPU thread itself calls KVM_RUN; a request sets immediate_exit and sends
 * a signal, so that KVM completes pending I/O of the last exit, returns, and the thread parks at a
 * point where all its state is readable.
 *
 * Invariants
 *  I1  immediate_exit of a vCPU is written only under the group's lock.
 *  I2  reasons != 0 implies immediate_exit of every vCPU is set, or the kick signal waits for it
 *      while its thread settles the local timer.
 *  I3  parked counts the threads inside the wait; state of a vCPU may be read or written by others
 *      only while parked == nvcpus or before vcpu_group_start.
 *
 * Threads: built, started and freed by core's main thread; park and unpark from any thread.
 */
#ifndef TORPOR_CORE_VCPU_H
#define TORPOR_CORE_VCPU_H

#include "core/bus.h"
#include "core/kvm_vcpu.h"

struct vcpu_group;

enum park_reason {
	PARK_START = 1u << 0,   /* before the first run */
	PARK_LIFE = 1u << 1,    /* suspended, or a take */
	PARK_REQUEST = 1u << 2, /* the guest asked for reset or power off, or crashed */
};

/* Why a vCPU cannot go on; told once, from the vCPU's thread, which then parks. */
enum vcpu_fate { VCPU_TRIPLE_FAULT, VCPU_KVM_ERROR, VCPU_SYSTEM_RESET, VCPU_SYSTEM_OFF, VCPU_PANIC };

struct vcpu_group_opts {
	struct bus *bus;         /* borrowed */
	const struct gmem *gmem; /* borrowed, for the report */
	/* report: malloc'ed text for TRIPLE_FAULT and KVM_ERROR, else NULL; the callee frees it. */
	void (*on_fate)(void *arg, unsigned vcpu, enum vcpu_fate fate, char *report);
	/* First thing of each thread (seccomp). An error ends the vCPU with VCPU_KVM_ERROR. */
	struct err *(*thread_init)(void *arg);
	void *arg;
};

/* vcpus: borrowed array of n. Starts with PARK_START standing. */
MUST_USE struct err *vcpu_group_new(struct kvm_vcpu *const *vcpus, unsigned n,
				    const struct vcpu_group_opts *opts,
				    struct vcpu_group **ret_group);
/* Stops and joins the threads. NULL is fine. */
void vcpu_group_free(struct vcpu_group *g);
DEFINE_SCOPE(struct vcpu_group, vcpu_group_free)

/* Starts the threads; they park at once. */
MUST_USE struct err *vcpu_group_start(struct vcpu_group *g);
/* Adds a reason and returns when all are parked. */
void vcpu_group_park(struct vcpu_group *g, enum park_reason why);
/* Adds a reason and returns at once; also from vCPU threads. */
void vcpu_group_park_nowait(struct vcpu_group *g, enum park_reason why);
/* Takes a reason away; vCPUs go on if it was the last. */
void vcpu_group_unpark(struct vcpu_group *g, enum park_reason why);
bool vcpu_group_has_reason(struct vcpu_group *g, enum park_reason why);
/* Thread id, 0 before the start. */
int vcpu_group_tid(const struct vcpu_group *g, unsigned i);

#endif
