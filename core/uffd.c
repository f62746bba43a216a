/* SPDX-License-Identifier: Apache-2.0 */
/* userfaultfd(2). See uffd.h; called by pager.c, swap_mem.c and by tools at the start of a restore.
 */
#include "core/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "core/base/limits.h"

/* Of kernels newer than the build host's headers may be. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { READ_MAX = 16 };

static int open_any(void)
{
	/* The device first: it needs no capability, only the file's permission. */
	SCOPE(fd_close) struct fd dev = { open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) };
	if (dev.n >= 0) {
		int fd = ioctl(dev.n, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0) {
			return fd;
		}
	}
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

static struct err *open_with(bool minor, struct fd *ret_uffd)
{
	SCOPE(fd_close) struct fd fd = { open_any() };
	if (fd.n < 0 && errno == ENOSYS) {
		return ERR(ERR_INCOMPAT, "this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
	}
	if (fd.n < 0 && (errno == EPERM || errno == EACCES)) {
		return ERR(ERR_INCOMPAT,
			   "no permission for userfaultfd: give this user read and write access to "
			   "/dev/userfaultfd, or set vm.unprivileged_userfaultfd=1");
	}
	if (fd.n < 0) {
		return ERR_ERRNO("userfaultfd");
	}
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID,
	};
	if (minor) {
		api.features |= UFFD_FEATURE_MINOR_SHMEM;
	}
	if (ioctl(fd.n, UFFDIO_API, &api) != 0) {
		ENSURE(errno != EINVAL || !minor, ERR_INCOMPAT,
		       "this kernel's userfaultfd cannot tell of pages that are only unmapped: it "
		       "takes Linux 5.14");
		ENSURE(errno != EINVAL, ERR_INCOMPAT,
		       "this kernel's userfaultfd cannot serve shared memory");
		return ERR_ERRNO("userfaultfd: UFFDIO_API");
	}
	*ret_uffd = fd_move(&fd);
	return NULL;
}

struct err *uffd_open(struct fd *ret_uffd)
{
	return open_with(false, ret_uffd);
}

struct err *uffd_open_minor(struct fd *ret_uffd)
{
	return open_with(true, ret_uffd);
}

static struct err *register_as(int uffd, void *p, uint64_t len_bytes, uint64_t mode,
			       uint64_t ioctls)
{
	struct uffdio_register r = {
		.range = { .start = (uint64_t)(uintptr_t)p, .len = len_bytes },
		.mode = mode,
	};
	if (ioctl(uffd, UFFDIO_REGISTER, &r) != 0) {
		return ERR_ERRNO("userfaultfd: registering %llu bytes",
				 (unsigned long long)len_bytes);
	}
	ENSURE((r.ioctls & ioctls) == ioctls, ERR_INCOMPAT,
	       "userfaultfd: this memory cannot be served (ioctls 0x%llx)",
	       (unsigned long long)r.ioctls);
	return NULL;
}

struct err *uffd_register(int uffd, void *p, uint64_t len_bytes)
{
	return register_as(uffd, p, len_bytes, UFFDIO_REGISTER_MODE_MISSING,
			   1ull << _UFFDIO_COPY | 1ull << _UFFDIO_WAKE);
}

struct err *uffd_register_minor(int uffd, void *p, uint64_t len_bytes)
{
	return register_as(uffd, p, len_bytes,
			   UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
			   1ull << _UFFDIO_COPY | 1ull << _UFFDIO_WAKE | 1ull << _UFFDIO_CONTINUE);
}

struct err *uffd_unregister(int uffd, void *p, uint64_t len_bytes)
{
	struct uffdio_range r = { .start = (uint64_t)(uintptr_t)p, .len = len_bytes };
	if (ioctl(uffd, UFFDIO_UNREGISTER, &r) != 0) {
		return ERR_ERRNO("userfaultfd: unregistering");
	}
	return NULL;
}

struct err *uffd_read(int uffd, struct uffd_fault *ret_faults, size_t max, size_t *ret_n)
{
	struct uffd_msg msg[READ_MAX];
	ssize_t n;
	do {
		n = read(uffd, msg, MIN(max, (size_t)READ_MAX) * sizeof(msg[0]));
	} while (n < 0 && errno == EINTR);
	*ret_n = 0;
	if (n < 0 && errno == EAGAIN) {
		return NULL;
	}
	if (n < 0) {
		return ERR_ERRNO("userfaultfd: reading a fault");
	}
	for (size_t i = 0; i < (size_t)n / sizeof(msg[0]); i++) {
		if (msg[i].event == UFFD_EVENT_PAGEFAULT) { /* no other was asked for */
			ret_faults[(*ret_n)++] = (struct uffd_fault){
				.addr = msg[i].arg.pagefault.address & ~(uint64_t)(PAGE_BYTES - 1),
				.tid = (int)msg[i].arg.pagefault.feat.ptid,
				.minor = (msg[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) !=
					 0,
			};
		}
	}
	return NULL;
}

struct err *uffd_wake(int uffd, void *p, uint64_t len_bytes)
{
	struct uffdio_range r = { .start = (uint64_t)(uintptr_t)p, .len = len_bytes };
	if (ioctl(uffd, UFFDIO_WAKE, &r) != 0) {
		return ERR_ERRNO("userfaultfd: waking");
	}
	return NULL;
}

struct err *uffd_continue(int uffd, void *at, uint64_t len_bytes, uint64_t *ret_mapped)
{
	for (;;) {
		struct uffdio_continue c = {
			.range = { .start = (uint64_t)(uintptr_t)at, .len = len_bytes },
		};
		*ret_mapped = len_bytes;
		if (ioctl(uffd, UFFDIO_CONTINUE, &c) == 0) {
			return NULL;
		}
		int sys = errno;
		*ret_mapped = c.mapped > 0 ? (uint64_t)c.mapped : 0;
		if (c.mapped > 0 || sys == EEXIST || sys == EFAULT) {
			return NULL;
		}
		if (sys != EAGAIN) {
			return ERR_SYSNO(sys, "userfaultfd: mapping %llu bytes",
					 (unsigned long long)len_bytes);
		}
		sched_yield(); /* the address space is just being changed */
	}
}

struct err *uffd_copy(int uffd, void *at, const void *from, uint64_t len_bytes,
		      uint64_t *ret_placed)
{
	uint64_t done = 0;
	*ret_placed = 0;
	while (done < len_bytes) {
		struct uffdio_copy c = {
			.dst = (uint64_t)(uintptr_t)at + done,
			.src = (uint64_t)(uintptr_t)from + done,
			.len = len_bytes - done,
		};
		if (ioctl(uffd, UFFDIO_COPY, &c) == 0) {
			*ret_placed += c.len / PAGE_BYTES;
			return NULL;
		}
		int sys = errno;
		if (c.copy > 0) { /* stopped in the middle: the next round finds out why */
			*ret_placed += (uint64_t)c.copy / PAGE_BYTES;
			done += (uint64_t)c.copy;
		} else if (sys == EEXIST) {
			/* Its waiters may have come before the page did: nobody else wakes them. */
			TRY(uffd_wake(uffd, (uint8_t *)at + done, PAGE_BYTES));
			done += PAGE_BYTES;
		} else if (sys == EAGAIN) {
			sched_yield(); /* the address space is just being changed */
		} else {
			return ERR_SYSNO(sys, "userfaultfd: placing %llu bytes",
					 (unsigned long long)(len_bytes - done));
		}
	}
	return NULL;
}
