/* SPDX-License-Identifier: Apache-2.0 */
/* Owners of records and slots, and what slots cost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/frame.h"
#include "store/pagemark.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 1500,
};

/* Two snapshots of which the second shares a map: each record's owner is as it must be. */
static void owners(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img = fix_image(1, PAGES);
	struct snap_info a;
	struct snap_info b;
	OK(fix_take(f, fix_vm1, "", img, PAGES, &a));
	struct session *w = NULL;
	OK(session_open(f, &(struct session_opts){ 0 }, &w));
	OK(session_map_share(w, a.id, "memory"));
	fix_map(w, "own", img, PAGES);
	OK(session_publish(w, &(struct snap_meta){ 0 }, &b));
	session_free(w);

	struct ltxn *t = NULL;
	OK(ltxn_begin(f->env, false, &t));
	struct pagemark m = { 0 };
	assert_null(pagemark_find(&m, 7));
	struct pagemark_map one = { .f = f, .t = t, .owner = 1 };
	struct pagemark_map two = { .f = f, .t = t, .owner = 2 };
	OK(pagemark_map(&m, &one, &a.maps[0]));
	OK(pagemark_map(&m, &one, &a.maps[0])); /* again: no change */
	assert_int_equal(pagemark_find(&m, a.maps[0].root_id)->owner, 1);
	OK(pagemark_map(&m, &two, &b.maps[0]));
	OK(pagemark_map(&m, &two, &b.maps[1]));
	assert_null(pagemark_find(&m, b.maps[1].root_id + (1ull << 40)));
	uint8_t *buf = malloc(FRAME_BYTES_MAX);
	unsigned frames = 0;
	unsigned shared = 0;
	struct lcur *c = NULL;
	bool found;
	OK(lcur_open(t, FAMILY_FRAME, &c));
	OK(lcur_seek(c, (struct bytes){ 0 }, &found));
	while (found) {
		uint64_t id = get_be64(lcur_key(c).p);
		struct mark_rec *r = pagemark_find(&m, id);
		assert_non_null(r);
		bool second = id > a.maps[0].root_id;
		assert_int_equal(r->owner, second ? 2 : MARK_SHARED);
		size_t len = 0;
		OK(pagemark_costs(r, f, t, buf, &len));
		assert_int_equal(len, lcur_value_len(c));
		uint64_t sum = r->bytes;
		for (uint32_t i = 0; i < r->nslots; i++) {
			assert_int_equal(r->slot[i].owner, r->owner);
			assert_true(r->slot[i].bytes > 16);
			sum += r->slot[i].bytes;
		}
		assert_int_equal(sum, len);
		assert_int_equal(r->bytes, 40);
		frames++;
		shared += !second;
		OK(lcur_next(c, &found));
	}
	assert_true(frames > 2 && shared > 0 && shared < frames);
	lcur_close(c);

	/* A slot that the frame does not have. */
	struct mark_rec *r = NULL;
	for (size_t i = 0; i < m.cap && r == NULL; i++) {
		r = m.rec[i].slot != NULL ? &m.rec[i] : NULL;
	}
	assert_non_null(r);
	struct mark_slot *more = realloc(r->slot, (r->nslots + 1) * sizeof(*more));
	assert_non_null(more);
	more[r->nslots] = (struct mark_slot){ .owner = 1 };
	r->slot = more;
	r->nslots++;
	size_t len;
	FAILS(ERR_CORRUPT, "is referred to", pagemark_costs(r, f, t, buf, &len));
	/* A map that is not there. */
	struct snap_map gone = a.maps[0];
	gone.root_id = 1ull << 50;
	FAILS(ERR_CORRUPT, "missing", pagemark_map(&m, &one, &gone));
	free(buf);
	pagemark_done(&m);
	ltxn_abort(t);
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
	free(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(owners) };
	return cmocka_run_group_tests_name("pagemark", tests, NULL, NULL);
}
