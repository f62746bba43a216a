/* SPDX-License-Identifier: Apache-2.0 */
/* Copies of LMDB data files and their two meta pages. For salvage.c; one thread. */
#ifndef TORPOR_STORE_SALVAGE_FILE_H
#define TORPOR_STORE_SALVAGE_FILE_H

#include "core/base/err.h"

/* Copies a file into a new one and syncs it. Reads that the disk refuses end it: ERR_SYS. */
MUST_USE struct err *salvage_copy(const char *from, const char *to);
/*
 * Makes meta page `keep` (0 or 1) the newest of the data file, in place: the other one is replaced
 * by that of an empty environment one transaction older. LMDB's last commit leaves the pages of
 * the one before it alone, so the older meta page of a file is as good as the newer one.
 * *ret_txnid: of the page kept. ERR_CORRUPT: that page cannot be a meta page, or pages that it
 * counts on are not in the file.
 */
MUST_USE struct err *salvage_meta_keep(const char *data_file, unsigned keep, uint64_t *ret_txnid);
/* Removes a directory with all that is in it. Absent is fine. */
MUST_USE struct err *salvage_rmtree(const char *dir);

#endif
