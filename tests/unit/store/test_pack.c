/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compressor pool: what comes out decodes to what went in, with one worker and four; settle,
 * bounds, cancellation at every stage, failing id source.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/bytes.h"
#include "store/pack.h"
#include "tests/lib/expect.h"

static const uint8_t uuid[16] = { 0xa0, 1, 2 };

static void fails_with(struct err *e, enum err_class class, const char *text)
{
	assert_non_null(e);
	assert_string_equal(err_class_name(err_class(e)), err_class_name(class));
	assert_non_null(strstr(err_msg(e), text));
	err_free(e);
}

/* ---- content ---- */

enum { NLEAVES = 12 };
static uint8_t *mem; /* NLEAVES * 512 pages */

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static const void *page_at(uint64_t index)
{
	return mem + index * PAGE_BYTES;
}

/* Leaf 3 is all zero, leaf 4 one value; the rest mixes what there is. */
static void make_page(uint64_t index)
{
	uint8_t *p = mem + index * PAGE_BYTES;
	uint64_t leaf = index / LEAF_PAGES;
	uint64_t kind = leaf == 3 ? 0 : leaf == 4 ? 1 : mix(index / 3 + 1) % 6;
	for (size_t at = 0; at < PAGE_BYTES && kind != 0; at += 8) {
		uint64_t r = mix(index << 20 | at);
		put_le64(p + at, kind == 1   ? 0x2020202020202020ull
				 : kind == 2 ? r
				 : kind == 3 ? r & 0x0f0f0f0f
				 : kind == 4 ? (at == 4088 ? index : 0)
					     : at + (r & 1));
	}
}

static int setup(void **state)
{
	(void)state;
	mem = mmap(NULL, (size_t)NLEAVES * LEAF_SPAN_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		return -1;
	}
	for (uint64_t i = 0; i < (uint64_t)NLEAVES * LEAF_PAGES; i++) {
		make_page(i);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return munmap(mem, (size_t)NLEAVES * LEAF_SPAN_BYTES);
}

static void chunk_of(struct pack_chunk *c, uint64_t leaf)
{
	*c = (struct pack_chunk){ .map = 3, .leaf = leaf };
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		c->page[i] = page_at(leaf * LEAF_PAGES + i);
	}
}

/* ---- consumer that keeps everything ---- */

enum { KEEP_MAX = 4096 };
struct kept {
	struct pack_item item;
	uint8_t *copy;
};
struct sink {
	struct pack *p;
	struct kept kept[KEEP_MAX];
	size_t n;
	size_t fail_after; /* the disk is full after so many; 0: never */
	struct err *e;
};

static void *sink_main(void *arg)
{
	struct sink *s = arg;
	for (;;) {
		struct pack_item item;
		s->e = pack_take(s->p, UINT64_MAX, &item);
		if (s->e != NULL || item.kind == PACK_END || s->n == KEEP_MAX) {
			return NULL;
		}
		struct kept *k = &s->kept[s->n++];
		k->item = item;
		k->copy = malloc(item.len);
		memcpy(k->copy, item.p, item.len);
		pack_give_back(s->p, &item);
		if (s->n == s->fail_after) {
			struct err *why = ERR(ERR_NOSPACE, "disk is full");
			pack_cancel(s->p, why);
			err_free(why);
			return NULL;
		}
	}
}

static void sink_done(struct sink *s)
{
	for (size_t i = 0; i < s->n; i++) {
		free(s->kept[i].copy);
	}
	err_free(s->e);
	*s = (struct sink){ 0 };
}

static const struct kept *sink_find(const struct sink *s, enum pack_item_kind kind, uint64_t id)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->kept[i].item.kind == kind && s->kept[i].item.id == id) {
			return &s->kept[i];
		}
	}
	return NULL;
}

struct ids {
	atomic_ullong next[2];
	unsigned long long fail_at; /* of frame ids; 0: never */
};

static struct err *next_id(void *arg, enum pack_id_kind kind, uint64_t *ret_id)
{
	struct ids *ids = arg;
	unsigned long long id = atomic_fetch_add(&ids->next[kind], 1) + 1;
	ENSURE(kind != PACK_ID_FRAME || id != ids->fail_at, ERR_NOSPACE, "no ids left");
	*ret_id = id;
	return NULL;
}

static struct pack_opts opts_of(unsigned workers, struct ids *ids)
{
	struct pack_opts o = { .workers = workers, .next_id = next_id, .arg = ids };
	memcpy(o.uuid, uuid, 16);
	return o;
}

/* ---- what comes out is what went in ---- */

static void check_page(const struct sink *s, struct zcodec *z, const struct page_ref *r,
		       const uint8_t *want)
{
	static struct frame f;
	uint8_t out[FRAME_SUB_BYTES];
	if (r->frame == 0) {
		for (size_t at = 0; at < PAGE_BYTES; at += 8) {
			assert_int_equal(get_le64(want + at), r->v);
		}
		return;
	}
	unsigned sub;
	unsigned page;
	const struct kept *k = sink_find(s, PACK_FRAME, r->frame);
	assert_non_null(k);
	ok(frame_parse(k->copy, k->item.len, uuid, r->frame, &f));
	assert_int_equal(k->item.pages, f.nslots);
	ok(frame_slot(&f, (unsigned)r->v, &sub, &page));
	ok(frame_sub(&f, sub, z, out));
	ok(frame_sub_digests(&f, sub, out));
	assert_memory_equal(out + (size_t)page * PAGE_BYTES, want, PAGE_BYTES);
}

static void check_leaf(const struct sink *s, const struct kept *k, struct zcodec *z)
{
	static struct leaf l;
	static struct hash128 digest[LEAF_PAGES];
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	assert_int_equal(k->item.map, 3);
	assert_true(k->item.leaf < NLEAVES);
	ok(leaf_decode(k->copy, k->item.len, uuid, k->item.id, &l));
	assert_true(sha256_equal(&l.digest, &k->item.digest));
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		const void *want = page_at(k->item.leaf * LEAF_PAGES + i);
		digest[i] = hash_xxh3_128(want, PAGE_BYTES);
		check_page(s, z, &l.ref[i], want);
	}
	struct sha256 d = leaf_digest(c, digest);
	assert_true(sha256_equal(&d, &l.digest));
}

static void run(unsigned workers, size_t out_bytes_max)
{
	static struct sink s;
	static struct pack_chunk c;
	struct ids ids = { 0 };
	struct pack_stats st;
	pthread_t thread;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	SCOPE(pack_freep) struct pack *p = NULL;
	struct pack_opts o = opts_of(workers, &ids);
	o.out_bytes_max = out_bytes_max;
	ok(zcodec_new(0, &z));
	ok(pack_new(&o, &p));
	s.p = p;
	assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
	for (uint64_t leaf = 0; leaf < NLEAVES; leaf++) {
		chunk_of(&c, leaf);
		ok(pack_put(p, &c));
	}
	memset(&c, 0, sizeof(c)); /* it was copied */
	ok(pack_settle(p));
	ok(pack_finish(p));
	pthread_join(thread, NULL);
	assert_null(s.e);

	bool seen[NLEAVES] = { false };
	uint64_t leaves = 0;
	uint64_t frames = 0;
	uint64_t bytes = 0;
	uint64_t pages = 0;
	for (size_t i = 0; i < s.n; i++) {
		const struct kept *k = &s.kept[i];
		if (k->item.kind == PACK_LEAF) {
			assert_false(seen[k->item.leaf]);
			seen[k->item.leaf] = true;
			leaves++;
			check_leaf(&s, k, z);
		} else {
			assert_ptr_equal(sink_find(&s, PACK_FRAME, k->item.id), k); /* once */
			frames++;
			bytes += k->item.len;
			pages += k->item.pages;
		}
	}
	assert_int_equal(leaves, NLEAVES - 1);
	assert_false(seen[3]);
	pack_stats(p, &st);
	assert_int_equal(st.leaves, leaves);
	assert_int_equal(st.frames, frames);
	assert_int_equal(st.frame_bytes, bytes);
	assert_int_equal(st.pages_stored, pages);
	assert_int_equal(st.pages_zero + st.pages_value + st.pages_stored, NLEAVES * LEAF_PAGES);
	assert_true(st.pages_value >= LEAF_PAGES);
	/* Frames are full but for the last ones of each worker. */
	assert_true(bytes * 10 > (frames - MIN(frames, 4 * workers)) * FRAME_BYTES_MAX * 9);
	sink_done(&s);
}

static void test_one_worker(void **state)
{
	(void)state;
	run(1, 0);
}

static void test_four_workers(void **state)
{
	(void)state;
	run(4, 0);
}

static void test_tight_queue(void **state)
{
	(void)state;
	run(1, 1);
	run(4, 1);
}

/* NULL pages are zero; scattered ones are gathered; unaligned memory will do. */
static void test_sparse(void **state)
{
	(void)state;
	static struct sink s;
	static struct pack_chunk c;
	static struct leaf l;
	struct ids ids = { 0 };
	struct pack_stats st;
	pthread_t thread;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	SCOPE(pack_freep) struct pack *p = NULL;
	struct pack_opts o = opts_of(1, &ids);
	ok(zcodec_new(0, &z));
	ok(pack_new(&o, &p));
	s.p = p;
	assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
	c = (struct pack_chunk){ .map = 9, .leaf = 77 };
	for (unsigned i = 0; i < LEAF_PAGES; i += 5) {
		c.page[i] = (const uint8_t *)page_at(900 - i) + i % 64;
	}
	ok(pack_put(p, &c));
	ok(pack_finish(p));
	pthread_join(thread, NULL);
	assert_null(s.e);
	const struct kept *k = sink_find(&s, PACK_LEAF, 1);
	assert_non_null(k);
	assert_int_equal(k->item.map, 9);
	assert_int_equal(k->item.leaf, 77);
	ok(leaf_decode(k->copy, k->item.len, uuid, 1, &l));
	static const uint8_t zeros[PAGE_BYTES];
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		check_page(&s, z, &l.ref[i], c.page[i] != NULL ? c.page[i] : zeros);
	}
	pack_stats(p, &st);
	assert_int_equal(st.pages_zero + st.pages_value + st.pages_stored, 103);
	sink_done(&s);
}

static void test_nothing(void **state)
{
	(void)state;
	struct ids ids = { 0 };
	struct pack_item item;
	SCOPE(pack_freep) struct pack *p = NULL;
	struct pack_opts o = opts_of(3, &ids);
	ok(pack_new(&o, &p));
	ok(pack_settle(p));
	ok(pack_take(p, 1000000, &item));
	assert_int_equal(item.kind, PACK_NONE);
	ok(pack_finish(p));
	ok(pack_take(p, UINT64_MAX, &item));
	assert_int_equal(item.kind, PACK_END);
	ok(pack_take(p, 0, &item));
	assert_int_equal(item.kind, PACK_END);
	assert_int_equal(atomic_load(&ids.next[0]) + atomic_load(&ids.next[1]), 0);
	pack_free(NULL);
}

/* Settled: the memory may be gone while nothing has been taken out. */
static void test_settle(void **state)
{
	(void)state;
	static struct sink s;
	static struct pack_chunk c;
	struct ids ids = { 0 };
	pthread_t thread;
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	SCOPE(pack_freep) struct pack *p = NULL;
	struct pack_opts o = opts_of(2, &ids);
	ok(zcodec_new(0, &z));
	ok(pack_new(&o, &p));
	uint8_t *copy = mmap(NULL, 2 * LEAF_SPAN_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(copy != MAP_FAILED);
	memcpy(copy, mem, 2 * LEAF_SPAN_BYTES);
	for (uint64_t leaf = 0; leaf < 2; leaf++) {
		chunk_of(&c, leaf);
		for (unsigned i = 0; i < LEAF_PAGES; i++) {
			c.page[i] = copy + (leaf * LEAF_PAGES + i) * PAGE_BYTES;
		}
		ok(pack_put(p, &c));
	}
	ok(pack_settle(p));
	assert_int_equal(munmap(copy, 2 * LEAF_SPAN_BYTES), 0);
	s.p = p;
	assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
	ok(pack_finish(p));
	pthread_join(thread, NULL);
	assert_null(s.e);
	for (size_t i = 0; i < s.n; i++) {
		if (s.kept[i].item.kind == PACK_LEAF) {
			check_leaf(&s, &s.kept[i], z);
		}
	}
	sink_done(&s);
}

/* The consumer fails after some items: whatever the producer is at, it gets that error. */
static void test_cancel(void **state)
{
	(void)state;
	static struct sink s;
	static struct pack_chunk c;
	for (size_t after = 1; after < 40; after += 3) {
		struct ids ids = { 0 };
		pthread_t thread;
		struct pack_opts o = opts_of(after % 2 != 0 ? 1 : 4, &ids);
		struct pack *p = NULL;
		o.out_bytes_max = 1;
		ok(pack_new(&o, &p));
		s = (struct sink){ .p = p, .fail_after = after };
		assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
		struct err *e = NULL;
		for (uint64_t leaf = 0; e == NULL && leaf < 1000; leaf++) {
			chunk_of(&c, leaf % 3);
			e = pack_put(p, &c);
		}
		pthread_join(thread, NULL);
		fails_with(e, ERR_NOSPACE, "disk is full");
		fails_with(pack_settle(p), ERR_NOSPACE, "disk is full");
		fails_with(pack_finish(p), ERR_NOSPACE, "disk is full");
		struct pack_item item;
		fails_with(pack_take(p, UINT64_MAX, &item), ERR_NOSPACE, "disk is full");
		struct err *late = ERR(ERR_SYS, "too late");
		pack_cancel(p, late); /* the first reason stays */
		err_free(late);
		fails_with(pack_settle(p), ERR_NOSPACE, "disk is full");
		sink_done(&s);
		pack_free(p);
	}
}

static void *finish_main(void *arg)
{
	return pack_finish(arg);
}

/* A producer that waits in pack_finish for room, and is told. */
static void test_cancel_wakes(void **state)
{
	(void)state;
	static struct pack_chunk c;
	struct ids ids = { 0 };
	struct pack *p = NULL;
	pthread_t thread;
	void *result = NULL;
	struct pack_item item;
	struct pack_opts o = opts_of(1, &ids);
	o.out_bytes_max = 1;
	ok(pack_new(&o, &p));
	chunk_of(&c, 0);
	ok(pack_put(p, &c));
	assert_int_equal(pthread_create(&thread, NULL, finish_main, p), 0);
	ok(pack_take(p, UINT64_MAX, &item)); /* and never given back: no more room */
	assert_int_equal(item.kind, PACK_FRAME);
	struct err *why = ERR(ERR_CANCELLED, "asked to stop");
	pack_cancel(p, why);
	err_free(why);
	pthread_join(thread, &result);
	fails_with(result, ERR_CANCELLED, "asked to stop");
	pack_give_back(p, &item);
	pack_free(p);
}

static struct err *load_one(void *arg, const struct pack_chunk *c, struct pack_leaf *ret_leaf)
{
	(void)arg;
	struct map_zero zero;
	map_zero_init(&zero);
	pack_leaf_zero(&zero, ret_leaf);
	ENSURE(c->leaf != 9, ERR_CORRUPT, "leaf 9 is rotten");
	ret_leaf->ref[5] = (struct page_ref){ .frame = 0, .v = 55 };
	ret_leaf->digest[5] = page_value_digest(55);
	ret_leaf->ref[6] = (struct page_ref){ .frame = 777, .v = 3 };
	return NULL;
}

/* A leaf that is gone on with: what it was before, then several chunks of it, one leaf at the end.
 */
static void test_state(void **state)
{
	(void)state;
	static struct pack_chunk c;
	static struct sink s;
	static struct pack_leaf kept;
	struct ids ids = { 0 };
	pthread_t thread;
	struct pack_opts o = opts_of(2, &ids);
	struct pack *p = NULL;
	o.load = load_one;
	ok(pack_new(&o, &p));
	s = (struct sink){ .p = p };
	assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
	c = (struct pack_chunk){
		.leaf = 2, .state = &kept, .load = true, .hold = true, .live = true
	};
	c.page[0] = page_at(0);
	c.page[1] = page_at(3 * LEAF_PAGES); /* zero */
	ok(pack_put(p, &c));
	ok(pack_settle(p));
	assert_int_equal(kept.ref[5].v, 55);
	assert_int_equal(kept.ref[6].frame, 777);
	struct page_ref first = kept.ref[0];
	c = (struct pack_chunk){ .leaf = 2, .state = &kept, .hold = true, .live = true };
	c.page[6] = page_at(4 * LEAF_PAGES); /* one value */
	ok(pack_put(p, &c));
	ok(pack_settle(p));
	assert_memory_equal(&kept.ref[0], &first, sizeof(first));
	c = (struct pack_chunk){ .leaf = 2, .state = &kept };
	ok(pack_put(p, &c));
	ok(pack_settle(p));
	struct pack_leaf was = kept;
	memset(&kept, 0xee, sizeof(kept)); /* the caller's again */
	/* Without a state: begins as loaded, and comes out at once. */
	c = (struct pack_chunk){ .leaf = 3, .load = true };
	ok(pack_put(p, &c));
	ok(pack_finish(p));
	pthread_join(thread, NULL);
	ok(s.e);
	unsigned leaves = 0;
	for (size_t i = 0; i < s.n; i++) {
		struct leaf l;
		if (s.kept[i].item.kind != PACK_LEAF) {
			continue;
		}
		leaves++;
		ok(leaf_decode(s.kept[i].copy, s.kept[i].item.len, uuid, s.kept[i].item.id, &l));
		if (s.kept[i].item.leaf == 2) {
			assert_memory_equal(l.ref, was.ref, sizeof(l.ref));
			assert_int_equal(l.ref[5].v, 55);
			assert_int_equal(l.ref[6].v, 0x2020202020202020ull);
		} else {
			assert_int_equal(s.kept[i].item.leaf, 3);
			assert_int_equal(l.ref[6].frame, 777);
		}
	}
	assert_int_equal(leaves, 2);
	sink_done(&s);
	pack_free(p);
	/* What it was cannot be found out. */
	ok(pack_new(&o, &p));
	c = (struct pack_chunk){ .leaf = 9, .load = true };
	ok(pack_put(p, &c));
	fails_with(pack_settle(p), ERR_CORRUPT, "leaf 9 is rotten");
	pack_free(p);
}

/* A consumer that holds everything until the end still gets there. */
static void test_hold_all(void **state)
{
	(void)state;
	static struct pack_chunk c;
	static struct pack_item held[KEEP_MAX];
	size_t n = 0;
	struct ids ids = { 0 };
	struct pack *p = NULL;
	pthread_t thread;
	void *result = NULL;
	struct pack_opts o = opts_of(4, &ids);
	o.out_bytes_max = 1;
	ok(pack_new(&o, &p));
	for (uint64_t leaf = 0; leaf < 3; leaf++) {
		chunk_of(&c, leaf);
		ok(pack_put(p, &c));
	}
	assert_int_equal(pthread_create(&thread, NULL, finish_main, p), 0);
	do {
		assert_true(n < KEEP_MAX);
		ok(pack_take(p, UINT64_MAX, &held[n]));
	} while (held[n++].kind != PACK_END);
	pthread_join(thread, &result);
	ok(result);
	assert_true(n > 10);
	for (size_t i = 0; i < n; i++) {
		pack_give_back(p, &held[i]);
	}
	pack_free(p);
}

/* Freed in the middle, with chunks queued and records not taken. */
static void test_free_early(void **state)
{
	(void)state;
	static struct pack_chunk c;
	for (unsigned workers = 1; workers <= 4; workers += 3) {
		struct ids ids = { 0 };
		struct pack *p = NULL;
		struct pack_opts o = opts_of(workers, &ids);
		ok(pack_new(&o, &p));
		for (uint64_t leaf = 0; leaf < 3; leaf++) {
			chunk_of(&c, leaf);
			ok(pack_put(p, &c));
		}
		pack_free(p);
	}
}

static void test_id_fails(void **state)
{
	(void)state;
	static struct sink s;
	static struct pack_chunk c;
	for (unsigned at = 1; at < 12; at += 5) {
		struct ids ids = { .fail_at = at };
		struct pack *p = NULL;
		pthread_t thread;
		struct pack_opts o = opts_of(2, &ids);
		ok(pack_new(&o, &p));
		s.p = p;
		assert_int_equal(pthread_create(&thread, NULL, sink_main, &s), 0);
		struct err *e = NULL;
		for (uint64_t leaf = 0; e == NULL && leaf < 3; leaf++) {
			chunk_of(&c, leaf);
			e = pack_put(p, &c);
		}
		fails_with(e != NULL ? e : pack_finish(p), ERR_NOSPACE, "no ids left");
		pthread_join(thread, NULL);
		fails_with(s.e, ERR_NOSPACE, "no ids left");
		s.e = NULL;
		sink_done(&s);
		pack_free(p);
	}
}

struct seen {
	atomic_uint n;
	atomic_uint bad;
};

static void look_around(void *arg)
{
	struct seen *seen = arg;
	char name[16] = "";
	sigset_t now;
	pthread_getname_np(pthread_self(), name, sizeof(name));
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	if (strcmp(name, "tpack") != 0 || !sigismember(&now, SIGTERM) ||
	    !sigismember(&now, SIGUSR1) || sigismember(&now, SIGBUS) || sigismember(&now, SIGSYS)) {
		atomic_fetch_add(&seen->bad, 1);
	}
	atomic_fetch_add(&seen->n, 1);
}

static void test_threads(void **state)
{
	(void)state;
	struct seen seen = { 0 };
	struct ids ids = { 0 };
	struct pack *p = NULL;
	struct pack_item item;
	sigset_t before;
	sigset_t after;
	struct pack_opts o = opts_of(3, &ids);
	o.thread_init = look_around;
	o.thread_arg = &seen;
	o.nice = 5;
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	ok(pack_new(&o, &p));
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	assert_int_equal(sigismember(&before, SIGTERM), sigismember(&after, SIGTERM));
	ok(pack_finish(p));
	ok(pack_take(p, UINT64_MAX, &item));
	pack_free(p);
	assert_int_equal(atomic_load(&seen.n), 3);
	assert_int_equal(atomic_load(&seen.bad), 0);
}

static void test_invalid(void **state)
{
	(void)state;
	struct ids ids = { 0 };
	struct pack *p = NULL;
	struct pack_opts o = opts_of(0, &ids);
	fails_with(pack_new(&o, &p), ERR_LIMIT, "0 compressor threads");
	o.workers = PACK_WORKERS_MAX + 1;
	fails_with(pack_new(&o, &p), ERR_LIMIT, "65 compressor threads");
	o.workers = 1;
	o.level = 1000;
	fails_with(pack_new(&o, &p), ERR_LIMIT, "level 1000");
	assert_null(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_worker),  cmocka_unit_test(test_four_workers),
		cmocka_unit_test(test_tight_queue), cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_nothing),     cmocka_unit_test(test_settle),
		cmocka_unit_test(test_cancel),      cmocka_unit_test(test_cancel_wakes),
		cmocka_unit_test(test_state),       cmocka_unit_test(test_hold_all),
		cmocka_unit_test(test_free_early),  cmocka_unit_test(test_id_fails),
		cmocka_unit_test(test_threads),     cmocka_unit_test(test_invalid),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
