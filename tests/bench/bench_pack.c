/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the compressor pool takes pages, and how much it stores. One JSON object on stdout.
 *
 *	bench_pack [-w workers] [-m MiB] [-l level] [-r rounds] [-f file]
 *
 * Content is generated, the same every time: of the pages 30 % are text-like, 20 % structured
 * (arrays of records with pointers and counters), 10 % random, the rest zero, in runs of 4 pages.
 * With -f it is the file's. Beside it stands one zstd stream per 8 MiB of the same non-zero
 * bytes at the same level, as the floor that framing is measured against.
 *
 * The consumer drops what it gets: no disk is involved. Decoding is timed over kept frames.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/clock.h"
#include "store/pack.h"

static uint64_t rng_state = 0x9e3779b97f4a7c15ull;

static uint64_t rng(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* A vocabulary of 512 made-up words of 2..11 letters; its first 16 are most of the text. */
static char word[512][12];

static void make_words(void)
{
	static const char letters[] = "etaoinshrdlcumwfgypbvk_";
	for (size_t i = 0; i < ARRAY_LEN(word); i++) {
		size_t len = 2 + rng() % 10;
		for (size_t k = 0; k < len; k++) {
			size_t a = rng() % (sizeof(letters) - 1);
			size_t b = rng() % (sizeof(letters) - 1);
			word[i][k] = letters[MIN(a, b)];
		}
		word[i][len] = '\0';
	}
}

static void fill_text(uint8_t *page)
{
	size_t at = 0;
	while (at < PAGE_BYTES) {
		uint64_t r = rng();
		const char *s = word[(r >> 8) % ((r & 31) != 0 ? 16 : ARRAY_LEN(word))];
		size_t len = MIN(strlen(s), PAGE_BYTES - at);
		memcpy(page + at, s, len);
		at += len;
		if (at < PAGE_BYTES) {
			page[at++] = (r >> 40) % 11 == 0 ? '\n' : ' ';
		}
	}
}

static void fill_struct(uint8_t *page)
{
	uint64_t count = rng() & 0xffff;
	uint64_t sum = rng() & 0xffff;
	for (size_t at = 0; at < PAGE_BYTES; at += 64) {
		uint64_t r = rng();
		uint64_t rec[8] = { 0xffff888000000000ull + ((r & 31) << 6),
				    count++,
				    r >> 12 & 15,
				    0x0000000100000001ull,
				    (r >> 20 & 63) != 0 ? 0 : r >> 32,
				    0,
				    sum += r >> 40 & 3,
				    0xdead000000000100ull };
		memcpy(page + at, rec, sizeof(rec));
	}
}

static void fill_random(uint8_t *page)
{
	for (size_t at = 0; at < PAGE_BYTES; at += 8) {
		uint64_t v = rng();
		memcpy(page + at, &v, sizeof(v));
	}
}

static void generate(uint8_t *mem, size_t npages)
{
	make_words();
	for (size_t i = 0; i < npages;) {
		size_t run = 4;
		unsigned kind = (unsigned)(rng() % 10);
		for (; run > 0 && i < npages; run--, i++) {
			uint8_t *page = mem + i * PAGE_BYTES;
			if (kind < 3) {
				fill_text(page);
			} else if (kind < 5) {
				fill_struct(page);
			} else if (kind < 6) {
				fill_random(page);
			}
		}
	}
}

static struct err *next_id(void *arg, enum pack_id_kind kind, uint64_t *ret_id)
{
	atomic_ullong *next = arg;
	*ret_id = atomic_fetch_add(&next[kind], 1) + 1;
	return NULL;
}

static void fatal(struct err *e)
{
	fprintf(stderr, "bench_pack: %s\n", err_msg(e));
	exit(1);
}

/* What the consumer sees: records, and bytes as LMDB pages would hold them. */
struct consumer {
	struct pack *p;
	uint64_t lmdb_bytes;
	uint64_t frames_bytes;
	uint64_t decoded_bytes;
	uint64_t decode_ns;
	bool decode;
};

static void decode_frame(struct consumer *c, const struct pack_item *item, struct zcodec *z)
{
	static struct frame f;
	static uint8_t out[FRAME_SUB_BYTES];
	const uint8_t uuid[16] = { 1 };
	uint64_t t = clock_mono_ns();
	struct err *e = frame_parse(item->p, item->len, uuid, item->id, &f);
	for (unsigned i = 0; e == NULL && i < f.nsub; i++) {
		e = frame_sub(&f, i, z, out);
	}
	if (e != NULL) {
		fatal(e);
	}
	c->decode_ns += clock_mono_ns() - t;
	c->decoded_bytes += (uint64_t)f.nslots * PAGE_BYTES;
}

static void *consume(void *arg)
{
	struct consumer *c = arg;
	struct zcodec *z = NULL;
	struct err *e = zcodec_new(0, &z);
	for (;;) {
		struct pack_item item = { .kind = PACK_NONE };
		e = e != NULL ? e : pack_take(c->p, UINT64_MAX, &item);
		if (e != NULL) {
			fatal(e);
		}
		if (item.kind == PACK_END) {
			break;
		}
		if (item.kind == PACK_FRAME) {
			c->frames_bytes += item.len;
			if (c->decode) {
				decode_frame(c, &item, z);
			}
		}
		/* Over 2022 bytes a value takes whole pages less one 16-byte header. */
		c->lmdb_bytes += item.len > 2022 ? round_up_u64(item.len + 16, 4096) : item.len;
		pack_give_back(c->p, &item);
	}
	zcodec_free(z);
	return NULL;
}

static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void round_once(const uint8_t *mem, size_t npages, unsigned workers, int level, bool decode,
		       double *ret_seconds, double *ret_cpu, struct pack_stats *ret_stats,
		       struct consumer *ret_consumer)
{
	static atomic_ullong ids[2];
	static struct pack_chunk chunk;
	struct pack *p = NULL;
	struct pack_opts o = {
		.workers = workers,
		.level = level,
		.uuid = { 1 },
		.next_id = next_id,
		.arg = ids,
	};
	double cpu = cpu_seconds();
	uint64_t t = clock_mono_ns();
	struct err *e = pack_new(&o, &p);
	if (e != NULL) {
		fatal(e);
	}
	struct consumer c = { .p = p, .decode = decode };
	pthread_t thread;
	BUG_ON(pthread_create(&thread, NULL, consume, &c) != 0);
	for (size_t at = 0; e == NULL && at < npages; at += LEAF_PAGES) {
		chunk.leaf = at / LEAF_PAGES;
		for (size_t i = 0; i < LEAF_PAGES; i++) {
			chunk.page[i] = at + i < npages ? mem + (at + i) * PAGE_BYTES : NULL;
		}
		e = pack_put(p, &chunk);
	}
	e = e != NULL ? e : pack_finish(p);
	if (e != NULL) {
		fatal(e);
	}
	BUG_ON(pthread_join(thread, NULL) != 0);
	*ret_seconds = (double)(clock_mono_ns() - t) / 1e9;
	*ret_cpu = cpu_seconds() - cpu;
	pack_stats(p, ret_stats);
	*ret_consumer = c;
	pack_free(p);
}

/* One stream per 8 MiB of non-zero pages. */
static uint64_t plain_bytes(const uint8_t *mem, size_t npages, int level)
{
	static const uint8_t zero[PAGE_BYTES];
	size_t cap = 8 * MIB;
	uint8_t *in = malloc(cap);
	uint8_t *out = malloc(2 * cap);
	struct zcodec *z = NULL;
	BUG_ON(in == NULL || out == NULL);
	struct err *e = zcodec_new(level, &z);
	uint64_t total = 0;
	size_t have = 0;
	for (size_t i = 0; i < npages && e == NULL; i++) {
		const uint8_t *page = mem + i * PAGE_BYTES;
		if (memcmp(page, zero, PAGE_BYTES) != 0) {
			memcpy(in + have, page, PAGE_BYTES);
			have += PAGE_BYTES;
		}
		if (have == cap || (i + 1 == npages && have > 0)) {
			size_t len = 0;
			e = zcodec_compress(z, out, 2 * cap, in, have, &len);
			total += len;
			have = 0;
		}
	}
	if (e != NULL) {
		fatal(e);
	}
	zcodec_free(z);
	free(in);
	free(out);
	return total;
}

int main(int argc, char **argv)
{
	unsigned workers = 1;
	unsigned rounds = 3;
	size_t mib = 512;
	int level = 1;
	const char *file = NULL;
	for (int opt; (opt = getopt(argc, argv, "w:m:l:r:f:")) != -1;) {
		switch (opt) {
		case 'w':
			workers = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'm':
			mib = strtoul(optarg, NULL, 10);
			break;
		case 'l':
			level = (int)strtol(optarg, NULL, 10);
			break;
		case 'r':
			rounds = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'f':
			file = optarg;
			break;
		default:
			fprintf(stderr, "usage: bench_pack [-w workers] [-m MiB] [-l level] "
					"[-r rounds] [-f file]\n");
			return 2;
		}
	}
	size_t npages = mib * MIB / PAGE_BYTES;
	uint8_t *mem = mmap(NULL, npages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (mem == MAP_FAILED) {
		perror("bench_pack: memory");
		return 1;
	}
	if (file != NULL) {
		int fd = open(file, O_RDONLY | O_CLOEXEC);
		size_t have = 0;
		ssize_t n = fd < 0 ? -1 : 1;
		while (n > 0 && have < npages * PAGE_BYTES) {
			n = read(fd, mem + have, npages * PAGE_BYTES - have);
			have += n > 0 ? (size_t)n : 0;
		}
		if (n < 0) {
			perror(file);
			return 1;
		}
		npages = have / PAGE_BYTES;
	} else {
		generate(mem, npages);
	}

	double best = 1e9;
	double best_cpu = 1e9;
	struct pack_stats st = { 0 };
	struct consumer c = { 0 };
	for (unsigned i = 0; i < rounds; i++) {
		double s;
		double cpu;
		round_once(mem, npages, workers, level, false, &s, &cpu, &st, &c);
		best = MIN(best, s);
		best_cpu = MIN(best_cpu, cpu);
	}
	struct consumer d = { 0 };
	double s;
	double cpu;
	struct pack_stats dst;
	round_once(mem, npages, workers, level, true, &s, &cpu, &dst, &d);

	double nonzero = (double)(st.pages_stored + st.pages_value) * PAGE_BYTES;
	uint64_t plain = plain_bytes(mem, npages, level);
	printf("{\"workers\": %u, \"level\": %d, \"pages\": %zu, \"pages_zero\": %llu, "
	       "\"pages_value\": %llu, \"pages_stored\": %llu, \"frames\": %llu,\n"
	       " \"frame_bytes\": %llu, \"leaf_bytes\": %llu, \"lmdb_bytes\": %llu, "
	       "\"plain_zstd_bytes\": %llu,\n"
	       " \"frame_fill\": %.4f, \"frame_bytes_of_nonzero\": %.4f, "
	       "\"lmdb_bytes_of_nonzero\": %.4f, \"lmdb_bytes_of_plain_zstd\": %.4f,\n"
	       " \"nonzero_mb_s\": %.1f, \"nonzero_mb_per_cpu_s\": %.1f, \"all_mb_s\": %.1f, "
	       "\"decode_mb_s\": %.1f, \"seconds\": %.3f}\n",
	       workers, level, npages, (unsigned long long)st.pages_zero,
	       (unsigned long long)st.pages_value, (unsigned long long)st.pages_stored,
	       (unsigned long long)st.frames, (unsigned long long)st.frame_bytes,
	       (unsigned long long)st.leaf_bytes, (unsigned long long)c.lmdb_bytes,
	       (unsigned long long)plain,
	       (double)st.frame_bytes / ((double)st.frames * FRAME_BYTES_MAX),
	       (double)st.frame_bytes / nonzero, (double)c.lmdb_bytes / nonzero,
	       (double)c.lmdb_bytes / (double)plain, nonzero / 1e6 / best, nonzero / 1e6 / best_cpu,
	       (double)npages * PAGE_BYTES / 1e6 / best,
	       (double)d.decoded_bytes / 1e3 / ((double)d.decode_ns / 1e6), best);
	return 0;
}
