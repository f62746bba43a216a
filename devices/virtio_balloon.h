/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio memory balloon (virtio 1.2, 5.5): the guest gives pages to the host, by number (inflate)
 * or, with free page reporting, as ranges that it does not use now; the host's pages behind them
 * are freed through dev_host.give_back. The guest takes pages back (deflate, or by itself when it
 * runs short) simply by using them. Figures of the guest's memory come when asked for. Served on
 * the main loop; see virtio.h.
 *
 * Parking has nothing in flight: a page is either given back, and its chain returned, or still in
 * the ring; the buffer for figures waits in the ring, too.
 */
#ifndef TORPOR_DEVICES_VIRTIO_BALLOON_H
#define TORPOR_DEVICES_VIRTIO_BALLOON_H

#include "devices/virtio.h"

struct virtio_balloon_state {
	struct virtio_state virtio;
	uint32_t target; /* pages that the guest is to give */
	uint32_t actual; /* pages that it says it has given */
	bool tell;       /* the guest has yet to be told of the target */
	uint8_t pad[7];
};
extern const struct state_desc virtio_balloon_desc;

MUST_USE struct err *virtio_balloon_new(const struct dev_host *host, const char *id,
					struct pci_dev **ret_dev);

/* The guest's figures, in the order of their tags (5.5.6.4). */
enum virtio_balloon_stat {
	BALLOON_SWAP_IN,
	BALLOON_SWAP_OUT,
	BALLOON_MAJOR_FAULTS,
	BALLOON_MINOR_FAULTS,
	BALLOON_FREE,
	BALLOON_TOTAL,
	BALLOON_AVAILABLE,
	BALLOON_CACHES,
	BALLOON_HUGE_GIVEN,
	BALLOON_HUGE_FAILED,
	BALLOON__STATS,
};

struct virtio_balloon_info {
	uint64_t target_bytes;
	uint64_t actual_bytes;
	bool ready;     /* a driver is at work */
	bool can_tell;  /* and tells figures */
	uint64_t told;  /* how often it did */
	uint64_t ooms;  /* how often it took back pages that it had been asked for */
	uint32_t valid; /* bits of the figures that it told last */
	uint64_t stat[BALLOON__STATS];
};

/* For core, on the main loop; news come by DEV_EVENT_BALLOON. The first also works while the VM is
 * suspended: the guest hears of it when it runs. */
void virtio_balloon_target(struct device *dev, uint64_t bytes);
/* Asks the guest for its figures, if it is not asked already; `told` grows when they have come. */
void virtio_balloon_ask(struct device *dev);
struct virtio_balloon_info virtio_balloon_look(struct device *dev);

#endif
