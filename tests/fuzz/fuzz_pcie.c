/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a PCI Express root port with its slot, and what is put into it, as a hostile guest
 * works their configuration space and BARs, while devices come and go. The input is a list of
 * 8-byte operations: kind, what, where, how wide, a value. Everything is saved and loaded in
 * between. Properties: lines change when they are told to, the link says what presence, power, link
 * and reset make of it, what is loaded is what was saved. Device code alone: no KVM, one thread.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/fake_port.h"

enum { OP_BYTES = 8, GSIS = 24, OPS_MAX = 2048 };

struct world {
	struct dev_host host;
	struct fake_port p;
	struct device *timer; /* due */
	bool level[GSIS];
	unsigned slot_events;
};

static void on_irq(void *self, unsigned gsi, bool level)
{
	struct world *w = self;
	BUG_ON(gsi >= GSIS || w->level[gsi] == level);
	w->level[gsi] = level;
}

static void on_event(void *self, enum dev_event what)
{
	struct world *w = self;
	w->slot_events += what == DEV_EVENT_SLOT;
}

static void on_timer(void *self, struct device *dev, uint64_t at)
{
	struct world *w = self;
	w->timer = at != UINT64_MAX ? dev : NULL;
}

static void on_watch(void *self, struct device *dev, int fd, uint32_t events)
{
	(void)self;
	(void)dev;
	(void)fd;
	(void)events;
}

static void on_msi(void *self, uint64_t addr, uint32_t data)
{
	(void)self;
	(void)addr;
	(void)data;
}

static bool on_doorbell(void *self, int fd, uint64_t gpa, bool on)
{
	(void)self;
	(void)fd;
	(void)gpa;
	return on;
}

static void check(struct world *w)
{
	struct fake_port *p = &w->p;
	uint64_t sts = fp_get(p, 0, FP_SLOT, p->cap + PCIE_SLOT_STS, 2);
	uint64_t ctl = fp_get(p, 0, FP_SLOT, p->cap + PCIE_SLOT_CTL, 2);
	uint64_t link = fp_get(p, 0, FP_SLOT, p->cap + PCIE_LINK_CTL, 2);
	bool there = (sts & PCIE_SLOT_PRESENT) != 0;
	bool up = there && (ctl & PCIE_SLOT_OFF) == 0 && (link & PCIE_LINK_DISABLE) == 0 &&
		  (fp_get(p, 0, FP_SLOT, FP_BRIDGE_CTL, 2) & 1 << 6) == 0;
	BUG_ON(there != (p->child != NULL));
	BUG_ON(up != ((fp_get(p, 0, FP_SLOT, p->cap + PCIE_LINK_STS, 2) & PCIE_LINK_ACTIVE) != 0));
	unsigned bus = (unsigned)fp_get(p, 0, FP_SLOT, FP_SECONDARY, 1);
	bool seen = bus > 0 && bus < PCI_ECAM_BUSES && fp_get(p, bus, 0, 0, 4) != 0xffffffff;
	BUG_ON(seen != (up && bus > 0 && bus < PCI_ECAM_BUSES));
}

static void carry(struct device *from, struct device *to)
{
	struct snap_part *p = &from->part;
	struct snap_part *q = &to->part;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(PART_BYTES_MAX);
	BUG_ON(p->ops->fetch(p->self) != NULL);
	BUG_ON(desc_encode(p->desc, 0, p->state, &w) != NULL);
	BUG_ON(desc_decode(q->desc, 0, w.p, w.len, q->state) != NULL);
	BUG_ON(desc_compare(p->desc, p->state, q->state) != NULL);
	BUG_ON(q->ops->commit(q->self) != NULL);
	BUG_ON(q->ops->fetch(q->self) != NULL);
	BUG_ON(desc_compare(p->desc, p->state, q->state) != NULL);
}

/* Into a machine that was built with what is in the slot; the lines are the irqchip's. */
static void save_and_load(struct world *w)
{
	struct fake_port next;
	bool child = w->p.child != NULL;
	bool level[GSIS];
	memcpy(level, w->level, sizeof(level));
	BUG_ON(fp_init(&next, &w->host, child) != NULL);
	if (child) {
		carry(&w->p.child->dev, &next.child->dev);
	}
	carry(&w->p.port->dev, &next.port->dev);
	fp_done(&w->p);
	w->p = next;
	memcpy(w->level, level, sizeof(level));
	w->timer = w->timer != NULL ? &w->p.port->dev : NULL;
}

static void access_config(struct world *w, unsigned bus, unsigned slot, const uint8_t *op)
{
	unsigned width = 1u << op[2] % 4;
	unsigned off = op[3] & ~(width - 1);
	if ((op[2] & 0x80) != 0) {
		(void)fp_get(&w->p, bus, slot, off, width);
	} else {
		fp_put(&w->p, bus, slot, off, width, get_le32(op + 4) * 0x100000001ull);
	}
}

static void access_memory(struct world *w, const uint8_t *op)
{
	struct device *d = w->p.bus_dev;
	unsigned width = 1u << op[2] % 4;
	uint64_t v = get_le32(op + 4) * 0x100000001ull;
	/* The port's own BAR, its window as a firmware gave it, and where op[1] says. */
	uint64_t off = ((uint64_t)op[1] % 4 << 20 | (uint64_t)op[3] << 4) & ~(uint64_t)(width - 1);
	if ((op[2] & 0x80) != 0) {
		d->ops->read(d, FP_RANGE_WIN32, off, width, &v);
	} else {
		d->ops->write(d, FP_RANGE_WIN32, off, width, v);
	}
}

static void plug_or_pull(struct world *w)
{
	if (w->p.child != NULL) {
		fp_pull(&w->p);
	} else {
		BUG_ON(fp_plug(&w->p) != NULL);
	}
}

static void operate(struct world *w, const uint8_t *op)
{
	switch (op[0] % 8) {
	case 0:
		plug_or_pull(w);
		break;
	case 1:
		pcie_port_press(w->p.port);
		break;
	case 2:
		err_drop(pcie_port_pme(w->p.port, get_le16(op + 4)), "full now and then");
		break;
	case 3:
		if (w->timer != NULL) {
			w->timer = NULL;
			w->p.port->dev.ops->on_timer(&w->p.port->dev);
		}
		break;
	case 4:
		save_and_load(w);
		break;
	case 5:
		access_memory(w, op);
		break;
	case 6:
		access_config(w, op[1] % PCI_ECAM_BUSES, 0, op);
		break;
	default:
		access_config(w, 0, FP_SLOT, op);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct gmem *g; /* never written to: no driver gets as far as rings */
	if (g == NULL) {
		BUG_ON(gmem_new(GMEM_MIN_BYTES, &g) != NULL);
	}
	struct world w = {
		.host = {
			.self = &w,
			.gmem = g,
			.set_irq = on_irq,
			.event = on_event,
			.set_timer = on_timer,
			.watch_fd = on_watch,
			.send_msi = on_msi,
			.doorbell = on_doorbell,
		},
	};
	BUG_ON(fp_init(&w.p, &w.host, len % 2 == 1) != NULL);
	for (size_t at = 0; at + OP_BYTES <= len && at < OPS_MAX * OP_BYTES; at += OP_BYTES) {
		operate(&w, data + at);
		check(&w);
	}
	fp_done(&w.p);
	return 0;
}
