/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compressor pool: chunks of pages go in, finished frame and leaf records come out over one
 * bounded queue to one consumer (the session's writer thread).
 *
 *	producer: pack_put* [pack_settle] ... pack_finish		one thread
 *	consumer: pack_take, pack_give_back until PACK_END or an error	one other thread
 *
 * A chunk is one leaf. Frame ids are taken when a frame is opened, leaf ids when the leaf is
 * encoded, so frames and leaves come out in any order and a leaf may come before its frames.
 * All-zero chunks give no item.
 *
 * Failure: the first error (a worker's, or the one given to pack_cancel) ends the pool: workers
 * stop, and every later or waiting call returns an error of the same class and message. Nothing
 * that was taken out before is undone. Workers may still read pages when an error is returned:
 * pack_settle and pack_free wait until they do not, also after an error.
 *
 * Memory: about 0.65 MiB per worker, out_bytes_max of finished records, and 4 KiB per queued chunk;
 * all of it is freed by pack_free.
 */
#ifndef TORPOR_STORE_PACK_H
#define TORPOR_STORE_PACK_H

#include "store/frame.h"
#include "store/mapcodec.h"

#define PACK_WORKERS_MAX 64u
#define PACK_OUT_BYTES_DEFAULT (8 * MIB)

struct pack;
struct pack_chunk;

/* What a leaf says about its pages, and the digests that its own is made of. */
struct pack_leaf {
	struct page_ref ref[LEAF_PAGES];
	struct hash128 digest[LEAF_PAGES];
};
/* 512 zero pages. */
void pack_leaf_zero(const struct map_zero *zero, struct pack_leaf *ret_leaf);

enum pack_id_kind {
	PACK_ID_FRAME,
	PACK_ID_LEAF,
};

struct pack_opts {
	unsigned workers;     /* 1..PACK_WORKERS_MAX */
	int level;            /* zstd; 0: the default */
	uint8_t uuid[16];     /* of the family; part of every checksum */
	size_t out_bytes_max; /* bound of the queue to the consumer; 0: the default */
	int nice;             /* niceness added to each worker; 0: unchanged */
	/* Hands out a fresh id, never 0. Called by the workers, several at once, no lock held. */
	struct err *(*next_id)(void *arg, enum pack_id_kind kind, uint64_t *ret_id);
	/*
	 * Fills what a chunk's leaf was before (chunk.load): of pages that the chunk gives only the
	 * reference, of the others the digest, too. Called like next_id. May be NULL.
	 */
	struct err *(*load)(void *arg, const struct pack_chunk *c, struct pack_leaf *ret_leaf);
	void *arg;
	/* May be NULL; a worker runs it once, after its name, signal mask and niceness are set. */
	void (*thread_init)(void *arg);
	void *thread_arg;
};

/* Errors: ERR_LIMIT (workers, level), ERR_SYS (memory, threads). */
MUST_USE struct err *pack_new(const struct pack_opts *opts, struct pack **ret_pack);

/* ---- producer ---- */

struct pack_chunk {
	uint64_t map;  /* the caller's, comes back with the leaf */
	uint64_t leaf; /* index of the leaf in its map; comes back with the leaf */
	/* No alignment needed. NULL: the page is what the leaf had before, zero if nothing. */
	const void *page[LEAF_PAGES];
	/*
	 * What the leaf had before, and what it has become once pack_settle has returned; borrowed
	 * until then. NULL: it begins with zero pages and is forgotten when it has been encoded.
	 */
	struct pack_leaf *state;
	bool live; /* the pages may change while they are read */
	bool load; /* opts.load says what it had before, also into *state */
	bool hold; /* only *state: no leaf comes out, a later chunk goes on with it */
};

/*
 * Queues a copy of *c; the pages themselves are read until pack_settle returns. A live page that
 * changes meanwhile is stored with one of its contents or a mix of them, but soundly. Of one state
 * there is one chunk at a time. Waits for room.
 */
MUST_USE struct err *pack_put(struct pack *p, const struct pack_chunk *c);
/*
 * Waits until all page memory given so far has been read; the writer may still be busy. After an
 * error, too, no page memory is read any more.
 */
MUST_USE struct err *pack_settle(struct pack *p);
/* Settles, queues the open frames, then the end. No pack_put after it. */
MUST_USE struct err *pack_finish(struct pack *p);

/* ---- consumer ---- */

enum pack_item_kind {
	PACK_NONE, /* timeout */
	PACK_FRAME,
	PACK_LEAF,
	PACK_END,
};

struct pack_item {
	enum pack_item_kind kind;
	uint64_t id;          /* of the frame or leaf */
	uint64_t map;         /* leaf: as given in its chunk */
	uint64_t leaf;        /* leaf: as given in its chunk */
	struct sha256 digest; /* leaf */
	uint32_t pages;       /* frame: slots in it */
	const uint8_t *p;     /* the record, until pack_give_back */
	size_t len;
	void *own; /* pack's */
};

/* Waits at most timeout_ns (UINT64_MAX: for ever) for an item. */
MUST_USE struct err *pack_take(struct pack *p, uint64_t timeout_ns, struct pack_item *ret_item);
/*
 * The item's bytes are done with. Any number may be held: they count against the bound, but a
 * consumer that waits for more gets it.
 */
void pack_give_back(struct pack *p, struct pack_item *item);

/* ---- any thread ---- */

/* Ends the pool with a copy of `why`, which stays the caller's. The first reason stays. */
void pack_cancel(struct pack *p, const struct err *why);

struct pack_stats {
	uint64_t pages_zero;   /* of the pages given; NULL pages are not counted */
	uint64_t pages_value;  /* non-zero, kept as one 8-byte value */
	uint64_t pages_stored; /* in frames */
	uint64_t frames;       /* finished */
	uint64_t frame_bytes;  /* of finished frames */
	uint64_t leaves;
	uint64_t leaf_bytes;
};
void pack_stats(struct pack *p, struct pack_stats *ret_stats);

/* Cancels what is not finished, waits for the workers, frees all. The consumer must be gone. */
void pack_free(struct pack *p);
DEFINE_SCOPE(struct pack, pack_free)

#endif
