/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio memory balloon. See virtio_balloon.h. On the main loop, but for the registers (vCPU
 * threads) and the part operations; always with the device's lock held.
 */
#include "devices/virtio_balloon.h"

#include <string.h>

#include "core/base/bytes.h"

enum {
	INFLATE = 0,
	DEFLATE = 1,
	NQUEUES = 4, /* and figures and reports, in this order, where the driver agreed on them */
	NO_QUEUE = NQUEUES,
	QUEUE_SIZE = 128,
	CLASS_MEMORY = 0x050000,

	F_STATS = 1,
	F_DEFLATE_ON_OOM = 2,
	F_REPORTING = 5,

	AT_TARGET = 0, /* in the configuration */
	AT_ACTUAL = 4,
	CONFIG_BYTES = 8,

	PFN_BYTES = 4,
	PIECE_PFNS = 512,
	CHAIN_PFNS = 64 * 1024, /* in one chain; Linux gives 256 */
	TURN_PAGES = 16 * 1024, /* after this the others' turn */
	STAT_BYTES = 10,
	CHAIN_STATS = 64,
};

/* The guest's buffer for figures waits in its ring until somebody asks. */
enum asking {
	IDLE,
	WANTED, /* the buffer is to be given back, which asks for new figures */
	SENT,   /* it was; the next one has them */
};

struct virtio_balloon {
	struct virtio v;                   /* first */
	struct virtio_balloon_state saved; /* part.state */
	struct virtq_chain chain;          /* [lock] the one at hand */
	/* [lock] Those of the configuration are the live ones of target and actual. */
	uint32_t actual; /* the configuration's, as of its last change */
	bool tell;
	enum asking asking;
	uint64_t told;
	uint64_t ooms;
	uint32_t valid;
	uint64_t stat[BALLOON__STATS];
};

static struct virtio_balloon *balloon_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_balloon, v);
}

static void tell_core(const struct virtio_balloon *b)
{
	const struct dev_host *h = b->v.pci.dev.host;
	h->event(h->self, DEV_EVENT_BALLOON);
}

static unsigned stats_queue(const struct virtio_balloon *b)
{
	return virtio_has(&b->v, 1ull << F_STATS) ? DEFLATE + 1 : NO_QUEUE;
}

static unsigned report_queue(const struct virtio_balloon *b)
{
	if (!virtio_has(&b->v, 1ull << F_REPORTING)) {
		return NO_QUEUE;
	}
	return virtio_has(&b->v, 1ull << F_STATS) ? DEFLATE + 2 : DEFLATE + 1;
}

/* ---- pages that come ---- */

static void give_back(struct virtio_balloon *b, uint64_t gpa, uint64_t len)
{
	const struct dev_host *h = b->v.pci.dev.host;
	if (len > 0 && h->give_back != NULL) {
		h->give_back(h->self, gpa, len);
	}
}

static int compare_pfns(const void *a, const void *b)
{
	const uint32_t *x = a;
	const uint32_t *y = b;
	return *x < *y ? -1 : *x > *y;
}

/* Runs of pages, which come in any order. False: one is no RAM. */
static bool take_pfns(struct virtio_balloon *b, uint32_t *pfn, unsigned n)
{
	uint64_t from = 0;
	uint64_t len = 0;
	qsort(pfn, n, sizeof(*pfn), compare_pfns);
	for (unsigned i = 0; i < n; i++) {
		uint64_t gpa = (uint64_t)pfn[i] * PAGE_BYTES;
		if (gmem_at(b->v.q[INFLATE].gmem, GPA(gpa), PAGE_BYTES) == NULL) {
			return false;
		}
		if (len > 0 && gpa == from + len - PAGE_BYTES) {
			continue; /* twice the same */
		}
		/* Regions do not touch each other: a run is in one. */
		if (gpa != from + len) {
			give_back(b, from, len);
			from = gpa;
			len = 0;
		}
		len += PAGE_BYTES;
	}
	give_back(b, from, len);
	return true;
}

/* The chain at hand names pages; false: it breaks the rules. */
static bool take_chain(struct virtio_balloon *b)
{
	struct virtq *q = &b->v.q[INFLATE];
	if (b->chain.nwrite > 0 || b->chain.read_bytes % PFN_BYTES != 0 ||
	    b->chain.read_bytes > (uint64_t)CHAIN_PFNS * PFN_BYTES) {
		return false;
	}
	for (uint64_t at = 0; at < b->chain.read_bytes;) {
		uint8_t raw[PIECE_PFNS * PFN_BYTES];
		uint32_t pfn[PIECE_PFNS];
		unsigned n = (unsigned)(virtq_read(q, &b->chain, at, raw, sizeof(raw)) / PFN_BYTES);
		for (unsigned i = 0; i < n; i++) {
			pfn[i] = get_le32(raw + (size_t)i * PFN_BYTES);
		}
		if (!take_pfns(b, pfn, n)) {
			return false;
		}
		at += sizeof(raw);
	}
	return true;
}

/* The chain's buffers are the pages. What of a buffer is no whole page stays. */
static bool take_report(struct virtio_balloon *b)
{
	if (b->chain.nread > 0 || b->chain.write_bytes > gmem_bytes(b->v.q[0].gmem)) {
		return false; /* more than there is: some are there twice */
	}
	for (unsigned i = 0; i < b->chain.nwrite; i++) {
		const struct virtq_seg *s = &b->chain.seg[i];
		uint64_t from = round_up_u64(s->gpa, PAGE_BYTES);
		uint64_t end = (s->gpa + s->len) / PAGE_BYTES * PAGE_BYTES;
		if (from < end) {
			give_back(b, from, end - from);
		}
	}
	return true;
}

static bool take_nothing(struct virtio_balloon *b)
{
	return b->chain.nwrite == 0; /* deflated: the guest's pages come when it touches them */
}

static void serve(struct virtio_balloon *b, unsigned queue, bool (*take)(struct virtio_balloon *b))
{
	uint64_t pages = 0;
	bool some = false;
	while (queue != NO_QUEUE && pages < TURN_PAGES && virtio_pop(&b->v, queue, &b->chain)) {
		if (!take(b)) {
			virtio_break(&b->v, "a balloon's list of pages");
			return;
		}
		pages += b->chain.read_bytes / PFN_BYTES + b->chain.write_bytes / PAGE_BYTES;
		virtio_push(&b->v, queue, &b->chain, 0);
		some = true;
	}
	if (pages >= TURN_PAGES) {
		virtio_kick(&b->v);
	}
	if (some) {
		virtio_tell(&b->v, queue);
	}
}

/* ---- figures ---- */

static void read_stats(struct virtio_balloon *b, unsigned queue)
{
	uint8_t raw[CHAIN_STATS * STAT_BYTES];
	uint64_t n = virtq_read(&b->v.q[queue], &b->chain, 0, raw, sizeof(raw)) / STAT_BYTES;
	b->valid = 0;
	for (uint64_t i = 0; i < n; i++) {
		unsigned tag = get_le16(raw + i * STAT_BYTES);
		if (tag < BALLOON__STATS) { /* others are of later drivers */
			b->stat[tag] = get_le64(raw + i * STAT_BYTES + 2);
			b->valid |= 1u << tag;
		}
	}
	b->told++;
	tell_core(b);
}

static void serve_stats(struct virtio_balloon *b)
{
	unsigned queue = stats_queue(b);
	if (queue == NO_QUEUE) {
		return;
	}
	if (b->asking == WANTED && virtio_pop(&b->v, queue, &b->chain)) {
		virtio_push(&b->v, queue, &b->chain, 0);
		virtio_tell(&b->v, queue);
		b->asking = SENT;
	}
	/* Popped also where none can be yet: that leaves the kicks on. */
	if (b->asking == SENT && virtio_pop(&b->v, queue, &b->chain)) {
		read_stats(b, queue);
		virtq_unpop(&b->v.q[queue]); /* it stays for the next time */
		b->asking = IDLE;
	}
}

static void balloon_work(struct virtio *v)
{
	struct virtio_balloon *b = balloon_of(v);
	if (b->tell) {
		b->tell = false;
		virtio_config_changed(v);
	}
	serve(b, INFLATE, take_chain);
	serve(b, DEFLATE, take_nothing);
	serve(b, report_queue(b), take_report);
	serve_stats(b);
}

/* ---- what the driver does ---- */

static void balloon_reset(struct virtio *v, struct virtq *q)
{
	struct virtio_balloon *b = balloon_of(v);
	b->asking = b->asking == SENT ? WANTED : b->asking; /* of the next driver */
	if (q == NULL) {
		put_le32(v->config + AT_ACTUAL, 0);
		b->actual = 0;
		b->tell = false; /* the next driver reads it anyway */
		tell_core(b);
	}
}

/* The guest says how much it has given. */
static void balloon_config_written(struct virtio *v, unsigned off, unsigned len)
{
	struct virtio_balloon *b = balloon_of(v);
	uint32_t now = get_le32(v->config + AT_ACTUAL);
	(void)off;
	(void)len;
	if (now == b->actual) {
		return;
	}
	if (now < b->actual && get_le32(v->config + AT_TARGET) >= b->actual &&
	    virtio_has(v, 1ull << F_DEFLATE_ON_OOM)) {
		b->ooms++;
	}
	b->actual = now;
	tell_core(b);
}

static void balloon_free(struct device *dev)
{
	if (dev != NULL) {
		struct virtio_balloon *b = balloon_of(virtio_of(dev));
		virtio_done(&b->v);
		free(b);
	}
}

/* ---- for core ---- */

void virtio_balloon_target(struct device *dev, uint64_t bytes)
{
	struct virtio_balloon *b = balloon_of(virtio_of(dev));
	LOCK_SCOPE(&b->v.pci.lock);
	put_le32(b->v.config + AT_TARGET, (uint32_t)MIN(bytes / PAGE_BYTES, (uint64_t)UINT32_MAX));
	b->tell = true;
	virtio_kick(&b->v);
}

void virtio_balloon_ask(struct device *dev)
{
	struct virtio_balloon *b = balloon_of(virtio_of(dev));
	LOCK_SCOPE(&b->v.pci.lock);
	b->asking = b->asking == IDLE ? WANTED : b->asking;
	virtio_kick(&b->v);
}

struct virtio_balloon_info virtio_balloon_look(struct device *dev)
{
	struct virtio_balloon *b = balloon_of(virtio_of(dev));
	LOCK_SCOPE(&b->v.pci.lock);
	struct virtio_balloon_info i = {
		.target_bytes = (uint64_t)get_le32(b->v.config + AT_TARGET) * PAGE_BYTES,
		.actual_bytes = (uint64_t)get_le32(b->v.config + AT_ACTUAL) * PAGE_BYTES,
		.ready = virtio_running(&b->v),
		.told = b->told,
		.ooms = b->ooms,
		.valid = b->valid,
	};
	i.can_tell = i.ready && stats_queue(b) != NO_QUEUE;
	memcpy(i.stat, b->stat, sizeof(i.stat));
	return i;
}

/* ---- saved state ---- */

static struct err *balloon_fetch(void *self)
{
	struct virtio_balloon *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	virtio_fetch(&b->v, &b->saved.virtio);
	b->saved.target = get_le32(b->v.config + AT_TARGET);
	b->saved.actual = get_le32(b->v.config + AT_ACTUAL);
	b->saved.tell = b->tell;
	return NULL;
}

static struct err *balloon_commit(void *self)
{
	struct virtio_balloon *b = self;
	LOCK_SCOPE(&b->v.pci.lock);
	put_le32(b->v.config + AT_TARGET, b->saved.target);
	put_le32(b->v.config + AT_ACTUAL, b->saved.actual);
	b->actual = b->saved.actual;
	b->tell = b->saved.tell;
	return virtio_commit(&b->v, &b->saved.virtio);
}

static const struct state_field balloon_fields[] = {
	FIELD_SUB(struct virtio_balloon_state, 1, virtio, &virtio_desc),
	FIELD(struct virtio_balloon_state, 2, target),
	FIELD(struct virtio_balloon_state, 3, actual),
	FIELD(struct virtio_balloon_state, 4, tell),
	PAD(struct virtio_balloon_state, pad),
};

const struct state_desc virtio_balloon_desc = {
	.name = "virtio_balloon",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_balloon_state),
	.fields = balloon_fields,
	.nfields = ARRAY_LEN(balloon_fields),
};

static const struct snap_part_ops balloon_part_ops = {
	.fetch = balloon_fetch,
	.commit = balloon_commit,
};

static const struct virtio_ops balloon_ops = {
	.work = balloon_work,
	.reset = balloon_reset,
	.config_written = balloon_config_written,
};

static const struct dev_ops balloon_dev_ops = {
	.name = "virtio_balloon",
	.on_fd = virtio_on_fd,
	.free = balloon_free,
};

struct err *virtio_balloon_new(const struct dev_host *host, const char *id,
			       struct pci_dev **ret_dev)
{
	struct virtio_balloon *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "out of memory");
	const struct virtio_opts opts = {
		.ops = &balloon_ops,
		.dev_ops = &balloon_dev_ops,
		.id = id,
		.type = VIRTIO_ID_BALLOON,
		.class = CLASS_MEMORY,
		.features = 1ull << F_STATS | 1ull << F_DEFLATE_ON_OOM | 1ull << F_REPORTING,
		.nqueues = NQUEUES,
		.queue_size = QUEUE_SIZE,
		.config_bytes = CONFIG_BYTES,
	};
	struct err *e = virtio_init(&b->v, host, &opts);
	if (e != NULL) {
		balloon_free(&b->v.pci.dev);
		return e;
	}
	memset(b->v.config_writable + AT_ACTUAL, 0xff, CONFIG_BYTES - AT_ACTUAL);
	b->v.pci.dev.part = virtio_part(&b->v, &virtio_balloon_desc, &b->saved, &balloon_part_ops);
	*ret_dev = &b->v.pci;
	return NULL;
}
