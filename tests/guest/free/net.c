/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the network tests: sends numbered frames without a pause to somebody who sends each
 * back, and checks what returns. One line per round: "round N sent S back B lost L irqs I". Command
 * line: beat=MS between rounds, intx=1 for INTA instead of MSI-X, event=0 without event-idx,
 * merge=1 with merged buffers, udp=1 for UDP to 10.9.0.1 port 7 with the checksum left to the host,
 * udp=2 for UDP to 10.0.2.2 port 7 without one, and answers to ARP (user networking).
 *
 * What is on its way may be lost by a restore and by nothing else; what returns is whole, in order,
 * and never seen twice. A guest that is asked to announce itself says so: "announced N".
 */
#include "vdrv.h"

#define VEC 0x40
#define NET 1
#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MAC (1ull << 5)
#define F_MERGE (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CONTROL (1ull << 17)
#define F_ANNOUNCE (1ull << 21)
#define RX 0
#define TX 1
#define CONTROL 2
#define WINDOW 4 /* frames on their way */
#define BUFFERS 8
#define BUFFER_BYTES 1600
#define SMALL_BYTES 600 /* with merged buffers: a frame takes up to three */
#define HEADER 12
#define ETHERNET 14
#define TYPE_LOCAL 0x88b5
#define TYPE_ARP 0x0806
#define ARP_BYTES 28
#define UDP_HEAD (20 + 8)
#define PATIENCE 1000 /* rounds without an answer, after which a frame counts as lost */

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

static struct vdev net;
static uint64_t sent, back, lost, announced, idle;
static uint32_t next_seq = 1, expected = 1, seen;
static unsigned udp;
static uint32_t buffer_bytes, in_at;
static uint8_t in[BUFFERS][BUFFER_BYTES] __attribute__((aligned(16)));
static uint8_t out[WINDOW][BUFFER_BYTES] __attribute__((aligned(16)));
static uint8_t whole[BUFFERS * BUFFER_BYTES];
static uint16_t in_head[BUFFERS];

static void put16(uint8_t *p, uint32_t v) /* as on the wire */
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t sum16(const uint8_t *p, uint32_t len, uint32_t sum)
{
	for (uint32_t i = 0; i < len; i += 2) {
		sum += (uint32_t)(p[i] << 8 | (i + 1 < len ? p[i + 1] : 0));
	}
	while (sum >> 16) {
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return sum;
}

static uint32_t data_bytes(uint32_t seq)
{
	return 8 + seq * 37 % 1400;
}

static void give_buffer(unsigned i)
{
	struct vbuf b = { in[i], buffer_bytes };
	in_head[i] = v_offer(&net, RX, &b, 0, 1);
}

static const uint8_t *ours(void)
{
	static const uint8_t addr[2][4] = { { 10, 9, 0, 2 }, { 10, 0, 2, 15 } };
	return addr[udp - 1];
}

static const uint8_t *theirs(void)
{
	static const uint8_t addr[2][4] = { { 10, 9, 0, 1 }, { 10, 0, 2, 2 } };
	return addr[udp - 1];
}

static bool alike(const uint8_t *a, const uint8_t *b, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (a[i] != b[i]) {
			return false;
		}
	}
	return true;
}

/* Tells who asks for our address where it is. */
static void answer_arp(const uint8_t *p, uint32_t len)
{
	static uint8_t reply[HEADER + ETHERNET + ARP_BYTES];
	const uint8_t *ask = p + HEADER + ETHERNET;
	uint8_t *arp = reply + HEADER + ETHERNET;

	if (len < sizeof(reply) || ask[7] != 1 || !alike(ask + 24, ours(), 4)) {
		return;
	}
	memcpy(reply + HEADER, ask + 8, 6);
	memcpy(reply + HEADER + 12, p + HEADER + 12, 2);
	memcpy(arp, ask, 8);
	arp[7] = 2;
	for (unsigned i = 0; i < 6; i++) {
		arp[8 + i] = reply[HEADER + 6 + i] = v_get8(net.config + i);
	}
	memcpy(arp + 14, ours(), 4);
	memcpy(arp + 18, ask + 8, 10);
	struct vbuf b = { reply, sizeof(reply) };
	v_offer(&net, TX, &b, 1, 0);
}

/* IPv4 and UDP around the data; the checksum of UDP has the pseudo header only. */
static void put_udp(uint8_t *header, uint8_t *ip, uint32_t len)
{
	static const uint8_t head[20] = { 0x45, 0, 0,  0, 0, 0, 0x40, 0, 64, 17,
					  0,    0, 10, 9, 0, 2, 10,   9, 0,  1 };
	uint8_t pseudo[12];

	memcpy(ip, head, 20);
	memcpy(ip + 12, ours(), 4);
	memcpy(ip + 16, theirs(), 4);
	put16(ip + 2, UDP_HEAD + len);
	put16(ip + 10, ~sum16(ip, 20, 0));
	put16(ip + 20, 7);
	put16(ip + 22, 7);
	put16(ip + 24, 8 + len);
	if (udp == 2) {
		return;
	}
	memcpy(pseudo, ip + 12, 8);
	put16(pseudo + 8, 17);
	put16(pseudo + 10, 8 + len);
	put16(ip + 26, sum16(pseudo, 12, 0));
	header[0] = 1; /* needs a checksum */
	header[6] = ETHERNET + 20;
	header[8] = 6;
}

static void send_one(void)
{
	uint8_t *p = out[next_seq % WINDOW];
	uint32_t len = data_bytes(next_seq);
	uint32_t at = HEADER + ETHERNET + (udp ? UDP_HEAD : 0);

	memset(p, 0, at);
	memset(p + HEADER, 0xff, 6);
	for (unsigned i = 0; i < 6; i++) {
		p[HEADER + 6 + i] = v_get8(net.config + i);
	}
	put16(p + HEADER + 12, udp ? 0x0800 : TYPE_LOCAL);
	if (udp) {
		put_udp(p, p + HEADER + ETHERNET, len);
	}
	memcpy(p + at, &next_seq, 4);
	for (uint32_t i = 4; i < len; i++) {
		p[at + i] = (uint8_t)(next_seq * 7 + i);
	}
	struct vbuf b[2] = { { p, HEADER }, { p + HEADER, at - HEADER + len } };
	v_offer(&net, TX, b, 2, 0);
	next_seq++;
	sent++;
}

/* A frame that came; others than ours (the host's own chatter) are let by. */
static void check(const uint8_t *p, uint32_t len)
{
	uint32_t at = HEADER + ETHERNET + (udp ? UDP_HEAD : 0);
	const uint8_t *type = p + HEADER + 12;
	uint32_t seq;

	CHECK(len >= HEADER + ETHERNET, len);
	if (udp == 2 && (type[0] << 8 | type[1]) == TYPE_ARP) {
		answer_arp(p, len);
		return;
	}
	if ((type[0] << 8 | type[1]) != (udp ? 0x0800 : TYPE_LOCAL) ||
	    (udp && (p[HEADER + ETHERNET + 9] != 17 || p[HEADER + ETHERNET + 23] != 7))) {
		return;
	}
	CHECK(len >= at + 8, len);
	memcpy(&seq, p + at, 4);
	CHECK(seq > seen && seq < next_seq, seq);
	CHECK(len == at + data_bytes(seq), len);
	for (uint32_t i = 4; i < data_bytes(seq); i++) {
		CHECK(p[at + i] == (uint8_t)(seq * 7 + i), seq);
	}
	if (seq < expected) { /* given up too early */
		lost--;
	} else {
		lost += seq - expected;
		expected = seq + 1;
	}
	seen = seq;
	back++;
	idle = 0;
}

static void receive(void)
{
	uint16_t head;
	uint32_t len;

	while (v_taken(&net, RX, &head, &len)) {
		uint32_t at = 0, parts = 1;
		for (uint32_t k = 0; k < parts; k++) {
			CHECK(k == 0 || v_taken(&net, RX, &head, &len), k); /* all at once */
			CHECK(head == in_head[in_at] && len <= buffer_bytes, len);
			memcpy(whole + at, in[in_at], len);
			at += len;
			if (k == 0) {
				parts = whole[10];
				CHECK(parts >= 1 && parts <= BUFFERS && !whole[11], parts);
			}
			give_buffer(in_at);
			in_at = (in_at + 1) % BUFFERS;
		}
		check(whole, at);
	}
}

static void acknowledge(void)
{
	static uint8_t command[2] = { 3, 0 };
	static volatile uint8_t answer;
	struct vbuf b[2] = { { command, 2 }, { &answer, 1 } };
	uint32_t len;

	answer = 0xff;
	v_offer(&net, CONTROL, b, 1, 1);
	v_wait(&net, CONTROL, &len);
	CHECK(answer == 0 && len == 1, answer);
	CHECK(!(v_get16(net.config + 6) & 2), 0);
	print("announced %lu\n", ++announced);
}

static void start(uint64_t features, bool merge)
{
	v_start(&net, features, 3, arg_number("intx", 0) ? 0 : VEC);
	buffer_bytes = net.features & F_MERGE && merge ? SMALL_BYTES : BUFFER_BYTES;
	for (unsigned i = 0; i < BUFFERS; i++) {
		give_buffer(i);
	}
}

void guest_main(void)
{
	uint64_t beat = arg_number("beat", 10), round = 0;
	uint64_t features = V_INDIRECT_DESC | F_MAC | F_STATUS | F_CONTROL | F_ANNOUNCE;
	bool merge = arg_number("merge", 0), up = true;
	uint16_t head;
	uint32_t len;

	irq_off();
	lapic_on();
	udp = (unsigned)arg_number("udp", 0);
	features |= arg_number("event", 1) ? V_EVENT_IDX : 0;
	features |= merge ? F_MERGE : 0;
	features |= udp == 1 ? F_CSUM | F_GUEST_CSUM : 0;
	irq_handler(0x7d, irq_tick);
	CHECK(v_find(NET, 0, &net), 0);
	start(features, merge);
	CHECK(udp != 1 || net.features & F_CSUM, net.features);
	print("net: features %lx mac %x:%x\n", net.features, v_get8(net.config),
	      v_get8(net.config + 5));
	for (;;) {
		while (v_taken(&net, TX, &head, &len)) {
			CHECK(len == 0, len);
		}
		receive();
		if (v_get16(net.config + 6) & 2) {
			acknowledge();
		}
		if (up != (v_get16(net.config + 6) & 1)) {
			up = !up;
			print("link %s\n", up ? "up" : "down");
		}
		/* Whatever was on its way when nothing came back for so long is lost. */
		if (++idle > PATIENCE) {
			lost += next_seq - expected;
			expected = next_seq;
			idle = 0;
		}
		while (next_seq - expected < WINDOW) {
			send_one();
		}
		print("round %lu sent %lu back %lu lost %lu irqs %lu\n", ++round, sent, back, lost,
		      v_irqs);
		lapic_oneshot(0x7d, beat * NSEC_PER_MSEC);
		halt();
	}
}

void guest_ap_main(void)
{
	for (;;) {
		halt();
	}
}
