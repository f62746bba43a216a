/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the virtio tests: drives every device that it finds, for ever, and checks what comes back.
 * One line per round: "round N rng A disk B irqs I". Command line: beat=MS between rounds, intx=1 for
 * INTA instead of MSI-X, event=0 without event-idx.
 *
 * A console gets a line per round, "con N" and 48 letters that follow from N; what is typed there is
 * told as "typed TEXT".
 *
 * A balloon gets pages of 16 MiB that hold a pattern, as many as it is asked for, and "balloon N" says
 * that they are N now. What comes back must be zero, and what was not given must hold its pattern. One
 * free page is reported per round. Key o takes some pages back, as a guest short of memory does.
 *
 * A writable disk gets patterns that say block and turn, four requests at a time, and what was written
 * a turn ago is read back; of a read-only one the first block must stay what it was.
 *
 * Keys: m moves every BAR, h works a hostile ring and recovers, e tries the edges of the disk, p says
 * "pong", z resets the machine.
 */
#include "vdrv.h"

#define VEC 0x40
#define RNG 4
#define RNG_BYTES 64
#define BLK 2
#define BLK_F_RO (1ull << 5)
#define BLK_F_FLUSH (1ull << 9)
#define BLK_F_DISCARD (1ull << 13)
#define BLK_F_ZEROES (1ull << 14)
#define BLK_DEPTH 4
#define BLK_WORDS 512 /* of 8 bytes: 4 KiB per request */
#define SECTORS_PER_BLOCK 8

#define CON 3
#define CON_LETTERS 48
#define CON_IN 16 /* bytes of an input buffer */

#define BAL 5
#define BAL_F_STATS (1ull << 1)
#define BAL_F_OOM (1ull << 2)
#define BAL_F_REPORT (1ull << 5)
#define BAL_BASE 0x1000000ull
#define BAL_PAGES 4096u
#define BAL_STEP 64u /* pages at a time */
#define PAGE 4096ull
#define PAGE_WORDS 512

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

static struct vdev rng;
static bool has_rng;
static uint64_t rng_count, round_count, features;
static unsigned vectors;
static uint8_t random_bytes[2][RNG_BYTES];

struct blk_req {
	struct {
		uint32_t type, zero;
		uint64_t sector;
	} head;
	volatile uint8_t status;
	uint64_t data[BLK_WORDS] __attribute__((aligned(16)));
};
static struct vdev blk;
static bool has_blk, blk_ro;
static uint64_t blk_count, blk_blocks, first_word;
static struct blk_req reqs[BLK_DEPTH];

static struct vdev con;
static bool has_con;
static uint64_t con_count;
static char con_in[2][CON_IN];

static void rng_start(void)
{
	v_start(&rng, features, 1, vectors ? VEC : 0);
}

/* Two draws are never alike. */
static void rng_round(void)
{
	uint8_t *to = random_bytes[rng_count & 1];
	uint32_t len = 0;
	struct vbuf b[2] = { { to, RNG_BYTES / 2 }, { to + RNG_BYTES / 2, RNG_BYTES / 2 } };

	memset(to, 0, RNG_BYTES);
	uint16_t head = v_offer(&rng, 0, b, 0, 2);
	uint16_t back = v_wait(&rng, 0, &len);
	CHECK(back == head, back);
	CHECK(len == RNG_BYTES, len);
	bool same = true;
	for (unsigned i = 0; i < RNG_BYTES; i++) {
		same = same && random_bytes[0][i] == random_bytes[1][i];
	}
	CHECK(!same, rng_count);
	rng_count++;
}

static struct vdev bal;
static bool has_bal;
static uint32_t bal_actual;
static struct {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed)) bal_stats[2];

static volatile uint64_t *bal_page(uint64_t n)
{
	return (volatile uint64_t *)(BAL_BASE + n * PAGE);
}

static void bal_set(uint64_t n)
{
	for (unsigned i = 0; i < PAGE_WORDS; i++) {
		bal_page(n)[i] = n * PAGE_WORDS + i + 1;
	}
}

static void bal_tell(void)
{
	struct vbuf b = { bal_stats, sizeof(bal_stats) };
	bal_stats[0].tag = 4; /* free memory */
	bal_stats[0].value = (BAL_PAGES - bal_actual) * PAGE;
	bal_stats[1].tag = 5; /* all of it */
	bal_stats[1].value = BAL_PAGES * PAGE;
	v_offer(&bal, 2, &b, 1, 0);
}

static void bal_start(void)
{
	v_start(&bal, features | BAL_F_STATS | BAL_F_OOM | BAL_F_REPORT, 4, vectors ? VEC + 24 : 0);
	for (unsigned n = 0; n < BAL_PAGES; n++) {
		bal_set(n);
	}
	bal_tell();
}

/* Gives or takes back up to BAL_STEP pages, one way. */
static void bal_move(uint32_t target)
{
	uint32_t list[BAL_STEP];
	uint32_t len;
	unsigned n = 0;
	bool give = target > bal_actual;
	unsigned most = give ? target - bal_actual : bal_actual - target;

	while (n < most && n < BAL_STEP) {
		uint32_t at = give ? bal_actual + n : bal_actual - 1 - n;
		list[n++] = (uint32_t)(BAL_BASE / PAGE) + at;
		for (unsigned i = 0; give && i < PAGE_WORDS; i++) {
			CHECK(bal_page(at)[i] == at * (uint64_t)PAGE_WORDS + i + 1, at);
		}
	}
	struct vbuf b = { list, n * 4 };
	v_offer(&bal, give ? 0 : 1, &b, 1, 0);
	v_wait(&bal, give ? 0 : 1, &len);
	bal_actual = give ? bal_actual + n : bal_actual - n;
	for (unsigned k = 0; !give && k < n; k++) {
		for (unsigned i = 0; i < PAGE_WORDS; i++) {
			CHECK(bal_page(bal_actual + k)[i] == 0, bal_actual + k);
		}
		bal_set(bal_actual + k);
	}
	v_put32(bal.config + 4, bal_actual);
	if (bal_actual == target) {
		print("balloon %u\n", bal_actual);
	}
}

static void bal_round(void)
{
	uint32_t target = v_get32(bal.config);
	uint16_t head;
	uint32_t len;

	target = target < BAL_PAGES ? target : BAL_PAGES;
	if (target != bal_actual) {
		bal_move(target);
	}
	bal_set(BAL_PAGES); /* reported */
	struct vbuf b = { bal_page(BAL_PAGES), PAGE };
	v_offer(&bal, 3, &b, 0, 1);
	v_wait(&bal, 3, &len);
	for (unsigned i = 0; i < PAGE_WORDS; i++) {
		CHECK(bal_page(BAL_PAGES)[i] == 0, i);
	}
	if (v_taken(&bal, 2, &head, &len)) {
		bal_tell();
	}
}

static void con_offer(unsigned i)
{
	struct vbuf b = { con_in[i], CON_IN };
	v_offer(&con, 0, &b, 0, 1);
}

static void con_start(void)
{
	v_start(&con, features, 2, vectors ? VEC + 16 : 0);
	con_offer(0);
	con_offer(1);
}

static void con_round(void)
{
	char text[16 + CON_LETTERS] = "con ";
	unsigned n = 4;
	uint16_t head;
	uint32_t len;

	for (uint64_t unit = 100000; unit; unit /= 10) {
		text[n++] = (char)('0' + con_count / unit % 10);
	}
	text[n++] = ' ';
	for (unsigned i = 0; i < CON_LETTERS; i++) {
		text[n++] = (char)('a' + (con_count + i) % 26);
	}
	text[n++] = '\n';
	struct vbuf b[2] = { { text, 7 }, { text + 7, n - 7 } };
	v_offer(&con, 1, b, 2, 0);
	v_wait(&con, 1, &len);
	con_count++;
	while (v_taken(&con, 0, &head, &len)) {
		unsigned i = con.q[0]->desc[head].addr == (uint64_t)con_in[1];
		CHECK(len > 0 && len <= CON_IN, len);
		print("typed ");
		for (unsigned k = 0; k < len; k++) {
			put_char(con_in[i][k]);
		}
		print("\n");
		con_offer(i);
	}
}

static void blk_look(void)
{
	blk_blocks = (v_get32(blk.config) | (uint64_t)v_get32(blk.config + 4) << 32) /
		     SECTORS_PER_BLOCK;
}

static void blk_start(void)
{
	v_start(&blk, features | BLK_F_RO | BLK_F_FLUSH | BLK_F_DISCARD | BLK_F_ZEROES, 1,
		vectors ? VEC + 8 : 0);
	blk_look();
	blk_ro = blk.features & BLK_F_RO;
	CHECK(blk_blocks >= 64, blk_blocks);
}

static void blk_send(struct blk_req *r, uint32_t type, uint64_t block, uint32_t len)
{
	struct vbuf b[4] = { { &r->head, sizeof(r->head) } };
	unsigned n = 1, w = 1;

	r->head.type = type;
	r->head.sector = block * SECTORS_PER_BLOCK;
	r->status = 0xff;
	if (len) { /* in two pieces */
		b[n++] = (struct vbuf){ r->data, 512 };
		b[n++] = (struct vbuf){ r->data + 64, len - 512 };
		w += type == 0 ? 2 : 0;
	}
	b[n++] = (struct vbuf){ &r->status, 1 };
	v_offer(&blk, 0, b, n - w, w);
}

static void blk_finish(unsigned n)
{
	uint32_t len;
	while (n--) {
		v_wait(&blk, 0, &len);
	}
}

/* A request failed: right if the disk has become too short for it meanwhile. */
static bool blk_is_gone(const struct blk_req *r)
{
	blk_look();
	return r->status == 1 && r->head.sector / SECTORS_PER_BLOCK >= blk_blocks;
}

static uint64_t pattern(uint64_t block, uint64_t turn, unsigned word)
{
	return (block << 32 | turn) * 0x9e3779b97f4a7c15ull + word;
}

/* One turn: BLK_DEPTH blocks written at once, synced now and then, and read back. */
static void blk_round(void)
{
	uint64_t turn = blk_count / BLK_DEPTH;
	if (blk_ro) {
		blk_send(&reqs[0], 0, 0, sizeof(reqs[0].data));
		blk_finish(1);
		CHECK(reqs[0].status == 0, reqs[0].status);
		CHECK(!blk_count || reqs[0].data[0] == first_word, reqs[0].data[0]);
		first_word = reqs[0].data[0];
		blk_count++;
		return;
	}
	for (unsigned i = 0; i < BLK_DEPTH; i++) {
		uint64_t block = (blk_count + i) % blk_blocks;
		for (unsigned w = 0; w < BLK_WORDS; w++) {
			reqs[i].data[w] = pattern(block, turn, w);
		}
		blk_send(&reqs[i], 1, block, sizeof(reqs[i].data));
	}
	blk_finish(BLK_DEPTH);
	for (unsigned i = 0; i < BLK_DEPTH; i++) {
		if (reqs[i].status && blk_is_gone(&reqs[i])) {
			return; /* once more, on what is left */
		}
		CHECK(reqs[i].status == 0, reqs[i].status);
	}
	if (turn % 8 == 0) {
		blk_send(&reqs[0], 4, 0, 0);
		blk_finish(1);
		CHECK(reqs[0].status == 0, reqs[0].status);
	}
	for (unsigned i = 0; i < BLK_DEPTH; i++) {
		memset(reqs[i].data, 0, sizeof(reqs[i].data));
		blk_send(&reqs[i], 0, (blk_count + i) % blk_blocks, sizeof(reqs[i].data));
	}
	blk_finish(BLK_DEPTH);
	for (unsigned i = 0; i < BLK_DEPTH; i++) {
		uint64_t block = reqs[i].head.sector / SECTORS_PER_BLOCK;
		if (reqs[i].status && blk_is_gone(&reqs[i])) {
			return;
		}
		for (unsigned w = 0; w < BLK_WORDS; w++) {
			CHECK(reqs[i].data[w] == pattern(block, turn, w), block);
		}
	}
	blk_count += BLK_DEPTH;
}

/* What a disk must refuse, and the requests without data. */
static void blk_edges(void)
{
	struct blk_req *r = &reqs[0];
	uint32_t len;

	blk_send(r, 0, blk_blocks, 4096); /* behind the end */
	blk_finish(1);
	CHECK(r->status == 1, r->status);
	blk_send(r, 0, ~0ull / 16, 4096);
	blk_finish(1);
	CHECK(r->status == 1, r->status);
	blk_send(r, 77, 0, 4096);
	blk_finish(1);
	CHECK(r->status == 2, r->status);
	if (blk_ro) {
		blk_send(r, 1, 0, 4096);
		blk_finish(1);
		CHECK(r->status == 1, r->status);
	} else { /* block 63 is zeroed, by write-zeroes and by discard */
		for (unsigned type = 11; type <= 13; type += 2) {
			uint64_t seg[2] = { 63 * SECTORS_PER_BLOCK, SECTORS_PER_BLOCK };
			struct vbuf b[3] = { { &r->head, 16 }, { seg, 16 }, { &r->status, 1 } };
			blk_send(r, 1, 63, 4096);
			blk_finish(1);
			r->head.type = type;
			r->status = 0xff;
			v_offer(&blk, 0, b, 2, 1);
			v_wait(&blk, 0, &len);
			CHECK(r->status == 0, r->status);
			r->data[5] = 1;
			blk_send(r, 0, 63, 4096);
			blk_finish(1);
			CHECK(r->status == 0 && r->data[5] == 0, r->data[5]);
		}
	}
	char id[20];
	struct vbuf b[3] = { { &r->head, 16 }, { id, 20 }, { &r->status, 1 } };
	r->head.type = 8;
	v_offer(&blk, 0, b, 1, 2);
	v_wait(&blk, 0, &len);
	CHECK(r->status == 0 && len == 21, len);
	print("disk id %s edges ok\n", id);
}

/* The disk's size as it is now, its last block written and read, and none behind it. */
static void blk_size(void)
{
	struct blk_req *r = &reqs[0];

	blk_look();
	for (unsigned w = 0; w < BLK_WORDS; w++) {
		r->data[w] = pattern(blk_blocks - 1, 7, w);
	}
	blk_send(r, 1, blk_blocks - 1, sizeof(r->data));
	blk_finish(1);
	CHECK(r->status == 0, r->status);
	memset(r->data, 0, sizeof(r->data));
	blk_send(r, 0, blk_blocks - 1, sizeof(r->data));
	blk_finish(1);
	CHECK(r->status == 0 && r->data[9] == pattern(blk_blocks - 1, 7, 9), r->status);
	blk_send(r, 0, blk_blocks, sizeof(r->data));
	blk_finish(1);
	CHECK(r->status == 1, r->status);
	print("disk blocks %lu\n", blk_blocks);
}

/* Every kind of broken ring: the device asks for a reset, the VM lives on. */
static void hostile(void)
{
	static const struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} bad[] = {
		{ 0x100000, 16, V_WRITE | V_NEXT, 0 },	      /* a loop */
		{ 0x100000, 16, V_WRITE | V_NEXT, V_SIZE },   /* no such descriptor */
		{ ~0ull - 4, 16, V_WRITE, 0 },		      /* outside memory */
		{ 0xfee00000, 16, V_WRITE, 0 },		      /* a device's registers */
		{ 0x100000, 0xffffffff, V_WRITE, 0 },	      /* too long */
		{ 0x100000, 0, V_WRITE, 0 },		      /* empty */
		{ 0x100000, 24, V_INDIRECT, 0 },	      /* half a descriptor */
		{ 0x100000, 16, V_INDIRECT | V_NEXT, 1 },
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct vqueue *q = rng.q[0];
		q->desc[0] = (struct vdesc){ bad[i].addr, bad[i].len, bad[i].flags, bad[i].next };
		q->avail[2 + q->avail[1] % V_SIZE] = 0;
		q->avail[1]++;
		v_kick(&rng, 0);
		while (!(v_status(&rng) & 0x40)) {
			cpu_relax();
		}
		CHECK((uint16_t)(q->used[0] >> 16) == q->seen, i);
		rng_start();
		rng_round();
	}
	/* Indices far ahead, and a ring outside memory. */
	rng.q[0]->avail[1] = (uint16_t)(rng.q[0]->avail[1] + V_SIZE + 1);
	v_kick(&rng, 0);
	while (!(v_status(&rng) & 0x40)) {
		cpu_relax();
	}
	rng_start();
	print("hostile ok\n");
}

static void move(void)
{
	if (has_rng) {
		v_move(&rng, rng.bar ^ 0x10000000);
		rng_round();
	}
	if (has_blk) {
		v_move(&blk, blk.bar ^ 0x10000000);
		blk_round();
	}
	if (has_con) {
		v_move(&con, con.bar ^ 0x10000000);
		con_round();
	}
	print("moved to %lx\n", rng.bar);
}

static void key(int c)
{
	if (c == 'm') {
		move();
	} else if (c == 'h') {
		hostile();
	} else if (c == 'e') {
		blk_edges();
	} else if (c == 's') {
		blk_size();
	} else if (c == 'o') {
		bal_move(bal_actual > BAL_STEP ? bal_actual - BAL_STEP : 0);
	} else if (c == 'z') {
		reset_by_i8042();
	} else if (c == 'p') {
		print("pong\n");
	}
}

void guest_main(void)
{
	uint64_t beat = arg_number("beat", 10);

	irq_off();
	lapic_on();
	vectors = !arg_number("intx", 0);
	features = V_INDIRECT_DESC | (arg_number("event", 1) ? V_EVENT_IDX : 0);
	irq_handler(0x7d, irq_tick);
	has_rng = v_find(RNG, 0, &rng);
	if (has_rng) {
		rng_start();
	}
	has_blk = v_find(BLK, 0, &blk);
	if (has_blk) {
		blk_start();
	}
	has_con = v_find(CON, 0, &con);
	if (has_con) {
		con_start();
	}
	has_bal = v_find(BAL, 0, &bal);
	if (has_bal) {
		bal_start();
	}
	print("virtio: rng %u disk %u console %u balloon %u\n", has_rng, has_blk, has_con, has_bal);
	for (;;) {
		if (has_rng) {
			rng_round();
		}
		if (has_blk) {
			blk_round();
		}
		if (has_con) {
			con_round();
		}
		if (has_bal) {
			bal_round();
		}
		print("round %lu rng %lu disk %lu irqs %lu\n", ++round_count, rng_count, blk_count,
		      v_irqs);
		for (int c = get_char(); c >= 0; c = get_char()) {
			key(c);
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
