/* SPDX-License-Identifier: Apache-2.0 */
/* What a session's map starts from. See mapbase.h. */
#include "store/mapbase.h"

#include <stdio.h>
#include <string.h>

#include "store/mapbuild.h"
#include "store/mapruns.h"
#include "store/mapwalk.h"

/* ---- opening ---- */

static uint64_t level_count(uint64_t nleaves, unsigned level)
{
	uint64_t n = nleaves;
	for (unsigned i = 0; i < level; i++) {
		n = n / NODE_FANOUT + (n % NODE_FANOUT != 0);
	}
	return MAX(n, (uint64_t)1);
}

static struct err *keep_children(void *arg, uint64_t first, const struct node *n)
{
	struct mapbase *b = arg;
	unsigned below = n->level - 1u;
	uint64_t count = level_count(map_leaves(b->map.len_bytes), below);
	uint64_t at = first >> (NODE_FANOUT_SHIFT * below);
	for (uint64_t i = 0; i < NODE_FANOUT && at + i < count; i++) {
		b->level[below][at + i] = n->child[i];
	}
	return NULL;
}

static struct err *read_nodes(struct mapbase *b, struct ltxn *t)
{
	uint64_t nleaves = map_leaves(b->map.len_bytes);
	for (unsigned i = 0; i <= b->map.height; i++) {
		b->level[i] = calloc(level_count(nleaves, i), sizeof(*b->level[i]));
		ENSURE(b->level[i] != NULL, ERR_SYS, "out of memory");
	}
	if (b->map.root_id != 0) {
		b->level[b->map.height][0] =
			(struct node_child){ .id = b->map.root_id, .digest = b->map.digest };
	}
	struct mapwalk w = {
		.f = b->f,
		.t = t,
		.to_leaf = UINT64_MAX,
		.node = keep_children,
		.arg = b,
	};
	return mapwalk_run(&w, &b->map);
}

static struct err *find_map(struct mapbase *b, struct ltxn *t, const char *name, uint64_t len_bytes)
{
	bool found;
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(family_snap_get(b->f, t, b->snap_id, &found, &r));
	ENSURE(found, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)b->snap_id);
	for (uint32_t i = 0; i < r.info.nmaps; i++) {
		if (strcmp(r.info.maps[i].name, name) == 0 &&
		    r.info.maps[i].len_bytes == len_bytes) {
			b->map = r.info.maps[i];
			return NULL;
		}
	}
	return ERR(ERR_NOTFOUND, "snapshot id %llu has no map %s of %llu bytes",
		   (unsigned long long)b->snap_id, name, (unsigned long long)len_bytes);
}

struct err *mapbase_open(struct family *f, uint64_t snap_id, const char *name, uint64_t len_bytes,
			 struct mapbase **ret_base)
{
	SCOPE(mapbase_freep) struct mapbase *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "out of memory");
	b->f = f;
	b->snap_id = snap_id;
	b->lease.file = FD_NONE;
	char text[HOLDER_TEXT_MAX + 1];
	snprintf(text, sizeof(text), FAMILY_LEASE_FMT, (unsigned long long)snap_id);
	TRY(holder_take(f->holders, text, &b->lease));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	TRY(find_map(b, t, name, len_bytes));
	TRY(err_wrap(read_nodes(b, t), "snapshot id %llu", (unsigned long long)snap_id));
	*ret_base = MOVE(b);
	return NULL;
}

void mapbase_free(struct mapbase *b)
{
	if (b == NULL) {
		return;
	}
	holder_drop(&b->lease);
	for (size_t i = 0; i < ARRAY_LEN(b->level); i++) {
		free(b->level[i]);
	}
	free(b);
}

/* ---- one leaf ---- */

/* A frame that a leaf refers to. */
struct used {
	uint64_t id;
	struct lplace place;
};

/* On the heap: too large for a compressor's stack. */
struct lookup {
	struct leaf leaf;
	struct used used[LEAF_PAGES];
	unsigned nused;
	struct frame frame;
	uint8_t front[FRAME_FRONT_MAX];
};

static int used_order(const void *pa, const void *pb)
{
	const struct used *a = pa;
	const struct used *b = pb;
	return a->id < b->id ? -1 : a->id > b->id;
}

/* Pages whose digest has to come from a frame. */
static bool wanted(const struct lookup *k, const void *const page[], unsigned i)
{
	return page[i] == NULL && k->leaf.ref[i].frame != 0;
}

/* Which frames are needed, each once, ascending. */
static void list_frames(struct lookup *k, const void *const page[LEAF_PAGES])
{
	unsigned n = 0;
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		if (wanted(k, page, i) && (n == 0 || k->used[n - 1].id != k->leaf.ref[i].frame)) {
			k->used[n++].id = k->leaf.ref[i].frame;
		}
	}
	if (n > 0) {
		qsort(k->used, n, sizeof(k->used[0]), used_order);
	}
	k->nused = 0;
	for (unsigned i = 0; i < n; i++) {
		if (k->nused == 0 || k->used[k->nused - 1].id != k->used[i].id) {
			k->used[k->nused++] = k->used[i];
		}
	}
}

/* The leaf's record, and where its frames are; the transaction is over before frames are read. */
static struct err *look_up(const struct mapbase *b, const struct node_child *c,
			   const void *const page[LEAF_PAGES], struct lookup *k)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(b->f->env, false, &t));
	TRY(mapwalk_leaf(b->f, t, c, &k->leaf));
	list_frames(k, page);
	for (unsigned i = 0; i < k->nused; i++) {
		TRY(frame_place(b->f, t, k->used[i].id, &k->used[i].place));
	}
	return NULL;
}

static struct err *frame_digests(const struct mapbase *b, struct lookup *k, const struct used *u,
				 const void *const page[LEAF_PAGES], struct pack_leaf *out)
{
	TRY(frame_load_head(b->f, &u->place, u->id, k->front, &k->frame));
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		if (wanted(k, page, i) && k->leaf.ref[i].frame == u->id) {
			uint64_t slot = k->leaf.ref[i].v;
			ENSURE(slot < k->frame.nslots, ERR_CORRUPT,
			       "frame %llu: has %u slots, no slot %llu", (unsigned long long)u->id,
			       k->frame.nslots, (unsigned long long)slot);
			out->digest[i] = frame_digest(&k->frame, (unsigned)slot);
		}
	}
	return NULL;
}

static struct err *load_leaf(const struct mapbase *b, const struct node_child *c,
			     const void *const page[LEAF_PAGES], struct pack_leaf *out)
{
	SCOPE(freep) struct lookup *k = malloc(sizeof(*k));
	ENSURE(k != NULL, ERR_SYS, "out of memory");
	TRY(look_up(b, c, page, k));
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		out->ref[i] = k->leaf.ref[i];
		if (page[i] == NULL && out->ref[i].frame == 0) {
			out->digest[i] = out->ref[i].v == 0 ? b->f->zero.page
							    : page_value_digest(out->ref[i].v);
		}
	}
	for (unsigned i = 0; i < k->nused; i++) {
		TRY(frame_digests(b, k, &k->used[i], page, out));
	}
	return NULL;
}

struct err *mapbase_leaf(const struct mapbase *b, uint64_t index,
			 const void *const page[LEAF_PAGES], struct pack_leaf *ret_leaf)
{
	BUG_ON(index >= map_leaves(b->map.len_bytes));
	const struct node_child *c = &b->level[0][index];
	bool all = true;
	for (unsigned i = 0; i < LEAF_PAGES && all; i++) {
		all = page[i] != NULL;
	}
	if (all || c->id == 0) {
		pack_leaf_zero(&b->f->zero, ret_leaf);
		return NULL;
	}
	return err_wrap(load_leaf(b, c, page, ret_leaf), "leaf %llu of map %s of snapshot id %llu",
			(unsigned long long)index, b->map.name, (unsigned long long)b->snap_id);
}
