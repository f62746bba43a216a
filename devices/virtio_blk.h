/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio block device (virtio 1.2, 5.2) over a file or a block device, or over a backend that says
 * where each piece of it lies (virtio_blk_backend.h). Requests run on a thread of the device's own,
 * which hands them to the host through io_uring and moves data straight between the file and guest
 * memory.
 *
 * Durability is what the guest asked for: a flush is an fdatasync, or all that the backend needs; a
 * guest that did not negotiate flushes gets each write synced before it is told.
 *
 * Parking drains: when the gate is closed no request is in flight, so that requests are either
 * still in the guest's ring or done. See virtio.h for the rest.
 */
#ifndef TORPOR_DEVICES_VIRTIO_BLK_H
#define TORPOR_DEVICES_VIRTIO_BLK_H

#include "devices/virtio.h"
#include "devices/virtio_blk_backend.h"

struct virtio_blk_state {
	struct virtio_state virtio;
	struct virtio_blk_seen seen;
	bool read_only;
	uint8_t pad[7];
	uint64_t ops_left; /* of the rate limits: rate_limit.h */
	uint64_t bytes_left;
};
extern const struct state_desc virtio_blk_desc;

struct virtio_blk_opts {
	const char *id; /* borrowed for the device's life; the guest sees its first 20 bytes */
	/* borrowed: a regular file or block device, opened for writing or not; not with a backend
	 */
	int fd;
	struct blk_backend backend; /* of a captured disk (docs/devices.md) */
	bool captured; /* it is one; without a backend it is only asked whether a load would do */
	bool read_only;
	unsigned queues;
	uint64_t iops; /* requests a second, 0: as many as go */
	uint64_t bps;  /* bytes read and written a second */
	/* A load takes a disk that is not as it was when the snapshot was taken. */
	bool accept_changed;
	/* A read-only disk, or what a captured one stands on, may be another file with the same
	 * size and time: the user named it. */
	bool may_be_copy;
};
MUST_USE struct err *virtio_blk_new(const struct dev_host *host, const struct virtio_blk_opts *opts,
				    struct pci_dev **ret_dev);

/*
 * Gives a running disk another size: the file is made longer or shorter, and the driver is told. A
 * longer file has holes where the old one had some. A block device only takes the size that it has.
 * Main loop, gate open. Errors: ERR_USAGE (EINVAL), ERR_NOT_NOW (EROFS; EBUSY: requests in the part
 * that goes do not end), ERR_NOSPACE, ERR_SYS; the disk is as before then.
 */
MUST_USE struct err *virtio_blk_resize(struct device *dev, uint64_t bytes);

#endif
