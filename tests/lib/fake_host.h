/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A struct dev_host for unit tests of devices: time stands still until the test moves it, and every
 * service leaves a record. One device at a time, one thread. Include after cmocka.h.
 */
#ifndef TORPOR_TESTS_FAKE_HOST_H
#define TORPOR_TESTS_FAKE_HOST_H

#include <poll.h>
#include <string.h>

#include "core/base/bytes.h"
#include "devices/dev.h"

enum { FAKE_GSIS = 24 };

struct fake_host {
	struct dev_host host;
	struct device *dev; /* gets timers and descriptor events */
	bool level[FAKE_GSIS];
	unsigned rises[FAKE_GSIS];
	unsigned requests[DEV_EXIT + DEV_EXITS]; /* by enum dev_request */
	unsigned events[DEV_EVENT_SLOT + 1];     /* by enum dev_event */
	uint64_t vm_ns;
	uint64_t wall_offset_ns;
	uint64_t timer_at;
	int watch_fd;
	uint32_t watch_events;
	unsigned nmsi; /* messages sent; the last one: */
	uint64_t msi_addr;
	uint32_t msi_data;
	unsigned ndoorbells; /* set now; the address of the last one set: */
	uint64_t doorbell_gpa;
	unsigned nbroken; /* devices that wait for a reset; the last one: */
	const char *broken;
	uint64_t given_bytes; /* given back, in so many pieces */
	unsigned ngiven;
};

static inline void fake_set_irq(void *self, unsigned gsi, bool level)
{
	struct fake_host *f = self;
	assert_true(gsi < FAKE_GSIS);
	assert_true(f->level[gsi] != level); /* devices tell changes only */
	f->level[gsi] = level;
	f->rises[gsi] += level;
}

static inline void fake_request(void *self, unsigned what)
{
	struct fake_host *f = self;
	f->requests[what]++;
}

static inline void fake_event(void *self, enum dev_event what)
{
	struct fake_host *f = self;
	f->events[what]++;
}

static inline void fake_needs_reset(void *self, const char *id, const char *why)
{
	struct fake_host *f = self;
	assert_true(why[0] != 0);
	f->broken = id;
	f->nbroken++;
}

static inline uint64_t fake_vm_time(void *self)
{
	struct fake_host *f = self;
	return f->vm_ns;
}

static inline uint64_t fake_wall_time(void *self)
{
	struct fake_host *f = self;
	return f->vm_ns + f->wall_offset_ns;
}

static inline void fake_set_timer(void *self, struct device *dev, uint64_t at)
{
	struct fake_host *f = self;
	f->dev = dev;
	f->timer_at = at;
}

static inline void fake_watch_fd(void *self, struct device *dev, int fd, uint32_t events)
{
	struct fake_host *f = self;
	f->dev = dev;
	f->watch_fd = fd;
	f->watch_events = events;
}

static inline void fake_send_msi(void *self, uint64_t addr, uint32_t data)
{
	struct fake_host *f = self;
	f->nmsi++;
	f->msi_addr = addr;
	f->msi_data = data;
}

static inline bool fake_doorbell(void *self, int fd, uint64_t gpa, bool on)
{
	struct fake_host *f = self;
	(void)fd;
	f->ndoorbells += on ? 1u : -1u;
	f->doorbell_gpa = on ? gpa : f->doorbell_gpa;
	return true;
}

static inline void ok_(struct err *e);
static inline void fake_give_back(void *self, uint64_t gpa, uint64_t len)
{
	struct fake_host *f = self;
	ok_(gmem_give_back(f->host.gmem, GPA(gpa), len));
	f->given_bytes += len;
	f->ngiven++;
}

static inline void fake_host_init(struct fake_host *f)
{
	*f = (struct fake_host){
		.host = {
			.self = f,
			.set_irq = fake_set_irq,
			.request = fake_request,
			.event = fake_event,
		.needs_reset = fake_needs_reset,
			.vm_time_ns = fake_vm_time,
			.wall_time_ns = fake_wall_time,
			.set_timer = fake_set_timer,
			.watch_fd = fake_watch_fd,
			.send_msi = fake_send_msi,
			.doorbell = fake_doorbell,
			.give_back = fake_give_back,
		},
		.timer_at = UINT64_MAX,
		.watch_fd = -1,
	};
}

/* Moves time, firing the timer at each of its moments as the main loop would. */
static inline void fake_advance(struct fake_host *f, uint64_t ns)
{
	uint64_t end = f->vm_ns + ns;
	while (f->timer_at <= end) {
		f->vm_ns = f->timer_at > f->vm_ns ? f->timer_at : f->vm_ns;
		f->timer_at = UINT64_MAX;
		f->dev->ops->on_timer(f->dev);
	}
	f->vm_ns = end;
}

/* Serves descriptor events until there are none. */
static inline void fake_loop(struct fake_host *f)
{
	for (unsigned i = 0; i < 1000; i++) {
		struct pollfd p = { .fd = f->watch_fd, .events = POLLIN };
		if (f->watch_fd < 0 || f->watch_events == 0 || poll(&p, 1, 0) <= 0) {
			return;
		}
		f->dev->ops->on_fd(f->dev, (uint32_t)p.revents);
	}
	fail_msg("the device's descriptor stays ready: the main loop would spin");
}

static inline uint8_t dev_in(struct device *dev, unsigned range, uint64_t off)
{
	uint64_t v = 0;
	dev->ops->read(dev, range, off, 1, &v);
	return (uint8_t)v;
}

static inline void dev_out(struct device *dev, unsigned range, uint64_t off, unsigned v)
{
	dev->ops->write(dev, range, off, 1, v);
}

static inline void ok_(struct err *e)
{
	if (e != NULL) {
		fail_msg("%s [%s]", err_msg(e), err_trace_text(e));
	}
}

/* Saves `from` as a take does and loads the record into `to`: encode, decode, commit. */
static inline void dev_carry_over(struct device *from, struct device *to)
{
	struct snap_part *p = &from->part;
	struct snap_part *q = &to->part;
	const struct fake_host *there = from->host->self;
	struct fake_host *here = to->host->self;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 20);
	if (p->ops->park != NULL) {
		ok_(p->ops->park(p->self));
	}
	ok_(p->ops->fetch(p->self));
	ok_(desc_encode(p->desc, p->instance, p->state, &w));
	ok_(desc_decode(q->desc, q->instance, w.p, w.len, q->state));
	ok_(q->ops->commit(q->self));
	memcpy(here->level, there->level, sizeof(here->level)); /* the irqchip's own state */
	/* What was loaded is what was saved. */
	SCOPE(freep) void *before = malloc(p->desc->size);
	memcpy(before, p->state, p->desc->size);
	ok_(q->ops->fetch(q->self));
	ok_(desc_compare(p->desc, before, q->state));
}

#endif
