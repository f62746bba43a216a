/* SPDX-License-Identifier: Apache-2.0 */
/* Freeze, park, read, and the way back. See quiesce.h. */
#include "snapshot/quiesce.h"

#include <string.h>

#include "core/base/clock.h"

struct err *quiesce_sort(struct snap_part *const *parts, size_t nparts, bool commit,
			 struct snap_part ***ret)
{
	ENSURE(nparts >= 1 && nparts <= PARTS_MAX, ERR_LIMIT, "%zu parts, 1..%u are possible",
	       nparts, PARTS_MAX);
	struct snap_part **order = calloc(nparts, sizeof(struct snap_part *));
	ENSURE(order != NULL, ERR_SYS, "out of memory for %zu parts", nparts);
	/* Insertion from behind keeps parts of equal rank in the order of the list. */
	for (size_t i = 0; i < nparts; i++) {
		struct snap_part *p = parts[i];
		int rank = commit ? p->commit_rank : p->park_rank;
		size_t k = i;
		while (k > 0 &&
		       (commit ? order[k - 1]->commit_rank : order[k - 1]->park_rank) > rank) {
			order[k] = order[k - 1];
			k--;
		}
		order[k] = p;
	}
	*ret = order;
	return NULL;
}

struct err *quiesce_init(struct quiesce *q, const struct snap_vm *vm)
{
	*q = (struct quiesce){ .vm = vm };
	TRY(quiesce_sort(vm->parts, vm->nparts, false, &q->order));
	q->state_at = calloc(vm->nparts, sizeof(*q->state_at));
	ENSURE(q->state_at != NULL, ERR_SYS, "out of memory");
	size_t total = 0;
	for (size_t i = 0; i < vm->nparts; i++) {
		q->state_at[i] = total;
		total += round_up_u64(vm->parts[i]->desc->size, 64);
	}
	q->states = malloc(MAX(total, (size_t)1));
	ENSURE(q->states != NULL, ERR_SYS, "out of memory");
	memset(q->states, 0, MAX(total, (size_t)1)); /* touched: no fault while the guest waits */
	return NULL;
}

static struct err *hold(struct quiesce *q)
{
	const struct snap_vm *vm = q->vm;
	q->frozen_at_ns = clock_real_ns();
	for (size_t i = 0; i < vm->nparts; i++) {
		struct snap_part *p = q->order[i];
		if (p->ops->park != NULL) {
			TRY(err_wrap(p->ops->park(p->self), "parking %s/%u", p->name, p->instance));
		}
		q->nparked = i + 1;
	}
	if (vm->ops->flush_irqs != NULL) {
		TRY(err_wrap(vm->ops->flush_irqs(vm->self), "flushing interrupts of %s", vm->name));
	}
	for (size_t i = 0; i < vm->nparts; i++) {
		struct snap_part *p = q->order[i];
		TRY(err_wrap(p->ops->fetch(p->self), "reading the state of %s/%u", p->name,
			     p->instance));
	}
	for (size_t i = 0; i < vm->nparts; i++) {
		memcpy(q->states + q->state_at[i], vm->parts[i]->state, vm->parts[i]->desc->size);
	}
	return NULL;
}

struct err *quiesce_hold(struct quiesce *q)
{
	struct err *e = hold(q);
	if (e != NULL) {
		quiesce_release(q);
	}
	return e;
}

void quiesce_release(struct quiesce *q)
{
	while (q->nparked > 0) {
		struct snap_part *p = q->order[--q->nparked];
		if (p->ops->unpark != NULL) {
			p->ops->unpark(p->self);
		}
	}
}

const void *quiesce_state(const struct quiesce *q, size_t i)
{
	return q->states + q->state_at[i];
}

static struct err *stand_still(struct quiesce *q)
{
	const struct snap_vm *vm = q->vm;
	q->started_mono_ns = clock_mono_ns();
	TRY(err_wrap(vm->ops->freeze(vm->self), "freezing %s", vm->name));
	q->frozen = true;
	return hold(q);
}

struct err *quiesce_begin(struct quiesce *q)
{
	struct err *e = stand_still(q);
	if (e != NULL) {
		quiesce_end(q);
	}
	return e;
}

void quiesce_end(struct quiesce *q)
{
	quiesce_release(q);
	if (q->frozen) {
		q->frozen = false;
		q->vm->ops->thaw(q->vm->self);
		q->pause_us = (clock_mono_ns() - q->started_mono_ns) / 1000;
	}
}

void quiesce_done(struct quiesce *q)
{
	if (q->order != NULL) {
		quiesce_end(q);
	}
	free(q->order);
	free(q->state_at);
	free(q->states);
	q->order = NULL;
	q->state_at = NULL;
	q->states = NULL;
}
