/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of captured disks (core/vdisk*.c, core/disk_layer.c) with the engine and a store below:
 * a random walk against a plain array (writes of any size, several in flight, zeroes, flushes,
 * takes with writes in their middle, takes that are given up, restores, rewinds, another size,
 * another run), and power cuts of the layer, in which every piece of 512 bytes that was not synced
 * is kept or not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "core/vdisk.h"
#include "snapshot/image.h"
#include "tests/lib/snap_fake.h"

enum {
	SECTOR = 512,
	BASE_SECTORS = 5000, /* its last block is not whole */
	SECTORS_MAX = 8192,
	MOST = 100, /* sectors of a request */
	INFLIGHT = 4,
};

/* What a sector holds: 0 zeros, else which write it was; FROM_BASE and more: the base's. */
#define FROM_BASE (1u << 30)

static struct fake_vm f;
static struct vdisk *disk;
static struct blk_backend back;
static struct snap_disk listed[1];
static char base_path[400];
static uint32_t model[SECTORS_MAX];
static uint32_t flushed[SECTORS_MAX]; /* as of the last flush */
static uint32_t sectors;
static uint32_t writes;
static uint64_t seed;
static char layer_dir[4096];

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 11) % n;
}

static void content(uint32_t v, uint32_t sector, uint8_t *p)
{
	memset(p, 0, SECTOR);
	for (uint32_t i = 0; v != 0 && i < SECTOR; i += 8) {
		uint64_t w = ((uint64_t)v << 32 | sector) * 0x9e3779b97f4a7c15ull + i;
		memcpy(p + i, &w, 8);
	}
}

static bool holds(const uint8_t *p, uint32_t v, uint32_t sector)
{
	uint8_t want[SECTOR];
	content(v, sector, want);
	return memcmp(p, want, SECTOR) == 0;
}

/* ---- requests, as the device makes them ---- */

struct req {
	enum blk_op op;
	uint64_t off, len, done;
	struct blk_piece piece;
	bool begun; /* a write that is in flight */
	uint8_t *buf;
};

static int do_piece(struct req *r)
{
	const struct blk_piece *p = &r->piece;
	uint8_t *at = r->buf + r->done;
	/* In two buffers, as guests do. */
	const struct iovec iov[2] = { { at, p->len / 2 },
				      { at + p->len / 2, p->len - p->len / 2 } };
	switch (p->where) {
	case BLK_HOLE:
		memset(at, 0, p->len);
		return 0;
	case BLK_FILE:
		if (r->op == BLK_READ) {
			OK(io_pread_full(p->fd, at, p->len, p->at));
		} else {
			OK(io_pwrite_full(p->fd, at, p->len, p->at));
		}
		return 0;
	case BLK_BACKEND:
		return r->op == BLK_READ    ? back.ops->read(back.self, p, iov, 2)
		       : r->op == BLK_WRITE ? back.ops->write(back.self, p, iov, 2)
					    : back.ops->zero(back.self, p);
	case BLK_BUSY:
		break;
	}
	fail();
	return EIO;
}

/* The next piece begins; false: busy. */
static bool begin_piece(struct req *r)
{
	back.ops->locate(back.self, r->op, r->off + r->done, r->len - r->done, &r->piece);
	assert_true(r->piece.len > 0 && r->piece.len <= r->len - r->done);
	assert_int_equal(r->piece.off, r->off + r->done);
	return r->piece.where != BLK_BUSY;
}

static void end_piece(struct req *r)
{
	assert_int_equal(do_piece(r), 0);
	if (r->op != BLK_READ) {
		back.ops->done(back.self, &r->piece, true);
	}
	r->done += r->piece.len;
}

static int request(enum blk_op op, uint32_t first, uint32_t n, uint8_t *buf)
{
	struct req r = {
		.op = op, .off = (uint64_t)first * SECTOR, .len = (uint64_t)n * SECTOR, .buf = buf
	};
	while (r.done < r.len) {
		assert_true(begin_piece(&r));
		if (op == BLK_READ && r.piece.where == BLK_BACKEND) {
			int rc = do_piece(&r);
			if (rc != 0) {
				return rc;
			}
		}
		end_piece(&r);
	}
	return 0;
}

static void fill(uint32_t first, uint32_t n, uint8_t *buf)
{
	writes++;
	for (uint32_t i = 0; i < n; i++) {
		content(writes, first + i, buf + (size_t)i * SECTOR);
		model[first + i] = writes;
	}
}

static void pick(uint32_t *first, uint32_t *n)
{
	*n = 1 + rnd(rnd(3) == 0 ? MOST : 12);
	*first = rnd(sectors - *n + 1);
	if (rnd(3) == 0) { /* whole blocks */
		*first &= ~7u;
		*n = (*n + 7) & ~7u;
		*n = MIN(*n, sectors - *first);
	}
}

/* Several at once, none over another, their pieces in any order. */
static void write_some(void)
{
	static uint8_t bufs[INFLIGHT][(MOST + 8) * SECTOR];
	struct req r[INFLIGHT];
	unsigned n = 0, left;
	uint32_t at = rnd(sectors / 2);
	for (; n < INFLIGHT && at + 40 < sectors; n++) {
		uint32_t len = 1 + rnd(20);
		r[n] = (struct req){ .op = BLK_WRITE,
				     .off = (uint64_t)at * SECTOR,
				     .len = (uint64_t)len * SECTOR,
				     .buf = bufs[n] };
		fill(at, len, bufs[n]);
		at += len + rnd(4); /* mostly in one block with the one before */
	}
	do {
		left = 0;
		for (unsigned i = 0; i < n; i++) {
			if (r[i].begun && rnd(2) == 0) {
				end_piece(&r[i]);
				r[i].begun = false;
			} else if (!r[i].begun && r[i].done < r[i].len) {
				r[i].begun = begin_piece(&r[i]);
			}
			left += r[i].begun || r[i].done < r[i].len;
		}
	} while (left > 0);
}

static void write_one(void)
{
	static uint8_t buf[(MOST + 8) * SECTOR];
	uint32_t first, n;
	pick(&first, &n);
	fill(first, n, buf);
	assert_int_equal(request(BLK_WRITE, first, n, buf), 0);
}

static void zero_one(void)
{
	uint32_t first, n;
	pick(&first, &n);
	memset(model + first, 0, n * sizeof(model[0]));
	assert_int_equal(request(BLK_ZERO, first, n, NULL), 0);
}

static void check_all(void)
{
	static uint8_t buf[SECTORS_MAX * SECTOR];
	assert_int_equal(request(BLK_READ, 0, sectors, buf), 0);
	for (uint32_t i = 0; i < sectors; i++) {
		if (!holds(buf + (size_t)i * SECTOR, model[i], i)) {
			fail_msg("sector %u is not that of write %u (of %u)", i, model[i], writes);
		}
	}
}

/* ---- its life ---- */

static struct vdisk_opts opts_for(struct snap_image *image)
{
	int fd = open(base_path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return (struct vdisk_opts){ .id = "data",
				    .vm = "fake",
				    .family = f.vm.family,
				    .store_dir = f.store_dir,
				    .store = f.store,
				    .path = base_path,
				    .base_fd = fd,
				    .image = image };
}

static void use(void)
{
	back = vdisk_backend(disk);
	listed[0] = vdisk_snap(disk);
	f.vm.disks = listed;
	f.vm.ndisks = 1;
}

static void open_disk(struct snap_image *image)
{
	const struct vdisk_opts o = opts_for(image);
	OK(vdisk_open(&o, &disk));
	OK(vdisk_settle(disk));
	use();
}

static void make_base(void)
{
	SCOPE(freep) uint8_t *p = malloc(BASE_SECTORS * SECTOR);
	assert_non_null(p);
	sectors = BASE_SECTORS;
	for (uint32_t i = 0; i < sectors; i++) {
		model[i] = FROM_BASE + i;
		content(model[i], i, p + (size_t)i * SECTOR);
	}
	snprintf(base_path, sizeof(base_path), "%s/base.img", f.dir);
	int fd = open(base_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	OK(io_write_full(fd, p, BASE_SECTORS * SECTOR));
	close(fd);
}

static int find_layer(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	if (flag == FTW_D && ftw->level == 2 && strstr(path, ".aside") == NULL) {
		snprintf(layer_dir, sizeof(layer_dir), "%s", path);
	}
	return 0;
}

static int setup(void **state)
{
	(void)state;
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	make_base();
	seed = 88172645463325252ull;
	writes = 0;
	open_disk(NULL);
	char path[400];
	snprintf(path, sizeof(path), "%s/disks", f.store_dir);
	assert_int_equal(nftw(path, find_layer, 8, FTW_PHYS), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vdisk_free(disk);
	disk = NULL;
	fake_done(&f);
	return 0;
}

static void flush(void)
{
	for (unsigned step = 0;; step++) {
		int fd = -1;
		enum blk_sync s = back.ops->flush(back.self, step, false, &fd);
		if (s == BLK_SYNC_DONE) {
			break;
		}
		assert_int_equal(s, BLK_SYNC_FD);
		OK(io_sync_file(fd));
	}
	memcpy(flushed, model, sizeof(model));
}

/* ---- takes ---- */

static bool give_up;
static unsigned writes_in_takes;

/* Between the freeze and the end of the capture. */
static void on_progress(void *arg, const char *step, uint64_t done, uint64_t total)
{
	(void)arg;
	(void)done;
	(void)total;
	if (strcmp(step, "disk") == 0) {
		writes_in_takes++;
		write_some();
		write_one();
		zero_one();
	}
}

static uint32_t model_at_take[SECTORS_MAX];

static bool take(uint64_t *ret_number, uint64_t *ret_blocks)
{
	bool cancel = give_up;
	struct snap_result res;
	struct snap_take_opts o = { .progress = { .fn = on_progress } };
	/* Cancelled behind the freeze. */
	f.ops = 0;
	f.cancel_flag = give_up ? &cancel : NULL;
	f.cancel_at = give_up ? 3 : 0;
	cancel = false;
	o.cancel = &cancel;
	struct err *e = snap_take(f.store, &f.vm, &o, &res);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) { /* as core does */
		err_free(e);
		vdisk_forget_base(disk);
		f.ops = 0;
		cancel = false;
		memcpy(model_at_take, model, sizeof(model));
		e = snap_take(f.store, &f.vm, &o, &res);
	}
	f.cancel_at = 0;
	f.log[0] = 0;
	if (give_up) {
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CANCELLED);
		err_free(e);
		return false;
	}
	OK(e);
	*ret_number = res.number;
	*ret_blocks = res.disk_blocks;
	return true;
}

static struct snap_image *open_image_of(uint64_t number)
{
	char ref[80];
	struct snap_image *img = NULL;
	snprintf(ref, sizeof(ref), "fake@%llu", (unsigned long long)number);
	OK(snap_image_open(f.store, ref, &img));
	return img;
}

enum { KEPT = 6 };
static struct {
	uint64_t number;
	uint32_t sectors;
	uint32_t model[SECTORS_MAX];
} kept[KEPT];
static unsigned nkept;

static void take_and_keep(void)
{
	uint64_t blocks;
	unsigned at = nkept < KEPT ? nkept++ : rnd(KEPT);
	if (kept[at].number != 0) {
		struct store_ref r;
		char ref[80];
		snprintf(ref, sizeof(ref), "fake@%llu", (unsigned long long)kept[at].number);
		OK(store_ref_resolve(f.store, ref, &r));
		OK(family_remove(r.family, &r.snap.id, 1));
		store_ref_done(&r);
	}
	memcpy(model_at_take, model, sizeof(model));
	kept[at].sectors = sectors;
	assert_true(take(&kept[at].number, &blocks));
	memcpy(kept[at].model, model_at_take, sizeof(model));
}

static void become(unsigned k)
{
	memcpy(model, kept[k].model, sizeof(model));
	sectors = kept[k].sectors;
}

static struct snap_image *under; /* what the disk stands on */
static uint64_t under_number;    /* and its layer, also without it; 0: nothing */

static bool under_is_there(void)
{
	bool there = under_number == 0;
	for (unsigned k = 0; k < nkept; k++) {
		there = there || kept[k].number == under_number;
	}
	return there;
}

static void restore(void)
{
	unsigned k = rnd(nkept);
	vdisk_free(disk);
	snap_image_free(under);
	under = open_image_of(kept[k].number);
	open_disk(under);
	under_number = kept[k].number;
	become(k);
}

static void rewind_some(bool good)
{
	unsigned k = rnd(nkept);
	struct snap_image *to = open_image_of(kept[k].number);
	OK(vdisk_rewind(disk, to));
	if (!good) {
		vdisk_rewind_undo(disk);
		snap_image_free(to);
		return;
	}
	vdisk_rewind_done(disk);
	snap_image_free(under);
	under = to;
	under_number = kept[k].number;
	become(k);
}

/* Power off; another VM of that name goes on with the disk, which can do without the snapshot. */
static void run_again(bool whole)
{
	if (whole || !under_is_there()) {
		OK(vdisk_make_whole(disk));
		under_number = 0;
	}
	vdisk_free(disk);
	snap_image_free(under);
	under = NULL;
	open_disk(NULL);
}

static void resize(void)
{
	uint32_t now = 1024 + rnd(SECTORS_MAX - 1024);
	struct virtio_blk_seen seen;
	OK(back.ops->resize(back.self, (uint64_t)now * SECTOR));
	OK(back.ops->look(back.self, &seen));
	assert_int_equal(seen.len_bytes, (uint64_t)now * SECTOR);
	/* What the last block holds behind an end is nobody's business: it is written at once. */
	uint32_t from = MIN(sectors, now) & ~7u;
	for (uint32_t i = sectors; i < now; i++) {
		model[i] = 0;
	}
	sectors = now;
	uint8_t buf[8 * SECTOR];
	uint32_t n = MIN(8u, sectors - from);
	if (n > 0) {
		fill(from, n, buf);
		assert_int_equal(request(BLK_WRITE, from, n, buf), 0);
	}
}

static void test_walk(void **state)
{
	(void)state;
	nkept = 0;
	memset(kept, 0, sizeof(kept));
	take_and_keep();
	for (unsigned step = 0; step < 800; step++) {
		uint64_t none;
		switch (rnd(24)) {
		case 0:
		case 1:
			take_and_keep();
			break;
		case 2:
			give_up = true;
			assert_false(take(&none, &none));
			give_up = false;
			break;
		case 3:
			restore();
			break;
		case 4:
			rewind_some(rnd(3) != 0);
			break;
		case 5:
			run_again(rnd(2) == 0);
			break;
		case 6:
			flush();
			break;
		case 7:
			zero_one();
			break;
		case 8:
			if (rnd(3) == 0) {
				resize();
			}
			break;
		case 9:
			check_all();
			break;
		case 10:
		case 11:
			write_one();
			break;
		default:
			write_some();
			break;
		}
	}
	check_all();
	assert_true(writes_in_takes > 10);
	for (unsigned k = 0; k < nkept; k++) {
		restore();
		check_all();
	}
	vdisk_free(disk);
	snap_image_free(under);
	under = NULL;
	disk = NULL;
}

/* What did not change costs nothing; what did is all that is read. */
static void test_cost(void **state)
{
	(void)state;
	uint64_t number, blocks;
	uint8_t buf[8 * SECTOR];
	assert_true(take(&number, &blocks));
	assert_int_equal(blocks, 0); /* the base is not copied */
	fill(80, 8, buf);
	assert_int_equal(request(BLK_WRITE, 80, 8, buf), 0);
	fill(91, 1, buf);
	assert_int_equal(request(BLK_WRITE, 91, 1, buf), 0);
	writes_in_takes = 0;
	struct snap_result res;
	const struct snap_take_opts o = { 0 };
	OK(snap_take(f.store, &f.vm, &o, &res));
	assert_int_equal(res.disk_blocks, 2);
	OK(snap_take(f.store, &f.vm, &o, &res));
	assert_int_equal(res.disk_blocks, 0);
	struct snap_image *img = open_image_of(res.number);
	assert_int_equal(snap_image_ndisks(img), 1);
	struct snap_disk_info info;
	REFUSED(snap_image_disk_find(img, "other", &info), ERR_NOTFOUND, "holds no disk 'other'");
	OK(snap_image_disk_find(img, "data", &info));
	assert_int_equal(info.len_bytes, BASE_SECTORS * SECTOR);
	vdisk_free(disk);
	open_disk(img);
	check_all();
	/* From a restore on, too. */
	assert_int_equal(request(BLK_WRITE, 800, 8, buf), 0);
	OK(snap_take(f.store, &f.vm, &o, &res));
	assert_int_equal(res.disk_blocks, 1);
	vdisk_free(disk);
	disk = NULL;
	snap_image_free(img);
}

static void test_refused(void **state)
{
	(void)state;
	struct vdisk *other = NULL;
	struct vdisk_opts o = opts_for(NULL);
	REFUSED(vdisk_open(&o, &other), ERR_NOT_NOW, "in use by another VM");
	write_one();
	flush();
	vdisk_free(disk);
	disk = NULL;
	/* Another content behind the same path. */
	int fd = open(base_path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1000 } };
	assert_int_equal(futimens(fd, times), 0);
	close(fd);
	o = opts_for(NULL);
	REFUSED(vdisk_open(&o, &other), ERR_NOT_NOW, "--disk-changed=accept");
	o = opts_for(NULL);
	o.accept_changed = true;
	OK(vdisk_open(&o, &disk));
	use();
	check_all();
	vdisk_free(disk);
	disk = NULL;
	/* A map with a bit that is another, in its head and behind it. */
	char path[4200];
	snprintf(path, sizeof(path), "%s/map", layer_dir);
	for (uint64_t at = 20; at < 8192 + 512; at += at < 8192 ? 4096 : 200) {
		uint8_t b[2];
		fd = open(path, O_RDWR | O_CLOEXEC);
		assert_true(fd >= 0);
		for (unsigned i = 0; i < 2; i++) { /* both heads, or the one piece there is */
			uint64_t where = at < 8192 ? at % 4096 + i * 4096 : at;
			OK(io_pread_full(fd, &b[i], 1, where));
			b[i] ^= 4;
			OK(io_pwrite_full(fd, &b[i], 1, where));
			b[i] ^= 4;
			if (at >= 8192) {
				break;
			}
		}
		o = opts_for(NULL);
		REFUSED(vdisk_open(&o, &other), ERR_CORRUPT, "damaged");
		OK(io_pwrite_full(fd, &b[0], 1, at < 8192 ? at % 4096 : at));
		if (at < 8192) {
			OK(io_pwrite_full(fd, &b[1], 1, at % 4096 + 4096));
		}
		close(fd);
	}
	o = opts_for(NULL);
	o.accept_changed = true;
	OK(vdisk_open(&o, &disk));
}

/* ---- power cuts ---- */

static const char *const names[3] = { "a", "b", "map" };

struct copy {
	uint8_t *p;
	uint64_t len;
};
static struct copy durable[3];

static void read_file(unsigned i, struct copy *ret)
{
	char path[4200];
	size_t len;
	snprintf(path, sizeof(path), "%s/%s", layer_dir, names[i]);
	OK(io_slurp(path, 64 << 20, &ret->p, &len));
	ret->len = len;
}

static void note_durable(unsigned i)
{
	free(durable[i].p);
	read_file(i, &durable[i]);
}

/* A flush that may be cut: every file that was synced is durable as it is then. */
static bool flush_until(unsigned steps)
{
	for (unsigned step = 0;; step++) {
		int fd = -1;
		if (step == steps) {
			return false;
		}
		enum blk_sync s = back.ops->flush(back.self, step, false, &fd);
		if (s == BLK_SYNC_DONE) {
			break;
		}
		assert_int_equal(s, BLK_SYNC_FD);
		for (unsigned i = 0; i < 3; i++) {
			struct stat a, b;
			char path[4200];
			snprintf(path, sizeof(path), "%s/%s", layer_dir, names[i]);
			assert_int_equal(stat(path, &a) | fstat(fd, &b), 0);
			if (a.st_ino == b.st_ino) {
				note_durable(i);
			}
		}
	}
	memcpy(flushed, model, sizeof(model));
	return true;
}

/* Each piece of 512 bytes as it was synced last, or as it is. */
static void cut(void)
{
	struct copy now[3];
	for (unsigned i = 0; i < 3; i++) {
		char path[4200];
		read_file(i, &now[i]);
		unsigned how = rnd(3);
		for (uint64_t at = 0; at < now[i].len; at += SECTOR) {
			bool lost = how == 0 || (how == 1 && rnd(2) == 0);
			if (lost && at < durable[i].len) {
				memcpy(now[i].p + at, durable[i].p + at,
				       MIN(durable[i].len - at, (uint64_t)SECTOR));
			} else if (lost) {
				memset(now[i].p + at, 0, MIN(now[i].len - at, (uint64_t)SECTOR));
			}
		}
		snprintf(path, sizeof(path), "%s/%s", layer_dir, names[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		assert_true(fd >= 0);
		OK(io_pwrite_full(fd, now[i].p, now[i].len, 0));
		close(fd);
		free(now[i].p);
	}
}

/* Every sector is what was flushed, or what was written since: never older, never another. */
static void check_cut(const uint32_t *since)
{
	static uint8_t buf[SECTORS_MAX * SECTOR];
	assert_int_equal(request(BLK_READ, 0, sectors, buf), 0);
	for (uint32_t i = 0; i < sectors; i++) {
		const uint8_t *p = buf + (size_t)i * SECTOR;
		uint32_t v = 0;
		bool good = holds(p, flushed[i], i);
		for (v = *since + 1; !good && v <= writes; v++) {
			good = holds(p, v, i);
		}
		/* Zeroed since, and written again. */
		good = good || (model[i] != flushed[i] && holds(p, 0, i));
		if (!good) {
			fail_msg("sector %u: flushed as %u, now as %u (since %u): neither is there",
				 i, flushed[i], model[i], *since);
		}
		model[i] = holds(p, flushed[i], i) ? flushed[i] : holds(p, 0, i) ? 0 : v - 1;
	}
}

static void test_power_cut(void **state)
{
	(void)state;
	memcpy(flushed, model, sizeof(model));
	for (unsigned round = 0; round < 60; round++) {
		uint64_t number, blocks;
		uint32_t since = writes;
		/* A disk is durable from its first flush on: its names are synced then. */
		assert_true(flush_until(100));
		since = writes;
		for (unsigned i = 0; i < 3; i++) {
			note_durable(i);
		}
		for (unsigned n = rnd(12); n > 0; n--) {
			switch (rnd(8)) {
			case 0:
				assert_true(take(&number, &blocks)); /* writes in its middle */
				break;
			case 1:
				give_up = true;
				assert_false(take(&number, &blocks));
				give_up = false;
				break;
			case 2:
				if (flush_until(rnd(5))) {
					since = writes;
					break;
				}
				n = 1; /* in its middle the power goes */
				break;
			case 3:
				zero_one();
				break;
			default:
				write_some();
				write_one();
				break;
			}
		}
		cut();
		/* As it lies there: what is open is not written any more. */
		char away[4200], copy[4300];
		snprintf(away, sizeof(away), "%s.cut", layer_dir);
		snprintf(copy, sizeof(copy), "cp -a '%s' '%s'", layer_dir, away);
		assert_int_equal(system(copy), 0);
		vdisk_free(disk);
		snprintf(copy, sizeof(copy), "rm -r '%s' && mv '%s' '%s'", layer_dir, away,
			 layer_dir);
		assert_int_equal(system(copy), 0);
		open_disk(NULL);
		check_cut(&since);
		memcpy(flushed, model, sizeof(model));
	}
	for (unsigned i = 0; i < 3; i++) {
		free(durable[i].p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_walk, setup, teardown),
		cmocka_unit_test_setup_teardown(test_power_cut, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
