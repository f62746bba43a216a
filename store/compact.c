/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction: what is used of partly dead frames moves into new frames. Implements family_compact
 * of store.h; any thread, one at a time per family, beside takes, readers and collections.
 *
 * Frames, leaves and nodes never change (docs/store.md, S2), so moving a page makes a new frame, a
 * new leaf for each that names the page, new nodes up to the root, and new roots in the snapshots'
 * records. Digests are over content, so all of them stay, up to the snapshots' own.
 *
 * One round moves a bounded number of bytes:
 * C1: it works only on snapshots that nobody has under a lease when it begins, under leases of its
 *     own. So all that it reads stays.
 * C2: what it writes is in an id range of its own and garbage until the one transaction that puts
 *     the new roots into the records and drops the range.
 * C3: that transaction leaves a hidden, moved record with the old roots for each snapshot, which a
 *     collection drops when nobody has a lease on the snapshot (gc.c, I4). So a reader that was
 *     faster finds all that its record names.
 * C4: a record that is not as it was when the round began is left alone.
 */
#include <stdio.h>
#include <string.h>

#include "store/compact_round.h"
#include "store/gc.h"

enum {
	LIVE_PERCENT = 75,
	ROUNDS_MAX = 1 << 20, /* against going round for ever on a fault of ours */
};
#define ROUND_BYTES (32 * MIB)    /* live bytes that one round moves */
#define ROUND_BYTES_MIN (4 * MIB) /* with less room none is begun */

/* How much a round may write: it needs that room once more, for a while. */
static struct err *round_bytes(struct family *f, uint64_t *ret_bytes)
{
	struct lenv_space sp;
	TRY(lenv_space(f->env, &sp));
	uint64_t have = (sp.disk_free_bytes + sp.backed_bytes) / 2;
	ENSURE(have >= ROUND_BYTES_MIN, ERR_NOSPACE,
	       "store %s: the disk is full: compaction needs %llu MiB for a while; remove "
	       "snapshots or files",
	       f->dir, ROUND_BYTES_MIN * 2 / MIB);
	*ret_bytes = MIN(have, ROUND_BYTES);
	return NULL;
}

struct err *compact_cancelled(const struct compact *c)
{
	ENSURE(c->opts->cancel == NULL || !__atomic_load_n(c->opts->cancel, __ATOMIC_RELAXED),
	       ERR_CANCELLED, "the compaction was given up");
	return NULL;
}

static struct err *one_round(struct compact *c, struct compact_result *res, bool *ret_more)
{
	SCOPE(compact_round_done) struct compact_round r = { .c = c, .f = c->f };
	uint64_t budget = 0;
	TRY(round_bytes(c->f, &budget));
	if (c->opts->max_bytes != 0) {
		budget = MIN(budget, c->opts->max_bytes);
	}
	TRY(compact_cancelled(c));
	TRY(compact_choose(&r, budget));
	*ret_more = r.nvictims > 0;
	if (!*ret_more) {
		return NULL;
	}
	TRY(compact_move(&r));
	TRY(compact_cancelled(c));
	TRY(compact_remap(&r));
	TRY(compact_cancelled(c));
	TRY(compact_switch(&r));
	res->rounds++;
	res->frames_moved += r.nmoved;
	res->frames_made += r.frames_made;
	res->pages_moved += r.pages_moved;
	res->bytes_freed += r.old_bytes > r.new_bytes ? r.old_bytes - r.new_bytes : 0;
	c->done_bytes += r.new_bytes;
	if (c->opts->progress != NULL) {
		c->opts->progress(c->opts->arg, c->done_bytes, MAX(c->total_bytes, c->done_bytes));
	}
	return NULL;
}

static struct err *rounds(struct compact *c, struct compact_result *res)
{
	bool more = true;
	for (unsigned i = 0; more && i < ROUNDS_MAX; i++) {
		TRY(one_round(c, res, &more));
		struct gc_result unused;
		TRY(family_gc(c->f, &unused));
		more = more && c->opts->max_bytes == 0;
	}
	return NULL;
}

struct err *family_compact(struct family *f, const struct compact_opts *opts,
			   struct compact_result *ret_result)
{
	ENSURE(!f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	ENSURE(opts->live_percent <= 100, ERR_USAGE, "%u percent", opts->live_percent);
	char path[FAMILY_DIR_MAX + 16];
	snprintf(path, sizeof(path), "%s/compact.lock", f->dir);
	SCOPE(fd_close) struct fd lock = FD_NONE;
	bool got;
	TRY(holder_lock_file(path, HOLDER_TRY, true, &lock, &got));
	ENSURE(got, ERR_NOT_NOW, "family %s: it is being compacted by another process", f->dir);
	struct compact c = {
		.f = f,
		.opts = opts,
		.live_percent = opts->live_percent != 0 ? opts->live_percent : LIVE_PERCENT,
	};
	struct compact_result res = { 0 };
	struct gc_result unused;
	struct err *e = compact_cancelled(&c);
	if (e == NULL) {
		e = family_gc(f, &unused);
	}
	if (e == NULL) {
		e = rounds(&c, &res);
	}
	idset_done(&c.kept);
	TRY(e);
	TRY(family_punch(f, opts->max_bytes == 0, &res.bytes_punched));
	*ret_result = res;
	return NULL;
}
