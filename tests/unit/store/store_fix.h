/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of stores share: a temporary directory, reproducible images, one-call takes and
 * read-backs, and finding a record's bytes in a data file. Include after cmocka.h.
 */
#ifndef TORPOR_TEST_STORE_FIX_H
#define TORPOR_TEST_STORE_FIX_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"
#include "store/record.h"
#include "store/store.h"
#include "tests/lib/tmp_root.h"

/* ---- errors ---- */

#define OK(expr)                                                                                   \
	do {                                                                                       \
		struct err *ok_e_ = (expr);                                                        \
		if (ok_e_ != NULL) {                                                               \
			print_error("%s\n  at %s\n", err_msg(ok_e_), err_trace_text(ok_e_));       \
			err_free(ok_e_);                                                           \
			fail();                                                                    \
		}                                                                                  \
	} while (0)

/* The call must fail with that class, and its message must contain `text` (may be ""). */
#define FAILS(class, text, expr)                                                                   \
	do {                                                                                       \
		struct err *f_e_ = (expr);                                                         \
		assert_non_null(f_e_);                                                             \
		if (err_class(f_e_) != (class) || strstr(err_msg(f_e_), (text)) == NULL) {         \
			print_error("%s: %s\n", err_class_name(err_class(f_e_)), err_msg(f_e_));   \
			err_free(f_e_);                                                            \
			fail();                                                                    \
		}                                                                                  \
		err_free(f_e_);                                                                    \
	} while (0)

/* ---- directories ---- */

static UNUSED char *fix_tmpdir(void)
{
	char *dir = malloc(256);
	assert_non_null(dir);
	snprintf(dir, 256, "%s/torpor-test-XXXXXX", tmp_root());
	assert_non_null(mkdtemp(dir));
	return dir;
}

static int fix_unlink_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static UNUSED void fix_rmdir(char *dir)
{
	nftw(dir, fix_unlink_one, 16, FTW_DEPTH | FTW_PHYS);
	free(dir);
}

/* ---- images ---- */

static UNUSED uint64_t fix_rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Runs of zero, text-like, one-value and random pages. */
static UNUSED uint8_t *fix_image(uint64_t seed, uint64_t npages)
{
	uint8_t *img = calloc(npages, PAGE_BYTES);
	assert_non_null(img);
	for (uint64_t p = 0; p < npages;) {
		uint64_t n = MIN(1 + fix_rnd(&seed) % 24, npages - p);
		uint64_t kind = fix_rnd(&seed) % 8;
		uint64_t value = fix_rnd(&seed) | 1;
		for (uint64_t i = 0; i < n * PAGE_BYTES / 8; i++) {
			uint64_t v = 0;
			if (kind >= 6) {
				v = fix_rnd(&seed);
			} else if (kind == 5) {
				v = value;
			} else if (kind >= 2) {
				v = 0x6f77206f6c6c6568ull + fix_rnd(&seed) % 16 * 0x0100;
			}
			memcpy(img + p * PAGE_BYTES + i * 8, &v, 8);
		}
		p += n;
	}
	return img;
}

/* ---- takes ---- */

static const uint8_t fix_vm1[16] = { 1, 1, 1, 1 };
static const uint8_t fix_vm2[16] = { 2, 2, 2, 2 };
static const uint8_t fix_fam[16] = { 9, 9, 9, 9 };

static UNUSED void fix_map(struct session *s, const char *name, const uint8_t *img, uint64_t npages)
{
	uint8_t user[32] = { 7 };
	OK(session_map_begin(s, name, npages * PAGE_BYTES, user));
	OK(session_map_pages(s, 0, img, npages));
	OK(session_map_end(s));
}

/* Takes img as map "memory" with two blobs. */
static UNUSED struct err *fix_take(struct family *f, const uint8_t vm[16], const char *tag,
				   const uint8_t *img, uint64_t npages, struct snap_info *ret_info)
{
	SCOPE(session_freep) struct session *s = NULL;
	struct session_opts so = { .workers = 2 };
	uint8_t user[32] = { 7 };
	TRY(session_open(f, &so, &s));
	TRY(session_map_begin(s, "memory", npages * PAGE_BYTES, user));
	TRY(session_map_pages(s, 0, img, npages));
	TRY(session_map_end(s));
	TRY(session_settle(s));
	TRY(session_blob(s, 3, 1, "second blob", 11));
	TRY(session_blob(s, 1, 0, "the manifest of this snapshot", 29));
	struct snap_meta meta = { .frozen_at_ns = 12345 };
	memcpy(meta.vm, vm, 16);
	snprintf(meta.tag, sizeof(meta.tag), "%s", tag);
	return session_publish(s, &meta, ret_info);
}

static UNUSED struct err *fix_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	memcpy((uint8_t *)arg + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

/* Reads the map into new memory; NULL with *ret_err otherwise. */
static UNUSED uint8_t *fix_read(struct family *f, uint64_t id, const char *map, uint64_t npages,
				struct err **ret_err)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	*ret_err = reader_open(f, id, &r);
	if (*ret_err != NULL) {
		return NULL;
	}
	uint8_t *out = calloc(npages, PAGE_BYTES);
	assert_non_null(out);
	struct read_opts ro = { .workers = 2, .place = fix_place, .arg = out };
	*ret_err = reader_map_read(r, map, &ro);
	if (*ret_err != NULL) {
		free(out);
		return NULL;
	}
	return out;
}

static UNUSED void fix_same(struct family *f, uint64_t id, const char *map, const uint8_t *img,
			    uint64_t npages)
{
	struct err *e;
	uint8_t *out = fix_read(f, id, map, npages, &e);
	OK(e);
	assert_int_equal(memcmp(out, img, npages * PAGE_BYTES), 0);
	free(out);
}

/* ---- findings ---- */

struct fix_findings {
	unsigned n;
	char first[512];
	char all[8192];
};

static UNUSED void fix_report(void *arg, const char *finding)
{
	struct fix_findings *fi = arg;
	if (fi->n++ == 0) {
		snprintf(fi->first, sizeof(fi->first), "%s", finding);
	}
	size_t len = strlen(fi->all);
	snprintf(fi->all + len, sizeof(fi->all) - len, "%s\n", finding);
}

static UNUSED void fix_sound(struct family *f, uint64_t id)
{
	struct fix_findings fi = { 0 };
	uint64_t n;
	OK(family_verify_snap(f, id, fix_report, &fi, &n));
	if (n != 0) {
		print_error("%s", fi.all);
	}
	assert_int_equal(n, 0);
}

/* ---- bytes on disk ---- */

static UNUSED void fix_data_path(const char *store, const uint8_t fam[16], char *out, size_t cap)
{
	char text[37];
	uuid_text(fam, text);
	snprintf(out, cap, "%s/families/%s/data.mdb", store, text);
}

static UNUSED void fix_flip(const char *path, uint64_t off, unsigned bit)
{
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	uint8_t b;
	assert_int_equal(pread(fd, &b, 1, (off_t)off), 1);
	b ^= (uint8_t)(1u << bit);
	assert_int_equal(pwrite(fd, &b, 1, (off_t)off), 1);
	close(fd);
}

/*
 * Finds a record by its magic and id (0: the first of that kind) and returns its id; with `flip`
 * one bit at byte `at` of it is flipped, in every copy: unused parts of pages keep old ones. The
 * first 32 bytes go to head.
 */
static UNUSED uint64_t fix_record(const char *path, enum record_kind kind, uint64_t id, bool flip,
				  uint64_t at, uint8_t head[32])
{
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	uint64_t size = (uint64_t)st.st_size;
	uint8_t *p = malloc(size);
	assert_non_null(p);
	assert_int_equal(pread(fd, p, size, 0), size);
	close(fd);
	bool any = false;
	for (uint64_t i = 0; i + 32 <= size; i++) {
		if (get_le32(p + i) == (uint32_t)kind && p[i + 4] == RECORD_VERSION &&
		    (id == 0 || get_le64(p + i + 8) == id)) {
			id = get_le64(p + i + 8);
			memcpy(head, p + i, 32);
			any = true;
			if (flip && i + at < size) {
				fix_flip(path, i + at, 4);
			}
		}
	}
	free(p);
	assert_true(any);
	return id;
}

/* ---- a store with one family, as a cmocka fixture ---- */

struct fix_store {
	char *dir;
	struct store *s;
	struct family *f;
	/* After fix_store_take: */
	uint8_t *img;
	struct snap_info info;
	char data[600];
	struct reader *r; /* NULL, or a test's own */
};

static UNUSED int fix_setup(void **state)
{
	struct fix_store *x = calloc(1, sizeof(*x));
	assert_non_null(x);
	x->dir = fix_tmpdir();
	OK(store_open(x->dir, STORE_CREATE, &x->s));
	OK(family_open(x->s, fix_fam, true, &x->f));
	*state = x;
	return 0;
}

/* Takes img (moved from), which stays in x for comparing. */
static UNUSED void fix_store_take(struct fix_store *x, uint8_t *img, uint64_t npages)
{
	x->img = img;
	OK(fix_take(x->f, fix_vm1, "t", x->img, npages, &x->info));
	fix_data_path(x->dir, fix_fam, x->data, sizeof(x->data));
}

/* fork() with nothing of the store open on either side. */
static UNUSED pid_t fix_fork(struct fix_store *x)
{
	family_close(x->f);
	store_close(x->s);
	pid_t pid = fork();
	assert_true(pid >= 0);
	return pid;
}

static UNUSED int fix_teardown(void **state)
{
	struct fix_store *x = *state;
	reader_close(x->r);
	family_close(x->f);
	store_close(x->s);
	fix_rmdir(x->dir);
	free(x->img);
	free(x);
	return 0;
}

#endif
