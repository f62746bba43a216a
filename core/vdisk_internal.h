/* SPDX-License-Identifier: Apache-2.0 */
/* Between vdisk.c (content and place), vdisk_io.c (requests) and vdisk_take.c (generations).
 * Includable only by these. */
#ifndef TORPOR_CORE_VDISK_INTERNAL_H
#define TORPOR_CORE_VDISK_INTERNAL_H

#include "core/base/lock.h"
#include "core/disk_layer.h"
#include "core/vdisk.h"

enum {
	VDISK_BUSY_MAX = 64, /* pieces in flight that change where blocks are */
	VDISK_SYNCS_MAX = 5,
};

/* One state of the disk: layer, what is below, and which generation has what. */
struct content {
	struct layer *layer;
	struct disk_reader
		*lower[2]; /* the worker's, and the capture's; NULL: nothing is between */
	struct snap_image *own_image; /* of these, unless somebody else owns it */
	struct bits low;              /* blocks that the snapshot below holds */
	struct bits
		known; /* that the last generation holds; the capture's, or with none under way */
	struct bits dirty;  /* written since */
	struct bits frozen; /* the capture's */
	struct bits moved;  /* of them: written to the other file since the freeze */
	uint64_t ndirty;
	uint64_t gen; /* the last generation, 0: none that is good for a next one */
	bool capturing;
	bool wrote[2]; /* to a and b, since they were synced last */
};

struct busy_range {
	bool used;
	uint64_t first, end; /* blocks */
};

struct vdisk {
	char id[NAME_BYTES_MAX + 1];
	uint8_t family[16];
	char path[LAYER_PATH_MAX + 1];
	char home[3072]; /* folder of the VM's layers */
	char dir[3200];  /* of this one's */
	char next[3216]; /* where a new one is made */
	struct fd base;
	struct fd home_fd;           /* folder `home` */
	struct virtio_blk_seen seen; /* of the base, when it was opened */
	bool unsettled;              /* `now` is in `next` still */
	struct layer *old;           /* what it will replace; NULL: nothing that could be read */
	bool old_is_kept;            /* all that is in it is in a snapshot that is there, too */
	struct content *before;      /* in a rewind */

	struct lock lock; /* RANK_DISK */
	/* [lock] */
	struct content *now;
	struct busy_range busy[VDISK_BUSY_MAX];
	/* One flush at a time. */
	bool syncing;
	struct layer_delta delta;
	int sync_fd[VDISK_SYNCS_MAX]; /* in this order; -1: write the map now */
	unsigned nsyncs;
	bool synced[2]; /* wrote[] that this flush is about */
	unsigned complaints;
	void (*wake)(void *arg);
	void *wake_arg;
};

static inline void vdisk_set_dirty(struct content *c, uint64_t block)
{
	if (!bit_get(&c->dirty, block)) {
		bit_set(&c->dirty, block);
		c->ndirty++;
		if (c->layer->head.clean) {
			c->layer->head.clean = false;
			c->layer->head_stale = true;
		}
	}
}

void vdisk_content_free(struct content *c);
DEFINE_SCOPE(struct content, vdisk_content_free)
MUST_USE struct err *vdisk_look_base(const struct vdisk *d, struct virtio_blk_seen *ret);
/* Another size; no capture is under way. With the lock. */
MUST_USE struct err *vdisk_resize_content(struct content *c, uint64_t bytes);
/* A flush by the caller's own thread; nothing is in flight. */
MUST_USE struct err *vdisk_sync(struct vdisk *d);
/* The block as it is below the layer, whole. which: 0 the worker's reader, 1 the capture's. */
MUST_USE struct err *vdisk_read_below(struct vdisk *d, unsigned which, uint64_t block,
				      uint8_t *ret);

extern const struct snap_disk_ops vdisk_snap_ops;

#endif
