/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM with --s2idle is suspended when its guest sleeps: the sleep button is pressed first, and who
 * suspends waits until the guest says that it sleeps, but not for ever. See life.h. Main loop.
 *
 * I1: a guest that sleeps because somebody asked here is awake again when the VM runs and nobody
 *     waits: after a resume, after a suspend that failed or was given up, and when it falls asleep
 *     too late for the suspend that wanted it (`unwanted`).
 */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/life_internal.h"
#include "devices/acpi_pm.h"
#include "devices/s2idle.h"

enum { IDLE_S = 15 };

static struct device *idle_device(const struct life *l)
{
	return l->machine != NULL ? machine_device(l->machine, "s2idle") : NULL;
}

bool life_asleep(const struct life *l)
{
	struct device *dev = idle_device(l);
	return dev != NULL && s2idle_asleep(dev);
}

void life_wake(const struct life *l)
{
	struct device *dev = idle_device(l);
	if (dev != NULL && l->fsm.state == LIFE_RUNNING && s2idle_wake(dev)) {
		acpi_pm_powerbtn(machine_device(l->machine, "acpi_pm"));
	}
}

static void tell(struct life *l, bool ends)
{
	struct life_waiter *w = MOVE(l->idle.waiters);
	loop_timer_set(l->idle.timer, UINT64_MAX);
	while (w != NULL) {
		struct life_waiter *next = w->next;
		w->fn(w->arg, ends ? ERR(ERR_CANCELLED, "'%s' ends", l->config.name) : NULL);
		w = next;
	}
}

static void on_limit(void *arg)
{
	struct life *l = arg;
	l->idle.ignored = true;
	l->idle.unwanted = true;
	LOG_W("the guest of '%s' does not sleep %d s after its sleep button was pressed: it is "
	      "suspended as it stands",
	      l->config.name, IDLE_S);
	tell(l, false);
}

void life_idle_changed(struct life *l)
{
	if (!life_asleep(l)) {
		return;
	}
	if (l->idle.waiters != NULL) {
		tell(l, false);
	} else if (l->idle.unwanted) {
		l->idle.unwanted = false;
		life_wake(l);
	}
}

bool life_sleep_first(struct life *l, struct life_waiter *w)
{
	if (idle_device(l) == NULL || l->fsm.state != LIFE_RUNNING || life_asleep(l)) {
		return false;
	}
	struct life_waiter **tail = &l->idle.waiters;
	if (*tail == NULL) {
		l->idle.ignored = false;
		l->idle.unwanted = false;
		acpi_pm_sleepbtn(machine_device(l->machine, "acpi_pm"));
		loop_timer_set(l->idle.timer, clock_mono_ns() + IDLE_S * 1000000000ull);
	}
	while (*tail != NULL) {
		tail = &(*tail)->next;
	}
	w->next = NULL;
	*tail = w;
	return true;
}

void life_idle_withdraw(struct life *l, const struct life_waiter *w)
{
	bool any = l->idle.waiters != NULL;
	life_unlist(&l->idle.waiters, w);
	if (any && l->idle.waiters == NULL) {
		loop_timer_set(l->idle.timer, UINT64_MAX);
		l->idle.unwanted = true;
	}
}

struct err *life_idle_begin(struct life *l)
{
	return loop_timer_add(l->loop, on_limit, l, &l->idle.timer);
}

void life_idle_end(struct life *l)
{
	if (l->idle.timer != NULL) {
		tell(l, true);
		loop_timer_del(MOVE(l->idle.timer));
	}
}
