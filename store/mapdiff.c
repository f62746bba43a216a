/* SPDX-License-Identifier: Apache-2.0 */
/* What differs between two maps. See mapdiff.h. */
#include "store/mapdiff.h"

#include <string.h>

#include "store/mapbuild.h"

enum { WORDS = LEAF_PAGES / 64 };

/* The leaves of one map in the stretch. */
struct leaf_list {
	uint64_t from;
	uint64_t n;
	struct node_child *child; /* owned */
};

static void leaf_list_done(struct leaf_list *l)
{
	free(l->child);
}

static struct err *keep_leaves(void *arg, uint64_t first, const struct node *n)
{
	struct leaf_list *l = arg;
	for (uint64_t i = 0; n->level == 1 && i < NODE_FANOUT; i++) {
		if (first + i >= l->from && first + i - l->from < l->n) {
			l->child[first + i - l->from] = n->child[i];
		}
	}
	return NULL;
}

static struct err *list_leaves(const struct mapdiff *d, const struct snap_map *m,
			       struct leaf_list *l)
{
	l->from = d->from_leaf;
	l->n = d->to_leaf - d->from_leaf;
	l->child = calloc(MAX(l->n, (uint64_t)1), sizeof(*l->child));
	ENSURE(l->child != NULL, ERR_SYS, "out of memory");
	if (m->height == 0 && l->from == 0 && l->n > 0) { /* the root is the leaf */
		l->child[0] = (struct node_child){ .id = m->root_id, .digest = m->digest };
	}
	const struct mapwalk w = {
		.f = d->f,
		.t = d->t,
		.from_leaf = d->from_leaf,
		.to_leaf = d->to_leaf,
		.node = keep_leaves,
		.arg = l,
	};
	return mapwalk_run(&w, m);
}

/* Pages of that leaf that count in any case, none behind the map's end. True: there are some. */
static bool also_pages(const struct mapdiff *d, uint64_t leaf, uint64_t want[WORDS])
{
	uint64_t end = d->now->len_bytes / PAGE_BYTES + (d->now->len_bytes % PAGE_BYTES != 0);
	uint64_t any = 0;
	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t first = leaf * LEAF_PAGES + i * 64;
		want[i] = d->also != NULL && first < end ? d->also(d->arg, first) : 0;
		if (first < end && end - first < 64) {
			want[i] &= (1ull << (end - first)) - 1;
		}
		any |= want[i];
	}
	return any != 0;
}

struct pair {
	struct leaf was;
	struct leaf now;
};

static struct err *diff_leaf(const struct mapdiff *d, uint64_t index, const struct node_child *was,
			     const struct node_child *now, struct pair *p, struct mapruns *r)
{
	uint64_t want[WORDS];
	bool also = also_pages(d, index, want);
	if (!also && was->id == now->id) {
		return NULL;
	}
	TRY(err_wrap(mapwalk_leaf(d->f, d->t, was, &p->was), "map %s", d->was->name));
	TRY(err_wrap(mapwalk_leaf(d->f, d->t, now, &p->now), "map %s", d->now->name));
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		if (p->was.ref[i].frame != p->now.ref[i].frame ||
		    p->was.ref[i].v != p->now.ref[i].v) {
			want[i / 64] |= 1ull << (i % 64);
		}
	}
	return mapruns_add_some(r, index, &p->now, want);
}

struct err *mapdiff_run(const struct mapdiff *d, struct mapruns *r)
{
	SCOPE(leaf_list_done) struct leaf_list was = { 0 };
	SCOPE(leaf_list_done) struct leaf_list now = { 0 };
	SCOPE(freep) struct pair *p = malloc(sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	TRY(list_leaves(d, d->was, &was));
	TRY(list_leaves(d, d->now, &now));
	for (uint64_t i = 0; i < now.n; i++) {
		TRY(diff_leaf(d, d->from_leaf + i, &was.child[i], &now.child[i], p, r));
	}
	return NULL;
}
