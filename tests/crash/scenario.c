/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What runs while the recorder watches: makes a store (or goes on with one), takes, removes,
 * collects, gives blocks back, takes again, gives up a take, compacts, and makes and removes a
 * second family. Started by
 * replay.c:
 *	crash_scenario STORE FIRST_SEED PAGES
 * Before and after each step it marks the trace, which is how replay.c knows what must be there.
 */
#include <stdio.h>
#include <string.h>

#include "tests/crash/crash_trace.h"
#include "tests/crash/crash_vm.h"

/* The recorder's; absent when this runs without it. */
void crash_mark(int kind, int number) __attribute__((weak));

static void mark(enum trace_mark kind, unsigned number)
{
	if (crash_mark != NULL) {
		crash_mark((int)kind, (int)number);
	}
}

static struct err *take(struct family *f, unsigned seed)
{
	mark(MARK_TAKE, seed);
	TRY(crash_take(f, seed, true));
	mark(MARK_TAKEN, seed);
	return NULL;
}

/* Removes the n-th listed. */
static struct err *remove_nth(struct family *f, size_t nth)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(f, &list, &n));
	ENSURE(nth < n, ERR_NOTFOUND, "only %zu snapshots", n);
	unsigned seed = crash_seed(&list[nth]);
	mark(MARK_REMOVE, seed);
	TRY(family_remove(f, &list[nth].id, 1));
	mark(MARK_REMOVED, seed);
	return NULL;
}

/* So that the store stays small over generations. */
static struct err *remove_all_but(struct family *f, size_t keep)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(f, &list, &n));
	for (; n > keep; n--) {
		TRY(remove_nth(f, 0));
	}
	return NULL;
}

/* The kernel, which all share, is in a frame with pages of the first one's memory, which now dies.
 */
static struct err *compact(struct family *f)
{
	struct compact_result res;
	SCOPE(family_stat_done) struct family_stat st = { 0 };
	TRY(remove_nth(f, 0));
	TRY(family_compact(f, &(struct compact_opts){ .live_percent = 100 }, &res));
	TRY(family_stat(f, &st));
	ENSURE(st.dead_pages == 0 && st.hidden == 0, ERR_CORRUPT, "%llu dead pages, %llu hidden",
	       (unsigned long long)st.dead_pages, (unsigned long long)st.hidden);
	return NULL;
}

static struct err *second_family(struct store *s, unsigned seed)
{
	SCOPE(family_closep) struct family *f = NULL;
	TRY(family_open(s, crash_other, true, &f));
	TRY(remove_all_but(f, 0)); /* what a crash left */
	TRY(take(f, seed));
	TRY(remove_nth(f, 0));
	family_close(MOVE(f));
	return family_remove_empty(s, crash_other);
}

static struct err *run(const char *dir, unsigned seed)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	TRY(store_open(dir, STORE_CREATE, &s));
	mark(MARK_STORE, 0);
	struct store_vm vm = { .name = "guest", .created_ns = 77 };
	memcpy(vm.uuid, crash_vm, sizeof(vm.uuid));
	memcpy(vm.family, crash_family, sizeof(vm.family));
	TRY(store_vm_put(s, &vm));
	mark(MARK_VM, 0);
	TRY(family_open(s, crash_family, true, &f));
	mark(MARK_FAMILY, 0);
	TRY(remove_all_but(f, 2));
	TRY(take(f, seed));
	TRY(take(f, seed + 1));
	TRY(crash_take(f, seed + 2, false));
	TRY(take(f, seed + 3));
	TRY(remove_nth(f, 1));
	struct gc_result res;
	uint64_t unused;
	TRY(family_gc(f, &res));
	TRY(family_punch(f, true, &unused));
	TRY(take(f, seed + 4));
	TRY(compact(f));
	return second_family(s, seed + 5);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: crash_scenario STORE FIRST_SEED PAGES\n");
		return 2;
	}
	crash_pages = strtoull(argv[3], NULL, 10);
	struct err *e = run(argv[1], (unsigned)strtoul(argv[2], NULL, 10));
	if (e != NULL) {
		fprintf(stderr, "crash_scenario: %s\n  at %s\n", err_msg(e), err_trace_text(e));
		err_free(e);
		return 1;
	}
	return 0;
}
