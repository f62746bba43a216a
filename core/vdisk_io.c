/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to a captured disk: where a piece of it lies, what has to be read and copied, and a
 * flush. See vdisk.h for the invariants; called by the disk's worker, resize and look by the main
 * loop.
 *
 * A write to a block that is in the layer already, and not the capture's, is a write in place: the
 * disk may hold its old or its new sectors after a power cut, as any disk. Every other write gives
 * the block a new place, whole: its bit is set when the data is there, and becomes durable after
 * it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "core/vdisk_internal.h"

enum {
	TOKEN_SIDE = 1 << 8, /* in the low byte: number of the busy range + 1, 0: none */
	COMPLAINTS_MAX = 64,
	ZERO_BYTES = 65536,
};

static uint64_t block_of(uint64_t off)
{
	return off / PAGE_BYTES;
}

/* One past the last block that holds a byte of [off, off + len). */
static uint64_t block_end(uint64_t off, uint64_t len)
{
	return (off + len + PAGE_BYTES - 1) / PAGE_BYTES;
}

/* The errno value of an error that is told to the log. */
static int complain(struct vdisk *d, struct err *e)
{
	if (e == NULL) {
		return 0;
	}
	int rc = err_class(e) == ERR_NOSPACE ? ENOSPC : EIO;
	if (d->complaints++ < COMPLAINTS_MAX) {
		log_err(err_wrap(e, "disk '%s'", d->id));
	} else {
		err_drop(e, "told often enough");
	}
	return rc;
}

/* ---- where ---- */

/* With the lock: a first write after the freeze, or the first write at all. */
static bool needs_place(const struct content *c, uint64_t block)
{
	return !bit_get(&c->layer->here, block) ||
	       (c->capturing && bit_get(&c->frozen, block) && !bit_get(&c->moved, block));
}

static unsigned side_for(const struct content *c, uint64_t block)
{
	if (!bit_get(&c->layer->here, block)) {
		return 0;
	}
	return bit_get(&c->layer->side, block) ^ (needs_place(c, block) ? 1u : 0u);
}

enum below { IN_LAYER, IN_SNAPSHOT, IN_BASE, NOWHERE };

static enum below where_is(const struct content *c, uint64_t block)
{
	if (bit_get(&c->layer->here, block)) {
		return IN_LAYER;
	}
	if (bit_get(&c->low, block)) {
		return IN_SNAPSHOT;
	}
	return block * PAGE_BYTES < c->layer->head.base_end ? IN_BASE : NOWHERE;
}

static void locate_read(const struct vdisk *d, uint64_t off, uint64_t len, struct blk_piece *p)
{
	const struct content *c = d->now;
	uint64_t first = block_of(off);
	uint64_t end = block_end(off, len);
	enum below where = where_is(c, first);
	unsigned side = bit_get(&c->layer->side, first);
	if (where == IN_SNAPSHOT) { /* one piece of the store */
		end = MIN(end, (first / STORE_PIECE_PAGES + 1) * STORE_PIECE_PAGES);
	}
	uint64_t b = first + 1;
	while (b < end && where_is(c, b) == where &&
	       (where != IN_LAYER || bit_get(&c->layer->side, b) == side)) {
		b++;
	}
	uint64_t stop = MIN(b * PAGE_BYTES, off + len);
	*p = (struct blk_piece){ .off = off, .at = off, .len = stop - off };
	switch (where) {
	case IN_LAYER:
		p->where = BLK_FILE;
		p->fd = c->layer->data[side].n;
		return;
	case IN_SNAPSHOT:
		p->where = BLK_BACKEND;
		return;
	case IN_BASE:
		p->where = BLK_FILE;
		p->fd = d->base.n;
		if (off >= c->layer->head.base_end) {
			p->where = BLK_HOLE; /* behind the base's end, in its last block */
		} else {
			p->len = MIN(p->len, c->layer->head.base_end - off);
		}
		return;
	case NOWHERE:
		p->where = BLK_HOLE;
		return;
	}
}

/* I3. The number of a free range, or -1: it cannot begin now. */
static int take_range(struct vdisk *d, uint64_t first, uint64_t end)
{
	int room = -1;
	for (int i = 0; i < VDISK_BUSY_MAX; i++) {
		const struct busy_range *r = &d->busy[i];
		if (r->used && r->first < end && first < r->end) {
			return -1;
		}
		room = !r->used && room < 0 ? i : room;
	}
	return room;
}

static void locate_write(struct vdisk *d, bool zero, uint64_t off, uint64_t len,
			 struct blk_piece *p)
{
	struct content *c = d->now;
	uint64_t first = block_of(off);
	uint64_t end = block_end(off, len);
	uint64_t disk = c->layer->head.disk_bytes;
	int range = take_range(d, first, end);
	if (range < 0) {
		*p = (struct blk_piece){ .where = BLK_BUSY, .off = off, .len = len };
		return;
	}
	bool place = needs_place(c, first);
	unsigned side = side_for(c, first);
	bool whole = off % PAGE_BYTES == 0 && (len >= PAGE_BYTES || off + len == disk);
	uint64_t b = first + 1;
	/* A block of which only a part is written comes alone, where it gets a new place. */
	while (b < end && (whole || !place) && needs_place(c, b) == place &&
	       side_for(c, b) == side &&
	       (!place || (b + 1) * PAGE_BYTES <= off + len || off + len == disk)) {
		b++;
	}
	uint64_t stop = MIN(b * PAGE_BYTES, off + len);
	*p = (struct blk_piece){
		.where = zero || (place && !whole) ? BLK_BACKEND : BLK_FILE,
		.fd = c->layer->data[side].n,
		.at = off,
		.off = off,
		.len = stop - off,
		.token = side != 0 ? TOKEN_SIDE : 0,
	};
	if (place) {
		d->busy[range] = (struct busy_range){ .used = true, .first = first, .end = b };
		p->token |= (unsigned)range + 1;
		return;
	}
	for (uint64_t i = first; i < b; i++) {
		vdisk_set_dirty(c, i);
	}
}

static void vd_locate(void *self, enum blk_op op, uint64_t off, uint64_t len, struct blk_piece *ret)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	if (op == BLK_READ) {
		locate_read(d, off, len, ret);
	} else {
		locate_write(d, op == BLK_ZERO, off, len, ret);
	}
}

static void vd_done(void *self, const struct blk_piece *p, bool good)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	struct content *c = d->now;
	unsigned side = (p->token & TOKEN_SIDE) != 0;
	unsigned range = p->token & (TOKEN_SIDE - 1);
	c->wrote[side] = true; /* some of it, if it failed */
	if (range == 0) {
		return;
	}
	struct busy_range *r = &d->busy[range - 1];
	for (uint64_t b = r->first; good && b < r->end; b++) {
		/* The capture may be over by now. */
		if (c->capturing && bit_get(&c->frozen, b) && bit_get(&c->layer->side, b) != side) {
			bit_set(&c->moved, b);
		}
		layer_place(c->layer, b, side);
		layer_touch(c->layer, b);
		vdisk_set_dirty(c, b);
	}
	r->used = false;
}

/* ---- what is done by hand ---- */

struct err *vdisk_read_below(struct vdisk *d, unsigned which, uint64_t block, uint8_t *ret)
{
	const struct content *c = d->now;
	if (bit_get(&c->low, block)) {
		struct piece p;
		TRY(disk_reader_piece(c->lower[which], block, &p));
		memcpy(ret, p.pages + (block - p.first) * PAGE_BYTES, PAGE_BYTES);
		return NULL;
	}
	uint64_t at = block * PAGE_BYTES;
	uint64_t end = c->layer->head.base_end;
	uint64_t n = at < end ? MIN(end - at, (uint64_t)PAGE_BYTES) : 0;
	memset(ret, 0, PAGE_BYTES);
	return n > 0 ? io_pread_full(d->base.n, ret, (size_t)n, at) : NULL;
}

static struct err *read_block(struct vdisk *d, uint64_t block, uint8_t *ret)
{
	lock_take(&d->lock);
	bool here = bit_get(&d->now->layer->here, block);
	int fd = d->now->layer->data[bit_get(&d->now->layer->side, block)].n;
	lock_drop(&d->lock);
	return here ? io_pread_full(fd, ret, PAGE_BYTES, block * PAGE_BYTES)
		    : vdisk_read_below(d, 0, block, ret);
}

/* Between a run of bytes and the guest's buffers. */
static void spread(const struct iovec *iov, unsigned n, uint8_t *p, bool to_guest)
{
	for (unsigned i = 0; i < n; i++) {
		void *to = to_guest ? iov[i].iov_base : p;
		const void *from = to_guest ? p : iov[i].iov_base;
		memcpy(to, from, iov[i].iov_len);
		p += iov[i].iov_len;
	}
}

static int vd_read(void *self, const struct blk_piece *p, const struct iovec *iov, unsigned n)
{
	struct vdisk *d = self;
	struct piece piece;
	struct err *e = disk_reader_piece(d->now->lower[0], block_of(p->off), &piece);
	if (e != NULL) {
		return complain(d, e);
	}
	uint8_t buf[STORE_PIECE_PAGES * PAGE_BYTES];
	memcpy(buf, piece.pages, piece.npages * (size_t)PAGE_BYTES);
	spread(iov, n, buf + (p->off - piece.first * PAGE_BYTES), true);
	return 0;
}

/* A part of one block that gets a new place: the rest of it comes along. iov NULL: zeros. */
static int write_part(struct vdisk *d, const struct blk_piece *p, const struct iovec *iov,
		      unsigned n)
{
	uint8_t buf[PAGE_BYTES];
	uint64_t block = block_of(p->off);
	struct err *e = read_block(d, block, buf);
	if (e == NULL) {
		uint8_t *at = buf + p->off % PAGE_BYTES;
		if (iov != NULL) {
			spread(iov, n, at, false);
		} else {
			memset(at, 0, p->len);
		}
		e = io_pwrite_full(p->fd, buf, sizeof(buf), block * PAGE_BYTES);
	}
	return complain(d, e);
}

static int vd_write(void *self, const struct blk_piece *p, const struct iovec *iov, unsigned n)
{
	return write_part(self, p, iov, n);
}

static struct err *write_zeros(int fd, uint64_t at, uint64_t len)
{
	static const uint8_t zeros[ZERO_BYTES];
	while (len > 0) {
		uint64_t n = MIN(len, (uint64_t)ZERO_BYTES);
		TRY(io_pwrite_full(fd, zeros, (size_t)n, at));
		at += n;
		len -= n;
	}
	return NULL;
}

static int vd_zero(void *self, const struct blk_piece *p)
{
	struct vdisk *d = self;
	lock_take(&d->lock);
	bool whole =
		p->off % PAGE_BYTES == 0 &&
		(p->len % PAGE_BYTES == 0 || p->off + p->len == d->now->layer->head.disk_bytes);
	lock_drop(&d->lock);
	bool place = (p->token & (TOKEN_SIDE - 1)) != 0;
	if (place && !whole) {
		return write_part(d, p, NULL, 0);
	}
	if (fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p->at,
		      (off_t)p->len) == 0) {
		return 0;
	}
	if (errno != EOPNOTSUPP) {
		return complain(d, ERR_ERRNO("zeroing %llu bytes", (unsigned long long)p->len));
	}
	return complain(d, write_zeros(p->fd, p->at, p->len));
}

/* ---- flush ---- */

/* With the lock: what has to be synced, in order. */
static struct err *plan_sync(struct vdisk *d)
{
	struct content *c = d->now;
	TRY(layer_encode(c->layer, &d->delta));
	d->nsyncs = 0;
	for (unsigned i = 0; i < 2; i++) {
		d->synced[i] = c->wrote[i];
		c->wrote[i] = false;
		if (d->synced[i]) {
			d->sync_fd[d->nsyncs++] = c->layer->data[i].n;
		}
	}
	if (d->delta.n > 0 || d->delta.head || c->layer->fresh) {
		d->sync_fd[d->nsyncs++] = c->layer->map.n;
	}
	if (c->layer->fresh) {
		d->sync_fd[d->nsyncs++] = c->layer->dir.n;
		d->sync_fd[d->nsyncs++] = d->home_fd.n;
	}
	d->syncing = true;
	return NULL;
}

static void end_sync(struct vdisk *d, bool good)
{
	struct content *c = d->now;
	if (good) {
		c->layer->fresh = false;
	} else {
		layer_undo(c->layer, &d->delta);
		c->wrote[0] = c->wrote[0] || d->synced[0];
		c->wrote[1] = c->wrote[1] || d->synced[1];
	}
	layer_delta_done(&d->delta);
	d->syncing = false;
}

/* With the lock. */
static enum blk_sync step_sync(struct vdisk *d, unsigned step, bool failed, int *ret_fd)
{
	struct err *e = NULL;
	if (step == 0) {
		if (d->syncing) {
			return BLK_SYNC_BUSY;
		}
		e = plan_sync(d);
		if (e != NULL) {
			complain(d, e);
			return BLK_SYNC_FAILED;
		}
	}
	if (failed) {
		end_sync(d, false);
		return BLK_SYNC_FAILED;
	}
	if (step == d->nsyncs) {
		end_sync(d, true);
		return BLK_SYNC_DONE;
	}
	if (d->sync_fd[step] == d->now->layer->map.n) {
		/* What it tells of is durable. */
		e = layer_write(d->now->layer, &d->delta);
	}
	if (e != NULL) {
		complain(d, e);
		end_sync(d, false);
		return BLK_SYNC_FAILED;
	}
	*ret_fd = d->sync_fd[step];
	return BLK_SYNC_FD;
}

static enum blk_sync vd_flush(void *self, unsigned step, bool failed, int *ret_fd)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	return step_sync(d, step, failed, ret_fd);
}

struct err *vdisk_sync(struct vdisk *d)
{
	struct err *e = NULL;
	lock_take(&d->lock);
	if (d->syncing) {
		end_sync(d, false); /* of a device that is gone */
	}
	lock_drop(&d->lock);
	for (unsigned step = 0;; step++) {
		int fd = -1;
		switch (vd_flush(d, step, e != NULL, &fd)) {
		case BLK_SYNC_FD:
			e = io_sync_file(fd);
			continue;
		case BLK_SYNC_DONE:
			return NULL;
		case BLK_SYNC_BUSY:
		case BLK_SYNC_FAILED:
			break;
		}
		return e != NULL ? e : ERR(ERR_SYS, "its map could not be written");
	}
}

/* ---- the rest ---- */

static struct err *vd_look(void *self, struct virtio_blk_seen *ret)
{
	struct vdisk *d = self;
	struct virtio_blk_seen now;
	TRY(vdisk_look_base(d, &now));
	LOCK_SCOPE(&d->lock);
	now.len_bytes = d->now->layer->head.disk_bytes;
	*ret = now;
	return NULL;
}

/* Nothing of it is in flight. */
static struct err *vd_resize(void *self, uint64_t bytes)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	struct content *c = d->now;
	ENSURE(!c->capturing, ERR_NOT_NOW, "a snapshot of it is being taken: try again");
	return vdisk_resize_content(c, bytes);
}

static void vd_attach(void *self, void (*wake)(void *arg), void *arg)
{
	struct vdisk *d = self;
	LOCK_SCOPE(&d->lock);
	d->wake = wake;
	d->wake_arg = arg;
}

static const struct blk_backend_ops vdisk_ops = {
	.look = vd_look,
	.locate = vd_locate,
	.done = vd_done,
	.read = vd_read,
	.write = vd_write,
	.zero = vd_zero,
	.flush = vd_flush,
	.resize = vd_resize,
	.attach = vd_attach,
};

struct blk_backend vdisk_backend(struct vdisk *d)
{
	return (struct blk_backend){ .ops = &vdisk_ops, .self = d };
}
