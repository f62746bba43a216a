/* SPDX-License-Identifier: Apache-2.0 */
/* The export stream: what goes in comes out; cut off anywhere or flipped anywhere it is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/stream.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 90,
};

struct tape {
	struct wbuf w;
	size_t at;
	size_t step; /* bytes given per read at most; 0: all */
	/* What was decoded. */
	struct stream_head head;
	struct snap_map map[2];
	unsigned nmaps;
	uint8_t *img; /* PAGES, of the first map */
	uint64_t pages;
	unsigned nblobs;
	uint8_t blob[100];
};

static struct err *tape_write(void *arg, const void *p, size_t len)
{
	struct tape *t = arg;
	wbuf_put(&t->w, p, len);
	return wbuf_check(&t->w);
}

static struct err *tape_read(void *arg, void *buf, size_t cap, size_t *ret_len)
{
	struct tape *t = arg;
	size_t n = MIN(cap, t->w.len - t->at);
	n = t->step != 0 ? MIN(n, t->step) : n;
	memcpy(buf, t->w.p + t->at, n);
	t->at += n;
	*ret_len = n;
	return NULL;
}

static struct err *on_head(void *arg, const struct stream_head *h)
{
	((struct tape *)arg)->head = *h;
	return NULL;
}

static struct err *on_map(void *arg, const struct snap_map *m)
{
	struct tape *t = arg;
	assert_true(t->nmaps < 2);
	t->map[t->nmaps++] = *m;
	return NULL;
}

static struct err *on_pages(void *arg, uint64_t index, const uint8_t *pages, uint64_t npages)
{
	struct tape *t = arg;
	assert_int_equal(t->nmaps, 1);
	assert_true(index + npages <= PAGES);
	memcpy(t->img + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	t->pages += npages;
	return NULL;
}

static struct err *on_blob(void *arg, uint16_t kind, uint16_t index, const uint8_t *p, size_t len)
{
	struct tape *t = arg;
	assert_int_equal(kind, 3);
	assert_int_equal(index, t->nblobs);
	assert_true(len <= sizeof(t->blob));
	memcpy(t->blob, p, len);
	t->nblobs++;
	return NULL;
}

static struct err *decode(struct tape *t)
{
	t->at = 0;
	t->nmaps = 0;
	t->nblobs = 0;
	t->pages = 0;
	memset(t->img, 0, PAGES * PAGE_BYTES);
	return stream_decode(&(struct stream_in){ .read = tape_read,
						  .head = on_head,
						  .map = on_map,
						  .pages = on_pages,
						  .blob = on_blob,
						  .arg = t });
}

static const struct stream_head head = {
	.name = "vm",
	.family = { 9 },
	.info = { .vm = { 1 },
		  .number = 4,
		  .tag = "tag",
		  .frozen_at_ns = 5,
		  .nmaps = 2,
		  .nblobs = 2 },
};

static void encode(struct tape *t, const uint8_t *img, uint64_t npages)
{
	struct stream_out o = { .write = tape_write, .arg = t };
	struct snap_map m = { .name = "memory", .len_bytes = npages * PAGE_BYTES, .user = { 3 } };
	t->w = wbuf_make(8 * MIB);
	OK(stream_out_init(&o));
	OK(stream_put_head(&o, &head));
	OK(stream_put_map(&o, &m));
	OK(stream_put_pages(&o, 0, img, npages));
	snprintf(m.name, sizeof(m.name), "empty");
	OK(stream_put_map(&o, &m));
	OK(stream_put_blob(&o, 3, 0, "first", 5));
	OK(stream_put_blob(&o, 3, 1, "", 0));
	OK(stream_put_end(&o));
	stream_out_done(&o);
}

static void round_trip(void **state)
{
	(void)state;
	struct tape t = { .img = malloc(PAGES * PAGE_BYTES) };
	for (uint64_t seed = 1; seed < 12; seed++) {
		uint8_t *img = fix_image(seed, PAGES);
		encode(&t, img, PAGES);
		for (t.step = 0; t.step < 3000; t.step += 999) {
			OK(decode(&t));
			assert_memory_equal(t.img, img, PAGES * PAGE_BYTES);
			assert_int_equal(t.nmaps, 2);
			assert_int_equal(t.nblobs, 2);
			assert_string_equal(t.head.name, "vm");
			assert_string_equal(t.head.info.tag, "tag");
			assert_int_equal(t.head.info.number, 4);
			assert_string_equal(t.map[1].name, "empty");
			assert_int_equal(t.map[0].user[0], 3);
			assert_memory_equal(t.blob, "first", 5);
		}
		wbuf_done(&t.w);
		free(img);
	}
	free(t.img);
}

/* A small one: every length, every byte with one bit flipped, and bytes behind the end. */
static void damage(void **state)
{
	(void)state;
	struct tape t = { .img = malloc(PAGES * PAGE_BYTES) };
	uint8_t *img = calloc(PAGES, PAGE_BYTES);
	memset(img + PAGE_BYTES, 7, PAGE_BYTES); /* a value */
	snprintf((char *)img + 3 * PAGE_BYTES, PAGE_BYTES, "something");
	encode(&t, img, 5);
	size_t len = t.w.len;
	assert_true(len < 1000);
	for (size_t cut = 0; cut < len; cut++) {
		t.w.len = cut;
		FAILS(ERR_CORRUPT, "cut off", decode(&t));
	}
	t.w.len = len;
	for (size_t i = 0; i < len; i++) {
		t.w.p[i] ^= (uint8_t)(1u << i % 8);
		struct err *e = decode(&t);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		err_free(e);
		t.w.p[i] ^= (uint8_t)(1u << i % 8);
	}
	OK(decode(&t));
	wbuf_u8(&t.w, 0);
	FAILS(ERR_CORRUPT, "behind its end", decode(&t));
	wbuf_done(&t.w);
	free(t.img);
	free(img);
}

/* Chunks left out or swapped: each is sound by itself. */
static void rearranged(void **state)
{
	(void)state;
	struct tape t = { .img = malloc(PAGES * PAGE_BYTES) };
	uint8_t *img = fix_image(3, 40);
	encode(&t, img, 40);
	size_t at[16];
	size_t n = 0;
	for (size_t i = 0; i < t.w.len; i += 16 + get_le32(t.w.p + i + 4)) {
		assert_true(n < ARRAY_LEN(at));
		at[n++] = i;
	}
	assert_true(n >= 6);
	for (size_t out = 0; out < n; out++) {
		struct tape less = { .img = t.img, .w = wbuf_make(8 * MIB) };
		size_t end = out + 1 < n ? at[out + 1] : t.w.len;
		wbuf_put(&less.w, t.w.p, at[out]);
		wbuf_put(&less.w, t.w.p + end, t.w.len - end);
		struct err *e = decode(&less);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		err_free(e);
		wbuf_done(&less.w);
	}
	/* Not a stream at all. */
	struct tape other = { .img = t.img, .w = wbuf_make(4096) };
	wbuf_put(&other.w, "#!/bin/sh\necho something else entirely\n", 38);
	FAILS(ERR_CORRUPT, "no torpor export", decode(&other));
	wbuf_done(&other.w);
	wbuf_done(&t.w);
	free(t.img);
	free(img);
}

static struct err *no_room(void *arg, const void *p, size_t len)
{
	(void)arg;
	(void)p;
	(void)len;
	return ERR_SYSNO(ENOSPC, "writing");
}

static void write_errors(void **state)
{
	(void)state;
	struct stream_out o = { .write = no_room };
	OK(stream_out_init(&o));
	FAILS(ERR_NOSPACE, "", stream_put_head(&o, &head));
	stream_out_done(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(damage),
		cmocka_unit_test(rearranged),
		cmocka_unit_test(write_errors),
	};
	return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
