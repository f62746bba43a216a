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
#include "core/host_end.h"
#include "core/kvm_state.h"
#include "core/loop.h"
#include "snapshot/snapshot.h"

struct machine;
struct pci_dev;
struct serial_link;

/* What happened in the machine, told to life on the main loop. */
enum machine_event {
	MACHINE_RESET,
	MACHINE_POWEROFF,
	MACHINE_PANIC,
	MACHINE_CRASH,
	MACHINE_EXIT, /* MACHINE_EXIT + n: the exit device was told n, below DEV_EXITS */
};

struct machine_opts {
	int kvm; /* borrowed /dev/kvm */
	struct loop *loop;
	const struct config *config;
	struct gmem *gmem; /* borrowed */
	/* The console's host end: a link that outlives the machine (borrowed), or NULL and
	 * descriptors. */
	struct serial_link *serial;
	int serial_in, serial_out, serial_listen;
	const struct host_ends *ends; /* behind the devices of the configuration; NULL: none */
	bool log_dirty; /* KVM's dirty log is on from the start: the memory will be a snapshot's */
	/* report is non-NULL for MACHINE_CRASH, malloc'ed, owned by the callee. */
	void (*on_event)(void *arg, enum machine_event ev, char *report);
	/* The balloon has news; and gmem_give_back for it (NULL: just that). On the main loop; may
	 * be NULL. */
	void (*on_balloon)(void *arg);
	/* The guest gave up a device that was asked for. On the main loop; may be NULL. */
	void (*on_slot)(void *arg);
	/* The guest sleeps, or is awake again (s2idle.h). On the main loop; may be NULL. */
	void (*on_s2idle)(void *arg);
	struct err *(*give_back)(void *arg, gpa_t gpa, uint64_t len_bytes);
	/* A device waits for a reset by its driver. On the main loop; may be NULL. */
	void (*on_needs_reset)(void *arg, const char *id, const char *why);
	void *arg;
};

/* Everything is built; vCPUs exist, their threads do not yet. */
MUST_USE struct err *machine_new(const struct machine_opts *opts, struct machine **ret_machine);
void machine_free(struct machine *m); /* stops and joins vCPU threads */
/*
 * Ends the vCPU threads. False: one waits for a page of memory that does not come within
 * timeout_ms; then the machine and its memory may not be freed any more.
 */
MUST_USE bool machine_stop(struct machine *m, uint64_t timeout_ms);
DEFINE_SCOPE(struct machine, machine_free)

/* Loads the kernel into guest memory and sets the boot processor. */
MUST_USE struct err *machine_boot(struct machine *m, int kernel_fd, int initrd_fd);

/*
 * Starts the vCPU threads, parked. By now the process is jailed: threads inherit that.
 * machine_unpark_vcpus lets them go.
 */
MUST_USE struct err *machine_start(struct machine *m);

/* vCPUs leave the guest, finish pending I/O and wait; counted rendezvous. Idempotent. ERR_NOT_NOW
 * after some seconds, with nothing changed: one waits for a page of memory. */
MUST_USE struct err *machine_park_vcpus(struct machine *m);
/* How long machine_park_vcpus waits; 0: the usual. Main loop. */
void machine_park_limit(struct machine *m, uint64_t timeout_ms);
/* The same for good: they are asked to stay, and those that wait for memory do so anyway. */
void machine_end_vcpus(struct machine *m, uint64_t timeout_ms);
/* The same, and the last one calls stop->work (vcpu.h). */
struct vcpu_stop;
MUST_USE struct err *machine_park_vcpus_and(struct machine *m, struct vcpu_stop *stop);
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
/* See vcpu_group_throttle. */
void machine_throttle(struct machine *m, unsigned vcpu, uint64_t us);
/* See vcpu_group_look. */
bool machine_look_vcpus(struct machine *m);
/* SCHED_RR for all vCPU threads, or none: an error says what the host asks for. */
MUST_USE struct err *machine_make_rt(struct machine *m);
/* For memory of others, its descriptor, and the dirty log. */
struct kvm_vm *machine_vm(struct machine *m);
int machine_vcpu_tid(const struct machine *m, unsigned i); /* 0 before the thread started */
/* The first device of that name ("acpi_pm"), NULL: none. Borrowed until the machine is freed. */
struct device *machine_device(const struct machine *m, const char *name);
/* The n-th of them, by PCI slot where they are there. */
struct device *machine_device_nth(const struct machine *m, const char *name, uint64_t n);
/* Field table of a part by its name, NULL if unknown; for showing snapshots. */
const struct state_desc *machine_find_desc(const char *part_name);
/* All tables, for docs/desc.lock and the coverage test. */
const struct state_desc *const *machine_descs(size_t *ret_n);
/*
 * Devices behind root ports (machine_pci.c), by their slot of the configuration. All on the main
 * loop, while no vCPU runs and no take is under way: plug builds the device of the configuration, with
 * what `ends` has for it, and tells the port; pull takes it out and frees it.
 */
MUST_USE struct err *machine_plug(struct machine *m, const struct config_dev *d);
void machine_pull(struct machine *m, unsigned slot);
/* The port above that slot, NULL: none. Borrowed until the machine is freed. */
struct pci_dev *machine_port(const struct machine *m, unsigned slot);
/* The port that has `bus` behind it, as the guest numbers it, NULL: none. */
struct pci_dev *machine_port_of_bus(const struct machine *m, unsigned bus);
MUST_USE struct err *machine_host_facts(struct machine *m, struct snap_host *ret);

#endif
