/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/serial.c: registers, interrupts, FIFO, the saved state, a hostile guest. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "devices/serial.h"
#include "tests/lib/fake_host.h"

enum { DATA = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { GSI = 4, RTS = 0x02, LOOP = 0x10, DR = 0x01, OE = 0x02, THRE = 0x20, TEMT = 0x40 };

/* A port with a pipe at either side. */
struct rig {
	struct fake_host f;
	struct device *dev;
	int in;  /* the test writes here */
	int out; /* the test reads here */
	int dev_in, dev_out;
};

static void rig_init(struct rig *r)
{
	int a[2];
	int b[2];
	assert_int_equal(pipe2(a, O_CLOEXEC), 0);
	assert_int_equal(pipe2(b, O_CLOEXEC), 0);
	*r = (struct rig){ .in = a[1], .dev_in = a[0], .out = b[0], .dev_out = b[1] };
	assert_int_equal(fcntl(r->out, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(fcntl(r->in, F_SETFL, O_NONBLOCK), 0);
	fake_host_init(&r->f);
	ok_(serial_new(&r->f.host, 0x3f8, GSI, r->dev_in, r->dev_out, -1, &r->dev));
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
	if (r->in >= 0) {
		close(r->in);
	}
	if (r->out >= 0) {
		close(r->out);
	}
	close(r->dev_in);
	close(r->dev_out);
}

static uint8_t in(struct rig *r, unsigned reg)
{
	return dev_in(r->dev, 0, reg);
}

static void out(struct rig *r, unsigned reg, unsigned v)
{
	dev_out(r->dev, 0, reg, v);
}

static void say(struct rig *r, const char *text)
{
	for (; *text != '\0'; text++) {
		out(r, DATA, (uint8_t)*text);
	}
}

static void type(struct rig *r, const char *text)
{
	assert_int_equal(write(r->in, text, strlen(text)), strlen(text));
	fake_loop(&r->f);
}

/* What came out since the last look. */
static const char *heard(struct rig *r)
{
	static char text[65536];
	ssize_t n = read(r->out, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* ---- registers ---- */

static void reset_values(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(in(&r, IER), 0);
	assert_int_equal(in(&r, IIR), 0x01);
	assert_int_equal(in(&r, LSR), THRE | TEMT);
	assert_int_equal(in(&r, MSR), 0xb0);
	assert_int_equal(in(&r, MCR), 0);
	assert_int_equal(r.f.level[GSI], false);
	rig_done(&r);
}

static void registers_keep_what_they_should(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, IER, 0xf0);
	assert_int_equal(in(&r, IER), 0);
	out(&r, LCR, 0x80);
	out(&r, DATA, 0x34);
	out(&r, IER, 0x12);
	assert_int_equal(in(&r, DATA), 0x34);
	assert_int_equal(in(&r, IER), 0x12);
	out(&r, LCR, 0x1b);
	assert_int_equal(in(&r, LCR), 0x1b);
	assert_int_equal(in(&r, IER), 0);
	assert_int_equal(in(&r, DATA), 0); /* no data: not the divisor */
	for (unsigned v = 0; v < 256; v++) {
		out(&r, SCR, v);
		assert_int_equal(in(&r, SCR), v);
	}
	out(&r, MCR, 0xef);
	assert_int_equal(in(&r, MCR), 0x0f);
	out(&r, LSR, 0xff); /* read-only */
	out(&r, MSR, 0xff);
	assert_int_equal(in(&r, LSR), THRE | TEMT);
	assert_int_equal(in(&r, MSR), 0xb0);
	assert_string_equal(heard(&r), "");
	/* FIFO presence in IIR. */
	out(&r, FCR, 0x01);
	assert_int_equal(in(&r, IIR), 0xc1);
	out(&r, FCR, 0xc0); /* trigger bits without FIFOs do not stick */
	assert_int_equal(in(&r, IIR), 0x01);
	rig_done(&r);
}

/* The steps of the Linux 8250 probe and start-up that tell a 16550A from its kin. */
static void linux_probe(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, IER, 0);
	assert_int_equal(in(&r, IER) & 0x0f, 0);
	out(&r, IER, 0x0f);
	assert_int_equal(in(&r, IER) & 0x0f, 0x0f);
	out(&r, IER, 0);
	out(&r, MCR, LOOP | 0x0a);
	assert_int_equal(in(&r, MSR) & 0xf0, 0x90);
	out(&r, MCR, 0);
	out(&r, LCR, 0xbf);
	out(&r, FCR, 0);
	out(&r, LCR, 0);
	out(&r, FCR, 0x01);
	assert_int_equal(in(&r, IIR) >> 6, 3);
	/* The test for transmit interrupts that come twice. */
	out(&r, IER, 0x02);
	assert_int_equal(in(&r, IIR) & 0x0f, 0x02);
	out(&r, IER, 0x00);
	out(&r, IER, 0x02);
	assert_int_equal(in(&r, IIR) & 0x0f, 0x02);
	assert_int_equal(in(&r, IIR) & 0x0f, 0x01);
	out(&r, IER, 0x00);
	rig_done(&r);
}

static void wide_access_is_one_per_byte(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	r.dev->ops->write(r.dev, 0, LCR, 2, 0x0f03); /* LCR 3, MCR 0xf */
	uint64_t v = 0;
	r.dev->ops->read(r.dev, 0, LCR, 2, &v);
	assert_true(v == 0x0f03);
	r.dev->ops->read(r.dev, 0, SCR, 4, &v);
	assert_true(v == 0xffffff00); /* nothing behind the last register */
	rig_done(&r);
}

/* ---- output ---- */

static void a_line_goes_out_at_once(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	say(&r, "hello");
	assert_string_equal(heard(&r), "");
	say(&r, "\n");
	assert_string_equal(heard(&r), "hello\n");
	/* A prompt without newline follows a little later. */
	say(&r, "login: ");
	assert_string_equal(heard(&r), "");
	fake_advance(&r.f, 1000000);
	assert_string_equal(heard(&r), "login: ");
	/* Much text without newline goes at 64 bytes. */
	for (unsigned i = 0; i < 64; i++) {
		say(&r, "x");
	}
	assert_int_equal(strlen(heard(&r)), 64);
	rig_done(&r);
}

static void thre_interrupt(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, IER, 0x02); /* enabling with an empty THR raises it */
	assert_true(r.f.level[GSI]);
	assert_int_equal(in(&r, IIR), 0x02);
	assert_false(r.f.level[GSI]); /* reading IIR acknowledged */
	assert_int_equal(in(&r, IIR), 0x01);
	out(&r, DATA, 'a'); /* sent at once: empty again */
	assert_true(r.f.level[GSI]);
	out(&r, IER, 0);
	assert_false(r.f.level[GSI]);
	rig_done(&r);
}

static void a_slow_reader_makes_thr_full(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	assert_int_equal(fcntl(r.out, F_SETPIPE_SZ, 4096), 4096);
	unsigned written = 0;
	while ((in(&r, LSR) & THRE) != 0) {
		for (unsigned i = 0; i < 16; i++) { /* a FIFO's worth, as drivers do */
			out(&r, DATA, 'a' + written++ % 26);
		}
		assert_true(written < 1000000);
	}
	assert_true(written > SERIAL_OUT_BYTES);
	assert_int_equal(in(&r, LSR) & TEMT, 0);
	out(&r, IER, 0x02);
	assert_false(r.f.level[GSI]);
	/* The reader comes back: every byte, in order, and the interrupt. */
	unsigned got = 0;
	while (got < written) {
		const char *text = heard(&r);
		assert_true(text[0] != '\0');
		for (; *text != '\0'; text++) {
			assert_int_equal(*text, 'a' + got++ % 26);
		}
		fake_loop(&r.f);
	}
	assert_int_equal(got, written);
	assert_true(r.f.level[GSI]);
	assert_int_equal(in(&r, IIR), 0x02);
	assert_int_equal(in(&r, LSR) & THRE, THRE);
	rig_done(&r);
}

static void a_broken_pipe_drops_output(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	close(r.out);
	r.out = -1;
	for (unsigned i = 0; i < 100000; i++) {
		assert_int_equal(in(&r, LSR) & THRE, THRE);
		out(&r, DATA, i % 50 == 0 ? '\n' : 'x');
	}
	type(&r, ""); /* the loop does not spin */
	rig_done(&r);
}

static void no_descriptors_at_all(void **state)
{
	(void)state;
	struct fake_host f;
	struct device *dev;
	fake_host_init(&f);
	ok_(serial_new(&f.host, 0x3f8, GSI, -1, -1, -1, &dev));
	for (unsigned i = 0; i < 40000; i++) {
		assert_int_equal(dev_in(dev, 0, LSR), THRE | TEMT);
		dev_out(dev, 0, DATA, 'x');
	}
	fake_loop(&f);
	dev->ops->free(dev);
}

/* ---- input ---- */

static void input_interrupts_and_is_read(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, FCR, 0x01 | 0x40); /* FIFO, trigger at 4 */
	out(&r, IER, 0x01);
	type(&r, "abc");
	assert_true(r.f.level[GSI]);
	assert_int_equal(in(&r, IIR), 0xcc); /* below the trigger: timed out */
	type(&r, "d");
	assert_int_equal(in(&r, IIR), 0xc4);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(in(&r, LSR) & DR, DR);
		assert_true(r.f.level[GSI]);
		assert_int_equal(in(&r, DATA), 'a' + i);
	}
	assert_int_equal(in(&r, LSR) & DR, 0);
	assert_false(r.f.level[GSI]);
	assert_int_equal(r.f.rises[GSI], 1);
	rig_done(&r);
}

static void input_waits_in_the_descriptor(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	type(&r, "0123456789abcdefghijklmnopqrstuv");
	out(&r, FCR, 0x07); /* a driver's start-up: clears FIFOs before it listens */
	out(&r, FCR, 0x00);
	in(&r, DATA);
	out(&r, MCR, RTS);
	out(&r, IER, 0x01);
	fake_loop(&r.f);
	out(&r, FCR, 0x01); /* keeps the byte that is there */
	const char *want = "0123456789abcdefghijklmnopqrstuv";
	for (unsigned i = 0; i < 32; i++) {
		fake_loop(&r.f);
		assert_int_equal(in(&r, LSR) & (DR | OE), DR);
		assert_int_equal(in(&r, DATA), want[i]);
	}
	assert_int_equal(in(&r, LSR) & DR, 0);
	rig_done(&r);
}

static void the_fifo_holds_sixteen(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, FCR, 0x01);
	out(&r, MCR, RTS);
	type(&r, "0123456789abcdefXYZ");
	/* Three bytes stayed behind. */
	char rest[8];
	assert_int_equal(fcntl(r.dev_in, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(read(r.dev_in, rest, sizeof(rest)), 3);
	assert_memory_equal(rest, "XYZ", 3);
	out(&r, FCR, 0x03); /* clear */
	assert_int_equal(in(&r, LSR) & DR, 0);
	rig_done(&r);
}

static void a_polling_guest_gets_input(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	type(&r, "k");
	unsigned polls = 0;
	while ((in(&r, LSR) & DR) == 0) {
		fake_loop(&r.f);
		assert_true(++polls < 100);
	}
	assert_int_equal(in(&r, DATA), 'k');
	rig_done(&r);
}

static void end_of_input_is_quiet(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, MCR, RTS);
	out(&r, FCR, 0x01);
	type(&r, "z");
	close(r.in);
	r.in = -1;
	fake_loop(&r.f); /* fails if it would spin */
	assert_int_equal(in(&r, DATA), 'z');
	fake_loop(&r.f);
	assert_int_equal(in(&r, LSR) & DR, 0);
	say(&r, "still here\n");
	assert_string_equal(heard(&r), "still here\n");
	rig_done(&r);
}

static void input_from_a_file(void **state)
{
	(void)state;
	FILE *file = tmpfile();
	assert_non_null(file);
	fputs("from a file that epoll refuses", file);
	rewind(file);
	struct fake_host f;
	struct device *dev;
	fake_host_init(&f);
	ok_(serial_new(&f.host, 0x3f8, GSI, fileno(file), -1, -1, &dev));
	dev_out(dev, 0, FCR, 0x01);
	dev_out(dev, 0, IER, 0x01);
	char got[64] = "";
	for (unsigned n = 0; (dev_in(dev, 0, LSR) & DR) != 0; n++) {
		got[n] = (char)dev_in(dev, 0, DATA);
	}
	assert_string_equal(got, "from a file that epoll refuses");
	assert_false(f.level[GSI]);
	dev->ops->free(dev);
	fclose(file);
}

/* ---- loopback and modem lines ---- */

static void loopback(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, FCR, 0x01);
	out(&r, MCR, LOOP);
	in(&r, MSR);
	out(&r, IER, 0x04);
	for (unsigned i = 0; i < 16; i++) {
		out(&r, DATA, i);
	}
	assert_false(r.f.level[GSI]);
	out(&r, DATA, 99); /* one too many */
	assert_true(r.f.level[GSI]);
	assert_int_equal(in(&r, IIR), 0xc6);
	assert_int_equal(in(&r, LSR) & OE, OE);
	assert_false(r.f.level[GSI]);
	assert_int_equal(in(&r, LSR) & OE, 0);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(in(&r, DATA), i);
	}
	assert_string_equal(heard(&r), ""); /* nothing left the machine */
	rig_done(&r);
}

static void modem_lines(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	out(&r, MCR, LOOP); /* CTS, DSR, DCD fall */
	out(&r, IER, 0x08);
	assert_true(r.f.level[GSI]);
	assert_int_equal(in(&r, IIR), 0x00);
	assert_int_equal(in(&r, MSR), 0x0b);
	assert_false(r.f.level[GSI]);
	static const uint8_t lines[16] = { 0x00, 0x20, 0x10, 0x30, 0x40, 0x60, 0x50, 0x70,
					   0x80, 0xa0, 0x90, 0xb0, 0xc0, 0xe0, 0xd0, 0xf0 };
	for (unsigned v = 0; v < 16; v++) {
		out(&r, MCR, LOOP | v);
		assert_int_equal(in(&r, MSR) & 0xf0, lines[v]);
	}
	/* RI counts when it ends. */
	out(&r, MCR, LOOP);
	in(&r, MSR);
	out(&r, MCR, LOOP | 0x04);
	assert_int_equal(in(&r, MSR), 0x40);
	out(&r, MCR, LOOP);
	assert_int_equal(in(&r, MSR), 0x04);
	rig_done(&r);
}

/* ---- saved state ---- */

static void coverage(void **state)
{
	(void)state;
	ok_(desc_check_coverage(&serial_desc));
}

static void carried_over_mid_output(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	assert_int_equal(fcntl(a.out, F_SETPIPE_SZ, 4096), 4096);
	unsigned written = 0;
	for (; written < 10000; written++) {
		out(&a, DATA, 'a' + written % 26);
	}
	out(&a, IER, 0x02);
	dev_carry_over(a.dev, b.dev);
	/* First what the first process put out, then what the second does: nothing lost or doubled.
	 */
	unsigned got = 0;
	for (const char *t = heard(&a); *t != '\0'; t++) {
		assert_int_equal(*t, 'a' + got++ % 26);
	}
	assert_true(got >= 4096 && got < written);
	fake_advance(&b.f, 1);
	fake_loop(&b.f);
	for (const char *t = heard(&b); *t != '\0'; t++) {
		assert_int_equal(*t, 'a' + got++ % 26);
	}
	assert_int_equal(got, written);
	assert_int_equal(in(&b, IER), 0x02);
	rig_done(&a);
	rig_done(&b);
}

static void carried_over_mid_line(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	say(&a, "half a ");
	dev_carry_over(a.dev, b.dev);
	assert_string_equal(heard(&a), "half a "); /* flushed by the park */
	say(&b, "line\n");
	assert_string_equal(heard(&b), "line\n");
	rig_done(&a);
	rig_done(&b);
}

static void carried_over_with_input(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	out(&a, FCR, 0xc1);
	out(&a, IER, 0x01);
	out(&a, LCR, 0x83);
	out(&a, DATA, 0x42);
	out(&a, LCR, 0x03);
	out(&a, SCR, 0x99);
	type(&a, "0123456789abcdefTAIL");
	ok_(a.dev->part.ops->park(a.dev->part.self));
	/* Parked: input stays where it is. */
	in(&a, SCR);
	a.dev->ops->on_fd(a.dev, POLLIN);
	dev_carry_over(a.dev, b.dev);
	assert_int_equal(b.f.rises[GSI], 0); /* the irqchip has the line already */
	assert_int_equal(in(&b, SCR), 0x99);
	assert_int_equal(in(&b, IIR), 0xc4);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(in(&b, DATA), "0123456789abcdef"[i]);
	}
	type(&b, "x");
	assert_int_equal(in(&b, DATA), 'x');
	out(&b, LCR, 0x80);
	assert_int_equal(in(&b, DATA), 0x42);
	/* The first one goes on, too, if it is let. */
	a.dev->part.ops->unpark(a.dev->part.self);
	assert_int_equal(in(&a, DATA), '0');
	fake_loop(&a.f);
	for (unsigned i = 1; i < 20; i++) {
		assert_int_equal(in(&a, DATA), "0123456789abcdefTAIL"[i]);
		fake_loop(&a.f);
	}
	rig_done(&a);
	rig_done(&b);
}

/* The line was busy when saved; where it is loaded it is free: the guest hears of it. */
static void a_waiting_guest_is_woken_after_a_load(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	assert_int_equal(fcntl(a.out, F_SETPIPE_SZ, 4096), 4096);
	while ((in(&a, LSR) & THRE) != 0) {
		out(&a, DATA, '.');
	}
	out(&a, IER, 0x02);
	assert_false(a.f.level[GSI]);
	dev_carry_over(a.dev, b.dev);
	fake_advance(&b.f, 1);
	fake_loop(&b.f);
	assert_true(b.f.level[GSI]);
	assert_int_equal(in(&b, IIR), 0x02);
	rig_done(&a);
	rig_done(&b);
}

static void broken_states_are_refused(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	SCOPE(freep) struct serial_state *st = calloc(1, sizeof(*st));
	for (unsigned i = 0; i < 6; i++) {
		*st = (struct serial_state){ 0 };
		switch (i) {
		case 0:
			st->fcr = 0x02;
			break;
		case 1:
			st->fcr = 0xc0; /* trigger bits without FIFOs */
			break;
		case 2:
			st->rx_count = 2; /* in a FIFO of one */
			break;
		case 3:
			st->lsr_err = 0x60;
			break;
		case 4:
			st->ier = 0x10;
			break;
		case 5:
			st->mcr = 0x20;
			break;
		}
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(1u << 20);
		struct err *e = desc_encode(&serial_desc, 0, st, &w);
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_CORRUPT);
		err_free(e);
	}
	rig_done(&r);
}

/* ---- a hostile guest ---- */

static uint64_t random_next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void check_state(struct device *dev, const struct fake_host *f)
{
	ok_(dev->part.ops->fetch(dev->part.self));
	const struct serial_state *st = dev->part.state;
	ok_(serial_desc.check(st));
	assert_true(st->out_count <= SERIAL_OUT_BYTES && st->rx_count <= SERIAL_FIFO_BYTES);
	bool cause = ((st->ier & 1) != 0 && st->rx_count > 0) ||
		     ((st->ier & 2) != 0 && st->thre_pending) ||
		     ((st->ier & 4) != 0 && st->lsr_err != 0) ||
		     ((st->ier & 8) != 0 && st->msr_delta != 0);
	assert_int_equal(f->level[GSI], cause);
}

static void random_walk(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	uint64_t s = 0x7042706f72ull;
	static const unsigned lens[] = { 1, 2, 4, 8 };
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t x = random_next(&s);
		unsigned off = (unsigned)(x & 7);
		unsigned len = lens[(x >> 3) & 3];
		uint64_t v = random_next(&s);
		switch ((x >> 5) & 15) {
		case 0:
			(void)!write(r.in, &v, 8);
			fake_loop(&r.f);
			break;
		case 1:
			heard(&r);
			fake_loop(&r.f);
			break;
		case 2:
			fake_advance(&r.f, v % 2000000);
			break;
		case 3:
			ok_(r.dev->part.ops->park(r.dev->part.self));
			fake_advance(&r.f, 1000);
			r.dev->part.ops->unpark(r.dev->part.self);
			break;
		case 4:
		case 5:
		case 6:
		case 7:
		case 8:
			r.dev->ops->read(r.dev, 0, off, len, &v);
			break;
		default:
			r.dev->ops->write(r.dev, 0, off, len, v);
			break;
		}
		if (i % 16 == 0) {
			check_state(r.dev, &r.f);
		}
	}
	rig_done(&r);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN); /* as the program does */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_values),
		cmocka_unit_test(registers_keep_what_they_should),
		cmocka_unit_test(linux_probe),
		cmocka_unit_test(wide_access_is_one_per_byte),
		cmocka_unit_test(a_line_goes_out_at_once),
		cmocka_unit_test(thre_interrupt),
		cmocka_unit_test(a_slow_reader_makes_thr_full),
		cmocka_unit_test(a_broken_pipe_drops_output),
		cmocka_unit_test(no_descriptors_at_all),
		cmocka_unit_test(input_interrupts_and_is_read),
		cmocka_unit_test(input_waits_in_the_descriptor),
		cmocka_unit_test(the_fifo_holds_sixteen),
		cmocka_unit_test(a_polling_guest_gets_input),
		cmocka_unit_test(end_of_input_is_quiet),
		cmocka_unit_test(input_from_a_file),
		cmocka_unit_test(loopback),
		cmocka_unit_test(modem_lines),
		cmocka_unit_test(coverage),
		cmocka_unit_test(carried_over_mid_output),
		cmocka_unit_test(carried_over_mid_line),
		cmocka_unit_test(carried_over_with_input),
		cmocka_unit_test(a_waiting_guest_is_woken_after_a_load),
		cmocka_unit_test(broken_states_are_refused),
		cmocka_unit_test(random_walk),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
