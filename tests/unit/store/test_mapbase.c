/* SPDX-License-Identifier: Apache-2.0 */
/* What a map starts from: its leaves and nodes, old leaves with and without their digests, leases.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/mapbase.h"
#include "store/mapbuild.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 66 * 512 + 7, /* 67 leaves, two nodes, a root */
};

static int setup(void **state)
{
	fix_setup(state);
	struct fix_store *x = *state;
	uint8_t *img = fix_image(11, PAGES);
	memset(img + 3 * 512ull * PAGE_BYTES, 0, 512ull * PAGE_BYTES); /* leaf 3 */
	fix_store_take(x, img, PAGES);
	return 0;
}

static struct err *open_base(struct fix_store *x, struct mapbase **ret)
{
	return mapbase_open(x->f, x->info.id, "memory", (uint64_t)PAGES * PAGE_BYTES, ret);
}

static void levels(void **state)
{
	struct fix_store *x = *state;
	SCOPE(mapbase_freep) struct mapbase *b = NULL;
	OK(open_base(x, &b));
	assert_int_equal(b->map.height, 2);
	assert_int_equal(b->level[2][0].id, x->info.maps[0].root_id);
	for (unsigned i = 0; i < 67; i++) {
		assert_int_equal(b->level[0][i].id == 0, i == 3);
	}
	assert_true(b->level[1][0].id != 0 && b->level[1][1].id != 0);
}

/* With their digests, leaves give the digests that their nodes list. */
static void whole_leaves(void **state)
{
	struct fix_store *x = *state;
	SCOPE(mapbase_freep) struct mapbase *b = NULL;
	SCOPE(sha256_freep) struct sha256_ctx *c = sha256_new();
	const void *page[LEAF_PAGES] = { NULL };
	struct pack_leaf l;
	OK(open_base(x, &b));
	for (unsigned i = 0; i < 67; i++) {
		OK(mapbase_leaf(b, i, page, &l));
		struct sha256 d = leaf_digest(c, l.digest);
		const struct sha256 *want =
			i == 3 ? &x->f->zero.subtree[0] : &b->level[0][i].digest;
		assert_true(sha256_equal(&d, want));
	}
}

static void pages_that_are_given(void **state)
{
	struct fix_store *x = *state;
	SCOPE(mapbase_freep) struct mapbase *b = NULL;
	const void *page[LEAF_PAGES] = { NULL };
	struct pack_leaf l;
	struct pack_leaf part;
	uint64_t seed = 1;
	OK(open_base(x, &b));
	for (unsigned leaf = 0; leaf < 5; leaf++) {
		for (unsigned i = 0; i < LEAF_PAGES; i++) {
			page[i] = NULL;
		}
		OK(mapbase_leaf(b, leaf, page, &l));
		for (unsigned i = 0; i < LEAF_PAGES; i++) {
			page[i] = fix_rnd(&seed) % 3 == 0 ? NULL : x->img;
		}
		memset(&part, 0xee, sizeof(part));
		OK(mapbase_leaf(b, leaf, page, &part));
		for (unsigned i = 0; i < LEAF_PAGES; i++) {
			assert_memory_equal(&part.ref[i], &l.ref[i], sizeof(l.ref[i]));
			if (page[i] == NULL) {
				assert_memory_equal(&part.digest[i], &l.digest[i],
						    sizeof(l.digest[i]));
			}
		}
	}
	for (unsigned i = 0; i < LEAF_PAGES; i++) {
		page[i] = x->img;
	}
	OK(mapbase_leaf(b, 0, page, &part)); /* nothing is read: only a valid leaf is promised */
	assert_int_equal(part.ref[0].frame, 0);
}

static void leases(void **state)
{
	struct fix_store *x = *state;
	struct mapbase *b = NULL;
	bool leased;
	OK(family_leased(x->f, x->info.id, &leased));
	assert_false(leased);
	OK(open_base(x, &b));
	OK(family_leased(x->f, x->info.id, &leased));
	assert_true(leased);
	OK(family_remove(x->f, &x->info.id, 1));
	const void *page[LEAF_PAGES] = { NULL };
	struct pack_leaf l;
	OK(mapbase_leaf(b, 1, page, &l));
	mapbase_free(b);
	struct gc_result res;
	OK(family_gc(x->f, &res));
	b = NULL;
	FAILS(ERR_NOTFOUND, "does not exist", open_base(x, &b));
	OK(family_leased(x->f, x->info.id, &leased));
	assert_false(leased); /* the failed open left none */
	mapbase_free(NULL);
}

static void not_there(void **state)
{
	struct fix_store *x = *state;
	struct mapbase *b = NULL;
	FAILS(ERR_NOTFOUND, "no map disk of",
	      mapbase_open(x->f, x->info.id, "disk", (uint64_t)PAGES * PAGE_BYTES, &b));
	FAILS(ERR_NOTFOUND, "no map memory of",
	      mapbase_open(x->f, x->info.id, "memory", PAGES * (uint64_t)PAGE_BYTES - 1, &b));
	FAILS(ERR_NOTFOUND, "does not exist", mapbase_open(x->f, 0, "memory", 4096, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(levels, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(whole_leaves, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(pages_that_are_given, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(leases, setup, fix_teardown),
		cmocka_unit_test_setup_teardown(not_there, setup, fix_teardown),
	};
	return cmocka_run_group_tests_name("mapbase", tests, NULL, NULL);
}
