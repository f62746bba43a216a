/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a 1 GiB mixed image (40 % zero, 30 % text-like, 20 % structured, 10 % random, in runs of
 * 16 to 64 pages) as one map into a fresh store, and reads it back into touched memory.
 *
 *	bench_store [DIR] [ROUNDS] [MIB]	JSON on stdout: seconds, best and median of ROUNDS
 *
 * Write seconds end with the durable publish. Read seconds are from reader_open to the last page.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "store/store.h"
#include "tests/lib/tmp_root.h"

enum {
	ROUNDS_MAX = 64,
};

static uint64_t seed = 0x9E3779B97F4A7C15ull;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill_text(uint8_t *p, size_t len)
{
	static const char *const words[] = {
		"static ",  "int ",    "return ", "struct ",   "kernel ",
		"page ",    "the ",    "of ",     "memory ",   "\n\t",
		"if (",     "NULL)",   " = 0;\n", "for (",     "unsigned ",
		"buffer ",  "length",  "->next",  "error: ",   "value ",
		"0x",       "config_", "device ", "/usr/lib/", "x86_64-linux-gnu",
		"include ", "=y\n",
	};
	size_t at = 0;
	while (at < len) {
		char tmp[32];
		const char *w = words[rnd() % ARRAY_LEN(words)];
		if (rnd() % 8 == 0) {
			snprintf(tmp, sizeof(tmp), "%llx ", (unsigned long long)(rnd() & 0xffffff));
			w = tmp;
		}
		size_t n = MIN(strlen(w), len - at);
		memcpy(p + at, w, n);
		at += n;
	}
}

/* Like heaps: pointers near each other, small numbers, some noise. */
static void fill_structured(uint8_t *p, size_t len)
{
	uint64_t base = 0x00007f0000000000ull + (rnd() & 0xffffff000ull);
	for (size_t i = 0; i + 32 <= len; i += 32) {
		uint64_t v[4] = { base + (rnd() & 0xfffff8), rnd() & 0xff, base + i,
				  rnd() & 0xffff };
		memcpy(p + i, v, sizeof(v));
	}
}

static void fill_random(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rnd();
		memcpy(p + i, &v, 8);
	}
}

/* Returns the number of non-zero bytes' pages in bytes. */
static uint64_t make_image(uint8_t *img, uint64_t len)
{
	uint64_t nonzero = 0;
	for (uint64_t at = 0; at < len;) {
		uint64_t n = MIN((16 + rnd() % 49) * PAGE_BYTES, len - at);
		uint64_t kind = rnd() % 10;
		if (kind >= 4) {
			nonzero += n;
		}
		if (kind < 4) {
			memset(img + at, 0, n);
		} else if (kind < 7) {
			fill_text(img + at, n);
		} else if (kind < 9) {
			fill_structured(img + at, n);
		} else {
			fill_random(img + at, n);
		}
		at += n;
	}
	return nonzero;
}

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	memcpy((uint8_t *)arg + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

struct result {
	double write_s;
	double settle_s;
	double read_s;
	struct snap_info info;
	uint64_t file_bytes;
};

static double seconds_since(uint64_t t0)
{
	return (double)(clock_mono_ns() - t0) / 1e9;
}

static struct err *one_round(const char *dir, const uint8_t *img, uint8_t *out, uint64_t len,
			     struct result *r)
{
	SCOPE(store_closep) struct store *st = NULL;
	TRY(store_open(dir, STORE_CREATE, &st));
	uint8_t fam[16];
	TRY(uuid_make(fam));
	{
		SCOPE(family_closep) struct family *f = NULL;
		TRY(family_open(st, fam, true, &f));
		uint64_t t0 = clock_mono_ns();
		SCOPE(session_freep) struct session *s = NULL;
		TRY(session_open(f, &(struct session_opts){ .expect_bytes = len }, &s));
		TRY(session_map_begin(s, "memory", len, (const uint8_t[32]){ 0 }));
		TRY(session_map_pages(s, 0, img, len / PAGE_BYTES));
		TRY(session_map_end(s));
		TRY(session_settle(s));
		r->settle_s = seconds_since(t0);
		struct snap_meta meta = { .tag = "bench" };
		TRY(session_publish(s, &meta, &r->info));
		r->write_s = seconds_since(t0);
		struct store_usage u;
		TRY(family_usage(f, &u));
		r->file_bytes = u.file_bytes;

		memset(out, 0, len);
		t0 = clock_mono_ns();
		SCOPE(reader_closep) struct reader *rd = NULL;
		TRY(reader_open(f, r->info.id, &rd));
		TRY(reader_map_read(rd, "memory",
				    &(struct read_opts){ .place = place, .arg = out }));
		r->read_s = seconds_since(t0);
		ENSURE(memcmp(img, out, len) == 0, ERR_CORRUPT, "read back differently");
		reader_close(MOVE(rd));
		TRY(family_remove(f, &r->info.id, 1));
	}
	return family_remove_empty(st, fam);
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static struct err *run(const char *dir, unsigned rounds, uint64_t len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	uint8_t *img = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, -1, 0);
	uint8_t *out = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, -1, 0);
	ENSURE(img != MAP_FAILED && out != MAP_FAILED, ERR_SYS, "no memory for the images");
	uint64_t nonzero = make_image(img, len);
	double w[ROUNDS_MAX];
	double rd[ROUNDS_MAX];
	struct result r;
	for (unsigned i = 0; i < rounds; i++) {
		TRY(one_round(dir, img, out, len, &r));
		fprintf(stderr, "round %u: write %.3f s (settled %.3f), read %.3f s\n", i + 1,
			r.write_s, r.settle_s, r.read_s);
		w[i] = r.write_s;
		rd[i] = r.read_s;
	}
	qsort(w, rounds, sizeof(*w), order);
	qsort(rd, rounds, sizeof(*rd), order);
	struct utsname un;
	uname(&un);
	printf("{\"bench\":\"store\",\"host\":\"%s %s\",\"cpus\":%ld,\"image_bytes\":%llu,"
	       "\"nonzero_bytes\":%llu,\"rounds\":%u,\"write_best_s\":%.4f,\"write_median_s\":%.4f,"
	       "\"read_best_s\":%.4f,\"read_median_s\":%.4f,\"frame_bytes\":%llu,"
	       "\"file_bytes\":%llu,\"stored_to_nonzero\":%.4f}\n",
	       un.sysname, un.release, sysconf(_SC_NPROCESSORS_ONLN), (unsigned long long)len,
	       (unsigned long long)nonzero, rounds, w[0], w[rounds / 2], rd[0], rd[rounds / 2],
	       (unsigned long long)r.info.bytes_stored, (unsigned long long)r.file_bytes,
	       (double)r.file_bytes / (double)nonzero);
	return NULL;
}

int main(int argc, char **argv)
{
	char dir[256];
	unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 3;
	uint64_t len = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1024) * MIB;
	snprintf(dir, sizeof(dir), "%s/torpor-bench-XXXXXX", tmp_root());
	if (argc <= 1 && mkdtemp(dir) == NULL) {
		perror(dir);
		return 1;
	}
	rounds = rounds < 1 ? 1 : MIN(rounds, (unsigned)ROUNDS_MAX);
	struct err *e = run(argc > 1 ? argv[1] : dir, rounds, len);
	if (e != NULL) {
		log_err(e);
		return 1;
	}
	return 0;
}
