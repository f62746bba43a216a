/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory that may be out. While it is served, a page is mapped, or held by the memory file
 * but unmapped ("staged"), or a hole whose bytes are in a map of the store ("out"), or a hole that
 * is zero. Whoever touches what is not mapped (a vCPU in KVM_RUN, KVM in an ioctl, a device, a
 * take) waits in the kernel until the server thread has brought the page back.
 *
 * core/swap_page.pml is the life of one page; its names are those of swap_mem.c. Never wrong bytes:
 * a page leaves memory only if nobody can have touched it since its bytes were read, and what the
 * store cannot verify is not placed: who waits for it goes on waiting, and the owner is told.
 *
 * Threads: made and freed on the main loop. unmap, trim, out, fill, begin and end are steps of one
 * thread at a time, "the worker", but that a second thread may fill between its steps or beside an
 * unmap. The rest is for any thread.
 */
#ifndef TORPOR_CORE_SWAP_MEM_H
#define TORPOR_CORE_SWAP_MEM_H

#include "core/gmem.h"
#include "snapshot/swap_map.h"

struct swap_mem;

struct swap_mem_opts {
	struct gmem *gmem; /* borrowed */
	int uffd;          /* of uffd_open_minor; moved from */
	/* On the server's thread: a page that somebody waits for cannot be had now; once until
	 * swap_mem_retry. */
	void (*on_stuck)(void *arg, const char *text);
	void *arg;
};
MUST_USE struct err *swap_mem_new(const struct swap_mem_opts *opts, struct swap_mem **ret_mem);
/* What is out is lost: see swap_mem_end. NULL is fine. */
void swap_mem_free(struct swap_mem *m);
DEFINE_SCOPE(struct swap_mem, swap_mem_free)

/* Registers the memory and starts the server; all stays mapped. On failure nothing has changed. */
MUST_USE struct err *swap_mem_begin(struct swap_mem *m);
bool swap_mem_begun(const struct swap_mem *m);
/* Nothing may be out, or the memory is cleared next. Afterwards it is like any other. */
MUST_USE struct err *swap_mem_end(struct swap_mem *m);

/* All steps: ERR_CANCELLED soon after *cancel (atomic) is set; done as far as they came. */

/* Everything is unmapped, step by step beside whoever uses it; nobody is stopped. */
MUST_USE struct err *swap_mem_unmap(struct swap_mem *m, const bool *cancel);
/* What the store may have already: takes over map, also on failure. Only while nothing is out. */
MUST_USE struct err *swap_mem_base(struct swap_mem *m, struct swap_map *map);
struct swap_step {
	uint64_t pages; /* that left memory */
	uint64_t zero;  /* of them: zero pages, and pages that the store had */
	uint64_t same;
	uint64_t stored_pages; /* written to the store */
	uint64_t stored_bytes;
};
/* Staged pages that are zero, or as the store has them, leave memory. */
MUST_USE struct err *swap_mem_trim(struct swap_mem *m, const bool *cancel,
				   struct swap_step *ret_step);
/*
 * All staged pages leave memory. What trim would not drop is written first, only while no fault
 * waits, and leaves when it is durable, unless somebody touched it meanwhile.
 */
MUST_USE struct err *swap_mem_out(struct swap_mem *m, struct swap_home *home, const bool *cancel,
				  struct swap_step *ret_step);
/* Everything that is out comes back. *ret_pages: pages that did. */
MUST_USE struct err *swap_mem_fill(struct swap_mem *m, const bool *cancel, uint64_t *ret_pages);
/* Forgets the map; nothing may be out. */
void swap_mem_forget(struct swap_mem *m);

/* gmem_give_back, so that nothing of what the page was comes back. Not while a step of the caller's
 * own thread is under way. */
MUST_USE struct err *swap_mem_give_back(struct swap_mem *m, gpa_t gpa, uint64_t len_bytes);
/* Who waits for a page asks again. */
void swap_mem_retry(struct swap_mem *m);

struct swap_mem_status {
	uint64_t resident;   /* pages: mapped, or given back since the last unmapping */
	uint64_t staged;     /* held and not mapped */
	uint64_t out;        /* in the store */
	uint64_t from_store; /* pages brought back by faults since the last unmap */
	uint64_t from_staging;
	uint64_t zeroed;
	uint64_t redundant; /* faults whose page was there already */
	uint64_t faults;
	uint64_t p50_ns, p99_ns, max_ns; /* from reading a fault to its page in place */
};
void swap_mem_status(struct swap_mem *m, struct swap_mem_status *ret);

#endif
