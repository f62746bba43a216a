/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio_vsock.c and virtio_vsock_conn.c: connections both ways with real Unix
 * sockets, credit both ways, half-closed ends, refusals, hostile packets, a restore.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/virtio_vsock.h"
#include "tests/lib/expect.h"
#include "tests/lib/fake_driver.h"
#include "tests/lib/tmp_root.h"

enum {
	CID = 7,
	RX = 0,
	TX = 1,
	EVENT = 2,
	HEADER = 44,
	BUF = 8192,        /* each of the driver's buffers */
	OUR_ROOM = 262144, /* the device's, of each connection */
	RX_AT = 0x400000,
	TX_AT = 0x600000,
	EVENT_AT = 0x700000,
	REQUEST = 1,
	RESPONSE = 2,
	RST = 3,
	SHUTDOWN = 4,
	RW = 5,
	UPDATE = 6,
	ASK = 7,
};

struct vs {
	struct fake_driver d;
	char dir[64];
	char path[80];
	int listen;
	uint32_t room; /* what the driver says of its buffer */
	uint32_t taken;
};

/* What the device sent. */
struct got {
	uint32_t from_port, to_port, len, flags, room, taken;
	uint16_t op;
	uint8_t data[BUF];
};

static int listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 64), 0);
	return fd;
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void give_rx(struct vs *s, uint16_t i)
{
	fd_desc(&s->d, RX, i, RX_AT + (uint64_t)i * BUF, BUF, FD_WRITE, 0);
	fd_offer(&s->d, RX, i, true);
}

static void plug(struct vs *s)
{
	struct pci_dev *p = NULL;
	fd_init(&s->d);
	const struct virtio_vsock_opts o = {
		.id = "vsock0", .cid = CID, .listen_fd = s->listen, .path = s->path
	};
	ok_(virtio_vsock_new(&s->d.host.host, &o, &p));
	fd_plug(&s->d, p);
}

static void begin(struct vs *s)
{
	*s = (struct vs){ .room = 65536 };
	snprintf(s->dir, sizeof(s->dir), "%.40s/tv.XXXXXX", tmp_root());
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/v", s->dir);
	s->listen = listen_at(s->path);
	plug(s);
	fd_start(&s->d, 3, 0);
	for (uint16_t i = 0; i < 8; i++) {
		give_rx(s, i);
	}
}

static void end(struct vs *s)
{
	char cmd[128];
	fd_done(&s->d);
	close(s->listen);
	snprintf(cmd, sizeof(cmd), "rm -rf -- '%s'", s->dir);
	assert_int_equal(system(cmd), 0);
}

/* A packet of the guest; serves the device. */
static void put(struct vs *s, uint16_t op, uint32_t from, uint32_t to, uint32_t flags,
		const void *data, uint32_t len)
{
	uint8_t h[HEADER] = { 0 };
	uint32_t head, n;
	put_le64(h, CID);
	put_le64(h + 8, VSOCK_CID_HOST);
	put_le32(h + 16, from);
	put_le32(h + 20, to);
	put_le32(h + 24, len);
	put_le16(h + 28, 1);
	put_le16(h + 30, op);
	put_le32(h + 32, flags);
	put_le32(h + 36, s->room);
	put_le32(h + 40, s->taken);
	fd_mem(&s->d, TX_AT, h, sizeof(h));
	if (len > 0) {
		fd_mem(&s->d, TX_AT + HEADER, data, len);
	}
	fd_desc(&s->d, TX, 0, TX_AT, HEADER + len, 0, 0);
	fd_offer(&s->d, TX, 0, true);
	fake_loop(&s->d.host);
	assert_true(fd_take(&s->d, TX, &head, &n));
}

/* The device's next packet; its buffer is given back. */
static bool get(struct vs *s, struct got *g)
{
	uint8_t h[HEADER];
	uint32_t head, n;
	fake_loop(&s->d.host);
	if (!fd_take(&s->d, RX, &head, &n)) {
		return false;
	}
	uint64_t at = RX_AT + (uint64_t)head * BUF;
	ok_(gmem_read(s->d.g, GPA(at), h, sizeof(h)));
	assert_int_equal(get_le64(h), VSOCK_CID_HOST);
	assert_int_equal(get_le64(h + 8), CID);
	assert_int_equal(get_le16(h + 28), 1);
	g->from_port = get_le32(h + 16);
	g->to_port = get_le32(h + 20);
	g->len = get_le32(h + 24);
	g->op = get_le16(h + 30);
	g->flags = get_le32(h + 32);
	g->room = get_le32(h + 36);
	g->taken = get_le32(h + 40);
	assert_int_equal(n, HEADER + g->len);
	if (g->len > 0) {
		ok_(gmem_read(s->d.g, GPA(at + HEADER), g->data, g->len));
	}
	give_rx(s, (uint16_t)head);
	return true;
}

static void want(struct vs *s, uint16_t op, uint32_t from, uint32_t to, struct got *g)
{
	assert_true(get(s, g));
	assert_int_equal(g->op, op);
	assert_int_equal(g->from_port, from);
	assert_int_equal(g->to_port, to);
}

static void nothing(struct vs *s)
{
	struct got g;
	assert_false(get(s, &g));
	assert_int_equal(fd_get(&s->d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

/* Guest port 1000 is connected with what listens at PATH_5; returns the host's end. */
static int from_guest(struct vs *s)
{
	char path[100];
	struct got g;
	snprintf(path, sizeof(path), "%s_5", s->path);
	int l = listen_at(path);
	put(s, REQUEST, 1000, 5, 0, NULL, 0);
	want(s, RESPONSE, 5, 1000, &g);
	assert_int_equal(g.room, OUR_ROOM);
	int fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	close(l);
	unlink(path);
	return fd;
}

static void test_from_guest(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	char buf[100];
	begin(&s);
	assert_int_equal(fd_get(&s.d, FD_CONFIG, 8), CID);
	put(&s, REQUEST, 1000, 5, 0, NULL, 0); /* nobody there */
	want(&s, RST, 5, 1000, &g);
	int fd = from_guest(&s);
	put(&s, RW, 1000, 5, 0, "question", 8);
	assert_int_equal(read(fd, buf, sizeof(buf)), 8);
	assert_memory_equal(buf, "question", 8);
	assert_int_equal(write(fd, "answer", 6), 6);
	want(&s, RW, 5, 1000, &g);
	assert_int_equal(g.len, 6);
	assert_memory_equal(g.data, "answer", 6);
	assert_int_equal(g.taken, 8);
	put(&s, ASK, 1000, 5, 0, NULL, 0);
	want(&s, UPDATE, 5, 1000, &g);
	assert_int_equal(g.taken, 8);
	/* The host says no more, but hears. */
	shutdown(fd, SHUT_WR);
	want(&s, SHUTDOWN, 5, 1000, &g);
	assert_int_equal(g.flags, 2);
	put(&s, RW, 1000, 5, 0, "still", 5);
	assert_int_equal(read(fd, buf, sizeof(buf)), 5);
	/* The guest ends, too: the host reads the end, the guest is told that all is done. */
	put(&s, SHUTDOWN, 1000, 5, 3, NULL, 0);
	want(&s, RST, 5, 1000, &g);
	assert_int_equal(read(fd, buf, sizeof(buf)), 0);
	close(fd);
	nothing(&s);
	/* The host is gone at once: what it said before arrives first. */
	fd = from_guest(&s);
	assert_int_equal(write(fd, "last", 4), 4);
	close(fd);
	want(&s, RW, 5, 1000, &g);
	want(&s, SHUTDOWN, 5, 1000, &g);
	assert_int_equal(g.flags, 3);
	put(&s, RST, 1000, 5, 0, NULL, 0);
	nothing(&s);
	end(&s);
}

static void test_from_host(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	char buf[100];
	begin(&s);
	/* One that sends more than the line, in pieces. */
	int fd = connect_to(s.path);
	assert_int_equal(write(fd, "CONN", 4), 4);
	nothing(&s);
	assert_int_equal(write(fd, "ECT 22\nhello", 12), 12);
	assert_true(get(&s, &g));
	assert_int_equal(g.op, REQUEST);
	assert_int_equal(g.to_port, 22);
	uint32_t port = g.from_port;
	nothing(&s); /* before the guest has answered nothing else comes */
	put(&s, RESPONSE, 22, port, 0, NULL, 0);
	int n = snprintf(buf, sizeof(buf), "OK %u\n", port);
	char back[100];
	assert_int_equal(read(fd, back, sizeof(back)), n);
	assert_memory_equal(back, buf, (size_t)n);
	want(&s, RW, port, 22, &g);
	assert_int_equal(g.len, 5);
	assert_int_equal(g.taken, 0); /* "OK" was not the guest's */
	/* Another one gets another port. */
	int other = connect_to(s.path);
	assert_int_equal(write(other, "CONNECT 22\n", 11), 11);
	assert_true(get(&s, &g));
	assert_int_not_equal(g.from_port, port);
	put(&s, RST, 22, g.from_port, 0, NULL, 0); /* refused by the guest */
	assert_int_equal(read(other, buf, sizeof(buf)), 0);
	close(other);
	/* What is no such line ends the connection, and the guest hears nothing. */
	static const char *const bad[] = { "CONNECT\n",
					   "CONNECT x\n",
					   "CONNECT 022\n",
					   "connect 1\n",
					   "CONNECT 4294967295\n",
					   "CONNECT 99999999999999999999\n",
					   "CONNECT 5 \n",
					   "\n",
					   "CONNECT 1234567890123456789012345" };
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		other = connect_to(s.path);
		assert_true(write(other, bad[i], strlen(bad[i])) > 0);
		nothing(&s);
		ssize_t end_of_it =
			read(other, buf, sizeof(buf)); /* an error if it left some unread */
		assert_true(end_of_it == 0 || (end_of_it < 0 && errno == ECONNRESET));
		close(other);
	}
	close(fd);
	end(&s);
}

static void test_credit(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	static uint8_t buf[200000];
	begin(&s);
	int fd = from_guest(&s);
	/* The guest has room for 100 bytes, then for 50 more. */
	s.room = 100;
	put(&s, UPDATE, 1000, 5, 0, NULL, 0);
	assert_int_equal(write(fd, buf, 1000), 1000);
	want(&s, RW, 5, 1000, &g);
	assert_int_equal(g.len, 100);
	nothing(&s);
	s.taken = 50;
	put(&s, UPDATE, 1000, 5, 0, NULL, 0);
	want(&s, RW, 5, 1000, &g);
	assert_int_equal(g.len, 50);
	/* A lie about what was taken gives no room. */
	s.taken = 5000;
	s.room = 0;
	put(&s, UPDATE, 1000, 5, 0, NULL, 0);
	nothing(&s);
	/* The host does not read: the guest may send as much as it was told, not a byte more. */
	s.room = 65536;
	int small = 4608;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	uint64_t out = 0, in = 0;
	uint32_t told = 0;
	s.taken = 150;
	for (unsigned i = 0; i < 4000 && out < 3000000; i++) {
		uint32_t len = (uint32_t)MIN(OUR_ROOM - (out - told), (uint64_t)4096);
		for (uint32_t k = 0; k < len; k++) {
			buf[k] = (uint8_t)((out + k) % 251);
		}
		if (len > 0) {
			put(&s, RW, 1000, 5, 0, buf, len);
			out += len;
		} else {
			ssize_t n = read(fd, buf, sizeof(buf));
			assert_true(n > 0);
			for (ssize_t k = 0; k < n; k++) {
				assert_int_equal(buf[k], (in + (uint64_t)k) % 251);
			}
			in += (uint64_t)n;
			put(&s, ASK, 1000, 5, 0, NULL, 0);
		}
		while (get(&s, &g)) {
			assert_true(g.op == UPDATE || g.op == RW);
			told = g.taken;
		}
	}
	assert_true(in > 1000000);
	/* Beyond it: reset. */
	for (unsigned i = 0; i < 1000; i++) {
		put(&s, RW, 1000, 5, 0, buf, 4096);
		if (get(&s, &g) && g.op == RST) {
			break;
		}
		assert_true(i < 999);
	}
	close(fd);
	end(&s);
}

static void test_hostile(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	begin(&s);
	/* For no connection: refused, but for a reset. Of unknown kinds, too. */
	for (uint16_t op = 0; op < 12; op++) {
		put(&s, op == REQUEST ? 99 : op, 1, 2, 0, NULL, 0);
		if (op != RST) {
			want(&s, RST, 2, 1, &g);
		}
		nothing(&s);
	}
	/* What an open connection does not know ends it. */
	static const uint16_t wrong[] = { 0, REQUEST, RESPONSE, 77 };
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		int fd = from_guest(&s);
		put(&s, wrong[i], 1000, 5, 0, NULL, 0);
		want(&s, RST, 5, 1000, &g);
		close(fd);
	}
	/* Many refusals without a buffer to tell them: taken only as far as they are kept. */
	fd_start(&s.d, 3, 0);
	uint8_t h[HEADER] = { 0 };
	put_le64(h, CID);
	put_le64(h + 8, VSOCK_CID_HOST);
	put_le16(h + 28, 1);
	put_le16(h + 30, RW);
	fd_mem(&s.d, TX_AT, h, sizeof(h));
	uint32_t head, n;
	unsigned taken = 0;
	for (unsigned i = 0; i < 100; i++) {
		fd_desc(&s.d, TX, 0, TX_AT, HEADER, 0, 0);
		fd_offer(&s.d, TX, 0, true);
		fake_loop(&s.d.host);
		if (!fd_take(&s.d, TX, &head, &n)) {
			break;
		}
		taken++;
	}
	assert_int_equal(taken, 64);
	for (uint16_t i = 0; i < 8; i++) {
		give_rx(&s, i);
	}
	fake_loop(&s.d.host);
	assert_true(fd_take(&s.d, TX, &head, &n)); /* it went on */
	/* Headers that lie, buffers without room: the device asks for a reset. */
	fd_start(&s.d, 3, 0);
	put_le32(h + 24, 10);
	fd_mem(&s.d, TX_AT, h, sizeof(h));
	fd_desc(&s.d, TX, 0, TX_AT, HEADER + 9, 0, 0);
	fd_offer(&s.d, TX, 0, true);
	fake_loop(&s.d.host);
	assert_int_not_equal(fd_get(&s.d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
	fd_start(&s.d, 3, 0);
	fd_desc(&s.d, TX, 0, TX_AT, HEADER - 1, 0, 0);
	fd_offer(&s.d, TX, 0, true);
	fake_loop(&s.d.host);
	assert_int_not_equal(fd_get(&s.d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
	fd_start(&s.d, 3, 0);
	put_le32(h + 24, 0);
	fd_mem(&s.d, TX_AT, h, sizeof(h));
	fd_desc(&s.d, RX, 0, RX_AT, HEADER, FD_WRITE, 0);
	fd_offer(&s.d, RX, 0, true);
	fd_desc(&s.d, TX, 0, TX_AT, HEADER, 0, 0);
	fd_offer(&s.d, TX, 0, true);
	fake_loop(&s.d.host);
	assert_int_not_equal(fd_get(&s.d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET, 0);
	end(&s);
}

/* More connections than there is room for, from both sides. */
static void test_many(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	static int fds[300];
	unsigned n = 0;
	begin(&s);
	for (; n < 256; n++) {
		fds[n] = connect_to(s.path);
		assert_true(write(fds[n], "CONNECT 9\n", 10) > 0);
		assert_true(get(&s, &g));
		assert_int_equal(g.op, REQUEST);
	}
	char b;
	int more = connect_to(s.path);
	nothing(&s);
	assert_int_equal(read(more, &b, 1), 0);
	close(more);
	put(&s, REQUEST, 1, 5, 0, NULL, 0);
	want(&s, RST, 5, 1, &g);
	while (n > 0) {
		close(fds[--n]);
	}
	end(&s);
}

/* After a restore the guest is told; old connections are not known, new ones work. */
static void test_restore(void **state)
{
	(void)state;
	struct vs s;
	struct got g;
	char b;
	begin(&s);
	int fd = from_guest(&s);
	const struct snap_part *p = &s.d.dev->dev.part;
	ok_(p->ops->fetch(p->self));
	put(&s, RW, 1000, 5, 0, "x", 1); /* a take that is no end: it goes on */
	assert_int_equal(read(fd, &b, 1), 1);
	struct virtio_vsock_state saved = *(const struct virtio_vsock_state *)p->state;
	uint8_t *mem = malloc(GMEM_MIN_BYTES);
	ok_(gmem_read(s.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	struct vs n = s;
	plug(&n);
	ok_(gmem_write(n.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	free(mem);
	memcpy(n.d.avail, s.d.avail, sizeof(n.d.avail));
	memcpy(n.d.used, s.d.used, sizeof(n.d.used));
	memcpy(n.d.size, s.d.size, sizeof(n.d.size));
	fd_done(&s.d);
	assert_int_equal(read(fd, &b, 1), 0);
	close(fd);
	p = &n.d.dev->dev.part;
	memcpy(p->state, &saved, sizeof(saved));
	ok_(p->ops->commit(p->self));
	n.d.used[TX]--; /* it was taken after the fetch */
	fake_loop(&n.d.host);
	uint32_t head, len;
	assert_false(fd_take(&n.d, EVENT, &head, &len)); /* no buffer yet */
	fd_desc(&n.d, EVENT, 0, EVENT_AT, 8, FD_WRITE, 0);
	uint8_t ev[4] = { 9, 9, 9, 9 };
	fd_mem(&n.d, EVENT_AT, ev, sizeof(ev));
	fd_offer(&n.d, EVENT, 0, true);
	fake_loop(&n.d.host);
	assert_true(fd_take(&n.d, EVENT, &head, &len));
	assert_int_equal(len, 4);
	ok_(gmem_read(n.d.g, GPA(EVENT_AT), ev, 4));
	assert_int_equal(get_le32(ev), 0);
	fd_desc(&n.d, EVENT, 0, EVENT_AT, 8, FD_WRITE, 0);
	fd_offer(&n.d, EVENT, 0, true);
	fake_loop(&n.d.host);
	assert_false(fd_take(&n.d, EVENT, &head, &len)); /* once */
	(void)g;
	end(&n);
}

static void test_coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&virtio_vsock_desc));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_from_guest), cmocka_unit_test(test_from_host),
		cmocka_unit_test(test_credit),     cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_many),       cmocka_unit_test(test_restore),
		cmocka_unit_test(test_coverage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
