/* SPDX-License-Identifier: Apache-2.0 */
/* Moving, remapping, switching. See compact_round.h; called by compact.c. */
#include "store/compact_round.h"

#include <string.h>

#include "store/mapruns.h"

#define BATCH_BYTES (16 * MIB) /* records per transaction */
#define IDS_FIRST 1024u

/* ---- records to be written ---- */

static void records_done(struct compact_round *r)
{
	for (size_t i = 0; i < r->nout; i++) {
		free(r->out[i].p);
	}
	r->nout = 0;
	r->out_bytes = 0;
}

void compact_round_done(struct compact_round *r)
{
	records_done(r);
	free(r->out);
	free(r->remap.slot);
	for (size_t i = 0; i < r->nvictims; i++) {
		free(r->victim[i].live);
		free(r->victim[i].to);
	}
	free(r->victim);
	if (r->opened) {
		idrange_close(&r->range);
	}
	for (size_t i = 0; i < r->nsnaps; i++) {
		holder_drop(&r->snap[i].lease);
	}
	free(r->snap);
}

static int record_order(const void *pa, const void *pb)
{
	const struct compact_record *a = pa;
	const struct compact_record *b = pb;
	return a->id < b->id ? -1 : a->id > b->id;
}

static struct err *write_out(struct compact_round *r)
{
	qsort(r->out, r->nout, sizeof(*r->out), record_order);
	for (size_t at = 0; at < r->nout;) {
		size_t bytes = 0;
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		TRY(ltxn_begin(r->f->env, true, &t));
		for (; at < r->nout && bytes < BATCH_BYTES; at++) {
			const struct compact_record *o = &r->out[at];
			struct key8 key = key_of_id(o->id);
			TRY(ltxn_put(t, o->db, KEY_BYTES(key), (struct bytes){ o->p, o->len }));
			bytes += o->len;
		}
		TRY(ltxn_commit(MOVE(t)));
	}
	records_done(r);
	return NULL;
}

/* Copies the record; writes when a batch is full. */
static struct err *put_out(struct compact_round *r, enum family_db db, uint64_t id, const void *p,
			   size_t len)
{
	if (r->nout == r->cap_out) {
		size_t cap = r->cap_out == 0 ? 256 : r->cap_out * 2;
		struct compact_record *more = realloc(r->out, cap * sizeof(*more));
		ENSURE(more != NULL, ERR_SYS, "out of memory");
		r->out = more;
		r->cap_out = cap;
	}
	struct compact_record o = { .db = db, .id = id, .p = malloc(len), .len = len };
	ENSURE(o.p != NULL, ERR_SYS, "out of memory");
	memcpy(o.p, p, len);
	r->out[r->nout++] = o;
	r->out_bytes += len;
	return NULL;
}

/* ---- moving pages ---- */

struct mover {
	struct compact_round *r;
	struct zcodec *z;
	struct frame frame;
	struct frame_builder b;
	bool open;                       /* b has begun */
	uint8_t record[FRAME_BYTES_MAX]; /* of the frame that is read: m->frame lies in it */
	uint8_t made[FRAME_BYTES_MAX];   /* of the frame that is written */
	uint8_t scratch[FRAME_SUB_BYTES];
	uint8_t group[FRAME_SUB_BYTES];
	struct hash128 digest[FRAME_SUB_PAGES];
	struct page_ref *to[FRAME_SUB_PAGES];
	unsigned ngroup;
	uint8_t *pages; /* owned: all slots of a frame */
};

static void mover_free(struct mover *m)
{
	if (m != NULL) {
		zcodec_free(m->z);
		free(m->pages);
		free(m);
	}
}
DEFINE_SCOPE(struct mover, mover_free)

static struct err *end_frame(struct mover *m)
{
	if (!m->open) {
		return NULL;
	}
	m->open = false;
	size_t len = frame_builder_finish(&m->b, m->made);
	m->r->frames_made++;
	m->r->new_bytes += len;
	TRY(put_out(m->r, FAMILY_FRAME, m->b.id, m->made, len));
	return m->r->out_bytes >= BATCH_BYTES ? write_out(m->r) : NULL;
}

static struct err *begin_frame(struct mover *m)
{
	uint64_t id;
	TRY(idrange_take(&m->r->range, &id));
	frame_builder_begin(&m->b, m->r->f->uuid, id);
	m->open = true;
	return NULL;
}

/* The gathered pages become one sub-frame. */
static struct err *end_group(struct mover *m)
{
	if (m->ngroup == 0) {
		return NULL;
	}
	struct frame_sub_in in;
	TRY(frame_sub_pack(m->z, m->group, m->ngroup, m->digest, m->scratch, &in));
	if (m->open && !frame_builder_fits(&m->b, &in)) {
		TRY(end_frame(m));
	}
	if (!m->open) {
		TRY(begin_frame(m));
	}
	unsigned slot = 0;
	BUG_ON(!frame_builder_add(&m->b, &in, &slot)); /* an empty one takes any */
	for (unsigned i = 0; i < m->ngroup; i++) {
		*m->to[i] = (struct page_ref){ .frame = m->b.id, .v = slot + i };
	}
	m->r->pages_moved += m->ngroup;
	m->ngroup = 0;
	return NULL;
}

/* Decodes what is live of a frame into m->pages, and checks it down to the pages' digests: what is
 * damaged must not get new, good checksums. m->record is the frame's. */
static struct err *read_victim(struct mover *m, const struct compact_victim *v)
{
	struct lplace at;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(m->r->f->env, false, &t));
	TRY(frame_place(m->r->f, t, v->id, &at));
	ltxn_abort(MOVE(t));
	TRY(frame_load(m->r->f, &at, v->id, m->record, &m->frame));
	ENSURE(m->frame.nslots == v->nslots, ERR_CORRUPT, "frame %llu: has changed",
	       (unsigned long long)v->id);
	for (unsigned s = 0; s < m->frame.nsub; s++) {
		const struct frame_sub_at *sub = &m->frame.sub[s];
		bool used = false;
		for (unsigned i = 0; i < sub->npages; i++) {
			used = used || v->live[sub->first_slot + i];
		}
		if (used) {
			uint8_t *out = m->pages + (size_t)sub->first_slot * PAGE_BYTES;
			TRY(frame_sub(&m->frame, s, m->z, out));
			TRY(frame_sub_digests(&m->frame, s, out));
		}
	}
	return NULL;
}

static struct err *move_victim(struct mover *m, struct compact_victim *v)
{
	struct err *e = read_victim(m, v);
	if (e != NULL && err_class(e) != ERR_SYS) {
		bool unused;
		err_drop(e, "a damaged frame stays where it is; verify names it");
		v->bad = true;
		return idset_add(&m->r->c->kept, v->id, &unused);
	}
	TRY(e);
	m->r->nmoved++;
	m->r->old_bytes += v->len;
	for (uint32_t i = 0; i < v->nslots; i++) {
		if (!v->live[i]) {
			continue;
		}
		m->digest[m->ngroup] = frame_digest(&m->frame, i);
		m->to[m->ngroup] = &v->to[i];
		memcpy(m->group + (size_t)m->ngroup * PAGE_BYTES, m->pages + (size_t)i * PAGE_BYTES,
		       PAGE_BYTES);
		if (++m->ngroup == FRAME_SUB_PAGES) {
			TRY(end_group(m));
		}
	}
	return NULL;
}

struct err *compact_move(struct compact_round *r)
{
	TRY(idrange_open(r->f, &r->range));
	r->opened = true;
	SCOPE(mover_freep) struct mover *m = calloc(1, sizeof(*m));
	ENSURE(m != NULL, ERR_SYS, "out of memory");
	m->r = r;
	m->pages = malloc((size_t)FRAME_SLOTS_MAX * PAGE_BYTES);
	ENSURE(m->pages != NULL, ERR_SYS, "out of memory");
	TRY(zcodec_new(0, &m->z));
	for (size_t i = 0; i < r->nvictims; i++) {
		TRY(compact_cancelled(r->c));
		TRY(move_victim(m, &r->victim[i]));
	}
	TRY(end_group(m));
	TRY(end_frame(m));
	return write_out(r);
}

/* ---- leaves and nodes ---- */

static uint64_t *remap_place(const struct compact_ids *m, uint64_t id)
{
	size_t at = (size_t)(id * 0x9E3779B97F4A7C15ull >> 20) & (m->cap - 1);
	while (m->slot[2 * at] != 0 && m->slot[2 * at] != id) {
		at = (at + 1) & (m->cap - 1);
	}
	return &m->slot[2 * at];
}

static struct err *remap_set(struct compact_ids *m, uint64_t id, uint64_t now)
{
	if (m->n >= m->cap / 2) {
		struct compact_ids bigger = { .cap = m->cap == 0 ? IDS_FIRST : m->cap * 2,
					      .n = m->n };
		bigger.slot = calloc(bigger.cap * 2, sizeof(*bigger.slot));
		ENSURE(bigger.slot != NULL, ERR_SYS, "out of memory");
		for (size_t i = 0; i < m->cap; i++) {
			if (m->slot[2 * i] != 0) {
				memcpy(remap_place(&bigger, m->slot[2 * i]), &m->slot[2 * i],
				       2 * sizeof(uint64_t));
			}
		}
		free(m->slot);
		*m = bigger;
	}
	uint64_t *p = remap_place(m, id);
	m->n += p[0] == 0;
	p[0] = id;
	p[1] = now;
	return NULL;
}

static const struct compact_victim *victim_of(const struct compact_round *r, uint64_t id)
{
	size_t lo = 0;
	size_t hi = r->nvictims;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (r->victim[mid].id < id) {
			lo = mid + 1;
		} else {
			hi = mid;
		}
	}
	const struct compact_victim *v = lo < r->nvictims ? &r->victim[lo] : NULL;
	return v != NULL && v->id == id && !v->bad ? v : NULL;
}

/* One per map, on the heap. */
struct remapping {
	struct compact_round *r;
	struct ltxn *t;
	struct lbuf buf;
	struct wbuf w;
	struct leaf leaf;
	struct node node[NODE_LEVEL_MAX + 1];
};

static struct err *remap_leaf(struct remapping *k, uint64_t id, uint64_t *ret_id)
{
	struct compact_round *r = k->r;
	struct key8 key = key_of_id(id);
	bool found;
	bool changed = false;
	TRY(ltxn_get(k->t, FAMILY_LEAF, KEY_BYTES(key), LEAF_BYTES_MAX, &k->buf, &found));
	ENSURE(found, ERR_CORRUPT, "leaf %llu is missing", (unsigned long long)id);
	TRY(leaf_decode(k->buf.p, k->buf.len, r->f->uuid, id, &k->leaf));
	const struct compact_victim *v = NULL;
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		struct page_ref *ref = &k->leaf.ref[i];
		if (ref->frame == 0) {
			continue;
		}
		if (v == NULL || v->id != ref->frame) {
			v = victim_of(r, ref->frame);
		}
		if (v != NULL) {
			ENSURE(ref->v < v->nslots && v->live[ref->v], ERR_CORRUPT,
			       "leaf %llu: slot %llu of frame %llu was not there",
			       (unsigned long long)id, (unsigned long long)ref->v,
			       (unsigned long long)v->id);
			*ref = v->to[ref->v];
			v = NULL;
			changed = true;
		}
	}
	*ret_id = 0;
	if (!changed) {
		return NULL;
	}
	TRY(idrange_take(&r->range, ret_id));
	k->leaf.id = *ret_id;
	leaf_encode(&k->w, r->f->uuid, &k->leaf);
	TRY(wbuf_check(&k->w));
	return put_out(r, FAMILY_LEAF, *ret_id, k->w.p, k->w.len);
}

static struct err *remap_record(struct remapping *k, unsigned level, uint64_t id, uint64_t *ret_id);

static struct err *remap_node(struct remapping *k, unsigned level, uint64_t id, uint64_t *ret_id)
{
	struct compact_round *r = k->r;
	struct node *n = &k->node[level];
	struct key8 key = key_of_id(id);
	bool found;
	bool changed = false;
	TRY(ltxn_get(k->t, FAMILY_NODE, KEY_BYTES(key), NODE_BYTES_MAX, &k->buf, &found));
	ENSURE(found, ERR_CORRUPT, "node %llu is missing", (unsigned long long)id);
	TRY(node_decode(k->buf.p, k->buf.len, r->f->uuid, id, level, &r->f->zero, n));
	for (unsigned i = 0; i < NODE_FANOUT; i++) {
		uint64_t now;
		if (n->child[i].id == 0) {
			continue;
		}
		TRY(remap_record(k, level - 1, n->child[i].id, &now));
		if (now != 0) {
			n->child[i].id = now;
			changed = true;
		}
	}
	*ret_id = 0;
	if (!changed) {
		return NULL;
	}
	TRY(idrange_take(&r->range, ret_id));
	n->id = *ret_id;
	node_encode(&k->w, r->f->uuid, n);
	TRY(wbuf_check(&k->w));
	return put_out(r, FAMILY_NODE, *ret_id, k->w.p, k->w.len);
}

/* *ret_id 0: nothing below it has moved. */
static struct err *remap_record(struct remapping *k, unsigned level, uint64_t id, uint64_t *ret_id)
{
	struct compact_ids *m = &k->r->remap;
	uint64_t *known = m->cap > 0 ? remap_place(m, id) : NULL;
	if (known != NULL && known[0] == id) {
		*ret_id = known[1];
		return NULL;
	}
	uint64_t now;
	TRY(level == 0 ? remap_leaf(k, id, &now) : remap_node(k, level, id, &now));
	TRY(remap_set(m, id, now));
	*ret_id = now;
	return NULL;
}

static struct err *remap_snap(struct remapping *k, struct compact_snap *s)
{
	for (uint32_t i = 0; i < s->rec.info.nmaps; i++) {
		const struct snap_map *m = &s->rec.info.maps[i];
		uint64_t now = 0;
		if (m->root_id != 0) {
			TRY(remap_record(k, m->height, m->root_id, &now));
		}
		if (now != 0) {
			s->root[i] = now;
			s->changed = true;
		}
	}
	return NULL;
}

/* All leaves and nodes are kept in memory until the read transaction is over: they are at most as
 * many as pages were moved, and their parents. */
static struct err *remap_all(struct compact_round *r)
{
	SCOPE(freep) struct remapping *k = calloc(1, sizeof(*k));
	ENSURE(k != NULL, ERR_SYS, "out of memory");
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(r->f->env, false, &t));
	k->r = r;
	k->t = t;
	k->w = wbuf_make(LEAF_BYTES_MAX);
	struct err *e = NULL;
	for (size_t i = 0; e == NULL && i < r->nsnaps; i++) {
		e = remap_snap(k, &r->snap[i]);
	}
	lbuf_done(&k->buf);
	wbuf_done(&k->w);
	return e;
}

struct err *compact_remap(struct compact_round *r)
{
	TRY(remap_all(r));
	return write_out(r);
}

/* ---- the switch ---- */

static bool same_place(const struct snap_info *a, const struct snap_info *b)
{
	if (a->nmaps != b->nmaps) {
		return false;
	}
	for (uint32_t i = 0; i < a->nmaps; i++) {
		if (a->maps[i].root_id != b->maps[i].root_id ||
		    !sha256_equal(&a->maps[i].digest, &b->maps[i].digest)) {
			return false;
		}
	}
	return true;
}

/* Puts the new roots into one snapshot's record, and the old ones aside (C3). */
static struct err *switch_snap(struct compact_round *r, struct ltxn *t,
			       const struct compact_snap *s, uint64_t *next_snap)
{
	bool found;
	SCOPE(snaprec_done) struct snap_rec rec = { 0 };
	TRY(family_snap_get(r->f, t, s->rec.info.id, &found, &rec));
	if (!found || rec.hidden || !same_place(&rec.info, &s->rec.info)) {
		return NULL; /* C4 */
	}
	struct snap_rec old = { .info = rec.info, .hidden = true, .moved = true };
	old.info.id = (*next_snap)++;
	old.info.parent = rec.info.id;
	old.info.pinned = false;
	old.info.nblobs = 0;
	TRY(family_snap_put(r->f, t, &old));
	for (uint32_t i = 0; i < rec.info.nmaps; i++) {
		rec.info.maps[i].root_id = s->root[i];
	}
	return family_snap_put(r->f, t, &rec);
}

struct err *compact_switch(struct compact_round *r)
{
	struct family *f = r->f;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	uint64_t next;
	uint64_t next_snap;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &next, &next_snap));
	for (size_t i = 0; i < r->nsnaps; i++) {
		if (r->snap[i].changed) {
			TRY(switch_snap(r, t, &r->snap[i], &next_snap));
		}
	}
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, next, next_snap));
	TRY(idrange_release(&r->range, t));
	TRY(ltxn_commit(MOVE(t)));
	r->range.reserved = false;
	return NULL;
}
