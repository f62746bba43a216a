/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a power cut may leave of a directory: a model of files and names with what is durable and
 * what is not, fed with a trace of operations. One thread.
 *
 * Rules, no stronger than POSIX and Linux promise:
 * - Bytes: a write is durable once fsync or fdatasync on its file has returned. Before, each page
 *   (4 KiB, the unit of the page cache) may have any state between the durable one and the newest;
 *   in a torn page that holds for each sector of 512 bytes alone. So writes are reordered freely
 *   across pages and files; on one page they keep their order.
 * - A write through an O_DSYNC descriptor is durable when it has returned, and with it older bytes
 *   of the same pages, which the kernel writes as a whole; nothing else of that file.
 * - The length is durable with fsync and fdatasync; before, it may be any between. Bytes behind the
 *   durable ones that were not written yet read as zeros or as noise.
 * - Names (create, rename, link, unlink, mkdir) are durable once fsync on their directory has
 *   returned. Before, each name goes its own way: changes of one name keep their order, a rename is
 *   one step for both its names. fsync on a file does nothing for its name.
 */
#ifndef TORPOR_TEST_CRASH_FS_MODEL_H
#define TORPOR_TEST_CRASH_FS_MODEL_H

#include "core/base/err.h"
#include "tests/crash/crash_trace.h"

struct fs_model;

/* Starts with what is in dir now, all of it durable. */
MUST_USE struct err *fs_model_load(const char *dir, struct fs_model **ret_model);
void fs_model_free(struct fs_model *m);
DEFINE_SCOPE(struct fs_model, fs_model_free)

/* One operation. Its path and bytes must stay where they are. */
MUST_USE struct err *fs_model_apply(struct fs_model *m, const struct trace_head *h,
				    const char *path, const uint8_t *bytes);

enum fs_cut {
	FS_NOTHING, /* what was not durable is lost */
	FS_ALL,     /* everything made it, in time */
	FS_MIXED,   /* each page and name by lot */
	FS_TORN,    /* the same, with pages torn between sectors */
	FS__CUTS,
};
/*
 * The state after a cut now, written into the directory dir, which must be empty. `flight` is an
 * operation that has begun and not returned (may be NULL): it takes part as one that is not durable.
 * *ret_digest identifies the state, but for lock.mdb, whose bytes nobody may rely on.
 */
MUST_USE struct err *fs_model_cut(struct fs_model *m, const struct trace_head *flight,
				  const char *path, const uint8_t *bytes, enum fs_cut cut,
				  uint64_t seed, const char *dir, uint64_t *ret_digest);
/* Compares what all operations led to with a real directory, byte by byte but for lock.mdb. */
MUST_USE struct err *fs_model_compare(struct fs_model *m, const char *dir);

#endif
