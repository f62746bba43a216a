/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main loop: epoll, one timerfd for all timers, one eventfd for calls from other threads.
 * See loop.h. Everything but loop_post runs on the thread that is in loop_run (or, before it, on
 * the thread that builds).
 *
 * I1: a callback may delete any watch or timer, itself included: a deleted one moves to a grave
 * that is emptied only when no callback is running. I2: armed timers are sorted by (time, order of
 * setting).
 */
#include "core/loop.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include "core/base/clock.h"
#include "core/base/lock.h"

enum { LOOP_BATCH = 16 }; /* descriptors served per turn before timers and posts get theirs */

struct loop_fd {
	struct loop *loop;
	struct loop_fd *next;
	struct loop_fd *prev;
	int fd; /* borrowed; -1 once deleted */
	uint32_t events;
	/* epoll refuses files and some character devices (EPERM); as poll(2) has it, those are
	 * always ready. */
	bool always_ready;
	void (*fn)(void *arg, uint32_t events);
	void *arg;
};

struct loop_timer {
	struct loop *loop;
	struct loop_timer *next; /* in the armed list or the grave */
	bool armed;
	bool dead;
	uint64_t at_mono_ns;
	uint64_t seq; /* order of setting */
	void (*fn)(void *arg);
	void *arg;
	struct loop_timer *all_next; /* every living timer, for loop_free */
	struct loop_timer *all_prev;
};

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	struct fd epoll;
	struct fd timer;
	struct fd event;
	bool quit;
	bool running;
	pthread_t thread; /* valid while running */
	bool in_callback;
	struct loop_fd *fds;
	unsigned nalways; /* fds that are always ready and watched for something */
	struct loop_fd *dead_fds;
	struct loop_timer *timers; /* all living */
	struct loop_timer *armed;  /* sorted (I2) */
	struct loop_timer *dead_timers;
	uint64_t seq;
	struct lock post_lock;    /* RANK_LOOP */
	struct post *posts;       /* [post_lock] first in */
	struct post **posts_tail; /* [post_lock] */
};

static void assert_thread(const struct loop *l)
{
	BUG_ON(l->running && !pthread_equal(l->thread, pthread_self()));
}

static struct err *watch_own(struct loop *l, int fd, void *tag)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = tag };
	if (epoll_ctl(l->epoll.n, EPOLL_CTL_ADD, fd, &ev) < 0) {
		return ERR_ERRNO("main loop: epoll_ctl");
	}
	return NULL;
}

struct err *loop_new(struct loop **ret_loop)
{
	SCOPE(fd_close) struct fd ep = { .n = epoll_create1(EPOLL_CLOEXEC) };
	if (ep.n < 0) {
		return ERR_ERRNO("main loop: epoll_create1");
	}
	SCOPE(fd_close)
	struct fd tm = { .n = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK) };
	if (tm.n < 0) {
		return ERR_ERRNO("main loop: timerfd_create");
	}
	SCOPE(fd_close) struct fd ev = { .n = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	if (ev.n < 0) {
		return ERR_ERRNO("main loop: eventfd");
	}
	struct loop *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	lock_init(&l->post_lock, RANK_LOOP);
	l->posts_tail = &l->posts;
	l->epoll = fd_move(&ep);
	l->timer = fd_move(&tm);
	l->event = fd_move(&ev);
	/* The addresses of the two members tell these descriptors from a struct loop_fd. */
	struct err *e =
		err_first(watch_own(l, l->timer.n, &l->timer), watch_own(l, l->event.n, &l->event));
	if (e != NULL) {
		loop_free(l);
		return e;
	}
	*ret_loop = l;
	return NULL;
}

static void run_posts(struct loop *l);

static void bury(struct loop *l)
{
	while (l->dead_fds != NULL) {
		struct loop_fd *f = l->dead_fds;
		l->dead_fds = f->next;
		free(f);
	}
	while (l->dead_timers != NULL) {
		struct loop_timer *t = l->dead_timers;
		l->dead_timers = t->next;
		free(t);
	}
}

static void drop_posts(struct loop *l)
{
	while (l->posts != NULL) {
		struct post *p = l->posts;
		l->posts = p->next;
		free(p);
	}
}

/* Watches and timers that are left are freed. */
void loop_free(struct loop *l)
{
	if (l == NULL) {
		return;
	}
	BUG_ON(l->running);
	run_posts(l); /* what is posted by these is dropped */
	while (l->fds != NULL) {
		loop_fd_del(l->fds);
	}
	while (l->timers != NULL) {
		loop_timer_del(l->timers);
	}
	bury(l);
	drop_posts(l);
	lock_done(&l->post_lock);
	fd_close(&l->event);
	fd_close(&l->timer);
	fd_close(&l->epoll);
	free(l);
}

/*
 * Makes the kernel watch f for `events`. None takes it out of the epoll set, since epoll reports a
 * hang-up even to those who asked for nothing. Nothing changes on failure.
 */
static struct err *watch(struct loop_fd *f, uint32_t events)
{
	struct loop *l = f->loop;
	if (f->events == events) {
		return NULL;
	}
	if (!f->always_ready) {
		struct epoll_event ev = { .events = events, .data.ptr = f };
		int op = events == 0      ? EPOLL_CTL_DEL
			 : f->events == 0 ? EPOLL_CTL_ADD
					  : EPOLL_CTL_MOD;
		if (epoll_ctl(l->epoll.n, op, f->fd, &ev) < 0) {
			/* EPERM only ever comes from the first ADD: the descriptor has no poll. */
			if (errno != EPERM) {
				return ERR_ERRNO("main loop: watching descriptor %d", f->fd);
			}
			f->always_ready = true;
		}
	}
	if (f->always_ready) {
		l->nalways -= f->events != 0;
		l->nalways += events != 0;
	}
	f->events = events;
	return NULL;
}

struct err *loop_fd_add(struct loop *l, int fd, uint32_t events,
			void (*fn)(void *arg, uint32_t events), void *arg, struct loop_fd **ret_fd)
{
	assert_thread(l);
	struct loop_fd *f = calloc(1, sizeof(*f));
	ENSURE(f != NULL, ERR_SYS, "out of memory");
	*f = (struct loop_fd){ .loop = l, .fd = fd, .fn = fn, .arg = arg };
	struct err *e = watch(f, events);
	if (e != NULL) {
		free(f);
		return e;
	}
	f->next = l->fds;
	if (f->next != NULL) {
		f->next->prev = f;
	}
	l->fds = f;
	*ret_fd = f;
	return NULL;
}

struct err *loop_fd_events(struct loop_fd *f, uint32_t events)
{
	assert_thread(f->loop);
	BUG_ON(f->fn == NULL);
	return watch(f, events);
}

void loop_fd_del(struct loop_fd *f)
{
	if (f == NULL) {
		return;
	}
	struct loop *l = f->loop;
	assert_thread(l);
	BUG_ON(f->fn == NULL);
	err_drop(watch(f, 0), "fails only when the caller closed the descriptor: then it is gone");
	if (f->prev != NULL) {
		f->prev->next = f->next;
	} else {
		l->fds = f->next;
	}
	if (f->next != NULL) {
		f->next->prev = f->prev;
	}
	f->fn = NULL;
	f->fd = -1;
	f->next = l->dead_fds;
	l->dead_fds = f;
	if (!l->in_callback) {
		bury(l);
	}
}

struct err *loop_timer_add(struct loop *l, void (*fn)(void *arg), void *arg,
			   struct loop_timer **ret_timer)
{
	assert_thread(l);
	struct loop_timer *t = calloc(1, sizeof(*t));
	ENSURE(t != NULL, ERR_SYS, "out of memory");
	*t = (struct loop_timer){ .loop = l, .fn = fn, .arg = arg, .all_next = l->timers };
	if (l->timers != NULL) {
		l->timers->all_prev = t;
	}
	l->timers = t;
	*ret_timer = t;
	return NULL;
}

/* Sets the timerfd to the first armed timer. */
static void arm(struct loop *l)
{
	struct itimerspec its = { 0 };
	if (l->armed != NULL) {
		/* 0 would disarm; 1 ns after boot has passed just as well. */
		uint64_t at = MAX(l->armed->at_mono_ns, (uint64_t)1);
		its.it_value.tv_sec = (time_t)(at / 1000000000ull);
		its.it_value.tv_nsec = (long)(at % 1000000000ull);
	}
	BUG_ON(timerfd_settime(l->timer.n, TFD_TIMER_ABSTIME, &its, NULL) < 0);
}

static void disarm(struct loop_timer *t)
{
	if (!t->armed) {
		return;
	}
	struct loop_timer **at = &t->loop->armed;
	while (*at != t) {
		at = &(*at)->next;
	}
	*at = t->next;
	t->armed = false;
}

void loop_timer_set(struct loop_timer *t, uint64_t at_mono_ns)
{
	struct loop *l = t->loop;
	assert_thread(l);
	BUG_ON(t->dead);
	if (!t->armed && at_mono_ns == UINT64_MAX) {
		return;
	}
	const struct loop_timer *first = l->armed;
	uint64_t first_ns = first != NULL ? first->at_mono_ns : UINT64_MAX;
	disarm(t);
	if (at_mono_ns != UINT64_MAX) {
		t->at_mono_ns = at_mono_ns;
		t->seq = l->seq++;
		struct loop_timer **at = &l->armed;
		while (*at != NULL && (*at)->at_mono_ns <= at_mono_ns) {
			at = &(*at)->next;
		}
		t->next = *at;
		*at = t;
		t->armed = true;
	}
	if (first != l->armed || (l->armed != NULL && l->armed->at_mono_ns != first_ns)) {
		arm(l);
	}
}

void loop_timer_del(struct loop_timer *t)
{
	if (t == NULL) {
		return;
	}
	struct loop *l = t->loop;
	loop_timer_set(t, UINT64_MAX);
	if (t->all_prev != NULL) {
		t->all_prev->all_next = t->all_next;
	} else {
		l->timers = t->all_next;
	}
	if (t->all_next != NULL) {
		t->all_next->all_prev = t->all_prev;
	}
	t->dead = true;
	t->next = l->dead_timers;
	l->dead_timers = t;
	if (!l->in_callback) {
		bury(l);
	}
}

void loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
	struct post *p = malloc(sizeof(*p));
	BUG_ON(p == NULL);
	*p = (struct post){ .fn = fn, .arg = arg };
	lock_take(&l->post_lock);
	bool was_empty = l->posts == NULL;
	*l->posts_tail = p;
	l->posts_tail = &p->next;
	lock_drop(&l->post_lock);
	if (was_empty) {
		uint64_t one = 1;
		/* Cannot fail but for a full counter, which wakes the loop as well. */
		ssize_t n = write(l->event.n, &one, sizeof(one));
		(void)n;
	}
}

static void run_posts(struct loop *l)
{
	/* Before the list is taken: a post that comes later writes again. */
	uint64_t count;
	ssize_t n = read(l->event.n, &count, sizeof(count));
	(void)n;
	lock_take(&l->post_lock);
	struct post *p = l->posts;
	l->posts = NULL;
	l->posts_tail = &l->posts;
	lock_drop(&l->post_lock);
	while (p != NULL) {
		struct post *next = p->next;
		p->fn(p->arg);
		free(p);
		p = next;
	}
}

/* Timers set while this runs wait for the next turn, so one that sets itself to now starves none.
 */
static void run_timers(struct loop *l)
{
	uint64_t count;
	ssize_t n = read(l->timer.n, &count, sizeof(count));
	(void)n;
	uint64_t now = clock_mono_ns();
	uint64_t limit = l->seq;
	for (;;) {
		struct loop_timer *t = l->armed;
		while (t != NULL && t->at_mono_ns <= now && t->seq >= limit) {
			t = t->next;
		}
		if (t == NULL || t->at_mono_ns > now) {
			break;
		}
		disarm(t);
		t->fn(t->arg);
	}
	arm(l);
}

static void run_always_ready(struct loop *l)
{
	/* Collected first: a callback may delete any of them, which changes the list. */
	struct loop_fd *todo[LOOP_BATCH];
	unsigned n = 0;
	for (struct loop_fd *f = l->fds; f != NULL && n < LOOP_BATCH; f = f->next) {
		if (f->always_ready && f->events != 0) {
			todo[n++] = f;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		if (todo[i]->fn != NULL && todo[i]->events != 0) {
			todo[i]->fn(todo[i]->arg, todo[i]->events & (EPOLLIN | EPOLLOUT));
		}
	}
}

static void run_events(struct loop *l, const struct epoll_event *evs, unsigned n)
{
	bool timers = false;
	bool posts = false;
	for (unsigned i = 0; i < n; i++) {
		if (evs[i].data.ptr == &l->timer) {
			timers = true;
		} else if (evs[i].data.ptr == &l->event) {
			posts = true;
		} else {
			struct loop_fd *f = evs[i].data.ptr;
			if (f->fn != NULL) {
				f->fn(f->arg, evs[i].events);
			}
		}
	}
	if (posts) {
		run_posts(l);
	}
	if (timers) {
		run_timers(l);
	}
}

struct err *loop_run(struct loop *l)
{
	struct err *e = NULL;
	BUG_ON(l->running);
	l->running = true;
	l->thread = pthread_self();
	while (!l->quit) {
		struct epoll_event evs[LOOP_BATCH];
		int n = epoll_wait(l->epoll.n, evs, LOOP_BATCH, l->nalways > 0 ? 0 : -1);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			e = ERR_ERRNO("main loop: epoll_wait");
			break;
		}
		l->in_callback = true;
		run_events(l, evs, (unsigned)n);
		if (l->nalways > 0) {
			run_always_ready(l);
		}
		l->in_callback = false;
		bury(l);
	}
	l->quit = false;
	l->running = false;
	return e;
}

void loop_quit(struct loop *l)
{
	l->quit = true;
}
