/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818 real-time clock. See rtc.h. Every entry takes the device's lock.
 *
 * I1: all events up to live.seen_ns (RTC time) are flags in live.reg_c.
 * I2: the interrupt line equals "reg_c has IRQF".
 */
#include "devices/rtc.h"

#include "core/base/lock.h"

enum {
	REG_SEC = 0,
	REG_SEC_ALARM = 1,
	REG_MIN = 2,
	REG_MIN_ALARM = 3,
	REG_HOUR = 4,
	REG_HOUR_ALARM = 5,
	REG_WDAY = 6,
	REG_MDAY = 7,
	REG_MONTH = 8,
	REG_YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13,

	A_UIP = 0x80,
	A_DIVIDER = 0x70,
	A_RUNS = 0x20, /* divider value of a 32768 Hz crystal */
	A_RATE = 0x0f,
	A_BITS = 0x7f,
	B_SET = 0x80,
	B_BINARY = 0x04,
	B_24H = 0x02,
	IRQ_PERIODIC = 0x40, /* the same bits enable in B and flag in C */
	IRQ_ALARM = 0x20,
	IRQ_UPDATE = 0x10,
	IRQ_ALL = 0x70,
	C_IRQF = 0x80,
	D_VALID = 0x80, /* battery is good */

	HOUR_PM = 0x80,
	ALARM_ANY = 0xc0, /* both bits set: any value matches */
};

#define NS_PER_S 1000000000ull
#define UIP_NS 244000ull /* UIP is seen this long before a second ends */
#define DAY_S 86400u
#define CRYSTAL_HZ 32768u
#define SECONDS_MAX (UINT64_MAX / NS_PER_S - DAY_S) /* in the year 2554 */

struct rtc {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	struct rtc_state live;
	bool irq_level;
	bool alarm_told; /* the alarm's rising edge has gone to ACPI hardware */
	bool parked;
	struct rtc_state saved; /* part.state */
};

static struct rtc *rtc_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct rtc, dev);
}

/* ---- calendar ---- */

struct civil {
	unsigned year;  /* 1970.. */
	unsigned month; /* 1..12 */
	unsigned mday;  /* 1..31 */
	unsigned wday;  /* 1 = Sunday */
	unsigned hour, min, sec;
};

/* Days since 1970-01-01 of a date in the proleptic Gregorian calendar, year >= 0. Days and months
 * out of range carry over. Years start in March here, so that the leap day comes last. */
static int64_t days_of(unsigned year, unsigned month, unsigned mday)
{
	unsigned months = month + 9; /* months since March of the year before */
	int64_t y = (int64_t)year - 1 + months / 12;
	unsigned m = months % 12;
	int64_t before = y * 365 + y / 4 - y / 100 + y / 400;
	return before + (int64_t)((153 * m + 2) / 5) + (int64_t)mday - 1 - 719468;
}

static struct civil civil_of(uint64_t seconds)
{
	struct civil c = { 0 };
	uint64_t days = seconds / DAY_S;
	unsigned tod = (unsigned)(seconds % DAY_S);
	c.hour = tod / 3600;
	c.min = tod / 60 % 60;
	c.sec = tod % 60;
	c.wday = (unsigned)((days + 4) % 7) + 1; /* 1970-01-01 was a Thursday */
	uint64_t shifted = days + 719468;
	uint64_t era = shifted / 146097;
	unsigned doe = (unsigned)(shifted % 146097);
	unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	unsigned m = (5 * doy + 2) / 153;
	c.mday = doy - (153 * m + 2) / 5 + 1;
	c.month = m < 10 ? m + 3 : m - 9;
	c.year = (unsigned)(era * 400 + yoe) + (c.month <= 2 ? 1 : 0);
	return c;
}

/* ---- register encoding ---- */

static uint8_t encode(const struct rtc_state *st, unsigned v)
{
	return (uint8_t)((st->reg_b & B_BINARY) != 0 ? v : v / 10 * 16 + v % 10);
}

static unsigned decode(const struct rtc_state *st, uint8_t v)
{
	return (st->reg_b & B_BINARY) != 0 ? v : (v >> 4) * 10u + (v & 15u);
}

static uint8_t encode_hour(const struct rtc_state *st, unsigned hour)
{
	if ((st->reg_b & B_24H) != 0) {
		return encode(st, hour);
	}
	unsigned h12 = hour % 12 == 0 ? 12 : hour % 12;
	return (uint8_t)(encode(st, h12) | (hour >= 12 ? HOUR_PM : 0));
}

static unsigned decode_hour(const struct rtc_state *st, uint8_t v)
{
	if ((st->reg_b & B_24H) != 0) {
		return decode(st, v);
	}
	unsigned h12 = decode(st, v & (uint8_t)~HOUR_PM);
	return h12 % 12 + ((v & HOUR_PM) != 0 ? 12 : 0);
}

static void store_time(struct rtc_state *st, uint64_t seconds)
{
	struct civil c = civil_of(seconds);
	st->ram[REG_SEC] = encode(st, c.sec);
	st->ram[REG_MIN] = encode(st, c.min);
	st->ram[REG_HOUR] = encode_hour(st, c.hour);
	st->ram[REG_WDAY] = encode(st, c.wday);
	st->ram[REG_MDAY] = encode(st, c.mday);
	st->ram[REG_MONTH] = encode(st, c.month);
	st->ram[REG_YEAR] = encode(st, c.year % 100);
	st->ram[RTC_CENTURY] = encode(st, c.year / 100);
}

/* What the guest wrote, as seconds; nonsense carries over, up to what ns in 64 bits can say. */
static uint64_t load_time(const struct rtc_state *st)
{
	unsigned year = decode(st, st->ram[RTC_CENTURY]) * 100 + decode(st, st->ram[REG_YEAR]);
	int64_t days = days_of(year, decode(st, st->ram[REG_MONTH]), decode(st, st->ram[REG_MDAY]));
	int64_t s = days * DAY_S + decode_hour(st, st->ram[REG_HOUR]) * 3600 +
		    decode(st, st->ram[REG_MIN]) * 60 + decode(st, st->ram[REG_SEC]);
	return s < 0 ? 0 : MIN((uint64_t)s, SECONDS_MAX);
}

static bool is_time_reg(uint8_t index)
{
	switch (index) {
	case REG_SEC:
	case REG_MIN:
	case REG_HOUR:
	case REG_WDAY:
	case REG_MDAY:
	case REG_MONTH:
	case REG_YEAR:
	case RTC_CENTURY:
		return true;
	default:
		return false;
	}
}

/* ---- time and events ---- */

static uint64_t rtc_now(const struct rtc *r)
{
	return r->dev.host->wall_time_ns(r->dev.host->self) + r->live.offset_ns;
}

static bool stopped(const struct rtc_state *st)
{
	return (st->reg_b & B_SET) != 0 || (st->reg_a & A_DIVIDER) != A_RUNS;
}

/* Crystal ticks between two periodic events; 0: none. The two fastest codes stand for slow rates.
 */
static uint64_t period_ticks(const struct rtc_state *st)
{
	unsigned rate = st->reg_a & A_RATE;
	if (rate == 0) {
		return 0;
	}
	return 1ull << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t ticks_of(uint64_t ns)
{
	return ns / NS_PER_S * CRYSTAL_HZ + ns % NS_PER_S * CRYSTAL_HZ / NS_PER_S;
}

/* First nanosecond of a tick. */
static uint64_t ns_of(uint64_t ticks)
{
	return ticks / CRYSTAL_HZ * NS_PER_S +
	       (ticks % CRYSTAL_HZ * NS_PER_S + CRYSTAL_HZ - 1) / CRYSTAL_HZ;
}

static bool alarm_matches(uint8_t reg, unsigned want, unsigned v)
{
	return (reg & ALARM_ANY) == ALARM_ANY || want == v;
}

/* The first second after `after` at which the alarm rings; UINT64_MAX if it never does. */
static uint64_t next_alarm(const struct rtc_state *st, uint64_t after)
{
	unsigned hour = decode_hour(st, st->ram[REG_HOUR_ALARM]);
	unsigned min = decode(st, st->ram[REG_MIN_ALARM]);
	unsigned sec = decode(st, st->ram[REG_SEC_ALARM]);
	uint64_t t = after + 1;
	/* Steps over whole hours and minutes that cannot match: at most 25 + 60 + 60 rounds. */
	while (t <= after + DAY_S) {
		unsigned tod = (unsigned)(t % DAY_S);
		if (!alarm_matches(st->ram[REG_HOUR_ALARM], hour, tod / 3600)) {
			t += 3600 - tod % 3600;
		} else if (!alarm_matches(st->ram[REG_MIN_ALARM], min, tod / 60 % 60)) {
			t += 60 - tod % 60;
		} else if (!alarm_matches(st->ram[REG_SEC_ALARM], sec, tod % 60)) {
			t++;
		} else {
			return t;
		}
	}
	return UINT64_MAX;
}

static bool alarm_rings(const struct rtc_state *st)
{
	return (st->reg_b & st->reg_c & IRQ_ALARM) != 0;
}

static void set_line(struct rtc *r)
{
	struct rtc_state *st = &r->live;
	if (alarm_rings(st) && !r->alarm_told) {
		r->dev.host->event(r->dev.host->self, DEV_EVENT_RTC);
	}
	r->alarm_told = alarm_rings(st);
	bool level = (st->reg_b & st->reg_c & IRQ_ALL) != 0;
	st->reg_c = (uint8_t)((st->reg_c & IRQ_ALL) | (level ? C_IRQF : 0));
	if (level != r->irq_level) {
		r->irq_level = level;
		r->dev.host->set_irq(r->dev.host->self, RTC_GSI, level);
	}
}

/* Moves seen_ns up to now, collecting events on the way. */
static void catch_up(struct rtc *r, uint64_t now)
{
	struct rtc_state *st = &r->live;
	uint64_t seen = st->seen_ns;
	st->seen_ns = now;
	if (now <= seen || (st->reg_a & A_DIVIDER) != A_RUNS) {
		return;
	}
	uint64_t ticks = period_ticks(st);
	if (ticks != 0 && ticks_of(seen) / ticks != ticks_of(now) / ticks) {
		st->reg_c |= IRQ_PERIODIC;
	}
	if ((st->reg_b & B_SET) != 0 || seen / NS_PER_S == now / NS_PER_S) {
		return;
	}
	st->reg_c |= IRQ_UPDATE;
	if (next_alarm(st, seen / NS_PER_S) <= now / NS_PER_S) {
		st->reg_c |= IRQ_ALARM;
	}
}

/* Sets the host timer to the next event that would raise the line. */
static void set_timer(struct rtc *r, uint64_t now)
{
	const struct rtc_state *st = &r->live;
	uint8_t wanted = st->reg_b & (uint8_t)~st->reg_c & IRQ_ALL;
	uint64_t next = UINT64_MAX;
	if ((st->reg_a & A_DIVIDER) != A_RUNS || r->irq_level) {
		wanted = 0;
	}
	uint64_t ticks = period_ticks(st);
	if ((wanted & IRQ_PERIODIC) != 0 && ticks != 0) {
		next = ns_of((ticks_of(now) / ticks + 1) * ticks);
	}
	if ((st->reg_b & B_SET) == 0) {
		if ((wanted & IRQ_UPDATE) != 0) {
			next = MIN(next, (now / NS_PER_S + 1) * NS_PER_S);
		}
		uint64_t alarm = next_alarm(st, now / NS_PER_S);
		if ((wanted & IRQ_ALARM) != 0 && alarm != UINT64_MAX) {
			next = MIN(next, alarm * NS_PER_S);
		}
	}
	const struct dev_host *h = r->dev.host;
	uint64_t at = next == UINT64_MAX ? next : h->vm_time_ns(h->self) + (next - now);
	h->set_timer(h->self, &r->dev, at);
}

static void refresh(struct rtc *r)
{
	uint64_t now = rtc_now(r);
	catch_up(r, now);
	set_line(r);
	set_timer(r, now);
}

/* ---- registers ---- */

static uint8_t read_reg(struct rtc *r)
{
	struct rtc_state *st = &r->live;
	uint8_t v;
	switch (st->index) {
	case REG_A:
		v = st->reg_a;
		if (!stopped(st) && rtc_now(r) % NS_PER_S >= NS_PER_S - UIP_NS) {
			v |= A_UIP;
		}
		return v;
	case REG_B:
		return st->reg_b;
	case REG_C:
		catch_up(r, rtc_now(r));
		set_line(r);
		v = st->reg_c;
		st->reg_c = 0;
		refresh(r);
		return v;
	case REG_D:
		return D_VALID;
	default:
		if (is_time_reg(st->index) && (st->reg_b & B_SET) == 0) {
			store_time(st, rtc_now(r) / NS_PER_S);
		}
		return st->ram[st->index];
	}
}

/* The time registers become the time, within the running second. */
static void set_time(struct rtc *r, uint64_t now)
{
	uint64_t set = load_time(&r->live) * NS_PER_S + now % NS_PER_S;
	r->live.offset_ns += set - now;
	r->live.seen_ns = set;
}

static void write_b(struct rtc *r, uint8_t v)
{
	struct rtc_state *st = &r->live;
	uint64_t now = rtc_now(r);
	catch_up(r, now);
	bool was_set = (st->reg_b & B_SET) != 0;
	bool is_set = (v & B_SET) != 0;
	if (was_set && !is_set) {
		set_time(r, now); /* in the encoding in which it was written */
	}
	/* SET clears the update-ended enable (data sheet, register B). */
	st->reg_b = is_set ? v & (uint8_t)~IRQ_UPDATE : v;
	if (!was_set && is_set) {
		store_time(st, now / NS_PER_S);
	}
	refresh(r);
}

static void write_reg(struct rtc *r, uint8_t v)
{
	struct rtc_state *st = &r->live;
	uint64_t now = rtc_now(r);
	switch (st->index) {
	case REG_A:
		catch_up(r, now);
		st->reg_a = v & A_BITS;
		refresh(r);
		return;
	case REG_B:
		write_b(r, v);
		return;
	case REG_C:
	case REG_D:
		return;
	default:
		break;
	}
	if (is_time_reg(st->index) && (st->reg_b & B_SET) == 0) {
		catch_up(r, now);
		store_time(st, now / NS_PER_S);
		st->ram[st->index] = v;
		set_time(r, now);
		refresh(r);
		return;
	}
	if (st->index == REG_SEC_ALARM || st->index == REG_MIN_ALARM ||
	    st->index == REG_HOUR_ALARM) {
		catch_up(r, now);
		st->ram[st->index] = v;
		refresh(r);
		return;
	}
	st->ram[st->index] = v;
}

/* ---- device role ---- */

static void rtc_read(struct device *dev, unsigned range, uint64_t off, unsigned len, uint64_t *data)
{
	(void)range;
	struct rtc *r = rtc_of(dev);
	LOCK_SCOPE(&r->lock);
	uint64_t v = 0;
	for (unsigned i = 0; i < len; i++) {
		uint8_t b = off + i == 1 ? read_reg(r) : 0xff;
		v |= (uint64_t)b << (8 * i);
	}
	*data = v;
}

static void rtc_write(struct device *dev, unsigned range, uint64_t off, unsigned len, uint64_t data)
{
	(void)range;
	struct rtc *r = rtc_of(dev);
	LOCK_SCOPE(&r->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t b = (uint8_t)(data >> (8 * i));
		if (off + i == 0) {
			r->live.index = b % RTC_RAM_BYTES; /* bit 7 masks NMI, which is nowhere */
		} else if (off + i == 1) {
			write_reg(r, b);
		}
	}
}

static void rtc_on_timer(struct device *dev)
{
	struct rtc *r = rtc_of(dev);
	LOCK_SCOPE(&r->lock);
	if (!r->parked) {
		refresh(r);
	}
}

static void rtc_free(struct device *dev)
{
	if (dev != NULL) {
		struct rtc *r = rtc_of(dev);
		lock_done(&r->lock);
		free(r);
	}
}

/* ---- saved state ---- */

static struct err *rtc_park(void *self)
{
	struct rtc *r = self;
	LOCK_SCOPE(&r->lock);
	r->parked = true;
	return NULL;
}

static void rtc_unpark(void *self)
{
	struct rtc *r = self;
	LOCK_SCOPE(&r->lock);
	r->parked = false;
	refresh(r);
}

static struct err *rtc_fetch(void *self)
{
	struct rtc *r = self;
	LOCK_SCOPE(&r->lock);
	r->saved = r->live;
	return NULL;
}

static struct err *rtc_commit(void *self)
{
	struct rtc *r = self;
	LOCK_SCOPE(&r->lock);
	r->live = r->saved;
	r->irq_level = (r->live.reg_c & C_IRQF) != 0;
	r->alarm_told = alarm_rings(&r->live);
	r->parked = false;
	/* Clocks are committed after devices: what is due is found out once time runs again. */
	r->dev.host->set_timer(r->dev.host->self, &r->dev, 0);
	return NULL;
}

static struct err *rtc_check(const void *state)
{
	const struct rtc_state *st = state;
	bool irqf = (st->reg_b & st->reg_c & IRQ_ALL) != 0;
	ENSURE((st->reg_c & ~(IRQ_ALL | C_IRQF)) == 0 && irqf == ((st->reg_c & C_IRQF) != 0),
	       ERR_CORRUPT, "rtc: reg_c 0x%x does not go with reg_b 0x%x", st->reg_c, st->reg_b);
	return NULL;
}

static const struct state_field rtc_fields[] = {
	FIELD(struct rtc_state, 1, index, FIELD_RANGE(0, RTC_RAM_BYTES - 1)),
	FIELD(struct rtc_state, 2, reg_a, FIELD_RANGE(0, A_BITS)),
	FIELD(struct rtc_state, 3, reg_b),
	FIELD(struct rtc_state, 4, reg_c),
	FIELD(struct rtc_state, 5, offset_ns),
	FIELD(struct rtc_state, 6, seen_ns),
	FIELD_BLOB(struct rtc_state, 7, ram),
	PAD(struct rtc_state, pad),
};

const struct state_desc rtc_desc = {
	.name = "rtc",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct rtc_state),
	.fields = rtc_fields,
	.nfields = ARRAY_LEN(rtc_fields),
	.check = rtc_check,
};

/* Memory sizes where PC firmware leaves them. */
static void store_memory(uint8_t ram[RTC_RAM_BYTES], uint64_t bytes)
{
	uint64_t low = MIN(bytes, (uint64_t)GMEM_LOW_END);
	uint64_t kib = low > MIB ? MIN((low - MIB) / KIB, (uint64_t)UINT16_MAX) : 0;
	uint64_t above16 = low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0;
	uint64_t above4g = (bytes - low) / (64 * KIB);
	ram[0x14] = 0x02; /* equipment: a coprocessor, no display, no floppy */
	put_le16(ram + 0x15, 640);
	put_le16(ram + 0x17, (uint16_t)kib);
	put_le16(ram + 0x30, (uint16_t)kib);
	put_le16(ram + 0x34, (uint16_t)MIN(above16, (uint64_t)UINT16_MAX));
	ram[0x5b] = (uint8_t)above4g;
	ram[0x5c] = (uint8_t)(above4g >> 8);
	ram[0x5d] = (uint8_t)(above4g >> 16);
	unsigned sum = 0;
	for (unsigned i = 0x10; i < 0x2e; i++) {
		sum += ram[i];
	}
	ram[0x2e] = (uint8_t)(sum >> 8); /* this one word is big-endian */
	ram[0x2f] = (uint8_t)sum;
}

static const struct snap_part_ops rtc_part_ops = {
	.park = rtc_park,
	.unpark = rtc_unpark,
	.fetch = rtc_fetch,
	.commit = rtc_commit,
};

static const struct dev_ops rtc_ops = {
	.name = "rtc",
	.read = rtc_read,
	.write = rtc_write,
	.on_timer = rtc_on_timer,
	.free = rtc_free,
};

struct err *rtc_new(const struct dev_host *host, struct device **ret_dev)
{
	struct rtc *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	lock_init(&r->lock, RANK_DEVICE);
	r->dev = (struct device){
		.ops = &rtc_ops,
		.host = host,
		.ranges = { { .space = DEV_PIO, .base = RTC_PORT, .len = 2 } },
		.nranges = 1,
		.part = {
			.name = rtc_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &rtc_desc,
			.state = &r->saved,
			.ops = &rtc_part_ops,
			.self = r,
		},
	};
	/* As PC firmware sets it: 32768 Hz crystal, 1024 Hz rate, BCD, 24 hours. */
	r->live.reg_a = 0x26;
	r->live.reg_b = B_24H;
	r->live.seen_ns = host->wall_time_ns(host->self);
	if (host->gmem != NULL) {
		store_memory(r->live.ram, gmem_bytes(host->gmem));
	}
	*ret_dev = &r->dev;
	return NULL;
}
