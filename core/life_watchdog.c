/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog: ends a VM none of whose vCPUs has moved for a while. A vCPU moves when it leaves
 * the guest for a device, or is seen with interrupts enabled; so a guest that idles or computes
 * moves, and one whose processors all have halted or loop with interrupts disabled does not. What
 * is suspended is not looked at, and who waits for memory or for a processor of the host counts as
 * moving. Main loop only.
 */
#include <inttypes.h>
#include <stdio.h>

#include "core/base/clock.h"
#include "core/life_internal.h"

enum {
	LOOKS = 8, /* within the limit */
	LOOK_MOST_NS = 2000000000,
};

static void again(const struct life *l)
{
	uint64_t step = MIN(l->watchdog.limit_ns / LOOKS, (uint64_t)LOOK_MOST_NS);
	loop_timer_set(l->watchdog.timer, clock_mono_ns() + step);
}

static void on_timer(void *arg)
{
	struct life *l = arg;
	uint64_t now = clock_mono_ns();
	again(l);
	if (l->fsm.state != LIFE_RUNNING) {
		l->watchdog.moved_ns = now;
		return;
	}
	if (l->job != NULL) {
		return; /* it stops the vCPUs itself: the next look counts */
	}
	if (machine_look_vcpus(l->machine)) {
		l->watchdog.moved_ns = now;
		return;
	}
	if (now - l->watchdog.moved_ns < l->watchdog.limit_ns) {
		return;
	}
	char text[160];
	snprintf(text, sizeof(text),
		 "no vCPU has moved for %" PRIu64 " s: all have interrupts disabled, and none "
		 "speaks to a device",
		 (now - l->watchdog.moved_ns) / 1000000000);
	life_end(l, VM_END_WATCHDOG, text);
}

struct err *life_watchdog_new(struct life *l, uint64_t limit_ns)
{
	if (limit_ns == 0) {
		return NULL;
	}
	l->watchdog.limit_ns = limit_ns;
	l->watchdog.moved_ns = clock_mono_ns();
	TRY(loop_timer_add(l->loop, on_timer, l, &l->watchdog.timer));
	again(l);
	return NULL;
}

void life_watchdog_free(struct life *l)
{
	if (l->watchdog.timer != NULL) {
		loop_timer_del(l->watchdog.timer);
		l->watchdog.timer = NULL;
	}
}
