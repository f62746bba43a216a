/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small driver for virtio over PCI, for the freestanding guests: finds devices by ECAM, sets up
 * queues with MSI-X or INTA, offers chains and takes them back. Ring 3 but for the interrupt handlers.
 */
#ifndef TESTS_GUEST_VDRV_H
#define TESTS_GUEST_VDRV_H

#include "rt.h"

#define V_ECAM 0xe0000000ull
#define V_QUEUES 4
#ifndef V_SIZE
#define V_SIZE 32 /* entries of a queue */
#endif

#define V_NEXT 1
#define V_WRITE 2
#define V_INDIRECT 4

#define V_VERSION_1 (1ull << 32)
#define V_EVENT_IDX (1ull << 29)
#define V_INDIRECT_DESC (1ull << 28)

struct vdesc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct vqueue {
	struct vdesc desc[V_SIZE] __attribute__((aligned(4096)));
	volatile uint16_t avail[3 + V_SIZE] __attribute__((aligned(4)));
	volatile uint32_t used[1 + 2 * V_SIZE + 1] __attribute__((aligned(4096)));
	uint16_t seen; /* used entries taken */
	uint16_t next; /* descriptor that the next chain begins with */
};

struct vdev {
	unsigned slot;
	unsigned type;
	uint64_t bar;
	uint64_t common, isr, config, notify; /* addresses */
	uint32_t notify_step;
	unsigned msix;	/* capability's place, 0: none */
	uint64_t table; /* its address */
	uint64_t features;
	struct vqueue *q[V_QUEUES];
};

uint32_t v_cfg_get(unsigned slot, unsigned off); /* 32 bits */
void v_cfg_put(unsigned slot, unsigned off, uint32_t v);
uint32_t v_cfg_get_port(unsigned slot, unsigned off); /* by 0xcf8 and 0xcfc */

/* Set before v_find: the VMM may have no ports of configuration space, and may leave BARs unplaced. */
extern bool v_any_vmm;

/* The device of a virtio type in one place: a slot of bus 0, or 32 times the bus. Its queues stay. */
bool v_open(unsigned slot, unsigned type, struct vdev *ret);
/* The nth device of a virtio type; false: there is none. */
bool v_find(unsigned type, unsigned nth, struct vdev *ret);
/* Reads the capabilities again, after the BAR moved. */
void v_map(struct vdev *d);
void v_move(struct vdev *d, uint64_t bar);

/* Reset, features (those of `want` that are offered), n queues; MSI-X vector `vec` + queue on the
 * local APIC, or INTA when vec is 0. The device runs on return. */
void v_start(struct vdev *d, uint64_t want, unsigned n, unsigned vec);
uint8_t v_status(const struct vdev *d);

/* One chain of readable then writable buffers; returns its head. Kicks. */
struct vbuf {
	const volatile void *p;
	uint32_t len;
};
uint16_t v_offer(struct vdev *d, unsigned q, const struct vbuf *b, unsigned nread, unsigned nwrite);
/* The same in the descriptors from `at` on: for chains that come back in another order than they went. */
void v_offer_at(struct vdev *d, unsigned q, unsigned at, const struct vbuf *b, unsigned nread,
		unsigned nwrite);
void v_kick(const struct vdev *d, unsigned q);
/* A chain that came back: its length into *ret_len. */
bool v_taken(struct vdev *d, unsigned q, uint16_t *ret_head, uint32_t *ret_len);
/* Waits for one, halted: an interrupt that never comes hangs the guest. */
uint16_t v_wait(struct vdev *d, unsigned q, uint32_t *ret_len);
extern volatile uint64_t v_irqs; /* interrupts seen by the handlers that v_start installs */

static inline uint8_t v_get8(uint64_t a)
{
	return *(volatile uint8_t *)a;
}
static inline uint16_t v_get16(uint64_t a)
{
	return *(volatile uint16_t *)a;
}
static inline uint32_t v_get32(uint64_t a)
{
	return *(volatile uint32_t *)a;
}
static inline void v_put8(uint64_t a, uint8_t v)
{
	*(volatile uint8_t *)a = v;
}
static inline void v_put16(uint64_t a, uint16_t v)
{
	*(volatile uint16_t *)a = v;
}
static inline void v_put32(uint64_t a, uint32_t v)
{
	*(volatile uint32_t *)a = v;
}

#endif
