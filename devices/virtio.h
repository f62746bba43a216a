/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all virtio devices share: the virtio 1.2 PCI transport (modern only), feature negotiation,
 * queues, interrupts, kicks, saved state.
 *
 * A device embeds struct virtio as its first member and gives a struct virtio_ops. Its saved struct
 * has struct virtio_state as a sub-record (FIELD_SUB with virtio_desc), filled by virtio_fetch and
 * loaded by virtio_commit.
 *
 * Work: a guest's kick lands in an eventfd (by a doorbell without leaving the guest, or by an
 * exit), and the main loop then calls ops->work, which serves all queues. So guest memory is never
 * touched on a vCPU thread. A device with a thread of its own sets `own_thread`, watches
 * virtio_kick_fd itself and stops in dev_ops.gate.
 *
 * No kick is lost over a park or a restore: every queue is looked at again when the gate opens and
 * after a load, so that the eventfd's count is no state.
 *
 * Locks: all of it is guarded by v->pci.lock; functions below are called with it held unless they
 * say otherwise, and so are all ops.
 */
#ifndef TORPOR_DEVICES_VIRTIO_H
#define TORPOR_DEVICES_VIRTIO_H

#include "devices/pci.h"
#include "devices/virtq.h"

enum {
	VIRTIO_QUEUES_MAX = 32,
	VIRTIO_CONFIG_MAX = 256,

	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19,

	VIRTIO_STATUS_ACKNOWLEDGE = 1,
	VIRTIO_STATUS_DRIVER = 2,
	VIRTIO_STATUS_DRIVER_OK = 4,
	VIRTIO_STATUS_FEATURES_OK = 8,
	VIRTIO_STATUS_NEEDS_RESET = 64,
	VIRTIO_STATUS_FAILED = 128,
};
#define VIRTIO_NO_VECTOR 0xffffu
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)
#define VIRTIO_F_RING_RESET (1ull << 40)

struct virtio;

/* The part of a device's saved state that belongs to the transport. */
struct virtio_state {
	struct pci_state pci;
	uint64_t features;      /* what the driver chose */
	uint32_t device_select; /* which half of the features it looks at */
	uint32_t driver_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t status;
	uint8_t generation;
	uint8_t isr;
	uint8_t pad;
	uint32_t nqueues;
	uint8_t pad2[4];
	struct virtq_state queues[VIRTIO_QUEUES_MAX];
};
extern const struct state_desc virtio_desc;

struct virtio_ops {
	/* Serves the queues. Main loop, or the device's own thread by virtio_work. */
	void (*work)(struct virtio *v);
	/* The driver set DRIVER_OK, or a state in which it had was loaded. May be NULL. */
	void (*started)(struct virtio *v);
	/*
	 * Forgets all requests, of one queue or (NULL) of all: none is in flight on return, and the
	 * chains that were taken are not given back. vCPU thread. May be NULL.
	 */
	void (*reset)(struct virtio *v, struct virtq *q);
	/* Before a read of the device's configuration: brings v->config up to date. May be NULL. */
	void (*config_read)(struct virtio *v);
	/* After a write to [off, off + len) of v->config, where `config_writable` allowed it. */
	void (*config_written)(struct virtio *v, unsigned off, unsigned len);
	/* A descriptor of virtio_watch is ready. Main loop. May be NULL. */
	void (*ready)(struct virtio *v, uint32_t tag, uint32_t epoll_events);
};

struct virtio {
	struct pci_dev pci; /* first: struct device lies at its start */
	const struct virtio_ops *ops;
	char id[NAME_BYTES_MAX + 1];       /* name for messages; const */
	uint64_t offered;                  /* features; const after init */
	unsigned nqueues;                  /* const after init */
	uint16_t queue_size;               /* largest; const after init */
	bool own_thread;                   /* const after init */
	uint8_t config[VIRTIO_CONFIG_MAX]; /* [lock] device configuration */
	uint8_t config_writable[VIRTIO_CONFIG_MAX];
	unsigned config_bytes;
	struct fd kick;         /* eventfd */
	struct fd poll;         /* epoll set: kick and the device's own descriptors */
	uint64_t doorbells_at;  /* [lock] BAR address that doorbells are set for, 0: none */
	uint32_t doorbells_set; /* [lock] bit per queue */
	unsigned pci_cap; /* offset of the configuration access capability; const after init */
	/* [lock] the rest of the live state; the queues' is in q, PCI's in pci.live */
	struct virtio_state live;
	struct virtq q[VIRTIO_QUEUES_MAX];
	unsigned complaints; /* how often the log was told that the driver misbehaves */
	unsigned budget;     /* chains that this turn may still take */
};

struct virtio_opts {
	const struct virtio_ops *ops;
	const struct dev_ops *dev_ops; /* virtio_on_fd as on_fd, unless own_thread */
	const char *id;
	uint16_t type;     /* VIRTIO_ID_... */
	uint32_t class;    /* PCI class, 24 bits */
	uint64_t features; /* besides those of the transport */
	unsigned nqueues;
	uint16_t queue_size;
	unsigned config_bytes;
	bool own_thread;
};
/* Fills v, which is zero. On failure virtio_done is still to be called. Without the lock. */
MUST_USE struct err *virtio_init(struct virtio *v, const struct dev_host *host,
				 const struct virtio_opts *opts);
void virtio_done(struct virtio *v);
/* The struct snap_part of a device: `desc` is its own table, its state in `state`. */
struct snap_part virtio_part(struct virtio *v, const struct state_desc *desc, void *state,
			     const struct snap_part_ops *ops);
void virtio_on_fd(struct device *dev, uint32_t epoll_events);

static inline struct virtio *virtio_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct virtio, pci.dev);
}
static inline int virtio_kick_fd(const struct virtio *v)
{
	return v->kick.n;
}
/* The lock is taken here. For devices with a thread of their own, after their gate opened too. */
void virtio_work(struct virtio *v);

/* Adds a descriptor to the set that the main loop watches, changes its events, or (0) takes it out;
 * tag comes back in ops->ready and is not 0. Without or with the lock. */
MUST_USE struct err *virtio_watch(struct virtio *v, int fd, uint32_t tag, uint32_t epoll_events);

bool virtio_running(const struct virtio *v); /* DRIVER_OK, and not broken */
bool virtio_has(const struct virtio *v, uint64_t feature);
/* The next chain of queue n. False: there is none (kicks are on again), or the turn's share is used
 * up (the work goes on soon), or the queue is bad (the device is broken then). */
bool virtio_pop(struct virtio *v, unsigned n, struct virtq_chain *ret);
/* Gives a chain back; the driver is told by virtio_tell. */
void virtio_push(struct virtio *v, unsigned n, const struct virtq_chain *c, uint64_t written);
void virtio_tell(struct virtio *v, unsigned n);
/* The driver broke the rules: needs-reset, told by a configuration interrupt, and logged once. */
void virtio_break(struct virtio *v, const char *why);
/* v->config changed: new generation, configuration interrupt. */
void virtio_config_changed(struct virtio *v);
/* Has ops->work called soon. Any thread, without or with the lock. */
void virtio_kick(struct virtio *v);

void virtio_fetch(struct virtio *v, struct virtio_state *ret);
/* Can this device take that state? ERR_INCOMPAT; nothing changes. */
MUST_USE struct err *virtio_match(const struct virtio *v, const struct virtio_state *from);
MUST_USE struct err *virtio_commit(struct virtio *v, const struct virtio_state *from);

#endif
