/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the figures of incremental takes are held against, for tests/bench/run.
 *
 *   pagediff note FILE SUMS     notes a sum of each page of FILE (guest memory: /proc/PID/fd/N).
 *   pagediff zstd FILE SUMS     the pages that are not as noted, compressed together at level 1:
 *                               prints their number, their compressed bytes and the time in us.
 *   pagediff commit DIR         prints the median time, in us, of 9 times writing 4 KiB and fsync.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

enum { PAGE = 4096, COMMITS = 9 };

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "pagediff: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t sum_of(const uint64_t *p)
{
	uint64_t h = 0x9e3779b97f4a7c15ull;

	for (size_t i = 0; i < PAGE / sizeof(*p); i++) {
		h = (h ^ p[i]) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h;
}

/* Calls fn for each page that FILE has blocks for: reading a hole must not fill it. */
static void each_page(const char *path, void (*fn)(void *arg, uint64_t index, const void *page),
		      void *arg)
{
	static uint64_t page[PAGE / sizeof(uint64_t)];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t at = 0;

	if (fd < 0) {
		fail(path);
	}
	while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
		off_t end = lseek(fd, at, SEEK_HOLE);
		for (; at < end; at += PAGE) {
			if (pread(fd, page, PAGE, at) != PAGE) {
				fail(path);
			}
			fn(arg, (uint64_t)at / PAGE, page);
		}
	}
	close(fd);
}

struct pages {
	uint64_t *sum; /* owned; 0: no such page */
	uint64_t n;
	uint8_t *out; /* owned; of those that differ */
	size_t nout, cap;
};

static void note_page(void *arg, uint64_t index, const void *page)
{
	struct pages *p = arg;

	p->sum[index] = sum_of(page);
}

static void compare_page(void *arg, uint64_t index, const void *page)
{
	struct pages *p = arg;

	if (index < p->n && p->sum[index] == sum_of(page)) {
		return;
	}
	if (p->nout == p->cap) {
		p->cap = p->cap == 0 ? 4096 : p->cap * 2;
		p->out = realloc(p->out, p->cap * PAGE);
		if (p->out == NULL) {
			fail("memory");
		}
	}
	memcpy(p->out + p->nout++ * PAGE, page, PAGE);
}

static void pages_of(struct pages *p, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0) {
		fail(path);
	}
	p->n = (uint64_t)st.st_size / PAGE;
	p->sum = calloc(p->n + 1, sizeof(*p->sum));
	if (p->sum == NULL) {
		fail("memory");
	}
}

static int note(const char *path, const char *sums)
{
	struct pages p = { 0 };
	FILE *out = fopen(sums, "we");

	pages_of(&p, path);
	each_page(path, note_page, &p);
	if (out == NULL || fwrite(p.sum, sizeof(*p.sum), p.n, out) != p.n || fclose(out) != 0) {
		fail(sums);
	}
	free(p.sum);
	return 0;
}

static int compress(const char *path, const char *sums)
{
	struct pages p = { 0 };
	FILE *in = fopen(sums, "re");

	pages_of(&p, path);
	if (in == NULL || fread(p.sum, sizeof(*p.sum), p.n, in) != p.n) {
		fail(sums);
	}
	fclose(in);
	each_page(path, compare_page, &p);
	size_t cap = ZSTD_compressBound(p.nout * PAGE);
	void *to = malloc(cap);
	if (to == NULL) {
		fail("memory");
	}
	memset(to, 1, cap); /* no page faults while the clock runs */
	uint64_t t = now_us();
	size_t n = ZSTD_compress(to, cap, p.out, p.nout * PAGE, 1);
	t = now_us() - t;
	if (ZSTD_isError(n)) {
		fail(ZSTD_getErrorName(n));
	}
	printf("%zu %zu %llu\n", p.nout, n, (unsigned long long)t);
	free(to);
	free(p.out);
	free(p.sum);
	return 0;
}

static int by_value(const void *pa, const void *pb)
{
	const uint64_t *a = pa;
	const uint64_t *b = pb;

	return (*a > *b) - (*a < *b);
}

static int commit(const char *dir)
{
	static const char block[PAGE];
	char path[4096];
	uint64_t us[COMMITS];

	snprintf(path, sizeof(path), "%s/commit", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0) {
		fail(path);
	}
	for (size_t i = 0; i < COMMITS; i++) {
		us[i] = now_us();
		if (write(fd, block, sizeof(block)) != PAGE || fsync(fd) != 0) {
			fail(path);
		}
		us[i] = now_us() - us[i];
	}
	close(fd);
	unlink(path);
	qsort(us, COMMITS, sizeof(*us), by_value);
	printf("%llu\n", (unsigned long long)us[COMMITS / 2]);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "note") == 0 && argc == 4) {
		return note(argv[2], argv[3]);
	}
	if (strcmp(verb, "zstd") == 0 && argc == 4) {
		return compress(argv[2], argv[3]);
	}
	if (strcmp(verb, "commit") == 0 && argc == 3) {
		return commit(argv[2]);
	}
	fprintf(stderr, "usage: see the head of pagediff.c\n");
	return 2;
}
