/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a whole family of hostile records, through everything that reads one: list, open,
 * blobs, single pages, whole maps, verify, collection, removal. The input is a byte of choices,
 * then records {u8 table, u8 key length, u16 value length, key, value}; their checksums are set
 * right and digests count as equal, or little behind them would be reached.
 *
 * Properties: errors of one line; a page is never placed twice; collection and removal leave no
 * snapshot listed that was not listed before.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/family.h"
#include "store/frame.h"
#include "tests/fuzz/fake_lmdb.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/tmp_root.h"

#define MAP_BYTES_MAX_HERE (8 * MIB) /* more makes a run slow, and reaches nothing new */
#define PAGES_MAX (16 * MIB / PAGE_BYTES)

static const uint8_t uuid[16];

/* The linker puts this in place of sha256_equal (--wrap). */
bool __wrap_sha256_equal(const struct sha256 *a, const struct sha256 *b);
bool __wrap_sha256_equal(const struct sha256 *a, const struct sha256 *b)
{
	/* Both are read, so that a sanitizer sees a digest that does not exist. */
	volatile bool same = memcmp(a->b, b->b, sizeof(a->b)) == 0;
	(void)same;
	return true;
}

static void drop(struct err *e)
{
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		err_drop(e, "hostile input is refused");
	}
}

static void seal(uint8_t *p, size_t len, enum record_kind kind, uint64_t id)
{
	if (len >= RECORD_HEAD_BYTES + RECORD_TAIL_BYTES) {
		size_t at = len - RECORD_TAIL_BYTES;
		put_le64(p + at, hash_xxh3_64(p, at, record_seed(kind, uuid, id, 0)));
	}
}

/* Offsets in a frame's head and table, docs/format.md. */
static void seal_frame(uint8_t *p, size_t len, uint64_t id)
{
	if (len < FRAME_HEAD_BYTES) {
		return;
	}
	size_t nslots = get_le16(p + 24);
	size_t nsub = get_le16(p + 26);
	size_t end = FRAME_HEAD_BYTES + nsub * FRAME_SUB_ENTRY_BYTES + nslots * FRAME_DIGEST_BYTES;
	put_le32(p + 28, (uint32_t)len);
	if (end + FRAME_SUM_BYTES <= len) {
		put_le64(p + end, hash_xxh3_64(p, end, record_seed(RECORD_FRAME, uuid, id, 0)));
	}
}

static void put_record(unsigned db, struct bytes key, uint8_t *val, size_t len)
{
	static const enum record_kind kinds[FAMILY__DBS] = {
		[FAMILY_META] = RECORD_META, [FAMILY_SNAP] = RECORD_SNAP,
		[FAMILY_BLOB] = RECORD_BLOB, [FAMILY_NODE] = RECORD_NODE,
		[FAMILY_LEAF] = RECORD_LEAF, [FAMILY_FRAME] = RECORD_FRAME,
		[FAMILY_PEND] = RECORD_PEND,
	};
	uint64_t id = key.len >= 8 ? get_be64(key.p) : 0;
	if (db == FAMILY_FRAME) {
		seal_frame(val, len, id);
	} else {
		seal(val, len, kinds[db], db == FAMILY_META ? hash_xxh3_64(key.p, key.len, 0) : id);
	}
	(void)fake_put(db, key, (struct bytes){ val, len });
}

static void fill(struct rcur *c)
{
	fake_clear();
	while (rcur_left(c) >= 4) {
		const uint8_t *head;
		struct err *e = rcur_take(c, 4, &head);
		BUG_ON(e != NULL);
		size_t klen = MIN((size_t)head[1], rcur_left(c));
		const uint8_t *key;
		e = rcur_take(c, klen, &key);
		BUG_ON(e != NULL);
		size_t vlen = MIN((size_t)get_le16(head + 2), rcur_left(c));
		SCOPE(freep) uint8_t *val = malloc(MAX(vlen, (size_t)1));
		BUG_ON(val == NULL);
		e = rcur_copy(c, val, vlen);
		BUG_ON(e != NULL);
		put_record(head[0] % FAMILY__DBS, (struct bytes){ key, klen }, val, vlen);
	}
}

static struct err *no_large_map(void *arg, const struct snap_rec *r)
{
	bool *large = arg;
	for (uint32_t i = 0; i < r->info.nmaps; i++) {
		*large = *large || r->info.maps[i].len_bytes > MAP_BYTES_MAX_HERE;
	}
	return NULL;
}

static struct err *skip_damaged(void *arg, uint64_t id, struct err *e)
{
	(void)arg;
	(void)id;
	drop(e);
	return NULL;
}

/* Pages of the map that is being read. */
static uint8_t placed[PAGES_MAX];

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	const uint8_t *p = pages;
	volatile uint8_t sum = 0;
	(void)arg;
	/* Behind the map's end is the callers' to refuse, but not behind its last leaf. */
	BUG_ON(index >= PAGES_MAX || npages > PAGES_MAX - index || npages == 0);
	for (uint64_t i = 0; i < npages; i++) {
		BUG_ON(placed[index + i] != 0);
		placed[index + i] = 1;
		sum = (uint8_t)(sum + p[i * PAGE_BYTES] + p[i * PAGE_BYTES + PAGE_BYTES - 1]);
	}
	return NULL;
}

static struct err *see_blob(void *arg, uint16_t kind, uint16_t index)
{
	struct reader *r = arg;
	SCOPE(freep) uint8_t *p = NULL;
	size_t len = 0;
	struct err *e = reader_blob(r, kind, index, &p, &len);
	if (e != NULL) {
		drop(e);
		return NULL;
	}
	BUG_ON(len > BLOB_BYTES_MAX || p[len] != 0);
	return NULL;
}

static void read_snap(struct family *f, uint64_t id, bool whole)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	struct err *e = reader_open(f, id, &r);
	if (e != NULL) {
		drop(e);
		return;
	}
	e = reader_blobs(r, see_blob, r);
	BUG_ON(e != NULL);
	const struct snap_info *in = reader_info(r);
	for (uint32_t i = 0; i < in->nmaps; i++) {
		uint8_t page[PAGE_BYTES];
		drop(reader_map_page(r, in->maps[i].name, 0, page));
		drop(reader_map_page(r, in->maps[i].name, 513, page));
		if (!whole) {
			continue;
		}
		memset(placed, 0, sizeof(placed));
		drop(reader_map_read(r, in->maps[i].name,
				     &(struct read_opts){ .workers = 1, .place = place }));
	}
}

static void finding(void *arg, const char *text)
{
	(void)arg;
	fuzz_check_text(text);
}

static void change(struct family *f, const struct snap_info *infos, size_t n, bool remove)
{
	if (remove && n > 0) {
		drop(family_remove(f, &infos[0].id, 1));
	} else {
		struct gc_result res;
		drop(family_gc(f, &res));
	}
	SCOPE(freep) struct snap_info *after = NULL;
	size_t nafter = 0;
	SCOPE(err_freep) struct err *damage = NULL;
	struct err *e = family_snaps_sound(f, &after, &nafter, &damage);
	BUG_ON(e != NULL || nafter > n);
	for (size_t i = 0; i < nafter; i++) {
		bool before = false;
		for (size_t k = 0; k < n; k++) {
			before = before || infos[k].id == after[i].id;
		}
		BUG_ON(!before);
	}
}

static struct family *make_family(void)
{
	struct family *f = calloc(1, sizeof(*f));
	BUG_ON(f == NULL);
	f->presence = FD_NONE;
	f->env = fake_env();
	map_zero_init(&f->zero);
	/* No holder is alive: an empty folder. */
	snprintf(f->holders, sizeof(f->holders), "%s/tt-fuzz-none", tmp_root());
	BUG_ON(mkdir(f->holders, 0700) != 0 && access(f->holders, R_OK) != 0);
	return f;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct family *f;
	if (f == NULL) {
		f = make_family();
	}
	if (len < 1) {
		return 0;
	}
	uint8_t choice = data[0];
	struct rcur c = rcur_of(data + 1, len - 1);
	fill(&c);
	bool large = false;
	struct ltxn *t = NULL;
	struct err *e = ltxn_begin(f->env, false, &t);
	BUG_ON(e != NULL);
	drop(family_snap_each(f, t,
			      &(struct family_snap_visit){ no_large_map, skip_damaged, &large }));
	if (large) {
		return 0;
	}
	SCOPE(freep) struct snap_info *infos = NULL;
	size_t n = 0;
	SCOPE(err_freep) struct err *damage = NULL;
	e = family_snaps_sound(f, &infos, &n, &damage);
	if (e != NULL) {
		drop(e);
		return 0;
	}
	/* One thing per run: whole maps and verify take large buffers. */
	f->rdonly = choice % 4 != 1; /* no leases: their files would be most of the time */
	uint64_t findings = 0;
	struct store_usage usage;
	switch (choice % 4) {
	case 0:
		drop(family_verify(f, finding, NULL, &findings));
		break;
	case 1:
		change(f, infos, n, choice % 8 == 1);
		break;
	default:
		for (size_t i = 0; i < n; i++) {
			read_snap(f, infos[i].id, choice % 16 == 2);
		}
		drop(family_usage(f, &usage));
		break;
	}
	return 0;
}
