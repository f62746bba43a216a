/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/loop.c: posts, timers, descriptors, deletion from within. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/base/clock.h"
#include "core/loop.h"
#include "tests/lib/expect.h"

static void quit(void *arg)
{
	loop_quit(arg);
}

/* ---- posts ---- */

enum { POSTERS = 4, POSTS = 2000 };

struct poster {
	struct loop *loop;
	unsigned id;
	unsigned next; /* order in which its posts must come */
	pthread_t thread;
};

struct message {
	struct poster *from;
	unsigned n;
};

static unsigned messages_left;

static void on_message(void *arg)
{
	struct message *m = arg;
	assert_int_equal(m->n, m->from->next);
	m->from->next++;
	if (--messages_left == 0) {
		loop_quit(m->from->loop);
	}
	free(m);
}

static void *post_many(void *arg)
{
	struct poster *p = arg;
	for (unsigned i = 0; i < POSTS; i++) {
		struct message *m = malloc(sizeof(*m));
		*m = (struct message){ p, i };
		loop_post(p->loop, on_message, m);
	}
	return NULL;
}

static void posts_from_threads_come_in_order(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct poster posters[POSTERS] = { 0 };
	messages_left = POSTERS * POSTS;
	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i] = (struct poster){ .loop = l, .id = i };
		assert_int_equal(pthread_create(&posters[i].thread, NULL, post_many, &posters[i]),
				 0);
	}
	ok(loop_run(l));
	for (unsigned i = 0; i < POSTERS; i++) {
		pthread_join(posters[i].thread, NULL);
		assert_int_equal(posters[i].next, POSTS);
	}
}

static void count_up(void *arg)
{
	++*(unsigned *)arg;
}

struct chain {
	struct loop *loop;
	unsigned n;
};

static void post_again(void *arg)
{
	struct chain *c = arg;
	if (++c->n == 10) {
		loop_quit(c->loop);
	} else {
		loop_post(c->loop, post_again, c);
	}
}

static void post_from_a_post_and_before_run(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct chain c = { l, 0 };
	loop_post(l, post_again, &c);
	ok(loop_run(l));
	assert_int_equal(c.n, 10);
	/* It can run again, and a post that no turn was left for runs at the end: once. */
	loop_post(l, quit, l);
	ok(loop_run(l));
	unsigned late = 0;
	loop_post(l, count_up, &late);
	loop_freep(&l);
	l = NULL;
	assert_int_equal(late, 1);
}

/* ---- timers ---- */

static char order[64];

struct tick {
	struct loop *loop;
	struct loop_timer *timer;
	struct tick *victim;
	char name;
	bool last;
};

static void on_tick(void *arg)
{
	struct tick *t = arg;
	size_t n = strlen(order);
	order[n] = t->name;
	order[n + 1] = '\0';
	if (t->victim != NULL) {
		loop_timer_del(MOVE(t->victim->timer));
		if (t->victim != t) {
			t->victim = NULL;
		}
	}
	if (t->last) {
		loop_quit(t->loop);
	}
}

static void timers_fire_in_order(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct tick t[6];
	uint64_t now = clock_mono_ns();
	order[0] = '\0';
	for (unsigned i = 0; i < 6; i++) {
		t[i] = (struct tick){ .loop = l, .name = (char)('a' + i) };
		ok(loop_timer_add(l, on_tick, &t[i], &t[i].timer));
	}
	loop_timer_set(t[0].timer, now + 6000000);
	loop_timer_set(t[1].timer, now + 2000000);
	loop_timer_set(t[2].timer, 0);             /* long past */
	loop_timer_set(t[3].timer, now + 2000000); /* same time as b, set later */
	loop_timer_set(t[4].timer, now + 3000000);
	loop_timer_set(t[4].timer, UINT64_MAX);
	loop_timer_set(t[5].timer, now + 1000000);
	loop_timer_set(t[5].timer, now + 9000000);
	t[5].last = true;
	ok(loop_run(l));
	assert_string_equal(order, "cbdaf");
	assert_true(clock_mono_ns() >= now + 9000000);
}

static void a_timer_deletes_itself_and_others(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct tick t[4];
	order[0] = '\0';
	for (unsigned i = 0; i < 4; i++) {
		t[i] = (struct tick){ .loop = l, .name = (char)('a' + i) };
		ok(loop_timer_add(l, on_tick, &t[i], &t[i].timer));
		loop_timer_set(t[i].timer, i + 1); /* all due at once */
	}
	t[0].victim = &t[1];
	t[2].victim = &t[2];
	t[3].last = true;
	ok(loop_run(l));
	assert_string_equal(order, "acd");
}

struct greedy {
	struct loop *loop;
	struct loop_timer *timer;
	unsigned n;
};

static void set_to_now(void *arg)
{
	struct greedy *g = arg;
	if (++g->n == 3) {
		loop_post(g->loop, quit, g->loop);
	}
	loop_timer_set(g->timer, 0);
}

static void a_timer_set_to_now_starves_nobody(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct greedy g = { .loop = l };
	ok(loop_timer_add(l, set_to_now, &g, &g.timer));
	loop_timer_set(g.timer, 0);
	ok(loop_run(l)); /* would hang */
	assert_true(g.n >= 3);
}

/* ---- descriptors ---- */

struct end {
	struct loop *loop;
	int fd;
	struct loop_fd *watch;
	struct end *victim;
	unsigned calls;
	unsigned limit;
	uint32_t events;
};

static void on_end(void *arg, uint32_t events)
{
	struct end *e = arg;
	e->calls++;
	e->events = events;
	if (e->victim != NULL && e->victim->watch != NULL) {
		loop_fd_del(MOVE(e->victim->watch));
	}
	if (e->calls >= e->limit) {
		loop_quit(e->loop);
	}
}

static void descriptors_are_level_triggered(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	struct end e = { .loop = l, .fd = p[0], .limit = 3 };
	ok(loop_fd_add(l, p[0], EPOLLIN, on_end, &e, &e.watch));
	assert_int_equal(write(p[1], "x", 1), 1);
	ok(loop_run(l));
	assert_int_equal(e.calls, 3);
	assert_true((e.events & EPOLLIN) != 0);
	loop_fd_del(e.watch);
	close(p[0]);
	close(p[1]);
}

/* Both ends are ready in one batch: the first to run deletes the other. */
static void deletion_within_a_batch(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	int s[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	struct end a = { .loop = l, .fd = s[0], .limit = 1 };
	struct end b = { .loop = l, .fd = s[1], .limit = 1, .victim = &a };
	a.victim = &b;
	ok(loop_fd_add(l, s[0], EPOLLOUT, on_end, &a, &a.watch));
	ok(loop_fd_add(l, s[1], EPOLLOUT, on_end, &b, &b.watch));
	ok(loop_run(l));
	assert_int_equal(a.calls + b.calls, 1);
	/* A watch that deletes itself. */
	struct end c = { .loop = l, .fd = s[0], .limit = 1 };
	c.victim = &c;
	loop_fd_del(a.watch);
	loop_fd_del(b.watch);
	ok(loop_fd_add(l, s[0], EPOLLOUT, on_end, &c, &c.watch));
	ok(loop_run(l));
	assert_int_equal(c.calls, 1);
	close(s[0]);
	close(s[1]);
	loop_fd_del(NULL);
}

static void events_none_is_silent_even_at_hangup(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	struct end e = { .loop = l, .fd = p[0], .limit = 1 };
	ok(loop_fd_add(l, p[0], 0, on_end, &e, &e.watch));
	close(p[1]); /* hang-up */
	struct tick t = { .loop = l, .name = 'q', .last = true };
	ok(loop_timer_add(l, on_tick, &t, &t.timer));
	order[0] = '\0';
	loop_timer_set(t.timer, clock_mono_ns() + 3000000);
	ok(loop_run(l));
	assert_int_equal(e.calls, 0);
	ok(loop_fd_events(e.watch, EPOLLIN));
	ok(loop_run(l));
	assert_int_equal(e.calls, 1);
	ok(loop_fd_events(e.watch, 0));
	loop_timer_set(t.timer, clock_mono_ns() + 3000000);
	ok(loop_run(l));
	assert_int_equal(e.calls, 1);
	loop_fd_del(e.watch);
	close(p[0]);
}

static void files_are_always_ready(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	FILE *file = tmpfile();
	assert_non_null(file);
	struct end e = { .loop = l, .fd = fileno(file), .limit = 2 };
	ok(loop_fd_add(l, e.fd, EPOLLIN, on_end, &e, &e.watch));
	ok(loop_run(l));
	assert_int_equal(e.calls, 2);
	assert_int_equal(e.events, EPOLLIN);
	/* Off: the loop sleeps until the timer. */
	ok(loop_fd_events(e.watch, 0));
	struct tick t = { .loop = l, .name = 'q', .last = true };
	ok(loop_timer_add(l, on_tick, &t, &t.timer));
	order[0] = '\0';
	loop_timer_set(t.timer, clock_mono_ns() + 1000000);
	ok(loop_run(l));
	assert_int_equal(e.calls, 2);
	fclose(file);
}

static void a_bad_descriptor_is_an_error(void **state)
{
	(void)state;
	SCOPE(loop_freep) struct loop *l = NULL;
	ok(loop_new(&l));
	struct loop_fd *f = NULL;
	struct err *e = loop_fd_add(l, 9999, EPOLLIN, on_end, NULL, &f);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_SYS);
	assert_null(f);
	err_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(posts_from_threads_come_in_order),
		cmocka_unit_test(post_from_a_post_and_before_run),
		cmocka_unit_test(timers_fire_in_order),
		cmocka_unit_test(a_timer_deletes_itself_and_others),
		cmocka_unit_test(a_timer_set_to_now_starves_nobody),
		cmocka_unit_test(descriptors_are_level_triggered),
		cmocka_unit_test(deletion_within_a_batch),
		cmocka_unit_test(events_none_is_silent_even_at_hangup),
		cmocka_unit_test(files_are_always_ready),
		cmocka_unit_test(a_bad_descriptor_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
