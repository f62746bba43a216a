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
 *  I4  the work of a stop is taken by whoever makes parked == nvcpus, or finds it so, under the lock;
 *      no thread leaves the wait while it is under way.
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
/*
 * Ends the threads and joins them. False: one did not end within timeout_ms (it waits for a page of
 * memory that does not come); then neither the group nor anything that its threads use may be freed.
 */
MUST_USE bool vcpu_group_stop(struct vcpu_group *g, uint64_t timeout_ms);
/* Stops first, without limit, if that was not done. NULL is fine. */
void vcpu_group_free(struct vcpu_group *g);
DEFINE_SCOPE(struct vcpu_group, vcpu_group_free)

/* Starts the threads; they park at once, and each has its id on return. */
MUST_USE struct err *vcpu_group_start(struct vcpu_group *g);
/*
 * Adds a reason and returns when all are parked. False: not all did within timeout_ms; the reason
 * stands all the same.
 */
MUST_USE bool vcpu_group_park(struct vcpu_group *g, enum park_reason why, uint64_t timeout_ms);
/*
 * Adds a reason; the thread that parks last (or the caller, where all are parked already) calls
 * work(arg), and if that returns true takes the reason away. Returns when that is done. One at a time.
 * False: not all parked within timeout_ms; work was not called and the reason is taken back.
 */
struct vcpu_stop {
	bool (*work)(void *arg);
	void *arg;
	/* Filled in; CLOCK_MONOTONIC. */
	uint64_t asked_ns;
	uint64_t out_ns;     /* the first thread was out of the guest */
	uint64_t parked_ns;  /* the last one was */
	uint64_t resumed_ns; /* the reason was taken away, or work returned false */
	bool resumed;        /* what work returned */
	bool taken;          /* [lock] work is under way or done */
	bool done;           /* [lock] */
};
MUST_USE bool vcpu_group_park_and(struct vcpu_group *g, enum park_reason why,
				  struct vcpu_stop *stop, uint64_t timeout_ms);
/* Adds a reason and returns at once; also from vCPU threads. */
void vcpu_group_park_nowait(struct vcpu_group *g, enum park_reason why);
/* Takes a reason away; vCPUs go on if it was the last. */
void vcpu_group_unpark(struct vcpu_group *g, enum park_reason why);
bool vcpu_group_has_reason(struct vcpu_group *g, enum park_reason why);
/*
 * Keeps vCPU i out of the guest for us microseconds, on top of what it owes already (at most
 * VCPU_THROTTLE_MAX_US in all; more is forgotten). The time counts while no reason to park stands: a
 * park interrupts it, and what is left is kept for later. Any thread; returns at once.
 */
#define VCPU_THROTTLE_MAX_US 60000000u
void vcpu_group_throttle(struct vcpu_group *g, unsigned i, uint64_t us);
/*
 * Has any vCPU moved since the last look: left the guest for a device, or been seen with interrupts
 * enabled? True as well while they are parked or one has not answered the last look: only who was
 * there can be found standing still. Has each look at itself once more. Main loop.
 */
bool vcpu_group_look(struct vcpu_group *g);
/* Thread id, 0 before the start. */
int vcpu_group_tid(const struct vcpu_group *g, unsigned i);

#endif
