/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rot: flips single bits of a small store's data files, LMDB's own structures included, and demands
 * that each is harmless (everything reads as before and verify is clean) or named by an error or
 * finding of verify; never a signal, a hang, or wrong bytes without a word. Which bits are harmless
 * by proof is `may_be_harmless` below: any other one must be found.
 *
 * Usage: rot [FLIPS [FILE BYTE BIT]]: with all, that bit only; FILE is 0 for the catalog, 1 for the
 * family. TORPOR_TIER=long: 120,000 flips at least: every bit of what is not payload.
 * TORPOR_SEED: the sample. ROT_JOBS: processes at once. Ends with a table of classes.
 *
 * Each flip is judged in a process of its own, with a time limit. Every eighth flip's process, and
 * that of every flip in the head of a big value, also writes: it removes a snapshot, collects and
 * takes another; what then still reads must be right.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/crash/rot_judge.h"
#include "tests/crash/rot_map.h"

enum {
	WRITES_EVERY = 8,
	NORMAL_FLIPS = 6100, /* 5 % of the long run, and the least of each class */
	LONG_FLIPS = 120000,
	CLASS_MIN = 12, /* flips of each class and table at least, where it has so many bits */
	SHOWN_MAX = 12, /* failures printed by each process */
};

/* ---- the flips ---- */

struct rot_file {
	const char *name; /* below the store */
	uint8_t *p;
	size_t len;
	struct rot_map map;
};

struct flip {
	uint32_t file;
	uint32_t bit;
	uint64_t at;
};

/* Results of all processes, in shared memory. */
struct results {
	uint64_t n[2][ROT__COUNT][16][OUTCOMES];
	uint64_t bad;
	uint64_t wrote;
};

/*
 * Proofs. Free pages, gaps and the unused part of meta pages are never read as anything. LMDB reads
 * of a meta page: magic, version, flags, page size, tables, last page, transaction. It does not
 * read the address of the map unless asked to map there, nor the size of the map, since ours is
 * larger, nor the page number and the last 4 bytes of a meta page's header. The trees of the older
 * meta page serve nobody, and the next commit writes them anew. A branch's key may be any that
 * still separates its children, and the first one is not looked at. The header's padding is for
 * DUPSORT only.
 */
static bool may_be_harmless(const struct rot_file *f, const struct flip *fl)
{
	enum rot_class c = f->map.class[fl->at];
	uint64_t in = fl->at % ROT_PAGE;
	switch (c) {
	case ROT_FREE_PAGE:
	case ROT_META_PAD:
	case ROT_PAGE_SLACK:
	case ROT_BIG_SLACK:
		return true;
	case ROT_META_OLD:
		return !((in >= 10 && in < 12) || (in >= 16 && in < 24) || in >= 144);
	case ROT_META_NEW:
		return in < 10 || (in >= 12 && in < 16) || (in >= 24 && in < 40);
	case ROT_KEY_BRANCH:
		return true;
	case ROT_KEY_LEAF:
		return f->map.table[fl->at] == ROT_TABLE_FREE;
	case ROT_PAGE_HEAD:
	case ROT_BIG_HEAD:
		return in % ROT_PAGE == 8 || in % ROT_PAGE == 9; /* padding of the header */
	default:
		return false;
	}
}

/* ---- one process that flips ---- */

struct flipper {
	const struct crash_store *ref;
	struct rot_file *file; /* [2] */
	const struct flip *flip;
	size_t nflips;
	struct results *res;
	struct note *note; /* shared with the child */
	char dir[300];
	unsigned shown;
};

static enum outcome run_child(struct flipper *w, bool write, int *ret_signal)
{
	pid_t pid = fork();
	if (pid == 0) {
		judge_limit();
		_exit((int)judge(w->ref, w->dir, write, w->note, NULL, NULL));
	}
	return judge_wait(pid, ret_signal);
}

static void file_restore(struct flipper *w, unsigned i)
{
	char path[400];
	snprintf(path, sizeof(path), "%s/%s", w->dir, w->file[i].name);
	int fd = open(path, O_RDWR);
	if (fd < 0 || ftruncate(fd, (off_t)w->file[i].len) < 0 ||
	    pwrite(fd, w->file[i].p, w->file[i].len, 0) != (ssize_t)w->file[i].len) {
		perror(path);
		_exit(99);
	}
	close(fd);
}

static void flip_one(struct flipper *w, size_t k)
{
	const struct flip *fl = &w->flip[k];
	const struct rot_file *f = &w->file[fl->file];
	/* LMDB acts on the head of a big value when it frees it. */
	bool write = k % WRITES_EVERY == 0 || f->map.class[fl->at] == ROT_BIG_HEAD;
	uint8_t b = (uint8_t)(f->p[fl->at] ^ 1u << fl->bit);
	char path[400];
	snprintf(path, sizeof(path), "%s/%s", w->dir, f->name);
	int fd = open(path, O_RDWR);
	if (fd < 0 || pwrite(fd, &b, 1, (off_t)fl->at) != 1) {
		perror(path);
		_exit(99);
	}
	w->note->text[0] = 0;
	int sig;
	enum outcome out = run_child(w, write, &sig);
	if (write) {
		file_restore(w, 0);
		file_restore(w, 1);
		__atomic_add_fetch(&w->res->wrote, 1, __ATOMIC_RELAXED);
	} else if (pwrite(fd, &f->p[fl->at], 1, (off_t)fl->at) != 1) {
		_exit(99);
	}
	close(fd);
	enum rot_class c = f->map.class[fl->at];
	__atomic_add_fetch(&w->res->n[fl->file][c][f->map.table[fl->at]][out], 1, __ATOMIC_RELAXED);
	bool bad = out > FOUND || (out == HARMLESS && !may_be_harmless(f, fl));
	if (bad) {
		__atomic_add_fetch(&w->res->bad, 1, __ATOMIC_RELAXED);
		if (w->shown++ < SHOWN_MAX) {
			printf("FAILED: %s byte %llu (page %llu + %llu) bit %u, %s of %s%s: %s, "
			       "signal %d; "
			       "%s\n",
			       f->name, (unsigned long long)fl->at,
			       (unsigned long long)fl->at / ROT_PAGE,
			       (unsigned long long)fl->at % ROT_PAGE, fl->bit, rot_class_name[c],
			       f->map.name[f->map.table[fl->at]], write ? ", with writes" : "",
			       outcome_name[out], sig, w->note->text);
			fflush(stdout);
		}
	}
}

/* ---- which bits ---- */

static uint64_t seed;

/* Payload and unused bytes are sampled even in the long tier. */
static bool is_sampled(enum rot_class c)
{
	return c == ROT_FREE_PAGE || c == ROT_META_PAD || c == ROT_PAGE_SLACK ||
	       c == ROT_BIG_VALUE || c == ROT_BIG_SLACK;
}

/* Picks bits of one file: from each class and table its share, but at least CLASS_MIN. */
static size_t pick(struct rot_file *f, unsigned file, uint64_t want, bool exhaustive,
		   struct flip *out, size_t cap)
{
	uint64_t count[ROT__COUNT][16] = { 0 };
	uint64_t important = 0;
	for (size_t i = 0; i < f->len; i++) {
		count[f->map.class[i]][f->map.table[i]] += 8;
		important += is_sampled(f->map.class[i]) ? 0 : 8;
	}
	size_t n = 0;
	for (size_t i = 0; i < f->len; i++) {
		enum rot_class c = f->map.class[i];
		uint64_t all = count[c][f->map.table[i]];
		double p = is_sampled(c) ? (double)want / 3 / (double)(f->len * 8)
					 : (double)want * 2 / 3 / (double)important;
		p = p * (double)all < CLASS_MIN ? (double)CLASS_MIN / (double)all : p;
		for (unsigned bit = 0; bit < 8 && n < cap; bit++) {
			bool take = (exhaustive && !is_sampled(c)) ||
				    (double)(crash_rnd(&seed) >> 11) / (double)(1ull << 53) < p;
			if (take) {
				out[n++] = (struct flip){ .file = file, .bit = bit, .at = i };
			}
		}
	}
	return n;
}

static void report(const struct results *r, const struct rot_file *file, uint64_t ms)
{
	uint64_t total[OUTCOMES] = { 0 };
	printf("%-12s %-26s %-8s %9s %9s %9s\n", "file", "class", "table", "harmless", "found",
	       "bad");
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned c = 0; c < ROT__COUNT; c++) {
			for (unsigned t = 0; t < 16; t++) {
				const uint64_t *n = r->n[i][c][t];
				uint64_t bad = n[SILENT] + n[UNVERIFIED] + n[DIED] + n[HUNG];
				if (n[HARMLESS] + n[FOUND] + bad == 0) {
					continue;
				}
				printf("%-12s %-26s %-8s %9llu %9llu %9llu\n",
				       i == 0 ? "catalog" : "family", rot_class_name[c],
				       file[i].map.name[t], (unsigned long long)n[HARMLESS],
				       (unsigned long long)n[FOUND], (unsigned long long)bad);
				for (unsigned o = 0; o < OUTCOMES; o++) {
					total[o] += n[o];
				}
			}
		}
	}
	printf("rot: %llu harmless, %llu found, %llu silent, %llu missed by verify, %llu signals, "
	       "%llu hangs; %llu with writes; %llu breaches; %llu s\n",
	       (unsigned long long)total[HARMLESS], (unsigned long long)total[FOUND],
	       (unsigned long long)total[SILENT], (unsigned long long)total[UNVERIFIED],
	       (unsigned long long)total[DIED], (unsigned long long)total[HUNG],
	       (unsigned long long)r->wrote, (unsigned long long)r->bad,
	       (unsigned long long)ms / 1000);
}

static void run_part(struct flipper *w, const char *master, unsigned job, unsigned jobs)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(w->dir, sizeof(w->dir), "%s-%u", master, job);
	crash_copy_dir(master, w->dir);
	for (size_t k = job; k < w->nflips; k += jobs) {
		flip_one(w, k);
	}
	crash_rmdir(w->dir);
}

int main(int argc, char **argv)
{
	const char *tier = getenv("TORPOR_TIER");
	const char *text = getenv("TORPOR_SEED");
	const char *jobs_text = getenv("ROT_JOBS");
	bool is_long = tier != NULL && strcmp(tier, "long") == 0;
	uint64_t want = argc > 1  ? strtoull(argv[1], NULL, 10)
			: is_long ? LONG_FLIPS
				  : NORMAL_FLIPS;
	unsigned jobs = jobs_text != NULL ? (unsigned)atoi(jobs_text)
					  : (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	struct rlimit none = { 0, 0 };
	seed = text != NULL ? strtoull(text, NULL, 10) : 1;
	setrlimit(RLIMIT_CORE, &none);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seed %llu\n", (unsigned long long)seed);

	char master[256];
	crash_tmpdir(master);
	static struct crash_store ref;
	crash_build(master, &ref);
	static struct rot_file file[2];
	file[0].name = "catalog/data.mdb";
	file[1].name = ref.data_name;
	size_t cap = want * 4 + 100000 + (is_long ? 4000000 : 0);
	struct flip *flip = calloc(cap, sizeof(*flip));
	size_t n = 0;
	for (unsigned i = 0; i < 2; i++) {
		char path[600];
		snprintf(path, sizeof(path), "%s/%s", master, file[i].name);
		file[i].p = crash_slurp(path, &file[i].len);
		rot_map_make(&file[i].map, file[i].p, file[i].len);
		n += pick(&file[i], i, i == 0 ? want / 5 : want - want / 5, is_long, flip + n,
			  cap - n);
	}
	if (argc == 5) {
		n = 1;
		flip[0] = (struct flip){ .file = (uint32_t)atoi(argv[2]),
					 .at = strtoull(argv[3], NULL, 10),
					 .bit = (uint32_t)atoi(argv[4]) };
	}
	for (size_t i = n; i > 1; i--) { /* so that the processes get equal work */
		size_t k = crash_rnd(&seed) % i;
		struct flip t = flip[i - 1];
		flip[i - 1] = flip[k];
		flip[k] = t;
	}
	struct results *res = mmap(NULL, sizeof(*res) + jobs * 4096, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (flip == NULL || res == MAP_FAILED) {
		perror("memory");
		return 1;
	}
	printf("%zu flips, %u processes, files of %zu and %zu bytes\n", n, jobs, file[0].len,
	       file[1].len);
	uint64_t began = clock_mono_ns();
	for (unsigned i = 0; i < jobs; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			struct flipper w = {
				.ref = &ref, .file = file, .flip = flip, .nflips = n, .res = res
			};
			w.note = (struct note *)((uint8_t *)(res + 1) + (size_t)i * 4096);
			run_part(&w, master, i, jobs);
			_exit(0);
		}
	}
	int st;
	bool lost = false;
	while (wait(&st) > 0) {
		lost |= !WIFEXITED(st) || WEXITSTATUS(st) != 0;
	}
	report(res, file, (clock_mono_ns() - began) / 1000000);
	crash_rmdir(master);
	free(flip);
	return res->bad > 0 || lost ? 1 : 0;
}
