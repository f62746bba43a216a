/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/virtq.c: sound chains, and everything a hostile driver may write. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "core/base/bytes.h"
#include "devices/virtq.h"
#include "tests/lib/expect.h"

enum {
	DESC = 0x10000,
	AVAIL = 0x20000,
	USED = 0x30000,
	TABLE = 0x40000,
	DATA = 0x100000,
	NEXT = 1,
	WRITE = 2,
	INDIRECT = 4,
};

static struct gmem *g;
static struct virtq q;
static struct virtq_chain c;

static void put16(uint64_t gpa, uint16_t v)
{
	uint8_t raw[2];
	put_le16(raw, v);
	ok(gmem_write(g, GPA(gpa), raw, 2));
}

static uint16_t get16(uint64_t gpa)
{
	uint8_t raw[2];
	ok(gmem_read(g, GPA(gpa), raw, 2));
	return get_le16(raw);
}

static void desc_at(uint64_t table, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags,
		    uint16_t next)
{
	uint8_t raw[16];
	put_le64(raw, gpa);
	put_le32(raw + 8, len);
	put_le16(raw + 12, flags);
	put_le16(raw + 14, next);
	ok(gmem_write(g, GPA(table + 16ull * i), raw, sizeof(raw)));
}

static void fresh(uint16_t size)
{
	ok(gmem_clear(g));
	q = (struct virtq){
		.gmem = g,
		.st = { .desc = DESC, .avail = AVAIL, .used = USED, .size = size, .ready = true },
		.indirect = true,
	};
	virtq_start(&q);
	assert_null(q.bad);
}

static void offer(uint16_t head)
{
	uint16_t idx = get16(AVAIL + 2);
	put16(AVAIL + 4 + 2ull * (idx % q.st.size), head);
	put16(AVAIL + 2, (uint16_t)(idx + 1));
}

static void bad_chain(const char *what)
{
	offer(0);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
	assert_non_null(q.bad);
	assert_non_null(strstr(q.bad, what));
	/* It stays bad, and nothing is written any more. */
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
	virtq_push(&q, 0, 1);
	assert_int_equal(get16(USED + 2), 0);
	assert_false(virtq_wants_irq(&q));
	assert_false(virtq_kicks(&q, true));
	assert_int_equal(virtq_waiting(&q), 0);
}

static void test_chain(void **state)
{
	(void)state;
	fresh(8);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_EMPTY);
	desc_at(DESC, 5, DATA, 3, NEXT, 2);
	desc_at(DESC, 2, DATA + 0x1000, 4, NEXT, 7);
	desc_at(DESC, 7, DATA + 0x2000, 5, NEXT | WRITE, 1);
	desc_at(DESC, 1, DATA + 0x3000, 6, WRITE, 0);
	ok(gmem_write(g, GPA(DATA), "abc", 3));
	ok(gmem_write(g, GPA(DATA + 0x1000), "defg", 4));
	offer(5);
	assert_int_equal(virtq_waiting(&q), 1);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
	assert_int_equal(c.head, 5);
	assert_int_equal(c.nread, 2);
	assert_int_equal(c.nwrite, 2);
	assert_int_equal(c.read_bytes, 7);
	assert_int_equal(c.write_bytes, 11);
	char buf[16] = "";
	assert_int_equal(virtq_read(&q, &c, 0, buf, sizeof(buf)), 7);
	assert_memory_equal(buf, "abcdefg", 7);
	assert_int_equal(virtq_read(&q, &c, 2, buf, 2), 2);
	assert_memory_equal(buf, "cd", 2);
	assert_int_equal(virtq_read(&q, &c, 7, buf, 2), 0);
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	gmem_fetch_dirty(g, 0, bits);
	memset(bits, 0, sizeof(bits));
	assert_int_equal(virtq_write(&q, &c, 3, "0123456789", 10), 8);
	assert_int_equal(virtq_write(&q, &c, 11, "x", 1), 0);
	ok(gmem_read(g, GPA(DATA + 0x2003), buf, 2));
	assert_memory_equal(buf, "01", 2);
	ok(gmem_read(g, GPA(DATA + 0x3000), buf, 6));
	assert_memory_equal(buf, "234567", 6);
	virtq_push(&q, c.head, 11);
	assert_int_equal(get16(USED + 2), 1);
	assert_int_equal(get16(USED + 4), 5);
	assert_int_equal(get16(USED + 8), 11);
	/* Every page written is marked, and no other. */
	gmem_fetch_dirty(g, 0, bits);
	for (unsigned i = 0; i < GMEM_MIN_BYTES / PAGE_BYTES; i++) {
		bool want =
			i == USED >> 12 || i == (DATA + 0x2000) >> 12 || i == (DATA + 0x3000) >> 12;
		assert_int_equal(bits[i / 64] >> (i % 64) & 1, want);
	}
}

static void test_indirect(void **state)
{
	(void)state;
	fresh(4);
	desc_at(DESC, 0, DATA, 8, NEXT, 3);
	desc_at(DESC, 3, TABLE + 8, 3 * 16, INDIRECT, 0); /* need not be aligned */
	desc_at(TABLE + 8, 0, DATA + 0x100, 8, NEXT, 2);
	desc_at(TABLE + 8, 2, DATA + 0x200, 8, WRITE, 0);
	offer(0);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
	assert_int_equal(c.nread, 2);
	assert_int_equal(c.nwrite, 1);
	assert_int_equal(c.seg[2].gpa, DATA + 0x200);
	/* Not negotiated. */
	fresh(4);
	q.indirect = false;
	desc_at(DESC, 0, TABLE, 16, INDIRECT, 0);
	bad_chain("indirect");
	/* Inside of another. */
	fresh(4);
	desc_at(DESC, 0, TABLE, 16, INDIRECT, 0);
	desc_at(TABLE, 0, TABLE, 16, INDIRECT, 0);
	bad_chain("indirect");
	fresh(4);
	desc_at(DESC, 0, TABLE, 16, INDIRECT | NEXT, 1);
	bad_chain("both");
	static const uint32_t lengths[] = { 0, 8, 17, 16 * (VIRTQ_SEGS_MAX + 1), UINT32_MAX };
	for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
		fresh(4);
		desc_at(DESC, 0, TABLE, lengths[i], INDIRECT, 0);
		bad_chain("length");
	}
	static const uint64_t tables[] = { GMEM_MIN_BYTES - 8, UINT64_MAX - 15, 1ull << 63 };
	for (unsigned i = 0; i < ARRAY_LEN(tables); i++) {
		fresh(4);
		desc_at(DESC, 0, tables[i], 16, INDIRECT, 0);
		bad_chain("outside");
	}
	fresh(4);
	desc_at(DESC, 0, TABLE, 32, INDIRECT, 0);
	desc_at(TABLE, 0, DATA, 8, NEXT, 2);
	bad_chain("range");
	fresh(4);
	desc_at(DESC, 0, TABLE, 32, INDIRECT, 0);
	desc_at(TABLE, 0, DATA, 8, NEXT, 1);
	desc_at(TABLE, 1, DATA, 8, NEXT, 0);
	bad_chain("loops");
}

static void test_hostile_chains(void **state)
{
	(void)state;
	fresh(4);
	desc_at(DESC, 0, DATA, 8, NEXT, 0);
	bad_chain("loops");
	fresh(4);
	desc_at(DESC, 0, DATA, 8, NEXT, 4);
	bad_chain("range");
	fresh(4);
	desc_at(DESC, 0, DATA, 0, 0, 0);
	bad_chain("empty");
	fresh(4);
	desc_at(DESC, 0, DATA, 8, NEXT | WRITE, 1);
	desc_at(DESC, 1, DATA, 8, 0, 0);
	bad_chain("follows");
	static const struct {
		uint64_t gpa;
		uint32_t len;
	} outside[] = {
		{ GMEM_MIN_BYTES, 1 }, { GMEM_MIN_BYTES - 1, 2 }, { 0, GMEM_MIN_BYTES + 1 },
		{ UINT64_MAX, 1 },     { UINT64_MAX - 7, 16 },    { 0xfee00000, 4 },
		{ DATA, UINT32_MAX },  { 1ull << 63, 1 },         { 0xe0000000, 8 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(outside); i++) {
		fresh(4);
		desc_at(DESC, 0, outside[i].gpa, outside[i].len, 0, 0);
		bad_chain("outside");
	}
	/* A head that is no descriptor. */
	fresh(4);
	offer(4);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
	/* An index that ran away: one more than the ring holds, and one backwards. */
	fresh(4);
	put16(AVAIL + 2, 5);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
	fresh(4);
	put16(AVAIL + 2, UINT16_MAX);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
}

/* Host addresses of any part of a chain: the bytes that a copy would move, and only those are
 * dirty. */
static void test_map(void **state)
{
	(void)state;
	static const uint32_t len[] = { 3, 4096, 1, 10 };
	struct iovec iov[VIRTQ_SEGS_MAX];
	uint8_t text[sizeof("0123456789")] = "0123456789", back[16];
	fresh(8);
	desc_at(DESC, 0, DATA, 5, NEXT, 1);
	for (unsigned i = 0; i < ARRAY_LEN(len); i++) {
		bool last = i + 1 == ARRAY_LEN(len);
		desc_at(DESC, 1 + i, DATA + 0x2000 * (i + 1), len[i],
			(uint16_t)(WRITE | (last ? 0 : NEXT)), (uint16_t)(2 + i));
	}
	offer(0);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
	assert_int_equal(virtq_map(&q, &c, false, 0, 100, iov), 1);
	assert_int_equal(iov[0].iov_len, 5);
	assert_int_equal(virtq_map(&q, &c, false, 5, 100, iov), 0);
	assert_int_equal(virtq_map(&q, &c, true, 0, 0, iov), 0);
	assert_int_equal(virtq_map(&q, &c, true, 4110, 1, iov), 0);
	/* The last byte of the first long one, the single one, and some of the end. */
	assert_int_equal(virtq_map(&q, &c, true, 3 + 4095, 10, iov), 3);
	const uint8_t *p = text;
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(iov[i].iov_len, i < 2 ? 1 : 8);
		memcpy(iov[i].iov_base, p, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	gmem_fetch_dirty(g, 0, bits);
	memset(bits, 0, sizeof(bits));
	virtq_mark(&q, &c, 3 + 4095, 10);
	gmem_fetch_dirty(g, 0, bits);
	for (uint64_t page = 0; page < ARRAY_LEN(bits) * 64; page++) {
		uint64_t at = page * PAGE_BYTES;
		bool is = at == DATA + 0x4000 || at == DATA + 0x6000 || at == DATA + 0x8000;
		assert_int_equal(bits[page / 64] >> page % 64 & 1, is);
	}
	for (unsigned i = 0; i < 3; i++) {
		ok(gmem_read(g, GPA(DATA + 0x2000 * (i + 2) + (i == 0 ? 4095 : 0)), back, 1));
		assert_int_equal(back[0], text[i]);
	}
}

/* A longest chain is taken; all of them round and round, over the wrap of the 16-bit indices. */
static void test_limits(void **state)
{
	(void)state;
	fresh(VIRTQ_SIZE_MAX);
	for (unsigned i = 0; i < VIRTQ_SIZE_MAX; i++) {
		desc_at(DESC, i, DATA, 1, i + 1 < VIRTQ_SIZE_MAX ? NEXT : 0, (uint16_t)(i + 1));
	}
	offer(0);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
	assert_int_equal(c.nread, VIRTQ_SEGS_MAX);
	/* One more through an indirect table at the end. */
	fresh(VIRTQ_SIZE_MAX);
	for (unsigned i = 0; i + 1 < VIRTQ_SIZE_MAX; i++) {
		desc_at(DESC, i, DATA, 1, NEXT, (uint16_t)(i + 1));
	}
	desc_at(DESC, VIRTQ_SIZE_MAX - 1, TABLE, 32, INDIRECT, 0);
	desc_at(TABLE, 0, DATA, 1, NEXT, 1);
	desc_at(TABLE, 1, DATA, 1, 0, 0);
	bad_chain("too long");
	fresh(2);
	desc_at(DESC, 1, DATA, 1, WRITE, 0);
	for (unsigned i = 0; i < 70000; i++) {
		offer(1);
		assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
		virtq_push(&q, c.head, 1);
		assert_int_equal(get16(USED + 2), (uint16_t)(i + 1));
	}
	virtq_unpop(&q);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
}

static void test_bad_rings(void **state)
{
	(void)state;
	static const struct virtq_state bad[] = {
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = 0 },
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = 3 },
		{ .desc = DESC, .avail = AVAIL, .used = USED, .size = 512 },
		{ .desc = DESC + 8, .avail = AVAIL, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = AVAIL + 1, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = AVAIL, .used = USED + 2, .size = 4 },
		{ .desc = GMEM_MIN_BYTES - 48, .avail = AVAIL, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = GMEM_MIN_BYTES - 12, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = AVAIL, .used = GMEM_MIN_BYTES - 36, .size = 4 },
		{ .desc = UINT64_MAX - 15, .avail = AVAIL, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = UINT64_MAX - 1, .used = USED, .size = 4 },
		{ .desc = DESC, .avail = AVAIL, .used = 1ull << 63, .size = 4 },
	};
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		q = (struct virtq){ .gmem = g, .st = bad[i] };
		q.st.ready = true;
		virtq_start(&q);
		assert_non_null(q.bad);
		assert_int_equal(virtq_pop(&q, &c), VIRTQ_BAD);
	}
	/* The last ones that fit. */
	q = (struct virtq){ .gmem = g,
			    .st = { .desc = GMEM_MIN_BYTES - 64,
				    .avail = GMEM_MIN_BYTES - 78,
				    .used = GMEM_MIN_BYTES - 120,
				    .size = 4 } };
	virtq_start(&q);
	assert_null(q.bad);
	/* Not ready: nothing is touched. */
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_EMPTY);
}

static void test_interrupts(void **state)
{
	(void)state;
	fresh(4);
	desc_at(DESC, 0, DATA, 1, WRITE, 0);
	virtq_push(&q, 0, 1);
	assert_true(virtq_wants_irq(&q));
	assert_false(virtq_wants_irq(&q)); /* nothing came since */
	put16(AVAIL, 1);                   /* NO_INTERRUPT */
	virtq_push(&q, 0, 1);
	assert_false(virtq_wants_irq(&q));
	/* Kicks by flag. */
	assert_false(virtq_kicks(&q, false));
	assert_int_equal(get16(USED), 1);
	offer(0);
	assert_true(virtq_kicks(&q, true));
	assert_int_equal(get16(USED), 0);
	/* By event index: told only when the driver's mark is passed. */
	fresh(4);
	desc_at(DESC, 0, DATA, 1, WRITE, 0);
	q.event_idx = true;
	uint64_t used_event = AVAIL + 4 + 2 * 4;
	uint64_t avail_event = USED + 4 + 8 * 4;
	put16(used_event, 2);
	virtq_push(&q, 0, 1);
	assert_true(virtq_wants_irq(&q)); /* the first time nothing is known yet */
	virtq_push(&q, 0, 1);
	assert_false(virtq_wants_irq(&q));
	virtq_push(&q, 0, 1);
	assert_true(virtq_wants_irq(&q));
	virtq_push(&q, 0, 1);
	assert_false(virtq_wants_irq(&q));
	offer(0);
	assert_int_equal(virtq_pop(&q, &c), VIRTQ_GOT);
	assert_false(virtq_kicks(&q, true));
	assert_int_equal(get16(avail_event), 1);
	offer(0);
	assert_true(virtq_kicks(&q, true));
}

static void test_coverage(void **state)
{
	(void)state;
	ok(desc_check_coverage(&virtq_desc));
}

static int setup(void **state)
{
	(void)state;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	gmem_free(g);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_chain),          cmocka_unit_test(test_indirect),
		cmocka_unit_test(test_hostile_chains), cmocka_unit_test(test_limits),
		cmocka_unit_test(test_bad_rings),      cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_coverage),       cmocka_unit_test(test_map),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
