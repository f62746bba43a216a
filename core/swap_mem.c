/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that may be out. See swap_mem.h; docs/decisions/0017-swap.md has the reasons, and
 * swap_page.pml is the model of what happens to one page.
 *
 * I1: `hot` is set, under the lock, before the page it belongs to is mapped or given back, and
 * cleared under the lock before it is unmapped. So a page that is not hot has not been touched
 * since the last unmapping. I2: a bit of `out` is set under the lock, of a page that is not hot and
 * whose bytes `cur` has; it is cleared under the lock when the page is placed or given back. I3:
 * `gen` counts what was committed: who read the store without the lock looks whether it is still
 * the same. I4: holes are made and filled under the lock only, but by gmem's first touch while
 * nothing is served.
 */
#include "core/swap_mem.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/lock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/jail.h"
#include "core/latency.h"
#include "core/uffd.h"

enum {
	BITS = 64,
	PIECE = STORE_PIECE_PAGES,
	UNMAP_PAGES = 512,  /* at once: a page table's */
	COMMIT_PAGES = 128, /* at once under the lock: a fault waits for so many holes at most */
	FAULTS_PER_READ = 16,
	AHEAD_PIECES = 3, /* brought back along when pieces are touched in order */
	IDLE_NS = 200000, /* how long writing stands back for faults before it looks again */
	IDLE_TRIES = 10,
	STAND_PAGES = 256,    /* between two such looks */
	READING_NS = 1000000, /* between looks whether the server is done with an old map */
};

/* A map of the store, with the server's reader of it. */
struct source {
	struct swap_map *map;
	struct swap_reader *reader; /* the server's, while it is in `reading` */
};

struct swap_mem {
	struct gmem *gmem;
	struct fd uffd;
	struct fd bell; /* eventfd: tells the server to look at stop */
	void (*on_stuck)(void *arg, const char *text);
	void *arg;
	uint8_t *base; /* of all memory, which is one mapping */
	uint64_t npages;

	struct lock lock;   /* RANK_PLACE */
	bool served;        /* [lock] the memory is registered */
	uint64_t gen;       /* [lock] I3 */
	struct source *cur; /* [lock] owned; NULL: none */
	struct source
		*reading; /* [lock] by the server, without the lock: it stays until that is done */
	_Atomic uint64_t *hot; /* written under the lock */
	_Atomic uint64_t *out; /* written under the lock */
	atomic_uint_least64_t nhot;
	atomic_uint_least64_t nout;

	pthread_t server;
	bool have_server;  /* the worker's */
	atomic_bool begun; /* written by the worker */
	atomic_bool stop;
	atomic_bool busy; /* the server has faults in hand */
	atomic_bool stuck;
	/* Of the server: */
	uint64_t last_piece; /* first page of the piece served last */

	atomic_uint_least64_t from_store;
	atomic_uint_least64_t from_staging;
	atomic_uint_least64_t zeroed;
	atomic_uint_least64_t redundant;
	atomic_uint_least64_t faults;
	struct latency took;
};

/* ---- bits ---- */

static bool has(const _Atomic uint64_t *bits, uint64_t page)
{
	return (atomic_load(&bits[page / BITS]) >> (page % BITS) & 1) != 0;
}

static void put(_Atomic uint64_t *bits, atomic_uint_least64_t *count, uint64_t page, uint64_t n,
		bool set)
{
	for (uint64_t end = page + n; page < end; page++) {
		uint64_t bit = 1ull << (page % BITS);
		bool was = set ? (atomic_fetch_or(&bits[page / BITS], bit) & bit) != 0
			       : (atomic_fetch_and(&bits[page / BITS], ~bit) & bit) != 0;
		if (was != set) {
			atomic_fetch_add(count, set ? 1 : UINT64_MAX);
		}
	}
}

static void set_hot(struct swap_mem *m, uint64_t page, uint64_t n, bool hot)
{
	lock_assert_held(&m->lock);
	put(m->hot, &m->nhot, page, n, hot);
}

static void set_out(struct swap_mem *m, uint64_t page, uint64_t n, bool out)
{
	lock_assert_held(&m->lock);
	put(m->out, &m->nout, page, n, out);
}

static struct err *check_cancel(const bool *cancel)
{
	ENSURE(cancel == NULL || !__atomic_load_n(cancel, __ATOMIC_RELAXED), ERR_CANCELLED,
	       "it was given up");
	return NULL;
}

static void pause_ns(long ns)
{
	struct timespec ts = { .tv_nsec = ns };
	nanosleep(&ts, NULL);
}

static uint8_t *host_of(const struct swap_mem *m, uint64_t page)
{
	return m->base + page * PAGE_BYTES;
}

/* ---- bringing back ---- */

/* Maps what the file holds of [page, page + n). Must hold the lock. */
static struct err *map_staged(struct swap_mem *m, uint64_t page, uint64_t n)
{
	for (uint64_t end = page + n; page < end;) {
		uint64_t mapped;
		TRY(uffd_continue(m->uffd.n, host_of(m, page), (end - page) * PAGE_BYTES, &mapped));
		mapped /= PAGE_BYTES;
		set_hot(m, page, mapped, true); /* nobody looks at it without the lock */
		atomic_fetch_add(&m->from_staging, mapped);
		page += mapped;
		page += page < end; /* the one that it stopped at: mapped already, or a hole */
	}
	return NULL;
}

/* Places bytes at those of [page, page + n) that are out. Must hold the lock. */
static struct err *place_out(struct swap_mem *m, uint64_t page, uint64_t n, const uint8_t *bytes,
			     uint64_t *ret_placed)
{
	for (uint64_t at = 0; at < n;) {
		if (!has(m->out, page + at)) {
			at++;
			continue;
		}
		uint64_t run = 1;
		while (at + run < n && has(m->out, page + at + run)) {
			run++;
		}
		uint64_t placed;
		set_hot(m, page + at, run, true);
		TRY(uffd_copy(m->uffd.n, host_of(m, page + at), bytes + at * PAGE_BYTES,
			      run * PAGE_BYTES, &placed));
		set_out(m, page + at, run, false);
		*ret_placed += placed;
		at += run;
	}
	return NULL;
}

/* Places zeros from the page on; more of them when the guest goes through memory in order. */
static struct err *place_zeros(struct swap_mem *m, uint64_t page, uint64_t end)
{
	static const uint8_t zeros[PIECE * PAGE_BYTES];
	uint64_t n = 1;
	uint64_t placed;
	while (page + n < end && !has(m->out, page + n)) {
		n++;
	}
	set_hot(m, page, n, true);
	TRY(uffd_copy(m->uffd.n, host_of(m, page), zeros, n * PAGE_BYTES, &placed));
	atomic_fetch_add(&m->zeroed, placed);
	return NULL;
}

/* The piece from the store, read without the lock (I3). *ret_done false: something else was
 * committed meanwhile. */
static struct err *serve_out(struct swap_mem *m, uint64_t first, uint64_t n, bool *ret_done)
{
	lock_take(&m->lock);
	struct source *src = m->reading = m->cur;
	uint64_t gen = m->gen;
	lock_drop(&m->lock);
	struct piece piece;
	uint64_t placed = 0;
	gfn_t gfn = gmem_gfn_at(m->gmem, first);
	struct err *e = src != NULL ? swap_reader_piece(src->reader, src->map, gfn, &piece) : NULL;
	if (e == NULL && src != NULL && (piece.first != gfn.v || piece.npages < n)) {
		e = ERR(ERR_CORRUPT, "the store gave another page");
	}
	LOCK_SCOPE(&m->lock);
	m->reading = NULL;
	TRY(e);
	*ret_done = src == NULL || m->gen == gen;
	if (m->served && src != NULL && *ret_done) {
		TRY(place_out(m, first, n, piece.pages, &placed));
	}
	atomic_fetch_add(&m->from_store, placed);
	return NULL;
}

static bool any_out(const struct swap_mem *m, uint64_t page, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		if (has(m->out, page + i)) {
			return true;
		}
	}
	return false;
}

/* Of a piece: what is staged (also if nobody waits for that), and what is out. */
static struct err *serve_piece(struct swap_mem *m, uint64_t first, bool staged)
{
	uint64_t n = MIN((uint64_t)PIECE, m->npages - first);
	if (staged) {
		LOCK_SCOPE(&m->lock);
		TRY(m->served ? map_staged(m, first, n) : NULL);
	}
	for (bool done = false; !done && any_out(m, first, n);) {
		TRY(serve_out(m, first, n, &done));
	}
	return NULL;
}

/* A hole that is not out is zero. More of them when the guest goes through memory in order. */
static struct err *serve_zero(struct swap_mem *m, uint64_t page, bool in_order)
{
	LOCK_SCOPE(&m->lock);
	if (!m->served || has(m->out, page)) {
		return NULL; /* it has just been taken out: who waits asks again */
	}
	uint64_t end = MIN((page / PIECE + 1) * PIECE, m->npages);
	return place_zeros(m, page, in_order ? end : page + 1);
}

static uint64_t brought(const struct swap_mem *m)
{
	return atomic_load(&m->from_store) + atomic_load(&m->from_staging) +
	       atomic_load(&m->zeroed);
}

static struct err *serve(struct swap_mem *m, uint64_t page, bool minor)
{
	uint64_t first = page / PIECE * PIECE;
	bool next = first == m->last_piece + PIECE;
	uint64_t before = brought(m);
	if (minor || has(m->out, page)) {
		TRY(serve_piece(m, first, minor));
	} else {
		TRY(serve_zero(m, page, next || first == m->last_piece));
	}
	/* Given back, or placed by somebody else meanwhile: who waits asks again. */
	TRY(uffd_wake(m->uffd.n, host_of(m, page), PAGE_BYTES));
	atomic_fetch_add(&m->redundant, brought(m) == before);
	m->last_piece = first;
	for (unsigned i = 0; next && i < AHEAD_PIECES && first + PIECE < m->npages; i++) {
		first += PIECE;
		TRY(serve_piece(m, first, true));
		m->last_piece = first;
	}
	return NULL;
}

/* ---- the server ---- */

static void on_fault(struct swap_mem *m, const struct uffd_fault *f, uint64_t since_ns)
{
	uint64_t page = (f->addr - (uint64_t)(uintptr_t)m->base) / PAGE_BYTES;
	atomic_fetch_add(&m->faults, 1);
	struct err *e = err_wrap(serve(m, page, f->minor), "guest memory at 0x%llx",
				 (unsigned long long)gmem_gfn_at(m->gmem, page).v * PAGE_BYTES);
	if (e == NULL) {
		latency_add(&m->took, clock_mono_ns() - since_ns);
	} else if (!atomic_exchange(&m->stuck, true)) {
		m->on_stuck(m->arg, err_msg(e));
	}
	err_free(e);
}

static struct err *server_loop(struct swap_mem *m)
{
	struct pollfd fds[] = {
		{ .fd = m->uffd.n, .events = POLLIN },
		{ .fd = m->bell.n, .events = POLLIN },
	};
	while (!atomic_load(&m->stop)) {
		if (poll(fds, ARRAY_LEN(fds), -1) < 0) {
			continue; /* EINTR: nothing else can be wrong here */
		}
		struct uffd_fault f[FAULTS_PER_READ];
		size_t n;
		atomic_store(&m->busy, true);
		TRY(uffd_read(m->uffd.n, f, ARRAY_LEN(f), &n));
		uint64_t now = clock_mono_ns();
		for (size_t i = 0; i < n; i++) {
			on_fault(m, &f[i], now);
		}
		atomic_store(&m->busy, false);
	}
	return NULL;
}

static void *server_main(void *arg)
{
	struct swap_mem *m = arg;
	pthread_setname_np(pthread_self(), "tswap");
	struct err *e = jail_thread(JAIL_PAGER);
	if (e == NULL) {
		e = server_loop(m);
	}
	if (e != NULL) {
		m->on_stuck(m->arg, err_msg(e));
		log_err(err_wrap(e, "the server of swapped memory"));
	}
	return NULL;
}

static void end_server(struct swap_mem *m)
{
	if (!m->have_server) {
		return;
	}
	const uint64_t one = 1;
	uint64_t unused;
	atomic_store(&m->stop, true);
	err_drop(io_write_full(m->bell.n, &one, sizeof(one)), "an eventfd of 1 takes one more");
	pthread_join(m->server, NULL);
	m->have_server = false;
	atomic_store(&m->stop, false);
	err_drop(io_read_full(m->bell.n, &unused, sizeof(unused)), "it was written just now");
}

struct err *swap_mem_begin(struct swap_mem *m)
{
	LOCK_SCOPE(&m->lock);
	TRY(uffd_register_minor(m->uffd.n, m->base, m->npages * PAGE_BYTES));
	int rc = thread_start(&m->server, server_main, m);
	if (rc != 0) {
		err_drop(uffd_unregister(m->uffd.n, m->base, m->npages * PAGE_BYTES),
			 "it was registered just now");
		return ERR_SYSNO(rc, "starting the server of swapped memory");
	}
	m->have_server = true;
	m->served = true;
	atomic_store(&m->begun, true);
	return NULL;
}

bool swap_mem_begun(const struct swap_mem *m)
{
	return atomic_load(&m->begun);
}

struct err *swap_mem_end(struct swap_mem *m)
{
	if (!swap_mem_begun(m)) {
		return NULL;
	}
	end_server(m);
	LOCK_SCOPE(&m->lock);
	TRY(uffd_unregister(m->uffd.n, m->base, m->npages * PAGE_BYTES)); /* wakes who waits */
	m->served = false;
	m->gen++;
	set_out(m, 0, m->npages, false);
	set_hot(m, 0, m->npages, false);
	atomic_store(&m->begun, false);
	atomic_store(&m->stuck, false);
	return NULL;
}

/* ---- steps of the worker ---- */

struct err *swap_mem_unmap(struct swap_mem *m, const bool *cancel)
{
	atomic_uint_least64_t *counts[] = { &m->from_store, &m->from_staging, &m->zeroed,
					    &m->redundant, &m->faults };
	for (unsigned i = 0; i < ARRAY_LEN(counts); i++) {
		atomic_store(counts[i], 0);
	}
	latency_reset(&m->took);
	for (uint64_t at = 0; at < m->npages; at += UNMAP_PAGES) {
		uint64_t n = MIN((uint64_t)UNMAP_PAGES, m->npages - at);
		TRY(check_cancel(cancel));
		lock_take(&m->lock);
		set_hot(m, at, n, false); /* I1 */
		lock_drop(&m->lock);
		if (madvise(host_of(m, at), n * PAGE_BYTES, MADV_DONTNEED) != 0) {
			return ERR_ERRNO("unmapping guest memory");
		}
	}
	return NULL;
}

static void source_free(struct source *src)
{
	if (src != NULL) {
		swap_reader_free(src->reader);
		swap_map_put(src->map);
		free(src);
	}
}
DEFINE_SCOPE(struct source, source_free)

/* Takes over map, also on failure. */
static struct err *source_new(struct swap_map *map, struct source **ret_src)
{
	SCOPE(source_freep) struct source *src = calloc(1, sizeof(*src));
	if (src == NULL) {
		swap_map_put(map);
		return ERR(ERR_SYS, "out of memory");
	}
	src->map = map;
	TRY(swap_reader_new(&src->reader));
	*ret_src = MOVE(src);
	return NULL;
}

/* The old one goes when the server has read what it was reading: closing it is not for that thread.
 */
static void set_cur(struct swap_mem *m, struct source *src)
{
	lock_take(&m->lock);
	struct source *old = m->cur;
	m->cur = src;
	m->gen++;
	while (old != NULL && m->reading == old) {
		lock_drop(&m->lock);
		pause_ns(READING_NS);
		lock_take(&m->lock);
	}
	lock_drop(&m->lock);
	source_free(old);
}

struct err *swap_mem_base(struct swap_mem *m, struct swap_map *map)
{
	BUG_ON(atomic_load(&m->nout) != 0);
	struct source *src = NULL;
	TRY(source_new(map, &src));
	set_cur(m, src);
	return NULL;
}

void swap_mem_forget(struct swap_mem *m)
{
	BUG_ON(atomic_load(&m->nout) != 0);
	set_cur(m, NULL);
}

/* One walk over what is staged. */
struct walk {
	struct swap_mem *m;
	const bool *cancel;
	struct swap_map *cur;       /* borrowed: the worker alone changes it */
	struct swap_reader *reader; /* owned */
	const uint8_t *staging;     /* owned; a mapping of the file that is not served */
	struct swap_writer *writer; /* owned; NULL: trim */
	uint64_t *wrote;            /* owned; a bit per page, with a writer */
	struct swap_step step;
};

static UNUSED void walk_done(struct walk *w)
{
	swap_writer_free(w->writer); /* first: its threads read the staging */
	swap_reader_free(w->reader);
	if (w->staging != NULL) {
		munmap((void *)(uintptr_t)w->staging, w->m->npages * PAGE_BYTES);
	}
	free(w->wrote);
}

static struct err *walk_init(struct walk *w, struct swap_mem *m, const bool *cancel)
{
	*w = (struct walk){ .m = m, .cancel = cancel };
	w->cur = m->cur != NULL ? m->cur->map : NULL;
	TRY(swap_reader_new(&w->reader));
	void *p = mmap(NULL, m->npages * PAGE_BYTES, PROT_READ, MAP_SHARED | MAP_NORESERVE,
		       gmem_region(m->gmem, 0).fd, 0);
	if (p == MAP_FAILED) {
		return ERR_ERRNO("mapping guest memory a second time");
	}
	w->staging = p;
	return NULL;
}

/* Writing stands back as long as somebody waits for a page. */
static struct err *stand_back(const struct walk *w)
{
	for (unsigned i = 0; i < IDLE_TRIES && atomic_load(&w->m->busy); i++) {
		pause_ns(IDLE_NS);
	}
	return check_cancel(w->cancel);
}

enum verdict { KEEP, ZERO, SAME, WRITE };

static bool is_zero(const uint8_t *page)
{
	uint64_t first;
	memcpy(&first, page, sizeof(first));
	return first == 0 && memcmp(page, page + 8, PAGE_BYTES - 8) == 0;
}

/*
 * What to do with each of n pages from `page` on, which the file holds and which lie in one piece.
 * Pages that are hot are kept; the others nobody touches without becoming that.
 */
static struct err *judge(struct walk *w, uint64_t page, uint64_t n, enum verdict *ret)
{
	struct piece piece = { .npages = 0 };
	uint64_t gfn = gmem_gfn_at(w->m->gmem, page).v;
	for (uint64_t i = 0; i < n; i++) {
		const uint8_t *p = w->staging + (page + i) * PAGE_BYTES;
		ret[i] = has(w->m->hot, page + i) ? KEEP : is_zero(p) ? ZERO : WRITE;
		if (ret[i] != WRITE || w->cur == NULL) {
			continue;
		}
		if (piece.npages == 0) {
			TRY(swap_reader_piece(w->reader, w->cur, (gfn_t){ gfn }, &piece));
		}
		uint64_t at = gfn + i - piece.first;
		if (at < piece.npages &&
		    memcmp(p, piece.pages + at * PAGE_BYTES, PAGE_BYTES) == 0) {
			ret[i] = SAME;
		}
	}
	return NULL;
}

/* The run leaves memory, but for pages that were touched since. Must hold the lock. */
static struct err *leave(struct walk *w, uint64_t page, uint64_t n, bool out)
{
	struct swap_mem *m = w->m;
	for (uint64_t at = 0; at < n;) {
		uint64_t run = 0;
		while (at + run < n && !has(m->hot, page + at + run)) {
			run++;
		}
		if (run > 0) {
			set_out(m, page + at, run, out);
			struct err *e = gmem_put_away(m->gmem, page + at, run);
			if (e != NULL) {
				set_out(m, page + at, run, false); /* the file holds it */
				return e;
			}
			w->step.pages += run;
		}
		at += run + 1;
	}
	return NULL;
}

/* Pages of one piece. */
static struct err *walk_pages(struct walk *w, uint64_t page, uint64_t n)
{
	enum verdict v[PIECE];
	TRY(judge(w, page, n, v));
	for (uint64_t at = 0; at < n;) {
		uint64_t run = 1;
		while (at + run < n && v[at + run] == v[at]) {
			run++;
		}
		if (v[at] == ZERO || v[at] == SAME) {
			LOCK_SCOPE(&w->m->lock);
			TRY(leave(w, page + at, run, v[at] == SAME));
			*(v[at] == ZERO ? &w->step.zero : &w->step.same) += run;
		} else if (v[at] == WRITE && w->writer != NULL) {
			TRY(swap_writer_pages(w->writer, gmem_gfn_at(w->m->gmem, page + at),
					      w->staging + (page + at) * PAGE_BYTES, run));
			for (uint64_t i = page + at; i < page + at + run; i++) {
				w->wrote[i / BITS] |= 1ull << (i % BITS);
			}
		}
		at += run;
	}
	return NULL;
}

/*
 * What is held is asked for a stretch at a time: looking for the next hole costs as much as the
 * stretch is long. A page of it that is given back meanwhile is read as zero.
 */
static struct err *walk_all(struct walk *w)
{
	uint64_t from = 0;
	uint64_t left = 0;
	for (;;) {
		if (left == 0) {
			TRY(gmem_next_held(w->m->gmem, from, w->m->npages, &from, &left));
		}
		if (left == 0) {
			return NULL;
		}
		uint64_t n = MIN(left, PIECE - from % PIECE);
		TRY(from % STAND_PAGES < PIECE ? stand_back(w) : check_cancel(w->cancel));
		TRY(walk_pages(w, from, n));
		from += n;
		left -= n;
	}
}

/* What was written is durable, and leaves. */
static struct err *leave_written(struct walk *w)
{
	struct swap_mem *m = w->m;
	for (uint64_t at = 0; at < m->npages; at += COMMIT_PAGES) {
		uint64_t end = MIN(at + COMMIT_PAGES, m->npages);
		LOCK_SCOPE(&m->lock);
		for (uint64_t p = at; p < end;) {
			uint64_t run = 0;
			while (p + run < end &&
			       (w->wrote[(p + run) / BITS] >> ((p + run) % BITS) & 1) != 0) {
				run++;
			}
			TRY(leave(w, p, run, true));
			p += run + 1;
		}
	}
	return NULL;
}

struct err *swap_mem_trim(struct swap_mem *m, const bool *cancel, struct swap_step *ret_step)
{
	SCOPE(walk_done) struct walk w;
	struct err *e = walk_init(&w, m, cancel);
	if (e == NULL) {
		e = walk_all(&w);
	}
	*ret_step = w.step;
	return e;
}

static struct err *write_out(struct walk *w, struct swap_home *home)
{
	SCOPE(swap_map_putp) struct swap_map *map = NULL;
	w->wrote = calloc((w->m->npages + BITS - 1) / BITS, sizeof(*w->wrote));
	ENSURE(w->wrote != NULL, ERR_SYS, "out of memory");
	TRY(swap_writer_new(home, w->cur, &w->writer));
	TRY(walk_all(w));
	TRY(check_cancel(w->cancel));
	TRY(swap_writer_commit(w->writer, &map));
	swap_map_written(map, &w->step.stored_pages, &w->step.stored_bytes);
	struct source *src = NULL;
	TRY(source_new(MOVE(map), &src));
	set_cur(w->m, src);
	return leave_written(w);
}

struct err *swap_mem_out(struct swap_mem *m, struct swap_home *home, const bool *cancel,
			 struct swap_step *ret_step)
{
	SCOPE(walk_done) struct walk w;
	struct err *e = walk_init(&w, m, cancel);
	if (e == NULL) {
		e = write_out(&w, home);
	}
	*ret_step = w.step;
	return e;
}

/* ---- everything back ---- */

struct fill {
	struct swap_mem *m;
	const bool *cancel;
	atomic_uint_least64_t placed;
};

static bool fill_wanted(void *arg, uint64_t index, uint64_t npages)
{
	const struct fill *f = arg;
	uint64_t page;
	if (!gmem_index_of(f->m->gmem, (gfn_t){ index }, npages, &page)) {
		return true; /* place says what is wrong */
	}
	for (uint64_t i = 0; i < npages; i++) {
		if (has(f->m->out, page + i)) {
			return true;
		}
	}
	return false;
}

static struct err *fill_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct fill *f = arg;
	uint64_t page;
	uint64_t placed = 0;
	TRY(check_cancel(f->cancel));
	ENSURE(gmem_index_of(f->m->gmem, (gfn_t){ index }, npages, &page), ERR_CORRUPT,
	       "memory map has %llu pages at gfn 0x%llx, where there is no RAM",
	       (unsigned long long)npages, (unsigned long long)index);
	LOCK_SCOPE(&f->m->lock);
	if (f->m->served) {
		TRY(place_out(f->m, page, npages, pages, &placed));
	}
	atomic_fetch_add(&f->placed, placed);
	return NULL;
}

struct err *swap_mem_fill(struct swap_mem *m, const bool *cancel, uint64_t *ret_pages)
{
	struct fill f = { .m = m, .cancel = cancel };
	lock_take(&m->lock);
	SCOPE(swap_map_putp)
	struct swap_map *map = m->cur != NULL ? swap_map_get(m->cur->map) : NULL;
	lock_drop(&m->lock);
	*ret_pages = 0;
	if (map == NULL || atomic_load(&m->nout) == 0) {
		return NULL;
	}
	const struct read_opts opts = { .place = fill_place, .wanted = fill_wanted, .arg = &f };
	struct err *e = swap_map_read(map, &opts);
	*ret_pages = atomic_load(&f.placed);
	TRY(err_wrap(e, "bringing memory back"));
	uint64_t left = atomic_load(&m->nout);
	ENSURE(left == 0, ERR_CORRUPT, "%llu pages of memory are missing in the store",
	       (unsigned long long)left);
	return NULL;
}

/* ---- any thread ---- */

struct err *swap_mem_give_back(struct swap_mem *m, gpa_t gpa, uint64_t len_bytes)
{
	uint64_t page;
	LOCK_SCOPE(&m->lock);
	if (m->served &&
	    gmem_index_of(m->gmem, (gfn_t){ gpa.v / PAGE_BYTES }, len_bytes / PAGE_BYTES, &page)) {
		set_out(m, page, len_bytes / PAGE_BYTES, false);
		set_hot(m, page, len_bytes / PAGE_BYTES, true);
	}
	return gmem_give_back(m->gmem, gpa, len_bytes);
}

void swap_mem_retry(struct swap_mem *m)
{
	if (atomic_exchange(&m->stuck, false)) {
		err_drop(uffd_wake(m->uffd.n, m->base, m->npages * PAGE_BYTES),
			 "they go on waiting, as before");
	}
}

void swap_mem_status(struct swap_mem *m, struct swap_mem_status *ret)
{
	uint64_t held = 0;
	err_drop(gmem_allocated(m->gmem, &held), "shown as 0 then");
	held /= PAGE_BYTES;
	uint64_t resident = swap_mem_begun(m) ? MIN(held, atomic_load(&m->nhot)) : held;
	*ret = (struct swap_mem_status){
		.resident = resident,
		.staged = held - resident,
		.out = atomic_load(&m->nout),
		.from_store = atomic_load(&m->from_store),
		.from_staging = atomic_load(&m->from_staging),
		.zeroed = atomic_load(&m->zeroed),
		.redundant = atomic_load(&m->redundant),
		.faults = atomic_load(&m->faults),
		.p50_ns = latency_percentile(&m->took, 50),
		.p99_ns = latency_percentile(&m->took, 99),
		.max_ns = atomic_load(&m->took.max_ns),
	};
}

struct err *swap_mem_new(const struct swap_mem_opts *opts, struct swap_mem **ret_mem)
{
	struct fd uffd = { opts->uffd };
	bool own = gmem_region(opts->gmem, 0).fd >= 0;
	SCOPE(swap_mem_freep) struct swap_mem *m = own ? calloc(1, sizeof(*m)) : NULL;
	if (m == NULL) {
		fd_close(&uffd);
		return own ? ERR(ERR_SYS, "out of memory")
			   : ERR(ERR_NOT_NOW, "memory that other VMs share (--share-memory) is not "
					      "swapped");
	}
	lock_init(&m->lock, RANK_PLACE);
	m->gmem = opts->gmem;
	m->uffd = uffd;
	m->on_stuck = opts->on_stuck;
	m->arg = opts->arg;
	m->base = gmem_region(m->gmem, 0).host;
	m->npages = gmem_bytes(m->gmem) / PAGE_BYTES;
	m->last_piece = UINT64_MAX - PIECE;
	uint64_t words = (m->npages + BITS - 1) / BITS;
	m->hot = calloc(words, sizeof(*m->hot));
	m->out = calloc(words, sizeof(*m->out));
	ENSURE(m->hot != NULL && m->out != NULL, ERR_SYS, "out of memory");
	m->bell.n = eventfd(0, EFD_CLOEXEC);
	if (m->bell.n < 0) {
		return ERR_ERRNO("making an eventfd");
	}
	*ret_mem = MOVE(m);
	return NULL;
}

void swap_mem_free(struct swap_mem *m)
{
	if (m == NULL) {
		return;
	}
	end_server(m);
	fd_close(&m->uffd); /* unregisters, if that was not done yet */
	fd_close(&m->bell);
	source_free(m->cur);
	lock_done(&m->lock);
	free(m->hot);
	free(m->out);
	free(m);
}
