/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over PCI for the freestanding guests. See vdrv.h. Virtio 1.2, 4.1. */
#include "vdrv.h"

#define VENDOR 0x1af4
#define CAP_VENDOR 0x09
#define CAP_MSIX 0x11
#define POOL_QUEUES 16
#define VDEVS 4
#define IOAPIC 0xfec00000ull

/* Offsets in the common configuration. */
enum {
	DEVICE_SELECT = 0x00,
	DEVICE_FEATURES = 0x04,
	DRIVER_SELECT = 0x08,
	DRIVER_FEATURES = 0x0c,
	CONFIG_VECTOR = 0x10,
	STATUS = 0x14,
	QUEUE_SELECT = 0x16,
	QUEUE_SIZE = 0x18,
	QUEUE_VECTOR = 0x1a,
	QUEUE_ENABLE = 0x1c,
	QUEUE_NOTIFY = 0x1e,
	QUEUE_DESC = 0x20,
	QUEUE_AVAIL = 0x28,
	QUEUE_USED = 0x30,
};

void *memset(void *d, int c, size_t n);

volatile uint64_t v_irqs;
bool v_any_vmm;
static struct vqueue pool[POOL_QUEUES];
static unsigned pooled;
static struct vdev *intx_devs[VDEVS]; /* whose INTA may have come */

static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

uint32_t v_cfg_get(unsigned slot, unsigned off)
{
	return v_get32(V_ECAM + (slot << 15) + (off & ~3u));
}

void v_cfg_put(unsigned slot, unsigned off, uint32_t v)
{
	v_put32(V_ECAM + (slot << 15) + (off & ~3u), v);
}

uint32_t v_cfg_get_port(unsigned slot, unsigned off)
{
	outl(0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
	return inl(0xcfc);
}

static uint8_t cfg8(unsigned slot, unsigned off)
{
	return (uint8_t)(v_cfg_get(slot, off) >> (8 * (off & 3)));
}

/* Where a BAR is; 0: nowhere. */
static uint64_t bar_at(unsigned slot, unsigned n)
{
	uint32_t low = v_cfg_get(slot, 0x10 + 4 * n);
	uint64_t high = low & 4 ? v_cfg_get(slot, 0x14 + 4 * n) : 0;
	return (low & ~0xfu) | high << 32;
}

/* Gives each BAR without an address one of 128 KiB, away from the other slots'. */
static void place_bars(unsigned slot)
{
	for (unsigned n = 0; n < 6; n++) {
		unsigned reg = 0x10 + 4 * n;
		uint32_t kind = v_cfg_get(slot, reg);
		v_cfg_put(slot, reg, ~0u);
		bool there = v_cfg_get(slot, reg) & ~0xfu;
		v_cfg_put(slot, reg, kind);
		if (!there || kind & 1 || bar_at(slot, n)) {
			n += kind >> 2 & 1;
			continue;
		}
		v_cfg_put(slot, reg, 0xc0000000u + (slot << 20) + (n << 17));
		if (kind & 4) {
			v_cfg_put(slot, reg + 4, 0);
			n++;
		}
	}
}

void v_map(struct vdev *d)
{
	uint64_t *const places[] = { &d->common, &d->notify, &d->isr, &d->config };

	d->bar = bar_at(d->slot, 0);
	for (unsigned at = cfg8(d->slot, 0x34); at; at = cfg8(d->slot, at + 1)) {
		unsigned id = cfg8(d->slot, at), kind = cfg8(d->slot, at + 3);
		if (id == CAP_MSIX) {
			uint32_t table = v_cfg_get(d->slot, at + 4);
			d->msix = at;
			d->table = bar_at(d->slot, table & 7) + (table & ~7u);
		}
		if (id == CAP_VENDOR && kind >= 1 && kind <= 4) {
			*places[kind - 1] =
				bar_at(d->slot, cfg8(d->slot, at + 4)) + v_cfg_get(d->slot, at + 8);
			if (kind == 2) {
				d->notify_step = v_cfg_get(d->slot, at + 16);
			}
		}
	}
}

static bool is_virtio(unsigned slot, unsigned type)
{
	uint32_t id = v_cfg_get(slot, 0);
	CHECK(v_any_vmm || id == v_cfg_get_port(slot, 0), id);
	return (id & 0xffff) == VENDOR && id >> 16 == 0x1040 + type;
}

bool v_open(unsigned slot, unsigned type, struct vdev *ret)
{
	if (!is_virtio(slot, type)) {
		return false;
	}
	ret->slot = slot;
	ret->type = type;
	if (v_any_vmm) {
		place_bars(slot);
	}
	v_cfg_put(slot, 4, 6); /* memory, bus master */
	v_map(ret);
	return true;
}

bool v_find(unsigned type, unsigned nth, struct vdev *ret)
{
	for (unsigned slot = 1; slot < 32; slot++) {
		if (is_virtio(slot, type) && nth-- == 0) {
			memset(ret, 0, sizeof(*ret));
			return v_open(slot, type, ret);
		}
	}
	return false;
}

void v_move(struct vdev *d, uint64_t bar)
{
	v_cfg_put(d->slot, 4, 4);
	v_cfg_put(d->slot, 0x10, (uint32_t)bar);
	v_cfg_put(d->slot, 0x14, (uint32_t)(bar >> 32));
	v_cfg_put(d->slot, 4, 6);
	v_map(d);
}

static void on_msix(struct frame *f)
{
	(void)f;
	v_irqs++;
	lapic_set(LAPIC_EOI, 0);
}

static void on_intx(struct frame *f)
{
	(void)f;
	v_irqs++;
	for (unsigned i = 0; i < VDEVS && intx_devs[i]; i++) {
		(void)v_get8(intx_devs[i]->isr); /* takes the line down */
	}
	lapic_set(LAPIC_EOI, 0);
}

static void ioapic_set(unsigned reg, uint32_t v)
{
	v_put32(IOAPIC, reg);
	v_put32(IOAPIC + 0x10, v);
}

static void set_irqs(struct vdev *d, unsigned n, unsigned vec)
{
	lapic_on();
	if (vec == 0) {
		unsigned pin = cfg8(d->slot, 0x3c); /* the VMM puts the GSI there */
		unsigned i = 0;
		while (i + 1 < VDEVS && intx_devs[i] && intx_devs[i] != d) {
			i++;
		}
		intx_devs[i] = d;
		irq_handler(0x60, on_intx);
		v_cfg_put(d->slot, d->msix, v_cfg_get(d->slot, d->msix) & ~0x80000000u);
		ioapic_set(0x10 + 2 * pin + 1, 0);
		ioapic_set(0x10 + 2 * pin, 0x60 | 1 << 15); /* level */
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		irq_handler(vec + i, on_msix);
		v_put32(d->table + 16 * i, 0xfee00000);
		v_put32(d->table + 16 * i + 4, 0);
		v_put32(d->table + 16 * i + 8, vec + i);
		v_put32(d->table + 16 * i + 12, 0);
	}
	v_cfg_put(d->slot, d->msix, v_cfg_get(d->slot, d->msix) | 0x80000000u);
}

static void put_addr(uint64_t reg, const volatile void *p)
{
	v_put32(reg, (uint32_t)(uint64_t)p);
	v_put32(reg + 4, (uint32_t)((uint64_t)p >> 32));
}

static void start_queue(struct vdev *d, unsigned i, unsigned vec)
{
	if (!d->q[i]) {
		CHECK(pooled < POOL_QUEUES, pooled);
		d->q[i] = &pool[pooled++];
	}
	struct vqueue *q = d->q[i];
	memset(q, 0, sizeof(*q));
	v_put16(d->common + QUEUE_SELECT, (uint16_t)i);
	CHECK(v_get16(d->common + QUEUE_SIZE) >= V_SIZE, i);
	v_put16(d->common + QUEUE_SIZE, V_SIZE);
	v_put16(d->common + QUEUE_VECTOR, vec ? (uint16_t)i : 0xffff);
	put_addr(d->common + QUEUE_DESC, q->desc);
	put_addr(d->common + QUEUE_AVAIL, q->avail);
	put_addr(d->common + QUEUE_USED, q->used);
	v_put16(d->common + QUEUE_ENABLE, 1);
}

void v_start(struct vdev *d, uint64_t want, unsigned n, unsigned vec)
{
	v_put8(d->common + STATUS, 0);
	while (v_get8(d->common + STATUS)) {
		cpu_relax();
	}
	v_put8(d->common + STATUS, 3);
	v_put32(d->common + DEVICE_SELECT, 0);
	uint64_t offered = v_get32(d->common + DEVICE_FEATURES);
	v_put32(d->common + DEVICE_SELECT, 1);
	offered |= (uint64_t)v_get32(d->common + DEVICE_FEATURES) << 32;
	d->features = offered & (want | V_VERSION_1);
	v_put32(d->common + DRIVER_SELECT, 0);
	v_put32(d->common + DRIVER_FEATURES, (uint32_t)d->features);
	v_put32(d->common + DRIVER_SELECT, 1);
	v_put32(d->common + DRIVER_FEATURES, (uint32_t)(d->features >> 32));
	v_put8(d->common + STATUS, 0xb);
	CHECK(v_get8(d->common + STATUS) == 0xb, v_get8(d->common + STATUS));
	set_irqs(d, n, vec);
	for (unsigned i = 0; i < n; i++) {
		start_queue(d, i, vec);
	}
	v_put8(d->common + STATUS, 0xf);
	CHECK(v_get8(d->common + STATUS) == 0xf, v_get8(d->common + STATUS));
}

uint8_t v_status(const struct vdev *d)
{
	return v_get8(d->common + STATUS);
}

void v_kick(const struct vdev *d, unsigned q)
{
	v_put16(d->notify + q * d->notify_step, (uint16_t)q);
}

void v_offer_at(struct vdev *d, unsigned n, unsigned at, const struct vbuf *b, unsigned nread,
		unsigned nwrite)
{
	struct vqueue *q = d->q[n];
	for (unsigned i = 0; i < nread + nwrite; i++) {
		bool last = i + 1 == nread + nwrite;
		q->desc[(at + i) % V_SIZE] = (struct vdesc){
			.addr = (uint64_t)b[i].p,
			.len = b[i].len,
			.flags = (uint16_t)((i >= nread ? V_WRITE : 0) | (last ? 0 : V_NEXT)),
			.next = (uint16_t)((at + i + 1) % V_SIZE),
		};
	}
	q->avail[2 + q->avail[1] % V_SIZE] = (uint16_t)at;
	__asm__ volatile("" ::: "memory");
	q->avail[1]++;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	/* With event-idx a kick is due when the device's mark is passed, else unless it declines. */
	uint16_t *event = (uint16_t *)&q->used[1 + 2 * V_SIZE];
	bool kick = d->features & V_EVENT_IDX ?
			    *(volatile uint16_t *)event == (uint16_t)(q->avail[1] - 1) :
			    !(q->used[0] & 1);
	if (kick) {
		v_kick(d, n);
	}
}

uint16_t v_offer(struct vdev *d, unsigned n, const struct vbuf *b, unsigned nread, unsigned nwrite)
{
	struct vqueue *q = d->q[n];
	uint16_t head = q->next;
	q->next = (uint16_t)((head + nread + nwrite) % V_SIZE);
	v_offer_at(d, n, head, b, nread, nwrite);
	return head;
}

bool v_taken(struct vdev *d, unsigned n, uint16_t *ret_head, uint32_t *ret_len)
{
	struct vqueue *q = d->q[n];
	if ((uint16_t)(q->used[0] >> 16) == q->seen) {
		return false;
	}
	__asm__ volatile("" ::: "memory");
	*ret_head = (uint16_t)q->used[1 + 2 * (q->seen % V_SIZE)];
	*ret_len = q->used[2 + 2 * (q->seen % V_SIZE)];
	q->seen++;
	q->avail[2 + V_SIZE] = q->seen; /* event-idx: tell me of the next one */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return true;
}

uint16_t v_wait(struct vdev *d, unsigned n, uint32_t *ret_len)
{
	uint16_t head;
	while (!v_taken(d, n, &head, ret_len)) {
		halt();
	}
	return head;
}
