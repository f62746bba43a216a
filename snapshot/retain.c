/* SPDX-License-Identifier: Apache-2.0 */
/* Removes automatic snapshots that are not to be kept. See retain.h. */
#include "snapshot/retain.h"

#include <string.h>

enum {
	TIDY_DEAD_PERCENT = 20, /* of the bytes of all records */
	TIDY_BYTES = 16 << 20,  /* moved at a time */
};

/* The VM's automatic snapshots, oldest first. */
struct autos {
	struct family *family;
	struct snap_info *snap; /* owned */
	size_t n;
	bool *doomed; /* owned */
};

static void autos_done(struct autos *a)
{
	family_close(a->family);
	free(a->snap);
	free(a->doomed);
}

static struct err *autos_load(struct autos *a, struct store *s, const struct snap_retain *r)
{
	size_t all = 0;
	TRY(family_open(s, r->family, false, &a->family));
	TRY(family_snaps(a->family, &a->snap, &all));
	for (size_t i = 0; i < all; i++) {
		if (memcmp(a->snap[i].vm, r->vm, sizeof(r->vm)) == 0 &&
		    strncmp(a->snap[i].tag, r->prefix, strlen(r->prefix)) == 0) {
			a->snap[a->n++] = a->snap[i];
		}
	}
	a->doomed = calloc(a->n + 1, sizeof(*a->doomed));
	ENSURE(a->doomed != NULL, ERR_SYS, "out of memory");
	return NULL;
}

static struct err *autos_remove(struct autos *a, size_t *ret_removed)
{
	SCOPE(freep) uint64_t *ids = calloc(a->n + 1, sizeof(*ids));
	ENSURE(ids != NULL, ERR_SYS, "out of memory");
	size_t n = 0;
	for (size_t i = 0; i < a->n; i++) {
		if (a->doomed[i]) {
			ids[n++] = a->snap[i].id;
		}
	}
	*ret_removed = n;
	return n > 0 ? family_remove_unpinned(a->family, ids, n) : NULL;
}

struct err *snap_retain(struct store *s, const struct snap_retain *r, size_t *ret_removed)
{
	SCOPE(autos_done) struct autos a = { 0 };
	uint64_t punched;
	*ret_removed = 0;
	TRY(autos_load(&a, s, r));
	prune_choose(a.snap, a.n, &r->policy, a.doomed);
	TRY(autos_remove(&a, ret_removed));
	return *ret_removed > 0 ? family_punch(a.family, false, &punched) : NULL;
}

struct err *snap_retain_less(struct store *s, const struct snap_retain *r, size_t *ret_removed)
{
	SCOPE(autos_done) struct autos a = { 0 };
	*ret_removed = 0;
	TRY(autos_load(&a, s, r));
	for (size_t i = 0; i + 1 < a.n; i++) {
		if (!a.snap[i].pinned) {
			a.doomed[i] = true;
			return autos_remove(&a, ret_removed);
		}
	}
	return NULL;
}

static struct err *much_is_dead(struct family *f, bool *ret_much)
{
	struct family_stat st;
	TRY(family_stat(f, &st));
	*ret_much = st.partly_dead_bytes > st.record_bytes / 100 * TIDY_DEAD_PERCENT;
	family_stat_done(&st);
	return NULL;
}

static struct err *tidy(struct family *f, const bool *cancel, uint64_t *ret_bytes)
{
	const struct compact_opts opts = { .max_bytes = TIDY_BYTES, .cancel = cancel };
	struct compact_result res = { 0 };
	bool much = false;
	TRY(much_is_dead(f, &much));
	if (much) {
		TRY(family_compact(f, &opts, &res));
	}
	*ret_bytes = res.bytes_freed;
	return NULL;
}

struct err *snap_retain_tidy(struct store *s, const struct snap_retain *r, const bool *cancel,
			     uint64_t *ret_bytes)
{
	struct family *f = NULL;
	*ret_bytes = 0;
	TRY(family_open(s, r->family, false, &f));
	struct err *e = tidy(f, cancel, ret_bytes);
	family_close(f);
	return e;
}
