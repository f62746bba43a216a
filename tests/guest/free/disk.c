/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the tests of captured disks: it knows by heart what every sector of its first virtio disk
 * holds, writes at random, and checks what it reads: whenever disk and memory are not of one moment,
 * it finds out. Command line: beat=MS between rounds, seed=N, flush=0 for a driver without flushes.
 *
 * At the start the disk is read once: "disk sectors N sum S". Then one line per round, "round N": four
 * writes at a time, of 1 to 16 sectors, some of them in one block, a flush, zeroes or a discard now and
 * then, and two reads.
 *
 * Keys: v reads everything and says "verified SUM round N", i stands still until the next i, q ends the VM
 * (exit device), f flushes and says "flushed", z resets the machine.
 */
#include "vdrv.h"

#define VEC 0x40
#define BLK 2
#define F_FLUSH (1ull << 9)
#define F_DISCARD (1ull << 13)
#define F_ZEROES (1ull << 14)
#define SECTOR 512
#define SECTORS_MAX 65536
#define DEPTH 4
#define MOST 128 /* sectors of a request */
#define WRITE_MOST 16
#define EXIT_PORT 0x501

enum { IN = 0, OUT = 1, FLUSH = 4, DISCARD = 11, ZEROES = 13 };

struct req {
	struct {
		uint32_t type, zero;
		uint64_t sector;
	} head;
	volatile uint8_t status;
	struct {
		uint64_t sector;
		uint32_t n, flags;
	} seg;
	uint64_t first, n;
	uint64_t data[MOST * SECTOR / 8] __attribute__((aligned(4096)));
};

static struct vdev blk;
static struct req reqs[DEPTH];
static uint64_t sums[SECTORS_MAX]; /* of what each sector holds */
static uint64_t sectors, rounds, state;
static bool flushes;

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t sum_of(const uint64_t *p)
{
	uint64_t h = 0x9e3779b97f4a7c15ull;
	for (unsigned i = 0; i < SECTOR / 8; i++) {
		h = (h ^ p[i]) * 0x100000001b3ull;
		h ^= h >> 29;
	}
	return h;
}

static void send(struct req *r, uint32_t type, uint64_t first, uint64_t n)
{
	struct vbuf b[3] = { { &r->head, sizeof(r->head) } };
	unsigned nb = 1, w = 1;

	r->head.type = type;
	r->head.sector = type == DISCARD || type == ZEROES ? 0 : first;
	r->first = first;
	r->n = n;
	r->status = 0xff;
	if (type == IN || type == OUT) {
		b[nb++] = (struct vbuf){ r->data, (uint32_t)(n * SECTOR) };
		w += type == IN;
	} else if (type != FLUSH) {
		r->seg.sector = first;
		r->seg.n = (uint32_t)n;
		r->seg.flags = 0;
		b[nb++] = (struct vbuf){ &r->seg, sizeof(r->seg) };
	}
	b[nb++] = (struct vbuf){ &r->status, 1 };
	v_offer(&blk, 0, b, nb - w, w);
}

static void finish(unsigned n)
{
	uint32_t len;
	for (unsigned i = 0; i < n; i++) {
		v_wait(&blk, 0, &len);
	}
	for (unsigned i = 0; i < n; i++) {
		CHECK(reqs[i].status == 0, reqs[i].head.type << 8 | reqs[i].status);
	}
}

static void fill(struct req *r, uint64_t first, uint64_t n)
{
	for (uint64_t i = 0; i < n * SECTOR / 8; i++) {
		r->data[i] = rnd();
	}
	for (uint64_t i = 0; i < n; i++) {
		sums[first + i] = sum_of(r->data + i * SECTOR / 8);
	}
}

static void check(const struct req *r)
{
	for (uint64_t i = 0; i < r->n; i++) {
		CHECK(sum_of(r->data + i * SECTOR / 8) == sums[r->first + i], r->first + i);
	}
}

static void zero(uint32_t type)
{
	static const uint64_t zeros[SECTOR / 8];
	uint64_t n = 1 + rnd() % 64;
	uint64_t first = rnd() % (sectors - n);

	for (uint64_t i = 0; i < n; i++) {
		sums[first + i] = sum_of(zeros);
	}
	send(&reqs[0], type, first, n);
	finish(1);
}

static void round_once(void)
{
	uint64_t part = sectors / DEPTH;
	uint64_t behind = 0;

	for (unsigned i = 0; i < DEPTH; i++) {
		uint64_t n = 1 + rnd() % WRITE_MOST;
		uint64_t first = i * part + rnd() % (part - 2 * WRITE_MOST);
		if (i == 1 && rnd() % 2) {
			first = behind; /* its neighbour, maybe in the same block */
		}
		if (rnd() % 4 == 0) { /* whole blocks */
			first &= ~7ull;
			n = 8;
			first += i == 1 && first < behind && behind < part ? 16 : 0;
		}
		behind = first + n;
		fill(&reqs[i], first, n);
		send(&reqs[i], OUT, first, n);
	}
	finish(DEPTH);
	if (flushes && rnd() % 8 == 0) {
		send(&reqs[0], FLUSH, 0, 0);
		finish(1);
	}
	if (rnd() % 8 == 0) {
		zero(rnd() % 2 ? ZEROES : DISCARD);
	}
	for (unsigned i = 0; i < 2; i++) {
		uint64_t n = 1 + rnd() % MOST;
		send(&reqs[i], IN, rnd() % (sectors - n), n);
	}
	finish(2);
	check(&reqs[0]);
	check(&reqs[1]);
}

/* Reads everything: to know it, or to check it. */
static uint64_t read_all(bool learn)
{
	uint64_t sum = 0;

	for (uint64_t at = 0; at < sectors; at += MOST) {
		uint64_t n = sectors - at < MOST ? sectors - at : MOST;
		send(&reqs[0], IN, at, n);
		finish(1);
		for (uint64_t i = 0; i < n; i++) {
			if (learn) {
				sums[at + i] = sum_of(reqs[0].data + i * SECTOR / 8);
			}
			sum = sum * 31 + sums[at + i];
		}
		check(&reqs[0]);
	}
	return sum;
}

static void key(int c, bool *still)
{
	if (c == 'v') {
		uint64_t sum = read_all(false);
		print("verified %lx round %lu\n", sum, rounds);
	} else if (c == 'i') {
		*still = !*still;
		print("still %u\n", *still);
	} else if (c == 'q') {
		outb(EXIT_PORT, 1);
	} else if (c == 'f') {
		send(&reqs[0], FLUSH, 0, 0);
		finish(1);
		print("flushed\n");
	} else if (c == 'z') {
		reset_by_i8042();
	}
}

void guest_main(void)
{
	uint64_t beat = arg_number("beat", 5);
	bool still = false;

	irq_off();
	lapic_on();
	irq_handler(0x7d, irq_tick);
	state = arg_number("seed", 1) * 0x9e3779b97f4a7c15ull | 1;
	flushes = arg_number("flush", 1);
	CHECK(v_find(BLK, 0, &blk), 0);
	v_start(&blk, V_INDIRECT_DESC | V_EVENT_IDX | (flushes ? F_FLUSH : 0) | F_DISCARD | F_ZEROES, 1, VEC);
	sectors = v_get32(blk.config);
	CHECK(sectors >= 1024 && sectors <= SECTORS_MAX, sectors);
	uint64_t sum = read_all(true);
	print("disk sectors %lu sum %lx\n", sectors, sum);
	for (;;) {
		if (!still) {
			round_once();
			print("round %lu\n", ++rounds);
		}
		for (int c = get_char(); c >= 0; c = get_char()) {
			key(c, &still);
		}
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
