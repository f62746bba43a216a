/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole reads and writes, and the few file-system steps that must be right: open, sync of file and
 * directory, atomic replace, byte-range (OFD) locks. Interrupted calls are repeated; a read of 0
 * bytes is the end of the file and never progress. Any thread.
 */
#ifndef TORPOR_BASE_IO_H
#define TORPOR_BASE_IO_H

#include <sys/types.h>

#include "core/base/err.h"

/* Opens with O_CLOEXEC. The message names `path`. */
MUST_USE struct err *io_open(const char *path, int flags, mode_t mode, struct fd *ret_fd);
MUST_USE struct err *io_openat(int dirfd, const char *name, int flags, mode_t mode,
			       struct fd *ret_fd);
/*
 * Creates the directory and its parents with mode 0700, durably: the directory of each new name is
 * synced. An existing directory is success.
 */
MUST_USE struct err *io_mkdirs(const char *path);
/* Reads exactly len bytes; ERR_CORRUPT when the file ends before. */
MUST_USE struct err *io_read_full(int fd, void *ret, size_t len);
MUST_USE struct err *io_pread_full(int fd, void *ret, size_t len, uint64_t off);
MUST_USE struct err *io_write_full(int fd, const void *p, size_t len);
MUST_USE struct err *io_pwrite_full(int fd, const void *p, size_t len, uint64_t off);
MUST_USE struct err *io_size(int fd, uint64_t *ret_bytes); /* regular files and block devices */
/* Reads a whole file of at most max bytes into new memory (one NUL is added after the end). */
MUST_USE struct err *io_slurp(const char *path, size_t max, uint8_t **ret_p, size_t *ret_len);
MUST_USE struct err *io_sync_file(int fd);
MUST_USE struct err *io_sync_dir(const char *path);
/* Writes name.tmp, syncs it, renames it over `name`, syncs the directory. */
MUST_USE struct err *io_replace(const char *dir, const char *name, const void *p, size_t len);
/*
 * Exclusive open-file-description lock on the whole file, without waiting. *ret_got says whether it
 * is ours now. It lives until the last descriptor of this open closes, also across fork.
 */
MUST_USE struct err *io_try_lock(int fd, bool *ret_got);
/* Does anybody else hold the lock? Takes nothing. */
MUST_USE struct err *io_is_locked(int fd, bool *ret_locked);

#endif
