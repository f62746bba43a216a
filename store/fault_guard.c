/* SPDX-License-Identifier: Apache-2.0 */
/* Survives damaged maps. See fault_guard.h; called by store_lmdb.c on any thread. */
#include "store/fault_guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

enum {
	NULL_BYTES = 4096, /* never mapped: fields of a null structure */
};

struct guard {
	sigjmp_buf jmp;
	const uint8_t *map; /* NULL: every address counts */
	uint64_t map_bytes;
};

static __thread struct guard *guard_now;
static __thread bool guard_unblocked;
static __thread bool guard_chaining;
static struct sigaction guard_prev_bus; /* written by fault_guard_install only */
static struct sigaction guard_prev_segv;

/* Passes a fault that is not ours to whoever handled it before. */
static void guard_chain(int sig, siginfo_t *si, void *uc)
{
	if (guard_chaining) { /* that handler passes faults back to this one */
		signal(sig, SIG_DFL);
		return;
	}
	guard_chaining = true;
	const struct sigaction *prev = sig == SIGBUS ? &guard_prev_bus : &guard_prev_segv;
	if ((prev->sa_flags & SA_SIGINFO) != 0) {
		prev->sa_sigaction(sig, si, uc);
	} else if (prev->sa_handler == SIG_DFL || prev->sa_handler == SIG_IGN) {
		signal(sig,
		       SIG_DFL); /* returning repeats the access, which then ends the process */
	} else {
		prev->sa_handler(sig);
	}
	guard_chaining = false;
}

/*
 * A fault that the guarded function is left for: in the map, or through a null pointer, which LMDB
 * follows when a damaged node says that it has duplicates. Nothing was written by the access that
 * faulted, so leaving is as safe as for a fault in the map.
 */
static bool guard_covers(const struct guard *g, const uint8_t *at)
{
	return g->map == NULL || (uintptr_t)at < NULL_BYTES ||
	       (at >= g->map && (uint64_t)(at - g->map) < g->map_bytes);
}

static void guard_on_fault(int sig, siginfo_t *si, void *uc)
{
	struct guard *g = guard_now;
	const uint8_t *at = si->si_addr;
	if (g != NULL && si->si_code > 0 && guard_covers(g, at)) {
		guard_now = NULL;
		siglongjmp(g->jmp, 1);
	}
	guard_chain(sig, si, uc);
}

static void install_one(int sig, struct sigaction *prev)
{
	struct sigaction now;
	BUG_ON(sigaction(sig, NULL, &now) != 0);
	/* signal(2) restores a saved handler without SA_SIGINFO: ours, but not usable like that. */
	bool info = (now.sa_flags & SA_SIGINFO) != 0;
	bool ours = info ? now.sa_sigaction == guard_on_fault
			 : (void *)now.sa_handler == (void *)guard_on_fault;
	if (ours && info) {
		return;
	}
	if (!ours) {
		*prev = now;
	}
	/* SA_NODEFER: the handler leaves by siglongjmp, which restores no signal mask. */
	struct sigaction sa = { .sa_sigaction = guard_on_fault,
				.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	sigemptyset(&sa.sa_mask);
	BUG_ON(sigaction(sig, &sa, NULL) != 0);
}

void fault_guard_install(void)
{
	install_one(SIGBUS, &guard_prev_bus);
	install_one(SIGSEGV, &guard_prev_segv);
}

/* A blocked fault signal would end the process instead of reaching the handler. */
static void unblock_once(void)
{
	if (!guard_unblocked) {
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGBUS);
		sigaddset(&set, SIGSEGV);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		guard_unblocked = true;
	}
}

bool __attribute__((noinline))
fault_guard_run(const void *map, uint64_t map_bytes, int (*fn)(void *arg), void *arg, int *ret_rc)
{
	struct guard g = { .map = map, .map_bytes = map_bytes };
	unblock_once();
	if (sigsetjmp(g.jmp, 0) != 0) {
		return false; /* guard_now was cleared before the jump */
	}
	guard_now = &g;
	int rc = fn(arg);
	guard_now = NULL;
	*ret_rc = rc;
	return true;
}

void fault_guard_trip(void)
{
	struct guard *g = guard_now;
	if (g != NULL) {
		guard_now = NULL;
		siglongjmp(g->jmp, 1);
	}
}
