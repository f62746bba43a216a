/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory between memfd and store. See pages.h. pages_save runs on the thread of the take,
 * place_pages on the reader's threads for disjoint ranges.
 *
 * Holes of the memfd are never read: a read through a shared mapping would allocate them, so a take
 * would grow the VM it saves. Memory that shares another's file has no holes to tell by.
 */
#include "snapshot/pages.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum {
	CHUNK_BYTES = 2 * 1024 * 1024, /* what one leaf of a map covers */
	/*
	 * Cleared at once in the dirty log. Each call flushes the TLBs of a running guest, whatever
	 * its size; less than this costs more flushes, more lets pages wait longer for their copy.
	 */
	STEP_PAGES = 4096,
	BITS_PER_WORD = 64,
};

struct err *pages_check_cancel(const bool *cancel)
{
	/* Pairs with the store of whoever cancels; nothing else is published by the flag. */
	ENSURE(cancel == NULL || !__atomic_load_n(cancel, __ATOMIC_RELAXED), ERR_CANCELLED,
	       "the take was cancelled");
	return NULL;
}

static void report(const struct snap_progress *p, const char *step, uint64_t done, uint64_t total)
{
	if (p->fn != NULL) {
		p->fn(p->arg, step, done, total);
	}
}

/*
 * Next run of touched bytes of the region at or after offset `off`, within the region. len 0: none.
 * A file system that knows no holes gives everything as one run.
 */
static struct err *next_extent(const struct gmem_region *r, uint64_t off, uint64_t *ret_off,
			       uint64_t *ret_len)
{
	off_t base = (off_t)r->fd_offset;
	*ret_len = 0;
	*ret_off = r->len_bytes;
	if (r->fd < 0) { /* a clone's: parts of it are in no file */
		*ret_off = off;
		*ret_len = r->len_bytes - off;
		return NULL;
	}
	off_t data = lseek(r->fd, base + (off_t)off, SEEK_DATA);
	if (data < 0 && errno == ENXIO) {
		return NULL;
	}
	if (data < 0 && errno == EINVAL) {
		*ret_off = off;
		*ret_len = r->len_bytes - off;
		return NULL;
	}
	if (data < 0) {
		return ERR_ERRNO("looking for touched guest memory");
	}
	off_t hole = lseek(r->fd, data, SEEK_HOLE);
	if (hole < 0) {
		return ERR_ERRNO("looking for untouched guest memory");
	}
	uint64_t from = MAX((uint64_t)(data - base) / PAGE_BYTES * PAGE_BYTES, off);
	uint64_t to = MIN(round_up_u64((uint64_t)(hole - base), PAGE_BYTES), r->len_bytes);
	if (from < to) {
		*ret_off = from;
		*ret_len = to - from;
	}
	return NULL;
}

/* ---- sets ---- */

struct err *pages_set_init(struct pages_set *set, const struct gmem *g)
{
	*set = (struct pages_set){ .n = gmem_nregions(g) };
	for (unsigned i = 0; i < set->n; i++) {
		uint64_t pages = gmem_region(g, i).len_bytes / PAGE_BYTES;
		set->r[i].words = (pages + BITS_PER_WORD - 1) / BITS_PER_WORD;
		set->r[i].bits = malloc(set->r[i].words * sizeof(uint64_t));
		ENSURE(set->r[i].bits != NULL, ERR_SYS, "out of memory");
	}
	pages_set_clear(set);
	return NULL;
}

void pages_set_done(struct pages_set *set)
{
	for (unsigned i = 0; i < set->n; i++) {
		free(set->r[i].bits);
	}
	*set = (struct pages_set){ .n = 0 };
}

void pages_set_clear(struct pages_set *set)
{
	for (unsigned i = 0; i < set->n; i++) {
		memset(set->r[i].bits, 0, set->r[i].words * sizeof(uint64_t));
	}
}

void pages_set_fill(struct pages_set *set)
{
	for (unsigned i = 0; i < set->n; i++) {
		memset(set->r[i].bits, 0xff, set->r[i].words * sizeof(uint64_t));
	}
}

uint64_t pages_set_count(const struct pages_set *set)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < set->n; i++) {
		for (uint64_t w = 0; w < set->r[i].words; w++) {
			n += (uint64_t)__builtin_popcountll(set->r[i].bits[w]);
		}
	}
	return n;
}

struct err *pages_fetch(const struct snap_vm *vm, struct pages_set *set)
{
	for (unsigned i = 0; i < set->n; i++) {
		TRY(vm->dirty->fetch(vm->dirty_self, i, set->r[i].bits));
	}
	return NULL;
}

/* ---- out of memory into a session ---- */

struct save_state {
	struct session *session;
	const struct snap_vm *vm;
	const struct pages_set *set; /* NULL: changes are not known */
	bool touched;                /* all that was ever touched, whatever the set says */
	const struct snap_take_opts *opts;
	uint64_t done; /* bytes behind us: of RAM, touched or not, or of the set */
	uint64_t total;
};

/* Queues [from, end) of the region, in chunks that end where leaves do, counted in guest addresses.
 * zero: the pages were given back to the host, and reading them would bring them back. */
static struct err *queue_run(struct save_state *st, const struct gmem_region *r, uint64_t from,
			     uint64_t end, bool zero)
{
	static const uint8_t zeros[CHUNK_BYTES];
	for (uint64_t at = from; at < end;) {
		TRY(pages_check_cancel(st->opts->cancel));
		uint64_t gpa = r->base.v + at;
		uint64_t n = MIN(end - at, CHUNK_BYTES - gpa % CHUNK_BYTES);
		TRY(session_map_pages(st->session, gpa / PAGE_BYTES, zero ? zeros : r->host + at,
				      n / PAGE_BYTES));
		at += n;
		st->done += st->touched ? 0 : n;
		report(&st->opts->progress, "memory", st->touched ? st->done + at : st->done,
		       st->total);
	}
	return NULL;
}

static struct err *save_touched(struct save_state *st, const struct gmem_region *r, uint64_t off,
				uint64_t end)
{
	while (off < end) {
		uint64_t from, len;
		TRY(next_extent(r, off, &from, &len));
		uint64_t to = MIN(from + len, end);
		if (from < to) {
			TRY(queue_run(st, r, from, to, false));
		}
		off = MAX(from + len, off + 1);
	}
	return NULL;
}

static bool in_set(const uint64_t *bits, uint64_t page)
{
	return (bits[page / BITS_PER_WORD] >> (page % BITS_PER_WORD) & 1) != 0;
}

static struct err *save_set(struct save_state *st, unsigned region, const struct gmem_region *r,
			    const uint64_t *bits, uint64_t first, uint64_t end)
{
	const struct gmem *g = st->vm->gmem;
	for (uint64_t p = first; p < end;) {
		if (p % BITS_PER_WORD == 0 && bits[p / BITS_PER_WORD] == 0) {
			p += BITS_PER_WORD;
			continue;
		}
		if (!in_set(bits, p)) {
			p++;
			continue;
		}
		bool zero = gmem_is_given(g, region, p);
		uint64_t n = 1;
		while (p + n < end && in_set(bits, p + n) &&
		       gmem_is_given(g, region, p + n) == zero) {
			n++;
		}
		TRY(queue_run(st, r, p * PAGE_BYTES, (p + n) * PAGE_BYTES, zero));
		p += n;
	}
	return NULL;
}

static bool any_set(const uint64_t *bits, uint64_t first, uint64_t npages)
{
	for (uint64_t p = first; p < first + npages; p += BITS_PER_WORD) {
		if (bits[p / BITS_PER_WORD] != 0) {
			return true;
		}
	}
	return false;
}

/* One step: first the log is cleared, then the pages are read, so that no write falls in between.
 */
static struct err *save_step(struct save_state *st, unsigned region, const struct gmem_region *r,
			     uint64_t first, uint64_t npages)
{
	if (st->set != NULL) {
		const uint64_t *bits = st->set->r[region].bits;
		if (!any_set(bits, first, npages)) {
			return NULL;
		}
		TRY(st->vm->dirty->clear(st->vm->dirty_self, region, first, npages, bits));
		if (!st->touched) {
			return save_set(st, region, r, bits, first, first + npages);
		}
	}
	return save_touched(st, r, first * PAGE_BYTES, (first + npages) * PAGE_BYTES);
}

struct err *pages_save(struct session *s, const struct snap_vm *vm, const struct pages_set *set,
		       bool touched, const struct snap_take_opts *opts)
{
	struct save_state st = {
		.session = s,
		.vm = vm,
		.set = set,
		.touched = touched || set == NULL,
		.opts = opts,
	};
	st.total = st.touched ? gmem_bytes(vm->gmem) : pages_set_count(set) * PAGE_BYTES;
	for (unsigned i = 0; i < gmem_nregions(vm->gmem); i++) {
		struct gmem_region r = gmem_region(vm->gmem, i);
		uint64_t pages = r.len_bytes / PAGE_BYTES;
		for (uint64_t at = 0; at < pages; at += STEP_PAGES) {
			TRY(err_wrap(
				save_step(&st, i, &r, at, MIN(pages - at, (uint64_t)STEP_PAGES)),
				"memory region %u", i));
		}
		st.done += st.touched ? r.len_bytes : 0;
	}
	report(&opts->progress, "memory", st.total, st.total);
	return NULL;
}

struct load_state {
	struct gmem *gmem; /* NULL: pages are only counted */
	const struct snap_progress *progress;
	const struct gmem *layout;
	const struct pages_set *changed;
	atomic_ullong written;
};

/* The region that holds all of the pages; GMEM_REGIONS_MAX: none. */
static unsigned region_of(const struct gmem *g, uint64_t index, uint64_t npages)
{
	for (unsigned i = 0; i < gmem_nregions(g); i++) {
		struct gmem_region r = gmem_region(g, i);
		uint64_t first = r.base.v / PAGE_BYTES;
		uint64_t count = r.len_bytes / PAGE_BYTES;
		if (index >= first && index - first < count && npages <= count - (index - first)) {
			return i;
		}
	}
	return GMEM_REGIONS_MAX;
}

/* pages NULL: zeros. */
static struct err *place(struct load_state *st, uint64_t index, const void *pages, uint64_t npages)
{
	ENSURE(region_of(st->layout, index, npages) != GMEM_REGIONS_MAX, ERR_CORRUPT,
	       "memory map has %llu pages at gfn 0x%llx, where there is no RAM",
	       (unsigned long long)npages, (unsigned long long)index);
	atomic_fetch_add(&st->written, npages);
	if (st->gmem == NULL) {
		return NULL;
	}
	return pages != NULL ? gmem_place(st->gmem, (gfn_t){ index }, pages, npages)
			     : gmem_place_zero(st->gmem, (gfn_t){ index }, npages);
}

static struct err *place_pages(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	return place(arg, index, pages, npages);
}

static struct err *place_zeros(void *arg, uint64_t index, uint64_t npages)
{
	return place(arg, index, NULL, npages);
}

/* Regions begin at multiples of 64 pages; bits behind their end mean nothing. */
static uint64_t changed_pages(void *arg, uint64_t index)
{
	const struct load_state *st = arg;
	unsigned i = region_of(st->layout, index, 1);
	if (st->changed == NULL || i == GMEM_REGIONS_MAX) {
		return 0;
	}
	struct gmem_region r = gmem_region(st->layout, i);
	uint64_t at = index - r.base.v / PAGE_BYTES;
	uint64_t left = r.len_bytes / PAGE_BYTES - at;
	uint64_t bits = st->changed->r[i].bits[at / BITS_PER_WORD];
	return left < BITS_PER_WORD ? bits & ((1ull << left) - 1) : bits;
}

static void load_progress(void *arg, uint64_t done, uint64_t total)
{
	struct load_state *st = arg;
	report(st->progress, "memory", done * PAGE_BYTES, total * PAGE_BYTES);
}

struct err *pages_load(struct reader *r, struct gmem *g, const struct snap_progress *progress)
{
	struct load_state st = { .gmem = g, .layout = g, .progress = progress };
	struct read_opts opts = {
		.place = place_pages,
		.progress = load_progress,
		.arg = &st,
	};
	return err_wrap(reader_map_read(r, "memory", &opts), "guest memory");
}

struct err *pages_load_diff(struct reader *r, struct gmem *g, bool only_check,
			    const struct pages_present *present,
			    const struct snap_progress *progress, uint64_t *ret_written)
{
	struct load_state st = {
		.gmem = only_check ? NULL : g,
		.layout = g,
		.changed = present->changed,
		.progress = progress,
	};
	struct read_opts opts = {
		.place = place_pages,
		.progress = load_progress,
		.since = present->reader,
		.zero = place_zeros,
		.also = changed_pages,
		.arg = &st,
	};
	struct err *e = reader_map_read(r, "memory", &opts);
	*ret_written = atomic_load(&st.written);
	return err_wrap(e, "guest memory");
}
