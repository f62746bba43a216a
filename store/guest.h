/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of guests: what somebody has said about VMs that are to be kept, by name. Two texts
 * each, both opaque here: what is wanted, and what has become of it.
 *
 *	DIR/guests/		LMDB, one table; made by the first guest, absent in older stores
 *
 * An environment of its own, so that a store of before is as it was, and a change waits for no
 *take. Durability: what guest_change returned from survives power loss. Two processes that change
 *one guest do so one after the other, each seeing what the other left. Any thread.
 */
#ifndef TORPOR_STORE_GUEST_H
#define TORPOR_STORE_GUEST_H

#include "store/store.h"

#define GUEST_TEXT_BYTES_MAX (64u * 1024u)

struct store_guest {
	char name[NAME_BYTES_MAX + 1];
	char *wanted; /* owned; never NULL in what is given out */
	char *record; /* owned; likewise, "": nothing yet */
};
void store_guest_done(struct store_guest *g);

MUST_USE struct err *store_guest_get(struct store *s, const char *name, bool *ret_found,
				     struct store_guest *ret_guest);
/* All, by name; both are released by store_guests_free. */
MUST_USE struct err *store_guest_list(struct store *s, struct store_guest **ret, size_t *ret_n);
void store_guests_free(struct store_guest *g, size_t n);

enum guest_verdict { GUEST_KEEP, GUEST_PUT, GUEST_REMOVE };
/*
 * One look and one change in one durable transaction. fn gets what there is (found), may replace
 * the texts of *g, and says what becomes of it; its error leaves everything as it was.
 */
typedef struct err *guest_change_fn(void *arg, bool found, struct store_guest *g,
				    enum guest_verdict *ret);
MUST_USE struct err *store_guest_change(struct store *s, const char *name, guest_change_fn *fn,
					void *arg);
/* Structure and every record; part of store_verify. */
MUST_USE struct err *store_guest_check(struct store *s, uint64_t *ret_n);

#endif
