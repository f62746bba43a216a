/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preload library: does every file operation below $CRASH_DIR itself and appends it, with its
 * bytes, to the trace $CRASH_TRACE. One lock is held over operation and record, so the trace is an
 * order in which the operations really took effect. Loaded into scenario.c by replay.c; any thread.
 *
 * What it does not catch would show: replay.c compares the directory that its trace leads to with
 * the real one.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/crash/crash_trace.h"

enum {
	FDS_MAX = 1024,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root; /* NULL: nothing is recorded */
static size_t root_len;
static int trace_fd = -1;
static uint32_t next_handle = 1;
static struct {
	uint32_t handle; /* 0: not below root */
	int flags;
} fds[FDS_MAX]; /* [lock] */

static void die(const char *what)
{
	fprintf(stderr, "recorder: %s: %s\n", what, strerror(errno));
	_exit(90);
}

static void lock_take(void)
{
	pthread_mutex_lock(&lock);
	if (root == NULL && getenv("CRASH_DIR") != NULL) {
		root = getenv("CRASH_DIR");
		root_len = strlen(root);
		trace_fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("CRASH_TRACE"),
					O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (trace_fd < 0) {
			die("opening the trace");
		}
	}
}

static void lock_drop(void)
{
	int e = errno;
	pthread_mutex_unlock(&lock);
	errno = e;
}

/* Everything of one operation; keeps errno. NEEDS(lock). */
static void put(struct trace_head h, const char *path, const void *p, size_t len)
{
	int e = errno;
	h.path_len = (uint16_t)(path == NULL ? 0 : strlen(path));
	h.len = (uint32_t)len;
	struct iovec v[3] = {
		{ &h, sizeof(h) },
		{ (void *)(uintptr_t)path, h.path_len },
		{ (void *)(uintptr_t)p, len },
	};
	if (syscall(SYS_writev, trace_fd, v, 3) != (long)(sizeof(h) + h.path_len + len)) {
		die("writing the trace");
	}
	errno = e;
}

/* The path below root, without its slash, empty for root itself; NULL if it is not there. out:
 * PATH_MAX bytes. */
static const char *below(int dirfd, const char *path, char *out)
{
	if (root == NULL) {
		return NULL;
	}
	if (path[0] == '/') {
		snprintf(out, PATH_MAX, "%s", path);
	} else {
		char link[64];
		char dir[PATH_MAX / 2] = "";
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
		if (syscall(SYS_readlinkat, AT_FDCWD, dirfd == AT_FDCWD ? "/proc/self/cwd" : link,
			    dir, sizeof(dir) - 1) < 0) {
			return NULL;
		}
		snprintf(out, PATH_MAX, "%s/%.2000s", dir, path);
	}
	if (strncmp(out, root, root_len) != 0) {
		return NULL;
	}
	out += root_len;
	return out[0] == '/' ? out + 1 : out[0] == 0 ? out : NULL;
}

static uint32_t handle_of(int fd)
{
	return fd >= 0 && fd < FDS_MAX ? fds[fd].handle : 0;
}

static bool is_synced(int fd)
{
	return (fds[fd].flags & O_DSYNC) != 0; /* O_SYNC contains it */
}

/* ---- opening and closing ---- */

static int do_open(int dirfd, const char *path, int flags, mode_t mode)
{
	char buf[PATH_MAX];
	lock_take();
	const char *rel = below(dirfd, path, buf);
	struct stat st;
	bool was = rel != NULL && fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
	int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
	if (fd >= FDS_MAX) {
		die("too many descriptors");
	}
	if (fd >= 0) {
		fds[fd].handle = rel != NULL ? next_handle++ : 0;
		fds[fd].flags = flags;
	}
	if (fd >= 0 && rel != NULL) {
		put((struct trace_head){ .op = TRACE_OPEN,
					 .made = !was,
					 .handle = fds[fd].handle,
					 .arg = flags },
		    rel, NULL, 0);
	}
	lock_drop();
	return fd;
}

#define MODE_OF(flags, mode)                                                                       \
	do {                                                                                       \
		if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                      \
			va_list ap;                                                                \
			va_start(ap, flags);                                                       \
			(mode) = va_arg(ap, mode_t);                                               \
			va_end(ap);                                                                \
		}                                                                                  \
	} while (0)

int open(const char *path, int flags, ...)
{
	mode_t mode = 0;
	MODE_OF(flags, mode);
	return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	mode_t mode = 0;
	MODE_OF(flags, mode);
	return do_open(AT_FDCWD, path, flags, mode);
}

int openat(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;
	MODE_OF(flags, mode);
	return do_open(dirfd, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
	mode_t mode = 0;
	MODE_OF(flags, mode);
	return do_open(dirfd, path, flags, mode);
}

/* What fortified programs call. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int dirfd, const char *path, int flags);
int __openat64_2(int dirfd, const char *path, int flags);
int __open_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}
int __open64_2(const char *path, int flags)
{
	return do_open(AT_FDCWD, path, flags, 0);
}
int __openat_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}
int __openat64_2(int dirfd, const char *path, int flags)
{
	return do_open(dirfd, path, flags, 0);
}

int close(int fd)
{
	lock_take();
	if (handle_of(fd) != 0) {
		put((struct trace_head){ .op = TRACE_CLOSE, .handle = fds[fd].handle }, NULL, NULL,
		    0);
		fds[fd].handle = 0;
	}
	int rc = (int)syscall(SYS_close, fd);
	lock_drop();
	return rc;
}

/* ---- writing ---- */

/* off < 0: at the descriptor's position. */
static ssize_t do_write(int fd, const struct iovec *v, int n, int64_t off)
{
	lock_take();
	if (handle_of(fd) == 0) {
		/* Not ours: without the lock, it may block. */
		lock_drop();
		return off < 0 ? syscall(SYS_writev, fd, v, n)
			       : syscall(SYS_pwritev, fd, v, n, off, 0);
	}
	if (off < 0) {
		off = syscall(SYS_lseek, fd, 0,
			      (fds[fd].flags & O_APPEND) != 0 ? SEEK_END : SEEK_CUR);
		if (off < 0) {
			die("lseek");
		}
		syscall(SYS_lseek, fd, off, SEEK_SET);
	}
	ssize_t rc = syscall(SYS_pwritev, fd, v, n, off, 0);
	ssize_t left = rc;
	for (int i = 0; i < n && left > 0; i++) {
		size_t len = v[i].iov_len < (size_t)left ? v[i].iov_len : (size_t)left;
		put((struct trace_head){ .op = TRACE_WRITE,
					 .made = is_synced(fd),
					 .handle = fds[fd].handle,
					 .off = (uint64_t)off },
		    NULL, v[i].iov_base, len);
		off += (int64_t)len;
		left -= (ssize_t)len;
	}
	lock_drop();
	return rc;
}

/* Moves the descriptor's position as write does. */
static ssize_t at_position(int fd, const struct iovec *v, int n)
{
	ssize_t rc = do_write(fd, v, n, -1);
	if (rc > 0 && handle_of(fd) != 0) {
		syscall(SYS_lseek, fd, rc, SEEK_CUR);
	}
	return rc;
}

ssize_t write(int fd, const void *p, size_t len)
{
	return at_position(fd, &(struct iovec){ (void *)(uintptr_t)p, len }, 1);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
	return at_position(fd, v, n);
}

ssize_t pwrite(int fd, const void *p, size_t len, off_t off)
{
	return do_write(fd, &(struct iovec){ (void *)(uintptr_t)p, len }, 1, off);
}

ssize_t pwrite64(int fd, const void *p, size_t len, off64_t off)
{
	return do_write(fd, &(struct iovec){ (void *)(uintptr_t)p, len }, 1, off);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
	return do_write(fd, v, n, off);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t off)
{
	return do_write(fd, v, n, off);
}

static int do_sync(int fd, long nr)
{
	lock_take();
	int rc = (int)syscall(nr, fd);
	if (rc == 0 && handle_of(fd) != 0) {
		put((struct trace_head){ .op = TRACE_SYNC, .handle = fds[fd].handle }, NULL, NULL,
		    0);
	}
	lock_drop();
	return rc;
}

int fsync(int fd)
{
	return do_sync(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return do_sync(fd, SYS_fdatasync);
}

static int do_truncate(int fd, int64_t len)
{
	lock_take();
	int rc = (int)syscall(SYS_ftruncate, fd, len);
	if (rc == 0 && handle_of(fd) != 0) {
		put((struct trace_head){ .op = TRACE_TRUNCATE,
					 .handle = fds[fd].handle,
					 .off = (uint64_t)len },
		    NULL, NULL, 0);
	}
	lock_drop();
	return rc;
}

int ftruncate(int fd, off_t len)
{
	return do_truncate(fd, len);
}

int ftruncate64(int fd, off64_t len)
{
	return do_truncate(fd, len);
}

/* A hole is a write of zeros that is not synced. NEEDS(lock). */
static void put_hole(int fd, int64_t off, int64_t len)
{
	static const uint8_t zeros[64 * 1024];
	while (len > 0) {
		size_t n = len < (int64_t)sizeof(zeros) ? (size_t)len : sizeof(zeros);
		put((struct trace_head){ .op = TRACE_WRITE,
					 .handle = fds[fd].handle,
					 .off = (uint64_t)off },
		    NULL, zeros, n);
		off += (int64_t)n;
		len -= (int64_t)n;
	}
}

/* Blocks without a new length change no byte; anything but holes would be a write unseen. */
static int do_fallocate(int fd, int mode, int64_t off, int64_t len)
{
	bool hole = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	lock_take();
	if (handle_of(fd) != 0 && mode != FALLOC_FL_KEEP_SIZE && !hole) {
		errno = EOPNOTSUPP;
		die("fallocate that changes bytes");
	}
	int rc = (int)syscall(SYS_fallocate, fd, mode, off, len);
	if (rc == 0 && handle_of(fd) != 0 && hole) {
		put_hole(fd, off, len);
	}
	lock_drop();
	return rc;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	return do_fallocate(fd, mode, off, len);
}

int fallocate64(int fd, int mode, off64_t off, off64_t len)
{
	return do_fallocate(fd, mode, off, len);
}

static void *do_mmap(void *at, size_t len, int prot, int flags, int fd, int64_t off)
{
	void *p = (void *)syscall(SYS_mmap, at, len, prot, flags, fd, off);
	/* Only maps of files can matter; malloc itself does not come through here. */
	if (fd >= 0 && (flags & MAP_SHARED) != 0 && (prot & PROT_WRITE) != 0 &&
	    handle_of(fd) != 0) {
		lock_take();
		put((struct trace_head){ .op = TRACE_MAPPED, .handle = fds[fd].handle }, NULL, NULL,
		    0);
		lock_drop();
	}
	return p;
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	return do_mmap(at, len, prot, flags, fd, off);
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off64_t off)
{
	return do_mmap(at, len, prot, flags, fd, off);
}

/* ---- names ---- */

static int do_named(enum trace_op op, int dirfd, const char *path, long rc)
{
	char buf[PATH_MAX];
	const char *rel = rc == 0 ? below(dirfd, path, buf) : NULL;
	if (rel != NULL) {
		put((struct trace_head){ .op = (uint8_t)op }, rel, NULL, 0);
	}
	lock_drop();
	return (int)rc;
}

int mkdirat(int dirfd, const char *path, mode_t mode)
{
	lock_take();
	return do_named(TRACE_MKDIR, dirfd, path, syscall(SYS_mkdirat, dirfd, path, mode));
}

int mkdir(const char *path, mode_t mode)
{
	return mkdirat(AT_FDCWD, path, mode);
}

int unlinkat(int dirfd, const char *path, int flags)
{
	lock_take();
	return do_named(TRACE_UNLINK, dirfd, path, syscall(SYS_unlinkat, dirfd, path, flags));
}

int unlink(const char *path)
{
	return unlinkat(AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
	return unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}

static int do_pair(enum trace_op op, int adir, const char *a, int bdir, const char *b, long rc)
{
	char abuf[PATH_MAX];
	char bbuf[PATH_MAX];
	const char *ra = rc == 0 ? below(adir, a, abuf) : NULL;
	const char *rb = rc == 0 ? below(bdir, b, bbuf) : NULL;
	if ((ra == NULL) != (rb == NULL)) {
		die("a name that moves into or out of the directory");
	}
	if (ra != NULL) {
		put((struct trace_head){ .op = (uint8_t)op }, ra, rb, strlen(rb));
	}
	lock_drop();
	return (int)rc;
}

int renameat2(int adir, const char *a, int bdir, const char *b, unsigned flags)
{
	lock_take();
	return do_pair(TRACE_RENAME, adir, a, bdir, b,
		       syscall(SYS_renameat2, adir, a, bdir, b, flags));
}

int renameat(int adir, const char *a, int bdir, const char *b)
{
	return renameat2(adir, a, bdir, b, 0);
}

int rename(const char *a, const char *b)
{
	return renameat2(AT_FDCWD, a, AT_FDCWD, b, 0);
}

int linkat(int adir, const char *a, int bdir, const char *b, int flags)
{
	lock_take();
	return do_pair(TRACE_LINK, adir, a, bdir, b, syscall(SYS_linkat, adir, a, bdir, b, flags));
}

int link(const char *a, const char *b)
{
	return linkat(AT_FDCWD, a, AT_FDCWD, b, 0);
}

/* ---- marks ---- */

void crash_mark(int kind, int number);
void crash_mark(int kind, int number)
{
	lock_take();
	if (root != NULL) {
		put((struct trace_head){ .op = TRACE_MARK, .off = (uint64_t)kind, .arg = number },
		    NULL, NULL, 0);
	}
	lock_drop();
}
