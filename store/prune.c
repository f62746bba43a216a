/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which snapshots of a VM go when only some are to be kept. Implements prune_choose and vm_bytes of
 * store.h; any thread.
 */
#include <string.h>

#include "store/family.h"
#include "store/idset.h"
#include "store/mapwalk.h"

#define HOUR_NS 3600000000000ull
#define DAY_NS (24 * HOUR_NS)

static uint64_t when(const struct snap_info *s)
{
	return s->frozen_at_ns != 0 ? s->frozen_at_ns : s->created_ns;
}

/* Keeps the newest of each of the last `want` periods that have one. */
static void keep_periods(const struct snap_info *snaps, size_t n, uint64_t period, unsigned want,
			 bool *doomed)
{
	uint64_t last = UINT64_MAX;
	for (size_t i = n; i > 0 && want > 0; i--) {
		uint64_t at = when(&snaps[i - 1]) / period;
		if (last == UINT64_MAX || at < last) {
			last = at;
			doomed[i - 1] = false;
			want--;
		}
	}
}

void prune_choose(const struct snap_info *snaps, size_t n, const struct prune_policy *p,
		  bool *ret_doomed)
{
	bool rules = p->keep_last != 0 || p->keep_hourly != 0 || p->keep_daily != 0;
	for (size_t i = 0; i < n; i++) {
		ret_doomed[i] = rules && i + MAX(p->keep_last, 1u) < n;
	}
	keep_periods(snaps, n, HOUR_NS, p->keep_hourly, ret_doomed);
	keep_periods(snaps, n, DAY_NS, p->keep_daily, ret_doomed);
	for (size_t i = 0; i < n; i++) {
		ret_doomed[i] = ret_doomed[i] && !snaps[i].pinned;
	}
}

/* ---- bytes of a VM ---- */

struct adding {
	struct family *f;
	struct ltxn *t;
	const uint8_t *vm;
	const bool *without; /* by snapshot id, see vm_bytes */
	const uint64_t *ids;
	size_t nids;
	struct idset seen;
	uint64_t bytes;
};

static struct err *add_enter(void *arg, uint64_t id, bool *ret_go)
{
	struct adding *k = arg;
	return idset_add(&k->seen, id, ret_go);
}

static struct err *add_leaf(void *arg, uint64_t index, const struct leaf *l)
{
	struct adding *k = arg;
	uint64_t last = 0;
	(void)index;
	for (size_t i = 0; i < LEAF_PAGES; i++) {
		uint64_t id = l->ref[i].frame;
		if (id != 0 && id != last) {
			bool unused;
			TRY(idset_add(&k->seen, id, &unused));
			last = id;
		}
	}
	return NULL;
}

static struct err *add_snap(void *arg, const struct snap_rec *r)
{
	struct adding *k = arg;
	if (r->hidden || memcmp(r->info.vm, k->vm, sizeof(r->info.vm)) != 0) {
		return NULL;
	}
	for (size_t i = 0; i < k->nids; i++) {
		if (k->ids[i] == r->info.id && k->without[i]) {
			return NULL;
		}
	}
	for (uint32_t i = 0; i < r->info.nblobs; i++) {
		k->bytes += r->blobs[i].len;
	}
	struct mapwalk w = {
		.f = k->f,
		.t = k->t,
		.to_leaf = UINT64_MAX,
		.enter = add_enter,
		.leaf = add_leaf,
		.arg = k,
	};
	for (uint32_t i = 0; i < r->info.nmaps; i++) {
		TRY(mapwalk_run(&w, &r->info.maps[i]));
	}
	return NULL;
}

static struct err *add_table(struct adding *k, enum family_db db)
{
	SCOPE(lcur_closep) struct lcur *c = NULL;
	TRY(lcur_open(k->t, db, &c));
	bool found;
	TRY(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		uint64_t id;
		TRY(id_of_key(lcur_key(c), "of records", &id));
		k->bytes += idset_has(&k->seen, id) ? lcur_value_len(c) : 0;
		TRY(lcur_next(c, &found));
	}
	return NULL;
}

struct err *vm_bytes(struct family *f, const uint8_t vm[16], const uint64_t *ids,
		     const bool *without, size_t n, uint64_t *ret_bytes)
{
	struct adding k = { .f = f, .vm = vm, .ids = ids, .without = without, .nids = n };
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, false, &t));
	k.t = t;
	struct err *e =
		family_snap_each(f, t, &(struct family_snap_visit){ .snap = add_snap, .arg = &k });
	static const enum family_db dbs[] = { FAMILY_FRAME, FAMILY_LEAF, FAMILY_NODE };
	for (size_t i = 0; e == NULL && i < ARRAY_LEN(dbs); i++) {
		e = add_table(&k, dbs[i]);
	}
	idset_done(&k.seen);
	TRY(e);
	*ret_bytes = k.bytes;
	return NULL;
}
