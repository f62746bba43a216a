/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the load tests: works on disk, network, sockets and console at the same time, as much as they
 * take, and checks all that comes back.
 *
 * Disk: eight requests of 4 KiB at a time on random blocks, two writes to a read, a flush now and then.
 * A write holds block and number; memory knows the number of each block's last write, so a read sees a
 * write that was lost, done twice, torn, or is of another time than memory. Network: numbered frames, to
 * somebody who sends each back. Sockets: load_vsock.c. Console: a numbered line per millisecond; what is
 * typed there is told as "typed TEXT", and V has every block of the disk read: "verified BLOCKS".
 *
 * On the serial port every 50 ms: "at MS disk WRITES READS net SENT BACK LOST vsock WORDS BACK
 * CONNECTIONS RESETS con LINES". Command line: intx=1 for INTA, event=0 without event-idx.
 */
#include "load.h"

#define VEC 0x40
#define TICK 0x7d

/* ---- disk ---- */

#define BLK 2
#define BLK_F_FLUSH (1ull << 9)
#define SLOTS 8
#define SLOT_DESCS 4
#define WORDS 512
#define SECTORS 8 /* of a block */
#define BLOCKS_MAX 4096u
#define FLUSH_EVERY 64

enum { READ = 0, WRITE = 1, FLUSH = 4 };

static struct slot {
	struct {
		uint32_t type, zero;
		uint64_t sector;
	} head;
	volatile uint8_t status;
	bool busy;
	uint32_t block;
	uint32_t number; /* of a write */
	uint64_t data[WORDS] __attribute__((aligned(16)));
} slots[SLOTS];
static struct vdev blk;
static uint32_t last[BLOCKS_MAX]; /* number of the last write, 0: none */
static bool taken_block[BLOCKS_MAX];
static uint32_t blocks, number, dice = 12345;
static uint64_t writes, reads, asked;
static bool verifying;
static uint32_t verify_at, verified;

static uint64_t word_of(uint32_t block, uint32_t n, unsigned i)
{
	return n == 0 ? 0 : load_mix((uint64_t)block << 32 | n) + i;
}

static void disk_send(struct slot *s, uint32_t type, uint32_t block)
{
	struct vbuf b[4] = { { &s->head, sizeof(s->head) },
			     { s->data, 512 },
			     { s->data + 64, sizeof(s->data) - 512 },
			     { &s->status, 1 } };
	unsigned nread = type == WRITE ? 3 : 1, nwrite = type == READ ? 3 : 1;

	s->busy = true;
	s->block = block;
	s->status = 0xff;
	s->head.type = type;
	s->head.sector = (uint64_t)block * SECTORS;
	if (type == FLUSH) {
		b[1] = b[3];
	} else {
		taken_block[block] = true;
	}
	for (unsigned i = 0; type != FLUSH && i < WORDS; i++) {
		s->data[i] = type == WRITE ? word_of(block, s->number, i) : ~0ull;
	}
	v_offer_at(&blk, 0, (unsigned)(s - slots) * SLOT_DESCS, b, nread, nwrite);
}

static void disk_next(struct slot *s)
{
	uint32_t block;

	if (verifying) {
		if (verify_at < blocks) {
			disk_send(s, READ, verify_at++);
		}
		return;
	}
	if (++asked % FLUSH_EVERY == 0) {
		disk_send(s, FLUSH, 0);
		return;
	}
	do {
		dice = dice * 1664525 + 1013904223;
		block = (dice >> 8) % blocks;
	} while (taken_block[block]);
	s->number = ++number;
	disk_send(s, asked % 3 == 0 ? READ : WRITE, block);
}

static void disk_done(struct slot *s)
{
	CHECK(s->busy && s->status == 0, s->status);
	s->busy = false;
	if (s->head.type == FLUSH) {
		return;
	}
	taken_block[s->block] = false;
	if (s->head.type == WRITE) {
		last[s->block] = s->number;
		writes++;
		return;
	}
	for (unsigned i = 0; i < WORDS; i++) {
		CHECK(s->data[i] == word_of(s->block, last[s->block], i),
		      (uint64_t)s->block << 32 | last[s->block]);
	}
	reads++;
	if (verifying && ++verified == blocks) {
		verifying = false;
		print("verified %u\n", blocks);
	}
}

static void disk_begin(uint64_t features, unsigned vec)
{
	CHECK(v_find(BLK, 0, &blk), 0);
	v_start(&blk, features | BLK_F_FLUSH, 1, vec);
	blocks = v_get32(blk.config) / SECTORS;
	CHECK(blocks > SLOTS && blocks <= BLOCKS_MAX, blocks);
}

static bool disk_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false, idle = true;

	while (v_taken(&blk, 0, &head, &len)) {
		CHECK(head % SLOT_DESCS == 0 && head / SLOT_DESCS < SLOTS, head);
		disk_done(&slots[head / SLOT_DESCS]);
		did = true;
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		idle = idle && !slots[i].busy;
	}
	if (verifying && verified == 0 && verify_at == 0 && !idle) {
		return did; /* first what is under way */
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		if (!slots[i].busy) {
			disk_next(&slots[i]);
		}
	}
	return did;
}

/* ---- network ---- */

#define NET 1
#define F_MAC (1ull << 5)
#define HEADER 12
#define ETHERNET 14
#define FRAMES 8 /* on their way */
#define BUFFERS 16
#define FRAME_BYTES 1600
#define PATIENCE_NS (3000 * NSEC_PER_MSEC)

static struct vdev net;
static uint8_t in[BUFFERS][FRAME_BYTES], out[FRAMES][FRAME_BYTES];
static uint32_t sent, seen, given_up, gone; /* numbers of frames */
static uint64_t back, lost, heard_at;
static unsigned in_at;

static void give_buffer(unsigned i)
{
	struct vbuf b = { in[i], FRAME_BYTES };
	v_offer(&net, 0, &b, 0, 1);
}

static uint32_t frame_bytes(uint32_t n)
{
	return 8 + n * 37 % 1400;
}

static void net_send(void)
{
	uint32_t n = ++sent, len = frame_bytes(n);
	uint8_t *p = out[n % FRAMES], *data = p + HEADER + ETHERNET;
	struct vbuf b = { p, HEADER + ETHERNET + len };

	memset(p, 0, HEADER);
	memset(p + HEADER, 0xff, 6);
	memcpy(data, &n, sizeof(n));
	for (uint32_t i = sizeof(n); i < len; i++) {
		data[i] = (uint8_t)load_mix(n + (uint64_t)i);
	}
	v_offer(&net, 1, &b, 1, 0);
}

static void net_check(const uint8_t *p, uint32_t len)
{
	const uint8_t *data = p + HEADER + ETHERNET;
	uint32_t n;

	CHECK(len >= HEADER + ETHERNET + sizeof(n), len);
	memcpy(&n, data, sizeof(n));
	CHECK(n > seen && n <= sent, n);
	CHECK(len == HEADER + ETHERNET + frame_bytes(n), len);
	for (uint32_t i = sizeof(n); i < frame_bytes(n); i++) {
		CHECK(data[i] == (uint8_t)load_mix(n + (uint64_t)i), n);
	}
	lost += n - seen - 1;
	seen = n;
	back++;
	heard_at = clock_ns();
}

static void net_begin(uint64_t features, unsigned vec)
{
	CHECK(v_find(NET, 0, &net), 0);
	v_start(&net, features | F_MAC, 2, vec);
	for (unsigned i = 0; i < BUFFERS; i++) {
		give_buffer(i);
	}
	heard_at = clock_ns();
}

static bool net_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;

	while (v_taken(&net, 1, &head, &len)) {
		gone++;
	}
	while (v_taken(&net, 0, &head, &len)) {
		net_check(in[in_at % BUFFERS], len);
		give_buffer(in_at++ % BUFFERS);
		did = true;
	}
	if (clock_ns() - heard_at > PATIENCE_NS) { /* lost with the VM */
		given_up = sent;
		heard_at = clock_ns();
	}
	/* A frame's memory is free when the device has given it back, its place when it came. */
	uint32_t floor = seen > given_up ? seen : given_up;
	while (sent - floor < FRAMES && sent - gone < FRAMES) {
		net_send();
	}
	return did;
}

/* ---- console ---- */

#define CON 3
#define LETTERS 48
#define IN_BYTES 16

static struct vdev con;
static char con_in[2][IN_BYTES], line[64];
static uint64_t lines, line_at;
static bool line_out;

static void con_offer(unsigned i)
{
	struct vbuf b = { con_in[i], IN_BYTES };
	v_offer_at(&con, 0, i, &b, 0, 1);
}

static void con_begin(uint64_t features, unsigned vec)
{
	CHECK(v_find(CON, 0, &con), 0);
	v_start(&con, features, 2, vec);
	con_offer(0);
	con_offer(1);
}

static void con_line(void)
{
	unsigned n = 4;

	memcpy(line, "con ", 4);
	for (uint64_t unit = 100000; unit; unit /= 10) {
		line[n++] = (char)('0' + lines / unit % 10);
	}
	line[n++] = ' ';
	for (unsigned i = 0; i < LETTERS; i++) {
		line[n++] = (char)('a' + (lines + i) % 26);
	}
	line[n++] = '\n';
	struct vbuf b = { line, n };
	v_offer(&con, 1, &b, 1, 0);
	lines++;
	line_out = true;
}

static void con_typed(const char *text, uint32_t len)
{
	print("typed ");
	for (uint32_t i = 0; i < len; i++) {
		put_char(text[i]);
		if (text[i] == 'V') {
			verifying = true;
			verified = verify_at = 0;
		}
	}
	print("\n");
}

static bool con_turn(void)
{
	uint16_t head;
	uint32_t len;
	bool did = false;

	if (line_out && v_taken(&con, 1, &head, &len)) {
		line_out = false;
	}
	if (!line_out && clock_ns() >= line_at) {
		line_at = clock_ns() + NSEC_PER_MSEC;
		con_line();
	}
	while (v_taken(&con, 0, &head, &len)) {
		CHECK(head < 2 && len > 0 && len <= IN_BYTES, len);
		con_typed(con_in[head], len);
		con_offer(head);
		did = true;
	}
	return did;
}

/* ---- all of it ---- */

void guest_main(void)
{
	uint64_t features = V_INDIRECT_DESC | (arg_number("event", 1) ? V_EVENT_IDX : 0);
	unsigned vec = arg_number("intx", 0) ? 0 : VEC;
	uint64_t tell_at = 0;

	irq_off();
	lapic_on();
	irq_handler(TICK, irq_tick);
	disk_begin(features, vec);
	net_begin(features, vec ? vec + 8 : 0);
	con_begin(features, vec ? vec + 16 : 0);
	CHECK(vsock_begin(features, vec ? vec + 24 : 0), 0);
	print("load: %u blocks\n", blocks);
	for (;;) {
		bool did = disk_turn();
		did = net_turn() || did;
		did = vsock_turn() || did;
		did = con_turn() || did;
		uint64_t now = clock_ns();
		if (now >= tell_at) {
			tell_at = now + 50 * NSEC_PER_MSEC;
			print("at %lu disk %lu %lu net %u %lu %lu", (uint64_t)(now / NSEC_PER_MSEC), writes, reads,
			      sent, back, lost);
			vsock_tell();
			print(" con %lu\n", lines);
		}
		if (!did) {
			lapic_oneshot(TICK, NSEC_PER_MSEC);
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
