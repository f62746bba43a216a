/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main loop: epoll over descriptors, one-shot timers, and calls handed in from other threads.
 * All callbacks run on the thread in loop_run. loop_post is the only function for other threads.
 */
#ifndef TORPOR_CORE_LOOP_H
#define TORPOR_CORE_LOOP_H

#include "core/base/err.h"

struct loop;
struct loop_fd;
struct loop_timer;

MUST_USE struct err *loop_new(struct loop **ret_loop);
void loop_free(struct loop *l);
DEFINE_SCOPE(struct loop, loop_free)

/* Watches fd (borrowed) until loop_fd_del; level-triggered epoll events. */
MUST_USE struct err *loop_fd_add(struct loop *l, int fd, uint32_t events,
				 void (*fn)(void *arg, uint32_t events), void *arg,
				 struct loop_fd **ret_fd);
MUST_USE struct err *loop_fd_events(struct loop_fd *f, uint32_t events);
void loop_fd_del(struct loop_fd *f); /* NULL is fine; fn is not called again */

/* A timer; disarmed at first. at_mono_ns UINT64_MAX disarms. */
MUST_USE struct err *loop_timer_add(struct loop *l, void (*fn)(void *arg), void *arg,
				    struct loop_timer **ret_timer);
void loop_timer_set(struct loop_timer *t, uint64_t at_mono_ns);
void loop_timer_del(struct loop_timer *t);

/* Any thread: runs fn(arg) on the loop's thread soon. In order. Fails only for lack of memory,
 * which ends the process. What no turn was left for runs in loop_free, so that it frees what it
 * holds: by then its owner may be gone, and fn has to know. */
void loop_post(struct loop *l, void (*fn)(void *arg), void *arg);

/* Runs until loop_quit. */
MUST_USE struct err *loop_run(struct loop *l);
void loop_quit(struct loop *l);

#endif
