/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host bridge with a root port in slot FP_SLOT and an entropy device to put behind it, on the host
 * that the test or fuzz target gives. One thread.
 */
#ifndef TORPOR_TESTS_FAKE_PORT_H
#define TORPOR_TESTS_FAKE_PORT_H

#include "devices/pcie_port.h"
#include "devices/virtio_rng.h"

enum {
	FP_SLOT = 4,
	FP_BUS = 1,
	FP_RANGE_ECAM = 2,
	FP_RANGE_WIN32 = 3,
	FP_SECONDARY = 0x19,
	FP_MEM = 0x20,
	FP_BRIDGE_CTL = 0x3e,
	FP_STATUS = 0x14, /* of virtio, in the BAR */
};
#define FP_WINDOW 0xd0000000u

struct fake_port {
	const struct dev_host *host;
	struct device *bus_dev;
	struct pci_host *bus;
	struct pci_dev *port;
	struct pci_dev *child; /* behind it; NULL: the slot is empty */
	unsigned cap;          /* the port's Express capability */
};

static inline uint64_t fp_get(struct fake_port *f, unsigned bus, unsigned slot, unsigned off,
			      unsigned len)
{
	uint64_t v = 0;
	f->bus_dev->ops->read(f->bus_dev, FP_RANGE_ECAM, bus << 20 | slot << 15 | off, len, &v);
	return len == 8 ? v : v & ((1ull << (8 * len)) - 1);
}

static inline void fp_put(struct fake_port *f, unsigned bus, unsigned slot, unsigned off,
			  unsigned len, uint64_t v)
{
	f->bus_dev->ops->write(f->bus_dev, FP_RANGE_ECAM, bus << 20 | slot << 15 | off, len, v);
}

static inline struct err *fp_add_child(struct fake_port *f, bool cold)
{
	struct err *e = virtio_rng_new(f->host, "rng0", &f->child);
	if (e == NULL) {
		e = pci_host_add(f->bus, f->child, PCI_BEHIND + FP_SLOT, cold);
	}
	return e;
}

/* child: the machine has the device from the start. */
static inline struct err *fp_init(struct fake_port *f, const struct dev_host *host, bool child)
{
	*f = (struct fake_port){ .host = host };
	TRY(pci_host_new(host, &f->bus_dev, &f->bus));
	TRY(pcie_port_new(host, FP_BUS, &f->port));
	TRY(pci_host_add(f->bus, f->port, FP_SLOT, true));
	for (unsigned at = (unsigned)fp_get(f, 0, FP_SLOT, PCI_CAP_POINTER, 1); at != 0;
	     at = (unsigned)fp_get(f, 0, FP_SLOT, at + 1, 1)) {
		if (fp_get(f, 0, FP_SLOT, at, 1) == PCI_CAP_EXPRESS) {
			f->cap = at;
		}
	}
	return child ? fp_add_child(f, true) : NULL;
}

static inline struct err *fp_plug(struct fake_port *f)
{
	TRY(fp_add_child(f, false));
	pcie_port_plug(f->port);
	return NULL;
}

static inline void fp_pull(struct fake_port *f)
{
	pci_host_remove(f->bus, f->child);
	f->child->dev.ops->free(&f->child->dev);
	f->child = NULL;
	pcie_port_pull(f->port);
}

static inline void fp_done(struct fake_port *f)
{
	if (f->child != NULL) {
		f->child->dev.ops->free(&f->child->dev);
	}
	f->port->dev.ops->free(&f->port->dev);
	f->bus_dev->ops->free(f->bus_dev);
}

#endif
