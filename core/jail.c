/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail of a VM process: when which restriction comes into force, and what a violation says.
 * See jail.h for the order of calls. Filters are built once (jail_rules.c) and put in force per
 * thread, so that a thread's start costs two system calls.
 */
#include "core/jail.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "core/base/log.h"
#include "core/jail_internal.h"

enum {
	SYSCALLS_MAX = 471,
	SI_SECCOMP = 1, /* si_code of a filter's SIGSYS: SYS_SECCOMP of asm-generic/siginfo.h */
};

static bool disabled;                          /* const after start-up */
static char *syscall_names[SYSCALLS_MAX];      /* const after jail_init; owned until the end */
static struct sock_fprog filters[JAIL__ROLES]; /* const after jail_init */
/* Which to build: those of a VM's threads, or (jail_usernet, jail_keeper) the one of its process.
 */
static unsigned wanted = (1u << JAIL_USERNET) - 1;
static struct err *init_err; /* const after jail_init; never freed */
static pthread_once_t init_once = PTHREAD_ONCE_INIT;
static const char *const role_names[JAIL__ROLES] = {
	[JAIL_MAIN] = "main",   [JAIL_VCPU] = "vcpu", [JAIL_JOB] = "job",
	[JAIL_PAGER] = "pager", [JAIL_IO] = "device", [JAIL_USERNET] = "usernet",
};
/* A thread that never called jail_thread has its parent's filter. */
static _Thread_local const char *thread_role = "worker";

/*
 * SIGSYS. Async-signal-safe: names are looked up beforehand, write and _exit are allowed in every
 * role. A SIGSYS that somebody sent with kill(2) is no violation and is ignored.
 */
static void on_violation(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_code != SI_SECCOMP) {
		return;
	}
	int nr = info->si_syscall;
	const char *name = nr >= 0 && nr < SYSCALLS_MAX ? syscall_names[nr] : NULL;
	char line[160];
	/* snprintf of integers and short texts takes no lock and no memory in glibc. */
	int n = snprintf(line, sizeof(line),
			 "torpor: error: syscall %s (%d) is not allowed in thread %s\n",
			 name != NULL ? name : "?", nr, thread_role);
	ssize_t ignored = write(STDERR_FILENO, line, (size_t)MIN(n, (int)sizeof(line) - 1));
	(void)ignored; /* there is nobody left to tell */
	_exit(1);
}

static void jail_init(void)
{
	for (int i = 0; i < SYSCALLS_MAX; i++) {
		syscall_names[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
	}
	struct sigaction act = { .sa_sigaction = on_violation, .sa_flags = SA_SIGINFO };
	sigemptyset(&act.sa_mask);
	if (sigaction(SIGSYS, &act, NULL) != 0) {
		init_err = ERR_ERRNO("catching SIGSYS");
		return;
	}
	for (unsigned r = 0; r < JAIL__ROLES; r++) {
		if ((wanted >> r & 1) != 0) {
			init_err = jail_rules_build((enum jail_role)r, JAIL_SANITIZED, &filters[r]);
		}
		if (init_err != NULL) {
			return;
		}
	}
}

/* Builds the filters, once; the first error stays the answer. */
static struct err *ensure_init(void)
{
	pthread_once(&init_once, jail_init);
	if (init_err != NULL) {
		return ERR(err_class(init_err), "%s", err_msg(init_err));
	}
	return NULL;
}

static struct err *set_no_new_privs(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
		return ERR_ERRNO("giving up new privileges");
	}
	return NULL;
}

void jail_disable(void)
{
	disabled = true;
	LOG_W("--no-jail: no seccomp filter and no Landlock protect this host from the guest");
}

struct err *jail_process(const char *store_dir, const char *run_dir, bool *ret_landlock)
{
	if (disabled) {
		*ret_landlock = false;
		return NULL;
	}
	if (JAIL_SANITIZED) {
		LOG_I("sanitizer build: the seccomp filters allow what its runtime needs");
	}
	TRY(ensure_init());
	TRY(set_no_new_privs());
	return jail_fs_restrict(store_dir, run_dir, ret_landlock);
}

struct err *jail_usernet(void)
{
	if (disabled) {
		return NULL;
	}
	bool landlock = false; /* without it, only seccomp */
	wanted = 1u << JAIL_USERNET;
	TRY(ensure_init());
	TRY(set_no_new_privs());
	TRY(jail_fs_restrict_usernet(&landlock));
	return jail_thread(JAIL_USERNET);
}

struct err *jail_keeper(const char *store_dir, const char *share_dir)
{
	bool landlock = false; /* without it, only seccomp */
	if (disabled) {
		return NULL;
	}
	wanted = 1u << JAIL_MAIN;
	TRY(ensure_init());
	TRY(set_no_new_privs());
	TRY(jail_fs_restrict(store_dir, share_dir, &landlock));
	return jail_thread(JAIL_MAIN);
}

struct err *jail_thread(enum jail_role role)
{
	BUG_ON((unsigned)role >= JAIL__ROLES);
	if (disabled) {
		return NULL;
	}
	TRY(ensure_init());
	/* A blocked SIGSYS would kill without a word (force_sig resets the handler). */
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGSYS);
	int rc = pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	if (rc != 0) {
		return ERR_SYSNO(rc, "unblocking SIGSYS");
	}
	TRY(set_no_new_privs());
	thread_role = role_names[role];
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filters[role]) != 0) {
		return ERR_ERRNO("putting the seccomp filter of thread %s in force", thread_role);
	}
	return NULL;
}
