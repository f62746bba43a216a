/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap in a VM's life: what swap (swap.h) needs to know of the VM, and what takes, rewinds and
 * resets need of it. Main loop, but for what a job's thread or the swap thread calls.
 */
#include <stdio.h>
#include <string.h>

#include "core/life_internal.h"

/* On the swap thread: memory has one server at a time, and the lazy restore's goes first. */
static struct err *swap_ready(void *arg, const bool *cancel)
{
	const struct life *l = arg;
	return l->pager != NULL ? err_wrap(pager_complete(l->pager, cancel),
					   "bringing in what a lazy restore has left out")
				: NULL;
}

static uint64_t swap_parent(void *arg)
{
	const struct life *l = arg;
	return l->parent;
}

static void swap_on_state(void *arg, const char *state, const char *error)
{
	life_tell(arg, &(struct life_news){ .kind = NEWS_SWAP, .to = state, .error = error });
}

static void swap_on_stuck(void *arg, const char *text)
{
	struct life *l = arg;
	struct swap_status st;
	swap_status(l->swap, &st);
	swap_on_state(l, st.state, text);
	life_on_stuck(l, text);
}

struct err *life_swap_new(struct life *l, struct fd *uffd, const char *why_not)
{
	struct swap_opts o = {
		.loop = l->loop,
		.gmem = l->gmem,
		.uffd = fd_move(uffd).n,
		.why_not = why_not,
		.store_dir = l->store_dir,
		.ready = swap_ready,
		.parent = swap_parent,
		.on_state = swap_on_state,
		.on_stuck = swap_on_stuck,
		.arg = l,
	};
	memcpy(o.vm, l->config.uuid, sizeof(o.vm));
	memcpy(o.family, l->config.family, sizeof(o.family));
	return swap_new(&o, &l->swap);
}

/*
 * For a take of everything: what is not there yet looks like zero pages to it. The guest runs on
 * meanwhile. A take of what changed needs nothing of that: the rest is the base's.
 */
struct err *life_swap_bring_in(struct take_job *job)
{
	struct life *l = job->life;
	if (l->pager != NULL) {
		TRY(pager_complete(l->pager, &job->cancel));
	}
	if (!job->holds_swap) {
		swap_hold(l->swap);
		job->holds_swap = true;
	}
	return swap_bring_in(l->swap, &job->cancel);
}

void life_swap_unhold(struct take_job *job)
{
	if (job->holds_swap) {
		job->holds_swap = false;
		swap_unhold(job->life->swap);
	}
}

/* ---- requests ---- */

static struct err *may_swap(const struct life *l)
{
	ENSURE(l->machine != NULL && l->fsm.state != LIFE_ENDED, ERR_NOT_NOW, "'%s' has ended",
	       l->config.name);
	return NULL;
}

/* An enable, and the take before it. */
struct enabling {
	struct life *life;
	life_swap_done_fn *done;
	void *arg;
	bool have_take;
	struct snap_result take;
};

static void enabled(void *arg, struct err *e)
{
	struct enabling *en = arg;
	en->done(en->arg, e, en->have_take ? &en->take : NULL);
	free(en);
}

static void taken(void *arg, struct err *e, const struct snap_result *result)
{
	struct enabling *en = arg;
	if (e == NULL) {
		en->have_take = true;
		en->take = *result;
		e = may_swap(en->life);
	}
	if (e == NULL) {
		e = swap_enable(en->life->swap, enabled, en);
	}
	if (e != NULL) {
		enabled(en, e);
	}
}

struct err *life_swap_enable(struct life *l, const char *tag, life_swap_done_fn *done, void *arg)
{
	TRY(may_swap(l));
	TRY(swap_possible(l->swap));
	struct enabling *en = calloc(1, sizeof(*en));
	ENSURE(en != NULL, ERR_SYS, "out of memory");
	*en = (struct enabling){ .life = l, .done = done, .arg = arg };
	struct err *e =
		tag[0] != 0 ? life_take(l, tag, 0, taken, en) : swap_enable(l->swap, enabled, en);
	if (e != NULL) {
		free(en);
	}
	return e;
}

struct err *life_swap_trim(struct life *l)
{
	TRY(may_swap(l));
	return swap_trim(l->swap);
}

struct err *life_swap_out(struct life *l)
{
	TRY(may_swap(l));
	return swap_out(l->swap);
}

struct err *life_swap_disable(struct life *l, bool slow)
{
	TRY(may_swap(l));
	return swap_disable(l->swap, slow);
}

struct err *life_swap_possible(const struct life *l)
{
	return swap_possible(l->swap);
}

void life_swap_status(struct life *l, struct swap_status *ret)
{
	swap_status(l->swap, ret);
}
