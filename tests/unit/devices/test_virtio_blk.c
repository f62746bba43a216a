/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio_blk.c and virtio_blk_io.c: requests of every type, limits, hostile
 * drivers, draining at the gate and at a reset, disks that changed behind a snapshot.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "devices/virtio_blk.h"
#include "tests/lib/expect.h"
#include "tests/lib/fake_driver.h"

enum {
	HEADER = 0x200000,
	STATUS = 0x201000,
	DATA = 0x300000,
	SECTORS = 128,
	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_ID = 8,
	T_DISCARD = 11,
	T_ZEROES = 13,
};
#define F_FLUSH (1ull << 9)

struct disk {
	struct fake_driver d;
	int fd;
};

/* Of the disks that are plugged next. */
static uint64_t iops, bps;

static struct err *plug(struct disk *k, int fd, bool ro, bool accept)
{
	struct pci_dev *p = NULL;
	fd_init(&k->d);
	k->fd = fd;
	const struct virtio_blk_opts o = {
		.id = "data",
		.fd = fd,
		.read_only = ro,
		.queues = 2,
		.iops = iops,
		.bps = bps,
		.accept_changed = accept,
	};
	struct err *e = virtio_blk_new(&k->d.host.host, &o, &p);
	if (e == NULL) {
		fd_plug(&k->d, p);
	}
	return e;
}

static int new_file(void)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, SECTORS * 512), 0);
	return fd;
}

static void close_gate(struct disk *k, bool closed)
{
	k->d.dev->dev.ops->gate(&k->d.dev->dev, closed);
}

static void begin(struct disk *k, bool ro, uint64_t features)
{
	ok_(plug(k, new_file(), ro, false));
	close_gate(k, false);
	fd_start(&k->d, 2, features);
}

static void end(struct disk *k)
{
	fd_done(&k->d);
	close(k->fd);
}

static void nap(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
}

static uint32_t wait_used(struct disk *k, unsigned q)
{
	uint32_t head = 0;
	uint32_t len = 0;
	uint64_t limit = clock_mono_ns() + 20000000000ull;
	while (!fd_take(&k->d, q, &head, &len)) {
		if (clock_mono_ns() > limit) {
			fail_msg("no request came back");
		}
		nap();
	}
	return len;
}

static void put_header(struct disk *k, uint32_t type, uint64_t sector)
{
	uint8_t h[16] = { 0 };
	put_le32(h, type);
	put_le64(h + 8, sector);
	fd_mem(&k->d, HEADER, h, sizeof(h));
	fd_mem(&k->d, STATUS, "\xff", 1);
}

static uint8_t status(struct disk *k)
{
	uint8_t s;
	ok_(gmem_read(k->d.g, GPA(STATUS), &s, 1));
	return s;
}

/* One request with len bytes of data in one piece; its status. */
static uint8_t request(struct disk *k, unsigned q, uint32_t type, uint64_t sector, uint32_t len)
{
	bool reads = type == T_IN || type == T_ID;
	put_header(k, type, sector);
	fd_desc(&k->d, q, 0, HEADER, 16, FD_NEXT, len > 0 ? 1 : 2);
	fd_desc(&k->d, q, 1, DATA, len > 0 ? len : 1, (uint16_t)(FD_NEXT | (reads ? FD_WRITE : 0)),
		2);
	fd_desc(&k->d, q, 2, STATUS, 1, FD_WRITE, 0);
	fd_offer(&k->d, q, 0, true);
	uint32_t got = wait_used(k, q);
	uint8_t s = status(k);
	assert_int_equal(got, 1 + (s == 0 && type == T_IN ? len : s == 0 && type == T_ID ? 20 : 0));
	return s;
}

static void test_read_write(void **state)
{
	(void)state;
	struct disk k;
	begin(&k, false, F_FLUSH);
	assert_int_equal(fd_get(&k.d, FD_CONFIG, 8), SECTORS);
	uint8_t buf[4096], back[4096];
	for (unsigned i = 0; i < sizeof(buf); i++) {
		buf[i] = (uint8_t)(i * 7);
	}
	fd_mem(&k.d, DATA, buf, sizeof(buf));
	assert_int_equal(request(&k, 0, T_OUT, 8, 4096), 0);
	assert_int_equal(pread(k.fd, back, 4096, 4096), 4096);
	assert_memory_equal(buf, back, 4096);
	assert_int_equal(request(&k, 0, T_FLUSH, 0, 0), 0);
	/* By the other queue, with a fresh record of what was written. */
	memset(back, 0, sizeof(back));
	fd_mem(&k.d, DATA, back, sizeof(back));
	uint64_t bits[GMEM_MIN_BYTES / PAGE_BYTES / 64] = { 0 };
	gmem_fetch_dirty(k.d.g, 0, bits);
	assert_int_equal(request(&k, 1, T_IN, 8, 4096), 0);
	ok_(gmem_read(k.d.g, GPA(DATA), back, 4096));
	assert_memory_equal(buf, back, 4096);
	memset(bits, 0, sizeof(bits));
	gmem_fetch_dirty(k.d.g, 0, bits);
	assert_true((bits[(DATA >> 12) / 64] >> (DATA >> 12) % 64 & 1) != 0);
	assert_int_equal(request(&k, 0, T_ID, 0, 20), 0);
	ok_(gmem_read(k.d.g, GPA(DATA), back, 20));
	assert_string_equal((char *)back, "data");
	end(&k);
	/* Without flushes each write is synced: it works all the same. */
	begin(&k, false, 0);
	assert_int_equal(request(&k, 0, T_OUT, 0, 512), 0);
	end(&k);
}

static void test_limits(void **state)
{
	(void)state;
	struct disk k;
	begin(&k, false, F_FLUSH);
	assert_int_equal(request(&k, 0, T_IN, SECTORS - 1, 512), 0);
	assert_int_equal(request(&k, 0, T_IN, SECTORS - 1, 1024), 1);
	assert_int_equal(request(&k, 0, T_IN, SECTORS, 512), 1);
	assert_int_equal(request(&k, 0, T_IN, UINT64_MAX, 512), 1);
	assert_int_equal(request(&k, 0, T_IN, UINT64_MAX / 512, 512), 1);
	assert_int_equal(request(&k, 0, T_OUT, 0, 511), 1);
	assert_int_equal(request(&k, 0, T_OUT, 0, 0), 1);
	assert_int_equal(request(&k, 0, 99, 0, 512), 2);
	/* A file that got shorter behind our back is an error, not silence. */
	assert_int_equal(ftruncate(k.fd, 512), 0);
	assert_int_equal(request(&k, 0, T_IN, 2, 512), 1);
	end(&k);
	begin(&k, true, F_FLUSH);
	assert_int_equal(request(&k, 0, T_IN, 0, 512), 0);
	assert_int_equal(request(&k, 0, T_OUT, 0, 512), 1);
	end(&k);
}

static void test_size(void **state)
{
	(void)state;
	struct disk k;
	struct stat st;
	begin(&k, false, F_FLUSH);
	uint64_t bytes = SECTORS * 512;
	ok_(virtio_blk_resize(&k.d.dev->dev, 3 * bytes));
	assert_int_equal(request(&k, 0, T_IN, 3 * SECTORS - 1, 512), 0);
	assert_int_equal(request(&k, 0, T_IN, 3 * SECTORS, 512), 1);
	ok_(virtio_blk_resize(&k.d.dev->dev, 1024));
	assert_int_equal(request(&k, 0, T_OUT, 1, 512), 0);
	assert_int_equal(request(&k, 0, T_OUT, 2, 512), 1);
	assert_int_equal(fstat(k.fd, &st), 0);
	assert_int_equal(st.st_size, 1024);
	/* A file without holes stays one. */
	static const uint8_t full[4096] = { 1 };
	ok_(virtio_blk_resize(&k.d.dev->dev, 4096));
	assert_int_equal(pwrite(k.fd, full, 4096, 0), 4096);
	ok_(virtio_blk_resize(&k.d.dev->dev, 1 << 20));
	assert_int_equal(fstat(k.fd, &st), 0);
	assert_int_equal(st.st_size, 1 << 20);
	assert_true((uint64_t)st.st_blocks * 512 >= 1 << 20);
	fails(virtio_blk_resize(&k.d.dev->dev, 0), ERR_USAGE);
	fails(virtio_blk_resize(&k.d.dev->dev, 1000), ERR_USAGE);
	fails(virtio_blk_resize(&k.d.dev->dev, ~511ull), ERR_USAGE);
	end(&k);
	begin(&k, true, F_FLUSH);
	fails(virtio_blk_resize(&k.d.dev->dev, 2 * bytes), ERR_NOT_NOW);
	assert_int_equal(request(&k, 0, T_IN, SECTORS - 1, 512), 0);
	end(&k);
}

static void segment(struct disk *k, uint64_t sector, uint32_t n, uint32_t flags)
{
	uint8_t s[16];
	put_le64(s, sector);
	put_le32(s + 8, n);
	put_le32(s + 12, flags);
	fd_mem(&k->d, DATA, s, sizeof(s));
}

static void test_discard(void **state)
{
	(void)state;
	struct disk k;
	uint8_t buf[4096];
	memset(buf, 0xaa, sizeof(buf));
	begin(&k, false, F_FLUSH);
	for (unsigned type = T_DISCARD; type <= T_ZEROES; type += 2) {
		assert_int_equal(pwrite(k.fd, buf, 4096, 0), 4096);
		segment(&k, 0, 8, 0);
		uint8_t s = request(&k, 0, type, 0, 16);
		assert_true(s == 0 || s == 2); /* a file system may not be able to */
		assert_int_equal(pread(k.fd, buf, 4096, 0), 4096);
		assert_int_equal(buf[77], s == 0 ? 0 : 0xaa);
		memset(buf, 0xaa, sizeof(buf));
	}
	segment(&k, SECTORS, 1, 0);
	assert_int_equal(request(&k, 0, T_DISCARD, 0, 16), 1);
	segment(&k, 0, 0, 0);
	assert_int_equal(request(&k, 0, T_DISCARD, 0, 16), 1);
	segment(&k, 0, 8, 1);
	assert_int_equal(request(&k, 0, T_DISCARD, 0, 16), 2);
	segment(&k, 0, 8, 2);
	assert_int_equal(request(&k, 0, T_ZEROES, 0, 16), 2);
	segment(&k, 0, 8, 0);
	assert_int_equal(request(&k, 0, T_ZEROES, 0, 32), 1);
	end(&k);
}

/* Chains without room for a status, or with half a header, break the device and not more. */
static void test_hostile(void **state)
{
	(void)state;
	struct disk k;
	begin(&k, false, F_FLUSH);
	for (unsigned i = 0; i < 2; i++) {
		put_header(&k, T_IN, 0);
		fd_desc(&k.d, 0, 0, HEADER, i == 0 ? 16 : 15, i == 0 ? 0 : FD_NEXT, 1);
		fd_desc(&k.d, 0, 1, STATUS, 1, FD_WRITE, 0);
		fd_offer(&k.d, 0, 0, true);
		while ((fd_get(&k.d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) == 0) {
			nap();
		}
		assert_int_equal(fd_used_index(&k.d, 0), 0);
		fd_start(&k.d, 2, F_FLUSH);
		assert_int_equal(request(&k, 0, T_IN, 0, 512), 0);
		fd_start(&k.d, 2, F_FLUSH);
	}
	/* A full ring of requests, and a reset at once: none of them touches memory afterwards. */
	for (unsigned round = 0; round < 20; round++) {
		fd_start(&k.d, 2, F_FLUSH);
		put_header(&k, T_IN, 0);
		fd_desc(&k.d, 0, 0, HEADER, 16, FD_NEXT, 1);
		fd_desc(&k.d, 0, 1, DATA, 4096, FD_NEXT | FD_WRITE, 2);
		fd_desc(&k.d, 0, 2, STATUS, 1, FD_WRITE, 0);
		for (unsigned i = 0; i < 16; i++) {
			fd_offer(&k.d, 0, 0, i == 15);
		}
		fd_put(&k.d, 0x14, 1, 0);
		assert_int_equal(fd_get(&k.d, 0x14, 1), 0);
		fd_mem(&k.d, STATUS, "\x55", 1);
		nap();
		assert_int_equal(status(&k), 0x55);
	}
	end(&k);
}

/* Behind a closed gate nothing moves; what was offered meanwhile is served when it opens, or after
 * a load by the next process. */
static void test_gate_and_load(void **state)
{
	(void)state;
	struct disk k, n;
	begin(&k, false, F_FLUSH);
	assert_int_equal(request(&k, 0, T_IN, 0, 512), 0);
	close_gate(&k, true);
	put_header(&k, T_IN, 0);
	fd_desc(&k.d, 0, 1, DATA, 512, FD_NEXT | FD_WRITE, 2);
	fd_offer(&k.d, 0, 0, true);
	nap();
	assert_int_equal(status(&k), 0xff);
	ok_(plug(&n, k.fd, false, false));
	SCOPE(freep) uint8_t *mem = malloc(GMEM_MIN_BYTES);
	assert_non_null(mem);
	ok_(gmem_read(k.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	ok_(gmem_write(n.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	memcpy(n.d.size, k.d.size, sizeof(n.d.size));
	memcpy(n.d.used, k.d.used, sizeof(n.d.used));
	memcpy(n.d.avail, k.d.avail, sizeof(n.d.avail));
	/* Its gate is closed from the start: what it served now would lose its interrupt. */
	dev_carry_over(&k.d.dev->dev, &n.d.dev->dev);
	nap();
	assert_int_equal(status(&n), 0xff);
	close_gate(&n, false);
	wait_used(&n, 0);
	assert_int_equal(status(&n), 0);
	close_gate(&k, false);
	wait_used(&k, 0);
	assert_int_equal(status(&k), 0);
	fd_done(&n.d);
	end(&k);
}

static struct err *load(struct disk *k, const void *saved)
{
	struct snap_part *p = &k->d.dev->dev.part;
	struct err *asked = p->ops->check(p->self, saved);
	memcpy(p->state, saved, sizeof(struct virtio_blk_state));
	struct err *e = p->ops->commit(p->self);
	/* What a commit refuses is known before anything is changed. */
	assert_int_equal(asked != NULL, e != NULL);
	assert_true(asked == NULL || err_class(asked) == err_class(e));
	err_free(asked);
	return e;
}

/* Reads of len bytes, one after the other; how long they took. */
static uint64_t reads_ns(struct disk *k, unsigned n, uint32_t len)
{
	uint64_t from = clock_mono_ns();
	while (n-- > 0) {
		assert_int_equal(request(k, 0, T_IN, 0, len), 0);
	}
	return clock_mono_ns() - from;
}

/* More than a second's worth takes longer. What is left goes into the next process; a request that
 * waits holds no park up, and is served afterwards. */
static void test_rates(void **state)
{
	(void)state;
	struct disk k, n;
	iops = 20;
	begin(&k, false, F_FLUSH);
	assert_true(reads_ns(&k, 25, 512) >= 240000000); /* five more */
	close_gate(&k, true);
	struct snap_part *p = &k.d.dev->dev.part;
	ok_(p->ops->fetch(p->self));
	const struct virtio_blk_state *saved = p->state;
	assert_true((int64_t)saved->ops_left <= 20);
	SCOPE(freep) struct virtio_blk_state *none = malloc(sizeof(*none));
	assert_non_null(none);
	memcpy(none, saved, sizeof(*none));
	none->ops_left = (uint64_t)-3;
	ok_(plug(&n, k.fd, false, false));
	ok_(load(&n, none));
	fd_start(&n.d, 2, F_FLUSH);
	close_gate(&n, false);
	assert_true(reads_ns(&n, 1, 512) >= 190000000); /* four missing */
	/* Far ahead: what waits stays in the ring, and the gate closes at once. */
	close_gate(&n, true);
	none->ops_left = (uint64_t)-160;
	ok_(load(&n, none));
	fd_start(&n.d, 2, F_FLUSH);
	close_gate(&n, false);
	put_header(&n, T_IN, 0);
	fd_desc(&n.d, 0, 0, HEADER, 16, FD_NEXT, 1);
	fd_desc(&n.d, 0, 1, DATA, 512, FD_NEXT | FD_WRITE, 2);
	fd_desc(&n.d, 0, 2, STATUS, 1, FD_WRITE, 0);
	fd_offer(&n.d, 0, 0, true);
	nap();
	close_gate(&n, true);
	assert_int_equal(status(&n), 0xff);
	p = &n.d.dev->dev.part;
	ok_(p->ops->park(p->self));
	ok_(p->ops->fetch(p->self));
	saved = p->state;
	assert_true((int64_t)saved->ops_left <= 0);
	fd_done(&n.d);
	fd_done(&k.d);
	close(k.fd);
	/* Bytes: a second's worth, then 8 KiB more. */
	iops = 0;
	bps = 32768;
	begin(&k, false, F_FLUSH);
	assert_true(reads_ns(&k, 10, 4096) >= 120000000); /* the last may go ahead */
	end(&k);
	bps = 0;
}

static void refused(struct err *e, enum err_class class)
{
	assert_non_null(e);
	assert_int_equal(err_class(e), class);
	err_free(e);
}

static void test_changed_disks(void **state)
{
	(void)state;
	struct disk k, n;
	begin(&k, false, F_FLUSH);
	close_gate(&k, true);
	struct snap_part *p = &k.d.dev->dev.part;
	ok_(p->ops->park(p->self));
	ok_(p->ops->fetch(p->self));
	SCOPE(freep) struct virtio_blk_state *saved = malloc(sizeof(*saved));
	assert_non_null(saved);
	memcpy(saved, p->state, sizeof(*saved));
	/* Another file of the same size. */
	int other = new_file();
	ok_(plug(&n, other, false, false));
	refused(load(&n, saved), ERR_NOT_NOW);
	fd_done(&n.d);
	ok_(plug(&n, other, false, true));
	ok_(load(&n, saved));
	fd_done(&n.d);
	/* Another size, whatever was said. */
	assert_int_equal(ftruncate(other, 512), 0);
	ok_(plug(&n, other, false, true));
	refused(load(&n, saved), ERR_INCOMPAT);
	fd_done(&n.d);
	close(other);
	/* The same file, as it was; then written to. */
	ok_(plug(&n, k.fd, false, false));
	ok_(load(&n, saved));
	fd_done(&n.d);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1000 } };
	assert_int_equal(futimens(k.fd, times), 0);
	ok_(plug(&n, k.fd, false, false));
	refused(load(&n, saved), ERR_NOT_NOW);
	fd_done(&n.d);
	/* Read-only now, writable then. */
	ok_(plug(&n, k.fd, true, true));
	refused(load(&n, saved), ERR_INCOMPAT);
	fd_done(&n.d);
	close_gate(&k, false);
	end(&k);
	/* No disk at all. */
	int pipes[2];
	assert_int_equal(pipe(pipes), 0);
	refused(plug(&n, pipes[0], true, false), ERR_USAGE);
	n.d.bus_dev->ops->free(n.d.bus_dev);
	gmem_free(n.d.g);
	close(pipes[0]);
	close(pipes[1]);
	ok_(desc_check_coverage(&virtio_blk_desc));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),    cmocka_unit_test(test_limits),
		cmocka_unit_test(test_size),          cmocka_unit_test(test_discard),
		cmocka_unit_test(test_hostile),       cmocka_unit_test(test_gate_and_load),
		cmocka_unit_test(test_changed_disks), cmocka_unit_test(test_rates),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
