/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of field tables: wire bytes typed by hand, hostile records, tables that must fail. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "snapshot/desc.h"
#include "tests/lib/expect.h"

struct inner {
	uint32_t index;
	uint32_t flags;
};

struct outer {
	uint64_t rip;
	uint32_t nmsrs;
	uint16_t divisor;
	uint8_t mode;
	bool on;
	uint8_t pad[3];
	uint8_t fifo[5];
	uint32_t nfifo;
	uint16_t lines[2];
	struct inner one;
	struct inner msrs[3];
	uint32_t scratch[2];
};

static const struct state_field inner_fields[] = {
	FIELD(struct inner, 1, index),
	FIELD(struct inner, 2, flags, FIELD_RANGE(0, 0xff)),
};
static const struct state_desc inner_desc = {
	.name = "inner",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct inner),
	.fields = inner_fields,
	.nfields = ARRAY_LEN(inner_fields),
};

static struct err *outer_check(const void *state)
{
	const struct outer *o = state;
	ENSURE(o->mode != 7 || o->on, ERR_CORRUPT, "mode 7 needs on");
	return NULL;
}

static const struct state_field outer_fields[] = {
	FIELD(struct outer, 1, rip),
	FIELD(struct outer, 2, nmsrs),
	FIELD(struct outer, 3, divisor, FIELD_RANGE(1, 0xffff)),
	FIELD(struct outer, 4, mode, .since = 2, .dflt = 3),
	FIELD(struct outer, 5, on),
	PAD(struct outer, pad),
	FIELD(struct outer, 6, nfifo),
	FIELD_VBLOB(struct outer, 7, fifo, nfifo),
	FIELD_ARR(struct outer, 8, lines),
	FIELD_SUB(struct outer, 9, one, &inner_desc),
	FIELD_VSUBS(struct outer, 10, msrs, nmsrs, &inner_desc),
	OMIT(struct outer, scratch, "host side"),
};
static const struct state_desc outer_desc = {
	.name = "out",
	.version = 2,
	.oldest = 1,
	.size = sizeof(struct outer),
	.fields = outer_fields,
	.nfields = ARRAY_LEN(outer_fields),
	.check = outer_check,
};

static const struct outer sample = {
	.rip = 0x1122334455667788,
	.nmsrs = 1,
	.divisor = 0x0c,
	.mode = 2,
	.on = true,
	.fifo = { 'h', 'i' },
	.nfifo = 2,
	.lines = { 0x0102, 0x0304 },
	.one = { 0x10, 0x20 },
	.msrs = { { 0xc0000080, 0x01 } },
};

/* The record of `sample`, without the checksum at its end. */
static const uint8_t sample_wire[] = {
	'T',  'P',  'R',  'C',                                           /* magic */
	0xc4, 0,    0,    0,                                             /* total length: 188 + 8 */
	3,    'o',  'u',  't',                                           /* name */
	5,    0,    0,    0,                                             /* instance */
	2,    0,                                                         /* version */
	1,    0,    5,    0,    8,    0,    0,    0,                     /* tag, u64, length */
	0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,                  /* rip */
	2,    0,    4,    0,    4,    0,    0,    0,    1,    0,   0, 0, /* nmsrs */
	3,    0,    3,    0,    2,    0,    0,    0,    0x0c, 0,         /* divisor */
	4,    0,    2,    0,    1,    0,    0,    0,    2,               /* mode */
	5,    0,    1,    0,    1,    0,    0,    0,    1,               /* on */
	6,    0,    4,    0,    4,    0,    0,    0,    2,    0,   0, 0, /* nfifo */
	7,    0,    7,    0,    2,    0,    0,    0,    'h',  'i',       /* fifo: used bytes only */
	8,    0,    8,    0,    8,    0,    0,    0,                     /* lines */
	2,    0,    0,    0,    0x02, 0x01, 0x04, 0x03,                  /* count, elements */
	9,    0,    9,    0,    26,   0,    0,    0,                     /* one */
	1,    0, /* version of the sub-table */
	1,    0,    4,    0,    4,    0,    0,    0,    0x10, 0,   0, 0, /* one.index */
	2,    0,    4,    0,    4,    0,    0,    0,    0x20, 0,   0, 0, /* one.flags */
	10,   0,    10,   0,    34,   0,    0,    0,                     /* msrs */
	1,    0,    0,    0,    1,    0,    24,   0,    0,    0, /* count, version, length of
								    element 0 */
	1,    0,    4,    0,    4,    0,    0,    0,    0x80, 0,   0, 0xc0, /* msrs[0].index */
	2,    0,    4,    0,    4,    0,    0,    0,    0x01, 0,   0, 0,    /* msrs[0].flags */
};
enum {
	WIRE_LEN = sizeof(sample_wire),
	AT_VERSION = 16,
	AT_RIP = 18,
	AT_DIVISOR = 46,
	AT_MODE = 56,
	AT_ON = 65,
	AT_NFIFO = 74,
	AT_FIFO = 86,
	AT_LINES = 96,
	AT_ONE = 112,
	AT_MSRS = 146,
};

/* Sets length and checksum right, so that what is tested is the check behind them. */
static size_t seal(uint8_t *buf, size_t len)
{
	put_le32(buf + 4, (uint32_t)len + 8);
	put_le64(buf + len, hash_xxh3_64(buf, len, 0));
	return len + 8;
}

/* Decoding must fail with that class and every text of the message; the output stays untouched. */
static void refuse(const uint8_t *buf, size_t len, enum err_class class, const char *text)
{
	struct outer out, before;
	memset(&out, 0xa5, sizeof(out));
	before = out;
	SCOPE(err_freep) struct err *e = desc_decode(&outer_desc, 5, buf, len, &out);
	assert_non_null(e);
	if (err_class(e) != class || strstr(err_msg(e), text) == NULL) {
		fail_msg("class %s, message '%s', wanted '%s'", err_class_name(err_class(e)),
			 err_msg(e), text);
	}
	assert_memory_equal(&out, &before, sizeof(out));
}

static void test_wire_bytes(void **state)
{
	(void)state;
	uint8_t want[WIRE_LEN + 8];
	memcpy(want, sample_wire, WIRE_LEN);
	put_le64(want + WIRE_LEN, hash_xxh3_64(want, WIRE_LEN, 0));
	size_t len = sizeof(want);
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	ok(desc_encode(&outer_desc, 5, &sample, &out));
	assert_int_equal(out.len, len);
	assert_memory_equal(out.p, want, len);

	struct desc_head head;
	ok(desc_peek(want, len, &head));
	assert_string_equal(head.name, "out");
	assert_int_equal(head.instance, 5);
	assert_int_equal(head.version, 2);
	assert_int_equal(head.len_bytes, len);

	struct outer got;
	memset(&got, 0xa5, sizeof(got));
	ok(desc_decode(&outer_desc, 5, want, len, &got));
	assert_memory_equal(&got, &sample, sizeof(got)); /* also PAD, OMIT and unused elements */
}

static void test_append_keeps_what_was_there(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	wbuf_put(&out, "abc", 3);
	ok(desc_encode(&outer_desc, 5, &sample, &out));
	struct outer got;
	ok(desc_decode(&outer_desc, 5, out.p + 3, out.len - 3, &got));
	assert_memory_equal(out.p, "abc", 3);
}

static void test_truncation(void **state)
{
	(void)state;
	uint8_t buf[WIRE_LEN + 8];
	for (size_t len = 0; len < WIRE_LEN + 8; len++) {
		memcpy(buf, sample_wire, WIRE_LEN);
		seal(buf, WIRE_LEN);
		struct outer out;
		SCOPE(err_freep) struct err *e = desc_decode(&outer_desc, 5, buf, len, &out);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		/* and with length and checksum made to fit, so that the fields are what is short */
		if (len < WIRE_LEN && len >= 18) {
			memcpy(buf, sample_wire, WIRE_LEN);
			refuse(buf, seal(buf, len), ERR_CORRUPT, "part out/5");
		}
	}
}

static void test_every_flipped_bit(void **state)
{
	(void)state;
	uint8_t buf[WIRE_LEN + 8];
	memcpy(buf, sample_wire, WIRE_LEN);
	size_t len = seal(buf, WIRE_LEN);
	for (size_t bit = 0; bit < len * 8; bit++) {
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		struct outer out;
		SCOPE(err_freep) struct err *e = desc_decode(&outer_desc, 5, buf, len, &out);
		assert_non_null(e);
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

struct patch {
	size_t at;
	uint8_t value;
	enum err_class class;
	const char *text;
};

static void test_hostile_values(void **state)
{
	(void)state;
	static const struct patch patches[] = {
		{ 0, 'X', ERR_CORRUPT, "magic" },
		{ 8, 0, ERR_CORRUPT, "record name of 0 bytes" },
		{ 8, 32, ERR_CORRUPT, "record name of 32 bytes" },
		{ 9, '\n', ERR_CORRUPT, "byte 0x0a" },
		{ 9, 'q', ERR_CORRUPT, "qut/5 stands in its place" },
		{ 12, 6, ERR_CORRUPT, "out/6 stands in its place" },
		{ AT_VERSION, 3, ERR_INCOMPAT, "newer" },
		{ AT_VERSION, 0, ERR_INCOMPAT, "older" },
		{ AT_RIP, 77, ERR_CORRUPT, "unknown tag 77 at offset 18" },
		{ AT_RIP, 2, ERR_CORRUPT, "field rip (tag 1) is missing" },
		{ AT_DIVISOR, 1, ERR_CORRUPT, "repeated or out of order" },
		{ AT_RIP + 2, 4, ERR_CORRUPT, "kind 4" },
		{ AT_RIP + 3, 1, ERR_CORRUPT, "reserved" },
		{ AT_RIP + 4, 9, ERR_CORRUPT, "left over" },
		{ AT_RIP + 4, 7, ERR_CORRUPT, "more are needed" },
		{ AT_RIP + 7, 0xff, ERR_CORRUPT, "bytes long where" },
		{ AT_DIVISOR + 8, 0, ERR_CORRUPT, "field divisor (tag 3) at offset 46: value 0x0" },
		{ AT_ON + 8, 2, ERR_CORRUPT, "no truth value" },
		{ AT_NFIFO + 8, 3, ERR_CORRUPT, "2 elements where nfifo says 3" },
		{ AT_NFIFO + 8, 6, ERR_CORRUPT, "field fifo" },
		{ AT_LINES + 8, 1, ERR_CORRUPT, "1 elements where the table says 2" },
		{ AT_LINES + 11, 0xff, ERR_CORRUPT, "room for 2" },
		{ AT_ONE + 8, 2, ERR_INCOMPAT, "version 2 of inner is newer" },
		{ AT_ONE + 31, 1, ERR_CORRUPT, "field one (tag 9) at offset 112: field flags" },
		{ AT_MSRS + 8, 2, ERR_CORRUPT, "2 elements where nmsrs says 1" },
		{ AT_MSRS + 8, 4, ERR_CORRUPT, "room for 3" },
		{ AT_MSRS + 14, 23, ERR_CORRUPT, "field msrs (tag 10) at offset 146: [0]" },
		{ AT_MSRS + 14, 25, ERR_CORRUPT, "25 bytes long where 24" },
		{ AT_MODE + 8, 8, ERR_CORRUPT, NULL }, /* allowed: see below */
	};
	uint8_t buf[WIRE_LEN + 8];
	for (size_t i = 0; i < ARRAY_LEN(patches); i++) {
		const struct patch *p = &patches[i];
		memcpy(buf, sample_wire, WIRE_LEN);
		buf[p->at] = p->value;
		size_t len = seal(buf, WIRE_LEN);
		if (p->text != NULL) {
			refuse(buf, len, p->class, p->text);
		} else {
			struct outer out;
			ok(desc_decode(&outer_desc, 5, buf, len, &out));
			assert_int_equal(out.mode, p->value);
		}
	}
	/* the cross-field rule */
	memcpy(buf, sample_wire, WIRE_LEN);
	buf[AT_MODE + 8] = 7;
	buf[AT_ON + 8] = 0;
	refuse(buf, seal(buf, WIRE_LEN), ERR_CORRUPT, "mode 7 needs on");
}

static void test_trailing(void **state)
{
	(void)state;
	uint8_t buf[WIRE_LEN + 40] = { 0 };
	memcpy(buf, sample_wire, WIRE_LEN);
	refuse(buf, seal(buf, WIRE_LEN + 1), ERR_CORRUPT, "left over");
	memset(buf + WIRE_LEN, 0, 32);
	buf[WIRE_LEN] = 11;
	refuse(buf, seal(buf, WIRE_LEN + 8), ERR_CORRUPT, "unknown tag 11 at offset 188");
	memcpy(buf + WIRE_LEN, sample_wire + AT_MODE, 9);
	refuse(buf, seal(buf, WIRE_LEN + 9), ERR_CORRUPT, "repeated tag 4");
	/* a record of another length than it says */
	memcpy(buf, sample_wire, WIRE_LEN);
	seal(buf, WIRE_LEN);
	refuse(buf, WIRE_LEN + 9, ERR_CORRUPT, "says that it has");
}

static void test_older_version(void **state)
{
	(void)state;
	uint8_t buf[WIRE_LEN + 8];
	memcpy(buf, sample_wire, AT_MODE);
	memcpy(buf + AT_MODE, sample_wire + AT_ON, WIRE_LEN - AT_ON);
	buf[AT_VERSION] = 1;
	struct outer got;
	ok(desc_decode(&outer_desc, 5, buf, seal(buf, WIRE_LEN - 9), &got));
	assert_int_equal(got.mode, 3); /* the default */
	assert_int_equal(got.nmsrs, 1);
	/* version 1 has no mode: with it the record breaks its rules */
	memcpy(buf, sample_wire, WIRE_LEN);
	buf[AT_VERSION] = 1;
	refuse(buf, seal(buf, WIRE_LEN), ERR_CORRUPT, "tag 4");
}

static void refuse_encode(const struct outer *o, enum err_class class, const char *text)
{
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	SCOPE(err_freep) struct err *e = desc_encode(&outer_desc, 5, o, &out);
	assert_non_null(e);
	assert_int_equal(err_class(e), class);
	assert_non_null(strstr(err_msg(e), text));
}

static void test_encode_checks(void **state)
{
	(void)state;
	struct outer o = sample;
	o.divisor = 0;
	refuse_encode(&o, ERR_CORRUPT, "part out/5: field divisor");
	o = sample;
	o.nmsrs = 4;
	refuse_encode(&o, ERR_CORRUPT, "room for 3");
	o = sample;
	o.msrs[0].flags = 0x100;
	refuse_encode(&o, ERR_CORRUPT, "[0]: field flags");
	o = sample;
	o.mode = 7;
	o.on = false;
	refuse_encode(&o, ERR_CORRUPT, "mode 7");
	o = sample;
	memset(&o.on, 2, 1);
	refuse_encode(&o, ERR_CORRUPT, "no truth value");
	for (size_t max = 0; max < WIRE_LEN + 8; max++) {
		SCOPE(wbuf_done) struct wbuf out = wbuf_make(max);
		SCOPE(err_freep) struct err *e = desc_encode(&outer_desc, 5, &sample, &out);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_LIMIT);
	}
}

static void differ(const struct outer *o, const char *text)
{
	SCOPE(err_freep) struct err *e = desc_compare(&outer_desc, &sample, o);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_NOT_NOW);
	if (strstr(err_msg(e), text) == NULL) {
		fail_msg("message '%s', wanted '%s'", err_msg(e), text);
	}
}

static void test_compare(void **state)
{
	(void)state;
	struct outer o = sample;
	o.scratch[1] = 9;  /* left out */
	o.pad[1] = 9;      /* padding */
	o.fifo[4] = 9;     /* unused */
	o.msrs[2].index++; /* unused */
	ok(desc_compare(&outer_desc, &sample, &o));
	o = sample;
	o.rip++;
	differ(&o, "part out differs: rip: 0x1122334455667788 and 0x1122334455667789");
	o = sample;
	o.msrs[0].flags = 2;
	differ(&o, "msrs[0]: flags: 0x1 and 0x2");
	o = sample;
	o.one.index = 2;
	differ(&o, "one: index: 0x10 and 0x2");
	o = sample;
	o.lines[1] = 0;
	differ(&o, "lines[1]: 0x304 and 0x0");
	o = sample;
	o.fifo[1] = 'o';
	differ(&o, "fifo[1]: 0x69 and 0x6f");
	o = sample;
	o.nfifo = 1;
	differ(&o, "nfifo: 0x2 and 0x1");
}

static void test_show(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	desc_show_json(&outer_desc, &sample, &out);
	wbuf_u8(&out, 0);
	ok(wbuf_check(&out));
	assert_string_equal((char *)out.p,
			    "{\"rip\":\"0x1122334455667788\",\"nmsrs\":1,\"divisor\":12,\"mode\":2,"
			    "\"on\":true,\"nfifo\":2,\"fifo\":\"6869\",\"lines\":[258,772],"
			    "\"one\":{\"index\":16,\"flags\":32},"
			    "\"msrs\":[{\"index\":3221225600,\"flags\":1}]}");
}

static void test_dump(void **state)
{
	(void)state;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	desc_dump(&outer_desc, &out);
	wbuf_u8(&out, 0);
	ok(wbuf_check(&out));
	assert_string_equal((char *)out.p, "out version 2 oldest 1\n"
					   "  1 u64 rip\n"
					   "  2 u32 nmsrs\n"
					   "  3 u16 divisor range 0x1..0xffff\n"
					   "  4 u8 mode since 2 default 0x3\n"
					   "  5 bool on\n"
					   "  - pad pad\n"
					   "  6 u32 nfifo\n"
					   "  7 vbytes fifo max 5 count nfifo\n"
					   "  8 array lines of u16 max 2\n"
					   "  9 record one\n"
					   "    inner version 1 oldest 1\n"
					   "      1 u32 index\n"
					   "      2 u32 flags range 0x0..0xff\n"
					   "  10 records msrs max 3 count nmsrs\n"
					   "    inner version 1 oldest 1\n"
					   "      1 u32 index\n"
					   "      2 u32 flags range 0x0..0xff\n"
					   "  - omit scratch (host side)\n");
}

static void bad_table(struct state_desc d, const struct state_field *fields, size_t n,
		      const char *text)
{
	d.fields = fields;
	d.nfields = n;
	SCOPE(err_freep) struct err *e = desc_check_coverage(&d);
	assert_non_null(e);
	if (strstr(err_msg(e), text) == NULL) {
		fail_msg("message '%s', wanted '%s'", err_msg(e), text);
	}
}

static void test_coverage(void **state)
{
	(void)state;
	enum { N = ARRAY_LEN(outer_fields) };
	struct state_field f[N + 1];
	ok(desc_check_coverage(&outer_desc));
	ok(desc_check_coverage(&inner_desc));
	/* each entry left out in turn: bytes without an owner, or a count that is gone */
	for (size_t skip = 0; skip < N; skip++) {
		size_t n = 0;
		for (size_t i = 0; i < N; i++) {
			if (i != skip) {
				f[n++] = outer_fields[i];
			}
		}
		bad_table(outer_desc, f, n,
			  skip == 1 || skip == 6 ? "is no u32 field listed before"
						 : "are in no entry");
	}
	/* each entry twice: tags do not ascend, or bytes with two owners */
	for (size_t twice = 0; twice < N; twice++) {
		memcpy(f, outer_fields, sizeof(outer_fields));
		f[N] = outer_fields[twice];
		bad_table(outer_desc, f, N + 1, f[N].tag != 0 ? "does not ascend" : "is in both");
	}
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[0].offset += 1;
	bad_table(outer_desc, f, N, "in both");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[N - 1].why = "";
	bad_table(outer_desc, f, N, "without a reason");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[N - 1].offset += 8;
	bad_table(outer_desc, f, N, "outside the struct");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[3].since = 3;
	bad_table(outer_desc, f, N, "since version 3");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[3].ranged = true;
	f[3].hi = 2;
	bad_table(outer_desc, f, N, "out of range");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[6].since = 2;
	bad_table(outer_desc, f, N, "since 1, its count nfifo since 2");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[0].kind = FIELD_U32;
	bad_table(outer_desc, f, N, "8 bytes for kind u32");
	memcpy(f, outer_fields, sizeof(outer_fields));
	f[0].kind = 42;
	bad_table(outer_desc, f, N, "elements");
}

struct holed {
	uint8_t small;
	uint32_t big; /* three bytes of the compiler's stand before it */
};

static void test_compiler_hole(void **state)
{
	(void)state;
	static const struct state_field fields[] = {
		FIELD(struct holed, 1, small),
		FIELD(struct holed, 2, big),
	};
	struct state_desc d = {
		.name = "holed", .version = 1, .oldest = 1, .size = sizeof(struct holed)
	};
	bad_table(d, fields, ARRAY_LEN(fields), "bytes 1..3 (after small) are in no entry");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wire_bytes),
		cmocka_unit_test(test_append_keeps_what_was_there),
		cmocka_unit_test(test_truncation),
		cmocka_unit_test(test_every_flipped_bit),
		cmocka_unit_test(test_hostile_values),
		cmocka_unit_test(test_trailing),
		cmocka_unit_test(test_older_version),
		cmocka_unit_test(test_encode_checks),
		cmocka_unit_test(test_compare),
		cmocka_unit_test(test_show),
		cmocka_unit_test(test_dump),
		cmocka_unit_test(test_coverage),
		cmocka_unit_test(test_compiler_hole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
