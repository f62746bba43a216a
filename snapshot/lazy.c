/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot's memory as a page source (page_source.h): pages are read from the store, verified,
 * when somebody asks for them. Made by core on the main thread; used by the page server's threads.
 */
#include "snapshot/image.h"
#include "snapshot/keep.h"
#include "snapshot/snapshot.h"

struct lazy {
	struct snap_image *img; /* borrowed */
	struct piece_reader *piece[PAGE_READERS];
	const struct page_fill *fill; /* while one is under way */
};

/* Names the snapshot: what is told reaches people that see a VM, not a restore. */
static struct err *of_snapshot(const struct lazy *l, struct err *e)
{
	return err_wrap(e, "snapshot %llu of %s", (unsigned long long)l->img->ref.snap.number,
			l->img->ref.vm.name);
}

static struct err *reader_for(struct lazy *l, enum page_reader who)
{
	return l->piece[who] != NULL
		       ? NULL
		       : of_snapshot(l, piece_reader_new(l->img->reader, "memory", &l->piece[who]));
}

static void lazy_soon(void *self, enum page_reader who, gfn_t gfn)
{
	struct lazy *l = self;
	struct err *e = reader_for(l, who);
	if (e == NULL) {
		piece_will_need(l->piece[who], gfn.v);
	}
	err_drop(e, "the fetch will tell");
}

static struct err *lazy_fetch(void *self, enum page_reader who, gfn_t gfn, struct page_run *ret_run)
{
	struct lazy *l = self;
	struct piece piece;
	TRY(reader_for(l, who));
	TRY(of_snapshot(l, piece_read(l->piece[who], gfn.v, &piece)));
	*ret_run = (struct page_run){
		.gfn = { piece.first },
		.npages = piece.npages,
		.pages = piece.pages,
	};
	return NULL;
}

static struct err *fill_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	const struct lazy *l = arg;
	const struct page_run run = { .gfn = { index }, .npages = npages, .pages = pages };
	return l->fill->place(l->fill->arg, &run);
}

static bool fill_wanted(void *arg, uint64_t index, uint64_t npages)
{
	const struct lazy *l = arg;
	return l->fill->wanted(l->fill->arg, (gfn_t){ index }, npages);
}

static struct err *lazy_fill(void *self, const struct page_fill *fill)
{
	struct lazy *l = self;
	l->fill = fill;
	/* One worker: the fill stands back behind the guest, and a second would compete with it. */
	const struct read_opts opts = {
		.workers = 1,
		.place = fill_place,
		.wanted = fill_wanted,
		.arg = l,
	};
	/* The reader names the snapshot itself. */
	return err_wrap(reader_map_read(l->img->reader, "memory", &opts), "%s",
			l->img->ref.vm.name);
}

static struct err *lazy_after(void *self, const bool *cancel)
{
	struct lazy *l = self;
	for (uint32_t i = 0; i < l->img->manifest->nfiles; i++) {
		TRY(of_snapshot(l,
				keep_check(l->img->reader, &l->img->manifest->files[i], cancel)));
	}
	return NULL;
}

static void lazy_free(void *self)
{
	struct lazy *l = self;
	for (unsigned i = 0; i < PAGE_READERS; i++) {
		piece_reader_free(l->piece[i]);
	}
	free(l);
}

static const struct page_source_ops lazy_ops = {
	.fetch = lazy_fetch,
	.soon = lazy_soon,
	.fill = lazy_fill,
	.after = lazy_after,
	.free = lazy_free,
};

struct err *snap_image_pages(struct snap_image *img, struct page_source *ret_source)
{
	struct lazy *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	l->img = img;
	*ret_source = (struct page_source){ .ops = &lazy_ops, .self = l };
	return NULL;
}
