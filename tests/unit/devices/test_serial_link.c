/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/serial_link.c: a serial port on a listening Unix socket. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "devices/serial.h"
#include "devices/serial_link.h"
#include "tests/lib/fake_host.h"

enum { DATA = 0, IER = 1, FCR = 2, MCR = 4, LSR = 5, GSI = 4, RTS = 2, DR = 1, THRE = 0x20 };

struct rig {
	struct fake_host f;
	struct device *dev;
	int listen;
	struct sockaddr_un addr;
	socklen_t addr_len;
};

static void rig_init(struct rig *r)
{
	*r = (struct rig){ 0 };
	r->listen = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r->addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	/* An abstract name of the kernel's choice: nothing to clean up. */
	assert_int_equal(bind(r->listen, (struct sockaddr *)&r->addr, sizeof(sa_family_t)), 0);
	r->addr_len = sizeof(r->addr);
	assert_int_equal(getsockname(r->listen, (struct sockaddr *)&r->addr, &r->addr_len), 0);
	assert_int_equal(listen(r->listen, 4), 0);
	fake_host_init(&r->f);
	ok_(serial_new(&r->f.host, 0x3f8, GSI, -1, -1, r->listen, &r->dev));
	dev_out(r->dev, 0, FCR, 1);
	dev_out(r->dev, 0, MCR, RTS);
}

static void rig_done(struct rig *r)
{
	r->dev->ops->free(r->dev);
	close(r->listen);
}

static int join(struct rig *r)
{
	int c = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(connect(c, (struct sockaddr *)&r->addr, r->addr_len), 0);
	fake_loop(&r->f);
	return c;
}

static void say(struct rig *r, const char *text)
{
	for (; *text != '\0'; text++) {
		dev_out(r->dev, 0, DATA, (uint8_t)*text);
	}
}

/* All that is there; NULL at the end of the connection. */
static const char *heard(int c)
{
	static char text[65536];
	ssize_t n = read(c, text, sizeof(text) - 1);
	if (n == 0) {
		return NULL;
	}
	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void a_client_talks_both_ways(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int c = join(&r);
	say(&r, "hello\n");
	assert_string_equal(heard(c), "hello\n");
	assert_int_equal(write(c, "yes", 3), 3);
	fake_loop(&r.f);
	assert_int_equal(dev_in(r.dev, 0, DATA), 'y');
	assert_int_equal(dev_in(r.dev, 0, DATA), 'e');
	assert_int_equal(dev_in(r.dev, 0, DATA), 's');
	close(c);
	rig_done(&r);
}

static void output_waits_for_a_client(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	say(&r, "nobody hears\nthis");
	fake_advance(&r.f, 2000000);
	int c = join(&r);
	assert_string_equal(heard(c), "nobody hears\nthis");
	close(c);
	fake_loop(&r.f);
	/* The oldest bytes make room; the guest is never held up. */
	for (unsigned i = 0; i < SERIAL_OUT_BYTES + 1000; i++) {
		assert_int_equal(dev_in(r.dev, 0, LSR) & THRE, THRE);
		dev_out(r.dev, 0, DATA, 'a' + i % 26);
	}
	c = join(&r);
	const char *text = heard(c);
	assert_int_equal(strlen(text), SERIAL_OUT_BYTES);
	for (unsigned i = 0; i < SERIAL_OUT_BYTES; i++) {
		assert_int_equal(text[i], 'a' + (i + 1000) % 26);
	}
	close(c);
	rig_done(&r);
}

static void one_client_at_a_time(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int a = join(&r);
	int b = join(&r); /* waits in the queue of the socket */
	say(&r, "for a\n");
	assert_string_equal(heard(a), "for a\n");
	assert_string_equal(heard(b), "");
	close(a);
	fake_loop(&r.f);
	say(&r, "for b\n");
	assert_string_equal(heard(b), "for b\n");
	close(b);
	rig_done(&r);
}

static void a_client_that_only_stops_typing_still_hears(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int c = join(&r);
	assert_int_equal(write(c, "q", 1), 1);
	assert_int_equal(shutdown(c, SHUT_WR), 0);
	fake_loop(&r.f);
	assert_int_equal(dev_in(r.dev, 0, DATA), 'q');
	fake_loop(&r.f);
	say(&r, "answer\n");
	assert_string_equal(heard(c), "answer\n");
	close(c);
	fake_loop(&r.f); /* now it is gone, and the next may come */
	c = join(&r);
	say(&r, "next\n");
	assert_string_equal(heard(c), "next\n");
	close(c);
	rig_done(&r);
}

static void a_client_leaves_with_input_unread(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int c = join(&r);
	char typed[100];
	memset(typed, 'x', sizeof(typed));
	assert_int_equal(write(c, typed, sizeof(typed)), sizeof(typed));
	fake_loop(&r.f);
	close(c);
	fake_loop(&r.f);
	say(&r, "to whom?\n"); /* finds nobody: kept */
	c = join(&r);
	assert_string_equal(heard(c), "to whom?\n");
	close(c);
	rig_done(&r);
}

static void a_slow_client_makes_thr_full_until_it_leaves(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int c = join(&r);
	unsigned n = 0;
	while ((dev_in(r.dev, 0, LSR) & THRE) != 0) {
		dev_out(r.dev, 0, DATA, '.');
		assert_true(++n < 10000000);
	}
	dev_out(r.dev, 0, IER, 0x02);
	assert_false(r.f.level[GSI]);
	close(c);
	fake_loop(&r.f);
	assert_int_equal(dev_in(r.dev, 0, LSR) & THRE, THRE);
	assert_true(r.f.level[GSI]); /* the guest may go on */
	rig_done(&r);
}

static void no_free_descriptor_is_no_spin(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	int c = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(connect(c, (struct sockaddr *)&r.addr, r.addr_len), 0);
	struct rlimit old;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	struct rlimit none = { 0, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	/* poll(2) itself takes no descriptor above the limit: the device is asked directly. */
	r.dev->ops->on_fd(r.dev, POLLIN);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	struct pollfd p = { .fd = r.f.watch_fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 0), 0); /* the main loop may sleep */
	say(&r, "try again\n");
	fake_loop(&r.f);
	assert_string_equal(heard(c), "try again\n");
	close(c);
	rig_done(&r);
}

static void a_backlog_moves_to_another_process(void **state)
{
	(void)state;
	struct rig a;
	struct rig b;
	rig_init(&a);
	rig_init(&b);
	say(&a, "said before anybody came\n");
	dev_carry_over(a.dev, b.dev);
	int c = join(&b);
	assert_string_equal(heard(c), "said before anybody came\n");
	close(c);
	rig_done(&a);
	rig_done(&b);
}

static struct device *port_on(struct rig *r, struct serial_link *l)
{
	struct device *dev;
	ok_(serial_new_on(&r->f.host, 0x3f8, GSI, l, &dev));
	dev_out(dev, 0, FCR, 1);
	dev_out(dev, 0, MCR, RTS);
	return dev;
}

/* What a guest reset does: the device goes, the link stays. */
static void a_reset_keeps_client_and_backlog(void **state)
{
	(void)state;
	struct rig r;
	rig_init(&r);
	r.dev->ops->free(r.dev);
	struct serial_link *l;
	ok_(serial_link_new(-1, -1, r.listen, &l));
	r.dev = port_on(&r, l);
	say(&r, "before anybody came\n");
	r.dev->ops->free(r.dev);
	r.dev = port_on(&r, l);
	int c = join(&r);
	assert_string_equal(heard(c), "before anybody came\n");
	r.dev->ops->free(r.dev);
	r.dev = port_on(&r, l);
	say(&r, "still here\n");
	assert_string_equal(heard(c), "still here\n");
	assert_int_equal(write(c, "y", 1), 1);
	fake_loop(&r.f);
	assert_int_equal(dev_in(r.dev, 0, DATA), 'y');
	close(c);
	r.dev->ops->free(r.dev);
	serial_link_free(l);
	close(r.listen);
}

static void output_flags_are_put_back(void **state)
{
	(void)state;
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	struct serial_link *l;
	ok_(serial_link_new(-1, p[1], -1, &l));
	assert_true((fcntl(p[1], F_GETFL) & O_NONBLOCK) != 0);
	serial_link_free(l);
	assert_true((fcntl(p[1], F_GETFL) & O_NONBLOCK) == 0);
	serial_link_free(NULL);
	close(p[0]);
	close(p[1]);
	struct err *e = serial_link_new(-1, p[1], -1, &l); /* closed */
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_SYS);
	err_free(e);
}

static void one_socket_for_both_ways(void **state)
{
	(void)state;
	int s[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	struct fake_host f;
	struct device *dev;
	fake_host_init(&f);
	ok_(serial_new(&f.host, 0x3f8, GSI, s[0], s[0], -1, &dev));
	dev_out(dev, 0, MCR, RTS);
	dev_out(dev, 0, DATA, '\n');
	char c = 0;
	assert_int_equal(read(s[1], &c, 1), 1);
	assert_int_equal(write(s[1], "k", 1), 1);
	fake_loop(&f);
	assert_int_equal(dev_in(dev, 0, DATA), 'k');
	close(s[1]);
	fake_loop(&f);
	for (unsigned i = 0; i < 1000; i++) {
		dev_out(dev, 0, DATA, '\n');
		assert_int_equal(dev_in(dev, 0, LSR) & THRE, THRE);
	}
	dev->ops->free(dev);
	close(s[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_talks_both_ways),
		cmocka_unit_test(output_waits_for_a_client),
		cmocka_unit_test(one_client_at_a_time),
		cmocka_unit_test(a_client_that_only_stops_typing_still_hears),
		cmocka_unit_test(a_client_leaves_with_input_unread),
		cmocka_unit_test(a_slow_client_makes_thr_full_until_it_leaves),
		cmocka_unit_test(no_free_descriptor_is_no_spin),
		cmocka_unit_test(a_backlog_moves_to_another_process),
		cmocka_unit_test(a_reset_keeps_client_and_backlog),
		cmocka_unit_test(output_flags_are_put_back),
		cmocka_unit_test(one_socket_for_both_ways),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
