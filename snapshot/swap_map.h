/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps of swapped-out memory in the store of a VM's family: read page by page, written as a whole.
 * Page index = gfn, as for a snapshot's memory, so a map may begin as that of a snapshot and shares
 * what did not change with it. A written map is in no list, and lives as long as it is open here:
 * a killed VM leaves garbage that the next collection frees.
 *
 * Called by core/swap_mem.c. A struct swap_map may be used by several threads (its count is
 * atomic); a swap_reader and a swap_writer belong to one each.
 */
#ifndef TORPOR_SNAPSHOT_SWAP_MAP_H
#define TORPOR_SNAPSHOT_SWAP_MAP_H

#include "core/gmem.h"
#include "store/store.h"

struct swap_home; /* where the maps of one VM are */
struct swap_map;

struct swap_home_opts {
	const char *store_dir; /* made if it is not there */
	uint8_t vm[16];
	uint8_t family[16];
	const struct gmem *gmem; /* for its size */
};
/* Opens the store. ERR_INCOMPAT, ERR_CORRUPT, ERR_SYS as store_open. */
MUST_USE struct err *swap_home_open(const struct swap_home_opts *opts, struct swap_home **ret_home);
/* No map of it may be open. */
void swap_home_close(struct swap_home *h);
DEFINE_SCOPE(struct swap_home, swap_home_close)
/* Frees what closed maps and killed VMs have left in the family; takes its time. */
MUST_USE struct err *swap_home_collect(struct swap_home *h);

/* The memory of a published snapshot. ERR_NOTFOUND: it is gone, or of a VM of another size. */
MUST_USE struct err *swap_map_of_snap(struct swap_home *h, uint64_t snap_id,
				      struct swap_map **ret_map);
struct swap_map *swap_map_get(struct swap_map *m); /* one more reference */
void swap_map_put(struct swap_map *m);             /* NULL is fine */
DEFINE_SCOPE(struct swap_map, swap_map_put)
/* What its writing has put into the store: pages, and bytes of frames; 0 for a snapshot's. */
void swap_map_written(const struct swap_map *m, uint64_t *ret_pages, uint64_t *ret_bytes);
/* Every page that is not zero, as reader_map_read: place and wanted are called from its threads. */
MUST_USE struct err *swap_map_read(struct swap_map *m, const struct read_opts *opts);

struct swap_reader;
MUST_USE struct err *swap_reader_new(struct swap_reader **ret_reader);
void swap_reader_free(struct swap_reader *r);
DEFINE_SCOPE(struct swap_reader, swap_reader_free)
/* The piece of the map that holds the page; verified. Borrowed until the next call. */
MUST_USE struct err *swap_reader_piece(struct swap_reader *r, struct swap_map *m, gfn_t gfn,
				       struct piece *ret_piece);

struct swap_writer;
/* base NULL: from nothing. */
MUST_USE struct err *swap_writer_new(struct swap_home *h, struct swap_map *base,
				     struct swap_writer **ret_writer);
/* Without a commit everything that it wrote is dropped. */
void swap_writer_free(struct swap_writer *w);
DEFINE_SCOPE(struct swap_writer, swap_writer_free)
/*
 * In ascending order. The pages must stay mapped until the commit; one that changes meanwhile is
 * stored as something in between.
 */
MUST_USE struct err *swap_writer_pages(struct swap_writer *w, gfn_t gfn, const void *pages,
				       uint64_t npages);
/* Durable when it returns. The pages are not read any more, also after an error. */
MUST_USE struct err *swap_writer_commit(struct swap_writer *w, struct swap_map **ret_map);

#endif
