/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every byte of an LMDB data file is: for the tests of rot, which must know whether a flipped
 * bit was in use. Walks a sound file that nobody writes to; it shares nothing with the code under
 * test. The layout is that of LMDB 0.9 on a 64-bit little-endian machine with pages of 4 KiB.
 */
#ifndef TORPOR_TEST_ROT_MAP_H
#define TORPOR_TEST_ROT_MAP_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum rot_class {
	ROT_FREE_PAGE, /* no tree of the newest state has it */
	ROT_META_PAD,  /* of both meta pages: behind what LMDB reads */
	ROT_META_NEW,  /* header and body of the newest */
	ROT_META_OLD,
	ROT_PAGE_HEAD,
	ROT_PAGE_PTRS,
	ROT_PAGE_SLACK, /* between pointers and nodes, and padding of nodes */
	ROT_NODE_HEAD,
	ROT_KEY_LEAF,
	ROT_KEY_BRANCH,
	ROT_TABLE,     /* a table's description in the main tree */
	ROT_BIG_AT,    /* page number of a value with pages of its own */
	ROT_FREE_LIST, /* values of the free list */
	ROT_VALUE,     /* records that share B-tree pages */
	ROT_BIG_HEAD,  /* page header of such pages */
	ROT_BIG_VALUE,
	ROT_BIG_SLACK,
	ROT__COUNT,
};

static const char *const rot_class_name[ROT__COUNT] = {
	[ROT_FREE_PAGE] = "free page",
	[ROT_META_PAD] = "unused part of a meta page",
	[ROT_META_NEW] = "newest meta page",
	[ROT_META_OLD] = "older meta page",
	[ROT_PAGE_HEAD] = "page header",
	[ROT_PAGE_PTRS] = "node pointers",
	[ROT_PAGE_SLACK] = "gap in a page",
	[ROT_NODE_HEAD] = "node header",
	[ROT_KEY_LEAF] = "key",
	[ROT_KEY_BRANCH] = "key of a branch",
	[ROT_TABLE] = "table description",
	[ROT_BIG_AT] = "page number of a big value",
	[ROT_FREE_LIST] = "free list",
	[ROT_VALUE] = "small record",
	[ROT_BIG_HEAD] = "page header of a big value",
	[ROT_BIG_VALUE] = "big record",
	[ROT_BIG_SLACK] = "gap behind a big value",
};

enum {
	ROT_PAGE = 4096,
	ROT_TABLE_FREE = 1, /* in rot_map.table: 0 none, then these, then named tables */
	ROT_TABLE_MAIN = 2,
};

struct rot_map {
	const uint8_t *p;
	size_t len;
	uint8_t *class; /* owned: per byte */
	uint8_t *table; /* owned: per byte */
	char name[16][16];
	unsigned ntables;
};

static uint64_t rot_le(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;
	for (unsigned i = n; i > 0; i--) {
		v = v << 8 | p[i - 1];
	}
	return v;
}

static void rot_mark(struct rot_map *m, uint64_t at, uint64_t n, enum rot_class c, unsigned table)
{
	if (at + n > m->len) {
		fprintf(stderr, "rot: the reference walk left the file\n");
		abort();
	}
	memset(m->class + at, (int)c, n);
	memset(m->table + at, (int)table, n);
}

static void rot_tree(struct rot_map *m, uint64_t pgno, unsigned table);

static void rot_leaf_node(struct rot_map *m, uint64_t at, unsigned table)
{
	const uint8_t *n = m->p + at;
	uint64_t size = rot_le(n, 4);
	unsigned flags = (unsigned)rot_le(n + 4, 2);
	uint64_t ksize = rot_le(n + 6, 2);
	uint64_t data = at + 8 + ksize;
	rot_mark(m, at, 8, ROT_NODE_HEAD, table);
	rot_mark(m, at + 8, ksize, ROT_KEY_LEAF, table);
	if ((flags & 1) != 0) {
		uint64_t pg = rot_le(m->p + data, 8) * ROT_PAGE;
		uint64_t end = (16 + size + ROT_PAGE - 1) / ROT_PAGE * ROT_PAGE;
		rot_mark(m, data, 8, ROT_BIG_AT, table);
		rot_mark(m, pg, end, ROT_BIG_SLACK, table);
		rot_mark(m, pg, 16, ROT_BIG_HEAD, table);
		rot_mark(m, pg + 16, size, table == ROT_TABLE_FREE ? ROT_FREE_LIST : ROT_BIG_VALUE,
			 table);
	} else if ((flags & 2) != 0) {
		unsigned t = ++m->ntables;
		snprintf(m->name[t], sizeof(m->name[t]), "%.*s", (int)ksize,
			 (const char *)m->p + at + 8);
		rot_mark(m, data, 48, ROT_TABLE, table);
		rot_tree(m, rot_le(m->p + data + 40, 8), t);
	} else {
		rot_mark(m, data, size, table == ROT_TABLE_FREE ? ROT_FREE_LIST : ROT_VALUE, table);
	}
}

static void rot_tree(struct rot_map *m, uint64_t pgno, unsigned table)
{
	if (pgno == UINT64_MAX) {
		return;
	}
	uint64_t base = pgno * ROT_PAGE;
	const uint8_t *p = m->p + base;
	unsigned lower = (unsigned)rot_le(p + 12, 2);
	unsigned branch = p[10] & 1;
	rot_mark(m, base, ROT_PAGE, ROT_PAGE_SLACK, table);
	rot_mark(m, base, 16, ROT_PAGE_HEAD, table);
	rot_mark(m, base + 16, lower - 16, ROT_PAGE_PTRS, table);
	for (unsigned i = 0; i < (lower - 16) / 2; i++) {
		uint64_t at = base + rot_le(p + 16 + 2 * i, 2);
		if (branch) {
			rot_mark(m, at, 8, ROT_NODE_HEAD, table);
			rot_mark(m, at + 8, rot_le(m->p + at + 6, 2), ROT_KEY_BRANCH, table);
			rot_tree(m, rot_le(m->p + at, 6), table);
		} else {
			rot_leaf_node(m, at, table);
		}
	}
}

static void rot_map_make(struct rot_map *m, const uint8_t *p, size_t len)
{
	*m = (struct rot_map){ .p = p, .len = len, .ntables = ROT_TABLE_MAIN };
	m->class = calloc(len, 1);
	m->table = calloc(len, 1);
	snprintf(m->name[0], 16, "-");
	snprintf(m->name[ROT_TABLE_FREE], 16, "free");
	snprintf(m->name[ROT_TABLE_MAIN], 16, "main");
	unsigned newest = rot_le(p + 144, 8) >= rot_le(p + ROT_PAGE + 144, 8) ? 0 : 1;
	for (unsigned i = 0; i < 2; i++) {
		rot_mark(m, (uint64_t)i * ROT_PAGE, ROT_PAGE, ROT_META_PAD, 0);
		rot_mark(m, (uint64_t)i * ROT_PAGE, 152, i == newest ? ROT_META_NEW : ROT_META_OLD,
			 0);
	}
	const uint8_t *meta = p + (size_t)newest * ROT_PAGE;
	rot_tree(m, rot_le(meta + 40 + 40, 8), ROT_TABLE_FREE);
	rot_tree(m, rot_le(meta + 88 + 40, 8), ROT_TABLE_MAIN);
}

#endif
