/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory between memfd and store. See pages.h. pages_save runs on the thread of the take,
 * place_pages on the reader's threads for disjoint ranges.
 *
 * Holes of the memfd are never read: a read through a shared mapping would allocate them, so a take
 * would grow the VM it saves.
 */
#include "snapshot/pages.h"

#include <errno.h>
#include <unistd.h>

enum { CHUNK_BYTES = 2 * 1024 * 1024 }; /* what one leaf of a map covers */

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

struct save_state {
	struct session *session;
	const bool *cancel;
	const struct snap_progress *progress;
	uint64_t done; /* bytes of RAM behind us, touched or not */
	uint64_t total;
};

static struct err *save_region(struct save_state *st, const struct gmem_region *r)
{
	uint64_t off = 0;
	while (off < r->len_bytes) {
		uint64_t from, len;
		TRY(next_extent(r, off, &from, &len));
		uint64_t end = from + len;
		for (uint64_t at = from; at < end;) {
			TRY(pages_check_cancel(st->cancel));
			/* Chunks end where leaves do, counted in guest addresses. */
			uint64_t gpa = r->base.v + at;
			uint64_t n = MIN(end - at, CHUNK_BYTES - gpa % CHUNK_BYTES);
			TRY(session_map_pages(st->session, gpa / PAGE_BYTES, r->host + at,
					      n / PAGE_BYTES));
			at += n;
			report(st->progress, "memory", st->done + at, st->total);
		}
		off = end;
	}
	st->done += r->len_bytes;
	return NULL;
}

struct err *pages_save(struct session *s, const struct gmem *g, const bool *cancel,
		       const struct snap_progress *progress)
{
	struct save_state st = {
		.session = s,
		.cancel = cancel,
		.progress = progress,
		.total = gmem_bytes(g),
	};
	for (unsigned i = 0; i < gmem_nregions(g); i++) {
		struct gmem_region r = gmem_region(g, i);
		TRY(err_wrap(save_region(&st, &r), "memory region %u", i));
	}
	report(progress, "memory", st.total, st.total);
	return NULL;
}

struct load_state {
	struct gmem *gmem;
	const struct snap_progress *progress;
};

static struct err *place_pages(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct load_state *st = arg;
	for (unsigned i = 0; i < gmem_nregions(st->gmem); i++) {
		struct gmem_region r = gmem_region(st->gmem, i);
		uint64_t first = r.base.v / PAGE_BYTES;
		uint64_t count = r.len_bytes / PAGE_BYTES;
		if (index >= first && index - first < count && npages <= count - (index - first)) {
			return gmem_place(st->gmem, (gfn_t){ index }, pages, npages);
		}
	}
	return ERR(ERR_CORRUPT, "memory map has %llu pages at gfn 0x%llx, where there is no RAM",
		   (unsigned long long)npages, (unsigned long long)index);
}

static void load_progress(void *arg, uint64_t done, uint64_t total)
{
	struct load_state *st = arg;
	report(st->progress, "memory", done * PAGE_BYTES, total * PAGE_BYTES);
}

struct err *pages_load(struct reader *r, struct gmem *g, const struct snap_progress *progress)
{
	struct load_state st = { .gmem = g, .progress = progress };
	struct read_opts opts = {
		.place = place_pages,
		.progress = load_progress,
		.arg = &st,
	};
	return err_wrap(reader_map_read(r, "memory", &opts), "guest memory");
}
