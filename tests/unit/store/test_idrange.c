/* SPDX-License-Identifier: Apache-2.0 */
/* An id range of one's own: kept while it is held, dropped with what is in it, or released. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/gc.h"
#include "store/idrange.h"
#include "tests/unit/store/store_fix.h"

static uint64_t leaves(struct family *f)
{
	struct store_usage u;
	OK(family_usage(f, &u));
	return u.leaves;
}

static void put_leaf(struct idrange *r)
{
	struct ltxn *t = NULL;
	uint64_t id;
	OK(idrange_take(r, &id));
	struct key8 key = key_of_id(id);
	OK(ltxn_begin(r->f->env, true, &t));
	OK(ltxn_put(t, FAMILY_LEAF, KEY_BYTES(key), (struct bytes){ "x", 1 }));
	OK(ltxn_commit(t));
}

static void ranges(void **state)
{
	(void)state;
	char *dir = fix_tmpdir();
	struct store *s = NULL;
	struct family *f = NULL;
	struct gc_result res;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	struct idrange a;
	struct idrange b;
	OK(idrange_open(f, &a));
	OK(idrange_open(f, &b));
	assert_true(b.pend.first >= a.pend.first + a.pend.count);
	put_leaf(&a);
	put_leaf(&b);
	OK(family_gc(f, &res));
	assert_int_equal(leaves(f), 2); /* both live */
	idrange_close(&a);
	assert_int_equal(leaves(f), 1);
	/* Released: what it wrote counts from now on, here as garbage. */
	struct ltxn *t = NULL;
	OK(ltxn_begin(f->env, true, &t));
	OK(idrange_release(&b, t));
	OK(ltxn_commit(t));
	b.reserved = false;
	OK(ltxn_begin(f->env, true, &t));
	FAILS(ERR_NOT_NOW, "cleared away", idrange_release(&b, t));
	ltxn_abort(t);
	assert_int_equal(leaves(f), 1);
	idrange_close(&b);
	assert_int_equal(leaves(f), 1);
	OK(family_gc(f, &res));
	assert_int_equal(leaves(f), 0);
	/* The end of a range. */
	struct idrange c;
	uint64_t id;
	OK(idrange_open(f, &c));
	c.next = c.pend.first + c.pend.count;
	FAILS(ERR_LIMIT, "used up", idrange_take(&c, &id));
	idrange_close(&c);
	family_close(f);
	store_close(s);
	fix_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(ranges) };
	return cmocka_run_group_tests_name("idrange", tests, NULL, NULL);
}
