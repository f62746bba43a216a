/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the hot-plug tests: drives the slots of up to two root ports by their interrupts alone, as
 * an operating system does, and the disks in them without a pause. One line per round:
 * "round N a A b B irqs I", A and B the requests that the disks in the slots have done.
 *
 * A disk that is put in is powered on, given addresses, and used: "plugged a N blocks"; another device
 * is left alone: "plugged a other". At the button it is
 * finished, powered off and looked at no more: "released a". One that is pulled without a word:
 * "gone a". A PME: "pme ID".
 *
 * Command line: beat=MS between rounds, intx=1 for INTA of the ports. Keys: r refuses the button from
 * now on (or not any more), o switches slot a off and i on again without being asked, b resets the bus
 * of slot a, m moves its window, w tells what is where, p says "pong", z resets the machine.
 */
#include "vdrv.h"

#define PORTS 2
#define VEC_PORT 0x50
#define VEC_DISK 0x40
#define BLK 2
#define BLK_F_RO (1ull << 5)
#define WORDS 512
#define SECTORS 8
#define IOAPIC 0xfec00000ull
#define WINDOW 0xd0000000ull
#define WINDOW_STEP 0x1000000ull

/* In the Express capability. */
#define LINK_STS 0x12
#define SLOT_CTL 0x18
#define SLOT_STS 0x1a
#define ROOT_CTL 0x1c
#define ROOT_STS 0x20
#define S_BUTTON 1u
#define S_PRESENCE (1u << 3)
#define S_COMPLETED (1u << 4)
#define S_PRESENT (1u << 6)
#define S_LINK (1u << 8)
#define S_EVENTS (S_BUTTON | S_PRESENCE | S_COMPLETED | S_LINK)
#define C_IRQS (S_BUTTON | S_PRESENCE | S_COMPLETED | 1u << 5 | 1u << 12)
#define C_OFF (1u << 10)
#define C_LAMP_ON (1u << 8)
#define C_LAMP_OFF (3u << 8)
#define LINK_ACTIVE (1u << 13)
#define PME (1u << 16)

void *memset(void *d, int c, size_t n);

struct blk_req {
	struct {
		uint32_t type, zero;
		uint64_t sector;
	} head;
	volatile uint8_t status;
	uint64_t data[WORDS] __attribute__((aligned(16)));
};

static struct port {
	bool there;
	unsigned slot, cap, bus;
	uint64_t window;
	volatile uint32_t irqs; /* of the handler */
	uint32_t seen;
	bool used; /* the disk runs */
	bool ro;
	struct vdev disk;
	struct blk_req req;
	uint64_t blocks, count, first;
} ports[PORTS];

static bool refuse, intx;

static uint64_t ecam(const struct port *p, unsigned off)
{
	return V_ECAM + ((uint64_t)p->slot << 15) + off;
}
static uint16_t reg16(const struct port *p, unsigned off)
{
	return v_get16(ecam(p, p->cap + off));
}

static char name(const struct port *p)
{
	return (char)('a' + (p - ports));
}

static void on_port(struct frame *f)
{
	struct port *p = &ports[f->vec - VEC_PORT];
	p->irqs++;
	lapic_set(LAPIC_EOI, 0);
}

/* INTA is a level: silenced here, and by hearing the slot again. */
static void on_intx(struct frame *f)
{
	(void)f;
	for (unsigned i = 0; i < PORTS; i++) {
		struct port *p = &ports[i];
		bool pme = p->there && (v_get32(ecam(p, p->cap + ROOT_STS)) & PME);
		if (p->there && ((reg16(p, SLOT_STS) & S_EVENTS) || pme)) {
			v_put16(ecam(p, 4), 6 | 1 << 10);
			p->irqs++;
		}
	}
	lapic_set(LAPIC_EOI, 0);
}

/* A command to the slot, and its completion, which the interrupt tells. */
static void command(struct port *p, unsigned ctl)
{
	v_put16(ecam(p, p->cap + SLOT_CTL), (uint16_t)(ctl | C_IRQS));
	for (unsigned i = 0; !(reg16(p, SLOT_STS) & S_COMPLETED); i++) {
		CHECK(i < 100000000, reg16(p, SLOT_STS));
		cpu_relax();
	}
	v_put16(ecam(p, p->cap + SLOT_STS), S_COMPLETED);
}

static void set_window(struct port *p)
{
	uint32_t base = (uint32_t)(p->window >> 16) & 0xfff0;
	v_put32(ecam(p, 0x20), base | base << 16); /* one MiB */
}

/* ---- the disk ---- */

static uint64_t pattern(uint64_t block, uint64_t turn, unsigned word)
{
	return (block << 32 | turn) * 0x9e3779b97f4a7c15ull + word;
}

/* Waits for the one request. False: the disk was pulled meanwhile, and will never answer. */
static bool finish(struct port *p)
{
	uint16_t head;
	uint32_t len;

	while (!v_taken(&p->disk, 0, &head, &len)) {
		if (!(reg16(p, SLOT_STS) & S_PRESENT)) {
			return false;
		}
		lapic_oneshot(0x7d, 5 * NSEC_PER_MSEC);
		halt();
	}
	return true;
}

static bool request(struct port *p, uint32_t type, uint64_t block)
{
	struct blk_req *r = &p->req;
	struct vbuf b[3] = { { &r->head, sizeof(r->head) },
			     { r->data, sizeof(r->data) },
			     { &r->status, 1 } };

	r->head.type = type;
	r->head.sector = block * SECTORS;
	r->status = 0xff;
	v_offer(&p->disk, 0, b, type == 1 ? 2 : 1, type == 1 ? 1 : 2);
	if (!finish(p)) {
		return false;
	}
	CHECK(r->status == 0, r->status);
	return true;
}

static void disk_round(struct port *p)
{
	uint64_t block = p->count % p->blocks;

	if (p->ro) {
		if (!request(p, 0, 0)) {
			return;
		}
		CHECK(p->count == 0 || p->req.data[0] == p->first, p->req.data[0]);
		p->first = p->req.data[0];
		p->count++;
		return;
	}
	for (unsigned i = 0; i < WORDS; i++) {
		p->req.data[i] = pattern(block, p->count, i);
	}
	if (!request(p, 1, block)) {
		return;
	}
	memset(p->req.data, 0, sizeof(p->req.data));
	if (!request(p, 0, block)) {
		return;
	}
	for (unsigned i = 0; i < WORDS; i++) {
		CHECK(p->req.data[i] == pattern(block, p->count, i), block);
	}
	p->count++;
}

static void disk_start(struct port *p)
{
	unsigned place = 32 * p->bus;

	CHECK(v_cfg_get(place, 0x10) == 4, v_cfg_get(place, 0x10)); /* as after power-on */
	CHECK((v_cfg_get(place, 4) & 6) == 0, v_cfg_get(place, 4));
	v_cfg_put(place, 0x10, (uint32_t)p->window);
	v_cfg_put(place, 0x14, 0);
	if (!v_open(place, BLK, &p->disk)) {
		return; /* something else: it is there, and that is all */
	}
	/* A second place for whoever looks outside of the window: nobody answers there. */
	CHECK(v_get32(p->window + 0x800000) == 0xffffffff, 0);
	v_start(&p->disk, BLK_F_RO | V_EVENT_IDX | V_INDIRECT_DESC, 1,
		VEC_DISK + 4 * (unsigned)(p - ports));
	p->ro = p->disk.features & BLK_F_RO;
	p->blocks = (v_get32(p->disk.config) | (uint64_t)v_get32(p->disk.config + 4) << 32) / SECTORS;
	p->count = 0;
	p->used = true;
	disk_round(p);
}

/* ---- the slot ---- */

static void power_on(struct port *p)
{
	CHECK(v_cfg_get(32 * p->bus, 0) == 0xffffffff, v_cfg_get(32 * p->bus, 0));
	command(p, C_LAMP_ON);
	for (unsigned i = 0; !(reg16(p, LINK_STS) & LINK_ACTIVE); i++) {
		CHECK(i < 100000000, reg16(p, LINK_STS));
	}
	disk_start(p);
	if (p->used) {
		print("plugged %c %lu blocks\n", name(p), p->blocks);
	} else {
		print("plugged %c other\n", name(p));
	}
}

static void power_off(struct port *p)
{
	p->used = false;
	command(p, C_LAMP_OFF | C_OFF);
	CHECK(!(reg16(p, LINK_STS) & LINK_ACTIVE), reg16(p, LINK_STS));
	CHECK(v_cfg_get(32 * p->bus, 0) == 0xffffffff, v_cfg_get(32 * p->bus, 0));
	CHECK(v_get32(p->window) == 0xffffffff, v_get32(p->window));
}

/* What the interrupts since last time were about. */
static void serve(struct port *p)
{
	unsigned sts = reg16(p, SLOT_STS);
	uint32_t root = v_get32(ecam(p, p->cap + ROOT_STS));

	v_put16(ecam(p, p->cap + SLOT_STS), (uint16_t)(sts & S_EVENTS));
	bool on = !(reg16(p, SLOT_CTL) & C_OFF);
	if ((sts & S_BUTTON) && refuse) {
		print("refused %c\n", name(p));
	} else if ((sts & S_BUTTON) && on) {
		power_off(p);
		print("released %c\n", name(p));
	}
	if ((sts & S_PRESENCE) && on && !(sts & S_PRESENT)) {
		power_off(p);
		print("gone %c\n", name(p));
	} else if ((sts & S_PRESENCE) && !on && (sts & S_PRESENT)) {
		power_on(p);
	}
	if (root & PME) {
		print("pme %x\n", root & 0xffff);
		v_put32(ecam(p, p->cap + ROOT_STS), PME);
	}
	if (intx) {
		v_put16(ecam(p, 4), 6);
	}
}

static void ioapic_set(unsigned reg, uint32_t v)
{
	v_put32(IOAPIC, reg);
	v_put32(IOAPIC + 0x10, v);
}

static void port_irqs(struct port *p, unsigned n, unsigned msix)
{
	if (intx) {
		unsigned pin = v_get8(ecam(p, 0x3c));
		irq_handler(0x60, on_intx);
		ioapic_set(0x10 + 2 * pin + 1, 0);
		ioapic_set(0x10 + 2 * pin, 0x60 | 1 << 15);
		return;
	}
	uint64_t table = v_get32(ecam(p, 0x10)) & ~0xfu;
	irq_handler(VEC_PORT + n, on_port);
	v_put32(table, 0xfee00000);
	v_put32(table + 4, 0);
	v_put32(table + 8, VEC_PORT + n);
	v_put32(table + 12, 0);
	v_put16(ecam(p, msix + 2), 0x8000);
}

static bool port_open(struct port *p, unsigned n, unsigned slot)
{
	unsigned msix = 0;

	p->slot = slot;
	if (v_get32(ecam(p, 0)) == 0xffffffff || (v_get8(ecam(p, 0x0e)) & 0x7f) != 1) {
		return false;
	}
	for (unsigned at = v_get8(ecam(p, 0x34)); at; at = v_get8(ecam(p, at + 1))) {
		unsigned id = v_get8(ecam(p, at));
		p->cap = id == 0x10 ? at : p->cap;
		msix = id == 0x11 ? at : msix;
	}
	CHECK(p->cap && msix, msix);
	CHECK((v_get16(ecam(p, p->cap + 2)) & 0x1f0) == 0x140, slot); /* root port with a slot */
	p->there = true;
	p->bus = v_get8(ecam(p, 0x19));
	CHECK(p->bus, slot);
	v_put16(ecam(p, 4), 6);
	bool filled = reg16(p, SLOT_STS) & S_PRESENT;
	p->window = WINDOW + n * WINDOW_STEP;
	set_window(p);
	port_irqs(p, n, msix);
	v_put16(ecam(p, p->cap + ROOT_CTL), 8);
	v_put16(ecam(p, p->cap + SLOT_STS), S_EVENTS);
	if (filled) { /* from the start, and on: as a firmware leaves it */
		CHECK(!(reg16(p, SLOT_CTL) & C_OFF), reg16(p, SLOT_CTL));
		CHECK(reg16(p, LINK_STS) & LINK_ACTIVE, reg16(p, LINK_STS));
		command(p, C_LAMP_OFF | C_OFF);
		power_on(p);
	} else {
		command(p, C_LAMP_OFF | C_OFF);
	}
	v_put16(ecam(p, p->cap + SLOT_STS), S_EVENTS);
	p->seen = p->irqs;
	return true;
}

/* ---- keys ---- */

static void bus_reset(struct port *p)
{
	v_put16(ecam(p, 0x3e), 1 << 6);
	CHECK(v_cfg_get(32 * p->bus, 0) == 0xffffffff, 0);
	v_put16(ecam(p, 0x3e), 0);
	disk_start(p);
	print("bus reset\n");
}

static void move(struct port *p)
{
	p->window ^= 0x4000000;
	set_window(p);
	v_move(&p->disk, p->window);
	disk_round(p);
	print("moved to %lx\n", p->window);
}

static void key(int c)
{
	struct port *a = &ports[0];

	if (c == 'r') {
		refuse = !refuse;
		print("refuse %u\n", refuse);
	} else if (c == 'o') {
		power_off(a);
		print("off\n");
	} else if (c == 'i') {
		power_on(a);
	} else if (c == 'b') {
		bus_reset(a);
	} else if (c == 'm') {
		move(a);
	} else if (c == 'w') {
		for (unsigned i = 0; i < PORTS; i++) {
			print("slot %c sts %x ctl %x\n", name(&ports[i]), reg16(&ports[i], SLOT_STS),
			      reg16(&ports[i], SLOT_CTL));
		}
	} else if (c == 'z') {
		reset_by_i8042();
	} else if (c == 'p') {
		print("pong\n");
	}
}

void guest_main(void)
{
	uint64_t beat = arg_number("beat", 5), rounds = 0;
	unsigned n = 0;

	irq_off();
	lapic_on();
	intx = arg_number("intx", 0);
	irq_handler(0x7d, irq_tick);
	for (unsigned slot = 1; slot < 32 && n < PORTS; slot++) {
		n += port_open(&ports[n], n, slot);
	}
	print("hotplug: ports %u\n", n);
	for (;;) {
		for (unsigned i = 0; i < n; i++) {
			struct port *p = &ports[i];
			while (p->irqs != p->seen) {
				p->seen = p->irqs;
				serve(p);
			}
			if (p->used) {
				disk_round(p);
			}
		}
		print("round %lu a %lu b %lu irqs %u\n", ++rounds, ports[0].count, ports[1].count,
		      ports[0].irqs + ports[1].irqs);
		for (int c = get_char(); c >= 0; c = get_char()) {
			key(c);
		}
		lapic_oneshot(0x7d, beat * NSEC_PER_MSEC);
		halt();
	}
}

void guest_ap_main(void)
{
	for (;;) {
		halt();
	}
}
