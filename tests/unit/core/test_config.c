/* SPDX-License-Identifier: Apache-2.0 */
/* Unit tests of core/config.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/config.h"

#define UUID "12345678-9abc-4ef0-8123-456789abcdef"
#define FAMILY "00112233-4455-4677-8899-aabbccddeeff"

static const char good_text[] =
	"{\"cmdline\":\"console=ttyS0 a=\\\"b\\\"\",\"cpu\":\"host\",\"cpus\":2,"
	"\"family\":\"" FAMILY "\",\"initrd\":true,\"kernel\":\"vmlinux\","
	"\"mem_bytes\":67108864,\"name\":\"web-1\",\"no_reboot\":false,"
	"\"uuid\":\"" UUID "\",\"v\":1}";

static void expect_class(struct err *e, enum err_class class)
{
	assert_non_null(e);
	if (err_class(e) != class) {
		print_message("class %s: %s\n", err_class_name(err_class(e)), err_msg(e));
	}
	assert_int_equal(err_class(e), class);
	assert_true(strlen(err_msg(e)) > 10);
	assert_null(strchr(err_msg(e), '\n'));
	err_free(e);
}

static void expect_ok(struct err *e)
{
	if (e != NULL) {
		print_message("%s\n", err_msg(e));
	}
	assert_null(e);
}

static void make(struct config *c)
{
	expect_ok(config_parse(good_text, strlen(good_text), c));
}

static void test_text_is_canonical(void **state)
{
	(void)state;
	struct config c;
	make(&c);
	assert_string_equal(c.name, "web-1");
	assert_int_equal(c.uuid[0], 0x12);
	assert_int_equal(c.family[15], 0xff);
	assert_int_equal(c.ncpus, 2);
	assert_int_equal(c.mem_bytes, 64 << 20);
	assert_string_equal(c.cpu_model, "host");
	assert_string_equal(c.cmdline, "console=ttyS0 a=\"b\"");
	assert_string_equal(c.kernel_name, "vmlinux");
	assert_true(c.has_initrd);
	assert_false(c.no_reboot);
	char *text = NULL;
	expect_ok(config_text(&c, &text));
	assert_string_equal(text, good_text);
	free(text);
	struct config copy;
	expect_ok(config_copy(&c, &copy));
	assert_ptr_not_equal(copy.cmdline, c.cmdline);
	assert_string_equal(copy.cmdline, c.cmdline);
	config_done(&copy);
	assert_null(copy.cmdline);
	config_done(&c);
}

/* Version 2: the devices; a configuration without any is written as version 1 for ever. */
static void test_devices(void **state)
{
	(void)state;
	struct config c;
	make(&c);
	c.vmgenid = true;
	expect_ok(config_dev_add(&c.devs, &(struct config_dev){ .kind = CONFIG_RNG }, NULL));
	char *text = NULL;
	expect_ok(config_text(&c, &text));
	assert_non_null(strstr(text, "\"v\":2"));
	assert_non_null(
		strstr(text, "\"devices\":[{\"id\":\"rng0\",\"kind\":\"rng\",\"slot\":1}]"));
	struct config back;
	expect_ok(config_parse(text, strlen(text), &back));
	assert_true(back.vmgenid);
	assert_int_equal(back.devs.n, 1);
	assert_int_equal(back.devs.d[0].slot, 1);
	free(text);
	config_done(&back);
	config_done(&c);
}

/* Options of version 2: written only when they are on, refused in a text of version 1. */
static void test_options(void **state)
{
	(void)state;
	static const struct {
		bool battery, exit_device, gpe_methods, s2idle;
	} rows[] = { { true, false, false, false },
		     { false, true, false, false },
		     { false, false, true, false },
		     { false, false, false, true },
		     { true, true, true, true } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct config c;
		make(&c);
		assert_false(c.battery || c.exit_device || c.gpe_methods || c.s2idle);
		c.battery = rows[i].battery;
		c.exit_device = rows[i].exit_device;
		c.gpe_methods = rows[i].gpe_methods;
		c.s2idle = rows[i].s2idle;
		char *text = NULL;
		expect_ok(config_text(&c, &text));
		char *v = strstr(text, "\"v\":2");
		assert_non_null(v);
		struct config again;
		expect_ok(config_parse(text, strlen(text), &again));
		assert_int_equal(again.battery, rows[i].battery);
		assert_int_equal(again.exit_device, rows[i].exit_device);
		assert_int_equal(again.gpe_methods, rows[i].gpe_methods);
		assert_int_equal(again.s2idle, rows[i].s2idle);
		config_done(&again);
		v[4] = '1';
		expect_class(config_parse(text, strlen(text), &again), ERR_CORRUPT);
		v[4] = '3';
		expect_class(config_parse(text, strlen(text), &again), ERR_INCOMPAT);
		free(text);
		config_done(&c);
	}
}

static void test_kernel_may_be_absent(void **state)
{
	(void)state;
	struct config c;
	make(&c);
	free(c.kernel_name);
	c.kernel_name = NULL;
	char *text = NULL;
	expect_ok(config_text(&c, &text));
	assert_non_null(strstr(text, "\"kernel\":null"));
	struct config again;
	expect_ok(config_parse(text, strlen(text), &again));
	assert_null(again.kernel_name);
	free(text);
	config_done(&again);
	config_done(&c);
}

/* Every cut and every flipped byte is refused or read as another sound configuration. */
static void test_truncated_and_damaged(void **state)
{
	(void)state;
	char text[sizeof(good_text)];
	for (size_t len = 0; len + 1 < sizeof(good_text); len++) {
		/* A heap copy of exactly len bytes, so that a read past it shows under ASan. */
		char *cut = malloc(len + 1);
		assert_non_null(cut);
		memcpy(cut, good_text, len);
		struct config c = { .ncpus = 77 };
		expect_class(config_parse(cut, len, &c), ERR_CORRUPT);
		assert_int_equal(c.ncpus, 77);
		free(cut);
	}
	for (size_t i = 0; i + 1 < sizeof(good_text); i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			memcpy(text, good_text, sizeof(text));
			text[i] = (char)((unsigned char)text[i] ^ (1u << bit));
			struct config c;
			struct err *e = config_parse(text, sizeof(text) - 1, &c);
			if (e == NULL) {
				expect_ok(config_check(&c));
				config_done(&c);
			}
			err_free(e);
		}
	}
}

/* Replaces the first `from` by `to` and parses. */
static struct err *parse_edited(const char *from, const char *to)
{
	char text[2 * sizeof(good_text) + 8192];
	const char *at = strstr(good_text, from);
	assert_non_null(at);
	snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - good_text), good_text, to,
		 at + strlen(from));
	struct config c;
	struct err *e = config_parse(text, strlen(text), &c);
	if (e == NULL) {
		config_done(&c);
	}
	return e;
}

static void test_strict(void **state)
{
	(void)state;
	expect_class(parse_edited("\"v\":1", "\"v\":1,\"extra\":1"), ERR_CORRUPT);
	expect_class(parse_edited("\"v\":1", "\"v\":1,\"v\":1"), ERR_CORRUPT);
	expect_class(parse_edited("\"v\":1", "\"v\":3"), ERR_INCOMPAT);
	expect_class(parse_edited("\"v\":1", "\"v\":2"), ERR_CORRUPT); /* its keys are missing */
	expect_class(parse_edited("\"v\":1", "\"v\":0"), ERR_CORRUPT);
	expect_class(parse_edited("\"v\":1", "\"v\":-1"), ERR_CORRUPT);
	expect_class(parse_edited("\"v\":1", "\"v\":\"1\""), ERR_CORRUPT);
	expect_class(parse_edited("\"v\":1}", "\"v\":1} x"), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2,", ""), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2", "\"cpus\":true"), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2", "\"cpus\":2.0"), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2", "\"cpus\":65"), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2", "\"cpus\":18446744073709551618"), ERR_CORRUPT);
	expect_class(parse_edited("\"cpus\":2", "\"cpus\":0"), ERR_LIMIT);
	expect_class(parse_edited("67108864", "67108865"), ERR_LIMIT);
	expect_class(parse_edited("67108864", "4096"), ERR_LIMIT);
	expect_class(parse_edited("67108864", "1125899906842624"), ERR_LIMIT);
	expect_class(parse_edited("\"host\"", "\"pentium\""), ERR_INCOMPAT);
	expect_class(parse_edited("web-1", "../x"), ERR_CORRUPT);
	expect_class(parse_edited("web-1", "we\\u0000b"), ERR_CORRUPT);
	expect_class(parse_edited(UUID, "12345678"), ERR_CORRUPT);
	expect_class(parse_edited("true", "1"), ERR_CORRUPT);
	expect_class(parse_edited("\"vmlinux\"", "3"), ERR_CORRUPT);
	expect_class(parse_edited("\"kernel\":\"vmlinux\",", ""), ERR_CORRUPT);
	char nested[4000];
	memset(nested, '[', sizeof(nested));
	struct config c;
	expect_class(config_parse(nested, sizeof(nested), &c), ERR_CORRUPT);
	expect_class(config_parse("[]", 2, &c), ERR_CORRUPT);
	expect_class(config_parse("{}", 2, &c), ERR_CORRUPT);
	char longer[CMDLINE_BYTES_MAX + 2];
	memset(longer, 'a', sizeof(longer));
	longer[CMDLINE_BYTES_MAX + 1] = 0;
	expect_class(parse_edited("console=ttyS0", longer), ERR_LIMIT);
	expect_class(parse_edited("ttyS0", "\xff"), ERR_CORRUPT);
}

static void test_check_limits(void **state)
{
	(void)state;
	struct config c;
	make(&c);
	c.ncpus = 1;
	expect_ok(config_check(&c));
	c.ncpus = 64;
	expect_ok(config_check(&c));
	c.ncpus = 65;
	expect_class(config_check(&c), ERR_LIMIT);
	c.ncpus = 0;
	expect_class(config_check(&c), ERR_LIMIT);
	c.ncpus = 1;
	c.mem_bytes = GMEM_MIN_BYTES;
	expect_ok(config_check(&c));
	c.mem_bytes = GMEM_MIN_BYTES - PAGE_BYTES;
	expect_class(config_check(&c), ERR_LIMIT);
	c.mem_bytes = 0;
	expect_class(config_check(&c), ERR_LIMIT);
	c.mem_bytes = 1ull << 50;
	expect_class(config_check(&c), ERR_LIMIT);
	c.mem_bytes = 64 * MIB;
	snprintf(c.cpu_model, sizeof(c.cpu_model), "x86-64-v3");
	expect_ok(config_check(&c));
	snprintf(c.cpu_model, sizeof(c.cpu_model), "x86-64-v4");
	expect_class(config_check(&c), ERR_USAGE);
	snprintf(c.cpu_model, sizeof(c.cpu_model), "host");
	free(c.cmdline);
	c.cmdline = strdup("\xc3\x28");
	expect_class(config_check(&c), ERR_USAGE);
	config_done(&c);
}

static void test_names(void **state)
{
	(void)state;
	char name[NAME_BYTES_MAX + 2];
	memset(name, 'n', sizeof(name));
	name[NAME_BYTES_MAX + 1] = 0;
	expect_class(config_check_name(name), ERR_USAGE);
	name[NAME_BYTES_MAX] = 0;
	expect_ok(config_check_name(name));
	expect_ok(config_check_name("a"));
	expect_ok(config_check_name("_A.b-9"));
	expect_ok(config_check_name("7"));
	static const char *const bad[] = { "",    ".",        "-a", "a@b",   "a/b", "a b",
					   "a\n", "\xc3\xa4", "..", "a\x7f", "a:b" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		expect_class(config_check_name(bad[i]), ERR_USAGE);
		expect_class(config_check_tag(bad[i]), ERR_USAGE);
	}
	expect_class(config_check_tag("123"), ERR_USAGE);
	expect_ok(config_check_tag("123a"));
	expect_ok(config_check_tag("1.2"));
}

static void test_sizes(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "512M", 512 * MIB },
		{ "2G", 2 * GIB },
		{ "1048576K", GIB },
		{ "4096", 4096 },
		{ "1k", KIB },
		{ "18446744073709551615", UINT64_MAX },
		{ "17179869183G", 17179869183ull * GIB },
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		uint64_t v = 1;
		expect_ok(config_parse_size(good[i].text, &v));
		assert_true(v == good[i].bytes);
	}
	static const char *const bad[] = { "",
					   "M",
					   "-1",
					   "+1",
					   " 1",
					   "1 M",
					   "1MB",
					   "1T",
					   "0x10",
					   "1.5G",
					   "1e3",
					   "18446744073709551616",
					   "17179869184G" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		uint64_t v = 99;
		expect_class(config_parse_size(bad[i], &v), ERR_USAGE);
		assert_int_equal(v, 99);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_is_canonical),
		cmocka_unit_test(test_devices),
		cmocka_unit_test(test_kernel_may_be_absent),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_truncated_and_damaged),
		cmocka_unit_test(test_strict),
		cmocka_unit_test(test_check_limits),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_sizes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
