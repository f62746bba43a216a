/* SPDX-License-Identifier: Apache-2.0 */
/* The stored VM of the crash tests and its check. See crash_vm.h. */
#include "tests/crash/crash_vm.h"

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "core/base/bytes.h"
#include "tests/lib/tmp_root.h"

enum {
	KERNEL_PAGES = 24,
	BIG_BLOB_BYTES = 9000,
	HINT_BLOB = 77, /* kind of the blob whose bytes a hint has */
};

const uint8_t crash_vm[16] = { 1, 2, 3 };
const uint8_t crash_family[16] = { 7, 7 };
const uint8_t crash_other[16] = { 8, 8 };
uint64_t crash_pages = 560;

uint64_t crash_random(uint64_t *seed)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* ---- content ---- */

/* Runs of zero pages, of lines of text, and of noise. */
static uint8_t *image(uint64_t seed, uint64_t npages)
{
	uint8_t *img = calloc(npages, PAGE_BYTES);
	BUG_ON(img == NULL);
	for (uint64_t p = 0; p < npages;) {
		uint64_t n = MIN(1 + crash_random(&seed) % 12, npages - p);
		uint64_t kind = crash_random(&seed) % 8;
		for (uint64_t i = 0; kind < 2 && i < n * PAGE_BYTES / 8; i++) {
			uint64_t v = crash_random(&seed);
			put_le64(img + p * PAGE_BYTES + i * 8,
				 kind == 0 ? v : 0x6f77206f6c6c6568ull + v % 16 * 0x0100);
		}
		p += n;
	}
	return img;
}

static uint8_t *memory(unsigned seed)
{
	return image(0x1000 + seed, crash_pages);
}

static uint8_t *kernel(void)
{
	return image(2, KERNEL_PAGES);
}

/* Blob (kind, index) of a seed: text, small bytes, or pages of its own. */
static size_t blob(unsigned seed, uint16_t kind, uint16_t index, uint8_t out[BIG_BLOB_BYTES])
{
	uint64_t s = (uint64_t)seed << 32 | (uint64_t)kind << 16 | index;
	size_t len = kind == 1 ? 40 : index == 2 ? BIG_BLOB_BYTES : 200;
	for (size_t i = 0; i < len; i++) {
		out[i] = (uint8_t)(crash_random(&s) >> 13);
	}
	return len;
}

static const struct {
	uint16_t kind;
	uint16_t index;
} blobs[] = { { 1, 0 }, { 3, 0 }, { 3, 1 }, { 3, 2 } };

/* ---- taking ---- */

unsigned crash_seed(const struct snap_info *info)
{
	unsigned seed = 0;
	return sscanf(info->tag, "s%u", &seed) == 1 && seed < CRASH_SEEDS_MAX ? seed : 0;
}

static struct err *take_kernel(struct session *s, const struct snap_info *base, const uint8_t *k)
{
	if (base != NULL) {
		return session_map_share(s, base->id, "kernel");
	}
	uint8_t user[32] = { 5 };
	TRY(session_map_begin(s, "kernel", KERNEL_PAGES * PAGE_BYTES, user));
	TRY(session_map_pages(s, 0, k, KERNEL_PAGES));
	TRY(session_map_end(s));
	return session_settle(s);
}

/* The pages of `now` that `was` has otherwise. */
static struct err *give_changed(struct session *s, const uint8_t *now, const uint8_t *was)
{
	for (uint64_t p = 0; p < crash_pages; p++) {
		const uint8_t *page = now + p * PAGE_BYTES;
		if (memcmp(page, was + p * PAGE_BYTES, PAGE_BYTES) != 0) {
			TRY(session_map_pages(s, p, page, 1));
		}
	}
	return NULL;
}

/* First as it was in between: another seed's. */
static struct err *take_changed(struct session *s, unsigned seed, const struct snap_info *base,
				const uint8_t *mem)
{
	SCOPE(freep) uint8_t *was = memory(crash_seed(base));
	SCOPE(freep) uint8_t *mid = memory(seed + CRASH_SEEDS_MAX);
	TRY(session_map_begin_as(s, "memory", crash_pages * PAGE_BYTES, (uint8_t[32]){ 0 },
				 &(struct map_opts){ .base = base->id, .rounds = true }));
	TRY(give_changed(s, mid, was));
	TRY(session_map_round(s));
	return give_changed(s, mem, mid);
}

static struct err *take_memory(struct session *s, unsigned seed, const struct snap_info *base,
			       const uint8_t *mem)
{
	if (base != NULL && seed % 2 == 0 && crash_seed(base) != 0) {
		return take_changed(s, seed, base, mem);
	}
	TRY(session_map_begin(s, "memory", crash_pages * PAGE_BYTES, (uint8_t[32]){ 0 }));
	return session_map_pages(s, 0, mem, crash_pages);
}

static bool has_hint(unsigned seed)
{
	return seed % 3 == 0;
}

static struct err *put_hint(struct family *f, unsigned seed, uint64_t snap_id)
{
	uint8_t b[BIG_BLOB_BYTES];
	if (!has_hint(seed)) {
		return NULL;
	}
	size_t len = blob(seed, HINT_BLOB, 2, b);
	return family_hint_put(f, snap_id, b, len);
}

struct err *crash_take(struct family *f, unsigned seed, bool publish)
{
	SCOPE(freep) uint8_t *mem = memory(seed);
	SCOPE(freep) uint8_t *k = kernel();
	SCOPE(freep) struct snap_info *list = NULL;
	SCOPE(session_freep) struct session *s = NULL;
	struct session_opts so = { .workers = 1 };
	size_t n;
	TRY(family_snaps(f, &list, &n));
	const struct snap_info *base = n > 0 ? &list[n - 1] : NULL;
	TRY(session_open(f, &so, &s));
	TRY(take_memory(s, seed, base, mem));
	TRY(session_map_end(s));
	TRY(session_settle(s));
	TRY(take_kernel(s, base, k));
	for (size_t i = 0; i < ARRAY_LEN(blobs); i++) {
		uint8_t b[BIG_BLOB_BYTES];
		size_t len = blob(seed, blobs[i].kind, blobs[i].index, b);
		TRY(session_blob(s, blobs[i].kind, blobs[i].index, b, len));
	}
	if (!publish) {
		return NULL;
	}
	struct snap_meta meta = { .frozen_at_ns = seed };
	memcpy(meta.vm, crash_vm, sizeof(meta.vm));
	snprintf(meta.tag, sizeof(meta.tag), "s%u", seed);
	struct snap_info info;
	TRY(session_publish(s, &meta, &info));
	return put_hint(f, seed, info.id);
}

/* ---- reading ---- */

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	memcpy((uint8_t *)arg + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

static struct err *same_map(struct reader *r, const char *name, const uint8_t *want,
			    uint64_t npages)
{
	SCOPE(freep) uint8_t *got = calloc(npages, PAGE_BYTES);
	BUG_ON(got == NULL);
	struct read_opts ro = { .workers = 1, .place = place, .arg = got };
	TRY(reader_map_read(r, name, &ro));
	ENSURE(memcmp(got, want, npages * PAGE_BYTES) == 0, ERR_CORRUPT,
	       "snapshot %s: map %s has other bytes than were taken", reader_info(r)->tag, name);
	return NULL;
}

/* A hint is what was put. */
static struct err *same_hint(struct reader *r, unsigned seed, bool *ret_has)
{
	uint8_t want[BIG_BLOB_BYTES];
	size_t len = blob(seed, HINT_BLOB, 2, want);
	SCOPE(freep) uint8_t *got = NULL;
	size_t got_len;
	reader_hint(r, &got, &got_len);
	ENSURE(got == NULL || (has_hint(seed) && got_len == len && memcmp(got, want, len) == 0),
	       ERR_CORRUPT, "snapshot s%u: its hint has other bytes than were put", seed);
	*ret_has = got != NULL;
	return NULL;
}

struct err *crash_same(struct reader *r)
{
	bool unused;
	const struct snap_info *info = reader_info(r);
	unsigned seed = crash_seed(info);
	ENSURE(seed != 0 && info->nmaps == 2 && info->nblobs == ARRAY_LEN(blobs), ERR_CORRUPT,
	       "snapshot %s: %u maps and %u blobs, which nobody took", info->tag, info->nmaps,
	       info->nblobs);
	TRY(same_hint(r, seed, &unused));
	SCOPE(freep) uint8_t *mem = memory(seed);
	SCOPE(freep) uint8_t *k = kernel();
	TRY(same_map(r, "memory", mem, crash_pages));
	TRY(same_map(r, "kernel", k, KERNEL_PAGES));
	for (size_t i = 0; i < ARRAY_LEN(blobs); i++) {
		uint8_t want[BIG_BLOB_BYTES];
		size_t len = blob(seed, blobs[i].kind, blobs[i].index, want);
		SCOPE(freep) uint8_t *got = NULL;
		size_t got_len;
		TRY(reader_blob(r, blobs[i].kind, blobs[i].index, &got, &got_len));
		ENSURE(got_len == len && memcmp(got, want, len) == 0, ERR_CORRUPT,
		       "snapshot %s: blob %u.%u has other bytes than were taken", info->tag,
		       blobs[i].kind, blobs[i].index);
	}
	return NULL;
}

struct err *crash_read(struct family *f, const struct snap_info *info)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(f, info->id, &r));
	return crash_same(r);
}

static struct err *place_zero(void *arg, uint64_t index, uint64_t npages)
{
	memset((uint8_t *)arg + index * PAGE_BYTES, 0, npages * PAGE_BYTES);
	return NULL;
}

enum { WRITTEN_EVERY = 5 }; /* of the pages, before a rewind */

static uint64_t written(void *arg, uint64_t index)
{
	(void)arg;
	uint64_t bits = 0;
	for (uint64_t i = 0; i < 64; i++) {
		bits |= (uint64_t)((index + i) % WRITTEN_EVERY == 0) << i;
	}
	return bits;
}

struct err *crash_rewind(struct family *f, const struct snap_info *from, const struct snap_info *to)
{
	SCOPE(freep) uint8_t *mem = memory(crash_seed(from));
	SCOPE(freep) uint8_t *want = memory(crash_seed(to));
	SCOPE(reader_closep) struct reader *since = NULL;
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(f, from->id, &since));
	TRY(reader_open(f, to->id, &r));
	for (uint64_t p = 0; p < crash_pages; p += WRITTEN_EVERY) {
		memset(mem + p * PAGE_BYTES, 0x5a, PAGE_BYTES);
	}
	struct read_opts ro = {
		.workers = 1,
		.place = place,
		.zero = place_zero,
		.since = since,
		.also = written,
		.arg = mem,
	};
	TRY(reader_map_read(r, "memory", &ro));
	ENSURE(memcmp(mem, want, crash_pages * PAGE_BYTES) == 0, ERR_CORRUPT,
	       "from snapshot %s to %s: other bytes than were taken", from->tag, to->tag);
	return NULL;
}

/* ---- checking ---- */

static void print_finding(void *arg, const char *finding)
{
	(void)arg;
	fprintf(stderr, "  finding: %s\n", finding);
}

static struct err *verify(struct family *f)
{
	uint64_t findings;
	TRY(family_verify(f, print_finding, NULL, &findings));
	ENSURE(findings == 0, ERR_CORRUPT, "verify has %llu findings",
	       (unsigned long long)findings);
	return NULL;
}

static struct err *check_hint(struct family *f, const struct snap_info *info, bool must,
			      bool *ret_bare)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	bool has;
	TRY(reader_open(f, info->id, &r));
	TRY(same_hint(r, crash_seed(info), &has));
	ENSURE(has || !must, ERR_CORRUPT, "snapshot %s has lost its hint", info->tag);
	*ret_bare = has_hint(crash_seed(info)) && !has;
	return NULL;
}

/* Compares the list with want, and settles want. */
static struct err *check_list(struct family *f, struct crash_want *want)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(f, &list, &n));
	struct crash_want is = { 0 };
	for (size_t i = 0; i < n; i++) {
		unsigned seed = crash_seed(&list[i]);
		ENSURE(seed != 0 && want->state[seed] != CRASH_ABSENT, ERR_CORRUPT,
		       "snapshot %s is listed: not taken, or removed for good", list[i].tag);
		is.state[seed] = CRASH_SURE;
		TRY(check_hint(f, &list[i],
			       want->state[seed] == CRASH_SURE && has_hint(seed) &&
				       !want->bare[seed],
			       &is.bare[seed]));
		ENSURE(i == 0 || list[i].number > list[i - 1].number, ERR_CORRUPT,
		       "snapshot %s: number %llu twice", list[i].tag,
		       (unsigned long long)list[i].number);
		TRY(err_wrap(crash_read(f, &list[i]), "snapshot %s", list[i].tag));
		if (i > 0) {
			TRY(crash_rewind(f, &list[i], &list[i - 1]));
		}
	}
	for (unsigned i = 0; i < CRASH_SEEDS_MAX; i++) {
		ENSURE(want->state[i] != CRASH_SURE || is.state[i] == CRASH_SURE, ERR_CORRUPT,
		       "snapshot s%u is lost", i);
	}
	*want = is;
	return NULL;
}

struct err *crash_check(struct family *f, struct crash_want *want)
{
	TRY(check_list(f, want));
	return verify(f);
}

struct err *crash_collect(struct family *f, struct crash_want *want)
{
	struct gc_result first;
	struct gc_result again;
	TRY(family_gc(f, &first));
	TRY(family_gc(f, &again));
	ENSURE(again.frames_freed == 0 && again.sessions_cleared == 0, ERR_CORRUPT,
	       "a second collection freed %llu frames and %llu sessions",
	       (unsigned long long)again.frames_freed, (unsigned long long)again.sessions_cleared);
	uint64_t snaps = 0;
	uint64_t hints = 0;
	for (unsigned i = 0; i < CRASH_SEEDS_MAX; i++) {
		bool there = want->state[i] == CRASH_SURE;
		snaps += there;
		hints += there && has_hint(i) && !want->bare[i];
	}
	struct store_usage u;
	TRY(family_usage(f, &u));
	ENSURE(u.snaps == snaps && u.blobs == snaps * ARRAY_LEN(blobs) + hints, ERR_CORRUPT,
	       "%llu records of snapshots and %llu of blobs and hints for %llu snapshots with %llu "
	       "hints",
	       (unsigned long long)u.snaps, (unsigned long long)u.blobs, (unsigned long long)snaps,
	       (unsigned long long)hints);
	/* Leaves: at most those of each memory, and of one kernel for each snapshot. */
	uint64_t leaves = (crash_pages + 511) / 512 + 1;
	ENSURE(u.leaves <= snaps * leaves, ERR_CORRUPT, "%llu leaves for %llu snapshots",
	       (unsigned long long)u.leaves, (unsigned long long)snaps);
	return crash_check(f, want);
}

/* ---- the run ---- */

uint64_t crash_run_seed(void)
{
	const char *s = getenv("TORPOR_SEED");
	return s != NULL ? strtoull(s, NULL, 10) : (uint64_t)time(NULL);
}

bool crash_run_long(void)
{
	const char *s = getenv("TORPOR_TIER");
	return s != NULL && strcmp(s, "long") == 0;
}

void crash_dir_make(char out[256])
{
	struct statvfs v;
	const char *tmp = tmp_root();
	if (statvfs("/dev/shm", &v) == 0 && access("/dev/shm", W_OK) == 0 &&
	    (uint64_t)v.f_bavail * v.f_frsize > 512 * MIB) {
		tmp = "/dev/shm";
	}
	snprintf(out, 256, "%s/torpor-crash-XXXXXX", tmp);
	BUG_ON(mkdtemp(out) == NULL);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void crash_dir_remove(const char *dir)
{
	nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
