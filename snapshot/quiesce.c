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
	return quiesce_sort(vm->parts, vm->nparts, false, &q->order);
}

static struct err *stand_still(struct quiesce *q)
{
	const struct snap_vm *vm = q->vm;
	q->started_mono_ns = clock_mono_ns();
	TRY(err_wrap(vm->ops->freeze(vm->self), "freezing %s", vm->name));
	q->frozen = true;
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
	return NULL;
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
	while (q->nparked > 0) {
		struct snap_part *p = q->order[--q->nparked];
		if (p->ops->unpark != NULL) {
			p->ops->unpark(p->self);
		}
	}
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
		free(q->order);
		q->order = NULL;
	}
}
