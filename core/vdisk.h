/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A captured disk: what the guest sees as one disk is
 *
 *	a work layer   all that was written since the VM was started or restored (disk_layer.h)
 *	a snapshot     the blocks of the REF that the VM was restored from, read when they are
 *needed the base       the file or block device that the user named, which nobody ever writes
 *
 * Work layers live in the store's folder, DIR/disks/<VM>/<base's name>-<hash of its path>/: so they
 * are found again by VM and path, also where the base's own folder cannot be written. A layer that
 *a restore replaces is set aside beside it, or removed if all that is in it is in a snapshot, too.
 *
 * Generations: which blocks were written since the last snapshot is known from the first write on.
 * A freeze makes that set the capture's, at once; while the capture goes on, the first write to one
 * of its blocks goes to the layer's other file, so the capture reads what was frozen.
 *
 * It is the backend of a virtio disk (virtio_blk_backend.h says who calls what) and a disk of the
 * snapshot engine (snapshot.h, snap_disk_ops). The rest: start-up, then the main loop. Made before
 * the jail; later it opens files in the store's folder only.
 *
 * I1: a block of the frozen set that was not moved is where it was at the freeze, and nobody writes
 * there. I2: nothing is in flight at a freeze. I3: while a write that changes a block's place is in
 * flight its range is busy: no other write to it begins. I4: without a base generation every block
 * in the layer is dirty.
 */
#ifndef TORPOR_CORE_VDISK_H
#define TORPOR_CORE_VDISK_H

#include "devices/virtio_blk_backend.h"
#include "snapshot/snapshot.h"

struct vdisk;

struct vdisk_opts {
	const char *id;        /* copied */
	const char *vm;        /* name of the VM; copied */
	const uint8_t *family; /* of the VM, 16 bytes */
	const char *store_dir; /* absolute */
	struct store *store;   /* borrowed for the call: for a layer that stands on a snapshot */
	const char *path;      /* of the base, absolute */
	int base_fd;           /* taken over, also on failure; opened for reading */
	/* Restore: the disk is what this snapshot says, and outlived by it. NULL: it is what the VM
	 * of that name left, or the base. */
	struct snap_image *image;
	bool accept_changed; /* a base that is not as it was is taken as it is */
	bool may_be_copy;    /* likewise another file of the same size and time */
};
/* Errors: ERR_NOT_NOW (in use; the base has changed), ERR_CORRUPT, ERR_INCOMPAT, ERR_SYS. */
MUST_USE struct err *vdisk_open(const struct vdisk_opts *opts, struct vdisk **ret);
/* Durable what was written, as after a flush; a layer that never got its place is removed. */
void vdisk_free(struct vdisk *d);
DEFINE_SCOPE(struct vdisk, vdisk_free)

struct blk_backend vdisk_backend(struct vdisk *d);
struct snap_disk vdisk_snap(struct vdisk *d);

/*
 * The layer gets its place, now that the VM is about to run: what was there is set aside, or
 * removed if nothing would be lost. Says so. Nothing for a disk that goes on with its layer.
 */
MUST_USE struct err *vdisk_settle(struct vdisk *d);
/* All that the layer needs from its snapshot is copied into it, so that it can do without. */
MUST_USE struct err *vdisk_make_whole(struct vdisk *d);
/* The next capture reads every block. No capture is under way. */
void vdisk_forget_base(struct vdisk *d);

/*
 * Rewind: the disk becomes what the image says, while no device stands on it. Until one of the
 * other two is called it can go back.
 */
MUST_USE struct err *vdisk_rewind(struct vdisk *d, struct snap_image *to);
void vdisk_rewind_undo(struct vdisk *d);
void vdisk_rewind_done(struct vdisk *d); /* what was is dropped: it is in a snapshot */

#endif
