/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery of a damaged store into a new one. Called by `torpor store recover` on the only thread
 * of its process.
 */
#ifndef TORPOR_STORE_SALVAGE_H
#define TORPOR_STORE_SALVAGE_H

#include "store/store.h"

enum salvage_kind {
	SALVAGE_SAVED, /* a snapshot that is whole in the new store */
	SALVAGE_LOST,  /* a snapshot, a family or the catalog that is not */
	SALVAGE_NOTE,  /* what was done about damage */
};
/* what: "web@before-upgrade", "family UUID", "catalog"; why: "" or a sentence. Both are borrowed.
 */
typedef void salvage_report_fn(void *arg, enum salvage_kind kind, const char *what,
			       const char *why);

struct salvage_result {
	uint64_t saved;
	uint64_t lost;
};

/*
 * Makes a new store in `to` (absent or empty) with every snapshot of the store in `from` that
 * verifies. Nothing in `from` is written to: all work is done on copies in "<to>.work", removed at
 * the end. Each family is tried as it is and, unless that is sound, as the commit before its last
 * one left it; a family that is sound in one of these ways is taken over as it is, from others the
 * sound snapshots are copied. Where that leaves a snapshot or the list of them unread, records are
 * looked for in all of the file by their magic numbers and checksums, and the snapshots of which
 * everything is found are copied; without a list that may bring a removed one back. What cannot be
 * saved is reported and is no error.
 * Errors: ERR_NOT_NOW (in use, or `to` is not empty), ERR_NOTFOUND, ERR_INCOMPAT (another format
 * version), ERR_NOSPACE and ERR_SYS of the new store; then `to` is incomplete.
 */
MUST_USE struct err *store_salvage(const char *from, const char *to, salvage_report_fn *report,
				   void *arg, struct salvage_result *ret_result);

#endif
