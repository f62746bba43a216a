/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The benchmark guest: fills memory with mixed content, then writes some pages each beat and prints
 * a line per beat.
 *
 * Command line: fill=MIB (0: all), from=MIB (left alone before those), beat=MS, pages=N (written
 * per beat), halt=1 (sleep between beats instead of spinning), seed=N, peek=ADDR. Lines: "tsc_khz
 * N", "filled N pages M", then "beat N tsc T sum S" per beat, at its end. Input: 'c' first and last
 * word of every filled page, 'C' every byte of every page, 'r' reset, 't' triple fault, 'd' clocks,
 * 'p' the word at peek ("peek N"), which is then one more, 'z' the content of the next seed: pages
 * with data become zero and zero pages get data ("refilled SEED"), 'w' a word of every page of 1024
 * pieces of 64 KiB, evenly spread ("touched PAGES us N").
 *
 * Of 10 pages 4 stay zero, 3 look like text, 2 are structured and 1 is random. The pages that are
 * not zero are written in turn; each write first compares the word with what the last round left.
 */
#include "rt.h"

#define WRITE_WORD 256 /* index of the word that beats write: the middle of the page */
#define WORDS (PAGE / 8)

enum kind { ZERO, TEXT, STRUCTURED, RANDOM };

static struct ram ram[16];
static size_t nram;
static uint64_t npages;  /* all pages in the filled range */
static uint64_t nfilled; /* of these, not zero */
static uint64_t seed;
static uint64_t nwritten; /* writes since the start */
static uint64_t sweep_at; /* page index where the sweep goes on */
static uint64_t sum;
static volatile uint64_t *peek; /* memory that is none of RAM */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t *page_at(uint64_t index)
{
	for (size_t i = 0; i < nram; i++) {
		uint64_t n = (ram[i].end - ram[i].base) / PAGE;
		if (index < n) {
			return (uint64_t *)(ram[i].base + index * PAGE);
		}
		index -= n;
	}
	fail("page index", index);
}

static enum kind kind_of(uint64_t index)
{
	static const enum kind kinds[10] = { ZERO, TEXT,   ZERO, STRUCTURED, TEXT,
					     ZERO, RANDOM, TEXT, ZERO,       STRUCTURED };
	return kinds[mix((index / 4) ^ (seed << 40)) % 10];
}

/* What a page holds, into p. A page of text: words of 4 to 11 letters from a vocabulary of 512,
 * of which 16 are most of the text. A structured page: records of 64 bytes with counters, a pointer
 * into a small range and flags. */
static void make_page(uint64_t *p, uint64_t index, enum kind kind)
{
	uint64_t s = mix(index * 3 + seed);

	if (kind == TEXT) {
		char *c = (char *)p, *end = c + PAGE;
		while (c < end) {
			s = mix(s);
			uint64_t word = mix((s & 31 ? s % 16 : s % 512) + 7);
			unsigned len = 4 + (unsigned)(word >> 60) / 2;
			for (unsigned i = 0; i < len && c < end; i++, word >>= 5) {
				*c++ = "etaoinshrdlucmfwypvbgkjqxzetaoin"[word & 31];
			}
			if (c < end) {
				*c++ = (s >> 32) % 16 ? ' ' : '\n';
			}
		}
	} else if (kind == STRUCTURED) {
		for (unsigned r = 0; r < WORDS; r += 8) {
			s = mix(s);
			p[r] = index * 64 + r / 8;
			p[r + 1] = 0xffff888000000000ull + ((s & 0x1f) << 6);
			p[r + 2] = (s >> 12) & 0xf;
			p[r + 3] = 0x0000000100000001ull;
			p[r + 4] = (s >> 20) & 0x3f ? 0 : s >> 32;
			p[r + 5] = 0;
			p[r + 6] = r ? p[r - 8 + 6] + ((s >> 40) & 3) : s & 0xffff;
			p[r + 7] = 0xdead4ead00000000ull;
		}
	} else {
		for (unsigned i = 0; i < WORDS; i++) {
			s ^= s << 13;
			s ^= s >> 7;
			s ^= s << 17;
			p[i] = s;
		}
	}
	/* The first and last word tell which page it is. */
	p[0] = mix(index + seed);
	p[WORDS - 1] = ~mix(index + seed);
}

static void fill(void)
{
	for (uint64_t i = 0; i < npages; i++) {
		enum kind kind = kind_of(i);
		if (kind != ZERO) {
			make_page(page_at(i), i, kind);
			nfilled++;
		}
	}
}

/* As after a start with the next seed. */
static void refill(void)
{
	nfilled = nwritten = sweep_at = 0;
	seed++;
	for (uint64_t i = 0; i < npages; i++) {
		uint64_t *p = page_at(i);
		for (unsigned w = 0; kind_of(i) == ZERO && w < WORDS; w++) {
			p[w] = 0;
		}
	}
	fill();
	print("refilled %lu\n", seed);
}

static bool ends_ok(uint64_t index)
{
	const uint64_t *p = page_at(index);
	return p[0] == mix(index + seed) && p[WORDS - 1] == ~mix(index + seed);
}

/* Writes the next n filled pages. */
static void write_pages(uint64_t n)
{
	static uint64_t fresh[WORDS];

	while (n && nfilled) {
		enum kind kind = kind_of(sweep_at);
		if (kind != ZERO) {
			uint64_t *p = page_at(sweep_at);
			uint64_t before = nwritten - nfilled + 1;
			if (nwritten < nfilled) {
				make_page(fresh, sweep_at, kind);
				before = fresh[WRITE_WORD];
			}
			if (p[WRITE_WORD] != before) {
				print("CORRUPT page %lu has %lx want %lx\n", sweep_at,
				      p[WRITE_WORD], before);
				sync_say(SYNC_FAIL);
			}
			p[WRITE_WORD] = ++nwritten;
			sum = mix(sum ^ before);
			n--;
		}
		sweep_at = sweep_at + 1 == npages ? 0 : sweep_at + 1;
	}
}

/* The number of the last write to the filled page that is k-th in the sweep; 0 if none. */
static uint64_t last_write(uint64_t k)
{
	return k < nwritten ? k + 1 + (nwritten - 1 - k) / nfilled * nfilled : 0;
}

static void check(bool every_byte)
{
	static uint64_t want[WORDS];
	uint64_t k = 0, bad = 0;

	for (uint64_t i = 0; i < npages; i++) {
		enum kind kind = kind_of(i);
		const uint64_t *p = page_at(i);
		if (kind == ZERO) {
			for (unsigned w = 0; every_byte && w < WORDS; w++) {
				bad += p[w] != 0;
			}
			continue;
		}
		if (!every_byte) {
			bad += !ends_ok(i);
			continue;
		}
		make_page(want, i, kind);
		if (last_write(k)) {
			want[WRITE_WORD] = last_write(k);
		}
		for (unsigned w = 0; w < WORDS; w++) {
			bad += p[w] != want[w];
		}
		k++;
	}
	print(bad ? "CORRUPT\n" : "check ok\n");
}

/* 64 MiB of working set. */
static void touch(void)
{
	const uint64_t pieces = npages / 16, step = pieces > 1024 ? pieces / 1024 : 1;
	uint64_t from = rdtsc(), n = 0, us;

	for (uint64_t at = 0; at < pieces && n < 1024 * 16; at += step) {
		for (uint64_t i = 0; i < 16; i++, n++) {
			sum += *(volatile uint64_t *)page_at(at * 16 + i);
		}
	}
	us = (rdtsc() - from) * 1000 / tsc_khz();
	print("touched %lu us %lu\n", n, us);
}

static void answer(int c)
{
	switch (c) {
	case 'c':
		check(false);
		break;
	case 'C':
		check(true);
		break;
	case 'd':
		print("clock %lu tsc %lu\n", clock_ns(), rdtsc());
		break;
	case 'p':
		print("peek %lu\n", *peek);
		*peek = *peek + 1;
		break;
	case 'w':
		touch();
		break;
	case 'z':
		refill();
		break;
	case 'r':
		reset_by_i8042();
	case 't':
		triple_fault();
	default:
		break;
	}
}

static void lay_out(uint64_t from_mib, uint64_t fill_mib)
{
	struct ram all[16];
	size_t n = ram_ranges(all, 16);
	uint64_t want = fill_mib ? (fill_mib << 20) / PAGE : ~0ull, end = 0, pool = 0;
	uint64_t skip = (from_mib << 20) / PAGE;

	for (size_t i = 0; i < n; i++) {
		end = all[i].end > end ? all[i].end : end;
	}
	/* Tables for what lies above 4 GiB come from the start of the first range. */
	if (n && end > 4ull << 30) {
		pool = all[0].base;
		all[0].base = rt_map(end, pool);
	}
	for (size_t i = 0; i < n && npages < want; i++) {
		uint64_t pages = (all[i].end - all[i].base) / PAGE;
		uint64_t left_alone = skip < pages ? skip : pages;
		skip -= left_alone;
		pages -= left_alone;
		all[i].base += left_alone * PAGE;
		if (pages == 0) {
			continue;
		}
		if (pages > want - npages) {
			pages = want - npages;
		}
		ram[nram].base = all[i].base;
		ram[nram++].end = all[i].base + pages * PAGE;
		npages += pages;
	}
}

void guest_main(void)
{
	uint64_t beat_ms = arg_number("beat", 10), pages = arg_number("pages", 64);
	bool sleep = arg_number("halt", 0) != 0;
	uint64_t step, next;

	seed = arg_number("seed", 1);
	peek = (volatile uint64_t *)arg_number("peek", 0x40000000);
	/* The first output of the guest: what start-up time is measured to. */
	print("bench guest\n");
	print("tsc_khz %lu\n", tsc_khz());
	lay_out(arg_number("from", 0), arg_number("fill", 0));
	fill();
	print("filled %lu pages %lu\n", npages, nfilled);
	if (sleep) {
		lapic_on();
		irq_handler(0x40, irq_tick);
	}
	step = beat_ms * tsc_khz();
	next = rdtsc() + step;
	for (uint64_t n = 1;; n++) {
		if (sleep) {
			lapic_oneshot(0x40, beat_ms * NSEC_PER_MSEC);
			halt();
		} else {
			while ((int64_t)(next - rdtsc()) > 0) {
				cpu_relax();
			}
			/* After a stall beats go on from now: no burst to catch up. */
			next = (int64_t)(rdtsc() - next) > (int64_t)step ? rdtsc() + step
									 : next + step;
		}
		write_pages(pages);
		print("beat %lu tsc %lu sum %08x\n", n, rdtsc(), (unsigned)sum);
		answer(get_char());
	}
}

void guest_ap_main(void)
{
	for (;;) {
		cpu_relax();
	}
}
