/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: regions of guest physical addresses, each backed by a part of a memfd, and checked
 * access to them.
 *
 * Layout: RAM from gpa 0 to at most GMEM_LOW_END; what does not fit continues at 4 GiB, so that
 * [GMEM_LOW_END, 4 GiB) stays free for devices. The backing of a region (fd, offset, sharing, page
 * size) is data that a restore may choose anew, and swap, rewind and upgrade may change the mapping
 * while all vCPUs and devices are parked: nobody keeps a host pointer across a park.
 *
 * Threads: built and freed by core; access functions from any thread while the machine exists.
 * KVM's dirty log does not see writes made through this module: gmem_write and gmem_mark_dirty
 * set a host-side dirty bit per page (atomically), which the snapshot engine collects.
 */
#ifndef TORPOR_CORE_GMEM_H
#define TORPOR_CORE_GMEM_H

#include "core/base/err.h"
#include "core/base/limits.h"

/* Newtypes, so that addresses, frame numbers and plain integers do not mix. */
typedef struct {
	uint64_t v;
} gpa_t;
typedef struct {
	uint64_t v;
} gfn_t;
#define GPA(x) ((gpa_t){ (uint64_t)(x) })

#define GMEM_LOW_END (3ull * GIB)
#define GMEM_HIGH_START (4ull * GIB)
#define GMEM_REGIONS_MAX 2u

struct gmem;

struct gmem_region {
	gpa_t base;
	uint64_t len_bytes; /* multiple of PAGE_BYTES */
	int fd;             /* borrowed memfd; -1: a clone's, whose holes nobody can tell */
	uint64_t fd_offset;
	uint8_t *host; /* borrowed mapping; valid until the next park */
};

/*
 * `bytes` of RAM (GMEM_MIN_BYTES .. host memory, multiple of PAGE_BYTES), all zero, nothing
 * touched. Errors: ERR_LIMIT naming the bound, ERR_SYS.
 */
MUST_USE struct err *gmem_new(uint64_t bytes, struct gmem **ret_gmem);
/*
 * Memory that others may map, too: its file is sealed, so that only this mapping can write to it.
 * Filled by gmem_place; gmem_fd is what others get.
 */
MUST_USE struct err *gmem_new_lent(uint64_t bytes, struct gmem **ret_gmem);
/*
 * Memory that is that of a lent file until it is written: a page that is written is our own. Takes
 * over *lent in any case. ERR_INCOMPAT when it has another length or is not sealed. What is given
 * back, or all that is cleared, is private zero memory from then on.
 */
MUST_USE struct err *gmem_new_clone(uint64_t bytes, struct fd *lent, struct gmem **ret_gmem);
int gmem_fd(const struct gmem *g); /* borrowed; -1: a clone's that was cleared */
void gmem_free(struct gmem *g);    /* NULL is fine */
DEFINE_SCOPE(struct gmem, gmem_free)

uint64_t gmem_bytes(const struct gmem *g);
unsigned gmem_nregions(const struct gmem *g);
struct gmem_region gmem_region(const struct gmem *g, unsigned i);
/* One past the highest RAM gfn. */
uint64_t gmem_gfn_end(const struct gmem *g);

/*
 * Pages counted in the order of the mapping, which is one for all regions. False if the pages are
 * not all RAM of one region.
 */
bool gmem_index_of(const struct gmem *g, gfn_t gfn, uint64_t npages, uint64_t *ret_index);
gfn_t gmem_gfn_at(const struct gmem *g, uint64_t index); /* of a page that there is */

/*
 * Host address of [gpa, gpa + len) if all of it lies in one region, else NULL. For use within one
 * operation only. Writers call gmem_mark_dirty afterwards.
 */
void *gmem_at(const struct gmem *g, gpa_t gpa, uint64_t len_bytes);
/* Checked copies that may cross regions; ERR_GUEST naming the address when it is no RAM. */
MUST_USE struct err *gmem_read(const struct gmem *g, gpa_t gpa, void *ret, uint64_t len_bytes);
MUST_USE struct err *gmem_write(struct gmem *g, gpa_t gpa, const void *p, uint64_t len_bytes);
void gmem_mark_dirty(struct gmem *g, gpa_t gpa, uint64_t len_bytes);
/* Moves the host-side dirty bits of region i into bits (one bit per page, or-ed in) and clears
 * them. */
void gmem_fetch_dirty(struct gmem *g, unsigned i, uint64_t *bits);

/*
 * Gives whole pages of one region back to the host: they read as zero from now on, until somebody
 * writes to them, and are dirty. Nobody may be writing to them. ERR_GUEST for what is no such
 * range.
 */
MUST_USE struct err *gmem_give_back(struct gmem *g, gpa_t gpa, uint64_t len_bytes);
/* Was the page (of region i, counted from its start) given back and not touched since? Then it is
 * zero, and who reads it all the same makes the host hold it again. Any thread; cheap for all
 * others. */
bool gmem_is_given(const struct gmem *g, unsigned i, uint64_t page);

/*
 * Takes pages of the memory file out of memory: what they held is elsewhere, or zero. Who knows
 * where serves whoever touches them. Pages by index, of one region.
 */
MUST_USE struct err *gmem_put_away(struct gmem *g, uint64_t index, uint64_t npages);
/* The next run of pages in [index, end) that the memory file holds; *ret_n 0: none. */
MUST_USE struct err *gmem_next_held(const struct gmem *g, uint64_t index, uint64_t end,
				    uint64_t *ret_index, uint64_t *ret_n);

/* Makes all memory read as zero again and gives the host its pages back (guest reset). */
MUST_USE struct err *gmem_clear(struct gmem *g);
/*
 * Fills whole pages from the restore path without mapping them into this process first (pwrite to
 * the memfd; lent memory and a clone's are written in place). [gfn, gfn + npages) must be RAM of
 * one region. Any thread, disjoint ranges.
 */
MUST_USE struct err *gmem_place(struct gmem *g, gfn_t gfn, const void *pages, uint64_t npages);
/* The same with zeros, by giving the pages back to the host. */
MUST_USE struct err *gmem_place_zero(struct gmem *g, gfn_t gfn, uint64_t npages);
/* Memory held by the backing files, in bytes (allocated blocks, not RSS); of a clone that of the
 * file which it shares. */
MUST_USE struct err *gmem_allocated(const struct gmem *g, uint64_t *ret_bytes);

#endif
