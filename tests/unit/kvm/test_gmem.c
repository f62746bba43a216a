/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory: sizes, the device hole, copies across regions, dirty bits, clear and place. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/gmem.h"
#include "tests/lib/expect.h"

static void expect(struct err *e, enum err_class class, const char *part)
{
	assert_non_null(e);
	assert_int_equal(err_class(e), class);
	assert_non_null(strstr(err_msg(e), part));
	err_free(e);
}

static void test_sizes(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	expect(gmem_new(0, &g), ERR_LIMIT, "16 MiB");
	expect(gmem_new(GMEM_MIN_BYTES - PAGE_BYTES, &g), ERR_LIMIT, "16 MiB");
	expect(gmem_new(GMEM_MIN_BYTES + 1, &g), ERR_LIMIT, "multiple");
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char text[32];
	snprintf(text, sizeof(text), "%llu MiB: give less", (unsigned long long)(host / MIB));
	expect(gmem_new(round_up_u64(host, PAGE_BYTES) + PAGE_BYTES, &g), ERR_LIMIT, text);
	expect(gmem_new(UINT64_MAX - PAGE_BYTES + 1, &g), ERR_LIMIT, "more than this host");
	assert_null(g);

	ok(gmem_new(GMEM_MIN_BYTES, &g));
	assert_int_equal(gmem_bytes(g), GMEM_MIN_BYTES);
	assert_int_equal(gmem_nregions(g), 1);
	assert_int_equal(gmem_gfn_end(g), GMEM_MIN_BYTES / PAGE_BYTES);
	uint64_t held = 1;
	ok(gmem_allocated(g, &held));
	assert_int_equal(held, 0);
	gmem_free(g);
	gmem_free(NULL);
}

static void test_hole(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	struct err *e = gmem_new(GMEM_LOW_END + 16 * MIB, &g);
	if (e != NULL && err_class(e) == ERR_LIMIT) {
		err_free(e);
		skip(); /* a host of less than 3 GiB */
	}
	ok(e);
	assert_int_equal(gmem_nregions(g), 2);
	struct gmem_region lo = gmem_region(g, 0);
	struct gmem_region hi = gmem_region(g, 1);
	assert_int_equal(lo.base.v, 0);
	assert_int_equal(lo.len_bytes, GMEM_LOW_END);
	assert_int_equal(hi.base.v, GMEM_HIGH_START);
	assert_int_equal(hi.len_bytes, 16 * MIB);
	assert_int_equal(hi.fd_offset, GMEM_LOW_END);
	assert_int_equal(gmem_gfn_end(g), (GMEM_HIGH_START + 16 * MIB) / PAGE_BYTES);

	/* The hole is no RAM, at both edges; a range over the edge copies nothing. */
	uint8_t b[16] = { 1, 2, 3 };
	assert_null(gmem_at(g, GPA(GMEM_LOW_END), 1));
	assert_null(gmem_at(g, GPA(GMEM_LOW_END - 8), 16));
	assert_null(gmem_at(g, GPA(GMEM_HIGH_START - 1), 1));
	assert_non_null(gmem_at(g, GPA(GMEM_LOW_END - 16), 16));
	expect(gmem_write(g, GPA(GMEM_LOW_END - 8), b, 16), ERR_GUEST, "no RAM");
	assert_int_equal(*(uint8_t *)gmem_at(g, GPA(GMEM_LOW_END - 8), 1), 0);
	expect(gmem_read(g, GPA(GMEM_HIGH_START + 16 * MIB), b, 1), ERR_GUEST, "0x101000000");
	expect(gmem_read(g, GPA(UINT64_MAX), b, 2), ERR_GUEST, "no RAM");

	uint64_t v = 0x1122334455667788;
	ok(gmem_write(g, GPA(GMEM_HIGH_START), &v, sizeof(v)));
	uint64_t back = 0;
	ok(gmem_read(g, GPA(GMEM_HIGH_START), &back, sizeof(back)));
	assert_int_equal(v, back);
	assert_int_equal(pread(hi.fd, &back, sizeof(back), (off_t)hi.fd_offset), sizeof(back));
	assert_int_equal(v, back);
	gmem_free(g);
}

static void test_dirty(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	uint64_t n = GMEM_MIN_BYTES / PAGE_BYTES / 64;
	uint64_t *bits = calloc(n, sizeof(*bits));
	uint8_t b[2] = { 1, 1 };
	ok(gmem_write(g, GPA(PAGE_BYTES - 1), b, 2)); /* pages 0 and 1 */
	ok(gmem_write(g, GPA(70 * PAGE_BYTES), b, 0));
	gmem_mark_dirty(g, GPA(GMEM_MIN_BYTES - 1), 1);
	bits[2] = 1; /* what is there stays */
	gmem_fetch_dirty(g, 0, bits);
	assert_int_equal(bits[0], 3);
	assert_int_equal(bits[1], 0);
	assert_int_equal(bits[2], 1);
	assert_int_equal(bits[n - 1], 1ull << 63);
	memset(bits, 0, n * sizeof(*bits));
	gmem_fetch_dirty(g, 0, bits);
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(bits[i], 0);
	}
	free(bits);
	gmem_free(g);
}

static void test_clear_and_place(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	uint8_t page[2 * PAGE_BYTES];
	memset(page, 0x5a, sizeof(page));
	uint64_t last = gmem_gfn_end(g) - 2;
	ok(gmem_place(g, (gfn_t){ last }, page, 2));
	assert_int_equal(*(uint8_t *)gmem_at(g, GPA(GMEM_MIN_BYTES - 1), 1), 0x5a);
	uint64_t held;
	ok(gmem_allocated(g, &held));
	assert_int_equal(held, 2 * PAGE_BYTES);

	expect(gmem_place(g, (gfn_t){ last + 1 }, page, 2), ERR_CORRUPT, "not in this VM");
	expect(gmem_place(g, (gfn_t){ last + 2 }, page, 1), ERR_CORRUPT, "not in this VM");
	expect(gmem_place(g, (gfn_t){ UINT64_MAX / PAGE_BYTES + 2 }, page, 1), ERR_CORRUPT,
	       "not in");
	expect(gmem_place(g, (gfn_t){ 0 }, page, UINT64_MAX / 2), ERR_CORRUPT, "not in");

	ok(gmem_place_zero(g, (gfn_t){ last }, 1));
	assert_int_equal(*(uint8_t *)gmem_at(g, GPA(last * PAGE_BYTES), 1), 0);
	assert_int_equal(*(uint8_t *)gmem_at(g, GPA(GMEM_MIN_BYTES - 1), 1), 0x5a);
	ok(gmem_place_zero(g, (gfn_t){ last }, 1)); /* of a hole */
	expect(gmem_place_zero(g, (gfn_t){ last + 1 }, 2), ERR_CORRUPT, "not in this VM");

	ok(gmem_clear(g));
	assert_int_equal(*(uint8_t *)gmem_at(g, GPA(GMEM_MIN_BYTES - 1), 1), 0);
	ok(gmem_clear(g));
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	gmem_fetch_dirty(g, 0, bits);
	for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
		assert_int_equal(bits[i], UINT64_MAX);
	}
	gmem_free(g);
}

/* Pages that are the host's again: zero, dirty, and known as such until somebody uses them. */
static void test_give_back(void **state)
{
	(void)state;
	struct gmem *g = NULL;
	uint64_t last = GMEM_MIN_BYTES / PAGE_BYTES - 1;
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	uint64_t held;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	memset(gmem_at(g, GPA(0), GMEM_MIN_BYTES), 0x5a, GMEM_MIN_BYTES);
	ok(gmem_give_back(g, GPA(3 * PAGE_BYTES), 2 * PAGE_BYTES));
	ok(gmem_give_back(g, GPA(last * PAGE_BYTES), PAGE_BYTES));
	ok(gmem_allocated(g, &held));
	assert_int_equal(held, GMEM_MIN_BYTES - 3 * PAGE_BYTES);
	gmem_fetch_dirty(g, 0, bits);
	assert_int_equal(bits[0], 3 << 3);
	assert_int_equal(bits[last / 64], 1ull << 63);
	assert_false(gmem_is_given(g, 0, 2));
	assert_true(gmem_is_given(g, 0, 3) && gmem_is_given(g, 0, 4) && gmem_is_given(g, 0, last));
	ok(gmem_allocated(g, &held)); /* looking brought nothing back */
	assert_int_equal(held, GMEM_MIN_BYTES - 3 * PAGE_BYTES);
	const volatile uint8_t *p = gmem_at(g, GPA(3 * PAGE_BYTES), 2 * PAGE_BYTES);
	assert_int_equal(p[0] | p[PAGE_BYTES - 1], 0);
	assert_int_equal(p[-1], 0x5a);
	assert_int_equal(p[2 * PAGE_BYTES], 0x5a);
	assert_false(gmem_is_given(g, 0, 3)); /* read: the host holds it */
	assert_true(gmem_is_given(g, 0, 4));
	gmem_fetch_dirty(g, 0, bits);
	ok(gmem_give_back(g, GPA(3 * PAGE_BYTES), PAGE_BYTES));
	assert_true(gmem_is_given(g, 0, 3));
	expect(gmem_give_back(g, GPA(100), PAGE_BYTES), ERR_GUEST, "no pages of RAM");
	expect(gmem_give_back(g, GPA(0), 100), ERR_GUEST, "no pages of RAM");
	expect(gmem_give_back(g, GPA(0), 0), ERR_GUEST, "no pages of RAM");
	expect(gmem_give_back(g, GPA(last * PAGE_BYTES), 2 * PAGE_BYTES), ERR_GUEST, "no pages");
	expect(gmem_give_back(g, GPA(GMEM_LOW_END), PAGE_BYTES), ERR_GUEST, "no pages of RAM");
	expect(gmem_give_back(g, GPA(UINT64_MAX / PAGE_BYTES * PAGE_BYTES), 2 * PAGE_BYTES),
	       ERR_GUEST, "no pages of RAM");
	gmem_free(g);
}

static void set(struct gmem *g, uint64_t page, uint8_t value)
{
	uint8_t buf[PAGE_BYTES];
	memset(buf, value, sizeof(buf));
	ok(gmem_place(g, (gfn_t){ page }, buf, 1));
}

static uint8_t get(const struct gmem *g, uint64_t page)
{
	const volatile uint8_t *p = gmem_at(g, GPA(page * PAGE_BYTES), PAGE_BYTES);
	return p[0] == p[PAGE_BYTES - 1] ? p[0] : 0xff;
}

/* Only its owner can write to what is lent; a clone's writes, holes and clearing are its own. */
static void test_lent(void **state)
{
	(void)state;
	struct gmem *lent = NULL;
	struct gmem *a = NULL;
	struct gmem *b = NULL;
	struct gmem *own = NULL;
	ok(gmem_new_lent(GMEM_MIN_BYTES, &lent));
	for (uint64_t i = 1; i < 10; i++) {
		set(lent, i, (uint8_t)i);
	}
	struct fd fd[4];
	for (unsigned i = 0; i < ARRAY_LEN(fd); i++) {
		fd[i].n = dup(gmem_fd(lent));
	}
	assert_true(pwrite(fd[0].n, "x", 1, 0) < 0 && ftruncate(fd[0].n, 0) < 0);
	assert_true(fallocate(fd[0].n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES) <
		    0);
	assert_true(mmap(NULL, PAGE_BYTES, PROT_WRITE, MAP_SHARED, fd[0].n, 0) == MAP_FAILED);
	ok(gmem_new_clone(GMEM_MIN_BYTES, &fd[0], &a));
	ok(gmem_new_clone(GMEM_MIN_BYTES, &fd[1], &b));
	expect(gmem_new_clone(GMEM_MIN_BYTES * 2, &fd[2], &own), ERR_INCOMPAT, "bytes, not");
	assert_int_equal(gmem_region(a, 0).fd, -1);

	set(a, 3, 33);
	*(uint8_t *)gmem_at(a, GPA(4 * PAGE_BYTES), 1) = 4; /* copied by it */
	set(lent, 5, 55);                                   /* as the keeper fills */
	set(lent, 4, 44);
	assert_int_equal(get(a, 3), 33);
	assert_int_equal(get(b, 3), 3);
	assert_int_equal(get(a, 5), 55);
	assert_int_equal(get(a, 4), 4);
	assert_int_equal(get(b, 4), 44);
	ok(gmem_give_back(a, GPA(6 * PAGE_BYTES), 2 * PAGE_BYTES));
	ok(gmem_place_zero(a, (gfn_t){ 9 }, 1));
	assert_int_equal(get(a, 6) | get(a, 7) | get(a, 9), 0);
	assert_int_equal(get(a, 8), 8);
	assert_int_equal(get(b, 6), 6);
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	gmem_fetch_dirty(a, 0, bits);
	assert_int_equal(bits[0], 3u << 6);
	assert_false(gmem_is_given(a, 0, 6));
	set(a, 6, 66);
	assert_int_equal(get(a, 6), 66);
	ok(gmem_clear(a));
	for (uint64_t i = 0; i < 10; i++) {
		assert_int_equal(get(a, i), 0);
	}
	set(a, 1, 11);
	gmem_free(lent); /* who has it keeps it */
	assert_int_equal(get(a, 1), 11);
	assert_int_equal(get(b, 1), 1);
	gmem_free(a);
	gmem_free(b);
	/* What anybody could write to, or make shorter, is not taken. */
	ok(gmem_new(GMEM_MIN_BYTES, &own));
	struct fd open_to_all = { dup(gmem_fd(own)) };
	expect(gmem_new_clone(GMEM_MIN_BYTES, &open_to_all, &a), ERR_INCOMPAT, "not sealed");
	gmem_free(own);
	close(fd[3].n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),     cmocka_unit_test(test_hole),
		cmocka_unit_test(test_dirty),     cmocka_unit_test(test_clear_and_place),
		cmocka_unit_test(test_give_back), cmocka_unit_test(test_lent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
