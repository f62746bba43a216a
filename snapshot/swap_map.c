/* SPDX-License-Identifier: Apache-2.0 */
/* Maps of swapped-out memory. See swap_map.h; docs/decisions/0017-swap.md has the reasons. */
#include "snapshot/swap_map.h"

#include <stdatomic.h>
#include <string.h>

#define MAP_NAME "memory" /* as snapshots call it: they may be each other's base */

struct swap_home {
	struct store *store;
	struct family *family;
	uint8_t vm[16];
	uint8_t uuid[16]; /* of the family */
	uint64_t bytes;   /* length of a map */
};

struct swap_map {
	atomic_uint refs;
	struct reader *reader;
	bool ours; /* written here */
};

struct swap_reader {
	struct swap_map *map; /* a reference; whose piece reader that is */
	struct piece_reader *piece;
};

struct swap_writer {
	struct swap_home *home;
	struct session *session;
	struct swap_map *base; /* a reference, NULL: none */
};

/* ---- home ---- */

struct err *swap_home_open(const struct swap_home_opts *opts, struct swap_home **ret_home)
{
	SCOPE(swap_home_closep) struct swap_home *h = calloc(1, sizeof(*h));
	ENSURE(h != NULL, ERR_SYS, "out of memory");
	memcpy(h->vm, opts->vm, sizeof(h->vm));
	memcpy(h->uuid, opts->family, sizeof(h->uuid));
	h->bytes = gmem_gfn_end(opts->gmem) * PAGE_BYTES;
	TRY(store_open(opts->store_dir, STORE_CREATE, &h->store));
	TRY(family_open(h->store, h->uuid, true, &h->family));
	*ret_home = MOVE(h);
	return NULL;
}

void swap_home_close(struct swap_home *h)
{
	if (h == NULL) {
		return;
	}
	if (h->family != NULL) {
		family_close(h->family);
		err_drop(family_remove_empty(h->store, h->uuid),
			 "an empty family is found by the next collection");
	}
	store_close(h->store);
	free(h);
}

struct err *swap_home_collect(struct swap_home *h)
{
	struct gc_result unused;
	uint64_t punched;
	TRY(family_gc(h->family, &unused));
	return family_punch(h->family, false, &punched);
}

/* ---- maps ---- */

/* Takes over the reader. */
static struct err *map_new(struct reader *reader, bool ours, struct swap_map **ret_map)
{
	struct swap_map *m = calloc(1, sizeof(*m));
	if (m == NULL) {
		reader_close(reader);
		return ERR(ERR_SYS, "out of memory");
	}
	atomic_init(&m->refs, 1);
	m->reader = reader;
	m->ours = ours;
	*ret_map = m;
	return NULL;
}

struct err *swap_map_of_snap(struct swap_home *h, uint64_t snap_id, struct swap_map **ret_map)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(h->family, snap_id, &r));
	const struct snap_info *info = reader_info(r);
	for (uint32_t i = 0; i < info->nmaps; i++) {
		if (strcmp(info->maps[i].name, MAP_NAME) == 0 &&
		    info->maps[i].len_bytes == h->bytes) {
			return map_new(MOVE(r), false, ret_map);
		}
	}
	return ERR(ERR_NOTFOUND, "snapshot id %llu has no such memory",
		   (unsigned long long)snap_id);
}

struct swap_map *swap_map_get(struct swap_map *m)
{
	atomic_fetch_add(&m->refs, 1);
	return m;
}

void swap_map_put(struct swap_map *m)
{
	if (m != NULL && atomic_fetch_sub(&m->refs, 1) == 1) {
		reader_close(m->reader);
		free(m);
	}
}

void swap_map_written(const struct swap_map *m, uint64_t *ret_pages, uint64_t *ret_bytes)
{
	const struct snap_info *info = reader_info(m->reader);
	*ret_pages = m->ours ? info->pages_stored : 0;
	*ret_bytes = m->ours ? info->bytes_stored : 0;
}

struct err *swap_map_read(struct swap_map *m, const struct read_opts *opts)
{
	return reader_map_read(m->reader, MAP_NAME, opts);
}

/* ---- page by page ---- */

struct err *swap_reader_new(struct swap_reader **ret_reader)
{
	*ret_reader = calloc(1, sizeof(**ret_reader));
	ENSURE(*ret_reader != NULL, ERR_SYS, "out of memory");
	return NULL;
}

static void let_go(struct swap_reader *r)
{
	piece_reader_free(MOVE(r->piece));
	swap_map_put(MOVE(r->map));
}

void swap_reader_free(struct swap_reader *r)
{
	if (r != NULL) {
		let_go(r);
		free(r);
	}
}

struct err *swap_reader_piece(struct swap_reader *r, struct swap_map *m, gfn_t gfn,
			      struct piece *ret_piece)
{
	if (r->map != m) {
		let_go(r);
		TRY(piece_reader_new(m->reader, MAP_NAME, &r->piece));
		r->map = swap_map_get(m);
	}
	return piece_read(r->piece, gfn.v, ret_piece);
}

/* ---- writing ---- */

struct err *swap_writer_new(struct swap_home *h, struct swap_map *base,
			    struct swap_writer **ret_writer)
{
	static const uint8_t no_user[32] = { 0 };
	const struct session_opts so = { 0 };
	SCOPE(swap_writer_freep) struct swap_writer *w = calloc(1, sizeof(*w));
	ENSURE(w != NULL, ERR_SYS, "out of memory");
	w->home = h;
	w->base = base != NULL ? swap_map_get(base) : NULL;
	TRY(session_open(h->family, &so, &w->session));
	/* Of rounds: pages may change under it. */
	const struct map_opts mo = {
		.base = base != NULL ? reader_info(base->reader)->id : 0,
		.rounds = true,
	};
	TRY(session_map_begin_as(w->session, MAP_NAME, h->bytes, no_user, &mo));
	*ret_writer = MOVE(w);
	return NULL;
}

void swap_writer_free(struct swap_writer *w)
{
	if (w != NULL) {
		session_free(w->session);
		swap_map_put(w->base);
		free(w);
	}
}

struct err *swap_writer_pages(struct swap_writer *w, gfn_t gfn, const void *pages, uint64_t npages)
{
	return session_map_pages(w->session, gfn.v, pages, npages);
}

struct err *swap_writer_commit(struct swap_writer *w, struct swap_map **ret_map)
{
	struct reader *r = NULL;
	struct err *e = session_map_end(w->session);
	if (e == NULL) {
		e = session_publish_unlisted(w->session, w->home->vm, &r);
	}
	session_free(MOVE(w->session));
	TRY(e);
	return map_new(r, true, ret_map);
}
