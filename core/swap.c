/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap: states and their work. See swap.h; docs/decisions/0017-swap.md has the reasons.
 *
 * Facts that hold per state (S1..):
 *  S1  Ready:             memory is like any other, nothing is out, the server does not run.
 *  S2  Pending:           memory is served; it has been unmapped, or just is. What left stays out.
 *  S3  TrimInProgress:    the thread trims, or will.
 *  S4  SwapOutInProgress: the thread writes out, or will.
 *  S5  Active:            what was staged is out, but for what was touched since.
 *  S6  SwapInInProgress:  the thread brings everything back, or will.
 *  S7  Failed:            memory is served and true; what the error names did not come to its end.
 *
 * Each piece of work has a ticket; what a later enable, disable or reset has overtaken changes
 * nothing.
 */
#include "core/swap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "core/base/clock.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/jail.h"

enum {
	QUEUE_MAX = 2,  /* an enable's work and what follows it */
	WORK_NICE = 10, /* the guest goes first */
};
#define SLOW_NS 5000000000ull /* before the store is cleaned slowly */

enum work_kind { WORK_NONE, WORK_UNMAP, WORK_TRIM, WORK_OUT, WORK_IN };

struct work {
	enum work_kind kind;
	uint64_t ticket;
	uint64_t parent; /* of an unmap: the snapshot whose pages the store has */
	bool slow;       /* of an in */
};

/* Results posted to the loop may outlive the swap: they hold the anchor, whose s is NULL then. */
struct anchor {
	atomic_uint refs;
	struct swap *s; /* main loop */
};

struct news {
	struct anchor *anchor;
	struct work work; /* WORK_NONE: a page is stuck */
	struct swap_step step;
	uint64_t took_ms;
	bool begun;    /* memory is served */
	struct err *e; /* owned */
};

/* Who waits for an enable. */
struct waiter {
	struct waiter *next;
	uint64_t ticket;
	void (*done)(void *arg, struct err *e);
	void *arg;
};

struct swap {
	struct swap_opts opts; /* its strings are copies */
	char *store_dir;
	struct fsm fsm;
	struct swap_mem *mem; /* NULL: swap cannot be */
	char why_not[256];
	struct anchor *anchor;
	struct waiter *waiters;
	uint64_t ticket; /* the last one given */
	uint64_t valid;  /* work below it is overtaken */
	struct swap_step last;
	uint64_t stored_pages, stored_bytes;
	uint64_t moved_pages, moved_ms;
	char error[512];

	struct lock lock; /* RANK_QUEUE */
	struct cond changed;
	struct work queue[QUEUE_MAX]; /* [lock] */
	unsigned nqueue;              /* [lock] */
	struct work now;              /* [lock] what the thread is at */
	unsigned holds;               /* [lock] */
	bool yielded;                 /* [lock] `now` is given up for a hold only */
	bool stop;                    /* [lock] */
	bool cancel;                  /* of `now`; atomic access */
	struct swap_home *home;       /* the thread's, opened by the first work that needs it */
	pthread_t thread;
	bool have_thread;
};

/* ---- the table ---- */

#define CELL(next_)                                                                                \
	{                                                                                          \
		.legal = true, .next = (next_), .on_fail = (next_)                                 \
	}
/* In every state that serves memory. */
#define ALWAYS                                                                                     \
	[SWAP_EV_ENABLE] = CELL(SWAP_PENDING), [SWAP_EV_DISABLE] = CELL(SWAP_COMING_IN),           \
	[SWAP_EV_FAIL] = CELL(SWAP_FAILED), [SWAP_EV_RESET] = CELL(SWAP_READY)

static const struct fsm_cell swap_cells[SWAP__STATES][SWAP__EVENTS] = {
	[SWAP_READY] = {
		[SWAP_EV_ENABLE] = CELL(SWAP_PENDING),
		[SWAP_EV_DISABLE] = CELL(SWAP_READY),
		[SWAP_EV_RESET] = CELL(SWAP_READY),
	},
	[SWAP_PENDING] = {
		ALWAYS,
		[SWAP_EV_TRIM] = CELL(SWAP_TRIMMING),
		[SWAP_EV_OUT] = CELL(SWAP_GOING_OUT),
		[SWAP_EV_DONE] = CELL(SWAP_PENDING),
		[SWAP_EV_NO_START] = CELL(SWAP_READY),
	},
	[SWAP_TRIMMING] = {
		ALWAYS,
		[SWAP_EV_DONE] = CELL(SWAP_PENDING),
		[SWAP_EV_NO_START] = CELL(SWAP_READY),
	},
	[SWAP_GOING_OUT] = {
		ALWAYS,
		[SWAP_EV_DONE] = CELL(SWAP_ACTIVE),
		[SWAP_EV_NO_START] = CELL(SWAP_READY),
	},
	[SWAP_ACTIVE] = { ALWAYS },
	[SWAP_COMING_IN] = {
		ALWAYS,
		[SWAP_EV_DONE] = CELL(SWAP_READY),
	},
	[SWAP_FAILED] = { ALWAYS },
};

static const char *const state_names[SWAP__STATES] = {
	[SWAP_READY] = "Ready",
	[SWAP_PENDING] = "Pending",
	[SWAP_TRIMMING] = "TrimInProgress",
	[SWAP_GOING_OUT] = "SwapOutInProgress",
	[SWAP_ACTIVE] = "Active",
	[SWAP_COMING_IN] = "SwapInInProgress",
	[SWAP_FAILED] = "Failed",
};

static const char *const event_names[SWAP__EVENTS] = {
	[SWAP_EV_ENABLE] = "enable",     [SWAP_EV_TRIM] = "trim",         [SWAP_EV_OUT] = "out",
	[SWAP_EV_DISABLE] = "disable",   [SWAP_EV_DONE] = "done",         [SWAP_EV_FAIL] = "fail",
	[SWAP_EV_NO_START] = "no start", [SWAP_EV_RESET] = "guest reset",
};

const struct fsm_desc swap_fsm_desc = {
	.name = "swap",
	.nstates = SWAP__STATES,
	.nevents = SWAP__EVENTS,
	.state_names = state_names,
	.event_names = event_names,
	.cells = &swap_cells[0][0],
};

static struct err *move(struct swap *s, enum swap_event ev)
{
	unsigned from = s->fsm.state;
	TRY(fsm_step(&s->fsm, ev, s, NULL));
	if (s->fsm.state != from) {
		s->opts.on_state(s->opts.arg, state_names[s->fsm.state],
				 s->fsm.state == SWAP_FAILED ? s->error : NULL);
	}
	return NULL;
}

/* ---- telling ---- */

static void anchor_drop(struct anchor *a)
{
	if (atomic_fetch_sub(&a->refs, 1) == 1) {
		free(a);
	}
}

static void on_news(struct swap *s, struct news *n);

static void deliver(void *arg)
{
	struct news *n = arg;
	if (n->anchor->s != NULL) {
		on_news(n->anchor->s, n);
	}
	anchor_drop(n->anchor);
	err_free(n->e);
	free(n);
}

static void post(struct swap *s, const struct news *what)
{
	struct news *n = malloc(sizeof(*n));
	BUG_ON(n == NULL);
	*n = *what;
	n->anchor = s->anchor;
	atomic_fetch_add(&s->anchor->refs, 1);
	loop_post(s->opts.loop, deliver, n);
}

static void on_mem_stuck(void *arg, const char *text)
{
	post(arg, &(struct news){ .e = ERR(ERR_SYS, "%s", text) });
}

/* Those whose work has ended, or was overtaken; takes over e. */
static void tell_waiters(struct swap *s, uint64_t ticket, struct err *e)
{
	for (struct waiter **at = &s->waiters; *at != NULL;) {
		struct waiter *w = *at;
		if (w->ticket > ticket) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->done(w->arg, e != NULL ? ERR(err_class(e), "%s", err_msg(e)) : NULL);
		free(w);
		at = &s->waiters; /* it may have asked for more */
	}
	err_free(e);
}

/* ---- on the thread ---- */

static struct err *open_home(struct swap *s)
{
	if (s->home != NULL) {
		return NULL;
	}
	struct swap_home_opts o = { .store_dir = s->store_dir, .gmem = s->opts.gmem };
	memcpy(o.vm, s->opts.vm, sizeof(o.vm));
	memcpy(o.family, s->opts.family, sizeof(o.family));
	return swap_home_open(&o, &s->home);
}

/* Pages that the last snapshot has need not be written. Without it they are. */
static void begin_as_parent(struct swap *s, uint64_t parent)
{
	struct swap_map *map = NULL;
	struct swap_mem_status st;
	swap_mem_status(s->mem, &st);
	if (parent == 0 || st.out > 0) {
		return;
	}
	struct err *e = open_home(s);
	if (e == NULL) {
		e = swap_map_of_snap(s->home, parent, &map);
	}
	if (e == NULL) {
		e = swap_mem_base(s->mem, map);
	}
	err_drop(e, "then all pages are written");
}

static struct err *do_unmap(struct swap *s, const struct work *w, struct swap_step *step)
{
	struct swap_mem_status st;
	if (!swap_mem_begun(s->mem)) {
		TRY(s->opts.ready(s->opts.arg, &s->cancel));
		TRY(swap_mem_begin(s->mem));
	}
	begin_as_parent(s, w->parent);
	TRY(swap_mem_unmap(s->mem, &s->cancel));
	swap_mem_status(s->mem, &st);
	step->pages = st.staged;
	return NULL;
}

static struct err *do_in(struct swap *s, struct swap_step *step)
{
	TRY(swap_mem_fill(s->mem, &s->cancel, &step->pages));
	TRY(swap_mem_end(s->mem));
	swap_mem_forget(s->mem);
	return NULL;
}

/* A trim or an out on a thread of its own, which the guest goes before: a priority once given up
 * does not come back, and bringing memory in is waited for. */
struct kindly {
	struct swap *s;
	const struct work *w;
	struct swap_step *step;
	struct err *e;
};

static void *kindly_main(void *arg)
{
	struct kindly *k = arg;
	struct swap *s = k->s;
	pthread_setname_np(pthread_self(), "swapout");
	(void)setpriority(PRIO_PROCESS, 0, WORK_NICE); /* of this thread; less kind without it */
	if (k->w->kind == WORK_TRIM) {
		k->e = swap_mem_trim(s->mem, &s->cancel, k->step);
	} else {
		k->e = open_home(s);
		k->e = k->e != NULL ? k->e : swap_mem_out(s->mem, s->home, &s->cancel, k->step);
	}
	return NULL;
}

static struct err *do_kindly(struct swap *s, const struct work *w, struct swap_step *step)
{
	struct kindly k = { .s = s, .w = w, .step = step };
	pthread_t thread;
	int rc = thread_start(&thread, kindly_main, &k);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting a thread of swap");
	}
	pthread_join(thread, NULL);
	return k.e;
}

static struct err *do_work(struct swap *s, const struct work *w, struct swap_step *step)
{
	switch (w->kind) {
	case WORK_UNMAP:
		return do_unmap(s, w, step);
	case WORK_TRIM:
	case WORK_OUT:
		return do_kindly(s, w, step);
	case WORK_IN:
		return do_in(s, step);
	case WORK_NONE:
		break;
	}
	return NULL;
}

/* Only an unmapping may go on while somebody reads the memory file. Must hold the lock. */
static bool may_begin(const struct swap *s)
{
	return s->nqueue > 0 && (s->holds == 0 || s->queue[0].kind == WORK_UNMAP);
}

/* What the store keeps for nobody any more; given up when there is work. */
static void clean_up(struct swap *s, bool slow)
{
	uint64_t until = clock_mono_ns() + SLOW_NS;
	lock_take(&s->lock);
	while (slow && s->nqueue == 0 && !s->stop &&
	       cond_wait_until(&s->changed, &s->lock, until)) {
	}
	bool again = s->nqueue > 0;
	lock_drop(&s->lock);
	if (again || s->home == NULL) {
		return;
	}
	err_drop(swap_home_collect(s->home), "the next collection finds it");
	swap_home_close(MOVE(s->home));
}

/* One piece of work, told when it is over, unless it is to be done again after a hold. */
static void work_once(struct swap *s, const struct work *w)
{
	uint64_t begin = clock_mono_ns();
	struct news n = { .work = *w };
	n.e = do_work(s, w, &n.step);
	n.took_ms = (clock_mono_ns() - begin) / 1000000;
	n.begun = swap_mem_begun(s->mem);
	lock_take(&s->lock);
	bool again = n.e != NULL && err_class(n.e) == ERR_CANCELLED && s->yielded && !s->stop &&
		     s->nqueue < QUEUE_MAX;
	if (again) {
		memmove(&s->queue[1], &s->queue[0], s->nqueue * sizeof(s->queue[0]));
		s->queue[0] = *w;
		s->nqueue++;
	}
	s->now.kind = WORK_NONE;
	s->yielded = false;
	cond_wake_all(&s->changed);
	lock_drop(&s->lock);
	if (again) {
		err_free(n.e);
		return;
	}
	bool all_in = w->kind == WORK_IN && n.e == NULL;
	post(s, &n); /* n.e is the loop's from here on */
	if (all_in) {
		clean_up(s, w->slow);
	}
}

static void work_loop(struct swap *s)
{
	for (;;) {
		lock_take(&s->lock);
		while (!s->stop && !may_begin(s)) {
			cond_wait(&s->changed, &s->lock);
		}
		if (s->stop) {
			lock_drop(&s->lock);
			return;
		}
		struct work w = s->now = s->queue[0];
		s->nqueue--;
		memmove(&s->queue[0], &s->queue[1], s->nqueue * sizeof(s->queue[0]));
		__atomic_store_n(&s->cancel, false, __ATOMIC_RELAXED);
		lock_drop(&s->lock);
		work_once(s, &w);
	}
}

static void *work_main(void *arg)
{
	struct swap *s = arg;
	pthread_setname_np(pthread_self(), "swap");
	struct err *e = jail_thread(JAIL_JOB);
	if (e != NULL) {
		log_err(err_wrap(e, "swap"));
		return NULL;
	}
	work_loop(s);
	return NULL;
}

/* ---- asking for work ---- */

/* Nothing that was asked for before goes on. *ret_ticket: of the last of it. */
static void overtake(struct swap *s)
{
	lock_take(&s->lock);
	s->nqueue = 0;
	s->yielded = false;
	__atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
	cond_wake_all(&s->changed);
	lock_drop(&s->lock);
	s->valid = s->ticket + 1;
}

static uint64_t ask(struct swap *s, const struct work *what)
{
	LOCK_SCOPE(&s->lock);
	BUG_ON(s->nqueue == QUEUE_MAX); /* the table: one enable, and one thing that follows it */
	s->queue[s->nqueue] = *what;
	s->queue[s->nqueue++].ticket = ++s->ticket;
	cond_wake_all(&s->changed);
	return s->ticket;
}

struct err *swap_possible(const struct swap *s)
{
	return s->mem != NULL
		       ? NULL
		       : err_set_errno(ERR(ERR_NOT_NOW, "Swap is not available in this VM: %s",
					   s->why_not),
				       EOPNOTSUPP);
}

static struct err *start_thread(struct swap *s)
{
	if (s->have_thread) {
		return NULL;
	}
	int rc = thread_start(&s->thread, work_main, s);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting the thread of swap");
	}
	s->have_thread = true;
	return NULL;
}

struct err *swap_enable(struct swap *s, void (*done)(void *arg, struct err *e), void *arg)
{
	TRY(swap_possible(s));
	TRY(start_thread(s));
	struct waiter *w = malloc(sizeof(*w));
	ENSURE(w != NULL, ERR_SYS, "out of memory");
	struct err *e = move(s, SWAP_EV_ENABLE);
	if (e != NULL) {
		free(w);
		return e;
	}
	s->error[0] = 0;
	overtake(s);
	uint64_t parent = s->opts.parent(s->opts.arg);
	*w = (struct waiter){ .next = s->waiters, .done = done, .arg = arg };
	w->ticket = ask(s, &(struct work){ .kind = WORK_UNMAP, .parent = parent });
	s->waiters = w;
	return NULL;
}

static struct err *follow(struct swap *s, enum swap_event ev, enum work_kind kind)
{
	TRY(swap_possible(s));
	TRY(move(s, ev));
	ask(s, &(struct work){ .kind = kind });
	return NULL;
}

struct err *swap_trim(struct swap *s)
{
	return follow(s, SWAP_EV_TRIM, WORK_TRIM);
}

struct err *swap_out(struct swap *s)
{
	return follow(s, SWAP_EV_OUT, WORK_OUT);
}

struct err *swap_disable(struct swap *s, bool slow)
{
	TRY(swap_possible(s));
	bool was_ready = s->fsm.state == SWAP_READY;
	TRY(move(s, SWAP_EV_DISABLE));
	if (!was_ready) {
		uint64_t before = s->ticket;
		overtake(s);
		ask(s, &(struct work){ .kind = WORK_IN, .slow = slow });
		tell_waiters(s, before, ERR(ERR_CANCELLED, "swap was disabled meanwhile"));
	}
	return NULL;
}

/* ---- results, on the main loop ---- */

static void fail(struct swap *s, const struct news *n)
{
	snprintf(s->error, sizeof(s->error), "%s", err_msg(n->e));
	LOG_W("swap: %s", s->error);
	bool no_start = n->work.kind == WORK_UNMAP && !n->begun;
	if (no_start) {
		overtake(s); /* what was to follow */
	}
	err_drop(move(s, no_start ? SWAP_EV_NO_START : SWAP_EV_FAIL), "every cell there is legal");
}

static void on_news(struct swap *s, struct news *n)
{
	if (n->work.kind == WORK_NONE) {
		snprintf(s->error, sizeof(s->error), "%s", err_msg(n->e));
		s->opts.on_stuck(s->opts.arg, s->error);
		return;
	}
	if (n->work.ticket < s->valid) {
		return; /* overtaken; who waited was told, or waits for the later one, too */
	}
	s->moved_pages = n->step.pages;
	s->moved_ms = n->took_ms;
	s->stored_pages += n->step.stored_pages;
	s->stored_bytes += n->step.stored_bytes;
	if (n->work.kind == WORK_TRIM || n->work.kind == WORK_OUT) {
		s->last = n->step;
	}
	if (n->e != NULL) {
		fail(s, n);
	} else if (n->work.kind != WORK_UNMAP) { /* after one, there may be more to do */
		err_drop(move(s, SWAP_EV_DONE), "the state is that of this work");
	}
	if (n->work.kind == WORK_IN && n->e == NULL) {
		s->stored_pages = s->stored_bytes = 0;
	}
	tell_waiters(s, n->work.ticket, MOVE(n->e));
}

/* ---- beside requests ---- */

/* Waits until the thread is at nothing. */
static void wait_idle(struct swap *s)
{
	LOCK_SCOPE(&s->lock);
	while (s->now.kind != WORK_NONE) {
		cond_wait(&s->changed, &s->lock);
	}
}

void swap_reset(struct swap *s)
{
	if (s->mem == NULL) {
		return;
	}
	uint64_t before = s->ticket;
	overtake(s);
	wait_idle(s);
	struct err *e = swap_mem_end(s->mem);
	if (e != NULL) {
		log_err(err_wrap(e, "swap"));
	}
	swap_mem_forget(s->mem);
	s->stored_pages = s->stored_bytes = 0;
	err_drop(move(s, SWAP_EV_RESET), "every state has that cell");
	tell_waiters(s, before, ERR(ERR_CANCELLED, "the memory is another one now"));
}

void swap_hold(struct swap *s)
{
	LOCK_SCOPE(&s->lock);
	s->holds++;
	while (s->now.kind != WORK_NONE && s->now.kind != WORK_UNMAP) {
		s->yielded = true;
		__atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
		cond_wait(&s->changed, &s->lock);
	}
}

void swap_unhold(struct swap *s)
{
	LOCK_SCOPE(&s->lock);
	BUG_ON(s->holds == 0);
	s->holds--;
	cond_wake_all(&s->changed);
}

struct err *swap_bring_in(struct swap *s, const bool *cancel)
{
	uint64_t unused;
	return s->mem != NULL ? swap_mem_fill(s->mem, cancel, &unused) : NULL;
}

struct err *swap_give_back(struct swap *s, gpa_t gpa, uint64_t len_bytes)
{
	return s->mem != NULL ? swap_mem_give_back(s->mem, gpa, len_bytes)
			      : gmem_give_back(s->opts.gmem, gpa, len_bytes);
}

void swap_retry(struct swap *s)
{
	if (s->mem != NULL) {
		swap_mem_retry(s->mem);
	}
}

void swap_status(struct swap *s, struct swap_status *ret)
{
	*ret = (struct swap_status){
		.state = state_names[s->fsm.state],
		.zero = s->last.zero,
		.same = s->last.same,
		.stored_pages = s->stored_pages,
		.stored_bytes = s->stored_bytes,
		.moved_pages = s->moved_pages,
		.moved_ms = s->moved_ms,
	};
	snprintf(ret->error, sizeof(ret->error), "%s", s->mem != NULL ? s->error : s->why_not);
	if (s->mem != NULL) {
		swap_mem_status(s->mem, &ret->mem);
	}
}

/* ---- life ---- */

struct err *swap_new(const struct swap_opts *opts, struct swap **ret_swap)
{
	struct fd uffd = { opts->uffd };
	SCOPE(swap_freep) struct swap *s = calloc(1, sizeof(*s));
	if (s == NULL) {
		fd_close(&uffd);
		return ERR(ERR_SYS, "out of memory");
	}
	lock_init(&s->lock, RANK_QUEUE);
	cond_init(&s->changed);
	s->opts = *opts;
	s->fsm = (struct fsm){ .desc = &swap_fsm_desc, .state = SWAP_READY };
	snprintf(s->why_not, sizeof(s->why_not), "%s", opts->why_not != NULL ? opts->why_not : "");
	s->valid = 1;
	if (uffd.n >= 0) {
		const struct swap_mem_opts mo = {
			.gmem = opts->gmem,
			.uffd = fd_move(&uffd).n,
			.on_stuck = on_mem_stuck,
			.arg = s,
		};
		struct err *e = swap_mem_new(&mo, &s->mem);
		if (e != NULL && err_class(e) == ERR_NOT_NOW) { /* not this memory */
			snprintf(s->why_not, sizeof(s->why_not), "%s", err_msg(e));
			err_free(e);
			e = NULL;
		}
		TRY(e);
	}
	s->anchor = calloc(1, sizeof(*s->anchor));
	s->store_dir = strdup(opts->store_dir);
	ENSURE(s->anchor != NULL && s->store_dir != NULL, ERR_SYS, "out of memory");
	atomic_store(&s->anchor->refs, 1);
	s->anchor->s = s;
	*ret_swap = MOVE(s);
	return NULL;
}

void swap_free(struct swap *s)
{
	if (s == NULL) {
		return;
	}
	s->valid = UINT64_MAX;
	lock_take(&s->lock);
	s->stop = true;
	__atomic_store_n(&s->cancel, true, __ATOMIC_RELAXED);
	cond_wake_all(&s->changed);
	lock_drop(&s->lock);
	if (s->have_thread) {
		pthread_join(s->thread, NULL);
	}
	if (s->anchor != NULL) {
		s->anchor->s = NULL;
		anchor_drop(s->anchor);
	}
	tell_waiters(s, UINT64_MAX, ERR(ERR_CANCELLED, "the VM ends"));
	swap_mem_free(s->mem);
	if (s->home != NULL) {
		err_drop(swap_home_collect(s->home), "the next collection finds it");
		swap_home_close(s->home);
	}
	cond_done(&s->changed);
	lock_done(&s->lock);
	free(s->store_dir);
	free(s);
}
