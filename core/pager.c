/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page server. See pager.h.
 *
 * Two threads: "tpage" serves faults, "tfill" brings in the rest and, when that is done, ends tpage
 * and unregisters the memory. pager_complete takes the filler's work over: the filler, of low
 * priority, lets go at its next frame, since a thread without privilege cannot raise it again.
 *
 * I1: a page is placed by uffd_copy only, which never replaces one.
 * I2: a bit of `present` is set after its page was placed or found in place; a page whose bit is
 * set is not placed again. I3: `filling` is held by one thread at a time: only it calls the
 * source's fill, and its fetch as PAGE_READER_FILL. A page is placed, and its bit set, under the
 * lock `placing` of the thread that does it. I4: memory is unregistered only when every page that
 * is not zero is present, or by pager_free.
 */
#include "core/pager.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/jail.h"
#include "core/latency.h"
#include "core/uffd.h"

enum {
	FAULTS_PER_READ = 16,
	FILL_NICE = 10,        /* a tenth of a busy CPU: the guest comes first, and it ends */
	RETRY_FIRST_MS = 1000, /* the filler after an error of the disk; doubles */
	RETRY_LAST_MS = 30000,
	BITS = 64,
	AHEAD_PIECES = 64, /* 4 MiB of memory, less of the file */
};

/* Events posted to the loop may outlive the pager: they hold the anchor, whose p is NULL then. */
struct anchor {
	atomic_uint refs;
	struct pager *p; /* main loop */
};

struct news {
	struct anchor *anchor;
	enum pager_event ev;
	char *text;
};

/* Who places pages. */
enum placer { PLACER_FAULT, PLACER_FILL, PLACERS };

struct pager {
	struct loop *loop;
	struct gmem *gmem;
	struct page_source source;
	struct fd uffd;
	struct fd bell; /* eventfd: tells tpage to look at stop_faults */
	void (*on_event)(void *arg, enum pager_event ev, const char *text);
	void (*unattended)(void *arg, const char *text);
	atomic_bool attended;
	void *arg;
	struct anchor *anchor;
	uint8_t *base; /* of all memory, which is one mapping */
	uint64_t bytes;
	_Atomic uint64_t *present; /* one bit per page, in the order of the mapping */
	atomic_uint_least64_t npresent;

	pthread_t fault_thread;
	bool have_fault_thread; /* until joined; main loop, then the thread that ends it */
	pthread_t fill_thread;
	bool have_fill_thread; /* main loop */
	atomic_bool stop_faults;
	bool stop; /* atomic access: everything ends; also the cancel flag of what follows a fill */
	atomic_bool yield; /* the filler is to let go */

	struct lock placing[PLACERS]; /* RANK_PLACE */
	atomic_bool dropped;          /* pager_drop was called */

	struct lock lock; /* RANK_QUEUE */
	struct cond changed;
	bool filling;       /* [lock] I3 */
	bool complete;      /* [lock] */
	bool stuck;         /* [lock] somebody waits for a page that cannot be had now */
	bool lost;          /* [lock] */
	char why[512];      /* [lock] of the first loss, else of the last that is stuck */
	unsigned wanted_by; /* [lock] threads in pager_complete */
	/* Of the thread that holds `filling`: */
	const bool *cancel; /* of the job that it fills for, NULL: tfill */
	bool cut;           /* something was left out because it was told to let go */

	struct page_order first;      /* const until freed */
	atomic_uint_least64_t nfirst; /* pages of it that were placed */
	uint64_t *demand;             /* owned, PAGER_DEMAND_MAX; written by tpage */
	atomic_size_t ndemand;        /* those below are written */
	uint64_t demand_until_ns;     /* const */
	atomic_uint_least64_t nfaults;
	struct latency took;
};

/* ---- telling ---- */

static void anchor_drop(struct anchor *a)
{
	if (atomic_fetch_sub(&a->refs, 1) == 1) {
		free(a);
	}
}

static void deliver(void *arg)
{
	struct news *n = arg;
	struct pager *p = n->anchor->p;
	if (p != NULL) {
		p->on_event(p->arg, n->ev, n->text);
	}
	anchor_drop(n->anchor);
	free(n->text);
	free(n);
}

static void tell(struct pager *p, enum pager_event ev, const struct err *e)
{
	struct news *n = calloc(1, sizeof(*n));
	BUG_ON(n == NULL);
	*n = (struct news){ .anchor = p->anchor, .ev = ev };
	if (e != NULL) {
		n->text = strdup(err_msg(e));
		BUG_ON(n->text == NULL);
	}
	atomic_fetch_add(&p->anchor->refs, 1);
	loop_post(p->loop, deliver, n);
}

/* Can the page never be had? */
static bool is_final(const struct err *e)
{
	return err_class(e) == ERR_CORRUPT || err_class(e) == ERR_INCOMPAT;
}

/* Takes over e. The first loss counts; a stuck page is told anew after each retry. */
static void tell_failure(struct pager *p, struct err *e)
{
	bool final = is_final(e);
	if (p->unattended != NULL && !atomic_load(&p->attended)) {
		p->unattended(p->arg, err_msg(e));
	}
	lock_take(&p->lock);
	bool news = final ? !p->lost : !p->stuck && !p->lost;
	p->lost = p->lost || final;
	p->stuck = p->stuck || !final;
	if (news) {
		snprintf(p->why, sizeof(p->why), "%s", err_msg(e));
	}
	lock_drop(&p->lock);
	if (news) {
		tell(p, final ? PAGER_LOST : PAGER_STUCK, e);
	}
	err_free(e);
}

/* ---- placing ---- */

static bool is_present(const struct pager *p, uint64_t page)
{
	return (atomic_load(&p->present[page / BITS]) >> (page % BITS) & 1) != 0;
}

static void set_present(struct pager *p, uint64_t page, uint64_t n)
{
	uint64_t fresh = 0;
	for (uint64_t end = page + n; page < end; page++) {
		uint64_t bit = 1ull << (page % BITS);
		fresh += (atomic_fetch_or(&p->present[page / BITS], bit) & bit) == 0;
	}
	atomic_fetch_add(&p->npresent, fresh);
}

/* Places what is missing of a run; what it placed is added to *count. */
static struct err *place(struct pager *p, const struct page_run *run, enum placer who,
			 atomic_uint_least64_t *count)
{
	uint64_t page;
	LOCK_SCOPE(&p->placing[who]); /* pager_drop waits for what is under way */
	ENSURE(gmem_index_of(p->gmem, run->gfn, run->npages, &page), ERR_CORRUPT,
	       "memory map has %llu pages at gfn 0x%llx, where there is no RAM",
	       (unsigned long long)run->npages, (unsigned long long)run->gfn.v);
	const uint8_t *from = run->pages;
	for (uint64_t at = 0; at < run->npages;) {
		if (is_present(p, page + at)) {
			at++;
			continue;
		}
		uint64_t n = 1;
		while (at + n < run->npages && !is_present(p, page + at + n)) {
			n++;
		}
		uint64_t placed;
		TRY(uffd_copy(p->uffd.n, p->base + (page + at) * PAGE_BYTES, from + at * PAGE_BYTES,
			      n * PAGE_BYTES, &placed));
		set_present(p, page + at, n);
		if (count != NULL) {
			atomic_fetch_add(count, placed);
		}
		at += n;
	}
	return NULL;
}

/* ---- faults ---- */

/* On tpage. */
static void note_demand(struct pager *p, uint64_t gfn, uint64_t when_ns)
{
	size_t n = atomic_load(&p->ndemand);
	if (n < PAGER_DEMAND_MAX && when_ns < p->demand_until_ns) {
		p->demand[n] = gfn;
		atomic_store(&p->ndemand, n + 1);
	}
}

static struct err *serve(struct pager *p, uint64_t page)
{
	gfn_t gfn = gmem_gfn_at(p->gmem, page);
	struct page_run run;
	struct err *e = p->source.ops->fetch(p->source.self, PAGE_READER_FAULT, gfn, &run);
	if (e == NULL && (gfn.v < run.gfn.v || gfn.v - run.gfn.v >= run.npages)) {
		e = ERR(ERR_CORRUPT, "its source gave another page");
	}
	if (e == NULL) {
		e = place(p, &run, PLACER_FAULT, NULL);
	}
	if (e == NULL && atomic_load(&p->dropped)) {
		/* A page that was dropped meanwhile was not placed: who waits asks again. */
		e = uffd_wake(p->uffd.n, p->base + page * PAGE_BYTES, PAGE_BYTES);
	}
	return err_wrap(e, "guest memory at 0x%llx", (unsigned long long)(gfn.v * PAGE_BYTES));
}

static void on_fault(struct pager *p, const struct uffd_fault *f, uint64_t since_ns)
{
	uint64_t page = (f->addr - (uint64_t)(uintptr_t)p->base) / PAGE_BYTES;
	atomic_fetch_add(&p->nfaults, 1);
	struct err *e = NULL;
	if (is_present(p, page)) {
		/* Placed after the fault was told: then it stays. Or given back to the host since
		 * (a balloon's hole): then it is zero now, whatever the snapshot had there. */
		static const uint8_t zero[PAGE_BYTES];
		uint64_t placed;
		e = uffd_copy(p->uffd.n, p->base + page * PAGE_BYTES, zero, PAGE_BYTES, &placed);
	} else {
		note_demand(p, gmem_gfn_at(p->gmem, page).v, since_ns);
		e = serve(p, page);
	}
	if (e != NULL) {
		tell_failure(p, e);
		return;
	}
	latency_add(&p->took, clock_mono_ns() - since_ns);
}

static struct err *fault_loop(struct pager *p)
{
	struct pollfd fds[] = {
		{ .fd = p->uffd.n, .events = POLLIN },
		{ .fd = p->bell.n, .events = POLLIN },
	};
	while (!atomic_load(&p->stop_faults)) {
		if (poll(fds, ARRAY_LEN(fds), -1) < 0) {
			continue; /* EINTR: nothing else can be wrong here */
		}
		struct uffd_fault f[FAULTS_PER_READ];
		size_t n;
		TRY(uffd_read(p->uffd.n, f, ARRAY_LEN(f), &n));
		uint64_t now = clock_mono_ns();
		for (size_t i = 0; i < n; i++) {
			on_fault(p, &f[i], now);
		}
	}
	return NULL;
}

static void *fault_main(void *arg)
{
	struct pager *p = arg;
	pthread_setname_np(pthread_self(), "tpage");
	struct err *e = jail_thread(JAIL_PAGER);
	if (e == NULL) {
		e = fault_loop(p);
	}
	if (e != NULL) {
		tell_failure(p, err_wrap(e, "the server of guest memory"));
	}
	return NULL;
}

/* Any thread that saw to it that nobody else does. */
static void end_fault_thread(struct pager *p)
{
	if (!p->have_fault_thread) {
		return;
	}
	atomic_store(&p->stop_faults, true);
	const uint64_t one = 1;
	err_drop(io_write_full(p->bell.n, &one, sizeof(one)), "an eventfd of 1 takes one more");
	pthread_join(p->fault_thread, NULL);
	p->have_fault_thread = false;
}

/* ---- filling ---- */

static struct err *fill_place(void *arg, const struct page_run *run)
{
	struct pager *p = arg;
	ENSURE(!__atomic_load_n(&p->stop, __ATOMIC_RELAXED), ERR_CANCELLED, "it ends");
	return place(p, run, PLACER_FILL, NULL);
}

/* True while the thread that fills is to go on. */
static bool may_fill(const struct pager *p)
{
	if (__atomic_load_n(&p->stop, __ATOMIC_RELAXED)) {
		return false;
	}
	if (p->cancel != NULL) {
		return !__atomic_load_n(p->cancel, __ATOMIC_RELAXED);
	}
	return !atomic_load(&p->yield);
}

static bool fill_wanted(void *arg, gfn_t gfn, uint64_t npages)
{
	struct pager *p = arg;
	uint64_t page;
	if (p->cut || !may_fill(p)) {
		p->cut = true;
		return false;
	}
	if (!gmem_index_of(p->gmem, gfn, npages, &page)) {
		return true; /* place says what is wrong */
	}
	for (uint64_t i = 0; i < npages; i++) {
		if (!is_present(p, page + i)) {
			return true;
		}
	}
	return false;
}

/* Everything that is not zero is there: the kernel does the rest (I4). */
static struct err *finish(struct pager *p)
{
	end_fault_thread(p);
	TRY(uffd_unregister(p->uffd.n, p->base,
			    p->bytes)); /* also wakes who waits for a zero page */
	lock_take(&p->lock);
	p->complete = true;
	p->stuck = false;
	cond_wake_all(&p->changed);
	lock_drop(&p->lock);
	atomic_store(&p->npresent, p->bytes / PAGE_BYTES);
	tell(p, PAGER_FULL, NULL);
	return NULL;
}

/* One fill by the thread that holds `filling`. Success also when it was told to let go. */
static struct err *fill_once(struct pager *p, const bool *cancel)
{
	const struct page_fill fill = { .place = fill_place, .wanted = fill_wanted, .arg = p };
	p->cancel = cancel;
	p->cut = false;
	TRY(p->source.ops->fill(p->source.self, &fill));
	return p->cut ? NULL : finish(p);
}

/* Waits until nobody fills and takes that. False when there is nothing left to fill. */
static bool take_filling(struct pager *p, bool for_job)
{
	LOCK_SCOPE(&p->lock);
	/* The filler also waits while somebody in pager_complete has its work. */
	while (!p->complete && !p->lost && !__atomic_load_n(&p->stop, __ATOMIC_RELAXED) &&
	       (p->filling || (!for_job && p->wanted_by > 0))) {
		cond_wait(&p->changed, &p->lock);
	}
	if (p->complete || p->lost || __atomic_load_n(&p->stop, __ATOMIC_RELAXED)) {
		return false;
	}
	p->filling = true;
	return true;
}

static void drop_filling(struct pager *p)
{
	LOCK_SCOPE(&p->lock);
	p->filling = false;
	cond_wake_all(&p->changed);
}

/* After an error of the disk. */
static void pause_filling(struct pager *p, uint64_t ms)
{
	uint64_t until = clock_mono_ns() + ms * 1000000;
	LOCK_SCOPE(&p->lock);
	while (!p->complete && !__atomic_load_n(&p->stop, __ATOMIC_RELAXED) &&
	       cond_wait_until(&p->changed, &p->lock, until)) {
	}
}

/* One piece of what is to come first. False: enough of that. */
static bool bring_first(struct pager *p, size_t i)
{
	gfn_t gfn = { p->first.gfn[i] };
	uint64_t page;
	struct page_run run;
	if (__atomic_load_n(&p->stop, __ATOMIC_RELAXED) || atomic_load(&p->yield)) {
		return false;
	}
	if (!gmem_index_of(p->gmem, gfn, 1, &page) || is_present(p, page)) {
		return true; /* no page of ours, or somebody was faster */
	}
	struct err *e = p->source.ops->fetch(p->source.self, PAGE_READER_FILL, gfn, &run);
	if (e == NULL) {
		e = place(p, &run, PLACER_FILL, &p->nfirst);
	}
	bool ok = e == NULL;
	err_drop(e, "whoever needs the page, and the fill, will come upon it, too");
	return ok;
}

/*
 * What was waited for after earlier restores, before the guest asks. With `filling` taken; gives up
 * when somebody else wants it. The guest waits for none of this: its faults are served beside it.
 */
static void fill_first(struct pager *p)
{
	const struct page_source_ops *ops = p->source.ops;
	size_t ahead = 0;
	for (size_t i = 0; i < p->first.n && bring_first(p, i); i++) {
		for (; ops->soon != NULL && ahead < MIN(p->first.n, i + AHEAD_PIECES); ahead++) {
			uint64_t page;
			gfn_t gfn = { p->first.gfn[ahead] };
			if (gmem_index_of(p->gmem, gfn, 1, &page) && !is_present(p, page)) {
				ops->soon(p->source.self, PAGE_READER_FILL, gfn);
			}
		}
	}
}

static void fill_loop(struct pager *p)
{
	uint64_t wait_ms = RETRY_FIRST_MS;
	if (take_filling(p, false)) {
		fill_first(p);
		drop_filling(p);
	}
	(void)setpriority(PRIO_PROCESS, 0, FILL_NICE); /* of this thread; less kind without it */
	while (take_filling(p, false)) {
		struct err *e = fill_once(p, NULL);
		drop_filling(p);
		if (e == NULL || err_class(e) == ERR_CANCELLED) {
			err_drop(e, "told to stop or to let go: take_filling knows");
			continue;
		}
		if (is_final(e)) {
			tell_failure(p, err_wrap(e, "guest memory"));
			return;
		}
		/* Nobody waits for these pages yet: a fault that fails is what stops the guest. */
		LOG_W("reading guest memory: %s; tried again in %llu s", err_msg(e),
		      (unsigned long long)(wait_ms / 1000));
		err_free(e);
		pause_filling(p, wait_ms);
		wait_ms = MIN(wait_ms * 2, (uint64_t)RETRY_LAST_MS);
	}
}

static void *fill_main(void *arg)
{
	struct pager *p = arg;
	pthread_setname_np(pthread_self(), "tfill");
	struct err *e = jail_thread(JAIL_PAGER);
	if (e != NULL) {
		log_err(err_wrap(e, "filling guest memory"));
		return NULL;
	}
	fill_loop(p);
	lock_take(&p->lock);
	bool complete = p->complete;
	lock_drop(&p->lock);
	if (complete && p->source.ops->after != NULL) {
		e = p->source.ops->after(p->source.self, &p->stop);
		if (e != NULL && err_class(e) != ERR_CANCELLED) {
			LOG_W("%s: a reset of the VM will fail", err_msg(e));
		}
		err_free(e);
	}
	return NULL;
}

struct err *pager_fill(struct pager *p)
{
	if (p->have_fill_thread) {
		return NULL;
	}
	int rc = thread_start(&p->fill_thread, fill_main, p);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting the filler of guest memory");
	}
	p->have_fill_thread = true;
	return NULL;
}

/* With `filling` taken; the filler stands by. */
static struct err *complete_here(struct pager *p, const bool *cancel)
{
	struct err *e = fill_once(p, cancel);
	drop_filling(p);
	if (e != NULL && is_final(e)) {
		struct err *told = ERR(err_class(e), "%s", err_msg(e));
		tell_failure(p, err_wrap(told, "guest memory"));
	}
	return e;
}

struct err *pager_complete(struct pager *p, const bool *cancel)
{
	lock_take(&p->lock);
	p->wanted_by++;
	atomic_store(&p->yield, true);
	lock_drop(&p->lock);
	struct err *e = NULL;
	static const bool never = false;
	if (take_filling(p, true)) {
		e = complete_here(p, cancel != NULL ? cancel : &never);
	}
	lock_take(&p->lock);
	p->wanted_by--;
	if (p->wanted_by == 0) {
		atomic_store(&p->yield, false);
		cond_wake_all(&p->changed);
	}
	bool complete = p->complete;
	bool lost = p->lost;
	lock_drop(&p->lock);
	TRY(err_wrap(e, "reading the rest of guest memory"));
	ENSURE(complete || !lost, ERR_CORRUPT, "guest memory is damaged");
	ENSURE(complete, ERR_CANCELLED, "given up before guest memory was complete");
	return NULL;
}

void pager_attended(struct pager *p)
{
	atomic_store(&p->attended, true); /* pairs with the load in tell_failure */
}

void pager_drop(struct pager *p, gpa_t gpa, uint64_t len_bytes)
{
	uint64_t page;
	if (!gmem_index_of(p->gmem, (gfn_t){ gpa.v / PAGE_BYTES }, len_bytes / PAGE_BYTES, &page)) {
		return; /* no RAM: gmem_give_back says so */
	}
	atomic_store(&p->dropped, true);
	set_present(p, page, len_bytes / PAGE_BYTES);
	for (unsigned i = 0; i < PLACERS; i++) {
		/* Who looked at the bits before has placed its page when we have had the lock. */
		lock_take(&p->placing[i]);
		lock_drop(&p->placing[i]);
	}
}

void pager_retry(struct pager *p)
{
	lock_take(&p->lock);
	bool again = p->stuck && !p->complete && !p->lost;
	p->stuck = false;
	cond_wake_all(&p->changed); /* the filler, too */
	lock_drop(&p->lock);
	if (again) {
		err_drop(uffd_wake(p->uffd.n, p->base, p->bytes), "they go on waiting, as before");
	}
}

/* ---- life ---- */

static struct err *start(struct pager *p)
{
	uint64_t words = (p->bytes / PAGE_BYTES + BITS - 1) / BITS;
	p->present = calloc(words, sizeof(*p->present));
	p->anchor = calloc(1, sizeof(*p->anchor));
	/* Untouched memory costs nothing. */
	p->demand = calloc(PAGER_DEMAND_MAX, sizeof(*p->demand));
	ENSURE(p->present != NULL && p->anchor != NULL && p->demand != NULL, ERR_SYS,
	       "out of memory");
	p->demand_until_ns = clock_mono_ns() + PAGER_DEMAND_NS;
	atomic_store(&p->anchor->refs, 1);
	p->anchor->p = p;
	p->bell.n = eventfd(0, EFD_CLOEXEC);
	if (p->bell.n < 0) {
		return ERR_ERRNO("making an eventfd");
	}
	TRY(uffd_register(p->uffd.n, p->base, p->bytes));
	int rc = thread_start(&p->fault_thread, fault_main, p);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting the server of guest memory");
	}
	p->have_fault_thread = true;
	return NULL;
}

struct err *pager_start(const struct pager_opts *opts, struct pager **ret_pager)
{
	struct page_source source = opts->source;
	struct page_order first = opts->first;
	struct fd uffd = { opts->uffd };
	SCOPE(pager_freep) struct pager *p = calloc(1, sizeof(*p));
	if (p == NULL) {
		page_source_done(&source);
		page_order_done(&first);
		fd_close(&uffd);
		return ERR(ERR_SYS, "out of memory");
	}
	lock_init(&p->lock, RANK_QUEUE);
	for (unsigned i = 0; i < PLACERS; i++) {
		lock_init(&p->placing[i], RANK_PLACE);
	}
	cond_init(&p->changed);
	p->loop = opts->loop;
	p->gmem = opts->gmem;
	p->source = source;
	p->first = first;
	p->uffd = uffd;
	p->bell = FD_NONE;
	p->on_event = opts->on_event;
	p->unattended = opts->unattended;
	p->arg = opts->arg;
	p->base = gmem_region(p->gmem, 0).host;
	p->bytes = gmem_bytes(p->gmem);
	TRY(start(p));
	*ret_pager = MOVE(p);
	return NULL;
}

void pager_free(struct pager *p)
{
	if (p == NULL) {
		return;
	}
	__atomic_store_n(&p->stop, true, __ATOMIC_RELAXED);
	lock_take(&p->lock);
	cond_wake_all(&p->changed);
	lock_drop(&p->lock);
	if (p->have_fill_thread) {
		pthread_join(p->fill_thread, NULL); /* may have ended the fault thread */
	}
	end_fault_thread(p);
	fd_close(&p->uffd); /* unregisters, if that was not done yet */
	fd_close(&p->bell);
	page_source_done(&p->source);
	if (p->anchor != NULL) {
		p->anchor->p = NULL;
		anchor_drop(p->anchor);
	}
	cond_done(&p->changed);
	for (unsigned i = 0; i < PLACERS; i++) {
		lock_done(&p->placing[i]);
	}
	lock_done(&p->lock);
	page_order_done(&p->first);
	free(p->demand);
	free(p->present);
	free(p);
}

/* ---- looking at it ---- */

static const char *state_name(struct pager *p)
{
	LOCK_SCOPE(&p->lock);
	if (p->complete) {
		return "complete";
	}
	if (p->lost) {
		return "lost";
	}
	if (p->stuck) {
		return "stuck";
	}
	return p->have_fill_thread ? "filling" : "waiting";
}

struct err *pager_demanded(struct pager *p, struct page_order *ret)
{
	size_t n = atomic_load(&p->ndemand);
	uint64_t *gfn = malloc(MAX(n, 1u) * sizeof(*gfn));
	ENSURE(gfn != NULL, ERR_SYS, "out of memory");
	memcpy(gfn, p->demand, n * sizeof(*gfn));
	*ret = (struct page_order){ .gfn = gfn, .n = n };
	return NULL;
}

void pager_status(struct pager *p, struct pager_status *ret)
{
	*ret = (struct pager_status){
		.state = state_name(p),
		.bytes = p->bytes,
		.resident = atomic_load(&p->npresent) * PAGE_BYTES,
		.faults = atomic_load(&p->nfaults),
		.demanded = atomic_load(&p->ndemand),
		.known = p->first.n,
		.first = atomic_load(&p->nfirst) * PAGE_BYTES,
		.p50_ns = latency_percentile(&p->took, 50),
		.p99_ns = latency_percentile(&p->took, 99),
		.max_ns = atomic_load(&p->took.max_ns),
	};
	LOCK_SCOPE(&p->lock);
	if (!p->complete && (p->stuck || p->lost)) {
		snprintf(ret->why, sizeof(ret->why), "%s", p->why);
	}
}
