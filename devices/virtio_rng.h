/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio entropy device (virtio 1.2, 5.4): fills what the guest gives it with getrandom(2). Served on
 * the main loop; see virtio.h.
 */
#ifndef TORPOR_DEVICES_VIRTIO_RNG_H
#define TORPOR_DEVICES_VIRTIO_RNG_H

#include "devices/virtio.h"

struct virtio_rng_state {
	struct virtio_state virtio;
};
extern const struct state_desc virtio_rng_desc;

/* id is borrowed for the device's life. */
MUST_USE struct err *virtio_rng_new(const struct dev_host *host, const char *id,
				    struct pci_dev **ret_dev);

#endif
