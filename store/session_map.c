/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The maps of a writing session: pages come in by leaves, each leaf is one chunk for the
 * compressors. Implements the session_map part of store.h; on the session's thread but for
 * session_map_load.
 *
 * A map may start from one of a published snapshot (mapbase.h). A leaf that gets no page is taken
 * over with its id; one that does is made again, with references to the old frames for the pages
 * that it did not get.
 *
 * A map that takes pages again keeps what its changed leaves say in memory, 16 KiB for each 2 MiB,
 * until session_map_end; only then are they encoded, so no leaf is written that the next round
 * would replace. Frames of pages that were given again are partly or wholly dead: the next
 * collection finds those that nothing refers to.
 */
#include <stdio.h>
#include <string.h>

#include "store/session_internal.h"

static struct err *check_new_map(const struct session *s, const char *name)
{
	TRY(session_check_running(s));
	ENSURE(!s->map_open, ERR_NOT_NOW, "map %s is still open", s->map[s->nmaps - 1].info.name);
	ENSURE(s->nmaps < STORE_MAPS_MAX, ERR_LIMIT, "more than %u maps", STORE_MAPS_MAX);
	size_t len = strlen(name);
	ENSURE(len > 0 && len <= STORE_MAP_NAME_MAX, ERR_USAGE, "a map name has 1 to %u bytes",
	       STORE_MAP_NAME_MAX);
	for (size_t i = 0; i < len; i++) { /* others would not be read back */
		ENSURE(name[i] > ' ' && name[i] < 0x7f, ERR_USAGE,
		       "a map name has visible ASCII characters only");
	}
	for (unsigned i = 0; i < s->nmaps; i++) {
		ENSURE(strcmp(s->map[i].info.name, name) != 0, ERR_NOT_NOW,
		       "there is a map %s already", name);
	}
	return NULL;
}

static struct err *open_base(struct session *s, struct map_out *m, uint64_t snap_id)
{
	TRY(mapbase_open(s->f, snap_id, m->info.name, m->info.len_bytes, &m->base));
	if (m->nleaves > 0) {
		memcpy(m->leaf, m->base->level[0], m->nleaves * sizeof(*m->leaf));
	}
	return NULL;
}

static struct err *make_map(struct session *s, const struct map_opts *opts, struct map_out *m)
{
	TRY(map_height(m->info.len_bytes, &m->info.height));
	m->nleaves = map_leaves(m->info.len_bytes);
	size_t n = MAX(m->nleaves, (uint64_t)1);
	m->leaf = calloc(n, sizeof(*m->leaf));
	ENSURE(m->leaf != NULL, ERR_SYS, "out of memory");
	if (opts->rounds) {
		m->state = calloc(n, sizeof(*m->state));
		ENSURE(m->state != NULL, ERR_SYS, "out of memory");
	}
	if (opts->base != 0) {
		TRY(open_base(s, m, opts->base));
	}
	return session_start_writing(s);
}

struct err *session_map_begin_as(struct session *s, const char *name, uint64_t len_bytes,
				 const uint8_t user[32], const struct map_opts *opts)
{
	TRY(check_new_map(s, name));
	ENSURE(len_bytes <= SNAP_MAP_BYTES_MAX, ERR_LIMIT, "map %s: %llu bytes, at most %llu", name,
	       (unsigned long long)len_bytes, SNAP_MAP_BYTES_MAX);
	struct map_out m = { .info = { .len_bytes = len_bytes } };
	snprintf(m.info.name, sizeof(m.info.name), "%s", name);
	memcpy(m.info.user, user, sizeof(m.info.user));
	struct err *e = make_map(s, opts, &m);
	if (e != NULL) {
		session_map_done(&m);
		return e;
	}
	s->map[s->nmaps++] = m;
	s->map_open = true;
	s->next_page = 0;
	s->chunk_used = false;
	return NULL;
}

struct err *session_map_begin(struct session *s, const char *name, uint64_t len_bytes,
			      const uint8_t user[32])
{
	return session_map_begin_as(s, name, len_bytes, user, &(struct map_opts){ 0 });
}

/* Called for each leaf that has a base or is to be kept from round to round. */
struct err *session_map_load(void *arg, const struct pack_chunk *c, struct pack_leaf *ret_leaf)
{
	const struct session *s = arg;
	BUG_ON(c->map >= STORE_MAPS_MAX || s->map[c->map].base == NULL);
	return mapbase_leaf(s->map[c->map].base, c->leaf, c->page, ret_leaf);
}

/* The chunk becomes that of a leaf of the open map. */
static struct err *chunk_begin(struct session *s, uint64_t leaf)
{
	struct map_out *m = &s->map[s->nmaps - 1];
	struct pack_chunk *c = &s->chunk;
	memset(c, 0, sizeof(*c));
	c->map = s->nmaps - 1;
	c->leaf = leaf;
	c->load = m->base != NULL;
	if (m->state != NULL) {
		c->live = true;
		c->hold = true;
		c->load = c->load && m->state[leaf] == NULL;
		if (m->state[leaf] == NULL) {
			m->state[leaf] = malloc(sizeof(*m->state[leaf]));
			ENSURE(m->state[leaf] != NULL, ERR_SYS, "out of memory");
			pack_leaf_zero(&s->f->zero, m->state[leaf]);
		}
		c->state = m->state[leaf];
	}
	s->chunk_used = true;
	return NULL;
}

/* Queues the open leaf. */
static struct err *chunk_flush(struct session *s)
{
	if (!s->chunk_used) {
		return NULL;
	}
	s->chunk_used = false;
	/* No longer the base's. If it becomes zero no item comes out for it. */
	s->map[s->chunk.map].leaf[s->chunk.leaf] = (struct node_child){ .id = 0 };
	return pack_put(s->pack, &s->chunk);
}

struct err *session_map_pages(struct session *s, uint64_t index, const void *pages, uint64_t npages)
{
	TRY(session_check_running(s));
	ENSURE(s->map_open, ERR_NOT_NOW, "no map is open");
	const struct map_out *m = &s->map[s->nmaps - 1];
	uint64_t total = m->info.len_bytes / PAGE_BYTES + (m->info.len_bytes % PAGE_BYTES != 0);
	ENSURE(index >= s->next_page && index <= total && npages <= total - index, ERR_USAGE,
	       "map %s: pages %llu+%llu are out of order or behind its end", m->info.name,
	       (unsigned long long)index, (unsigned long long)npages);
	const uint8_t *p = pages;
	s->next_page = index + npages;
	while (npages > 0) {
		uint64_t leaf = index / LEAF_PAGES;
		if (s->chunk_used && s->chunk.leaf != leaf) {
			TRY(chunk_flush(s));
		}
		if (!s->chunk_used) {
			TRY(chunk_begin(s, leaf));
		}
		uint64_t at = index % LEAF_PAGES;
		uint64_t n = MIN(npages, LEAF_PAGES - at);
		for (uint64_t i = 0; i < n; i++) {
			s->chunk.page[at + i] = p + i * PAGE_BYTES;
		}
		p += n * PAGE_BYTES;
		index += n;
		npages -= n;
	}
	return NULL;
}

struct err *session_map_round(struct session *s)
{
	TRY(session_check_running(s));
	ENSURE(s->map_open && s->map[s->nmaps - 1].state != NULL, ERR_NOT_NOW,
	       "no map that takes pages again is open");
	TRY(chunk_flush(s));
	s->next_page = 0;
	/* Also so that of one leaf there is one chunk at a time. */
	return pack_settle(s->pack);
}

/* Queues every leaf that was kept from round to round for good. */
static struct err *put_states(struct session *s, struct map_out *m)
{
	TRY(pack_settle(s->pack));
	for (uint64_t i = 0; i < m->nleaves; i++) {
		if (m->state[i] != NULL) {
			struct pack_chunk *c = &s->chunk;
			memset(c, 0, sizeof(*c));
			c->map = s->nmaps - 1;
			c->leaf = i;
			c->state = m->state[i];
			TRY(pack_put(s->pack, c));
		}
	}
	return pack_settle(s->pack);
}

static void free_states(struct map_out *m)
{
	for (uint64_t i = 0; m->state != NULL && i < m->nleaves; i++) {
		free(m->state[i]);
	}
	free(m->state);
	m->state = NULL;
}

struct err *session_map_end(struct session *s)
{
	TRY(session_check_running(s));
	ENSURE(s->map_open, ERR_NOT_NOW, "no map is open");
	struct map_out *m = &s->map[s->nmaps - 1];
	s->map_open = false;
	TRY(chunk_flush(s));
	if (m->state != NULL) {
		TRY(put_states(s, m));
		free_states(m);
	}
	return NULL;
}

/* Keeps the pages of a leaf that is not complete: the caller may take its memory back now. */
static struct err *chunk_hold(struct session *s)
{
	if (!s->chunk_used) {
		return NULL;
	}
	if (s->hold == NULL) {
		s->hold = malloc(LEAF_SPAN_BYTES);
		ENSURE(s->hold != NULL, ERR_SYS, "out of memory");
	}
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		uint8_t *to = s->hold + i * PAGE_BYTES;
		if (s->chunk.page[i] != NULL && s->chunk.page[i] != to) {
			memcpy(to, s->chunk.page[i], PAGE_BYTES);
			s->chunk.page[i] = to;
		}
	}
	return NULL;
}

struct err *session_settle(struct session *s)
{
	TRY(session_check_running(s));
	if (s->pack == NULL) {
		return NULL;
	}
	/* First the pool: an earlier leaf that it still reads may be in `hold`. */
	struct err *e = pack_settle(s->pack);
	return e != NULL ? e : chunk_hold(s);
}

void session_map_done(struct map_out *m)
{
	free_states(m);
	mapbase_free(m->base);
	free(m->leaf);
	*m = (struct map_out){ .leaf = NULL };
}

struct err *session_map_share(struct session *s, uint64_t snap_id, const char *name)
{
	TRY(check_new_map(s, name));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->f->env, false, &t));
	bool found;
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(family_snap_get(s->f, t, snap_id, &found, &r));
	ENSURE(found, ERR_NOTFOUND, "snapshot id %llu does not exist", (unsigned long long)snap_id);
	for (uint32_t i = 0; i < r.info.nmaps; i++) {
		if (strcmp(r.info.maps[i].name, name) == 0) {
			s->map[s->nmaps++] = (struct map_out){
				.info = r.info.maps[i],
				.shared_from = snap_id,
			};
			return NULL;
		}
	}
	return ERR(ERR_NOTFOUND, "snapshot id %llu has no map %s", (unsigned long long)snap_id,
		   name);
}
