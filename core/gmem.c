/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory on one memfd. See gmem.h. Built by core; used by devices, boot, the snapshot engine
 * and KVM's memory slots, on any thread.
 *
 * The memfd holds guest RAM without the device hole: file offset = gpa below GMEM_LOW_END, and
 * gpa - (GMEM_HIGH_START - GMEM_LOW_END) above. It is mapped once, so both regions lie side by side
 * in this process; nobody outside may rely on that.
 *
 * Invariants: I1 a region is inside the file and inside the mapping. I2 a dirty bit is set after
 * the bytes were written, by a locked instruction: a collector that clears the bit and then reads
 * the page sees the bytes.
 */
#include "core/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/base/io.h"

/* Of kernels newer than the build host's headers may be. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
	BITS_PER_WORD = 64,
	LENT_SEALS = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK,
};

struct region {
	uint64_t base;
	uint64_t len_bytes;
	uint64_t fd_offset;
	uint8_t *host;
	_Atomic uint64_t *dirty; /* owned, one bit per page */
	_Atomic uint64_t *given; /* owned, likewise: given back to the host, and maybe used since */
};

/* What the mapping is of. */
enum backing {
	BACKING_OWN,   /* shared, of a memfd of our own */
	BACKING_LENT,  /* likewise, but others have it, too: written through the mapping only */
	BACKING_CLONE, /* private, of a memfd that others have, too: what is written is our own */
};

struct gmem {
	uint64_t bytes;
	enum backing backing;
	struct fd fd; /* FD_NONE: a clone's that was cleared */
	uint8_t *map; /* MAP_FAILED when there is none */
	unsigned n;
	struct region r[GMEM_REGIONS_MAX];
};

static uint64_t words_of(uint64_t len_bytes)
{
	return (len_bytes / PAGE_BYTES + BITS_PER_WORD - 1) / BITS_PER_WORD;
}

static struct err *region_add(struct gmem *g, uint64_t base, uint64_t len_bytes, uint64_t off)
{
	struct region *r = &g->r[g->n];
	r->base = base;
	r->len_bytes = len_bytes;
	r->fd_offset = off;
	r->host = g->map + off;
	r->dirty = calloc(words_of(len_bytes), sizeof(*r->dirty));
	r->given = calloc(words_of(len_bytes), sizeof(*r->given));
	g->n++; /* from here on gmem_free knows it */
	ENSURE(r->dirty != NULL && r->given != NULL, ERR_SYS,
	       "guest memory: no memory for dirty bits");
	return NULL;
}

static struct err *check_size(uint64_t bytes)
{
	ENSURE(bytes % PAGE_BYTES == 0, ERR_LIMIT,
	       "guest memory of %llu bytes is no multiple of %u: round it",
	       (unsigned long long)bytes, PAGE_BYTES);
	ENSURE(bytes >= GMEM_MIN_BYTES, ERR_LIMIT,
	       "guest memory of %llu bytes is below the least, %llu MiB: give more",
	       (unsigned long long)bytes, GMEM_MIN_BYTES / MIB);
	long pages = sysconf(_SC_PHYS_PAGES);
	long unit = sysconf(_SC_PAGESIZE);
	ENSURE(pages > 0 && unit > 0, ERR_SYS, "guest memory: the host's memory size is unknown");
	uint64_t host = (uint64_t)pages * (uint64_t)unit;
	ENSURE(bytes <= host, ERR_LIMIT,
	       "guest memory of %llu MiB is more than this host has, %llu MiB: give less",
	       (unsigned long long)(bytes / MIB), (unsigned long long)(host / MIB));
	return NULL;
}

static struct err *make_memfd(struct gmem *g)
{
	g->fd.n = memfd_create("torpor-guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (g->fd.n < 0) {
		return ERR_ERRNO("guest memory: memfd_create");
	}
	if (ftruncate(g->fd.n, (off_t)g->bytes) < 0) {
		return ERR_ERRNO("guest memory: sizing the memfd to %llu bytes",
				 (unsigned long long)g->bytes);
	}
	return NULL;
}

/* What is lent neither changes its length under those who map it, nor is written by them. */
static struct err *check_lent(int fd, uint64_t bytes)
{
	struct stat st;
	if (fstat(fd, &st) < 0) {
		return ERR_ERRNO("shared guest memory");
	}
	int seals = fcntl(fd, F_GET_SEALS);
	ENSURE(seals >= 0 && (seals & LENT_SEALS) == LENT_SEALS, ERR_INCOMPAT,
	       "shared guest memory is not sealed");
	ENSURE(st.st_size >= 0 && (uint64_t)st.st_size == bytes, ERR_INCOMPAT,
	       "shared guest memory has %lld bytes, not %llu", (long long)st.st_size,
	       (unsigned long long)bytes);
	return NULL;
}

static struct err *new_with(uint64_t bytes, enum backing backing, struct fd *lent,
			    struct gmem **ret_gmem)
{
	SCOPE(gmem_freep) struct gmem *g = calloc(1, sizeof(*g));
	ENSURE(g != NULL, ERR_SYS, "guest memory: out of memory");
	g->map = MAP_FAILED;
	g->bytes = bytes;
	g->backing = backing;
	g->fd = lent != NULL ? fd_move(lent) : FD_NONE;
	TRY(lent != NULL ? check_lent(g->fd.n, bytes) : make_memfd(g));
	/* NORESERVE: pages are paid for when touched, as on real hardware the guest may never do.
	 */
	int sharing = backing == BACKING_CLONE ? MAP_PRIVATE : MAP_SHARED;
	g->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, sharing | MAP_NORESERVE, g->fd.n, 0);
	if (g->map == MAP_FAILED) {
		return ERR_ERRNO("guest memory: mapping %llu bytes", (unsigned long long)bytes);
	}
	if (backing == BACKING_LENT && fcntl(g->fd.n, F_ADD_SEALS, LENT_SEALS) != 0) {
		return ERR_ERRNO("guest memory: sealing it");
	}
	uint64_t low = MIN(bytes, (uint64_t)GMEM_LOW_END);
	TRY(region_add(g, 0, low, 0));
	if (bytes > low) {
		TRY(region_add(g, GMEM_HIGH_START, bytes - low, low));
	}
	*ret_gmem = MOVE(g);
	return NULL;
}

struct err *gmem_new(uint64_t bytes, struct gmem **ret_gmem)
{
	TRY(check_size(bytes));
	return new_with(bytes, BACKING_OWN, NULL, ret_gmem);
}

struct err *gmem_new_lent(uint64_t bytes, struct gmem **ret_gmem)
{
	TRY(check_size(bytes));
	return new_with(bytes, BACKING_LENT, NULL, ret_gmem);
}

struct err *gmem_new_clone(uint64_t bytes, struct fd *lent, struct gmem **ret_gmem)
{
	SCOPE(fd_close) struct fd fd = fd_move(lent);
	TRY(check_size(bytes));
	return new_with(bytes, BACKING_CLONE, &fd, ret_gmem);
}

int gmem_fd(const struct gmem *g)
{
	return g->fd.n;
}

void gmem_free(struct gmem *g)
{
	if (g == NULL) {
		return;
	}
	for (unsigned i = 0; i < g->n; i++) {
		free(g->r[i].dirty);
		free(g->r[i].given);
	}
	if (g->map != MAP_FAILED) {
		munmap(g->map, g->bytes);
	}
	fd_close(&g->fd);
	free(g);
}

uint64_t gmem_bytes(const struct gmem *g)
{
	return g->bytes;
}

unsigned gmem_nregions(const struct gmem *g)
{
	return g->n;
}

struct gmem_region gmem_region(const struct gmem *g, unsigned i)
{
	BUG_ON(i >= g->n);
	const struct region *r = &g->r[i];
	return (struct gmem_region){
		.base = GPA(r->base),
		.len_bytes = r->len_bytes,
		.fd = g->backing == BACKING_CLONE ? -1 : g->fd.n,
		.fd_offset = r->fd_offset,
		.host = r->host,
	};
}

uint64_t gmem_gfn_end(const struct gmem *g)
{
	const struct region *r = &g->r[g->n - 1];
	return (r->base + r->len_bytes) >> PAGE_SHIFT;
}

/* The region that holds gpa; *ret_off is the offset in it, *ret_left what is left from there. */
static const struct region *find(const struct gmem *g, uint64_t gpa, uint64_t *ret_off,
				 uint64_t *ret_left)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct region *r = &g->r[i];
		if (gpa >= r->base && gpa - r->base < r->len_bytes) {
			*ret_off = gpa - r->base;
			*ret_left = r->len_bytes - *ret_off;
			return r;
		}
	}
	return NULL;
}

bool gmem_index_of(const struct gmem *g, gfn_t gfn, uint64_t npages, uint64_t *ret_index)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct region *r = &g->r[i];
		uint64_t first = r->base / PAGE_BYTES;
		uint64_t count = r->len_bytes / PAGE_BYTES;
		if (gfn.v >= first && gfn.v - first < count && npages <= count - (gfn.v - first)) {
			*ret_index = r->fd_offset / PAGE_BYTES + (gfn.v - first);
			return true;
		}
	}
	return false;
}

gfn_t gmem_gfn_at(const struct gmem *g, uint64_t index)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct region *r = &g->r[i];
		uint64_t first = r->fd_offset / PAGE_BYTES;
		if (index >= first && index - first < r->len_bytes / PAGE_BYTES) {
			return (gfn_t){ r->base / PAGE_BYTES + (index - first) };
		}
	}
	BUG_ON(true); /* the kernel told of a page that was never registered */
	return (gfn_t){ 0 };
}

void *gmem_at(const struct gmem *g, gpa_t gpa, uint64_t len_bytes)
{
	uint64_t off;
	uint64_t left;
	const struct region *r = find(g, gpa.v, &off, &left);
	if (r == NULL || len_bytes > left) {
		return NULL;
	}
	return r->host + off;
}

static void mark(const struct region *r, uint64_t off, uint64_t len_bytes)
{
	if (len_bytes == 0) {
		return;
	}
	uint64_t last = (off + len_bytes - 1) >> PAGE_SHIFT;
	for (uint64_t p = off >> PAGE_SHIFT; p <= last; p++) {
		/* I2; the partner is the exchange in gmem_fetch_dirty. */
		atomic_fetch_or(&r->dirty[p / BITS_PER_WORD], 1ull << (p % BITS_PER_WORD));
	}
}

/* Is every byte of the range RAM? Before anything is copied, so that a bad range copies nothing. */
static struct err *check_range(const struct gmem *g, gpa_t gpa, uint64_t len_bytes)
{
	uint64_t at = gpa.v;
	uint64_t todo = len_bytes;
	while (todo > 0) {
		uint64_t off;
		uint64_t left;
		ENSURE(find(g, at, &off, &left) != NULL, ERR_GUEST,
		       "guest address 0x%llx (range 0x%llx, %llu bytes) is no RAM",
		       (unsigned long long)at, (unsigned long long)gpa.v,
		       (unsigned long long)len_bytes);
		uint64_t n = MIN(todo, left);
		/* Cannot wrap: a region ends far below 2^64. */
		at += n;
		todo -= n;
	}
	return NULL;
}

struct err *gmem_read(const struct gmem *g, gpa_t gpa, void *ret, uint64_t len_bytes)
{
	TRY(check_range(g, gpa, len_bytes));
	uint8_t *out = ret;
	while (len_bytes > 0) {
		uint64_t off = 0;
		uint64_t left = 0;
		const struct region *r = find(g, gpa.v, &off, &left);
		BUG_ON(r == NULL);
		uint64_t n = MIN(len_bytes, left);
		memcpy(out, r->host + off, n);
		out += n;
		gpa.v += n;
		len_bytes -= n;
	}
	return NULL;
}

struct err *gmem_write(struct gmem *g, gpa_t gpa, const void *p, uint64_t len_bytes)
{
	TRY(check_range(g, gpa, len_bytes));
	const uint8_t *in = p;
	while (len_bytes > 0) {
		uint64_t off = 0;
		uint64_t left = 0;
		const struct region *r = find(g, gpa.v, &off, &left);
		BUG_ON(r == NULL);
		uint64_t n = MIN(len_bytes, left);
		memcpy(r->host + off, in, n);
		mark(r, off, n);
		in += n;
		gpa.v += n;
		len_bytes -= n;
	}
	return NULL;
}

void gmem_mark_dirty(struct gmem *g, gpa_t gpa, uint64_t len_bytes)
{
	while (len_bytes > 0) {
		uint64_t off = 0;
		uint64_t left = 0;
		const struct region *r = find(g, gpa.v, &off, &left);
		/* Callers got the range from gmem_at, which checked it. */
		BUG_ON(r == NULL);
		uint64_t n = MIN(len_bytes, left);
		mark(r, off, n);
		gpa.v += n;
		len_bytes -= n;
	}
}

void gmem_fetch_dirty(struct gmem *g, unsigned i, uint64_t *bits)
{
	BUG_ON(i >= g->n);
	struct region *r = &g->r[i];
	uint64_t n = words_of(r->len_bytes);
	for (uint64_t w = 0; w < n; w++) {
		/* Most words are zero: the plain load keeps the line shared. */
		if (atomic_load(&r->dirty[w]) != 0) {
			bits[w] |= atomic_exchange(&r->dirty[w], 0);
		}
	}
}

/* Other memory in its place; what cannot have that is made zero. */
static struct err *replace(const struct gmem *g, uint64_t off, uint64_t len_bytes)
{
	void *p = mmap(g->map + off, len_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (p == MAP_FAILED) { /* too many mappings: ENOMEM */
		memset(g->map + off, 0, len_bytes);
	}
	return NULL;
}

/* From here on these bytes of the mapping are zero, and take no memory if that can be. */
static struct err *punch(const struct gmem *g, uint64_t off, uint64_t len_bytes)
{
	int rc;
	if (g->backing == BACKING_CLONE) {
		return replace(g, off, len_bytes);
	}
	do {
		rc = fallocate(g->fd.n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off,
			       (off_t)len_bytes);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		return ERR_ERRNO("guest memory: giving back %llu bytes",
				 (unsigned long long)len_bytes);
	}
	return NULL;
}

struct err *gmem_give_back(struct gmem *g, gpa_t gpa, uint64_t len_bytes)
{
	uint64_t off = 0;
	uint64_t left = 0;
	const struct region *r = find(g, gpa.v, &off, &left);
	ENSURE(r != NULL && len_bytes <= left && len_bytes > 0 && gpa.v % PAGE_BYTES == 0 &&
		       len_bytes % PAGE_BYTES == 0,
	       ERR_GUEST, "guest memory: 0x%llx and %llu bytes are no pages of RAM",
	       (unsigned long long)gpa.v, (unsigned long long)len_bytes);
	TRY(punch(g, r->fd_offset + off, len_bytes));
	/* In a clone nobody could tell when they are in use again. */
	uint64_t end = g->backing == BACKING_CLONE ? 0 : (off + len_bytes) / PAGE_BYTES;
	for (uint64_t p = off / PAGE_BYTES; p < end; p++) {
		atomic_fetch_or(&r->given[p / BITS_PER_WORD], 1ull << (p % BITS_PER_WORD));
	}
	mark(r, off, len_bytes); /* last: who sees the mark finds the hole */
	return NULL;
}

bool gmem_is_given(const struct gmem *g, unsigned i, uint64_t page)
{
	BUG_ON(i >= g->n);
	const struct region *r = &g->r[i];
	uint64_t bit = 1ull << (page % BITS_PER_WORD);
	_Atomic uint64_t *word = &r->given[page / BITS_PER_WORD];
	if ((atomic_load(word) & bit) == 0) {
		return false;
	}
	off_t at = (off_t)(r->fd_offset + page * PAGE_BYTES);
	off_t data = lseek(g->fd.n, at, SEEK_DATA);
	if (data > at || (data < 0 && errno == ENXIO)) {
		/* Put away meanwhile, it is a hole, too, but not zero (gmem_put_away). */
		return (atomic_load(word) & bit) != 0;
	}
	atomic_fetch_and(word, ~bit); /* in use again */
	return false;
}

struct err *gmem_put_away(struct gmem *g, uint64_t index, uint64_t npages)
{
	gfn_t gfn = gmem_gfn_at(g, index);
	uint64_t off = 0;
	uint64_t left = 0;
	const struct region *r = find(g, gfn.v * PAGE_BYTES, &off, &left);
	BUG_ON(r == NULL || npages > left / PAGE_BYTES);
	for (uint64_t p = off / PAGE_BYTES; p < off / PAGE_BYTES + npages; p++) {
		/* Before the hole is there; the partner is the second look in gmem_is_given. */
		atomic_fetch_and(&r->given[p / BITS_PER_WORD], ~(1ull << (p % BITS_PER_WORD)));
	}
	return punch(g, index * PAGE_BYTES, npages * PAGE_BYTES);
}

struct err *gmem_next_held(const struct gmem *g, uint64_t index, uint64_t end, uint64_t *ret_index,
			   uint64_t *ret_n)
{
	*ret_n = 0;
	*ret_index = end;
	off_t data = lseek(g->fd.n, (off_t)(index * PAGE_BYTES), SEEK_DATA);
	if (data < 0 && errno == ENXIO) {
		return NULL;
	}
	off_t hole = data < 0 ? -1 : lseek(g->fd.n, data, SEEK_HOLE);
	if (hole < 0) {
		return ERR_ERRNO("looking for touched guest memory");
	}
	uint64_t from = MAX((uint64_t)data / PAGE_BYTES, index);
	uint64_t to = MIN(round_up_u64((uint64_t)hole, PAGE_BYTES) / PAGE_BYTES, end);
	if (from < to) {
		*ret_index = from;
		*ret_n = to - from;
	}
	return NULL;
}

struct err *gmem_clear(struct gmem *g)
{
	TRY(punch(g, 0, g->bytes));
	if (g->backing == BACKING_CLONE) {
		fd_close(&g->fd); /* nothing of it is seen any more */
	}
	/* Every page may have changed, and KVM's log knows nothing of it. */
	for (unsigned i = 0; i < g->n; i++) {
		mark(&g->r[i], 0, g->r[i].len_bytes);
	}
	return NULL;
}

/* Where the pages are in the memfd. The frame numbers come from a snapshot, so this is no BUG_ON.
 */
static struct err *file_range(const struct gmem *g, gfn_t gfn, uint64_t npages, uint64_t *ret_off,
			      uint64_t *ret_len)
{
	uint64_t off = 0;
	uint64_t left = 0;
	uint64_t gpa;
	const struct region *r = NULL;
	if (!MUL_OVERFLOWS(gfn.v, (uint64_t)PAGE_BYTES, &gpa) &&
	    !MUL_OVERFLOWS(npages, (uint64_t)PAGE_BYTES, ret_len)) {
		r = find(g, gpa, &off, &left);
	}
	ENSURE(r != NULL && *ret_len <= left, ERR_CORRUPT,
	       "%llu pages at guest frame 0x%llx are not in this VM's memory",
	       (unsigned long long)npages, (unsigned long long)gfn.v);
	*ret_off = r->fd_offset + off;
	return NULL;
}

struct err *gmem_place(struct gmem *g, gfn_t gfn, const void *pages, uint64_t npages)
{
	uint64_t off = 0;
	uint64_t len = 0;
	TRY(file_range(g, gfn, npages, &off, &len));
	if (g->backing != BACKING_OWN) { /* the file is sealed */
		memcpy(g->map + off, pages, len);
		return NULL;
	}
	return err_wrap(io_pwrite_full(g->fd.n, pages, len, off), "guest memory at frame 0x%llx",
			(unsigned long long)gfn.v);
}

struct err *gmem_place_zero(struct gmem *g, gfn_t gfn, uint64_t npages)
{
	uint64_t off = 0;
	uint64_t len = 0;
	TRY(file_range(g, gfn, npages, &off, &len));
	return err_wrap(punch(g, off, len), "guest memory at frame 0x%llx",
			(unsigned long long)gfn.v);
}

struct err *gmem_allocated(const struct gmem *g, uint64_t *ret_bytes)
{
	struct stat st;
	*ret_bytes = 0;
	if (g->fd.n < 0) {
		return NULL;
	}
	if (fstat(g->fd.n, &st) < 0) {
		return ERR_ERRNO("guest memory: size of the memfd");
	}
	*ret_bytes = (uint64_t)st.st_blocks * 512u; /* stat(2): always 512-byte units */
	return NULL;
}
