/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page server: guest memory that arrives while the VM runs. Whoever touches a missing page (a
 * vCPU in KVM_RUN, KVM in an ioctl, a device, gmem_read) waits in the kernel until the fault thread
 * has placed it; a filler brings the rest in the source's order and steps aside for the guest. When
 * everything is there the memory is like any other.
 *
 * Never wrong bytes: a page is placed only where none is, by one system call (UFFDIO_COPY), so what
 * the guest wrote meanwhile stays; and what the source cannot verify is not placed at all: who
 * waits for it goes on waiting, and the owner is told.
 *
 * The server takes no lock that anybody holds while touching guest memory. It is started before the
 * first KVM call that may write guest memory, and ended after the last thread that may touch a
 * missing page: then what is missing reads as zero.
 *
 * Threads: made, freed and asked for its status on the main loop; pager_complete on a job thread.
 */
#ifndef TORPOR_CORE_PAGER_H
#define TORPOR_CORE_PAGER_H

#include "core/loop.h"
#include "snapshot/page_source.h"

struct pager;

enum pager_event {
	PAGER_FULL,  /* everything is in place; text NULL */
	PAGER_LOST,  /* a page cannot be had, ever */
	PAGER_STUCK, /* a page that somebody waits for cannot be had now */
};

struct pager_opts {
	struct loop *loop;
	struct gmem *gmem;         /* borrowed; nothing of it was touched yet */
	struct page_source source; /* moved from */
	int uffd;                  /* moved from */
	/* Brought in before the rest by pager_fill, in this order; moved from. May hold anything.
	 */
	struct page_order first;
	/* On the main loop, never after pager_free. text: says page and reason; borrowed. */
	void (*on_event)(void *arg, enum pager_event ev, const char *text);
	/* Until pager_attended, on the fault thread instead: the main loop may itself be the one
	 * that waits for the page, for ever. Does not return. NULL: on_event all the same. */
	void (*unattended)(void *arg, const char *text);
	void *arg;
};
/* Registers the memory and starts the fault thread. Moves from opts in any case. ERR_INCOMPAT when
 * the kernel cannot do it for this memory. */
MUST_USE struct err *pager_start(const struct pager_opts *opts, struct pager **ret_pager);
/* Ends the threads; what is missing becomes zero. Nobody may be waiting for a page. NULL is fine.
 */
void pager_free(struct pager *p);
DEFINE_SCOPE(struct pager, pager_free)

/* The main loop hears on_event from now on. */
void pager_attended(struct pager *p);
/* Starts the filler, once. */
MUST_USE struct err *pager_fill(struct pager *p);
/*
 * Brings in all that is missing on the caller's thread, at its priority, instead of the filler's.
 * Returns when memory is complete. An error says why it is not; *cancel (atomic) gives up.
 */
MUST_USE struct err *pager_complete(struct pager *p, const bool *cancel);
/*
 * What somebody had to wait for so far, in that order: a page of each piece, at most
 * PAGER_DEMAND_MAX of them and only of the first PAGER_DEMAND_NS. To be done.
 */
#define PAGER_DEMAND_MAX 16384u
#define PAGER_DEMAND_NS 10000000000ull
MUST_USE struct err *pager_demanded(struct pager *p, struct page_order *ret);
/*
 * These pages are about to be given back to the host (gmem_give_back): the source's are not placed
 * any more, also not by a call under way, and who touches one finds zeros. Main loop; waits for a
 * copy of some pages at most.
 */
void pager_drop(struct pager *p, gpa_t gpa, uint64_t len_bytes);
/* After PAGER_STUCK: all who wait ask again. */
void pager_retry(struct pager *p);

struct pager_status {
	const char *state; /* "waiting" (no filler), "filling", "complete", "stuck", "lost" */
	uint64_t bytes;    /* of memory in all */
	uint64_t resident; /* bytes in place; all once complete */
	uint64_t faults;   /* served or not */
	uint64_t demanded; /* pieces that pager_demanded would give */
	uint64_t known;    /* pieces that were to come first */
	uint64_t first;    /* bytes of them that the filler put in place before the rest */
	/* From reading a fault to its page in place, nanoseconds, to within a quarter; 0: no
	 * faults. */
	uint64_t p50_ns, p99_ns, max_ns;
	char why[512]; /* "stuck" and "lost": page and reason; else "" */
};
void pager_status(struct pager *p, struct pager_status *ret);

#endif
