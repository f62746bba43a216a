/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio_net.c: frames both ways, merged buffers, headers that ask for what
 * was not agreed on, hostile drivers, a busy and a dead host end, saved in the middle, the
 * announcement.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <sys/socket.h>

#include "core/base/io.h"
#include "devices/virtio_net.h"
#include "tests/lib/fake_driver.h"

enum {
	RX = 0,
	TX = 1,
	CTL = 2,
	OUT = 0x200000, /* guest addresses */
	IN = 0x400000,
	IN_STEP = 0x20000,
	HDR = VIRTIO_NET_HEADER_BYTES,
	STATUS_UP = 1,
	STATUS_ANNOUNCE = 2,
};
#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU (1ull << 3)
#define F_GUEST_TSO4 (1ull << 7)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_MRG (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL (1ull << 17)
#define F_ANNOUNCE (1ull << 21)
#define F_PLAIN (F_STATUS | F_CTRL | F_ANNOUNCE)

struct nic {
	struct fake_driver d;
	int ours; /* the test's end of the wire */
	int its;
};

/* header: as with a tap, whose frames carry one. */
static void plug(struct nic *k, int its, bool header)
{
	struct pci_dev *p = NULL;
	const struct virtio_net_opts o = {
		.id = "net0",
		.fd = its,
		.header = header,
		.mac = { 2, 0, 0, 0, 0, 9 },
		.mtu = 1400,
	};
	fd_init(&k->d);
	k->its = its;
	ok_(virtio_net_new(&k->d.host.host, &o, &p));
	fd_plug(&k->d, p);
}

static void wire(int ends[2])
{
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
}

static void begin(struct nic *k, bool header, uint64_t features)
{
	int ends[2];
	wire(ends);
	plug(k, ends[1], header);
	k->ours = ends[0];
	fd_start(&k->d, 3, features);
}

static void end(struct nic *k)
{
	fd_done(&k->d);
	close(k->ours);
	close(k->its);
}

static void run(struct nic *k)
{
	fake_loop(&k->d.host);
}

static unsigned status(struct nic *k)
{
	return (unsigned)fd_get(&k->d, FD_CONFIG + 6, 2);
}

static bool broken(struct nic *k)
{
	return (fd_get(&k->d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0;
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++) {
		p[i] = (uint8_t)(seed + i * 13);
	}
}

/* The guest offers a buffer of len bytes as descriptor i. */
static void offer_buffer(struct nic *k, uint16_t i, uint32_t len)
{
	fd_desc(&k->d, RX, i, IN + (uint64_t)i * IN_STEP, len, FD_WRITE, 0);
	fd_offer(&k->d, RX, i, true);
}

/* The guest sends a frame: header and body in two buffers. */
static void guest_sends(struct nic *k, const uint8_t *header, const uint8_t *body, uint32_t len)
{
	uint8_t none[HDR] = { 0 };
	fd_mem(&k->d, OUT, header != NULL ? header : none, HDR);
	fd_mem(&k->d, OUT + 0x1000, body, len);
	fd_desc(&k->d, TX, 0, OUT, HDR, FD_NEXT, 1);
	fd_desc(&k->d, TX, 1, OUT + 0x1000, len, 0, 0);
	fd_offer(&k->d, TX, 0, true);
	run(k);
}

static bool came_back(struct nic *k, unsigned q)
{
	uint32_t head, len;
	return fd_take(&k->d, q, &head, &len);
}

static ssize_t host_gets(struct nic *k, uint8_t *buf, size_t len)
{
	return recv(k->ours, buf, len, MSG_DONTWAIT);
}

static void host_sends(struct nic *k, const void *p, size_t len)
{
	assert_int_equal(send(k->ours, p, len, 0), (ssize_t)len);
	run(k);
}

static void test_both_ways(void **state)
{
	(void)state;
	struct nic k;
	uint8_t frame[1514], buf[2048];
	begin(&k, false, F_PLAIN | F_MTU);
	assert_int_equal(fd_get(&k.d, FD_CONFIG, 2), 2);
	assert_int_equal(fd_get(&k.d, FD_CONFIG + 5, 1), 9);
	assert_int_equal(fd_get(&k.d, FD_CONFIG + 10, 2), 1400);
	assert_int_equal(status(&k), STATUS_UP);
	assert_int_equal(fd_features(&k.d) & (F_CSUM | F_GUEST_CSUM | F_HOST_TSO4 | F_GUEST_TSO4),
			 0);
	for (unsigned i = 0; i < 100; i++) {
		size_t len = 14 + i * 15;
		fill(frame, sizeof(frame), i);
		guest_sends(&k, NULL, frame, (uint32_t)len);
		assert_true(came_back(&k, TX));
		assert_int_equal(host_gets(&k, buf, sizeof(buf)), len);
		assert_memory_equal(buf, frame, len);
		/* The other way; the frame waits in the socket until there is a buffer. */
		host_sends(&k, frame, len);
		assert_false(came_back(&k, RX));
		offer_buffer(&k, 0, 2048);
		run(&k);
		uint32_t head, got;
		assert_true(fd_take(&k.d, RX, &head, &got));
		assert_int_equal(got, HDR + len);
		ok_(gmem_read(k.d.g, GPA(IN), buf, got));
		assert_memory_equal(buf + HDR, frame, len);
		assert_int_equal(buf[0] | buf[1], 0);
		assert_int_equal(get_le16(buf + 10), 1);
	}
	/* Too long, or no frame: lost, and the device goes on. */
	offer_buffer(&k, 0, 512);
	host_sends(&k, frame, 1000);
	host_sends(&k, frame, 13);
	assert_false(came_back(&k, RX));
	host_sends(&k, frame, 500);
	assert_true(came_back(&k, RX));
	assert_false(broken(&k));
	end(&k);
}

/* A frame over several buffers shows at once, and waits until there are enough. */
static void test_merged(void **state)
{
	(void)state;
	struct nic k;
	uint8_t frame[3000], buf[1100], first[HDR];
	uint32_t head, len;
	begin(&k, false, F_PLAIN | F_MRG);
	fill(frame, sizeof(frame), 5);
	offer_buffer(&k, 0, 1012);
	offer_buffer(&k, 1, 1000);
	host_sends(&k, frame, sizeof(frame));
	assert_int_equal(fd_used_index(&k.d, RX), 0);
	/* A second one does not overtake it. */
	host_sends(&k, frame, 100);
	assert_int_equal(fd_used_index(&k.d, RX), 0);
	offer_buffer(&k, 2, 1100);
	run(&k);
	assert_int_equal(fd_used_index(&k.d, RX), 3);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(fd_take(&k.d, RX, &head, &len));
		assert_int_equal(head, i);
		assert_int_equal(len, i == 0 ? 1012 : 1000);
		ok_(gmem_read(k.d.g, GPA(IN + i * IN_STEP), buf, len));
		unsigned skip = i == 0 ? HDR : 0;
		assert_memory_equal(buf + skip, frame + i * 1000, 1000);
	}
	ok_(gmem_read(k.d.g, GPA(IN), first, HDR));
	assert_int_equal(get_le16(first + 10), 3);
	offer_buffer(&k, 3, 1100);
	run(&k);
	assert_true(fd_take(&k.d, RX, &head, &len));
	assert_int_equal(len, HDR + 100);
	/* A full ring of small buffers cannot hold it, ever: lost, what fits comes after it. */
	for (uint16_t i = 0; i < 16; i++) {
		offer_buffer(&k, i, 64);
	}
	host_sends(&k, frame, sizeof(frame));
	assert_false(came_back(&k, RX));
	host_sends(&k, frame, 16 * 64 - HDR);
	assert_int_equal(fd_used_index(&k.d, RX), (uint16_t)(k.d.used[RX] + 16));
	assert_false(broken(&k));
	end(&k);
}

static void header(uint8_t *h, unsigned flags, unsigned gso, unsigned size, unsigned start,
		   unsigned offset)
{
	memset(h, 0, HDR);
	h[0] = (uint8_t)flags;
	h[1] = (uint8_t)gso;
	put_le16(h + 4, (uint16_t)size);
	put_le16(h + 6, (uint16_t)start);
	put_le16(h + 8, (uint16_t)offset);
}

/* What passes of a header, by what was agreed on. */
static void test_offloads(void **state)
{
	(void)state;
	static const struct {
		uint64_t features;
		unsigned flags, gso, size, start, offset;
		bool out, in; /* passes as a header of the guest, of the host */
	} cases[] = {
		{ 0, 0, 0, 0, 0, 0, true, true },
		{ 0, 1, 0, 0, 34, 16, false, false },
		{ F_CSUM, 1, 0, 0, 34, 16, true, false },
		{ F_CSUM | F_GUEST_CSUM, 1, 0, 0, 34, 16, true, true },
		{ F_CSUM | F_GUEST_CSUM, 1, 0, 0, 82, 16, true, true },
		{ F_CSUM | F_GUEST_CSUM, 1, 0, 0, 83, 16, false, false },
		{ F_CSUM | F_GUEST_CSUM, 1, 0, 0, 13, 16, false, false },
		{ F_CSUM | F_GUEST_CSUM, 1, 0, 0, 65535, 65535, false, false },
		{ F_CSUM | F_GUEST_CSUM, 1, 1, 1448, 34, 16, false, false },
		{ F_CSUM | F_HOST_TSO4, 1, 1, 1448, 34, 16, true, false },
		{ F_CSUM | F_HOST_TSO4, 1, 1, 0, 34, 16, false, false },
		{ F_CSUM | F_HOST_TSO4, 0, 1, 1448, 34, 16, false, false },
		{ F_CSUM | F_HOST_TSO4, 1, 4, 1448, 34, 16, false, false },
		{ F_CSUM | F_HOST_TSO6, 1, 4, 1448, 34, 16, true, false },
		{ F_CSUM | F_HOST_TSO4, 1, 0x81, 1448, 34, 16, false, false },
		{ F_CSUM | F_HOST_TSO4 | F_HOST_ECN, 1, 0x81, 1448, 34, 16, true, false },
		{ F_CSUM | F_HOST_TSO4 | F_HOST_ECN, 1, 0x80, 1448, 34, 16, false, false },
		{ F_GUEST_CSUM | F_GUEST_TSO4, 1, 1, 1448, 34, 16, false, true },
		{ F_CSUM | F_HOST_TSO4, 1, 3, 1448, 34, 16, false, false }, /* UDP */
	};
	for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
		struct nic k;
		uint8_t frame[HDR + 100], buf[256];
		begin(&k, true, F_PLAIN | cases[i].features);
		fill(frame, sizeof(frame), i);
		header(frame, cases[i].flags, cases[i].gso, cases[i].size, cases[i].start,
		       cases[i].offset);
		guest_sends(&k, frame, frame + HDR, 100);
		assert_true(came_back(&k, TX));
		assert_int_equal(host_gets(&k, buf, sizeof(buf)), cases[i].out ? HDR + 100 : -1);
		if (cases[i].out) {
			assert_memory_equal(buf, frame, HDR + 100);
		}
		offer_buffer(&k, 0, 2048);
		host_sends(&k, frame, sizeof(frame));
		assert_int_equal(came_back(&k, RX), cases[i].in);
		assert_false(broken(&k));
		end(&k);
	}
}

/* A host that takes no more: frames stay in the ring, in order, and none is sent twice. */
static void test_busy_host(void **state)
{
	(void)state;
	struct nic k;
	uint8_t frame[1000] = { 0 }, buf[1000];
	unsigned sent = 0, got = 0;
	begin(&k, false, F_PLAIN);
	fd_mem(&k.d, OUT, frame, HDR);
	for (;;) {
		put_le32(frame, sent);
		for (unsigned i = 0; i < 16 && came_back(&k, TX); i++) {
		}
		if ((uint16_t)(k.d.avail[TX] - k.d.used[TX]) == 16) {
			break;
		}
		uint16_t head = (uint16_t)(sent % 16);
		uint64_t at = OUT + 0x1000 + 0x1000 * (uint64_t)head;
		fd_mem(&k.d, at + HDR, frame, sizeof(frame));
		fd_mem(&k.d, at, (const uint8_t[HDR]){ 0 }, HDR);
		fd_desc(&k.d, TX, head, at, HDR + sizeof(frame), 0, 0);
		fd_offer(&k.d, TX, head, true);
		run(&k);
		sent++;
		assert_true(sent < 100000);
	}
	/* Saved now, the rest belongs to the copy as well: it is in its ring. */
	while (got < sent) {
		if (host_gets(&k, buf, sizeof(buf)) < 0) {
			run(&k);
			assert_true(host_gets(&k, buf, sizeof(buf)) > 0);
		}
		assert_int_equal(get_le32(buf), got);
		got++;
	}
	run(&k);
	assert_int_equal(host_gets(&k, buf, sizeof(buf)), -1);
	assert_int_equal(fd_used_index(&k.d, TX), k.d.avail[TX]);
	end(&k);
}

/* The other end goes away: the link is down, frames are lost, the guest is told. */
static void test_dead_host(void **state)
{
	(void)state;
	for (unsigned sends = 0; sends < 2; sends++) {
		struct nic k;
		uint8_t frame[64] = { 0 };
		begin(&k, false, F_PLAIN);
		fd_put(&k.d, 0x10, 2, 3);
		fd_msix(&k.d, 3, 0x77);
		offer_buffer(&k, 0, 2048);
		run(&k);
		uint8_t generation = (uint8_t)fd_get(&k.d, 0x15, 1);
		shutdown(k.ours, SHUT_RDWR);
		if (sends) {
			guest_sends(&k, NULL, frame, sizeof(frame));
			assert_true(came_back(&k, TX));
		}
		run(&k);
		assert_int_equal(status(&k), 0);
		assert_int_not_equal(fd_get(&k.d, 0x15, 1), generation);
		if (!sends) { /* else the frame's own interrupt came after it */
			assert_int_equal(k.d.host.msi_data, 0x77);
		}
		guest_sends(&k, NULL, frame, sizeof(frame));
		assert_true(came_back(&k, TX));
		assert_false(came_back(&k, RX));
		end(&k);
	}
}

static void test_hostile(void **state)
{
	(void)state;
	struct nic k;
	uint8_t frame[100] = { 0 };
	begin(&k, false, F_PLAIN);
	for (unsigned i = 0; i < 6; i++) {
		fd_start(&k.d, 3, F_PLAIN);
		assert_false(broken(&k));
		switch (i) {
		case 0: /* half a header */
			fd_desc(&k.d, TX, 0, OUT, HDR - 1, 0, 0);
			fd_offer(&k.d, TX, 0, true);
			break;
		case 1: /* a frame that the device is to write */
			fd_desc(&k.d, TX, 0, OUT, 100, FD_WRITE, 0);
			fd_offer(&k.d, TX, 0, true);
			break;
		case 2: /* a buffer to receive into that is to be read */
			fd_desc(&k.d, RX, 0, IN, 2048, 0, 0);
			fd_offer(&k.d, RX, 0, true);
			break;
		case 3: /* one without room for a header */
			fd_desc(&k.d, RX, 0, IN, HDR - 1, FD_WRITE, 0);
			fd_offer(&k.d, RX, 0, true);
			host_sends(&k, frame, sizeof(frame));
			break;
		case 4: /* a command without an answer, one without a head */
			fd_desc(&k.d, CTL, 0, OUT, 2, 0, 0);
			fd_offer(&k.d, CTL, 0, true);
			break;
		default:
			fd_desc(&k.d, CTL, 0, OUT, 1, FD_NEXT, 1);
			fd_desc(&k.d, CTL, 1, IN, 1, FD_WRITE, 0);
			fd_offer(&k.d, CTL, 0, true);
			break;
		}
		run(&k);
		assert_true(broken(&k));
		assert_int_equal(fd_used_index(&k.d, i < 2 ? TX : i < 4 ? RX : CTL), 0);
	}
	/* The longest that fits, and one more byte. */
	fd_start(&k.d, 3, F_PLAIN);
	for (unsigned more = 0; more < 2; more++) {
		SCOPE(freep) uint8_t *big = calloc(1, 70000);
		assert_non_null(big);
		guest_sends(&k, NULL, big, 65536 + 64 + more);
		assert_true(came_back(&k, TX));
		assert_int_equal(host_gets(&k, big, 70000), more ? -1 : 65536 + 64);
	}
	/* Floods without a buffer stay with the host: nothing is read (I1). */
	while (send(k.ours, frame, sizeof(frame), MSG_DONTWAIT) > 0) {
		run(&k);
	}
	assert_false(broken(&k));
	end(&k);
}

static uint8_t command(struct nic *k, uint8_t class, uint8_t cmd)
{
	const uint8_t head[2] = { class, cmd };
	uint8_t answer = 0xff;
	fd_mem(&k->d, OUT, head, 2);
	fd_mem(&k->d, IN, &answer, 1);
	fd_desc(&k->d, CTL, 0, OUT, 2, FD_NEXT, 1);
	fd_desc(&k->d, CTL, 1, IN, 1, FD_WRITE, 0);
	fd_offer(&k->d, CTL, 0, true);
	run(k);
	assert_true(came_back(k, CTL));
	ok_(gmem_read(k->d.g, GPA(IN), &answer, 1));
	return answer;
}

static void copy_over(struct nic *from, struct nic *to)
{
	SCOPE(freep) uint8_t *mem = malloc(GMEM_MIN_BYTES);
	assert_non_null(mem);
	ok_(gmem_read(from->d.g, GPA(0), mem, GMEM_MIN_BYTES));
	ok_(gmem_write(to->d.g, GPA(0), mem, GMEM_MIN_BYTES));
	memcpy(to->d.size, from->d.size, sizeof(to->d.size));
	memcpy(to->d.used, from->d.used, sizeof(to->d.used));
	memcpy(to->d.avail, from->d.avail, sizeof(to->d.avail));
	dev_carry_over(&from->d.dev->dev, &to->d.dev->dev);
}

/* Saved with half a frame delivered and others offered; loaded elsewhere, it goes on. */
static void test_save_and_load(void **state)
{
	(void)state;
	struct nic k, n;
	uint8_t frame[1000], buf[2048];
	int ends[2];
	begin(&k, false, F_PLAIN | F_MRG);
	fill(frame, sizeof(frame), 3);
	offer_buffer(&k, 0, 512);
	host_sends(&k, frame, sizeof(frame)); /* held: there is half the room */
	assert_int_equal(fd_used_index(&k.d, RX), 0);
	wire(ends);
	plug(&n, ends[1], false);
	n.ours = ends[0];
	copy_over(&k, &n);
	/* The copy lost the frame and tells the guest to announce itself; a new one arrives whole.
	 */
	run(&n);
	assert_int_equal(status(&n), STATUS_UP | STATUS_ANNOUNCE);
	assert_int_equal(command(&n, 3, 0), 0);
	assert_int_equal(status(&n), STATUS_UP);
	assert_int_equal(command(&n, 3, 1), 1);
	assert_int_equal(command(&n, 1, 0), 1);
	host_sends(&n, frame, 400);
	assert_true(came_back(&n, RX));
	ok_(gmem_read(n.d.g, GPA(IN + HDR), buf, 400));
	assert_memory_equal(buf, frame, 400);
	guest_sends(&n, NULL, frame, 100);
	assert_int_equal(host_gets(&n, buf, sizeof(buf)), 100);
	/* The original has no announcement to make, and the frame still. */
	assert_int_equal(status(&k), STATUS_UP);
	offer_buffer(&k, 1, 1000);
	run(&k);
	assert_int_equal(fd_used_index(&k.d, RX), 2);
	end(&n);
	end(&k);
	/* Offloads in use, and nothing behind the device that has them. */
	begin(&k, true, F_PLAIN | F_CSUM);
	wire(ends);
	plug(&n, ends[1], false);
	n.ours = ends[0];
	struct snap_part *from = &k.d.dev->dev.part;
	struct snap_part *to = &n.d.dev->dev.part;
	ok_(from->ops->fetch(from->self));
	memcpy(to->state, from->state, sizeof(struct virtio_net_state));
	struct err *e = to->ops->commit(to->self);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_INCOMPAT);
	err_free(e);
	end(&n);
	end(&k);
	/* Without a cable: down, and nothing is read or written. */
	plug(&n, -1, false);
	fd_start(&n.d, 3, F_PLAIN);
	n.ours = -1;
	assert_int_equal(status(&n), 0);
	guest_sends(&n, NULL, frame, 100);
	assert_true(came_back(&n, TX));
	fd_done(&n.d);
	ok_(desc_check_coverage(&virtio_net_desc));
}

/* Takes what was received in one frame, which may be in several buffers: the number in it, or 0. */
static uint32_t take_frame(struct nic *k)
{
	uint8_t buf[HDR + 18];
	uint32_t head, len;
	if (!fd_take(&k->d, RX, &head, &len)) {
		return 0;
	}
	assert_true(len >= sizeof(buf));
	ok_(gmem_read(k->d.g, GPA(IN + (uint64_t)head * IN_STEP), buf, sizeof(buf)));
	for (unsigned more = get_le16(buf + 10); more > 1; more--) {
		assert_true(fd_take(&k->d, RX, &head, &len)); /* all at once */
	}
	return get_le32(buf + HDR + 14);
}

/* A random walk of frames both ways, buffers of any size, carries to a new device: what arrives is
 * whole and in order, and what is sent arrives once. */
static void test_walk(void **state)
{
	(void)state;
	struct nic nics[2];
	struct nic *k = &nics[0];
	uint64_t seed = 12345;
	uint32_t next_in = 0, seen_in = 0, next_out = 0, seen_out = 0, got_in = 0;
	begin(k, false, F_PLAIN | F_MRG);
	for (unsigned step = 0; step < 20000; step++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		unsigned r = (unsigned)(seed >> 33);
		uint8_t frame[300] = { 0 };
		unsigned len = 18 + (r >> 8) % 200;
		switch (r % 6) {
		case 0:
			put_le32(frame + 14, next_out + 1);
			if (next_out - seen_out < 50) {
				next_out++;
				guest_sends(k, NULL, frame, len);
				assert_true(came_back(k, TX));
			}
			break;
		case 1:
			put_le32(frame + 14, next_in + 1);
			next_in += send(k->ours, frame, len, MSG_DONTWAIT) > 0;
			break;
		case 2:
			if ((uint16_t)(k->d.avail[RX] - k->d.used[RX]) < 5) {
				offer_buffer(k, k->d.avail[RX] % 16,
					     (r & 0x10000) != 0 ? 100 : 2048);
			}
			break;
		case 3:
			run(k);
			for (uint32_t v = take_frame(k); v != 0; v = take_frame(k)) {
				assert_true(v > seen_in && v <= next_in);
				seen_in = v;
				got_in++;
			}
			break;
		case 4:
			if (host_gets(k, frame, sizeof(frame)) > 0) {
				assert_int_equal(get_le32(frame + 14), ++seen_out);
			}
			break;
		default:
			if ((r >> 8) % 50 == 0) {
				struct nic *n = &nics[k == &nics[0]];
				plug(n, k->its, false);
				n->ours = k->ours;
				copy_over(k, n);
				fd_done(&k->d);
				k = n;
			}
			break;
		}
	}
	assert_true(got_in > 1000 && seen_out > 1000);
	end(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways),     cmocka_unit_test(test_merged),
		cmocka_unit_test(test_offloads),      cmocka_unit_test(test_busy_host),
		cmocka_unit_test(test_dead_host),     cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_save_and_load), cmocka_unit_test(test_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
