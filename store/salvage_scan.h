/* SPDX-License-Identifier: Apache-2.0 */
/* Finds records by what they say of themselves, without LMDB's trees. For salvage.c; one thread. */
#ifndef TORPOR_STORE_SALVAGE_SCAN_H
#define TORPOR_STORE_SALVAGE_SCAN_H

#include "store/family.h"

struct salvage_scanned {
	uint64_t records; /* put into the new family */
	uint64_t snaps;   /* of these: snapshot records */
};

/*
 * Puts every frame, leaf, node, blob and snapshot record of family `uuid` that is anywhere in
 * data_file into `to`, a new and empty family of the same uuid. What is there belongs to any time:
 * of a snapshot that was being removed the hidden record counts, and of two with the same tag the
 * younger one; whether all that a snapshot needs is there, only verifying it can tell.
 * Pages that cannot be read are left out. Errors: those of writing to `to`.
 */
MUST_USE struct err *salvage_scan(const char *data_file, struct family *to,
				  struct salvage_scanned *ret);

#endif
