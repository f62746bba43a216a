/* SPDX-License-Identifier: Apache-2.0 */
/* Hints: kept beside a snapshot, gone with it, ignored when damaged, and nothing else changes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/family.h"
#include "store/snaprec.h"
#include "tests/unit/store/store_fix.h"

static void expect(struct family *f, uint64_t id, const char *want)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	SCOPE(freep) uint8_t *p = NULL;
	size_t len = 77;
	OK(reader_open(f, id, &r));
	reader_hint(r, &p, &len);
	if (want == NULL) {
		assert_null(p);
		assert_int_equal(len, 0);
		return;
	}
	assert_non_null(p);
	assert_int_equal(len, strlen(want));
	assert_memory_equal(p, want, len);
}

static struct fix_findings verify(struct family *f)
{
	struct fix_findings fi = { 0 };
	uint64_t n;
	OK(family_verify(f, fix_report, &fi, &n));
	assert_int_equal(n, fi.n);
	return fi;
}

static uint64_t blobs(struct family *f)
{
	struct store_usage u;
	OK(family_usage(f, &u));
	return u.blobs;
}

static struct sha256 root_of(struct family *f, uint64_t id)
{
	bool found;
	struct snap_info info;
	OK(family_snap_by_id(f, id, &found, &info));
	assert_true(found);
	return info.root;
}

static void comes_and_goes(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img = fix_image(1, 100);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(f, fix_vm1, "one", img, 100, &a));
	OK(fix_take(f, fix_vm1, "two", img, 100, &b));
	uint64_t without = blobs(f);
	struct family_stat before;
	OK(family_stat(f, &before));

	expect(f, a.id, NULL);
	OK(family_hint_put(f, a.id, "first", 5));
	OK(family_hint_put(f, a.id, "a hint", 6)); /* the last one counts */
	OK(family_hint_put(f, b.id, "", 0));
	expect(f, a.id, "a hint");
	expect(f, b.id, "");
	struct sha256 root = root_of(f, a.id);
	assert_memory_equal(&root, &a.root, sizeof(root));
	fix_sound(f, a.id);
	assert_int_equal(verify(f).n, 0);
	assert_int_equal(blobs(f), without + 2);
	struct family_stat after;
	OK(family_stat(f, &after));
	assert_int_equal(after.blobs, before.blobs + 2);
	assert_int_equal(after.record_bytes, before.record_bytes + 6 + 2 * 24);
	assert_int_equal(after.dead_bytes + after.damaged, 0);
	family_stat_done(&before);
	family_stat_done(&after);

	static const uint8_t big[STORE_HINT_BYTES_MAX + 1];
	OK(family_hint_put(f, b.id, big, STORE_HINT_BYTES_MAX));
	FAILS(ERR_LIMIT, "131073", family_hint_put(f, b.id, big, sizeof(big)));
	FAILS(ERR_NOTFOUND, "99", family_hint_put(f, 99, "x", 1));

	/* A compaction leaves it, a collection too; removing the snapshot does not. */
	struct compact_result c;
	struct gc_result g;
	OK(family_compact(f, &(struct compact_opts){ .live_percent = 100 }, &c));
	OK(family_gc(f, &g));
	expect(f, a.id, "a hint");
	struct reader *r = NULL;
	OK(reader_open(f, b.id, &r));
	uint64_t both[] = { a.id, b.id };
	OK(family_remove(f, both, 2));
	FAILS(ERR_NOTFOUND, "", family_hint_put(f, a.id, "x", 1));
	FAILS(ERR_NOTFOUND, "", family_hint_put(f, b.id, "x", 1)); /* hidden: it would stay */
	reader_close(r);
	OK(family_gc(f, &g));
	assert_int_equal(blobs(f), 0);
	family_close(f);
	store_close(s);
	OK(store_open(dir, STORE_READ, &s));
	OK(family_open(s, fix_fam, false, &f));
	FAILS(ERR_NOT_NOW, "reading only", family_hint_put(f, a.id, "x", 1));
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
	free(img);
}

/* Verifying tells of it; a reader takes it for none, and the snapshot is as good as ever. */
static void damage_is_none(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img = fix_image(1, 100);
	uint8_t hint[9000];
	memset(hint, 0x5a, sizeof(hint));
	struct snap_info a;
	OK(fix_take(f, fix_vm1, "one", img, 100, &a));
	OK(family_hint_put(f, a.id, hint, sizeof(hint)));
	family_close(f);
	store_close(s);
	char path[4096];
	fix_data_path(dir, fix_fam, path, sizeof(path));
	uint8_t head[32];
	assert_int_equal(fix_record(path, RECORD_HINT, a.id, true, 4000, head), a.id);
	OK(store_open(dir, STORE_WRITE, &s));
	OK(family_open(s, fix_fam, false, &f));
	expect(f, a.id, NULL);
	fix_same(f, a.id, "memory", img, 100);
	fix_sound(f, a.id);
	struct fix_findings fi = verify(f);
	assert_int_equal(fi.n, 1);
	assert_non_null(strstr(fi.first, "hint"));
	OK(family_hint_put(f, a.id, "new", 3)); /* replaces it */
	expect(f, a.id, "new");
	assert_int_equal(verify(f).n, 0);
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
	free(img);
}

/* A bit of its key flips: it is sound by itself, but nobody looks for it there. */
static void not_in_its_place(void **state)
{
	struct fix_store *x = *state;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(100);
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	uint8_t *img = fix_image(1, 100);
	struct snap_info a;
	OK(fix_take(x->f, fix_vm1, "one", img, 100, &a));
	hint_encode(&w, fix_fam, a.id, (struct bytes){ "hint", 4 });
	struct key_blob key = key_of_blob(a.id, HINT_KIND, 16);
	OK(ltxn_begin(x->f->env, true, &t));
	OK(ltxn_put(t, FAMILY_BLOB, KEY_BYTES(key), (struct bytes){ w.p, w.len }));
	OK(ltxn_commit(MOVE(t)));
	expect(x->f, a.id, NULL);
	struct fix_findings fi = verify(x->f);
	assert_int_equal(fi.n, 1);
	assert_non_null(strstr(fi.first, "hint"));
	OK(family_remove(x->f, &a.id, 1)); /* it goes, too */
	assert_int_equal(blobs(x->f), 0);
	free(img);
}

/* No blob may have a hint's place. */
static void reserved_kind(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	struct session *w = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	OK(session_open(f, &(struct session_opts){ .workers = 1 }, &w));
	FAILS(ERR_CORRUPT, "no blob", session_blob(w, HINT_KIND, 0, "x", 1));
	session_free(w);
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_and_goes),
		cmocka_unit_test(damage_is_none),
		cmocka_unit_test_setup_teardown(not_in_its_place, fix_setup, fix_teardown),
		cmocka_unit_test(reserved_kind),
	};
	return cmocka_run_group_tests_name("hint", tests, NULL, NULL);
}
