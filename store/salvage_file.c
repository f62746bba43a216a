/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of LMDB data files and their two meta pages. See salvage_file.h; called by salvage.c.
 *
 * The offsets are those of LMDB 0.9 on a 64-bit little-endian machine with pages of 4 KiB.
 */
#include "store/salvage_file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/io.h"
#include "core/base/limits.h"

enum {
	PAGE_HEAD = 16,
	META_BYTES = 152,
	META_MAGIC_AT = 16,
	META_FREE_AT = 40,
	META_MAIN_AT = 88,
	META_LAST_PG_AT = 136,
	META_TXNID_AT = 144,
	TREE_DEPTH_AT = 6, /* within a tree's description of 48 bytes */
	TREE_LEAF_PAGES_AT = 16,
	TREE_ENTRIES_AT = 32,
	TREE_ROOT_AT = 40,
	TREE_BYTES = 48,
	FLAG_LEAF = 2,
	FLAG_META = 8,
	COPY_BYTES = 1024 * 1024,
};
#define META_MAGIC 0xBEEFC0DEu
#define NO_PAGE UINT64_MAX

struct err *salvage_copy(const char *from, const char *to)
{
	SCOPE(fd_close) struct fd in = FD_NONE;
	TRY(io_open(from, O_RDONLY, 0, &in));
	SCOPE(fd_close) struct fd out = FD_NONE;
	TRY(io_open(to, O_WRONLY | O_CREAT | O_EXCL, 0600, &out));
	SCOPE(freep) uint8_t *buf = malloc(COPY_BYTES);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	for (;;) {
		ssize_t n = read(in.n, buf, COPY_BYTES);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("reading %s", from);
		}
		if (n == 0) {
			return io_sync_file(out.n);
		}
		TRY(err_wrap(io_write_full(out.n, buf, (size_t)n), "copying to %s", to));
	}
}

/* A tree without records. */
static void tree_empty(uint8_t *p)
{
	memset(p + TREE_DEPTH_AT, 0, TREE_BYTES - TREE_DEPTH_AT);
	put_le64(p + TREE_ROOT_AT, NO_PAGE);
}

/*
 * A free list with one record of transaction `txnid` that frees nothing: every commit of LMDB
 * leaves a record with its own number, and a meta page without one is taken for damaged.
 */
static void free_page(uint8_t page[PAGE_BYTES], uint64_t pg, uint64_t txnid)
{
	enum {
		NODE_BYTES = 8 + 8 + 8, /* head, key, a count of 0 */
		AT = PAGE_BYTES - NODE_BYTES,
	};
	memset(page, 0, PAGE_BYTES);
	put_le64(page, pg);
	put_le16(page + 10, FLAG_LEAF);
	put_le16(page + 12, PAGE_HEAD + 2);
	put_le16(page + 14, AT);
	put_le16(page + PAGE_HEAD, AT);
	put_le32(page + AT, 8);     /* bytes of the value */
	put_le16(page + AT + 6, 8); /* bytes of the key */
	put_le64(page + AT + 8, txnid);
}

struct err *salvage_meta_keep(const char *data_file, unsigned keep, uint64_t *ret_txnid)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(data_file, O_RDWR, 0, &f));
	uint8_t meta[META_BYTES];
	uint8_t page[PAGE_BYTES];
	uint64_t len;
	TRY(io_size(f.n, &len));
	TRY(err_wrap(io_pread_full(f.n, meta, sizeof(meta), (uint64_t)keep * PAGE_BYTES), "%s",
		     data_file));
	uint64_t txnid = get_le64(meta + META_TXNID_AT);
	uint64_t last = get_le64(meta + META_LAST_PG_AT);
	ENSURE(get_le64(meta) == keep && get_le16(meta + 10) == FLAG_META &&
		       get_le32(meta + META_MAGIC_AT) == META_MAGIC && txnid % 2 == keep &&
		       txnid > 0 && last < len / PAGE_BYTES,
	       ERR_CORRUPT, "%s: meta page %u is damaged, or the file is cut off", data_file, keep);
	*ret_txnid = txnid;
	put_le64(meta, 1 - keep);
	put_le64(meta + META_TXNID_AT, txnid - 1);
	tree_empty(meta + META_FREE_AT);
	tree_empty(meta + META_MAIN_AT);
	if (txnid > 1) {
		/* Behind what the kept page counts: its next commit may write over it. */
		uint64_t pg = last + 1;
		free_page(page, pg, txnid - 1);
		TRY(io_pwrite_full(f.n, page, sizeof(page), pg * PAGE_BYTES));
		put_le16(meta + META_FREE_AT + TREE_DEPTH_AT, 1);
		put_le64(meta + META_FREE_AT + TREE_LEAF_PAGES_AT, 1);
		put_le64(meta + META_FREE_AT + TREE_ENTRIES_AT, 1);
		put_le64(meta + META_FREE_AT + TREE_ROOT_AT, pg);
		put_le64(meta + META_LAST_PG_AT, pg);
	} else {
		put_le64(meta + META_LAST_PG_AT, 1);
	}
	memset(page, 0, sizeof(page));
	memcpy(page, meta, sizeof(meta));
	TRY(io_pwrite_full(f.n, page, sizeof(page), (uint64_t)(1 - keep) * PAGE_BYTES));
	return io_sync_file(f.n);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

struct err *salvage_rmtree(const char *dir)
{
	if (nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT) {
		return ERR_ERRNO("removing %s", dir);
	}
	return NULL;
}
