/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI host bridge: configuration access by ECAM and by ports 0xcf8/0xcfc, decoding of the two
 * memory windows, and the interrupt lines that devices share. See pci.h.
 *
 * The windows are on the machine's bus as a whole and for ever; which device answers inside them is
 * decided here, so the bus stays constant while a guest moves BARs.
 *
 * I1: bars[] holds exactly the decoded BARs of all devices, as of each device's last write.
 * I2: line n is high if and only if lines[n] is not 0.
 * I3: slots[] changes only while no vCPU runs; links[] is what each port said last.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "devices/pci.h"

enum {
	RANGE_ADDRESS,
	RANGE_DATA,
	RANGE_ECAM,
	RANGE_WIN32,
	RANGE_WIN64,

	ADDRESS_PORT = 0xcf8,
	DATA_PORT = 0xcfc,
	ECAM_SLOT_SHIFT = 15,
	ECAM_FUNCTION_SHIFT = 12,

	VENDOR = 0x1b36, /* Red Hat's, whose device 8 is a generic PCIe host bridge */
	DEVICE_BRIDGE = 0x0008,
	CLASS_HOST_BRIDGE = 0x060000,
	BARS_MAX = 2 * PCI_PLACES,
	PORT_WINDOW_BYTES = 1 << 20, /* what a port's registers can say at least */
};
#define ADDRESS_ENABLE 0x80000000u

struct decoded {
	uint64_t base; /* 0: not decoded */
	uint64_t len;
	struct pci_dev *dev;
	unsigned bar;
};

struct pci_host {
	struct device dev;
	struct pci_dev bridge;             /* slot 0; its struct device is unused */
	struct pci_dev *slots[PCI_PLACES]; /* I3 */
	uint64_t next_base;                /* build only: where the next BAR goes */
	struct pci_window win64;
	struct lock lock; /* RANK_BUS; all below */
	struct decoded bars[BARS_MAX];
	uint64_t lines[PCI_GSIS]; /* bit per place that holds the line up */
	struct pci_link links[PCI_SLOTS];
	struct pci_host_state live;
	struct pci_host_state saved; /* part.state */
};

struct pci_window pci_win64(uint64_t ram_end)
{
	uint64_t base = PCI_WIN64_MIN;
	while (base < ram_end) {
		base *= 2;
	}
	return (struct pci_window){ .base = base, .len = base };
}

static struct pci_host *host_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct pci_host, dev);
}

/* ---- configuration space ---- */

/* Who answers to bus, device and function. A device behind a port is alone on its bus. */
static struct pci_dev *find_dev(struct pci_host *h, unsigned bus, unsigned slot, unsigned fn)
{
	if (fn != 0 || bus == 0) {
		return fn == 0 ? h->slots[slot] : NULL;
	}
	LOCK_SCOPE(&h->lock);
	for (unsigned i = 1; slot == 0 && i < PCI_SLOTS; i++) {
		if (h->links[i].up && h->links[i].bus == bus) {
			return h->slots[PCI_BEHIND + i];
		}
	}
	return NULL;
}

static uint64_t config_read(struct pci_host *h, unsigned bus, unsigned slot, unsigned fn,
			    unsigned off, unsigned len)
{
	struct pci_dev *p = find_dev(h, bus, slot, fn);
	if (p == NULL) {
		return UINT64_MAX;
	}
	LOCK_SCOPE(&p->lock);
	uint64_t v = pci_config_read(p, off, MIN(len, 4u));
	if (len == 8) {
		v |= (uint64_t)pci_config_read(p, off + 4, 4) << 32;
	}
	return v;
}

static void config_write(struct pci_host *h, unsigned bus, unsigned slot, unsigned fn, unsigned off,
			 unsigned len, uint64_t v)
{
	struct pci_dev *p = find_dev(h, bus, slot, fn);
	if (p == NULL) {
		return;
	}
	LOCK_SCOPE(&p->lock);
	pci_config_write(p, off, MIN(len, 4u), (uint32_t)v);
	if (len == 8) {
		pci_config_write(p, off + 4, 4, (uint32_t)(v >> 32));
	}
}

/* ---- the windows ---- */

/* Which BAR answers at addr; false: none. The device outlives the access (I3). */
static bool find_bar(struct pci_host *h, uint64_t addr, unsigned len, struct decoded *ret)
{
	LOCK_SCOPE(&h->lock);
	for (unsigned i = 0; i < BARS_MAX; i++) {
		const struct decoded *d = &h->bars[i];
		if (d->base != 0 && addr - d->base < d->len && len <= d->len - (addr - d->base)) {
			*ret = *d;
			return true;
		}
	}
	return false;
}

/* Must hold h->lock. */
static bool forwards(const struct pci_host *h, const struct pci_dev *p, uint64_t base, uint64_t len)
{
	if (p->slot < PCI_BEHIND) {
		return true;
	}
	const struct pci_link *l = &h->links[p->slot - PCI_BEHIND];
	return l->up && base - l->mem_base < l->mem_len && len <= l->mem_len - (base - l->mem_base);
}

bool pci_host_forwards(struct pci_host *h, const struct pci_dev *p, uint64_t base, uint64_t len)
{
	LOCK_SCOPE(&h->lock);
	return forwards(h, p, base, len);
}

void pci_host_decode(struct pci_host *h, struct pci_dev *p)
{
	LOCK_SCOPE(&h->lock);
	for (unsigned i = 0; i < BARS_MAX; i++) {
		if (h->bars[i].dev == p) {
			h->bars[i] = (struct decoded){ 0 };
		}
	}
	unsigned at = 0;
	for (unsigned bar = 0; bar < PCI_BARS; bar++) {
		uint64_t base = p->bar_bytes[bar] != 0 ? pci_bar_asked(p, bar) : 0;
		if (base == 0 || !forwards(h, p, base, p->bar_bytes[bar])) {
			continue;
		}
		while (at < BARS_MAX && h->bars[at].dev != NULL) {
			at++;
		}
		BUG_ON(at == BARS_MAX); /* two 64-bit BARs per slot fit */
		h->bars[at] = (struct decoded){
			.base = base,
			.len = p->bar_bytes[bar],
			.dev = p,
			.bar = bar,
		};
	}
}

/* ---- lines ---- */

void pci_host_line(struct pci_host *h, const struct pci_dev *p, bool level, bool silent)
{
	unsigned n = p->slot % PCI_GSIS;
	uint64_t bit = 1ull << p->slot;
	LOCK_SCOPE(&h->lock);
	uint64_t old = h->lines[n];
	h->lines[n] = level ? old | bit : old & ~bit;
	if (!silent && (old != 0) != (h->lines[n] != 0)) {
		h->dev.host->set_irq(h->dev.host->self, PCI_GSI_BASE + n, level);
	}
}

/* ---- on the machine's bus ---- */

static uint64_t window_base(const struct pci_host *h, unsigned range)
{
	return h->dev.ranges[range].base;
}

static void host_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t *data)
{
	struct pci_host *h = host_of(dev);
	struct decoded d;
	uint32_t a;
	switch (range) {
	case RANGE_ADDRESS:
		lock_take(&h->lock);
		*data = h->live.address;
		lock_drop(&h->lock);
		break;
	case RANGE_DATA:
		lock_take(&h->lock);
		a = h->live.address;
		lock_drop(&h->lock);
		*data = (a & ADDRESS_ENABLE) == 0
				? UINT64_MAX
				: config_read(h, a >> 16 & 0xff, a >> 11 & 0x1f, a >> 8 & 7,
					      (a & 0xfc) + (unsigned)off, len);
		break;
	case RANGE_ECAM:
		*data = config_read(h, (unsigned)(off >> 20), off >> ECAM_SLOT_SHIFT & 0x1f,
				    off >> ECAM_FUNCTION_SHIFT & 7, off & 0xfff, len);
		break;
	default:
		if (find_bar(h, window_base(h, range) + off, len, &d)) {
			*data = 0;
			d.dev->pci_ops->bar_read(d.dev, d.bar, window_base(h, range) + off - d.base,
						 len, data);
		}
		break;
	}
}

static void host_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t data)
{
	struct pci_host *h = host_of(dev);
	struct decoded d;
	uint32_t a;
	switch (range) {
	case RANGE_ADDRESS:
		lock_take(&h->lock);
		h->live.address = (uint32_t)data;
		lock_drop(&h->lock);
		break;
	case RANGE_DATA:
		lock_take(&h->lock);
		a = h->live.address;
		lock_drop(&h->lock);
		if ((a & ADDRESS_ENABLE) != 0) {
			config_write(h, a >> 16 & 0xff, a >> 11 & 0x1f, a >> 8 & 7,
				     (a & 0xfc) + (unsigned)off, len, data);
		}
		break;
	case RANGE_ECAM:
		config_write(h, (unsigned)(off >> 20), off >> ECAM_SLOT_SHIFT & 0x1f,
			     off >> ECAM_FUNCTION_SHIFT & 7, off & 0xfff, len, data);
		break;
	default:
		if (find_bar(h, window_base(h, range) + off, len, &d)) {
			d.dev->pci_ops->bar_write(d.dev, d.bar,
						  window_base(h, range) + off - d.base, len, data);
		}
		break;
	}
}

static void host_free(struct device *dev)
{
	if (dev != NULL) {
		struct pci_host *h = host_of(dev);
		pci_dev_done(&h->bridge);
		lock_done(&h->lock);
		free(h);
	}
}

/* ---- saved state: the bridge's own configuration has nothing that a guest can change ---- */

static struct err *host_fetch(void *self)
{
	struct pci_host *h = self;
	LOCK_SCOPE(&h->lock);
	h->saved = h->live;
	return NULL;
}

static struct err *host_commit(void *self)
{
	struct pci_host *h = self;
	LOCK_SCOPE(&h->lock);
	h->live = h->saved;
	return NULL;
}

static const struct state_field pci_host_fields[] = {
	FIELD(struct pci_host_state, 1, address),
};

const struct state_desc pci_host_desc = {
	.name = "pci_host",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct pci_host_state),
	.fields = pci_host_fields,
	.nfields = ARRAY_LEN(pci_host_fields),
};

static const struct snap_part_ops host_part_ops = {
	.fetch = host_fetch,
	.commit = host_commit,
};

/* ---- building ---- */

/* Addresses for the BARs, as a firmware gives them. Must hold p->lock. */
static struct err *place_bars(struct pci_host *h, struct pci_dev *p, unsigned slot)
{
	for (unsigned bar = 0; bar < PCI_BARS; bar++) {
		uint64_t len = p->bar_bytes[bar];
		if (len == 0) {
			continue;
		}
		uint64_t base = round_up_u64(h->next_base, len);
		ENSURE(base + len <= PCI_WIN32_BASE + PCI_WIN32_BYTES, ERR_LIMIT,
		       "PCI slot %u: its memory does not fit into the window", slot);
		uint8_t *at = p->live.config + PCI_BAR0 + 4 * bar;
		put_le64(at, base | get_le64(at));
		h->next_base = base + len;
	}
	return NULL;
}

static struct err *check_place(const struct pci_host *h, unsigned slot)
{
	ENSURE(slot % PCI_SLOTS >= 1 && slot < PCI_PLACES, ERR_USAGE,
	       "PCI slot %u: 1 to %d are possible", slot, PCI_SLOTS - 1);
	ENSURE(h->slots[slot] == NULL, ERR_NOT_NOW, "PCI slot %u is taken: give another", slot);
	const struct pci_dev *port = h->slots[slot % PCI_SLOTS];
	ENSURE(slot < PCI_BEHIND || (port != NULL && port->pci_ops->adopt != NULL), ERR_NOT_NOW,
	       "there is no root port in PCI slot %u", slot % PCI_SLOTS);
	return NULL;
}

struct err *pci_host_add(struct pci_host *h, struct pci_dev *p, unsigned slot, bool cold)
{
	TRY(check_place(h, slot));
	bool behind = slot >= PCI_BEHIND;
	struct pci_dev *port = behind ? h->slots[slot - PCI_BEHIND] : NULL;
	lock_take(&p->lock);
	p->slot = slot;
	p->live.config[PCI_INT_PIN] = 1; /* INTA */
	p->live.config[PCI_INT_LINE] = (uint8_t)(PCI_GSI_BASE + slot % PCI_GSIS);
	if (behind) {
		port->pci_ops->adopt(port, p);
	}
	memcpy(p->fresh, p->live.config, sizeof(p->fresh));
	if (behind && cold) {
		h->next_base = round_up_u64(h->next_base, PORT_WINDOW_BYTES);
	}
	uint64_t base = h->next_base;
	struct err *e = cold ? place_bars(h, p, slot) : NULL;
	p->bus = h;
	lock_drop(&p->lock);
	TRY(e);
	h->slots[slot] = p;
	if (behind && cold) {
		h->next_base = round_up_u64(h->next_base, PORT_WINDOW_BYTES);
		port->pci_ops->cold(port, base, h->next_base - base);
	}
	return NULL;
}

void pci_host_remove(struct pci_host *h, struct pci_dev *p)
{
	BUG_ON(p->slot < PCI_BEHIND || h->slots[p->slot] != p);
	h->slots[p->slot] = NULL;
	LOCK_SCOPE(&p->lock);
	pci_reset(p); /* nothing of it is decoded, no line is held */
	p->bus = NULL;
}

struct pci_dev *pci_host_at(const struct pci_host *h, unsigned slot)
{
	return slot < PCI_PLACES ? h->slots[slot] : NULL;
}

void pci_host_link(struct pci_host *h, struct pci_dev *p, const struct pci_link *l, bool reset)
{
	lock_take(&h->lock);
	h->links[p->slot] = *l;
	lock_drop(&h->lock);
	struct pci_dev *behind = h->slots[PCI_BEHIND + p->slot];
	if (behind == NULL) {
		return;
	}
	LOCK_SCOPE(&behind->lock);
	if (reset) {
		pci_reset(behind);
		return;
	}
	pci_host_decode(h, behind);
	if (behind->pci_ops->moved != NULL) {
		behind->pci_ops->moved(behind);
	}
}

uint32_t pci_host_slots(const struct pci_host *h)
{
	uint32_t mask = 0;
	for (unsigned i = 1; i < PCI_SLOTS; i++) {
		mask |= h->slots[i] != NULL ? 1u << i : 0;
	}
	return mask;
}

static const struct dev_ops host_ops = {
	.name = "pci_host",
	.read = host_read,
	.write = host_write,
	.free = host_free,
};

static const struct pci_ops bridge_ops = {
	.bar_read = NULL, /* it has no BAR */
};

struct err *pci_host_new(const struct dev_host *host, struct device **ret_dev,
			 struct pci_host **ret_host)
{
	struct pci_host *h = calloc(1, sizeof(*h));
	ENSURE(h != NULL, ERR_SYS, "out of memory");
	lock_init(&h->lock, RANK_BUS);
	h->win64 = pci_win64(gmem_gfn_end(host->gmem) << PAGE_SHIFT);
	h->dev = (struct device){
		.ops = &host_ops,
		.host = host,
		.ranges = {
			[RANGE_ADDRESS] = { DEV_PIO, ADDRESS_PORT, 4, .whole = true },
			[RANGE_DATA] = { DEV_PIO, DATA_PORT, 4, .whole = false },
			[RANGE_ECAM] = { DEV_MMIO, PCI_ECAM_BASE, PCI_ECAM_BYTES, false },
			[RANGE_WIN32] = { DEV_MMIO, PCI_WIN32_BASE, PCI_WIN32_BYTES, false },
			[RANGE_WIN64] = { DEV_MMIO, h->win64.base, h->win64.len, false },
		},
		.nranges = 5,
		.part = {
			.name = pci_host_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &pci_host_desc,
			.state = &h->saved,
			.ops = &host_part_ops,
			.self = h,
		},
	};
	pci_dev_init(&h->bridge, &bridge_ops,
		     &(struct pci_ids){ .vendor = VENDOR,
					.device = DEVICE_BRIDGE,
					.class = CLASS_HOST_BRIDGE });
	h->bridge.dev.host = host;
	h->slots[0] = &h->bridge;
	h->next_base = PCI_WIN32_BASE;
	*ret_dev = &h->dev;
	*ret_host = h;
	return NULL;
}
