/* SPDX-License-Identifier: Apache-2.0 */
/* Walks a map's records. See mapwalk.h; called by reader.c, verify.c and gc.c. */
#include "store/mapwalk.h"

#include <string.h>

#include "store/mapbuild.h"

/* One per walk, on the heap: a leaf takes 8 KiB and each level of nodes 2.6. */
struct walk {
	const struct mapwalk *w;
	const struct snap_map *m;
	uint64_t nleaves;
	struct lbuf buf;
	struct leaf leaf;
	struct node node[NODE_LEVEL_MAX + 1]; /* by level; [0] is not used */
};

static struct err *visit(struct walk *k, unsigned level, uint64_t at, const struct node_child *c);

/* Leaves below one record of that level. */
static uint64_t span_of(unsigned level)
{
	return 1ull << (NODE_FANOUT_SHIFT * level);
}

static struct err *load(struct family *f, struct ltxn *t, unsigned level,
			const struct node_child *c, struct lbuf *buf, struct leaf *leaf,
			struct node *node)
{
	struct key8 key = key_of_id(c->id);
	bool found;
	const struct sha256 *digest;
	TRY(ltxn_get(t, level == 0 ? FAMILY_LEAF : FAMILY_NODE, KEY_BYTES(key),
		     level == 0 ? LEAF_BYTES_MAX : NODE_BYTES_MAX, buf, &found));
	ENSURE(found, ERR_CORRUPT, "%s %llu is missing", level == 0 ? "leaf" : "node",
	       (unsigned long long)c->id);
	if (level == 0) {
		TRY(leaf_decode(buf->p, buf->len, f->uuid, c->id, leaf));
		digest = &leaf->digest;
	} else {
		TRY(node_decode(buf->p, buf->len, f->uuid, c->id, level, &f->zero, node));
		digest = &node->digest;
	}
	ENSURE(sha256_equal(digest, &c->digest), ERR_CORRUPT,
	       "%s %llu: its digest is not the one that is listed above it",
	       level == 0 ? "leaf" : "node", (unsigned long long)c->id);
	return NULL;
}

struct err *mapwalk_leaf(struct family *f, struct ltxn *t, const struct node_child *c,
			 struct leaf *ret_leaf)
{
	if (c->id == 0) {
		memset(ret_leaf, 0, sizeof(*ret_leaf));
		ret_leaf->digest = f->zero.subtree[0];
		return NULL;
	}
	SCOPE(lbuf_done) struct lbuf buf = { 0 };
	return load(f, t, 0, c, &buf, ret_leaf, NULL);
}

/* The children of k->node[level], whose first leaf is `at`. */
static struct err *visit_children(struct walk *k, unsigned level, uint64_t at)
{
	uint64_t span = span_of(level - 1);
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		struct node_child c = k->node[level].child[i];
		uint64_t first = at + i * span;
		if (c.id == 0 || first >= k->w->to_leaf || first + span <= k->w->from_leaf) {
			continue;
		}
		if (first >= k->nleaves) {
			struct err *e =
				ERR(ERR_CORRUPT, "node %llu: has content behind the map's end",
				    (unsigned long long)k->node[level].id);
			return k->w->damaged != NULL ? k->w->damaged(k->w->arg, first, span, e) : e;
		}
		TRY(visit(k, level - 1, first, &c));
	}
	return NULL;
}

static struct err *visit(struct walk *k, unsigned level, uint64_t at, const struct node_child *c)
{
	const struct mapwalk *w = k->w;
	bool go = level > 0 || w->leaf != NULL;
	if (go && w->enter != NULL) {
		TRY(w->enter(w->arg, c->id, &go));
	}
	if (!go) {
		return NULL;
	}
	struct err *e = load(w->f, w->t, level, c, &k->buf, &k->leaf, &k->node[level]);
	if (e != NULL) {
		e = err_wrap(e, "map %s", k->m->name);
		return w->damaged != NULL ? w->damaged(w->arg, at, span_of(level), e) : e;
	}
	if (level == 0) {
		return w->leaf(w->arg, at, &k->leaf);
	}
	if (w->node != NULL) {
		TRY(w->node(w->arg, at, &k->node[level]));
	}
	return visit_children(k, level, at);
}

static struct err *check_head(const struct mapwalk *w, const struct snap_map *m)
{
	uint8_t height;
	TRY(map_height(m->len_bytes, &height));
	ENSURE(height == m->height, ERR_CORRUPT, "map %s: height %u does not fit its %llu bytes",
	       m->name, m->height, (unsigned long long)m->len_bytes);
	ENSURE(m->root_id != 0 || sha256_equal(&m->digest, &w->f->zero.subtree[height]),
	       ERR_CORRUPT, "map %s: no root, but not the digest of an all-zero map", m->name);
	return NULL;
}

struct err *mapwalk_run(const struct mapwalk *w, const struct snap_map *m)
{
	struct err *e = check_head(w, m);
	if (e != NULL) {
		return w->damaged != NULL ? w->damaged(w->arg, 0, map_leaves(m->len_bytes), e) : e;
	}
	if (m->root_id == 0) {
		return NULL;
	}
	SCOPE(freep) struct walk *k = calloc(1, sizeof(*k));
	ENSURE(k != NULL, ERR_SYS, "out of memory");
	k->w = w;
	k->m = m;
	k->nleaves = map_leaves(m->len_bytes);
	struct node_child root = { .id = m->root_id, .digest = m->digest };
	e = visit(k, m->height, 0, &root);
	lbuf_done(&k->buf);
	return e;
}
