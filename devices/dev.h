/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device is (struct dev_ops) and what it is given (struct dev_host).
 *
 * A device knows guest memory and its own field table; never KVM, the store, the snapshot engine or
 * another device. Core builds it, registers its ranges on the bus, and lists its snapshot part. A
 * device behind PCI has no ranges of its own: see pci.h, and virtio.h for virtio devices.
 *
 * Threads: read and write come from vCPU threads, on_fd and on_timer from the main loop, part
 * operations from the thread that takes or loads; a device guards its state with its own lock
 * (RANK_DEVICE). While parked a device gets none of them: input stays in the descriptor, timers
 * wait. A device with a thread of its own stops that thread in `gate`.
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
	DEV_EXIT,     /* DEV_EXIT + n, n below DEV_EXITS: the exit device of tests was told n */
};
enum { DEV_EXITS = 32 };

/* Events of a device. ACPI hardware collects them, raises SCI for them, and they wake the machine.
 */
enum dev_event {
	DEV_EVENT_RTC,        /* the real-time clock's alarm rings */
	DEV_EVENT_PCIE_WAKE,  /* a PCI Express device asks for power (PME, WAKE#) */
	DEV_EVENT_GENERATION, /* the VM generation id is another one */
	DEV_EVENT_S2IDLE,     /* the guest sleeps, or is awake again; no affair of ACPI's either */
	DEV_EVENT_BALLOON,    /* the balloon changed, or told its figures; no affair of ACPI's */
	DEV_EVENT_SLOT,       /* the guest gave up a device behind a root port; likewise */
};

/* Services, filled in by core. Every function may be called with the device's own lock held. */
struct dev_host {
	void *self;
	struct gmem *gmem;
	/* Sets an interrupt line (ISA IRQ = GSI) of the irqchip. Any thread. */
	void (*set_irq)(void *self, unsigned gsi, bool level);
	/* Tells core what the guest wants; acted on once the vCPU is out of its exit. Any thread.
	 */
	void (*request)(void *self, unsigned what /* enum dev_request */);
	/* Tells ACPI hardware, or core. Any thread. */
	void (*event)(void *self, enum dev_event what);
	/* VM time: ns of the guest's monotonic clock, stands still while suspended or parked. */
	uint64_t (*vm_time_ns)(void *self);
	/* Wall time for the guest's RTC, ns since 1970, following the VM's clock policy. */
	uint64_t (*wall_time_ns)(void *self);
	/* One timer per device on the main loop: dev_ops.on_timer at that VM time; UINT64_MAX: off.
	 */
	void (*set_timer)(void *self, struct device *dev, uint64_t at_vm_ns);
	/* Watches one descriptor per device for input (EPOLLIN) and/or output (EPOLLOUT); 0 stops.
	 */
	void (*watch_fd)(void *self, struct device *dev, int fd, uint32_t epoll_events);
	/*
	 * A message-signalled interrupt. Delivered on return: nothing is under way when the caller
	 * stops calling. Any thread. May be NULL where no device sends any.
	 */
	void (*send_msi)(void *self, uint64_t addr, uint32_t data);
	/*
	 * From now on (on) a guest's write of any width at gpa adds to the eventfd `fd` and does
	 * not reach the device's write, or does again (off, with the same fd and gpa). False: this
	 * host cannot, writes go on to come to the device. Any thread. May be NULL.
	 */
	bool (*doorbell)(void *self, int fd, uint64_t gpa, bool on);
	/*
	 * Gives whole pages of one region of RAM back to the host: they read as zero from now on,
	 * until somebody writes to them. Main loop. May be NULL.
	 */
	void (*give_back)(void *self, uint64_t gpa, uint64_t len);
	/* The driver of device `id` broke the rules, as `why` says: the device waits for a reset.
	 * Any thread. May be NULL. */
	void (*needs_reset)(void *self, const char *id, const char *why);
	/* The first thing that a thread of a device does: puts its limits in force. May be NULL. */
	struct err *(*enter_thread)(void *self);
};

enum dev_space { DEV_PIO, DEV_MMIO };

struct dev_range {
	enum dev_space space;
	uint64_t base;
	uint64_t len;
	/* Taken only by an access of exactly this base and length, and before any other range that
	 * covers it: the address register of PCI at 0xcf8 spans the reset register at 0xcf9. */
	bool whole;
};

struct dev_ops {
	const char *name;
	/* off is relative to ranges[range].base; len is 1, 2, 4 or 8; *data has len valid low
	 * bytes. */
	void (*read)(struct device *dev, unsigned range, uint64_t off, unsigned len,
		     uint64_t *data);
	void (*write)(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t data);
	void (*on_fd)(struct device *dev, uint32_t epoll_events); /* may be NULL */
	void (*on_timer)(struct device *dev);                     /* may be NULL */
	/*
	 * Devices with threads of their own, else NULL. true: from return on none of them touches
	 * guest memory, interrupts or the device's state, and no request is in flight; false: they
	 * go on. Called when callbacks are kept away or let in again, in the same order, on the
	 * main loop or the thread of a take, without any lock held. Twice the same is fine. It is
	 * closed when the device is made and opens when the VM starts: an interrupt that came
	 * between the load of the device and that of the interrupt controller would be lost.
	 */
	void (*gate)(struct device *dev, bool closed);
	void (*free)(struct device *dev);
};

/* Embedded as the first member of every device struct. */
struct device {
	const struct dev_ops *ops;
	const struct dev_host *host; /* const after init */
	struct dev_range ranges[6];
	unsigned nranges;
	struct snap_part part; /* part.desc == NULL: nothing to save (a stateless device) */
	void *core;            /* for core's use */
};

#endif
