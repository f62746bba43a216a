/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A captured disk in a take: freeze, what changed, and its end. See vdisk.h (I1, I2) and snapshot.h
 * (snap_disk_ops); on the take's thread, the freeze on the vCPU thread that stopped last.
 */
#include <string.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "core/vdisk_internal.h"

enum { PAGE_BITS = PAGE_BYTES * 8 };

static uint64_t vd_base(void *self)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	return d->now->gen;
}

/* In the pause: two sets change their names. */
static void vd_freeze(void *self, struct snap_disk_info *ret)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	struct content *c = d->now;
	BUG_ON(c->capturing);
	struct bits empty = c->frozen;
	c->frozen = c->dirty;
	c->dirty = empty;
	c->ndirty = 0;
	c->capturing = true;
	const struct layer_head *h = &c->layer->head;
	*ret = (struct snap_disk_info){
		.len_bytes = h->disk_bytes,
		.base_end = h->base_end,
		.base_bytes = d->seen.len_bytes,
		.base_dev = d->seen.dev,
		.base_ino = d->seen.ino,
		.base_mtime_ns = d->seen.mtime_ns,
		.base_is_file = d->seen.is_file,
	};
	memcpy(ret->id, d->id, sizeof(ret->id));
}

/* The frozen set does not change until the end, nor does what lies below: no lock. */
static bool wanted(const struct content *c, uint64_t b)
{
	return bit_get(&c->frozen, b) || (c->gen == 0 && bit_get(&c->low, b));
}

static uint64_t next_wanted(const struct content *c, uint64_t from)
{
	uint64_t b = bits_next(&c->frozen, from);
	return c->gen == 0 ? MIN(b, bits_next(&c->low, from)) : b;
}

static bool vd_changed(void *self, uint64_t from, uint64_t *ret_first, uint64_t *ret_n)
{
	const struct vdisk *d = self;
	const struct content *c = d->now;
	uint64_t b = next_wanted(c, from);
	if (b >= c->layer->nblocks) {
		return false;
	}
	uint64_t end = b + 1;
	while (end < c->layer->nblocks && wanted(c, end)) {
		end++;
	}
	*ret_first = b;
	*ret_n = end - b;
	return true;
}

/* A run of blocks that lie in one file, or one that lies below. */
static struct err *read_some(struct vdisk *d, uint64_t first, uint64_t n, uint8_t *buf,
			     uint64_t *ret_n)
{
	const struct content *c = d->now;
	*ret_n = 1;
	if (!bit_get(&c->frozen, first)) {
		return vdisk_read_below(d, 1, first, buf);
	}
	lock_take(&d->lock);
	/* I1: where it was at the freeze. */
	bool side = bit_get(&c->layer->side, first) != bit_get(&c->moved, first);
	uint64_t run = 1;
	while (run < n && bit_get(&c->frozen, first + run) &&
	       (bit_get(&c->layer->side, first + run) != bit_get(&c->moved, first + run)) == side) {
		run++;
	}
	lock_drop(&d->lock);
	*ret_n = run;
	return io_pread_full(c->layer->data[side].n, buf, (size_t)(run * PAGE_BYTES),
			     first * PAGE_BYTES);
}

static struct err *vd_read(void *self, uint64_t first, uint64_t n, uint8_t *buf)
{
	while (n > 0) {
		uint64_t got = 0;
		TRY(read_some(self, first, n, buf, &got));
		first += got;
		buf += got * PAGE_BYTES;
		n -= got;
	}
	return NULL;
}

/* In the last block the bytes behind the disk's end may be anything, and are kept. */
static bool vd_held(void *self, uint64_t page, uint8_t bits[PAGE_BYTES])
{
	const struct vdisk *d = self;
	const struct content *c = d->now;
	uint64_t first = page * PAGE_BITS / 64;
	uint64_t words = c->layer->nblocks / 64 + 1;
	bool any = false, differs = false;
	memset(bits, 0, PAGE_BYTES);
	for (uint64_t i = 0; i < PAGE_BITS / 64 && first + i < words; i++) {
		uint64_t known = c->known.w[first + i];
		uint64_t all = known | c->frozen.w[first + i];
		memcpy(bits + 8 * i, &all, sizeof(all));
		differs = differs || all != known;
		any = any || all != 0;
	}
	return c->gen == 0 ? any : differs;
}

static void published(struct content *c, uint64_t snap_id)
{
	for (uint64_t i = 0; i <= c->frozen.n / 64; i++) {
		if (c->frozen.w[i] != 0) {
			c->known.w[i] |= c->frozen.w[i];
		}
	}
	c->gen = snap_id;
	c->layer->head.gen = snap_id;
	c->layer->head.clean = c->ndirty == 0;
	c->layer->head_stale = true;
}

static void given_up(struct content *c)
{
	for (uint64_t b = bits_next(&c->frozen, 0); b < c->frozen.n;
	     b = bits_next(&c->frozen, b + 1)) {
		vdisk_set_dirty(c, b);
	}
}

/* So that a restore after a crash knows, too; a head that is older says less. As a flush. */
static void note_clean(struct vdisk *d)
{
	struct layer *l = d->now->layer;
	struct layer_delta just_head = { .head = true };
	lock_take(&d->lock);
	just_head.to = l->head;
	l->head_stale = false;
	lock_drop(&d->lock);
	struct err *e = layer_write(l, &just_head);
	e = e != NULL ? e : io_sync_file(l->map.n);
	lock_take(&d->lock);
	l->head_stale = l->head_stale || e != NULL;
	d->syncing = false;
	if (d->wake != NULL) {
		d->wake(d->wake_arg);
	}
	lock_drop(&d->lock);
	if (e != NULL) {
		log_err(err_wrap(e, "disk '%s'", d->id));
	}
}

static void vd_end(void *self, uint64_t snap_id)
{
	struct vdisk *d = self;
	lock_take(&d->lock);
	struct content *c = d->now;
	if (snap_id != 0) {
		published(c, snap_id);
	} else {
		given_up(c);
	}
	bits_clear(&c->frozen);
	bits_clear(&c->moved);
	c->capturing = false;
	bool note = c->layer->head.clean && !d->syncing && !c->layer->fresh;
	d->syncing = d->syncing || note;
	lock_drop(&d->lock);
	if (note) {
		note_clean(d);
	}
}

const struct snap_disk_ops vdisk_snap_ops = {
	.freeze = vd_freeze,
	.base = vd_base,
	.changed = vd_changed,
	.read = vd_read,
	.held = vd_held,
	.end = vd_end,
};

struct snap_disk vdisk_snap(struct vdisk *d)
{
	return (struct snap_disk){ .id = d->id, .ops = &vdisk_snap_ops, .self = d };
}
