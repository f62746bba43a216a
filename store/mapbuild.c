/* SPDX-License-Identifier: Apache-2.0 */
/* Node records above a map's leaves. See mapbuild.h; called by session.c. */
#include "store/mapbuild.h"

#include <string.h>

uint64_t map_leaves(uint64_t len_bytes)
{
	return len_bytes / LEAF_SPAN_BYTES + (len_bytes % LEAF_SPAN_BYTES != 0);
}

struct err *map_height(uint64_t len_bytes, uint8_t *ret_height)
{
	uint64_t n = map_leaves(len_bytes);
	uint8_t h = 0;
	while (n > 1) {
		n = n / NODE_FANOUT + (n % NODE_FANOUT != 0);
		h++;
	}
	ENSURE(h <= NODE_LEVEL_MAX, ERR_LIMIT, "a map of %llu bytes is too long",
	       (unsigned long long)len_bytes);
	*ret_height = h;
	return NULL;
}

void built_nodes_done(struct built_nodes *b)
{
	for (size_t i = 0; i < b->n; i++) {
		free(b->node[i].p);
	}
	free(b->node);
	*b = (struct built_nodes){ 0 };
}

static struct err *add_node(const struct mapbuild *mb, struct built_nodes *out,
			    const struct node *n)
{
	if (out->n == out->cap) {
		size_t cap = out->cap == 0 ? 16 : out->cap * 2;
		struct built_node *p = realloc(out->node, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		out->node = p;
		out->cap = cap;
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(NODE_BYTES_MAX);
	node_encode(&w, mb->uuid, n);
	TRY(wbuf_check(&w));
	struct built_node *b = &out->node[out->n];
	*b = (struct built_node){ .id = n->id, .p = MOVE(w.p), .len = w.len };
	out->bytes += b->len;
	out->n++;
	return NULL;
}

/* Ids are never used again: the same ids are the same content. */
static bool same_children(const struct node_child *a, const struct node_child *b, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		if (a[i].id != b[i].id) {
			return false;
		}
	}
	return true;
}

struct err *map_build(const struct mapbuild *mb, struct node_child *leaf, uint64_t nleaves,
		      uint8_t height, struct built_nodes *out, struct node_child *ret_root)
{
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	SCOPE(freep) struct node *n = malloc(sizeof(*n));
	ENSURE(n != NULL, ERR_SYS, "out of memory");
	uint64_t count = nleaves;
	for (uint8_t level = 1; level <= height; level++) {
		uint64_t parents = (count + NODE_FANOUT - 1) / NODE_FANOUT;
		for (uint64_t i = 0; i < parents; i++) {
			uint64_t first = i * NODE_FANOUT;
			uint64_t children = MIN(count - first, (uint64_t)NODE_FANOUT);
			if (mb->base != NULL &&
			    same_children(leaf + first, mb->base[level - 1] + first, children)) {
				leaf[i] = mb->base[level][i];
				continue;
			}
			memset(n, 0, sizeof(*n));
			n->level = level;
			memcpy(n->child, leaf + first, children * sizeof(*leaf));
			/* Parents overwrite children that have been read: i <= first. */
			if (node_is_zero(n)) {
				leaf[i] = (struct node_child){ .id = 0 };
				continue;
			}
			TRY(mb->next_id(mb->arg, &n->id));
			n->digest = node_digest(c, mb->zero, n);
			TRY(add_node(mb, out, n));
			leaf[i] = (struct node_child){ .id = n->id, .digest = n->digest };
		}
		count = parents;
	}
	struct node_child root = { .id = 0 };
	if (nleaves > 0) {
		root = leaf[0];
	}
	if (root.id == 0) {
		root.digest = mb->zero->subtree[height];
	}
	*ret_root = root;
	return NULL;
}
