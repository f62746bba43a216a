/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of store/ share about an open store and an open family; not for other layers.
 *
 * A family does not refer to the store that it was opened from. Both are constant after opening,
 * so any thread may use them; LMDB's handles inside take care of themselves.
 */
#ifndef TORPOR_STORE_FAMILY_H
#define TORPOR_STORE_FAMILY_H

#include "store/holder.h"
#include "store/mapcodec.h"
#include "store/snaprec.h"
#include "store/store.h"
#include "store/store_lmdb.h"

#define STORE_DIR_MAX 3000u
#define FAMILY_DIR_MAX 3400u
#define STORE_MAP_BYTES (1024ull * GIB) /* virtual size of a family's LMDB map */

struct store {
	char dir[STORE_DIR_MAX];
	uint8_t uuid[16];
	bool rdonly;
	struct lenv *catalog;
};

/* Tables of a family's environment. */
enum family_db {
	FAMILY_META,
	FAMILY_SNAP,
	FAMILY_BLOB,
	FAMILY_NODE,
	FAMILY_LEAF,
	FAMILY_FRAME,
	FAMILY_PEND,
	FAMILY__DBS,
};

struct family {
	uint8_t uuid[16];
	char dir[FAMILY_DIR_MAX];
	char holders[FAMILY_DIR_MAX + 16];
	bool rdonly;
	struct fd presence; /* shared lock that keeps family_remove_empty away; may be absent when
			     * reading from a read-only file system */
	struct lenv *env;
	struct map_zero zero;
};

/* A counter record; absent counters are 0, 0. */
MUST_USE struct err *family_meta_get(struct family *f, struct ltxn *t, struct bytes key,
				     uint64_t *ret_a, uint64_t *ret_b);
MUST_USE struct err *family_meta_put(struct family *f, struct ltxn *t, struct bytes key, uint64_t a,
				     uint64_t b);
/* Decodes every counter record. ret_n: how many there are. */
MUST_USE struct err *family_meta_check(struct family *f, struct ltxn *t, uint64_t *ret_n);
#define FAMILY_KEY_FORMAT ((struct bytes){ "format", 6 }) /* a: version of the environment */
#define FAMILY_KEY_NEXT ((struct bytes){ "next", 4 }) /* a: next record id, b: next snapshot id */
/* Counter of a VM's snapshot numbers: a is the last one given. */
struct family_key_number {
	uint8_t b[3 + 16];
};
struct family_key_number family_key_number(const uint8_t vm[16]);

/* One snapshot's record, hidden ones too. *ret_rec is to be done if found. */
MUST_USE struct err *family_snap_get(struct family *f, struct ltxn *t, uint64_t id, bool *ret_found,
				     struct snap_rec *ret_rec);
MUST_USE struct err *family_snap_put(struct family *f, struct ltxn *t, const struct snap_rec *r);
/*
 * Calls fn for every snapshot record in order of ids. A damaged one is given to damaged() instead,
 * which takes over the error and may return it; NULL: it ends the walk. Nothing may be written to
 * the table meanwhile.
 */
struct family_snap_visit {
	struct err *(*snap)(void *arg, const struct snap_rec *r);
	struct err *(*damaged)(void *arg, uint64_t id, struct err *e);
	void *arg;
};
MUST_USE struct err *family_snap_each(struct family *f, struct ltxn *t,
				      const struct family_snap_visit *v);
/* Is that a tag? ERR_USAGE. */
MUST_USE struct err *family_check_tag(const char *tag);
/* ERR_NOT_NOW if another published snapshot of r's VM has r's tag. */
MUST_USE struct err *family_tag_free(struct family *f, struct ltxn *t, const struct snap_rec *r);

/* A reader of a record under a lease that is there already; moves from both. */
MUST_USE struct err *reader_adopt(struct family *f, struct snap_rec *rec, struct holder *lease,
				  struct reader **ret_reader);

/* Is some living lease on that snapshot? Also true for leases of this process. */
MUST_USE struct err *family_leased(struct family *f, uint64_t snap_id, bool *ret_leased);
/* Texts of holders. */
#define FAMILY_LEASE_FMT "lease-%llu"
#define FAMILY_SESSION_TEXT "session"

#endif
