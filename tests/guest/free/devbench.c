/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of tests/bench/run --devices: one device, one kind of work, as fast as it goes. Works under any
 * VMM with virtio over PCIe at 0xe0000000: it places BARs that no firmware has placed.
 *
 * Command line: test=read|write|send|receive|stream|drink, depth=N requests at a time (32), bytes=N of
 * each (4096), span=MIB of the disk (64). Every 20 ms "ops N ns T": requests done so far, and the guest's
 * clock. Like Linux's drivers it asks for interrupts only when it has found nothing more to do, and kicks
 * once for all that it offers at a time.
 */
#include "vdrv.h"

#define VEC 0x40
#define TICK 0x7d
#define BLK 2
#define NET 1
#define VSOCK 19
#define F_FLUSH (1ull << 9)
#define F_MAC (1ull << 5)
#define DEPTH_MAX 64u
#define BYTES_MAX 65536u
#define SECTOR 512
#define HEADER 12 /* of a frame */
#define VHEAD 44  /* of a vsock packet */
#define PORT 9	  /* of both sides */
#define ROOM 262144u /* as Linux: */

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

static struct vdev dev;
static unsigned queue, depth, bytes;
static uint64_t ops;
static uint8_t data[DEPTH_MAX][BYTES_MAX] __attribute__((aligned(4096)));

/* ---- a queue, in batches ---- */

static uint16_t *event_of(struct vqueue *q)
{
	return (uint16_t *)(uint64_t)&q->used[1 + 2 * V_SIZE];
}

/* Chain `slot` of two or three buffers, which has descriptors of its own. */
static void put(unsigned n, unsigned slot, const struct vbuf *b, unsigned nread, unsigned nwrite)
{
	struct vqueue *q = dev.q[n];
	unsigned at = slot * (nread + nwrite);
	for (unsigned i = 0; i < nread + nwrite; i++) {
		bool end = i + 1 == nread + nwrite;
		q->desc[at + i] = (struct vdesc){
			(uint64_t)b[i].p, b[i].len,
			(uint16_t)((i >= nread ? V_WRITE : 0) | (end ? 0 : V_NEXT)),
			(uint16_t)(at + i + 1)
		};
	}
	q->avail[2 + (uint16_t)(q->avail[1] + q->next) % V_SIZE] = (uint16_t)at;
	q->next++; /* here: put, not yet published */
}

static void publish(unsigned n)
{
	struct vqueue *q = dev.q[n];
	uint16_t old = q->avail[1], now = (uint16_t)(old + q->next);
	if (q->next == 0) {
		return;
	}
	q->next = 0;
	__asm__ volatile("" ::: "memory");
	q->avail[1] = now;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint16_t event = *(volatile uint16_t *)event_of(q);
	if ((uint16_t)(now - event - 1) < (uint16_t)(now - old)) {
		v_kick(&dev, n);
	}
}

static bool take(unsigned n, uint16_t *ret_head, uint32_t *ret_len)
{
	struct vqueue *q = dev.q[n];
	for (unsigned i = 0; i < 2; i++) {
		if ((uint16_t)(q->used[0] >> 16) != q->seen) {
			__asm__ volatile("" ::: "memory");
			*ret_head = (uint16_t)q->used[1 + 2 * (q->seen % V_SIZE)];
			*ret_len = q->used[2 + 2 * (q->seen % V_SIZE)];
			q->seen++;
			return true;
		}
		q->avail[2 + V_SIZE] = q->seen; /* tell me of the next one; look once more */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
	return false;
}

/* ---- the disk ---- */

static struct {
	uint32_t type, zero;
	uint64_t sector;
} heads[DEPTH_MAX];
static volatile uint8_t states[DEPTH_MAX];
static uint32_t type, dice = 1;
static uint64_t places; /* on the disk, of `bytes` each */

static void blk_send(unsigned i)
{
	struct vbuf b[3] = { { &heads[i], 16 }, { data[i], bytes }, { &states[i], 1 } };
	dice = dice * 1664525 + 1013904223;
	heads[i].type = type;
	heads[i].sector = (dice >> 4) % places * (bytes / SECTOR);
	states[i] = 0xff;
	put(0, i, b, type ? 2 : 1, type ? 1 : 2);
}

static void blk_start(uint32_t how)
{
	CHECK(v_find(BLK, 0, &dev), 0);
	v_start(&dev, V_EVENT_IDX | V_INDIRECT_DESC | F_FLUSH, 1, VEC);
	type = how;
	places = (arg_number("span", 64) << 20) / bytes;
	CHECK(v_get32(dev.config) / (bytes / SECTOR) >= places, places);
	for (unsigned i = 0; i < depth; i++) {
		blk_send(i);
	}
	publish(0);
}

static bool blk_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;
	while (take(0, &head, &len)) {
		unsigned i = head / 3;
		CHECK(states[i] == 0, states[i]);
		ops++;
		blk_send(i);
		did = true;
	}
	publish(0);
	return did;
}

/* ---- the network: frames of a kind that nobody listens to ---- */

static void net_put(unsigned i)
{
	struct vbuf b[2] = { { data[i], HEADER }, { data[i] + HEADER, bytes } };
	put(queue, i, b, queue ? 2 : 0, queue ? 0 : 2);
}

static void net_start(unsigned q)
{
	CHECK(v_find(NET, 0, &dev), 0);
	v_start(&dev, V_EVENT_IDX | V_INDIRECT_DESC | F_MAC, 2, VEC);
	queue = q;
	for (unsigned i = 0; i < depth; i++) {
		memset(data[i] + HEADER, 0xff, 6);
		memcpy(data[i] + HEADER + 6, "\2\0\0\0\0\1\x88\xb5", 8);
		net_put(i);
	}
	publish(q);
}

static bool net_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;
	while (take(queue, &head, &len)) {
		ops += queue || len == HEADER + bytes; /* the host's own chatter is no frame */
		net_put(head / 2);
		did = true;
	}
	publish(queue);
	return did;
}

/* ---- a stream of sockets ---- */

enum { RX, TX, EVENT };
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN, RW, CREDIT };
struct packet {
	uint64_t from_cid, to_cid;
	uint32_t from_port, to_port, len;
	uint16_t type, op;
	uint32_t flags, room, taken;
} __attribute__((packed));
static struct packet out[DEPTH_MAX], in[DEPTH_MAX];
static bool open, sending, out_busy[DEPTH_MAX];
static uint32_t sent, peer_room, peer_taken, taken, told, guest_port, host_port, cid;

static bool vsock_put(uint16_t op, uint32_t len)
{
	for (unsigned i = 0; i < depth; i++) {
		struct vbuf b[2] = { { &out[i], VHEAD }, { data[i], len } };
		if (out_busy[i]) {
			continue;
		}
		out_busy[i] = true;
		out[i] = (struct packet){ cid, 2, guest_port, host_port, len, 1,
					  op, 0, ROOM, taken };
		told = taken;
		if (len == 0) { /* the second buffer may not be empty: a chain of one, in the same place */
			dev.q[TX]->desc[2 * i] = (struct vdesc){ (uint64_t)b[0].p, VHEAD, 0, 0 };
			dev.q[TX]->avail[2 + (uint16_t)(dev.q[TX]->avail[1] + dev.q[TX]->next) % V_SIZE] =
				(uint16_t)(2 * i);
			dev.q[TX]->next++;
		} else {
			put(TX, i, b, 2, 0);
		}
		sent += len;
		return true;
	}
	return false;
}

static void vsock_give(unsigned i)
{
	struct vbuf b[2] = { { &in[i], VHEAD }, { data[i], bytes } };
	put(RX, i, b, 0, 2);
}

static void vsock_start(bool send)
{
	CHECK(v_find(VSOCK, 0, &dev), 0);
	v_start(&dev, V_EVENT_IDX | V_INDIRECT_DESC, 3, VEC);
	sending = send;
	cid = v_get32(dev.config); /* once: reading it leaves the guest */
	guest_port = host_port = PORT;
	for (unsigned i = 0; i < depth; i++) {
		vsock_give(i);
	}
	publish(RX);
	if (send) {
		vsock_put(REQUEST, 0);
		publish(TX);
	}
}

static void vsock_got(const struct packet *p)
{
	peer_room = p->room;
	peer_taken = p->taken;
	if (p->op == REQUEST) {
		host_port = p->from_port;
		vsock_put(RESPONSE, 0);
		open = true;
	} else if (p->op == RESPONSE) {
		open = true;
	} else if (p->op == RW) {
		taken += p->len;
		ops++;
	}
	CHECK(p->op != RST && p->op != SHUTDOWN, p->op);
}

static bool vsock_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;
	while (take(TX, &head, &len)) {
		out_busy[head / 2] = false;
		did = true;
	}
	while (take(RX, &head, &len)) {
		vsock_got(&in[head / 2]);
		vsock_give(head / 2);
		did = true;
	}
	publish(RX);
	while (open && sending && peer_room - (sent - peer_taken) >= bytes && vsock_put(RW, bytes)) {
		ops++;
	}
	if (taken - told >= ROOM / 2) {
		vsock_put(CREDIT, 0);
	}
	publish(TX);
	return did;
}

void guest_main(void)
{
	bool (*turn)(void) = blk_turn;
	uint64_t tell_at = 0;

	irq_off();
	lapic_on();
	irq_handler(TICK, irq_tick);
	v_any_vmm = true;
	depth = (unsigned)arg_number("depth", 32);
	bytes = (unsigned)arg_number("bytes", 4096);
	CHECK(depth <= DEPTH_MAX && bytes <= BYTES_MAX, depth);
	if (arg_is("test", "read") || arg_is("test", "write")) {
		blk_start(arg_is("test", "write"));
	} else if (arg_is("test", "send") || arg_is("test", "receive")) {
		turn = net_turn;
		net_start(arg_is("test", "send"));
	} else {
		turn = vsock_turn;
		vsock_start(arg_is("test", "stream"));
	}
	for (;;) {
		bool did = turn();
		uint64_t now = clock_ns();
		if (now >= tell_at) {
			tell_at = now + 20 * NSEC_PER_MSEC;
			print("ops %lu ns %lu\n", ops, now);
		}
		if (!did) {
			lapic_oneshot(TICK, 20 * NSEC_PER_MSEC);
			halt();
		}
	}
}

void guest_ap_main(void)
{
	for (;;) {
		halt();
	}
}
