/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio console. See virtio_console.h. On the main loop, but for the registers (vCPU threads) and
 * the part operations; always with the device's lock held.
 */
#include "devices/virtio_console.h"

#include <string.h>
#include <sys/epoll.h>

#include "devices/serial_link.h"

enum {
	RX = 0,
	TX = 1,
	NQUEUES = 2,
	QUEUE_SIZE = 64,
	CLASS_CONSOLE = 0x078000, /* a communication controller of no other kind */
	TAG_LINK = 1,
	PIECE_BYTES = 4096,
	/* Of output per turn: a chain can be as long as memory, many times over. */
	TURN_BYTES = 1 << 20,

	F_EMERG_WRITE = 2,
	AT_EMERG_WRITE = 8,
	CONFIG_BYTES = 12,
};

struct virtio_console {
	struct virtio v; /* first */
	struct serial_link *link;
	struct virtio_console_state live;  /* [lock] without live.virtio */
	struct virtio_console_state saved; /* part.state */
	struct virtq_chain chain;          /* [lock] the one at hand */
};

static struct virtio_console *console_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_console, v);
}

/* ---- output ---- */

static void drop_out(struct virtio_console *c, size_t n)
{
	c->live.out_count -= (uint32_t)n;
	memmove(c->live.out, c->live.out + n, c->live.out_count);
}

/* Hands the backlog to the host's end as far as it goes. */
static void send_out(struct virtio_console *c)
{
	while (c->live.out_count > 0) {
		size_t n = c->live.out_count;
		switch (serial_link_send(c->link, c->live.out, n, &n)) {
		case SERIAL_SENT:
		case SERIAL_LOST: /* n is still all of it */
			drop_out(c, n);
			break;
		case SERIAL_WAIT:
		case SERIAL_NOBODY:
			return;
		}
	}
}

/* Room in the backlog, at least one byte; 0: the host's end is busy, and tells when it is not. */
static size_t make_room(struct virtio_console *c)
{
	if (c->live.out_count == VIRTIO_CONSOLE_OUT_BYTES) {
		send_out(c);
	}
	if (c->live.out_count == VIRTIO_CONSOLE_OUT_BYTES && !serial_link_has_taker(c->link)) {
		drop_out(c, PIECE_BYTES); /* nobody is there: the newest output counts */
	}
	return VIRTIO_CONSOLE_OUT_BYTES - c->live.out_count;
}

/* Takes what is left of the chain at hand, at most *left bytes of it. False: not all of it. */
static bool take_chain(struct virtio_console *c, uint64_t *left)
{
	while (c->live.sent < c->chain.read_bytes) {
		uint64_t room = MIN((uint64_t)make_room(c), *left);
		uint64_t n = virtq_read(&c->v.q[TX], &c->chain, c->live.sent,
					c->live.out + c->live.out_count, room);
		if (n == 0) {
			return false;
		}
		c->live.out_count += (uint32_t)n;
		c->live.sent += n;
		*left -= n;
	}
	return true;
}

static void transmit(struct virtio_console *c)
{
	uint64_t left = TURN_BYTES;
	bool some = false;
	while (virtio_pop(&c->v, TX, &c->chain)) {
		if (c->chain.nwrite > 0) {
			virtio_break(&c->v, "output has a buffer to write to");
			return;
		}
		if (!take_chain(c, &left)) {
			virtq_unpop(&c->v.q[TX]);
			if (left == 0) {
				virtio_kick(&c->v); /* the others' turn, then ours again */
			}
			break;
		}
		c->live.sent = 0;
		virtio_push(&c->v, TX, &c->chain, 0);
		some = true;
	}
	if (some) {
		virtio_tell(&c->v, TX);
	}
}

/* ---- input ---- */

static void receive(struct virtio_console *c)
{
	bool some = false;
	while (virtio_pop(&c->v, RX, &c->chain)) {
		uint8_t piece[PIECE_BYTES];
		if (c->chain.write_bytes == 0) {
			virtio_break(&c->v, "a buffer for input has no room");
			return;
		}
		size_t n = serial_link_recv(c->link, piece,
					    MIN(c->chain.write_bytes, (uint64_t)sizeof(piece)));
		if (n == 0) {
			virtq_unpop(&c->v.q[RX]);
			break;
		}
		virtio_push(&c->v, RX, &c->chain, virtq_write(&c->v.q[RX], &c->chain, 0, piece, n));
		some = true;
	}
	if (some) {
		virtio_tell(&c->v, RX);
	}
}

/* Sends, and has the link watched for what is missing now. A ring that was found empty has its
 * kicks on; one that was not waits for the link. */
static void send_and_watch(struct virtio_console *c)
{
	send_out(c);
	serial_link_want(c->link, virtio_running(&c->v) && virtq_waiting(&c->v.q[RX]) > 0);
}

static void serve(struct virtio_console *c)
{
	if (virtio_running(&c->v)) {
		transmit(c);
		receive(c);
	}
	send_and_watch(c);
}

static void console_work(struct virtio *v)
{
	serve(console_of(v));
}

static void console_ready(struct virtio *v, uint32_t tag, uint32_t epoll_events)
{
	(void)tag;
	(void)epoll_events;
	struct virtio_console *c = console_of(v);
	serial_link_poll(c->link);
	serve(c);
}

/* ---- what the driver does ---- */

static void console_reset(struct virtio *v, struct virtq *q)
{
	struct virtio_console *c = console_of(v);
	if (q == NULL || q == &v->q[TX]) {
		c->live.sent = 0;
	}
}

/* Emergency write (5.3.4): a character without any queue. On a vCPU thread. */
static void console_config_written(struct virtio *v, unsigned off, unsigned len)
{
	struct virtio_console *c = console_of(v);
	if (off > AT_EMERG_WRITE || off + len <= AT_EMERG_WRITE) {
		return;
	}
	if (make_room(c) > 0) {
		c->live.out[c->live.out_count++] = v->config[AT_EMERG_WRITE];
		send_and_watch(c);
	}
	memset(v->config + AT_EMERG_WRITE, 0, CONFIG_BYTES - AT_EMERG_WRITE);
}

static void console_free(struct device *dev)
{
	if (dev == NULL) {
		return;
	}
	struct virtio_console *c = console_of(virtio_of(dev));
	lock_take(&c->v.pci.lock);
	serial_link_retry(c->link); /* the last words */
	send_out(c);
	serial_link_keep(c->link, c->live.out, c->live.out_count);
	lock_drop(&c->v.pci.lock);
	virtio_done(&c->v);
	free(c);
}

/* ---- saved state ---- */

static struct err *console_park(void *self)
{
	struct virtio_console *c = self;
	LOCK_SCOPE(&c->v.pci.lock);
	serial_link_retry(c->link);
	send_and_watch(c);
	return NULL;
}

static void console_unpark(void *self)
{
	struct virtio_console *c = self;
	virtio_kick(&c->v); /* the park may have made room */
}

static struct err *console_fetch(void *self)
{
	struct virtio_console *c = self;
	LOCK_SCOPE(&c->v.pci.lock);
	virtio_fetch(&c->v, &c->saved.virtio);
	c->saved.sent = c->live.sent;
	c->saved.out_count = c->live.out_count;
	memcpy(c->saved.out, c->live.out, c->live.out_count);
	memset(c->saved.out + c->live.out_count, 0, VIRTIO_CONSOLE_OUT_BYTES - c->live.out_count);
	return NULL;
}

static struct err *console_commit(void *self)
{
	struct virtio_console *c = self;
	LOCK_SCOPE(&c->v.pci.lock);
	c->live.sent = c->saved.sent;
	c->live.out_count = c->saved.out_count;
	memcpy(c->live.out, c->saved.out, c->saved.out_count);
	return virtio_commit(&c->v, &c->saved.virtio);
}

static void console_probe(void *self, const struct findings *f)
{
	struct virtio_console *c = self;
	LOCK_SCOPE(&c->v.pci.lock);
	finding(f, "device", virtio_match(&c->v, &c->saved.virtio));
}

static const struct state_field console_fields[] = {
	FIELD_SUB(struct virtio_console_state, 1, virtio, &virtio_desc),
	FIELD(struct virtio_console_state, 2, sent),
	FIELD(struct virtio_console_state, 3, out_count, FIELD_RANGE(0, VIRTIO_CONSOLE_OUT_BYTES)),
	FIELD_VBLOB(struct virtio_console_state, 4, out, out_count),
	PAD(struct virtio_console_state, pad),
};

const struct state_desc virtio_console_desc = {
	.name = "virtio_console",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_console_state),
	.fields = console_fields,
	.nfields = ARRAY_LEN(console_fields),
};

static const struct snap_part_ops console_part_ops = {
	.park = console_park,
	.unpark = console_unpark,
	.fetch = console_fetch,
	.commit = console_commit,
	.probe = console_probe,
};

static const struct virtio_ops console_ops = {
	.work = console_work,
	.reset = console_reset,
	.config_written = console_config_written,
	.ready = console_ready,
};

static const struct dev_ops console_dev_ops = {
	.name = "virtio_console",
	.on_fd = virtio_on_fd,
	.free = console_free,
};

struct err *virtio_console_new(const struct dev_host *host, const char *id,
			       struct serial_link *link, struct pci_dev **ret_dev)
{
	struct virtio_console *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	const struct virtio_opts opts = {
		.ops = &console_ops,
		.dev_ops = &console_dev_ops,
		.id = id,
		.type = VIRTIO_ID_CONSOLE,
		.class = CLASS_CONSOLE,
		.features = 1ull << F_EMERG_WRITE,
		.nqueues = NQUEUES,
		.queue_size = QUEUE_SIZE,
		.config_bytes = CONFIG_BYTES,
	};
	c->link = link;
	struct err *e = virtio_init(&c->v, host, &opts);
	if (e == NULL) {
		e = virtio_watch(&c->v, serial_link_fd(link), TAG_LINK, EPOLLIN);
	}
	if (e != NULL) {
		console_free(&c->v.pci.dev);
		return e;
	}
	memset(c->v.config_writable + AT_EMERG_WRITE, 0xff, CONFIG_BYTES - AT_EMERG_WRITE);
	c->live.out_count = (uint32_t)serial_link_kept(link, c->live.out, sizeof(c->live.out));
	c->v.pci.dev.part = virtio_part(&c->v, &virtio_console_desc, &c->saved, &console_part_ops);
	*ret_dev = &c->v.pci;
	return NULL;
}
