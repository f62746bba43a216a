/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap: the states of a VM's swapping, and the thread that does its work ("swap"). The table is in
 * swap.c, its picture in docs/swap.md; what happens to a page is in swap_mem.h.
 *
 * A request changes the state at once and leaves the work to the thread, in order; a later enable
 * or disable makes it give up what it is at. An answer that says "enabled" comes when it is true.
 *
 * Threads: the main loop, but for what says otherwise. Owned by life.
 */
#ifndef TORPOR_CORE_SWAP_H
#define TORPOR_CORE_SWAP_H

#include "core/base/fsm.h"
#include "core/loop.h"
#include "core/swap_mem.h"

enum swap_state {
	SWAP_READY,
	SWAP_PENDING,
	SWAP_TRIMMING,
	SWAP_GOING_OUT,
	SWAP_ACTIVE,
	SWAP_COMING_IN,
	SWAP_FAILED,
	SWAP__STATES,
};

enum swap_event {
	SWAP_EV_ENABLE,
	SWAP_EV_TRIM,
	SWAP_EV_OUT,
	SWAP_EV_DISABLE,
	SWAP_EV_DONE,     /* the work of the state is done */
	SWAP_EV_FAIL,     /* it cannot be done */
	SWAP_EV_NO_START, /* nothing came of an enable: memory is as it was */
	SWAP_EV_RESET,    /* memory is cleared, or has all come back for a rewind */
	SWAP__EVENTS,
};

extern const struct fsm_desc swap_fsm_desc;

struct swap;

struct swap_opts {
	struct loop *loop;
	struct gmem *gmem; /* borrowed */
	int uffd;          /* moved from; -1: swap cannot be, `why_not` says why */
	const char *why_not;
	const char *store_dir;
	uint8_t vm[16];
	uint8_t family[16];
	/* On the swap thread, before memory is first served. May be asked for again. */
	struct err *(*ready)(void *arg, const bool *cancel);
	/* The snapshot that memory descends from, 0: none. */
	uint64_t (*parent)(void *arg);
	/* The state has changed, or (SWAP_FAILED) why. error NULL: none. */
	void (*on_state)(void *arg, const char *state, const char *error);
	/* A page that somebody waits for cannot be had now. */
	void (*on_stuck)(void *arg, const char *text);
	void *arg;
};
MUST_USE struct err *swap_new(const struct swap_opts *opts, struct swap **ret_swap);
/* Nobody may wait for a page. NULL is fine. */
void swap_free(struct swap *s);
DEFINE_SCOPE(struct swap, swap_free)

/* ERR_NOT_NOW with EOPNOTSUPP: this host or user cannot have it. */
MUST_USE struct err *swap_possible(const struct swap *s);
/*
 * ERR_NOT_NOW names the state; with EOPNOTSUPP: this host or user cannot have it. done runs exactly
 * once if NULL was returned: when all memory has been unmapped, or with why it was not.
 */
MUST_USE struct err *swap_enable(struct swap *s, void (*done)(void *arg, struct err *e), void *arg);
MUST_USE struct err *swap_trim(struct swap *s);
MUST_USE struct err *swap_out(struct swap *s);
/* slow: what is in the store goes some seconds later. */
MUST_USE struct err *swap_disable(struct swap *s, bool slow);

/*
 * Ends swapping at once; what is out is lost. For a reset, which clears memory next, and for a
 * rewind, after swap_bring_in.
 */
void swap_reset(struct swap *s);
/*
 * For who reads the memory file itself: from here to swap_unhold nothing leaves memory. What is
 * under way is given up, and goes on afterwards. Any thread; waits for it.
 */
void swap_hold(struct swap *s);
void swap_unhold(struct swap *s);
/* Between the two: everything comes back. Any thread. */
MUST_USE struct err *swap_bring_in(struct swap *s, const bool *cancel);

/* Any thread: as swap_mem.h has them. */
MUST_USE struct err *swap_give_back(struct swap *s, gpa_t gpa, uint64_t len_bytes);
void swap_retry(struct swap *s);

struct swap_status {
	const char *state;
	struct swap_mem_status mem;
	uint64_t zero;                       /* of the last trim or out: pages that left as zero, */
	uint64_t same;                       /* and that the store had */
	uint64_t stored_pages, stored_bytes; /* written by all outs since the last disable */
	uint64_t moved_pages;                /* of the last transition that has ended */
	uint64_t moved_ms;
	char error[512]; /* of the last one that failed, until the next enable; else "" */
};
void swap_status(struct swap *s, struct swap_status *ret);

#endif
