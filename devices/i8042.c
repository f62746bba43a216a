/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 keyboard controller with nothing plugged in. See i8042.h. Every entry takes the device's
 * lock; there is no host side, so nothing runs on the main loop.
 *
 * I1: the interrupt line equals "output buffer is full and the command byte enables it".
 */
#include "devices/i8042.h"

#include "core/base/lock.h"

enum {
	STATUS_FULL = 0x01,
	STATUS_SYSTEM = 0x04, /* self-test passed */
	STATUS_COMMAND = 0x08,
	STATUS_UNLOCKED = 0x10,

	CONFIG_KBD_IRQ = 0x01,
	CONFIG_SYSTEM = 0x04,
	CONFIG_KBD_OFF = 0x10,
	CONFIG_AUX_OFF = 0x20,

	CMD_READ_CONFIG = 0x20,
	CMD_WRITE_CONFIG = 0x60,
	CMD_AUX_OFF = 0xa7,
	CMD_AUX_ON = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_OFF = 0xad,
	CMD_KBD_ON = 0xae,
	CMD_READ_OUTPORT = 0xd0,
	CMD_WRITE_OUTPORT = 0xd1,
	CMD_KBD_LOOP = 0xd2,
	CMD_AUX_LOOP = 0xd3,
	CMD_AUX_SEND = 0xd4,
	CMD_PULSE = 0xf0, /* 0xf0..0xff: pulses output port bits that are 0 */

	OUTPORT_NO_RESET = 0x01,
	OUTPORT_A20 = 0x02,

	SELF_TEST_OK = 0x55,
	TEST_OK = 0x00,
	TEST_CLOCK_LOW = 0x01,
	KBD_RESEND = 0xfe,
};

struct i8042 {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	struct i8042_state live;
	bool irq_level;
	struct i8042_state saved; /* part.state */
};

static struct i8042 *i8042_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct i8042, dev);
}

static bool irq_of(const struct i8042_state *st)
{
	return st->full && (st->config & CONFIG_KBD_IRQ) != 0;
}

static void update_irq(struct i8042 *k)
{
	bool level = irq_of(&k->live);
	if (level != k->irq_level) {
		k->irq_level = level;
		k->dev.host->set_irq(k->dev.host->self, I8042_GSI, level);
	}
}

static void answer(struct i8042 *k, uint8_t byte)
{
	k->live.data = byte;
	k->live.full = true;
}

static void reset(struct i8042 *k)
{
	k->dev.host->request(k->dev.host->self, DEV_RESET);
}

static uint8_t read_data(struct i8042 *k)
{
	k->live.full = false;
	return k->live.data;
}

static uint8_t status(const struct i8042_state *st)
{
	return (uint8_t)((st->full ? STATUS_FULL : 0) | (st->config & STATUS_SYSTEM) |
			 (st->last_was_command ? STATUS_COMMAND : 0) | STATUS_UNLOCKED);
}

static bool takes_data(uint8_t command)
{
	switch (command) {
	case CMD_WRITE_CONFIG:
	case CMD_WRITE_OUTPORT:
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP:
	case CMD_AUX_SEND:
		return true;
	default:
		return false;
	}
}

/* Every probe gets its answer at once: a driver that hears nothing waits half a second. */
static void write_command(struct i8042 *k, uint8_t v)
{
	struct i8042_state *st = &k->live;
	st->last_was_command = true;
	st->command = takes_data(v) ? v : 0;
	switch (v) {
	case CMD_READ_CONFIG:
		answer(k, st->config);
		break;
	case CMD_AUX_OFF:
		st->config |= CONFIG_AUX_OFF;
		break;
	case CMD_AUX_ON:
		st->config &= (uint8_t)~CONFIG_AUX_OFF;
		break;
	case CMD_AUX_TEST:
		answer(k, TEST_CLOCK_LOW); /* there is no mouse port */
		break;
	case CMD_SELF_TEST:
		st->config |= CONFIG_SYSTEM;
		answer(k, SELF_TEST_OK);
		break;
	case CMD_KBD_TEST:
		answer(k, TEST_OK);
		break;
	case CMD_KBD_OFF:
		st->config |= CONFIG_KBD_OFF;
		break;
	case CMD_KBD_ON:
		st->config &= (uint8_t)~CONFIG_KBD_OFF;
		break;
	case CMD_READ_OUTPORT:
		answer(k, st->outport);
		break;
	default:
		/* Pulse with bit 0 low: the reset line of the processor. */
		if (v >= CMD_PULSE && (v & OUTPORT_NO_RESET) == 0) {
			reset(k);
		}
		break;
	}
}

static void write_data(struct i8042 *k, uint8_t v)
{
	struct i8042_state *st = &k->live;
	uint8_t command = st->command;
	st->last_was_command = false;
	st->command = 0;
	switch (command) {
	case CMD_WRITE_CONFIG:
		st->config = v;
		break;
	case CMD_WRITE_OUTPORT:
		st->outport = v | OUTPORT_NO_RESET;
		if ((v & OUTPORT_NO_RESET) == 0) {
			reset(k);
		}
		break;
	case CMD_KBD_LOOP:
	case CMD_AUX_LOOP: /* comes back as if from the keyboard: no mouse port */
		answer(k, v);
		break;
	default:
		/* To the keyboard or mouse: nobody there ever understands. */
		answer(k, KBD_RESEND);
		break;
	}
}

static void i8042_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t *data)
{
	struct i8042 *k = i8042_of(dev);
	(void)off;
	(void)len; /* each range is one port long, so the bus asks for one byte */
	LOCK_SCOPE(&k->lock);
	*data = range == 0 ? read_data(k) : status(&k->live);
	update_irq(k);
}

static void i8042_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			uint64_t data)
{
	struct i8042 *k = i8042_of(dev);
	(void)off;
	(void)len;
	LOCK_SCOPE(&k->lock);
	if (range == 0) {
		write_data(k, (uint8_t)data);
	} else {
		write_command(k, (uint8_t)data);
	}
	update_irq(k);
}

static void i8042_free(struct device *dev)
{
	if (dev != NULL) {
		struct i8042 *k = i8042_of(dev);
		lock_done(&k->lock);
		free(k);
	}
}

/* Only vCPUs change this device, so it needs no park. */
static struct err *i8042_fetch(void *self)
{
	struct i8042 *k = self;
	LOCK_SCOPE(&k->lock);
	k->saved = k->live;
	return NULL;
}

static struct err *i8042_commit(void *self)
{
	struct i8042 *k = self;
	LOCK_SCOPE(&k->lock);
	k->live = k->saved;
	k->irq_level = irq_of(&k->live);
	return NULL;
}

static struct err *i8042_check(const void *state)
{
	const struct i8042_state *st = state;
	ENSURE(st->command == 0 || takes_data(st->command), ERR_CORRUPT,
	       "i8042: command 0x%x takes no data", st->command);
	ENSURE((st->outport & OUTPORT_NO_RESET) != 0, ERR_CORRUPT, "i8042: held in reset");
	return NULL;
}

static const struct state_field i8042_fields[] = {
	FIELD(struct i8042_state, 1, config),  FIELD(struct i8042_state, 2, outport),
	FIELD(struct i8042_state, 3, command), FIELD(struct i8042_state, 4, full),
	FIELD(struct i8042_state, 5, data),    FIELD(struct i8042_state, 6, last_was_command),
	PAD(struct i8042_state, pad),
};

const struct state_desc i8042_desc = {
	.name = "i8042",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct i8042_state),
	.fields = i8042_fields,
	.nfields = ARRAY_LEN(i8042_fields),
	.check = i8042_check,
};

static const struct snap_part_ops i8042_part_ops = {
	.fetch = i8042_fetch,
	.commit = i8042_commit,
};

static const struct dev_ops i8042_ops = {
	.name = "i8042",
	.read = i8042_read,
	.write = i8042_write,
	.free = i8042_free,
};

struct err *i8042_new(const struct dev_host *host, struct device **ret_dev)
{
	struct i8042 *k = calloc(1, sizeof(*k));
	ENSURE(k != NULL, ERR_SYS, "out of memory");
	lock_init(&k->lock, RANK_DEVICE);
	k->dev = (struct device){
		.ops = &i8042_ops,
		.host = host,
		.ranges = {
			{ .space = DEV_PIO, .base = I8042_DATA_PORT, .len = 1 },
			{ .space = DEV_PIO, .base = I8042_CMD_PORT, .len = 1 },
		},
		.nranges = 2,
		.part = {
			.name = i8042_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &i8042_desc,
			.state = &k->saved,
			.ops = &i8042_part_ops,
			.self = k,
		},
	};
	k->live.config = CONFIG_SYSTEM | CONFIG_AUX_OFF;
	k->live.outport = OUTPORT_NO_RESET | OUTPORT_A20;
	*ret_dev = &k->dev;
	return NULL;
}
