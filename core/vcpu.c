/* SPDX-License-Identifier: Apache-2.0 */
/* vCPU threads, run loop and rendezvous. See vcpu.h. */
#include "core/vcpu.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/lock.h"
#include "core/base/log.h"

enum {
	VCPU_STACK_BYTES = 256 * 1024,
	SETTLE_ROUNDS = 4, /* more than two only while the period is a few microseconds */
};

struct vcpu {
	struct vcpu_group *group;
	struct kvm_vcpu *kvm;
	unsigned id;
	pthread_t thread;
	bool started;       /* main thread only */
	atomic_int tid;     /* written once by the thread */
	uint64_t owed_ns;   /* [lock] of the group: time to stay out of the guest */
	atomic_bool moved;  /* set by the thread, taken by vcpu_group_look */
	atomic_bool looked; /* likewise: the thread has been out of the guest since */
};

struct vcpu_group {
	struct vcpu_group_opts opts;
	struct lock lock;          /* RANK_PARK */
	struct cond changed;       /* reasons, parked or stop changed */
	unsigned reasons;          /* [lock] */
	unsigned parked;           /* [lock] */
	unsigned requests;         /* [lock] counts how often immediate_exit was asked for */
	bool stop;                 /* [lock] */
	struct vcpu_stop *work;    /* [lock] of vcpu_group_park_and, until it is done */
	enum park_reason work_why; /* [lock] */
	bool running_threads;      /* main thread only */
	unsigned n;
	struct vcpu vcpus[];
};

static int kick_signal(void)
{
	return SIGRTMIN;
}

static void on_kick(int sig)
{
	(void)sig; /* its only job is to interrupt KVM_RUN */
}

struct err *vcpu_group_new(struct kvm_vcpu *const *vcpus, unsigned n,
			   const struct vcpu_group_opts *opts, struct vcpu_group **ret_group)
{
	struct vcpu_group *g = calloc(1, sizeof(*g) + n * sizeof(g->vcpus[0]));
	ENSURE(g != NULL, ERR_SYS, "out of memory");
	g->opts = *opts;
	g->n = n;
	g->reasons = PARK_START;
	lock_init(&g->lock, RANK_PARK);
	cond_init(&g->changed);
	for (unsigned i = 0; i < n; i++) {
		g->vcpus[i].group = g;
		g->vcpus[i].kvm = vcpus[i];
		g->vcpus[i].id = i;
	}
	*ret_group = g;
	return NULL;
}

static void set_all_immediate_exit(struct vcpu_group *g)
{
	lock_assert_held(&g->lock);
	g->requests++;
	for (unsigned i = 0; i < g->n; i++) {
		kvm_vcpu_set_immediate_exit(g->vcpus[i].kvm, true);
	}
}

/*
 * Signals every thread but the caller. A thread that is outside KVM_RUN sees immediate_exit at its
 * next entry instead (Documentation/virt/kvm/api.rst, immediate_exit).
 */
static void kick_all(struct vcpu_group *g)
{
	lock_assert_held(&g->lock);
	for (unsigned i = 0; i < g->n; i++) {
		struct vcpu *v = &g->vcpus[i];
		if (v->started && !pthread_equal(v->thread, pthread_self())) {
			pthread_kill(v->thread, kick_signal());
		}
	}
}

/* Waits out what the vCPU owes, or until there is a reason to park. */
static void throttle_here(struct vcpu *v)
{
	struct vcpu_group *g = v->group;
	lock_assert_held(&g->lock);
	while (v->owed_ns != 0 && g->reasons == 0 && !g->stop) {
		uint64_t from = clock_mono_ns();
		cond_wait_until(&g->changed, &g->lock, from + v->owed_ns);
		uint64_t took = clock_mono_ns() - from;
		v->owed_ns -= MIN(took, v->owed_ns);
	}
}

static unsigned started_count(const struct vcpu_group *g)
{
	unsigned n = 0;
	for (unsigned i = 0; i < g->n; i++) {
		n += g->vcpus[i].started ? 1 : 0;
	}
	return n;
}

/* Under the lock, which is not held while the work is done. */
static void work_if_all_parked(struct vcpu_group *g)
{
	lock_assert_held(&g->lock);
	struct vcpu_stop *w = g->work;
	if (w == NULL || w->taken || g->parked < started_count(g)) {
		return;
	}
	w->taken = true;
	lock_drop(&g->lock);
	w->parked_ns = clock_mono_ns();
	w->out_ns = w->out_ns != 0 ? w->out_ns : w->parked_ns;
	bool go = w->work(w->arg);
	lock_take(&g->lock);
	w->resumed = go;
	w->done = true;
	g->work = NULL;
	if (go) {
		g->reasons &= ~(unsigned)g->work_why;
	}
	w->resumed_ns = clock_mono_ns();
	cond_wake_all(&g->changed);
}

static bool stays_parked(const struct vcpu_group *g)
{
	return (g->reasons != 0 && !g->stop) || (g->work != NULL && g->work->taken);
}

/* out_ns: when the thread was out of the guest. */
static void wait_parked(struct vcpu *v, uint64_t out_ns)
{
	struct vcpu_group *g = v->group;
	if (g->reasons != 0 || g->stop) {
		g->parked++;
		if (g->work != NULL && (g->work->out_ns == 0 || out_ns < g->work->out_ns)) {
			g->work->out_ns = MAX(out_ns, g->work->asked_ns);
		}
		work_if_all_parked(g);
		cond_wake_all(&g->changed);
		while (stays_parked(g)) {
			cond_wait(&g->changed, &g->lock);
		}
		g->parked--;
	}
}

/* True when the thread is to end. */
static bool vcpu_park_here(struct vcpu *v, uint64_t out_ns)
{
	struct vcpu_group *g = v->group;
	LOCK_SCOPE(&g->lock);
	wait_parked(v, out_ns);
	while (v->owed_ns != 0 && !g->stop) {
		throttle_here(v);
		wait_parked(v, clock_mono_ns());
	}
	if (!g->stop) {
		kvm_vcpu_set_immediate_exit(v->kvm, false);
	}
	return g->stop;
}

static void tell_fate(struct vcpu *v, enum vcpu_fate fate)
{
	char *report = NULL;
	if (fate == VCPU_TRIPLE_FAULT || fate == VCPU_KVM_ERROR) {
		kvm_vcpu_report(v->kvm, v->group->opts.gmem, &report);
	}
	vcpu_group_park_nowait(v->group, PARK_REQUEST);
	v->group->opts.on_fate(v->group->opts.arg, v->id, fate, report);
}

static void handle_io(struct vcpu *v, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	for (uint32_t i = 0; i < run->io.count; i++) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			bus_write(v->group->opts.bus, DEV_PIO, run->io.port, data, run->io.size);
		} else {
			bus_read(v->group->opts.bus, DEV_PIO, run->io.port, data, run->io.size);
		}
		data += run->io.size;
	}
}

static void handle_mmio(struct vcpu *v, struct kvm_run *run)
{
	if (run->mmio.is_write) {
		bus_write(v->group->opts.bus, DEV_MMIO, run->mmio.phys_addr, run->mmio.data,
			  run->mmio.len);
	} else {
		bus_read(v->group->opts.bus, DEV_MMIO, run->mmio.phys_addr, run->mmio.data,
			 run->mmio.len);
	}
}

static void handle_system_event(struct vcpu *v, const struct kvm_run *run)
{
	switch (run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		tell_fate(v, VCPU_SYSTEM_OFF);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		tell_fate(v, VCPU_SYSTEM_RESET);
		break;
	case KVM_SYSTEM_EVENT_CRASH:
		tell_fate(v, VCPU_PANIC);
		break;
	default:
		tell_fate(v, VCPU_KVM_ERROR);
		break;
	}
}

static void handle_exit(struct vcpu *v, struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(v, run);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(v, run);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		tell_fate(v, VCPU_TRIPLE_FAULT);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		handle_system_event(v, run);
		break;
	default:
		tell_fate(v, VCPU_KVM_ERROR);
		break;
	}
}

/* One KVM_RUN that comes back before any guest code runs. False if a request cut it short. */
static bool pass_through(struct vcpu *v)
{
	struct vcpu_group *g = v->group;
	lock_take(&g->lock);
	unsigned before = g->requests;
	kvm_vcpu_set_immediate_exit(v->kvm, false);
	lock_drop(&g->lock);
	int sys = 0;
	enum kvm_run_result res = kvm_vcpu_run_signalled(v->kvm, kick_signal(), &sys);
	if (res == KVM_RUN_EXIT) {
		handle_exit(v, kvm_vcpu_page(v->kvm)); /* a triple fault that was on its way */
	}
	LOCK_SCOPE(&g->lock);
	kvm_vcpu_set_immediate_exit(v->kvm, true);
	return res != KVM_RUN_INTERRUPTED || g->requests == before;
}

/*
 * Makes a local timer that has expired the interrupt that it stands for, where a save finds it. A
 * periodic one is looked at until it has not expired between two looks: twice as a rule.
 */
static void settle_timer(struct vcpu *v)
{
	for (unsigned i = 0; i < SETTLE_ROUNDS && kvm_vcpu_timer_look(v->kvm, i == 0); i++) {
		while (!pass_through(v)) {
		}
		if (kvm_vcpu_timer_seen(v->kvm) == 0) {
			return; /* a one-shot: over, and delivered */
		}
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	char name[16];
	snprintf(name, sizeof(name), "vcpu%u", v->id);
	pthread_setname_np(pthread_self(), name);
	lock_take(&v->group->lock);
	atomic_store(&v->tid, (int)gettid());
	cond_wake_all(&v->group->changed);
	lock_drop(&v->group->lock);
	if (v->group->opts.thread_init != NULL) {
		struct err *e = v->group->opts.thread_init(v->group->opts.arg);
		if (e != NULL) {
			log_err(err_wrap(e, "vCPU %u", v->id));
			tell_fate(v, VCPU_KVM_ERROR);
		}
	}
	struct err *mask = kvm_vcpu_run_mask(v->kvm, kick_signal());
	if (mask != NULL) {
		log_err(err_wrap(mask, "vCPU %u", v->id));
		tell_fate(v, VCPU_KVM_ERROR);
	}
	struct kvm_run *run = kvm_vcpu_page(v->kvm);
	bool stop = vcpu_park_here(v, clock_mono_ns());
	while (!stop) {
		int sys = 0;
		uint64_t out_ns;
		switch (kvm_vcpu_run(v->kvm, &sys)) {
		case KVM_RUN_EXIT:
			atomic_store_explicit(&v->moved, true, memory_order_relaxed);
			handle_exit(v, run);
			break;
		case KVM_RUN_INTERRUPTED:
			if (run->if_flag != 0) {
				atomic_store_explicit(&v->moved, true, memory_order_relaxed);
			}
			atomic_store_explicit(&v->looked, true, memory_order_release);
			out_ns = clock_mono_ns();
			settle_timer(v);
			stop = vcpu_park_here(v, out_ns);
			break;
		case KVM_RUN_FAILED:
			LOG_E("vCPU %u: KVM_RUN failed: %s", v->id, strerrordesc_np(sys));
			tell_fate(v, VCPU_KVM_ERROR);
			stop = vcpu_park_here(v, clock_mono_ns());
			break;
		}
	}
	return NULL;
}

static struct err *start_one(struct vcpu *v)
{
	pthread_attr_t attr;
	BUG_ON(pthread_attr_init(&attr) != 0);
	BUG_ON(pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES) != 0);
	int rc = pthread_create(&v->thread, &attr, vcpu_thread, v);
	pthread_attr_destroy(&attr);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting the thread of vCPU %u", v->id);
	}
	v->started = true;
	return NULL;
}

struct err *vcpu_group_start(struct vcpu_group *g)
{
	struct sigaction sa = { .sa_handler = on_kick };
	sigemptyset(&sa.sa_mask);
	if (sigaction(kick_signal(), &sa, NULL) < 0) {
		return ERR_ERRNO("installing the kick signal");
	}
	/* vCPU threads take the kick and faults of their own; all else goes to the main loop. */
	sigset_t all;
	sigset_t old;
	sigfillset(&all);
	sigdelset(&all, kick_signal());
	sigdelset(&all, SIGSYS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	struct err *e = NULL;
	for (unsigned i = 0; i < g->n && e == NULL; i++) {
		e = start_one(&g->vcpus[i]);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	g->running_threads = true;
	LOCK_SCOPE(&g->lock);
	for (unsigned i = 0; i < g->n; i++) {
		while (g->vcpus[i].started && vcpu_group_tid(g, i) == 0) {
			cond_wait(&g->changed, &g->lock);
		}
	}
	return e;
}

bool vcpu_group_look(struct vcpu_group *g)
{
	bool moved = false;
	LOCK_SCOPE(&g->lock);
	for (unsigned i = 0; i < g->n; i++) {
		struct vcpu *v = &g->vcpus[i];
		/* Pairs with the thread's release: who has looked has told before whether it moved.
		 */
		bool looked = atomic_exchange_explicit(&v->looked, false, memory_order_acquire);
		moved |= !looked || v->owed_ns != 0;
		moved |= atomic_exchange_explicit(&v->moved, false, memory_order_relaxed);
	}
	if (g->reasons != 0 || g->stop) {
		return true;
	}
	set_all_immediate_exit(g);
	kick_all(g);
	return moved;
}

void vcpu_group_park_nowait(struct vcpu_group *g, enum park_reason why)
{
	LOCK_SCOPE(&g->lock);
	g->reasons |= why;
	set_all_immediate_exit(g);
	kick_all(g);
	cond_wake_all(&g->changed); /* those that are throttled */
}

bool vcpu_group_park(struct vcpu_group *g, enum park_reason why, uint64_t timeout_ms)
{
	uint64_t until = clock_mono_ns() + timeout_ms * 1000000;
	vcpu_group_park_nowait(g, why);
	unsigned want = started_count(g);
	LOCK_SCOPE(&g->lock);
	while (g->parked < want) {
		if (!cond_wait_until(&g->changed, &g->lock, until)) {
			return g->parked == want;
		}
	}
	return true;
}

bool vcpu_group_park_and(struct vcpu_group *g, enum park_reason why, struct vcpu_stop *stop,
			 uint64_t timeout_ms)
{
	LOCK_SCOPE(&g->lock);
	BUG_ON(g->work != NULL);
	stop->asked_ns = clock_mono_ns();
	g->work = stop;
	g->work_why = why;
	g->reasons |= why;
	set_all_immediate_exit(g);
	kick_all(g);
	cond_wake_all(&g->changed); /* those that are throttled */
	work_if_all_parked(g);      /* for another reason */
	uint64_t until = stop->asked_ns + timeout_ms * 1000000;
	while (!stop->done) {
		if (stop->taken) {
			cond_wait(&g->changed, &g->lock);
		} else if (!cond_wait_until(&g->changed, &g->lock, until) && !stop->taken) {
			g->work = NULL;
			g->reasons &= ~(unsigned)why;
			cond_wake_all(&g->changed);
			return false;
		}
	}
	return true;
}

void vcpu_group_unpark(struct vcpu_group *g, enum park_reason why)
{
	LOCK_SCOPE(&g->lock);
	g->reasons &= ~(unsigned)why;
	cond_wake_all(&g->changed);
}

bool vcpu_group_has_reason(struct vcpu_group *g, enum park_reason why)
{
	LOCK_SCOPE(&g->lock);
	return (g->reasons & why) != 0;
}

void vcpu_group_throttle(struct vcpu_group *g, unsigned i, uint64_t us)
{
	BUG_ON(i >= g->n);
	struct vcpu *v = &g->vcpus[i];
	LOCK_SCOPE(&g->lock);
	const uint64_t most = VCPU_THROTTLE_MAX_US * 1000ull;
	uint64_t more = us < VCPU_THROTTLE_MAX_US ? us * 1000u : most;
	v->owed_ns = MIN(v->owed_ns + more, most);
	g->requests++; /* what it cuts short is done again */
	kvm_vcpu_set_immediate_exit(v->kvm, true);
	if (v->started) {
		pthread_kill(v->thread, kick_signal());
	}
}

int vcpu_group_tid(const struct vcpu_group *g, unsigned i)
{
	return atomic_load(&g->vcpus[i].tid);
}

bool vcpu_group_stop(struct vcpu_group *g, uint64_t timeout_ms)
{
	if (!g->running_threads) {
		return true;
	}
	lock_take(&g->lock);
	g->stop = true;
	set_all_immediate_exit(g);
	kick_all(g);
	cond_wake_all(&g->changed);
	lock_drop(&g->lock);
	uint64_t until_ns = clock_mono_ns() + timeout_ms * 1000000;
	const struct timespec until = {
		.tv_sec = (time_t)(until_ns / 1000000000),
		.tv_nsec = (long)(until_ns % 1000000000),
	};
	bool all = true;
	for (unsigned i = 0; i < g->n; i++) {
		struct vcpu *v = &g->vcpus[i];
		if (v->started &&
		    pthread_clockjoin_np(v->thread, NULL, CLOCK_MONOTONIC, &until) == 0) {
			v->started = false;
		}
		all = all && !v->started;
	}
	g->running_threads = !all;
	return all;
}

void vcpu_group_free(struct vcpu_group *g)
{
	if (g == NULL) {
		return;
	}
	while (!vcpu_group_stop(g, 60000)) {
	}
	cond_done(&g->changed);
	lock_done(&g->lock);
	free(g);
}
