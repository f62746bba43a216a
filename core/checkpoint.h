/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Continuous checkpoints of one VM: asks for a take whenever the interval since the last freeze is
 * over, so that a crash of the host or of torpor loses at most that much of the guest's time.
 *
 * Everything here runs on the main loop's thread. It knows neither the VM nor the store: it is
 * given a function that begins a take (checkpoint_ops), so a test needs no VM.
 */
#ifndef TORPOR_CORE_CHECKPOINT_H
#define TORPOR_CORE_CHECKPOINT_H

#include "core/loop.h"
#include "snapshot/snapshot.h"

#define CHECKPOINT_EVERY_MIN_NS 1000000000ull /* 1 s */
#define CHECKPOINT_EVERY_MAX_NS (366ull * 24 * 3600 * 1000000000ull)
#define CHECKPOINT_KEEP_MAX 100000u /* of each rule */
#define CHECKPOINT_TAG_PREFIX "auto-"

enum { CHECKPOINT_TEXT_MAX = 63 }; /* of an interval, of rules */

struct checkpoint;

struct checkpoint_policy {
	uint64_t every_ns;        /* 0: none */
	struct prune_policy keep; /* of the automatic snapshots; no rule: all stay */
};

/*
 * e is owned by the callee; result is valid when e is NULL. ERR_CANCELLED: an explicit take is in
 * its place, or nobody wanted it. ERR_NOT_NOW: it gave way to something short and is tried again
 * soon.
 */
typedef void checkpoint_done_fn(void *arg, struct err *e, const struct snap_result *result);
struct checkpoint_ops {
	/*
	 * Begins an automatic take with this tag, which also removes the automatic snapshots that
	 * `keep` does not name. done runs later, on the loop, exactly once if NULL was returned.
	 * ERR_NOT_NOW: a take or something like it is under way; it is tried again soon.
	 */
	struct err *(*take)(void *self, const char *tag, const struct prune_policy *keep,
			    checkpoint_done_fn *done, void *arg);
	/* False while a take would give what the last one gave: the VM has not run since. */
	bool (*ran)(void *self);
};

struct checkpoint_status {
	struct checkpoint_policy policy;
	bool taking;
	uint64_t last_frozen_ns; /* CLOCK_REALTIME of the last one that succeeded, 0: none yet */
	uint64_t last_number;
	uint64_t taken, failed; /* counts since the VM's process began */
	char last_error[256];   /* "" after a success */
};

MUST_USE struct err *checkpoint_new(struct loop *loop, const struct checkpoint_ops *ops, void *self,
				    struct checkpoint **ret_c);
/* No take of it may be under way any more: end the VM's takes first. NULL is fine. */
void checkpoint_free(struct checkpoint *c);
DEFINE_SCOPE(struct checkpoint, checkpoint_free)

/* In force at once; the interval counts from now. ERR_USAGE, ERR_LIMIT. */
MUST_USE struct err *checkpoint_set(struct checkpoint *c, const struct checkpoint_policy *p);
void checkpoint_status(const struct checkpoint *c, struct checkpoint_status *ret);

/* "30s", "5m", "2h", "1d"; "off" is 0. ERR_USAGE names what is wrong. */
MUST_USE struct err *checkpoint_parse_every(const char *text, uint64_t *ret_ns);
/* "10", "10,hourly=24,daily=7", "hourly=24"; "all" is no rule. ERR_USAGE. */
MUST_USE struct err *checkpoint_parse_keep(const char *text, struct prune_policy *ret);
/* The other way round: what the two above read as the same. */
void checkpoint_every_text(uint64_t ns, char ret[CHECKPOINT_TEXT_MAX + 1]);
void checkpoint_keep_text(const struct prune_policy *p, char ret[CHECKPOINT_TEXT_MAX + 1]);

#endif
