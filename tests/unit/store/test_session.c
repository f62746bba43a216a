/* SPDX-License-Identifier: Apache-2.0 */
/* Writing sessions: read-back, numbers, tags, sharing, misuse, two writers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 3000, /* 6 leaves, one node above */
};

static void assert_no_leftovers(struct family *f, uint64_t snaps)
{
	struct gc_result res;
	struct store_usage u;
	OK(family_gc(f, &res));
	assert_int_equal(res.sessions_cleared, 0);
	assert_int_equal(res.frames_freed, 0);
	OK(family_usage(f, &u));
	assert_int_equal(u.snaps, snaps);
}

static void write_and_read_back(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(1, PAGES);
	struct snap_info info;
	OK(fix_take(x->f, fix_vm1, "first", img, PAGES, &info));
	assert_int_equal(info.number, 1);
	assert_string_equal(info.tag, "first");
	assert_int_equal(info.frozen_at_ns, 12345);
	assert_int_equal(info.nmaps, 1);
	assert_int_equal(info.nblobs, 2);
	assert_int_equal(info.maps[0].len_bytes, (uint64_t)PAGES * PAGE_BYTES);
	assert_int_equal(info.maps[0].height, 1);
	assert_int_equal(info.maps[0].user[0], 7);
	assert_true(info.pages_stored > PAGES / 4 && info.bytes_stored > 0);
	fix_same(x->f, info.id, "memory", img, PAGES);
	fix_sound(x->f, info.id);
	/* Again from scratch: everything is on disk. */
	family_close(x->f);
	store_close(x->s);
	OK(store_open(x->dir, STORE_READ, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	fix_same(x->f, info.id, "memory", img, PAGES);
	fix_sound(x->f, info.id);
	struct session *s = NULL;
	FAILS(ERR_NOT_NOW, "reading only", session_open(x->f, &(struct session_opts){ 0 }, &s));
	free(img);
}

/* Writes one map that starts from base (0: nothing) and is in no list. */
static struct reader *put_unlisted(struct fix_store *x, uint64_t base, uint64_t at,
				   const uint8_t *img, uint64_t n)
{
	struct session *s = NULL;
	struct reader *r = NULL;
	const struct map_opts o = { .base = base, .rounds = true };
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	OK(session_map_begin_as(s, "memory", (uint64_t)PAGES * PAGE_BYTES, (uint8_t[32]){ 0 }, &o));
	OK(session_map_pages(s, at, img + at * PAGE_BYTES, n));
	OK(session_map_end(s));
	OK(session_publish_unlisted(s, fix_vm1, &r));
	session_free(s);
	return r;
}

static void same_by_reader(struct reader *r, const uint8_t *img)
{
	uint8_t page[PAGE_BYTES];
	for (uint64_t i = 0; i < PAGES; i += 7) {
		OK(reader_map_page(r, "memory", i, page));
		assert_memory_equal(page, img + i * PAGE_BYTES, PAGE_BYTES);
	}
}

/* In no list, kept while it is read, and garbage afterwards; a later one may start from it. */
static void unlisted_lives_by_its_reader(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(9, PAGES);
	struct snap_info info;
	struct gc_result res;
	OK(fix_take(x->f, fix_vm1, "before", img, PAGES, &info));
	memset(img + 40 * PAGE_BYTES, 0x31, 100);
	struct reader *a = put_unlisted(x, info.id, 40, img, 2);
	struct snap_info *list;
	size_t n;
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 1);
	free(list);
	/* The published one goes, and its pages stay for as long as they are read. */
	OK(family_remove(x->f, &info.id, 1));
	OK(family_gc(x->f, &res));
	same_by_reader(a, img);
	memset(img + 2000 * PAGE_BYTES, 0x32, 100);
	struct reader *b = put_unlisted(x, reader_info(a)->id, 1998, img, 5);
	reader_close(a);
	OK(family_gc(x->f, &res));
	same_by_reader(b, img);
	struct reader *c = NULL;
	FAILS(ERR_NOTFOUND, "does not exist", reader_open(x->f, reader_info(b)->id, &c));
	reader_close(b);
	OK(family_gc(x->f, &res));
	assert_true(res.frames_freed > 0);
	assert_no_leftovers(x->f, 0);
	/* It took no number away. */
	OK(fix_take(x->f, fix_vm1, "after", img, PAGES, &info));
	assert_int_equal(info.number, 2);
	free(img);
}

/* Equal content gives equal digests, whatever the ids, the order of calls and the worker count. */
static void digest_is_of_content(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(2, PAGES);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ .workers = 1 }, &s));
	OK(session_map_begin(s, "memory", (uint64_t)PAGES * PAGE_BYTES, (uint8_t[32]){ 7 }));
	uint64_t seed = 5;
	uint8_t *tmp = malloc(200 * PAGE_BYTES);
	for (uint64_t at = 0; at < PAGES;) {
		/* Through one buffer that is reused after each settle, in the middle of leaves. */
		uint64_t n = MIN(1 + fix_rnd(&seed) % 200, PAGES - at);
		memcpy(tmp, img + at * PAGE_BYTES, n * PAGE_BYTES);
		OK(session_map_pages(s, at, tmp, n));
		OK(session_settle(s));
		memset(tmp, 0xee, n * PAGE_BYTES);
		at += n;
	}
	OK(session_map_end(s));
	OK(session_settle(s));
	struct snap_meta meta = { .tag = "b" };
	OK(session_publish(s, &meta, &b));
	session_free(s);
	free(tmp);
	assert_memory_equal(&a.maps[0].digest, &b.maps[0].digest, sizeof(a.maps[0].digest));
	fix_same(x->f, b.id, "memory", img, PAGES);
	img[77 * PAGE_BYTES + 5] ^= 1;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &b));
	assert_memory_not_equal(&a.maps[0].digest, &b.maps[0].digest, sizeof(a.maps[0].digest));
	free(img);
}

static void map_lengths(void **state)
{
	struct fix_store *x = *state;
	static const uint64_t lengths[] = {
		0,          1,          4095,           4096,       4097,
		511 * 4096, 512 * 4096, 512 * 4096 + 1, 513 * 4096, 64ull * 512 * 4096 + 1
	};
	for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
		uint64_t pages = (lengths[i] + 4095) / 4096;
		uint8_t *img = calloc(pages + 1, PAGE_BYTES);
		if (pages > 0) {
			memset(img + (pages - 1) * PAGE_BYTES, 0x5a, 100);
		}
		struct session *s = NULL;
		OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
		OK(session_map_begin(s, "m", lengths[i], (uint8_t[32]){ 0 }));
		FAILS(ERR_USAGE, "", session_map_pages(s, 0, img, pages + 1));
		if (pages > 0) {
			OK(session_map_pages(s, pages - 1, img + (pages - 1) * PAGE_BYTES, 1));
		}
		OK(session_map_end(s));
		struct snap_info info;
		OK(session_publish(s, &(struct snap_meta){ 0 }, &info));
		session_free(s);
		assert_int_equal(info.maps[0].len_bytes, lengths[i]);
		assert_true(pages > 0 || info.maps[0].root_id == 0);
		fix_same(x->f, info.id, "m", img, pages);
		fix_sound(x->f, info.id);
		free(img);
	}
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	FAILS(ERR_LIMIT, "", session_map_begin(s, "m", UINT64_MAX, (uint8_t[32]){ 0 }));
	session_free(s);
}

static void numbers_are_never_reused(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(3, 600);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "", img, 600, &a));
	OK(fix_take(x->f, fix_vm1, "", img, 600, &b));
	assert_int_equal(b.number, 2);
	uint64_t ids[] = { a.id, b.id };
	OK(family_remove(x->f, ids, 2));
	struct snap_info *list;
	size_t n;
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 0);
	free(list);
	OK(fix_take(x->f, fix_vm1, "", img, 600, &b));
	assert_int_equal(b.number, 3);
	assert_int_equal(b.id, a.id + 2);
	/* Another VM of the family counts for itself. */
	OK(fix_take(x->f, fix_vm2, "", img, 600, &b));
	assert_int_equal(b.number, 1);
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 2);
	assert_memory_equal(list[0].vm, fix_vm1, 16);
	assert_memory_equal(list[1].vm, fix_vm2, 16);
	free(list);
	free(img);
}

static void tags(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(4, 100);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "good", img, 100, &a));
	FAILS(ERR_NOT_NOW, "tag good", fix_take(x->f, fix_vm1, "good", img, 100, &b));
	OK(fix_take(x->f, fix_vm2, "good", img, 100, &b));
	OK(fix_take(x->f, fix_vm1, "", img, 100, &b));
	assert_int_equal(b.number, 2); /* the refused take used no number */
	OK(fix_take(x->f, fix_vm1, "", img, 100, &b));
	FAILS(ERR_USAGE, "digits", fix_take(x->f, fix_vm1, "17", img, 100, &b));
	FAILS(ERR_USAGE, "", fix_take(x->f, fix_vm1, "a@b", img, 100, &b));
	FAILS(ERR_USAGE, "", fix_take(x->f, fix_vm1, "a b", img, 100, &b));
	FAILS(ERR_USAGE, "", fix_take(x->f, fix_vm1, "a/b", img, 100, &b));
	OK(family_remove(x->f, &a.id, 1));
	OK(fix_take(x->f, fix_vm1, "good", img, 100, &b));
	assert_no_leftovers(x->f, 4);
	free(img);
}

static void shared_maps(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(5, PAGES);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(x->f, fix_vm1, "", img, PAGES, &a));
	struct store_usage before;
	struct store_usage after;
	OK(family_usage(x->f, &before));
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	FAILS(ERR_NOTFOUND, "", session_map_share(s, 99, "memory"));
	FAILS(ERR_NOTFOUND, "", session_map_share(s, a.id, "disk"));
	OK(session_map_share(s, a.id, "memory"));
	FAILS(ERR_NOT_NOW, "", session_map_share(s, a.id, "memory"));
	OK(session_publish(s, &(struct snap_meta){ .vm = { 2 }, .parent = a.id }, &b));
	session_free(s);
	assert_int_equal(b.bytes_stored, 0);
	assert_int_equal(b.parent, a.id);
	OK(family_usage(x->f, &after));
	assert_int_equal(before.frames, after.frames);
	assert_int_equal(before.leaves, after.leaves);
	/* The records live as long as either snapshot does. */
	OK(family_remove(x->f, &a.id, 1));
	fix_same(x->f, b.id, "memory", img, PAGES);
	fix_sound(x->f, b.id);
	OK(family_usage(x->f, &after));
	assert_int_equal(before.frames, after.frames);
	/* A source that goes away before the publish is an error, and nothing is listed. */
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	OK(session_map_share(s, b.id, "memory"));
	OK(family_remove(x->f, &b.id, 1));
	FAILS(ERR_NOT_NOW, "removed meanwhile", session_publish(s, &(struct snap_meta){ 0 }, &a));
	session_free(s);
	assert_no_leftovers(x->f, 0);
	OK(family_usage(x->f, &after));
	assert_int_equal(after.frames + after.leaves + after.nodes + after.blobs, 0);
	free(img);
}

static void blobs(void **state)
{
	struct fix_store *x = *state;
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	uint8_t *big = malloc(BLOB_BYTES_MAX + 1);
	uint64_t seed = 1;
	for (size_t i = 0; i < BLOB_BYTES_MAX; i++) {
		big[i] = (uint8_t)fix_rnd(&seed);
	}
	OK(session_blob(s, 9, 3, big, BLOB_BYTES_MAX));
	OK(session_blob(s, 9, 1, "x", 1));
	OK(session_blob(s, 2, 60000, NULL, 0));
	OK(session_blob(s, 9, 2, big, 3000));
	FAILS(ERR_NOT_NOW, "9.1", session_blob(s, 9, 1, "y", 1));
	FAILS(ERR_LIMIT, "", session_blob(s, 1, 1, big, BLOB_BYTES_MAX + 1));
	struct snap_info info;
	OK(session_publish(s, &(struct snap_meta){ 0 }, &info));
	FAILS(ERR_NOT_NOW, "over", session_blob(s, 1, 1, "z", 1));
	FAILS(ERR_NOT_NOW, "over", session_publish(s, &(struct snap_meta){ 0 }, &info));
	FAILS(ERR_NOT_NOW, "over", session_settle(s));
	session_free(s);
	struct reader *r = NULL;
	OK(reader_open(x->f, info.id, &r));
	uint8_t *p;
	size_t len;
	OK(reader_blob(r, 9, 3, &p, &len));
	assert_int_equal(len, BLOB_BYTES_MAX);
	assert_memory_equal(p, big, len);
	free(p);
	OK(reader_blob(r, 2, 60000, &p, &len));
	assert_int_equal(len, 0);
	free(p);
	OK(reader_blob(r, 9, 2, &p, &len));
	assert_int_equal(len, 3000);
	free(p);
	FAILS(ERR_NOTFOUND, "", reader_blob(r, 9, 4, &p, &len));
	reader_close(r);
	free(big);
}

static void misuse(void **state)
{
	struct fix_store *x = *state;
	struct session *s = NULL;
	uint8_t user[32] = { 0 };
	uint8_t *img = fix_image(6, 100);
	struct snap_info info;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	FAILS(ERR_NOT_NOW, "no map", session_map_pages(s, 0, img, 1));
	FAILS(ERR_NOT_NOW, "no map", session_map_end(s));
	FAILS(ERR_USAGE, "", session_map_begin(s, "", 4096, user));
	FAILS(ERR_USAGE, "", session_map_begin(s, "sixteen-chars-ab", 4096, user));
	OK(session_map_begin(s, "memory", 100 * PAGE_BYTES, user));
	FAILS(ERR_NOT_NOW, "still open", session_map_begin(s, "other", 4096, user));
	FAILS(ERR_NOT_NOW, "still open", session_publish(s, &(struct snap_meta){ 0 }, &info));
	OK(session_map_pages(s, 10, img, 10));
	FAILS(ERR_USAGE, "order", session_map_pages(s, 19, img, 1));
	FAILS(ERR_USAGE, "", session_map_pages(s, 20, img, 81));
	FAILS(ERR_USAGE, "", session_map_pages(s, UINT64_MAX, img, 2));
	OK(session_map_pages(s, 20, img, 80));
	OK(session_map_end(s));
	FAILS(ERR_NOT_NOW, "already", session_map_begin(s, "memory", 4096, user));
	for (unsigned i = 1; i < STORE_MAPS_MAX; i++) {
		char name[16];
		snprintf(name, sizeof(name), "m%u", i);
		OK(session_map_begin(s, name, 4096, user));
		OK(session_map_end(s));
	}
	FAILS(ERR_LIMIT, "maps", session_map_begin(s, "onemore", 4096, user));
	session_free(s); /* without a publish */
	session_free(NULL);
	assert_no_leftovers(x->f, 0);
	free(img);
}

/* A session that was given up leaves nothing, also when it has committed batches. */
static void dropped_session_leaves_nothing(void **state)
{
	struct fix_store *x = *state;
	enum {
		MANY = 20000, /* more than a batch of 16 MiB of records */
	};
	uint8_t *img = malloc((size_t)MANY * PAGE_BYTES);
	uint64_t seed = 8;
	for (size_t i = 0; i < (size_t)MANY * PAGE_BYTES / 8; i++) {
		((uint64_t *)(void *)img)[i] = fix_rnd(&seed);
	}
	struct session *s = NULL;
	OK(session_open(x->f, &(struct session_opts){ 0 }, &s));
	fix_map(s, "memory", img, MANY);
	OK(session_settle(s));
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_true(u.frames > 0); /* it had written */
	session_free(s);
	OK(family_usage(x->f, &u));
	assert_int_equal(u.frames + u.leaves + u.nodes + u.blobs + u.snaps, 0);
	assert_no_leftovers(x->f, 0);
	free(img);
}

static void two_processes_write_at_once(void **state)
{
	struct fix_store *x = *state;
	uint8_t *img = fix_image(10, PAGES);
	family_close(x->f);
	store_close(x->s);
	x->f = NULL;
	x->s = NULL;
	enum {
		PROCS = 3,
		TAKES = 4,
	};
	pid_t pid[PROCS];
	for (unsigned i = 0; i < PROCS; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			struct store *s = NULL;
			struct family *f = NULL;
			struct snap_info info;
			uint8_t vm[16] = { (uint8_t)(i + 1) };
			struct err *e = store_open(x->dir, STORE_WRITE, &s);
			e = e != NULL ? e : family_open(s, fix_fam, true, &f);
			for (unsigned k = 0; e == NULL && k < TAKES; k++) {
				e = fix_take(f, vm, "", img, PAGES, &info);
				if (e == NULL && info.number != k + 1) {
					e = ERR(ERR_SYS, "number %llu",
						(unsigned long long)info.number);
				}
			}
			if (e != NULL) {
				fprintf(stderr, "%s\n", err_msg(e));
			}
			_exit(e != NULL);
		}
	}
	for (unsigned i = 0; i < PROCS; i++) {
		int status;
		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		assert_int_equal(status, 0);
	}
	OK(store_open(x->dir, STORE_WRITE, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	struct snap_info *list;
	size_t n;
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, PROCS * TAKES);
	for (size_t i = 0; i < n; i++) {
		fix_same(x->f, list[i].id, "memory", img, PAGES);
	}
	free(list);
	uint64_t findings;
	struct fix_findings fi = { 0 };
	OK(family_verify(x->f, fix_report, &fi, &findings));
	assert_int_equal(findings, 0);
	assert_no_leftovers(x->f, PROCS * TAKES);
	free(img);
}

static void families_come_and_go(void **state)
{
	struct fix_store *x = *state;
	uint8_t other[16] = { 4 };
	struct family *f = NULL;
	FAILS(ERR_NOTFOUND, "", family_open(x->s, other, false, &f));
	OK(family_remove_empty(x->s, other));
	OK(family_open(x->s, other, true, &f));
	OK(family_remove_empty(x->s, other)); /* in use: nothing happens */
	uint8_t *img = fix_image(1, 10);
	struct snap_info info;
	OK(fix_take(f, fix_vm1, "", img, 10, &info));
	family_close(f);
	OK(family_remove_empty(x->s, other)); /* holds a snapshot: nothing happens */
	OK(family_open(x->s, other, false, &f));
	fix_same(f, info.id, "memory", img, 10);
	OK(family_remove(f, &info.id, 1));
	FAILS(ERR_NOTFOUND, "", family_remove(f, &info.id, 1));
	family_close(f);
	OK(family_remove_empty(x->s, other));
	FAILS(ERR_NOTFOUND, "", family_open(x->s, other, false, &f));
	char path[600];
	fix_data_path(x->dir, other, path, sizeof(path));
	*strrchr(path, '/') = 0;
	assert_int_equal(access(path, F_OK), -1);
	free(img);
}

/* The process's own limit on files is a full store with a remedy, not an error of the disk. */
static void limit_on_files(void **state)
{
	struct fix_store *x = *state;
	uint8_t *small = fix_image(1, 300);
	struct snap_info info;
	OK(fix_take(x->f, fix_vm1, "", small, 300, &info));
	pid_t pid = fix_fork(x);
	if (pid == 0) {
		struct store *s = NULL;
		struct family *f = NULL;
		struct snap_info unused;
		signal(SIGXFSZ, SIG_IGN);
		setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 6 << 20, 6 << 20 });
		uint8_t *img = malloc(8 << 20);
		uint64_t seed = 3;
		for (size_t i = 0; i < (8 << 20) / 8; i++) {
			uint64_t v = fix_rnd(&seed);
			memcpy(img + i * 8, &v, 8);
		}
		struct err *e = store_open(x->dir, STORE_WRITE, &s);
		e = e == NULL ? family_open(s, fix_fam, false, &f) : e;
		if (e != NULL) {
			_exit(1);
		}
		e = fix_take(f, fix_vm1, "", img, 2048, &unused);
		if (e == NULL || err_class(e) != ERR_NOSPACE ||
		    strstr(err_msg(e), "ulimit -f") == NULL) {
			fprintf(stderr, "%s\n", e != NULL ? err_msg(e) : "it fits");
			_exit(2);
		}
		e = family_remove(f, &info.id, 1);
		_exit(e == NULL ? 7 : 3);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
	OK(store_open(x->dir, STORE_WRITE, &x->s));
	OK(family_open(x->s, fix_fam, false, &x->f));
	assert_no_leftovers(x->f, 0);
	free(small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(unlisted_lives_by_its_reader, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(write_and_read_back, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(limit_on_files, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(digest_is_of_content, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(map_lengths, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(numbers_are_never_reused, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(tags, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(shared_maps, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(blobs, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(misuse, fix_setup, fix_teardown),
		cmocka_unit_test_setup_teardown(dropped_session_leaves_nothing, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(two_processes_write_at_once, fix_setup,
						fix_teardown),
		cmocka_unit_test_setup_teardown(families_come_and_go, fix_setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
