/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue, device side. See virtq.h. Layouts: virtio 1.2, 2.7.5 to 2.7.8.
 *
 * I1: while q->bad is NULL and the queue is ready, the three parts of the ring lie in RAM, aligned.
 * I2: a chain that pop returned has at most VIRTQ_SEGS_MAX buffers, each not empty and wholly in
 * one region of RAM, readable ones first. I3: the loop over a chain ends: it takes at most
 * VIRTQ_SEGS_MAX steps, whatever the guest writes.
 */
#include "devices/virtq.h"

#include <stdatomic.h>
#include <string.h>

#include "core/base/bytes.h"

enum {
	DESC_BYTES = 16,
	DESC_NEXT = 1,
	DESC_WRITE = 2,
	DESC_INDIRECT = 4,
	AVAIL_NO_INTERRUPT = 1,
	USED_NO_NOTIFY = 1,
	RING_HEAD = 4, /* flags and index of the avail and used parts */
	AVAIL_ENTRY = 2,
	USED_ENTRY = 8,
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

static enum virtq_got bad(struct virtq *q, const char *why)
{
	q->bad = why;
	return VIRTQ_BAD;
}

/* A 16-bit word of the ring; NULL can only be when I1 was broken by a bug. */
static _Atomic uint16_t *word(const struct virtq *q, uint64_t gpa)
{
	_Atomic uint16_t *p = gmem_at(q->gmem, GPA(gpa), sizeof(uint16_t));
	BUG_ON(p == NULL);
	return p;
}

static uint64_t avail_bytes(const struct virtq *q)
{
	return RING_HEAD + (uint64_t)AVAIL_ENTRY * q->st.size + 2;
}

static uint64_t used_bytes(const struct virtq *q)
{
	return RING_HEAD + (uint64_t)USED_ENTRY * q->st.size + 2;
}

void virtq_start(struct virtq *q)
{
	const struct virtq_state *st = &q->st;
	q->bad = NULL;
	if (st->size == 0 || st->size > VIRTQ_SIZE_MAX || (st->size & (st->size - 1)) != 0) {
		q->bad = "its size is no power of two in range";
	} else if (st->desc % DESC_BYTES != 0 || st->avail % 2 != 0 || st->used % 4 != 0) {
		q->bad = "its ring is not aligned";
	} else if (gmem_at(q->gmem, GPA(st->desc), (uint64_t)DESC_BYTES * st->size) == NULL ||
		   gmem_at(q->gmem, GPA(st->avail), avail_bytes(q)) == NULL ||
		   gmem_at(q->gmem, GPA(st->used), used_bytes(q)) == NULL) {
		q->bad = "its ring lies outside memory";
	}
}

static bool usable(const struct virtq *q)
{
	return q->st.ready && q->bad == NULL;
}

static uint16_t avail_index(const struct virtq *q)
{
	/* Acquire: entries that the driver wrote before the index are seen (2.7.13). */
	return atomic_load_explicit(word(q, q->st.avail + 2), memory_order_acquire);
}

unsigned virtq_waiting(const struct virtq *q)
{
	if (!usable(q)) {
		return 0;
	}
	uint16_t n = (uint16_t)(avail_index(q) - q->st.next_avail);
	return n <= q->st.size ? n : 0;
}

/* One copy: the guest may change the original behind our back. */
static bool read_desc(const struct virtq *q, uint64_t gpa, struct desc *ret)
{
	uint8_t raw[DESC_BYTES];
	const void *p = gmem_at(q->gmem, GPA(gpa), DESC_BYTES);
	if (p == NULL) {
		return false;
	}
	memcpy(raw, p, sizeof(raw));
	*ret = (struct desc){
		.addr = get_le64(raw),
		.len = get_le32(raw + 8),
		.flags = get_le16(raw + 12),
		.next = get_le16(raw + 14),
	};
	return true;
}

static enum virtq_got add_seg(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
	unsigned n = (unsigned)c->nread + c->nwrite;
	if (n >= VIRTQ_SEGS_MAX) {
		return bad(q, "a chain is too long");
	}
	if (d->len == 0) {
		return bad(q, "a buffer is empty");
	}
	if (gmem_at(q->gmem, GPA(d->addr), d->len) == NULL) {
		return bad(q, "a buffer lies outside memory");
	}
	if ((d->flags & DESC_WRITE) != 0) {
		c->nwrite++;
		c->write_bytes += d->len;
	} else {
		if (c->nwrite > 0) {
			return bad(q, "a readable buffer follows a writable one");
		}
		c->nread++;
		c->read_bytes += d->len;
	}
	c->seg[n] = (struct virtq_seg){ .gpa = d->addr, .len = d->len };
	return VIRTQ_GOT;
}

/* Walks a table of `entries` descriptors at `table`, from `at` on. I3. */
static enum virtq_got walk(struct virtq *q, struct virtq_chain *c, uint64_t table, uint32_t entries,
			   uint16_t at, bool may_indirect)
{
	for (unsigned step = 0;; step++) {
		struct desc d = { 0 };
		if (step == VIRTQ_SEGS_MAX || step == entries) {
			return bad(q, "a chain loops or is too long");
		}
		if (at >= entries) {
			return bad(q, "a descriptor's number is out of range");
		}
		if (!read_desc(q, table + (uint64_t)DESC_BYTES * at, &d)) {
			return bad(q, "a descriptor lies outside memory");
		}
		if ((d.flags & DESC_INDIRECT) != 0) {
			if (!may_indirect || !q->indirect) {
				return bad(q, "an indirect table where none may be");
			}
			if ((d.flags & DESC_NEXT) != 0) {
				return bad(q, "a descriptor is both indirect and chained");
			}
			if (d.len == 0 || d.len % DESC_BYTES != 0 ||
			    d.len / DESC_BYTES > VIRTQ_SEGS_MAX) {
				return bad(q, "an indirect table has a bad length");
			}
			/* Alignment is not required; d.addr + offsets cannot wrap inside RAM. */
			if (gmem_at(q->gmem, GPA(d.addr), d.len) == NULL) {
				return bad(q, "an indirect table lies outside memory");
			}
			return walk(q, c, d.addr, d.len / DESC_BYTES, 0, false);
		}
		enum virtq_got got = add_seg(q, c, &d);
		if (got != VIRTQ_GOT || (d.flags & DESC_NEXT) == 0) {
			return got;
		}
		at = d.next;
	}
}

enum virtq_got virtq_pop(struct virtq *q, struct virtq_chain *ret)
{
	if (!usable(q)) {
		return q->bad != NULL ? VIRTQ_BAD : VIRTQ_EMPTY;
	}
	uint16_t n = (uint16_t)(avail_index(q) - q->st.next_avail);
	if (n == 0) {
		return VIRTQ_EMPTY;
	}
	if (n > q->st.size) {
		return bad(q, "the driver's index ran away");
	}
	uint64_t entry =
		q->st.avail + RING_HEAD + (uint64_t)AVAIL_ENTRY * (q->st.next_avail % q->st.size);
	uint16_t head = atomic_load_explicit(word(q, entry), memory_order_relaxed);
	ret->head = head;
	ret->nread = 0;
	ret->nwrite = 0;
	ret->read_bytes = 0;
	ret->write_bytes = 0;
	enum virtq_got got = walk(q, ret, q->st.desc, q->st.size, head, true);
	if (got == VIRTQ_GOT) {
		q->st.next_avail++;
	}
	return got;
}

void virtq_unpop(struct virtq *q)
{
	q->st.next_avail--;
}

static void put_word(struct virtq *q, uint64_t gpa, uint16_t v, memory_order order)
{
	atomic_store_explicit(word(q, gpa), v, order);
	gmem_mark_dirty(q->gmem, GPA(gpa), sizeof(v));
}

bool virtq_kicks(struct virtq *q, bool on)
{
	if (!usable(q)) {
		return false;
	}
	if (!q->event_idx) {
		put_word(q, q->st.used, on ? 0 : USED_NO_NOTIFY, memory_order_relaxed);
	} else if (on) {
		put_word(q, q->st.used + RING_HEAD + (uint64_t)USED_ENTRY * q->st.size,
			 q->st.next_avail, memory_order_relaxed);
	}
	if (!on) {
		return false;
	}
	/* The driver writes its index, then reads the above; we write the above, then read its
	 * index: with a full fence on both sides one of us sees the other (2.7.10). */
	atomic_thread_fence(memory_order_seq_cst);
	return virtq_waiting(q) > 0;
}

void virtq_put(struct virtq *q, unsigned k, uint16_t head, uint32_t written)
{
	if (!usable(q)) {
		return;
	}
	uint8_t entry[USED_ENTRY];
	put_le32(entry, head);
	put_le32(entry + 4, written);
	uint64_t slot = (uint64_t)(uint16_t)(q->st.next_used + k) % q->st.size;
	struct err *e = gmem_write(q->gmem, GPA(q->st.used + RING_HEAD + USED_ENTRY * slot), entry,
				   sizeof(entry));
	err_drop(e, "cannot be: the ring was checked when the queue started (I1)");
}

void virtq_publish(struct virtq *q, unsigned n)
{
	if (!usable(q)) {
		return;
	}
	q->st.next_used = (uint16_t)(q->st.next_used + n);
	/* Release: the entries, and what was written to the buffers, come before the index. */
	put_word(q, q->st.used + 2, q->st.next_used, memory_order_release);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	virtq_put(q, 0, head, written);
	virtq_publish(q, 1);
}

bool virtq_wants_irq(struct virtq *q)
{
	if (!usable(q)) {
		return false;
	}
	/* The driver sets what it wants, then looks at our index: as in virtq_kicks, mirrored. */
	atomic_thread_fence(memory_order_seq_cst);
	uint16_t now = q->st.next_used;
	uint16_t before = q->st.told_used;
	bool told = q->st.told;
	if (told && now == before) {
		return false; /* nothing came since it was told */
	}
	q->st.told_used = now;
	q->st.told = true;
	if (!q->event_idx) {
		uint16_t flags = atomic_load_explicit(word(q, q->st.avail), memory_order_relaxed);
		return (flags & AVAIL_NO_INTERRUPT) == 0;
	}
	uint16_t event = atomic_load_explicit(
		word(q, q->st.avail + RING_HEAD + (uint64_t)AVAIL_ENTRY * q->st.size),
		memory_order_relaxed);
	/* 2.7.7.1: the driver's event lies between what it was told before and now. */
	return !told || (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* Bytes [at, at + len) of buffers, piece by piece. */
struct pieces {
	const struct virtq_seg *seg; /* the next n buffers */
	unsigned n;
	uint64_t at;  /* from the first of them on */
	uint64_t len; /* left */
	uint64_t gpa; /* of the piece at hand */
	uint64_t bytes;
};

static bool next_piece(struct pieces *p)
{
	while (p->n > 0 && p->at >= p->seg->len) {
		p->at -= p->seg->len;
		p->seg++;
		p->n--;
	}
	if (p->n == 0 || p->len == 0) {
		return false;
	}
	p->gpa = p->seg->gpa + p->at;
	p->bytes = MIN(p->seg->len - p->at, p->len);
	p->at += p->bytes;
	p->len -= p->bytes;
	return true;
}

/* Copies between a buffer of ours and the pieces. */
static uint64_t copy(const struct virtq *q, struct pieces p, uint8_t *out, const uint8_t *in)
{
	uint64_t done = 0;
	for (; next_piece(&p); done += p.bytes) {
		struct err *e = out != NULL ? gmem_read(q->gmem, GPA(p.gpa), out + done, p.bytes)
					    : gmem_write(q->gmem, GPA(p.gpa), in + done, p.bytes);
		if (e != NULL) {
			err_drop(e, "cannot be: pop checked the buffer (I2)");
			break;
		}
	}
	return done;
}

static struct pieces part(const struct virtq_chain *c, bool writable, uint64_t at, uint64_t len)
{
	return (struct pieces){
		.seg = c->seg + (writable ? c->nread : 0),
		.n = writable ? c->nwrite : c->nread,
		.at = at,
		.len = len,
	};
}

uint64_t virtq_read(const struct virtq *q, const struct virtq_chain *c, uint64_t at, void *ret,
		    uint64_t len)
{
	return copy(q, part(c, false, at, len), ret, NULL);
}

uint64_t virtq_write(struct virtq *q, const struct virtq_chain *c, uint64_t at, const void *p,
		     uint64_t len)
{
	return copy(q, part(c, true, at, len), NULL, p);
}

unsigned virtq_map(const struct virtq *q, const struct virtq_chain *c, bool writable, uint64_t at,
		   uint64_t len, struct iovec *ret)
{
	unsigned n = 0;
	for (struct pieces p = part(c, writable, at, len); next_piece(&p); n++) {
		void *host = gmem_at(q->gmem, GPA(p.gpa), p.bytes);
		BUG_ON(host == NULL); /* pop checked the buffer (I2) */
		ret[n] = (struct iovec){ .iov_base = host, .iov_len = p.bytes };
	}
	return n;
}

void virtq_mark(struct virtq *q, const struct virtq_chain *c, uint64_t at, uint64_t len)
{
	for (struct pieces p = part(c, true, at, len); next_piece(&p);) {
		gmem_mark_dirty(q->gmem, GPA(p.gpa), p.bytes);
	}
}

static const struct state_field virtq_fields[] = {
	FIELD(struct virtq_state, 1, desc),
	FIELD(struct virtq_state, 2, avail),
	FIELD(struct virtq_state, 3, used),
	FIELD(struct virtq_state, 4, size, FIELD_RANGE(0, VIRTQ_SIZE_MAX)),
	FIELD(struct virtq_state, 5, vector),
	FIELD(struct virtq_state, 6, next_avail),
	FIELD(struct virtq_state, 7, next_used),
	FIELD(struct virtq_state, 8, told_used),
	FIELD(struct virtq_state, 9, told),
	FIELD(struct virtq_state, 10, ready),
	PAD(struct virtq_state, pad),
};

const struct state_desc virtq_desc = {
	.name = "virtq",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtq_state),
	.fields = virtq_fields,
	.nfields = ARRAY_LEN(virtq_fields),
};
