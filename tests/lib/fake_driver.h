/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for unit tests of virtio devices: finds its device through ECAM and works its registers
 * and rings as a guest would, in 16 MiB of guest memory. One thread. Include after cmocka.h.
 */
#ifndef TORPOR_TESTS_FAKE_DRIVER_H
#define TORPOR_TESTS_FAKE_DRIVER_H

#include "devices/virtio.h"
#include "tests/lib/fake_host.h"

enum {
	FD_SLOT = 3,
	FD_QUEUES = 4,
	FD_RANGE_ECAM = 2,
	FD_RANGE_WIN32 = 3,
	FD_RING_BASE = 0x100000,
	FD_RING_STEP = 0x10000,
	FD_AVAIL = 0x4000,
	FD_USED = 0x8000,
	FD_NOTIFY = 0x3000,
	FD_CONFIG = 0x2000,
	FD_ISR = 0x1000,
	FD_MSIX = 0x4000,

	FD_NEXT = 1,
	FD_WRITE = 2,
	FD_INDIRECT = 4,
};

struct fake_driver {
	struct fake_host host;
	struct gmem *g;
	struct device *bus_dev;
	struct pci_host *bus;
	struct pci_dev *dev;
	uint64_t bar;
	uint16_t size[FD_QUEUES];
	uint16_t avail[FD_QUEUES];
	uint16_t used[FD_QUEUES];
};

static inline uint64_t fd_ecam(struct fake_driver *d, unsigned off, unsigned len)
{
	uint64_t v = 0;
	d->bus_dev->ops->read(d->bus_dev, FD_RANGE_ECAM, (FD_SLOT << 15) + off, len, &v);
	return len == 8 ? v : v & ((1ull << (8 * len)) - 1);
}

static inline void fd_ecam_put(struct fake_driver *d, unsigned off, unsigned len, uint64_t v)
{
	d->bus_dev->ops->write(d->bus_dev, FD_RANGE_ECAM, (FD_SLOT << 15) + off, len, v);
}

static inline uint64_t fd_get(struct fake_driver *d, unsigned off, unsigned len)
{
	uint64_t v = UINT64_MAX;
	d->bus_dev->ops->read(d->bus_dev, FD_RANGE_WIN32, d->bar - PCI_WIN32_BASE + off, len, &v);
	return len == 8 ? v : v & ((1ull << (8 * len)) - 1);
}

static inline void fd_put(struct fake_driver *d, unsigned off, unsigned len, uint64_t v)
{
	d->bus_dev->ops->write(d->bus_dev, FD_RANGE_WIN32, d->bar - PCI_WIN32_BASE + off, len, v);
}

static inline void fd_mem(struct fake_driver *d, uint64_t gpa, const void *p, size_t len)
{
	ok_(gmem_write(d->g, GPA(gpa), p, len));
}

/* The machine around the device: memory, bus. The test builds the device and calls fd_plug. */
static inline void fd_init(struct fake_driver *d)
{
	*d = (struct fake_driver){ 0 };
	fake_host_init(&d->host);
	ok_(gmem_new(GMEM_MIN_BYTES, &d->g));
	d->host.host.gmem = d->g;
	ok_(pci_host_new(&d->host.host, &d->bus_dev, &d->bus));
}

static inline void fd_plug(struct fake_driver *d, struct pci_dev *dev)
{
	d->dev = dev;
	ok_(pci_host_add(d->bus, dev, FD_SLOT, true));
	fd_ecam_put(d, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
	d->bar = fd_ecam(d, PCI_BAR0, 4) & ~0xfull;
}

static inline void fd_done(struct fake_driver *d)
{
	if (d->dev != NULL) {
		d->dev->dev.ops->free(&d->dev->dev);
	}
	d->bus_dev->ops->free(d->bus_dev);
	gmem_free(d->g);
}

static inline uint64_t fd_desc_gpa(unsigned q)
{
	return FD_RING_BASE + (uint64_t)q * FD_RING_STEP;
}

static inline void fd_desc(struct fake_driver *d, unsigned q, unsigned i, uint64_t gpa,
			   uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t raw[16];
	put_le64(raw, gpa);
	put_le32(raw + 8, len);
	put_le16(raw + 12, flags);
	put_le16(raw + 14, next);
	fd_mem(d, fd_desc_gpa(q) + 16ull * i, raw, sizeof(raw));
}

/* Makes a chain available; kicks if asked to. */
static inline void fd_offer(struct fake_driver *d, unsigned q, uint16_t head, bool kick)
{
	uint8_t raw[2];
	put_le16(raw, head);
	fd_mem(d, fd_desc_gpa(q) + FD_AVAIL + 4 + 2ull * (d->avail[q] % d->size[q]), raw, 2);
	d->avail[q]++;
	put_le16(raw, d->avail[q]);
	fd_mem(d, fd_desc_gpa(q) + FD_AVAIL + 2, raw, 2);
	if (kick) {
		fd_put(d, FD_NOTIFY + 4 * q, 2, q);
	}
}

static inline uint16_t fd_used_index(struct fake_driver *d, unsigned q)
{
	uint8_t raw[2];
	ok_(gmem_read(d->g, GPA(fd_desc_gpa(q) + FD_USED + 2), raw, 2));
	return get_le16(raw);
}

/* The next chain that came back: false if there is none. */
static inline bool fd_take(struct fake_driver *d, unsigned q, uint32_t *ret_head, uint32_t *ret_len)
{
	uint8_t raw[8];
	if (fd_used_index(d, q) == d->used[q]) {
		return false;
	}
	ok_(gmem_read(d->g, GPA(fd_desc_gpa(q) + FD_USED + 4 + 8ull * (d->used[q] % d->size[q])),
		      raw, 8));
	d->used[q]++;
	*ret_head = get_le32(raw);
	*ret_len = get_le32(raw + 4);
	return true;
}

static inline void fd_queue(struct fake_driver *d, unsigned q, uint16_t size, uint16_t vector)
{
	uint64_t base = fd_desc_gpa(q);
	fd_put(d, 0x16, 2, q);
	fd_put(d, 0x18, 2, size);
	fd_put(d, 0x1a, 2, vector);
	fd_put(d, 0x20, 4, base);
	fd_put(d, 0x24, 4, 0);
	fd_put(d, 0x28, 8, base + FD_AVAIL);
	fd_put(d, 0x30, 4, base + FD_USED);
	fd_put(d, 0x34, 4, 0);
	fd_put(d, 0x1c, 2, 1);
	d->size[q] = size;
}

static inline uint64_t fd_features(struct fake_driver *d)
{
	fd_put(d, 0x00, 4, 0);
	uint64_t low = fd_get(d, 0x04, 4);
	fd_put(d, 0x00, 4, 1);
	return low | fd_get(d, 0x04, 4) << 32;
}

/* Reset to FEATURES_OK. Returns the status then. */
static inline uint8_t fd_agree(struct fake_driver *d, uint64_t features)
{
	fd_put(d, 0x14, 1, 0);
	memset(d->avail, 0, sizeof(d->avail));
	memset(d->used, 0, sizeof(d->used));
	for (unsigned q = 0; q < FD_QUEUES; q++) {
		const uint8_t zero[4] = { 0 };
		fd_mem(d, fd_desc_gpa(q) + FD_AVAIL, zero, 4);
		fd_mem(d, fd_desc_gpa(q) + FD_USED, zero, 4);
	}
	fd_put(d, 0x14, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	fd_put(d, 0x08, 4, 0);
	fd_put(d, 0x0c, 4, (uint32_t)features);
	fd_put(d, 0x08, 4, 1);
	fd_put(d, 0x0c, 4, features >> 32);
	fd_put(d, 0x14, 1, 0xb);
	return (uint8_t)fd_get(d, 0x14, 1);
}

static inline void fd_msix(struct fake_driver *d, unsigned vector, uint32_t data)
{
	unsigned at = FD_MSIX + 16 * vector;
	fd_put(d, at, 8, 0xfee00000);
	fd_put(d, at + 8, 4, data);
	fd_put(d, at + 12, 4, 0);
}

static inline unsigned fd_cap(struct fake_driver *d, uint8_t id)
{
	unsigned at = (unsigned)fd_ecam(d, PCI_CAP_POINTER, 1);
	while (at != 0 && fd_ecam(d, at, 1) != id) {
		at = (unsigned)fd_ecam(d, at + 1, 1);
	}
	return at;
}

/* n queues of 16 entries, MSI-X vector q for queue q, running. */
static inline void fd_start(struct fake_driver *d, unsigned n, uint64_t features)
{
	fd_ecam_put(d, fd_cap(d, PCI_CAP_MSIX) + 2, 2, 0x8000);
	assert_int_equal(fd_agree(d, features | VIRTIO_F_VERSION_1), 0xb);
	for (unsigned q = 0; q < n; q++) {
		fd_msix(d, q, 0x40 + q);
		fd_queue(d, q, 16, (uint16_t)q);
	}
	fd_put(d, 0x14, 1, 0xf);
	assert_int_equal(fd_get(d, 0x14, 1), 0xf);
}

#endif
