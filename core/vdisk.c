/* SPDX-License-Identifier: Apache-2.0 */
/* A captured disk's content and its place on the host. See vdisk.h; requests are in vdisk_io.c. */
#include "core/vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/vdisk_internal.h"

/* ---- what the base is ---- */

struct err *vdisk_look_base(const struct vdisk *d, struct virtio_blk_seen *ret)
{
	struct stat st;
	struct virtio_blk_seen s = { 0 };
	if (fstat(d->base.n, &st) != 0) {
		return ERR_ERRNO("what is below it");
	}
	s.is_file = S_ISREG(st.st_mode);
	s.dev = s.is_file ? st.st_dev : st.st_rdev;
	s.ino = s.is_file ? st.st_ino : 0;
	s.mtime_ns = s.is_file ? (uint64_t)st.st_mtim.tv_sec * 1000000000ull +
					 (uint64_t)st.st_mtim.tv_nsec
			       : 0;
	TRY(io_size(d->base.n, &s.len_bytes));
	*ret = s;
	return NULL;
}

static struct err *check_base(const struct vdisk *d, const struct virtio_blk_seen *then,
			      const struct virtio_blk_seen *now, bool may_be_copy)
{
	bool same = now->len_bytes == then->len_bytes && now->is_file == then->is_file &&
		    now->mtime_ns == then->mtime_ns;
	bool same_file = now->dev == then->dev && now->ino == then->ino;
	ENSURE(same && (same_file || may_be_copy), ERR_NOT_NOW,
	       "'%s' is not what it was when the disk was written last: --disk-changed=accept "
	       "takes "
	       "it as it is",
	       d->path);
	return NULL;
}

/* ---- contents ---- */

void vdisk_content_free(struct content *c)
{
	if (c == NULL) {
		return;
	}
	disk_reader_free(c->lower[0]);
	disk_reader_free(c->lower[1]);
	snap_image_free(c->own_image);
	struct bits *const all[] = { &c->low, &c->known, &c->dirty, &c->frozen, &c->moved };
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		bits_done(all[i]);
	}
	layer_free(c->layer);
	free(c);
}

static uint64_t block_up(uint64_t bytes)
{
	return round_up_u64(bytes, PAGE_BYTES) / PAGE_BYTES;
}

static void on_held(void *arg, uint64_t first, uint64_t bits)
{
	struct content *c = arg;
	/* The layer may have become shorter since. */
	uint64_t end = block_up(c->layer->head.lower_end);
	uint64_t n = first < end ? end - first : 0;
	bits &= n >= 64 ? ~0ull : (1ull << n) - 1;
	if (bits != 0) {
		c->low.w[first / 64] |= bits;
		c->known.w[first / 64] |= bits;
	}
}

/* Takes over the layer, also on failure. image: what lies below it, NULL: nothing. */
static struct err *content_new(struct vdisk *d, struct layer *layer, struct snap_image *image,
			       struct content **ret)
{
	SCOPE(vdisk_content_freep) struct content *c = calloc(1, sizeof(*c));
	if (c == NULL) {
		layer_free(layer);
		return ERR(ERR_SYS, "out of memory");
	}
	c->layer = layer;
	struct bits *const all[] = { &c->low, &c->known, &c->dirty, &c->frozen, &c->moved };
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		TRY(bits_init(all[i], layer->nblocks));
	}
	if (image != NULL) {
		TRY(disk_reader_new(image, d->id, &c->lower[0]));
		TRY(disk_reader_new(image, d->id, &c->lower[1]));
		TRY(disk_reader_held(c->lower[0], on_held, c));
	}
	*ret = MOVE(c);
	return NULL;
}

/* What was in the layer before is no part of any generation of this VM (I4). */
static void all_dirty(struct content *c)
{
	const struct bits *here = &c->layer->here;
	for (uint64_t b = bits_next(here, 0); b < here->n; b = bits_next(here, b + 1)) {
		vdisk_set_dirty(c, b);
	}
	c->gen = 0;
}

void vdisk_forget_base(struct vdisk *d)
{
	LOCK_SCOPE(&d->lock);
	BUG_ON(d->now->capturing);
	all_dirty(d->now);
}

/* A new, empty layer over the image's blocks, or over the base alone. */
static struct err *fresh(struct vdisk *d, struct snap_image *image, const char *dir,
			 struct content **ret)
{
	struct layer_head h = { .base = d->seen };
	struct layer *layer = NULL;
	memcpy(h.family, d->family, sizeof(h.family));
	snprintf(h.path, sizeof(h.path), "%s", d->path);
	h.disk_bytes = d->seen.len_bytes / 512 * 512;
	h.base_end = h.disk_bytes;
	if (image != NULL) {
		struct snap_disk_info info;
		const struct snap_info *snap = snap_image_info(image);
		TRY(snap_image_disk_find(image, d->id, &info));
		h.disk_bytes = info.len_bytes;
		h.base_end = info.base_end;
		h.lower_end = info.len_bytes;
		snprintf(h.lower, sizeof(h.lower), "%s@%llu", snap_image_vm(image)->name,
			 (unsigned long long)snap->number);
		h.lower_root = snap->root;
		h.gen = snap->id;
		h.clean = true;
	}
	ENSURE(h.disk_bytes > 0, ERR_USAGE, "'%s' is empty", d->path);
	TRY(layer_remove(dir));
	TRY(layer_create(dir, &h, &layer));
	struct content *c = NULL;
	struct err *e = content_new(d, layer, image, &c);
	if (e != NULL) {
		err_drop(layer_remove(dir), "the first error is told");
		return e;
	}
	if (image != NULL &&
	    memcmp(snap_image_vm(image)->family, d->family, sizeof(d->family)) == 0) {
		c->gen = snap_image_info(image)->id;
	}
	*ret = c;
	return NULL;
}

/* ---- its place ---- */

/* "base.img-0123456789abcdef": the same for the same path. */
static struct err *choose_dir(struct vdisk *d, const struct vdisk_opts *o)
{
	char real[4096];
	char shown[33];
	if (realpath(o->path, real) == NULL) {
		return ERR_ERRNO("'%s'", o->path);
	}
	ENSURE(strlen(real) < sizeof(d->path), ERR_LIMIT, "its path has more than %d bytes",
	       LAYER_PATH_MAX);
	memcpy(d->path, real, strlen(real) + 1);
	snprintf(shown, sizeof(shown), "%.32s", strrchr(real, '/') + 1);
	for (char *p = shown; *p != 0; p++) {
		*p = *p > ' ' && *p < 0x7f ? *p : '_';
	}
	int n = snprintf(d->home, sizeof(d->home), "%s/disks/%s", o->store_dir, o->vm);
	ENSURE(n > 0 && (size_t)n < sizeof(d->home), ERR_LIMIT, "the store's path is too long");
	n = snprintf(d->dir, sizeof(d->dir), "%s/%s-%016llx", d->home, shown,
		     (unsigned long long)hash_xxh3_64(real, strlen(real), 0));
	ENSURE(n > 0 && (size_t)n < sizeof(d->dir), ERR_LIMIT, "the store's path is too long");
	snprintf(d->next, sizeof(d->next), "%s.next", d->dir);
	TRY(io_mkdirs(d->home));
	return io_open(d->home, O_RDONLY | O_DIRECTORY, 0, &d->home_fd);
}

/* A layer that goes on over a snapshot, which is to be the one that it was. */
static struct err *open_lower(struct vdisk *d, const struct vdisk_opts *o,
			      const struct layer_head *h, struct snap_image **ret)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	struct err *e = o->store != NULL ? snap_image_open(o->store, h->lower, &img)
					 : ERR(ERR_NOTFOUND, "no store is open");
	if (e == NULL && !sha256_equal(&snap_image_info(img)->root, &h->lower_root)) {
		e = ERR(ERR_NOTFOUND, "it is another one now");
	}
	if (e != NULL) {
		return err_reclass(err_wrap(e,
					    "what was written to '%s' (in '%s') is no disk without "
					    "snapshot %s",
					    d->path, d->dir, h->lower),
				   ERR_NOT_NOW);
	}
	*ret = MOVE(img);
	return NULL;
}

/* Goes on with what the VM of that name has written. */
static struct err *go_on(struct vdisk *d, const struct vdisk_opts *o, struct layer *layer)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	struct layer_head *h = &layer->head;
	struct err *e =
		o->accept_changed ? NULL : check_base(d, &h->base, &d->seen, o->may_be_copy);
	if (e == NULL && h->lower[0] != 0) {
		e = open_lower(d, o, h, &img);
	}
	if (e != NULL) {
		layer_free(layer);
		return e;
	}
	h->base = d->seen;
	h->gen = 0;
	h->clean = false;
	memcpy(h->family, d->family, sizeof(h->family));
	layer->head_stale = true;
	TRY(content_new(d, layer, img, &d->now));
	d->now->own_image = MOVE(img);
	all_dirty(d->now);
	return NULL;
}

/* Is all that the layer in our place holds in a snapshot that is there? */
static struct err *is_kept(struct vdisk *d, const struct vdisk_opts *o)
{
	SCOPE(family_closep) struct family *f = NULL;
	struct snap_info info;
	if (d->old == NULL || !d->old->head.clean || d->old->head.gen == 0 || o->store == NULL) {
		return NULL;
	}
	struct err *e = family_open(o->store, d->old->head.family, false, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "then no snapshot of it is");
		return NULL;
	}
	TRY(e);
	return family_snap_by_id(f, d->old->head.gen, &d->old_is_kept, &info);
}

static struct err *restore(struct vdisk *d, const struct vdisk_opts *o)
{
	struct snap_disk_info info;
	TRY(snap_image_disk_find(o->image, d->id, &info));
	const struct virtio_blk_seen then = {
		.dev = info.base_dev,
		.ino = info.base_ino,
		.len_bytes = info.base_bytes,
		.mtime_ns = info.base_mtime_ns,
		.is_file = info.base_is_file,
	};
	if (!o->accept_changed) {
		TRY(check_base(d, &then, &d->seen, o->may_be_copy));
	}
	/* Whoever lives with that layer keeps it; what it holds is looked at when this one begins.
	 */
	struct layer *old = NULL;
	struct err *e = layer_open(d->dir, &old);
	if (e != NULL && err_class(e) == ERR_NOT_NOW) {
		return e;
	}
	err_drop(e, "absent or damaged: it is set aside");
	d->old = old;
	TRY(is_kept(d, o));
	return fresh(d, o->image, d->next, &d->now);
}

static struct err *start(struct vdisk *d, const struct vdisk_opts *o)
{
	struct layer *layer = NULL;
	TRY(vdisk_look_base(d, &d->seen));
	TRY(choose_dir(d, o));
	if (o->image != NULL) {
		d->unsettled = true;
		return restore(d, o);
	}
	struct err *e = layer_open(d->dir, &layer);
	if (e == NULL) {
		return go_on(d, o, layer);
	}
	if (err_class(e) != ERR_NOTFOUND) {
		return err_wrap(e, "what was written to '%s' (in '%s')", d->path, d->dir);
	}
	err_drop(e, "the first time");
	d->unsettled = true;
	return fresh(d, NULL, d->next, &d->now);
}

struct err *vdisk_open(const struct vdisk_opts *opts, struct vdisk **ret)
{
	SCOPE(vdisk_freep) struct vdisk *d = calloc(1, sizeof(*d));
	if (d == NULL) {
		close(opts->base_fd);
		return ERR(ERR_SYS, "out of memory");
	}
	lock_init(&d->lock, RANK_DISK);
	d->base = (struct fd){ opts->base_fd };
	d->home_fd = FD_NONE;
	snprintf(d->id, sizeof(d->id), "%s", opts->id);
	memcpy(d->family, opts->family, sizeof(d->family));
	TRY(err_wrap(start(d, opts), "disk '%s'", d->id));
	*ret = MOVE(d);
	return NULL;
}

void vdisk_free(struct vdisk *d)
{
	if (d == NULL) {
		return;
	}
	if (d->now != NULL && !d->unsettled) {
		struct err *e = vdisk_sync(d);
		if (e != NULL) {
			log_err(err_wrap(e, "disk '%s': what was written last may be lost", d->id));
		}
	}
	bool drop = d->now != NULL && d->unsettled;
	vdisk_content_free(d->now);
	vdisk_content_free(d->before);
	layer_free(d->old);
	if (drop) {
		err_drop(layer_remove(d->next), "the next start removes it");
	}
	fd_close(&d->base);
	fd_close(&d->home_fd);
	lock_done(&d->lock);
	free(d);
}

/* ---- a new layer takes an old one's place ---- */

static struct err *set_aside(struct vdisk *d)
{
	char to[sizeof(d->dir) + 32];
	char when[24];
	time_t s = (time_t)(clock_real_ns() / 1000000000u);
	struct tm tm;
	gmtime_r(&s, &tm);
	BUG_ON(strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm) == 0);
	for (unsigned n = 0;; n++) {
		snprintf(to, sizeof(to), n == 0 ? "%s.aside-%s" : "%s.aside-%s-%u", d->dir, when,
			 n);
		if (syscall(SYS_renameat2, AT_FDCWD, d->dir, AT_FDCWD, to, 1u /* NOREPLACE */) ==
		    0) {
			break;
		}
		if (errno == ENOENT) {
			return NULL; /* there was none */
		}
		if (errno != EEXIST) {
			return ERR_ERRNO("setting '%s' aside", d->dir);
		}
	}
	LOG_W("disk '%s': what the guest had written after its last snapshot is set aside in '%s'",
	      d->id, to);
	return NULL;
}

struct err *vdisk_settle(struct vdisk *d)
{
	if (!d->unsettled) {
		return NULL;
	}
	struct err *e = d->old_is_kept ? layer_remove(d->dir) : set_aside(d);
	layer_free(MOVE(d->old));
	if (e == NULL && rename(d->next, d->dir) != 0) {
		e = ERR_ERRNO("giving '%s' its name", d->dir);
	}
	TRY(err_wrap(e, "disk '%s'", d->id));
	d->unsettled = false;
	return NULL;
}

/* ---- another size ---- */

struct err *vdisk_resize_content(struct content *c, uint64_t bytes)
{
	uint64_t n = block_up(bytes);
	TRY(layer_resize(c->layer, bytes));
	struct bits *const all[] = { &c->low, &c->known, &c->dirty, &c->frozen, &c->moved };
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		TRY(bits_resize(all[i], n));
	}
	/* A map of another length starts from nothing. */
	all_dirty(c);
	return NULL;
}

/* ---- rewind ---- */

struct err *vdisk_rewind(struct vdisk *d, struct snap_image *to)
{
	BUG_ON(d->before != NULL || d->now->capturing);
	struct content *c = NULL;
	TRY(err_wrap(fresh(d, to, d->next, &c), "disk '%s'", d->id));
	LOCK_SCOPE(&d->lock);
	d->before = d->now;
	d->now = c;
	return NULL;
}

void vdisk_rewind_undo(struct vdisk *d)
{
	if (d->before == NULL) {
		return;
	}
	struct content *c = d->now;
	lock_take(&d->lock);
	d->now = MOVE(d->before);
	lock_drop(&d->lock);
	vdisk_content_free(c);
	err_drop(layer_remove(d->next), "the next one removes it");
}

void vdisk_rewind_done(struct vdisk *d)
{
	if (d->before == NULL) {
		return;
	}
	vdisk_content_free(MOVE(d->before));
	/* At once where the file system can: a crash leaves one or the other. */
	struct err *e = NULL;
	if (syscall(SYS_renameat2, AT_FDCWD, d->next, AT_FDCWD, d->dir, 2u /* EXCHANGE */) != 0) {
		e = layer_remove(d->dir);
		if (e == NULL && rename(d->next, d->dir) != 0) {
			e = ERR_ERRNO("giving '%s' its name", d->dir);
		}
	} else {
		e = layer_remove(d->next);
	}
	e = e != NULL ? e : io_sync_file(d->home_fd.n); /* a flush may have been before */
	if (e != NULL) {
		log_err(err_wrap(e, "disk '%s'", d->id));
	}
}

/* ---- without the snapshot ---- */

static struct err *copy_up(struct vdisk *d, uint64_t block)
{
	struct piece p;
	TRY(disk_reader_piece(d->now->lower[0], block, &p));
	for (uint64_t b = p.first; b < p.first + p.npages && b < d->now->layer->nblocks; b++) {
		if (!bit_get(&d->now->low, b) || bit_get(&d->now->layer->here, b)) {
			continue;
		}
		TRY(io_pwrite_full(d->now->layer->data[0].n, p.pages + (b - p.first) * PAGE_BYTES,
				   PAGE_BYTES, b * PAGE_BYTES));
		layer_place(d->now->layer, b, 0);
		layer_touch(d->now->layer, b);
		d->now->wrote[0] = true;
	}
	return NULL;
}

/* No device stands on it any more. */
struct err *vdisk_make_whole(struct vdisk *d)
{
	struct content *c = d->now;
	if (c->lower[0] == NULL || d->unsettled) {
		return NULL;
	}
	for (uint64_t b = bits_next(&c->low, 0); b < c->low.n; b = bits_next(&c->low, b + 1)) {
		if (!bit_get(&c->layer->here, b)) {
			TRY(err_wrap(copy_up(d, b), "disk '%s'", d->id));
		}
	}
	TRY(vdisk_sync(d));
	c->layer->head.lower[0] = 0;
	return layer_write_head(c->layer);
}
