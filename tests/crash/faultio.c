/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See faultio.h. Defines the functions that LMDB and torpor use on data files, over bare system
 * calls; any thread. Linked into faults.c: the dynamic linker gives these to liblmdb, too.
 */
#include "tests/crash/faultio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_bool armed;
static dev_t device;
static enum faultio_kind kind;
static uint64_t fault_n;
static atomic_ullong seen;
static atomic_bool fired;
static const char *_Atomic what;

void faultio_arm(dev_t dev, enum faultio_kind k, uint64_t n)
{
	device = dev;
	kind = k;
	fault_n = n;
	atomic_store(&seen, 0);
	atomic_store(&fired, false);
	what = "-";
	atomic_store(&armed, true);
}

uint64_t faultio_disarm(bool *ret_fired)
{
	atomic_store(&armed, false);
	*ret_fired = atomic_load(&fired);
	return atomic_load(&seen);
}

const char *faultio_what(void)
{
	return what;
}

/* 0: go on; an errno; or -1: move half of it. */
static int verdict(int fd, const char *name, bool room, bool transfer)
{
	struct stat st;
	if (!atomic_load(&armed) || syscall(SYS_fstat, fd, &st) != 0 || st.st_dev != device ||
	    !S_ISREG(st.st_mode)) {
		return 0;
	}
	bool counts = kind == FAULTIO_EIO || kind == FAULTIO_DEAD ||
		      (kind == FAULTIO_SHORT && transfer) ||
		      (room && (kind == FAULTIO_ENOSPC || kind == FAULTIO_FULL));
	if (!counts) {
		return 0;
	}
	uint64_t k = atomic_fetch_add(&seen, 1) + 1;
	bool sticky = kind == FAULTIO_DEAD || kind == FAULTIO_FULL;
	if (fault_n == 0 || k < fault_n || (k > fault_n && !sticky)) {
		return 0;
	}
	if (!atomic_exchange(&fired, true)) {
		what = name;
	}
	return kind == FAULTIO_SHORT                            ? -1
	       : kind == FAULTIO_ENOSPC || kind == FAULTIO_FULL ? ENOSPC
								: EIO;
}

/* Runs `call` unless the operation is to fail; `half` instead of it for a short one. */
#define FAULTY(fd, name, room, transfer, call, half)                                               \
	do {                                                                                       \
		int v_ = verdict((fd), (name), (room), (transfer));                                \
		if (v_ > 0) {                                                                      \
			errno = v_;                                                                \
			return -1;                                                                 \
		}                                                                                  \
		return v_ < 0 ? (half) : (call);                                                   \
	} while (0)

static size_t half_of(size_t n)
{
	return n > 1 ? n / 2 : n;
}

ssize_t read(int fd, void *p, size_t n)
{
	FAULTY(fd, "read", false, true, syscall(SYS_read, fd, p, n),
	       syscall(SYS_read, fd, p, half_of(n)));
}

ssize_t pread(int fd, void *p, size_t n, off_t off)
{
	FAULTY(fd, "pread", false, true, syscall(SYS_pread64, fd, p, n, off),
	       syscall(SYS_pread64, fd, p, half_of(n), off));
}

ssize_t pread64(int fd, void *p, size_t n, off64_t off) __attribute__((alias("pread")));

ssize_t write(int fd, const void *p, size_t n)
{
	FAULTY(fd, "write", true, true, syscall(SYS_write, fd, p, n),
	       syscall(SYS_write, fd, p, half_of(n)));
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t off)
{
	FAULTY(fd, "pwrite", true, true, syscall(SYS_pwrite64, fd, p, n, off),
	       syscall(SYS_pwrite64, fd, p, half_of(n), off));
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t off) __attribute__((alias("pwrite")));

ssize_t writev(int fd, const struct iovec *v, int n)
{
	FAULTY(fd, "writev", true, true, syscall(SYS_writev, fd, v, n),
	       syscall(SYS_write, fd, v[0].iov_base, half_of(v[0].iov_len)));
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
	FAULTY(fd, "pwritev", true, true, syscall(SYS_pwritev, fd, v, n, off, 0),
	       syscall(SYS_pwrite64, fd, v[0].iov_base, half_of(v[0].iov_len), off));
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t off)
	__attribute__((alias("pwritev")));

int fsync(int fd)
{
	FAULTY(fd, "fsync", true, false, (int)syscall(SYS_fsync, fd), -1);
}

int fdatasync(int fd)
{
	FAULTY(fd, "fdatasync", true, false, (int)syscall(SYS_fdatasync, fd), -1);
}

int ftruncate(int fd, off_t n)
{
	FAULTY(fd, "ftruncate", true, false, (int)syscall(SYS_ftruncate, fd, n), -1);
}

int ftruncate64(int fd, off64_t n) __attribute__((alias("ftruncate")));

int fallocate(int fd, int mode, off_t off, off_t n)
{
	FAULTY(fd, "fallocate", true, false, (int)syscall(SYS_fallocate, fd, mode, off, n), -1);
}

int fallocate64(int fd, int mode, off64_t off, off64_t n) __attribute__((alias("fallocate")));
