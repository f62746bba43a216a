/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds the devices of the configuration's list and puts them on the PCI bus. Part of the one
 * wiring path: boot, restore and guest reset come through here. Called by machine.c on the main
 * loop's thread.
 */
#include "core/machine_internal.h"
#include "devices/pcie_port.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"

static struct err *new_disk(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	const struct host_end *end = host_end_find(m->ends, d->id);
	ENSURE(end != NULL, ERR_NOTFOUND, "no file was given for it");
	const struct virtio_blk_opts o = {
		.id = d->id,
		.fd = end->fd.n,
		.backend = end->disk != NULL ? vdisk_backend(end->disk) : (struct blk_backend){ 0 },
		.captured = d->capture,
		.read_only = d->read_only,
		.queues = d->queues,
		.iops = d->iops,
		.bps = d->bps,
		.accept_changed = end->accept_changed,
		.may_be_copy = end->mapped,
	};
	return virtio_blk_new(&m->host, &o, ret);
}

static struct err *new_console(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	const struct host_end *end = host_end_find(m->ends, d->id);
	ENSURE(end != NULL && end->link != NULL, ERR_NOTFOUND,
	       "nothing was given for its host end");
	return virtio_console_new(&m->host, d->id, end->link, ret);
}

static struct err *new_net(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	const struct host_end *end = host_end_find(m->ends, d->id);
	struct virtio_net_opts o = {
		.id = d->id,
		.fd = end != NULL ? end->fd.n : -1, /* no cable */
		.header = end != NULL && end->header,
		.mtu = d->mtu,
	};
	memcpy(o.mac, d->mac, sizeof(o.mac));
	return virtio_net_new(&m->host, &o, ret);
}

static struct err *new_vsock(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	const struct host_end *end = host_end_find(m->ends, d->id);
	_Static_assert((int)HOST_SOCKET_BYTES_MAX == (int)VSOCK_PATH_BYTES_MAX,
		       "one limit, told early");
	_Static_assert((int)CONFIG_CID_MIN == (int)VSOCK_CID_MIN, "likewise");
	ENSURE(end != NULL, ERR_NOTFOUND, "nothing was given for its host end");
	const struct virtio_vsock_opts o = {
		.id = d->id,
		.cid = d->cid,
		.listen_fd = end->fd.n,
		.path = end->path,
	};
	return virtio_vsock_new(&m->host, &o, ret);
}

/* Its bus gets the number that the port has among the ports. */
static struct err *new_port(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	const struct config_devs *l = &m->config->devs;
	unsigned bus = 1;
	for (unsigned i = 0; i < l->n; i++) {
		bus += l->d[i].kind == CONFIG_PORT && l->d[i].slot < d->slot;
	}
	return pcie_port_new(&m->host, bus, ret);
}

static struct err *new_device(struct machine *m, const struct config_dev *d, struct pci_dev **ret)
{
	switch (d->kind) {
	case CONFIG_RNG:
		return virtio_rng_new(&m->host, d->id, ret);
	case CONFIG_BALLOON:
		return virtio_balloon_new(&m->host, d->id, ret);
	case CONFIG_DISK:
		return new_disk(m, d, ret);
	case CONFIG_CONSOLE:
		return new_console(m, d, ret);
	case CONFIG_NET:
		return new_net(m, d, ret);
	case CONFIG_VSOCK:
		return new_vsock(m, d, ret);
	case CONFIG_PORT:
		return new_port(m, d, ret);
	default:
		return ERR(ERR_INCOMPAT, "a device of kind '%s' is not known to this build",
			   config_kind_name(d->kind));
	}
}

static struct err *add_one(struct machine *m, const struct config_dev *d, bool cold)
{
	struct pci_dev *p = NULL;
	TRY(new_device(m, d, &p));
	p->dev.part.instance = d->slot;
	_Static_assert((int)CONFIG_BEHIND == (int)PCI_BEHIND, "one numbering of slots");
	struct err *e = pci_host_add(m->pci, p, d->slot, cold);
	if (e != NULL) {
		p->dev.ops->free(&p->dev);
		return e;
	}
	return machine_add_device(m, &p->dev);
}

struct err *machine_build_pci(struct machine *m)
{
	const struct config_devs *l = &m->config->devs;
	if (l->n == 0) {
		return NULL; /* no bus either: a guest need not look for it */
	}
	struct device *host = NULL;
	TRY(pci_host_new(&m->host, &host, &m->pci));
	TRY(machine_add_device(m, host));
	for (unsigned i = 0; i < l->n; i++) {
		TRY(err_wrap(add_one(m, &l->d[i], true), "device '%s'", l->d[i].id));
	}
	return NULL;
}

/* ---- behind root ports ---- */

struct pci_dev *machine_port(const struct machine *m, unsigned slot)
{
	BUG_ON(slot < PCI_BEHIND);
	return m->pci != NULL ? pci_host_at(m->pci, slot - PCI_BEHIND) : NULL;
}

struct pci_dev *machine_port_of_bus(const struct machine *m, unsigned bus)
{
	for (unsigned slot = 1; m->pci != NULL && slot < PCI_SLOTS; slot++) {
		struct pci_dev *p = pci_host_at(m->pci, slot);
		if (bus != 0 && p != NULL && pcie_port_is(p) && pcie_port_look(p).bus == bus) {
			return p;
		}
	}
	return NULL;
}

struct err *machine_plug(struct machine *m, const struct config_dev *d)
{
	TRY(err_wrap(add_one(m, d, false), "device '%s'", d->id));
	struct pci_dev *p = pci_host_at(m->pci, d->slot);
	if (p->dev.ops->gate != NULL) {
		p->dev.ops->gate(&p->dev, false); /* it was made closed */
	}
	pcie_port_plug(machine_port(m, d->slot));
	return NULL;
}

void machine_pull(struct machine *m, unsigned slot)
{
	struct pci_dev *p = pci_host_at(m->pci, slot);
	BUG_ON(p == NULL);
	pci_host_remove(m->pci, p);
	machine_remove_device(m, &p->dev);
	pcie_port_pull(machine_port(m, slot));
}
