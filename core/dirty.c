/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirty pages of a VM. See dirty.h; docs/decisions/0012-dirty-log.md has the reasons.
 *
 * The log of a booted VM starts with its first take, and stays on. It starts with every page dirty,
 * which costs the guest nothing until pages are cleared; the take clears them step by step. The log
 * of a restored VM runs from the start and starts clean: its base is the snapshot it came from.
 */
#include "core/dirty.h"

#include <string.h>

enum { BITS_PER_WORD = 64 };

struct dirty_region {
	uint64_t words;
	uint64_t *kept; /* owned; fetched, and in no snapshot yet */
	uint64_t *now;  /* owned; scratch of a fetch */
	bool fresh;     /* the first fetch of a take gives what is kept, too */
};

struct dirty {
	struct gmem *gmem;
	struct kvm_vm *vm; /* NULL between two machines */
	uint64_t base;
	unsigned n;
	struct dirty_region r[GMEM_REGIONS_MAX];
};

struct err *dirty_new(struct gmem *gmem, struct dirty **ret_dirty)
{
	SCOPE(dirty_freep) struct dirty *d = calloc(1, sizeof(*d));
	ENSURE(d != NULL, ERR_SYS, "out of memory");
	d->gmem = gmem;
	d->n = gmem_nregions(gmem);
	for (unsigned i = 0; i < d->n; i++) {
		struct dirty_region *r = &d->r[i];
		uint64_t pages = gmem_region(gmem, i).len_bytes / PAGE_BYTES;
		r->words = (pages + BITS_PER_WORD - 1) / BITS_PER_WORD;
		r->kept = calloc(r->words, sizeof(*r->kept));
		r->now = calloc(r->words, sizeof(*r->now));
		ENSURE(r->kept != NULL && r->now != NULL, ERR_SYS, "no memory for dirty bits");
	}
	*ret_dirty = MOVE(d);
	return NULL;
}

void dirty_free(struct dirty *d)
{
	if (d == NULL) {
		return;
	}
	for (unsigned i = 0; i < d->n; i++) {
		free(d->r[i].kept);
		free(d->r[i].now);
	}
	free(d);
}

void dirty_attach(struct dirty *d, struct kvm_vm *vm)
{
	d->vm = vm;
}

void dirty_detach(struct dirty *d)
{
	d->vm = NULL;
	dirty_set_base(d, 0);
}

void dirty_set_base(struct dirty *d, uint64_t snap_id)
{
	d->base = snap_id;
	for (unsigned i = 0; i < d->n; i++) {
		memset(d->r[i].kept, 0, d->r[i].words * sizeof(*d->r[i].kept));
	}
}

uint64_t dirty_base(const struct dirty *d)
{
	return d->base;
}

/* ---- for a take ---- */

static struct err *op_begin(void *self, uint64_t *ret_base)
{
	struct dirty *d = self;
	BUG_ON(d->vm == NULL);
	if (!kvm_vm_log_on(d->vm)) {
		dirty_set_base(d, 0);
		TRY(kvm_vm_log_start(d->vm));
	}
	for (unsigned i = 0; i < d->n; i++) {
		d->r[i].fresh = true;
	}
	*ret_base = d->base;
	return NULL;
}

static struct err *op_fetch(void *self, unsigned region, uint64_t *bits)
{
	struct dirty *d = self;
	BUG_ON(region >= d->n);
	struct dirty_region *r = &d->r[region];
	TRY(kvm_vm_log_fetch(d->vm, region, r->now));
	gmem_fetch_dirty(d->gmem, region, r->now);
	for (uint64_t w = 0; w < r->words; w++) {
		r->kept[w] |= r->now[w]; /* before anything is cleared (I1) */
		bits[w] |= r->fresh ? r->kept[w] : r->now[w];
	}
	r->fresh = false;
	return NULL;
}

static struct err *op_clear(void *self, unsigned region, uint64_t first, uint64_t npages,
			    const uint64_t *bits)
{
	struct dirty *d = self;
	BUG_ON(region >= d->n);
	return kvm_vm_log_clear(d->vm, region, first, npages, bits);
}

const struct snap_dirty_ops dirty_ops = {
	.begin = op_begin,
	.fetch = op_fetch,
	.clear = op_clear,
};
