/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfaultfd(2), MISSING faults on guest memory: a thin wrapper, no policy. Used by pager.c; the
 * descriptor is opened by tools before privileges are given up.
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
/* [p, p + len) is a whole shared mapping of a memfd; from now on whoever touches a missing page of it
 * waits. */
MUST_USE struct err *uffd_register(int uffd, void *p, uint64_t len_bytes);
/* The kernel fills what is missing with zeros again. Does not wake waiters by itself. */
MUST_USE struct err *uffd_unregister(int uffd, void *p, uint64_t len_bytes);

struct uffd_fault {
	uint64_t addr; /* of the page */
	int tid;       /* who waits */
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
MUST_USE struct err *uffd_wake(int uffd, void *p, uint64_t len_bytes);

#endif
