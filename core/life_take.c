/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots of a living VM, asked for or automatic. See life.h; main loop, but what a job's thread
 * (job_thread) and the last vCPU to park (job_stopped) do.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/jail.h"
#include "core/life_internal.h"
#include "core/vcpu.h"

enum { TIDY_PART = 20 }; /* compacting pauses so many times as long as it lasts */

/* Undoes what job_freeze did, in reverse; nothing for a suspended VM. */
void life_job_thaw(struct take_job *job)
{
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

static void job_thaw(void *self)
{
	struct take_job *job = self;
	if (!job->stay) {
		life_job_thaw(job);
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
	job->froze_ns = clock_mono_ns();
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
		life_job_thaw(job);
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
	if (!job->work(job->work_arg) || job->stay) {
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
	job->froze_ns = clock_mono_ns();
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
		if (d->kind == CONFIG_DISK && !d->read_only && !d->capture) {
			LOG_W("a snapshot of '%s' does not hold disk '%s' (capture=off): it can be "
			      "restored as long as the disk has not moved on",
			      l->config.name, d->id);
		}
	}
}

/* Only what changed since the base, or everything if the base cannot be used. */
static struct err *take_once(struct take_job *job, const struct snap_vm *vm,
			     const struct snap_take_opts *opts)
{
	struct life *l = job->life;
	if (dirty_base(l->dirty) == 0) {
		TRY(life_swap_bring_in(job));
	}
	struct err *e = snap_take(l->store, vm, opts, &job->result);
	if (e != NULL) {
		life_job_thaw(job);
	}
	if (e != NULL && (err_class(e) == ERR_CORRUPT || err_class(e) == ERR_NOTFOUND) &&
	    dirty_base(l->dirty) != 0) {
		/* The guest's memory is sound: what it starts from need not be. */
		log_line(err_class(e) == ERR_CORRUPT ? LOG_WARN : LOG_DEBUG,
			 "%s; all is stored again", err_msg(e));
		err_drop(e, "tried again without the base");
		dirty_set_base(l->dirty, 0);
		life_disks_forget_base(l);
		TRY(life_swap_bring_in(job));
		e = snap_take(l->store, vm, opts, &job->result);
	}
	if (e == NULL) {
		job->taken = true;
		dirty_set_base(l->dirty, job->result.snap_id);
	} else {
		life_job_thaw(job);
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
 * What removed snapshots leave in the store is brought together when the take is done: a little at
 * a time, at most a twentieth of the time, and given up when somebody waits for the job's end.
 */
static void tidy(struct take_job *job, const struct snap_retain *r)
{
	struct life *l = job->life;
	uint64_t begin = clock_mono_ns();
	if (!l->tidy_due || begin < l->tidy_after_ns) {
		return;
	}
	uint64_t freed = 0;
	struct err *e = snap_retain_tidy(l->store, r, &job->cancel, &freed);
	uint64_t end = clock_mono_ns();
	l->tidy_after_ns = end + (end - begin) * TIDY_PART;
	l->tidy_due = e != NULL || freed > 0;
	if (freed > 0) {
		LOG_D("the store was compacted by %llu KiB", (unsigned long long)(freed / KIB));
	}
	if (e != NULL) {
		LOG_D("not compacted: %s", err_msg(e));
		err_drop(e, "the take itself is good, and the next one tries again");
	}
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
		job->life->tidy_due = job->life->tidy_due || removed > 0;
		tidy(job, &r);
	}
	return e;
}

struct err *life_job_take(struct take_job *job)
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
	struct snap_disk disks[STORE_MAPS_MAX];
	struct snap_vm vm = {
		.name = l->config.name,
		.gmem = l->gmem,
		.ops = job->from == LIFE_RUNNING ? &job_running_ops : &job_ops,
		.self = job,
		.dirty = &dirty_ops,
		.dirty_self = l->dirty,
		/* Also while nothing is out: that may change until the base is looked for. */
		.partial = true,
		.config = { text, strlen(text) },
		.files = files,
		.nfiles = nfiles,
		.disks = disks,
		.ndisks = life_disks_list(l, disks),
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
static void tell_waiters(struct life *l);

/* To whoever asked; takes over e. */
static void answer(struct take_job *job, struct err *e)
{
	if (job->rewind != NULL) {
		life_rewind_answer(job, e);
	} else {
		job->done(job->arg, e, e == NULL ? &job->result : NULL);
	}
}

/* The safety take of a rewind is told of when it is there: whether it came to that says the rewind.
 */
static void tell_take(const struct life *l, const struct take_job *job)
{
	if (job->rewind != NULL && !job->taken) {
		return;
	}
	life_tell(l, &(struct life_news){ .kind = job->taken ? NEWS_TAKE_DONE : NEWS_TAKE_FAILED,
					  .tag = job->tag,
					  .result = job->taken ? &job->result : NULL,
					  .e = job->taken ? NULL : job->e });
}

/* Commits it, unless something else has come up: then the VM goes on as it is. */
static void finish_rewind(struct take_job *job)
{
	struct life *l = job->life;
	if (job->e == NULL && (l->event_waits || __atomic_load_n(&job->cancel, __ATOMIC_RELAXED))) {
		job->e = ERR(ERR_CANCELLED, "the rewind was cancelled");
	}
	if (job->e == NULL) {
		job->e = life_rewind_commit(job);
	} else {
		life_job_thaw(job);
	}
}

static void job_done(void *arg)
{
	struct take_job *job = arg;
	struct life *l = job->life;
	if (l == NULL) { /* life_take_wait has told its end already */
		job_free(job);
		return;
	}
	pthread_join(job->thread, NULL);
	l->job = NULL;
	if (job->taken) {
		l->parent = job->result.snap_id;
		if (job->from != LIFE_RUNNING) {
			job->result.pause_us = 0; /* nobody was paused by it */
		}
	}
	tell_take(l, job);
	l->ran = l->ran || !job->taken;
	if (job->rewind != NULL) {
		finish_rewind(job);
	}
	life_swap_unhold(job);
	bool lost = job->rewind != NULL && job->rewind->lost;
	struct err *e = MOVE(job->e);
	if (e != NULL && err_class(e) == ERR_CANCELLED && job->gives_way) {
		err_drop(e, "it is tried again");
		e = ERR(ERR_NOT_NOW, "it gave way to a request");
	}
	answer(job, e);
	job_free(job);
	if (lost) {
		life_end(l, VM_END_ERROR, NULL);
	}
	if (l->stopping) {
		tell_waiters(l);
		begin_next(l); /* tells who waits that there will be none */
		life_end(l, VM_END_STOPPED, NULL);
	} else if (l->event_waits) {
		l->event_waits = false;
		SCOPE(freep) char *report = MOVE(l->event_report);
		life_act(l, l->event, report);
	}
	life_slots_look(l);
	tell_waiters(l);
	begin_next(l);
}

static void *job_thread(void *arg)
{
	struct take_job *job = arg;
	pthread_setname_np(pthread_self(), "take");
	job->e = jail_thread(JAIL_JOB);
	if (job->e == NULL) {
		job->e = job->rewind != NULL ? life_rewind_job(job) : life_job_take(job);
	}
	loop_post(job->life->loop, job_done, job);
	return NULL;
}

struct err *life_check_may_take(const struct life *l)
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

struct err *life_job_new(struct life *l, const char *tag, void *arg, struct take_job **ret_job)
{
	struct take_job *job = calloc(1, sizeof(*job));
	ENSURE(job != NULL, ERR_SYS, "out of memory");
	job->life = l;
	job->arg = arg;
	snprintf(job->tag, sizeof(job->tag), "%s", tag != NULL ? tag : "");
	lock_init(&job->lock, RANK_QUEUE);
	*ret_job = job;
	return NULL;
}

static void job_free(struct take_job *job)
{
	life_rewind_free(job->rewind);
	lock_done(&job->lock);
	free(job);
}

/* The job is l->job from here on; on failure it is as before. */
static struct err *job_begin(struct take_job *job)
{
	struct life *l = job->life;
	TRY(life_check_may_take(l));
	job->from = l->fsm.state;
	l->job = job;
	l->ran = job->from == LIFE_RUNNING; /* it goes on behind the freeze */
	int rc = pthread_create(&job->thread, NULL, job_thread, job);
	if (rc != 0) {
		l->job = NULL;
		return ERR_SYSNO(rc, "starting the thread of the snapshot");
	}
	if (job->rewind == NULL) {
		life_tell(l, &(struct life_news){ .kind = NEWS_TAKE_BEGUN, .tag = job->tag });
	}
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
		answer(job, e);
		job_free(job);
	}
}

/* Who asked before the explicit take that may wait: both find the life as they asked for it. */
static void tell_waiters(struct life *l)
{
	struct life_waiter *w = MOVE(l->waiters);
	while (w != NULL) {
		struct life_waiter *next = w->next;
		w->fn(w->arg, l->stopping ? ERR(ERR_CANCELLED, "'%s' ends", l->config.name) : NULL);
		w = next;
	}
}

bool life_give_way(struct life *l, struct life_waiter *w)
{
	if (l->job == NULL || !l->job->automatic || l->next != NULL) {
		return false;
	}
	struct life_waiter **tail = &l->waiters;
	while (*tail != NULL) {
		tail = &(*tail)->next;
	}
	w->next = NULL;
	*tail = w;
	l->job->gives_way = true;
	__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
	return true;
}

void life_unlist(struct life_waiter **list, const struct life_waiter *w)
{
	for (; *list != NULL; list = &(*list)->next) {
		if (*list == w) {
			*list = w->next;
			break;
		}
	}
}

void life_withdraw(struct life *l, const struct life_waiter *w)
{
	life_unlist(&l->waiters, w);
	life_idle_withdraw(l, w);
}

struct err *life_job_submit(struct take_job *job)
{
	struct life *l = job->life;
	bool waits = l->job != NULL && l->job->automatic && l->next == NULL && !l->stopping;
	struct err *e = NULL;
	if (waits) {
		l->next = job;
		__atomic_store_n(&l->job->cancel, true, __ATOMIC_RELAXED);
		return NULL;
	}
	if (l->job != NULL) {
		e = ERR(ERR_NOT_NOW, "a snapshot of '%s' is being taken already", l->config.name);
	} else {
		e = job_begin(job);
	}
	if (e != NULL) {
		job_free(job);
	}
	return e;
}

struct err *life_take(struct life *l, const char *tag, uint64_t max_pause_us,
		      life_take_done_fn *done, void *arg)
{
	TRY(life_check_may_take(l));
	if (tag != NULL && tag[0] != '\0') {
		TRY(config_check_tag(tag));
	}
	struct take_job *job = NULL;
	TRY(life_job_new(l, tag, arg, &job));
	job->done = done;
	job->max_pause_us = max_pause_us;
	return life_job_submit(job);
}

/* ---- automatic takes ---- */

static struct err *auto_take(void *self, const char *tag, const struct prune_policy *keep,
			     checkpoint_done_fn *done, void *arg)
{
	struct life *l = self;
	ENSURE(l->job == NULL, ERR_NOT_NOW, "a snapshot is being taken already");
	struct take_job *job = NULL;
	TRY(life_job_new(l, tag, arg, &job));
	job->done = done;
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

const struct checkpoint_ops life_checkpoint_ops = { .take = auto_take, .ran = auto_ran };

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

bool life_job_is(const struct life *l, const void *arg)
{
	return l->job != NULL && l->job->arg == arg;
}

struct err *life_job_cancel(struct life *l, const void *arg)
{
	if (life_job_is(l, arg)) {
		return life_take_cancel(l);
	}
	ENSURE(l->next != NULL && l->next->arg == arg, ERR_NOT_NOW,
	       "it has ended already, or is not given up this way");
	struct take_job *job = MOVE(l->next);
	answer(job, ERR(ERR_CANCELLED, "it was cancelled before it began"));
	job_free(job);
	return NULL;
}

void life_take_wait(struct life *l)
{
	struct take_job *job = l->job;
	if (job == NULL) {
		return;
	}
	__atomic_store_n(&job->cancel, true, __ATOMIC_RELAXED);
	pthread_join(job->thread, NULL);
	life_swap_unhold(job);
	l->job = NULL;
	tell_take(l, job);
	if (job->rewind != NULL && job->e == NULL) {
		job->e = ERR(ERR_CANCELLED, "'%s' ends", l->config.name);
	}
	answer(job, MOVE(job->e));
	life_rewind_free(MOVE(job->rewind)); /* its images are of our store */
	/* job_done is in the loop's queue by now: it frees the job, if the loop runs once more. */
	job->life = NULL;
	l->stopping = true;
	tell_waiters(l);
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
