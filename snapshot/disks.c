/* SPDX-License-Identifier: Apache-2.0 */
/* Captured disks. See disks.h. */
#include "snapshot/disks.h"

#include <stdio.h>
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/hash.h"
#include "snapshot/image.h"
#include "snapshot/pages.h"

enum {
	BUFFER_BLOCKS = 1024, /* 4 MiB are read, then packed */
	LEAF_BLOCKS = 512,    /* bits do not share a leaf with blocks */
	PAGE_BITS = PAGE_BYTES * 8,
};

/* ---- the map ---- */

static uint64_t nblocks(uint64_t len_bytes)
{
	return round_up_u64(len_bytes, PAGE_BYTES) / PAGE_BYTES;
}

/* Page of the map at which the bits begin, and how many pages they are. */
static uint64_t bits_at(uint64_t len_bytes)
{
	return round_up_u64(nblocks(len_bytes), LEAF_BLOCKS);
}

static uint64_t bits_pages(uint64_t len_bytes)
{
	return round_up_u64(nblocks(len_bytes), PAGE_BITS) / PAGE_BITS;
}

uint64_t disks_map_bytes(uint64_t len_bytes)
{
	return (bits_at(len_bytes) + bits_pages(len_bytes)) * PAGE_BYTES;
}

/* By the disk's name, so that a disk that comes or goes changes no other one's. */
static void map_name(const char *id, char ret[STORE_MAP_NAME_MAX + 1])
{
	uint64_t h = hash_xxh3_64(id, strlen(id), 0);
	snprintf(ret, STORE_MAP_NAME_MAX + 1, "d%014llx", (unsigned long long)(h >> 8));
}

/* ---- take ---- */

struct err *disks_begin(struct disks_take *t, const struct snap_vm *vm, struct manifest *m)
{
	ENSURE(vm->ndisks + m->nfiles + 1 <= STORE_MAPS_MAX, ERR_LIMIT,
	       "%zu captured disks: a snapshot has room for %u: give the others capture=off",
	       vm->ndisks, STORE_MAPS_MAX - 1 - m->nfiles);
	*t = (struct disks_take){ .vm = vm, .m = m };
	m->ndisks = (uint32_t)vm->ndisks;
	for (size_t i = 0; i < vm->ndisks; i++) {
		char name[STORE_MAP_NAME_MAX + 1];
		map_name(vm->disks[i].id, name);
		manifest_text(m->disks[i].id, sizeof(m->disks[i].id), vm->disks[i].id);
		manifest_text(m->disks[i].map, sizeof(m->disks[i].map), name);
		t->base[i] = vm->disks[i].ops->base(vm->disks[i].self);
	}
	return NULL;
}

void disks_freeze(struct disks_take *t)
{
	for (size_t i = 0; i < t->vm->ndisks; i++) {
		struct snap_disk_info info;
		struct manifest_disk *d = &t->m->disks[i];
		t->vm->disks[i].ops->freeze(t->vm->disks[i].self, &info);
		d->len_bytes = info.len_bytes;
		d->base_end = info.base_end;
		d->base_bytes = info.base_bytes;
		d->base_dev = info.base_dev;
		d->base_ino = info.base_ino;
		d->base_mtime_ns = info.base_mtime_ns;
		d->base_is_file = info.base_is_file;
	}
	t->frozen = true;
}

struct saving {
	const struct snap_disk *disk;
	struct session *session;
	const struct snap_take_opts *opts;
	uint8_t *buf;
	uint64_t nbuf;
	uint64_t done;
};

static struct err *settle(struct saving *s)
{
	s->nbuf = 0;
	TRY(session_settle(s->session));
	return pages_check_cancel(s->opts->cancel);
}

static struct err *save_run(struct saving *s, uint64_t first, uint64_t n)
{
	while (n > 0) {
		if (s->nbuf == BUFFER_BLOCKS) {
			TRY(settle(s));
		}
		uint64_t part = MIN(n, BUFFER_BLOCKS - s->nbuf);
		uint8_t *to = s->buf + s->nbuf * PAGE_BYTES;
		TRY(s->disk->ops->read(s->disk->self, first, part, to));
		TRY(session_map_pages(s->session, first, to, part));
		s->nbuf += part;
		s->done += part;
		first += part;
		n -= part;
	}
	return NULL;
}

static struct err *save_blocks(struct saving *s)
{
	const struct snap_disk_ops *ops = s->disk->ops;
	uint64_t at = 0, first, n;
	while (ops->changed(s->disk->self, at, &first, &n)) {
		TRY(save_run(s, first, n));
		at = first + n;
		if (s->opts->progress.fn != NULL) {
			s->opts->progress.fn(s->opts->progress.arg, "disk", s->done * PAGE_BYTES,
					     s->done * PAGE_BYTES);
		}
	}
	return NULL;
}

static struct err *save_bits(struct saving *s, uint64_t len_bytes)
{
	for (uint64_t i = 0; i < bits_pages(len_bytes); i++) {
		if (s->nbuf == BUFFER_BLOCKS) {
			TRY(settle(s));
		}
		uint8_t *to = s->buf + s->nbuf * PAGE_BYTES;
		if (s->disk->ops->held(s->disk->self, i, to)) {
			TRY(session_map_pages(s->session, bits_at(len_bytes) + i, to, 1));
			s->nbuf++;
		}
	}
	return NULL;
}

static struct err *save_one(struct disks_take *t, size_t i, struct session *session,
			    const struct snap_take_opts *opts, uint64_t *blocks)
{
	static const uint8_t no_user[32] = { 0 };
	const struct manifest_disk *d = &t->m->disks[i];
	SCOPE(freep) uint8_t *buf = malloc((size_t)BUFFER_BLOCKS * PAGE_BYTES);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	struct saving s = {
		.disk = &t->vm->disks[i],
		.session = session,
		.opts = opts,
		.buf = buf,
	};
	const struct map_opts mo = { .base = t->base[i] };
	TRY(session_map_begin_as(session, (const char *)d->map, disks_map_bytes(d->len_bytes),
				 no_user, &mo));
	struct err *e = save_blocks(&s);
	e = e != NULL ? e : save_bits(&s, d->len_bytes);
	/* On failure too: the buffer goes. */
	TRY(err_first(e, session_settle(session)));
	*blocks += s.done;
	return session_map_end(session);
}

struct err *disks_save(struct disks_take *t, struct session *s, const struct snap_take_opts *opts,
		       uint64_t *ret_blocks)
{
	for (size_t i = 0; i < t->vm->ndisks; i++) {
		TRY(err_wrap(save_one(t, i, s, opts, ret_blocks), "disk '%s'", t->vm->disks[i].id));
	}
	return NULL;
}

void disks_end(struct disks_take *t, uint64_t snap_id)
{
	for (size_t i = 0; t->frozen && i < t->vm->ndisks; i++) {
		t->vm->disks[i].ops->end(t->vm->disks[i].self, snap_id);
	}
	t->frozen = false;
}

/* ---- out of a snapshot ---- */

size_t snap_image_ndisks(const struct snap_image *img)
{
	return img->manifest->ndisks;
}

static void tell(const struct manifest_disk *d, struct snap_disk_info *ret)
{
	*ret = (struct snap_disk_info){
		.len_bytes = d->len_bytes,
		.base_end = d->base_end,
		.base_bytes = d->base_bytes,
		.base_dev = d->base_dev,
		.base_ino = d->base_ino,
		.base_mtime_ns = d->base_mtime_ns,
		.base_is_file = d->base_is_file,
	};
	snprintf(ret->id, sizeof(ret->id), "%.*s", (int)NAME_BYTES_MAX, (const char *)d->id);
}

void snap_image_disk(const struct snap_image *img, size_t i, struct snap_disk_info *ret)
{
	tell(&img->manifest->disks[i], ret);
}

static struct err *find(const struct snap_image *img, const char *id,
			const struct manifest_disk **ret)
{
	const struct manifest_disk *d = manifest_find_disk(img->manifest, id);
	ENSURE(d != NULL, ERR_NOTFOUND, "snapshot %llu of %s holds no disk '%s'",
	       (unsigned long long)img->ref.snap.number, img->ref.vm.name, id);
	*ret = d;
	return NULL;
}

struct err *snap_image_disk_find(const struct snap_image *img, const char *id,
				 struct snap_disk_info *ret)
{
	const struct manifest_disk *d = NULL;
	TRY(find(img, id, &d));
	tell(d, ret);
	return NULL;
}

struct disk_reader {
	const struct snap_image *img;
	const struct manifest_disk *d;
	struct piece_reader *pieces;
};

struct err *disk_reader_new(struct snap_image *img, const char *id, struct disk_reader **ret)
{
	SCOPE(disk_reader_freep) struct disk_reader *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	r->img = img;
	TRY(find(img, id, &r->d));
	TRY(piece_reader_new(img->reader, (const char *)r->d->map, &r->pieces));
	*ret = MOVE(r);
	return NULL;
}

void disk_reader_free(struct disk_reader *r)
{
	if (r != NULL) {
		piece_reader_free(r->pieces);
		free(r);
	}
}

struct err *disk_reader_piece(struct disk_reader *r, uint64_t block, struct piece *ret)
{
	return err_wrap(piece_read(r->pieces, block, ret), "snapshot %llu of %s, disk '%s'",
			(unsigned long long)r->img->ref.snap.number, r->img->ref.vm.name,
			(const char *)r->d->id);
}

struct err *disk_reader_held(struct disk_reader *r,
			     void (*fn)(void *arg, uint64_t first, uint64_t bits), void *arg)
{
	uint64_t end = nblocks(r->d->len_bytes);
	uint64_t at = bits_at(r->d->len_bytes);
	for (uint64_t i = 0; i < bits_pages(r->d->len_bytes);) {
		struct piece p;
		TRY(disk_reader_piece(r, at + i, &p));
		uint64_t skip = at + i - p.first;
		for (uint64_t k = skip; k < p.npages && p.nzero < p.npages; k++) {
			const uint8_t *bits = p.pages + k * PAGE_BYTES;
			for (uint64_t w = 0; w < PAGE_BYTES / 8; w++) {
				uint64_t v = get_le64(bits + 8 * w);
				uint64_t first = (p.first + k - at) * PAGE_BITS + 64 * w;
				ENSURE(v == 0 || (first < end &&
						  (end - first >= 64 || v >> (end - first) == 0)),
				       ERR_CORRUPT,
				       "disk '%s': it tells of blocks behind the disk's end",
				       (const char *)r->d->id);
				if (v != 0) {
					fn(arg, first, v);
				}
			}
		}
		i += p.npages - skip;
	}
	return NULL;
}
