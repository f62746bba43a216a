/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing: one session makes one snapshot. Implements the session part of store.h; its maps are in
 * session_map.c.
 *
 * The caller's thread hands pages to the compressor pool (pack.h); the thread "twrite" of this file
 * takes finished records from it and commits them in batches. It collects a batch before it opens
 * the transaction: LMDB's write lock is never held while waiting for the pool.
 *
 * I1: every id that the session writes is in its own range [first, first + count), reserved by the
 *     transaction that wrote its pend record.
 * I2: its holder's lock is taken before the pend record is committed, and dropped after it is gone.
 * I3: nothing refers to what it wrote until the transaction of session_publish, which also removes
 *     the pend record. So either all is published or the whole range is garbage.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "store/gc.h"
#include "store/idrange.h"
#include "store/session_internal.h"

#define BATCH_BYTES (16 * MIB)     /* records per transaction; TAKE_BATCH_BYTES is the bound */
#define QUEUE_BYTES (32 * MIB)     /* what the pool may have finished, one batch being held */
#define AHEAD_BYTES (64 * MIB)     /* step in which growth is allocated ahead */
#define BLOBS_BYTES_MAX (24 * MIB) /* all blobs: they go into the final transaction */
#define SPACE_MIN_BYTES (8 * MIB)  /* below that no take is begun */
#define WORKERS_DEFAULT_MAX 8u
_Static_assert(BATCH_BYTES + FRAME_BYTES_MAX < TAKE_BATCH_BYTES, "a batch keeps to the bound");

enum {
	WORKER_NICE = 10, /* the guest goes first */
};

/* ---- ids ---- */

static struct err *take_id(struct session *s, uint64_t *ret_id)
{
	uint64_t id = atomic_fetch_add(&s->next_id, 1);
	ENSURE(id < s->pend.first + s->pend.count, ERR_LIMIT,
	       "the take is too large: its %llu record ids are used up",
	       (unsigned long long)s->pend.count);
	*ret_id = id;
	return NULL;
}

static struct err *pack_id(void *arg, enum pack_id_kind kind, uint64_t *ret_id)
{
	(void)kind; /* frames, leaves and nodes share one range */
	return take_id(arg, ret_id);
}

static struct err *node_id(void *arg, uint64_t *ret_id)
{
	return take_id(arg, ret_id);
}

/* ---- opening ---- */

static struct err *check_space(struct family *f, uint64_t expect_bytes)
{
	struct lenv_space sp;
	TRY(lenv_space(f->env, &sp));
	uint64_t have = sp.disk_free_bytes + sp.backed_bytes;
	uint64_t need = MAX((uint64_t)SPACE_MIN_BYTES, expect_bytes / 10);
	ENSURE(have >= need, ERR_NOSPACE,
	       "store %s: the disk is full: %llu MiB free, a take needs at least %llu; remove "
	       "snapshots or files",
	       f->dir, (unsigned long long)(have / MIB), (unsigned long long)(need / MIB));
	return NULL;
}

struct err *session_open(struct family *f, const struct session_opts *opts,
			 struct session **ret_session)
{
	ENSURE(!f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	SCOPE(session_freep) struct session *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	s->f = f;
	s->opts = *opts;
	s->holder.file = FD_NONE;
	TRY(check_space(f, opts->expect_bytes));
	TRY(holder_take(f->holders, FAMILY_SESSION_TEXT, &s->holder));
	TRY(idrange_reserve(f, &s->holder, &s->pend, &s->reserved));
	atomic_init(&s->next_id, s->pend.first);
	*ret_session = MOVE(s);
	return NULL;
}

/* ---- the writer thread ---- */

struct batch {
	struct pack_item *item; /* owned */
	size_t n;
	size_t cap;
	size_t bytes;
	bool last;
};

static struct err *batch_add(struct batch *b, const struct pack_item *item)
{
	if (b->n == b->cap) {
		size_t cap = b->cap == 0 ? 256 : b->cap * 2;
		struct pack_item *p = realloc(b->item, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		b->item = p;
		b->cap = cap;
	}
	b->item[b->n++] = *item;
	b->bytes += item->len;
	return NULL;
}

static void batch_give_back(struct session *s, struct batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		if (b->item[i].own != NULL) {
			pack_give_back(s->pack, &b->item[i]);
			b->item[i].own = NULL;
		}
	}
	b->n = 0;
	b->bytes = 0;
}

static struct err *batch_fill(struct session *s, struct batch *b)
{
	while (b->bytes < BATCH_BYTES) {
		struct pack_item item;
		TRY(pack_take(s->pack, UINT64_MAX, &item));
		if (item.kind == PACK_END) {
			b->last = true;
			return NULL;
		}
		struct err *e = batch_add(b, &item);
		if (e != NULL) {
			pack_give_back(s->pack, &item);
			return e;
		}
		if (item.kind == PACK_LEAF) {
			struct map_out *m = &s->map[item.map];
			BUG_ON(item.map >= STORE_MAPS_MAX || item.leaf >= m->nleaves);
			m->leaf[item.leaf] =
				(struct node_child){ .id = item.id, .digest = item.digest };
		}
	}
	return NULL;
}

static int item_order(const void *pa, const void *pb)
{
	const struct pack_item *a = pa;
	const struct pack_item *b = pb;
	if (a->kind != b->kind) {
		return a->kind < b->kind ? -1 : 1;
	}
	return a->id < b->id ? -1 : a->id > b->id;
}

/* Commits get faster when the blocks behind the end exist already. */
static void grow_ahead(struct session *s, uint64_t bytes)
{
	uint64_t inside = MIN(bytes, s->inside_bytes);
	s->inside_bytes -= inside;
	bytes -= inside;
	if (bytes > s->ahead_bytes) {
		lenv_prealloc(s->f->env, AHEAD_BYTES);
		s->ahead_bytes = AHEAD_BYTES;
		s->grew = true;
	}
	s->ahead_bytes -= MIN(bytes, s->ahead_bytes);
}

static struct err *batch_write(struct session *s, struct batch *b)
{
	qsort(b->item, b->n, sizeof(*b->item), item_order);
	grow_ahead(s, b->bytes + b->bytes / 16);
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->f->env, true, &t));
	for (size_t i = 0; i < b->n; i++) {
		struct pack_item *it = &b->item[i];
		struct key8 key = key_of_id(it->id);
		TRY(ltxn_put(t, it->kind == PACK_FRAME ? FAMILY_FRAME : FAMILY_LEAF, KEY_BYTES(key),
			     (struct bytes){ it->p, it->len }));
		pack_give_back(s->pack, it); /* LMDB has its own copy until the commit */
		it->own = NULL;
	}
	b->n = 0;
	b->bytes = 0;
	return ltxn_commit(MOVE(t));
}

static struct err *write_all(struct session *s, struct batch *b)
{
	while (!b->last) {
		TRY(batch_fill(s, b));
		if (b->n > 0) {
			TRY(batch_write(s, b));
		}
	}
	return NULL;
}

static void *writer_main(void *arg)
{
	struct session *s = arg;
	struct batch b = { 0 };
	pthread_setname_np(pthread_self(), "twrite");
	struct err *e = write_all(s, &b);
	batch_give_back(s, &b);
	free(b.item);
	if (e != NULL) {
		pack_cancel(s->pack, e); /* the caller's thread gets a copy at its next call */
		s->writer_err = e;
	}
	return NULL;
}

static unsigned worker_count(unsigned asked)
{
	if (asked != 0) {
		return MIN(asked, PACK_WORKERS_MAX);
	}
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n < 1 ? 1 : (unsigned)MIN(n, (long)WORKERS_DEFAULT_MAX);
}

struct err *session_start_writing(struct session *s)
{
	if (s->pack != NULL) {
		return NULL;
	}
	struct lenv_space sp;
	TRY(lenv_space(s->f->env, &sp));
	s->inside_bytes = sp.backed_bytes;
	struct pack_opts po = {
		.workers = worker_count(s->opts.workers),
		.level = s->opts.level,
		.out_bytes_max = QUEUE_BYTES,
		.nice = WORKER_NICE,
		.next_id = pack_id,
		.load = session_map_load,
		.arg = s,
	};
	memcpy(po.uuid, s->f->uuid, sizeof(po.uuid));
	TRY(pack_new(&po, &s->pack));
	/* Signals are for the caller's threads; faults of the guard are not blockable anyway. */
	sigset_t all;
	sigset_t old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&s->writer, NULL, writer_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		return ERR_SYSNO(rc, "starting the writer thread");
	}
	s->writing = true;
	return NULL;
}

/* ---- blobs ---- */

struct err *session_check_running(const struct session *s)
{
	ENSURE(!s->over, ERR_NOT_NOW, "the session is over");
	return NULL;
}

static int blob_cmp(const struct snap_blob *a, const struct snap_blob *b)
{
	uint32_t ka = (uint32_t)a->kind << 16 | a->index;
	uint32_t kb = (uint32_t)b->kind << 16 | b->index;
	return ka < kb ? -1 : ka > kb;
}

static int blob_order(const void *pa, const void *pb)
{
	const struct blob_out *a = pa;
	const struct blob_out *b = pb;
	return blob_cmp(&a->ref, &b->ref);
}

struct err *session_blob(struct session *s, uint16_t kind, uint16_t index, const void *p,
			 size_t len)
{
	TRY(session_check_running(s));
	ENSURE(kind != HINT_KIND, ERR_CORRUPT, "blob %u.%u: no blob has that kind", kind, index);
	ENSURE(len <= BLOB_BYTES_MAX && s->blob_bytes + len <= BLOBS_BYTES_MAX, ERR_LIMIT,
	       "blob %u.%u: %zu bytes; one may have %llu, all together %llu", kind, index, len,
	       (unsigned long long)BLOB_BYTES_MAX, (unsigned long long)BLOBS_BYTES_MAX);
	ENSURE(s->nblobs < SNAP_BLOBS_MAX, ERR_LIMIT, "more than %u blobs", SNAP_BLOBS_MAX);
	struct blob_out b = { .ref = { .kind = kind, .index = index, .len = (uint32_t)len } };
	for (unsigned i = 0; i < s->nblobs; i++) {
		ENSURE(blob_cmp(&s->blob[i].ref, &b.ref) != 0, ERR_NOT_NOW,
		       "there is a blob %u.%u already", kind, index);
	}
	b.ref.digest = sha256_of(p, len);
	struct blob_out *more = realloc(s->blob, (s->nblobs + 1) * sizeof(*more));
	ENSURE(more != NULL, ERR_SYS, "out of memory");
	s->blob = more;
	b.p = malloc(MAX(len, (size_t)1));
	ENSURE(b.p != NULL, ERR_SYS, "out of memory");
	if (len > 0) {
		memcpy(b.p, p, len);
	}
	s->blob[s->nblobs++] = b;
	s->blob_bytes += len;
	return NULL;
}

/* ---- publishing ---- */

/* Ends the pool in order and joins twrite; its error, if any. */
static struct err *finish_writing(struct session *s)
{
	if (s->pack == NULL) {
		return NULL;
	}
	struct err *e = pack_finish(s->pack);
	if (s->writing) {
		if (e != NULL) {
			pack_cancel(s->pack, e);
		}
		pthread_join(s->writer, NULL);
		s->writing = false;
	}
	if (s->writer_err != NULL) {
		err_free(e); /* a copy of the writer's own */
		return MOVE(s->writer_err);
	}
	return e;
}

static struct err *build_maps(struct session *s, struct built_nodes *nodes)
{
	for (unsigned i = 0; i < s->nmaps; i++) {
		struct map_out *m = &s->map[i];
		if (m->shared_from != 0) {
			continue;
		}
		struct mapbuild mb = {
			.uuid = s->f->uuid,
			.zero = &s->f->zero,
			.next_id = node_id,
			.arg = s,
			.base = m->base != NULL ? m->base->level : NULL,
		};
		struct node_child root;
		TRY(map_build(&mb, m->leaf, m->nleaves, m->info.height, nodes, &root));
		m->info.root_id = root.id;
		m->info.digest = root.digest;
	}
	return NULL;
}

static struct err *put_nodes(struct ltxn *t, const struct built_nodes *nodes, size_t from,
			     size_t to)
{
	for (size_t i = from; i < to; i++) {
		struct key8 key = key_of_id(nodes->node[i].id);
		TRY(ltxn_put(t, FAMILY_NODE, KEY_BYTES(key),
			     (struct bytes){ nodes->node[i].p, nodes->node[i].len }));
	}
	return NULL;
}

/* Writes nodes in batches while they are too many for the final transaction; *ret_from: the rest.
 */
static struct err *write_early_nodes(struct session *s, const struct built_nodes *nodes,
				     size_t *ret_from)
{
	size_t from = 0;
	size_t left = nodes->bytes;
	while (left + s->blob_bytes > BATCH_BYTES && from < nodes->n) {
		SCOPE(ltxn_abortp) struct ltxn *t = NULL;
		TRY(ltxn_begin(s->f->env, true, &t));
		size_t bytes = 0;
		size_t to = from;
		while (to < nodes->n && bytes < BATCH_BYTES) {
			bytes += nodes->node[to++].len;
		}
		TRY(put_nodes(t, nodes, from, to));
		TRY(ltxn_commit(MOVE(t)));
		left -= bytes;
		from = to;
	}
	*ret_from = from;
	return NULL;
}

/* The map of that name in the source's record: compaction may have moved it since it was shared. */
static struct err *shared_root(const struct snap_rec *source, struct snap_map *m)
{
	for (uint32_t i = 0; i < source->info.nmaps; i++) {
		const struct snap_map *now = &source->info.maps[i];
		if (strcmp(now->name, m->name) == 0 && sha256_equal(&now->digest, &m->digest)) {
			m->root_id = now->root_id;
			return NULL;
		}
	}
	return ERR(ERR_CORRUPT, "snapshot id %llu: its map %s has changed",
		   (unsigned long long)source->info.id, m->name);
}

/* What is taken over stays while the snapshot that it comes from has its record. */
static struct err *check_sources(struct session *s, struct ltxn *t, struct snap_rec *mine)
{
	for (unsigned i = 0; i < s->nmaps; i++) {
		const struct map_out *m = &s->map[i];
		uint64_t from = m->base != NULL ? m->base->snap_id : m->shared_from;
		if (from == 0) {
			continue;
		}
		bool found;
		SCOPE(snaprec_done) struct snap_rec r = { 0 };
		TRY(family_snap_get(s->f, t, from, &found, &r));
		ENSURE(found, ERR_NOT_NOW,
		       "snapshot id %llu was removed meanwhile; its map %s cannot be shared",
		       (unsigned long long)from, m->info.name);
		/* What a base had is under a lease, and stays where it was. */
		if (m->base == NULL) {
			TRY(shared_root(&r, &mine->info.maps[i]));
		}
	}
	return NULL;
}

static struct err *number_differs(void *arg, const struct snap_rec *r)
{
	const struct snap_rec *mine = arg;
	ENSURE(r->hidden || r->info.number != mine->info.number ||
		       memcmp(r->info.vm, mine->info.vm, sizeof(r->info.vm)) != 0,
	       ERR_NOT_NOW, "the VM has a snapshot with number %llu already",
	       (unsigned long long)r->info.number);
	return NULL;
}

static struct err *number_unknown(void *arg, uint64_t id, struct err *e)
{
	(void)arg;
	(void)id;
	return e; /* its number is not known: it may be this one */
}

/* Ids and numbers, which only the final transaction can give. */
static struct err *number_snap(struct session *s, struct ltxn *t, const struct snap_meta *meta,
			       struct snap_rec *r)
{
	struct family *f = s->f;
	uint64_t next;
	uint64_t last;
	uint64_t unused;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &next, &r->info.id));
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, next, r->info.id + 1));
	struct family_key_number key = family_key_number(r->info.vm);
	TRY(family_meta_get(f, t, KEY_BYTES(key), &last, &unused));
	if (r->hidden) { /* never listed: it takes no number away */
		r->info.number = last + 1;
		return NULL;
	}
	if (meta->number != 0) {
		struct snap_rec wanted = *r;
		wanted.info.number = meta->number;
		TRY(family_snap_each(f, t,
				     &(struct family_snap_visit){
					     .snap = number_differs,
					     .damaged = number_unknown,
					     .arg = &wanted,
				     }));
		r->info.number = meta->number;
		return meta->number <= last
			       ? NULL
			       : family_meta_put(f, t, KEY_BYTES(key), meta->number, 0);
	}
	r->info.number = last + 1;
	return family_meta_put(f, t, KEY_BYTES(key), r->info.number, 0);
}

static struct err *put_blobs(struct session *s, struct ltxn *t, uint64_t snap_id)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(BLOB_RECORD_BYTES_MAX);
	for (unsigned i = 0; i < s->nblobs; i++) {
		const struct blob_out *b = &s->blob[i];
		blob_encode(&w, s->f->uuid, snap_id, b->ref.kind, b->ref.index,
			    (struct bytes){ b->p, b->ref.len });
		TRY(wbuf_check(&w));
		struct key_blob key = key_of_blob(snap_id, b->ref.kind, b->ref.index);
		TRY(ltxn_put(t, FAMILY_BLOB, KEY_BYTES(key), (struct bytes){ w.p, w.len }));
	}
	return NULL;
}

/*
 * The one transaction that makes the snapshot exist. lease: NULL, or one on it is taken before it
 * can be seen (gc.c, I2).
 */
static struct err *publish_txn(struct session *s, const struct snap_meta *meta, struct snap_rec *r,
			       const struct built_nodes *nodes, size_t from, struct holder *lease)
{
	struct family *f = s->f;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	TRY(check_sources(s, t, r));
	TRY(family_tag_free(f, t, r));
	TRY(number_snap(s, t, meta, r));
	TRY(put_nodes(t, nodes, from, nodes->n));
	TRY(put_blobs(s, t, r->info.id));
	r->info.created_ns = clock_real_ns();
	r->info.root = snaprec_root(r);
	ENSURE(meta->root == NULL || sha256_equal(meta->root, &r->info.root), ERR_CORRUPT,
	       "the content is not what its root says");
	TRY(family_snap_put(f, t, r));
	bool found;
	TRY(ltxn_del(t, FAMILY_PEND, (struct bytes){ s->pend.holder, HOLDER_ID_BYTES }, &found));
	ENSURE(found, ERR_NOT_NOW, "the session was cleared away by somebody else");
	if (lease != NULL) {
		char text[HOLDER_TEXT_MAX + 1];
		snprintf(text, sizeof(text), FAMILY_LEASE_FMT, (unsigned long long)r->info.id);
		TRY(holder_take(f->holders, text, lease));
	}
	return ltxn_commit(MOVE(t));
}

static struct err *fill_record(struct session *s, const struct snap_meta *meta, struct snap_rec *r)
{
	struct snap_info *in = &r->info;
	memcpy(in->vm, meta->vm, sizeof(in->vm));
	snprintf(in->tag, sizeof(in->tag), "%s", meta->tag);
	in->frozen_at_ns = meta->frozen_at_ns;
	in->parent = meta->parent;
	if (s->pack != NULL) {
		struct pack_stats st;
		pack_stats(s->pack, &st);
		in->pages_stored = st.pages_stored + st.pages_value;
		in->bytes_stored = st.frame_bytes;
	}
	in->nmaps = s->nmaps;
	for (unsigned i = 0; i < s->nmaps; i++) {
		in->maps[i] = s->map[i].info;
	}
	in->nblobs = s->nblobs;
	r->blobs = calloc(MAX(s->nblobs, 1u), sizeof(*r->blobs));
	ENSURE(r->blobs != NULL, ERR_SYS, "out of memory");
	if (s->nblobs > 0) {
		qsort(s->blob, s->nblobs, sizeof(*s->blob), blob_order);
	}
	for (unsigned i = 0; i < s->nblobs; i++) {
		r->blobs[i] = s->blob[i].ref;
	}
	return NULL;
}

/* Gives back blocks allocated ahead, so that the store's size on disk is honest. */
static void trim(struct session *s)
{
	if (s->grew) {
		s->grew = false;
		err_drop(lenv_trim(s->f->env), "only blocks that nobody uses, until the next trim");
	}
}

/* *r is filled in; r->hidden says whether it is to be listed. */
static struct err *publish(struct session *s, const struct snap_meta *meta, struct snap_rec *r,
			   struct holder *lease)
{
	TRY(session_check_running(s));
	ENSURE(!s->map_open, ERR_NOT_NOW, "map %s is still open", s->map[s->nmaps - 1].info.name);
	TRY(family_check_tag(meta->tag));
	s->over = true; /* also after a failure: then only session_free is left */
	TRY(finish_writing(s));
	SCOPE(built_nodes_done) struct built_nodes nodes = { 0 };
	TRY(build_maps(s, &nodes));
	TRY(fill_record(s, meta, r));
	size_t from = 0;
	TRY(write_early_nodes(s, &nodes, &from));
	TRY(publish_txn(s, meta, r, &nodes, from, lease));
	s->reserved = false;
	holder_drop(&s->holder);
	trim(s);
	return NULL;
}

struct err *session_publish(struct session *s, const struct snap_meta *meta,
			    struct snap_info *ret_info)
{
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(publish(s, meta, &r, NULL));
	*ret_info = r.info;
	return NULL;
}

struct err *session_publish_unlisted(struct session *s, const uint8_t vm[16],
				     struct reader **ret_reader)
{
	struct snap_meta meta = { 0 };
	memcpy(meta.vm, vm, sizeof(meta.vm));
	SCOPE(snaprec_done) struct snap_rec r = { .hidden = true };
	SCOPE(holder_drop) struct holder lease = { .file = FD_NONE };
	TRY(publish(s, &meta, &r, &lease));
	return reader_adopt(s->f, &r, &lease, ret_reader);
}

/* ---- the end ---- */

void session_free(struct session *s)
{
	if (s == NULL) {
		return;
	}
	if (s->pack != NULL) {
		struct err *why = ERR(ERR_CANCELLED, "the session ended without a publish");
		pack_cancel(s->pack, why);
		err_drop(why, "pack_cancel keeps a copy");
	}
	if (s->writing) {
		pthread_join(s->writer, NULL);
	}
	err_free(s->writer_err);
	pack_free(s->pack);
	if (s->reserved) {
		struct gc_result unused;
		err_drop(gc_drop_session(s->f, s->pend.holder, &unused),
			 "what is left is garbage that the next collection finds");
	}
	trim(s);
	holder_drop(&s->holder);
	for (unsigned i = 0; i < s->nmaps; i++) {
		session_map_done(&s->map[i]);
	}
	for (unsigned i = 0; i < s->nblobs; i++) {
		free(s->blob[i].p);
	}
	free(s->blob);
	free(s->hold);
	lenv_rest(s->f->env); /* tens of MiB of record buffers, which malloc would keep */
	free(s);
}
