/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/pcie_port.c and of what pci_host.c does with ports: registers of the slot,
 * the way of a device in and out, interrupts, bus numbers and windows, PME, saved state at each
 * step, a random walk of hostile accesses.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/fake_host.h"
#include "tests/lib/fake_port.h"

enum {
	GSI = PCI_GSI_BASE + FP_SLOT % PCI_GSIS,
	CTL_IRQS = PCIE_SLOT_BUTTON | PCIE_SLOT_PRESENCE_CHANGED | PCIE_SLOT_COMPLETED |
		   PCIE_SLOT_IRQ | PCIE_SLOT_LINK_IRQ,
	EVENTS = PCIE_SLOT_BUTTON | PCIE_SLOT_PRESENCE_CHANGED | PCIE_SLOT_COMPLETED |
		 PCIE_SLOT_LINK_CHANGED,
	MSIX_ADDR = 0xfee00000,
	MSIX_DATA = 0x41,
};

struct rig {
	struct fake_host host;
	struct gmem *g;
	struct fake_port p;
};

static uint32_t port_get(struct rig *r, unsigned off, unsigned len)
{
	return (uint32_t)fp_get(&r->p, 0, FP_SLOT, off, len);
}

static void port_put(struct rig *r, unsigned off, unsigned len, uint32_t v)
{
	fp_put(&r->p, 0, FP_SLOT, off, len, v);
}

/* A register of the Express capability. */
static uint32_t cap_get(struct rig *r, unsigned off)
{
	return port_get(r, r->p.cap + off, 2);
}

static void cap_put(struct rig *r, unsigned off, uint32_t v)
{
	port_put(r, r->p.cap + off, 2, v);
}

static void begin(struct rig *r, bool child)
{
	*r = (struct rig){ 0 };
	fake_host_init(&r->host);
	ok_(gmem_new(GMEM_MIN_BYTES, &r->g));
	r->host.host.gmem = r->g;
	ok_(fp_init(&r->p, &r->host.host, child));
	assert_true(r->p.cap != 0);
	port_put(r, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
}

static void end(struct rig *r)
{
	fp_done(&r->p);
	gmem_free(r->g);
}

static uint64_t mem(struct rig *r, uint64_t gpa, unsigned len)
{
	uint64_t v = UINT64_MAX;
	struct device *d = r->p.bus_dev;
	d->ops->read(d, FP_RANGE_WIN32, gpa - PCI_WIN32_BASE, len, &v);
	return len == 8 ? v : v & ((1ull << (8 * len)) - 1);
}

static void mem_put(struct rig *r, uint64_t gpa, unsigned len, uint64_t v)
{
	struct device *d = r->p.bus_dev;
	d->ops->write(d, FP_RANGE_WIN32, gpa - PCI_WIN32_BASE, len, v);
}

static void set_window(struct rig *r, uint32_t base)
{
	port_put(r, FP_MEM, 4, base >> 16 | base);
}

/* MSI-X of the port and the interrupts of its slot. */
static void hear(struct rig *r)
{
	uint64_t table = port_get(r, PCI_BAR0, 4) & ~0xfu;
	unsigned at = (unsigned)port_get(r, PCI_CAP_POINTER, 1);
	while (port_get(r, at, 1) != PCI_CAP_MSIX) {
		at = port_get(r, at + 1, 1);
	}
	mem_put(r, table, 4, MSIX_ADDR);
	mem_put(r, table + 8, 4, MSIX_DATA);
	mem_put(r, table + 12, 4, 0);
	port_put(r, at + 2, 2, 0x8000);
	cap_put(r, PCIE_SLOT_CTL, CTL_IRQS | PCIE_SLOT_OFF);
	cap_put(r, PCIE_SLOT_STS, EVENTS);
}

static void power(struct rig *r, bool on)
{
	cap_put(r, PCIE_SLOT_CTL, CTL_IRQS | (on ? 0 : PCIE_SLOT_OFF));
}

/* What the guest does with a device that has come. */
static void bring_up(struct rig *r)
{
	power(r, true);
	set_window(r, FP_WINDOW);
	fp_put(&r->p, FP_BUS, 0, PCI_BAR0, 4, FP_WINDOW);
	fp_put(&r->p, FP_BUS, 0, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
	mem_put(r, FP_WINDOW + FP_STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
	cap_put(r, PCIE_SLOT_STS, EVENTS);
}

static void test_identity(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	assert_int_equal(port_get(&r, PCI_HEADER_TYPE, 1), 1);
	assert_int_equal(port_get(&r, PCI_CLASS, 4) & 0xffffff, 0x060400);
	assert_int_equal(cap_get(&r, PCIE_CAPS), 0x0142);
	assert_int_equal(port_get(&r, FP_SECONDARY, 1), FP_BUS);
	/* Button, power controller, both lamps, surprise, hot-plug; commands are completed. */
	assert_int_equal(port_get(&r, r.p.cap + PCIE_SLOT_CAP, 4) & 0x7ffff, 0x7b);
	assert_int_equal(port_get(&r, r.p.cap + PCIE_SLOT_CAP, 4) >> 19, FP_BUS);
	assert_int_equal(port_get(&r, r.p.cap + PCIE_LINK_CAP, 4) >> 20 & 1, 1);
	/* Empty and off; nothing answers behind it. */
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS), 0);
	assert_true((cap_get(&r, PCIE_SLOT_CTL) & PCIE_SLOT_OFF) != 0);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff);
	/* I/O and prefetchable windows are not there: they keep no address. */
	port_put(&r, 0x1c, 2, 0xffff);
	port_put(&r, 0x24, 4, 0xffffffff);
	assert_int_equal(port_get(&r, 0x1c, 2), 0);
	assert_int_equal(port_get(&r, 0x24, 4), 0);
	end(&r);
}

static void test_plug_and_remove(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	hear(&r);
	unsigned sent = r.host.nmsi;
	ok_(fp_plug(&r.p));
	assert_int_equal(r.host.nmsi, sent + 1);
	assert_int_equal(r.host.msi_data, MSIX_DATA);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS),
			 PCIE_SLOT_PRESENT | PCIE_SLOT_PRESENCE_CHANGED | PCIE_SLOT_BUTTON);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff); /* no power yet */
	assert_false(cap_get(&r, PCIE_LINK_STS) & PCIE_LINK_ACTIVE);
	cap_put(&r, PCIE_SLOT_STS, EVENTS);
	power(&r, true);
	assert_int_equal(r.host.nmsi, sent + 2);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS),
			 PCIE_SLOT_PRESENT | PCIE_SLOT_COMPLETED | PCIE_SLOT_LINK_CHANGED);
	assert_true(cap_get(&r, PCIE_LINK_STS) & PCIE_LINK_ACTIVE);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0x10441af4);
	assert_int_equal(fp_get(&r.p, FP_BUS, 1, 0, 4), 0xffffffff); /* alone on its bus */
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, PCI_BAR0, 4), 4);
	bring_up(&r);
	assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);

	/* The button; the guest lets go, and who waits hears of it. */
	sent = r.host.nmsi;
	pcie_port_press(r.p.port);
	assert_int_equal(r.host.nmsi, sent + 1);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS), PCIE_SLOT_PRESENT | PCIE_SLOT_BUTTON);
	assert_true(pcie_port_look(r.p.port).leaving);
	assert_int_equal(r.host.events[DEV_EVENT_SLOT], 0);
	power(&r, false);
	assert_int_equal(r.host.events[DEV_EVENT_SLOT], 1);
	assert_false(pcie_port_look(r.p.port).powered);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff);
	assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), 0xff);
	cap_put(&r, PCIE_SLOT_STS, EVENTS);
	fp_pull(&r.p);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS), PCIE_SLOT_PRESENCE_CHANGED);
	assert_false(pcie_port_look(r.p.port).leaving);

	/* The place can be used again. */
	cap_put(&r, PCIE_SLOT_STS, EVENTS);
	ok_(fp_plug(&r.p));
	bring_up(&r);
	assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
	end(&r);
}

static void test_surprise(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	hear(&r);
	ok_(fp_plug(&r.p));
	bring_up(&r);
	unsigned sent = r.host.nmsi;
	fp_pull(&r.p);
	assert_int_equal(r.host.nmsi, sent + 1);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS),
			 PCIE_SLOT_PRESENCE_CHANGED | PCIE_SLOT_LINK_CHANGED);
	assert_false(cap_get(&r, PCIE_LINK_STS) & PCIE_LINK_ACTIVE);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff);
	end(&r);
}

/* Power, link and bus reset each take the device away, and give it back as after power-on. */
static void test_resets(void **state)
{
	(void)state;
	static const struct {
		unsigned off, held, free;
		bool in_cap;
	} ways[] = {
		{ PCIE_SLOT_CTL, CTL_IRQS | PCIE_SLOT_OFF, CTL_IRQS, true },
		{ PCIE_LINK_CTL, PCIE_LINK_DISABLE, 0, true },
		{ FP_BRIDGE_CTL, 1 << 6, 0, false },
	};
	struct rig r;
	begin(&r, false);
	hear(&r);
	ok_(fp_plug(&r.p));
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		unsigned at = ways[i].off + (ways[i].in_cap ? r.p.cap : 0);
		bring_up(&r);
		assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
		port_put(&r, at, 2, ways[i].held);
		assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff);
		assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), 0xff);
		port_put(&r, at, 2, ways[i].free);
		assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0x10441af4);
		assert_int_equal(fp_get(&r.p, FP_BUS, 0, PCI_BAR0, 4), 4);
		assert_int_equal(fp_get(&r.p, FP_BUS, 0, PCI_COMMAND, 2), 0);
		fp_put(&r.p, FP_BUS, 0, PCI_BAR0, 4, FP_WINDOW);
		fp_put(&r.p, FP_BUS, 0, PCI_COMMAND, 2, PCI_CMD_MEMORY);
		assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), 0);
	}
	end(&r);
}

static void test_windows_and_numbers(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	hear(&r);
	ok_(fp_plug(&r.p));
	bring_up(&r);
	uint32_t other = FP_WINDOW + 0x100000;
	set_window(&r, other); /* the BAR lies outside now */
	assert_int_equal(mem(&r, FP_WINDOW + FP_STATUS, 1), 0xff);
	fp_put(&r.p, FP_BUS, 0, PCI_BAR0, 4, other);
	assert_int_equal(mem(&r, other + FP_STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
	port_put(&r, FP_MEM, 4, 0x0000fff0); /* base above limit: none */
	assert_int_equal(mem(&r, other + FP_STATUS, 1), 0xff);
	set_window(&r, other);
	port_put(&r, PCI_COMMAND, 2, PCI_CMD_MASTER);
	assert_int_equal(mem(&r, other + FP_STATUS, 1), 0xff);
	port_put(&r, PCI_COMMAND, 2, PCI_CMD_MEMORY | PCI_CMD_MASTER);
	assert_int_equal(mem(&r, other + FP_STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
	port_put(&r, FP_SECONDARY, 1, 7);
	assert_int_equal(fp_get(&r.p, FP_BUS, 0, 0, 4), 0xffffffff);
	assert_int_equal(fp_get(&r.p, 7, 0, 0, 4), 0x10441af4);
	assert_int_equal(pcie_port_look(r.p.port).bus, 7);
	port_put(&r, FP_SECONDARY, 1, 0); /* no number: bus 0 stays the bridge's */
	assert_int_equal(fp_get(&r.p, 0, 0, 0, 4), 0x00081b36);
	end(&r);
}

static void test_interrupts(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	/* Without MSI-X it is INTA, as long as there is a reason. */
	cap_put(&r, PCIE_SLOT_CTL, CTL_IRQS | PCIE_SLOT_OFF);
	assert_true(r.host.level[GSI]); /* the command completed */
	cap_put(&r, PCIE_SLOT_STS, PCIE_SLOT_COMPLETED);
	assert_false(r.host.level[GSI]);
	pcie_port_press(r.p.port);
	assert_true(r.host.level[GSI]);
	cap_put(&r, PCIE_SLOT_CTL, PCIE_SLOT_OFF); /* interrupts off: the event stays */
	assert_false(r.host.level[GSI]);
	assert_true(cap_get(&r, PCIE_SLOT_STS) & PCIE_SLOT_BUTTON);
	cap_put(&r, PCIE_SLOT_STS, EVENTS);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS), 0);
	/* With it: one message per time that reasons appear. */
	hear(&r);
	unsigned sent = r.host.nmsi;
	pcie_port_press(r.p.port);
	pcie_port_press(r.p.port);
	assert_int_equal(r.host.nmsi, sent + 1);
	cap_put(&r, PCIE_SLOT_STS, PCIE_SLOT_BUTTON);
	pcie_port_press(r.p.port);
	assert_int_equal(r.host.nmsi, sent + 2);
	assert_false(r.host.level[GSI]);
	end(&r);
}

static uint32_t root_sts(struct rig *r)
{
	return port_get(r, r->p.cap + PCIE_ROOT_STS, 4);
}

static void test_pme(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, false);
	hear(&r);
	cap_put(&r, PCIE_ROOT_CTL, PCIE_ROOT_PME_IRQ);
	unsigned sent = r.host.nmsi;
	ok_(pcie_port_pme(r.p.port, 0x100));
	assert_int_equal(r.host.events[DEV_EVENT_PCIE_WAKE], 1);
	assert_int_equal(root_sts(&r), 0); /* the gate holds it back */
	fake_advance(&r.host, 0);
	assert_int_equal(root_sts(&r), PCIE_ROOT_PME | 0x100);
	assert_int_equal(r.host.nmsi, sent + 1);
	/* A second and a third one wait, one of them told twice. */
	ok_(pcie_port_pme(r.p.port, 0x101));
	ok_(pcie_port_pme(r.p.port, 0x102));
	ok_(pcie_port_pme(r.p.port, 0x101));
	fake_advance(&r.host, 0);
	assert_int_equal(root_sts(&r), PCIE_ROOT_PME | PCIE_ROOT_PME_MORE | 0x100);
	port_put(&r, r.p.cap + PCIE_ROOT_STS, 4, PCIE_ROOT_PME);
	assert_int_equal(root_sts(&r), PCIE_ROOT_PME | PCIE_ROOT_PME_MORE | 0x101);
	port_put(&r, r.p.cap + PCIE_ROOT_STS, 4, PCIE_ROOT_PME);
	assert_int_equal(root_sts(&r), PCIE_ROOT_PME | 0x102);
	port_put(&r, r.p.cap + PCIE_ROOT_STS, 4, PCIE_ROOT_PME);
	assert_int_equal(root_sts(&r) & (PCIE_ROOT_PME | PCIE_ROOT_PME_MORE), 0);
	/* As many as fit. */
	for (uint16_t i = 0; i < PCIE_PMES_MAX; i++) {
		ok_(pcie_port_pme(r.p.port, (uint16_t)(0x200 + i)));
	}
	struct err *e = pcie_port_pme(r.p.port, 0x300);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_LIMIT);
	err_free(e);
	end(&r);
}

/* Into a machine that was built with or without the device. */
static struct err *carry(struct rig *from, struct rig *to, bool child)
{
	begin(to, child);
	if (child) {
		dev_carry_over(&from->p.child->dev, &to->p.child->dev);
	}
	struct snap_part *p = &from->p.port->dev.part;
	struct snap_part *q = &to->p.port->dev.part;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 20);
	ok_(p->ops->fetch(p->self));
	ok_(desc_encode(p->desc, 0, p->state, &w));
	ok_(desc_decode(q->desc, 0, w.p, w.len, q->state));
	return q->ops->commit(q->self);
}

static void same(struct rig *a, struct rig *b)
{
	for (unsigned off = 0; off < PCI_CONFIG_BYTES; off += 4) {
		assert_int_equal(port_get(a, off, 4), port_get(b, off, 4));
	}
	assert_int_equal(fp_get(&a->p, FP_BUS, 0, 0, 4), fp_get(&b->p, FP_BUS, 0, 0, 4));
	assert_int_equal(mem(a, FP_WINDOW + FP_STATUS, 1), mem(b, FP_WINDOW + FP_STATUS, 1));
	assert_memory_equal(&(struct pcie_port_look[]){ pcie_port_look(a->p.port) },
			    &(struct pcie_port_look[]){ pcie_port_look(b->p.port) },
			    sizeof(struct pcie_port_look));
}

/* Saved after each step of a device's way in and out; what follows works the same afterwards. */
static void test_saved(void **state)
{
	(void)state;
	for (unsigned step = 0; step < 6; step++) {
		struct rig a, b;
		begin(&a, false);
		hear(&a);
		bool child = step > 0 && step < 5;
		if (step > 0) {
			ok_(fp_plug(&a.p));
		}
		if (step > 1) {
			bring_up(&a);
		}
		if (step > 2) {
			pcie_port_press(a.p.port);
		}
		if (step > 3) {
			power(&a, false);
		}
		if (step > 4) {
			fp_pull(&a.p);
		}
		ok_(carry(&a, &b, child));
		same(&a, &b);
		/* No message is sent by the load, and the next event sends one. */
		assert_int_equal(b.host.nmsi, 0);
		cap_put(&b, PCIE_SLOT_STS, EVENTS);
		pcie_port_press(b.p.port);
		assert_int_equal(b.host.nmsi, 1);
		end(&b);
		end(&a);
	}
}

static void test_saved_elsewhere(void **state)
{
	(void)state;
	struct rig a, b;
	begin(&a, true);
	begin(&b, false);
	struct snap_part *p = &a.p.port->dev.part;
	struct snap_part *q = &b.p.port->dev.part;
	ok_(p->ops->fetch(p->self));
	memcpy(q->state, p->state, sizeof(struct pcie_port_state));
	struct err *e = q->ops->commit(q->self);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_INCOMPAT);
	err_free(e);
	end(&a);
	end(&b);
}

/* PMEs that the registers do not show yet are in the record. */
static void test_saved_pme(void **state)
{
	(void)state;
	struct rig a, b;
	begin(&a, false);
	hear(&a);
	cap_put(&a, PCIE_ROOT_CTL, PCIE_ROOT_PME_IRQ);
	ok_(pcie_port_pme(a.p.port, 0x100));
	ok_(carry(&a, &b, false));
	assert_int_equal(root_sts(&b), 0);
	fake_advance(&b.host, 0);
	assert_int_equal(root_sts(&b), PCIE_ROOT_PME | 0x100);
	assert_int_equal(b.host.nmsi, 1);
	end(&a);
	end(&b);
}

/* In the slot from power-on: on, with addresses, and the same after a guest's reset. */
static void test_cold(void **state)
{
	(void)state;
	struct rig r;
	begin(&r, true);
	const struct pcie_port_look k = pcie_port_look(r.p.port);
	assert_true(k.present && k.powered && !k.leaving);
	assert_int_equal(cap_get(&r, PCIE_SLOT_STS), PCIE_SLOT_PRESENT); /* no event */
	uint64_t bar = fp_get(&r.p, FP_BUS, 0, PCI_BAR0, 4) & ~0xfull;
	assert_true(bar >= PCI_WIN32_BASE);
	fp_put(&r.p, FP_BUS, 0, PCI_COMMAND, 2, PCI_CMD_MEMORY);
	assert_int_equal(mem(&r, bar + FP_STATUS, 1), 0);
	/* A place without a port takes nothing. */
	struct pci_dev *other = NULL;
	ok_(virtio_rng_new(&r.host.host, "rng1", &other));
	struct err *e = pci_host_add(r.p.bus, other, PCI_BEHIND + FP_SLOT + 1, false);
	assert_non_null(e);
	err_free(e);
	other->dev.ops->free(&other->dev);
	end(&r);
}

static uint32_t next(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*seed >> 32);
}

/* Whatever the guest writes and the host does, the invariants of pcie_port.c hold. */
static void test_walk(void **state)
{
	(void)state;
	uint64_t seed = 20261122;
	for (unsigned round = 0; round < 40; round++) {
		struct rig r;
		begin(&r, round % 2 == 0);
		for (unsigned i = 0; i < 400; i++) {
			uint32_t v = next(&seed);
			unsigned len = 1u << next(&seed) % 3;
			unsigned off = next(&seed) % PCI_CONFIG_BYTES & ~(len - 1);
			switch (next(&seed) % 8) {
			case 0:
				if (r.p.child != NULL) {
					fp_pull(&r.p);
				} else {
					ok_(fp_plug(&r.p));
				}
				break;
			case 1:
				pcie_port_press(r.p.port);
				break;
			case 2:
				err_drop(pcie_port_pme(r.p.port, (uint16_t)v), "full now and then");
				break;
			case 3:
				fp_put(&r.p, port_get(&r, FP_SECONDARY, 1) % PCI_ECAM_BUSES, 0, off,
				       len, v);
				break;
			case 4: {
				struct rig b;
				ok_(carry(&r, &b, r.p.child != NULL));
				same(&r, &b);
				end(&b);
				break;
			}
			default:
				port_put(&r, off, len, v);
				break;
			}
			bool there = r.p.child != NULL;
			assert_int_equal((cap_get(&r, PCIE_SLOT_STS) & PCIE_SLOT_PRESENT) != 0,
					 there);
			bool up = there && (cap_get(&r, PCIE_SLOT_CTL) & PCIE_SLOT_OFF) == 0 &&
				  (cap_get(&r, PCIE_LINK_CTL) & PCIE_LINK_DISABLE) == 0 &&
				  (port_get(&r, FP_BRIDGE_CTL, 2) & 1 << 6) == 0;
			assert_int_equal((cap_get(&r, PCIE_LINK_STS) & PCIE_LINK_ACTIVE) != 0, up);
		}
		end(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_plug_and_remove),
		cmocka_unit_test(test_surprise),
		cmocka_unit_test(test_resets),
		cmocka_unit_test(test_windows_and_numbers),
		cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_pme),
		cmocka_unit_test(test_saved),
		cmocka_unit_test(test_saved_elsewhere),
		cmocka_unit_test(test_saved_pme),
		cmocka_unit_test(test_cold),
		cmocka_unit_test(test_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
