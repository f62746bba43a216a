/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one VM in one process: build (boot or restore), run, suspend, take, reset, end.
 * Owns the machine (machine.h) and the VM state machine (table in life.c, drawn in docs/life.md).
 *
 * Threads: everything here is called on the main loop's thread unless it says otherwise. Takes run
 * on a job thread of their own; their end is reported on the main loop.
 */
#ifndef TORPOR_CORE_LIFE_H
#define TORPOR_CORE_LIFE_H

#include "core/config.h"
#include "core/kvm_state.h"
#include "core/loop.h"
#include "snapshot/snapshot.h"

struct life;

/* How a VM ended; also the exit status of a foreground VM. */
enum vm_end {
	VM_END_POWEROFF = 0,
	VM_END_ERROR = 1,
	VM_END_RESET = 32, /* reset asked for with no_reboot */
	VM_END_CRASH = 33, /* triple fault, KVM error */
	VM_END_PANIC = 34,
	VM_END_WATCHDOG = 36,
	VM_END_STOPPED = 64, /* by `stop` or SIGTERM; exit status 0 */
};

struct life_opts {
	struct config *config; /* moved from */
	const char *store_dir; /* opened (made) at the first take; checked for `name` by the caller */
	/* Boot: descriptors, moved from. Restore: an image, moved from; then the fds are -1. */
	int kernel_fd;
	int initrd_fd;
	struct snap_image *image;
	/* The open store behind the image, moved from; NULL for a boot (opened by the first take). One
	 * process opens a store once. */
	struct store *store;
	enum clock_policy clock;
	/* Serial console: input and output descriptors, -1: none. Borrowed for the life's time. */
	int serial_in;
	int serial_out;
	int serial_listen; /* a listening Unix socket instead, -1: none */
	bool start_paused;
	struct snap_progress progress; /* of the restore */
};

/* Builds the VM; no vCPU runs yet. For a restore memory and state are loaded. */
MUST_USE struct err *life_new(struct loop *loop, const struct life_opts *opts,
			      struct life **ret_life);
/* Lets vCPUs run (unless start_paused). Seccomp and Landlock must be in force by now. */
MUST_USE struct err *life_start(struct life *l);
void life_free(struct life *l); /* ends whatever runs */
DEFINE_SCOPE(struct life, life_free)

/* Called on the main loop once, when the VM has ended by itself or by life_stop. `report` is the
 * crash report or NULL. */
void life_on_end(struct life *l, void (*fn)(void *arg, enum vm_end end, const char *report),
		 void *arg);

MUST_USE struct err *life_suspend_vcpus(struct life *l); /* idempotent */
MUST_USE struct err *life_resume_vcpus(struct life *l);  /* refused while devices sleep */
MUST_USE struct err *life_suspend(struct life *l);       /* vCPUs, clock, devices; idempotent */
MUST_USE struct err *life_resume(struct life *l);
void life_stop(struct life *l);

/* One take at a time: ERR_NOT_NOW for a second. done runs on the main loop exactly once if NULL was
 * returned; e is owned by done, result is valid when e is NULL. */
typedef void life_take_done_fn(void *arg, struct err *e, const struct snap_result *result);
MUST_USE struct err *life_take(struct life *l, const char *tag, life_take_done_fn *done, void *arg);
/* Progress of the take under way: false if there is none. */
bool life_take_progress(struct life *l, char *ret_step, size_t step_len, uint64_t *ret_done,
			uint64_t *ret_total);

struct life_status {
	const char *state; /* "running", "vcpus-suspended", "suspended", "ended" */
	bool taking;
	uint64_t resets;
	uint64_t mem_bytes;
	uint64_t mem_allocated;
	unsigned ncpus;
};
void life_status(struct life *l, struct life_status *ret);
const struct config *life_config(const struct life *l);
const char *life_store_dir(const struct life *l);
/* pid and tid of each vCPU thread; n = ncpus. */
MUST_USE struct err *life_vcpu_tid(struct life *l, unsigned i, int *ret_tid);

#endif
