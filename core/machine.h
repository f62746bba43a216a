/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One machine: guest memory, KVM VM, vCPU threads, bus and devices, wired from a config. The same
 * wiring serves boot and restore. Owned by life; a guest reset frees the machine and builds another
 * over the same guest memory.
 *
 * Threads: built and freed on the main loop's thread; machine_park and machine_unpark from the main
 * loop or a job thread, never two at once (life sees to it).
 */
#ifndef TORPOR_CORE_MACHINE_H
#define TORPOR_CORE_MACHINE_H

#include "core/bus.h"
#include "core/config.h"
#include "core/kvm_state.h"
#include "core/loop.h"
#include "snapshot/snapshot.h"

struct machine;
struct serial_link;

/* What happened in the machine, told to life on the main loop. */
enum machine_event { MACHINE_RESET, MACHINE_POWEROFF, MACHINE_PANIC, MACHINE_CRASH };

struct machine_opts {
	int kvm; /* borrowed /dev/kvm */
	struct loop *loop;
	const struct config *config;
	struct gmem *gmem; /* borrowed */
	/* The console's host end: a link that outlives the machine (borrowed), or NULL and descriptors. */
	struct serial_link *serial;
	int serial_in, serial_out, serial_listen;
	/* report is non-NULL for MACHINE_CRASH, malloc'ed, owned by the callee. */
	void (*on_event)(void *arg, enum machine_event ev, char *report);
	void *arg;
};

/* Everything is built; vCPUs exist, their threads do not yet. */
MUST_USE struct err *machine_new(const struct machine_opts *opts, struct machine **ret_machine);
void machine_free(struct machine *m); /* stops and joins vCPU threads */
DEFINE_SCOPE(struct machine, machine_free)

/* Loads the kernel into guest memory and sets the boot processor. */
MUST_USE struct err *machine_boot(struct machine *m, int kernel_fd, int initrd_fd);

/*
 * Starts the vCPU threads, parked. By now the process is jailed: threads inherit that.
 * machine_unpark_vcpus lets them go.
 */
MUST_USE struct err *machine_start(struct machine *m);

/* vCPUs leave the guest, finish pending I/O and wait; counted rendezvous. Idempotent. */
MUST_USE struct err *machine_park_vcpus(struct machine *m);
void machine_unpark_vcpus(struct machine *m);
bool machine_vcpus_parked(const struct machine *m);
/* The guest asked for something (reset, power off) or crashed and life has yet to act on it. */
bool machine_has_request(struct machine *m);
/*
 * Keeps descriptors and timers away from devices (true), or lets them in again. After return with
 * true no device callback of the main loop runs. Any thread but a device callback.
 */
void machine_gate_devices(struct machine *m, bool closed);

struct kvm_state *machine_kvm_state(struct machine *m);
struct snap_part *const *machine_parts(struct machine *m, size_t *ret_n);
unsigned machine_nvcpus(const struct machine *m);
int machine_vcpu_tid(const struct machine *m, unsigned i); /* 0 before the thread started */
/* Field table of a part by its name, NULL if unknown; for showing snapshots. */
const struct state_desc *machine_find_desc(const char *part_name);
/* All tables, for docs/desc.lock and the coverage test. */
const struct state_desc *const *machine_descs(size_t *ret_n);
MUST_USE struct err *machine_host_facts(struct machine *m, struct snap_host *ret);

#endif
