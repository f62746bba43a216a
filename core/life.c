/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one VM. See life.h for who calls what on which thread.
 *
 * Facts that hold per state (L1..):
 *  L1  built:           vCPU threads may not exist yet; all parked; the clock is held.
 *  L2  running:         vCPUs run, devices get their callbacks, the clock is not held.
 *  L3  vcpus-suspended: vCPUs parked, devices awake, the clock goes on (as SuspendVcpus says).
 *  L4  suspended:       vCPUs parked, devices gated, the clock held since right after the park.
 *  L5  ended:           vCPUs parked for good; only status and stop are answered.
 *  L6  A take changes none of these: its freeze parks what runs, its thaw undoes just that. While
 *      one is under way no other event is taken but END, which cancels it first; what the guest
 *      asks for meanwhile waits until it is done.
 */
#include "core/life.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/fsm.h"
#include "core/base/io.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/checkpoint.h"
#include "core/dirty.h"
#include "core/extmem.h"
#include "core/jail.h"
#include "core/life_fsm.h"
#include "core/machine.h"
#include "core/vcpu.h"
#include "devices/serial_link.h"
#include "snapshot/retain.h"

/* One take under way. Made and freed on the main loop; the job thread writes e and result. */
struct take_job {
	struct life *life;
	pthread_t thread;
	char tag[NAME_BYTES_MAX + 1];
	life_take_done_fn *done;
	void *arg;
	uint8_t from; /* enum life_state at the start; stays so until the take is done (L6) */
	bool froze;   /* freeze stopped what ran, thaw is to undo it */
	bool cancel;  /* read by the engine, written by life_stop (atomic access) */
	uint64_t max_pause_us;
	/* What the engine does in the pause, on the vCPU thread that parked last. */
	bool (*work)(void *arg);
	void *work_arg;
	struct err *stop_err;     /* why it was not called */
	bool automatic;           /* an explicit take goes first */
	struct prune_policy keep; /* of automatic ones, after success */
	struct err *e;
	struct snap_result result;
	/* Progress, for the control client. */
	struct lock lock; /* RANK_QUEUE */
	char step[32];    /* [lock] */
	uint64_t n_done;  /* [lock] */
	uint64_t n_total; /* [lock] */
};

struct life {
	struct loop *loop;
	struct fsm fsm; /* main loop only */
	struct config config;
	char *store_dir;
	struct store *store; /* opened by the first take; used by one job at a time */
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
	bool no_fill;
	uint64_t parent;            /* snapshot this VM descends from */
	struct serial_link *serial; /* stays over resets: clients are not cut off */
	struct host_ends ends;      /* likewise what stands behind the devices */
	bool start_paused;
	struct take_job *job;
	struct take_job *next; /* an explicit take, begun when the automatic one has given way */
	struct checkpoint *checkpoint;
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

/* How long a vCPU that waits for memory may hold up the end. It cannot run meanwhile. */
enum {
	END_MS = 500,
	STUCK_PARK_MS = 200, /* to find out whether it can be parked while it waits */
};

static void on_machine_event(void *arg, enum machine_event ev, char *report);
static const struct checkpoint_ops auto_ops;

/* ---- transitions ---- */

static struct err *act_park(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	return machine_park_vcpus(l->machine);
}

static struct err *act_unpark(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	machine_unpark_vcpus(l->machine);
	return NULL;
}

/* vCPUs, the clock at once, then devices; a failure puts everything back. */
static struct err *suspend_all(struct life *l, bool vcpus_run)
{
	TRY(machine_park_vcpus(l->machine));
	struct err *e = kvm_state_clock_hold(machine_kvm_state(l->machine));
	if (e != NULL) {
		if (vcpus_run) {
			machine_unpark_vcpus(l->machine);
		}
		return e;
	}
	machine_gate_devices(l->machine, true);
	return NULL;
}

static struct err *act_suspend_running(void *self, void *arg)
{
	(void)arg;
	return suspend_all(self, true);
}

static struct err *act_suspend_parked(void *self, void *arg)
{
	(void)arg;
	return suspend_all(self, false);
}

/* The clock is set exactly once, right before the vCPUs. */
static struct err *act_resume(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	/* Before the gate opens: the release reads and writes LAPICs, which no interrupt may
	 * change. */
	TRY(kvm_state_clock_release(machine_kvm_state(l->machine), false));
	machine_gate_devices(l->machine, false);
	machine_unpark_vcpus(l->machine);
	return NULL;
}

/* Devices and clock as when running; the vCPUs stay parked. */
static struct err *act_start_vcpus(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	TRY(machine_park_vcpus(l->machine));
	TRY(kvm_state_clock_release(machine_kvm_state(l->machine), false));
	machine_gate_devices(l->machine, false);
	return NULL;
}

static struct err *act_start_paused(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	machine_gate_devices(l->machine, true);
	return machine_park_vcpus(l->machine);
}

static struct err *act_refuse_asleep(void *self, void *arg)
{
	(void)self;
	(void)arg;
	return ERR(ERR_NOT_NOW, "the whole VM is suspended, devices too: resume it with "
				"'torpor resume' (ResumeVm)");
}

static struct err *act_end(void *self, void *arg)
{
	(void)arg;
	struct life *l = self;
	if (l->machine == NULL) {
		return NULL; /* a reset could not build another one */
	}
	machine_end_vcpus(l->machine, END_MS);
	machine_gate_devices(l->machine, true);
	return NULL;
}

#define CELL(next_, action_)                                                                       \
	{                                                                                          \
		.legal = true, .next = (next_), .on_fail = (next_), .action = (action_)            \
	}
#define CELL_OR(next_, fail_, action_)                                                             \
	{                                                                                          \
		.legal = true, .next = (next_), .on_fail = (fail_), .action = (action_)            \
	}

static const struct fsm_cell life_cells[LIFE__STATES][LIFE__EVENTS] = {
	[LIFE_BUILT] = {
		[LIFE_EV_START] = CELL_OR(LIFE_RUNNING, LIFE_BUILT, act_resume),
		[LIFE_EV_START_VCPUS] = CELL_OR(LIFE_VCPUS, LIFE_BUILT, act_start_vcpus),
		[LIFE_EV_START_PAUSED] = CELL_OR(LIFE_SUSPENDED, LIFE_BUILT, act_start_paused),
		[LIFE_EV_END] = CELL(LIFE_ENDED, act_end),
	},
	[LIFE_RUNNING] = {
		[LIFE_EV_SUSPEND_VCPUS] = CELL_OR(LIFE_VCPUS, LIFE_RUNNING, act_park),
		[LIFE_EV_RESUME_VCPUS] = CELL(LIFE_RUNNING, NULL),
		[LIFE_EV_SUSPEND] = CELL_OR(LIFE_SUSPENDED, LIFE_RUNNING, act_suspend_running),
		[LIFE_EV_RESUME] = CELL(LIFE_RUNNING, NULL),
		[LIFE_EV_RESET] = CELL(LIFE_BUILT, NULL),
		[LIFE_EV_END] = CELL(LIFE_ENDED, act_end),
	},
	[LIFE_VCPUS] = {
		[LIFE_EV_SUSPEND_VCPUS] = CELL(LIFE_VCPUS, NULL),
		[LIFE_EV_RESUME_VCPUS] = CELL(LIFE_RUNNING, act_unpark),
		[LIFE_EV_SUSPEND] = CELL_OR(LIFE_SUSPENDED, LIFE_VCPUS, act_suspend_parked),
		[LIFE_EV_RESUME] = CELL(LIFE_RUNNING, act_unpark),
		[LIFE_EV_RESET] = CELL(LIFE_BUILT, NULL),
		[LIFE_EV_END] = CELL(LIFE_ENDED, act_end),
	},
	[LIFE_SUSPENDED] = {
		[LIFE_EV_SUSPEND_VCPUS] = CELL(LIFE_SUSPENDED, NULL),
		[LIFE_EV_RESUME_VCPUS] = CELL(LIFE_SUSPENDED, act_refuse_asleep),
		[LIFE_EV_SUSPEND] = CELL(LIFE_SUSPENDED, NULL),
		[LIFE_EV_RESUME] = CELL_OR(LIFE_RUNNING, LIFE_SUSPENDED, act_resume),
		[LIFE_EV_RESET] = CELL(LIFE_BUILT, NULL),
		[LIFE_EV_END] = CELL(LIFE_ENDED, act_end),
	},
	[LIFE_ENDED] = {
		[LIFE_EV_END] = CELL(LIFE_ENDED, NULL),
	},
};

static const char *const life_state_names[LIFE__STATES] = {
	[LIFE_BUILT] = "built",           [LIFE_RUNNING] = "running",
	[LIFE_VCPUS] = "vcpus-suspended", [LIFE_SUSPENDED] = "suspended",
	[LIFE_ENDED] = "ended",
};

static const char *const life_event_names[LIFE__EVENTS] = {
	[LIFE_EV_START] = "start",
	[LIFE_EV_START_VCPUS] = "start with vCPUs suspended",
	[LIFE_EV_START_PAUSED] = "start paused",
	[LIFE_EV_SUSPEND_VCPUS] = "suspend vCPUs",
	[LIFE_EV_RESUME_VCPUS] = "resume vCPUs",
	[LIFE_EV_SUSPEND] = "suspend",
	[LIFE_EV_RESUME] = "resume",
	[LIFE_EV_RESET] = "reset",
	[LIFE_EV_END] = "end",
};

const struct fsm_desc life_fsm_desc = {
	.name = "the VM",
	.nstates = LIFE__STATES,
	.nevents = LIFE__EVENTS,
	.state_names = life_state_names,
	.event_names = life_event_names,
	.cells = &life_cells[0][0],
};

void life_watch(struct life *l, void (*fn)(void *arg, const struct life_news *news), void *arg)
{
	l->on_news = fn;
	l->on_news_arg = arg;
}

static void tell(const struct life *l, const struct life_news *news)
{
	if (l->on_news != NULL) {
		l->on_news(l->on_news_arg, news);
	}
}

/* Every step of the machine goes through here, so that the watcher hears of each change. */
static struct err *move(struct life *l, enum life_event ev)
{
	unsigned from = l->fsm.state;
	struct err *e = fsm_step(&l->fsm, ev, l, NULL);
	l->ran = l->ran || l->fsm.state == LIFE_RUNNING;
	if (l->fsm.state != from) {
		tell(l, &(struct life_news){ .kind = NEWS_STATE,
					     .from = life_state_names[from],
					     .to = life_state_names[l->fsm.state] });
	}
	return e;
}

static void tell_take(const struct life *l, const struct take_job *job)
{
	tell(l, &(struct life_news){ .kind = job->e == NULL ? NEWS_TAKE_DONE : NEWS_TAKE_FAILED,
				     .tag = job->tag,
				     .result = job->e == NULL ? &job->result : NULL,
				     .e = job->e });
}

/* ---- build ---- */

static struct err *build_machine(struct life *l, bool from_image)
{
	const struct machine_opts o = {
		.kvm = l->kvm.n,
		.loop = l->loop,
		.config = &l->config,
		.gmem = l->gmem,
		.serial = l->serial,
		.ends = &l->ends,
		.log_dirty = from_image,
		.on_event = on_machine_event,
		.arg = l,
	};
	TRY(machine_new(&o, &l->machine));
	dirty_attach(l->dirty, machine_vm(l->machine));
	TRY(machine_host_facts(l->machine, &l->host));
	snap_set_host(&l->host);
	TRY(extmem_attach(l->extmem, machine_vm(l->machine)));
	return NULL;
}

/* Kernel files of a restored VM come out of the snapshot when a reset needs them. */
static struct err *fetch_boot_file(struct life *l, const char *name, struct fd *have)
{
	if (have->n >= 0) {
		return NULL;
	}
	ENSURE(l->image != NULL, ERR_NOTFOUND, "no %s is kept for this VM", name);
	return err_wrap(snap_image_file(l->image, name, have), "%s kept in the snapshot", name);
}

static struct err *load_kernel(struct life *l)
{
	TRY(fetch_boot_file(l, "kernel", &l->kernel));
	if (l->config.has_initrd) {
		TRY(fetch_boot_file(l, "initrd", &l->initrd));
	}
	TRY(machine_boot(l->machine, l->kernel.n, l->initrd.n));
	if (l->image != NULL) {
		fd_close(&l->kernel); /* a memfd: its pages go back to the host */
		fd_close(&l->initrd);
	}
	/* Held until the start, so that loading takes no guest time. */
	return kvm_state_clock_hold(machine_kvm_state(l->machine));
}

static struct err *step(struct life *l, enum life_event ev);

/*
 * A page that somebody waits for cannot be read now. The whole VM is suspended, so that its clocks
 * stand, too, until it is resumed. A vCPU that KVM keeps waiting without looking at signals cannot
 * be parked: then it waits by itself, and the others go on.
 */
static void on_stuck(struct life *l, const char *text)
{
	LOG_E("%s: '%s' waits for it; 'torpor resume %s' tries again", text, l->config.name,
	      l->config.name);
	if (l->machine == NULL || (l->fsm.state != LIFE_RUNNING && l->fsm.state != LIFE_VCPUS)) {
		return;
	}
	machine_park_limit(l->machine, STUCK_PARK_MS);
	struct err *e = step(l, LIFE_EV_SUSPEND);
	if (e != NULL) {
		LOG_D("not suspended: %s", err_msg(e));
		err_free(e);
	}
}

/* On the main loop. */
static void on_pages(void *arg, enum pager_event ev, const char *text)
{
	struct life *l = arg;
	char *report = NULL;
	switch (ev) {
	case PAGER_FULL:
		LOG_D("guest memory is complete");
		break;
	case PAGER_STUCK:
		on_stuck(l, text);
		break;
	case PAGER_LOST:
		if (asprintf(&report, "torpor: %s\n", text) < 0) {
			report = NULL;
		}
		on_machine_event(l, MACHINE_CRASH, report);
		break;
	}
}

/* The server runs from now on: KVM may touch memory. Without a server all is read at once. */
static struct err *start_pager(struct life *l, struct fd *uffd)
{
	struct pager_opts opts = {
		.loop = l->loop,
		.gmem = l->gmem,
		.on_event = on_pages,
		.arg = l,
	};
	TRY(snap_image_pages(l->image, &opts.source));
	opts.uffd = fd_move(uffd).n;
	struct err *e = pager_start(&opts, &l->pager);
	if (e != NULL && err_class(e) == ERR_INCOMPAT) {
		LOG_W("%s: all memory is read before the guest runs", err_msg(e));
		err_free(e);
		e = NULL;
	}
	return e;
}

static struct err *load_image(struct life *l, const struct life_opts *opts, struct fd *uffd)
{
	TRY(snap_image_compat(l->image, &l->host));
	size_t n;
	struct snap_part *const *parts = machine_parts(l->machine, &n);
	kvm_state_set_clock_policy(machine_kvm_state(l->machine), opts->clock);
	if (uffd->n >= 0) {
		TRY(start_pager(l, uffd));
	}
	const struct snap_load_opts lo = {
		.progress = opts->progress,
		.lazy = l->pager != NULL,
	};
	TRY(snap_image_load(l->image, l->gmem, parts, n, &lo));
	const struct snap_info *info = snap_image_info(l->image);
	l->parent = info->id;
	if (memcmp(snap_image_vm(l->image)->family, l->config.family, sizeof(l->config.family)) ==
	    0) {
		dirty_set_base(l->dirty, info->id);
	}
	return kvm_state_clock_hold(machine_kvm_state(l->machine));
}

struct err *life_new(struct loop *loop, const struct life_opts *opts, struct life **ret_life)
{
	SCOPE(fd_close) struct fd uffd = { opts->uffd };
	SCOPE(life_freep) struct life *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	l->loop = loop;
	l->kvm = FD_NONE;
	l->kernel = (struct fd){ opts->kernel_fd };
	l->initrd = (struct fd){ opts->initrd_fd };
	l->image = opts->image;
	l->store = opts->store;
	l->config = *opts->config;
	*opts->config = (struct config){ 0 };
	if (opts->ends != NULL) {
		l->ends = *opts->ends;
		opts->ends->n = 0;
	}
	l->fsm = (struct fsm){ .desc = &life_fsm_desc, .state = LIFE_BUILT };
	l->start_paused = opts->start_paused;
	l->no_fill = opts->no_fill;
	l->store_dir = strdup(opts->store_dir);
	ENSURE(l->store_dir != NULL, ERR_SYS, "out of memory");
	TRY(serial_link_new(opts->serial_in, opts->serial_out, opts->serial_listen, &l->serial));
	TRY(kvm_open(&l->kvm));
	TRY(gmem_new(l->config.mem_bytes, &l->gmem));
	TRY(extmem_new(&l->extmem));
	TRY(dirty_new(l->gmem, &l->dirty));
	TRY(build_machine(l, l->image != NULL));
	TRY(l->image != NULL ? load_image(l, opts, &uffd) : load_kernel(l));
	TRY(checkpoint_new(loop, &auto_ops, l, &l->checkpoint));
	TRY(checkpoint_set(l->checkpoint, &opts->checkpoint));
	*ret_life = MOVE(l);
	return NULL;
}

/* From built to a state: with ev START, START_VCPUS or START_PAUSED. */
static struct err *start(struct life *l, enum life_event ev)
{
	TRY(machine_start(l->machine));
	if (l->rt) { /* a reset made new threads */
		TRY(machine_make_rt(l->machine));
	}
	return move(l, ev);
}

struct err *life_start(struct life *l)
{
	TRY(start(l, l->start_paused ? LIFE_EV_START_PAUSED : LIFE_EV_START));
	return l->pager != NULL && !l->no_fill ? pager_fill(l->pager) : NULL;
}

static void job_wait(struct life *l);

/* Keeps a life that cannot be freed from looking like a leak. Written once, at the end. */
static struct life *volatile abandoned;

void life_free(struct life *l)
{
	if (l == NULL) {
		return;
	}
	job_wait(l);
	checkpoint_free(l->checkpoint);
	if (l->machine != NULL && !machine_stop(l->machine, END_MS)) {
		/* What waits for a page must not get a zero one, and the process ends soon. */
		abandoned = l;
		return;
	}
	machine_free(l->machine);
	extmem_free(l->extmem);
	pager_free(l->pager);
	serial_link_free(l->serial);
	host_ends_done(&l->ends);
	dirty_free(l->dirty);
	gmem_free(l->gmem);
	snap_image_free(l->image);
	store_close(l->store);
	config_done(&l->config);
	fd_close(&l->kernel);
	fd_close(&l->initrd);
	fd_close(&l->kvm);
	free(l->event_report);
	free(l->store_dir);
	free(l);
}

void life_on_end(struct life *l, void (*fn)(void *arg, enum vm_end end, const char *report),
		 void *arg)
{
	l->on_end = fn;
	l->on_end_arg = arg;
}

/* ---- what the guest asks for ---- */

static void end_vm(struct life *l, enum vm_end end, const char *report)
{
	if (l->fsm.state == LIFE_ENDED) {
		return;
	}
	struct err *e = move(l, LIFE_EV_END);
	if (e != NULL) {
		log_err(e);
	}
	if (l->on_end != NULL) {
		l->on_end(l->on_end_arg, end, report);
	}
}

/*
 * Rebuilds the machine in place: name, socket, store and lineage stay, and who was suspended before
 * the reset was heard of stays so.
 */
static struct err *reset_vm(struct life *l)
{
	enum life_event ev = l->fsm.state == LIFE_SUSPENDED ? LIFE_EV_START_PAUSED
			     : l->fsm.state == LIFE_VCPUS   ? LIFE_EV_START_VCPUS
							    : LIFE_EV_START;
	TRY(move(l, LIFE_EV_RESET));
	ENSURE(machine_stop(l->machine, END_MS), ERR_NOT_NOW,
	       "a vCPU waits for a page of its memory, which does not come");
	dirty_detach(l->dirty);
	machine_free(MOVE(l->machine));
	pager_free(MOVE(l->pager)); /* before the clearing: it would place the snapshot's pages */
	TRY(gmem_clear(l->gmem));
	TRY(build_machine(l, false));
	TRY(load_kernel(l));
	l->resets++;
	return start(l, ev);
}

static void act_on_event(struct life *l, enum machine_event ev, const char *report)
{
	struct err *e;
	if (l->fsm.state == LIFE_ENDED) {
		return; /* two ends met: the first counts */
	}
	switch (ev) {
	case MACHINE_POWEROFF:
		end_vm(l, VM_END_POWEROFF, NULL);
		break;
	case MACHINE_PANIC:
		tell(l, &(struct life_news){ .kind = NEWS_PANIC });
		end_vm(l, VM_END_PANIC, NULL);
		break;
	case MACHINE_CRASH:
		end_vm(l, VM_END_CRASH, report);
		break;
	case MACHINE_RESET:
		if (l->config.no_reboot) {
			end_vm(l, VM_END_RESET, NULL);
			break;
		}
		e = reset_vm(l);
		if (e != NULL) {
			log_err(err_wrap(e, "reset of '%s'", l->config.name));
			end_vm(l, VM_END_ERROR, NULL);
		}
		break;
	default:
		end_vm(l, (enum vm_end)(VM_END_EXIT + (ev - MACHINE_EXIT)), NULL);
		break;
	}
}

static void on_machine_event(void *arg, enum machine_event ev, char *report)
{
	struct life *l = arg;
	if (l->job != NULL) {
		if (!l->event_waits) { /* the first counts; vCPUs are parked since */
			l->event_waits = true;
			l->event = ev;
			l->event_report = report;
		} else {
			free(report);
		}
		return;
	}
	SCOPE(freep) char *text = report;
	act_on_event(l, ev, text);
}

/* ---- suspend, resume, stop ---- */

static struct err *step(struct life *l, enum life_event ev)
{
	ENSURE(l->job == NULL || ev == LIFE_EV_END, ERR_NOT_NOW,
	       "'%s' is being snapshotted: try again when that is done", l->config.name);
	return move(l, ev);
}

struct err *life_suspend_vcpus(struct life *l)
{
	return step(l, LIFE_EV_SUSPEND_VCPUS);
}

static void retry_pages(struct life *l);

struct err *life_resume_vcpus(struct life *l)
{
	retry_pages(l);
	return step(l, LIFE_EV_RESUME_VCPUS);
}

struct err *life_suspend(struct life *l)
{
	return step(l, LIFE_EV_SUSPEND);
}

/* What a failing disk has stopped is tried again. */
static void retry_pages(struct life *l)
{
	if (l->pager != NULL && l->machine != NULL) {
		pager_retry(l->pager);
		machine_park_limit(l->machine, 0);
	}
}

struct err *life_resume(struct life *l)
{
	retry_pages(l);
	return step(l, LIFE_EV_RESUME);
}

void life_stop(struct life *l)
{
	if (l->job != NULL) {
		/* The end of the cancelled take goes on from here. */
		__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
		l->stopping = true;
		return;
	}
	end_vm(l, VM_END_STOPPED, NULL);
}

/* ---- takes ---- */

/* Undoes what job_freeze did, in reverse; nothing for a suspended VM. */
static void job_thaw(void *self)
{
	struct take_job *job = self;
	struct life *l = job->life;
	if (!job->froze) {
		return;
	}
	job->froze = false;
	struct err *e = kvm_state_clock_release(machine_kvm_state(l->machine), true);
	if (e != NULL) {
		log_err(err_wrap(e, "going on after the snapshot"));
	}
	machine_gate_devices(l->machine, false);
	if (job->from == LIFE_RUNNING) {
		machine_unpark_vcpus(l->machine);
	}
}

/*
 * The gate goes first: behind it no device callback of the main loop reads the clock while this
 * thread holds or releases it.
 */
static struct err *job_freeze(void *self)
{
	struct take_job *job = self;
	struct life *l = job->life;
	struct err *e = NULL;
	if (job->from != LIFE_SUSPENDED) {
		machine_gate_devices(l->machine, true);
		job->froze = true;
		e = machine_park_vcpus(l->machine); /* the reason stands already for LIFE_VCPUS */
	}
	if (e == NULL && machine_has_request(l->machine)) {
		/* The request is no part of the saved state: a snapshot would lose it. */
		e = ERR(ERR_NOT_NOW, "'%s' is just being reset or ends: try again", l->config.name);
	}
	if (e == NULL) {
		e = kvm_state_clock_hold(machine_kvm_state(l->machine));
	}
	if (e != NULL) {
		job_thaw(job);
	}
	return e;
}

/* On the vCPU thread that parked last. True: the vCPUs run on. */
static bool job_stopped(void *arg)
{
	struct take_job *job = arg;
	struct life *l = job->life;
	if (machine_has_request(l->machine)) {
		/* As in job_freeze. */
		job->stop_err = ERR(ERR_NOT_NOW, "'%s' is just being reset or ends: try again",
				    l->config.name);
		return true;
	}
	job->stop_err = kvm_state_clock_hold(machine_kvm_state(l->machine));
	if (job->stop_err != NULL) {
		return true;
	}
	if (!job->work(job->work_arg)) {
		return false;
	}
	struct err *e = kvm_state_clock_release(machine_kvm_state(l->machine), true);
	if (e != NULL) {
		log_err(err_wrap(e, "going on after the snapshot"));
	}
	return true;
}

/* For a VM that runs. The gate first, while the guest still runs: whoever is behind it gets out. */
static struct err *job_freeze_and(void *self, bool (*work)(void *arg), void *arg,
				  struct snap_stop *ret_stop)
{
	struct take_job *job = self;
	struct life *l = job->life;
	struct vcpu_stop stop = { .work = job_stopped, .arg = job };
	job->work = work;
	job->work_arg = arg;
	machine_gate_devices(l->machine, true);
	job->froze = true;
	struct err *e = machine_park_vcpus_and(l->machine, &stop);
	if (e != NULL || stop.resumed) {
		job->froze = false;
		machine_gate_devices(l->machine, false);
	}
	TRY(e);
	*ret_stop = (struct snap_stop){
		.asked_ns = stop.asked_ns,
		.out_ns = stop.out_ns,
		.parked_ns = stop.parked_ns,
		.resumed_ns = stop.resumed_ns,
		.resumed = stop.resumed,
	};
	return MOVE(job->stop_err);
}

/* Asked after the parts were fetched. A software KVM's guest sees all that the host has. */
static uint64_t job_xcr0_used(void *self)
{
	const struct take_job *job = self;
	const struct life *l = job->life;
	return kvm_state_xcr0_used(machine_kvm_state(l->machine)) |
	       (l->host.software_kvm ? l->host.xcr0_mask : 0);
}

static const struct snap_vm_ops job_ops = {
	.freeze = job_freeze,
	.thaw = job_thaw,
	.xcr0_used = job_xcr0_used,
};

static const struct snap_vm_ops job_running_ops = {
	.freeze = job_freeze,
	.freeze_and = job_freeze_and,
	.thaw = job_thaw,
	.xcr0_used = job_xcr0_used,
};

static void job_progress(void *arg, const char *text, uint64_t done, uint64_t total)
{
	struct take_job *job = arg;
	LOCK_SCOPE(&job->lock);
	snprintf(job->step, sizeof(job->step), "%s", text);
	job->n_done = done;
	job->n_total = total;
}

static void name_file(struct life *l, struct snap_file *f, const char *name, int fd)
{
	*f = (struct snap_file){ .name = name, .fd = fd };
	if (fd < 0 && l->image != NULL) {
		f->image = l->image; /* leased as long as we live */
	}
}

/* What a restore will ask about later is better said now. */
static void warn_disks(const struct life *l)
{
	for (unsigned i = 0; i < l->config.devs.n; i++) {
		const struct config_dev *d = &l->config.devs.d[i];
		if (d->kind == CONFIG_DISK && !d->read_only) {
			LOG_W("a snapshot of '%s' does not hold disk '%s' (capture=off): it can be "
			      "restored as long as the disk has not moved on",
			      l->config.name, d->id);
		}
	}
}

/*
 * For a take of everything: what is not there yet looks like zero pages to it. The guest runs on
 * meanwhile. A take of what changed needs nothing of that: the rest is the base's.
 */
static struct err *bring_in(struct take_job *job)
{
	struct pager *p = job->life->pager;
	return p != NULL ? pager_complete(p, &job->cancel) : NULL;
}

/* Only what changed since the base, or everything if the base cannot be used. */
static struct err *take_once(struct take_job *job, const struct snap_vm *vm,
			     const struct snap_take_opts *opts)
{
	struct life *l = job->life;
	if (dirty_base(l->dirty) == 0) {
		TRY(bring_in(job));
	}
	struct err *e = snap_take(l->store, vm, opts, &job->result);
	if (e != NULL && (err_class(e) == ERR_CORRUPT || err_class(e) == ERR_NOTFOUND) &&
	    dirty_base(l->dirty) != 0) {
		/* The guest's memory is sound: what it starts from need not be. */
		LOG_W("%s; all memory is stored again", err_msg(e));
		err_drop(e, "tried again without the base");
		dirty_set_base(l->dirty, 0);
		TRY(bring_in(job));
		e = snap_take(l->store, vm, opts, &job->result);
	}
	if (e == NULL) {
		dirty_set_base(l->dirty, job->result.snap_id);
	}
	return e;
}

static struct snap_retain automatic_ones(const struct take_job *job)
{
	struct snap_retain r = { .prefix = CHECKPOINT_TAG_PREFIX, .policy = job->keep };
	memcpy(r.vm, job->life->config.uuid, sizeof(r.vm));
	memcpy(r.family, job->life->config.family, sizeof(r.family));
	return r;
}

/*
 * An automatic take on a full disk makes room by the oldest automatic snapshots, one by one, and
 * afterwards removes those that are not to be kept. A snapshot that somebody asked for never goes.
 */
static struct err *take_with_room(struct take_job *job, const struct snap_vm *vm,
				  const struct snap_take_opts *opts)
{
	struct store *store = job->life->store;
	const struct snap_retain r = automatic_ones(job);
	size_t removed = 1;
	struct err *e = take_once(job, vm, opts);
	while (job->automatic && e != NULL && err_class(e) == ERR_NOSPACE && removed > 0) {
		struct err *less = snap_retain_less(store, &r, &removed);
		if (less != NULL) {
			err_drop(less, "the disk is full: that is what is told");
			break;
		}
		if (removed > 0) {
			LOG_W("%s: the oldest automatic snapshot was removed for room", err_msg(e));
			err_free(e);
			e = take_once(job, vm, opts);
		}
	}
	if (e == NULL && job->automatic) {
		struct err *less = snap_retain(store, &r, &removed);
		if (less != NULL) { /* the take itself is good */
			log_err(err_wrap(less, "removing automatic snapshots"));
		}
	}
	return e;
}

static struct err *job_take(struct take_job *job)
{
	struct life *l = job->life;
	warn_disks(l);
	if (l->store == NULL) {
		TRY(store_open(l->store_dir, STORE_CREATE, &l->store));
	}
	SCOPE(freep) char *text = NULL;
	TRY(config_text(&l->config, &text));
	struct snap_file files[2];
	size_t nfiles = 0;
	name_file(l, &files[nfiles++], "kernel", l->kernel.n);
	if (l->config.has_initrd) {
		name_file(l, &files[nfiles++], "initrd", l->initrd.n);
	}
	for (size_t i = 0; i < nfiles; i++) {
		if (files[i].fd >= 0) {
			TRY(err_wrap(io_size(files[i].fd, &files[i].len_bytes), "%s",
				     files[i].name));
		}
	}
	struct snap_vm vm = {
		.name = l->config.name,
		.gmem = l->gmem,
		.ops = job->from == LIFE_RUNNING ? &job_running_ops : &job_ops,
		.self = job,
		.dirty = &dirty_ops,
		.dirty_self = l->dirty,
		.partial = l->pager != NULL,
		.config = { text, strlen(text) },
		.files = files,
		.nfiles = nfiles,
		.parent = l->parent,
	};
	memcpy(vm.uuid, l->config.uuid, sizeof(vm.uuid));
	memcpy(vm.family, l->config.family, sizeof(vm.family));
	vm.parts = machine_parts(l->machine, &vm.nparts);
	const struct snap_take_opts opts = {
		.tag = job->tag,
		.progress = { .fn = job_progress, .arg = job },
		.cancel = &job->cancel,
		.max_pause_us = job->max_pause_us,
	};
	return take_with_room(job, &vm, &opts);
}

static void job_free(struct take_job *job);
static void begin_next(struct life *l);

static void job_done(void *arg)
{
	struct take_job *job = arg;
	struct life *l = job->life;
	if (l == NULL) { /* job_wait has told its end already */
		job_free(job);
		return;
	}
	pthread_join(job->thread, NULL);
	l->job = NULL;
	if (job->e == NULL) {
		l->parent = job->result.snap_id;
		if (job->from != LIFE_RUNNING) {
			job->result.pause_us = 0; /* nobody was paused by it */
		}
	}
	tell_take(l, job);
	l->ran = l->ran || job->e != NULL;
	struct err *e = MOVE(job->e);
	job->done(job->arg, e, e == NULL ? &job->result : NULL);
	job_free(job);
	if (l->stopping) {
		begin_next(l); /* tells who waits that there will be none */
		end_vm(l, VM_END_STOPPED, NULL);
	} else if (l->event_waits) {
		l->event_waits = false;
		SCOPE(freep) char *report = MOVE(l->event_report);
		act_on_event(l, l->event, report);
	}
	begin_next(l);
}

static void *job_thread(void *arg)
{
	struct take_job *job = arg;
	pthread_setname_np(pthread_self(), "take");
	job->e = jail_thread(JAIL_JOB);
	if (job->e == NULL) {
		job->e = job_take(job);
	}
	loop_post(job->life->loop, job_done, job);
	return NULL;
}

static struct err *check_may_take(const struct life *l)
{
	ENSURE(l->fsm.state == LIFE_RUNNING || l->fsm.state == LIFE_VCPUS ||
		       l->fsm.state == LIFE_SUSPENDED,
	       ERR_NOT_NOW, "'%s' is %s", l->config.name, life_state_names[l->fsm.state]);
	uint64_t first = 0;
	unsigned n = extmem_count(l->extmem, &first);
	ENSURE(n == 0, ERR_NOT_NOW,
	       "'%s' has %u region%s of clients' memory (the first at 0x%llx), which no snapshot "
	       "can "
	       "bring back: unregister %s first (UnregisterMemory, 'torpor memory rm')",
	       l->config.name, n, n == 1 ? "" : "s", (unsigned long long)first,
	       n == 1 ? "it" : "them");
	return NULL;
}

/* A job that has not begun. */
static struct err *job_new(struct life *l, const char *tag, life_take_done_fn *done, void *arg,
			   struct take_job **ret_job)
{
	struct take_job *job = calloc(1, sizeof(*job));
	ENSURE(job != NULL, ERR_SYS, "out of memory");
	job->life = l;
	job->done = done;
	job->arg = arg;
	snprintf(job->tag, sizeof(job->tag), "%s", tag != NULL ? tag : "");
	lock_init(&job->lock, RANK_QUEUE);
	*ret_job = job;
	return NULL;
}

static void job_free(struct take_job *job)
{
	lock_done(&job->lock);
	free(job);
}

/* The job is l->job from here on; on failure it is as before. */
static struct err *job_begin(struct take_job *job)
{
	struct life *l = job->life;
	TRY(check_may_take(l));
	job->from = l->fsm.state;
	l->job = job;
	l->ran = job->from == LIFE_RUNNING; /* it goes on behind the freeze */
	int rc = pthread_create(&job->thread, NULL, job_thread, job);
	if (rc != 0) {
		l->job = NULL;
		return ERR_SYSNO(rc, "starting the thread of the snapshot");
	}
	tell(l, &(struct life_news){ .kind = NEWS_TAKE_BEGUN, .tag = job->tag });
	return NULL;
}

/* The explicit take that waited for the automatic one to give way. */
static void begin_next(struct life *l)
{
	struct take_job *job = MOVE(l->next);
	if (job == NULL) {
		return;
	}
	struct err *e =
		l->stopping ? ERR(ERR_CANCELLED, "'%s' ends", l->config.name) : job_begin(job);
	if (e != NULL) {
		job->done(job->arg, e, NULL);
		job_free(job);
	}
}

struct err *life_take(struct life *l, const char *tag, uint64_t max_pause_us,
		      life_take_done_fn *done, void *arg)
{
	bool waits = l->job != NULL && l->job->automatic && l->next == NULL && !l->stopping;
	ENSURE(l->job == NULL || waits, ERR_NOT_NOW, "a snapshot of '%s' is being taken already",
	       l->config.name);
	TRY(check_may_take(l));
	if (tag != NULL && tag[0] != '\0') {
		TRY(config_check_tag(tag));
	}
	struct take_job *job = NULL;
	TRY(job_new(l, tag, done, arg, &job));
	job->max_pause_us = max_pause_us;
	if (waits) {
		l->next = job;
		__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
		return NULL;
	}
	struct err *e = job_begin(job);
	if (e != NULL) {
		job_free(job);
	}
	return e;
}

/* ---- automatic takes ---- */

static struct err *auto_take(void *self, const char *tag, const struct prune_policy *keep,
			     checkpoint_done_fn *done, void *arg)
{
	struct life *l = self;
	ENSURE(l->job == NULL, ERR_NOT_NOW, "a snapshot is being taken already");
	struct take_job *job = NULL;
	TRY(job_new(l, tag, done, arg, &job));
	job->automatic = true;
	job->keep = *keep;
	job->max_pause_us = SNAP_MAX_PAUSE_US;
	struct err *e = job_begin(job);
	if (e != NULL) {
		job_free(job);
	}
	return e;
}

static bool auto_ran(void *self)
{
	const struct life *l = self;
	return l->ran || l->fsm.state == LIFE_RUNNING;
}

static const struct checkpoint_ops auto_ops = { .take = auto_take, .ran = auto_ran };

struct err *life_set_checkpoint(struct life *l, const struct checkpoint_policy *policy)
{
	return checkpoint_set(l->checkpoint, policy);
}

struct err *life_take_cancel(struct life *l)
{
	ENSURE(l->job != NULL, ERR_NOT_NOW, "no snapshot of '%s' is being taken", l->config.name);
	__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
	return NULL;
}

/* For life_free: a take under way is given up, and its end told before life is gone. */
static void job_wait(struct life *l)
{
	struct take_job *job = l->job;
	if (job == NULL) {
		return;
	}
	__atomic_store_n(&job->cancel, true, __ATOMIC_RELAXED);
	pthread_join(job->thread, NULL);
	l->job = NULL;
	tell_take(l, job);
	struct err *e = MOVE(job->e);
	job->done(job->arg, e, e == NULL ? &job->result : NULL);
	/* job_done is in the loop's queue by now: it frees the job, if the loop runs once more. */
	job->life = NULL;
	l->stopping = true;
	begin_next(l);
}

bool life_take_progress(struct life *l, char *ret_step, size_t step_len, uint64_t *ret_done,
			uint64_t *ret_total)
{
	struct take_job *job = l->job;
	if (job == NULL) {
		return false;
	}
	LOCK_SCOPE(&job->lock);
	snprintf(ret_step, step_len, "%s", job->step);
	*ret_done = job->n_done;
	*ret_total = job->n_total;
	return true;
}

/* ---- looking at it ---- */

void life_status(struct life *l, struct life_status *ret)
{
	*ret = (struct life_status){
		.state = life_state_names[l->fsm.state],
		.taking = l->job != NULL,
		.resets = l->resets,
		.mem_bytes = l->config.mem_bytes,
		.ncpus = l->config.ncpus,
	};
	if (l->machine != NULL) {
		ret->suspended_ns = kvm_state_clock_stopped_ns(machine_kvm_state(l->machine));
	}
	if (l->pager != NULL) {
		ret->lazy = true;
		pager_status(l->pager, &ret->pages);
	}
	checkpoint_status(l->checkpoint, &ret->checkpoint);
	err_drop(gmem_allocated(l->gmem, &ret->mem_allocated), "shown as 0 then");
}

const struct config *life_config(const struct life *l)
{
	return &l->config;
}

const char *life_store_dir(const struct life *l)
{
	return l->store_dir;
}

struct device *life_device(struct life *l, const char *name)
{
	return l->machine != NULL ? machine_device(l->machine, name) : NULL;
}

struct err *life_vcpu_tid(struct life *l, unsigned i, int *ret_tid)
{
	ENSURE(l->machine != NULL, ERR_NOT_NOW, "'%s' has ended", l->config.name);
	ENSURE(i < machine_nvcpus(l->machine), ERR_USAGE, "there is no vCPU %u", i);
	*ret_tid = machine_vcpu_tid(l->machine, i);
	return NULL;
}

/* ---- beside its life: vCPU threads, memory of clients ---- */

static struct err *need_machine(const struct life *l)
{
	ENSURE(l->machine != NULL && l->fsm.state != LIFE_ENDED, ERR_NOT_NOW, "'%s' has ended",
	       l->config.name);
	return NULL;
}

struct err *life_make_rt(struct life *l)
{
	TRY(need_machine(l));
	TRY(machine_make_rt(l->machine));
	l->rt = true;
	return NULL;
}

struct err *life_throttle(struct life *l, uint64_t vcpu, uint64_t us)
{
	TRY(need_machine(l));
	ENSURE(vcpu < machine_nvcpus(l->machine), ERR_USAGE,
	       "Throttle: there is no vCPU %llu: use 0 to %u", (unsigned long long)vcpu,
	       machine_nvcpus(l->machine) - 1);
	ENSURE(us <= VCPU_THROTTLE_MAX_US, ERR_USAGE, "Throttle: %llu us is too long: at most %u",
	       (unsigned long long)us, VCPU_THROTTLE_MAX_US);
	machine_throttle(l->machine, (unsigned)vcpu, us);
	return NULL;
}

struct err *life_vm_fd(struct life *l, struct fd *ret_fd)
{
	TRY(need_machine(l));
	int fd = fcntl(kvm_vm_fd(machine_vm(l->machine)), F_DUPFD_CLOEXEC, 0);
	if (fd < 0) {
		return ERR_ERRNO("GetVmDescriptor");
	}
	ret_fd->n = fd;
	return NULL;
}

/* Not during a take: its dirty log and its record of the memory are about a fixed layout. */
static struct err *may_change_memory(const struct life *l)
{
	TRY(need_machine(l));
	ENSURE(l->job == NULL, ERR_NOT_NOW,
	       "'%s' is being snapshotted: try again when that is done", l->config.name);
	return NULL;
}

struct err *life_memory_add(struct life *l, int fd, uint64_t offset, uint64_t start, uint64_t end)
{
	TRY(may_change_memory(l));
	return extmem_add(l->extmem, machine_vm(l->machine), fd, offset, start, end);
}

struct err *life_memory_remove(struct life *l, uint64_t start)
{
	TRY(may_change_memory(l));
	return extmem_remove(l->extmem, machine_vm(l->machine), start);
}
