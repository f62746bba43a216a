/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goldfish battery and AC adapter. See battery.h. Every entry takes the device's lock.
 *
 * I1: once a callback has run, the line equals "a change is not read yet, and its kind is enabled".
 *
 * A value that is set counts at once; the line follows on the main loop, whose callbacks are kept
 * away while the VM is suspended or saved.
 */
#include "devices/battery.h"

#include "core/base/lock.h"

enum {
	REG_INT_STATUS = 0x00, /* reading clears it */
	REG_INT_ENABLE = 0x04, /* the only one that can be written */
	REG_AC_ONLINE = 0x08,
	REG_STATUS = 0x0c,
	REG_HEALTH = 0x10,
	REG_PRESENT = 0x14,
	REG_CAPACITY = 0x18,
	REG_VOLTAGE = 0x1c,
	REG_TEMP = 0x20,
	REG_CHARGE_COUNTER = 0x24,
	REG_VOLTAGE_MAX = 0x28,
	REG_CURRENT_MAX = 0x2c,
	REG_CURRENT_NOW = 0x30,
	REG_CURRENT_AVG = 0x34,
	REG_CHARGE_FULL = 0x38,
	REG_CYCLE_COUNT = 0x40,

	INT_BATTERY = 1u << 0,
	INT_AC = 1u << 1,
	INT_BITS = INT_BATTERY | INT_AC,

	STATUS_DISCHARGING = 2,
	STATUS_FULL = 4,
	STATUS_MAX = 4,
	HEALTH_GOOD = 1,
	HEALTH_MAX = 9,
	PERCENT_MAX = 100,

	/* A 12 V battery of 5 Ah at 25 degrees: what the control plane cannot set. */
	VOLTAGE_UV = 12000000,
	CURRENT_MAX_UA = 5000000,
	CHARGE_FULL_UAH = 5000000,
	TEMP_TENTHS = 250,
};

struct battery {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	struct battery_state live;
	bool parked;
	struct battery_state saved; /* part.state */
};

static struct battery *battery_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct battery, dev);
}

/* Must hold b->lock. */
static void set_line(struct battery *b)
{
	struct battery_state *st = &b->live;
	bool level = (st->int_status & st->int_enable) != 0;
	if (level != st->line) {
		st->line = level;
		b->dev.host->set_irq(b->dev.host->self, BATTERY_GSI, level);
	}
}

/* ---- registers ---- */

static uint32_t shown_capacity(const struct battery_state *st)
{
	return st->fake ? MIN(st->capacity, st->fake_max) : st->capacity;
}

static uint32_t read_value(const struct battery_state *st, uint64_t reg)
{
	switch (reg) {
	case REG_INT_ENABLE:
		return st->int_enable;
	case REG_AC_ONLINE:
		return st->fake ? 0 : st->ac_online;
	case REG_STATUS:
		return st->fake ? STATUS_DISCHARGING : st->status;
	case REG_HEALTH:
		return st->health;
	case REG_PRESENT:
		return st->present;
	case REG_CAPACITY:
		return shown_capacity(st);
	case REG_VOLTAGE:
	case REG_VOLTAGE_MAX:
		return VOLTAGE_UV;
	case REG_TEMP:
		return TEMP_TENTHS;
	case REG_CHARGE_COUNTER:
		return CHARGE_FULL_UAH / PERCENT_MAX * shown_capacity(st);
	case REG_CURRENT_MAX:
		return CURRENT_MAX_UA;
	case REG_CHARGE_FULL:
		return CHARGE_FULL_UAH;
	default:
		return 0; /* no current flows, no cycle was counted; and holes */
	}
}

/* Aligned 32-bit reads, as drivers make them; others get nothing. */
static void battery_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t *data)
{
	(void)range;
	struct battery *b = battery_of(dev);
	LOCK_SCOPE(&b->lock);
	*data = 0;
	if (len != 4 || off % 4 != 0) {
		return;
	}
	if (off == REG_INT_STATUS) {
		*data = b->live.int_status;
		b->live.int_status = 0;
		set_line(b);
		return;
	}
	*data = read_value(&b->live, off);
}

static void battery_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			  uint64_t data)
{
	(void)range;
	struct battery *b = battery_of(dev);
	LOCK_SCOPE(&b->lock);
	if (len == 4 && off == REG_INT_ENABLE) {
		b->live.int_enable = (uint32_t)data & INT_BITS;
		set_line(b);
	}
}

static void battery_on_timer(struct device *dev)
{
	struct battery *b = battery_of(dev);
	LOCK_SCOPE(&b->lock);
	if (!b->parked) {
		set_line(b);
	}
}

static void battery_free(struct device *dev)
{
	if (dev != NULL) {
		struct battery *b = battery_of(dev);
		lock_done(&b->lock);
		free(b);
	}
}

/* ---- saved state ---- */

static struct err *battery_park(void *self)
{
	struct battery *b = self;
	LOCK_SCOPE(&b->lock);
	b->parked = true;
	return NULL;
}

static void battery_unpark(void *self)
{
	struct battery *b = self;
	LOCK_SCOPE(&b->lock);
	b->parked = false;
	set_line(b);
}

static struct err *battery_fetch(void *self)
{
	struct battery *b = self;
	LOCK_SCOPE(&b->lock);
	b->saved = b->live;
	return NULL;
}

static struct err *battery_commit(void *self)
{
	struct battery *b = self;
	LOCK_SCOPE(&b->lock);
	b->live = b->saved;
	b->parked = false;
	/* A value set while the VM was suspended: its interrupt is still to come. */
	b->dev.host->set_timer(b->dev.host->self, &b->dev, 0);
	return NULL;
}

static const struct state_field battery_fields[] = {
	FIELD(struct battery_state, 1, status, FIELD_RANGE(0, STATUS_MAX)),
	FIELD(struct battery_state, 2, health, FIELD_RANGE(0, HEALTH_MAX)),
	FIELD(struct battery_state, 3, present, FIELD_RANGE(0, 1)),
	FIELD(struct battery_state, 4, capacity, FIELD_RANGE(0, PERCENT_MAX)),
	FIELD(struct battery_state, 5, ac_online, FIELD_RANGE(0, 1)),
	FIELD(struct battery_state, 6, fake),
	FIELD(struct battery_state, 7, line),
	PAD(struct battery_state, pad),
	FIELD(struct battery_state, 8, fake_max, FIELD_RANGE(0, PERCENT_MAX)),
	FIELD(struct battery_state, 9, int_status, FIELD_RANGE(0, INT_BITS)),
	FIELD(struct battery_state, 10, int_enable, FIELD_RANGE(0, INT_BITS)),
};

const struct state_desc battery_desc = {
	.name = "battery",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct battery_state),
	.fields = battery_fields,
	.nfields = ARRAY_LEN(battery_fields),
};

static const struct snap_part_ops battery_part_ops = {
	.park = battery_park,
	.unpark = battery_unpark,
	.fetch = battery_fetch,
	.commit = battery_commit,
};

static const struct dev_ops battery_ops = {
	.name = "battery",
	.read = battery_read,
	.write = battery_write,
	.on_timer = battery_on_timer,
	.free = battery_free,
};

struct err *battery_new(const struct dev_host *host, struct device **ret_dev)
{
	struct battery *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "out of memory");
	lock_init(&b->lock, RANK_DEVICE);
	b->dev = (struct device){
		.ops = &battery_ops,
		.host = host,
		.ranges = { { .space = DEV_MMIO, .base = BATTERY_MMIO_BASE,
			      .len = BATTERY_MMIO_BYTES } },
		.nranges = 1,
		.part = {
			.name = battery_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &battery_desc,
			.state = &b->saved,
			.ops = &battery_part_ops,
			.self = b,
		},
	};
	b->live = (struct battery_state){
		.status = STATUS_FULL,
		.health = HEALTH_GOOD,
		.present = 1,
		.capacity = PERCENT_MAX,
		.ac_online = 1,
	};
	*ret_dev = &b->dev;
	return NULL;
}

/* ---- values from outside ---- */

static struct battery *battery_of_outside(struct device *dev)
{
	BUG_ON(dev->ops != &battery_ops);
	return battery_of(dev);
}

/* Must hold b->lock. The main loop's callback, which the gate keeps away, raises the line. */
static void changed(struct battery *b, uint32_t bits)
{
	b->live.int_status |= bits;
	b->dev.host->set_timer(b->dev.host->self, &b->dev, 0);
}

/* Must hold b->lock. */
static void set_value(struct battery *b, uint32_t *value, uint32_t to, uint32_t bit)
{
	if (*value != to) {
		*value = to;
		changed(b, bit);
	}
}

struct err *battery_set(struct device *dev, enum battery_property what, uint32_t value)
{
	struct battery *b = battery_of_outside(dev);
	LOCK_SCOPE(&b->lock);
	struct battery_state *st = &b->live;
	switch (what) {
	case BATTERY_STATUS:
		ENSURE(value <= STATUS_MAX, ERR_USAGE, "there is no battery status %u", value);
		set_value(b, &st->status, value, INT_BATTERY);
		break;
	case BATTERY_HEALTH:
		ENSURE(value <= HEALTH_MAX, ERR_USAGE, "there is no battery health %u", value);
		set_value(b, &st->health, value, INT_BATTERY);
		break;
	case BATTERY_PRESENT:
		set_value(b, &st->present, value != 0, INT_BATTERY);
		break;
	case BATTERY_CAPACITY:
		set_value(b, &st->capacity, MIN(value, (uint32_t)PERCENT_MAX), INT_BATTERY);
		break;
	case BATTERY_AC_ONLINE:
		set_value(b, &st->ac_online, value != 0, INT_AC);
		break;
	case BATTERY_FAKE_MAX:
		st->fake = true;
		st->fake_max = MIN(value, (uint32_t)PERCENT_MAX);
		changed(b, INT_BITS);
		break;
	}
	return NULL;
}

void battery_cancel_fake(struct device *dev)
{
	struct battery *b = battery_of_outside(dev);
	LOCK_SCOPE(&b->lock);
	if (b->live.fake) {
		b->live.fake = false;
		changed(b, INT_BITS);
	}
}
