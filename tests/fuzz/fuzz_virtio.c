/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a virtio device behind the PCI host bridge, worked by a driver that does what the
 * input says: configuration space, registers, rings and buffers. Properties: no crash, the device's
 * work ends, and its state saves and loads at every point.
 */
#define assert_true(x) BUG_ON(!(x))
#define assert_int_equal(a, b) BUG_ON((a) != (b))
#define fail_msg(...) BUG_ON(true)

#include <fcntl.h>
#include <sys/socket.h>

#include "core/base/log.h"
#include "devices/serial_link.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/fake_driver.h"

enum {
	OP_BYTES = 12,
	MEM_WINDOW = 4 * FD_RING_STEP, /* the input writes to the rings and a little behind them */
};

/* The first byte of an input; the order is that of config_kind. */
enum kind { KIND_RNG, KIND_CONSOLE, KIND_BALLOON, KIND_DISK, KIND_NET, KIND_VSOCK, KINDS };

/* A host end that always has input and takes all output. */
static struct serial_link *make_link(void)
{
	static int in = -1;
	static int out = -1;
	struct serial_link *l = NULL;
	if (in < 0) {
		in = open("/dev/zero", O_RDONLY | O_CLOEXEC);
		out = open("/dev/null", O_WRONLY | O_CLOEXEC);
		BUG_ON(in < 0 || out < 0);
	}
	ok_(serial_link_new(in, out, -1, &l));
	return l;
}

/* What a network device is tied to: the test's end, and its own. */
struct wire {
	struct fd ours, its;
};

static UNUSED void wire_done(struct wire *w)
{
	fd_close(&w->ours);
	fd_close(&w->its);
}

/* The host takes what was sent, and sends a frame as the input says, or goes away. */
static void feed_wire(const struct wire *w, const uint8_t *op)
{
	uint8_t frame[2048];
	if (w->ours.n < 0) {
		return;
	}
	for (ssize_t n = 1; n > 0;) {
		n = recv(w->ours.n, frame, sizeof(frame), MSG_DONTWAIT);
	}
	memset(frame, op[4], sizeof(frame));
	memcpy(frame, op + 1, 11); /* as a header it asks for anything */
	/* A full socket, or none any more, is a state like others. */
	(void)!send(w->ours.n, frame, 1u << op[5] % 12, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (op[6] == 0xff) {
		(void)shutdown(w->ours.n, SHUT_RDWR);
	}
}

static struct err *make_net(struct fake_driver *d, struct wire *w, bool header,
			    struct pci_dev **ret)
{
	int ends[2];
	BUG_ON(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0);
	w->ours.n = ends[0];
	w->its.n = ends[1];
	const struct virtio_net_opts o = { .id = "fuzz", .fd = w->its.n, .header = header };
	return virtio_net_new(&d->host.host, &o, ret);
}

static struct err *make_device(const uint8_t *head, struct fake_driver *d, struct serial_link *link,
			       struct wire *w, struct pci_dev **ret)
{
	const struct virtio_vsock_opts vsock = {
		.id = "fuzz",
		.cid = 3,
		.listen_fd = -1,
		.path = "/nonexistent/v",
	};
	switch (head[0] % KINDS) {
	case KIND_CONSOLE:
		return virtio_console_new(&d->host.host, "fuzz", link, ret);
	case KIND_NET:
		return make_net(d, w, (head[1] & 4) != 0, ret);
	case KIND_VSOCK:
		return virtio_vsock_new(&d->host.host, &vsock, ret);
	case KIND_BALLOON:
		return virtio_balloon_new(&d->host.host, "fuzz", ret);
	default:
		return virtio_rng_new(&d->host.host, "fuzz", ret);
	}
}

static void run_op(struct fake_driver *d, const struct wire *w, const uint8_t *op)
{
	uint64_t v = get_le64(op + 4);
	unsigned len = 1u << (op[1] & 3);
	unsigned off = get_le16(op + 2);
	switch (op[0] % 8) {
	case 0:
		fd_ecam_put(d, off & 0xff & ~(len - 1), len, v);
		d->bar = fd_ecam(d, PCI_BAR0, 4) & ~0xfull;
		break;
	case 1:
		(void)fd_ecam(d, off & 0xfff & ~(len - 1), len);
		break;
	case 2:
		d->bus_dev->ops->write(d->bus_dev, FD_RANGE_WIN32,
				       d->bar - PCI_WIN32_BASE + (off & 0x7fff & ~(len - 1)), len,
				       v);
		break;
	case 3:
		d->bus_dev->ops->read(d->bus_dev, FD_RANGE_WIN32,
				      d->bar - PCI_WIN32_BASE + (off & 0x7fff & ~(len - 1)), len,
				      &v);
		break;
	case 4: /* a descriptor in the rings' range: address, length, flags from few bits */
		fd_desc(d, op[1] & 3, off & 15, FD_RING_BASE + (v & 0xffffff), op[8] * 16u,
			op[9] & 7, op[10] & 31);
		break;
	case 5:
		fd_mem(d, FD_RING_BASE + off * 4 % MEM_WINDOW, op + 4, 8);
		break;
	case 6:
		d->size[op[1] & 3] = 16;
		fd_offer(d, op[1] & 3, off & 31, true);
		break;
	default:
		feed_wire(w, op);
		fake_loop(&d->host);
		break;
	}
}

static void save_and_load(struct fake_driver *d)
{
	struct snap_part *p = &d->dev->dev.part;
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 20);
	ok_(p->ops->fetch(p->self));
	ok_(desc_encode(p->desc, p->instance, p->state, &w));
	ok_(desc_decode(p->desc, p->instance, w.p, w.len, p->state));
	ok_(p->ops->commit(p->self));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len < 2) {
		return 0;
	}
	log_set_level(LOG_ERROR);
	struct fake_driver d;
	struct pci_dev *dev = NULL;
	fd_init(&d);
	SCOPE(wire_done) struct wire wire = { FD_NONE, FD_NONE };
	SCOPE(serial_link_freep) struct serial_link *link = make_link();
	ok_(make_device(data, &d, link, &wire, &dev));
	fd_plug(&d, dev);
	if ((data[1] & 1) != 0) {
		const struct virtio *v = CONTAINER_OF(dev, struct virtio, pci);
		uint64_t ring = VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
		fd_start(&d, v->nqueues,
			 ((data[1] & 2) != 0 ? ring : 0) |
				 ((data[1] & 8) != 0 ? v->offered & ~ring : 0));
	}
	unsigned n = 0;
	for (size_t at = 2; at + OP_BYTES <= len && n < 512; at += OP_BYTES, n++) {
		run_op(&d, &wire, data + at);
		if (data[at] >= 0xf0) {
			save_and_load(&d);
		}
	}
	fake_loop(&d.host);
	save_and_load(&d);
	fd_done(&d);
	return 0;
}
