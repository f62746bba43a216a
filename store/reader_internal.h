/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a reader, shared by reader.c and piece.c; for these only. */
#ifndef TORPOR_STORE_READER_INTERNAL_H
#define TORPOR_STORE_READER_INTERNAL_H

#include "store/family.h"

struct reader {
	struct family *f;
	struct snap_rec rec;
	struct holder lease; /* none when the store is read only */
};

/* ERR_NOTFOUND naming snapshot and map. Borrowed from the reader. */
MUST_USE struct err *reader_find_map(struct reader *r, const char *name,
				     const struct snap_map **ret_map);

#endif
