/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio network device (virtio 1.2, 5.1): one pair of queues and a control queue over a descriptor
 * that carries one Ethernet frame per read and write: a tap, or a socket that keeps messages apart.
 * Served on the main loop; see virtio.h.
 *
 * No frame is in flight while the device is parked: one that the guest sends is written to the host
 * and given back in one step, one that comes is read when the guest has a buffer for it. A frame
 * that waits for more buffers is no state: the network loses frames anyway.
 */
#ifndef TORPOR_DEVICES_VIRTIO_NET_H
#define TORPOR_DEVICES_VIRTIO_NET_H

#include "devices/virtio.h"

enum {
	VIRTIO_NET_MAC_BYTES = 6,
	VIRTIO_NET_HEADER_BYTES = 12, /* of a tap's frames too: TUNSETVNETHDRSZ */
	VIRTIO_NET_MTU_MIN = 68,
	VIRTIO_NET_MTU_MAX = 65535,
};

struct virtio_net_state {
	struct virtio_state virtio;
};
extern const struct state_desc virtio_net_desc;

struct virtio_net_opts {
	const char *id; /* borrowed for the device's life */
	int fd;         /* borrowed, non-blocking; -1: the link is down */
	bool header;    /* a tap whose frames have virtio's header: offloads are possible */
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	unsigned mtu; /* told to the guest; 0: nothing is */
};
MUST_USE struct err *virtio_net_new(const struct dev_host *host, const struct virtio_net_opts *opts,
				    struct pci_dev **ret_dev);

#endif
