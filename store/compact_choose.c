/* SPDX-License-Identifier: Apache-2.0 */
/* What a round of compaction works on. See compact_round.h; called by compact.c. */
#include <stdio.h>
#include <string.h>

#include "store/compact_round.h"

enum {
	OWNER_MOVABLE = 1,
	OWNER_FIXED = 2,
};

struct choosing {
	struct compact_round *r;
	struct idset fixed; /* snapshots that somebody reads, or whose last move is not over */
	struct idset ids;   /* of all that are published */
	struct ltxn *t;
	struct pagemark marks;
	size_t cap;
};

static void choosing_done(struct choosing *k)
{
	idset_done(&k->fixed);
	idset_done(&k->ids);
	pagemark_done(&k->marks);
}

static struct err *see_lease(void *arg, const uint8_t id[HOLDER_ID_BYTES], const char *text)
{
	struct choosing *k = arg;
	unsigned long long snap;
	bool unused;
	(void)id;
	if (sscanf(text, FAMILY_LEASE_FMT, &snap) == 1 && snap != 0) {
		return idset_add(&k->fixed, snap, &unused);
	}
	return NULL;
}

static struct err *see_snap(void *arg, const struct snap_rec *rec)
{
	struct choosing *k = arg;
	bool unused;
	if (!rec->hidden) {
		return idset_add(&k->ids, rec->info.id, &unused);
	}
	return rec->moved && rec->info.parent != 0 ? idset_add(&k->fixed, rec->info.parent, &unused)
						   : NULL;
}

static struct err *lease_one(struct choosing *k, uint64_t id)
{
	struct compact_round *r = k->r;
	if (r->nsnaps == k->cap) {
		size_t cap = k->cap == 0 ? 16 : k->cap * 2;
		struct compact_snap *p = realloc(r->snap, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		r->snap = p;
		k->cap = cap;
	}
	struct compact_snap *s = &r->snap[r->nsnaps];
	*s = (struct compact_snap){ .lease = { .file = FD_NONE }, .rec = { .info = { .id = id } } };
	char text[HOLDER_TEXT_MAX + 1];
	snprintf(text, sizeof(text), FAMILY_LEASE_FMT, (unsigned long long)id);
	TRY(holder_take(r->f->holders, text, &s->lease));
	r->nsnaps++;
	return NULL;
}

/* Takes leases on what nobody else has one on (C1). */
static struct err *lease_all(struct choosing *k)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(k->r->f->env, false, &t));
	TRY(family_snap_each(k->r->f, t,
			     &(struct family_snap_visit){ .snap = see_snap, .arg = k }));
	ltxn_abort(MOVE(t));
	TRY(holder_each(k->r->f->holders, true, see_lease, k));
	for (size_t i = 0; i < k->ids.cap; i++) {
		uint64_t id = k->ids.slot[i];
		if (id != 0 && !idset_has(&k->fixed, id)) {
			TRY(lease_one(k, id));
		}
	}
	return NULL;
}

static struct compact_snap *leased_by_us(const struct compact_round *r, uint64_t id)
{
	for (size_t i = 0; i < r->nsnaps; i++) {
		if (r->snap[i].rec.info.id == id) {
			return &r->snap[i];
		}
	}
	return NULL;
}

/* Marks what a record reaches; a movable one is kept as it is now. */
static struct err *mark_snap(void *arg, const struct snap_rec *rec)
{
	struct choosing *k = arg;
	struct compact_snap *s = rec->hidden ? NULL : leased_by_us(k->r, rec->info.id);
	struct pagemark_map how = {
		.f = k->r->f,
		.t = k->t,
		.owner = s != NULL ? OWNER_MOVABLE : OWNER_FIXED,
	};
	for (uint32_t i = 0; i < rec->info.nmaps; i++) {
		TRY(err_wrap(pagemark_map(&k->marks, &how, &rec->info.maps[i]), "snapshot id %llu",
			     (unsigned long long)rec->info.id));
	}
	if (s != NULL) {
		s->rec.info = rec->info;
		for (uint32_t i = 0; i < rec->info.nmaps; i++) {
			s->root[i] = rec->info.maps[i].root_id;
		}
	}
	return NULL;
}

static struct err *add_victim(struct compact_round *r, const struct mark_rec *m, size_t len,
			      uint32_t live_bytes)
{
	struct compact_victim *p = realloc(r->victim, (r->nvictims + 1) * sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	r->victim = p;
	struct compact_victim *v = &p[r->nvictims];
	*v = (struct compact_victim){
		.id = m->id,
		.nslots = m->nslots,
		.len = (uint32_t)len,
		.live_bytes = live_bytes,
		.live = calloc(m->nslots, sizeof(*v->live)),
		.to = calloc(m->nslots, sizeof(*v->to)),
	};
	r->nvictims++;
	ENSURE(v->live != NULL && v->to != NULL, ERR_SYS, "out of memory");
	for (uint32_t i = 0; i < m->nslots; i++) {
		v->live[i] = m->slot[i].owner != MARK_NONE;
	}
	return NULL;
}

/* Looks at one frame that only movable snapshots use. */
static struct err *weigh(struct choosing *k, struct mark_rec *m, uint8_t *buf, uint64_t budget,
			 uint64_t *live_sum)
{
	struct compact *c = k->r->c;
	size_t len;
	bool unused;
	struct err *e = pagemark_costs(m, k->r->f, k->t, buf, &len);
	if (e != NULL && err_class(e) != ERR_SYS) {
		err_drop(e, "a damaged frame stays where it is; verify names it");
		return idset_add(&c->kept, m->id, &unused);
	}
	TRY(e);
	uint64_t live = 0;
	for (uint32_t i = 0; i < m->nslots; i++) {
		live += m->slot[i].owner != MARK_NONE ? m->slot[i].bytes : 0u;
	}
	if (live * 100 >= (uint64_t)(len - m->bytes) * c->live_percent) {
		return idset_add(&c->kept, m->id, &unused);
	}
	if (c->done_bytes == 0) {
		c->total_bytes += live;
	}
	if (*live_sum + live > budget) {
		return NULL; /* for another round */
	}
	*live_sum += live;
	return add_victim(k->r, m, len, (uint32_t)live);
}

static struct err *pick(struct choosing *k, uint64_t budget)
{
	SCOPE(freep) uint8_t *buf = malloc(FRAME_BYTES_MAX);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(k->t, FAMILY_FRAME, &c));
	bool found;
	uint64_t live = 0;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		uint64_t id;
		TRY(id_of_key(lcur_key(c), "frame", &id));
		struct mark_rec *m = pagemark_find(&k->marks, id);
		if (m != NULL && m->owner == OWNER_MOVABLE && m->slot != NULL &&
		    !idset_has(&k->r->c->kept, id)) {
			TRY(weigh(k, m, buf, budget, &live));
		}
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

struct err *compact_choose(struct compact_round *r, uint64_t budget)
{
	SCOPE(choosing_done) struct choosing k = { .r = r };
	TRY(lease_all(&k));
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(r->f->env, false, &t));
	k.t = t;
	TRY(err_wrap(family_snap_each(r->f, t,
				      &(struct family_snap_visit){ .snap = mark_snap, .arg = &k }),
		     "nothing is compacted while a record is damaged"));
	return pick(&k, budget);
}
