/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the small, sound files that the fuzz targets start from: kernels of every kind and
 * packing, a record of every field table, map records, a frame. Run by hand when a format grows:
 *
 *	make_corpus tests/fuzz/corpus
 *
 * Built with the tests so that it cannot rot. One thread.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/limits.h"
#include "store/frame.h"
#include "store/mapcodec.h"
#include "tests/fuzz/fuzz_tables.h"
#include "tests/lib/fake_kernel.h"

static const uint8_t uuid[16];

static struct err *put(const char *root, const char *dir, const char *name, const struct wbuf *w)
{
	char path[4096];
	TRY(wbuf_check(w));
	snprintf(path, sizeof(path), "%s/%s", root, dir);
	TRY(io_mkdirs(path));
	snprintf(path, sizeof(path), "%s/%s/%s", root, dir, name);
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644, &fd));
	return io_write_full(fd.n, w->p, w->len);
}

static struct err *make_boot(const char *root)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_elf(&w, &k);
	TRY(put(root, "boot", "elf64", &w));
	static const char *const packs[] = { "bzimage-gzip", "bzimage-xz", "bzimage-zstd",
					     "bzimage-lz4" };
	for (unsigned i = 0; i < ARRAY_LEN(packs); i++) {
		wbuf_reset(&w);
		fk_make_bzimage_of(&w, (enum boot_pack)i, &k);
		TRY(put(root, "boot", packs[i], &w));
	}
	for (unsigned is64 = 0; is64 < 2; is64++) {
		k = fk_small(is64);
		k.pvh_bytes = is64 ? 8 : 4;
		k.pvh_entry = 0x100000;
		k.nsegs = 3;
		k.seg[1] = (struct fk_seg){ 0x8000, 0x8000, 16, 16 };
		k.seg[2] = (struct fk_seg){ 0, 0x400000, 16, 1u << 20 };
		wbuf_reset(&w);
		fk_make_elf(&w, &k);
		TRY(put(root, "boot", is64 ? "pvh64" : "pvh32", &w));
	}
	k = fk_small(false);
	k.multiboot = true;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	TRY(put(root, "boot", "multiboot-elf", &w));
	wbuf_reset(&w);
	fk_make_mb_raw(&w);
	return put(root, "boot", "multiboot-raw", &w);
}

/* Fixed-width scalar at p. */
static void put_scalar(uint8_t *p, uint64_t v, size_t size)
{
	memcpy(p, &v, size);
}

/* The least value of every ranged member; everything else is zero. */
static void fill_least(const struct state_desc *d, uint8_t *state)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		if (f->sub != NULL) {
			for (uint32_t n = 0; n < f->max; n++) {
				fill_least(f->sub, state + f->offset + n * f->elem_size);
			}
		} else if (f->ranged) {
			put_scalar(state + f->offset, f->lo, f->size);
		}
	}
}

static void fill_manifest(struct manifest *m)
{
	memset(m, 0, sizeof(*m));
	manifest_text(m->torpor, sizeof(m->torpor), "0.1.0");
	manifest_text(m->vm_name, sizeof(m->vm_name), "vm");
	m->page_bytes = PAGE_BYTES;
	m->nregions = 1;
	m->regions[0].len_bytes = GMEM_MIN_BYTES;
	m->host.xcr0_mask = 7;
	m->host.xcr0_used = 3;
	m->host.tsc_khz = 1000000;
	manifest_text(m->host.kernel, sizeof(m->host.kernel), "6.1");
	manifest_text(m->host.cpu_model, sizeof(m->host.cpu_model), "cpu");
	m->nparts = 1;
	manifest_text(m->parts[0].name, sizeof(m->parts[0].name), "pit");
	m->parts[0].version = 1;
	m->nfiles = 1;
	manifest_text(m->files[0].name, sizeof(m->files[0].name), "kernel");
	m->files[0].len_bytes = 1;
}

static struct err *make_desc(const char *root)
{
	for (size_t i = 0; i < ARRAY_LEN(fuzz_tables); i++) {
		const struct state_desc *d = fuzz_tables[i];
		SCOPE(freep) uint8_t *state = calloc(1, d->size);
		ENSURE(state != NULL, ERR_SYS, "no memory");
		fill_least(d, state);
		if (d == &manifest_desc) {
			fill_manifest((struct manifest *)(void *)state);
		} else if (d == &i8042_desc) {
			((struct i8042_state *)(void *)state)->outport = 1; /* not in reset */
		}
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(PART_BYTES_MAX);
		struct err *e = desc_encode(d, 0, state, &w);
		if (e != NULL) {
			return err_wrap(e, "%s", d->name);
		}
		TRY(put(root, "desc", d->name, &w));
	}
	return NULL;
}

static struct err *put_record(const char *root, const char *name, uint8_t selector,
			      const struct wbuf *record)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(1 + LEAF_BYTES_MAX);
	wbuf_u8(&w, selector);
	wbuf_put(&w, record->p, record->len);
	return put(root, "mapcodec", name, &w);
}

static struct err *make_mapcodec(const char *root)
{
	struct map_zero zero;
	map_zero_init(&zero);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(LEAF_BYTES_MAX);
	SCOPE(freep) struct leaf *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "no memory");
	l->id = 7;
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		unsigned run = i / 32;
		l->ref[i].frame = run % 4 == 0 ? 0 : 100 + run / 4;
		l->ref[i].v = run % 8 == 0 ? 0x1111 : l->ref[i].frame == 0 ? 0 : i % 64;
	}
	leaf_encode(&w, uuid, l);
	TRY(put_record(root, "leaf", 0, &w));
	struct node n = { .id = 7, .level = 1 };
	n.child[0].id = 8;
	n.child[63].id = 9;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	n.digest = node_digest(c, &zero, &n);
	node_encode(&w, uuid, &n);
	return put_record(root, "node", 1, &w);
}

static struct err *make_frame(const char *root)
{
	SCOPE(zcodec_freep) struct zcodec *z = NULL;
	TRY(zcodec_new(0, &z));
	SCOPE(freep) struct frame_builder *b = malloc(sizeof(*b));
	SCOPE(freep) uint8_t *scratch = malloc(FRAME_SUB_BYTES);
	SCOPE(freep) uint8_t *pages = calloc(FRAME_SUB_PAGES, PAGE_BYTES);
	SCOPE(freep) uint8_t *out = malloc(FRAME_BYTES_MAX);
	ENSURE(b != NULL && scratch != NULL && pages != NULL && out != NULL, ERR_SYS, "no memory");
	frame_builder_begin(b, uuid, 7);
	for (unsigned npages = 1; npages <= FRAME_SUB_PAGES; npages++) {
		struct hash128 digest[FRAME_SUB_PAGES];
		for (unsigned i = 0; i < npages; i++) {
			memset(pages + (size_t)i * PAGE_BYTES, (int)(npages * 16 + i), 100);
			digest[i] = hash_xxh3_128(pages + (size_t)i * PAGE_BYTES, PAGE_BYTES);
		}
		struct frame_sub_in in;
		unsigned slot = 0;
		TRY(frame_sub_pack(z, pages, npages, digest, scratch, &in));
		ENSURE(frame_builder_add(b, &in, &slot), ERR_LIMIT, "the frame is full");
	}
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FRAME_BYTES_MAX);
	wbuf_put(&w, out, frame_builder_finish(b, out));
	return put(root, "frame", "zstd", &w);
}

static struct err *make_all(const char *root)
{
	TRY(make_boot(root));
	TRY(make_desc(root));
	TRY(make_mapcodec(root));
	return make_frame(root);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	struct err *e = make_all(argv[1]);
	if (e != NULL) {
		fprintf(stderr, "%s\n", err_msg(e));
		err_free(e);
		return 1;
	}
	return 0;
}
