/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load guest's stream: words that say where they stand go to port 9 of the host, which sends each
 * byte back (tests/lib/vsockpeer.c, "mirror"). A new connection begins with the number of the word that
 * comes next. Layouts: virtio 1.2, 5.10.6.
 */
#include "load.h"

#define VSOCK 19
#define RX 0
#define TX 1
#define EVENT 2
#define HOST_CID 2
#define HOST_PORT 9
#define FIRST_PORT 5000
#define PIECE 4096u
#define BUFFERS 8
#define WINDOW 8 /* packets on their way to the device */
#define ROOM 65536u
#define AGAIN_NS (50 * NSEC_PER_MSEC) /* until the next try, when nobody listens */

enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };

struct packet {
	uint64_t from_cid, to_cid;
	uint32_t from_port, to_port, len;
	uint16_t type, op;
	uint32_t flags, room, taken;
	uint8_t data[PIECE];
} __attribute__((packed));
#define HEAD (sizeof(struct packet) - PIECE)

static struct vdev dev;
static struct packet in[BUFFERS], out[WINDOW];
static uint32_t event;
static uint64_t cid;

static enum { NONE, ASKED, OPEN } state;
static uint32_t port = FIRST_PORT;
static uint64_t try_at;	 /* clock, while NONE */
static uint64_t word;	 /* the next to be sent */
static uint64_t from;	 /* the first of this connection */
static uint64_t back;	 /* bytes of this connection that came back */
static uint64_t all_back, conns, resets;
static uint32_t tx_count, peer_room, peer_taken; /* bytes, modulo 2^32 */
static uint32_t taken, told;
static unsigned tx_made, tx_done, rx_at;

static void give_buffer(unsigned i)
{
	struct vbuf b = { &in[i], sizeof(in[i]) };
	v_offer(&dev, RX, &b, 0, 1);
}

static bool has_room(void)
{
	return tx_made - tx_done < WINDOW;
}

/* has_room() was true. */
static struct packet *new_packet(uint16_t op, uint32_t len)
{
	struct packet *p = &out[tx_made++ % WINDOW];

	p->from_cid = cid;
	p->to_cid = HOST_CID;
	p->from_port = port;
	p->to_port = HOST_PORT;
	p->len = len;
	p->type = 1;
	p->op = op;
	p->flags = 0;
	p->room = ROOM;
	p->taken = told = taken;
	return p;
}

static void transmit(struct packet *p)
{
	struct vbuf b[2] = { { p, HEAD }, { p->data, p->len } };
	v_offer(&dev, TX, b, p->len ? 2 : 1, 0);
}

static void lost(uint64_t wait_ns)
{
	state = NONE;
	try_at = clock_ns() + wait_ns;
}

static void ask(void)
{
	port++;
	state = ASKED;
	taken = told = tx_count = 0;
	back = 0;
	transmit(new_packet(OP_REQUEST, 0));
}

/* Word n of a connection: the first one says which word of all the second one is. */
static uint64_t word_at(uint64_t n)
{
	return n == 0 ? from : load_mix(from + n - 1);
}

static void send_words(void)
{
	while (state == OPEN && has_room() && peer_room - (tx_count - peer_taken) >= PIECE) {
		struct packet *p = new_packet(OP_RW, PIECE);
		uint64_t n = tx_count / 8;
		for (unsigned i = 0; i < PIECE / 8; i++) {
			uint64_t w = word_at(n + i);
			memcpy(p->data + 8 * i, &w, 8);
		}
		word = from + n + PIECE / 8 - 1;
		tx_count += PIECE;
		transmit(p);
	}
}

static void check_back(const struct packet *p)
{
	uint64_t w = word_at(back / 8);

	CHECK(p->len <= PIECE, p->len);
	for (uint32_t i = 0; i < p->len; i++, back++) {
		if (back % 8 == 0) {
			w = word_at(back / 8);
		}
		CHECK(p->data[i] == (uint8_t)(w >> 8 * (back % 8)), back);
	}
	CHECK((int32_t)(tx_count - (uint32_t)back) >= 0, back);
	taken += p->len;
	all_back += p->len;
}

static void handle(const struct packet *p)
{
	if (p->to_port != port || p->from_port != HOST_PORT || state == NONE) {
		return; /* of a connection that is no more */
	}
	CHECK(p->from_cid == HOST_CID && p->to_cid == cid && p->type == 1, p->op);
	peer_room = p->room;
	peer_taken = p->taken;
	if (p->op == OP_RESPONSE && state == ASKED) {
		state = OPEN;
		from = word;
		conns++;
	} else if (p->op == OP_RW && state == OPEN) {
		check_back(p);
	} else if (p->op == OP_RST) {
		lost(AGAIN_NS);
	} else {
		CHECK(p->op == OP_CREDIT_UPDATE || p->op == OP_CREDIT_REQUEST || p->op == OP_SHUTDOWN,
		      p->op);
	}
}

bool vsock_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;

	while (v_taken(&dev, TX, &head, &len)) {
		tx_done++;
		did = true;
	}
	while (v_taken(&dev, RX, &head, &len)) {
		struct packet *p = &in[rx_at++ % BUFFERS];
		CHECK(len == HEAD + p->len, len);
		handle(p);
		give_buffer((rx_at - 1) % BUFFERS);
		did = true;
	}
	if (v_taken(&dev, EVENT, &head, &len)) {
		struct vbuf b = { &event, sizeof(event) };
		CHECK(event == 0 && len == 4, event); /* transport reset */
		resets++;
		lost(0);
		v_offer(&dev, EVENT, &b, 0, 1);
		did = true;
	}
	if (state == NONE && has_room() && clock_ns() >= try_at) {
		ask();
	}
	send_words();
	if (state == OPEN && has_room() && taken - told >= ROOM / 2) {
		transmit(new_packet(OP_CREDIT_UPDATE, 0));
	}
	return did;
}

void vsock_tell(void)
{
	print(" vsock %lu %lu %lu %lu", word, all_back, conns, resets);
}

bool vsock_begin(uint64_t features, unsigned vec)
{
	struct vbuf b = { &event, sizeof(event) };

	if (!v_find(VSOCK, 0, &dev)) {
		return false;
	}
	v_start(&dev, features, 3, vec);
	cid = v_get32(dev.config) | (uint64_t)v_get32(dev.config + 4) << 32;
	for (unsigned i = 0; i < BUFFERS; i++) {
		give_buffer(i);
	}
	v_offer(&dev, EVENT, &b, 0, 1);
	return true;
}
