/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI Express root port. See pcie_port.h for threads and what it is.
 *
 * I1: the link is up if and only if a device is present, the slot has power, the link is not
 *     disabled and the bus is not held in reset; the link status register and what the host bridge
 *     was told (pci_host_link) say so after each entry.
 * I2: the device behind is reset whenever the link goes from up to down.
 * I3: a message is sent when the reason for one appears (an event whose interrupt is enabled), and
 *     not again before all reasons were gone; INTA is up as long as there is one.
 */
#include "devices/pcie_port.h"

#include <string.h>

#include "core/base/bytes.h"

enum {
	VENDOR = 0x1b36,
	DEVICE_ROOT_PORT = 0x000c,
	CLASS_BRIDGE = 0x060400,
	HEADER_BRIDGE = 1,

	/* Header of a bridge. */
	PRIMARY = 0x18,
	SECONDARY = 0x19,
	SUBORDINATE = 0x1a,
	MEM_BASE = 0x20,
	MEM_LIMIT = 0x22,
	BRIDGE_CTL = 0x3e,
	BRIDGE_CTL_RESET = 1 << 6,
	BRIDGE_CTL_BITS = BRIDGE_CTL_RESET | 1 << 1 | 1 << 0, /* error forwarding does nothing */
	MEM_BITS = 0xfff0,
	MEM_UNIT = 1 << 20,

	MSIX_BAR = 0,
	MSIX_PBA = 0x800,
	VECTOR = 0, /* of hot-plug and PME both */

	CAPS_VERSION = 2,
	CAPS_ROOT_PORT = 4 << 4,
	CAPS_SLOT = 1 << 8,
	DEV_ROLE_ERRORS = 1 << 15,
	DEV_CTL_BITS = 0x78ff,
	LINK_SPEED = 1, /* 2.5 GT/s */
	LINK_WIDTH = 1 << 4,
	LINK_CAN_REPORT = 1 << 20,
	LINK_PORT_SHIFT = 24,
	LINK_CTL_BITS = 0x00db,
	LINK_SPEEDS = 1 << 1,
	SLOT_CAN_BUTTON = 1 << 0,
	SLOT_CAN_POWER = 1 << 1,
	SLOT_CAN_ATTENTION = 1 << 3,
	SLOT_CAN_LAMP = 1 << 4,
	SLOT_CAN_SURPRISE = 1 << 5,
	SLOT_CAN_HOTPLUG = 1 << 6,
	SLOT_NUMBER_SHIFT = 19,
	SLOT_CTL_BITS = 0x17ff,
	SLOT_EVENTS = PCIE_SLOT_BUTTON | PCIE_SLOT_PRESENCE_CHANGED | PCIE_SLOT_COMPLETED |
		      PCIE_SLOT_LINK_CHANGED,
	ROOT_CTL_BITS = 0x000f,
};

struct pcie_port {
	struct pci_dev pci; /* first: struct device lies at its start */
	unsigned cap;       /* place of the Express capability; const after build */
	/* [lock] from here */
	bool up;          /* the link, as last told */
	bool hotplug_due; /* I3 */
	bool pme_due;
	bool leaving;
	uint32_t npmes;
	uint16_t pmes[PCIE_PMES_MAX];
	struct pcie_port_state saved; /* part.state */
};

static struct pcie_port *port_of(struct pci_dev *p)
{
	return CONTAINER_OF(p, struct pcie_port, pci);
}

static struct pcie_port *port_of_dev(struct device *dev)
{
	return CONTAINER_OF(dev, struct pcie_port, pci.dev);
}

/* ---- registers ---- */

static uint8_t *reg(struct pcie_port *r, unsigned off)
{
	return r->pci.live.config + r->cap + off;
}

static void set16(uint8_t *at, unsigned bits, bool on)
{
	put_le16(at, (uint16_t)(on ? get_le16(at) | bits : get_le16(at) & ~bits));
}

static bool has16(const uint8_t *at, unsigned bits)
{
	return (get_le16(at) & bits) != 0;
}

static bool present(struct pcie_port *r)
{
	return has16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_PRESENT);
}

static bool powered(struct pcie_port *r)
{
	return !has16(reg(r, PCIE_SLOT_CTL), PCIE_SLOT_OFF);
}

static bool hotplug_reason(struct pcie_port *r)
{
	unsigned sts = get_le16(reg(r, PCIE_SLOT_STS)) & SLOT_EVENTS;
	unsigned ctl = get_le16(reg(r, PCIE_SLOT_CTL));
	unsigned on = ctl & (SLOT_EVENTS & ~(unsigned)PCIE_SLOT_LINK_CHANGED);
	on |= (ctl & PCIE_SLOT_LINK_IRQ) != 0 ? (unsigned)PCIE_SLOT_LINK_CHANGED : 0;
	return (ctl & PCIE_SLOT_IRQ) != 0 && (sts & on) != 0;
}

static bool pme_reason(struct pcie_port *r)
{
	return has16(reg(r, PCIE_ROOT_CTL), PCIE_ROOT_PME_IRQ) &&
	       (get_le32(reg(r, PCIE_ROOT_STS)) & PCIE_ROOT_PME) != 0;
}

/* I3. Must hold the lock. */
static void refresh_irq(struct pcie_port *r)
{
	bool hotplug = hotplug_reason(r);
	bool pme = pme_reason(r);
	bool fresh = (hotplug && !r->hotplug_due) || (pme && !r->pme_due);
	r->hotplug_due = hotplug;
	r->pme_due = pme;
	if (fresh) {
		pci_msix_fire(&r->pci, VECTOR);
	}
	pci_set_intx(&r->pci, hotplug || pme);
}

/* Shows the next PME, if the guest is done with the one before. */
static void refresh_pme(struct pcie_port *r)
{
	uint32_t sts = get_le32(reg(r, PCIE_ROOT_STS));
	if ((sts & PCIE_ROOT_PME) == 0 && r->npmes > 0) {
		sts = PCIE_ROOT_PME | r->pmes[0];
		r->npmes--;
		memmove(r->pmes, r->pmes + 1, r->npmes * sizeof(r->pmes[0]));
		r->pmes[r->npmes] = 0;
	}
	sts &= ~PCIE_ROOT_PME_MORE;
	put_le32(reg(r, PCIE_ROOT_STS), sts | (r->npmes > 0 ? PCIE_ROOT_PME_MORE : 0));
}

static bool link_wanted(struct pcie_port *r)
{
	return present(r) && powered(r) && !has16(reg(r, PCIE_LINK_CTL), PCIE_LINK_DISABLE) &&
	       !has16(r->pci.live.config + BRIDGE_CTL, BRIDGE_CTL_RESET);
}

/* Tells the bridge what is let through (I1, I2). loaded: the state came from a record. */
static void refresh_link(struct pcie_port *r, bool loaded)
{
	const uint8_t *c = r->pci.live.config;
	bool up = link_wanted(r);
	bool changed = up != r->up;
	uint64_t base = (uint64_t)(get_le16(c + MEM_BASE) & MEM_BITS) << 16;
	uint64_t limit = ((uint64_t)(get_le16(c + MEM_LIMIT) & MEM_BITS) << 16) + MEM_UNIT;
	bool memory = has16(c + PCI_COMMAND, PCI_CMD_MEMORY) && limit > base;
	r->up = up;
	set16(reg(r, PCIE_LINK_STS), PCIE_LINK_ACTIVE, up);
	if (changed && !loaded) {
		set16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_LINK_CHANGED, true);
	}
	if (r->pci.bus != NULL) {
		const struct pci_link l = {
			.up = up,
			.bus = c[SECONDARY],
			.mem_base = base,
			.mem_len = memory ? limit - base : 0,
		};
		pci_host_link(r->pci.bus, &r->pci, &l, changed && !up && !loaded);
	}
}

/* Must hold the lock: after anything that changed the registers. */
static void refresh(struct pcie_port *r)
{
	refresh_link(r, false);
	refresh_pme(r);
	refresh_irq(r);
}

static void config_after_write(struct pci_dev *p, unsigned off, unsigned len)
{
	struct pcie_port *r = port_of(p);
	unsigned slot_ctl = r->cap + PCIE_SLOT_CTL;
	const struct dev_host *h = p->dev.host;
	if (off < slot_ctl + 2 && slot_ctl < off + len) {
		/* A command; nothing here takes time. */
		set16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_COMPLETED, true);
	}
	refresh(r);
	if (r->leaving && !powered(r)) {
		h->event(h->self, DEV_EVENT_SLOT);
	}
}

/* The BAR is there for MSI-X alone. */
static void bar_read(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t *data)
{
	LOCK_SCOPE(&p->lock);
	*data = 0;
	(void)pci_msix_read(p, bar, off, len, data);
}

static void bar_write(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t data)
{
	LOCK_SCOPE(&p->lock);
	(void)pci_msix_write(p, bar, off, len, data);
}

/* ---- the slot, from outside ---- */

/* What is in the slot changed. */
static void set_present(struct pcie_port *r, bool on)
{
	uint8_t *sts = reg(r, PCIE_SLOT_STS);
	set16(sts, PCIE_SLOT_PRESENT, on);
	set16(sts, PCIE_SLOT_PRESENCE_CHANGED, true);
	refresh(r);
}

void pcie_port_plug(struct pci_dev *port)
{
	struct pcie_port *r = port_of(port);
	LOCK_SCOPE(&port->lock);
	r->leaving = false;
	/* As whoever puts a card in does: where there is a button, Linux waits for it. */
	set16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_BUTTON, true);
	set_present(r, true);
}

void pcie_port_pull(struct pci_dev *port)
{
	struct pcie_port *r = port_of(port);
	LOCK_SCOPE(&port->lock);
	r->leaving = false;
	set_present(r, false);
}

void pcie_port_press(struct pci_dev *port)
{
	struct pcie_port *r = port_of(port);
	LOCK_SCOPE(&port->lock);
	r->leaving = true;
	set16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_BUTTON, true);
	refresh(r);
}

struct pcie_port_look pcie_port_look(struct pci_dev *port)
{
	struct pcie_port *r = port_of(port);
	LOCK_SCOPE(&port->lock);
	return (struct pcie_port_look){
		.present = present(r),
		.powered = powered(r),
		.leaving = r->leaving,
		.bus = port->live.config[SECONDARY],
	};
}

/* Registers as after power-on with a device in the slot, or without one. */
static void set_cold(struct pcie_port *r, bool there)
{
	unsigned lamp = there ? PCIE_LAMP_ON : PCIE_LAMP_OFF;
	put_le16(reg(r, PCIE_SLOT_CTL),
		 (uint16_t)(PCIE_LAMP_OFF << PCIE_SLOT_ATTENTION_SHIFT |
			    lamp << PCIE_SLOT_LAMP_SHIFT | (there ? 0 : PCIE_SLOT_OFF)));
	set16(reg(r, PCIE_SLOT_STS), PCIE_SLOT_PRESENT, there);
}

static void port_cold(struct pci_dev *port, uint64_t mem_base, uint64_t mem_len)
{
	struct pcie_port *r = port_of(port);
	LOCK_SCOPE(&port->lock);
	uint8_t *c = port->live.config;
	put_le16(c + MEM_BASE, (uint16_t)(mem_base >> 16));
	put_le16(c + MEM_LIMIT, (uint16_t)((mem_base + mem_len - MEM_UNIT) >> 16));
	set_cold(r, true);
	refresh_link(r, true);
}

/* ---- PME ---- */

static void on_timer(struct device *dev)
{
	struct pcie_port *r = port_of_dev(dev);
	LOCK_SCOPE(&r->pci.lock);
	refresh(r);
}

struct err *pcie_port_pme(struct pci_dev *port, uint16_t requester)
{
	struct pcie_port *r = port_of(port);
	const struct dev_host *h = port->dev.host;
	LOCK_SCOPE(&port->lock);
	for (unsigned i = 0; i < r->npmes; i++) {
		if (r->pmes[i] == requester) {
			return NULL; /* it is told once */
		}
	}
	ENSURE(r->npmes < PCIE_PMES_MAX, ERR_LIMIT,
	       "%u devices wait already for the guest to look at their PME", r->npmes);
	r->pmes[r->npmes++] = requester;
	h->event(h->self, DEV_EVENT_PCIE_WAKE);
	h->set_timer(h->self, &port->dev, 0); /* the gate keeps it back while nothing may move */
	return NULL;
}

/* ---- saved state ---- */

static struct err *port_fetch(void *self)
{
	struct pcie_port *r = self;
	LOCK_SCOPE(&r->pci.lock);
	pci_fetch(&r->pci, &r->saved.pci);
	r->saved.leaving = r->leaving;
	r->saved.npmes = r->npmes;
	memcpy(r->saved.pmes, r->pmes, sizeof(r->pmes));
	return NULL;
}

static struct err *port_commit(void *self)
{
	struct pcie_port *r = self;
	const struct dev_host *h = r->pci.dev.host;
	LOCK_SCOPE(&r->pci.lock);
	bool there = present(r); /* as the machine was built */
	TRY(pci_commit(&r->pci, &r->saved.pci));
	ENSURE(present(r) == there, ERR_INCOMPAT,
	       "PCI slot %u: saved with %s in it, the configuration says otherwise", r->pci.slot,
	       there ? "nothing" : "a device");
	r->leaving = r->saved.leaving;
	r->npmes = r->saved.npmes;
	memcpy(r->pmes, r->saved.pmes, sizeof(r->pmes));
	refresh_link(r, true);
	/* The message for what is due is in the record of the local APICs. */
	r->hotplug_due = hotplug_reason(r);
	r->pme_due = pme_reason(r);
	if (r->npmes > 0) {
		h->set_timer(h->self, &r->pci.dev, 0);
	}
	return NULL;
}

static struct err *port_check(const void *state)
{
	const struct pcie_port_state *st = state;
	for (unsigned i = st->npmes; i < PCIE_PMES_MAX; i++) {
		ENSURE(st->pmes[i] == 0, ERR_CORRUPT, "pcie_port: a PME behind the last one");
	}
	return NULL;
}

static const struct state_field port_fields[] = {
	FIELD_SUB(struct pcie_port_state, 1, pci, &pci_dev_desc),
	FIELD(struct pcie_port_state, 2, leaving),
	PAD(struct pcie_port_state, pad),
	FIELD(struct pcie_port_state, 3, npmes, FIELD_RANGE(0, PCIE_PMES_MAX)),
	FIELD_BLOB(struct pcie_port_state, 4, pmes),
};

const struct state_desc pcie_port_desc = {
	.name = "pcie_port",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct pcie_port_state),
	.fields = port_fields,
	.nfields = ARRAY_LEN(port_fields),
	.check = port_check,
};

static const struct snap_part_ops port_part_ops = {
	.fetch = port_fetch,
	.commit = port_commit,
};

/* ---- building ---- */

static void port_free(struct device *dev)
{
	if (dev != NULL) {
		struct pcie_port *r = port_of_dev(dev);
		pci_dev_done(&r->pci);
		free(r);
	}
}

static const struct dev_ops port_dev_ops = {
	.name = "pcie_port",
	.on_timer = on_timer,
	.free = port_free,
};

/* The Express capability of an end point. */
static void port_adopt(struct pci_dev *port, struct pci_dev *p)
{
	(void)port;
	uint8_t cap[PCIE_CAP_BYTES] = { 0 };
	uint8_t mask[PCIE_CAP_BYTES] = { 0 };
	put_le16(cap + PCIE_CAPS, CAPS_VERSION);
	put_le32(cap + PCIE_DEV_CAP, DEV_ROLE_ERRORS);
	put_le32(cap + PCIE_LINK_CAP, LINK_SPEED | LINK_WIDTH);
	put_le16(cap + PCIE_LINK_STS, LINK_SPEED | LINK_WIDTH);
	put_le32(cap + PCIE_LINK_CAP2, LINK_SPEEDS);
	put_le16(mask + PCIE_DEV_CTL, DEV_CTL_BITS);
	put_le16(mask + PCIE_LINK_CTL, LINK_CTL_BITS);
	(void)pci_add_cap(p, PCI_CAP_EXPRESS, cap + 2, mask + 2, PCIE_CAP_BYTES);
}

static const struct pci_ops port_pci_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.config_after_write = config_after_write,
	.adopt = port_adopt,
	.cold = port_cold,
};

bool pcie_port_is(const struct pci_dev *p)
{
	return p->pci_ops == &port_pci_ops;
}

static void build_header(struct pcie_port *r, unsigned bus)
{
	uint8_t *c = r->pci.live.config;
	uint8_t *w = r->pci.writable;
	c[PCI_HEADER_TYPE] = HEADER_BRIDGE;
	c[SECONDARY] = (uint8_t)bus;
	c[SUBORDINATE] = (uint8_t)bus;
	put_le16(c + MEM_BASE, MEM_BITS); /* above its limit: nothing is forwarded */
	memset(w + PRIMARY, 0xff, 3);
	put_le16(w + MEM_BASE, MEM_BITS);
	put_le16(w + MEM_LIMIT, MEM_BITS);
	put_le16(w + BRIDGE_CTL, BRIDGE_CTL_BITS);
}

static void build_cap(struct pcie_port *r, unsigned bus)
{
	uint8_t cap[PCIE_CAP_BYTES] = { 0 };
	uint8_t mask[PCIE_CAP_BYTES] = { 0 };
	put_le16(cap + PCIE_CAPS, CAPS_VERSION | CAPS_ROOT_PORT | CAPS_SLOT);
	put_le32(cap + PCIE_DEV_CAP, DEV_ROLE_ERRORS);
	put_le32(cap + PCIE_LINK_CAP,
		 LINK_SPEED | LINK_WIDTH | LINK_CAN_REPORT | bus << LINK_PORT_SHIFT);
	put_le16(cap + PCIE_LINK_STS, LINK_SPEED | LINK_WIDTH);
	put_le32(cap + PCIE_SLOT_CAP, SLOT_CAN_BUTTON | SLOT_CAN_POWER | SLOT_CAN_ATTENTION |
					      SLOT_CAN_LAMP | SLOT_CAN_SURPRISE | SLOT_CAN_HOTPLUG |
					      bus << SLOT_NUMBER_SHIFT);
	put_le32(cap + PCIE_LINK_CAP2, LINK_SPEEDS);
	put_le16(mask + PCIE_DEV_CTL, DEV_CTL_BITS);
	put_le16(mask + PCIE_LINK_CTL, LINK_CTL_BITS);
	put_le16(mask + PCIE_SLOT_CTL, SLOT_CTL_BITS);
	put_le16(mask + PCIE_ROOT_CTL, ROOT_CTL_BITS);
	r->cap = pci_add_cap(&r->pci, PCI_CAP_EXPRESS, cap + 2, mask + 2, PCIE_CAP_BYTES);
	uint8_t *clears = r->pci.clears + r->cap;
	uint8_t *varies = r->pci.varies + r->cap;
	put_le16(clears + PCIE_SLOT_STS, SLOT_EVENTS);
	put_le32(clears + PCIE_ROOT_STS, PCIE_ROOT_PME);
	put_le16(varies + PCIE_LINK_STS, PCIE_LINK_ACTIVE);
	put_le16(varies + PCIE_SLOT_STS, PCIE_SLOT_PRESENT);
	put_le32(varies + PCIE_ROOT_STS, 0xffff | PCIE_ROOT_PME_MORE);
}

struct err *pcie_port_new(const struct dev_host *host, unsigned bus, struct pci_dev **ret_dev)
{
	BUG_ON(bus == 0 || bus >= PCI_ECAM_BUSES);
	struct pcie_port *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	const struct pci_ids ids = {
		.vendor = VENDOR,
		.device = DEVICE_ROOT_PORT,
		.class = CLASS_BRIDGE,
	};
	pci_dev_init(&r->pci, &port_pci_ops, &ids);
	pci_dev_rank(&r->pci, RANK_PORT);
	build_header(r, bus);
	pci_add_bar64(&r->pci, MSIX_BAR, PAGE_BYTES);
	build_cap(r, bus);
	pci_add_msix(&r->pci, 1, MSIX_BAR, 0, MSIX_PBA);
	set_cold(r, false);
	r->pci.dev.ops = &port_dev_ops;
	r->pci.dev.host = host;
	r->pci.dev.part = (struct snap_part){
		.name = pcie_port_desc.name,
		.park_rank = SNAP_RANK_DEVICE,
		.commit_rank = SNAP_RANK_DEVICE,
		.desc = &pcie_port_desc,
		.state = &r->saved,
		.ops = &port_part_ops,
		.self = r,
	};
	*ret_dev = &r->pci;
	return NULL;
}
