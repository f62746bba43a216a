/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target over every file of a corpus directory, then over mutations of each file that
 * a fixed seed makes: what ctest does with the corpora where there is no libFuzzer.
 *
 *	replay DIR [MUTATIONS PER FILE]
 *
 * An empty or missing directory is a failure: a test that ran nothing has not passed.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "tests/fuzz/fuzz.h"

#define FILE_BYTES_MAX (1u << 20)

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* A copy of exactly this length, so that a sanitizer sees a read behind its end. */
static void run_copy(const uint8_t *p, size_t len)
{
	SCOPE(freep) uint8_t *copy = malloc(len > 0 ? len : 1);
	BUG_ON(copy == NULL);
	memcpy(copy, p, len);
	LLVMFuzzerTestOneInput(copy, len);
}

static void mutate_and_run(const uint8_t *p, size_t len, uint64_t n, uint64_t *x)
{
	static const uint64_t edges[] = { 0,      1,          0x7f,       0x80,       0xff,
					  0xffff, 0x7fffffff, UINT32_MAX, UINT64_MAX, 1ull << 63 };
	SCOPE(freep) uint8_t *m = malloc(len + 8);
	BUG_ON(m == NULL);
	for (uint64_t i = 0; i < n; i++) {
		memcpy(m, p, len);
		memset(m + len, 0, 8);
		size_t now = len;
		for (uint64_t k = next_random(x) % 4; k > 0 && len > 0; k--) {
			uint64_t v = next_random(x);
			v = v % 2 ? edges[v / 2 % ARRAY_LEN(edges)] : v;
			memcpy(m + next_random(x) % len, &v, 1u << next_random(x) % 4);
		}
		if (next_random(x) % 8 == 0) {
			now = next_random(x) % (len + 8);
		}
		run_copy(m, now);
	}
}

static struct err *run_dir(const char *dir, uint64_t mutations, unsigned *ret_files)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, NULL, alphasort); /* sorted: every run is the same */
	if (n < 0) {
		return ERR_ERRNO("%s", dir);
	}
	uint64_t x = 88172645463325252;
	struct err *e = NULL;
	unsigned files = 0;
	for (int i = 0; i < n; i++) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
		bool hidden = names[i]->d_name[0] == '.';
		free(names[i]);
		uint8_t *p = NULL;
		size_t len = 0;
		if (hidden || e != NULL) {
			continue;
		}
		e = io_slurp(path, FILE_BYTES_MAX, &p, &len);
		if (e == NULL) {
			run_copy(p, len);
			mutate_and_run(p, len, mutations, &x);
			files++;
		}
		free(p);
	}
	free(names);
	*ret_files = files;
	return e;
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s DIR [MUTATIONS]\n", argv[0]);
		return 2;
	}
	uint64_t mutations = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	unsigned files = 0;
	struct err *e = run_dir(argv[1], mutations, &files);
	if (e != NULL) {
		fprintf(stderr, "%s\n", err_msg(e));
		err_free(e);
		return 1;
	}
	if (files == 0) {
		fprintf(stderr, "%s: no files\n", argv[1]);
		return 1;
	}
	printf("%u files, %llu mutations each\n", files, (unsigned long long)mutations);
	return 0;
}
