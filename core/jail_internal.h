/* SPDX-License-Identifier: Apache-2.0 */
/* Between jail.c (threads, violations), jail_rules.c (what a role may call) and jail_fs.c
 * (Landlock). Included by jail*.c and their tests only. */
#ifndef TORPOR_CORE_JAIL_INTERNAL_H
#define TORPOR_CORE_JAIL_INTERNAL_H

#include <linux/filter.h>

#include "core/jail.h"

enum { JAIL__ROLES = JAIL_USERNET + 1 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define JAIL_SANITIZED 1
#else
#define JAIL_SANITIZED 0
#endif

/* The role's filter as a BPF program; ret->filter is malloc'ed. sanitized: with what the runtime of
 * a sanitizer needs. */
MUST_USE struct err *jail_rules_build(enum jail_role role, bool sanitized, struct sock_fprog *ret);
/* Restricts the calling thread and all that it starts. *ret_done false: the kernel has none. */
MUST_USE struct err *jail_fs_restrict(const char *store_dir, const char *run_dir, bool *ret_done);
/* Likewise: the addresses of the host's name servers may be read, and the network stays. */
MUST_USE struct err *jail_fs_restrict_usernet(bool *ret_done);

#endif
