/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of core/usernet.c and of network devices in core/config_dev.c: words of forwards and
 * addresses, a process that starts, answers ARP and DHCP's first question, and ends with its
 * socket.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "core/config_dev.h"
#include "core/usernet.h"
#include "tests/lib/expect.h"

enum { ANSWER_MS = 60000, ARP_BYTES = 42 };

static void test_forwards(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		bool udp;
		const char *host;
		unsigned host_port;
		const char *guest;
		unsigned guest_port;
	} good[] = {
		{ "tcp::8022-:22", false, "127.0.0.1", 8022, "10.0.2.15", 22 },
		{ ":1.2.3.4:80-:8080", false, "1.2.3.4", 80, "10.0.2.15", 8080 },
		{ "udp:0.0.0.0:65535-10.0.2.77:1", true, "0.0.0.0", 65535, "10.0.2.77", 1 },
	};
	static const char *const bad[] = {
		"",
		"tcp",
		"tcp::80",
		"tcp::80-80",
		"tcp:80-:80",
		"tcp::-:80",
		"tcp::0-:80",
		"tcp::65536-:80",
		"tcp::80-:80x",
		"tcp:1.2.3:80-:80",
		"tcp::+1-:2",
		"sctp::80-:1",
		"tcp::80-x:80",
		"tcp:::80-:::80",
		"tcp:1.2.3.4.5.6.7.8.9.1.2.3.4.5.6.7.8.9.1.2.3.4.5.6.7.8.9.1.2.3.4.5:80-:80",
	};
	char text[INET_ADDRSTRLEN];
	struct usernet_forward f;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		ok(usernet_parse_forward(good[i].text, &f));
		assert_int_equal(f.udp, good[i].udp);
		assert_int_equal(f.host_port, good[i].host_port);
		assert_int_equal(f.guest_port, good[i].guest_port);
		assert_string_equal(inet_ntop(AF_INET, &f.host, text, sizeof(text)), good[i].host);
		assert_string_equal(inet_ntop(AF_INET, &f.guest, text, sizeof(text)),
				    good[i].guest);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err *e = usernet_parse_forward(bad[i], &f);
		if (e == NULL) {
			fail_msg("taken: %s", bad[i]);
		}
		assert_int_equal(err_class(e), ERR_USAGE);
		err_free(e);
	}
}

static void test_addresses(void **state)
{
	(void)state;
	static const char *const bad[] = { "",
					   "02:00:00:00:00",
					   "02:00:00:00:00:0",
					   "02:00:00:00:00:001",
					   "01:00:00:00:00:01", /* of a group */
					   "02-00-00-00-00-01",
					   "02:00:00:00:00: 1",
					   "02:00:00:00:00:0g" };
	char text[3 * CONFIG_MAC_BYTES];
	uint8_t mac[CONFIG_MAC_BYTES];
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err *e = config_mac_parse(bad[i], mac);
		assert_non_null(e);
		err_free(e);
	}
	ok(config_mac_parse("0A:bc:00:01:fF:99", mac));
	config_mac_text(mac, text);
	assert_string_equal(text, "0a:bc:00:01:ff:99");
	/* A clone's: chosen ones stay, by text and back. */
	struct config_devs l = { 0 };
	struct config_devs back = { 0 };
	struct config_dev d = { .kind = CONFIG_NET, .mac_chosen = true, .mtu = 1400 };
	memcpy(d.mac, mac, sizeof(mac));
	snprintf(d.path, sizeof(d.path), "tap=t0");
	ok(config_dev_add(&l, &d, NULL));
	d.mac_chosen = false;
	ok(config_mac_make(d.mac));
	assert_int_equal(d.mac[0] & 3, 2);
	ok(config_dev_add(&l, &d, NULL));
	json_t *j = config_devs_json(&l);
	ok(config_devs_parse(j, &back));
	json_decref(j);
	assert_memory_equal(&l, &back, sizeof(l));
	ok(config_devs_new_macs(&back));
	assert_memory_equal(back.d[0].mac, l.d[0].mac, sizeof(mac));
	assert_memory_not_equal(back.d[1].mac, l.d[1].mac, sizeof(mac));
}

static void put_arp(uint8_t *p)
{
	static const uint8_t head[] = { 0,  1, 8, 0,  6, 4, 0, 1, 2, 0, 0,  0, 0, 1,
					10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2 };
	memset(p, 0xff, 6);
	memcpy(p + 6, head + 8, 6);
	p[12] = 8;
	p[13] = 6;
	memcpy(p + 14, head, sizeof(head));
}

static void test_process(void **state)
{
	(void)state;
	const struct usernet_opts o = { .restricted = true };
	uint8_t frame[2048];
	struct fd wire = FD_NONE;
	ok(usernet_start(&o, &wire));
	/* What is no frame at all does it no harm. */
	memset(frame, 0x45, sizeof(frame));
	for (size_t n = 1; n <= sizeof(frame); n *= 2) {
		assert_int_equal(send(wire.n, frame, n, 0), (ssize_t)n);
	}
	put_arp(frame);
	assert_int_equal(send(wire.n, frame, ARP_BYTES, 0), ARP_BYTES);
	for (;;) {
		struct pollfd p = { .fd = wire.n, .events = POLLIN };
		assert_int_equal(poll(&p, 1, ANSWER_MS), 1);
		ssize_t n = recv(wire.n, frame, sizeof(frame), 0);
		assert_true(n > 0);
		if (n >= ARP_BYTES && frame[12] == 8 && frame[13] == 6 && frame[21] == 2) {
			break;
		}
	}
	assert_memory_equal(frame + 28, "\x0a\x00\x02\x02", 4);
	fd_close(&wire);
	int status = -1;
	assert_true(wait(&status) > 0);
	assert_int_equal(status, 0);
	/* A port that is taken is an error of the start, not a silent loss. */
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001) };
	socklen_t len = sizeof(at);
	struct usernet_opts twice = { .n = 1,
				      .forward[0] = { .host = at.sin_addr, .guest_port = 1 } };
	int s = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(s, 1), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&at, &len), 0);
	twice.forward[0].host_port = ntohs(at.sin_port);
	struct err *e = usernet_look(&twice);
	assert_non_null(e);
	err_free(e);
	e = usernet_start(&twice, &wire);
	assert_non_null(e);
	assert_non_null(strstr(err_msg(e), "forwarding TCP port"));
	err_free(e);
	close(s);
	assert_true(wait(&status) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_forwards),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_process),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
