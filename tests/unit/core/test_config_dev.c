/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of core/config_dev.c: slots and names that are given or chosen, text and back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/config_dev.h"
#include "tests/lib/expect.h"

static struct config_dev disk(const char *id, unsigned slot)
{
	struct config_dev d = { .kind = CONFIG_DISK, .slot = slot, .queues = 1 };
	strcpy(d.id, id);
	return d;
}

static struct err *add(struct config_devs *l, struct config_dev d)
{
	return config_dev_add(l, &d, NULL);
}

static void test_choices(void **state)
{
	(void)state;
	struct config_devs l = { 0 };
	ok(add(&l, disk("root", 2)));
	ok(add(&l, (struct config_dev){ .kind = CONFIG_RNG }));
	ok(add(&l, disk("", 0)));
	ok(add(&l, disk("", 0)));
	/* By slot; what was not chosen took the first free ones. */
	static const char *const ids[] = { "rng0", "root", "disk1", "disk2" };
	assert_int_equal(l.n, ARRAY_LEN(ids));
	for (unsigned i = 0; i < l.n; i++) {
		assert_string_equal(l.d[i].id, ids[i]);
		assert_int_equal(l.d[i].slot, i + 1);
		assert_ptr_equal(config_dev_find(&l, ids[i]), &l.d[i]);
	}
	assert_null(config_dev_find(&l, "disk0"));
}

static void test_refusals(void **state)
{
	(void)state;
	struct config_devs l = { 0 };
	ok(add(&l, disk("a", 1)));
	fails(add(&l, disk("a", 0)), ERR_USAGE);
	fails(add(&l, disk("b", 1)), ERR_USAGE);
	fails(add(&l, disk("b", 32)), ERR_USAGE);
	fails(add(&l, disk("b/c", 0)), ERR_USAGE);
	struct config_dev d = disk("q", 0);
	d.queues = 0;
	fails(add(&l, d), ERR_USAGE);
	d.queues = CONFIG_QUEUES_MAX + 1;
	fails(add(&l, d), ERR_USAGE);
	d.queues = 1;
	d.bps = CONFIG_RATE_MAX + 1;
	fails(add(&l, d), ERR_USAGE);
	ok(add(&l, (struct config_dev){ .kind = CONFIG_CONSOLE }));
	fails(add(&l, (struct config_dev){ .kind = CONFIG_CONSOLE }), ERR_USAGE);
	assert_int_equal(l.n, 2);
	while (l.n < CONFIG_SLOT_MAX) {
		ok(add(&l, disk("", 0)));
	}
	fails(add(&l, disk("", 0)), ERR_USAGE);
}

static void test_text(void **state)
{
	(void)state;
	struct config_devs l = { 0 };
	struct config_dev d = disk("data", 7);
	d.read_only = true;
	d.queues = 4;
	d.iops = 1000;
	d.bps = CONFIG_RATE_MAX;
	ok(add(&l, d));
	for (unsigned k = 0; k < CONFIG__KINDS; k++) {
		ok(add(&l,
		       (struct config_dev){ .kind = (enum config_kind)k, .queues = 1, .cid = 9 }));
	}
	json_t *j = config_devs_json(&l);
	assert_non_null(j);
	struct config_devs back;
	ok(config_devs_parse(j, &back));
	assert_int_equal(back.n, l.n);
	for (unsigned i = 0; i < l.n; i++) {
		assert_string_equal(back.d[i].id, l.d[i].id);
		assert_int_equal(back.d[i].slot, l.d[i].slot);
		assert_int_equal(back.d[i].kind, l.d[i].kind);
		assert_int_equal(back.d[i].read_only, l.d[i].read_only);
		assert_int_equal(back.d[i].cid, l.d[i].kind == CONFIG_VSOCK ? 9 : 0);
		if (l.d[i].kind == CONFIG_DISK) {
			assert_int_equal(back.d[i].queues, l.d[i].queues);
			assert_true(back.d[i].iops == l.d[i].iops && back.d[i].bps == l.d[i].bps);
		}
	}
	json_decref(j);
}

static void test_bad_text(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum err_class class;
	} bad[] = {
		{ "{}", ERR_CORRUPT },
		{ "[1]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"a\"}]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"a\",\"slot\":0}]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"a\",\"slot\":32}]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"\",\"slot\":1}]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"a\",\"slot\":1,\"x\":1}]", ERR_CORRUPT },
		{ "[{\"kind\":\"quantum\",\"id\":\"a\",\"slot\":1}]", ERR_INCOMPAT },
		{ "[{\"kind\":\"disk\",\"id\":\"a\",\"slot\":1}]", ERR_CORRUPT },
		{ "[{\"kind\":\"rng\",\"id\":\"a\",\"slot\":1},{\"kind\":\"rng\",\"id\":\"a\","
		  "\"slot\":2}]",
		  ERR_CORRUPT },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		json_t *j = json_loads(bad[i].text, 0, NULL);
		assert_non_null(j);
		struct config_devs l = { .n = 77 };
		fails(config_devs_parse(j, &l), bad[i].class);
		assert_int_equal(l.n, 77);
		json_decref(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_choices),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_text),
		cmocka_unit_test(test_bad_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
