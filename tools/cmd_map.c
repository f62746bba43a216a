/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot map`: a picture of a snapshot's memory, a pixel per page. Called by main; reads
 * only, under leases. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "core/base/bytes.h"
#include "core/base/io.h"
#include "snapshot/wset.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Draws guest memory as a PNG file, a pixel per page, rows of 512 pages (2 MiB): black "
	"zero,\n"
	"green read ahead by the next lazy restore, blue the same as in the snapshot's parent, "
	"yellow\n"
	"one repeated value, orange all else. Counts the pages of each class.";

enum {
	ROW_PAGES = 512,
	ROWS_MAX = 1 << 16, /* 128 GiB in one picture */
};

enum page_class {
	CLASS_ZERO,
	CLASS_SAME,
	CLASS_VALUE,
	CLASS_UNIQUE,
	CLASS_PREFETCHED, /* not zero, and in the recorded working set */
	CLASS__COUNT,
};
static const char *const class_names[CLASS__COUNT] = { "zero", "same", "value", "unique",
						       "prefetched" };
static const uint8_t palette[CLASS__COUNT * 3] = { 0,    0,    0,    0x2b, 0x5f, 0xa8, 0xf2, 0xd0,
						   0x3b, 0xe0, 0x6c, 0x1f, 0x3c, 0xa3, 0x4b };

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

struct picture {
	struct reader *r;
	struct reader *parent; /* NULL: none, or it is gone */
	uint64_t npages;
	uint8_t *ahead; /* owned: per piece, is it in the working set? */
	uint8_t *row;   /* owned: per row a filter byte and ROW_PAGES classes */
	size_t len;
	uint64_t count[CLASS__COUNT];
};

static void picture_done(struct picture *p)
{
	reader_close(p->r);
	reader_close(p->parent);
	free(p->row);
	free(p->ahead);
}

static enum page_class class_of(const uint8_t *page, const uint8_t *before)
{
	uint64_t v = get_le64(page);
	bool one = memcmp(page, page + 8, PAGE_BYTES - 8) == 0;
	if (one && v == 0) {
		return CLASS_ZERO;
	}
	if (before != NULL && memcmp(page, before, PAGE_BYTES) == 0) {
		return CLASS_SAME;
	}
	return one ? CLASS_VALUE : CLASS_UNIQUE;
}

/* A record that does not decode is as none, for a restore, too. */
static struct err *read_ahead(struct picture *p)
{
	SCOPE(freep) uint8_t *hint = NULL;
	SCOPE(page_order_done) struct page_order order = { 0 };
	size_t len = 0;
	p->ahead = calloc(p->npages / STORE_PIECE_PAGES + 1, 1);
	ENSURE(p->ahead != NULL, ERR_SYS, "out of memory");
	reader_hint(p->r, &hint, &len);
	if (hint != NULL) {
		err_drop(wset_decode((struct bytes){ hint, len }, p->npages, &order), "as none");
	}
	for (size_t i = 0; i < order.n; i++) {
		p->ahead[order.gfn[i] / STORE_PIECE_PAGES] = 1;
	}
	return NULL;
}

static struct err *classify(struct picture *p)
{
	SCOPE(piece_reader_freep) struct piece_reader *now = NULL;
	SCOPE(piece_reader_freep) struct piece_reader *was = NULL;
	SCOPE(progress_freep) struct progress *show = progress_new();
	TRY(piece_reader_new(p->r, "memory", &now));
	uint64_t had = 0;
	if (p->parent != NULL) {
		had = storecmd_memory(reader_info(p->parent)) / PAGE_BYTES;
		TRY(piece_reader_new(p->parent, "memory", &was));
	}
	for (uint64_t at = 0; at < p->npages; at += STORE_PIECE_PAGES) {
		struct piece a;
		struct piece b = { 0 };
		TRY(piece_read(now, at, &a));
		if (at < had) {
			TRY(piece_read(was, at, &b));
		}
		for (uint32_t i = 0; i < a.npages; i++) {
			uint64_t page = at + i;
			enum page_class c =
				class_of(a.pages + (size_t)i * PAGE_BYTES,
					 i < b.npages ? b.pages + (size_t)i * PAGE_BYTES : NULL);
			if (c != CLASS_ZERO && p->ahead[page / STORE_PIECE_PAGES] != 0) {
				c = CLASS_PREFETCHED;
			}
			p->row[page / ROW_PAGES * (ROW_PAGES + 1) + 1 + page % ROW_PAGES] =
				(uint8_t)c;
			p->count[c]++;
		}
		progress_show(show, "reading memory", at * PAGE_BYTES, p->npages * PAGE_BYTES);
	}
	return NULL;
}

/* ---- the file ---- */

static void put_be32(uint8_t *p, uint32_t v)
{
	put_le32(p, __builtin_bswap32(v));
}

static void put_chunk(struct wbuf *w, const char *type, const uint8_t *p, size_t len)
{
	uint8_t num[4];
	put_be32(num, (uint32_t)len);
	wbuf_put(w, num, 4);
	wbuf_put(w, type, 4);
	wbuf_put(w, p, len);
	uLong sum = crc32(crc32(0, NULL, 0), (const uint8_t *)type, 4);
	sum = len > 0 ? crc32(sum, p, (uInt)len) : sum;
	put_be32(num, (uint32_t)sum);
	wbuf_put(w, num, 4);
}

static struct err *write_png(const struct picture *p, const char *file)
{
	uLongf packed_len = compressBound(p->len);
	SCOPE(freep) uint8_t *packed = malloc(packed_len);
	ENSURE(packed != NULL && compress(packed, &packed_len, p->row, p->len) == Z_OK, ERR_SYS,
	       "out of memory");
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(packed_len + 4096);
	uint8_t head[13] = { 0 };
	put_be32(head, ROW_PAGES);
	put_be32(head + 4, (uint32_t)(p->len / (ROW_PAGES + 1)));
	head[8] = 8; /* bits per pixel */
	head[9] = 3; /* numbers of a palette */
	wbuf_put(&w, "\x89PNG\r\n\x1a\n", 8);
	put_chunk(&w, "IHDR", head, sizeof(head));
	put_chunk(&w, "PLTE", palette, sizeof(palette));
	put_chunk(&w, "IDAT", packed, packed_len);
	put_chunk(&w, "IEND", NULL, 0);
	TRY(wbuf_check(&w));
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644, &fd));
	return io_write_full(fd.n, w.p, w.len);
}

/* ---- the verb ---- */

static struct err *open_parent(struct family *f, const struct snap_info *info, struct reader **ret)
{
	bool found = false;
	struct snap_info parent;
	if (info->parent != 0) {
		TRY(family_snap_by_id(f, info->parent, &found, &parent));
	}
	return found && storecmd_memory(&parent) > 0 ? reader_open(f, parent.id, ret) : NULL;
}

static struct err *draw(struct picture *p, const struct store_ref *ref, const char *file)
{
	uint64_t bytes = storecmd_memory(&ref->snap);
	uint64_t rows = (bytes / PAGE_BYTES + ROW_PAGES - 1) / ROW_PAGES;
	ENSURE(rows > 0 && rows <= ROWS_MAX, ERR_LIMIT, "a picture of %llu MiB of memory",
	       (unsigned long long)(bytes / MIB));
	TRY(reader_open(ref->family, ref->snap.id, &p->r));
	TRY(open_parent(ref->family, &ref->snap, &p->parent));
	p->npages = bytes / PAGE_BYTES;
	p->len = (size_t)rows * (ROW_PAGES + 1);
	p->row = calloc(p->len, 1);
	ENSURE(p->row != NULL, ERR_SYS, "out of memory");
	TRY(read_ahead(p));
	TRY(classify(p));
	return file != NULL ? write_png(p, file) : NULL;
}

struct err *cmd_map(struct args *a, int *ret_status)
{
	(void)ret_status;
	const char *file = NULL;
	const struct opt opts[] = {
		{ "png", "FILE", OPT_TEXT, &file, "write the picture to FILE" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s)); /* for the leases */
	struct store_ref ref;
	TRY(store_ref_resolve(s, a->pos[0], &ref));
	struct picture p = { 0 };
	struct err *e = draw(&p, &ref, file);
	bool parent = p.parent != NULL;
	picture_done(&p);
	store_ref_done(&ref);
	TRY(err_wrap(e, "snapshot '%s'", a->pos[0]));
	SCOPE(json_put) json_t *doc = json_object();
	for (unsigned i = 0; i < CLASS__COUNT; i++) {
		json_object_set_new(doc, class_names[i], json_integer((json_int_t)p.count[i]));
		if (!a->json) {
			printf("%-10s %llu\n", class_names[i], (unsigned long long)p.count[i]);
		}
	}
	json_object_set_new(doc, "parent", json_boolean(parent));
	return a->json ? out_json(json_incref(doc)) : NULL;
}
