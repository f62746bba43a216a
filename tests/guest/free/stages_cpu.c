/* SPDX-License-Identifier: Apache-2.0 */
/* Stages of registers, memory and I/O under way: see stages.c. */
#include "stages.h"

/* ---- clock ---- */

/* kvmclock never goes back, and leaves out the time in which nothing ran. */
void stage_kvmclock(void)
{
	uint64_t last = clock_ns();

	sync_say(1);
	do {
		uint64_t now = clock_ns();
		CHECK(now >= last, last - now);
		/* The harness keeps the machine away for two seconds. */
		CHECK(now - last < 1500 * NSEC_PER_MSEC, now - last);
		last = now;
	} while (inb(SYNC_PORT) == SYNC_HOLD);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t now = clock_ns();
		CHECK(now >= last, last - now);
		CHECK(now - last < 1500 * NSEC_PER_MSEC, now - last);
		last = now;
	}
}

/* ---- MSRs ---- */

static volatile bool gp_seen;

static void on_gp(struct frame *f)
{
	gp_seen = true;
	f->rip += 2; /* rdmsr and wrmsr are two bytes */
}

static uint64_t do_msr_probe(struct frame *f, uint64_t msr)
{
	(void)f;
	gp_seen = false;
	return rdmsr0((uint32_t)msr);
}

static uint64_t do_msr_try(struct frame *f, uint64_t arg)
{
	const uint64_t *a = (const uint64_t *)arg;
	(void)f;
	gp_seen = false;
	wrmsr0((uint32_t)a[0], a[1]);
	return 0;
}

static bool msr_reads(uint32_t msr, uint64_t *v)
{
	*v = call0(do_msr_probe, msr);
	return !gp_seen;
}

static bool msr_takes(uint32_t msr, uint64_t v)
{
	uint64_t a[2] = { msr, v };
	call0(do_msr_try, (uint64_t)a);
	return !gp_seen;
}

/* Not to be played with: time, the APIC's place and mode, long mode, places KVM writes to. */
static bool msr_left_alone(uint32_t msr)
{
	return msr == 0x10 || msr == 0x11 || msr == 0x12 || msr == 0x1b || msr == 0x6e0 ||
	       (msr >= 0x800 && msr <= 0x8ff) || msr == 0xc0000080;
}

static struct {
	uint32_t msr;
	uint64_t v;
} odd[1024];
static unsigned nodd;

/* Changes the MSR to something else that it keeps, if there is anything. */
static void msr_make_odd(uint32_t msr)
{
	static const uint64_t flips[] = { 0x5540, 0x60000005540, ~0ull,  1,      2,      4,
					  0x10,   0x40,          0x100,  0x400,  0x1000, 0x10000,
					  1 << 20, 0x0303030303030303 };
	uint64_t was, now;

	if (msr_left_alone(msr) || !msr_reads(msr, &was) || !msr_reads(msr, &now) || was != now) {
		return;
	}
	for (unsigned i = 0; i < sizeof(flips) / sizeof(flips[0]); i++) {
		if (msr_takes(msr, was ^ flips[i]) && msr_reads(msr, &now) && now != was &&
		    nodd < sizeof(odd) / sizeof(odd[0])) {
			odd[nodd].msr = msr;
			odd[nodd++].v = now;
			return;
		}
	}
}

/* Every MSR that can be read and changed holds an odd value, whatever it is for. */
void stage_msrs(void)
{
	static const struct {
		uint32_t first, last;
	} ranges[] = { { 0, 0x1fff },
		       { 0xc0000000, 0xc00001ff },
		       { 0xc0010000, 0xc00101ff },
		       { 0xc0011000, 0xc001103f } };
	unsigned lost = 0;

	irq_handler(13, on_gp);
	for (unsigned r = 0; r < sizeof(ranges) / sizeof(ranges[0]); r++) {
		for (uint32_t m = ranges[r].first; m <= ranges[r].last; m++) {
			msr_make_odd(m);
		}
	}
	/* What was changed later may have changed an earlier one, or may count. */
	for (unsigned i = 0; i < nodd; i++) {
		uint64_t v, again;
		if (!msr_reads(odd[i].msr, &v) || !msr_reads(odd[i].msr, &again) || v != again) {
			odd[i].msr = 0;
		}
		odd[i].v = v;
	}
	print("%u MSRs changed\n", nodd);
	CHECK(nodd >= 20, nodd);
	stage(1);
	for (unsigned i = 0; i < nodd; i++) {
		uint64_t v = 0;
		if (odd[i].msr != 0 && (!msr_reads(odd[i].msr, &v) || v != odd[i].v)) {
			print("MSR %x was %lx, is %lx\n", odd[i].msr, odd[i].v, v);
			lost++;
		}
	}
	CHECK(lost == 0, lost);
}

/* ---- debug registers ---- */

static volatile uint32_t watched;
static volatile unsigned db_count;
static volatile uint64_t db_dr6;

static void on_db(struct frame *f)
{
	uint64_t dr6;
	(void)f;
	__asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
	db_dr6 = dr6;
	db_count++;
	__asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ull));
}

static uint64_t do_arm(struct frame *f, uint64_t addr)
{
	(void)f;
	__asm__ volatile("mov %0, %%dr0" ::"r"(addr));
	__asm__ volatile("mov %0, %%dr3" ::"r"(addr + 64));
	__asm__ volatile("mov %0, %%dr7" ::"r"(0xd0401ull)); /* DR0: writes of four bytes */
	return 0;
}

static uint64_t do_read_dr(struct frame *f, uint64_t n)
{
	uint64_t v;
	(void)f;
	if (n == 0) {
		__asm__ volatile("mov %%dr0, %0" : "=r"(v));
	} else if (n == 3) {
		__asm__ volatile("mov %%dr3, %0" : "=r"(v));
	} else {
		__asm__ volatile("mov %%dr7, %0" : "=r"(v));
	}
	return v;
}

/* A data breakpoint is armed; it fired once before and must fire once after. */
void stage_break(void)
{
	unsigned before;

	irq_handler(1, on_db);
	call0(do_arm, (uint64_t)&watched);
	watched = 1;
	before = db_count;
	stage(1);
	CHECK(call0(do_read_dr, 0) == (uint64_t)&watched, call0(do_read_dr, 0));
	CHECK(call0(do_read_dr, 3) == (uint64_t)&watched + 64, call0(do_read_dr, 3));
	CHECK(call0(do_read_dr, 7) == 0xd0401, call0(do_read_dr, 7));
	CHECK(db_count == before, db_count);
	watched = 2;
	if (before == 0 && db_count == 0) {
		skip("registers kept, but this KVM lets no data breakpoint fire in a guest");
	}
	CHECK(before == 1 && db_count == 2, db_count);
	CHECK(db_dr6 & 1, db_dr6);
}

/* ---- x87 and SSE ---- */

struct fx {
	uint8_t b[512];
} __attribute__((aligned(16)));

static void fx_get(struct fx *fx)
{
	__asm__ volatile("fxsave64 %0" : "=m"(*fx)::"memory");
}

/* Half a stack of x87 values, odd rounding, sticky flags, sixteen xmm registers. */
void stage_fpu(void)
{
	static struct fx before, after;
	static uint8_t xmm[16][16] __attribute__((aligned(16)));
	static const uint16_t cw = 0x0e7f; /* round up, 53 bits, all masked */
	static const uint32_t mxcsr = 0x7fa1;

	for (unsigned i = 0; i < sizeof(xmm); i++) {
		xmm[i / 16][i % 16] = (uint8_t)(i * 29 + 5);
	}
	__asm__ volatile("fninit; fldcw %0" ::"m"(cw));
	__asm__ volatile("fldpi; fldl2e; fldln2; fld1; fldpi; fdivrp; fldz; fld1");
	__asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
#define XMM(n) "movdqa " #n "*16(%0), %%xmm" #n "\n"
	__asm__ volatile(XMM(0) XMM(1) XMM(2) XMM(3) XMM(4) XMM(5) XMM(6) XMM(7) XMM(8) XMM(9)
				 XMM(10) XMM(11) XMM(12) XMM(13) XMM(14) XMM(15)::"r"(xmm)
			 : "memory");
	fx_get(&before);
	CHECK(before.b[0] == 0x7f && before.b[1] == 0x0e, before.b[1]);
	CHECK((before.b[2] & 0x20) && (before.b[3] & 0x38) == 0x10, before.b[3]); /* PE, top 2 */
	stage(1);
	fx_get(&after);
	for (unsigned i = 0; i < 464; i++) {
		CHECK(before.b[i] == after.b[i], i);
	}
	__asm__ volatile("fninit");
}

/* ---- paging ---- */

#define ALIAS 0x8000000000ull
static volatile uint64_t tables[2][4][512] __attribute__((aligned(4096)));
static volatile uint64_t leaf[2][512] __attribute__((aligned(4096)));

static uint64_t do_cr3(struct frame *f, uint64_t cr3)
{
	uint64_t v;
	(void)f;
	if (cr3 != 0) {
		__asm__ volatile("mov %0, %%cr3" ::"r"(cr3) : "memory");
	}
	__asm__ volatile("mov %%cr3, %0" : "=r"(v));
	return v;
}

static uint64_t do_invlpg(struct frame *f, uint64_t va)
{
	(void)f;
	__asm__ volatile("invlpg (%0)" ::"r"(va) : "memory");
	return 0;
}

static uint64_t alias_read(void)
{
	return *(volatile uint64_t *)ALIAS;
}

/* Two address spaces map one address to two pages; entries change before and after the save. */
void stage_cr3(void)
{
	uint64_t *home = (uint64_t *)call0(do_cr3, 0);

	leaf[0][0] = 0xaaaa;
	leaf[1][0] = 0xbbbb;
	for (unsigned i = 0; i < 2; i++) {
		tables[i][0][0] = home[0];
		tables[i][0][1] = (uint64_t)tables[i][1] + 7;
		tables[i][1][0] = (uint64_t)tables[i][2] + 7;
		tables[i][2][0] = (uint64_t)tables[i][3] + 7;
		tables[i][3][0] = (uint64_t)leaf[i] + 7;
	}
	call0(do_cr3, (uint64_t)tables[0][0]);
	CHECK(alias_read() == 0xaaaa, alias_read());
	call0(do_cr3, (uint64_t)tables[1][0]);
	CHECK(alias_read() == 0xbbbb, alias_read());
	CHECK(tables[1][3][0] & 0x20, tables[1][3][0]); /* accessed */
	CHECK(!(tables[1][3][0] & 0x40), tables[1][3][0]);
	stage(1);
	CHECK(call0(do_cr3, 0) == (uint64_t)tables[1][0], call0(do_cr3, 0));
	CHECK(alias_read() == 0xbbbb, alias_read());
	CHECK(!(tables[1][3][0] & 0x40), tables[1][3][0]);
	*(volatile uint64_t *)ALIAS = 0xcccc;
	CHECK(leaf[1][0] == 0xcccc && (tables[1][3][0] & 0x40), tables[1][3][0]);
	tables[1][3][0] = (uint64_t)leaf[0] + 7;
	call0(do_invlpg, ALIAS);
	CHECK(alias_read() == 0xaaaa, alias_read());
	call0(do_cr3, (uint64_t)tables[0][0]);
	CHECK(alias_read() == 0xaaaa, alias_read());
	call0(do_cr3, (uint64_t)home);
}

/* ---- I/O under way ---- */

static uint8_t io_buf[4096];

static uint64_t do_outs(struct frame *f, uint64_t n)
{
	const uint8_t *p = io_buf;
	(void)f;
	__asm__ volatile("rep outsb" : "+S"(p), "+c"(n) : "d"(SINK_PORT) : "memory");
	CHECK(p == io_buf + 64, p - io_buf);
	return n;
}

static uint64_t do_ins(struct frame *f, uint64_t n)
{
	uint8_t *p = io_buf;
	(void)f;
	__asm__ volatile("rep insb" : "+D"(p), "+c"(n) : "d"(FEED_PORT) : "memory");
	CHECK(p == io_buf + 3000, p - io_buf);
	return n;
}

/* The harness parks in the midst of one rep outsb. */
void stage_outs(void)
{
	for (unsigned i = 0; i < 64; i++) {
		io_buf[i] = PATTERN(i);
	}
	CHECK(call0(do_outs, 64) == 0, 0);
}

/* Likewise rep insb; KVM asks for up to 1024 bytes at once. */
void stage_ins(void)
{
	CHECK(call0(do_ins, 3000) == 0, 0);
	for (unsigned i = 0; i < 3000; i++) {
		CHECK(io_buf[i] == PATTERN(i), i);
	}
}

static uint32_t next_by_port(void)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"((uint16_t)COUNT_PORT) : "memory");
	return v;
}

/* Each port read happens exactly once, wherever the park falls. */
void stage_pio(void)
{
	uint32_t last = next_by_port();

	sync_say(1);
	do {
		for (unsigned i = 0; i < 50; i++) {
			uint32_t v = next_by_port();
			CHECK(v == last + 1, v - last);
			last = v;
		}
	} while (inb(SYNC_PORT) == SYNC_HOLD);
	for (unsigned i = 0; i < 500; i++) {
		uint32_t v = next_by_port();
		CHECK(v == last + 1, v - last);
		last = v;
	}
}

/* Likewise reads and writes of device memory; the harness compares what is written. */
void stage_mmio(void)
{
	volatile uint64_t *reg = (volatile uint64_t *)COUNT_GPA;
	uint64_t last = reg[0], out = 0;

	sync_say(1);
	for (unsigned left = 500; left > 0;) {
		for (unsigned i = 0; i < 20; i++) {
			uint64_t v = reg[0];
			CHECK(v == last + 1, v - last);
			last = v;
			reg[1] = ++out;
		}
		left -= inb(SYNC_PORT) != SYNC_HOLD;
	}
}

/* ---- memory ---- */

/* Pages on both sides of the hole below 4 GiB. */
void stage_bigmem(void)
{
	static const uint64_t at[] = { 0x40000000,  0x80001000,	 0xbfffe000,  0xbffff000,
				       0x100000000, 0x100001000, 0x103fff000 };
	uint64_t end = 0x104000000;

	rt_map(end, 0x2000000);
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		for (unsigned k = 0; k < 512; k++) {
			((volatile uint64_t *)at[i])[k] = at[i] * 3 + k;
		}
	}
	stage(1);
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		for (unsigned k = 0; k < 512; k++) {
			uint64_t v = ((volatile uint64_t *)at[i])[k];
			CHECK(v == at[i] * 3 + k, v);
		}
	}
	CHECK(*(volatile uint64_t *)0x60000000 == 0, 0);
	CHECK(*(volatile uint64_t *)0x102000000 == 0, 0);
}

/* ---- input ---- */

/* Three bytes wait in the serial port, three more come while nothing runs. */
void stage_input(void)
{
	static const char want[] = "abcdef";
	uint64_t end;
	unsigned n = 0;

	stage(1);
	end = rdtsc() + 5000 * tsc_khz();
	while (n < 6 && (int64_t)(end - rdtsc()) > 0) {
		int c = get_char();
		if (c >= 0) {
			CHECK(c == want[n], c);
			n++;
		}
	}
	CHECK(n == 6, n);
	CHECK(get_char() == -1, n);
}

/* Nothing but this processor runs, whatever the others are. */
void stage_alone(void)
{
	stage(1);
}
