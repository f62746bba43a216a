/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of devices/virtio_console.c: both ways, a slow, an absent and a leaving host end, saved
 * in the middle of a chain, hostile chains, a random walk.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/serial_link.h"
#include "devices/virtio_console.h"
#include "tests/lib/fake_driver.h"
#include "tests/lib/tmp_root.h"

enum {
	RX = 0,
	TX = 1,
	IN = 0x200000, /* guest buffers */
	OUT = 0x400000,
	BIG = 300 * 1024, /* more than the backlog and a pipe take */
	EMERG = FD_CONFIG + 8,
};

struct fixture {
	struct fake_driver d;
	struct serial_link *link;
	int in[2];  /* pipe to the guest */
	int out[2]; /* pipe from it */
};

static void plug(struct fake_driver *d, struct serial_link *link)
{
	struct pci_dev *p = NULL;
	fd_init(d);
	ok_(virtio_console_new(&d->host.host, "console0", link, &p));
	fd_plug(d, p);
}

static void begin(struct fixture *f)
{
	assert_int_equal(pipe2(f->in, O_NONBLOCK), 0);
	assert_int_equal(pipe2(f->out, O_NONBLOCK), 0);
	ok_(serial_link_new(f->in[0], f->out[1], -1, &f->link));
	plug(&f->d, f->link);
}

static void end(struct fixture *f)
{
	fd_done(&f->d);
	serial_link_free(f->link);
	for (unsigned i = 0; i < 2; i++) {
		close(f->in[i]);
		close(f->out[i]);
	}
}

static void write_out(struct fake_driver *d, uint16_t head, const void *p, uint32_t len)
{
	fd_mem(d, OUT, p, len);
	fd_desc(d, TX, head, OUT, len, 0, 0);
	fd_offer(d, TX, head, true);
	fake_loop(&d->host);
}

static void offer_in(struct fake_driver *d, uint16_t head, uint32_t len)
{
	fd_desc(d, RX, head, IN + 0x1000ull * head, len, FD_WRITE, 0);
	fd_offer(d, RX, head, true);
	fake_loop(&d->host);
}

static void expect_from(int fd, const char *want)
{
	char buf[256];
	ssize_t n = read(fd, buf, sizeof(buf));
	assert_int_equal(n, strlen(want));
	assert_memory_equal(buf, want, (size_t)n);
}

static void expect_in(struct fake_driver *d, const char *want)
{
	uint32_t head = 0;
	uint32_t len = 0;
	char buf[64];
	assert_true(fd_take(d, RX, &head, &len));
	assert_int_equal(len, strlen(want));
	ok_(gmem_read(d->g, GPA(IN + 0x1000ull * head), buf, len));
	assert_memory_equal(buf, want, len);
}

static bool broken(struct fake_driver *d)
{
	return (fd_get(d, 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET) != 0;
}

static void test_traffic(void **state)
{
	(void)state;
	struct fixture f;
	struct fake_driver *d = &f.d;
	begin(&f);
	assert_int_equal(fd_ecam(d, PCI_DEVICE_ID, 2), 0x1043);
	assert_int_equal(fd_features(d) & 0xffffff, 1 << 2);
	assert_int_equal(write(f.in[1], "typed early", 11), 11);
	fd_start(d, 2, 1 << 2);
	fake_loop(&d->host);
	write_out(d, 0, "hello\n", 6);
	expect_from(f.out[0], "hello\n");
	assert_int_equal(fd_used_index(d, TX), 1);
	assert_int_equal(d->host.msi_data, 0x40 + TX);
	/* What was typed before the guest listened, in two buffers. */
	offer_in(d, 0, 6);
	expect_in(d, "typed ");
	assert_int_equal(d->host.msi_data, 0x40 + RX);
	offer_in(d, 1, 64);
	expect_in(d, "early");
	/* A buffer that waits gets what is typed later. */
	offer_in(d, 2, 64);
	assert_int_equal(fd_used_index(d, RX), 2);
	assert_int_equal(write(f.in[1], "late", 4), 4);
	fake_loop(&d->host);
	expect_in(d, "late");
	/* Output of two pieces, one empty driver buffer list: the ring's rules are virtq's. */
	fd_mem(d, OUT, "abcd", 4);
	fd_desc(d, TX, 3, OUT, 2, FD_NEXT, 4);
	fd_desc(d, TX, 4, OUT + 2, 2, 0, 0);
	fd_offer(d, TX, 3, true);
	fake_loop(&d->host);
	expect_from(f.out[0], "abcd");
	/* The end of input is not a reason to spin. */
	close(f.in[1]);
	f.in[1] = -1;
	offer_in(d, 5, 64);
	write_out(d, 0, "still", 5);
	expect_from(f.out[0], "still");
	end(&f);
}

static void test_emergency(void **state)
{
	(void)state;
	struct fixture f;
	begin(&f);
	/* Before any driver, as a single character of 32 bits. */
	fd_put(&f.d, EMERG, 4, 'X');
	expect_from(f.out[0], "X");
	assert_int_equal(fd_get(&f.d, EMERG, 4), 0);
	fd_put(&f.d, FD_CONFIG, 4, 'Y'); /* the size is not writable */
	assert_int_equal(fd_get(&f.d, FD_CONFIG, 4), 0);
	fd_put(&f.d, EMERG + 1, 1, 'Z');
	char c;
	assert_int_equal(read(f.out[0], &c, 1), -1);
	end(&f);
}

static void fill_pattern(uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		p[i] = (uint8_t)(i * 7 + i / 251);
	}
}

/* Reads what comes until nothing does, with the device served; appends to *at. */
static void drain(struct fake_driver *d, int fd, uint8_t *to, size_t *at)
{
	for (;;) {
		fake_loop(&d->host);
		ssize_t n = read(fd, to + *at, BIG - *at);
		if (n <= 0) {
			return;
		}
		*at += (size_t)n;
	}
}

/* Saved while a chain is half taken and the backlog is full: no byte is lost or doubled. */
static void test_save_in_chain(void **state)
{
	(void)state;
	struct fixture f, g;
	SCOPE(freep) uint8_t *want = malloc(BIG);
	SCOPE(freep) uint8_t *got = malloc(BIG);
	SCOPE(freep) uint8_t *mem = malloc(GMEM_MIN_BYTES);
	assert_true(want != NULL && got != NULL && mem != NULL);
	fill_pattern(want, BIG);
	begin(&f);
	fd_start(&f.d, 2, VIRTIO_F_EVENT_IDX);
	write_out(&f.d, 0, want, BIG);
	assert_int_equal(fd_used_index(&f.d, TX), 0); /* it waits for the reader */
	begin(&g);
	ok_(gmem_read(f.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	ok_(gmem_write(g.d.g, GPA(0), mem, GMEM_MIN_BYTES));
	memcpy(g.d.size, f.d.size, sizeof(g.d.size));
	memcpy(g.d.avail, f.d.avail, sizeof(g.d.avail));
	dev_carry_over(&f.d.dev->dev, &g.d.dev->dev);
	const struct virtio_console_state *st = f.d.dev->dev.part.state;
	assert_int_equal(st->out_count, VIRTIO_CONSOLE_OUT_BYTES);
	assert_true(st->sent > st->out_count && st->sent < BIG);
	/* What the first host end has, then what the second one gets. */
	size_t at = 0;
	for (ssize_t n; (n = read(f.out[0], got + at, BIG - at)) > 0;) {
		at += (size_t)n;
	}
	assert_int_equal(at, st->sent - st->out_count);
	drain(&g.d, g.out[0], got, &at);
	assert_int_equal(at, BIG);
	assert_memory_equal(want, got, BIG);
	assert_int_equal(fd_used_index(&g.d, TX), 1);
	/* A reset in the middle of a chain: the next one begins at its start. */
	fd_mem(&f.d, OUT, "again", 5);
	fd_start(&f.d, 2, 0);
	fd_desc(&f.d, TX, 0, OUT, 5, 0, 0);
	fd_offer(&f.d, TX, 0, true);
	at = 0;
	drain(&f.d, f.out[0], got, &at);
	assert_true(at >= 5);
	assert_memory_equal(got + at - 5, "again", 5);
	end(&g);
	end(&f);
}

static int dial(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)a, sizeof(*a)), 0);
	return fd;
}

/* Nobody on the socket: the guest is not held up, the newest output is kept, over a reset too. */
static void test_socket(void **state)
{
	(void)state;
	struct fake_driver d;
	struct serial_link *link = NULL;
	char dir[64];
	snprintf(dir, sizeof(dir), "%.40s/tcon.XXXXXX", tmp_root());
	assert_non_null(mkdtemp(dir));
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/c", dir);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 1), 0);
	ok_(serial_link_new(-1, -1, listener, &link));
	plug(&d, link);
	fd_start(&d, 2, 0);
	SCOPE(freep) uint8_t *big = calloc(1, BIG);
	assert_non_null(big);
	memcpy(big + BIG - 4, "tail", 4);
	write_out(&d, 0, big, BIG);
	assert_int_equal(fd_used_index(&d, TX), 1);
	fd_done(&d);
	plug(&d, link); /* the machine was built anew */
	fd_start(&d, 2, 0);
	fake_loop(&d.host);
	int c = dial(&a);
	fake_loop(&d.host);
	static uint8_t buf[VIRTIO_CONSOLE_OUT_BYTES + 1];
	ssize_t n = read(c, buf, sizeof(buf));
	assert_true(n > 4096 && n <= (ssize_t)VIRTIO_CONSOLE_OUT_BYTES);
	assert_memory_equal(buf + n - 4, "tail", 4);
	/* It types, leaves, and another one comes. */
	offer_in(&d, 0, 16);
	assert_int_equal(write(c, "one", 3), 3);
	fake_loop(&d.host);
	expect_in(&d, "one");
	close(c);
	fake_loop(&d.host);
	write_out(&d, 0, "for the next", 12);
	write_out(&d, 0, "!", 1);
	c = dial(&a);
	fake_loop(&d.host);
	n = read(c, buf, sizeof(buf));
	assert_true(n >= 1 && buf[n - 1] == '!');
	close(c);
	fake_loop(&d.host);
	fd_done(&d);
	serial_link_free(link);
	close(listener);
	unlink(a.sun_path);
	rmdir(dir);
}

static void test_hostile(void **state)
{
	(void)state;
	struct fixture f;
	struct fake_driver *d = &f.d;
	begin(&f);
	assert_int_equal(write(f.in[1], "x", 1), 1);
	/* Input without room, output with some. */
	fd_start(d, 2, 0);
	fd_desc(d, RX, 0, IN, 16, 0, 0);
	fd_offer(d, RX, 0, true);
	fake_loop(&d->host);
	assert_true(broken(d));
	fd_start(d, 2, 0);
	assert_false(broken(d));
	fd_desc(d, TX, 0, OUT, 16, FD_WRITE, 0);
	fd_offer(d, TX, 0, true);
	fake_loop(&d->host);
	assert_true(broken(d));
	/* All of memory, sixteen times in a chain, to a reader that takes nothing: a bounded turn
	 * each time, and the guest changes the chain meanwhile. */
	fd_start(d, 2, 0);
	for (unsigned i = 0; i < 16; i++) {
		fd_desc(d, TX, i, 0, GMEM_MIN_BYTES, i < 15 ? FD_NEXT : 0, (uint16_t)(i + 1));
	}
	fd_offer(d, TX, 0, true);
	fake_loop(&d->host);
	assert_int_equal(fd_used_index(d, TX), 0);
	fd_desc(d, TX, 0, OUT, 1, 0, 0);
	SCOPE(freep) uint8_t *sink = malloc(BIG);
	size_t at = 0;
	drain(d, f.out[0], sink, &at);
	assert_int_equal(fd_used_index(d, TX), 1);
	assert_false(broken(d));
	end(&f);
}

/* Any register, any ring entry: the device answers, saves and loads. */
static void test_walk(void **state)
{
	(void)state;
	struct fixture f;
	struct fake_driver *d = &f.d;
	begin(&f);
	unsigned seed = 1;
	SCOPE(freep) uint8_t *sink = malloc(BIG);
	assert_non_null(sink);
	for (unsigned i = 0; i < 4000; i++) {
		unsigned r = (unsigned)rand_r(&seed);
		unsigned q = r >> 4 & 1;
		switch (r % 8) {
		case 0:
			fd_put(d, (r >> 8 & 0x3fff) & ~3u, 4, (uint64_t)rand_r(&seed));
			break;
		case 1:
			(void)fd_get(d, (r >> 8 & 0x3fff) & ~3u, 4);
			break;
		case 2:
			fd_start(d, 2, (r & 256) != 0 ? VIRTIO_F_EVENT_IDX : 0);
			break;
		case 3:
			assert_int_not_equal(write(f.in[1], "walk", 4), 0); /* or it is full */
			drain(d, f.out[0], sink, &(size_t){ 0 });
			break;
		case 4: {
			struct snap_part *p = &d->dev->dev.part;
			ok_(p->ops->park(p->self));
			ok_(p->ops->fetch(p->self));
			ok_(p->ops->commit(p->self));
			p->ops->unpark(p->self);
			break;
		}
		default:
			d->size[q] = 16;
			fd_desc(d, q, r >> 8 & 15, (uint64_t)rand_r(&seed) % (20 << 20),
				r >> 12 & 0xffff, (uint16_t)((q == RX ? FD_WRITE : 0) | (r >> 30)),
				(uint16_t)(r >> 26 & 15));
			fd_offer(d, q, r >> 8 & 15, true);
			break;
		}
		fake_loop(&d->host);
	}
	fd_start(d, 2, 0);
	size_t at = 0;
	drain(d, f.out[0], sink, &at);
	write_out(d, 0, "sound", 5);
	expect_from(f.out[0], "sound");
	end(&f);
}

static void test_coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&virtio_console_desc));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_traffic),       cmocka_unit_test(test_emergency),
		cmocka_unit_test(test_save_in_chain), cmocka_unit_test(test_socket),
		cmocka_unit_test(test_hostile),       cmocka_unit_test(test_walk),
		cmocka_unit_test(test_coverage),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
