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

#include "core/share.h"
#include "core/checkpoint.h"
#include "core/config.h"
#include "core/host_end.h"
#include "core/kvm_state.h"
#include "core/loop.h"
#include "core/pager.h"
#include "core/swap.h"
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
	VM_END_EXIT = 64,     /* to 95: 64 + what the exit device was told */
	VM_END_STOPPED = 256, /* by `stop` or SIGTERM; exit status 0 */
};

struct life_opts {
	struct config *config; /* moved from */
	const char
		*store_dir; /* opened (made) at the first take; checked for `name` by the caller */
	/* Boot: descriptors, moved from. Restore: an image, moved from; then the fds are -1. */
	int kernel_fd;
	int initrd_fd;
	struct snap_image *image;
	/* The open store behind the image, moved from; NULL for a boot (opened by the first take).
	 * One process opens a store once. */
	struct store *store;
	/* A userfaultfd (uffd.h), moved from: memory of the image comes while the guest runs. -1:
	 * all of it is read before. */
	int uffd;
	/* Memory of the image that others share, complete, moved from; NULL: the VM's own. */
	struct shared_memory *shared;
	/* One of uffd_open_minor, for swap, moved from. -1: swap is not possible, and why. */
	int swap_uffd;
	const char *swap_why_not;
	bool no_fill; /* with uffd: only what is touched is read, until a take needs all */
	enum clock_policy clock;
	/* Serial console: input and output descriptors, -1: none. Borrowed for the life's time. */
	int serial_in;
	int serial_out;
	int serial_listen;      /* a listening Unix socket instead, -1: none */
	struct host_ends *ends; /* behind the devices, moved from; NULL: none */
	bool start_paused;
	struct checkpoint_policy checkpoint;
	uint64_t watchdog_ns;          /* ends the VM when it has not moved for so long; 0: never */
	struct snap_progress progress; /* of the restore */
};

/* Builds the VM; no vCPU runs yet. For a restore memory (unless it is lazy) and state are loaded.
 */
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

/* What happens to a VM, told on the main loop when it has happened. */
struct life_news {
	enum {
		NEWS_STATE,
		NEWS_TAKE_BEGUN,
		NEWS_TAKE_DONE,
		NEWS_TAKE_FAILED,
		NEWS_PANIC,
		NEWS_REWOUND,
		NEWS_REWIND_FAILED,
		NEWS_BALLOON, /* ask virtio_balloon_look */
		NEWS_SWAP,
		NEWS_NEEDS_RESET,
	} kind;
	const char *from; /* NEWS_STATE: names of states */
	const char *to;   /* NEWS_SWAP, too */
	const char *tag;  /* of the take; "": none */
	const struct snap_result *result;
	const struct err *e; /* why the take or the rewind failed */
	const char *error;   /* NEWS_SWAP: why it has failed, or NULL */
	const char *ref;     /* of a rewind, as it was asked for */
	const struct life_rewound *rewound;
	const char *device; /* NEWS_NEEDS_RESET: its id, and why */
	const char *why;
};
/* One watcher; fn NULL: none. It must not change the life. */
void life_watch(struct life *l, void (*fn)(void *arg, const struct life_news *news), void *arg);

MUST_USE struct err *life_suspend_vcpus(struct life *l); /* idempotent */
MUST_USE struct err *life_resume_vcpus(struct life *l);  /* refused while devices sleep */
MUST_USE struct err *life_suspend(struct life *l);       /* vCPUs, clock, devices; idempotent */
MUST_USE struct err *life_resume(struct life *l);
void life_stop(struct life *l);

/*
 * The four above are refused while a take is under way (ERR_NOT_NOW). An automatic one must not be
 * in anybody's way: it is given up, and fn runs on the main loop when it has ended; e (owned by fn)
 * is not NULL when the VM ends instead. False: nothing gives way, fn is not called. The caller's
 * memory until then.
 */
struct life_waiter {
	struct life_waiter *next;
	void (*fn)(void *arg, struct err *e);
	void *arg;
};
bool life_give_way(struct life *l, struct life_waiter *w);
/*
 * With --s2idle the guest is to sleep before a suspend: the sleep button is pressed, and fn called
 * as above, when the guest sleeps or after 15 s. False: there is nothing to wait for. A resume
 * wakes the guest, and so does a suspend that fails.
 */
bool life_sleep_first(struct life *l, struct life_waiter *w);
/* It waits no more: fn is not called. */
void life_withdraw(struct life *l, const struct life_waiter *w);

/* One take at a time: ERR_NOT_NOW for a second. done runs on the main loop exactly once if NULL was
 * returned; e is owned by done, result is valid when e is NULL. */
typedef void life_take_done_fn(void *arg, struct err *e, const struct snap_result *result);
/* max_pause_us: of a running VM, 0: the default. */
MUST_USE struct err *life_take(struct life *l, const char *tag, uint64_t max_pause_us,
			       life_take_done_fn *done, void *arg);
/* Automatic takes from now on. An explicit take goes before one of them, which then gives way. */
MUST_USE struct err *life_set_checkpoint(struct life *l, const struct checkpoint_policy *policy);
/*
 * Brings the VM back to a snapshot of its family, within its process. What it is now is taken first
 * (the safety snapshot), and it stands still from that one's freeze on. Everything is decoded and
 * checked before anything is changed: until then the VM goes on after an error as if nothing had
 * been asked. After a later one it goes on from the safety snapshot. As for a take: one at a time,
 * and done runs exactly once if NULL was returned.
 */
struct life_rewound {
	const char *ref;        /* as asked for */
	uint64_t number;        /* of the snapshot that the VM is at */
	const char *safety_tag; /* of what it was before */
	uint64_t safety_number;
	uint64_t pages_written; /* the rest was as in the snapshot already */
	uint64_t stopped_us;    /* how long a running VM stood still */
	uint64_t elapsed_us;
};
typedef void life_rewind_done_fn(void *arg, struct err *e, const struct life_rewound *result);
MUST_USE struct err *life_rewind(struct life *l, const char *ref, life_rewind_done_fn *done,
				 void *arg);
/*
 * Swap, see swap.h. tag "": none; else a take of that tag goes first, so that what does not change
 * from then on is in the store. done runs once if NULL was returned; take is that take's result, or
 * NULL.
 */
typedef void life_swap_done_fn(void *arg, struct err *e, const struct snap_result *take);
MUST_USE struct err *life_swap_enable(struct life *l, const char *tag, life_swap_done_fn *done,
				      void *arg);
MUST_USE struct err *life_swap_trim(struct life *l);
MUST_USE struct err *life_swap_out(struct life *l);
MUST_USE struct err *life_swap_disable(struct life *l, bool slow);
/* ERR_NOT_NOW with EOPNOTSUPP: this host or user cannot have it. */
MUST_USE struct err *life_swap_possible(const struct life *l);
void life_swap_status(struct life *l, struct swap_status *ret);

/* Gives up the take under way (that of a rewind, too), which ends with ERR_CANCELLED soon.
 * ERR_NOT_NOW: there is none. */
MUST_USE struct err *life_take_cancel(struct life *l);
/* The take or rewind that was asked for with that arg: is it under way? And gives it up, also one
 * that has yet to begin. */
bool life_job_is(const struct life *l, const void *arg);
MUST_USE struct err *life_job_cancel(struct life *l, const void *arg);
/* Progress of the take under way: false if there is none. */
bool life_take_progress(struct life *l, char *ret_step, size_t step_len, uint64_t *ret_done,
			uint64_t *ret_total);

/*
 * vCPUs as the host sees them: SCHED_RR for their threads (also after a reset), and time out of the
 * guest for one of them (vcpu_group_throttle).
 */
MUST_USE struct err *life_make_rt(struct life *l);
MUST_USE struct err *life_throttle(struct life *l, uint64_t vcpu, uint64_t us);
/* A new descriptor of the KVM VM; valid until the next reset. */
MUST_USE struct err *life_vm_fd(struct life *l, struct fd *ret_fd);
/* Memory of a client in the guest, see extmem.h. A take is refused while there is any. */
MUST_USE struct err *life_memory_add(struct life *l, int fd, uint64_t offset, uint64_t start,
				     uint64_t end);
MUST_USE struct err *life_memory_remove(struct life *l, uint64_t start);

/*
 * Devices that come and go (life_hotplug.c), behind root ports of the configuration. All of it is refused
 * (ERR_NOT_NOW) during a take or a rewind, after an automatic one has given way, and while the
 * whole VM is suspended.
 *
 * life_plug: adds dev to the configuration (an empty id: a new one) and puts the device into a free
 * slot. end is what is behind it: its descriptor and `header` are moved from. *ret_dev is as
 * life_config has it from then on, valid until the next change.
 */
MUST_USE struct err *life_plug(struct life *l, const struct config_dev *dev, struct host_end *end,
			       const struct config_dev **ret_dev);
/*
 * Asks the guest to give the device up, and tells fn on the main loop when it has, or (e is owned by
 * fn) that it has not within timeout_ms; it may still do so later. force: it is taken at once.
 * fn is called exactly once if *ret_waits; otherwise the device is out by the return.
 */
struct life_unplug {
	struct life_unplug *next;
	void (*fn)(void *arg, struct err *e);
	void *arg;
	uint64_t until_ns; /* CLOCK_MONOTONIC */
	char id[NAME_BYTES_MAX + 1];
};
MUST_USE struct err *life_unplug(struct life *l, struct life_unplug *u, bool force,
				 uint64_t timeout_ms, bool *ret_waits);
/* The bus behind the port of a device, as the guest numbers it; 0: none. And the device behind the
 * port with that bus. */
unsigned life_bus_of(struct life *l, const struct config_dev *dev);
MUST_USE struct err *life_dev_on_bus(struct life *l, unsigned bus, const struct config_dev **ret);
/* A power management event of the device `requester` (bus, device, function), through its port. */
MUST_USE struct err *life_pme(struct life *l, uint16_t requester);

/* Disk number `index` (virtio_blk.h). ERR_NOT_NOW with ENODEV: there is none. */
MUST_USE struct err *life_disk_resize(struct life *l, uint64_t index, uint64_t bytes);

struct life_status {
	const char *state; /* "running", "vcpus-suspended", "suspended", "ended" */
	bool taking;
	struct checkpoint_status checkpoint;
	uint64_t resets;
	uint64_t suspended_ns; /* guest time that suspends took away since the guest's last start */
	uint64_t mem_bytes;
	uint64_t mem_allocated;
	unsigned ncpus;
	const char
		*s2idle; /* "awake", "asleep", "ignored" (the last sleep button); NULL: without */
	bool lazy;       /* memory is a lazy restore's: pages is filled in */
	struct pager_status pages;
};
void life_status(struct life *l, struct life_status *ret);
const struct config *life_config(const struct life *l);
const char *life_store_dir(const struct life *l);
/* A device of the machine by name, NULL: none. Not to be kept: a reset makes new ones. */
struct device;
struct device *life_device(struct life *l, const char *name);
/* pid and tid of each vCPU thread; n = ncpus. */
MUST_USE struct err *life_vcpu_tid(struct life *l, unsigned i, int *ret_tid);

#endif
