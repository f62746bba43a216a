/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio_balloon.c: pages given by number and by report, figures, what core
 * asks and is told, saved at every step, hostile lists, a random walk.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "devices/virtio_balloon.h"
#include "tests/lib/fake_driver.h"

enum {
	INFLATE = 0,
	DEFLATE = 1,
	STATS = 2,
	REPORT = 3,
	LIST = 0x200000,  /* guest buffers */
	PAGES = 0x800000, /* what is given */
	F_STATS = 1 << 1,
	F_OOM = 1 << 2,
	F_REPORT = 1 << 5,
	ALL = F_STATS | F_OOM | F_REPORT,
	TARGET = FD_CONFIG,
	ACTUAL = FD_CONFIG + 4,
};

static void begin(struct fake_driver *d)
{
	struct pci_dev *p = NULL;
	fd_init(d);
	ok_(virtio_balloon_new(&d->host.host, "balloon0", &p));
	fd_plug(d, p);
	memset(gmem_at(d->g, GPA(PAGES), 64 * PAGE_BYTES), 0x5a, 64 * PAGE_BYTES);
}

static void list(struct fake_driver *d, unsigned q, const uint32_t *pfn, unsigned n)
{
	uint8_t raw[64];
	for (unsigned i = 0; i < n; i++) {
		put_le32(raw + (size_t)i * 4, pfn[i]);
	}
	fd_mem(d, LIST, raw, (size_t)n * 4);
	fd_desc(d, q, 0, LIST, n * 4, 0, 0);
	fd_offer(d, q, 0, true);
	fake_loop(&d->host);
}

static bool broken(struct fake_driver *d)
{
	return (fd_get(d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0;
}

static bool given(struct fake_driver *d, uint64_t gpa)
{
	return gmem_is_given(d->g, 0, gpa / PAGE_BYTES);
}

static struct virtio_balloon_info look(struct fake_driver *d)
{
	return virtio_balloon_look(&d->dev->dev);
}

static void test_inflate(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	assert_int_equal(fd_ecam(&d, PCI_DEVICE_ID, 2), 0x1045);
	assert_int_equal(fd_features(&d) & 0xffffff, ALL);
	assert_false(look(&d).ready);
	fd_start(&d, 4, ALL);
	fake_loop(&d.host);
	assert_true(look(&d).ready && look(&d).can_tell);
	/* In any order, one twice: two runs. */
	const uint32_t first = PAGES / PAGE_BYTES;
	const uint32_t pfn[] = { first + 2, first, first + 1, first + 2, first + 9 };
	list(&d, INFLATE, pfn, 5);
	assert_int_equal(fd_used_index(&d, INFLATE), 1);
	assert_int_equal(d.host.ngiven, 2);
	assert_int_equal(d.host.given_bytes, 4 * PAGE_BYTES);
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(given(&d, PAGES + i * PAGE_BYTES), i < 3 || i == 9);
	}
	/* They are dirty, for the next snapshot. */
	static uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64];
	gmem_fetch_dirty(d.g, 0, bits);
	assert_int_equal(bits[first / 64] >> first % 64 & 0xfff, 0x207);
	/* Back: nothing to do for us, and the guest reads zeros. */
	list(&d, DEFLATE, pfn, 5);
	assert_int_equal(fd_used_index(&d, DEFLATE), 1);
	assert_int_equal(d.host.ngiven, 2);
	assert_int_equal(*(uint8_t *)gmem_at(d.g, GPA(PAGES), 1), 0);
	fd_done(&d);
}

static void report(struct fake_driver *d, unsigned q)
{
	/* A page and a bit on both sides; two pages; less than a page. */
	fd_desc(d, q, 0, PAGES + 100, 2 * PAGE_BYTES, FD_WRITE | FD_NEXT, 1);
	fd_desc(d, q, 1, PAGES + 8 * PAGE_BYTES, 2 * PAGE_BYTES, FD_WRITE | FD_NEXT, 2);
	fd_desc(d, q, 2, PAGES + 16 * PAGE_BYTES, 100, FD_WRITE, 0);
	fd_offer(d, q, 0, true);
	fake_loop(&d->host);
	assert_int_equal(fd_used_index(d, q), 1);
	assert_int_equal(d->host.given_bytes, 3 * PAGE_BYTES);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(given(d, PAGES + i * PAGE_BYTES), i == 1 || i == 8 || i == 9);
	}
	assert_int_equal(*(uint8_t *)gmem_at(d->g, GPA(PAGES), 1), 0x5a);
}

static void test_report(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	fd_start(&d, 4, ALL);
	report(&d, REPORT);
	fd_done(&d);
	begin(&d); /* without figures the queue is the third */
	fd_start(&d, 3, F_REPORT);
	report(&d, REPORT - 1);
	fd_done(&d);
}

static void test_target(void **state)
{
	(void)state;
	struct fake_driver d;
	begin(&d);
	/* Asked before there is a driver: it finds it. */
	virtio_balloon_target(&d.dev->dev, 5 * PAGE_BYTES + 100);
	fd_start(&d, 4, ALL);
	fake_loop(&d.host);
	assert_int_equal(fd_get(&d, TARGET, 4), 5);
	assert_int_equal(look(&d).target_bytes, 5 * PAGE_BYTES);
	/* It is told at the next turn of the loop, not by the call: that may come at any time. */
	fd_msix(&d, 4, 0x77);
	fd_put(&d, 0x10, 2, 4);
	uint64_t generation = fd_get(&d, 0x15, 1);
	unsigned before = d.host.nmsi;
	virtio_balloon_target(&d.dev->dev, 8 * PAGE_BYTES);
	assert_int_equal(d.host.nmsi, before);
	fake_loop(&d.host);
	assert_int_equal(d.host.nmsi, before + 1);
	assert_int_equal(d.host.msi_data, 0x77);
	assert_int_not_equal(fd_get(&d, 0x15, 1), generation);
	/* What the guest says. */
	unsigned events = d.host.events[DEV_EVENT_BALLOON];
	fd_put(&d, ACTUAL, 4, 8);
	assert_int_equal(d.host.events[DEV_EVENT_BALLOON], events + 1);
	fd_put(&d, ACTUAL, 4, 8); /* no news */
	assert_int_equal(d.host.events[DEV_EVENT_BALLOON], events + 1);
	assert_int_equal(look(&d).actual_bytes, 8 * PAGE_BYTES);
	fd_put(&d, TARGET, 4, 99); /* not the guest's */
	assert_int_equal(fd_get(&d, TARGET, 4), 8);
	/* Less than asked for: it ran short of memory; less because asked: not. */
	assert_int_equal(look(&d).ooms, 0);
	fd_put(&d, ACTUAL, 4, 6);
	assert_int_equal(look(&d).ooms, 1);
	virtio_balloon_target(&d.dev->dev, 2 * PAGE_BYTES);
	fd_put(&d, ACTUAL, 4, 4);
	assert_int_equal(look(&d).ooms, 1);
	/* A driver that starts anew has given nothing; what it is asked for stays. */
	fd_put(&d, 0x14, 1, 0);
	assert_int_equal(look(&d).actual_bytes, 0);
	assert_int_equal(look(&d).target_bytes, 2 * PAGE_BYTES);
	assert_false(look(&d).ready);
	fd_done(&d);
}

static void tell(struct fake_driver *d, uint64_t value)
{
	uint8_t raw[40] = { 0 };
	put_le16(raw, BALLOON_FREE);
	put_le64(raw + 2, value);
	put_le16(raw + 10, 0xfff0); /* of a later driver */
	put_le16(raw + 20, BALLOON_TOTAL);
	put_le64(raw + 22, UINT64_MAX);
	fd_mem(d, LIST + 0x1000, raw, sizeof(raw));
	fd_desc(d, STATS, 0, LIST + 0x1000, 39, 0, 0); /* the last one is cut */
	fd_offer(d, STATS, 0, true);
	fake_loop(&d->host);
}

static void copy_memory(struct fake_driver *from, struct fake_driver *to)
{
	SCOPE(freep) uint8_t *mem = malloc(GMEM_MIN_BYTES);
	assert_non_null(mem);
	ok_(gmem_read(from->g, GPA(0), mem, GMEM_MIN_BYTES));
	ok_(gmem_write(to->g, GPA(0), mem, GMEM_MIN_BYTES));
	memcpy(to->size, from->size, sizeof(to->size));
	memcpy(to->avail, from->avail, sizeof(to->avail));
	memcpy(to->used, from->used, sizeof(to->used));
}

static void test_figures(void **state)
{
	(void)state;
	struct fake_driver d, e;
	begin(&d);
	fd_start(&d, 4, ALL);
	tell(&d, 1); /* the first buffer: nobody asked */
	assert_int_equal(fd_used_index(&d, STATS), 0);
	assert_int_equal(look(&d).told, 0);
	virtio_balloon_ask(&d.dev->dev);
	virtio_balloon_ask(&d.dev->dev);
	fake_loop(&d.host);
	assert_int_equal(fd_used_index(&d, STATS), 1);
	tell(&d, 4242);
	struct virtio_balloon_info i = look(&d);
	assert_int_equal(i.told, 1);
	assert_int_equal(i.valid, 1 << BALLOON_FREE | 1 << BALLOON_TOTAL);
	assert_int_equal(i.stat[BALLOON_FREE], 4242);
	assert_int_equal(fd_used_index(&d, STATS), 1); /* it waits for the next time */
	/* Saved between question and answer: the next process asks anew, and gets it. */
	virtio_balloon_ask(&d.dev->dev);
	fake_loop(&d.host);
	begin(&e);
	copy_memory(&d, &e);
	dev_carry_over(&d.dev->dev, &e.dev->dev);
	virtio_balloon_ask(&e.dev->dev);
	fake_loop(&e.host);
	tell(&e, 5); /* of the old question */
	assert_int_equal(fd_used_index(&e, STATS), 3);
	tell(&e, 6);
	assert_int_equal(look(&e).told, 1);
	assert_int_equal(look(&e).stat[BALLOON_FREE], 6);
	fd_done(&e);
	/* A driver without figures is not asked. */
	fd_start(&d, 2, 0);
	assert_true(look(&d).ready && !look(&d).can_tell);
	virtio_balloon_ask(&d.dev->dev);
	fake_loop(&d.host);
	fd_done(&d);
}

/* Saved with a list that waits in the ring and a target that the guest has not heard of. */
static void test_carry_over(void **state)
{
	(void)state;
	struct fake_driver d, e;
	begin(&d);
	fd_start(&d, 4, ALL | VIRTIO_F_EVENT_IDX);
	fake_loop(&d.host);
	fd_msix(&d, 4, 0x77);
	fd_put(&d, 0x10, 2, 4);
	fd_put(&d, ACTUAL, 4, 3);
	virtio_balloon_target(&d.dev->dev, 7 * PAGE_BYTES);
	uint8_t raw[4];
	put_le32(raw, PAGES / PAGE_BYTES);
	fd_mem(&d, LIST, raw, 4);
	fd_desc(&d, INFLATE, 0, LIST, 4, 0, 0);
	fd_offer(&d, INFLATE, 0, true); /* the main loop never sees this kick */
	begin(&e);
	copy_memory(&d, &e);
	dev_carry_over(&d.dev->dev, &e.dev->dev);
	fd_done(&d);
	assert_int_equal(look(&e).actual_bytes, 3 * PAGE_BYTES);
	assert_int_equal(look(&e).target_bytes, 7 * PAGE_BYTES);
	assert_int_equal(look(&e).ooms, 0);
	assert_false(given(&e, PAGES));
	fake_loop(&e.host);
	assert_true(given(&e, PAGES));
	assert_int_equal(fd_used_index(&e, INFLATE), 1);
	assert_int_equal(e.host.nmsi, 2); /* the target, the list */
	fd_done(&e);
}

static void refuse(struct fake_driver *d, unsigned q, uint64_t gpa, uint32_t len, uint16_t flags)
{
	fd_start(d, 4, ALL);
	assert_false(broken(d));
	fd_desc(d, q, 0, gpa, len, flags, 0);
	fd_offer(d, q, 0, true);
	fake_loop(&d->host);
	assert_true(broken(d));
	assert_int_equal(fd_used_index(d, q), 0);
}

static void test_hostile(void **state)
{
	(void)state;
	struct fake_driver d;
	uint8_t raw[8];
	begin(&d);
	/* Pages that are no RAM: the first behind it, and the last that can be named. */
	const uint32_t outside[] = { GMEM_MIN_BYTES / PAGE_BYTES, 0xfee00, UINT32_MAX };
	for (unsigned i = 0; i < ARRAY_LEN(outside); i++) {
		put_le32(raw, outside[i]);
		fd_mem(&d, LIST, raw, 4);
		refuse(&d, INFLATE, LIST, 4, 0);
	}
	refuse(&d, INFLATE, LIST, 6, 0);              /* half a number */
	refuse(&d, INFLATE, LIST, 4, FD_WRITE);       /* nothing to read */
	refuse(&d, INFLATE, 0, 64 * 1024 * 4 + 4, 0); /* too long a list */
	refuse(&d, DEFLATE, LIST, 4, FD_WRITE);
	refuse(&d, REPORT, PAGES, PAGE_BYTES, 0);
	assert_int_equal(d.host.ngiven, 0);
	/* All of memory, and one more page. */
	fd_start(&d, 4, ALL);
	fd_desc(&d, REPORT, 0, 0, GMEM_MIN_BYTES, FD_WRITE | FD_NEXT, 1);
	fd_desc(&d, REPORT, 1, 0, PAGE_BYTES, FD_WRITE, 0);
	fd_offer(&d, REPORT, 0, true);
	fake_loop(&d.host);
	assert_true(broken(&d));
	assert_int_equal(d.host.ngiven, 0);
	/* The rings themselves are given away: they read as zero, and the device goes on. */
	fd_start(&d, 4, ALL);
	const uint32_t ring[] = { FD_RING_BASE / PAGE_BYTES, FD_RING_BASE / PAGE_BYTES + 4 };
	list(&d, INFLATE, ring, 2);
	fd_start(&d, 4, ALL);
	const uint32_t one = PAGES / PAGE_BYTES;
	list(&d, INFLATE, &one, 1);
	assert_true(given(&d, PAGES));
	fd_done(&d);
}

/* Any register, any ring entry: the device answers, saves and loads. */
static void test_walk(void **state)
{
	(void)state;
	struct fake_driver d;
	unsigned seed = 7;
	begin(&d);
	for (unsigned i = 0; i < 4000; i++) {
		unsigned r = (unsigned)rand_r(&seed);
		unsigned q = r >> 4 & 3;
		struct snap_part *p = &d.dev->dev.part;
		switch (r % 8) {
		case 0:
			fd_put(&d, (r >> 8 & 0x3fff) & ~3u, 4, (uint64_t)rand_r(&seed));
			break;
		case 1:
			(void)fd_get(&d, (r >> 8 & 0x3fff) & ~3u, 4);
			break;
		case 2:
			fd_start(&d, 4, r >> 8 & ALL);
			break;
		case 3:
			virtio_balloon_target(&d.dev->dev, r >> 8);
			virtio_balloon_ask(&d.dev->dev);
			(void)look(&d);
			break;
		case 4:
			ok_(p->ops->fetch(p->self));
			ok_(p->ops->commit(p->self));
			break;
		default:
			d.size[q] = 16;
			fd_desc(&d, q, r >> 8 & 15, (uint64_t)rand_r(&seed) % (20 << 20),
				r >> 12 & 0xffff,
				(uint16_t)((q == REPORT ? FD_WRITE : 0) | r >> 30),
				(uint16_t)(r >> 26 & 15));
			fd_offer(&d, q, r >> 8 & 15, true);
			break;
		}
		fake_loop(&d.host);
	}
	fd_start(&d, 4, ALL);
	const uint32_t one = PAGES / PAGE_BYTES;
	list(&d, INFLATE, &one, 1);
	assert_true(given(&d, PAGES));
	fd_done(&d);
}

static void test_coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&virtio_balloon_desc));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inflate),    cmocka_unit_test(test_report),
		cmocka_unit_test(test_target),     cmocka_unit_test(test_figures),
		cmocka_unit_test(test_carry_over), cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_walk),       cmocka_unit_test(test_coverage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
