/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Truncation: cuts each data file of a small store at every page boundary and within every page,
 * while it is closed and while another process has it open (for reading, and for writing). Demands
 * an error or a finding, never a signal, a hang, or wrong bytes; a cut of a closed store's file is
 * always named.
 */
#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/crash/rot_judge.h"

enum {
	CUT_PAGE = 4096,
};

struct cutter {
	struct crash_store ref;
	char dir[256];
	const char *name[2];
	uint8_t *p[2];
	size_t len[2];
	struct note *note; /* shared */
	uint64_t n[2][OUTCOMES];
	uint64_t bad;
};

struct turn {
	int ready;
	int go;
};

/* The judge's side: tells that the store is open, and waits for the cut. */
static void wait_for_cut(void *arg)
{
	struct turn *t = arg;
	char c = 0;
	if (write(t->ready, &c, 1) != 1 || read(t->go, &c, 1) != 1) {
		_exit(99);
	}
}

static void put_back(const struct cutter *w)
{
	for (unsigned i = 0; i < 2; i++) {
		char path[400];
		snprintf(path, sizeof(path), "%s/%s", w->dir, w->name[i]);
		int fd = open(path, O_RDWR);
		if (fd < 0 || ftruncate(fd, (off_t)w->len[i]) < 0 ||
		    pwrite(fd, w->p[i], w->len[i], 0) != (ssize_t)w->len[i]) {
			perror(path);
			exit(98);
		}
		close(fd);
	}
}

static void cut(const struct cutter *w, unsigned file, size_t at)
{
	char path[400];
	snprintf(path, sizeof(path), "%s/%s", w->dir, w->name[file]);
	if (truncate(path, (off_t)at) < 0) {
		perror(path);
		exit(98);
	}
}

static void cut_one(struct cutter *w, unsigned file, size_t at, bool opened, bool write_too)
{
	int ready[2];
	int go[2];
	if (pipe(ready) < 0 || pipe(go) < 0) {
		exit(98);
	}
	w->note->text[0] = 0;
	if (!opened) {
		cut(w, file, at);
	}
	pid_t pid = fork();
	if (pid == 0) {
		struct turn t = { .ready = ready[1], .go = go[0] };
		close(ready[0]);
		close(go[1]);
		judge_limit();
		_exit((int)judge(&w->ref, w->dir, write_too, w->note, opened ? wait_for_cut : NULL,
				 &t));
	}
	close(ready[1]);
	close(go[0]);
	char c = 0;
	if (opened && read(ready[0], &c, 1) == 1) {
		cut(w, file, at);
		if (write(go[1], &c, 1) != 1) {
			perror("pipe");
		}
	}
	close(ready[0]);
	close(go[1]);
	int sig;
	enum outcome out = judge_wait(pid, &sig);
	put_back(w);
	w->n[opened][out]++;
	if (out != FOUND) {
		w->bad++;
		printf("FAILED: %s cut at %zu of %zu while %s%s: %s, signal %d; %s\n",
		       w->name[file], at, w->len[file], opened ? "open" : "closed",
		       write_too ? ", writing" : "", outcome_name[out], sig, w->note->text);
	}
}

int main(void)
{
	static struct cutter w;
	struct rlimit none = { 0, 0 };
	const char *tier = getenv("TORPOR_TIER");
	size_t step = tier != NULL && strcmp(tier, "long") == 0 ? 1 : 3;
	setrlimit(RLIMIT_CORE, &none);
	setvbuf(stdout, NULL, _IOLBF, 0);
	crash_tmpdir(w.dir);
	crash_build(w.dir, &w.ref);
	w.name[0] = "catalog/data.mdb";
	w.name[1] = w.ref.data_name;
	w.note = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (unsigned i = 0; i < 2; i++) {
		char path[600];
		snprintf(path, sizeof(path), "%s/%s", w.dir, w.name[i]);
		w.p[i] = crash_slurp(path, &w.len[i]);
	}
	uint64_t began = clock_mono_ns();
	size_t k = 0;
	for (unsigned i = 0; i < 2; i++) {
		size_t pages = w.len[i] / CUT_PAGE;
		for (size_t pg = 0; pg < pages; pg++, k++) {
			if (step > 1 && k % step != 0 && pg > 4 && pg + 4 < pages) {
				continue;
			}
			cut_one(&w, i, pg * CUT_PAGE, false, k % 2 == 0);
			cut_one(&w, i, pg * CUT_PAGE + 1000, false, false);
			cut_one(&w, i, pg * CUT_PAGE, true, k % 2 == 0);
		}
	}
	crash_rmdir(w.dir);
	printf("cut: closed: %llu found, %llu harmless; open: %llu found, %llu harmless; %llu "
	       "breaches; "
	       "%llu s\n",
	       (unsigned long long)w.n[0][FOUND], (unsigned long long)w.n[0][HARMLESS],
	       (unsigned long long)w.n[1][FOUND], (unsigned long long)w.n[1][HARMLESS],
	       (unsigned long long)w.bad,
	       (unsigned long long)(clock_mono_ns() - began) / 1000000000);
	return w.bad > 0 ? 1 : 0;
}
