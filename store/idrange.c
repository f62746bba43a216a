/* SPDX-License-Identifier: Apache-2.0 */
/* Ids of a writer that is no session. See idrange.h; called by compact.c. */
#include "store/idrange.h"

#include <string.h>

#include "core/base/clock.h"
#include "store/gc.h"

/* Ids in a range: 2^32 frames of 64 KiB are 256 TiB, and 2^32 such ranges are there. */
#define RANGE_IDS (1ull << 32)

struct err *idrange_reserve(struct family *f, const struct holder *holder, struct pend_rec *ret,
			    bool *ret_reserved)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	uint64_t next;
	uint64_t next_snap;
	TRY(family_meta_get(f, t, FAMILY_KEY_NEXT, &next, &next_snap));
	ENSURE(next != 0 && next_snap != 0, ERR_CORRUPT, "family %s: its counters are missing",
	       f->dir);
	uint64_t after;
	ENSURE(!ADD_OVERFLOWS(next, RANGE_IDS, &after), ERR_LIMIT,
	       "family %s: record ids are used up", f->dir);
	memcpy(ret->holder, holder->id, sizeof(ret->holder));
	ret->first = next;
	ret->count = RANGE_IDS;
	ret->started_ns = clock_real_ns();
	TRY(family_meta_put(f, t, FAMILY_KEY_NEXT, after, next_snap));
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(SMALL_BYTES_MAX);
	pend_encode(&w, f->uuid, ret);
	TRY(wbuf_check(&w));
	TRY(ltxn_put(t, FAMILY_PEND, (struct bytes){ ret->holder, HOLDER_ID_BYTES },
		     (struct bytes){ w.p, w.len }));
	*ret_reserved = true;
	return ltxn_commit(MOVE(t));
}

struct err *idrange_open(struct family *f, struct idrange *ret)
{
	struct idrange r = { .f = f, .holder = { .file = FD_NONE } };
	TRY(holder_take(f->holders, FAMILY_SESSION_TEXT, &r.holder));
	struct err *e = idrange_reserve(f, &r.holder, &r.pend, &r.reserved);
	r.next = r.pend.first;
	if (e != NULL) {
		idrange_close(&r); /* a commit that failed may have happened all the same */
		return e;
	}
	*ret = r;
	return NULL;
}

void idrange_close(struct idrange *r)
{
	if (r->reserved) {
		struct gc_result unused = { 0 };
		err_drop(gc_drop_session(r->f, r->pend.holder, &unused),
			 "what is left is garbage that the next collection finds");
		r->reserved = false;
	}
	holder_drop(&r->holder);
}

struct err *idrange_take(struct idrange *r, uint64_t *ret_id)
{
	ENSURE(r->next < r->pend.first + r->pend.count, ERR_LIMIT, "record ids are used up");
	*ret_id = r->next++;
	return NULL;
}

struct err *idrange_release(struct idrange *r, struct ltxn *t)
{
	bool found;
	TRY(ltxn_del(t, FAMILY_PEND, (struct bytes){ r->pend.holder, HOLDER_ID_BYTES }, &found));
	ENSURE(found, ERR_NOT_NOW, "what was written was cleared away by somebody else");
	return NULL;
}
