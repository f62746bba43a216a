/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of the description of a snapshot: one JSON document with everything in it. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>

#include "tests/lib/snap_fake.h"

static const struct state_desc *find(const char *name)
{
	static const struct state_desc *const all[] = { &fake_cpu_desc, &fake_serial_desc };
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (strcmp(all[i]->name, name) == 0) {
			return all[i];
		}
	}
	return NULL; /* clock is unknown here */
}

static json_t *show(struct fake_vm *f, snap_find_desc_fn *fn)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(64 * MIB);
	json_error_t why;
	OK(snap_image_open(f->store, "fake", &img));
	OK(snap_image_show(img, fn, &out));
	json_t *j = json_loadb((const char *)out.p, out.len, JSON_REJECT_DUPLICATES, &why);
	if (j == NULL) {
		fail_msg("%s at %d: %.*s", why.text, why.position, (int)out.len, (char *)out.p);
	}
	return j;
}

static const char *text(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	assert_non_null(s);
	return s;
}

static void test_document(void **state)
{
	(void)state;
	struct fake_vm f;
	struct snap_result r;
	const struct snap_take_opts opts = { .tag = "t" };
	const struct snap_host here = { .kernel = "6.1", .tsc_khz = 5, .xcr0_mask = 7 };
	snap_set_host(&here);
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	fake_fill(&f, 1);
	f.p[1].live.a = UINT64_MAX;
	OK(snap_take(f.store, &f.vm, &opts, &r));
	json_t *j = show(&f, find);
	assert_string_equal(text(j, "name"), "fake");
	assert_string_equal(text(j, "tag"), "t");
	assert_string_equal(text(j, "torpor"), TORPOR_VERSION);
	assert_int_equal(json_integer_value(json_object_get(j, "number")), 1);
	assert_string_equal(text(j, "vm"), "01020300-0000-0000-0000-000000000000");
	assert_string_equal(text(json_object_get(j, "host"), "xcr0_used"), "0x7");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "config"), "ncpus")),
			 2);
	json_t *parts = json_object_get(j, "parts");
	assert_int_equal(json_array_size(parts), FAKE_PARTS);
	json_t *cpu1 = json_array_get(parts, 1);
	assert_string_equal(text(cpu1, "name"), "cpu");
	assert_string_equal(text(json_object_get(cpu1, "state"), "a"), "0xffffffffffffffff");
	assert_string_equal(text(json_object_get(cpu1, "state"), "fifo"), "61");
	assert_null(json_object_get(cpu1, "error"));
	json_t *clock = json_array_get(parts, 2);
	assert_string_equal(text(clock, "name"), "clock");
	assert_null(json_object_get(clock, "state"));
	assert_true(json_integer_value(json_object_get(clock, "bytes")) > 0);
	json_decref(j);
	j = show(&f, NULL);
	json_decref(j);
	fake_done(&f);
}

static const struct state_desc *find_wrong(const char *name)
{
	(void)name;
	return &fake_clock_desc;
}

static void test_damage_is_told(void **state)
{
	(void)state;
	static const uint8_t latin1[] = { 'a', 0xe4, 'b' };
	struct fake_vm f;
	struct snap_result r;
	const struct snap_take_opts opts = { 0 };
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	f.vm.config = (struct bytes){ latin1, sizeof(latin1) };
	OK(snap_take(f.store, &f.vm, &opts, &r));
	json_t *j = show(&f, find_wrong);
	assert_true(json_is_null(json_object_get(j, "config")));
	json_t *cpu = json_array_get(json_object_get(j, "parts"), 0);
	assert_non_null(strstr(text(cpu, "error"), "record of cpu/0"));
	assert_null(json_object_get(cpu, "state"));
	json_t *clock = json_array_get(json_object_get(j, "parts"), 2);
	assert_non_null(json_object_get(clock, "state"));
	json_decref(j);
	fake_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_document),
		cmocka_unit_test(test_damage_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
