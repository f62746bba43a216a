/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes. See io.h. */
#include "core/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

struct err *io_openat(int dirfd, const char *name, int flags, mode_t mode, struct fd *ret_fd)
{
	int n;
	do {
		n = openat(dirfd, name, flags | O_CLOEXEC, mode);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return ERR_ERRNO("%s", name);
	}
	ret_fd->n = n;
	return NULL;
}

struct err *io_open(const char *path, int flags, mode_t mode, struct fd *ret_fd)
{
	return io_openat(AT_FDCWD, path, flags, mode, ret_fd);
}

/* Makes the name `path` durable. A directory that we may write but not read cannot be synced. */
static struct err *sync_parent(const char *path)
{
	char dir[4096 + 4];
	const char *slash = strrchr(path, '/');
	int len = slash == NULL ? 0 : (int)(slash - path);
	snprintf(dir, sizeof(dir), "%.*s%s", len, path,
		 slash == NULL   ? "."
		 : slash == path ? "/"
				 : "");
	struct err *e = io_sync_dir(dir);
	if (e != NULL && err_errno(e) == EACCES) {
		err_drop(e, "no right to read it; the name lasts from the next sync of the file "
			    "system");
		return NULL;
	}
	return e;
}

struct err *io_mkdirs(const char *path)
{
	char buf[4096];
	size_t len = strlen(path);
	ENSURE(len > 0 && len < sizeof(buf), ERR_USAGE, "directory name of %zu bytes", len);
	memcpy(buf, path, len + 1);
	for (size_t i = 1; i <= len; i++) {
		if (buf[i] != '/' && buf[i] != '\0') {
			continue;
		}
		char keep = buf[i];
		buf[i] = '\0';
		bool made = mkdir(buf, 0700) == 0;
		if (!made && errno != EEXIST) {
			return ERR_ERRNO("creating directory %s", buf);
		}
		if (made) {
			TRY(sync_parent(buf));
		}
		buf[i] = keep;
	}
	struct stat st;
	if (stat(path, &st) < 0) {
		return ERR_ERRNO("%s", path);
	}
	ENSURE(S_ISDIR(st.st_mode), ERR_NOT_NOW, "%s is not a directory", path);
	return NULL;
}

struct err *io_read_full(int fd, void *ret, size_t len)
{
	uint8_t *p = ret;
	while (len > 0) {
		ssize_t n = read(fd, p, len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("read");
		}
		ENSURE(n > 0, ERR_CORRUPT, "file ends %zu bytes early", len);
		p += n;
		len -= (size_t)n;
	}
	return NULL;
}

struct err *io_pread_full(int fd, void *ret, size_t len, uint64_t off)
{
	uint8_t *p = ret;
	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)off);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("read at offset %llu", (unsigned long long)off);
		}
		ENSURE(n > 0, ERR_CORRUPT, "file ends %zu bytes early at offset %llu", len,
		       (unsigned long long)off);
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return NULL;
}

struct err *io_write_full(int fd, const void *p, size_t len)
{
	const uint8_t *b = p;
	while (len > 0) {
		ssize_t n = write(fd, b, len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("write");
		}
		ENSURE(n > 0, ERR_SYS, "write made no progress");
		b += n;
		len -= (size_t)n;
	}
	return NULL;
}

struct err *io_pwrite_full(int fd, const void *p, size_t len, uint64_t off)
{
	const uint8_t *b = p;
	while (len > 0) {
		ssize_t n = pwrite(fd, b, len, (off_t)off);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("write at offset %llu", (unsigned long long)off);
		}
		ENSURE(n > 0, ERR_SYS, "write made no progress");
		b += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return NULL;
}

struct err *io_size(int fd, uint64_t *ret_bytes)
{
	struct stat st;
	if (fstat(fd, &st) < 0) {
		return ERR_ERRNO("stat");
	}
	if (S_ISREG(st.st_mode)) {
		*ret_bytes = (uint64_t)st.st_size;
		return NULL;
	}
	if (S_ISBLK(st.st_mode)) {
		uint64_t n = 0;
		if (ioctl(fd, BLKGETSIZE64, &n) < 0) {
			return ERR_ERRNO("size of the block device");
		}
		*ret_bytes = n;
		return NULL;
	}
	return ERR(ERR_USAGE, "is %s, not a regular file or a block device",
		   S_ISDIR(st.st_mode) ? "a directory" : "a special file");
}

struct err *io_slurp(const char *path, size_t max, uint8_t **ret_p, size_t *ret_len)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(path, O_RDONLY, 0, &f));
	size_t cap = MIN((size_t)4096, max);
	size_t len = 0;
	SCOPE(freep) uint8_t *p = malloc(cap + 1);
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	for (;;) {
		if (len >= cap && cap < max) {
			cap = MIN(cap * 2, max);
			uint8_t *bigger = realloc(p, cap + 1);
			ENSURE(bigger != NULL, ERR_SYS, "out of memory");
			p = bigger;
		}
		/* The byte kept for NUL tells a file of max bytes from a longer one. */
		ssize_t n = read(f.n, p + len, cap + 1 - len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return ERR_ERRNO("%s", path);
		}
		if (n == 0) {
			break;
		}
		len += (size_t)n;
		ENSURE(len <= max, ERR_LIMIT, "%s: larger than %zu bytes", path, max);
	}
	p[len] = 0;
	*ret_len = len;
	*ret_p = MOVE(p);
	return NULL;
}

struct err *io_sync_file(int fd)
{
	if (fsync(fd) < 0) {
		return ERR_ERRNO("fsync");
	}
	return NULL;
}

struct err *io_sync_dir(const char *path)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(path, O_RDONLY | O_DIRECTORY, 0, &f));
	return err_wrap(io_sync_file(f.n), "%s", path);
}

struct err *io_replace(const char *dir, const char *name, const void *p, size_t len)
{
	char tmp[4096];
	char dst[4096];
	int a = snprintf(tmp, sizeof(tmp), "%s/%s.tmp", dir, name);
	int b = snprintf(dst, sizeof(dst), "%s/%s", dir, name);
	ENSURE(a > 0 && (size_t)a < sizeof(tmp) && b > 0, ERR_USAGE, "path too long: %s/%s", dir,
	       name);
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600, &f));
	struct err *e = io_write_full(f.n, p, len);
	if (e == NULL) {
		e = io_sync_file(f.n);
	}
	if (e == NULL && rename(tmp, dst) < 0) {
		e = ERR_ERRNO("renaming to %s", dst);
	}
	if (e != NULL) {
		unlink(tmp);
		return err_wrap(e, "%s", tmp);
	}
	return io_sync_dir(dir);
}

static struct flock whole_file(short type)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET };
}

struct err *io_try_lock(int fd, bool *ret_got)
{
	struct flock l = whole_file(F_WRLCK);
	if (fcntl(fd, F_OFD_SETLK, &l) == 0) {
		*ret_got = true;
		return NULL;
	}
	if (errno == EAGAIN || errno == EACCES) {
		*ret_got = false;
		return NULL;
	}
	return ERR_ERRNO("locking");
}

struct err *io_is_locked(int fd, bool *ret_locked)
{
	struct flock l = whole_file(F_WRLCK);
	if (fcntl(fd, F_OFD_GETLK, &l) < 0) {
		return ERR_ERRNO("asking for a lock");
	}
	*ret_locked = l.l_type != F_UNLCK;
	return NULL;
}
