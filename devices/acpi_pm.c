/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware. See acpi_pm.h. Every entry takes the device's lock.
 *
 * I1: after each entry the SCI line equals "an enabled PM1 or GPE status bit is set".
 * I2: an event whose source holds it (a clear event that has not fired) has its status bit set:
 *     clearing it sets it anew. The IOAPIC asks for SCI again at the end of an interrupt as long
 *     as the line is up, so the guest is told until the clear event fires.
 */
#include "devices/acpi_pm.h"

#include <poll.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/lock.h"

enum {
	RANGE_EVT,
	RANGE_CNT,
	RANGE_TMR,
	RANGE_RESET,
	RANGE_GPE,

	STS_TIMER = 1u << 0,
	STS_GLOBAL = 1u << 5,
	STS_POWER_BUTTON = 1u << 8,
	STS_SLEEP_BUTTON = 1u << 9,
	STS_RTC = 1u << 10,
	STS_PCIE_WAKE = 1u << 14,
	STS_WAKE = 1u << 15,
	STS_BITS = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_SLEEP_BUTTON | STS_RTC |
		   STS_PCIE_WAKE | STS_WAKE,
	/* What raises SCI when both bits are set; PCIEXP_WAKE_DIS sits among the enable bits. */
	SCI_BITS = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_SLEEP_BUTTON | STS_RTC,
	EN_PCIE_WAKE_DIS = 1u << 14,
	EN_BITS = SCI_BITS | EN_PCIE_WAKE_DIS,

	CNT_SCI_EN = 1u << 0,
	CNT_BM_RLD = 1u << 1,
	CNT_SLP_SHIFT = 10,
	CNT_SLP_TYP = 7u << CNT_SLP_SHIFT,
	CNT_SLP_EN = 1u << 13,
	CNT_BITS = CNT_BM_RLD | CNT_SLP_TYP, /* the ones that stay */

	RESET_CPU = 0x04,

	SOURCE_RTC = ACPI_PM_GPES, /* in struct clear: the sources behind the 256 events */
};

#define NS_PER_S 1000000000ull
#define TIMER_HALF (1ull << 31) /* TMR_STS is set whenever the top bit of 32 changes */

/* A source that holds its event until fd is readable. */
struct clear {
	unsigned source; /* number of a GPE, or SOURCE_RTC */
	struct fd fd;
};

struct acpi_pm {
	struct device dev;
	struct lock lock; /* RANK_PM; all below */
	struct acpi_pm_state live;
	/* Events brought in that are in no register yet; see merge(). */
	bool late;
	uint16_t late_pm1;
	uint8_t late_gpe[ACPI_PM_GPE_BYTES];
	struct clear clears[ACPI_PM_CLEARS_MAX];
	unsigned nclears;
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

/* ---- events ---- */

static void merge(const struct acpi_pm *p, struct acpi_pm_state *st)
{
	st->pm1_sts |= p->late_pm1;
	for (unsigned i = 0; i < ACPI_PM_GPE_BYTES; i++) {
		st->gpe_sts[i] |= p->late_gpe[i];
	}
}

static void hold_event(struct acpi_pm_state *st, unsigned source)
{
	if (source == SOURCE_RTC) {
		st->pm1_sts |= STS_RTC;
	} else {
		st->gpe_sts[source / 8] |= (uint8_t)(1u << source % 8);
	}
}

static void drop_clear(struct acpi_pm *p, unsigned i)
{
	fd_close(&p->clears[i].fd);
	p->clears[i] = p->clears[--p->nclears];
}

/* I2. A descriptor that is broken counts as fired: nobody would ever fire it. */
static void hold_events(struct acpi_pm *p)
{
	for (unsigned i = 0; i < p->nclears;) {
		struct pollfd f = { .fd = p->clears[i].fd.n, .events = POLLIN };
		if (poll(&f, 1, 0) != 0) {
			drop_clear(p, i);
			continue;
		}
		hold_event(&p->live, p->clears[i].source);
		i++;
	}
}

static bool sci_wanted(const struct acpi_pm_state *st)
{
	unsigned any = st->pm1_sts & st->pm1_en & SCI_BITS;
	for (unsigned i = 0; i < ACPI_PM_GPE_BYTES; i++) {
		any |= st->gpe_sts[i] & st->gpe_en[i];
	}
	return any != 0;
}

/* Must hold p->lock. Collects events and timer carries, sets the SCI line and the host timer. */
static void refresh(struct acpi_pm *p)
{
	struct acpi_pm_state *st = &p->live;
	const struct dev_host *h = p->dev.host;
	uint64_t now = ticks_now(p);
	if (now > st->seen_ticks && now / TIMER_HALF != st->seen_ticks / TIMER_HALF) {
		st->pm1_sts |= STS_TIMER;
	}
	st->seen_ticks = now;
	if (p->late) {
		merge(p, st);
		p->late = false;
		p->late_pm1 = 0;
		memset(p->late_gpe, 0, sizeof(p->late_gpe));
	}
	bool level = sci_wanted(st);
	if (level != p->irq_level) {
		p->irq_level = level;
		h->set_irq(h->self, ACPI_PM_SCI_GSI, level);
	}
	bool timer = (st->pm1_en & STS_TIMER) != 0 && (st->pm1_sts & STS_TIMER) == 0;
	h->set_timer(h->self, &p->dev,
		     timer ? ns_of((now / TIMER_HALF + 1) * TIMER_HALF) : UINT64_MAX);
}

/* ---- registers ---- */

static void set_byte(uint16_t *word, unsigned byte, uint8_t v)
{
	unsigned shift = 8 * byte;
	*word = (uint16_t)((*word & ~(0xffu << shift)) | (unsigned)v << shift);
}

/* Bytes 0 and 1 are status (write 1 to clear), 2 and 3 enable. */
static void write_evt(struct acpi_pm *p, uint64_t off, uint8_t v)
{
	struct acpi_pm_state *st = &p->live;
	if (off < 2) {
		st->pm1_sts &= (uint16_t) ~((unsigned)v << (8 * off));
		hold_events(p);
	} else {
		set_byte(&st->pm1_en, (unsigned)off - 2, v);
		st->pm1_en &= EN_BITS;
	}
}

/* The same for the general-purpose events: 32 bytes each. */
static void write_gpe(struct acpi_pm *p, uint64_t off, uint8_t v)
{
	struct acpi_pm_state *st = &p->live;
	if (off < ACPI_PM_GPE_BYTES) {
		st->gpe_sts[off] &= (uint8_t)~v;
		hold_events(p);
	} else {
		st->gpe_en[off - ACPI_PM_GPE_BYTES] = v;
	}
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
	case RANGE_GPE:
		write_gpe(p, off, v);
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
		return (uint32_t)p->live.pm1_sts | (uint32_t)p->live.pm1_en << 16;
	case RANGE_CNT:
		return (uint32_t)p->live.pm1_cnt | CNT_SCI_EN;
	case RANGE_TMR:
		return (uint32_t)ticks_now(p);
	default:
		return p->live.reset;
	}
}

static uint64_t read_gpe(const struct acpi_pm *p, uint64_t off, unsigned len)
{
	const struct acpi_pm_state *st = &p->live;
	uint64_t v = 0;
	for (unsigned i = 0; i < len; i++) {
		uint64_t at = off + i;
		uint8_t b = at < ACPI_PM_GPE_BYTES ? st->gpe_sts[at]
						   : st->gpe_en[at - ACPI_PM_GPE_BYTES];
		v |= (uint64_t)b << (8 * i);
	}
	return v;
}

static void acpi_pm_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t *data)
{
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	if (range == RANGE_EVT || range == RANGE_GPE) {
		refresh(p);
	}
	/* The bus takes as many bytes as it asked for. */
	*data = range == RANGE_GPE ? read_gpe(p, off, len)
				   : read_range(p, range) >> (8 * (off & 3));
}

static void acpi_pm_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			  uint64_t data)
{
	struct acpi_pm *p = pm_of(dev);
	LOCK_SCOPE(&p->lock);
	bool events = range == RANGE_EVT || range == RANGE_GPE;
	if (events) {
		refresh(p); /* what has come by now is cleared by this write, too */
	}
	for (unsigned i = 0; i < len; i++) {
		write_byte(p, range, off + i, (uint8_t)(data >> (8 * i)));
	}
	if (events) {
		refresh(p);
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
		while (p->nclears > 0) {
			drop_clear(p, p->nclears - 1);
		}
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
	/* A button pressed while the VM is suspended: its interrupt is still to come. */
	merge(p, &p->saved);
	p->saved.sci = p->irq_level ? ACPI_PM_SCI_HIGH : ACPI_PM_SCI_LOW;
	return NULL;
}

static struct err *acpi_pm_commit(void *self)
{
	struct acpi_pm *p = self;
	LOCK_SCOPE(&p->lock);
	p->live = p->saved;
	p->irq_level = p->live.sci == ACPI_PM_SCI_FOLLOWS ? sci_wanted(&p->live)
							  : p->live.sci == ACPI_PM_SCI_HIGH;
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
	FIELD(struct acpi_pm_state, 1, pm1_sts),
	FIELD(struct acpi_pm_state, 2, pm1_en),
	FIELD(struct acpi_pm_state, 3, pm1_cnt),
	FIELD(struct acpi_pm_state, 4, reset),
	FIELD(struct acpi_pm_state, 5, seen_ticks),
	FIELD_BLOB(struct acpi_pm_state, 6, gpe_sts, .since = 2),
	FIELD_BLOB(struct acpi_pm_state, 7, gpe_en, .since = 2),
	FIELD(struct acpi_pm_state, 8, sci, FIELD_RANGE(ACPI_PM_SCI_LOW, ACPI_PM_SCI_FOLLOWS),
	      .since = 2, .dflt = ACPI_PM_SCI_FOLLOWS),
};

const struct state_desc acpi_pm_desc = {
	.name = "acpi_pm",
	.version = 2,
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
	lock_init(&p->lock, RANK_PM);
	p->dev = (struct device){
		.ops = &acpi_pm_ops,
		.host = host,
		.ranges = {
			[RANGE_EVT] = { .space = DEV_PIO, .base = ACPI_PM_EVT_PORT, .len = 4 },
			[RANGE_CNT] = { .space = DEV_PIO, .base = ACPI_PM_CNT_PORT, .len = 2 },
			[RANGE_TMR] = { .space = DEV_PIO, .base = ACPI_PM_TMR_PORT, .len = 4 },
			[RANGE_RESET] = { .space = DEV_PIO, .base = ACPI_PM_RESET_PORT, .len = 1 },
			[RANGE_GPE] = { .space = DEV_PIO, .base = ACPI_PM_GPE_PORT,
					.len = 2 * ACPI_PM_GPE_BYTES },
		},
		.nranges = 5,
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

/* ---- events from outside ---- */

static struct acpi_pm *pm_of_outside(struct device *dev)
{
	BUG_ON(dev->ops != &acpi_pm_ops);
	return pm_of(dev);
}

/* Must hold p->lock. The main loop's callback, which the gate keeps away, brings it in. */
static void note(struct acpi_pm *p)
{
	p->late = true;
	p->dev.host->set_timer(p->dev.host->self, &p->dev, 0);
}

static void note_pm1(struct device *dev, uint16_t bits)
{
	struct acpi_pm *p = pm_of_outside(dev);
	LOCK_SCOPE(&p->lock);
	p->late_pm1 |= bits;
	note(p);
}

void acpi_pm_powerbtn(struct device *dev)
{
	note_pm1(dev, STS_POWER_BUTTON);
}

void acpi_pm_sleepbtn(struct device *dev)
{
	note_pm1(dev, STS_SLEEP_BUTTON);
}

void acpi_pm_pme(struct device *dev)
{
	note_pm1(dev, STS_PCIE_WAKE);
}

/* Must hold p->lock. Takes fd over when it returns NULL. */
static struct err *add_clear(struct acpi_pm *p, unsigned source, struct fd *fd)
{
	for (unsigned i = 0; i < p->nclears;) {
		struct pollfd f = { .fd = p->clears[i].fd.n, .events = POLLIN };
		if (p->clears[i].source == source || poll(&f, 1, 0) != 0) {
			drop_clear(p, i);
		} else {
			i++;
		}
	}
	ENSURE(p->nclears < ACPI_PM_CLEARS_MAX, ERR_LIMIT,
	       "%u events wait for their clear event: fire some of those first", p->nclears);
	p->clears[p->nclears++] = (struct clear){ .source = source, .fd = fd_move(fd) };
	return NULL;
}

static struct err *note_source(struct device *dev, unsigned source, int clear_fd)
{
	SCOPE(fd_close) struct fd fd = { clear_fd };
	struct acpi_pm *p = pm_of_outside(dev);
	LOCK_SCOPE(&p->lock);
	if (fd.n >= 0) {
		TRY(add_clear(p, source, &fd));
	}
	if (source == SOURCE_RTC) {
		p->late_pm1 |= STS_RTC;
	} else {
		p->late_gpe[source / 8] |= (uint8_t)(1u << source % 8);
	}
	note(p);
	return NULL;
}

struct err *acpi_pm_gpe(struct device *dev, unsigned gpe, int clear_fd)
{
	if (gpe >= ACPI_PM_GPES) {
		SCOPE(fd_close) UNUSED struct fd fd = { clear_fd };
		return ERR(ERR_USAGE, "there is no general-purpose event %u: give 0 to %u", gpe,
			   ACPI_PM_GPES - 1);
	}
	return note_source(dev, gpe, clear_fd);
}

struct err *acpi_pm_rtc(struct device *dev, int clear_fd)
{
	return note_source(dev, SOURCE_RTC, clear_fd);
}
