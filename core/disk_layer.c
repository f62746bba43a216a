/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of a work layer. See disk_layer.h; docs/format.md, "Work layer". Called by vdisk.c
 * under its lock, and by the start-up.
 */
#include "core/disk_layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/io.h"

enum {
	HEAD_BYTES = 4096,
	HEADS = 2, /* written in turn: one of them is always whole */
	PIECE_BYTES = 512,
	SUM_BYTES = 8,
	PIECE_BLOCKS = (PIECE_BYTES - SUM_BYTES) * 4,
	VERSION = 1,
	AT_LOWER_END = 280, /* in the head */
	AT_PATH = 1024,
	AT_SUM = HEAD_BYTES - SUM_BYTES,
};
static const char magic[8] = "TPWLAYER";

/* ---- bits ---- */

struct err *bits_init(struct bits *b, uint64_t n)
{
	size_t bytes = (size_t)(n / 64 + 1) * 8;
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ENSURE(p != MAP_FAILED, ERR_SYS, "no memory for a disk of %llu blocks",
	       (unsigned long long)n);
	*b = (struct bits){ .w = p, .n = n };
	return NULL;
}

void bits_done(struct bits *b)
{
	if (b->w != NULL) {
		munmap(b->w, (size_t)(b->n / 64 + 1) * 8);
	}
	*b = (struct bits){ 0 };
}

void bits_clear(struct bits *b)
{
	BUG_ON(madvise(b->w, (size_t)(b->n / 64 + 1) * 8, MADV_DONTNEED) != 0);
}

uint64_t bits_next(const struct bits *b, uint64_t from)
{
	if (from >= b->n) {
		return b->n;
	}
	uint64_t i = from / 64;
	uint64_t w = b->w[i] & ~0ull << from % 64;
	while (w == 0) {
		if (++i > (b->n - 1) / 64) {
			return b->n;
		}
		w = b->w[i];
	}
	uint64_t at = i * 64 + (uint64_t)__builtin_ctzll(w);
	return MIN(at, b->n);
}

struct err *bits_resize(struct bits *b, uint64_t n)
{
	struct bits to = { 0 };
	TRY(bits_init(&to, n));
	for (uint64_t i = bits_next(b, 0); i < MIN(b->n, n); i = bits_next(b, i + 1)) {
		bit_set(&to, i);
	}
	bits_done(b);
	*b = to;
	return NULL;
}

/* ---- the head ---- */

static uint64_t piece_seed(const uint8_t uuid[16], uint64_t piece)
{
	return get_le64(uuid) ^ (piece + 1);
}

static void encode_head(const struct layer_head *h, uint64_t seq, uint8_t p[HEAD_BYTES])
{
	memset(p, 0, HEAD_BYTES);
	memcpy(p, magic, sizeof(magic));
	put_le32(p + 8, VERSION);
	p[12] = h->base.is_file;
	p[13] = h->clean;
	memcpy(p + 16, h->uuid, 16);
	memcpy(p + 32, h->family, 16);
	const uint64_t v[] = { seq,         h->disk_bytes, h->base_end,       h->gen,
			       h->base.dev, h->base.ino,   h->base.len_bytes, h->base.mtime_ns };
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		put_le64(p + 48 + 8 * i, v[i]);
	}
	memcpy(p + 112, h->lower_root.b, sizeof(h->lower_root.b));
	memcpy(p + 144, h->lower, sizeof(h->lower));
	put_le64(p + AT_LOWER_END, h->lower_end);
	memcpy(p + AT_PATH, h->path, sizeof(h->path));
	put_le64(p + AT_SUM, hash_xxh3_64(p, AT_SUM, VERSION));
}

static struct err *decode_head(const uint8_t p[HEAD_BYTES], struct layer_head *ret, uint64_t *seq)
{
	struct layer_head h = { 0 };
	ENSURE(memcmp(p, magic, sizeof(magic)) == 0, ERR_CORRUPT, "it is no map of a disk's layer");
	ENSURE(get_le32(p + 8) == VERSION, ERR_INCOMPAT,
	       "its map is of version %u, this program knows %d", get_le32(p + 8), VERSION);
	ENSURE(get_le64(p + AT_SUM) == hash_xxh3_64(p, AT_SUM, VERSION), ERR_CORRUPT,
	       "the head of its map is damaged");
	ENSURE(p[12] <= 1 && p[13] <= 1, ERR_CORRUPT, "the head of its map is malformed");
	h.base.is_file = p[12];
	h.clean = p[13];
	memcpy(h.uuid, p + 16, 16);
	memcpy(h.family, p + 32, 16);
	*seq = get_le64(p + 48);
	h.disk_bytes = get_le64(p + 56);
	h.base_end = get_le64(p + 64);
	h.gen = get_le64(p + 72);
	h.base.dev = get_le64(p + 80);
	h.base.ino = get_le64(p + 88);
	h.base.len_bytes = get_le64(p + 96);
	h.base.mtime_ns = get_le64(p + 104);
	memcpy(h.lower_root.b, p + 112, sizeof(h.lower_root.b));
	memcpy(h.lower, p + 144, sizeof(h.lower));
	h.lower_end = get_le64(p + AT_LOWER_END);
	memcpy(h.path, p + AT_PATH, sizeof(h.path));
	ENSURE(h.disk_bytes > 0 && h.disk_bytes <= LAYER_BLOCKS_MAX * PAGE_BYTES &&
		       h.base_end <= h.disk_bytes && h.lower_end <= h.disk_bytes &&
		       h.lower[REF_BYTES_MAX] == 0 && h.path[LAYER_PATH_MAX] == 0,
	       ERR_CORRUPT, "the head of its map is malformed");
	*ret = h;
	return NULL;
}

/* The newer of the two that are whole. */
static struct err *read_head(struct layer *l)
{
	struct err *first = NULL;
	bool have = false;
	for (unsigned i = 0; i < HEADS; i++) {
		uint8_t p[HEAD_BYTES];
		struct layer_head h;
		uint64_t seq = 0;
		struct err *e = io_pread_full(l->map.n, p, sizeof(p), i * (uint64_t)HEAD_BYTES);
		e = e != NULL ? e : decode_head(p, &h, &seq);
		if (e == NULL && (!have || seq > l->seq)) {
			l->head = h;
			l->seq = seq;
			have = true;
		}
		first = err_first(first, e);
	}
	if (have) {
		err_free(first);
		return NULL;
	}
	return first;
}

/* To be synced before the next one is written: the other one may be torn until then. */
static struct err *write_head(struct layer *l, const struct layer_head *h)
{
	uint8_t p[HEAD_BYTES];
	encode_head(h, l->seq + 1, p);
	TRY(io_pwrite_full(l->map.n, p, sizeof(p), (l->seq + 1) % HEADS * (uint64_t)HEAD_BYTES));
	l->seq++;
	return NULL;
}

struct err *layer_write_head(struct layer *l)
{
	struct err *e = write_head(l, &l->head);
	e = e != NULL ? e : io_sync_file(l->map.n);
	l->head_stale = e != NULL;
	return e;
}

/* ---- the map ---- */

static uint64_t npieces(uint64_t nblocks)
{
	return nblocks / PIECE_BLOCKS + 1;
}

void layer_touch(struct layer *l, uint64_t block)
{
	bit_set(&l->stale, block / PIECE_BLOCKS);
}

static void encode_piece(const struct layer *l, uint64_t piece, uint8_t p[PIECE_BYTES])
{
	uint64_t first = piece * PIECE_BLOCKS;
	uint64_t end = MIN(first + PIECE_BLOCKS, l->nblocks);
	memset(p, 0, PIECE_BYTES);
	for (uint64_t b = bits_next(&l->here, first); b < end; b = bits_next(&l->here, b + 1)) {
		unsigned v = bit_get(&l->side, b) ? 2 : 1;
		p[SUM_BYTES + (b - first) / 4] |= (uint8_t)(v << (b - first) % 4 * 2);
	}
	put_le64(p, hash_xxh3_64(p + SUM_BYTES, PIECE_BYTES - SUM_BYTES,
				 piece_seed(l->head.uuid, piece)));
}

static struct err *decode_piece(struct layer *l, uint64_t piece, const uint8_t p[PIECE_BYTES])
{
	static const uint8_t zeros[PIECE_BYTES];
	uint64_t first = piece * PIECE_BLOCKS;
	if (memcmp(p, zeros, PIECE_BYTES) == 0) {
		return NULL; /* never written */
	}
	ENSURE(get_le64(p) == hash_xxh3_64(p + SUM_BYTES, PIECE_BYTES - SUM_BYTES,
					   piece_seed(l->head.uuid, piece)),
	       ERR_CORRUPT, "its map is damaged from block %llu on", (unsigned long long)first);
	for (uint64_t i = 0; i < PIECE_BLOCKS; i++) {
		unsigned v = p[SUM_BYTES + i / 4] >> i % 4 * 2 & 3;
		if (v == 0 || first + i >= l->nblocks) {
			continue; /* what lies behind the end is of an earlier size */
		}
		ENSURE(v != 3, ERR_CORRUPT, "its map says nonsense of block %llu",
		       (unsigned long long)(first + i));
		layer_place(l, first + i, v - 1);
	}
	return NULL;
}

/* The file ends where it was written last; behind that all is absent. */
static struct err *read_map(struct layer *l)
{
	enum { MANY = 128 };
	SCOPE(freep) uint8_t *buf = malloc(MANY * PIECE_BYTES);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	uint64_t at = HEADS * (uint64_t)HEAD_BYTES;
	for (uint64_t piece = 0; piece < npieces(l->nblocks);) {
		/* Holes are passed over. */
		off_t data = lseek(l->map.n, (off_t)(at + piece * PIECE_BYTES), SEEK_DATA);
		if (data < 0) {
			return errno == ENXIO ? NULL : ERR_ERRNO("its map");
		}
		piece = MAX(piece, ((uint64_t)data - at) / PIECE_BYTES);
		ssize_t n =
			pread(l->map.n, buf, MANY * PIECE_BYTES, (off_t)(at + piece * PIECE_BYTES));
		if (n <= 0) {
			return n == 0 ? NULL : ERR_ERRNO("its map");
		}
		uint64_t got = (uint64_t)n / PIECE_BYTES;
		ENSURE((uint64_t)n % PIECE_BYTES == 0, ERR_CORRUPT, "its map ends within a piece");
		for (uint64_t i = 0; i < got && piece < npieces(l->nblocks); i++, piece++) {
			TRY(decode_piece(l, piece, buf + i * PIECE_BYTES));
		}
	}
	return NULL;
}

struct err *layer_encode(struct layer *l, struct layer_delta *ret)
{
	struct layer_delta d = { .head = l->head_stale, .to = l->head };
	size_t n = 0;
	for (uint64_t i = bits_next(&l->stale, 0); i < l->stale.n;
	     i = bits_next(&l->stale, i + 1)) {
		n++;
	}
	if (n > 0) {
		d.p = malloc(n * PIECE_BYTES);
		d.at = malloc(n * sizeof(*d.at));
		if (d.p == NULL || d.at == NULL) {
			layer_delta_done(&d);
			return ERR(ERR_SYS, "out of memory");
		}
	}
	for (uint64_t i = bits_next(&l->stale, 0); i < l->stale.n;
	     i = bits_next(&l->stale, i + 1)) {
		encode_piece(l, i, d.p + d.n * PIECE_BYTES);
		d.at[d.n++] = i;
	}
	for (size_t i = 0; i < d.n; i++) {
		bit_drop(&l->stale, d.at[i]);
	}
	l->head_stale = false;
	*ret = d;
	return NULL;
}

struct err *layer_write(struct layer *l, const struct layer_delta *d)
{
	for (size_t i = 0; i < d->n;) {
		size_t run = 1;
		while (i + run < d->n && d->at[i + run] == d->at[i] + run) {
			run++;
		}
		TRY(io_pwrite_full(l->map.n, d->p + i * PIECE_BYTES, run * PIECE_BYTES,
				   HEADS * (uint64_t)HEAD_BYTES + d->at[i] * PIECE_BYTES));
		i += run;
	}
	return d->head ? write_head(l, &d->to) : NULL;
}

void layer_undo(struct layer *l, const struct layer_delta *d)
{
	for (size_t i = 0; i < d->n; i++) {
		bit_set(&l->stale, d->at[i]);
	}
	l->head_stale = l->head_stale || d->head;
}

void layer_delta_done(struct layer_delta *d)
{
	free(d->p);
	free(d->at);
	*d = (struct layer_delta){ 0 };
}

/* ---- its life ---- */

static struct err *size_data(struct layer *l, uint64_t disk_bytes)
{
	for (unsigned i = 0; i < 2; i++) {
		uint64_t have = 0;
		TRY(io_size(l->data[i].n, &have));
		uint64_t want = round_up_u64(disk_bytes, PAGE_BYTES);
		if (have < want && ftruncate(l->data[i].n, (off_t)want) != 0) {
			return ERR_ERRNO("%llu bytes for what is written to it",
					 (unsigned long long)want);
		}
	}
	return NULL;
}

static struct err *init_bits(struct layer *l)
{
	l->nblocks = round_up_u64(l->head.disk_bytes, PAGE_BYTES) / PAGE_BYTES;
	TRY(bits_init(&l->here, l->nblocks));
	TRY(bits_init(&l->side, l->nblocks));
	return bits_init(&l->stale, npieces(l->nblocks));
}

static struct err *open_files(struct layer *l, const char *path, int flags)
{
	static const char *const names[2] = { "a", "b" };
	TRY(io_open(path, O_RDONLY | O_DIRECTORY, 0, &l->dir));
	TRY(io_openat(l->dir.n, "map", O_RDWR | flags, 0600, &l->map));
	bool got = false;
	TRY(io_try_lock(l->map.n, &got));
	ENSURE(got, ERR_NOT_NOW, "it is in use by another VM");
	for (unsigned i = 0; i < 2; i++) {
		TRY(io_openat(l->dir.n, names[i], O_RDWR | flags, 0600, &l->data[i]));
	}
	return NULL;
}

static struct layer *alloc(void)
{
	struct layer *l = calloc(1, sizeof(*l));
	if (l != NULL) {
		l->dir = l->map = l->data[0] = l->data[1] = FD_NONE;
	}
	return l;
}

static struct err *make(struct layer *l, const char *path)
{
	if (mkdir(path, 0700) != 0) {
		return ERR_ERRNO("making '%s'", path);
	}
	TRY(open_files(l, path, O_CREAT | O_EXCL));
	TRY(size_data(l, l->head.disk_bytes));
	TRY(init_bits(l));
	l->fresh = true;
	/* Both, so that no torn one is ever all there is. */
	TRY(write_head(l, &l->head));
	return write_head(l, &l->head);
}

struct err *layer_create(const char *path, const struct layer_head *head, struct layer **ret)
{
	ENSURE(head->disk_bytes > 0 && head->disk_bytes <= LAYER_BLOCKS_MAX * PAGE_BYTES, ERR_LIMIT,
	       "a captured disk has at most %llu GiB",
	       (unsigned long long)(LAYER_BLOCKS_MAX * PAGE_BYTES / GIB));
	SCOPE(layer_freep) struct layer *l = alloc();
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	l->head = *head;
	struct err *e = uuid_make(l->head.uuid);
	e = e != NULL ? e : make(l, path);
	if (e != NULL) {
		err_drop(layer_remove(path), "the first error is told");
		return e;
	}
	*ret = MOVE(l);
	return NULL;
}

struct err *layer_open(const char *path, struct layer **ret)
{
	SCOPE(layer_freep) struct layer *l = alloc();
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	TRY(open_files(l, path, 0));
	TRY(read_head(l));
	TRY(init_bits(l));
	TRY(read_map(l));
	TRY(size_data(l, l->head.disk_bytes));
	*ret = MOVE(l);
	return NULL;
}

void layer_free(struct layer *l)
{
	if (l == NULL) {
		return;
	}
	bits_done(&l->here);
	bits_done(&l->side);
	bits_done(&l->stale);
	fd_close(&l->data[0]);
	fd_close(&l->data[1]);
	fd_close(&l->map);
	fd_close(&l->dir);
	free(l);
}

struct err *layer_remove(const char *path)
{
	static const char *const names[] = { "map", "a", "b" };
	char file[4096];
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(file, sizeof(file), "%s/%s", path, names[i]);
		if (unlink(file) != 0 && errno != ENOENT) {
			return ERR_ERRNO("removing '%s'", file);
		}
	}
	if (rmdir(path) != 0 && errno != ENOENT) {
		return ERR_ERRNO("removing '%s'", path);
	}
	return NULL;
}

/* Data, then all that is stale; what lies behind the map's end is of no size that comes. */
static struct err *write_all(struct layer *l)
{
	struct layer_delta d = { 0 };
	TRY(io_sync_file(l->data[0].n));
	TRY(io_sync_file(l->data[1].n));
	TRY(layer_encode(l, &d));
	struct err *e = layer_write(l, &d);
	if (e == NULL) {
		uint64_t end = HEADS * (uint64_t)HEAD_BYTES + npieces(l->nblocks) * PIECE_BYTES;
		e = ftruncate(l->map.n, (off_t)end) == 0 ? NULL : ERR_ERRNO("its map");
	}
	e = e != NULL ? e : layer_write_head(l);
	if (e != NULL) {
		layer_undo(l, &d);
	}
	layer_delta_done(&d);
	return e;
}

struct err *layer_resize(struct layer *l, uint64_t disk_bytes)
{
	uint64_t n = round_up_u64(disk_bytes, PAGE_BYTES) / PAGE_BYTES;
	ENSURE(n <= LAYER_BLOCKS_MAX, ERR_LIMIT, "a captured disk has at most %llu GiB",
	       (unsigned long long)(LAYER_BLOCKS_MAX * PAGE_BYTES / GIB));
	TRY(size_data(l, disk_bytes));
	TRY(bits_resize(&l->here, n));
	TRY(bits_resize(&l->side, n));
	TRY(bits_resize(&l->stale, npieces(n)));
	l->head.disk_bytes = disk_bytes;
	l->head.base_end = MIN(l->head.base_end, disk_bytes);
	l->head.lower_end = MIN(l->head.lower_end, disk_bytes);
	l->nblocks = n;
	bit_set(&l->stale, n / PIECE_BLOCKS);
	return write_all(l);
}
