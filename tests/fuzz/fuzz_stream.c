/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: an export stream from a stranger. The checksums and the digest at the end are set
 * right first, as far as the chunks go. Properties: pages ascend and stay within their map, blobs
 * ascend, all bytes are read, and a second decoding gives the same.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "store/stream.h"
#include "tests/fuzz/fuzz.h"

#define PAGES_MAX 65536u /* given in one run: a few bytes may ask for very many */

struct feed {
	const uint8_t *p;
	size_t len;
	size_t at;
	uint64_t map_pages;
	uint64_t next;
	uint64_t pages;
	uint32_t last_blob;
	uint32_t nblobs;
	uint64_t sum; /* over all calls */
};

static void add(struct feed *f, const void *p, size_t len)
{
	f->sum = hash_xxh3_64(p, len, f->sum);
}

static struct err *on_read(void *arg, void *buf, size_t cap, size_t *ret_len)
{
	struct feed *f = arg;
	size_t n = MIN(cap, f->len - f->at);
	if (n > 0) {
		memcpy(buf, f->p + f->at, n);
	}
	f->at += n;
	*ret_len = n;
	return NULL;
}

static struct err *on_head(void *arg, const struct stream_head *h)
{
	struct feed *f = arg;
	BUG_ON(f->map_pages != 0 || h->info.number == 0);
	fuzz_check_text(h->name);
	add(f, h->info.root.b, sizeof(h->info.root.b));
	return NULL;
}

static struct err *on_map(void *arg, const struct snap_map *m)
{
	struct feed *f = arg;
	fuzz_check_text(m->name);
	f->map_pages = m->len_bytes / PAGE_BYTES + (m->len_bytes % PAGE_BYTES != 0);
	f->next = 0;
	add(f, m->digest.b, sizeof(m->digest.b));
	return NULL;
}

static struct err *on_pages(void *arg, uint64_t index, const uint8_t *pages, uint64_t npages)
{
	struct feed *f = arg;
	BUG_ON(npages == 0 || index < f->next || index > f->map_pages ||
	       npages > f->map_pages - index);
	f->next = index + npages;
	f->pages += npages;
	ENSURE(f->pages <= PAGES_MAX, ERR_LIMIT, "enough of it");
	add(f, pages, npages * PAGE_BYTES);
	return NULL;
}

static struct err *on_blob(void *arg, uint16_t kind, uint16_t index, const uint8_t *p, size_t len)
{
	struct feed *f = arg;
	uint32_t order = (uint32_t)kind << 16 | index;
	BUG_ON(f->nblobs > 0 && order <= f->last_blob);
	f->last_blob = order;
	f->nblobs++;
	add(f, p, len);
	return NULL;
}

static void mend(uint8_t *p, size_t len)
{
	SCOPE(sha256_freep) struct sha256_ctx *sha = sha256_new();
	uint64_t seq = 0;
	for (size_t at = 0; len - at >= 16; seq++) {
		uint32_t n = get_le32(p + at + 4);
		uint8_t place[16];
		if (n > len - at - 16) {
			return;
		}
		if (get_le32(p + at) == 5 && n == 40) {
			struct sha256 all = sha256_final(sha);
			put_le64(p + at + 16, seq);
			memcpy(p + at + 24, all.b, sizeof(all.b));
		}
		memcpy(place, p + at, 8);
		put_le64(place + 8, seq);
		put_le64(p + at + 8,
			 hash_xxh3_64(p + at + 16, n, hash_xxh3_64(place, sizeof(place), 0)));
		if (get_le32(p + at) == 5 && n == 40) {
			return;
		}
		sha256_update(sha, p + at, 16 + n);
		at += 16 + n;
	}
}

static struct err *decode(struct feed *f)
{
	return stream_decode(&(struct stream_in){ .read = on_read,
						  .head = on_head,
						  .map = on_map,
						  .pages = on_pages,
						  .blob = on_blob,
						  .arg = f });
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	SCOPE(freep) uint8_t *p = malloc(len + 1);
	BUG_ON(p == NULL);
	if (len > 0) {
		memcpy(p, data, len);
	}
	mend(p, len);
	struct feed f = { .p = p, .len = len };
	struct err *e = decode(&f);
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		err_drop(e, "hostile input is refused");
		return 0;
	}
	BUG_ON(f.at != len);
	struct feed again = { .p = p, .len = len };
	e = decode(&again);
	BUG_ON(e != NULL || again.sum != f.sum);
	return 0;
}
