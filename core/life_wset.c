/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The working set of a lazily restored VM: what the guest has waited for, stored once with the
 * snapshot it was restored from, so that the next restore of it reads that first. Main loop, but
 * for the thread ("wset") that writes to the store; a failure costs the next restore some time and
 * no more.
 */
#include <pthread.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/jail.h"
#include "core/life_internal.h"

static struct err *put(struct wset_job *job)
{
	TRY(jail_thread(JAIL_JOB));
	return snap_image_wset_put(job->image, &job->demanded);
}

static void *wset_thread(void *arg)
{
	struct wset_job *job = arg;
	pthread_setname_np(pthread_self(), "wset");
	struct err *e = put(job);
	if (e !=
	    NULL) { /* the snapshot is gone, the disk full: the guest has nothing to do with it */
		LOG_D("the working set is not kept: %s", err_msg(e));
		err_free(e);
	}
	return NULL;
}

void life_wset_store(struct life *l)
{
	struct wset_job *job = &l->wset;
	if (l->pager == NULL || job->begun) {
		return;
	}
	job->begun = true;
	job->image = l->image;
	struct err *e = pager_demanded(l->pager, &job->demanded);
	if (e == NULL && job->demanded.n > 0) {
		int rc = pthread_create(&job->thread, NULL, wset_thread, job);
		job->running = rc == 0;
		e = rc != 0 ? ERR_SYSNO(rc, "starting a thread") : NULL;
	}
	err_drop(e, "then there is no record of it");
}

static void on_timer(void *arg)
{
	life_wset_store(arg);
}

struct err *life_wset_begin(struct life *l)
{
	TRY(loop_timer_add(l->loop, on_timer, l, &l->wset.timer));
	loop_timer_set(l->wset.timer, clock_mono_ns() + PAGER_DEMAND_NS);
	return NULL;
}

void life_wset_end(struct life *l)
{
	life_wset_store(l);
	if (l->wset.timer != NULL) {
		loop_timer_del(MOVE(l->wset.timer));
	}
	if (l->wset.running) {
		pthread_join(l->wset.thread, NULL);
		l->wset.running = false;
	}
	page_order_done(&l->wset.demanded);
}
