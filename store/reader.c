/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a snapshot under a lease. Implements the reader part of store.h.
 *
 * A map is read in stretches (mapruns.h). For each the caller's thread and helpers ("tread") take
 * batches of frames in the order of their ids, find them in one short read transaction, ask the
 * kernel to read ahead, and decode one batch while the next is on its way from the disk.
 *
 * I1: the lease's file exists and is locked before the snapshot is looked up (gc.c, I2).
 * I2: no transaction is open while a frame is decoded or placed: a slow caller keeps no pages from
 *     being used again. The lease keeps the frames where they were found.
 */
#include <signal.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/base/lock.h"
#include "store/mapbuild.h"
#include "store/mapdiff.h"
#include "store/mapruns.h"
#include "store/mapwalk.h"
#include "store/reader_internal.h"

enum {
	BATCH_FRAMES = 32, /* about 2 MiB of file */
	WORKERS_MAX = 64,
	WORKERS_DEFAULT_MAX = 8,
	VALUE_RUN_PAGES = 16, /* pages of one value handed out at a time */
};

/* ---- opening ---- */

struct err *reader_open(struct family *f, uint64_t snap_id, struct reader **ret_reader)
{
	SCOPE(reader_closep) struct reader *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	r->f = f;
	r->lease.file = FD_NONE;
	if (!f->rdonly) {
		char text[HOLDER_TEXT_MAX + 1];
		snprintf(text, sizeof(text), FAMILY_LEASE_FMT, (unsigned long long)snap_id);
		TRY(holder_take(f->holders, text, &r->lease));
	}
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	bool found;
	TRY(family_snap_get(f, t, snap_id, &found, &r->rec));
	ENSURE(found && !r->rec.hidden, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)snap_id);
	*ret_reader = MOVE(r);
	return NULL;
}

struct err *reader_adopt(struct family *f, struct snap_rec *rec, struct holder *lease,
			 struct reader **ret_reader)
{
	struct reader *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	*r = (struct reader){ .f = f, .rec = *rec, .lease = *lease };
	*rec = (struct snap_rec){ .blobs = NULL };
	lease->file = FD_NONE;
	*ret_reader = r;
	return NULL;
}

void reader_close(struct reader *r)
{
	if (r != NULL) {
		holder_drop(&r->lease);
		snaprec_done(&r->rec);
		free(r);
	}
}

const struct snap_info *reader_info(const struct reader *r)
{
	return &r->rec.info;
}

/* ---- blobs ---- */

static struct err *read_blob(struct reader *r, const struct snap_blob *ref, uint8_t **ret_p)
{
	struct family *f = r->f;
	SCOPE(lbuf_done) struct lbuf b = { 0 };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	struct key_blob key = key_of_blob(r->rec.info.id, ref->kind, ref->index);
	bool found;
	TRY(ltxn_get(t, FAMILY_BLOB, KEY_BYTES(key), BLOB_RECORD_BYTES_MAX, &b, &found));
	ENSURE(found, ERR_CORRUPT, "blob %u.%u of snapshot id %llu is missing", ref->kind,
	       ref->index, (unsigned long long)r->rec.info.id);
	struct bytes data;
	TRY(blob_decode(b.p, b.len, f->uuid, r->rec.info.id, ref->kind, ref->index, &data));
	struct sha256 have = sha256_of(data.p, data.len);
	ENSURE(data.len == ref->len && sha256_equal(&have, &ref->digest), ERR_CORRUPT,
	       "blob %u.%u of snapshot id %llu: its digest is not the one in the snapshot's record",
	       ref->kind, ref->index, (unsigned long long)r->rec.info.id);
	uint8_t *p = malloc(data.len + 1);
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	memcpy(p, data.p, data.len);
	p[data.len] = 0;
	*ret_p = p;
	return NULL;
}

struct err *reader_blob(struct reader *r, uint16_t kind, uint16_t index, uint8_t **ret_p,
			size_t *ret_len)
{
	for (uint32_t i = 0; i < r->rec.info.nblobs; i++) {
		const struct snap_blob *ref = &r->rec.blobs[i];
		if (ref->kind == kind && ref->index == index) {
			TRY(read_blob(r, ref, ret_p));
			*ret_len = ref->len;
			return NULL;
		}
	}
	return ERR(ERR_NOTFOUND, "snapshot %llu has no blob %u.%u",
		   (unsigned long long)r->rec.info.number, kind, index);
}

struct err *reader_blobs(struct reader *r,
			 struct err *(*fn)(void *arg, uint16_t kind, uint16_t index), void *arg)
{
	for (uint32_t i = 0; i < r->rec.info.nblobs; i++) {
		TRY(fn(arg, r->rec.blobs[i].kind, r->rec.blobs[i].index));
	}
	return NULL;
}

struct err *reader_find_map(struct reader *r, const char *name, const struct snap_map **ret_map)
{
	for (uint32_t i = 0; i < r->rec.info.nmaps; i++) {
		if (strcmp(r->rec.info.maps[i].name, name) == 0) {
			*ret_map = &r->rec.info.maps[i];
			return NULL;
		}
	}
	return ERR(ERR_NOTFOUND, "snapshot %llu has no map %s",
		   (unsigned long long)r->rec.info.number, name);
}

/* ---- reading one stretch with several threads ---- */

struct stretch {
	struct family *f;
	const struct snap_map *map;
	const struct snap_map *since; /* of opts->since */
	const struct read_opts *opts;
	struct mapruns runs;
	atomic_size_t next_frame; /* each worker takes BATCH_FRAMES of them */
	atomic_ullong done_pages; /* of the whole map, zero pages included */
	uint64_t total_pages;
	atomic_bool stop;
	struct lock lock;
	struct err *err; /* [lock] the first */
};

/* What one thread works with. */
struct worker {
	struct stretch *s;
	bool reports; /* the caller's thread: calls progress */
	pthread_t thread;
	struct zcodec *z;
	struct frame frame;
	uint8_t *record; /* owned: FRAME_BYTES_MAX */
	uint8_t *pages;  /* owned: all slots of a frame; only what is used gets touched */
};

/* Frames [first, first + n) of the stretch and where they are. */
struct fbatch {
	size_t first;
	size_t n;
	struct lplace place[BATCH_FRAMES];
};

static uint64_t frame_id(const struct stretch *s, size_t i)
{
	return s->runs.run[s->runs.start[i]].frame;
}

/* Names the pages that an error about a frame concerns. */
static struct err *about_frame(const struct stretch *s, size_t i, struct err *e)
{
	if (e == NULL) {
		return NULL;
	}
	char text[256];
	size_t from = s->runs.start[i];
	mapruns_text(s->runs.run + from, s->runs.start[i + 1] - from, s->map->name, text,
		     sizeof(text));
	return err_wrap(e, "%s", text);
}

/* Takes the next batch, finds its frames and starts reading them. n is 0 at the end. */
static struct err *batch_take(struct stretch *s, struct fbatch *b)
{
	b->first = atomic_fetch_add(&s->next_frame, BATCH_FRAMES);
	b->n = 0;
	if (b->first >= s->runs.nframes) {
		return NULL;
	}
	size_t n = MIN(s->runs.nframes - b->first, (size_t)BATCH_FRAMES);
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->f->env, false, &t));
	for (size_t i = 0; i < n; i++) {
		TRY(about_frame(s, b->first + i,
				frame_place(s->f, t, frame_id(s, b->first + i), &b->place[i])));
	}
	ltxn_abort(MOVE(t));
	uint64_t from = b->place[0].off;
	uint64_t to = from + b->place[0].len;
	for (size_t i = 1; i < n; i++) {
		const struct lplace *p = &b->place[i];
		if (p->off < to || p->off - to > PAGE_BYTES) {
			lenv_will_need(s->f->env, from, to - from);
			from = p->off;
		}
		to = p->off + p->len;
	}
	lenv_will_need(s->f->env, from, to - from);
	b->n = n;
	return NULL;
}

/* Decodes the sub-frames that hold slots [slot, slot + n) and are not decoded yet. */
static struct err *decode_slots(struct worker *w, uint64_t slot, uint32_t n,
				uint8_t done[FRAME_SUBS_MAX])
{
	unsigned sub;
	unsigned last;
	unsigned page;
	ENSURE(slot < w->frame.nslots && n <= w->frame.nslots - slot, ERR_CORRUPT,
	       "frame %llu: has %u slots, not %llu and up", (unsigned long long)w->frame.id,
	       w->frame.nslots, (unsigned long long)slot);
	TRY(frame_slot(&w->frame, (unsigned)slot, &sub, &page));
	TRY(frame_slot(&w->frame, (unsigned)slot + n - 1, &last, &page));
	for (; sub <= last; sub++) {
		if (!done[sub]) {
			done[sub] = 1;
			TRY(frame_sub(&w->frame, sub, w->z,
				      w->pages +
					      (size_t)w->frame.sub[sub].first_slot * PAGE_BYTES));
		}
	}
	return NULL;
}

static bool run_wanted(const struct stretch *s, const struct map_run *run)
{
	return s->opts->wanted == NULL || s->opts->wanted(s->opts->arg, run->page, run->npages);
}

/* Pages of frames that are not read count as done, too. */
static bool frame_wanted(struct stretch *s, size_t i)
{
	uint64_t pages = 0;
	for (size_t k = s->runs.start[i]; k < s->runs.start[i + 1]; k++) {
		if (run_wanted(s, &s->runs.run[k])) {
			return true;
		}
		pages += s->runs.run[k].npages;
	}
	atomic_fetch_add(&s->done_pages, pages);
	return false;
}

static struct err *frame_read(struct worker *w, size_t i, const struct lplace *at)
{
	struct stretch *s = w->s;
	uint8_t done[FRAME_SUBS_MAX] = { 0 };
	if (!frame_wanted(s, i)) {
		return NULL;
	}
	TRY(about_frame(s, i, frame_load(s->f, at, frame_id(s, i), w->record, &w->frame)));
	uint64_t pages = 0;
	for (size_t k = s->runs.start[i]; k < s->runs.start[i + 1]; k++) {
		const struct map_run *run = &s->runs.run[k];
		pages += run->npages;
		if (!run_wanted(s, run)) {
			continue;
		}
		TRY(about_frame(s, i, decode_slots(w, run->v, run->npages, done)));
		TRY(s->opts->place(s->opts->arg, run->page, w->pages + run->v * PAGE_BYTES,
				   run->npages));
	}
	atomic_fetch_add(&s->done_pages, pages);
	return NULL;
}

static void report(struct worker *w)
{
	struct stretch *s = w->s;
	if (w->reports && s->opts->progress != NULL) {
		s->opts->progress(s->opts->arg, atomic_load(&s->done_pages), s->total_pages);
	}
}

static struct err *work(struct worker *w)
{
	struct fbatch b[2];
	unsigned now = 0;
	TRY(zcodec_new(0, &w->z));
	w->record = malloc(FRAME_BYTES_MAX);
	w->pages = malloc((size_t)FRAME_SLOTS_MAX * PAGE_BYTES);
	ENSURE(w->record != NULL && w->pages != NULL, ERR_SYS, "out of memory");
	TRY(batch_take(w->s, &b[0]));
	while (b[now].n > 0 && !atomic_load(&w->s->stop)) {
		TRY(batch_take(w->s, &b[1 - now])); /* is read while this one is decoded */
		for (size_t i = 0; i < b[now].n; i++) {
			TRY(frame_read(w, b[now].first + i, &b[now].place[i]));
		}
		report(w);
		now = 1 - now;
	}
	return NULL;
}

static void worker_run(struct worker *w)
{
	struct stretch *s = w->s;
	struct err *e = work(w);
	zcodec_free(w->z);
	free(w->record);
	free(w->pages);
	if (e != NULL) {
		atomic_store(&s->stop, true);
		LOCK_SCOPE(&s->lock);
		s->err = err_first(s->err, e);
	}
}

static void *tread_main(void *arg)
{
	pthread_setname_np(pthread_self(), "tread");
	worker_run(arg);
	return NULL;
}

/* Pages of one value: no frame, so the caller's thread does them. */
static struct err *place_values(struct stretch *s)
{
	if (s->runs.nvalues == 0) {
		return NULL;
	}
	SCOPE(freep) uint64_t *buf = malloc(VALUE_RUN_PAGES * PAGE_BYTES);
	ENSURE(buf != NULL, ERR_SYS, "out of memory");
	for (size_t i = 0; i < s->runs.nvalues; i++) {
		const struct map_run *run = &s->runs.run[i];
		if (!run_wanted(s, run)) {
			atomic_fetch_add(&s->done_pages, run->npages);
			continue;
		}
		if (run->v == 0) { /* only where zero pages count */
			TRY(s->opts->zero(s->opts->arg, run->page, run->npages));
			atomic_fetch_add(&s->done_pages, run->npages);
			continue;
		}
		uint32_t fill = MIN(run->npages, (uint32_t)VALUE_RUN_PAGES);
		for (size_t k = 0; k < fill * (PAGE_BYTES / sizeof(*buf)); k++) {
			buf[k] = run->v;
		}
		for (uint32_t at = 0; at < run->npages; at += fill) {
			TRY(s->opts->place(s->opts->arg, run->page + at, buf,
					   MIN(run->npages - at, fill)));
		}
		atomic_fetch_add(&s->done_pages, run->npages);
	}
	return NULL;
}

static unsigned worker_count(const struct stretch *s)
{
	unsigned n = MIN(s->opts->workers, (unsigned)WORKERS_MAX);
	if (n == 0) {
		long online = sysconf(_SC_NPROCESSORS_ONLN);
		n = online < 1 ? 1 : (unsigned)MIN(online, (long)WORKERS_DEFAULT_MAX);
	}
	size_t batches = (s->runs.nframes + BATCH_FRAMES - 1) / BATCH_FRAMES;
	return (unsigned)MIN((size_t)n, MAX(batches, (size_t)1));
}

static struct err *stretch_run(struct stretch *s)
{
	unsigned n = worker_count(s);
	SCOPE(freep) struct worker *w = calloc(n, sizeof(*w));
	ENSURE(w != NULL, ERR_SYS, "out of memory");
	atomic_store(&s->next_frame, 0);
	sigset_t all;
	sigset_t old;
	sigfillset(&all); /* signals are for the caller's threads */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	unsigned started = 1;
	for (unsigned i = 0; i < n; i++) {
		w[i].s = s;
		w[i].reports = i == 0;
		/* A thread that cannot be had only makes it slower. */
		if (i > 0 && started == i &&
		    pthread_create(&w[i].thread, NULL, tread_main, &w[i]) == 0) {
			started++;
		}
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	struct err *e = place_values(s);
	if (e != NULL) {
		atomic_store(&s->stop, true);
	} else {
		worker_run(&w[0]);
	}
	for (unsigned i = 1; i < started; i++) {
		pthread_join(w[i].thread, NULL);
	}
	return err_first(e, MOVE(s->err));
}

static struct err *collect_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct stretch *s = arg;
	return mapruns_add(&s->runs, index, l);
}

static struct err *stretch_collect(struct stretch *s, uint64_t from, uint64_t to)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(s->f->env, false, &t));
	if (s->since != NULL) {
		const struct mapdiff d = {
			.f = s->f,
			.t = t,
			.was = s->since,
			.now = s->map,
			.from_leaf = from,
			.to_leaf = to,
			.also = s->opts->also,
			.arg = s->opts->arg,
		};
		TRY(mapdiff_run(&d, &s->runs));
		return mapruns_sort(&s->runs);
	}
	struct mapwalk w = {
		.f = s->f,
		.t = t,
		.from_leaf = from,
		.to_leaf = to,
		.leaf = collect_leaf,
		.arg = s,
	};
	TRY(mapwalk_run(&w, s->map));
	return mapruns_sort(&s->runs);
}

static struct err *read_stretches(struct stretch *s)
{
	uint64_t leaves = map_leaves(s->map->len_bytes);
	for (uint64_t from = 0; from < leaves; from += MAPRUNS_LEAVES) {
		uint64_t to = MIN(from + MAPRUNS_LEAVES, leaves);
		struct err *e = stretch_collect(s, from, to);
		if (e == NULL) {
			uint64_t pages = MIN(to * LEAF_PAGES, s->total_pages) - from * LEAF_PAGES;
			atomic_fetch_add(&s->done_pages, pages - MIN(pages, s->runs.npages));
			e = stretch_run(s);
		}
		mapruns_done(&s->runs);
		TRY(e);
	}
	if (s->opts->progress != NULL) {
		s->opts->progress(s->opts->arg, s->total_pages, s->total_pages);
	}
	return NULL;
}

/* Ids mean the same in both only within a family. */
static struct err *find_since(const struct reader *r, const struct snap_map *map,
			      const struct read_opts *opts, const struct snap_map **ret_since)
{
	if (opts->since == NULL) {
		return NULL;
	}
	BUG_ON(opts->zero == NULL);
	TRY(reader_find_map(opts->since, map->name, ret_since));
	ENSURE(memcmp(opts->since->f->uuid, r->f->uuid, sizeof(r->f->uuid)) == 0 &&
		       (*ret_since)->len_bytes == map->len_bytes,
	       ERR_USAGE, "map %s of snapshots %llu and %llu: of another family or length",
	       map->name, (unsigned long long)opts->since->rec.info.number,
	       (unsigned long long)r->rec.info.number);
	return NULL;
}

struct err *reader_map_read(struct reader *r, const char *name, const struct read_opts *opts)
{
	const struct snap_map *map;
	const struct snap_map *since = NULL;
	TRY(reader_find_map(r, name, &map));
	TRY(find_since(r, map, opts, &since));
	struct stretch s = {
		.f = r->f,
		.map = map,
		.since = since,
		.opts = opts,
		.total_pages = map->len_bytes / PAGE_BYTES + (map->len_bytes % PAGE_BYTES != 0),
	};
	lock_init(&s.lock, RANK_STORE);
	struct err *e = read_stretches(&s);
	lock_done(&s.lock);
	lenv_rest(r->f->env); /* a restored VM keeps its environment open */
	return err_wrap(e, "snapshot %llu", (unsigned long long)r->rec.info.number);
}

/* ---- one page ---- */

struct page_search {
	uint64_t index;
	struct page_ref ref;
};

static struct err *search_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct page_search *s = arg;
	if (index == s->index / LEAF_PAGES) {
		s->ref = l->ref[s->index % LEAF_PAGES];
	}
	return NULL;
}

static struct err *slot_read(struct family *f, struct ltxn *t, const struct page_ref *ref,
			     uint8_t ret_page[PAGE_BYTES])
{
	struct lplace at;
	TRY(frame_place(f, t, ref->frame, &at));
	SCOPE(freep) uint8_t *buf = malloc(FRAME_BYTES_MAX + FRAME_SUB_BYTES);
	SCOPE(freep) struct frame *fr = malloc(sizeof(*fr));
	ENSURE(buf != NULL && fr != NULL, ERR_SYS, "out of memory");
	TRY(frame_load(f, &at, ref->frame, buf, fr));
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	TRY(zcodec_new(0, &z));
	unsigned sub;
	unsigned page;
	TRY(frame_slot(fr, (unsigned)MIN(ref->v, (uint64_t)FRAME_SLOTS_MAX), &sub, &page));
	TRY(frame_sub(fr, sub, z, buf + FRAME_BYTES_MAX));
	memcpy(ret_page, buf + FRAME_BYTES_MAX + (size_t)page * PAGE_BYTES, PAGE_BYTES);
	return NULL;
}

struct err *reader_map_page(struct reader *r, const char *name, uint64_t index,
			    uint8_t ret_page[PAGE_BYTES])
{
	const struct snap_map *map;
	TRY(reader_find_map(r, name, &map));
	ENSURE(index < map->len_bytes / PAGE_BYTES + (map->len_bytes % PAGE_BYTES != 0), ERR_USAGE,
	       "map %s has no page 0x%llx", name, (unsigned long long)index);
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(r->f->env, false, &t));
	struct page_search s = { .index = index };
	struct mapwalk w = {
		.f = r->f,
		.t = t,
		.from_leaf = index / LEAF_PAGES,
		.to_leaf = index / LEAF_PAGES + 1,
		.leaf = search_leaf,
		.arg = &s,
	};
	TRY(mapwalk_run(&w, map));
	if (s.ref.frame != 0) {
		return err_wrap(slot_read(r->f, t, &s.ref, ret_page), "page 0x%llx of map %s",
				(unsigned long long)index, name);
	}
	for (size_t i = 0; i < PAGE_BYTES; i += 8) {
		put_le64(ret_page + i, s.ref.v);
	}
	return NULL;
}
