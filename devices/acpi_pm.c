/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware. See acpi_pm.h. Every entry takes the device's lock.
 *
 * I1: the SCI line equals "an enabled PM1 status bit is set".
 */
#include "devices/acpi_pm.h"

#include "core/base/lock.h"

enum {
	RANGE_EVT,
	RANGE_CNT,
	RANGE_TMR,
	RANGE_RESET,

	STS_TIMER = 1u << 0,
	STS_GLOBAL = 1u << 5,
	STS_POWER_BUTTON = 1u << 8,
	STS_RTC = 1u << 10,
	STS_WAKE = 1u << 15,
	STS_BITS = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_RTC | STS_WAKE,
	EN_BITS = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_RTC,

	CNT_SCI_EN = 1u << 0,
	CNT_BM_RLD = 1u << 1,
	CNT_SLP_SHIFT = 10,
	CNT_SLP_TYP = 7u << CNT_SLP_SHIFT,
	CNT_SLP_EN = 1u << 13,
	CNT_BITS = CNT_BM_RLD | CNT_SLP_TYP, /* the ones that stay */

	RESET_CPU = 0x04,
};

#define NS_PER_S 1000000000ull
#define TIMER_HALF (1ull << 31) /* TMR_STS is set whenever the top bit of 32 changes */

struct acpi_pm {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	struct acpi_pm_state live;
	bool irq_level;
	bool parked;
	struct acpi_pm_state saved; /* part.state */
};

static struct acpi_pm *pm_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct acpi_pm, dev);
}

static uint64_t ticks_of(uint64_t ns)
{
	return ns / NS_PER_S * ACPI_PM_TIMER_HZ + ns % NS_PER_S * ACPI_PM_TIMER_HZ / NS_PER_S;
}

static uint64_t ns_of(uint64_t ticks)
{
	return ticks / ACPI_PM_TIMER_HZ * NS_PER_S +
	       (ticks % ACPI_PM_TIMER_HZ * NS_PER_S + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ;
}

static uint64_t ticks_now(const struct acpi_pm *p)
{
	return ticks_of(p->dev.host->vm_time_ns(p->dev.host->self));
}

/* Must hold p->lock. Collects timer carries, sets the SCI line and the host timer. */
static void refresh(struct acpi_pm *p)
{
	struct acpi_pm_state *st = &p->live;
	const struct dev_host *h = p->dev.host;
	uint64_t now = ticks_now(p);
	if (now > st->seen_ticks && now / TIMER_HALF != st->seen_ticks / TIMER_HALF) {
		st->pm1_sts |= STS_TIMER;
	}
	st->seen_ticks = now;
	bool level = (st->pm1_sts & st->pm1_en & EN_BITS) != 0;
	if (level != p->irq_level) {
		p->irq_level = level;
		h->set_irq(h->self, ACPI_PM_SCI_GSI, level);
	}
	bool timer = (st->pm1_en & STS_TIMER) != 0 && (st->pm1_sts & STS_TIMER) == 0;
	h->set_timer(h->self, &p->dev,
		     timer ? ns_of((now / TIMER_HALF + 1) * TIMER_HALF) : UINT64_MAX);
}

static void set_byte(uint16_t *word, unsigned byte, uint8_t v)
{
	unsigned shift = 8 * byte;
	*word = (uint16_t)((*word & ~(0xffu << shift)) | (unsigned)v << shift);
}

/* Bytes 0 and 1 are status (write 1 to clear), 2 and 3 enable. */
static void write_evt(struct acpi_pm *p, uint64_t off, uint8_t v)
{
	struct acpi_pm_state *st = &p->live;
	refresh(p);
	if (off < 2) {
		st->pm1_sts &= (uint16_t) ~((unsigned)v << (8 * off));
	} else {
		set_byte(&st->pm1_en, (unsigned)off - 2, v);
		st->pm1_en &= EN_BITS;
	}
	refresh(p);
}

static void write_cnt(struct acpi_pm *p, uint64_t off, uint8_t v)
{
	struct acpi_pm_state *st = &p->live;
	set_byte(&st->pm1_cnt, (unsigned)off, v);
	bool sleep = (st->pm1_cnt & CNT_SLP_EN) != 0;
	st->pm1_cnt &= CNT_BITS;
	/* Only S5 is offered; other types ask for a state that this machine does not have. */
	if (sleep && st->pm1_cnt >> CNT_SLP_SHIFT == ACPI_PM_SLP_TYP_S5) {
		p->dev.host->request(p->dev.host->self, DEV_POWEROFF);
	}
}

static void write_byte(struct acpi_pm *p, unsigned range, uint64_t off, uint8_t v)
{
	switch (range) {
	case RANGE_EVT:
		write_evt(p, off, v);
		break;
	case RANGE_CNT:
		write_cnt(p, off, v);
		break;
	case RANGE_RESET:
		p->live.reset = v & (uint8_t)~RESET_CPU;
		if ((v & RESET_CPU) != 0) {
			p->dev.host->request(p->dev.host->self, DEV_RESET);
		}
		break;
	default:
		break; /* the timer is read-only */
	}
}

static uint32_t read_range(struct acpi_pm *p, unsigned range)
{
	switch (range) {
	case RANGE_EVT:
		refresh(p);
		return (uint32_t)p->live.pm1_sts | (uint32_t)p->live.pm1_en << 16;
	case RANGE_CNT:
		return (uint32_t)p->live.pm1_cnt | CNT_SCI_EN;
	case RANGE_TMR:
		return (uint32_t)ticks_now(p);
	default:
		return p->live.reset;
	}
}

static void acpi_pm_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t *data)
{
	(void)len; /* the bus takes what it asked for */
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	*data = read_range(p, range) >> (8 * (off & 3));
}

static void acpi_pm_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			  uint64_t data)
{
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	for (unsigned i = 0; i < len; i++) {
		write_byte(p, range, off + i, (uint8_t)(data >> (8 * i)));
	}
}

static void acpi_pm_on_timer(struct device *dev)
{
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	if (!p->parked) {
		refresh(p);
	}
}

static void acpi_pm_free(struct device *dev)
{
	if (dev != NULL) {
		struct acpi_pm *p = pm_of(dev);
		lock_done(&p->lock);
		free(p);
	}
}

/* ---- saved state ---- */

static struct err *acpi_pm_park(void *self)
{
	struct acpi_pm *p = self;
	LOCK_SCOPE(&p->lock);
	p->parked = true;
	return NULL;
}

static void acpi_pm_unpark(void *self)
{
	struct acpi_pm *p = self;
	LOCK_SCOPE(&p->lock);
	p->parked = false;
	refresh(p);
}

static struct err *acpi_pm_fetch(void *self)
{
	struct acpi_pm *p = self;
	LOCK_SCOPE(&p->lock);
	p->saved = p->live;
	return NULL;
}

static struct err *acpi_pm_commit(void *self)
{
	struct acpi_pm *p = self;
	LOCK_SCOPE(&p->lock);
	p->live = p->saved;
	p->irq_level = (p->live.pm1_sts & p->live.pm1_en & EN_BITS) != 0;
	p->parked = false;
	/* Clocks are committed after devices: the timer is worked out once time runs again. */
	p->dev.host->set_timer(p->dev.host->self, &p->dev, 0);
	return NULL;
}

static struct err *acpi_pm_check(const void *state)
{
	const struct acpi_pm_state *st = state;
	ENSURE((st->pm1_sts & ~STS_BITS) == 0, ERR_CORRUPT, "acpi_pm: pm1_sts 0x%x", st->pm1_sts);
	ENSURE((st->pm1_en & ~EN_BITS) == 0, ERR_CORRUPT, "acpi_pm: pm1_en 0x%x", st->pm1_en);
	ENSURE((st->pm1_cnt & ~CNT_BITS) == 0, ERR_CORRUPT, "acpi_pm: pm1_cnt 0x%x", st->pm1_cnt);
	ENSURE((st->reset & RESET_CPU) == 0, ERR_CORRUPT, "acpi_pm: reset 0x%x", st->reset);
	return NULL;
}

static const struct state_field acpi_pm_fields[] = {
	FIELD(struct acpi_pm_state, 1, pm1_sts),    FIELD(struct acpi_pm_state, 2, pm1_en),
	FIELD(struct acpi_pm_state, 3, pm1_cnt),    FIELD(struct acpi_pm_state, 4, reset),
	FIELD(struct acpi_pm_state, 5, seen_ticks), PAD(struct acpi_pm_state, pad),
};

const struct state_desc acpi_pm_desc = {
	.name = "acpi_pm",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct acpi_pm_state),
	.fields = acpi_pm_fields,
	.nfields = ARRAY_LEN(acpi_pm_fields),
	.check = acpi_pm_check,
};

static const struct snap_part_ops acpi_pm_part_ops = {
	.park = acpi_pm_park,
	.unpark = acpi_pm_unpark,
	.fetch = acpi_pm_fetch,
	.commit = acpi_pm_commit,
};

static const struct dev_ops acpi_pm_ops = {
	.name = "acpi_pm",
	.read = acpi_pm_read,
	.write = acpi_pm_write,
	.on_timer = acpi_pm_on_timer,
	.free = acpi_pm_free,
};

struct err *acpi_pm_new(const struct dev_host *host, struct device **ret_dev)
{
	struct acpi_pm *p = calloc(1, sizeof(*p));
	ENSURE(p != NULL, ERR_SYS, "out of memory");
	lock_init(&p->lock, RANK_DEVICE);
	p->dev = (struct device){
		.ops = &acpi_pm_ops,
		.host = host,
		.ranges = {
			[RANGE_EVT] = { .space = DEV_PIO, .base = ACPI_PM_EVT_PORT, .len = 4 },
			[RANGE_CNT] = { .space = DEV_PIO, .base = ACPI_PM_CNT_PORT, .len = 2 },
			[RANGE_TMR] = { .space = DEV_PIO, .base = ACPI_PM_TMR_PORT, .len = 4 },
			[RANGE_RESET] = { .space = DEV_PIO, .base = ACPI_PM_RESET_PORT, .len = 1 },
		},
		.nranges = 4,
		.part = {
			.name = acpi_pm_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &acpi_pm_desc,
			.state = &p->saved,
			.ops = &acpi_pm_part_ops,
			.self = p,
		},
	};
	*ret_dev = &p->dev;
	return NULL;
}

void acpi_pm_power_button(struct device *dev)
{
	BUG_ON(dev->ops != &acpi_pm_ops);
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	p->live.pm1_sts |= STS_POWER_BUTTON;
	refresh(p);
}
