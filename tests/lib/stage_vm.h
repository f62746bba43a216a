/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine of the stage tests: wired by machine.h as life does it, plus one device that the
 * guests talk to (tests/guest/free/stages.h). Used by it_stages.c on its only thread; the device is
 * called by vCPU threads.
 */
#ifndef TESTS_LIB_STAGE_VM_H
#define TESTS_LIB_STAGE_VM_H

#include <stdatomic.h>

#include "core/kvm_state_internal.h"
#include "core/machine_internal.h"
#include "devices/acpi_pm.h"
#include "devices/rtc.h"
#include "devices/serial.h"

enum { SYNC_DONE = 0xd0, SYNC_SKIP = 0xe5, SYNC_FAIL = 0xf1 };

struct sync; /* the device */

/* What all machines of this test share; set by the test before vm_boot. */
struct stage_env {
	struct config config;
	struct store *store;
	int kvm_fd, kernel_fd;
	int serial_in, serial_out; /* -1: none */
	/* Stop in the midst of string I/O: after this many bytes of the port; 0: do not. */
	unsigned stop_sink, stop_feed;
};
extern struct stage_env stage_env;

struct vm {
	struct loop *loop;
	struct gmem *gmem;
	struct machine *machine;
	struct sync *sync;
	struct loop_timer *timer;
	unsigned want;        /* run_to: until the guest says this */
	uint64_t deadline_ns; /* and at most until then */
	bool ended;
	char *report;
};

MUST_USE struct err *vm_boot(struct vm *vm);
/* A new machine from a snapshot; nothing runs yet. let_go: the hold that the guest stands at. */
MUST_USE struct err *vm_load(struct vm *vm, const char *ref, unsigned let_go);
void vm_destroy(struct vm *vm);
/* Lets everything go on: after vm_boot and vm_load with machine_start, or after vm_freeze. */
MUST_USE struct err *vm_go(struct vm *vm);
void vm_let_go(struct vm *vm, unsigned hold);
/* Runs the main loop until the guest says `want`; another end is an error. */
MUST_USE struct err *vm_run_to(struct vm *vm, unsigned want);
bool vm_skipped(const struct vm *vm); /* the guest said SYNC_SKIP */
/* Runs the main loop for a while. */
MUST_USE struct err *vm_run_ms(struct vm *vm, unsigned ms);
/* Parks, holds the clock, keeps devices still. late_ms: between park and clock. */
MUST_USE struct err *vm_freeze(struct vm *vm, unsigned late_ms);
MUST_USE struct err *vm_take(struct vm *vm, const char *tag);
void sleep_ms(unsigned ms);
/* Bytes that came through the sink port; an error if one was wrong, missing or twice. */
MUST_USE struct err *vm_sink_check(unsigned want);
MUST_USE struct err *vm_mmio_check(void);

/* Where the guest has its kvmclock record: MSR_KVM_SYSTEM_TIME_NEW of vCPU 0. */
MUST_USE struct err *vm_clock_gpa(struct vm *vm, uint64_t *ret_gpa);
/*
 * All parts field by field and all memory of two snapshots, but for the 32 bytes of the guest's
 * kvmclock, if the maps are not the same anyway. *ret_n: parts.
 */
MUST_USE struct err *vm_compare(const char *ref_a, const char *ref_b, uint64_t clock_gpa,
				size_t *ret_n);
/* The decoded state of one part of a snapshot; malloc'ed. */
MUST_USE struct err *vm_saved(const char *ref, const char *part, uint32_t instance,
			      void **ret_state);

#endif
