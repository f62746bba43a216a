/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where guest pages come from while a VM runs already: a snapshot in the store (lazy.c), later a
 * peer or a staging area. Core's page server (core/pager.h) asks; the source verifies what it
 * gives.
 *
 * A source takes no lock that anybody holds while touching guest memory, since whoever touches it
 * waits for the source.
 */
#ifndef TORPOR_SNAPSHOT_PAGE_SOURCE_H
#define TORPOR_SNAPSHOT_PAGE_SOURCE_H

#include "core/gmem.h"

struct page_run {
	gfn_t gfn;
	uint64_t npages;
	const void *pages; /* borrowed for the call, or until the reader's next fetch */
};

/* Pieces of memory, each by one of its pages, in the order in which they are wanted. */
struct page_order {
	uint64_t *gfn; /* owned */
	size_t n;
};

static inline UNUSED void page_order_done(struct page_order *o)
{
	free(o->gfn);
	*o = (struct page_order){ 0 };
}

struct page_fill {
	/* Places a run. An error ends the fill and is returned. */
	struct err *(*place)(void *arg, const struct page_run *run);
	/* False: the run is there already and need not be read. Also false for good once the fill
	 * is to end early; then it returns success soon. */
	bool (*wanted)(void *arg, gfn_t gfn, uint64_t npages);
	void *arg;
};

/* Threads that may fetch at the same time. */
enum page_reader { PAGE_READER_FAULT, PAGE_READER_FILL, PAGE_READERS };

/*
 * Errors: ERR_CORRUPT and ERR_INCOMPAT say that the page cannot be had, ever; all others that it
 * cannot be had now. They name the page and what is damaged.
 */
struct page_source_ops {
	/*
	 * The pages around gfn that belong together (64 KiB as a rule), zero pages included;
	 * *ret_run contains gfn. One thread at a time per reader.
	 */
	struct err *(*fetch)(void *self, enum page_reader who, gfn_t gfn, struct page_run *ret_run);
	/* gfn will be fetched by that reader soon: reads ahead. Any gfn of RAM; may be NULL. */
	void (*soon)(void *self, enum page_reader who, gfn_t gfn);
	/* Every page that is not zero, in the order that is cheapest to read. One thread at a time.
	 */
	struct err *(*fill)(void *self, const struct page_fill *fill);
	/* After a complete fill: what else of the source is worth a look while nobody waits. May be
	 * NULL. An error is only told; *cancel (atomic) gives up. */
	struct err *(*after)(void *self, const bool *cancel);
	void (*free)(void *self);
};

struct page_source {
	const struct page_source_ops *ops; /* NULL: there is none */
	void *self;
};

static inline UNUSED void page_source_done(struct page_source *s)
{
	if (s->ops != NULL) {
		s->ops->free(s->self);
		s->ops = NULL;
	}
}

#endif
