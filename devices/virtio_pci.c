/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registers of virtio over PCI, modern only: virtio 1.2, 4.1. Called by vCPU threads through the
 * PCI host bridge, and by virtio.c.
 *
 * One 64-bit BAR of 32 KiB has a page for each kind of register, so that a hypervisor above us may
 * map them apart. Doorbells are 4 bytes apart, one per queue.
 *
 * I1: doorbells are set at doorbells_at if and only if it is not 0; then the device runs, and
 *     doorbells_at is where the guest has the BAR.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "devices/virtio_internal.h"

enum {
	VENDOR = 0x1af4,
	DEVICE_BASE = 0x1040,
	REVISION_MODERN = 1,

	CFG_COMMON = 1,
	CFG_NOTIFY = 2,
	CFG_ISR = 3,
	CFG_DEVICE = 4,
	CFG_PCI = 5,
	CAP_BYTES = 16,
	CAP_NOTIFY_BYTES = 20,
	CAP_PCI_BYTES = 20,
	CAP_PCI_BAR = 4, /* offsets in the capability of PCI configuration access */
	CAP_PCI_OFFSET = 8,
	CAP_PCI_LENGTH = 12,
	CAP_PCI_DATA = 16,

	COMMON_DEVICE_SELECT = 0x00,
	COMMON_DEVICE_FEATURES = 0x04,
	COMMON_DRIVER_SELECT = 0x08,
	COMMON_DRIVER_FEATURES = 0x0c,
	COMMON_CONFIG_VECTOR = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_VECTOR = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFF = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_AVAIL = 0x28,
	COMMON_QUEUE_USED = 0x30,
	COMMON_QUEUE_NOTIFY_DATA = 0x38,
	COMMON_QUEUE_RESET = 0x3a,
	COMMON_BYTES = 0x3c,
};

static struct virtio *of_pci(struct pci_dev *p)
{
	return CONTAINER_OF(p, struct virtio, pci);
}

/* ---- building ---- */

static void add_cap(struct virtio *v, uint8_t kind, uint32_t off, uint32_t len)
{
	uint8_t body[CAP_NOTIFY_BYTES - 2] = { 0 };
	unsigned bytes = kind == CFG_NOTIFY ? CAP_NOTIFY_BYTES : CAP_BYTES;
	body[0] = (uint8_t)bytes;
	body[1] = kind;
	body[2] = VIRTIO_BAR;
	put_le32(body + 6, off);
	put_le32(body + 10, len);
	put_le32(body + 14, VIRTIO_NOTIFY_BYTES);
	pci_add_cap(&v->pci, PCI_CAP_VENDOR, body, NULL, bytes);
}

void virtio_pci_build(struct virtio *v, const struct virtio_opts *opts)
{
	const struct pci_ids ids = {
		.vendor = VENDOR,
		.device = (uint16_t)(DEVICE_BASE + opts->type),
		.subsystem_vendor = VENDOR,
		.subsystem = (uint16_t)(DEVICE_BASE + opts->type),
		.revision = REVISION_MODERN,
		.class = opts->class,
	};
	pci_dev_init(&v->pci, &virtio_pci_ops, &ids);
	pci_add_bar64(&v->pci, VIRTIO_BAR, VIRTIO_BAR_BYTES);
	add_cap(v, CFG_COMMON, VIRTIO_AT_COMMON, COMMON_BYTES);
	add_cap(v, CFG_NOTIFY, VIRTIO_AT_NOTIFY, VIRTIO_NOTIFY_BYTES * opts->nqueues);
	add_cap(v, CFG_ISR, VIRTIO_AT_ISR, 1);
	if (opts->config_bytes > 0) {
		add_cap(v, CFG_DEVICE, VIRTIO_AT_CONFIG, opts->config_bytes);
	}
	/* One vector per queue and one for changes of the configuration. */
	pci_add_msix(&v->pci, opts->nqueues + 1, VIRTIO_BAR, VIRTIO_AT_MSIX, VIRTIO_AT_PBA);
	uint8_t body[CAP_PCI_BYTES - 2] = { CAP_PCI_BYTES, CFG_PCI };
	uint8_t mask[CAP_PCI_BYTES - 2] = { 0 };
	mask[CAP_PCI_BAR - 2] = 0xff;
	memset(mask + CAP_PCI_OFFSET - 2, 0xff, CAP_PCI_BYTES - CAP_PCI_OFFSET);
	v->pci_cap = pci_add_cap(&v->pci, PCI_CAP_VENDOR, body, mask, CAP_PCI_BYTES);
}

/* ---- interrupts and doorbells ---- */

void virtio_pci_irq(struct virtio *v, uint16_t vector, uint8_t isr)
{
	if (pci_msix_on(&v->pci)) {
		if (vector != VIRTIO_NO_VECTOR) {
			pci_msix_fire(&v->pci, vector);
		}
		return;
	}
	v->live.isr |= isr;
	pci_set_intx(&v->pci, true);
}

void virtio_pci_doorbells(struct virtio *v)
{
	const struct dev_host *h = v->pci.dev.host;
	uint64_t want = virtio_running(v) ? pci_bar_gpa(&v->pci, VIRTIO_BAR) : 0;
	if (want == v->doorbells_at || h->doorbell == NULL) {
		return;
	}
	if (v->doorbells_at != 0) {
		for (unsigned i = 0; i < v->nqueues; i++) {
			if ((v->doorbells_set >> i & 1) != 0) {
				h->doorbell(h->self, v->kick.n,
					    v->doorbells_at + VIRTIO_AT_NOTIFY +
						    (uint64_t)VIRTIO_NOTIFY_BYTES * i,
					    false);
			}
		}
	}
	v->doorbells_at = want;
	v->doorbells_set = 0;
	for (unsigned i = 0; want != 0 && i < v->nqueues; i++) {
		/* Where it cannot be set the write comes to bar_write and does the same. */
		if (v->q[i].st.ready &&
		    h->doorbell(h->self, v->kick.n,
				want + VIRTIO_AT_NOTIFY + (uint64_t)VIRTIO_NOTIFY_BYTES * i,
				true)) {
			v->doorbells_set |= 1u << i;
		}
	}
}

static void pci_moved(struct pci_dev *p)
{
	virtio_pci_doorbells(of_pci(p));
}

/* ---- common configuration ---- */

static struct virtq *selected(struct virtio *v)
{
	return v->live.queue_select < v->nqueues ? &v->q[v->live.queue_select] : NULL;
}

static uint32_t half(uint64_t v, uint32_t select)
{
	return select < 2 ? (uint32_t)(v >> (32 * select)) : 0;
}

/* The whole block as bytes, from which any access takes its share. */
static void common_image(struct virtio *v, uint8_t *c)
{
	const struct virtq *q = selected(v);
	const struct virtio_state *st = &v->live;
	memset(c, 0, COMMON_BYTES);
	put_le32(c + COMMON_DEVICE_SELECT, st->device_select);
	put_le32(c + COMMON_DEVICE_FEATURES, half(v->offered, st->device_select));
	put_le32(c + COMMON_DRIVER_SELECT, st->driver_select);
	put_le32(c + COMMON_DRIVER_FEATURES, half(st->features, st->driver_select));
	put_le16(c + COMMON_CONFIG_VECTOR, st->config_vector);
	put_le16(c + COMMON_NUM_QUEUES, (uint16_t)v->nqueues);
	c[COMMON_STATUS] = st->status;
	c[COMMON_GENERATION] = st->generation;
	put_le16(c + COMMON_QUEUE_SELECT, st->queue_select);
	if (q == NULL) {
		return; /* size 0: there is no such queue */
	}
	put_le16(c + COMMON_QUEUE_SIZE, q->st.size);
	put_le16(c + COMMON_QUEUE_VECTOR, q->st.vector);
	put_le16(c + COMMON_QUEUE_ENABLE, q->st.ready);
	put_le16(c + COMMON_QUEUE_NOTIFY_OFF, st->queue_select);
	put_le64(c + COMMON_QUEUE_DESC, q->st.desc);
	put_le64(c + COMMON_QUEUE_AVAIL, q->st.avail);
	put_le64(c + COMMON_QUEUE_USED, q->st.used);
	put_le16(c + COMMON_QUEUE_NOTIFY_DATA, st->queue_select);
}

/* A vector that the device has, or none. */
static uint16_t good_vector(const struct virtio *v, uint64_t n)
{
	return n < v->pci.live.nvectors ? (uint16_t)n : (uint16_t)VIRTIO_NO_VECTOR;
}

static void write_features(struct virtio *v, uint32_t data)
{
	unsigned shift = 32 * v->live.driver_select;
	if (v->live.driver_select >= 2 || (v->live.status & VIRTIO_STATUS_FEATURES_OK) != 0) {
		return;
	}
	v->live.features &= ~(0xffffffffull << shift);
	v->live.features |= (uint64_t)data << shift;
}

static void write_address(uint64_t *reg, unsigned byte, unsigned len, uint64_t data)
{
	if (len == 8) {
		*reg = data;
	} else if (byte == 0) {
		*reg = (*reg & ~0xffffffffull) | (uint32_t)data;
	} else {
		*reg = (*reg & 0xffffffffull) | data << 32;
	}
}

/* Registers of the selected queue; its set-up is const while it is enabled. */
static void write_queue(struct virtio *v, unsigned off, unsigned len, uint64_t data)
{
	struct virtq *q = selected(v);
	if (q == NULL) {
		return;
	}
	bool wide = len >= 4;
	switch (off) {
	case COMMON_QUEUE_VECTOR:
		q->st.vector = good_vector(v, data);
		return;
	case COMMON_QUEUE_RESET:
		if (data == 1 && virtio_has(v, VIRTIO_F_RING_RESET)) {
			virtio_queue_reset(v, v->live.queue_select);
		}
		return;
	case COMMON_QUEUE_ENABLE:
		if (data == 1) {
			virtio_queue_enable(v, v->live.queue_select);
		}
		return;
	default:
		break;
	}
	if (q->st.ready) {
		return;
	}
	switch (off & ~7u) {
	case COMMON_QUEUE_SIZE & ~7u:
		if (off == COMMON_QUEUE_SIZE && len == 2 && data <= v->queue_size) {
			q->st.size = (uint16_t)data;
		}
		break;
	case COMMON_QUEUE_DESC:
		if (wide) {
			write_address(&q->st.desc, off & 7, len, data);
		}
		break;
	case COMMON_QUEUE_AVAIL:
		if (wide) {
			write_address(&q->st.avail, off & 7, len, data);
		}
		break;
	case COMMON_QUEUE_USED:
		if (wide) {
			write_address(&q->st.used, off & 7, len, data);
		}
		break;
	default:
		break;
	}
}

/* 4.1.3.1: each field is written in its own width (64-bit ones also in halves); else ignored. */
static void common_write(struct virtio *v, unsigned off, unsigned len, uint64_t data)
{
	struct virtio_state *st = &v->live;
	switch (off) {
	case COMMON_DEVICE_SELECT:
		st->device_select = len == 4 ? (uint32_t)data : st->device_select;
		break;
	case COMMON_DRIVER_SELECT:
		st->driver_select = len == 4 ? (uint32_t)data : st->driver_select;
		break;
	case COMMON_DRIVER_FEATURES:
		if (len == 4) {
			write_features(v, (uint32_t)data);
		}
		break;
	case COMMON_CONFIG_VECTOR:
		st->config_vector = good_vector(v, data);
		break;
	case COMMON_STATUS:
		virtio_set_status(v, (uint8_t)data);
		break;
	case COMMON_QUEUE_SELECT:
		st->queue_select = (uint16_t)data;
		break;
	default:
		if (off >= COMMON_QUEUE_SIZE) {
			write_queue(v, off, len, data);
		}
		break;
	}
}

/* ---- the BAR ---- */

static void from_image(const uint8_t *image, unsigned bytes, uint64_t off, unsigned len,
		       uint64_t *data)
{
	uint8_t raw[8] = { 0 };
	for (unsigned i = 0; i < len && off + i < bytes; i++) {
		raw[i] = image[off + i];
	}
	*data = get_le64(raw);
}

static void bar_read_locked(struct virtio *v, uint64_t off, unsigned len, uint64_t *data)
{
	*data = 0;
	if (pci_msix_read(&v->pci, VIRTIO_BAR, off, len, data)) {
		return;
	}
	uint64_t at = off % PAGE_BYTES;
	switch (off - at) {
	case VIRTIO_AT_COMMON: {
		uint8_t image[COMMON_BYTES];
		common_image(v, image);
		from_image(image, sizeof(image), at, len, data);
		break;
	}
	case VIRTIO_AT_ISR:
		if (at == 0) {
			*data = v->live.isr; /* reading clears, and lowers INTA */
			v->live.isr = 0;
			pci_set_intx(&v->pci, false);
		}
		break;
	case VIRTIO_AT_CONFIG:
		if (v->ops->config_read != NULL) {
			v->ops->config_read(v);
		}
		from_image(v->config, v->config_bytes, at, len, data);
		break;
	default:
		break;
	}
}

static void config_write(struct virtio *v, uint64_t at, unsigned len, uint64_t data)
{
	if (at >= v->config_bytes || len > v->config_bytes - at) {
		return;
	}
	for (unsigned i = 0; i < len; i++) {
		uint8_t mask = v->config_writable[at + i];
		uint8_t *c = &v->config[at + i];
		*c = (uint8_t)((*c & ~mask) | ((data >> (8 * i)) & mask));
	}
	if (v->ops->config_written != NULL) {
		v->ops->config_written(v, (unsigned)at, len);
	}
}

static void bar_write_locked(struct virtio *v, uint64_t off, unsigned len, uint64_t data)
{
	if (pci_msix_write(&v->pci, VIRTIO_BAR, off, len, data)) {
		return;
	}
	uint64_t at = off % PAGE_BYTES;
	switch (off - at) {
	case VIRTIO_AT_COMMON:
		if (at < COMMON_BYTES) {
			common_write(v, (unsigned)at, len, data);
		}
		break;
	case VIRTIO_AT_CONFIG:
		config_write(v, at, len, data);
		break;
	case VIRTIO_AT_NOTIFY:
		if (at < (uint64_t)VIRTIO_NOTIFY_BYTES * v->nqueues) {
			virtio_kick(v);
		}
		break;
	default:
		break;
	}
}

static void bar_read(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t *data)
{
	(void)bar; /* there is one */
	struct virtio *v = of_pci(p);
	LOCK_SCOPE(&p->lock);
	bar_read_locked(v, off, len, data);
}

static void bar_write(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t data)
{
	(void)bar;
	struct virtio *v = of_pci(p);
	LOCK_SCOPE(&p->lock);
	bar_write_locked(v, off, len, data);
}

/* ---- access to the BAR through configuration space (4.1.4.9) ---- */

static bool window(const struct virtio *v, unsigned off, unsigned len, uint64_t *ret_at,
		   unsigned *ret_len)
{
	const uint8_t *cap = v->pci.live.config + v->pci_cap;
	unsigned data = v->pci_cap + CAP_PCI_DATA;
	if (off >= data + 4 || off + len <= data) {
		return false;
	}
	uint32_t at = get_le32(cap + CAP_PCI_OFFSET);
	uint32_t n = get_le32(cap + CAP_PCI_LENGTH);
	if (cap[CAP_PCI_BAR] != VIRTIO_BAR || (n != 1 && n != 2 && n != 4) || at % n != 0 ||
	    at > VIRTIO_BAR_BYTES - 4) {
		return false;
	}
	*ret_at = at;
	*ret_len = n;
	return true;
}

static void config_before_read(struct pci_dev *p, unsigned off, unsigned len)
{
	struct virtio *v = of_pci(p);
	uint64_t at;
	unsigned n;
	if (window(v, off, len, &at, &n)) {
		uint64_t data;
		bar_read_locked(v, at, n, &data);
		put_le32(p->live.config + v->pci_cap + CAP_PCI_DATA, (uint32_t)data);
	}
}

static void config_after_write(struct pci_dev *p, unsigned off, unsigned len)
{
	struct virtio *v = of_pci(p);
	uint64_t at;
	unsigned n;
	if (window(v, off, len, &at, &n)) {
		bar_write_locked(v, at, n, get_le32(p->live.config + v->pci_cap + CAP_PCI_DATA));
	}
}

static void pci_was_reset(struct pci_dev *p)
{
	virtio_set_status(of_pci(p), 0);
}

const struct pci_ops virtio_pci_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.moved = pci_moved,
	.config_before_read = config_before_read,
	.config_after_write = config_after_write,
	.reset = pci_was_reset,
};
