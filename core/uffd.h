/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd(2), faults on guest memory: a thin wrapper, no policy. Used by pager.c and
 * swap_mem.c; the descriptor is opened by tools before privileges are given up.
 *
 * Faults of the kernel (KVM_RUN, the commit of parts) must be served, too, so UFFD_USER_MODE_ONLY
 * will not do: that takes /dev/userfaultfd, CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1.
 * Source: Linux Documentation/admin-guide/mm/userfaultfd.rst. Any thread.
 */
#ifndef TORPOR_CORE_UFFD_H
#define TORPOR_CORE_UFFD_H

#include "core/base/err.h"

/* Non-blocking. ERR_INCOMPAT with the remedy when this host or user cannot have it. */
MUST_USE struct err *uffd_open(struct fd *ret_uffd);
/* The same, for uffd_register_minor. */
MUST_USE struct err *uffd_open_minor(struct fd *ret_uffd);
/* [p, p + len) is a whole shared mapping of a memfd; from now on whoever touches a missing page of
 * it waits. */
MUST_USE struct err *uffd_register(int uffd, void *p, uint64_t len_bytes);
/*
 * The same, and who touches a page that the memory file holds but nobody has mapped waits, too.
 * ERR_INCOMPAT when the kernel (before 5.14) cannot.
 */
MUST_USE struct err *uffd_register_minor(int uffd, void *p, uint64_t len_bytes);
/* The kernel fills what is missing with zeros again. Does not wake waiters by itself. */
MUST_USE struct err *uffd_unregister(int uffd, void *p, uint64_t len_bytes);

struct uffd_fault {
	uint64_t addr; /* of the page */
	int tid;       /* who waits */
	bool minor;    /* the file holds the page, it is only not mapped */
};
/* Takes up to max faults without waiting; *ret_n 0: none. */
MUST_USE struct err *uffd_read(int uffd, struct uffd_fault *ret_faults, size_t max, size_t *ret_n);

/*
 * Places bytes at the pages that are missing and leaves the others alone, waking all waiters of the
 * range. *ret_placed: pages that were missing. ERR_SYS when memory is short; pages up to there are
 * placed.
 */
MUST_USE struct err *uffd_copy(int uffd, void *at, const void *from, uint64_t len_bytes,
			       uint64_t *ret_placed);
/*
 * Maps what the memory file holds of a range registered by uffd_register_minor, up to the first
 * page that is mapped already or is a hole, waking the waiters of what it mapped. *ret_mapped:
 * bytes; 0: the first page is such a one.
 */
MUST_USE struct err *uffd_continue(int uffd, void *at, uint64_t len_bytes, uint64_t *ret_mapped);
MUST_USE struct err *uffd_wake(int uffd, void *p, uint64_t len_bytes);

#endif
