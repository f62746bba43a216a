/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio network device. See virtio_net.h. Queues are served on the main loop; vCPU threads come
 * here by a reset alone. All with the device's lock held.
 *
 * I1: a frame is read from the host only when the guest has offered at least one buffer, and at
 * most one (`held`) is in our memory; one that fits its first buffer goes straight there. I2: no
 * header passes, in either direction, that asks for an offload which the driver did not agree on,
 * or that points outside its frame.
 */
#include "devices/virtio_net.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "core/base/bytes.h"
#include "core/base/log.h"

enum {
	Q_RX = 0,
	Q_TX = 1,
	Q_CONTROL = 2,
	NQUEUES = 3,
	QUEUE_SIZE = 256,
	CLASS_ETHERNET = 0x020000,
	TAG_FRAMES = 1,
	TURN_CHAINS = 256, /* each way; no less than a ring has */

	HEADER = VIRTIO_NET_HEADER_BYTES,
	ETHERNET_BYTES = 14,
	FRAME_MAX = 65536 + 64, /* the largest that segmentation offload makes */

	AT_STATUS = 6, /* in the configuration */
	AT_PAIRS = 8,
	AT_MTU = 10,
	CONFIG_BYTES = 12,
	S_LINK_UP = 1,
	S_ANNOUNCE = 2,

	H_FLAGS = 0, /* in the header */
	H_GSO = 1,
	H_HDR_LEN = 2,
	H_GSO_SIZE = 4,
	H_CSUM_START = 6,
	H_CSUM_OFFSET = 8,
	H_BUFFERS = 10,
	NEEDS_CSUM = 1,
	DATA_VALID = 2,
	GSO_NONE = 0,
	GSO_TCPV4 = 1,
	GSO_TCPV6 = 4,
	GSO_ECN = 0x80,

	CONTROL_ANNOUNCE = 3,
	ANNOUNCE_ACK = 0,
	CONTROL_OK = 0,
	CONTROL_ERR = 1,
};
#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU (1ull << 3)
#define F_MAC (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_GUEST_ECN (1ull << 9)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL_VQ (1ull << 17)
#define F_GUEST_ANNOUNCE (1ull << 21)
#define F_ALWAYS (F_MAC | F_STATUS | F_MRG_RXBUF | F_CTRL_VQ | F_GUEST_ANNOUNCE)
#define F_OFFLOADS                                                                                 \
	(F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_HOST_TSO4 |         \
	 F_HOST_TSO6 | F_HOST_ECN)

struct virtio_net {
	struct virtio v; /* first */
	int fd;          /* borrowed, -1: none; const */
	bool header;     /* const */
	/* [lock] */
	bool link;
	bool offloads_due; /* the tap is to be told what the driver agreed on */
	bool announce_due; /* the guest is to tell its network where it is now */
	uint32_t watched;  /* epoll events asked for */
	uint32_t held;     /* bytes of in_buf with a frame that waits for buffers, 0: none */
	struct virtio_net_state saved; /* part.state */
	struct virtq_chain first;
	struct virtq_chain more;
	uint8_t in_buf[HEADER + FRAME_MAX];
	struct iovec iov[VIRTQ_SEGS_MAX + 2]; /* of the system call at hand */
};

static struct virtio_net *net_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_net, v);
}

/* ---- the link ---- */

static void set_status(struct virtio_net *n, unsigned clear, unsigned set)
{
	unsigned now = get_le16(n->v.config + AT_STATUS);
	unsigned next = (now & ~clear) | set;
	if (next != now) {
		put_le16(n->v.config + AT_STATUS, (uint16_t)next);
		virtio_config_changed(&n->v);
	}
}

static void watch(struct virtio_net *n, uint32_t events)
{
	if (n->fd < 0 || events == n->watched) {
		return;
	}
	n->watched = events;
	struct err *e = virtio_watch(&n->v, n->fd, TAG_FRAMES, events);
	if (e != NULL) {
		log_err(err_wrap(e, "network device '%s' receives no more", n->v.id));
	}
}

/* The host's end is gone: the guest sees a cable pulled. */
static void lose_link(struct virtio_net *n, const char *why)
{
	LOG_W("network device '%s': the link is down: %s", n->v.id, why);
	n->link = false;
	n->held = 0;
	watch(n, 0);
	set_status(n, S_LINK_UP, 0);
}

static bool is_gone(int error)
{
	return error == EBADFD || error == EPIPE || error == ECONNRESET || error == ENOTCONN ||
	       error == ENODEV || error == EBADF;
}

/* ---- headers ---- */

struct offloads {
	bool csum, tso4, tso6, ecn;
};

static struct offloads to_host(const struct virtio *v)
{
	return (struct offloads){
		.csum = virtio_has(v, F_CSUM),
		.tso4 = virtio_has(v, F_HOST_TSO4),
		.tso6 = virtio_has(v, F_HOST_TSO6),
		.ecn = virtio_has(v, F_HOST_ECN),
	};
}

static struct offloads to_guest(const struct virtio *v)
{
	return (struct offloads){
		.csum = virtio_has(v, F_GUEST_CSUM),
		.tso4 = virtio_has(v, F_GUEST_TSO4),
		.tso6 = virtio_has(v, F_GUEST_TSO6),
		.ecn = virtio_has(v, F_GUEST_ECN),
	};
}

/* I2, for the header at h of a frame of len bytes. */
static bool is_sound(const uint8_t *h, uint64_t len, const struct offloads *may)
{
	bool csum = (h[H_FLAGS] & NEEDS_CSUM) != 0;
	unsigned start = get_le16(h + H_CSUM_START);
	if (csum && (!may->csum || start < ETHERNET_BYTES ||
		     (uint64_t)start + get_le16(h + H_CSUM_OFFSET) + 2 > len)) {
		return false;
	}
	switch (h[H_GSO] & ~GSO_ECN) {
	case GSO_NONE:
		return h[H_GSO] == GSO_NONE;
	case GSO_TCPV4:
		if (!may->tso4) {
			return false;
		}
		break;
	case GSO_TCPV6:
		if (!may->tso6) {
			return false;
		}
		break;
	default:
		return false;
	}
	return csum && get_le16(h + H_GSO_SIZE) > 0 && get_le16(h + H_HDR_LEN) <= len &&
	       (h[H_GSO] == (h[H_GSO] & ~GSO_ECN) || may->ecn);
}

/* Main loop. What came before with larger offloads is stopped by I2. */
static void tell_offloads(struct virtio_net *n)
{
	const struct offloads o = to_guest(&n->v);
	unsigned flags = (o.csum ? TUN_F_CSUM : 0u) | (o.csum && o.tso4 ? TUN_F_TSO4 : 0u) |
			 (o.csum && o.tso6 ? TUN_F_TSO6 : 0u);
	flags |= (flags & (TUN_F_TSO4 | TUN_F_TSO6)) != 0 && o.ecn ? TUN_F_TSO_ECN : 0u;
	n->offloads_due = false;
	if (n->header && ioctl(n->fd, TUNSETOFFLOAD, (unsigned long)flags) != 0) {
		LOG_W("network device '%s': its tap refuses offloads 0x%x: %s", n->v.id, flags,
		      strerrordesc_np(errno));
	}
}

/* ---- from the guest ---- */

/* The frame in n->more, with the header h, to the host. False: the host takes none now. A frame
 * that it refuses is lost. */
static bool write_frame(struct virtio_net *n, uint8_t h[HEADER])
{
	if (!n->link) {
		return true;
	}
	unsigned first = n->header ? 0 : 1;
	n->iov[0] = (struct iovec){ .iov_base = h, .iov_len = HEADER };
	unsigned count = 1 + virtq_map(&n->v.q[Q_TX], &n->more, false, HEADER,
				       n->more.read_bytes - HEADER, n->iov + 1);
	ssize_t rc = writev(n->fd, n->iov + first, (int)(count - first));
	if (rc < 0 && errno == EAGAIN) {
		return false;
	}
	if (rc < 0 && is_gone(errno)) {
		lose_link(n, strerrordesc_np(errno));
	}
	return true;
}

/* Interrupts are for what was given back since next_used was `before`. */
static void tell(struct virtio_net *n, unsigned queue, uint16_t before)
{
	if (n->v.q[queue].st.next_used != before) {
		virtio_tell(&n->v, queue);
	}
}

/* Sends what is at hand. True: the host is busy, and chains may wait. */
static bool send_frames(struct virtio_net *n)
{
	struct virtio *v = &n->v;
	const struct offloads may = to_host(v);
	uint16_t before = v->q[Q_TX].st.next_used;
	bool busy = false;
	v->budget = TURN_CHAINS;
	while (!busy && virtio_pop(v, Q_TX, &n->more)) {
		if (n->more.nwrite > 0 || n->more.read_bytes < HEADER + ETHERNET_BYTES) {
			virtio_break(v, "a frame to send is no frame");
			return false;
		}
		/* The header is copied once, checked, and sent from the copy; the rest is sent from
		 * where it is. What is too long or unsound is lost. */
		uint8_t h[HEADER];
		virtq_read(&v->q[Q_TX], &n->more, 0, h, sizeof(h));
		if (n->more.read_bytes <= HEADER + FRAME_MAX &&
		    is_sound(h, n->more.read_bytes - HEADER, &may)) {
			h[H_FLAGS] &= NEEDS_CSUM;
			put_le16(h + H_BUFFERS, 0);
			busy = !write_frame(n, h);
		}
		if (busy) {
			virtq_unpop(&v->q[Q_TX]);
		} else {
			virtio_push(v, Q_TX, &n->more, 0);
		}
	}
	tell(n, Q_TX, before);
	return busy;
}

/* ---- to the guest ---- */

/*
 * One read: the frame's header to in_buf, the frame itself to n->first, and what that has no room
 * for to its place in in_buf. Returns as read does.
 */
static ssize_t read_split(struct virtio_net *n, uint64_t room)
{
	unsigned first = n->header ? 0 : 1;
	memset(n->in_buf, 0, HEADER);
	n->iov[0] = (struct iovec){ .iov_base = n->in_buf, .iov_len = HEADER };
	unsigned count = 1 + virtq_map(&n->v.q[Q_RX], &n->first, true, HEADER, room, n->iov + 1);
	n->iov[count++] = (struct iovec){ .iov_base = n->in_buf + HEADER + room,
					  .iov_len = FRAME_MAX - room };
	return readv(n->fd, n->iov + first, (int)(count - first));
}

/* What read_split put into n->first, to in_buf: the guest sees none of it before all of it has a
 * place. */
static void take_back(struct virtio_net *n, uint64_t room)
{
	unsigned count = virtq_map(&n->v.q[Q_RX], &n->first, true, HEADER, room, n->iov);
	uint8_t *to = n->in_buf + HEADER;
	for (unsigned i = 0; i < count; i++) {
		memcpy(to, n->iov[i].iov_base, n->iov[i].iov_len);
		to += n->iov[i].iov_len;
	}
}

/* The next frame: into n->first and given to the guest, or, if it takes more buffers, into in_buf;
 * `held` says how long it is with its header then. False: there is none. */
static bool read_frame(struct virtio_net *n)
{
	struct virtq *q = &n->v.q[Q_RX];
	const struct offloads may = to_guest(&n->v);
	const uint64_t room = MIN(n->first.write_bytes - HEADER, (uint64_t)FRAME_MAX);
	for (unsigned i = 0; n->link && i < TURN_CHAINS; i++) {
		ssize_t rc = read_split(n, room);
		if (rc == 0 || (rc < 0 && is_gone(errno))) {
			lose_link(n, rc == 0 ? "the other end closed it" : strerrordesc_np(errno));
			return false;
		}
		if (rc < 0) {
			return false;
		}
		uint64_t bytes = (n->header ? 0 : HEADER) + (uint64_t)rc;
		uint64_t direct = bytes > HEADER ? MIN(bytes - HEADER, room) : 0;
		virtq_mark(q, &n->first, HEADER, direct);
		if (bytes < HEADER + ETHERNET_BYTES || !is_sound(n->in_buf, bytes - HEADER, &may)) {
			continue; /* lost: the driver could not understand it */
		}
		n->in_buf[H_FLAGS] &= may.csum ? NEEDS_CSUM | DATA_VALID : 0;
		if (bytes - HEADER > room) {
			take_back(n, room);
			n->held = (uint32_t)bytes;
			return true;
		}
		put_le16(n->in_buf + H_BUFFERS, 1);
		virtq_write(q, &n->first, 0, n->in_buf, HEADER);
		virtq_push(q, n->first.head, (uint32_t)bytes);
		return true;
	}
	return false;
}

/*
 * The next chain for received frames. *full: the ring has none now. A driver that offers what
 * cannot hold a header broke the rules.
 */
static bool next_buffer(struct virtio_net *n, struct virtq_chain *c)
{
	if (!virtio_pop(&n->v, Q_RX, c)) {
		return false;
	}
	if (c->nread > 0 || c->write_bytes < HEADER) {
		virtio_break(&n->v, "a buffer for received frames is none");
		return false;
	}
	return true;
}

static void unpop(struct virtio_net *n, unsigned chains)
{
	while (chains-- > 0) {
		virtq_unpop(&n->v.q[Q_RX]);
	}
}

/* The held frame goes into n->first, which was popped, and as many more as it takes. False: there
 * are not enough yet, and n->first was given back to the ring. */
static bool deliver(struct virtio_net *n)
{
	struct virtq *q = &n->v.q[Q_RX];
	bool merge = virtio_has(&n->v, F_MRG_RXBUF);
	uint64_t at = 0;
	unsigned used = 0;
	while (at < n->held) {
		struct virtq_chain *c = used == 0 ? &n->first : &n->more;
		bool never = used > 0 && (!merge || used == q->st.size);
		if (never || (used > 0 && !next_buffer(n, c))) {
			unpop(n, used);
			if (never) { /* it does not fit into what this driver offers: lost */
				n->held = 0;
			}
			return never;
		}
		uint64_t bytes = virtq_write(q, c, 0, n->in_buf + at, n->held - at);
		virtq_put(q, used, c->head, (uint32_t)bytes);
		at += bytes;
		used++;
	}
	uint8_t count[2];
	put_le16(count, (uint16_t)used);
	virtq_write(q, &n->first, H_BUFFERS, count, sizeof(count));
	virtq_publish(q, used);
	n->held = 0;
	return true;
}

/* Receives as long as there are frames and buffers. True: the host is to be watched for more. */
static bool receive_frames(struct virtio_net *n)
{
	struct virtio *v = &n->v;
	uint16_t before = v->q[Q_RX].st.next_used;
	bool more = true;
	v->budget = TURN_CHAINS;
	while (n->link) {
		if (!next_buffer(n, &n->first)) {
			more = false; /* a kick brings us back (I1) */
			break;
		}
		if (n->held == 0 && !read_frame(n)) {
			unpop(n, 1);
			break;
		}
		if (n->held > 0 && !deliver(n)) {
			more = false;
			break;
		}
	}
	tell(n, Q_RX, before);
	return more && n->link;
}

/* ---- control queue ---- */

static uint8_t control(struct virtio_net *n, uint8_t class, uint8_t command)
{
	if (class == CONTROL_ANNOUNCE && command == ANNOUNCE_ACK &&
	    virtio_has(&n->v, F_GUEST_ANNOUNCE)) {
		/* No interrupt: the driver knows. */
		unsigned now = get_le16(n->v.config + AT_STATUS);
		put_le16(n->v.config + AT_STATUS, (uint16_t)(now & ~(unsigned)S_ANNOUNCE));
		return CONTROL_OK;
	}
	return CONTROL_ERR;
}

static void serve_control(struct virtio_net *n)
{
	struct virtio *v = &n->v;
	uint16_t before = v->q[Q_CONTROL].st.next_used;
	while (virtio_pop(v, Q_CONTROL, &n->more)) {
		uint8_t head[2];
		if (n->more.write_bytes == 0 ||
		    virtq_read(&v->q[Q_CONTROL], &n->more, 0, head, sizeof(head)) != sizeof(head)) {
			virtio_break(v, "a control command without a head or room for the answer");
			return;
		}
		uint8_t answer = control(n, head[0], head[1]);
		virtio_push(v, Q_CONTROL, &n->more,
			    virtq_write(&v->q[Q_CONTROL], &n->more, 0, &answer, 1));
	}
	tell(n, Q_CONTROL, before);
}

/* ---- work ---- */

static void net_work(struct virtio *v)
{
	struct virtio_net *n = net_of(v);
	if (n->offloads_due) {
		tell_offloads(n);
	}
	if (n->announce_due) {
		n->announce_due = false;
		set_status(n, 0, virtio_has(v, F_GUEST_ANNOUNCE) ? S_ANNOUNCE : 0);
	}
	serve_control(n);
	bool busy = send_frames(n);
	bool more = receive_frames(n);
	watch(n, n->link && virtio_running(v) ? (more ? EPOLLIN : 0u) | (busy ? EPOLLOUT : 0u) : 0);
}

static void net_ready(struct virtio *v, uint32_t tag, uint32_t epoll_events)
{
	(void)tag;
	(void)epoll_events;
	if (virtio_running(v)) {
		net_work(v);
	} else {
		watch(net_of(v), 0);
	}
}

static void net_started(struct virtio *v)
{
	net_of(v)->offloads_due = true;
}

static void net_reset(struct virtio *v, struct virtq *q)
{
	struct virtio_net *n = net_of(v);
	if (q == NULL || q == &v->q[Q_RX]) {
		n->held = 0;
	}
	if (q == NULL) {
		n->announce_due = false;
		unsigned now = get_le16(v->config + AT_STATUS);
		put_le16(v->config + AT_STATUS, (uint16_t)(now & ~(unsigned)S_ANNOUNCE));
	}
}

static void net_free(struct device *dev)
{
	if (dev != NULL) {
		struct virtio_net *n = net_of(virtio_of(dev));
		virtio_done(&n->v);
		free(n);
	}
}

/* ---- saved state ---- */

static struct err *net_fetch(void *self)
{
	struct virtio_net *n = self;
	LOCK_SCOPE(&n->v.pci.lock);
	virtio_fetch(&n->v, &n->saved.virtio);
	return NULL;
}

static struct err *check_offloads(const struct virtio_net *n)
{
	uint64_t lacking = n->saved.virtio.features & F_OFFLOADS & ~n->v.offered;
	ENSURE(lacking == 0 || (n->saved.virtio.status & VIRTIO_STATUS_FEATURES_OK) == 0,
	       ERR_INCOMPAT,
	       "network device '%s': the guest uses offloads (0x%llx) that only a tap has: give it "
	       "one by --net-map %s=tap=NAME",
	       n->v.id, (unsigned long long)lacking, n->v.id);
	return NULL;
}

static void net_probe(void *self, const struct findings *f)
{
	struct virtio_net *n = self;
	LOCK_SCOPE(&n->v.pci.lock);
	struct err *e = check_offloads(n);
	finding(f, "net", e != NULL ? e : virtio_match(&n->v, &n->saved.virtio));
}

static struct err *net_commit(void *self)
{
	struct virtio_net *n = self;
	LOCK_SCOPE(&n->v.pci.lock);
	TRY(check_offloads(n));
	n->announce_due = true;
	n->held = 0;
	return virtio_commit(&n->v, &n->saved.virtio);
}

static const struct state_field net_fields[] = {
	FIELD_SUB(struct virtio_net_state, 1, virtio, &virtio_desc),
};

const struct state_desc virtio_net_desc = {
	.name = "virtio_net",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_net_state),
	.fields = net_fields,
	.nfields = ARRAY_LEN(net_fields),
};

static const struct snap_part_ops net_part_ops = {
	.fetch = net_fetch,
	.commit = net_commit,
	.probe = net_probe,
};

/* ---- building ---- */

static const struct virtio_ops net_ops = {
	.work = net_work,
	.started = net_started,
	.reset = net_reset,
	.ready = net_ready,
};

static const struct dev_ops net_dev_ops = {
	.name = "virtio_net",
	.on_fd = virtio_on_fd,
	.free = net_free,
};

struct err *virtio_net_new(const struct dev_host *host, const struct virtio_net_opts *o,
			   struct pci_dev **ret_dev)
{
	struct virtio_net *n = calloc(1, sizeof(*n));
	ENSURE(n != NULL, ERR_SYS, "out of memory");
	const struct virtio_opts vo = {
		.ops = &net_ops,
		.dev_ops = &net_dev_ops,
		.id = o->id,
		.type = VIRTIO_ID_NET,
		.class = CLASS_ETHERNET,
		.features = F_ALWAYS | (o->mtu > 0 ? F_MTU : 0) | (o->header ? F_OFFLOADS : 0),
		.nqueues = NQUEUES,
		.queue_size = QUEUE_SIZE,
		.config_bytes = CONFIG_BYTES,
	};
	n->fd = o->fd;
	n->header = o->header;
	n->link = o->fd >= 0;
	struct err *e = virtio_init(&n->v, host, &vo);
	if (e != NULL) {
		net_free(&n->v.pci.dev);
		return e;
	}
	memcpy(n->v.config, o->mac, sizeof(o->mac));
	put_le16(n->v.config + AT_STATUS, n->link ? S_LINK_UP : 0);
	put_le16(n->v.config + AT_PAIRS, 1);
	put_le16(n->v.config + AT_MTU, (uint16_t)o->mtu);
	n->v.pci.dev.part = virtio_part(&n->v, &virtio_net_desc, &n->saved, &net_part_ops);
	*ret_dev = &n->v.pci;
	return NULL;
}
