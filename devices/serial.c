/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A registers, interrupts and saved state. See serial.h; the host's end is serial_link.c.
 *
 * Every entry takes the device's lock. The transmitter sends at once: THR is empty whenever the
 * backlog has room for a full transmit FIFO.
 *
 * I1: rx_count is at most the FIFO's depth: 16 when enabled, else 1.
 * I2: the interrupt line equals "iir() reports a cause", and set_irq is called on changes only.
 * I3: a byte is in live.out from the guest's write until the host's end took it.
 */
#include "devices/serial.h"

#include <string.h>
#include <sys/epoll.h>

#include "core/base/lock.h"
#include "devices/serial_link.h"

enum {
	IER_RX = 0x01,
	IER_THRE = 0x02,
	IER_LINE = 0x04,
	IER_MODEM = 0x08,
	IER_BITS = 0x0f,

	IIR_NONE = 0x01,
	IIR_MODEM = 0x00,
	IIR_THRE = 0x02,
	IIR_RX = 0x04,
	IIR_LINE = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0,

	FCR_ENABLE = 0x01,
	FCR_CLEAR_RX = 0x02,
	FCR_TRIGGER = 0xc0,
	FCR_BITS = FCR_ENABLE | FCR_TRIGGER, /* the ones that stay */

	LCR_DLAB = 0x80,

	MCR_DTR = 0x01,
	MCR_RTS = 0x02,
	MCR_OUT1 = 0x04,
	MCR_OUT2 = 0x08,
	MCR_LOOP = 0x10,
	MCR_BITS = 0x1f,

	LSR_DATA = 0x01,
	LSR_OVERRUN = 0x02,
	LSR_ERRORS = 0x1e,
	LSR_THRE = 0x20,
	LSR_TEMT = 0x40,

	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80,
	MSR_DELTAS = 0x0f,
	MSR_DELTA_RI = 0x04,

	TX_FIFO_BYTES = 16,
	SEND_AT = 64,         /* bytes gathered at most before they go out */
	SEND_AFTER = 1000000, /* ns that a byte waits for others at most */
	POLLS_FOR_INPUT = 8,  /* idle looks at LSR in a row that show a guest waiting for input */
};

struct serial {
	struct device dev;
	struct lock lock; /* RANK_DEVICE; all below */
	unsigned gsi;     /* const after init */
	struct serial_link *link;
	bool owns_link;           /* const after init */
	struct serial_state live; /* out is a ring that starts at out_head here, linear in saved */
	uint32_t out_head;
	bool irq_level;
	bool watching;      /* the main loop has our descriptor */
	bool timer_set;     /* a deferred send is due */
	bool thr_was_empty; /* when the last entry ended */
	unsigned polls;     /* idle looks at LSR since the last byte written */
	bool parked;
	struct serial_state saved; /* part.state */
};

static struct serial *serial_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct serial, dev);
}

/* ---- what follows from the state ---- */

static uint32_t rx_depth(const struct serial_state *st)
{
	return (st->fcr & FCR_ENABLE) != 0 ? SERIAL_FIFO_BYTES : 1;
}

static uint32_t rx_trigger(const struct serial_state *st)
{
	static const uint8_t levels[4] = { 1, 4, 8, 14 };
	return (st->fcr & FCR_ENABLE) != 0 ? levels[st->fcr >> 6] : 1;
}

/* Lines as a modem that is always there gives them, or MCR's own outputs in loopback. */
static uint8_t msr_lines(uint8_t mcr)
{
	if ((mcr & MCR_LOOP) == 0) {
		return MSR_CTS | MSR_DSR | MSR_DCD;
	}
	return (uint8_t)(((mcr & MCR_RTS) != 0 ? MSR_CTS : 0) |
			 ((mcr & MCR_DTR) != 0 ? MSR_DSR : 0) |
			 ((mcr & MCR_OUT1) != 0 ? MSR_RI : 0) |
			 ((mcr & MCR_OUT2) != 0 ? MSR_DCD : 0));
}

static bool thr_empty(const struct serial *s)
{
	return s->live.out_count + TX_FIFO_BYTES <= SERIAL_OUT_BYTES ||
	       !serial_link_has_taker(s->link);
}

static uint8_t lsr(const struct serial *s)
{
	return (uint8_t)(s->live.lsr_err | (s->live.rx_count > 0 ? LSR_DATA : 0) |
			 (thr_empty(s) ? LSR_THRE | LSR_TEMT : 0));
}

/* The cause of highest rank. Data below the trigger level counts as timed out at once. */
static uint8_t iir(const struct serial_state *st)
{
	if ((st->ier & IER_LINE) != 0 && st->lsr_err != 0) {
		return IIR_LINE;
	}
	if ((st->ier & IER_RX) != 0 && st->rx_count > 0) {
		return st->rx_count >= rx_trigger(st) ? IIR_RX : IIR_TIMEOUT;
	}
	if ((st->ier & IER_THRE) != 0 && st->thre_pending) {
		return IIR_THRE;
	}
	if ((st->ier & IER_MODEM) != 0 && st->msr_delta != 0) {
		return IIR_MODEM;
	}
	return IIR_NONE;
}

/* ---- effects ---- */

/* Must hold s->lock. Ends every entry that may have changed a cause. */
static void update_irq(struct serial *s)
{
	bool empty = thr_empty(s);
	if (empty && !s->thr_was_empty) {
		s->live.thre_pending = true;
	}
	s->thr_was_empty = empty;
	bool level = iir(&s->live) != IIR_NONE;
	if (level != s->irq_level) {
		s->irq_level = level;
		s->dev.host->set_irq(s->dev.host->self, s->gsi, level);
	}
}

/*
 * Input is taken only while it has a place and the guest shows that it listens: by RTS, by the
 * interrupt, or by polling. A driver that clears its FIFO at start-up thus loses nothing that was
 * typed, or piped in, before. In loopback the line is cut.
 */
static uint32_t rx_room(const struct serial *s)
{
	bool listens = (s->live.mcr & MCR_RTS) != 0 || (s->live.ier & IER_RX) != 0 ||
		       s->polls >= POLLS_FOR_INPUT;
	if (s->parked || !listens || (s->live.mcr & MCR_LOOP) != 0) {
		return 0;
	}
	return rx_depth(&s->live) - s->live.rx_count;
}

static void fill_rx(struct serial *s)
{
	for (;;) {
		uint32_t room = rx_room(s);
		size_t n = serial_link_recv(s->link, s->live.rx + s->live.rx_count, room);
		if (n == 0) {
			break;
		}
		s->live.rx_count += (uint32_t)n;
	}
	serial_link_want(s->link, rx_room(s) > 0);
}

static void drop_out(struct serial *s, uint32_t n)
{
	s->out_head = (s->out_head + n) % SERIAL_OUT_BYTES;
	s->live.out_count -= n;
}

/* Hands the backlog to the host's end as far as it goes. */
static void send_out(struct serial *s)
{
	while (s->live.out_count > 0) {
		uint32_t len = MIN(s->live.out_count, SERIAL_OUT_BYTES - s->out_head);
		size_t n = 0;
		enum serial_sent sent =
			serial_link_send(s->link, s->live.out + s->out_head, len, &n);
		if (sent == SERIAL_SENT) {
			drop_out(s, (uint32_t)n);
			continue;
		}
		if (sent == SERIAL_LOST) {
			drop_out(s, s->live.out_count);
		}
		break;
	}
	serial_link_want(s->link, rx_room(s) > 0);
}

static void transmit(struct serial *s, uint8_t byte)
{
	struct serial_state *st = &s->live;
	if (st->out_count == SERIAL_OUT_BYTES) {
		if (serial_link_has_taker(s->link)) {
			return; /* written to a full THR: lost, as on the wire */
		}
		drop_out(s, 1);
	}
	st->out[(s->out_head + st->out_count) % SERIAL_OUT_BYTES] = byte;
	st->out_count++;
	if (byte == '\n' || st->out_count >= SEND_AT) {
		send_out(s);
	} else if (!s->timer_set) {
		const struct dev_host *h = s->dev.host;
		s->timer_set = true;
		h->set_timer(h->self, &s->dev, h->vm_time_ns(h->self) + SEND_AFTER);
	}
}

static void loop_back(struct serial *s, uint8_t byte)
{
	struct serial_state *st = &s->live;
	if (st->rx_count == rx_depth(st)) {
		st->lsr_err |= LSR_OVERRUN;
		return;
	}
	st->rx[st->rx_count++] = byte;
}

/* Once the guest uses the port, or its state was loaded, the main loop looks after the host's end.
 */
static void start_watching(struct serial *s)
{
	if (!s->watching) {
		s->watching = true;
		fill_rx(s);
		s->dev.host->watch_fd(s->dev.host->self, &s->dev, serial_link_fd(s->link), EPOLLIN);
	}
}

/* ---- registers ---- */

static uint8_t read_rx(struct serial *s)
{
	struct serial_state *st = &s->live;
	if (st->rx_count == 0) {
		return 0;
	}
	uint8_t byte = st->rx[0];
	st->rx_count--;
	memmove(st->rx, st->rx + 1, st->rx_count);
	fill_rx(s);
	return byte;
}

static uint8_t read_reg(struct serial *s, uint64_t off)
{
	struct serial_state *st = &s->live;
	uint8_t v;
	switch (off) {
	case 0:
		return (st->lcr & LCR_DLAB) != 0 ? st->dll : read_rx(s);
	case 1:
		return (st->lcr & LCR_DLAB) != 0 ? st->dlm : st->ier;
	case 2:
		v = iir(st);
		if (v == IIR_THRE) {
			st->thre_pending = false;
		}
		return (uint8_t)(v | ((st->fcr & FCR_ENABLE) != 0 ? IIR_FIFO : 0));
	case 3:
		return st->lcr;
	case 4:
		return st->mcr;
	case 5:
		v = lsr(s);
		st->lsr_err = 0;
		if ((v & (LSR_DATA | LSR_THRE)) == LSR_THRE && ++s->polls == POLLS_FOR_INPUT) {
			fill_rx(s);
		}
		return v;
	case 6:
		v = msr_lines(st->mcr) | st->msr_delta;
		st->msr_delta = 0;
		return v;
	case 7:
		return st->scr;
	default:
		return 0xff;
	}
}

static void write_fcr(struct serial *s, uint8_t v)
{
	struct serial_state *st = &s->live;
	/* Switching FIFOs on keeps the byte that was received before: drivers do it after they
	 * enabled the interrupt. */
	bool off = (st->fcr & FCR_ENABLE) != 0 && (v & FCR_ENABLE) == 0;
	if (off || (v & FCR_CLEAR_RX) != 0) {
		st->rx_count = 0;
		st->lsr_err = 0;
	}
	/* Other bits stick only while FIFOs are on. Bytes to send are on the wire already: clearing
	 * the transmit FIFO finds it empty. */
	st->fcr = (v & FCR_ENABLE) != 0 ? v & FCR_BITS : 0;
	fill_rx(s);
}

static void write_mcr(struct serial *s, uint8_t v)
{
	struct serial_state *st = &s->live;
	uint8_t before = msr_lines(st->mcr);
	st->mcr = v & MCR_BITS;
	uint8_t after = msr_lines(st->mcr);
	uint8_t changed = (uint8_t)((before ^ after) >> 4);
	/* RI counts when it ends, the others at each change. */
	if ((after & MSR_RI) != 0) {
		changed &= (uint8_t)~MSR_DELTA_RI;
	}
	st->msr_delta |= changed;
	fill_rx(s);
}

static void write_data(struct serial *s, uint8_t v)
{
	if ((s->live.mcr & MCR_LOOP) != 0) {
		loop_back(s, v);
	} else {
		transmit(s, v);
	}
	s->polls = 0;
	s->live.thre_pending = thr_empty(s);
}

static void write_ier(struct serial *s, uint8_t v)
{
	struct serial_state *st = &s->live;
	/* Enabling the interrupt with an empty transmitter raises it; drivers count on it. */
	if ((v & ~st->ier & IER_THRE) != 0) {
		st->thre_pending = thr_empty(s);
	}
	st->ier = v & IER_BITS;
	fill_rx(s);
}

static void write_reg(struct serial *s, uint64_t off, uint8_t v)
{
	struct serial_state *st = &s->live;
	bool dlab = (st->lcr & LCR_DLAB) != 0;
	switch (off) {
	case 0:
		if (dlab) {
			st->dll = v;
		} else {
			write_data(s, v);
		}
		break;
	case 1:
		if (dlab) {
			st->dlm = v;
		} else {
			write_ier(s, v);
		}
		break;
	case 2:
		write_fcr(s, v);
		break;
	case 3:
		st->lcr = v;
		break;
	case 4:
		write_mcr(s, v);
		break;
	case 7:
		st->scr = v;
		break;
	default:
		break; /* LSR and MSR are read-only */
	}
}

/* ---- device role ---- */

/* An 8-bit device on the ISA bus sees a wide access as one access per byte. */
static void serial_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
			uint64_t *data)
{
	(void)range;
	struct serial *s = serial_of(dev);
	LOCK_SCOPE(&s->lock);
	start_watching(s);
	uint64_t v = 0;
	for (unsigned i = 0; i < len; i++) {
		v |= (uint64_t)read_reg(s, off + i) << (8 * i);
	}
	*data = v;
	update_irq(s);
}

static void serial_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
			 uint64_t data)
{
	(void)range;
	struct serial *s = serial_of(dev);
	LOCK_SCOPE(&s->lock);
	start_watching(s);
	for (unsigned i = 0; i < len; i++) {
		write_reg(s, off + i, (uint8_t)(data >> (8 * i)));
	}
	update_irq(s);
}

static void serial_on_fd(struct device *dev, uint32_t epoll_events)
{
	(void)epoll_events;
	struct serial *s = serial_of(dev);
	LOCK_SCOPE(&s->lock);
	if (s->parked) {
		return;
	}
	serial_link_poll(s->link);
	send_out(s);
	fill_rx(s);
	update_irq(s);
}

static void serial_on_timer(struct device *dev)
{
	struct serial *s = serial_of(dev);
	LOCK_SCOPE(&s->lock);
	s->timer_set = false;
	if (!s->parked) {
		send_out(s);
		fill_rx(s);
		update_irq(s);
	}
}

/* What nobody has taken yet goes out through the next port on this link. */
static void keep_backlog(struct serial *s)
{
	uint32_t tail = MIN(s->live.out_count, SERIAL_OUT_BYTES - s->out_head);
	serial_link_keep(s->link, s->live.out + s->out_head, tail);
	serial_link_keep(s->link, s->live.out, s->live.out_count - tail);
}

static void serial_free(struct device *dev)
{
	if (dev == NULL) {
		return;
	}
	struct serial *s = serial_of(dev);
	if (s->link != NULL) {
		/* The last words of a guest that ends without a newline. */
		serial_link_retry(s->link);
		lock_take(&s->lock);
		send_out(s);
		keep_backlog(s);
		lock_drop(&s->lock);
	}
	if (s->owns_link) {
		serial_link_free(s->link);
	}
	lock_done(&s->lock);
	free(s);
}

static void serial_freep(struct serial **s)
{
	if (*s != NULL) {
		serial_free(&(*s)->dev);
	}
}

/* ---- saved state ---- */

static struct err *serial_park(void *self)
{
	struct serial *s = self;
	LOCK_SCOPE(&s->lock);
	serial_link_retry(s->link);
	send_out(s);
	update_irq(s);
	s->parked = true;
	return NULL;
}

static void serial_unpark(void *self)
{
	struct serial *s = self;
	LOCK_SCOPE(&s->lock);
	s->parked = false;
	send_out(s);
	fill_rx(s);
	update_irq(s);
}

static struct err *serial_fetch(void *self)
{
	struct serial *s = self;
	LOCK_SCOPE(&s->lock);
	uint32_t first = MIN(s->live.out_count, SERIAL_OUT_BYTES - s->out_head);
	s->saved = s->live;
	memset(s->saved.rx + s->saved.rx_count, 0, SERIAL_FIFO_BYTES - s->saved.rx_count);
	memset(s->saved.out, 0, sizeof(s->saved.out));
	memcpy(s->saved.out, s->live.out + s->out_head, first);
	memcpy(s->saved.out + first, s->live.out, s->live.out_count - first);
	return NULL;
}

static struct err *serial_commit(void *self)
{
	struct serial *s = self;
	LOCK_SCOPE(&s->lock);
	s->live = s->saved;
	s->out_head = 0;
	/* The irqchip's own state has the line as it was: nothing to raise. */
	s->irq_level = iir(&s->live) != IIR_NONE;
	s->thr_was_empty = s->live.out_count + TX_FIFO_BYTES <= SERIAL_OUT_BYTES;
	s->polls = 0;
	s->parked = false;
	start_watching(s);
	/* What was not sent goes out as soon as the main loop serves devices again. */
	s->timer_set = true;
	s->dev.host->set_timer(s->dev.host->self, &s->dev, 0);
	return NULL;
}

static struct err *serial_check(const void *state)
{
	const struct serial_state *st = state;
	ENSURE((st->fcr & ~FCR_BITS) == 0 && (st->fcr == 0 || (st->fcr & FCR_ENABLE) != 0),
	       ERR_CORRUPT, "serial: fcr 0x%x has bits that do not stay", st->fcr);
	ENSURE((st->lsr_err & ~LSR_ERRORS) == 0, ERR_CORRUPT, "serial: lsr_err 0x%x", st->lsr_err);
	ENSURE(st->rx_count <= rx_depth(st), ERR_CORRUPT,
	       "serial: %u received bytes in a FIFO of %u", st->rx_count, rx_depth(st));
	return NULL;
}

static const struct state_field serial_fields[] = {
	FIELD(struct serial_state, 1, ier, FIELD_RANGE(0, IER_BITS)),
	FIELD(struct serial_state, 2, fcr),
	FIELD(struct serial_state, 3, lcr),
	FIELD(struct serial_state, 4, mcr, FIELD_RANGE(0, MCR_BITS)),
	FIELD(struct serial_state, 5, lsr_err),
	FIELD(struct serial_state, 6, msr_delta, FIELD_RANGE(0, MSR_DELTAS)),
	FIELD(struct serial_state, 7, scr),
	FIELD(struct serial_state, 8, dll),
	FIELD(struct serial_state, 9, dlm),
	FIELD(struct serial_state, 10, thre_pending),
	FIELD(struct serial_state, 11, rx_count, FIELD_RANGE(0, SERIAL_FIFO_BYTES)),
	FIELD_VBLOB(struct serial_state, 12, rx, rx_count),
	FIELD(struct serial_state, 13, out_count, FIELD_RANGE(0, SERIAL_OUT_BYTES)),
	FIELD_VBLOB(struct serial_state, 14, out, out_count),
	PAD(struct serial_state, pad),
};

const struct state_desc serial_desc = {
	.name = "serial",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct serial_state),
	.fields = serial_fields,
	.nfields = ARRAY_LEN(serial_fields),
	.check = serial_check,
};

static const struct snap_part_ops serial_part_ops = {
	.park = serial_park,
	.unpark = serial_unpark,
	.fetch = serial_fetch,
	.commit = serial_commit,
};

static const struct dev_ops serial_ops = {
	.name = "serial",
	.read = serial_read,
	.write = serial_write,
	.on_fd = serial_on_fd,
	.on_timer = serial_on_timer,
	.free = serial_free,
};

struct err *serial_new_on(const struct dev_host *host, uint16_t port, unsigned gsi,
			  struct serial_link *link, struct device **ret_dev)
{
	SCOPE(serial_freep) struct serial *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	lock_init(&s->lock, RANK_DEVICE);
	s->gsi = gsi;
	s->dev = (struct device){
		.ops = &serial_ops,
		.host = host,
		.ranges = { { .space = DEV_PIO, .base = port, .len = SERIAL_PORTS } },
		.nranges = 1,
		.part = {
			.name = serial_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &serial_desc,
			.state = &s->saved,
			.ops = &serial_part_ops,
			.self = s,
		},
	};
	/* Divisor 1 and eight data bits, as firmware would leave it: 115200 8N1. */
	s->thr_was_empty = true;
	s->live.dll = 1;
	s->live.lcr = 3;
	s->link = link;
	s->live.out_count = (uint32_t)serial_link_kept(link, s->live.out, sizeof(s->live.out));
	*ret_dev = &MOVE(s)->dev;
	return NULL;
}

struct err *serial_new(const struct dev_host *host, uint16_t port, unsigned gsi, int in_fd,
		       int out_fd, int listen_fd, struct device **ret_dev)
{
	SCOPE(serial_link_freep) struct serial_link *link = NULL;
	TRY(serial_link_new(in_fd, out_fd, listen_fd, &link));
	struct device *dev = NULL;
	TRY(serial_new_on(host, port, gsi, link, &dev));
	serial_of(dev)->owns_link = true;
	link = NULL;
	*ret_dev = dev;
	return NULL;
}
