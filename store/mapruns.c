/* SPDX-License-Identifier: Apache-2.0 */
/* Runs of a map by frame. See mapruns.h; called by reader.c and verify.c. */
#include "store/mapruns.h"

#include <stdio.h>
#include <string.h>

void mapruns_done(struct mapruns *r)
{
	free(r->run);
	free(r->start);
	*r = (struct mapruns){ 0 };
}

static struct err *push(struct mapruns *r, const struct map_run *run)
{
	if (r->nruns == r->cap) {
		size_t cap = r->cap == 0 ? 1024 : r->cap * 2;
		struct map_run *p = realloc(r->run, cap * sizeof(*p));
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		r->run = p;
		r->cap = cap;
	}
	r->run[r->nruns++] = *run;
	return NULL;
}

/* Does the reference go on where the run ends? */
static bool continues(const struct map_run *run, const struct page_ref *ref)
{
	if (run->npages == 0 || ref->frame != run->frame) {
		return false;
	}
	return ref->frame == 0 ? ref->v == run->v : ref->v == run->v + run->npages;
}

static bool is_wanted(const struct page_ref *ref, const uint64_t *want, size_t i)
{
	return want != NULL ? (want[i / 64] >> (i % 64) & 1) != 0 : ref->frame != 0 || ref->v != 0;
}

/* want NULL: all but zero pages. */
static struct err *add(struct mapruns *r, uint64_t leaf_index, const struct leaf *l,
		       const uint64_t *want)
{
	struct map_run open = { 0 };
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		const struct page_ref *ref = &l->ref[i];
		bool wanted = is_wanted(ref, want, i);
		if (wanted && continues(&open, ref)) {
			open.npages++;
			continue;
		}
		if (open.npages > 0) {
			TRY(push(r, &open));
			r->npages += open.npages;
		}
		open = (struct map_run){ 0 };
		if (wanted) {
			open = (struct map_run){
				.frame = ref->frame,
				.v = ref->v,
				.page = leaf_index * LEAF_PAGES + i,
				.npages = 1,
			};
		}
	}
	if (open.npages > 0) {
		TRY(push(r, &open));
		r->npages += open.npages;
	}
	return NULL;
}

struct err *mapruns_add(struct mapruns *r, uint64_t leaf_index, const struct leaf *l)
{
	return add(r, leaf_index, l, NULL);
}

struct err *mapruns_add_some(struct mapruns *r, uint64_t leaf_index, const struct leaf *l,
			     const uint64_t want[LEAF_PAGES / 64])
{
	return add(r, leaf_index, l, want);
}

static int run_order(const void *pa, const void *pb)
{
	const struct map_run *a = pa;
	const struct map_run *b = pb;
	if (a->frame != b->frame) {
		return a->frame < b->frame ? -1 : 1;
	}
	if (a->frame != 0 && a->v != b->v) {
		return a->v < b->v ? -1 : 1;
	}
	return a->page < b->page ? -1 : a->page > b->page;
}

struct err *mapruns_sort(struct mapruns *r)
{
	if (r->nruns > 0) {
		qsort(r->run, r->nruns, sizeof(*r->run), run_order);
	}
	r->start = malloc((r->nruns + 1) * sizeof(*r->start));
	ENSURE(r->start != NULL, ERR_SYS, "out of memory");
	r->nvalues = 0;
	r->nframes = 0;
	for (size_t i = 0; i < r->nruns; i++) {
		if (r->run[i].frame == 0) {
			r->nvalues++;
		} else if (i == 0 || r->run[i - 1].frame != r->run[i].frame) {
			r->start[r->nframes++] = i;
		}
	}
	r->start[r->nframes] = r->nruns;
	return NULL;
}

void mapruns_text(const struct map_run *run, size_t n, const char *map, char *out, size_t cap)
{
	enum {
		SHOWN_MAX = 4,
	};
	size_t len = (size_t)snprintf(out, cap, "pages ");
	for (size_t i = 0; i < n && i < SHOWN_MAX && len < cap; i++) {
		unsigned long long first = run[i].page;
		unsigned long long last = first + run[i].npages - 1;
		const char *sep = i > 0 ? ", " : "";
		int k = first == last ? snprintf(out + len, cap - len, "%s0x%llx", sep, first)
				      : snprintf(out + len, cap - len, "%s0x%llx-0x%llx", sep,
						 first, last);
		len += (size_t)k;
	}
	if (n > SHOWN_MAX && len < cap) {
		len += (size_t)snprintf(out + len, cap - len, " and %zu more runs", n - SHOWN_MAX);
	}
	if (len < cap) {
		snprintf(out + len, cap - len, " of map %s", map);
	}
}

struct err *frame_place(struct family *f, struct ltxn *t, uint64_t id, struct lplace *ret_place)
{
	(void)f;
	struct key8 key = key_of_id(id);
	bool found;
	TRY(ltxn_where(t, FAMILY_FRAME, KEY_BYTES(key), ret_place, &found));
	ENSURE(found, ERR_CORRUPT, "frame %llu is missing", (unsigned long long)id);
	return NULL;
}

struct err *frame_load(struct family *f, const struct lplace *at, uint64_t id, uint8_t *buf,
		       struct frame *ret_frame)
{
	ENSURE(at->len <= FRAME_BYTES_MAX, ERR_CORRUPT, "frame %llu: %zu bytes long, at most %u",
	       (unsigned long long)id, at->len, FRAME_BYTES_MAX);
	TRY(err_wrap(lenv_pread(f->env, buf, at->len, at->off), "frame %llu",
		     (unsigned long long)id));
	return frame_parse(buf, at->len, f->uuid, id, ret_frame);
}

struct err *frame_load_head(struct family *f, const struct lplace *at, uint64_t id, uint8_t *buf,
			    struct frame *ret_frame)
{
	ENSURE(at->len >= FRAME_HEAD_BYTES && at->len <= FRAME_BYTES_MAX, ERR_CORRUPT,
	       "frame %llu: %zu bytes long, %u to %u are possible", (unsigned long long)id, at->len,
	       FRAME_HEAD_BYTES, FRAME_BYTES_MAX);
	/* One page holds the front of a frame of up to 200 slots. */
	size_t have = MIN(at->len, (size_t)PAGE_BYTES);
	TRY(err_wrap(lenv_pread(f->env, buf, have, at->off), "frame %llu", (unsigned long long)id));
	size_t front = MIN(frame_front_bytes(buf), at->len);
	if (front > have) {
		TRY(err_wrap(lenv_pread(f->env, buf + have, front - have, at->off + have),
			     "frame %llu", (unsigned long long)id));
	}
	return frame_parse(buf, at->len, f->uuid, id, ret_frame);
}
