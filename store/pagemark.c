/* SPDX-License-Identifier: Apache-2.0 */
/* Marks down to slots. See pagemark.h; called by stat.c and compact.c. */
#include "store/pagemark.h"

#include <string.h>

#include "store/mapruns.h"

enum {
	CAP_FIRST = 1024,
	SLOTS_FIRST = 32,
};

void pagemark_done(struct pagemark *m)
{
	for (size_t i = 0; i < m->cap; i++) {
		free(m->rec[i].slot);
	}
	free(m->rec);
	*m = (struct pagemark){ 0 };
}

static struct mark_rec *place_of(const struct pagemark *m, uint64_t id)
{
	size_t at = (size_t)(id * 0x9E3779B97F4A7C15ull >> 20) & (m->cap - 1);
	while (m->rec[at].id != 0 && m->rec[at].id != id) {
		at = (at + 1) & (m->cap - 1);
	}
	return &m->rec[at];
}

struct mark_rec *pagemark_find(const struct pagemark *m, uint64_t id)
{
	struct mark_rec *r = m->cap > 0 ? place_of(m, id) : NULL;
	return r != NULL && r->id != 0 ? r : NULL;
}

static struct err *grow(struct pagemark *m)
{
	struct pagemark bigger = { .cap = m->cap == 0 ? CAP_FIRST : m->cap * 2, .n = m->n };
	bigger.rec = calloc(bigger.cap, sizeof(*bigger.rec));
	ENSURE(bigger.rec != NULL, ERR_SYS, "out of memory");
	for (size_t i = 0; i < m->cap; i++) {
		if (m->rec[i].id != 0) {
			*place_of(&bigger, m->rec[i].id) = m->rec[i];
		}
	}
	free(m->rec);
	*m = bigger;
	return NULL;
}

/* The mark of an id, made if need be. */
static struct err *mark_of(struct pagemark *m, uint64_t id, struct mark_rec **ret)
{
	BUG_ON(id == 0);
	if (m->n >= m->cap / 2) {
		TRY(grow(m));
	}
	struct mark_rec *r = place_of(m, id);
	if (r->id == 0) {
		r->id = id;
		m->n++;
	}
	*ret = r;
	return NULL;
}

/* True: this owner, or everybody, had it before. */
static bool own(uint32_t *owner, uint32_t mine)
{
	if (*owner == mine || *owner == MARK_SHARED) {
		return true;
	}
	*owner = *owner == MARK_NONE ? mine : MARK_SHARED;
	return false;
}

static struct err *slots_room(struct mark_rec *r, uint64_t n)
{
	if (n <= r->nslots) {
		return NULL;
	}
	uint32_t want = MAX(r->nslots * 2, (uint32_t)SLOTS_FIRST);
	want = MIN(MAX(want, (uint32_t)n), FRAME_SLOTS_MAX);
	struct mark_slot *p = realloc(r->slot, want * sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	memset(p + r->nslots, 0, (want - r->nslots) * sizeof(*p));
	r->slot = p;
	r->nslots = want;
	return NULL;
}

struct marking {
	struct pagemark *m;
	const struct pagemark_map *how;
};

static struct err *on_enter(void *arg, uint64_t id, bool *ret_go)
{
	struct marking *k = arg;
	struct mark_rec *r;
	TRY(mark_of(k->m, id, &r));
	*ret_go = !own(&r->owner, k->how->owner);
	return NULL;
}

static struct err *on_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct marking *k = arg;
	(void)index;
	struct mark_rec *r = NULL;
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		const struct page_ref *ref = &l->ref[i];
		if (ref->frame == 0) {
			continue;
		}
		if (r == NULL || r->id != ref->frame) {
			TRY(mark_of(k->m, ref->frame, &r));
			(void)own(&r->owner, k->how->owner);
		}
		TRY(slots_room(r, ref->v + 1)); /* leaf_decode has bounded it */
		(void)own(&r->slot[ref->v].owner, k->how->owner);
	}
	return NULL;
}

static struct err *on_damage(void *arg, uint64_t first, uint64_t n, struct err *e)
{
	struct marking *k = arg;
	return k->how->damaged != NULL ? k->how->damaged(k->how->arg, first, n, e) : e;
}

struct err *pagemark_map(struct pagemark *m, const struct pagemark_map *how,
			 const struct snap_map *map)
{
	struct marking k = { .m = m, .how = how };
	struct mapwalk w = {
		.f = how->f,
		.t = how->t,
		.to_leaf = UINT64_MAX,
		.enter = on_enter,
		.leaf = on_leaf,
		.damaged = on_damage,
		.arg = &k,
	};
	return mapwalk_run(&w, map);
}

struct err *pagemark_costs(struct mark_rec *rec, struct family *f, struct ltxn *t, uint8_t *buf,
			   size_t *ret_len)
{
	struct lplace at;
	SCOPE(freep) struct frame *fr = malloc(sizeof(*fr));
	ENSURE(fr != NULL, ERR_SYS, "out of memory");
	TRY(frame_place(f, t, rec->id, &at));
	TRY(frame_load_head(f, &at, rec->id, buf, fr));
	TRY(slots_room(rec, fr->nslots));
	for (unsigned i = fr->nslots; i < rec->nslots; i++) {
		ENSURE(rec->slot[i].owner == MARK_NONE, ERR_CORRUPT,
		       "frame %llu: has %u slots, but slot %u is referred to",
		       (unsigned long long)rec->id, fr->nslots, i);
	}
	rec->nslots = fr->nslots;
	uint64_t sum = 0;
	for (unsigned s = 0; s < fr->nsub; s++) {
		const struct frame_sub_at *sub = &fr->sub[s];
		unsigned all = sub->stored_len + FRAME_SUB_ENTRY_BYTES;
		for (unsigned i = 0; i < sub->npages; i++) {
			/* The first pages take what does not divide evenly. */
			unsigned mine = all / sub->npages + (i < all % sub->npages ? 1 : 0);
			rec->slot[sub->first_slot + i].bytes =
				(uint16_t)(mine + FRAME_DIGEST_BYTES);
			sum += mine + FRAME_DIGEST_BYTES;
		}
	}
	rec->bytes = (uint32_t)(fr->len - sum);
	*ret_len = fr->len;
	return NULL;
}
