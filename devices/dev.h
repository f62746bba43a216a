/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device is (struct dev_ops) and what it is given (struct dev_host).
 *
 * A device knows guest memory and its own field table; never KVM, the store, the snapshot engine or
 * another device. Core builds it, registers its ranges on the bus, and lists its snapshot part.
 *
 * Threads: read and write come from vCPU threads, on_fd and on_timer from the main loop, part
 * operations from the thread that takes or loads; a device guards its state with its own lock
 * (RANK_DEVICE). While parked a device gets none of them: input stays in the descriptor, timers wait.
 */
#ifndef TORPOR_DEVICES_DEV_H
#define TORPOR_DEVICES_DEV_H

#include "core/gmem.h"
#include "snapshot/part.h"

struct device;

enum dev_request {
	DEV_RESET,    /* guest asked for a reset */
	DEV_POWEROFF, /* guest powered off (S5) */
	DEV_PANIC,    /* guest panicked */
};

/* Services, filled in by core. Every function may be called with the device's own lock held. */
struct dev_host {
	void *self;
	struct gmem *gmem;
	/* Sets an interrupt line (ISA IRQ = GSI) of the irqchip. Any thread. */
	void (*set_irq)(void *self, unsigned gsi, bool level);
	/* Tells core what the guest wants; acted on once the vCPU is out of its exit. Any thread. */
	void (*request)(void *self, enum dev_request what);
	/* VM time: ns of the guest's monotonic clock, stands still while suspended or parked. */
	uint64_t (*vm_time_ns)(void *self);
	/* Wall time for the guest's RTC, ns since 1970, following the VM's clock policy. */
	uint64_t (*wall_time_ns)(void *self);
	/* One timer per device on the main loop: dev_ops.on_timer at that VM time; UINT64_MAX: off. */
	void (*set_timer)(void *self, struct device *dev, uint64_t at_vm_ns);
	/* Watches one descriptor per device for input (EPOLLIN) and/or output (EPOLLOUT); 0 stops. */
	void (*watch_fd)(void *self, struct device *dev, int fd, uint32_t epoll_events);
};

enum dev_space { DEV_PIO, DEV_MMIO };

struct dev_range {
	enum dev_space space;
	uint64_t base;
	uint64_t len;
};

struct dev_ops {
	const char *name;
	/* off is relative to ranges[range].base; len is 1, 2, 4 or 8; *data has len valid low bytes. */
	void (*read)(struct device *dev, unsigned range, uint64_t off, unsigned len, uint64_t *data);
	void (*write)(struct device *dev, unsigned range, uint64_t off, unsigned len, uint64_t data);
	void (*on_fd)(struct device *dev, uint32_t epoll_events); /* may be NULL */
	void (*on_timer)(struct device *dev);                     /* may be NULL */
	void (*free)(struct device *dev);
};

/* Embedded as the first member of every device struct. */
struct device {
	const struct dev_ops *ops;
	const struct dev_host *host; /* const after init */
	struct dev_range ranges[4];
	unsigned nranges;
	struct snap_part part; /* part.desc == NULL: nothing to save (a stateless device) */
	void *core;            /* for core's use */
};

#endif
