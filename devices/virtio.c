/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Life of a virtio device: set-up, status, queues, interrupts, saved state. See virtio.h.
 * Virtio 1.2, chapters 2.1 to 2.6 and 3.1. Every function but init, done, kick, watch, work and
 * on_fd is called with the device's lock held.
 *
 * I1: queues are served only while DRIVER_OK is set and NEEDS_RESET is not.
 * I2: features change only between a reset and FEATURES_OK.
 */
#include "devices/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "core/base/log.h"
#include "devices/virtio_internal.h"

enum {
	TURN_CHAINS = 512,  /* per turn of the main loop, so that one device starves no other */
	COMPLAINTS_MAX = 4, /* log lines that a guest can cause per device */
	TAG_KICK = 0,
	READY_BATCH = 8,
};

/* ---- set-up ---- */

/* Registers as after power-on or a reset by the driver; PCI's own stay. */
static void clear(struct virtio *v)
{
	struct pci_state pci = v->live.pci;
	v->live = (struct virtio_state){
		.pci = pci,
		.generation = v->live.generation,
		.config_vector = VIRTIO_NO_VECTOR,
		.nqueues = v->nqueues,
	};
	for (unsigned i = 0; i < v->nqueues; i++) {
		struct virtq *q = &v->q[i];
		*q = (struct virtq){
			.gmem = q->gmem,
			.st = { .size = v->queue_size, .vector = VIRTIO_NO_VECTOR },
		};
	}
}

static struct err *watch_set(struct virtio *v, int fd, uint32_t tag, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.u32 = tag };
	if (events == 0) {
		/* Not in the set is as good. */
		(void)epoll_ctl(v->poll.n, EPOLL_CTL_DEL, fd, NULL);
		return NULL;
	}
	if (epoll_ctl(v->poll.n, EPOLL_CTL_MOD, fd, &ev) == 0) {
		return NULL;
	}
	if (errno != ENOENT || epoll_ctl(v->poll.n, EPOLL_CTL_ADD, fd, &ev) < 0) {
		return ERR_ERRNO("%s: watching a descriptor", v->id);
	}
	return NULL;
}

struct err *virtio_watch(struct virtio *v, int fd, uint32_t tag, uint32_t epoll_events)
{
	BUG_ON(tag == TAG_KICK);
	return watch_set(v, fd, tag, epoll_events);
}

struct err *virtio_init(struct virtio *v, const struct dev_host *host,
			const struct virtio_opts *opts)
{
	BUG_ON(opts->nqueues == 0 || opts->nqueues > VIRTIO_QUEUES_MAX ||
	       opts->queue_size > VIRTQ_SIZE_MAX || opts->config_bytes > VIRTIO_CONFIG_MAX);
	v->ops = opts->ops;
	snprintf(v->id, sizeof(v->id), "%s", opts->id);
	v->offered = opts->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
		     VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET;
	v->nqueues = opts->nqueues;
	v->queue_size = opts->queue_size;
	v->own_thread = opts->own_thread;
	v->config_bytes = opts->config_bytes;
	v->kick = FD_NONE;
	v->poll = FD_NONE;
	v->pci.dev = (struct device){ .ops = opts->dev_ops, .host = host };
	virtio_pci_build(v, opts);
	for (unsigned i = 0; i < v->nqueues; i++) {
		v->q[i].gmem = host->gmem;
	}
	clear(v);
	/* A thread of the device's own waits in its read. Writers never wait: the count stays far
	 * from its end. */
	v->kick.n = eventfd(0, EFD_CLOEXEC | (v->own_thread ? 0 : EFD_NONBLOCK));
	if (v->kick.n < 0) {
		return ERR_ERRNO("%s: eventfd", v->id);
	}
	v->poll.n = epoll_create1(EPOLL_CLOEXEC);
	if (v->poll.n < 0) {
		return ERR_ERRNO("%s: epoll_create1", v->id);
	}
	if (v->own_thread) {
		return NULL;
	}
	return watch_set(v, v->kick.n, TAG_KICK, EPOLLIN);
}

void virtio_done(struct virtio *v)
{
	fd_close(&v->poll);
	fd_close(&v->kick);
	pci_dev_done(&v->pci);
}

struct snap_part virtio_part(struct virtio *v, const struct state_desc *desc, void *state,
			     const struct snap_part_ops *ops)
{
	return (struct snap_part){
		.name = desc->name,
		.park_rank = SNAP_RANK_DEVICE,
		.commit_rank = SNAP_RANK_DEVICE,
		.desc = desc,
		.state = state,
		.ops = ops,
		.self = v,
	};
}

/* ---- work ---- */

bool virtio_running(const struct virtio *v)
{
	return (v->live.status & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET)) ==
	       VIRTIO_STATUS_DRIVER_OK;
}

bool virtio_has(const struct virtio *v, uint64_t feature)
{
	return (v->live.features & feature) == feature;
}

void virtio_kick(struct virtio *v)
{
	uint64_t one = 1;
	/* Fails only when the counter is full, and then the work is due anyway. */
	ssize_t n = write(v->kick.n, &one, sizeof(one));
	(void)n;
}

void virtio_work(struct virtio *v)
{
	uint64_t count;
	ssize_t n = read(v->kick.n, &count, sizeof(count));
	(void)n;
	LOCK_SCOPE(&v->pci.lock);
	v->budget = TURN_CHAINS;
	if (virtio_running(v)) {
		v->ops->work(v);
	}
}

void virtio_on_fd(struct device *dev, uint32_t epoll_events)
{
	(void)epoll_events;
	struct virtio *v = virtio_of(dev);
	struct epoll_event evs[READY_BATCH];
	int n = epoll_wait(v->poll.n, evs, READY_BATCH, 0);
	for (int i = 0; i < n; i++) {
		if (evs[i].data.u32 == TAG_KICK) {
			virtio_work(v);
		} else {
			LOCK_SCOPE(&v->pci.lock);
			v->budget = TURN_CHAINS;
			v->ops->ready(v, evs[i].data.u32, evs[i].events);
		}
	}
}

bool virtio_pop(struct virtio *v, unsigned n, struct virtq_chain *ret)
{
	struct virtq *q = &v->q[n];
	if (!virtio_running(v)) {
		return false;
	}
	if (v->budget == 0) {
		virtio_kick(v);
		return false;
	}
	for (;;) {
		switch (virtq_pop(q, ret)) {
		case VIRTQ_GOT:
			v->budget--;
			return true;
		case VIRTQ_BAD:
			virtio_break(v, q->bad);
			return false;
		case VIRTQ_EMPTY:
			/* A chain that came just before kicks were on again is taken now. */
			if (!virtq_kicks(q, true)) {
				return false;
			}
			break;
		}
	}
}

void virtio_push(struct virtio *v, unsigned n, const struct virtq_chain *c, uint64_t written)
{
	virtq_push(&v->q[n], c->head, (uint32_t)MIN(written, (uint64_t)UINT32_MAX));
}

void virtio_tell(struct virtio *v, unsigned n)
{
	struct virtq *q = &v->q[n];
	if (virtq_wants_irq(q)) {
		virtio_pci_irq(v, q->st.vector, VIRTIO_ISR_QUEUE);
	}
}

void virtio_break(struct virtio *v, const char *why)
{
	if (v->complaints < COMPLAINTS_MAX) {
		v->complaints++;
		LOG_W("%s: the guest's driver broke the rules (%s); the device waits for a reset",
		      v->id, why);
	}
	if ((v->live.status & VIRTIO_STATUS_NEEDS_RESET) == 0) {
		const struct dev_host *h = v->pci.dev.host;
		v->live.status |= VIRTIO_STATUS_NEEDS_RESET;
		virtio_pci_irq(v, v->live.config_vector, VIRTIO_ISR_CONFIG);
		if (h->needs_reset != NULL) {
			h->needs_reset(h->self, v->id, why);
		}
	}
}

void virtio_config_changed(struct virtio *v)
{
	v->live.generation++;
	if ((v->live.status & VIRTIO_STATUS_DRIVER_OK) != 0) {
		virtio_pci_irq(v, v->live.config_vector, VIRTIO_ISR_CONFIG);
	}
}

/* The queues are to be served from here on. */
static void start(struct virtio *v)
{
	const struct dev_host *h = v->pci.dev.host;
	virtio_pci_doorbells(v);
	if (!v->own_thread) {
		h->watch_fd(h->self, &v->pci.dev, v->poll.n, EPOLLIN);
	}
	if (v->ops->started != NULL) {
		v->ops->started(v);
	}
	virtio_kick(v);
}

/* ---- what the driver does ---- */

static void reset(struct virtio *v)
{
	if (v->ops->reset != NULL) {
		v->ops->reset(v, NULL);
	}
	clear(v);
	pci_set_intx(&v->pci, false);
	virtio_pci_doorbells(v);
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
	if (status == 0) {
		reset(v);
		return;
	}
	uint8_t fresh = (uint8_t)(status & ~v->live.status & ~VIRTIO_STATUS_NEEDS_RESET);
	if ((fresh & VIRTIO_STATUS_FEATURES_OK) != 0 &&
	    ((v->live.features & ~v->offered) != 0 || !virtio_has(v, VIRTIO_F_VERSION_1))) {
		fresh &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* the driver reads back: refused */
	}
	uint8_t old = v->live.status;
	v->live.status |= fresh;
	if ((fresh & VIRTIO_STATUS_DRIVER_OK) != 0) {
		if ((old & VIRTIO_STATUS_FEATURES_OK) == 0) {
			virtio_break(v, "it started before it agreed on features");
			return;
		}
		if (virtio_running(v)) {
			start(v);
		}
	}
}

void virtio_queue_enable(struct virtio *v, unsigned n)
{
	struct virtq *q = &v->q[n];
	if (q->st.ready) {
		return;
	}
	if ((v->live.status & VIRTIO_STATUS_FEATURES_OK) == 0) {
		virtio_break(v, "it enabled a queue before it agreed on features");
		return;
	}
	q->event_idx = virtio_has(v, VIRTIO_F_EVENT_IDX);
	q->indirect = virtio_has(v, VIRTIO_F_INDIRECT_DESC);
	q->st.next_avail = 0;
	q->st.next_used = 0;
	q->st.told = false;
	q->st.told_used = 0;
	virtq_start(q);
	q->st.ready = true;
	if (q->bad != NULL) {
		virtio_break(v, q->bad);
		return;
	}
	virtio_kick(v); /* a queue that was reset while the device ran may have work already */
}

void virtio_queue_reset(struct virtio *v, unsigned n)
{
	struct virtq *q = &v->q[n];
	if (v->ops->reset != NULL && q->st.ready) {
		v->ops->reset(v, q);
	}
	*q = (struct virtq){
		.gmem = q->gmem,
		.st = { .size = v->queue_size, .vector = VIRTIO_NO_VECTOR },
	};
}

/* ---- saved state ---- */

void virtio_fetch(struct virtio *v, struct virtio_state *ret)
{
	*ret = v->live;
	pci_fetch(&v->pci, &ret->pci);
	for (unsigned i = 0; i < v->nqueues; i++) {
		ret->queues[i] = v->q[i].st;
	}
	for (unsigned i = v->nqueues; i < VIRTIO_QUEUES_MAX; i++) {
		ret->queues[i] = (struct virtq_state){ 0 };
	}
}

struct err *virtio_match(const struct virtio *v, const struct virtio_state *from)
{
	ENSURE(from->nqueues == v->nqueues, ERR_INCOMPAT,
	       "%s: saved with %u queues, this device has %u", v->id, from->nqueues, v->nqueues);
	bool agreed = (from->status & VIRTIO_STATUS_FEATURES_OK) != 0;
	ENSURE(!agreed || (from->features & ~v->offered) == 0, ERR_INCOMPAT,
	       "%s: the guest uses features 0x%llx that this version does not offer", v->id,
	       (unsigned long long)(from->features & ~v->offered));
	return pci_match(&v->pci, &from->pci);
}

struct err *virtio_commit(struct virtio *v, const struct virtio_state *from)
{
	TRY(virtio_match(v, from));
	TRY(pci_commit(&v->pci, &from->pci));
	v->live = *from;
	for (unsigned i = 0; i < v->nqueues; i++) {
		struct virtq *q = &v->q[i];
		q->st = from->queues[i];
		q->event_idx = virtio_has(v, VIRTIO_F_EVENT_IDX);
		q->indirect = virtio_has(v, VIRTIO_F_INDIRECT_DESC);
		q->bad = NULL;
		if (q->st.ready) {
			virtq_start(q);
		}
	}
	if (virtio_running(v)) {
		/* Kicks that came while the device was parked are in the ring, not in the record:
		 * all queues are looked at. */
		start(v);
	}
	return NULL;
}

static struct err *virtio_check(const void *state)
{
	const struct virtio_state *st = state;
	ENSURE((st->status & VIRTIO_STATUS_DRIVER_OK) == 0 ||
		       (st->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_NEEDS_RESET)) != 0,
	       ERR_CORRUPT, "virtio: a driver runs that never agreed on features");
	return NULL;
}

static const struct state_field virtio_fields[] = {
	FIELD_SUB(struct virtio_state, 1, pci, &pci_dev_desc),
	FIELD(struct virtio_state, 2, features),
	FIELD(struct virtio_state, 3, device_select),
	FIELD(struct virtio_state, 4, driver_select),
	FIELD(struct virtio_state, 5, queue_select),
	FIELD(struct virtio_state, 6, config_vector),
	FIELD(struct virtio_state, 7, status),
	FIELD(struct virtio_state, 8, generation),
	FIELD(struct virtio_state, 9, isr),
	PAD(struct virtio_state, pad),
	FIELD(struct virtio_state, 10, nqueues, FIELD_RANGE(1, VIRTIO_QUEUES_MAX)),
	PAD(struct virtio_state, pad2),
	FIELD_VSUBS(struct virtio_state, 11, queues, nqueues, &virtq_desc),
};

const struct state_desc virtio_desc = {
	.name = "virtio",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_state),
	.fields = virtio_fields,
	.nfields = ARRAY_LEN(virtio_fields),
	.check = virtio_check,
};
