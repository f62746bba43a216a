/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Power cuts: runs scenario.c under recorder.c, then builds directories that a cut at any operation
 * may leave (fs_model.h) and checks that nothing is lost in any of them:
 *	crash_replay SCENARIO RECORDER [STATES GENERATIONS PAGES]
 *
 * For each state a process of its own opens the store, lists and reads everything, compares it with
 * what had been published or removed by then (calls in flight may have happened or not), verifies,
 * takes one more snapshot, collects, and checks again. A generation starts from one of the states
 * that the one before it left, so that cuts also meet what recovery from a cut has written, and the
 * store must not grow from generation to generation.
 *
 * Called by ctest (crash/replay). TORPOR_TIER=long: 12000 states. TORPOR_SEED repeats a run.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "tests/crash/crash_vm.h"
#include "tests/crash/fs_model.h"

enum {
	TRACE_BYTES_MAX = 1 << 30,
	CHECK_SECONDS_MAX = 120,
	LATE_SEED = 4000, /* of the take after the cut */
	OTHER_DIGIT = 6,  /* last digit of a seed of the second family */
};

/* What must be there. */
struct known {
	bool store;
	bool vm;
	bool family;
	struct crash_want want;
	struct crash_want other;
};

/* In memory that the checking process shares with us. */
struct result {
	struct known found;  /* before the check changed anything */
	uint64_t file_bytes; /* of the family's data file at the end of the check */
};

struct run {
	const char *scenario;
	const char *recorder;
	uint64_t seed;
	uint64_t states; /* asked for, all generations together */
	unsigned generations;
	char dir[256];
	char base[300];  /* where a generation starts */
	char next[300];  /* where the next one will */
	char work[300];  /* where the scenario works */
	char state[300]; /* one state after a cut */
	char trace[300];
	struct result *result;
	struct known start; /* of this generation */
	struct known after; /* start of the next one */
	uint64_t *seen;     /* digests of states that were checked; owned */
	size_t seen_cap;
	uint64_t nseen;
	uint64_t most_bytes; /* longest data file */
	uint64_t least_most; /* longest of generation 0 */
};

/* ---- checking one state; in a process of its own ---- */

static bool is_class(struct err *e, enum err_class class)
{
	return e != NULL && err_class(e) == class;
}

/* A store that need not be there: opening it as a new one must do. */
static struct err *open_store(const char *dir, bool sure, bool *ret_found, struct store **ret_store)
{
	struct err *e = store_open(dir, STORE_WRITE, ret_store);
	*ret_found = e == NULL;
	if (e == NULL || sure || !(is_class(e, ERR_NOTFOUND) || is_class(e, ERR_CORRUPT))) {
		return e;
	}
	err_free(e);
	return err_wrap(store_open(dir, STORE_CREATE, ret_store), "made again");
}

static struct err *open_family(struct store *s, const uint8_t uuid[16], bool sure, bool *ret_found,
			       struct family **ret_family)
{
	struct err *e = family_open(s, uuid, false, ret_family);
	*ret_found = e == NULL;
	if (e == NULL || sure || !is_class(e, ERR_NOTFOUND)) {
		return e;
	}
	err_free(e);
	return err_wrap(family_open(s, uuid, true, ret_family), "made again");
}

/* What a reader sees that writes nothing. */
static struct err *check_readonly(const char *dir, const struct known *k)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	if (!k->family) {
		return NULL;
	}
	TRY(store_open(dir, STORE_READ, &s));
	TRY(family_open(s, crash_family, false, &f));
	struct crash_want want = k->want;
	return crash_check(f, &want);
}

static struct err *check_vm(struct store *s, struct known *k)
{
	struct store_vm vm;
	bool found;
	TRY(store_vm_by_name(s, "guest", &found, &vm));
	ENSURE(found || !k->vm, ERR_CORRUPT, "the VM's row is lost");
	ENSURE(!found || (memcmp(vm.uuid, crash_vm, sizeof(vm.uuid)) == 0 &&
			  memcmp(vm.family, crash_family, sizeof(vm.family)) == 0 &&
			  vm.created_ns == 77 && vm.holds_name),
	       ERR_CORRUPT, "the VM's row is another one");
	k->vm = found;
	return NULL;
}

static struct err *check_other(struct store *s, struct known *k)
{
	SCOPE(family_closep) struct family *f = NULL;
	bool found;
	bool sure = false;
	for (unsigned i = 0; i < CRASH_SEEDS_MAX; i++) {
		sure |= k->other.state[i] == CRASH_SURE;
	}
	TRY(open_family(s, crash_other, sure, &found, &f));
	TRY(crash_check(f, &k->other));
	struct crash_want want = k->other;
	return crash_collect(f, &want);
}

static struct err *check_all(const char *dir, const struct known *sure, bool readonly_first,
			     struct result *res)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	struct known k = *sure;
	if (readonly_first) {
		TRY(err_wrap(check_readonly(dir, sure), "reading only"));
	}
	TRY(open_store(dir, sure->store, &k.store, &s));
	TRY(check_vm(s, &k));
	TRY(err_wrap(open_family(s, crash_family, sure->family, &k.family, &f), "family"));
	TRY(crash_check(f, &k.want));
	TRY(err_wrap(check_other(s, &k), "second family"));
	res->found = k;
	TRY(err_wrap(crash_take(f, LATE_SEED, true), "the take after the cut"));
	k.want.state[LATE_SEED] = CRASH_SURE;
	TRY(err_wrap(crash_collect(f, &k.want), "after a take and a collection"));
	char path[400];
	char text[37];
	uuid_text(crash_family, text);
	snprintf(path, sizeof(path), "%s/families/%s/data.mdb", dir, text);
	struct stat st;
	ENSURE(stat(path, &st) == 0, ERR_SYS, "%s is gone", path);
	res->file_bytes = (uint64_t)st.st_size;
	return NULL;
}

/* Returns false after telling why. */
static bool check_state(struct run *r, const struct known *sure, bool readonly_first)
{
	char store[400];
	snprintf(store, sizeof(store), "%s/a/store", r->state);
	fflush(NULL);
	pid_t pid = fork();
	BUG_ON(pid < 0);
	if (pid == 0) {
		alarm(CHECK_SECONDS_MAX);
		struct err *e = check_all(store, sure, readonly_first, r->result);
		if (e != NULL) {
			fprintf(stderr, "  %s\n  at %s\n", err_msg(e), err_trace_text(e));
		}
		_exit(e != NULL);
	}
	int status;
	BUG_ON(waitpid(pid, &status, 0) != pid);
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "  the check died of signal %d\n", WTERMSIG(status));
	}
	return status == 0;
}

/* ---- a trace ---- */

struct trace {
	uint8_t *p; /* owned */
	size_t len;
	size_t nops;
};

struct event {
	struct trace_head h;
	const char *path;
	const uint8_t *bytes;
};

/* The event at *at, which is moved behind it; false at the end. */
static bool trace_next(const struct trace *t, size_t *at, struct event *ret)
{
	if (t->len - *at < sizeof(ret->h)) {
		return false;
	}
	memcpy(&ret->h, t->p + *at, sizeof(ret->h));
	ret->path = (const char *)t->p + *at + sizeof(ret->h);
	ret->bytes = (const uint8_t *)ret->path + ret->h.path_len;
	*at += sizeof(ret->h) + ret->h.path_len + ret->h.len;
	return *at <= t->len;
}

static bool is_cut_point(const struct event *ev)
{
	return ev->h.op != TRACE_CLOSE && ev->h.op != TRACE_MAPPED;
}

static struct err *record(struct run *r, unsigned generation, struct trace *ret)
{
	char cmd[4096];
	snprintf(cmd, sizeof(cmd),
		 "rm -rf '%s' '%s' && cp -a '%s' '%s' && CRASH_DIR='%s' CRASH_TRACE='%s' "
		 "LD_PRELOAD='%s' '%s' '%s/a/store' %u %llu",
		 r->work, r->trace, r->base, r->work, r->work, r->trace, r->recorder, r->scenario,
		 r->work, generation * 10 + 1, (unsigned long long)crash_pages);
	ENSURE(system(cmd) == 0, ERR_SYS, "the scenario failed in generation %u", generation);
	TRY(io_slurp(r->trace, TRACE_BYTES_MAX, &ret->p, &ret->len));
	/* The model must come to the same directory, else the recorder is blind somewhere. */
	SCOPE(fs_model_freep) struct fs_model *m = NULL;
	TRY(fs_model_load(r->base, &m));
	struct event ev;
	ret->nops = 0;
	for (size_t at = 0; trace_next(ret, &at, &ev);) {
		TRY(fs_model_apply(m, &ev.h, ev.path, ev.bytes));
		ret->nops += is_cut_point(&ev);
	}
	return fs_model_compare(m, r->work);
}

static void note_mark(struct known *k, const struct event *ev)
{
	if (ev->h.op != TRACE_MARK) {
		return;
	}
	BUG_ON(ev->h.arg < 0 || ev->h.arg >= CRASH_SEEDS_MAX);
	uint8_t *s = ev->h.arg % 10 == OTHER_DIGIT ? &k->other.state[ev->h.arg]
						   : &k->want.state[ev->h.arg];
	switch ((enum trace_mark)ev->h.off) {
	case MARK_STORE:
		k->store = true;
		break;
	case MARK_VM:
		k->vm = true;
		break;
	case MARK_FAMILY:
		k->family = true;
		break;
	case MARK_TAKE:
	case MARK_REMOVE:
		*s = CRASH_MAYBE;
		break;
	case MARK_TAKEN:
		*s = CRASH_SURE;
		break;
	case MARK_REMOVED:
		*s = CRASH_ABSENT;
		break;
	}
}

/* ---- cuts ---- */

/* Adds a digest; false if it was there. */
static bool seen_add(struct run *r, uint64_t digest)
{
	if (r->nseen * 2 >= r->seen_cap) {
		uint64_t *old = r->seen;
		size_t n = r->seen_cap;
		r->seen_cap = MAX(n * 2, (size_t)4096);
		r->seen = calloc(r->seen_cap, sizeof(*r->seen));
		BUG_ON(r->seen == NULL);
		r->nseen = 0;
		for (size_t i = 0; i < n; i++) {
			if (old[i] != 0) {
				seen_add(r, old[i]);
			}
		}
		free(old);
	}
	digest |= 1;
	size_t i = digest / 2 % r->seen_cap;
	while (r->seen[i] != 0 && r->seen[i] != digest) {
		i = (i + 1) % r->seen_cap;
	}
	if (r->seen[i] == digest) {
		return false;
	}
	r->seen[i] = digest;
	r->nseen++;
	return true;
}

static struct err *fresh_dir(const char *dir)
{
	crash_dir_remove(dir);
	return io_mkdirs(dir);
}

/* One cut at one event. *ret_new: the state had not been checked before. */
static struct err *cut_once(struct run *r, struct fs_model *m, const struct event *ev, size_t op,
			    const struct known *k, enum fs_cut cut, uint64_t seed, bool *ret_new)
{
	uint64_t digest;
	TRY(fresh_dir(r->state));
	TRY(fs_model_cut(m, &ev->h, ev->path, ev->bytes, cut, seed, r->state, &digest));
	/* The same bytes with other expectations are another case. */
	digest = hash_xxh3_64(k, sizeof(*k), digest);
	*ret_new = seen_add(r, digest);
	if (!*ret_new) {
		return NULL;
	}
	bool good = check_state(r, k, seed % 2 == 0);
	ENSURE(good, ERR_CORRUPT,
	       "cut before the end of operation %zu (kind %u, %.*s), way %d, lot %llu: see above; "
	       "the directory is in %s",
	       op, ev->h.op, (int)ev->h.path_len, ev->path, (int)cut, (unsigned long long)seed,
	       r->dir);
	r->most_bytes = MAX(r->most_bytes, r->result->file_bytes);
	return NULL;
}

static enum fs_cut draw_cut(uint64_t *seed)
{
	uint64_t v = crash_random(seed) % 10;
	return v == 0 ? FS_NOTHING : v == 1 ? FS_ALL : v < 6 ? FS_MIXED : FS_TORN;
}

/* All cuts of one generation; keeps one state for the next. */
static struct err *cut_all(struct run *r, const struct trace *t, uint64_t quota)
{
	SCOPE(fs_model_freep) struct fs_model *m = NULL;
	TRY(fs_model_load(r->base, &m));
	struct known k = r->start;
	struct event ev;
	uint64_t done = 0;
	size_t op = 0;
	bool every = quota >= t->nops * 2; /* then both plain states of each operation */
	for (size_t at = 0; trace_next(t, &at, &ev);) {
		note_mark(&k, &ev);
		if (is_cut_point(&ev)) {
			/* Duplicates do not count: what is missing is made up for later. */
			uint64_t want = quota * (op + 1) / t->nops;
			want = want > done ? want - done : 0;
			uint64_t tries = want * 2 + (every ? 2 : 0);
			for (uint64_t i = 0; i < tries && (want > 0 || (every && i < 2)); i++) {
				enum fs_cut cut =
					every && i < 2 ? (enum fs_cut)i : draw_cut(&r->seed);
				uint64_t lot = crash_random(&r->seed);
				bool is_new = false;
				TRY(cut_once(r, m, &ev, op, &k, cut, lot, &is_new));
				done += is_new;
				want -= is_new && want > 0;
				if (is_new && crash_random(&r->seed) % done == 0) {
					uint64_t unused;
					TRY(fresh_dir(r->next));
					TRY(fs_model_cut(m, &ev.h, ev.path, ev.bytes, cut, lot,
							 r->next, &unused));
					r->after = r->result->found;
				}
			}
			op++;
		}
		TRY(fs_model_apply(m, &ev.h, ev.path, ev.bytes));
	}
	return NULL;
}

static struct err *run_all(struct run *r)
{
	TRY(io_mkdirs(r->base));
	for (unsigned g = 0; g < r->generations; g++) {
		struct trace t = { 0 };
		TRY(record(r, g, &t));
		/* The first generation, in which everything is made, gets a quarter, or all. */
		uint64_t quota = r->states / 4;
		if (g > 0 || r->generations == 1) {
			quota = (r->states - (g > 0 ? quota : 0)) / MAX(r->generations - 1, 1u);
		}
		struct err *e = cut_all(r, &t, quota);
		free(t.p);
		TRY(err_wrap(e, "generation %u", g));
		if (g == 0) {
			r->least_most = r->most_bytes;
		}
		crash_dir_remove(r->base);
		ENSURE(rename(r->next, r->base) == 0, ERR_SYS, "keeping a state: %s",
		       strerror(errno));
		r->start = r->after;
	}
	/* Each generation starts with a few more snapshots than the first, never with more dead. */
	ENSURE(r->most_bytes <= 3 * r->least_most, ERR_CORRUPT,
	       "the data file grew to %llu bytes, %llu in the first generation",
	       (unsigned long long)r->most_bytes, (unsigned long long)r->least_most);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc != 3 && argc != 6) {
		fprintf(stderr, "usage: crash_replay SCENARIO RECORDER [STATES GENERATIONS "
				"PAGES]\n");
		return 2;
	}
	struct run r = { .scenario = argv[1], .recorder = argv[2], .seed = crash_run_seed() };
	r.states = argc == 6 ? strtoull(argv[3], NULL, 10) : crash_run_long() ? 12000 : 620;
	r.generations = argc == 6          ? (unsigned)strtoul(argv[4], NULL, 10)
			: crash_run_long() ? 30
					   : 3;
	if (argc == 6) {
		crash_pages = strtoull(argv[5], NULL, 10);
	}
	printf("seed %llu\n", (unsigned long long)r.seed);
	crash_dir_make(r.dir);
	snprintf(r.base, sizeof(r.base), "%s/base", r.dir);
	snprintf(r.next, sizeof(r.next), "%s/next", r.dir);
	snprintf(r.work, sizeof(r.work), "%s/work", r.dir);
	snprintf(r.state, sizeof(r.state), "%s/state", r.dir);
	snprintf(r.trace, sizeof(r.trace), "%s/trace", r.dir);
	r.result = mmap(NULL, sizeof(*r.result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	BUG_ON(r.result == MAP_FAILED);
	uint64_t t0 = clock_mono_ns();
	struct err *e = run_all(&r);
	if (e != NULL) {
		fprintf(stderr, "crash_replay: %s\n  at %s\n", err_msg(e), err_trace_text(e));
		err_free(e);
		return 1; /* the directory stays */
	}
	printf("%llu states in %u generations, %llu s, data file at most %llu KiB (%llu KiB in the "
	       "first)\n",
	       (unsigned long long)r.nseen, r.generations,
	       (unsigned long long)((clock_mono_ns() - t0) / 1000000000),
	       (unsigned long long)(r.most_bytes / KIB), (unsigned long long)(r.least_most / KIB));
	free(r.seen);
	crash_dir_remove(r.dir);
	return 0;
}
