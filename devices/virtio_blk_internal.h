/* SPDX-License-Identifier: Apache-2.0 */
/* Between virtio_blk.c (device and worker's life) and virtio_blk_io.c (requests). Includable only
 * by virtio_blk*.c. */
#ifndef TORPOR_DEVICES_VIRTIO_BLK_INTERNAL_H
#define TORPOR_DEVICES_VIRTIO_BLK_INTERNAL_H

#include <liburing.h>

#include "core/base/rate_limit.h"
#include "devices/virtio_blk.h"

enum {
	VIRTIO_BLK_SECTOR = 512,
	VIRTIO_BLK_DEPTH = 64, /* requests that the host works on at a time */
};
#define VIRTIO_BLK_F_FLUSH (1ull << 9)

struct blk_req {
	struct virtq_chain chain;
	unsigned queue;
	uint32_t type;
	uint64_t off;         /* in the disk, bytes */
	uint64_t len;         /* bytes to move */
	uint64_t done;        /* of them moved */
	struct blk_req *next; /* in whichever list it is */
	/* With a backend: the piece in hand, of which so much is left; syncing: step of a flush. */
	struct blk_piece piece;
	uint64_t left;
	bool syncing;
	unsigned step;
	int res; /* of what the backend did itself: 0 or -errno */
	unsigned niov;
	struct iovec iov[VIRTQ_SEGS_MAX];
};

struct virtio_blk {
	struct virtio v;            /* first */
	int fd;                     /* borrowed; const */
	struct blk_backend backend; /* const */
	bool captured;              /* const */
	bool attached;              /* builder only */
	bool read_only;             /* const */
	bool accept_changed;
	bool may_be_copy;
	uint64_t sectors; /* [lock] */
	pthread_t thread;
	bool started;     /* builder only */
	struct cond idle; /* nothing in flight, and the worker rests */
	/* [lock] */
	bool closed;
	bool stop;
	bool dead; /* its thread may do nothing */
	unsigned resetting;
	unsigned inflight;
	struct rate_limit ops;
	struct rate_limit bytes;
	uint64_t throttled_ns; /* until the limits let the next request in; 0: they do */
	uint32_t due; /* bit per queue: something was given back, the driver is to be told */
	struct virtio_blk_state saved;
	/* Worker only. */
	struct io_uring ring;
	bool ring_made;
	bool armed;     /* a read of the kick descriptor is in the ring */
	uint64_t kicks; /* where it goes; how many does not matter */
	struct blk_req *reqs;
	struct blk_req *free;
	struct blk_req *held; /* what the backend was too busy for */
	struct blk_req *slow; /* what the backend does itself: to be done, */
	struct blk_req *over; /* and done */
};

MUST_USE struct err *virtio_blk_io_init(struct virtio_blk *b);
void virtio_blk_io_done(struct virtio_blk *b);
/* With the lock. */
bool virtio_blk_rests(const struct virtio_blk *b);
/* With the lock: takes chains and queues them with the host, as many as fit. */
void virtio_blk_take(struct virtio_blk *b);
/* Without: until a request ended, somebody kicked, or the rate limits let the next one in. */
void virtio_blk_wait(struct virtio_blk *b);
/* With the lock: gives back what ended. */
void virtio_blk_reap(struct virtio_blk *b);
/* With the lock: interrupts for all that was given back, one a queue. Before anybody may see that
 * nothing is in flight. */
void virtio_blk_tell(struct virtio_blk *b);

#endif
