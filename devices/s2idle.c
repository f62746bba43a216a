/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's sleep, as it tells of it. See s2idle.h. Every entry takes the device's lock. */
#include "devices/s2idle.h"

#include "core/base/lock.h"

struct s2idle {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	struct s2idle_state live;
	bool woken;                /* somebody has taken it on himself to wake the guest */
	struct s2idle_state saved; /* part.state */
};

static void s2idle_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			uint64_t *data)
{
	(void)range;
	(void)off;
	(void)len;
	*data = s2idle_asleep(dev);
}

static void s2idle_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t data)
{
	(void)range;
	(void)off;
	(void)len;
	struct s2idle *s = CONTAINER_OF(dev, struct s2idle, dev);
	bool asleep = (data & 1) != 0;
	LOCK_SCOPE(&s->lock);
	if (s->live.asleep != asleep) {
		s->live.asleep = asleep;
		s->woken = false;
		dev->host->event(dev->host->self, DEV_EVENT_S2IDLE);
	}
}

static void s2idle_free(struct device *dev)
{
	if (dev != NULL) {
		struct s2idle *s = CONTAINER_OF(dev, struct s2idle, dev);
		lock_done(&s->lock);
		free(s);
	}
}

bool s2idle_asleep(struct device *dev)
{
	struct s2idle *s = CONTAINER_OF(dev, struct s2idle, dev);
	LOCK_SCOPE(&s->lock);
	return s->live.asleep;
}

bool s2idle_wake(struct device *dev)
{
	struct s2idle *s = CONTAINER_OF(dev, struct s2idle, dev);
	LOCK_SCOPE(&s->lock);
	bool first = s->live.asleep && !s->woken;
	s->woken = s->woken || first;
	return first;
}

/* ---- saved state ---- */

static struct err *s2idle_fetch(void *self)
{
	struct s2idle *s = self;
	LOCK_SCOPE(&s->lock);
	s->saved = s->live;
	return NULL;
}

static struct err *s2idle_commit(void *self)
{
	struct s2idle *s = self;
	LOCK_SCOPE(&s->lock);
	s->live = s->saved;
	s->woken = false; /* a button that was pressed is in the ACPI hardware's state; twice is
			     noted once */
	return NULL;
}

static const struct state_field s2idle_fields[] = {
	FIELD(struct s2idle_state, 1, asleep),
	PAD(struct s2idle_state, pad),
};

const struct state_desc s2idle_desc = {
	.name = "s2idle",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct s2idle_state),
	.fields = s2idle_fields,
	.nfields = ARRAY_LEN(s2idle_fields),
};

static const struct snap_part_ops s2idle_part_ops = {
	.fetch = s2idle_fetch,
	.commit = s2idle_commit,
};

static const struct dev_ops s2idle_ops = {
	.name = "s2idle",
	.read = s2idle_read,
	.write = s2idle_write,
	.free = s2idle_free,
};

struct err *s2idle_new(const struct dev_host *host, struct device **ret_dev)
{
	struct s2idle *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	lock_init(&s->lock, RANK_DEVICE);
	s->dev = (struct device){
		.ops = &s2idle_ops,
		.host = host,
		.ranges = { { .space = DEV_PIO, .base = S2IDLE_PORT, .len = 1 } },
		.nranges = 1,
		.part = {
			.name = s2idle_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &s2idle_desc,
			.state = &s->saved,
			.ops = &s2idle_part_ops,
			.self = s,
		},
	};
	*ret_dev = &s->dev;
	return NULL;
}
