/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot prune`: removes the snapshots of a VM that a policy does not keep. Called by
 * main. */
#include <stdio.h>

#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Removes the snapshots of a VM that no rule keeps; then, with --max-bytes, the oldest "
	"ones\n"
	"until the rest fits. Pinned snapshots and the newest one always stay. Hours and days are\n"
	"those of UTC. Works on a full disk. Exit status 1 if the rest does not fit.";

struct pruning {
	struct store_vm vm;
	struct snap_info *snap; /* owned; oldest first */
	size_t n;
	bool *doomed;  /* owned */
	uint64_t *ids; /* owned; of all of them */
	uint64_t bytes;
};

static void pruning_done(struct pruning *p)
{
	free(p->snap);
	free(p->doomed);
	free(p->ids);
}

/* Oldest first, until what is left has at most max bytes. */
static struct err *apply_quota(struct pruning *p, struct family *f, uint64_t max)
{
	TRY(vm_bytes(f, p->vm.uuid, p->ids, p->doomed, p->n, &p->bytes));
	for (size_t i = 0; max != 0 && p->bytes > max && i + 1 < p->n; i++) {
		if (!p->doomed[i] && !p->snap[i].pinned) {
			p->doomed[i] = true;
			TRY(vm_bytes(f, p->vm.uuid, p->ids, p->doomed, p->n, &p->bytes));
		}
	}
	return NULL;
}

static struct err *remove_doomed(struct pruning *p, struct family *f)
{
	SCOPE(freep) uint64_t *gone = calloc(p->n + 1, sizeof(*gone));
	ENSURE(gone != NULL, ERR_SYS, "out of memory");
	size_t n = 0;
	for (size_t i = 0; i < p->n; i++) {
		if (p->doomed[i]) {
			gone[n++] = p->snap[i].id;
		}
	}
	if (n == 0) {
		return NULL;
	}
	uint64_t unused;
	TRY(family_remove_unpinned(f, gone, n));
	return family_punch(f, false, &unused);
}

static struct err *tell(const struct args *a, const struct pruning *p, bool dry, uint64_t max)
{
	json_t *removed = json_array();
	json_t *kept = json_array();
	size_t n = 0;
	for (size_t i = 0; i < p->n; i++) {
		char ref[STORECMD_REF_BYTES];
		storecmd_ref(&p->vm, &p->snap[i], ref, sizeof(ref));
		json_array_append_new(p->doomed[i] ? removed : kept, json_string(ref));
		n += p->doomed[i];
		if (!a->json && p->doomed[i]) {
			printf("%s %s\n", dry ? "would remove" : "removed", ref);
		}
	}
	bool fits = max == 0 || p->bytes <= max;
	if (a->json) {
		return out_json(json_pack("{s:b,s:o,s:o,s:I,s:b}", "dry_run", (int)dry, "removed",
					  removed, "kept", kept, "bytes", (json_int_t)p->bytes,
					  "fits", (int)fits));
	}
	json_decref(removed);
	json_decref(kept);
	char text[16];
	printf("%zu of %zu snapshots of %s stay, %s%s\n", p->n - n, p->n, p->vm.name,
	       out_size(p->bytes, text), fits ? "" : ": more than --max-bytes allows");
	return NULL;
}

static struct err *load(struct pruning *p, struct store *s, const char *name)
{
	bool found = false;
	TRY(store_vm_by_name(s, name, &found, &p->vm));
	ENSURE(found, ERR_NOTFOUND, "the store has no VM '%s': see 'torpor snapshot list'", name);
	TRY(storecmd_snaps(s, &p->vm, &p->snap, &p->n));
	p->doomed = calloc(p->n + 1, sizeof(*p->doomed));
	p->ids = calloc(p->n + 1, sizeof(*p->ids));
	ENSURE(p->doomed != NULL && p->ids != NULL, ERR_SYS, "out of memory");
	for (size_t i = 0; i < p->n; i++) {
		p->ids[i] = p->snap[i].id;
	}
	return NULL;
}

struct err *cmd_prune(struct args *a, int *ret_status)
{
	struct prune_policy policy = { 0 };
	uint64_t max = 0;
	bool dry = false;
	const struct opt opts[] = {
		{ "keep-last", "N", OPT_UINT, &policy.keep_last, "keep the newest N" },
		{ "keep-hourly", "N", OPT_UINT, &policy.keep_hourly,
		  "keep the newest of each of the last N hours that have one" },
		{ "keep-daily", "N", OPT_UINT, &policy.keep_daily,
		  "keep the newest of each of the last N days that have one" },
		{ "max-bytes", "SIZE", OPT_SIZE, &max,
		  "remove the oldest until the rest takes at most SIZE" },
		{ "dry-run", NULL, OPT_FLAG, &dry, "only say what would be removed" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	ENSURE(policy.keep_last != 0 || policy.keep_hourly != 0 || policy.keep_daily != 0 ||
		       max != 0,
	       ERR_USAGE,
	       "say what to keep: --keep-last, --keep-hourly, --keep-daily, --max-bytes");
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, dry ? STORE_READ : STORE_WRITE, &s));
	SCOPE(pruning_done) struct pruning p = { 0 };
	TRY(load(&p, s, a->pos[0]));
	if (p.n > 0) {
		SCOPE(family_closep) struct family *f = NULL;
		TRY(family_open(s, p.vm.family, false, &f));
		prune_choose(p.snap, p.n, &policy, p.doomed);
		TRY(apply_quota(&p, f, max));
		if (!dry) {
			TRY(remove_doomed(&p, f));
		}
	}
	*ret_status = max == 0 || p.bytes <= max ? 0 : 1;
	return tell(a, &p, dry, max);
}
