/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the virtio block device, on its worker thread. See virtio_blk.h. Layout: virtio 1.2,
 * 5.2.6.
 *
 * Host pointers into guest memory live in the iovecs of requests in flight and nowhere else; none
 * is in flight while the device is parked.
 *
 * I1: inflight counts the requests that the ring holds, without the watch on the kick descriptor.
 * I2: every chain that was taken is given back exactly once.
 * I3: with a backend a request in flight is in the ring, or in one of the lists held, slow and
 * over; held is asked again whenever anything has ended, and what the backend waits for is in
 * flight.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "devices/virtio_blk_internal.h"

enum {
	HEADER_BYTES = 16,
	SEGMENT_BYTES = 16, /* of a discard or write-zeroes */
	ID_BYTES = 20,
	UNMAP = 1,

	T_IN = 0,
	T_OUT = 1,
	T_FLUSH = 4,
	T_GET_ID = 8,
	T_DISCARD = 11,
	T_WRITE_ZEROES = 13,

	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,

	RING_ENTRIES = 2 * VIRTIO_BLK_DEPTH, /* one more than DEPTH would do */
	TURN_CHAINS = 512,
};

#define NS_PER_S 1000000000ull

/* ---- the ring ---- */

/* What the ring may be asked for: nothing that opens, connects or maps. */
static struct err *restrict_ring(struct io_uring *ring)
{
	static const uint8_t ops[] = { IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITEV,
				       IORING_OP_FSYNC, IORING_OP_FALLOCATE };
	struct io_uring_restriction r[ARRAY_LEN(ops)];
	memset(r, 0, sizeof(r));
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		r[i].opcode = IORING_RESTRICTION_SQE_OP;
		r[i].sqe_op = ops[i];
	}
	/* By hand: liburing 2.3 declares these two calls and does not export them. */
	if (syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, r,
		    ARRAY_LEN(r)) < 0 ||
	    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) <
		    0) {
		return ERR_ERRNO("limiting an io_uring");
	}
	return NULL;
}

struct err *virtio_blk_io_init(struct virtio_blk *b)
{
	b->reqs = calloc(VIRTIO_BLK_DEPTH, sizeof(*b->reqs));
	ENSURE(b->reqs != NULL, ERR_SYS, "out of memory for disk '%s'", b->v.id);
	for (unsigned i = 0; i < VIRTIO_BLK_DEPTH; i++) {
		b->reqs[i].next = b->free;
		b->free = &b->reqs[i];
	}
	int rc = io_uring_queue_init(RING_ENTRIES, &b->ring, IORING_SETUP_R_DISABLED);
	if (rc < 0) {
		return ERR_SYSNO(-rc, "disk '%s': io_uring", b->v.id);
	}
	b->ring_made = true;
	return err_wrap(restrict_ring(&b->ring), "disk '%s'", b->v.id);
}

void virtio_blk_io_done(struct virtio_blk *b)
{
	if (b->ring_made) {
		io_uring_queue_exit(&b->ring);
	}
	free(b->reqs);
}

static struct io_uring_sqe *next_sqe(struct virtio_blk *b)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&b->ring);
	BUG_ON(sqe == NULL); /* entries for twice the depth */
	return sqe;
}

/* ---- ends ---- */

static void finish(struct virtio_blk *b, struct blk_req *r, uint8_t status)
{
	uint64_t written = 1;
	/* The status is the last writable byte. */
	virtq_write(&b->v.q[r->queue], &r->chain, r->chain.write_bytes - 1, &status, 1);
	if (r->type == T_IN && status == S_OK) {
		written += r->len;
	} else if (r->type == T_GET_ID && status == S_OK) {
		written += r->len;
	}
	virtio_push(&b->v, r->queue, &r->chain, written);
	b->due |= 1u << r->queue;
	r->next = b->free;
	b->free = r;
}

/* ---- guest memory ---- */

/* The host addresses of bytes [at, at + len) of the request's data. */
static unsigned map(struct virtio_blk *b, struct blk_req *r, uint64_t at, uint64_t len)
{
	const struct virtq_chain *c = &r->chain;
	bool reads = r->type == T_IN;
	const struct virtq_seg *seg = c->seg + (reads ? c->nread : 0);
	unsigned n = reads ? c->nwrite : c->nread;
	at += reads ? 0 : HEADER_BYTES;
	unsigned niov = 0;
	for (unsigned i = 0; i < n && len > 0; i++) {
		if (at >= seg[i].len) {
			at -= seg[i].len;
			continue;
		}
		uint64_t piece = MIN(seg[i].len - at, len);
		void *p = gmem_at(b->v.q[r->queue].gmem, GPA(seg[i].gpa + at), piece);
		BUG_ON(p == NULL); /* virtq_pop checked every buffer */
		r->iov[niov++] = (struct iovec){ .iov_base = p, .iov_len = piece };
		len -= piece;
		at = 0;
	}
	return niov;
}

static void mark_read(struct virtio_blk *b, const struct blk_req *r, uint64_t at, uint64_t len)
{
	const struct virtq_seg *seg = r->chain.seg + r->chain.nread;
	for (unsigned i = 0; i < r->chain.nwrite && len > 0; i++) {
		if (at >= seg[i].len) {
			at -= seg[i].len;
			continue;
		}
		uint64_t piece = MIN(seg[i].len - at, len);
		gmem_mark_dirty(b->v.q[r->queue].gmem, GPA(seg[i].gpa + at), piece);
		len -= piece;
		at = 0;
	}
}

/* ---- starts ---- */

static void queue_rw(struct virtio_blk *b, struct blk_req *r, int fd, uint64_t at, uint64_t len)
{
	struct io_uring_sqe *sqe = next_sqe(b);
	unsigned n = map(b, r, r->done, len);
	if (r->type == T_IN) {
		io_uring_prep_readv(sqe, fd, r->iov, n, at);
	} else {
		io_uring_prep_writev(sqe, fd, r->iov, n, at);
		/* Without flushes the driver takes "done" for "safe" (5.2.6.2). */
		bool late = virtio_has(&b->v, VIRTIO_BLK_F_FLUSH) || b->backend.ops != NULL;
		sqe->rw_flags = late ? 0 : RWF_DSYNC;
	}
	io_uring_sqe_set_data(sqe, r);
}

static void queue_all(struct virtio_blk *b, struct blk_req *r)
{
	queue_rw(b, r, b->fd, r->off + r->done, r->len - r->done);
}

static void queue_sync(struct virtio_blk *b, struct blk_req *r, int fd)
{
	struct io_uring_sqe *sqe = next_sqe(b);
	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, r);
}

/* ---- a backend's pieces ---- */

static void put(struct blk_req **list, struct blk_req *r)
{
	r->next = *list;
	*list = r;
}

static enum blk_op op_of(const struct blk_req *r)
{
	return r->type == T_IN ? BLK_READ : r->type == T_OUT ? BLK_WRITE : BLK_ZERO;
}

static void fill_zeros(struct virtio_blk *b, struct blk_req *r, uint64_t len)
{
	unsigned n = map(b, r, r->done, len);
	for (unsigned i = 0; i < n; i++) {
		memset(r->iov[i].iov_base, 0, r->iov[i].iov_len);
	}
	mark_read(b, r, r->done, len);
}

/* The next step of a flush: a status, or -1: under way. */
static int go_sync(struct virtio_blk *b, struct blk_req *r, bool failed)
{
	int fd = -1;
	r->syncing = true;
	switch (b->backend.ops->flush(b->backend.self, r->step, failed, &fd)) {
	case BLK_SYNC_FD:
		r->step++;
		queue_sync(b, r, fd);
		return -1;
	case BLK_SYNC_BUSY:
		put(&b->held, r);
		return -1;
	case BLK_SYNC_DONE:
		return S_OK;
	case BLK_SYNC_FAILED:
		break;
	}
	return S_IOERR;
}

/* The next piece of the request, or its end: a status, or -1: under way. */
static int go_on(struct virtio_blk *b, struct blk_req *r)
{
	while (r->done < r->len) {
		struct blk_piece *p = &r->piece;
		b->backend.ops->locate(b->backend.self, op_of(r), r->off + r->done,
				       r->len - r->done, p);
		BUG_ON(p->len == 0 || p->len > r->len - r->done);
		r->left = p->len;
		switch (p->where) {
		case BLK_HOLE:
			fill_zeros(b, r, p->len);
			r->done += p->len;
			continue;
		case BLK_FILE:
			queue_rw(b, r, p->fd, p->at, p->len);
			return -1;
		case BLK_BACKEND:
			r->niov = op_of(r) == BLK_ZERO ? 0 : map(b, r, r->done, p->len);
			put(&b->slow, r);
			return -1;
		case BLK_BUSY:
			put(&b->held, r);
			return -1;
		}
	}
	/* Without flushes the driver takes "done" for "safe" (5.2.6.2). */
	bool sync = r->type != T_IN && !virtio_has(&b->v, VIRTIO_BLK_F_FLUSH);
	return sync ? go_sync(b, r, false) : S_OK;
}

/* What came of a piece, or of a sync. A status, or -1: under way. */
static int go_further(struct virtio_blk *b, struct blk_req *r, int res)
{
	if (r->syncing) {
		return go_sync(b, r, res < 0);
	}
	if (res >= 0) {
		r->done += (uint64_t)res;
		r->left -= (uint64_t)res;
		r->piece.at += (uint64_t)res;
	}
	if (res >= 0 && r->left > 0) {
		queue_rw(b, r, r->piece.fd, r->piece.at, r->left);
		return -1;
	}
	if (r->type != T_IN) {
		b->backend.ops->done(b->backend.self, &r->piece, res >= 0);
	}
	return res < 0 ? S_IOERR : go_on(b, r);
}

/* On the worker, without the lock. */
static void work_slowly(struct virtio_blk *b)
{
	const struct blk_backend *k = &b->backend;
	while (b->slow != NULL) {
		struct blk_req *r = b->slow;
		int rc = 0;
		b->slow = r->next;
		switch (op_of(r)) {
		case BLK_READ:
			rc = k->ops->read(k->self, &r->piece, r->iov, r->niov);
			break;
		case BLK_WRITE:
			rc = k->ops->write(k->self, &r->piece, r->iov, r->niov);
			break;
		case BLK_ZERO:
			rc = k->ops->zero(k->self, &r->piece);
			break;
		}
		r->res = rc != 0 ? -rc : (int)r->piece.len;
		put(&b->over, r);
	}
}

static bool in_range(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
	return bytes % VIRTIO_BLK_SECTOR == 0 && sector <= b->sectors &&
	       bytes / VIRTIO_BLK_SECTOR <= b->sectors - sector;
}

/* Discard and write-zeroes: one segment, behind the header. Returns a status, or -1: under way. */
static int queue_fallocate(struct virtio_blk *b, struct blk_req *r)
{
	uint8_t raw[SEGMENT_BYTES];
	if (r->chain.read_bytes != HEADER_BYTES + SEGMENT_BYTES) {
		return S_IOERR;
	}
	virtq_read(&b->v.q[r->queue], &r->chain, HEADER_BYTES, raw, sizeof(raw));
	uint64_t sector = get_le64(raw);
	uint64_t bytes = (uint64_t)get_le32(raw + 8) * VIRTIO_BLK_SECTOR;
	uint32_t flags = get_le32(raw + 12);
	if ((flags & ~(uint32_t)UNMAP) != 0 || (r->type == T_DISCARD && flags != 0)) {
		return S_UNSUPP;
	}
	if (bytes == 0 || !in_range(b, sector, bytes)) {
		return S_IOERR;
	}
	if (b->backend.ops != NULL) {
		r->off = sector * VIRTIO_BLK_SECTOR;
		r->len = bytes;
		return go_on(b, r);
	}
	bool punch = r->type == T_DISCARD || (flags & UNMAP) != 0;
	struct io_uring_sqe *sqe = next_sqe(b);
	io_uring_prep_fallocate(sqe, b->fd,
				FALLOC_FL_KEEP_SIZE |
					(punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
				(off_t)(sector * VIRTIO_BLK_SECTOR), (off_t)bytes);
	io_uring_sqe_set_data(sqe, r);
	return -1;
}

static int give_id(struct virtio_blk *b, struct blk_req *r)
{
	char id[ID_BYTES + 1] = "";
	memcpy(id, b->v.id, strnlen(b->v.id, ID_BYTES));
	r->len = MIN(r->chain.write_bytes - 1, (uint64_t)ID_BYTES);
	virtq_write(&b->v.q[r->queue], &r->chain, 0, id, r->len);
	return S_OK;
}

/* Returns a status, or -1: under way with the host. */
static int begin(struct virtio_blk *b, struct blk_req *r, uint64_t sector)
{
	bool writes = r->type == T_OUT || r->type == T_DISCARD || r->type == T_WRITE_ZEROES;
	if (writes && b->read_only) {
		return S_IOERR;
	}
	switch (r->type) {
	case T_IN:
	case T_OUT:
		r->len = r->type == T_IN ? r->chain.write_bytes - 1
					 : r->chain.read_bytes - HEADER_BYTES;
		if (r->len == 0 || !in_range(b, sector, r->len)) {
			return S_IOERR;
		}
		r->off = sector * VIRTIO_BLK_SECTOR;
		if (b->backend.ops != NULL) {
			return go_on(b, r);
		}
		queue_all(b, r);
		return -1;
	case T_FLUSH:
		if (b->backend.ops != NULL) {
			return go_sync(b, r, false);
		}
		queue_sync(b, r, b->fd);
		return -1;
	case T_GET_ID:
		return give_id(b, r);
	case T_DISCARD:
	case T_WRITE_ZEROES:
		return queue_fallocate(b, r);
	default:
		return S_UNSUPP;
	}
}

/* The worker comes back by itself when the limits let in what is in the rings now. */
static bool is_throttled(struct virtio_blk *b)
{
	if (b->ops.per_s == 0 && b->bytes.per_s == 0) {
		return false;
	}
	uint64_t now = clock_mono_ns();
	b->throttled_ns = MAX(rate_limit_wait(&b->ops, now), rate_limit_wait(&b->bytes, now));
	return b->throttled_ns > 0;
}

/* One chain of queue n: false when there is none, no room, or the rate limits hold it up. */
static bool take_one(struct virtio_blk *b, unsigned n)
{
	struct blk_req *r = b->free;
	if (r == NULL || is_throttled(b) || !virtio_pop(&b->v, n, &r->chain)) {
		return false;
	}
	uint8_t header[HEADER_BYTES];
	if (r->chain.write_bytes == 0 || r->chain.read_bytes < HEADER_BYTES) {
		virtio_break(&b->v, "a disk request without header or status");
		return false;
	}
	b->free = r->next;
	virtq_read(&b->v.q[n], &r->chain, 0, header, sizeof(header));
	r->queue = n;
	r->type = get_le32(header);
	r->len = 0;
	r->done = 0;
	r->syncing = false;
	r->step = 0;
	int status = begin(b, r, get_le64(header + 8));
	rate_limit_take(&b->ops, 1);
	rate_limit_take(&b->bytes, status <= S_OK ? r->len : 0); /* done, or under way */
	if (status >= 0) {
		finish(b, r, (uint8_t)status);
	} else {
		b->inflight++;
	}
	return true;
}

void virtio_blk_take(struct virtio_blk *b)
{
	b->v.budget = TURN_CHAINS;
	bool some = true;
	while (some) { /* one of each queue in turn */
		some = false;
		for (unsigned n = 0; n < b->v.nqueues; n++) {
			some = take_one(b, n) || some;
		}
	}
}

void virtio_blk_wait(struct virtio_blk *b)
{
	if (!b->armed) {
		struct io_uring_sqe *sqe = next_sqe(b);
		io_uring_prep_read(sqe, virtio_kick_fd(&b->v), &b->kicks, sizeof(b->kicks), 0);
		io_uring_sqe_set_data(sqe, NULL);
		b->armed = true;
	}
	if (b->slow != NULL) {
		(void)io_uring_submit(&b->ring); /* the host works beside us */
		work_slowly(b);
		return; /* and looks what has ended */
	}
	int rc;
	if (b->throttled_ns > 0) {
		struct io_uring_cqe *cqe = NULL;
		struct __kernel_timespec t = {
			.tv_sec = (int64_t)(b->throttled_ns / NS_PER_S),
			.tv_nsec = (int64_t)(b->throttled_ns % NS_PER_S),
		};
		rc = io_uring_submit_and_wait_timeout(&b->ring, &cqe, 1, &t, NULL);
		b->throttled_ns = 0;
	} else {
		rc = io_uring_submit_and_wait(&b->ring, 1);
	}
	if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
		LOG_E("disk '%s': io_uring: %s", b->v.id, strerrordesc_np(-rc));
	}
}

void virtio_blk_tell(struct virtio_blk *b)
{
	for (; b->due != 0; b->due &= b->due - 1) {
		virtio_tell(&b->v, (unsigned)__builtin_ctz(b->due));
	}
}

static void complain(struct virtio_blk *b, const struct blk_req *r, int res)
{
	if (b->v.complaints < VIRTIO_BLK_DEPTH) {
		b->v.complaints++;
		LOG_W("disk '%s': request of type %u at byte %llu failed: %s", b->v.id, r->type,
		      (unsigned long long)(r->off + r->done), strerrordesc_np(-res));
	}
}

/* The next step of a request on one file, or its end: a status, or -1: under way. */
static int go_plain(struct virtio_blk *b, struct blk_req *r, int res)
{
	bool rw = r->type == T_IN || r->type == T_OUT;
	if (rw && res >= 0) {
		r->done += (uint64_t)res;
		if (r->done < r->len) {
			queue_all(b, r);
			return -1;
		}
	}
	return res >= 0 ? S_OK : res == -EOPNOTSUPP ? S_UNSUPP : S_IOERR;
}

static void end_one(struct virtio_blk *b, struct blk_req *r, int res)
{
	bool rw = !r->syncing && (r->type == T_IN || r->type == T_OUT);
	if (rw && (res == -EINTR || res == -EAGAIN)) {
		res = 0; /* again, as if nothing was moved */
	} else if (rw && res == 0) {
		res = -EIO; /* the file ends before the disk does */
	}
	if (rw && res > 0 && r->type == T_IN) {
		mark_read(b, r, r->done, (uint64_t)res);
	}
	int status = b->backend.ops != NULL ? go_further(b, r, res) : go_plain(b, r, res);
	if (status < 0) {
		return;
	}
	if (status == S_IOERR && res < 0) {
		complain(b, r, res);
	}
	b->inflight--;
	finish(b, r, (uint8_t)status);
}

/* Something has ended: what the backend was too busy for may go on. */
static void ask_again(struct virtio_blk *b)
{
	struct blk_req *list = b->held;
	b->held = NULL;
	while (list != NULL) {
		struct blk_req *r = list;
		list = r->next;
		int status = r->syncing ? go_sync(b, r, false) : go_on(b, r);
		if (status >= 0) {
			b->inflight--;
			finish(b, r, (uint8_t)status);
		}
	}
}

void virtio_blk_reap(struct virtio_blk *b)
{
	struct io_uring_cqe *cqe = NULL;
	while (b->over != NULL) {
		struct blk_req *r = b->over;
		b->over = r->next;
		end_one(b, r, r->res);
	}
	while (io_uring_peek_cqe(&b->ring, &cqe) == 0) {
		struct blk_req *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;
		io_uring_cqe_seen(&b->ring, cqe);
		if (r == NULL) {
			b->armed = false; /* all queues are looked at */
		} else {
			end_one(b, r, res);
		}
	}
	ask_again(b);
}
