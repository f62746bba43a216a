/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio socket device: packets, queues, saved state. See virtio_vsock.h; connections with the host
 * are in virtio_vsock_conn.c. Packets are laid out as virtio 1.2, 5.10.6 says.
 *
 * I1: for each packet that asks for a reset there is room in `loose` before it is taken.
 * I2: a buffer of the guest is taken only for a packet that is there, or put back.
 */
#include "devices/virtio_vsock.h"

#include <string.h>
#include <sys/epoll.h>

#include "core/base/bytes.h"
#include "core/base/log.h"
#include "devices/virtio_vsock_internal.h"

enum {
	QUEUE_SIZE = 128,
	CLASS_OTHER = 0x00ff00, /* no class of its own */
	CONFIG_BYTES = 8,

	RX = 0,
	TX = 1,
	EVENT = 2,
	QUEUES = 3,

	HEADER_BYTES = 44,
	TYPE_STREAM = 1,
	OP_REQUEST = 1,
	OP_RESPONSE = 2,
	OP_RST = 3,
	OP_SHUTDOWN = 4,
	OP_RW = 5,
	OP_CREDIT_UPDATE = 6,
	OP_CREDIT_REQUEST = 7,

	EVENT_TRANSPORT_RESET = 0,
};

struct packet {
	uint64_t from_cid;
	uint64_t to_cid;
	uint32_t from_port;
	uint32_t to_port;
	uint32_t len;
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t room;
	uint32_t taken;
};

static struct virtio_vsock *vsock_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_vsock, v);
}

/* ---- from the guest ---- */

static void parse(const uint8_t h[HEADER_BYTES], struct packet *p)
{
	*p = (struct packet){
		.from_cid = get_le64(h),
		.to_cid = get_le64(h + 8),
		.from_port = get_le32(h + 16),
		.to_port = get_le32(h + 20),
		.len = get_le32(h + 24),
		.type = get_le16(h + 28),
		.op = get_le16(h + 30),
		.flags = get_le32(h + 32),
		.room = get_le32(h + 36),
		.taken = get_le32(h + 40),
	};
}

static void refuse(struct virtio_vsock *s, const struct packet *p)
{
	if (p->op != OP_RST) {
		s->loose[s->nloose++] = (struct vsock_loose){ p->from_port, p->to_port }; /* I1 */
	}
}

static void for_conn(struct virtio_vsock *s, struct vsock_conn *c, const struct packet *p)
{
	if (p->op == OP_RST) {
		vsock_drop(s, c);
		return;
	}
	if (c->state == VSOCK_DEAD) {
		return; /* the reset is on its way */
	}
	c->peer_room = p->room;
	c->peer_taken = p->taken;
	switch (p->op) {
	case OP_RESPONSE:
		if (c->state == VSOCK_ASKED) {
			vsock_answered(s, c);
		} else {
			vsock_reset(s, c);
		}
		break;
	case OP_SHUTDOWN:
		vsock_guest_shutdown(s, c, p->flags);
		break;
	case OP_RW:
		vsock_forward(s, c, HEADER_BYTES, p->len);
		break;
	case OP_CREDIT_UPDATE:
		break;
	case OP_CREDIT_REQUEST:
		c->owes |= VSOCK_OWE_CREDIT;
		break;
	default:
		vsock_reset(s, c);
		break;
	}
}

static void handle(struct virtio_vsock *s, const struct packet *p)
{
	if (p->from_cid != s->cid) {
		return; /* not from this guest, whatever it is */
	}
	if (p->to_cid != VSOCK_CID_HOST || p->type != TYPE_STREAM) {
		refuse(s, p);
		return;
	}
	struct vsock_conn *c = vsock_find(s, p->from_port, p->to_port);
	if (c != NULL) {
		for_conn(s, c, p);
		return;
	}
	if (p->op != OP_REQUEST || !vsock_connect(s, p->from_port, p->to_port, &c)) {
		refuse(s, p);
		return;
	}
	c->peer_room = p->room;
	c->peer_taken = p->taken;
	vsock_watch(s, c);
}

static void serve_tx(struct virtio_vsock *s)
{
	s->tx_held = false;
	for (;;) {
		uint8_t h[HEADER_BYTES];
		struct packet p;
		s->tx_held = s->nloose == ARRAY_LEN(s->loose);
		if (s->tx_held || !virtio_pop(&s->v, TX, &s->chain)) {
			break;
		}
		if (virtq_read(&s->v.q[TX], &s->chain, 0, h, sizeof(h)) != sizeof(h)) {
			virtio_break(&s->v, "a packet without a header");
			return;
		}
		parse(h, &p);
		if (p.len > s->chain.read_bytes - HEADER_BYTES) {
			virtio_break(&s->v, "a packet that is shorter than its header says");
			return;
		}
		handle(s, &p);
		virtio_push(&s->v, TX, &s->chain, 0);
	}
}

/* ---- to the guest ---- */

/* Fills the chain at hand; its payload is there already. Returns the bytes written. */
static uint64_t put(struct virtio_vsock *s, const struct packet *p)
{
	uint8_t h[HEADER_BYTES] = { 0 };
	put_le64(h, VSOCK_CID_HOST);
	put_le64(h + 8, s->cid);
	put_le32(h + 16, p->from_port);
	put_le32(h + 20, p->to_port);
	put_le32(h + 24, p->len);
	put_le16(h + 28, TYPE_STREAM);
	put_le16(h + 30, p->op);
	put_le32(h + 32, p->flags);
	put_le32(h + 36, p->room);
	put_le32(h + 40, p->taken);
	return virtq_write(&s->v.q[RX], &s->chain, 0, h, sizeof(h)) + p->len;
}

static uint64_t put_conn(struct virtio_vsock *s, struct vsock_conn *c, uint16_t op, uint32_t flags,
			 uint32_t len)
{
	const struct packet p = {
		.from_port = c->host_port,
		.to_port = c->guest_port,
		.op = op,
		.flags = flags,
		.len = len,
		.room = VSOCK_BUF_BYTES,
		.taken = c->forwarded,
	};
	c->told = c->forwarded;
	c->owes &= ~(unsigned)VSOCK_OWE_CREDIT; /* every packet tells it */
	return put(s, &p);
}

/* One packet of a connection into the chain at hand. 0: there was none after all. */
static uint64_t put_next(struct virtio_vsock *s, struct vsock_conn *c)
{
	static const struct {
		unsigned owed;
		uint16_t op;
	} first[] = { { VSOCK_OWE_REQUEST, OP_REQUEST }, { VSOCK_OWE_RESPONSE, OP_RESPONSE } };
	if ((c->owes & VSOCK_OWE_RST) != 0) {
		uint64_t n = put_conn(s, c, OP_RST, 0, 0);
		vsock_drop(s, c);
		return n;
	}
	for (unsigned i = 0; i < ARRAY_LEN(first); i++) {
		if ((c->owes & first[i].owed) != 0) {
			c->owes &= ~first[i].owed;
			return put_conn(s, c, first[i].op, 0, 0);
		}
	}
	uint32_t want = vsock_wanted(c);
	uint64_t room = s->chain.write_bytes - HEADER_BYTES;
	if (want > 0 && room > 0) {
		uint32_t n = vsock_receive(s, c, HEADER_BYTES, (uint32_t)MIN((uint64_t)want, room));
		if (n > 0) {
			return put_conn(s, c, OP_RW, 0, n);
		}
	}
	if ((c->owes & VSOCK_OWE_RST) != 0) {
		return put_next(s, c);
	}
	if ((c->owes & VSOCK_OWE_SHUTDOWN) != 0) {
		c->owes &= ~(unsigned)VSOCK_OWE_SHUTDOWN;
		return put_conn(s, c, OP_SHUTDOWN, c->shut_flags, 0);
	}
	if ((c->owes & VSOCK_OWE_CREDIT) != 0) {
		return put_conn(s, c, OP_CREDIT_UPDATE, 0, 0);
	}
	return 0;
}

static uint64_t put_loose(struct virtio_vsock *s)
{
	const struct vsock_loose l = s->loose[0];
	const struct packet p = { .from_port = l.host_port, .to_port = l.guest_port, .op = OP_RST };
	s->nloose--;
	memmove(s->loose, s->loose + 1, s->nloose * sizeof(s->loose[0]));
	return put(s, &p);
}

/* The next connection with something for the guest, in turn. */
static struct vsock_conn *next_conn(struct virtio_vsock *s)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		struct vsock_conn *c = &s->conn[(s->turn + i) % VSOCK_CONNS_MAX];
		if (c->state > VSOCK_HELLO && (c->owes != 0 || vsock_wanted(c) > 0)) {
			s->turn = (unsigned)(c - s->conn) + 1;
			return c;
		}
	}
	return NULL;
}

static void serve_rx(struct virtio_vsock *s)
{
	for (;;) {
		struct vsock_conn *c = s->nloose > 0 ? NULL : next_conn(s);
		if ((c == NULL && s->nloose == 0) || !virtio_pop(&s->v, RX, &s->chain)) {
			break;
		}
		if (s->chain.write_bytes <= HEADER_BYTES) {
			virtio_break(&s->v, "a buffer without room for data");
			return;
		}
		uint64_t n = c == NULL ? put_loose(s) : put_next(s, c);
		if (n == 0) {
			virtq_unpop(&s->v.q[RX]); /* I2 */
		} else {
			virtio_push(&s->v, RX, &s->chain, n);
		}
	}
}

/* After a restore: the other ends are not there. */
static void serve_event(struct virtio_vsock *s)
{
	uint8_t ev[4];
	if (!s->tell_reset || !virtio_pop(&s->v, EVENT, &s->chain)) {
		return;
	}
	if (s->chain.write_bytes < sizeof(ev)) {
		virtio_break(&s->v, "no room for an event");
		return;
	}
	put_le32(ev, EVENT_TRANSPORT_RESET);
	virtio_push(&s->v, EVENT, &s->chain,
		    virtq_write(&s->v.q[EVENT], &s->chain, 0, ev, sizeof(ev)));
	virtio_tell(&s->v, EVENT);
	s->tell_reset = false;
}

static void work(struct virtio *v)
{
	struct virtio_vsock *s = vsock_of(v);
	serve_event(s);
	do {
		serve_tx(s);
		serve_rx(s);
	} while (s->tx_held && s->nloose < ARRAY_LEN(s->loose) && virtio_running(v));
	/* Both at once, so that a driver that halts wakes up once. */
	virtio_tell(v, RX);
	virtio_tell(v, TX);
}

static void ready(struct virtio *v, uint32_t tag, uint32_t epoll_events)
{
	struct virtio_vsock *s = vsock_of(v);
	if (tag == VSOCK_TAG_LISTEN) {
		vsock_accept(s);
	} else if (tag - VSOCK_TAG_CONN < VSOCK_CONNS_MAX) {
		vsock_ready(s, &s->conn[tag - VSOCK_TAG_CONN], epoll_events);
	}
	virtio_kick(v); /* what there is for the guest now goes with the next turn */
}

/* ---- its life ---- */

static void drop_all(struct virtio_vsock *s)
{
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		if (s->conn[i].state != VSOCK_FREE) {
			vsock_drop(s, &s->conn[i]);
		}
	}
	s->nloose = 0;
	s->tx_held = false;
}

static void watch_listener(struct virtio_vsock *s, uint32_t epoll_events)
{
	if (s->listen_fd >= 0) {
		struct err *e = virtio_watch(&s->v, s->listen_fd, VSOCK_TAG_LISTEN, epoll_events);
		if (e != NULL) {
			log_err(err_wrap(e, "%s: nobody can connect", s->v.id));
		}
	}
}

/* Until then who connects waits. */
static void started(struct virtio *v)
{
	watch_listener(vsock_of(v), EPOLLIN);
}

static void reset(struct virtio *v, struct virtq *q)
{
	struct virtio_vsock *s = vsock_of(v);
	drop_all(s);
	s->tell_reset = false;
	if (q == NULL) {
		watch_listener(s, 0);
	}
}

static void vsock_free(struct device *dev)
{
	if (dev != NULL) {
		struct virtio_vsock *s = vsock_of(virtio_of(dev));
		drop_all(s);
		virtio_done(&s->v);
		free(s);
	}
}

static struct err *vsock_fetch(void *self)
{
	struct virtio_vsock *s = self;
	LOCK_SCOPE(&s->v.pci.lock);
	virtio_fetch(&s->v, &s->saved.virtio);
	return NULL;
}

static struct err *vsock_commit(void *self)
{
	struct virtio_vsock *s = self;
	LOCK_SCOPE(&s->v.pci.lock);
	TRY(virtio_commit(&s->v, &s->saved.virtio));
	drop_all(s);
	s->tell_reset = virtio_running(&s->v);
	return NULL;
}

static const struct state_field vsock_fields[] = {
	FIELD_SUB(struct virtio_vsock_state, 1, virtio, &virtio_desc),
};

const struct state_desc virtio_vsock_desc = {
	.name = "virtio_vsock",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_vsock_state),
	.fields = vsock_fields,
	.nfields = ARRAY_LEN(vsock_fields),
};

static const struct snap_part_ops vsock_part_ops = {
	.fetch = vsock_fetch,
	.commit = vsock_commit,
};

static const struct virtio_ops vsock_ops = {
	.work = work,
	.started = started,
	.reset = reset,
	.ready = ready,
};

static const struct dev_ops vsock_dev_ops = {
	.name = "virtio_vsock",
	.on_fd = virtio_on_fd,
	.free = vsock_free,
};

struct err *virtio_vsock_new(const struct dev_host *host, const struct virtio_vsock_opts *o,
			     struct pci_dev **ret_dev)
{
	ENSURE(o->cid >= VSOCK_CID_MIN && o->cid < UINT32_MAX, ERR_USAGE,
	       "%s: a guest's CID is at least %d", o->id, VSOCK_CID_MIN);
	ENSURE(strlen(o->path) <= VSOCK_PATH_BYTES_MAX, ERR_LIMIT,
	       "%s: the path of its sockets has more than %d bytes: %s", o->id,
	       VSOCK_PATH_BYTES_MAX, o->path);
	struct virtio_vsock *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "out of memory");
	const struct virtio_opts opts = {
		.ops = &vsock_ops,
		.dev_ops = &vsock_dev_ops,
		.id = o->id,
		.type = VIRTIO_ID_VSOCK,
		.class = CLASS_OTHER,
		.nqueues = QUEUES,
		.queue_size = QUEUE_SIZE,
		.config_bytes = CONFIG_BYTES,
	};
	s->cid = o->cid;
	s->listen_fd = o->listen_fd;
	s->path = o->path;
	for (unsigned i = 0; i < VSOCK_CONNS_MAX; i++) {
		s->conn[i].fd = -1;
	}
	struct err *e = virtio_init(&s->v, host, &opts);
	if (e != NULL) {
		vsock_free(&s->v.pci.dev);
		return e;
	}
	put_le64(s->v.config, o->cid);
	s->v.pci.dev.part = virtio_part(&s->v, &virtio_vsock_desc, &s->saved, &vsock_part_ops);
	*ret_dev = &s->v.pci;
	return NULL;
}
