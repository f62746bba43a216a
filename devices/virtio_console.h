/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio console (virtio 1.2, 5.3), one port: what the guest writes goes to a link (serial_link.h),
 * what comes from there into the guest's buffers. Served on the main loop; see virtio.h.
 *
 * Output passes a backlog, so that a guest waits for a slow reader but not for an absent one. A
 * chain that does not fit stays in the guest's ring, with a note how much of it was taken; input
 * stays in the link's descriptor until the guest has a buffer for it. So a park has nothing in
 * flight, and no byte is lost or doubled.
 */
#ifndef TORPOR_DEVICES_VIRTIO_CONSOLE_H
#define TORPOR_DEVICES_VIRTIO_CONSOLE_H

#include "devices/virtio.h"

#define VIRTIO_CONSOLE_OUT_BYTES 16384u

struct virtio_console_state {
	struct virtio_state virtio;
	uint64_t sent; /* bytes of the oldest chain in the transmit ring that were taken already */
	uint32_t out_count;
	uint8_t out[VIRTIO_CONSOLE_OUT_BYTES]; /* taken, and not yet by the host's end; oldest first
						*/
	uint8_t pad[4];
};
extern const struct state_desc virtio_console_desc;

struct serial_link;
/* id and link are borrowed for the device's life; the link outlives it, with output that nobody
 * took. */
MUST_USE struct err *virtio_console_new(const struct dev_host *host, const char *id,
					struct serial_link *link, struct pci_dev **ret_dev);

#endif
