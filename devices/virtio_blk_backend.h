/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a virtio disk stands on where that is not simply one file: core gives the device a table of
 * operations. The device asks where a piece of a request lies, moves the data itself where that is
 * a file (io_uring, straight to guest memory), and leaves the rest to the backend.
 *
 * Threads: locate, done and flush are called by the disk's worker with the device's lock; read,
 * write and zero by the worker without it; look and resize by whoever holds the device's lock
 * (main loop, take, load), the last one with nothing in flight; attach when the device is made and
 * freed. No piece is in flight while the device is parked.
 */
#ifndef TORPOR_DEVICES_VIRTIO_BLK_BACKEND_H
#define TORPOR_DEVICES_VIRTIO_BLK_BACKEND_H

#include <sys/uio.h>

#include "core/base/err.h"

/* What stands behind a disk, to notice at a restore that it is another or has been written to. */
struct virtio_blk_seen {
	uint64_t dev;
	uint64_t ino;
	uint64_t len_bytes;
	uint64_t mtime_ns;
	bool is_file; /* a block device's time says nothing about its content */
	uint8_t pad[7];
};

enum blk_op { BLK_READ, BLK_WRITE, BLK_ZERO };

enum blk_where {
	BLK_FILE,    /* at `at` of fd; the device moves the data */
	BLK_HOLE,    /* reads as zeros */
	BLK_BACKEND, /* read, write or zero does it */
	BLK_BUSY,    /* not now: asked again when another piece is done, or somebody wakes us */
};

struct blk_piece {
	enum blk_where where;
	int fd;
	uint64_t at;
	uint64_t off;   /* of the disk */
	uint64_t len;   /* at least 1, at most what was asked for */
	unsigned token; /* the backend's */
};

enum blk_sync {
	BLK_SYNC_FD,   /* *ret_fd is to be synced next, then flush is called with the next step */
	BLK_SYNC_DONE, /* all that was done before is durable */
	BLK_SYNC_BUSY, /* not now: asked again likewise */
	BLK_SYNC_FAILED,
};

struct blk_backend_ops {
	struct err *(*look)(void *self, struct virtio_blk_seen *ret);
	/* Where [off, off + len), which lies in the disk, begins. */
	void (*locate)(void *self, enum blk_op op, uint64_t off, uint64_t len,
		       struct blk_piece *ret);
	/* A write or zero that locate has placed (not: busy) has ended. Called once for each. */
	void (*done)(void *self, const struct blk_piece *p, bool good);
	/* A piece that is BLK_BACKEND. 0, or an errno value. */
	int (*read)(void *self, const struct blk_piece *p, const struct iovec *iov, unsigned n);
	int (*write)(void *self, const struct blk_piece *p, const struct iovec *iov, unsigned n);
	int (*zero)(void *self, const struct blk_piece *p);
	/*
	 * Makes durable what has been done, and whatever it takes to find it after a power cut.
	 * Steps from 0; one flush at a time. failed: the sync that was asked for last has, and
	 * there is no further step.
	 */
	enum blk_sync (*flush)(void *self, unsigned step, bool failed, int *ret_fd);
	struct err *(*resize)(void *self, uint64_t bytes);
	/* wake(arg) is called, by any thread, when what was busy may be free again; NULL: no more.
	 */
	void (*attach)(void *self, void (*wake)(void *arg), void *arg);
};

struct blk_backend {
	const struct blk_backend_ops *ops; /* NULL: one file */
	void *self;                        /* outlives the device */
};

#endif
