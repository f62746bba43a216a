/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What life.c (states, machine, end) and life_take.c (snapshots, automatic ones too) share. Main
 * loop only, but for what a comment says.
 */
#ifndef TORPOR_CORE_LIFE_INTERNAL_H
#define TORPOR_CORE_LIFE_INTERNAL_H

#include <pthread.h>

#include "core/base/fsm.h"
#include "core/base/lock.h"
#include "core/checkpoint.h"
#include "core/dirty.h"
#include "core/extmem.h"
#include "core/life.h"
#include "core/life_fsm.h"
#include "core/machine.h"
#include "snapshot/retain.h"

enum { END_MS = 500 }; /* How long a vCPU that waits for memory may hold up the end. */

/* What a rewind is about, beside its safety take. */
struct rewind {
	char ref[REF_BYTES_MAX + 1];
	life_rewind_done_fn *done;
	uint64_t begun_ns;       /* CLOCK_MONOTONIC */
	struct snap_image *to;   /* owned; where to */
	struct snap_image *safe; /* owned; what the VM is now */
	bool lost;               /* there is no VM any more */
	struct life_rewound result;
};

/* One take under way. Made and freed on the main loop; the job thread writes e and result. */
struct take_job {
	struct life *life;
	pthread_t thread;
	char tag[NAME_BYTES_MAX + 1];
	life_take_done_fn *done;
	void *arg;
	uint8_t from;    /* enum life_state at the start; stays so until the take is done (L6) */
	bool froze;      /* freeze stopped what ran, thaw is to undo it */
	bool stay;       /* frozen it stays after the take */
	bool taken;      /* the take itself succeeded: result is valid */
	bool holds_swap; /* the job's thread; until its end */
	struct rewind *rewind; /* owned; NULL: this is a take only */
	uint64_t froze_ns;     /* CLOCK_MONOTONIC */
	bool cancel;           /* read by the engine, written by life_stop (atomic access) */
	uint64_t max_pause_us;
	/* What the engine does in the pause, on the vCPU thread that parked last. */
	bool (*work)(void *arg);
	void *work_arg;
	struct err *stop_err;     /* why it was not called */
	bool automatic;           /* an explicit take goes first */
	bool gives_way;           /* to one of life's waiters: to be tried again soon */
	struct prune_policy keep; /* of automatic ones, after success */
	struct err *e;
	struct snap_result result;
	/* Progress, for the control client. */
	struct lock lock; /* RANK_QUEUE */
	char step[32];    /* [lock] */
	uint64_t n_done;  /* [lock] */
	uint64_t n_total; /* [lock] */
};

/* Storing the working set, once per lazy restore. The thread reads image and demanded. */
struct wset_job {
	struct loop_timer *timer;
	struct snap_image *image;
	struct page_order demanded;
	pthread_t thread;
	bool begun;
	bool running;
};

/* What waits for the guest to sleep. */
struct idle {
	struct life_waiter *waiters; /* the oldest first */
	struct loop_timer *timer;
	bool ignored;  /* the guest did not sleep when it was last asked to */
	bool unwanted; /* if it does so now nobody wants it any more */
};

struct life {
	struct loop *loop;
	struct fsm fsm; /* main loop only */
	struct config config;
	char *store_dir;
	struct store *store;    /* opened by the first take; used by one job at a time */
	bool tidy_due;          /* automatic snapshots were removed; the job's, as store */
	uint64_t tidy_after_ns; /* CLOCK_MONOTONIC; likewise */
	struct fd kvm;
	struct gmem *gmem;
	struct dirty *dirty; /* which pages the next take has to store */
	struct machine *machine;
	struct extmem *extmem; /* memory of clients; stays over resets */
	bool rt;               /* vCPU threads run under SCHED_RR */
	struct snap_host host; /* facts, as of the machine's build */
	struct fd kernel;
	struct fd initrd;
	struct snap_image
		*image;      /* what it was restored from; its lease keeps the files readable */
	struct pager *pager; /* brings memory from the image; NULL: all was read, or reset since */
	struct swap *swap;   /* from life_new on */
	struct wset_job wset;
	struct life_watchdog {
		struct loop_timer *timer; /* NULL: none */
		uint64_t limit_ns;
		uint64_t moved_ns; /* CLOCK_MONOTONIC: the last look that found that it had */
	} watchdog;
	struct fd hold; /* on the keeper of memory that others share; FD_NONE: our own */
	bool no_fill;
	uint64_t parent;            /* snapshot this VM descends from */
	struct serial_link *serial; /* stays over resets: clients are not cut off */
	struct host_ends ends;      /* likewise what stands behind the devices */
	bool start_paused;
	struct take_job *job;
	struct take_job *next; /* an explicit take, begun when the automatic one has given way */
	struct life_waiter *waiters; /* likewise, and before it; the oldest first */
	struct idle idle;
	struct life_unplug *unplugs; /* devices that the guest was asked to give up */
	struct loop_timer *unplug_timer; /* the first of their limits */
	struct checkpoint *checkpoint;
	bool guest_ended; /* by itself: power off, reset, exit */
	bool ran;         /* since the last take */
	bool event_waits; /* a guest event came during a take */
	enum machine_event event;
	char *event_report;
	uint64_t resets;
	void (*on_end)(void *arg, enum vm_end end, const char *report);
	void *on_end_arg;
	void (*on_news)(void *arg, const struct life_news *news);
	void *on_news_arg;
	bool stopping;
};

extern const char *const life_state_names[LIFE__STATES];

/* ---- life.c ---- */

void life_tell(const struct life *l, const struct life_news *news);
void life_end(struct life *l, enum vm_end end, const char *report);
/* Does what the guest asked for. */
void life_act(struct life *l, enum machine_event ev, const char *report);

/* A machine over the memory as it is; from_image: its dirty log runs from the start. */
MUST_USE struct err *life_build_machine(struct life *l, bool from_image);
/* A step of the state machine, told to the watcher. */
MUST_USE struct err *life_move(struct life *l, enum life_event ev);
/* From built to a state: with ev START, START_VCPUS or START_PAUSED. */
MUST_USE struct err *life_start_as(struct life *l, enum life_event ev);
/* The event that brings a VM just built into the state that it has now. */
enum life_event life_same_state(const struct life *l);

/* ---- life_watchdog.c ---- */

MUST_USE struct err *life_watchdog_new(struct life *l, uint64_t limit_ns); /* 0: none */
void life_watchdog_free(struct life *l);

/* ---- life_idle.c ---- */

MUST_USE struct err *life_idle_begin(struct life *l);
/* Who waits is told of the end. Twice is fine. */
void life_idle_end(struct life *l);
bool life_asleep(const struct life *l);
/* Wakes a guest that sleeps, if the VM runs. */
void life_wake(const struct life *l);
/* The guest sleeps, or is awake again. */
void life_idle_changed(struct life *l);
void life_idle_withdraw(struct life *l, const struct life_waiter *w);
/* A page that somebody waits for cannot be had now: the VM is suspended until it can. */
void life_on_stuck(struct life *l, const char *text);

/* ---- life_swap.c ---- */

/* uffd: moved from. */
MUST_USE struct err *life_swap_new(struct life *l, struct fd *uffd, const char *why_not);
/* Memory that a lazy restore has not read and what is out comes in, and stays until
 * life_swap_unhold. On the job's thread. */
MUST_USE struct err *life_swap_bring_in(struct take_job *job);
void life_swap_unhold(struct take_job *job); /* the job has ended */

/* ---- life_wset.c ---- */

MUST_USE struct err *life_wset_begin(struct life *l);
/* What is known now is stored, if nothing was before. Not after the pager is gone. */
void life_wset_store(struct life *l);
/* The same, and waits for it. */
void life_wset_end(struct life *l);

/* ---- life_hotplug.c ---- */

/* What the guest has given up leaves, unless a take is under way: then when that is done. */
void life_slots_look(struct life *l);
/* For a reset, between two machines: what was asked for back is given up by it. */
void life_slots_reset(struct life *l);
/* Tells who still waits that the VM has ended. */
void life_slots_end(struct life *l);

/* ---- life_take.c ---- */

void life_unlist(struct life_waiter **list, const struct life_waiter *w);

/* May be taken (and rewound) now: state, memory of clients. */
MUST_USE struct err *life_check_may_take(const struct life *l);
/* A job that has not begun; and its end without one. */
MUST_USE struct err *life_job_new(struct life *l, const char *tag, void *arg,
				  struct take_job **ret_job);
/* Begins it, or lets it wait for an automatic one to give way. Takes it over, also on failure. */
MUST_USE struct err *life_job_submit(struct take_job *job);
/* The take itself, on the job's thread. */
MUST_USE struct err *life_job_take(struct take_job *job);
/* Undoes the freeze, if there was one. */
void life_job_thaw(struct take_job *job);
extern const struct checkpoint_ops life_checkpoint_ops;
/* For life_free: a take under way is given up, and its end told before life is gone. */
void life_take_wait(struct life *l);

/* ---- life_disks.c: captured disks ---- */

/* The VM is about to run: their layers get their places. */
MUST_USE struct err *life_disks_settle(struct life *l);
/* For a take. How many there are. */
size_t life_disks_list(struct life *l, struct snap_disk disks[STORE_MAPS_MAX]);
void life_disks_forget_base(struct life *l);
/* They become what the image says, and may go back until done. The machine is gone. */
MUST_USE struct err *life_disks_rewind(struct life *l, struct snap_image *to);
void life_disks_rewind_undo(struct life *l);
void life_disks_rewind_done(struct life *l);
/* The machine is gone for good. */
void life_disks_end(struct life *l);

/* ---- life_rewind.c ---- */

/* All that can be done before anything changes, with the safety take; on the job's thread. */
MUST_USE struct err *life_rewind_job(struct take_job *job);
/* The change, on the main loop; the VM is frozen, and goes on afterwards unless rewind->lost. */
MUST_USE struct err *life_rewind_commit(struct take_job *job);
/* Tells everybody how it ended; takes over e. */
void life_rewind_answer(struct take_job *job, struct err *e);
void life_rewind_free(struct rewind *rw); /* NULL is fine */

#endif
