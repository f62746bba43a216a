/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes above leaves: heights, zero subtrees, equal content, limits. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/mapbuild.h"
#include "tests/unit/store/store_fix.h"

static const uint8_t uuid[16] = { 6 };

static struct err *count_id(void *arg, uint64_t *ret_id)
{
	uint64_t *n = arg;
	*ret_id = ++*n;
	return NULL;
}

static void heights(void **state)
{
	(void)state;
	static const struct {
		uint64_t leaves;
		uint8_t height;
	} want[] = { { 0, 0 },    { 1, 0 },    { 2, 1 },      { 64, 1 },    { 65, 2 },
		     { 4096, 2 }, { 4097, 3 }, { 262144, 3 }, { 262145, 4 } };
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		uint8_t h;
		OK(map_height(want[i].leaves * LEAF_SPAN_BYTES, &h));
		assert_int_equal(h, want[i].height);
		assert_int_equal(map_leaves(want[i].leaves * LEAF_SPAN_BYTES), want[i].leaves);
	}
	assert_int_equal(map_leaves(1), 1);
	assert_int_equal(map_leaves(LEAF_SPAN_BYTES + 1), 2);
	uint8_t h;
	FAILS(ERR_LIMIT, "", map_height(UINT64_MAX, &h));
	OK(map_height(1ull << 63, &h));
	assert_int_equal(h, NODE_LEVEL_MAX);
}

/* Every leaf can be found again by walking the encoded nodes. */
static void walks_back(void **state)
{
	(void)state;
	struct map_zero zero;
	map_zero_init(&zero);
	static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 130, 4096, 4097, 5000 };
	for (size_t t = 0; t < ARRAY_LEN(sizes); t++) {
		uint64_t n = sizes[t];
		struct node_child *leaf = calloc(n, sizeof(*leaf));
		uint64_t seed = t;
		for (uint64_t i = 0; i < n; i++) {
			if (i / 100 % 2 == 0 && fix_rnd(&seed) % 3 > 0) {
				leaf[i].id = 1000000 + i;
				leaf[i].digest = sha256_of(&i, sizeof(i));
			}
		}
		struct node_child *copy = malloc(n * sizeof(*copy));
		memcpy(copy, leaf, n * sizeof(*copy));
		uint64_t next = 0;
		struct mapbuild mb = {
			.uuid = uuid, .zero = &zero, .next_id = count_id, .arg = &next
		};
		struct built_nodes out = { 0 };
		struct node_child root;
		uint8_t height;
		OK(map_height(n * LEAF_SPAN_BYTES, &height));
		OK(map_build(&mb, leaf, n, height, &out, &root));
		assert_int_equal(out.n, next);
		for (uint64_t i = 0; i < n; i++) {
			struct node_child at = root;
			for (unsigned level = height; level > 0 && at.id != 0; level--) {
				struct node nd;
				const struct built_node *b = &out.node[at.id - 1];
				assert_int_equal(b->id, at.id);
				OK(node_decode(b->p, b->len, uuid, at.id, level, &zero, &nd));
				assert_true(sha256_equal(&nd.digest, &at.digest));
				at = nd.child[i >> (NODE_FANOUT_SHIFT * (level - 1)) & 63];
			}
			assert_int_equal(at.id, copy[i].id);
		}
		built_nodes_done(&out);
		free(leaf);
		free(copy);
	}
}

static void all_zero(void **state)
{
	(void)state;
	struct map_zero zero;
	map_zero_init(&zero);
	uint64_t next = 0;
	struct mapbuild mb = { .uuid = uuid, .zero = &zero, .next_id = count_id, .arg = &next };
	struct node_child leaf[100] = { 0 };
	struct built_nodes out = { 0 };
	struct node_child root;
	OK(map_build(&mb, leaf, 100, 2, &out, &root));
	assert_int_equal(root.id, 0);
	assert_true(sha256_equal(&root.digest, &zero.subtree[2]));
	OK(map_build(&mb, leaf, 0, 0, &out, &root));
	assert_int_equal(root.id, 0);
	assert_true(sha256_equal(&root.digest, &zero.subtree[0]));
	assert_int_equal(next + out.n, 0);
	built_nodes_done(&out);
}

/* Nodes without a changed child are those of the base; the root differs when anything does. */
static void on_a_base(void **state)
{
	(void)state;
	struct map_zero zero;
	map_zero_init(&zero);
	enum {
		LEAVES = 64 * 64 + 70, /* three levels: 66 nodes, 2 nodes, the root */
	};
	struct node_child *level[4] = { NULL };
	for (unsigned i = 0; i < ARRAY_LEN(level); i++) {
		level[i] = calloc(LEAVES, sizeof(*level[i]));
	}
	uint64_t next = 0;
	struct mapbuild mb = { .uuid = uuid, .zero = &zero, .next_id = count_id, .arg = &next };
	for (uint64_t i = 0; i < LEAVES; i++) {
		level[0][i] = (struct node_child){ .id = 1000000 + i,
						   .digest = sha256_of(&i, sizeof(i)) };
	}
	/* Level by level, as a reader finds them. */
	struct built_nodes out = { 0 };
	struct node_child root;
	struct node_child *work = malloc(LEAVES * sizeof(*work));
	memcpy(work, level[0], LEAVES * sizeof(*work));
	OK(map_build(&mb, work, LEAVES, 3, &out, &root));
	assert_int_equal(out.n, 66 + 2 + 1);
	for (size_t i = 0; i < out.n; i++) {
		struct node nd;
		unsigned l = i < 66 ? 1 : i < 68 ? 2 : 3;
		OK(node_decode(out.node[i].p, out.node[i].len, uuid, i + 1, l, &zero, &nd));
		level[l][l == 1   ? i
			 : l == 2 ? i - 66
				  : 0] = (struct node_child){ .id = i + 1, .digest = nd.digest };
	}
	built_nodes_done(&out);
	mb.base = level;
	static const struct {
		int64_t leaf; /* changed; -1: none */
		uint64_t made;
	} want[] = { { -1, 0 }, { 0, 3 }, { 4095, 3 }, { 4096, 3 }, { LEAVES - 1, 3 } };
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		struct node_child r;
		memcpy(work, level[0], LEAVES * sizeof(*work));
		if (want[i].leaf >= 0) {
			work[want[i].leaf] = (struct node_child){ .id = 5, .digest = { { 9 } } };
		}
		OK(map_build(&mb, work, LEAVES, 3, &out, &r));
		assert_int_equal(out.n, want[i].made);
		assert_int_equal(r.id == root.id, want[i].leaf < 0);
		assert_int_equal(sha256_equal(&r.digest, &root.digest), want[i].leaf < 0);
		built_nodes_done(&out);
	}
	/* All of a node's leaves gone: no node instead of them. */
	memcpy(work, level[0], LEAVES * sizeof(*work));
	memset(work + 64, 0, 64 * sizeof(*work));
	struct node_child r;
	OK(map_build(&mb, work, LEAVES, 3, &out, &r));
	assert_int_equal(out.n, 2);
	struct node nd;
	OK(node_decode(out.node[0].p, out.node[0].len, uuid, out.node[0].id, 2, &zero, &nd));
	assert_int_equal(nd.child[0].id, 1);
	assert_int_equal(nd.child[1].id, 0);
	built_nodes_done(&out);
	for (unsigned i = 0; i < ARRAY_LEN(level); i++) {
		free(level[i]);
	}
	free(work);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heights),
		cmocka_unit_test(walks_back),
		cmocka_unit_test(all_zero),
		cmocka_unit_test(on_a_base),
	};
	return cmocka_run_group_tests_name("mapbuild", tests, NULL, NULL);
}
