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
#include "core/jail.h"
#include "core/life_fsm.h"
#include "core/machine.h"
#include "devices/serial_link.h"

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
	struct machine *machine;
	struct snap_host host; /* facts, as of the machine's build */
	struct fd kernel;
	struct fd initrd;
	struct snap_image
		*image;  /* what it was restored from; its lease keeps the files readable */
	uint64_t parent; /* snapshot this VM descends from */
	struct serial_link *serial; /* stays over resets: clients are not cut off */
	bool start_paused;
	struct take_job *job;
	bool event_waits; /* a guest event came during a take */
	enum machine_event event;
	char *event_report;
	uint64_t resets;
	void (*on_end)(void *arg, enum vm_end end, const char *report);
	void *on_end_arg;
	bool stopping;
};

static void on_machine_event(void *arg, enum machine_event ev, char *report);

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
	/* Before the gate opens: the release reads and writes LAPICs, which no interrupt may change. */
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
	TRY(machine_park_vcpus(l->machine));
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

/* ---- build ---- */

static struct err *build_machine(struct life *l)
{
	const struct machine_opts o = {
		.kvm = l->kvm.n,
		.loop = l->loop,
		.config = &l->config,
		.gmem = l->gmem,
		.serial = l->serial,
		.on_event = on_machine_event,
		.arg = l,
	};
	TRY(machine_new(&o, &l->machine));
	TRY(machine_host_facts(l->machine, &l->host));
	snap_set_host(&l->host);
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

static struct err *load_image(struct life *l, const struct life_opts *opts)
{
	TRY(snap_image_compat(l->image, &l->host));
	size_t n;
	struct snap_part *const *parts = machine_parts(l->machine, &n);
	kvm_state_set_clock_policy(machine_kvm_state(l->machine), opts->clock);
	const struct snap_load_opts lo = { .progress = opts->progress };
	TRY(snap_image_load(l->image, l->gmem, parts, n, &lo));
	const struct snap_info *info = snap_image_info(l->image);
	l->parent = info->id;
	return kvm_state_clock_hold(machine_kvm_state(l->machine));
}

struct err *life_new(struct loop *loop, const struct life_opts *opts, struct life **ret_life)
{
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
	l->fsm = (struct fsm){ .desc = &life_fsm_desc, .state = LIFE_BUILT };
	l->start_paused = opts->start_paused;
	l->store_dir = strdup(opts->store_dir);
	ENSURE(l->store_dir != NULL, ERR_SYS, "out of memory");
	TRY(serial_link_new(opts->serial_in, opts->serial_out, opts->serial_listen, &l->serial));
	TRY(kvm_open(&l->kvm));
	TRY(gmem_new(l->config.mem_bytes, &l->gmem));
	TRY(build_machine(l));
	TRY(l->image != NULL ? load_image(l, opts) : load_kernel(l));
	*ret_life = MOVE(l);
	return NULL;
}

/* From built to a state: with ev START, START_VCPUS or START_PAUSED. */
static struct err *start(struct life *l, enum life_event ev)
{
	TRY(machine_start(l->machine));
	return fsm_step(&l->fsm, ev, l, NULL);
}

struct err *life_start(struct life *l)
{
	return start(l, l->start_paused ? LIFE_EV_START_PAUSED : LIFE_EV_START);
}

static void job_wait(struct life *l);

void life_free(struct life *l)
{
	if (l == NULL) {
		return;
	}
	job_wait(l);
	machine_free(l->machine);
	serial_link_free(l->serial);
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
	struct err *e = fsm_step(&l->fsm, LIFE_EV_END, l, NULL);
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
	TRY(fsm_step(&l->fsm, LIFE_EV_RESET, l, NULL));
	machine_free(MOVE(l->machine));
	TRY(gmem_clear(l->gmem));
	TRY(build_machine(l));
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
	return fsm_step(&l->fsm, ev, l, NULL);
}

struct err *life_suspend_vcpus(struct life *l)
{
	return step(l, LIFE_EV_SUSPEND_VCPUS);
}

struct err *life_resume_vcpus(struct life *l)
{
	return step(l, LIFE_EV_RESUME_VCPUS);
}

struct err *life_suspend(struct life *l)
{
	return step(l, LIFE_EV_SUSPEND);
}

struct err *life_resume(struct life *l)
{
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

static struct err *job_take(struct take_job *job)
{
	struct life *l = job->life;
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
		.ops = &job_ops,
		.self = job,
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
	};
	return snap_take(l->store, &vm, &opts, &job->result);
}

static void job_done(void *arg)
{
	struct take_job *job = arg;
	struct life *l = job->life;
	if (l == NULL) { /* job_wait has told its end already */
		lock_done(&job->lock);
		free(job);
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
	struct err *e = MOVE(job->e);
	job->done(job->arg, e, e == NULL ? &job->result : NULL);
	lock_done(&job->lock);
	free(job);
	if (l->stopping) {
		end_vm(l, VM_END_STOPPED, NULL);
	} else if (l->event_waits) {
		l->event_waits = false;
		SCOPE(freep) char *report = MOVE(l->event_report);
		act_on_event(l, l->event, report);
	}
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

struct err *life_take(struct life *l, const char *tag, life_take_done_fn *done, void *arg)
{
	ENSURE(l->job == NULL, ERR_NOT_NOW, "a snapshot of '%s' is being taken already",
	       l->config.name);
	ENSURE(l->fsm.state == LIFE_RUNNING || l->fsm.state == LIFE_VCPUS ||
		       l->fsm.state == LIFE_SUSPENDED,
	       ERR_NOT_NOW, "'%s' is %s", l->config.name, life_state_names[l->fsm.state]);
	if (tag != NULL && tag[0] != '\0') {
		TRY(config_check_tag(tag));
	}
	SCOPE(freep) struct take_job *job = calloc(1, sizeof(*job));
	ENSURE(job != NULL, ERR_SYS, "out of memory");
	job->life = l;
	job->done = done;
	job->arg = arg;
	job->from = l->fsm.state;
	snprintf(job->tag, sizeof(job->tag), "%s", tag != NULL ? tag : "");
	lock_init(&job->lock, RANK_QUEUE);
	l->job = job;
	int rc = pthread_create(&job->thread, NULL, job_thread, job);
	if (rc != 0) {
		l->job = NULL;
		return ERR_SYSNO(rc, "starting the thread of the snapshot");
	}
	job = NULL;
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
	struct err *e = MOVE(job->e);
	job->done(job->arg, e, e == NULL ? &job->result : NULL);
	/* job_done is in the loop's queue by now: it frees the job, if the loop runs once more. */
	job->life = NULL;
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

struct err *life_vcpu_tid(struct life *l, unsigned i, int *ret_tid)
{
	ENSURE(l->machine != NULL, ERR_NOT_NOW, "'%s' has ended", l->config.name);
	ENSURE(i < machine_nvcpus(l->machine), ERR_USAGE, "there is no vCPU %u", i);
	*ret_tid = machine_vcpu_tid(l->machine, i);
	return NULL;
}
