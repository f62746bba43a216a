/* SPDX-License-Identifier: Apache-2.0 */
/* What a VM's life does with its captured disks (vdisk.h). See life_internal.h; main loop, but the
 * list for a take, which is made on the job's thread. */
#include "core/base/log.h"
#include "core/life_internal.h"

/* Calls fn for each, up to the first error. */
static struct err *each(struct life *l, struct err *(*fn)(struct vdisk *d, void *arg), void *arg)
{
	for (unsigned i = 0; i < l->ends.n; i++) {
		if (l->ends.e[i].disk != NULL) {
			TRY(fn(l->ends.e[i].disk, arg));
		}
	}
	return NULL;
}

static struct err *settle(struct vdisk *d, void *arg)
{
	(void)arg;
	return vdisk_settle(d);
}

struct err *life_disks_settle(struct life *l)
{
	return each(l, settle, NULL);
}

size_t life_disks_list(struct life *l, struct snap_disk disks[STORE_MAPS_MAX])
{
	size_t n = 0;
	for (unsigned i = 0; i < l->ends.n && n < STORE_MAPS_MAX; i++) {
		if (l->ends.e[i].disk != NULL) {
			disks[n++] = vdisk_snap(l->ends.e[i].disk);
		}
	}
	return n;
}

static struct err *forget(struct vdisk *d, void *arg)
{
	(void)arg;
	vdisk_forget_base(d);
	return NULL;
}

void life_disks_forget_base(struct life *l)
{
	err_drop(each(l, forget, NULL), "it cannot fail");
}

static struct err *rewind_one(struct vdisk *d, void *arg)
{
	return vdisk_rewind(d, arg);
}

static struct err *undo(struct vdisk *d, void *arg)
{
	(void)arg;
	vdisk_rewind_undo(d);
	return NULL;
}

static struct err *done(struct vdisk *d, void *arg)
{
	(void)arg;
	vdisk_rewind_done(d);
	return NULL;
}

struct err *life_disks_rewind(struct life *l, struct snap_image *to)
{
	return each(l, rewind_one, to);
}

void life_disks_rewind_undo(struct life *l)
{
	err_drop(each(l, undo, NULL), "it cannot fail");
}

void life_disks_rewind_done(struct life *l)
{
	err_drop(each(l, done, NULL), "it cannot fail");
}

static struct err *make_whole(struct vdisk *d, void *arg)
{
	(void)arg;
	return vdisk_make_whole(d);
}

void life_disks_end(struct life *l)
{
	if (!l->guest_ended) {
		return;
	}
	struct err *e = each(l, make_whole, NULL);
	if (e != NULL) {
		log_err(err_wrap(e, "what was written to it needs the snapshot still"));
	}
}
