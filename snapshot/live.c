/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-copy. See live.h; docs/decisions/0013-running-takes.md has the reasons.
 *
 * A page costs some 16 us to compress and under one to copy. So as soon as the pages of a round fit
 * into half of the buffer they are copied there instead, which leaves the guest little time to
 * change others, and the stop follows at once.
 *
 * I1: a page is cleared in the log before it is read: a write that its copy lacks sets its bit
 * again. I2: of a page that is in the buffer more than once the last copy counts.
 */
#include "snapshot/live.h"

#include <string.h>
#include <sys/mman.h>

#include "core/base/clock.h"

enum {
	BUFFER_PAGES = 4096, /* 16 MiB; copied in some 3 ms */
	FEW_PAGES = 64,      /* so few are left to the pause */
	COMPRESS_ROUNDS = 6,
	COPY_ROUNDS = 4,
	BITS_PER_WORD = 64,
};
_Static_assert(COMPRESS_ROUNDS + COPY_ROUNDS + 1 <= SNAP_ROUNDS_MAX, "all rounds are told of");

struct copied {
	uint64_t gfn;
	uint32_t at; /* place in the buffer; later ones are newer */
};

struct live {
	const struct snap_vm *vm;
	struct session *session;
	struct pages_set *set;
	bool touched;
	const struct snap_take_opts *opts;
	uint8_t *buf;          /* owned, mapped; MAP_FAILED: none */
	struct copied *copied; /* owned */
	uint32_t n;
	uint32_t cap;
};

struct err *live_new(const struct snap_vm *vm, struct session *s, struct pages_set *set,
		     bool touched, const struct snap_take_opts *opts, struct live **ret_live)
{
	SCOPE(live_freep) struct live *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	*l = (struct live){
		.vm = vm,
		.session = s,
		.set = set,
		.touched = touched,
		.opts = opts,
		.cap = (uint32_t)MIN(gmem_bytes(vm->gmem) / PAGE_BYTES, (uint64_t)BUFFER_PAGES),
	};
	l->copied = malloc(l->cap * sizeof(*l->copied));
	l->buf = mmap(NULL, (size_t)l->cap * PAGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ENSURE(l->copied != NULL && l->buf != MAP_FAILED, ERR_SYS,
	       "no memory for the last pages of a running guest");
	memset(l->copied, 0, l->cap * sizeof(*l->copied)); /* touched */
	*ret_live = MOVE(l);
	return NULL;
}

void live_free(struct live *l)
{
	if (l == NULL) {
		return;
	}
	if (l->buf != MAP_FAILED) {
		munmap(l->buf, (size_t)l->cap * PAGE_BYTES);
	}
	free(l->copied);
	free(l);
}

/* Clears and copies one word's pages, which the caller knows to fit. */
static void copy_word(struct live *l, unsigned region, const struct gmem_region *r, uint64_t first,
		      uint64_t word)
{
	while (word != 0) {
		uint64_t page = first + (uint64_t)__builtin_ctzll(word);
		word &= word - 1;
		uint8_t *to = l->buf + (size_t)l->n * PAGE_BYTES;
		if (gmem_is_given(l->vm->gmem, region, page)) {
			memset(to, 0, PAGE_BYTES); /* reading it would bring it back */
		} else {
			memcpy(to, r->host + page * PAGE_BYTES, PAGE_BYTES);
		}
		l->copied[l->n] = (struct copied){
			.gfn = r->base.v / PAGE_BYTES + page,
			.at = l->n,
		};
		l->n++;
	}
}

/* Moves the whole set into the buffer, where it fits. */
static struct err *copy_set(struct live *l)
{
	for (unsigned i = 0; i < l->set->n; i++) {
		struct gmem_region r = gmem_region(l->vm->gmem, i);
		const uint64_t *bits = l->set->r[i].bits;
		uint64_t first = 0;
		uint64_t end = l->set->r[i].words;
		while (end > first && bits[end - 1] == 0) {
			end--;
		}
		while (first < end && bits[first] == 0) {
			first++;
		}
		if (first == end) {
			continue;
		}
		uint64_t page = first * BITS_PER_WORD;
		uint64_t stop = MIN(end * BITS_PER_WORD, r.len_bytes / PAGE_BYTES);
		/* One call: each costs a running guest a flush, whatever its length. */
		TRY(l->vm->dirty->clear(l->vm->dirty_self, i, page, stop - page, bits));
		for (uint64_t w = first; w < end; w++) {
			copy_word(l, i, &r, w * BITS_PER_WORD, bits[w]);
		}
	}
	pages_set_clear(l->set);
	return NULL;
}

static void note_round(struct snap_result *res, uint64_t pages)
{
	if (res->rounds < SNAP_ROUNDS_MAX) {
		res->round_pages[res->rounds++] = pages;
	}
}

/* To the compressors, for as long as the buffer is too small. */
static struct err *compress_rounds(struct live *l, struct snap_result *res, uint64_t *ret_left)
{
	uint64_t n = pages_set_count(l->set);
	for (unsigned i = 0; i < COMPRESS_ROUNDS && (l->touched || n > l->cap / 2); i++) {
		uint64_t before = n;
		TRY(pages_save(l->session, l->vm, l->set, l->touched, l->opts));
		TRY(session_map_round(l->session));
		note_round(res, n);
		bool first = l->touched;
		l->touched = false;
		pages_set_clear(l->set);
		TRY(pages_fetch(l->vm, l->set));
		n = pages_set_count(l->set);
		if (!first && n > before / 4 * 3) {
			break; /* the guest writes as fast as that */
		}
	}
	*ret_left = n;
	return NULL;
}

struct err *live_rounds(struct live *l, struct snap_result *res)
{
	uint64_t n = 0;
	TRY(compress_rounds(l, res, &n));
	for (unsigned i = 0; i < COPY_ROUNDS && n > FEW_PAGES && n <= (l->cap - l->n) / 2; i++) {
		uint64_t before = n;
		TRY(pages_check_cancel(l->opts->cancel));
		TRY(copy_set(l));
		note_round(res, n);
		TRY(pages_fetch(l->vm, l->set));
		n = pages_set_count(l->set);
		if (n > before / 4 * 3) {
			break;
		}
	}
	return pages_check_cancel(l->opts->cancel);
}

struct err *live_last(struct live *l, struct snap_result *res, bool *ret_fits)
{
	uint64_t t0 = clock_mono_ns();
	TRY(pages_fetch(l->vm, l->set));
	uint64_t n = pages_set_count(l->set);
	uint64_t t1 = clock_mono_ns();
	res->pause.dirty_us = (t1 - t0) / 1000;
	res->pause.pages = n;
	*ret_fits = n <= l->cap - l->n;
	if (*ret_fits) {
		TRY(copy_set(l));
		res->pause.copy_us = (clock_mono_ns() - t1) / 1000;
	}
	return NULL;
}

static int copied_order(const void *pa, const void *pb)
{
	const struct copied *a = pa;
	const struct copied *b = pb;
	if (a->gfn != b->gfn) {
		return a->gfn < b->gfn ? -1 : 1;
	}
	return a->at < b->at ? -1 : a->at > b->at;
}

struct err *live_give(struct live *l)
{
	if (l->n > 0) {
		qsort(l->copied, l->n, sizeof(*l->copied), copied_order);
	}
	for (uint32_t i = 0; i < l->n; i++) {
		const struct copied *c = &l->copied[i];
		if (i + 1 == l->n || c[1].gfn != c->gfn) { /* I2 */
			TRY(session_map_pages(l->session, c->gfn,
					      l->buf + (size_t)c->at * PAGE_BYTES, 1));
		}
	}
	l->n = 0;
	return session_map_round(l->session);
}
