/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a map on demand, a piece of 16 pages at a time. Implements piece_reader of store.h; used
 * by whoever serves page faults, on that server's thread.
 *
 * A piece costs at most one walk to its leaf and one read per frame that it lies in; the last few
 * leaves and frames are kept, since neighbours are asked for soon and lie beside each other. Only
 * the sub-frames that hold pages of the piece are checked and decoded.
 *
 * I1: no transaction is open while a frame is read or decoded; the reader's lease keeps frames
 * where they were found. I2: a kept leaf was compared with the digests above it, a kept frame's
 * head with its checksum; a sub-frame is checked each time before its bytes are used.
 */
#include <string.h>

#include "store/mapbuild.h"
#include "store/mapruns.h"
#include "store/reader_internal.h"

enum {
	LEAVES_KEPT = 8, /* 8 KiB each */
	FRAMES_KEPT = 4, /* 70 KiB each */
};

_Static_assert(LEAF_PAGES % STORE_PIECE_PAGES == 0, "a piece lies in one leaf");

struct kept_leaf {
	uint64_t index;   /* of the leaf in the map */
	uint64_t used;    /* 0: empty */
	struct leaf leaf; /* all zero references: there is none */
};

struct kept_frame {
	uint64_t used; /* 0: empty */
	struct frame frame;
	uint8_t record[FRAME_BYTES_MAX];
};

struct piece_reader {
	struct reader *r; /* borrowed */
	const struct snap_map *map;
	uint64_t npages;
	uint64_t clock; /* stamps uses */
	struct zcodec *z;
	struct kept_leaf *leaves;               /* owned, LEAVES_KEPT */
	struct kept_frame *frames[FRAMES_KEPT]; /* owned, made when needed */
	uint8_t *pages;                         /* owned, a piece */
	uint8_t sub[FRAME_SUB_BYTES];           /* the sub-frame decoded last */
	uint64_t sub_frame;                     /* whose it is; 0: none */
	unsigned sub_index;
	uint64_t asked_for; /* the frame that the kernel was told of last */
};

struct err *piece_reader_new(struct reader *r, const char *name, struct piece_reader **ret_p)
{
	SCOPE(piece_reader_freep) struct piece_reader *p = calloc(1, sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	p->r = r;
	TRY(reader_find_map(r, name, &p->map));
	p->npages = p->map->len_bytes / PAGE_BYTES + (p->map->len_bytes % PAGE_BYTES != 0);
	p->leaves = calloc(LEAVES_KEPT, sizeof(*p->leaves));
	p->pages = malloc(STORE_PIECE_PAGES * PAGE_BYTES);
	ENSURE(p->leaves != NULL && p->pages != NULL, ERR_SYS, "out of memory");
	TRY(zcodec_new(0, &p->z));
	*ret_p = MOVE(p);
	return NULL;
}

void piece_reader_free(struct piece_reader *p)
{
	if (p == NULL) {
		return;
	}
	zcodec_free(p->z);
	for (unsigned i = 0; i < FRAMES_KEPT; i++) {
		free(p->frames[i]);
	}
	free(p->leaves);
	free(p->pages);
	free(p);
}

/* ---- finding ---- */

/* What one piece needs: filled in under one short transaction. */
struct lookup {
	struct piece_reader *p;
	struct ltxn *t; /* NULL until something has to be looked up */
	const struct leaf *leaf;
	unsigned nframes;
	struct {
		uint64_t id;
		struct lplace at;
	} frame[STORE_PIECE_PAGES];
};

static struct err *lookup_txn(struct lookup *l)
{
	return l->t != NULL ? NULL : ltxn_begin(l->p->r->f->env, false, &l->t);
}

static struct err *keep_leaf(void *arg, uint64_t index, const struct leaf *leaf)
{
	struct kept_leaf *k = arg;
	if (index == k->index) {
		k->leaf = *leaf;
	}
	return NULL;
}

static struct err *find_leaf(struct lookup *l, uint64_t index)
{
	struct piece_reader *p = l->p;
	struct kept_leaf *oldest = &p->leaves[0];
	for (unsigned i = 0; i < LEAVES_KEPT; i++) {
		struct kept_leaf *k = &p->leaves[i];
		if (k->used != 0 && k->index == index) {
			k->used = ++p->clock;
			l->leaf = &k->leaf;
			return NULL;
		}
		if (k->used < oldest->used) {
			oldest = k;
		}
	}
	TRY(lookup_txn(l));
	oldest->used = 0; /* until it is complete */
	oldest->index = index;
	memset(&oldest->leaf, 0, sizeof(oldest->leaf));
	struct mapwalk w = {
		.f = p->r->f,
		.t = l->t,
		.from_leaf = index,
		.to_leaf = index + 1,
		.leaf = keep_leaf,
		.arg = oldest,
	};
	TRY(mapwalk_run(&w, p->map));
	oldest->used = ++p->clock;
	l->leaf = &oldest->leaf;
	return NULL;
}

static struct kept_frame *kept_frame(struct piece_reader *p, uint64_t id)
{
	for (unsigned i = 0; i < FRAMES_KEPT; i++) {
		struct kept_frame *k = p->frames[i];
		if (k != NULL && k->used != 0 && k->frame.id == id) {
			k->used = ++p->clock;
			return k;
		}
	}
	return NULL;
}

static struct err *find_frame(struct lookup *l, uint64_t id)
{
	for (unsigned i = 0; i < l->nframes; i++) {
		if (l->frame[i].id == id) {
			return NULL;
		}
	}
	l->frame[l->nframes].id = id;
	l->frame[l->nframes].at = (struct lplace){ 0 };
	/* Kept ones are looked up all the same if the piece has several: one may push out another.
	 */
	if (kept_frame(l->p, id) == NULL || l->nframes > 0) {
		TRY(lookup_txn(l));
		TRY(frame_place(l->p->r->f, l->t, id, &l->frame[l->nframes].at));
	}
	l->nframes++;
	return NULL;
}

static struct err *find_all(struct lookup *l, uint64_t first, uint32_t npages)
{
	TRY(find_leaf(l, first / LEAF_PAGES));
	for (uint32_t i = 0; i < npages; i++) {
		const struct page_ref *ref = &l->leaf->ref[first % LEAF_PAGES + i];
		if (ref->frame != 0) {
			TRY(find_frame(l, ref->frame));
		}
	}
	return NULL;
}

/* ---- reading ---- */

static struct err *load_frame(struct lookup *l, uint64_t id, struct kept_frame **ret_k)
{
	struct piece_reader *p = l->p;
	struct kept_frame *k = kept_frame(p, id);
	if (k != NULL) {
		*ret_k = k;
		return NULL;
	}
	unsigned at = 0;
	while (l->frame[at].id != id) {
		at++;
		BUG_ON(at >= l->nframes);
	}
	unsigned oldest = 0;
	for (unsigned i = 0; i < FRAMES_KEPT && p->frames[oldest] != NULL; i++) {
		if (p->frames[i] == NULL || p->frames[i]->used < p->frames[oldest]->used) {
			oldest = i;
		}
	}
	if (p->frames[oldest] == NULL) {
		p->frames[oldest] = malloc(sizeof(**p->frames));
		ENSURE(p->frames[oldest] != NULL, ERR_SYS, "out of memory");
	}
	k = p->frames[oldest];
	k->used = 0;                    /* until it is complete */
	if (l->frame[at].at.len == 0) { /* was kept when the piece was looked up */
		TRY(lookup_txn(l));
		struct err *e = frame_place(p->r->f, l->t, id, &l->frame[at].at);
		ltxn_abort(MOVE(l->t));
		TRY(e);
	}
	TRY(frame_load(p->r->f, &l->frame[at].at, id, k->record, &k->frame));
	k->used = ++p->clock;
	*ret_k = k;
	return NULL;
}

static struct err *read_slot(struct lookup *l, const struct page_ref *ref, uint8_t *ret_page)
{
	struct piece_reader *p = l->p;
	struct kept_frame *k = NULL;
	unsigned sub;
	unsigned page;
	TRY(load_frame(l, ref->frame, &k));
	TRY(frame_slot(&k->frame, (unsigned)MIN(ref->v, (uint64_t)FRAME_SLOTS_MAX), &sub, &page));
	if (p->sub_frame != ref->frame || p->sub_index != sub) {
		p->sub_frame = 0;
		TRY(frame_sub(&k->frame, sub, p->z, p->sub));
		p->sub_frame = ref->frame;
		p->sub_index = sub;
	}
	memcpy(ret_page, p->sub + (size_t)page * PAGE_BYTES, PAGE_BYTES);
	return NULL;
}

static struct err *read_all(struct lookup *l, struct piece *piece)
{
	struct piece_reader *p = l->p;
	for (uint32_t i = 0; i < piece->npages; i++) {
		const struct page_ref *ref = &l->leaf->ref[piece->first % LEAF_PAGES + i];
		uint8_t *out = p->pages + (size_t)i * PAGE_BYTES;
		if (ref->frame != 0) {
			TRY(err_wrap(read_slot(l, ref, out), "page 0x%llx of map %s",
				     (unsigned long long)(piece->first + i), p->map->name));
			continue;
		}
		if (ref->v == 0) {
			piece->nzero++;
		}
		for (size_t k = 0; k < PAGE_BYTES; k += 8) {
			put_le64(out + k, ref->v);
		}
	}
	return NULL;
}

void piece_will_need(struct piece_reader *p, uint64_t index)
{
	if (index >= p->npages) {
		return;
	}
	uint64_t first = index - index % STORE_PIECE_PAGES;
	struct lookup l = { .p = p };
	err_drop(find_all(&l, first, (uint32_t)MIN(p->npages - first, (uint64_t)STORE_PIECE_PAGES)),
		 "reading it will tell");
	ltxn_abort(MOVE(l.t));
	for (unsigned i = 0; i < l.nframes; i++) {
		if (l.frame[i].at.len != 0 && l.frame[i].id != p->asked_for) {
			lenv_will_need(p->r->f->env, l.frame[i].at.off, l.frame[i].at.len);
			p->asked_for = l.frame[i].id;
		}
	}
}

struct err *piece_read(struct piece_reader *p, uint64_t index, struct piece *ret_piece)
{
	ENSURE(index < p->npages, ERR_CORRUPT, "map %s has no page 0x%llx", p->map->name,
	       (unsigned long long)index);
	struct piece piece = { .first = index - index % STORE_PIECE_PAGES, .pages = p->pages };
	piece.npages = (uint32_t)MIN(p->npages - piece.first, (uint64_t)STORE_PIECE_PAGES);
	struct lookup l = { .p = p };
	struct err *e = find_all(&l, piece.first, piece.npages);
	ltxn_abort(MOVE(l.t)); /* I1 */
	if (e == NULL) {
		e = read_all(&l, &piece);
	} else {
		e = err_wrap(e, "page 0x%llx of map %s", (unsigned long long)index, p->map->name);
	}
	TRY(e);
	*ret_piece = piece;
	return NULL;
}
