/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGKILL at random instants of takes, removals, collections, reads, and what a rewind reads:
 *	crash_kill [KILLS]
 *
 * Each round one or two processes work on one family until they are killed, some microseconds to
 * some milliseconds after they began. They note in shared memory what they begin and what has
 * returned; so after each round the list must be exactly that, but for calls that were in flight.
 * In some rounds a third process holds a lease and reads its snapshot again and again, while others
 * may remove it; it may be killed, too. The file must stay small over all rounds.
 *
 * Called by ctest (crash/kill). TORPOR_TIER=long: 12000 kills. TORPOR_SEED repeats the choices, not
 * the instants.
 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "tests/crash/crash_vm.h"

enum {
	WORKERS_MAX = 2,
	OPENERS = 4,
	OPENERS_US = 3000,
	SNAPS_MAX = 5,     /* more are removed */
	COLLECT_EVERY = 8, /* rounds */
	SITTER_ROUNDS = 6, /* a lease is held for so many of every COLLECT_EVERY */
	LONGEST_US = 30000,
	SHORT_US = 5000,
};
#define FILE_BYTES_MOST (12 * MIB)

/* In memory that all processes share. */
struct shared {
	_Atomic uint8_t state[CRASH_SEEDS_MAX];          /* enum crash_state */
	bool bare[CRASH_SEEDS_MAX];                      /* of crash_want; between rounds */
	atomic_uint takes, removals, collections, reads; /* that returned */
	atomic_bool stop;                                /* for the sitter */
	atomic_uint sitter_reads;
};

struct run {
	char dir[256];
	struct shared *sh;
	uint64_t seed;
	unsigned kills; /* processes that were killed at work */
	uint64_t most_bytes;
	pid_t sitter;
	unsigned hit_takes; /* kills with a call in flight */
};

static struct err *open_family(const struct run *r, struct store **ret_s, struct family **ret_f)
{
	TRY(store_open(r->dir, STORE_WRITE, ret_s));
	return family_open(*ret_s, crash_family, false, ret_f);
}

/* ---- the processes that are killed ---- */

/* With two workers: what the other one removed under our feet. */
static struct err *allow_removed(struct err *e, bool alone)
{
	if (e != NULL && !alone && (err_class(e) == ERR_NOTFOUND || err_class(e) == ERR_NOT_NOW)) {
		err_drop(e, "removed by the other worker");
		return NULL;
	}
	return e;
}

static bool seed_move(struct shared *sh, unsigned seed, uint8_t from, uint8_t to)
{
	return atomic_compare_exchange_strong(&sh->state[seed], &from, to);
}

static struct err *do_take(const struct run *r, struct family *f, uint64_t *rnd, bool alone)
{
	unsigned seed;
	do {
		seed = 1 + (unsigned)(crash_random(rnd) % (CRASH_SEEDS_MAX - 1));
	} while (!seed_move(r->sh, seed, CRASH_ABSENT, CRASH_MAYBE));
	bool publish = crash_random(rnd) % 8 != 0;
	struct err *e = crash_take(f, seed, publish);
	bool there = e == NULL && publish;
	atomic_store(&r->sh->state[seed], there ? CRASH_SURE : CRASH_ABSENT);
	atomic_fetch_add(&r->sh->takes, there);
	return allow_removed(e, alone);
}

static struct err *do_remove(const struct run *r, struct family *f, const struct snap_info *s)
{
	unsigned seed = crash_seed(s);
	if (!seed_move(r->sh, seed, CRASH_SURE, CRASH_MAYBE)) {
		return NULL; /* the other worker is at it */
	}
	TRY(family_remove(f, &s->id, 1));
	atomic_store(&r->sh->state[seed], CRASH_ABSENT);
	atomic_fetch_add(&r->sh->removals, 1);
	return NULL;
}

static struct err *work(const struct run *r, uint64_t rnd, bool alone)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	TRY(open_family(r, &s, &f));
	for (;;) {
		SCOPE(freep) struct snap_info *list = NULL;
		size_t n;
		TRY(family_snaps(f, &list, &n));
		uint64_t what = crash_random(&rnd) % 100;
		size_t which = n > 0 ? (size_t)(crash_random(&rnd) % n) : 0;
		if (n > SNAPS_MAX || (n > 0 && what < 30)) {
			TRY(do_remove(r, f, &list[which]));
		} else if (what < 45) {
			struct gc_result res;
			TRY(family_gc(f, &res));
			atomic_fetch_add(&r->sh->collections, 1);
		} else if (n > 0 && what < 60) {
			const struct snap_info *to = &list[crash_random(&rnd) % n];
			TRY(allow_removed(crash_read(f, &list[which]), alone));
			TRY(allow_removed(crash_rewind(f, &list[which], to), alone));
			atomic_fetch_add(&r->sh->reads, 1);
		} else {
			TRY(do_take(r, f, &rnd, alone));
		}
	}
}

/*
 * Opens and closes again and again, with a take or removal now and then: LMDB's lock file is set up
 * by the first that opens and left by the last that closes, and either may be killed at it.
 */
static struct err *work_open(const struct run *r, uint64_t rnd, bool alone)
{
	for (;;) {
		SCOPE(store_closep) struct store *s = NULL;
		SCOPE(family_closep) struct family *f = NULL;
		SCOPE(freep) struct snap_info *list = NULL;
		size_t n;
		TRY(open_family(r, &s, &f));
		TRY(family_snaps(f, &list, &n));
		uint64_t what = crash_random(&rnd) % 8;
		if (n > SNAPS_MAX || (n > 0 && what == 0)) {
			TRY(do_remove(r, f, &list[crash_random(&rnd) % n]));
		} else if (what == 1) {
			TRY(do_take(r, f, &rnd, alone));
		}
	}
}

static struct err *sit(const struct run *r)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	SCOPE(freep) struct snap_info *list = NULL;
	SCOPE(reader_closep) struct reader *rd = NULL;
	size_t n;
	TRY(open_family(r, &s, &f));
	TRY(family_snaps(f, &list, &n));
	if (n == 0) {
		return NULL;
	}
	TRY(allow_removed(reader_open(f, list[0].id, &rd), false));
	while (rd != NULL && !atomic_load(&r->sh->stop)) {
		TRY(crash_same(rd));
		atomic_fetch_add(&r->sh->sitter_reads, 1);
		usleep(20000);
	}
	return NULL;
}

static pid_t start(struct err *(*fn)(const struct run *, uint64_t, bool), const struct run *r,
		   uint64_t rnd, bool alone)
{
	fflush(NULL);
	pid_t pid = fork();
	BUG_ON(pid < 0);
	if (pid == 0) {
		struct err *e = fn != NULL ? fn(r, rnd, alone) : sit(r);
		if (e != NULL) {
			fprintf(stderr, "  worker: %s\n  at %s\n", err_msg(e), err_trace_text(e));
		}
		_exit(e != NULL);
	}
	return pid;
}

/* ---- rounds ---- */

static void sleep_us(uint64_t us)
{
	struct timespec ts = { .tv_sec = (time_t)(us / 1000000),
			       .tv_nsec = (long)(us % 1000000 * 1000) };
	nanosleep(&ts, NULL);
}

/* False when it had died of something else. */
static bool kill_and_wait(struct run *r, pid_t pid)
{
	int status;
	kill(pid, SIGKILL);
	BUG_ON(waitpid(pid, &status, 0) != pid);
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	r->kills += killed;
	return killed;
}

static struct err *one_round(struct run *r)
{
	bool openers = crash_random(&r->seed) % 4 == 0;
	unsigned n = openers ? OPENERS : crash_random(&r->seed) % 3 == 0 ? WORKERS_MAX : 1;
	pid_t pid[OPENERS];
	for (unsigned i = 0; i < n; i++) {
		pid[i] = start(openers ? work_open : work, r, crash_random(&r->seed), n == 1);
	}
	bool good = true;
	for (unsigned i = 0; i < n; i++) {
		uint64_t most = openers                           ? OPENERS_US
				: crash_random(&r->seed) % 2 == 0 ? SHORT_US
								  : LONGEST_US;
		sleep_us(crash_random(&r->seed) % most);
		good &= kill_and_wait(r, pid[i]);
	}
	ENSURE(good, ERR_CORRUPT, "a worker died before it was killed");
	return NULL;
}

static struct err *check_round(struct run *r, bool collect)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	SCOPE(freep) struct crash_want *want = calloc(1, sizeof(*want));
	BUG_ON(want == NULL);
	bool in_flight = false;
	for (unsigned i = 0; i < CRASH_SEEDS_MAX; i++) {
		want->state[i] = atomic_load(&r->sh->state[i]);
		want->bare[i] = r->sh->bare[i];
		in_flight |= want->state[i] == CRASH_MAYBE;
	}
	r->hit_takes += in_flight;
	TRY(open_family(r, &s, &f));
	TRY(crash_check(f, want));
	if (collect) {
		TRY(crash_collect(f, want));
	}
	for (unsigned i = 0; i < CRASH_SEEDS_MAX; i++) {
		atomic_store(&r->sh->state[i], want->state[i]);
		r->sh->bare[i] = want->bare[i];
	}
	char path[400];
	char text[37];
	uuid_text(crash_family, text);
	snprintf(path, sizeof(path), "%s/families/%s/data.mdb", r->dir, text);
	struct stat st;
	ENSURE(stat(path, &st) == 0, ERR_SYS, "%s is gone", path);
	r->most_bytes = MAX(r->most_bytes, (uint64_t)st.st_size);
	ENSURE((uint64_t)st.st_size <= FILE_BYTES_MOST, ERR_CORRUPT,
	       "the data file has %llu bytes: what the dead left is not used again",
	       (unsigned long long)st.st_size);
	return NULL;
}

/* crash_collect compares counts, of which hidden and leased snapshots are not a part. */
static struct err *list_settled(struct run *r, bool collect)
{
	if (!collect || r->sitter == 0) {
		return check_round(r, collect);
	}
	if (crash_random(&r->seed) % 2 == 0) {
		kill(r->sitter, SIGKILL);
	}
	atomic_store(&r->sh->stop, true);
	int status;
	BUG_ON(waitpid(r->sitter, &status, 0) != r->sitter);
	r->sitter = 0;
	atomic_store(&r->sh->stop, false);
	ENSURE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0,
	       ERR_CORRUPT, "the reader under a lease failed");
	return check_round(r, collect);
}

static struct err *run_all(struct run *r, unsigned kills)
{
	{
		SCOPE(store_closep) struct store *s = NULL;
		SCOPE(family_closep) struct family *f = NULL;
		TRY(store_open(r->dir, STORE_CREATE, &s));
		TRY(family_open(s, crash_family, true, &f));
		TRY(crash_take(f, 1, true));
	}
	atomic_store(&r->sh->state[1], CRASH_SURE);
	for (unsigned round = 0; r->kills < kills; round++) {
		bool collect = round % COLLECT_EVERY == COLLECT_EVERY - 1;
		if (round % COLLECT_EVERY == COLLECT_EVERY - SITTER_ROUNDS) {
			r->sitter = start(NULL, r, 0, false);
		}
		TRY(one_round(r));
		TRY(err_wrap(list_settled(r, collect), "round %u", round));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned kills = argc > 1           ? (unsigned)strtoul(argv[1], NULL, 10)
			 : crash_run_long() ? 12000
					    : 620;
	struct run r = { .seed = crash_run_seed() };
	printf("seed %llu\n", (unsigned long long)r.seed);
	crash_dir_make(r.dir);
	r.sh = mmap(NULL, sizeof(*r.sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	BUG_ON(r.sh == MAP_FAILED);
	uint64_t t0 = clock_mono_ns();
	struct err *e = run_all(&r, kills);
	if (r.sitter != 0) {
		kill(r.sitter, SIGKILL);
		waitpid(r.sitter, NULL, 0);
	}
	if (e != NULL) {
		fprintf(stderr, "crash_kill: after %u kills: %s\n  at %s\nthe store is in %s\n",
			r.kills, err_msg(e), err_trace_text(e), r.dir);
		err_free(e);
		return 1;
	}
	printf("%u kills, %u rounds with a take or removal in flight, %llu s; returned before: %u "
	       "takes, %u removals, %u collections, %u reads, %u under a lease; data file at most "
	       "%llu KiB\n",
	       r.kills, r.hit_takes, (unsigned long long)((clock_mono_ns() - t0) / 1000000000),
	       r.sh->takes, r.sh->removals, r.sh->collections, r.sh->reads, r.sh->sitter_reads,
	       (unsigned long long)(r.most_bytes / KIB));
	crash_dir_remove(r.dir);
	return 0;
}
