/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of one VM: its states, its machine, its end. See life.h for who calls what on which
 * thread; takes are in life_take.c.
 *
 * Facts that hold per state (L1..):
 *  L1  built:           vCPU threads may not exist yet; all parked; the clock is held.
 *  L2  running:         vCPUs run, devices get their callbacks, the clock is not held.
 *  L3  vcpus-suspended: vCPUs parked, devices awake, the clock goes on (as SuspendVcpus says).
 *  L4  suspended:       vCPUs parked, devices gated, the clock held since right after the park.
 *  L5  ended:           vCPUs parked for good; only status and stop are answered.
 *  L6  A take changes none of these: its freeze parks what runs, its thaw undoes just that. While
 *      one is under way no other event is taken but END, which cancels it first; what the guest
 *      asks for meanwhile waits until it is done. Who must not be refused because of an automatic
 *      one waits until it has given way (life_give_way).
 */
#include <errno.h>
#include <fcntl.h>
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
#include "core/life_internal.h"
#include "core/machine.h"
#include "core/vcpu.h"
#include "devices/serial_link.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"

enum {
	STUCK_PARK_MS = 200, /* to find out whether it can be parked while it waits */
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

const char *const life_state_names[LIFE__STATES] = {
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

void life_tell(const struct life *l, const struct life_news *news)
{
	if (l->on_news != NULL) {
		l->on_news(l->on_news_arg, news);
	}
}

/* Every step of the machine goes through here, so that the watcher hears of each change. */
struct err *life_move(struct life *l, enum life_event ev)
{
	unsigned from = l->fsm.state;
	struct err *e = fsm_step(&l->fsm, ev, l, NULL);
	l->ran = l->ran || l->fsm.state == LIFE_RUNNING;
	if (l->fsm.state != from) {
		life_tell(l, &(struct life_news){ .kind = NEWS_STATE,
						  .from = life_state_names[from],
						  .to = life_state_names[l->fsm.state] });
	}
	return e;
}

/* ---- build ---- */

static void on_balloon(void *arg)
{
	life_tell(arg, &(struct life_news){ .kind = NEWS_BALLOON });
}

static void on_s2idle(void *arg)
{
	life_idle_changed(arg);
}

static void on_needs_reset(void *arg, const char *id, const char *why)
{
	life_tell(arg, &(struct life_news){ .kind = NEWS_NEEDS_RESET, .device = id, .why = why });
}

static void on_slot(void *arg)
{
	life_slots_look(arg);
}

static struct err *give_back(void *arg, gpa_t gpa, uint64_t len_bytes)
{
	const struct life *l = arg;
	if (l->pager != NULL) {
		pager_drop(l->pager, gpa, len_bytes);
	}
	return swap_give_back(l->swap, gpa, len_bytes);
}

struct err *life_build_machine(struct life *l, bool from_image)
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
		.on_balloon = on_balloon,
		.give_back = give_back,
		.on_slot = on_slot,
		.on_needs_reset = on_needs_reset,
		.on_s2idle = on_s2idle,
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
void life_on_stuck(struct life *l, const char *text)
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
		life_wset_store(l); /* nobody waits for anything any more */
		break;
	case PAGER_STUCK:
		life_on_stuck(l, text);
		break;
	case PAGER_LOST:
		if (asprintf(&report, "torpor: %s\n", text) < 0) {
			report = NULL;
		}
		on_machine_event(l, MACHINE_CRASH, report);
		break;
	}
}

/*
 * On the fault thread: a page that the restore itself waits for, in a commit, cannot be had.
 * Nothing of the guest has run, and nobody can be told but by the end of the process.
 */
static void on_unattended(void *arg, const char *text)
{
	(void)arg;
	LOG_E("%s: the guest is not started", text);
	_exit(VM_END_ERROR);
}

/* The server runs from now on: KVM may touch memory. Without a server all is read at once. */
static struct err *start_pager(struct life *l, struct fd *uffd)
{
	struct pager_opts opts = {
		.loop = l->loop,
		.gmem = l->gmem,
		.on_event = on_pages,
		.unattended = on_unattended,
		.arg = l,
	};
	TRY(snap_image_pages(l->image, &opts.source));
	snap_image_wset(l->image, &opts.first);
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
		.placed = l->hold.n >= 0,
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
	SCOPE(fd_close) struct fd swap_uffd = { opts->swap_uffd };
	SCOPE(life_freep) struct life *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	l->loop = loop;
	l->kvm = FD_NONE;
	l->hold = opts->shared != NULL ? fd_move(&opts->shared->hold) : FD_NONE;
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
	for (unsigned i = 0; i < l->ends.n; i++) {
		struct host_end *end = &l->ends.e[i];
		const struct config_dev *d = config_dev_find(&l->config.devs, end->id);
		if (d != NULL && d->kind == CONFIG_CONSOLE) {
			TRY(serial_link_new(end->in, end->out, end->listen, &end->link));
		}
	}
	TRY(kvm_open(&l->kvm));
	TRY(opts->shared != NULL
		    ? gmem_new_clone(l->config.mem_bytes, &opts->shared->memory, &l->gmem)
		    : gmem_new(l->config.mem_bytes, &l->gmem));
	TRY(extmem_new(&l->extmem));
	TRY(dirty_new(l->gmem, &l->dirty));
	TRY(life_swap_new(l, &swap_uffd, opts->swap_why_not));
	TRY(life_build_machine(l, l->image != NULL));
	TRY(l->image != NULL ? load_image(l, opts, &uffd) : load_kernel(l));
	TRY(life_idle_begin(l));
	TRY(checkpoint_new(loop, &life_checkpoint_ops, l, &l->checkpoint));
	TRY(checkpoint_set(l->checkpoint, &opts->checkpoint));
	TRY(life_watchdog_new(l, opts->watchdog_ns));
	*ret_life = MOVE(l);
	return NULL;
}

struct err *life_start_as(struct life *l, enum life_event ev)
{
	TRY(machine_start(l->machine));
	if (l->rt) { /* a reset made new threads */
		TRY(machine_make_rt(l->machine));
	}
	TRY(life_move(l, ev));
	life_wake(l);       /* it may be a snapshot's */
	life_slots_look(l); /* given up right before a take */
	return NULL;
}

struct err *life_start(struct life *l)
{
	TRY(life_disks_settle(l));
	if (l->pager != NULL) {
		pager_attended(l->pager);
	}
	TRY(life_start_as(l, l->start_paused ? LIFE_EV_START_PAUSED : LIFE_EV_START));
	if (l->pager != NULL) {
		TRY(life_wset_begin(l));
	}
	return l->pager != NULL && !l->no_fill ? pager_fill(l->pager) : NULL;
}

/* Keeps a life that cannot be freed from looking like a leak. Written once, at the end. */
static struct life *volatile abandoned;

void life_free(struct life *l)
{
	if (l == NULL) {
		return;
	}
	life_watchdog_free(l);
	life_take_wait(l);
	life_idle_end(l);
	life_slots_end(l);
	life_wset_end(l);
	checkpoint_free(l->checkpoint);
	if (l->machine != NULL && !machine_stop(l->machine, END_MS)) {
		/* What waits for a page must not get a zero one, and the process ends soon. */
		abandoned = l;
		return;
	}
	machine_free(l->machine);
	extmem_free(l->extmem);
	swap_free(l->swap); /* it may be waiting for the pager */
	pager_free(l->pager);
	serial_link_free(l->serial);
	for (unsigned i = 0; i < l->ends.n; i++) {
		serial_link_free(l->ends.e[i].link);
	}
	life_disks_end(l);
	host_ends_done(&l->ends);
	dirty_free(l->dirty);
	gmem_free(l->gmem);
	snap_image_free(l->image);
	store_close(l->store);
	config_done(&l->config);
	fd_close(&l->kernel);
	fd_close(&l->initrd);
	fd_close(&l->kvm);
	fd_close(&l->hold);
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

void life_end(struct life *l, enum vm_end end, const char *report)
{
	if (l->fsm.state == LIFE_ENDED) {
		return;
	}
	l->guest_ended = end == VM_END_POWEROFF || end == VM_END_RESET ||
			 (end >= VM_END_EXIT && end < VM_END_STOPPED);
	struct err *e = life_move(l, LIFE_EV_END);
	if (e != NULL) {
		log_err(e);
	}
	life_idle_end(l);
	if (l->on_end != NULL) {
		l->on_end(l->on_end_arg, end, report);
	}
}

enum life_event life_same_state(const struct life *l)
{
	return l->fsm.state == LIFE_SUSPENDED ? LIFE_EV_START_PAUSED
	       : l->fsm.state == LIFE_VCPUS   ? LIFE_EV_START_VCPUS
					      : LIFE_EV_START;
}

/*
 * Rebuilds the machine in place: name, socket, store and lineage stay, and who was suspended before
 * the reset was heard of stays so.
 */
static struct err *reset_vm(struct life *l)
{
	enum life_event ev = life_same_state(l);
	TRY(life_move(l, LIFE_EV_RESET));
	struct device *balloon = machine_device(l->machine, "virtio_balloon");
	const uint64_t target = balloon != NULL ? virtio_balloon_look(balloon).target_bytes : 0;
	ENSURE(machine_stop(l->machine, END_MS), ERR_NOT_NOW,
	       "a vCPU waits for a page of its memory, which does not come");
	dirty_detach(l->dirty);
	life_slots_reset(l);
	machine_free(MOVE(l->machine));
	life_wset_store(l);
	swap_reset(l->swap);
	pager_free(MOVE(l->pager)); /* before the clearing: it would place the snapshot's pages */
	TRY(gmem_clear(l->gmem));
	TRY(life_build_machine(l, false));
	if (balloon != NULL) { /* what it was asked to be is the host's wish, and stays */
		virtio_balloon_target(machine_device(l->machine, "virtio_balloon"), target);
	}
	TRY(load_kernel(l));
	l->resets++;
	return life_start_as(l, ev);
}

void life_act(struct life *l, enum machine_event ev, const char *report)
{
	struct err *e;
	if (l->fsm.state == LIFE_ENDED) {
		return; /* two ends met: the first counts */
	}
	switch (ev) {
	case MACHINE_POWEROFF:
		life_end(l, VM_END_POWEROFF, NULL);
		break;
	case MACHINE_PANIC:
		life_tell(l, &(struct life_news){ .kind = NEWS_PANIC });
		life_end(l, VM_END_PANIC, NULL);
		break;
	case MACHINE_CRASH:
		life_end(l, VM_END_CRASH, report);
		break;
	case MACHINE_RESET:
		if (l->config.no_reboot) {
			life_end(l, VM_END_RESET, NULL);
			break;
		}
		e = reset_vm(l);
		if (e != NULL) {
			log_err(err_wrap(e, "reset of '%s'", l->config.name));
			life_end(l, VM_END_ERROR, NULL);
		}
		break;
	default:
		life_end(l, (enum vm_end)(VM_END_EXIT + (ev - MACHINE_EXIT)), NULL);
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
	life_act(l, ev, text);
}

/* ---- suspend, resume, stop ---- */

static struct err *step(struct life *l, enum life_event ev)
{
	ENSURE(l->job == NULL || ev == LIFE_EV_END, ERR_NOT_NOW,
	       "'%s' is being snapshotted: try again when that is done", l->config.name);
	return life_move(l, ev);
}

/* A suspend that failed, or a resume: a guest that sleeps is woken if the VM runs. */
static struct err *step_awake(struct life *l, enum life_event ev)
{
	struct err *e = step(l, ev);
	life_wake(l);
	return e;
}

struct err *life_suspend_vcpus(struct life *l)
{
	return step_awake(l, LIFE_EV_SUSPEND_VCPUS);
}

static void retry_pages(struct life *l);

struct err *life_resume_vcpus(struct life *l)
{
	retry_pages(l);
	return step_awake(l, LIFE_EV_RESUME_VCPUS);
}

struct err *life_suspend(struct life *l)
{
	return step_awake(l, LIFE_EV_SUSPEND);
}

/* What a failing disk has stopped is tried again. */
static void retry_pages(struct life *l)
{
	if (l->machine == NULL) {
		return;
	}
	swap_retry(l->swap);
	if (l->pager != NULL) {
		pager_retry(l->pager);
	}
	machine_park_limit(l->machine, 0);
}

struct err *life_resume(struct life *l)
{
	retry_pages(l);
	return step_awake(l, LIFE_EV_RESUME);
}

void life_stop(struct life *l)
{
	if (l->job != NULL) {
		/* The end of the cancelled take goes on from here. */
		__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
		l->stopping = true;
		return;
	}
	life_end(l, VM_END_STOPPED, NULL);
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
	if (l->config.s2idle) {
		ret->s2idle = life_asleep(l) ? "asleep" : l->idle.ignored ? "ignored" : "awake";
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

/* Not during a take: what it records is about a fixed layout. */
static struct err *may_change(const struct life *l)
{
	TRY(need_machine(l));
	ENSURE(l->job == NULL, ERR_NOT_NOW,
	       "'%s' is being snapshotted: try again when that is done", l->config.name);
	return NULL;
}

/* Not while the devices sleep either: the guest is told by an interrupt. */
struct err *life_disk_resize(struct life *l, uint64_t index, uint64_t bytes)
{
	TRY(may_change(l));
	struct device *dev = machine_device_nth(l->machine, "virtio_blk", index);
	if (dev == NULL) {
		return err_set_errno(ERR(ERR_NOT_NOW,
					 "DiskCommand is not available in this VM: it has no disk "
					 "%llu",
					 (unsigned long long)index),
				     ENODEV);
	}
	ENSURE(l->fsm.state != LIFE_SUSPENDED, ERR_NOT_NOW,
	       "'%s' is suspended, its devices too: resume it with 'torpor resume' (ResumeVm)",
	       l->config.name);
	return virtio_blk_resize(dev, bytes);
}

struct err *life_memory_add(struct life *l, int fd, uint64_t offset, uint64_t start, uint64_t end)
{
	TRY(may_change(l));
	return extmem_add(l->extmem, machine_vm(l->machine), fd, offset, start, end);
}

struct err *life_memory_remove(struct life *l, uint64_t start)
{
	TRY(may_change(l));
	return extmem_remove(l->extmem, machine_vm(l->machine), start);
}
