/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a work layer: where a captured disk's writes go (vdisk.h). A folder with
 *
 *	map     two heads, then two bits per block of 4096 bytes: absent, in `a`, in `b`
 *	a, b    sparse, a block at its own place in either of them
 *
 * docs/format.md has the bytes. The map has a checksum per 512 bytes, which a disk writes whole or
 * not at all, and any mixture of old and new such pieces is a sound layer, since a block's old
 * place keeps its content until the new one is durable: so there is no journal. The map is written
 * after the data that it tells of has been synced (layer_encode, layer_write).
 *
 * Whoever has the layer open holds a lock on `map`. No locking inside: vdisk's lock.
 */
#ifndef TORPOR_CORE_DISK_LAYER_H
#define TORPOR_CORE_DISK_LAYER_H

#include "core/base/err.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "devices/virtio_blk_backend.h"

#define LAYER_PATH_MAX 1023
#define LAYER_BLOCKS_MAX (1ull << 31) /* 8 TiB */

struct layer_head {
	uint8_t uuid[16];
	uint64_t disk_bytes;
	uint64_t base_end; /* bytes of the base that are seen through the layer */
	struct virtio_blk_seen base;
	/* What lies between layer and base: a snapshot's blocks; "": nothing. */
	char lower[REF_BYTES_MAX + 1];
	struct sha256 lower_root;
	uint64_t lower_end; /* bytes that are seen of it */
	/* The last generation that captured the disk, 0: none; clean: nothing was written since. */
	uint8_t family[16];
	uint64_t gen;
	bool clean;
	char path[LAYER_PATH_MAX + 1]; /* of the base */
};

struct bits {
	uint64_t *w; /* owned, mapped: what was never set costs nothing */
	uint64_t n;  /* bits */
};
MUST_USE struct err *bits_init(struct bits *b, uint64_t n);
void bits_done(struct bits *b);
/* Another length; what is there stays, up to the new end. */
MUST_USE struct err *bits_resize(struct bits *b, uint64_t n);
void bits_clear(struct bits *b); /* and gives the memory back */
/* The first set bit at or after `from`; b->n: none. */
uint64_t bits_next(const struct bits *b, uint64_t from);
static inline bool bit_get(const struct bits *b, uint64_t i)
{
	return (b->w[i / 64] >> i % 64 & 1) != 0;
}
static inline void bit_set(struct bits *b, uint64_t i)
{
	b->w[i / 64] |= 1ull << i % 64;
}
static inline void bit_drop(struct bits *b, uint64_t i)
{
	b->w[i / 64] &= ~(1ull << i % 64);
}

struct layer {
	struct fd dir;
	struct fd map;
	struct fd data[2];
	struct layer_head head;
	uint64_t seq; /* of the head written last */
	uint64_t nblocks;
	struct bits here;  /* in a or b */
	struct bits side;  /* set: in b */
	struct bits stale; /* pieces of the map that are to be written */
	bool head_stale;
	bool fresh; /* its names have never been synced */
};

/* A new one, empty, in a folder that does not exist; its parent does. */
MUST_USE struct err *layer_create(const char *path, const struct layer_head *head,
				  struct layer **ret);
/* ERR_NOTFOUND: there is none; ERR_NOT_NOW: somebody has it open; ERR_CORRUPT. */
MUST_USE struct err *layer_open(const char *path, struct layer **ret);
void layer_free(struct layer *l); /* writes nothing */
DEFINE_SCOPE(struct layer, layer_free)
/* Removes the folder, which nobody has open; one that is not there is fine. */
MUST_USE struct err *layer_remove(const char *path);

/* Where a block is now. */
static inline void layer_place(struct layer *l, uint64_t block, unsigned side)
{
	bit_set(&l->here, block);
	if (side != 0) {
		bit_set(&l->side, block);
	} else {
		bit_drop(&l->side, block);
	}
}
/* Its piece of the map differs from what is on disk. */
void layer_touch(struct layer *l, uint64_t block);
/* Another size: blocks behind the new end are forgotten. */
MUST_USE struct err *layer_resize(struct layer *l, uint64_t disk_bytes);

/* What is to be written of the map, as it is now; nothing is stale afterwards. */
struct layer_delta {
	uint8_t *p; /* owned; pieces */
	uint64_t *at;
	size_t n;
	bool head;
	struct layer_head to;
};
MUST_USE struct err *layer_encode(struct layer *l, struct layer_delta *ret);
/* Writes it, unsynced. */
MUST_USE struct err *layer_write(struct layer *l, const struct layer_delta *d);
/* It was not written, or not synced: all of it is stale again. */
void layer_undo(struct layer *l, const struct layer_delta *d);
void layer_delta_done(struct layer_delta *d);
/* The head alone, durably. */
MUST_USE struct err *layer_write_head(struct layer *l);

#endif
