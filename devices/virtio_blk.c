/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio block device: registers, life of the worker, saved state. See virtio_blk.h; requests are
 * in virtio_blk_io.c.
 *
 * Threads: vCPU threads (registers, a reset), the take or main loop (gate, part operations), and
 * the worker. All state is under the device's lock; the worker drops it while it waits for the
 * host.
 *
 * I1: the worker takes chains only while it is not told to rest (closed, resetting, stopping).
 * I2: `idle` is signalled whenever nothing is in flight and the worker rests.
 */
#include "devices/virtio_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/fs.h>

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "devices/virtio_blk_internal.h"

enum {
	QUEUE_SIZE = 256,
	SEG_MAX = VIRTQ_SEGS_MAX - 2, /* header and status take two */
	CLASS_STORAGE = 0x018000,
	WORKER_STACK_BYTES = 256 * 1024,

	F_SEG_MAX = 2,
	F_RO = 5,
	F_BLK_SIZE = 6,
	F_MQ = 12,
	F_DISCARD = 13,
	F_WRITE_ZEROES = 14,

	AT_CAPACITY = 0, /* in the configuration */
	AT_SEG_MAX = 12,
	AT_BLK_SIZE = 20,
	AT_NUM_QUEUES = 34,
	AT_DISCARD_SECTORS = 36,
	AT_DISCARD_SEGS = 40,
	AT_DISCARD_ALIGN = 44,
	AT_ZERO_SECTORS = 48,
	AT_ZERO_SEGS = 52,
	AT_ZERO_MAY_UNMAP = 56,
	CONFIG_BYTES = 60,
};
#define DRAIN_NS 30000000000ull /* after this a disk counts as stuck */
#define SHRINK_NS 2000000000ull /* the main loop waits for it */

static struct virtio_blk *blk_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_blk, v);
}

/* ---- the worker's life ---- */

static bool must_rest(const struct virtio_blk *b)
{
	return b->closed || b->resetting || b->stop || !virtio_running(&b->v);
}

bool virtio_blk_rests(const struct virtio_blk *b)
{
	return must_rest(b);
}

static void *worker(void *arg)
{
	struct virtio_blk *b = arg;
	const struct dev_host *h = b->v.pci.dev.host;
	struct err *e = h->enter_thread != NULL ? h->enter_thread(h->self) : NULL;
	lock_take(&b->v.pci.lock);
	if (e != NULL) {
		log_err(err_wrap(e, "disk '%s'", b->v.id));
		virtio_break(&b->v, "the host refused its thread");
		b->dead = true;
	}
	for (;;) {
		virtio_blk_tell(b); /* of what ended */
		if (!must_rest(b) && !b->dead) {
			virtio_blk_take(b);
			virtio_blk_tell(b);
		}
		if (b->inflight == 0 && must_rest(b)) {
			cond_wake_all(&b->idle); /* I2 */
		}
		if (b->inflight == 0 && b->stop) {
			break;
		}
		lock_drop(&b->v.pci.lock);
		virtio_blk_wait(b);
		lock_take(&b->v.pci.lock);
		virtio_blk_reap(b);
	}
	lock_drop(&b->v.pci.lock);
	return NULL;
}

/* Waits until nothing is in flight; false when the disk is stuck. With the lock. */
static bool drain(struct virtio_blk *b, uint64_t ns)
{
	uint64_t deadline = clock_mono_ns() + ns;
	virtio_kick(&b->v); /* wakes the worker */
	while (b->inflight > 0) {
		if (!cond_wait_until(&b->idle, &b->v.pci.lock, deadline)) {
			return false;
		}
	}
	return true;
}

static void blk_gate(struct device *dev, bool closed)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));
	LOCK_SCOPE(&b->v.pci.lock);
	b->closed = closed;
	if (!closed) {
		uint64_t now = clock_mono_ns(); /* a limit knows running time only */
		rate_limit_resume(&b->ops, now);
		rate_limit_resume(&b->bytes, now);
		virtio_kick(&b->v); /* what the guest offered meanwhile */
	} else if (!drain(b, DRAIN_NS)) {
		LOG_E("disk '%s': %u requests have not ended for 30 s", b->v.id, b->inflight);
	}
}

/* The driver resets: with the lock, on a vCPU thread. */
static void blk_reset(struct virtio *v, struct virtq *q)
{
	struct virtio_blk *b = blk_of(v);
	(void)q; /* requests of all queues end: a reset is rare */
	b->resetting++;
	while (!drain(b, DRAIN_NS)) {
		LOG_E("disk '%s': a reset by the guest waits for %u requests", v->id, b->inflight);
	}
	b->resetting--;
}

static void blk_free(struct device *dev)
{
	if (dev == NULL) {
		return;
	}
	struct virtio_blk *b = blk_of(virtio_of(dev));
	if (b->started) {
		lock_take(&b->v.pci.lock);
		b->stop = true;
		virtio_kick(&b->v);
		lock_drop(&b->v.pci.lock);
		pthread_join(b->thread, NULL);
	}
	if (b->attached) {
		b->backend.ops->attach(b->backend.self, NULL, NULL);
	}
	virtio_blk_io_done(b);
	cond_done(&b->idle);
	virtio_done(&b->v);
	free(b);
}

static struct err *start_worker(struct virtio_blk *b)
{
	pthread_attr_t attr;
	BUG_ON(pthread_attr_init(&attr) != 0);
	BUG_ON(pthread_attr_setstacksize(&attr, WORKER_STACK_BYTES) != 0);
	/* Signals are the main loop's and the vCPUs' business. */
	sigset_t all, old;
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(&b->thread, &attr, worker, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rc != 0) {
		return ERR_SYSNO(rc, "disk '%s': starting its thread", b->v.id);
	}
	b->started = true;
	pthread_setname_np(b->thread, "disk");
	return NULL;
}

/* ---- what stands behind it ---- */

static struct err *look(const struct virtio_blk *b, struct virtio_blk_seen *ret)
{
	struct stat st;
	if (b->backend.ops != NULL) {
		return err_wrap(b->backend.ops->look(b->backend.self, ret), "disk '%s'", b->v.id);
	}
	if (fstat(b->fd, &st) != 0) {
		return ERR_ERRNO("disk '%s'", b->v.id);
	}
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_USAGE,
	       "disk '%s': neither a regular file nor a block device", b->v.id);
	struct virtio_blk_seen s = {
		.dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev,
		.ino = S_ISBLK(st.st_mode) ? 0 : st.st_ino,
		.len_bytes = (uint64_t)st.st_size,
		.is_file = S_ISREG(st.st_mode),
	};
	if (s.is_file) {
		s.mtime_ns =
			(uint64_t)st.st_mtim.tv_sec * 1000000000ull + (uint64_t)st.st_mtim.tv_nsec;
	} else {
		off_t end = lseek(b->fd, 0, SEEK_END);
		if (end < 0) {
			return ERR_ERRNO("disk '%s': its size", b->v.id);
		}
		s.len_bytes = (uint64_t)end;
	}
	*ret = s;
	return NULL;
}

/*
 * Is the disk as it was at the snapshot? A read-only one, or what a captured one stands on, may be
 * another file with the same content. A captured disk comes with its size where the snapshot is
 * loaded; sized: it has.
 */
static struct err *check_same(const struct virtio_blk *b, const struct virtio_blk_state *saved,
			      bool sized)
{
	struct virtio_blk_seen now = { 0 };
	TRY(look(b, &now));
	const struct virtio_blk_seen *then = &saved->seen;
	ENSURE(saved->read_only == b->read_only, ERR_INCOMPAT, "disk '%s': saved as %s", b->v.id,
	       saved->read_only ? "read-only" : "writable");
	ENSURE(now.len_bytes == then->len_bytes ||
		       (b->captured && (!sized || b->backend.ops == NULL)),
	       ERR_INCOMPAT,
	       "disk '%s' has %llu bytes, the snapshot was taken with %llu: give the disk that "
	       "belongs to it by --disk-map %s=PATH",
	       b->v.id, (unsigned long long)now.len_bytes, (unsigned long long)then->len_bytes,
	       b->v.id);
	if (b->accept_changed) {
		return NULL;
	}
	bool same = now.mtime_ns == then->mtime_ns && now.is_file && then->is_file;
	bool same_file = now.dev == then->dev && now.ino == then->ino;
	if (b->read_only || b->captured) {
		ENSURE((same || !now.is_file) && (same_file || b->may_be_copy), ERR_NOT_NOW,
		       "%s '%s' was changed since the snapshot: --disk-changed=accept takes it "
		       "as it is",
		       b->captured ? "what is below disk" : "disk", b->v.id);
		return NULL;
	}
	ENSURE(same && same_file, ERR_NOT_NOW,
	       "disk '%s' has moved on since the snapshot, and the guest's memory has not: "
	       "--disk-changed=accept takes it as it is",
	       b->v.id);
	return NULL;
}

/* ---- saved state ---- */

static struct err *blk_park(void *self)
{
	struct virtio_blk *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	ENSURE(b->inflight == 0, ERR_NOT_NOW,
	       "disk '%s': %u requests do not end; is its storage stuck?", b->v.id, b->inflight);
	return NULL;
}

static struct err *blk_fetch(void *self)
{
	struct virtio_blk *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	virtio_fetch(&b->v, &b->saved.virtio);
	b->saved.read_only = b->read_only;
	b->saved.ops_left = rate_limit_save(&b->ops);
	b->saved.bytes_left = rate_limit_save(&b->bytes);
	return look(b, &b->saved.seen);
}

static struct err *blk_check(void *self, const void *state)
{
	struct virtio_blk *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	return check_same(b, state, false);
}

static struct err *blk_commit(void *self)
{
	struct virtio_blk *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	TRY(check_same(b, &b->saved, true));
	rate_limit_load(&b->ops, b->saved.ops_left);
	rate_limit_load(&b->bytes, b->saved.bytes_left);
	return virtio_commit(&b->v, &b->saved.virtio);
}

static void blk_probe(void *self, const struct findings *f)
{
	struct virtio_blk *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	finding(f, "disk", check_same(b, &b->saved, true));
	finding(f, "device", virtio_match(&b->v, &b->saved.virtio));
}

static const struct state_field seen_fields[] = {
	FIELD(struct virtio_blk_seen, 1, dev),       FIELD(struct virtio_blk_seen, 2, ino),
	FIELD(struct virtio_blk_seen, 3, len_bytes), FIELD(struct virtio_blk_seen, 4, mtime_ns),
	FIELD(struct virtio_blk_seen, 5, is_file),   PAD(struct virtio_blk_seen, pad),
};

static const struct state_desc seen_desc = {
	.name = "disk-seen",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_blk_seen),
	.fields = seen_fields,
	.nfields = ARRAY_LEN(seen_fields),
};

static const struct state_field blk_fields[] = {
	FIELD_SUB(struct virtio_blk_state, 1, virtio, &virtio_desc),
	FIELD_SUB(struct virtio_blk_state, 2, seen, &seen_desc),
	FIELD(struct virtio_blk_state, 3, read_only),
	PAD(struct virtio_blk_state, pad),
	FIELD(struct virtio_blk_state, 4, ops_left, .since = 2),
	FIELD(struct virtio_blk_state, 5, bytes_left, .since = 2),
};

const struct state_desc virtio_blk_desc = {
	.name = "virtio_blk",
	.version = 2,
	.oldest = 1,
	.size = sizeof(struct virtio_blk_state),
	.fields = blk_fields,
	.nfields = ARRAY_LEN(blk_fields),
};

static const struct snap_part_ops blk_part_ops = {
	.park = blk_park,
	.fetch = blk_fetch,
	.check = blk_check,
	.commit = blk_commit,
	.probe = blk_probe,
};

/* ---- another size ---- */

static void set_sectors(struct virtio_blk *b, uint64_t sectors)
{
	uint8_t *c = b->v.config;
	uint32_t most = (uint32_t)MIN(sectors, (uint64_t)(1u << 30) / VIRTIO_BLK_SECTOR);
	b->sectors = sectors;
	put_le64(c + AT_CAPACITY, sectors);
	put_le32(c + AT_DISCARD_SECTORS, most);
	put_le32(c + AT_ZERO_SECTORS, most);
}

/* Nothing is in flight any more, and nothing is taken while the lock is held; the worker is to be
 * kicked afterwards. With the lock. */
static struct err *be_quiet(struct virtio_blk *b)
{
	b->resetting++;
	bool quiet = drain(b, SHRINK_NS);
	b->resetting--;
	return quiet ? NULL
		     : err_set_errno(ERR(ERR_NOT_NOW,
					 "disk '%s': %u requests do not end; is its storage stuck?",
					 b->v.id, b->inflight),
				     EBUSY);
}

static struct err *resize_backend(struct virtio_blk *b, uint64_t bytes)
{
	struct err *e = be_quiet(b);
	if (e == NULL) {
		e = err_wrap(b->backend.ops->resize(b->backend.self, bytes), "disk '%s'", b->v.id);
	}
	virtio_kick(&b->v); /* what came meanwhile */
	return e;
}

static struct err *shorten(struct virtio_blk *b, uint64_t bytes)
{
	struct err *e = be_quiet(b);
	if (e == NULL && ftruncate(b->fd, (off_t)bytes) != 0) {
		e = ERR_ERRNO("disk '%s': making it shorter", b->v.id);
	}
	virtio_kick(&b->v); /* what came meanwhile */
	return e;
}

/* A file without holes stays one. */
static struct err *lengthen(struct virtio_blk *b, uint64_t old, uint64_t bytes)
{
	struct stat st;
	if (fstat(b->fd, &st) != 0) {
		return ERR_ERRNO("disk '%s'", b->v.id);
	}
	bool whole = (uint64_t)st.st_blocks * 512 >= old;
	int rc = whole ? fallocate(b->fd, 0, (off_t)old, (off_t)(bytes - old)) : -1;
	if (whole && rc != 0 && errno != EOPNOTSUPP) {
		struct err *e = ERR_ERRNO("disk '%s': making it longer", b->v.id);
		return ftruncate(b->fd, (off_t)old) == 0 ? e : err_wrap(e, "and not undone");
	}
	if (rc != 0 && ftruncate(b->fd, (off_t)bytes) != 0) {
		return ERR_ERRNO("disk '%s': making it longer", b->v.id);
	}
	return NULL;
}

static struct err *check_size(const struct virtio_blk *b, const struct virtio_blk_seen *now,
			      uint64_t bytes)
{
	if (b->read_only) {
		return err_set_errno(ERR(ERR_NOT_NOW, "disk '%s' is read-only", b->v.id), EROFS);
	}
	if (bytes < VIRTIO_BLK_SECTOR || bytes % VIRTIO_BLK_SECTOR != 0 || bytes > INT64_MAX) {
		return err_set_errno(ERR(ERR_USAGE, "disk '%s': its size is a multiple of %u bytes",
					 b->v.id, VIRTIO_BLK_SECTOR),
				     EINVAL);
	}
	if (b->backend.ops == NULL && !now->is_file && bytes != now->len_bytes) {
		return err_set_errno(ERR(ERR_USAGE,
					 "disk '%s' is a block device of %llu bytes: change that "
					 "first",
					 b->v.id, (unsigned long long)now->len_bytes),
				     EINVAL);
	}
	return NULL;
}

struct err *virtio_blk_resize(struct device *dev, uint64_t bytes)
{
	struct virtio_blk *b = blk_of(virtio_of(dev));
	LOCK_SCOPE(&b->v.pci.lock);
	struct virtio_blk_seen now;
	TRY(look(b, &now));
	TRY(check_size(b, &now, bytes));
	if (b->backend.ops != NULL && bytes != now.len_bytes) {
		TRY(resize_backend(b, bytes));
	} else if (now.is_file && bytes < now.len_bytes) {
		TRY(shorten(b, bytes));
	} else if (now.is_file && bytes > now.len_bytes) {
		TRY(lengthen(b, now.len_bytes, bytes));
	}
	set_sectors(b, bytes / VIRTIO_BLK_SECTOR);
	virtio_config_changed(&b->v);
	return NULL;
}

/* ---- building ---- */

static void blk_work(struct virtio *v)
{
	(void)v; /* never called: the device has its own thread */
}

static const struct virtio_ops blk_ops = {
	.work = blk_work,
	.reset = blk_reset,
};

static const struct dev_ops blk_dev_ops = {
	.name = "virtio_blk",
	.gate = blk_gate,
	.free = blk_free,
};

static void fill_config(struct virtio_blk *b, unsigned queues)
{
	uint8_t *c = b->v.config;
	put_le32(c + AT_SEG_MAX, SEG_MAX);
	put_le32(c + AT_BLK_SIZE, VIRTIO_BLK_SECTOR);
	put_le16(c + AT_NUM_QUEUES, (uint16_t)queues);
	put_le32(c + AT_DISCARD_SEGS, 1);
	put_le32(c + AT_DISCARD_ALIGN, PAGE_BYTES / VIRTIO_BLK_SECTOR);
	put_le32(c + AT_ZERO_SEGS, 1);
	c[AT_ZERO_MAY_UNMAP] = 1;
}

/* Any thread. */
static void on_wake(void *arg)
{
	struct virtio_blk *b = arg;
	virtio_kick(&b->v);
}

static struct err *build(struct virtio_blk *b, const struct virtio_blk_opts *o)
{
	struct virtio_blk_seen seen;
	TRY(look(b, &seen));
	ENSURE(seen.len_bytes >= VIRTIO_BLK_SECTOR, ERR_USAGE, "disk '%s' is empty", o->id);
	set_sectors(b, seen.len_bytes / VIRTIO_BLK_SECTOR);
	fill_config(b, o->queues);
	TRY(virtio_blk_io_init(b));
	if (b->backend.ops != NULL) {
		b->backend.ops->attach(b->backend.self, on_wake, b);
		b->attached = true;
	}
	return start_worker(b);
}

struct err *virtio_blk_new(const struct dev_host *host, const struct virtio_blk_opts *o,
			   struct pci_dev **ret_dev)
{
	struct virtio_blk *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "out of memory");
	uint64_t features = 1ull << F_SEG_MAX | 1ull << F_BLK_SIZE | VIRTIO_BLK_F_FLUSH;
	features |= o->queues > 1 ? 1ull << F_MQ : 0;
	features |= o->read_only ? 1ull << F_RO : 1ull << F_DISCARD | 1ull << F_WRITE_ZEROES;
	const struct virtio_opts vo = {
		.ops = &blk_ops,
		.dev_ops = &blk_dev_ops,
		.id = o->id,
		.type = VIRTIO_ID_BLOCK,
		.class = CLASS_STORAGE,
		.features = features,
		.nqueues = o->queues,
		.queue_size = QUEUE_SIZE,
		.config_bytes = CONFIG_BYTES,
		.own_thread = true,
	};
	b->fd = o->fd;
	b->ops = rate_limit_of(o->iops);
	b->bytes = rate_limit_of(o->bps);
	b->backend = o->backend;
	b->captured = o->captured;
	b->read_only = o->read_only;
	b->accept_changed = o->accept_changed;
	b->may_be_copy = o->may_be_copy;
	b->closed = true; /* until the VM starts: dev.h */
	cond_init(&b->idle);
	struct err *e = virtio_init(&b->v, host, &vo);
	if (e == NULL) {
		e = build(b, o);
	}
	if (e != NULL) {
		blk_free(&b->v.pci.dev);
		return e;
	}
	b->v.pci.dev.part = virtio_part(&b->v, &virtio_blk_desc, &b->saved, &blk_part_ops);
	*ret_dev = &b->v.pci;
	return NULL;
}
