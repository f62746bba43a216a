/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: the registers of all platform devices, as a hostile guest uses them. The input is a
 * list of 8-byte operations: a kind and a device (4 bits each), where, how wide, and a value. Time
 * passes, events come from outside, and devices are saved and loaded in between.
 * Properties: a device tells its line's changes only, what it saves passes its own check, and what
 * is loaded is what was saved. Device code alone: no KVM, one thread.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "core/base/limits.h"
#include "devices/acpi_pm.h"
#include "devices/battery.h"
#include "devices/i8042.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "tests/fuzz/fuzz.h"

enum { DEVICES = 7, OP_BYTES = 8, GSIS = 24, OPS_MAX = 4096 };

struct machine {
	struct dev_host host;
	struct device *dev[DEVICES];
	uint64_t timer_at[DEVICES];
	bool level[GSIS];
	uint64_t vm_ns;
};

static void fuzz_set_irq(void *self, unsigned gsi, bool level)
{
	struct machine *m = self;
	BUG_ON(gsi >= GSIS || m->level[gsi] == level);
	m->level[gsi] = level;
}

static void fuzz_request(void *self, unsigned what)
{
	(void)self;
	BUG_ON(what >= DEV_EXIT + DEV_EXITS);
}

static void fuzz_event(void *self, enum dev_event what)
{
	struct machine *m = self;
	if (what == DEV_EVENT_RTC && m->dev[0] != NULL) {
		BUG_ON(acpi_pm_rtc(m->dev[0], -1) != NULL);
	}
}

static uint64_t fuzz_time(void *self)
{
	return ((struct machine *)self)->vm_ns;
}

static uint64_t fuzz_wall(void *self)
{
	return ((struct machine *)self)->vm_ns + 1700000000ull * 1000000000ull;
}

static void fuzz_timer(void *self, struct device *dev, uint64_t at)
{
	struct machine *m = self;
	for (unsigned i = 0; i < DEVICES; i++) {
		if (m->dev[i] == dev) {
			m->timer_at[i] = at;
		}
	}
}

static void fuzz_watch(void *self, struct device *dev, int fd, uint32_t events)
{
	(void)self;
	(void)dev;
	(void)fd;
	(void)events;
}

static struct device *make(struct machine *m, unsigned i)
{
	struct device *dev = NULL;
	struct err *e = NULL;
	switch (i) {
	case 0:
		e = acpi_pm_new(&m->host, &dev);
		break;
	case 1:
		e = rtc_new(&m->host, &dev);
		break;
	case 2:
		e = i8042_new(&m->host, &dev);
		break;
	case 3:
		e = serial_new(&m->host, 0x3f8, 4, -1, -1, -1, &dev);
		break;
	case 4:
		e = battery_new(&m->host, &dev);
		break;
	case 5:
		e = pvpanic_new(&m->host, &dev);
		break;
	default:
		e = exit_device_new(&m->host, &dev);
		break;
	}
	BUG_ON(e != NULL);
	return dev;
}

/* As the main loop does it: each timer that is due, in order of the devices. */
static void advance(struct machine *m, uint64_t ns)
{
	m->vm_ns += ns;
	for (unsigned i = 0; i < DEVICES; i++) {
		if (m->timer_at[i] <= m->vm_ns && m->dev[i]->ops->on_timer != NULL) {
			m->timer_at[i] = UINT64_MAX;
			m->dev[i]->ops->on_timer(m->dev[i]);
		}
	}
}

/* One access of the bus: an aligned piece of 1, 2, 4 or 8 bytes inside a range. */
static void bus_access(struct device *dev, bool write, const uint8_t *op)
{
	unsigned range = op[1] % dev->nranges;
	uint64_t len = dev->ranges[range].len;
	unsigned width = 1u << op[2] % 4;
	uint64_t off = get_le16(op + 2) / 4 % len;
	while (width > len - off) {
		width /= 2;
	}
	uint64_t v = (uint64_t)get_le32(op + 4) << 32 | get_le32(op + 4);
	if (write) {
		dev->ops->write(dev, range, off, width, v);
	} else {
		dev->ops->read(dev, range, off, width, &v);
	}
}

static void from_outside(struct machine *m, const uint8_t *op)
{
	uint32_t v = get_le32(op + 4);
	switch (op[1] % 6) {
	case 0:
		acpi_pm_powerbtn(m->dev[0]);
		break;
	case 1:
		acpi_pm_sleepbtn(m->dev[0]);
		break;
	case 2:
		err_drop(acpi_pm_gpe(m->dev[0], v % 300, -1), "numbers out of range too");
		break;
	case 3:
		acpi_pm_pme(m->dev[0]);
		break;
	case 4:
		err_drop(battery_set(m->dev[4], op[2] % (BATTERY_FAKE_MAX + 1u), v),
			 "values out of range too");
		break;
	default:
		battery_cancel_fake(m->dev[4]);
		break;
	}
}

/* Saved, and loaded into a new device that takes its place; the lines are the irqchip's. */
static void save_and_load(struct machine *m, unsigned i)
{
	struct snap_part *p = &m->dev[i]->part;
	if (p->desc == NULL) {
		return;
	}
	struct device *dev = make(m, i);
	struct snap_part *q = &dev->part;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(PART_BYTES_MAX);
	if (p->ops->park != NULL) {
		BUG_ON(p->ops->park(p->self) != NULL);
	}
	BUG_ON(p->ops->fetch(p->self) != NULL);
	BUG_ON(desc_encode(p->desc, 0, p->state, &w) != NULL);
	BUG_ON(desc_decode(q->desc, 0, w.p, w.len, q->state) != NULL);
	BUG_ON(desc_compare(p->desc, p->state, q->state) != NULL);
	m->dev[i]->ops->free(m->dev[i]);
	m->dev[i] = dev;
	m->timer_at[i] = UINT64_MAX;
	BUG_ON(q->ops->commit(q->self) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct machine m = {
		.host = {
			.set_irq = fuzz_set_irq,
			.request = fuzz_request,
			.event = fuzz_event,
			.vm_time_ns = fuzz_time,
			.wall_time_ns = fuzz_wall,
			.set_timer = fuzz_timer,
			.watch_fd = fuzz_watch,
		},
	};
	m.host.self = &m;
	for (unsigned i = 0; i < DEVICES; i++) {
		m.timer_at[i] = UINT64_MAX;
		m.dev[i] = make(&m, i);
	}
	for (size_t at = 0; at + OP_BYTES <= len && at < OPS_MAX * OP_BYTES; at += OP_BYTES) {
		const uint8_t *op = data + at;
		unsigned i = (op[0] & 15u) % DEVICES;
		switch (op[0] >> 4) {
		case 0:
			advance(&m, (uint64_t)get_le32(op + 4) * (1u + op[1]));
			break;
		case 1:
			from_outside(&m, op);
			break;
		case 2:
			save_and_load(&m, i);
			break;
		default:
			bus_access(m.dev[i], (op[0] >> 4) % 2 == 0, op);
			break;
		}
	}
	for (unsigned i = 0; i < DEVICES; i++) {
		m.dev[i]->ops->free(m.dev[i]);
	}
	return 0;
}
