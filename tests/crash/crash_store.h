/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small store for attacks on it: two published snapshots of one VM with device records as blobs,
 * a hint and a shared map, what a removed snapshot and a killed writer left behind, and a catalog
 * of some VMs; and how to compare what is read with what was written. No test library: for
 * processes that are expected to die.
 */
#ifndef TORPOR_TEST_CRASH_STORE_H
#define TORPOR_TEST_CRASH_STORE_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "store/store.h"
#include "tests/lib/tmp_root.h"

enum {
	CRASH_VMS = 24,
	CRASH_SNAPS = 2,
	CRASH_PAGES = 560,       /* of "memory": two leaves */
	CRASH_KERNEL_PAGES = 40, /* of "kernel" */
	CRASH_BLOBS = 20,
	CRASH_HINT_BYTES = 700,
};

static const uint8_t crash_family[16] = { 9, 9, 9, 9 };

struct crash_snap {
	struct snap_info info;
	uint64_t seed;
	uint8_t *memory; /* owned */
	uint8_t *kernel; /* owned */
	bool hint;       /* it was given one */
};

struct crash_store {
	struct crash_snap snap[CRASH_SNAPS];
	char data_name[80]; /* the family's data file, below the store */
};

#define CRASH_MUST(expr)                                                                           \
	do {                                                                                       \
		struct err *must_e_ = (expr);                                                      \
		if (must_e_ != NULL) {                                                             \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, err_msg(must_e_));      \
			exit(98);                                                                  \
		}                                                                                  \
	} while (0)

static UNUSED uint64_t crash_rnd(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static UNUSED struct store_vm crash_vm(unsigned i)
{
	struct store_vm vm = { .uuid = { (uint8_t)(i + 1), 7, 7 }, .created_ns = 1000 + i };
	memcpy(vm.family, crash_family, 16);
	snprintf(vm.name, sizeof(vm.name), "machine-with-a-longer-name-%02u", i);
	return vm;
}

/* Zero, one-value, text-like and a few random pages in short runs. */
static UNUSED uint8_t *crash_image(uint64_t seed, uint64_t npages)
{
	uint8_t *img = calloc(npages, PAGE_BYTES);
	for (uint64_t p = 0; p < npages;) {
		uint64_t n = 1 + crash_rnd(&seed) % 12;
		uint64_t kind = crash_rnd(&seed) % 16;
		uint64_t value = crash_rnd(&seed) | 1;
		for (; n > 0 && p < npages; n--, p++) {
			for (uint64_t i = 0; i < PAGE_BYTES / 8 && kind >= 6; i++) {
				uint64_t v = kind < 9    ? value
					     : kind < 15 ? 0x6f77206f6c6c6568ull + p + i % 7
							 : crash_rnd(&seed);
				memcpy(img + p * PAGE_BYTES + i * 8, &v, 8);
			}
		}
	}
	return img;
}

static UNUSED size_t crash_blob(uint64_t seed, unsigned i, uint8_t *out)
{
	size_t len = i == 0 ? 5000 : 100 + i * 8;
	seed += i * 1000;
	for (size_t k = 0; k < len; k++) {
		out[k] = (uint8_t)crash_rnd(&seed);
	}
	return len;
}

static UNUSED struct err *crash_fill(struct session *s, struct crash_snap *c, uint64_t shared)
{
	uint8_t user[32] = { 7 };
	TRY(session_map_begin(s, "memory", CRASH_PAGES * PAGE_BYTES, user));
	TRY(session_map_pages(s, 0, c->memory, CRASH_PAGES));
	TRY(session_map_end(s));
	if (shared != 0) {
		TRY(session_map_share(s, shared, "kernel"));
	} else {
		TRY(session_map_begin(s, "kernel", CRASH_KERNEL_PAGES * PAGE_BYTES - 77, user));
		TRY(session_map_pages(s, 0, c->kernel, CRASH_KERNEL_PAGES));
		TRY(session_map_end(s));
	}
	TRY(session_settle(s));
	for (unsigned i = 0; i < CRASH_BLOBS; i++) {
		uint8_t blob[8192];
		size_t len = crash_blob(c->seed, i, blob);
		TRY(session_blob(s, (uint16_t)(1 + i % 3), (uint16_t)i, blob, len));
	}
	return NULL;
}

static UNUSED void crash_snap_make(uint64_t seed, struct crash_snap *c)
{
	*c = (struct crash_snap){ .seed = seed };
	c->memory = crash_image(seed, CRASH_PAGES);
	c->kernel = crash_image(777, CRASH_KERNEL_PAGES);
}

/* Takes one; shared: id of the snapshot whose kernel it shares, 0: its own. */
static UNUSED struct err *crash_take(struct family *f, uint64_t seed, uint64_t shared,
				     struct crash_snap *ret_snap)
{
	struct crash_snap c;
	crash_snap_make(seed, &c);
	SCOPE(session_freep) struct session *s = NULL;
	struct session_opts so = { .workers = 1 };
	struct snap_meta meta = { .frozen_at_ns = 4711 };
	struct store_vm vm = crash_vm(0);
	memcpy(meta.vm, vm.uuid, 16);
	snprintf(meta.tag, sizeof(meta.tag), "tag-%llu", (unsigned long long)seed);
	*ret_snap = c;
	TRY(session_open(f, &so, &s));
	TRY(crash_fill(s, &c, shared));
	TRY(session_publish(s, &meta, &c.info));
	*ret_snap = c;
	return NULL;
}

struct crash_check {
	uint8_t *out;
	uint64_t npages;
	bool outside;
};

static UNUSED struct err *crash_place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct crash_check *c = arg;
	if (index > c->npages || npages > c->npages - index) {
		c->outside = true;
		return NULL;
	}
	memcpy(c->out + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

static UNUSED struct err *crash_compare_map(struct reader *r, const char *name, const uint8_t *want,
					    uint64_t npages, bool *wrong)
{
	struct crash_check c = { .npages = npages };
	SCOPE(freep) uint8_t *out = calloc(npages, PAGE_BYTES);
	c.out = out;
	struct read_opts ro = { .workers = 1, .place = crash_place, .arg = &c };
	TRY(reader_map_read(r, name, &ro));
	*wrong = *wrong || c.outside || memcmp(out, want, npages * PAGE_BYTES) != 0;
	for (uint64_t i = 0; i < npages; i += npages / 3) {
		uint8_t page[PAGE_BYTES];
		TRY(reader_map_page(r, name, i, page));
		*wrong = *wrong || memcmp(page, want + i * PAGE_BYTES, PAGE_BYTES) != 0;
	}
	return NULL;
}

static UNUSED void crash_hint(uint8_t out[CRASH_HINT_BYTES])
{
	uint64_t seed = 31;
	for (size_t i = 0; i < CRASH_HINT_BYTES; i++) {
		out[i] = (uint8_t)crash_rnd(&seed);
	}
}

/* A hint that cannot be read is as none; here that is an error, which verify must know of, too. */
static UNUSED struct err *crash_compare_hint(struct reader *r, bool *wrong)
{
	uint8_t want[CRASH_HINT_BYTES];
	SCOPE(freep) uint8_t *have = NULL;
	size_t len;
	crash_hint(want);
	reader_hint(r, &have, &len);
	ENSURE(have != NULL, ERR_CORRUPT, "the hint is gone");
	*wrong = *wrong || len != sizeof(want) || memcmp(have, want, len) != 0;
	return NULL;
}

/* Reads all of a snapshot. *wrong is set when something that reads well is not what was written. */
static UNUSED struct err *crash_compare(struct family *f, const struct crash_snap *c, bool *wrong)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(f, c->info.id, &r));
	*wrong = *wrong || memcmp(reader_info(r), &c->info, sizeof(c->info)) != 0;
	for (unsigned i = 0; i < CRASH_BLOBS; i++) {
		uint8_t want[8192];
		size_t want_len = crash_blob(c->seed, i, want);
		SCOPE(freep) uint8_t *have = NULL;
		size_t len;
		TRY(reader_blob(r, (uint16_t)(1 + i % 3), (uint16_t)i, &have, &len));
		*wrong = *wrong || len != want_len || memcmp(have, want, len) != 0;
	}
	if (c->hint) {
		TRY(crash_compare_hint(r, wrong));
	}
	TRY(crash_compare_map(r, "memory", c->memory, CRASH_PAGES, wrong));
	return crash_compare_map(r, "kernel", c->kernel, CRASH_KERNEL_PAGES, wrong);
}

/* ---- files ---- */

static UNUSED int crash_unlink_one(const char *path, const struct stat *st, int type,
				   struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static UNUSED void crash_rmdir(const char *dir)
{
	nftw(dir, crash_unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* In memory if there is such a place: what is tested is not the disk. */
static UNUSED void crash_tmpdir(char out[256])
{
	const char *tmp = tmp_root();
	if (getenv("TMPDIR") == NULL && access("/dev/shm", W_OK) == 0) {
		tmp = "/dev/shm";
	}
	snprintf(out, 256, "%s/torpor-rot-XXXXXX", tmp);
	if (mkdtemp(out) == NULL) {
		perror(out);
		exit(98);
	}
}

static UNUSED uint8_t *crash_slurp(const char *path, size_t *ret_len)
{
	uint8_t *p;
	CRASH_MUST(io_slurp(path, 256 * MIB, &p, ret_len));
	return p;
}

static char crash_copy_from[300];
static char crash_copy_to[300];

static UNUSED int crash_copy_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char to[1024];
	(void)ftw;
	snprintf(to, sizeof(to), "%s%s", crash_copy_to, path + strlen(crash_copy_from));
	if (type == FTW_D) {
		return mkdir(to, 0700);
	}
	size_t len;
	uint8_t *p = crash_slurp(path, &len);
	int fd = open(to, O_WRONLY | O_CREAT | O_EXCL, st->st_mode & 0777);
	int rc = fd >= 0 && write(fd, p, len) == (ssize_t)len ? 0 : -1;
	close(fd);
	free(p);
	return rc;
}

static UNUSED void crash_copy_dir(const char *from, const char *to)
{
	snprintf(crash_copy_from, sizeof(crash_copy_from), "%s", from);
	snprintf(crash_copy_to, sizeof(crash_copy_to), "%s", to);
	if (nftw(from, crash_copy_one, 16, FTW_PHYS) != 0) {
		perror(to);
		exit(98);
	}
}

/* ---- building ---- */

/* A writer that is gone: its session record and its frames stay. */
static UNUSED void crash_dead_writer(const char *dir)
{
	pid_t pid = fork();
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct session *w = NULL;
		struct crash_snap c;
		struct session_opts so = { .workers = 1 };
		CRASH_MUST(store_open(dir, STORE_WRITE, &s));
		CRASH_MUST(family_open(s, crash_family, false, &f));
		crash_snap_make(55, &c);
		CRASH_MUST(session_open(f, &so, &w));
		CRASH_MUST(crash_fill(w, &c, 0));
		_exit(0);
	}
	int st;
	waitpid(pid, &st, 0);
}

/* Builds it in a process of its own, so that the caller never had the store open. */
static UNUSED void crash_build(const char *dir, struct crash_store *ret)
{
	struct {
		struct snap_info info[CRASH_SNAPS];
	} out;
	int p[2];
	if (pipe(p) < 0) {
		exit(98);
	}
	pid_t pid = fork();
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct crash_snap made[3];
		CRASH_MUST(store_open(dir, STORE_CREATE, &s));
		for (unsigned i = 0; i < CRASH_VMS; i++) {
			struct store_vm vm = crash_vm(i);
			CRASH_MUST(store_vm_put(s, &vm));
		}
		CRASH_MUST(family_open(s, crash_family, true, &f));
		CRASH_MUST(crash_take(f, 1, 0, &made[0]));
		uint8_t hint[CRASH_HINT_BYTES];
		crash_hint(hint);
		CRASH_MUST(family_hint_put(f, made[0].info.id, hint, sizeof(hint)));
		CRASH_MUST(crash_take(f, 99, 0, &made[2]));
		CRASH_MUST(crash_take(f, 2, made[0].info.id, &made[1]));
		CRASH_MUST(family_remove(f, &made[2].info.id, 1));
		out.info[0] = made[0].info;
		out.info[1] = made[1].info;
		family_close(f);
		store_close(s);
		_exit(write(p[1], &out, sizeof(out)) == (ssize_t)sizeof(out) ? 0 : 1);
	}
	close(p[1]);
	if (read(p[0], &out, sizeof(out)) != (ssize_t)sizeof(out)) {
		exit(98);
	}
	close(p[0]);
	int st;
	waitpid(pid, &st, 0);
	crash_dead_writer(dir);
	for (unsigned i = 0; i < CRASH_SNAPS; i++) {
		crash_snap_make(i + 1, &ret->snap[i]);
		ret->snap[i].info = out.info[i];
		ret->snap[i].hint = i == 0;
	}
	char uuid[37];
	uuid_text(crash_family, uuid);
	snprintf(ret->data_name, sizeof(ret->data_name), "families/%s/data.mdb", uuid);
}

#endif
