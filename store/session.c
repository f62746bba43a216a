/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing: one session makes one snapshot. Implements the session part of store.h.
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
#include <ctype.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "store/family.h"
#include "store/gc.h"
#include "store/mapbuild.h"
#include "store/pack.h"

#define SESSION_IDS (1ull << 32) /* ids in a session's range: 2^32 frames of 64 KiB are 256 TiB */
#define BATCH_BYTES (16 * MIB)   /* records per transaction; TAKE_BATCH_BYTES is the bound */
#define QUEUE_BYTES (32 * MIB)   /* what the pool may have finished, one batch being held */
#define AHEAD_BYTES (64 * MIB)   /* step in which growth is allocated ahead */
#define BLOBS_BYTES_MAX (24 * MIB)  /* all blobs: they go into the final transaction */
#define SPACE_MIN_BYTES (8 * MIB)   /* below that no take is begun */
#define WORKERS_DEFAULT_MAX 8u
_Static_assert(BATCH_BYTES + FRAME_BYTES_MAX < TAKE_BATCH_BYTES, "a batch keeps to the bound");

enum {
	WORKER_NICE = 10, /* the guest goes first */
};

struct map_out {
	struct snap_map info;
	struct node_child *leaf; /* owned; [twrite until it is joined] */
	uint64_t nleaves;
	uint64_t shared_from; /* snapshot id, 0: written by this session */
};

struct blob_out {
	struct snap_blob ref;
	uint8_t *p; /* owned */
};

struct session {
	struct family *f;
	struct session_opts opts;
	struct holder holder;
	struct pend_rec pend;
	bool reserved; /* the pend record may exist */
	bool over;
	atomic_ullong next_id; /* taken by workers (next_id) and by publish, after the workers */

	struct pack *pack; /* NULL before the first map */
	pthread_t writer;
	bool writing;           /* twrite runs and is to be joined */
	struct err *writer_err; /* [twrite until it is joined] */
	uint64_t inside_bytes;  /* [twrite] free pages in the file that are still unused */
	uint64_t ahead_bytes;   /* [twrite] allocated behind the end and not used yet */
	bool grew;              /* [twrite] something was allocated ahead */

	struct map_out map[STORE_MAPS_MAX];
	unsigned nmaps;
	bool map_open; /* the last of map[] */
	uint64_t next_page;
	struct pack_chunk chunk; /* of the open map; its leaf is not queued yet */
	bool chunk_used;
	uint8_t *hold;         /* owned: one leaf's pages, when session_settle falls into a leaf */
	struct blob_out *blob; /* owned */
	unsigned nblobs;
	size_t blob_bytes;
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
	uint64_t have = sp.disk_free_bytes + sp.free_bytes;
	uint64_t need = MAX((uint64_t)SPACE_MIN_BYTES, expect_bytes / 10);
	ENSURE(have >= need, ERR_NOSPACE,
	       "store %s: the disk is full: %llu MiB free, a take needs at least %llu; remove "
	       "snapshots or files",
	       f->dir, (unsigned long long)(have / MIB), (unsigned long long)(need / MIB));
	return NULL;
}

/* Takes an id range and writes the pend record, in one durable transaction. */
static struct err *reserve(struct session *s)
{
	struct family *f = s->f;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	uint64_t next;
	uint64_t next_snap;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &next, &next_snap));
	ENSURE(next != 0 && next_snap != 0, ERR_CORRUPT, "family %s: its counters are missing",
	       f->dir);
	uint64_t after;
	ENSURE(!ADD_OVERFLOWS(next, SESSION_IDS, &after), ERR_LIMIT,
	       "family %s: record ids are used up", f->dir);
	memcpy(s->pend.holder, s->holder.id, sizeof(s->pend.holder));
	s->pend.first = next;
	s->pend.count = SESSION_IDS;
	s->pend.started_ns = clock_real_ns();
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, after, next_snap));
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SMALL_BYTES_MAX);
	pend_encode(&w, f->uuid, &s->pend);
	TRY(wbuf_check(&w));
	TRY(ltxn_put(t, FAMILY_PEND, (struct bytes){ s->pend.holder, HOLDER_ID_BYTES },
		     (struct bytes){ w.p, w.len }));
	s->reserved = true;
	atomic_init(&s->next_id, next);
	return ltxn_commit(MOVE(t));
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
	TRY(reserve(s));
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

/* Starts the pool and twrite, at the first map. */
static struct err *start_writing(struct session *s)
{
	if (s->pack != NULL) {
		return NULL;
	}
	struct lenv_space sp;
	TRY(lenv_space(s->f->env, &sp));
	s->inside_bytes = sp.free_bytes;
	struct pack_opts po = {
		.workers = worker_count(s->opts.workers),
		.level = s->opts.level,
		.out_bytes_max = QUEUE_BYTES,
		.nice = WORKER_NICE,
		.next_id = pack_id,
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

/* ---- maps ---- */

static struct err *check_running(const struct session *s)
{
	ENSURE(!s->over, ERR_NOT_NOW, "the session is over");
	return NULL;
}

static struct err *check_new_map(const struct session *s, const char *name)
{
	TRY(check_running(s));
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

struct err *session_map_begin(struct session *s, const char *name, uint64_t len_bytes,
			      const uint8_t user[32])
{
	TRY(check_new_map(s, name));
	ENSURE(len_bytes <= SNAP_MAP_BYTES_MAX, ERR_LIMIT, "map %s: %llu bytes, at most %llu", name,
	       (unsigned long long)len_bytes, SNAP_MAP_BYTES_MAX);
	struct map_out m = { .info = { .len_bytes = len_bytes } };
	TRY(map_height(len_bytes, &m.info.height));
	TRY(start_writing(s));
	m.nleaves = map_leaves(len_bytes);
	snprintf(m.info.name, sizeof(m.info.name), "%s", name);
	memcpy(m.info.user, user, sizeof(m.info.user));
	m.leaf = calloc(MAX(m.nleaves, (uint64_t)1), sizeof(*m.leaf));
	ENSURE(m.leaf != NULL, ERR_SYS, "out of memory");
	s->map[s->nmaps++] = m;
	s->map_open = true;
	s->next_page = 0;
	s->chunk_used = false;
	return NULL;
}

/* Queues the open leaf. */
static struct err *chunk_flush(struct session *s)
{
	if (!s->chunk_used) {
		return NULL;
	}
	s->chunk_used = false;
	return pack_put(s->pack, &s->chunk);
}

struct err *session_map_pages(struct session *s, uint64_t index, const void *pages, uint64_t npages)
{
	TRY(check_running(s));
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
			memset(&s->chunk, 0, sizeof(s->chunk));
			s->chunk.map = s->nmaps - 1;
			s->chunk.leaf = leaf;
			s->chunk_used = true;
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

struct err *session_map_end(struct session *s)
{
	TRY(check_running(s));
	ENSURE(s->map_open, ERR_NOT_NOW, "no map is open");
	s->map_open = false;
	return chunk_flush(s);
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
	TRY(check_running(s));
	if (s->pack == NULL) {
		return NULL;
	}
	/* First the pool: an earlier leaf that it still reads may be in `hold`. */
	struct err *e = pack_settle(s->pack);
	return e != NULL ? e : chunk_hold(s);
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

/* ---- blobs ---- */

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
	TRY(check_running(s));
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

static struct err *check_tag(const char *tag)
{
	size_t len = strnlen(tag, NAME_BYTES_MAX + 1);
	ENSURE(len <= NAME_BYTES_MAX, ERR_USAGE, "tag: longer than %u bytes", NAME_BYTES_MAX);
	bool digits = len > 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)tag[i];
		ENSURE(c > ' ' && c < 0x7f && c != '@' && c != '/', ERR_USAGE,
		       "tag %s: only visible ASCII without @ and /", tag);
		digits = digits && isdigit(c);
	}
	ENSURE(!digits, ERR_USAGE, "tag %s: only digits, which would read as a number", tag);
	return NULL;
}

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
	struct mapbuild mb = {
		.uuid = s->f->uuid,
		.zero = &s->f->zero,
		.next_id = node_id,
		.arg = s,
	};
	for (unsigned i = 0; i < s->nmaps; i++) {
		struct map_out *m = &s->map[i];
		if (m->shared_from != 0) {
			continue;
		}
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

/* A shared map's records stay while the snapshot that it comes from has its record. */
static struct err *check_sources(struct session *s, struct ltxn *t)
{
	for (unsigned i = 0; i < s->nmaps; i++) {
		const struct map_out *m = &s->map[i];
		if (m->shared_from == 0) {
			continue;
		}
		bool found;
		SCOPE(snaprec_done) struct snap_rec r = { 0 };
		TRY(family_snap_get(s->f, t, m->shared_from, &found, &r));
		ENSURE(found, ERR_NOT_NOW,
		       "snapshot id %llu was removed meanwhile; its map %s cannot be shared",
		       (unsigned long long)m->shared_from, m->info.name);
	}
	return NULL;
}

static struct err *tag_differs(void *arg, const struct snap_rec *r)
{
	const struct snap_rec *mine = arg;
	ENSURE(r->hidden || mine->info.tag[0] == 0 ||
		       memcmp(r->info.vm, mine->info.vm, sizeof(r->info.vm)) != 0 ||
		       strcmp(r->info.tag, mine->info.tag) != 0,
	       ERR_NOT_NOW, "the tag %s is taken by snapshot %llu of this VM", r->info.tag,
	       (unsigned long long)r->info.number);
	return NULL;
}

static struct err *tag_unknown(void *arg, uint64_t id, struct err *e)
{
	(void)arg;
	(void)id;
	err_drop(e, "a damaged snapshot does not stop new ones; verify names it");
	return NULL;
}

/* Ids and numbers, which only the final transaction can give. */
static struct err *number_snap(struct session *s, struct ltxn *t, struct snap_rec *r)
{
	struct family *f = s->f;
	uint64_t next;
	uint64_t last;
	uint64_t unused;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &next, &r->info.id));
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, next, r->info.id + 1));
	struct family_key_number key = family_key_number(r->info.vm);
	TRY(family_meta_get(f, t, KEY_BYTES(key), &last, &unused));
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

/* The one transaction that makes the snapshot exist. */
static struct err *publish_txn(struct session *s, struct snap_rec *r,
			       const struct built_nodes *nodes, size_t from)
{
	struct family *f = s->f;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	TRY(check_sources(s, t));
	TRY(family_snap_each(f, t,
			     &(struct family_snap_visit){
				     .snap = tag_differs,
				     .damaged = tag_unknown,
				     .arg = r,
			     }));
	TRY(number_snap(s, t, r));
	TRY(put_nodes(t, nodes, from, nodes->n));
	TRY(put_blobs(s, t, r->info.id));
	r->info.created_ns = clock_real_ns();
	r->info.root = snaprec_root(r);
	TRY(family_snap_put(f, t, r));
	bool found;
	TRY(ltxn_del(t, FAMILY_PEND, (struct bytes){ s->pend.holder, HOLDER_ID_BYTES }, &found));
	ENSURE(found, ERR_NOT_NOW, "the session was cleared away by somebody else");
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

struct err *session_publish(struct session *s, const struct snap_meta *meta,
			    struct snap_info *ret_info)
{
	TRY(check_running(s));
	ENSURE(!s->map_open, ERR_NOT_NOW, "map %s is still open", s->map[s->nmaps - 1].info.name);
	TRY(check_tag(meta->tag));
	s->over = true; /* also after a failure: then only session_free is left */
	TRY(finish_writing(s));
	SCOPE(built_nodes_done) struct built_nodes nodes = { 0 };
	TRY(build_maps(s, &nodes));
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(fill_record(s, meta, &r));
	size_t from = 0;
	TRY(write_early_nodes(s, &nodes, &from));
	TRY(publish_txn(s, &r, &nodes, from));
	s->reserved = false;
	holder_drop(&s->holder);
	trim(s);
	*ret_info = r.info;
	return NULL;
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
		free(s->map[i].leaf);
	}
	for (unsigned i = 0; i < s->nblobs; i++) {
		free(s->blob[i].p);
	}
	free(s->blob);
	free(s->hold);
	lenv_rest(s->f->env); /* tens of MiB of record buffers, which malloc would keep */
	free(s);
}
