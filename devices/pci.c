/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI device's configuration space, BARs, INTA and MSI-X. See pci.h for threads and locks.
 *
 * I1: config bytes change only where `writable`, `clears` or `varies` allow. I2: the line of INTA
 * shows live.intx unless INTX_OFF or MSI-X is on; every change of one of the three calls show_intx.
 * I3: a pending bit of a vector is set only while the vector or the whole function is masked.
 */
#include "devices/pci.h"

#include <string.h>

#include "core/base/bytes.h"

enum {
	BAR_64 = 0x4,
	BAR_FLAGS = 0xf,
	MSIX_CAP_BYTES = 12,
	MSIX_CONTROL = 2, /* offset in the capability */
	MSIX_ENABLE = 1 << 15,
	MSIX_MASK_ALL = 1 << 14,
	VECTOR_MASKED = 1,
};

void pci_dev_init(struct pci_dev *p, const struct pci_ops *ops, const struct pci_ids *ids)
{
	lock_init(&p->lock, RANK_DEVICE);
	p->pci_ops = ops;
	uint8_t *c = p->live.config;
	put_le16(c + PCI_VENDOR_ID, ids->vendor);
	put_le16(c + PCI_DEVICE_ID, ids->device);
	c[PCI_REVISION] = ids->revision;
	c[PCI_CLASS] = (uint8_t)ids->class;
	c[PCI_CLASS + 1] = (uint8_t)(ids->class >> 8);
	c[PCI_CLASS + 2] = (uint8_t)(ids->class >> 16);
	put_le16(c + PCI_SUBSYSTEM_VENDOR, ids->subsystem_vendor);
	put_le16(c + PCI_SUBSYSTEM_ID, ids->subsystem);
	put_le16(p->writable + PCI_COMMAND, PCI_CMD_MEMORY | PCI_CMD_MASTER | PCI_CMD_INTX_OFF);
	p->writable[PCI_INT_LINE] = 0xff;
	p->varies[PCI_STATUS] = PCI_STS_INTX;
	p->cap_end = PCI_FIRST_CAP;
	p->cap_last = PCI_CAP_POINTER;
}

void pci_dev_done(struct pci_dev *p)
{
	lock_done(&p->lock);
}

void pci_dev_rank(struct pci_dev *p, enum lock_rank rank)
{
	lock_done(&p->lock);
	lock_init(&p->lock, rank);
}

void pci_add_bar64(struct pci_dev *p, unsigned bar, uint64_t len_bytes)
{
	BUG_ON(bar + 1 >= PCI_BARS || len_bytes < PAGE_BYTES || (len_bytes & (len_bytes - 1)) != 0);
	uint8_t *at = p->live.config + PCI_BAR0 + 4 * bar;
	uint8_t *mask = p->writable + PCI_BAR0 + 4 * bar;
	put_le32(at, BAR_64);
	put_le64(mask, ~(len_bytes - 1));
	p->bar_bytes[bar] = len_bytes;
}

unsigned pci_add_cap(struct pci_dev *p, uint8_t id, const void *body, const void *writable,
		     unsigned len)
{
	unsigned at = p->cap_end;
	BUG_ON(len < 2 || at + len > PCI_CONFIG_BYTES);
	uint8_t *c = p->live.config;
	c[p->cap_last] = (uint8_t)at;
	c[at] = id;
	memcpy(c + at + 2, body, len - 2);
	if (writable != NULL) {
		memcpy(p->writable + at + 2, writable, len - 2);
	}
	put_le16(c + PCI_STATUS, get_le16(c + PCI_STATUS) | PCI_STS_CAPS);
	p->cap_last = at + 1;
	p->cap_end = (unsigned)round_up_u64(at + len, 4);
	return at;
}

void pci_add_msix(struct pci_dev *p, unsigned n, unsigned bar, uint64_t table, uint64_t pba)
{
	BUG_ON(n == 0 || n > PCI_MSIX_MAX || p->bar_bytes[bar] == 0);
	uint8_t body[MSIX_CAP_BYTES - 2];
	uint8_t mask[MSIX_CAP_BYTES - 2] = { 0 };
	put_le16(body, (uint16_t)(n - 1));
	put_le32(body + 2, (uint32_t)table | bar);
	put_le32(body + 6, (uint32_t)pba | bar);
	put_le16(mask, MSIX_ENABLE | MSIX_MASK_ALL);
	p->msix_cap = pci_add_cap(p, PCI_CAP_MSIX, body, mask, MSIX_CAP_BYTES);
	p->msix_bar = bar;
	p->msix_table = table;
	p->msix_pba = pba;
	p->live.nvectors = n;
	for (unsigned i = 0; i < n; i++) {
		p->live.msix[i].control = VECTOR_MASKED;
	}
}

/* ---- interrupts ---- */

static uint16_t msix_control(const struct pci_dev *p)
{
	return p->msix_cap != 0 ? get_le16(p->live.config + p->msix_cap + MSIX_CONTROL) : 0;
}

bool pci_msix_on(const struct pci_dev *p)
{
	return (msix_control(p) & MSIX_ENABLE) != 0;
}

static void show_intx(struct pci_dev *p, bool silent)
{
	uint8_t *c = p->live.config;
	uint16_t status = get_le16(c + PCI_STATUS) & (uint16_t)~PCI_STS_INTX;
	put_le16(c + PCI_STATUS, p->live.intx ? status | PCI_STS_INTX : status);
	bool off = (get_le16(c + PCI_COMMAND) & PCI_CMD_INTX_OFF) != 0 || pci_msix_on(p);
	if (p->bus != NULL) {
		pci_host_line(p->bus, p, p->live.intx && !off, silent);
	}
}

void pci_set_intx(struct pci_dev *p, bool level)
{
	if (p->live.intx != level) {
		p->live.intx = level;
		show_intx(p, false);
	}
}

static bool vector_masked(const struct pci_dev *p, unsigned v)
{
	return (msix_control(p) & MSIX_MASK_ALL) != 0 ||
	       (p->live.msix[v].control & VECTOR_MASKED) != 0;
}

void pci_msix_fire(struct pci_dev *p, unsigned v)
{
	if (v >= p->live.nvectors || !pci_msix_on(p)) {
		return;
	}
	if (vector_masked(p, v)) {
		p->live.msix_pending |= 1ull << v;
		return;
	}
	p->live.msix_pending &= ~(1ull << v);
	/* A device that may not master the bus cannot write a message. */
	if ((get_le16(p->live.config + PCI_COMMAND) & PCI_CMD_MASTER) != 0) {
		const struct dev_host *h = p->dev.host;
		h->send_msi(h->self, p->live.msix[v].addr, p->live.msix[v].data);
	}
}

/* Sends what waited for a mask to go away (I3). */
static void send_pending(struct pci_dev *p)
{
	for (unsigned v = 0; p->live.msix_pending >> v != 0; v++) {
		if ((p->live.msix_pending >> v & 1) != 0 && pci_msix_on(p) &&
		    !vector_masked(p, v)) {
			pci_msix_fire(p, v);
		}
		if (v == PCI_MSIX_MAX - 1) {
			break;
		}
	}
}

/* The table as 32-bit registers. */
static uint32_t *table_word(struct pci_dev *p, uint64_t off, uint32_t *tmp)
{
	struct pci_msix_entry *e = &p->live.msix[off / PCI_MSIX_ENTRY_BYTES];
	switch (off % PCI_MSIX_ENTRY_BYTES / 4) {
	case 0:
		*tmp = (uint32_t)e->addr;
		return NULL;
	case 1:
		*tmp = (uint32_t)(e->addr >> 32);
		return NULL;
	case 2:
		return &e->data;
	default:
		return &e->control;
	}
}

static uint32_t table_read(struct pci_dev *p, uint64_t off)
{
	uint32_t v = 0;
	const uint32_t *at = table_word(p, off, &v);
	return at != NULL ? *at : v;
}

static void table_write(struct pci_dev *p, uint64_t off, uint32_t v)
{
	struct pci_msix_entry *e = &p->live.msix[off / PCI_MSIX_ENTRY_BYTES];
	switch (off % PCI_MSIX_ENTRY_BYTES / 4) {
	case 0:
		e->addr = (e->addr & ~0xffffffffull) | (v & ~3u);
		break;
	case 1:
		e->addr = (e->addr & 0xffffffffull) | (uint64_t)v << 32;
		break;
	case 2:
		e->data = v;
		break;
	default:
		e->control = v & VECTOR_MASKED;
		send_pending(p);
		break;
	}
}

bool pci_msix_read(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t *data)
{
	if (p->msix_cap == 0 || bar != p->msix_bar) {
		return false;
	}
	uint64_t table_bytes = (uint64_t)p->live.nvectors * PCI_MSIX_ENTRY_BYTES;
	if (off - p->msix_table < table_bytes && len <= table_bytes - (off - p->msix_table)) {
		uint64_t at = off - p->msix_table;
		/* Other widths than 4 and 8 are undefined by the specification. */
		uint64_t v = table_read(p, at & ~3ull);
		if (len == 8 && at % 8 == 0) {
			v |= (uint64_t)table_read(p, at + 4) << 32;
		}
		*data = v >> (8 * (at % 4));
		return true;
	}
	if (off - p->msix_pba < sizeof(p->live.msix_pending)) {
		*data = p->live.msix_pending >> (8 * (off - p->msix_pba));
		return true;
	}
	return false;
}

bool pci_msix_write(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t data)
{
	if (p->msix_cap == 0 || bar != p->msix_bar) {
		return false;
	}
	uint64_t table_bytes = (uint64_t)p->live.nvectors * PCI_MSIX_ENTRY_BYTES;
	uint64_t at = off - p->msix_table;
	if (at >= table_bytes) {
		return off - p->msix_pba < sizeof(p->live.msix_pending); /* read-only */
	}
	if (at % 4 == 0 && len >= 4) {
		table_write(p, at, (uint32_t)data);
		if (len == 8 && at % 8 == 0) {
			table_write(p, at + 4, (uint32_t)(data >> 32));
		}
	}
	return true;
}

/* ---- configuration space ---- */

uint64_t pci_bar_asked(const struct pci_dev *p, unsigned bar)
{
	if ((get_le16(p->live.config + PCI_COMMAND) & PCI_CMD_MEMORY) == 0) {
		return 0;
	}
	return get_le64(p->live.config + PCI_BAR0 + 4 * bar) & ~(uint64_t)BAR_FLAGS;
}

uint64_t pci_bar_gpa(const struct pci_dev *p, unsigned bar)
{
	uint64_t base = pci_bar_asked(p, bar);
	bool here = p->bus == NULL || pci_host_forwards(p->bus, p, base, p->bar_bytes[bar]);
	return here ? base : 0;
}

uint32_t pci_config_read(struct pci_dev *p, unsigned off, unsigned len)
{
	if (off + len > PCI_CONFIG_BYTES) {
		return 0; /* no extended capabilities */
	}
	if (p->pci_ops->config_before_read != NULL) {
		p->pci_ops->config_before_read(p, off, len);
	}
	uint32_t v = 0;
	memcpy(&v, p->live.config + off, len);
	return v;
}

static bool overlaps(unsigned off, unsigned len, unsigned reg, unsigned reg_len)
{
	return off < reg + reg_len && reg < off + len;
}

void pci_config_write(struct pci_dev *p, unsigned off, unsigned len, uint32_t v)
{
	if (off + len > PCI_CONFIG_BYTES) {
		return;
	}
	for (unsigned i = 0; i < len; i++) {
		uint8_t *c = &p->live.config[off + i];
		uint8_t mask = p->writable[off + i];
		uint8_t byte = (uint8_t)(v >> (8 * i));
		*c = (uint8_t)((*c & ~mask) | (byte & mask)); /* I1 */
		*c &= (uint8_t) ~(byte & p->clears[off + i]);
	}
	bool command = overlaps(off, len, PCI_COMMAND, 2);
	bool msix = p->msix_cap != 0 && overlaps(off, len, p->msix_cap + MSIX_CONTROL, 2);
	if (command || overlaps(off, len, PCI_BAR0, 4 * PCI_BARS)) {
		if (p->bus != NULL) {
			pci_host_decode(p->bus, p);
		}
		if (p->pci_ops->moved != NULL) {
			p->pci_ops->moved(p);
		}
	}
	if (command || msix) {
		show_intx(p, false);
		send_pending(p);
	}
	if (p->pci_ops->config_after_write != NULL) {
		p->pci_ops->config_after_write(p, off, len);
	}
}

void pci_reset(struct pci_dev *p)
{
	if (p->pci_ops->reset != NULL) {
		p->pci_ops->reset(p);
	}
	memcpy(p->live.config, p->fresh, sizeof(p->live.config));
	p->live.msix_pending = 0;
	for (unsigned i = 0; i < p->live.nvectors; i++) {
		p->live.msix[i] = (struct pci_msix_entry){ .control = VECTOR_MASKED };
	}
	p->live.intx = false;
	show_intx(p, false);
	if (p->bus != NULL) {
		pci_host_decode(p->bus, p);
	}
	if (p->pci_ops->moved != NULL) {
		p->pci_ops->moved(p);
	}
}

/* ---- saved state ---- */

void pci_fetch(struct pci_dev *p, struct pci_state *ret)
{
	*ret = p->live;
}

struct err *pci_match(const struct pci_dev *p, const struct pci_state *from)
{
	ENSURE(from->nvectors == p->live.nvectors, ERR_INCOMPAT,
	       "PCI slot %u: saved with %u MSI-X vectors, this device has %u", p->slot,
	       from->nvectors, p->live.nvectors);
	for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
		uint8_t fixed = (uint8_t) ~(p->writable[i] | p->clears[i] | p->varies[i]);
		ENSURE(((from->config[i] ^ p->live.config[i]) & fixed) == 0, ERR_INCOMPAT,
		       "PCI slot %u: configuration byte 0x%x is 0x%02x, this device has 0x%02x: "
		       "another device was saved",
		       p->slot, i, from->config[i], p->live.config[i]);
	}
	return NULL;
}

struct err *pci_commit(struct pci_dev *p, const struct pci_state *from)
{
	TRY(pci_match(p, from));
	p->live = *from;
	/* The interrupt controller's own record has the line; the bridge learns who holds it. */
	if (p->bus != NULL) {
		pci_host_decode(p->bus, p);
	}
	show_intx(p, true);
	return NULL;
}

static const struct state_field msix_entry_fields[] = {
	FIELD(struct pci_msix_entry, 1, addr),
	FIELD(struct pci_msix_entry, 2, data),
	FIELD(struct pci_msix_entry, 3, control, FIELD_RANGE(0, VECTOR_MASKED)),
};

static const struct state_desc msix_entry_desc = {
	.name = "msix-entry",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct pci_msix_entry),
	.fields = msix_entry_fields,
	.nfields = ARRAY_LEN(msix_entry_fields),
};

static struct err *pci_check(const void *state)
{
	const struct pci_state *st = state;
	uint64_t known = st->nvectors == 64 ? UINT64_MAX : (1ull << st->nvectors) - 1;
	ENSURE((st->msix_pending & ~known) == 0, ERR_CORRUPT,
	       "pci: a vector is pending that does not exist");
	return NULL;
}

static const struct state_field pci_fields[] = {
	FIELD_BLOB(struct pci_state, 1, config),
	FIELD(struct pci_state, 2, nvectors, FIELD_RANGE(0, PCI_MSIX_MAX)),
	FIELD(struct pci_state, 3, intx),
	PAD(struct pci_state, pad),
	FIELD_VSUBS(struct pci_state, 4, msix, nvectors, &msix_entry_desc),
	FIELD(struct pci_state, 5, msix_pending),
};

const struct state_desc pci_dev_desc = {
	.name = "pci",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct pci_state),
	.fields = pci_fields,
	.nfields = ARRAY_LEN(pci_fields),
	.check = pci_check,
};
