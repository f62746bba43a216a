/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio socket device (virtio 1.2, 5.10): stream connections between programs in the guest and
 * programs on the host, which meet at Unix sockets.
 *
 * From the host: connect to the listening socket, send "CONNECT <port>\n"; the answer is
 * "OK <host port>\n", or the end of the connection if nobody listens in the guest. From the guest: a
 * connection to port P of CID 2 becomes one to the Unix socket PATH_P.
 *
 * Connections are not part of a snapshot, as their other ends are not: after a restore the guest is
 * told that the transport was reset, and its programs see their connections end.
 *
 * All on the main loop, with the device's lock held; a reset by the driver on a vCPU thread.
 */
#ifndef TORPOR_DEVICES_VIRTIO_VSOCK_H
#define TORPOR_DEVICES_VIRTIO_VSOCK_H

#include "devices/virtio.h"

enum {
	VSOCK_CID_HOST = 2,
	VSOCK_CID_MIN = 3, /* of a guest */
	/* With the underscore and the port it fits into a socket's address. */
	VSOCK_PATH_BYTES_MAX = 96,
};

struct virtio_vsock_state {
	struct virtio_state virtio;
};
extern const struct state_desc virtio_vsock_desc;

struct virtio_vsock_opts {
	const char *id;   /* borrowed for the device's life */
	uint32_t cid;     /* the guest's */
	int listen_fd;    /* borrowed: a listening Unix stream socket, non-blocking; -1: none */
	const char *path; /* borrowed; at most VSOCK_PATH_BYTES_MAX */
};
MUST_USE struct err *virtio_vsock_new(const struct dev_host *host,
				      const struct virtio_vsock_opts *opts,
				      struct pci_dev **ret_dev);

#endif
