/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM process may do from now on: no_new_privs, Landlock (where the kernel has it) and a
 * seccomp filter per thread role. In force before the first guest instruction. A violation is
 * logged with the syscall's name by a SIGSYS handler and ends the VM with exit status 1.
 */
#ifndef TORPOR_CORE_JAIL_H
#define TORPOR_CORE_JAIL_H

#include "core/base/err.h"

enum jail_role {
	JAIL_MAIN,    /* main loop: sockets, epoll, device descriptors, thread creation */
	JAIL_VCPU,    /* KVM_RUN and vCPU ioctls, device output, futexes */
	JAIL_JOB,     /* takes and loads with their workers: store files, memfds */
	JAIL_PAGER,   /* page server: reads the store, places pages */
	JAIL_IO,      /* a device's own thread: its io_uring, interrupts */
	JAIL_USERNET, /* the process of user networking (usernet.h), no thread of the VM */
};

/*
 * Whole process, once, before other threads start: no_new_privs, Landlock (read and write below
 * store_dir and the run folder, nothing else), SIGSYS handler. *ret_landlock: false where the
 * kernel has none.
 */
MUST_USE struct err *jail_process(const char *store_dir, const char *run_dir, bool *ret_landlock);
/* The calling thread; first thing of every thread. Roles nest: a thread started from a jailed one
 * inherits its filter, so filters of JOB, VCPU and PAGER are what MAIN may become, and MAIN allows
 * their union until it calls this itself, after it has started no more kinds of threads. */
MUST_USE struct err *jail_thread(enum jail_role role);
/* Likewise for the process of user networking, whole: sockets of the Internet, and of files the
 * addresses of name servers alone. Instead of the two above. */
MUST_USE struct err *jail_usernet(void);
/* Likewise for the keeper of shared memory (share_keeper.c): the main role's filter, and files
 * below the two folders. */
MUST_USE struct err *jail_keeper(const char *store_dir, const char *share_dir);
/* Off for the process: --no-jail, for debugging only, says so on stderr. Before jail_process. */
void jail_disable(void);

#endif
