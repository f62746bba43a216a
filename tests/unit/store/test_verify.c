/* SPDX-License-Identifier: Apache-2.0 */
/* Verification: one flipped bit in every kind of record is named, and reading refuses it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/frame.h"
#include "tests/unit/store/store_fix.h"

enum {
	FRAME_LEN_AT = 28, /* docs/format.md, "Frame" */
	PAGES = 1500,
};

static int setup(void **state)
{
	fix_setup(state);
	struct fix_store *x = *state;
	fix_store_take(x, fix_image(31, PAGES), PAGES);
	return 0;
}

/* Flips a bit of a record's byte `at`; returns the record's id. */
static uint64_t flip(struct fix_store *x, enum record_kind kind, uint64_t id, uint64_t at)
{
	uint8_t head[32];
	family_close(x->f);
	x->f = NULL;
	id = fix_record(x->data, kind, id, true, at, head);
	OK(family_open(x->s, fix_fam, false, &x->f));
	return id;
}

/* Both checks report, naming `what` and, unless NULL, `also`. */
static void expect_findings(struct fix_store *x, const char *what, const char *also)
{
	struct fix_findings fi = { 0 };
	uint64_t n = 0;
	OK(family_verify_snap(x->f, x->info.id, fix_report, &fi, &n));
	if (n == 0 || strstr(fi.all, what) == NULL ||
	    (also != NULL && strstr(fi.all, also) == NULL)) {
		print_error("wanted %s and %s, got:\n%s", what, also, fi.all);
		fail();
	}
	assert_int_equal(n, fi.n);
	struct fix_findings all = { 0 };
	OK(family_verify(x->f, fix_report, &all, &n));
	assert_true(n > 0);
	assert_non_null(strstr(all.all, what));
}

static void expect_read_refused(struct fix_store *x)
{
	struct err *e;
	uint8_t *out = fix_read(x->f, x->info.id, "memory", PAGES, &e);
	assert_null(out);
	assert_int_equal(err_class(e), ERR_CORRUPT);
	err_free(e);
}

static void sound_store(void **state)
{
	struct fix_store *x = *state;
	fix_sound(x->f, x->info.id);
	struct fix_findings fi = { 0 };
	uint64_t n;
	OK(family_verify(x->f, fix_report, &fi, &n));
	assert_int_equal(n, 0);
	OK(family_verify(x->f, NULL, NULL, &n));
	FAILS(ERR_NOTFOUND, "", family_verify_snap(x->f, 99, NULL, NULL, &n));
}

/* A bit of compressed bytes: the sub-frame and its pages are named, other pages stay readable. */
static void bit_in_frame(void **state)
{
	struct fix_store *x = *state;
	uint8_t head[32];
	uint64_t id = fix_record(x->data, RECORD_FRAME, 0, false, 0, head);
	char name[64];
	snprintf(name, sizeof(name), "frame %llu sub-frame", (unsigned long long)id);
	flip(x, RECORD_FRAME, id, get_le32(head + FRAME_LEN_AT) - 100);
	expect_findings(x, name, "of map memory)");
	expect_findings(x, "checksum differs (pages 0x", NULL);
	expect_read_refused(x);
	/* All but the pages of that sub-frame can still be read one by one. */
	struct reader *r = NULL;
	OK(reader_open(x->f, x->info.id, &r));
	unsigned bad = 0;
	for (uint64_t p = 0; p < PAGES; p++) {
		uint8_t page[PAGE_BYTES];
		struct err *e = reader_map_page(r, "memory", p, page);
		if (e != NULL) {
			bad++;
			err_free(e);
		} else {
			assert_memory_equal(page, x->img + p * PAGE_BYTES, PAGE_BYTES);
		}
	}
	assert_in_range(bad, 1, FRAME_SUB_PAGES);
	reader_close(r);
}

static void bit_in_frame_head(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_FRAME, 0, FRAME_HEAD_BYTES + 3);
	expect_findings(x, "frame ", "of map memory)");
	expect_read_refused(x);
}

static void bit_in_leaf(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_LEAF, 0, 50);
	expect_findings(x, "leaf ", "checksum differs");
	expect_read_refused(x);
	/* Nothing is collected while it is unknown what the leaf refers to. */
	struct gc_result res;
	FAILS(ERR_CORRUPT, "nothing is collected", family_gc(x->f, &res));
	/* Removing the snapshot is possible, and heals the family. */
	OK(family_remove(x->f, &x->info.id, 1));
	struct store_usage u;
	OK(family_usage(x->f, &u));
	assert_int_equal(u.frames + u.leaves + u.nodes + u.blobs + u.snaps, 0);
}

static void bit_in_node(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_NODE, x->info.maps[0].root_id, 60);
	expect_findings(x, "node ", "checksum differs");
	expect_read_refused(x);
}

static void bit_in_blob(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_BLOB, x->info.id, 27);
	expect_findings(x, "blob ", "checksum differs");
	struct reader *r = NULL;
	uint8_t *p;
	size_t len;
	OK(reader_open(x->f, x->info.id, &r));
	struct err *a = reader_blob(r, 1, 0, &p, &len);
	struct err *b = reader_blob(r, 3, 1, &p, &len);
	assert_true(a != NULL && b != NULL); /* both have the snapshot's id: both were hit */
	assert_int_equal(err_class(a), ERR_CORRUPT);
	assert_int_equal(err_class(b), ERR_CORRUPT);
	err_free(a);
	err_free(b);
	reader_close(r);
}

static void bit_in_snapshot(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_SNAP, x->info.id, 40);
	expect_findings(x, "snapshot", "checksum differs");
	struct reader *r = NULL;
	FAILS(ERR_CORRUPT, "checksum", reader_open(x->f, x->info.id, &r));
	struct snap_info *list;
	size_t n;
	FAILS(ERR_CORRUPT, "checksum", family_snaps(x->f, &list, &n));
	bool found;
	struct snap_info info;
	FAILS(ERR_CORRUPT, "checksum", family_snap_by_id(x->f, x->info.id, &found, &info));
	/* New snapshots can still be taken, and the damaged one removed. */
	OK(fix_take(x->f, fix_vm1, "", x->img, 100, &info));
	OK(family_remove(x->f, &x->info.id, 1));
	OK(family_snaps(x->f, &list, &n));
	assert_int_equal(n, 1);
	free(list);
	fix_sound(x->f, info.id);
}

/* The checksum is bound to the id: a record that says another one is refused. */
static void record_with_another_id(void **state)
{
	struct fix_store *x = *state;
	flip(x, RECORD_LEAF, 0, 8);
	expect_findings(x, "leaf ", NULL);
	expect_read_refused(x);
}

/*
 * Any single byte of the file changed: opening, verifying and reading end in success or an error,
 * never in a signal, and never in wrong content. Most bytes of B-tree pages are among them.
 */
static void any_byte(void **state)
{
	struct fix_store *x = *state;
	family_close(x->f);
	x->f = NULL;
	struct stat st;
	assert_int_equal(stat(x->data, &st), 0);
	uint64_t seed = 99;
	unsigned noticed = 0;
	for (unsigned i = 0; i < 300; i++) {
		uint64_t off = fix_rnd(&seed) % (uint64_t)st.st_size;
		unsigned bit = (unsigned)(fix_rnd(&seed) % 8);
		if (i % 2 == 0) { /* the heads of pages, where B-trees have their structure */
			off = off / 4096 * 4096 + fix_rnd(&seed) % 64;
		}
		fix_flip(x->data, off, bit);
		struct fix_findings fi = { 0 };
		uint64_t n = 0;
		struct err *e = family_open(x->s, fix_fam, false, &x->f);
		if (e == NULL) {
			e = family_verify(x->f, fix_report, &fi, &n);
		}
		uint8_t *out = NULL;
		struct err *e2 = NULL;
		if (x->f != NULL) {
			out = fix_read(x->f, x->info.id, "memory", PAGES, &e2);
		}
		if (out != NULL) {
			assert_int_equal(memcmp(out, x->img, (size_t)PAGES * PAGE_BYTES), 0);
		}
		noticed += e != NULL || e2 != NULL || n > 0;
		free(out);
		err_free(e);
		err_free(e2);
		family_close(x->f);
		x->f = NULL;
		fix_flip(x->data, off, bit);
	}
	assert_true(noticed > 20);
	OK(family_open(x->s, fix_fam, false, &x->f));
	fix_sound(x->f, x->info.id);
	fix_same(x->f, x->info.id, "memory", x->img, PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sound_store, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_frame, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_frame_head, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_leaf, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_node, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_blob, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(bit_in_snapshot, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(record_with_another_id, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(any_byte, setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
