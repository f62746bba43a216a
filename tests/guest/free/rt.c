/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run-time of the freestanding test guests (rt.h). Built without vector instructions; code that
 * runs in ring 0 is marked so and is kept short, because a software KVM interprets it.
 */
#include <stdarg.h>

#include "rt.h"

#define COM1 0x3f8
#define CALL0_MAGIC 0x70726f54ull
#define NVEC 128
#define APS_MAX 3
#define AP_KSTACK_BYTES 4096
#define LAPIC_BASE 0xfee00000ull
#define MSR_KVM_SYSTEM_TIME 0x4b564d01u

extern uint32_t boot_kind; /* 0 PVH, 1 multiboot, 2 Linux boot_params */
extern uint64_t boot_info;
extern uint64_t gdt[];
extern uint64_t idt[];
extern uint64_t pdpt[];
extern char isr_stubs[], kstack_top[], ap_kstacks[], ap_start16[], ap_start16_end[], rt_end[];

void rt_init_ring0(void);
void rt_main(void) __attribute__((noreturn));
void rt_ap_main(void) __attribute__((noreturn));
void rt_isr(struct frame *f);

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

void *memcpy(void *d, const void *s, size_t n)
{
	char *dp = d;
	const char *sp = s;
	while (n--) {
		*dp++ = *sp++;
	}
	return d;
}

void *memset(void *d, int c, size_t n)
{
	char *dp = d;
	while (n--) {
		*dp++ = (char)c;
	}
	return d;
}

/* ---- ring 0 set-up ---- */

/* Task state with an I/O bitmap of zeros: every port is open to ring 3 (iretq drops IOPL on a
 * software KVM, so IOPL 3 would not do). */
struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3;
	uint16_t iomap;
	uint8_t bitmap[8192];
	uint8_t end;
} __attribute__((packed));

static struct tss tss[1 + APS_MAX] __attribute__((aligned(16)));
static irq_fn *handlers[NVEC];

static void set_tss(unsigned i, unsigned slot, char *stack)
{
	uint64_t base = (uint64_t)&tss[i];
	uint64_t limit = sizeof(tss[i]) - 1;

	tss[i].rsp[0] = (uint64_t)stack;
	tss[i].iomap = (uint16_t)offsetof(struct tss, bitmap);
	tss[i].end = 0xff;
	gdt[slot] = (limit & 0xffff) | ((base & 0xffffff) << 16) | (0x89ull << 40) |
		    (((base >> 24) & 0xff) << 56);
	gdt[slot + 1] = base >> 32;
}

/* Ring 0, called by start.S. */
void rt_init_ring0(void)
{
	set_tss(0, 5, kstack_top);
	for (unsigned i = 0; i < APS_MAX; i++) {
		set_tss(1 + i, 7 + 2 * i, ap_kstacks + (i + 1) * AP_KSTACK_BYTES);
	}
	for (unsigned v = 0; v < NVEC; v++) {
		uint64_t a = (uint64_t)isr_stubs + v * 16;
		idt[2 * v] = (a & 0xffff) | (0x08ull << 16) | (0x8e00ull << 32) | ((a >> 16) << 48);
		idt[2 * v + 1] = a >> 32;
	}
}

/* Ring 0. */
void rt_isr(struct frame *f)
{
	if (f->vec == 6 && (f->cs & 3) == 3 && f->rax == CALL0_MAGIC) {
		ring0_fn *fn = (ring0_fn *)f->rdi;
		f->rip += 2; /* past the ud2, before fn may look at or change the frame */
		f->rax = fn(f, f->rsi);
		return;
	}
	if (f->vec < NVEC && handlers[f->vec]) {
		handlers[f->vec](f);
		return;
	}
	uint64_t cr2;
	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	print("FAULT vec %lu err %lx rip %lx cs %lx rsp %lx cr2 %lx\n", f->vec, f->err, f->rip,
	      f->cs, f->rsp, cr2);
	sync_say(SYNC_FAIL);
	for (;;) {
		__asm__ volatile("cli; hlt");
	}
}

uint64_t call0(ring0_fn *fn, uint64_t arg)
{
	uint64_t ret = CALL0_MAGIC;
	__asm__ volatile("ud2" : "+a"(ret) : "D"(fn), "S"(arg) : "memory");
	return ret;
}

static uint64_t do_irq_on(struct frame *f, uint64_t arg)
{
	(void)arg;
	f->rflags |= 0x200;
	return 0;
}

static uint64_t do_irq_off(struct frame *f, uint64_t arg)
{
	(void)arg;
	f->rflags &= ~0x200ull;
	return 0;
}

static uint64_t do_halt(struct frame *f, uint64_t arg)
{
	(void)f;
	(void)arg;
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	return 0;
}

static uint64_t do_msr_get(struct frame *f, uint64_t msr)
{
	uint32_t lo, hi;
	(void)f;
	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"((uint32_t)msr));
	return ((uint64_t)hi << 32) | lo;
}

uint64_t call_msr_set(struct frame *f, uint64_t arg)
{
	const uint64_t *a = (const uint64_t *)arg;
	(void)f;
	__asm__ volatile("wrmsr" ::"c"((uint32_t)a[0]), "a"((uint32_t)a[1]),
			 "d"((uint32_t)(a[1] >> 32))
			 : "memory");
	return 0;
}

static uint64_t do_avx_on(struct frame *f, uint64_t arg)
{
	uint64_t cr4;
	(void)f;
	__asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
	cr4 |= 1ull << 18;
	__asm__ volatile("mov %0, %%cr4" ::"r"(cr4));
	__asm__ volatile("xsetbv" ::"c"(0), "a"((uint32_t)arg), "d"(0));
	return 0;
}

static uint64_t do_triple_fault(struct frame *f, uint64_t arg)
{
	static const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = { 0, 0 };
	(void)f;
	(void)arg;
	__asm__ volatile("lidt %0; ud2" ::"m"(none));
	return 0;
}

void irq_on(void)
{
	call0(do_irq_on, 0);
}

void irq_off(void)
{
	call0(do_irq_off, 0);
}

void halt(void)
{
	call0(do_halt, 0);
}

uint64_t msr_get(uint32_t msr)
{
	return call0(do_msr_get, msr);
}

void msr_set(uint32_t msr, uint64_t v)
{
	uint64_t a[2] = { msr, v };
	call0(call_msr_set, (uint64_t)a);
}

void avx_on(void)
{
	call0(do_avx_on, 7);
}

void reset_by_i8042(void)
{
	outb(0x64, 0xfe);
	for (;;) {
		cpu_relax();
	}
}

void triple_fault(void)
{
	call0(do_triple_fault, 0);
	for (;;) {
		cpu_relax();
	}
}

void irq_handler(unsigned vec, irq_fn *fn)
{
	handlers[vec] = fn;
}

/* ---- console ---- */

static unsigned fifo_left;

static void serial_init(void)
{
	outb(COM1 + 1, 0);    /* no interrupts */
	outb(COM1 + 3, 0x83); /* 8n1, divisor access */
	outb(COM1 + 0, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 3);
	outb(COM1 + 2, 7); /* FIFO on and cleared */
	outb(COM1 + 4, 0x0b);
}

void put_char(char c)
{
	/* One look at the line status per 16 bytes of FIFO: port exits are what a line costs. */
	if (fifo_left == 0) {
		while (!(inb(COM1 + 5) & 0x20)) {
			cpu_relax();
		}
		fifo_left = 16;
	}
	fifo_left--;
	outb(COM1, (uint8_t)c);
}

int get_char(void)
{
	return (inb(COM1 + 5) & 1) ? inb(COM1) : -1;
}

static void put_number(uint64_t v, unsigned base, unsigned width, char pad)
{
	char buf[24];
	unsigned n = 0;

	do {
		buf[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	while (n < width && n < sizeof(buf)) {
		buf[n++] = pad;
	}
	while (n) {
		put_char(buf[--n]);
	}
}

/* %s %c %u %lu %x %lx with an optional width and leading zero. */
void print(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put_char(*fmt);
			continue;
		}
		char pad = ' ';
		unsigned width = 0;
		bool wide = false;
		fmt++;
		if (*fmt == '0') {
			pad = '0';
		}
		while (*fmt >= '0' && *fmt <= '9') {
			width = width * 10 + (unsigned)(*fmt++ - '0');
		}
		if (*fmt == 'l') {
			wide = true;
			fmt++;
		}
		if (*fmt == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++) {
				put_char(*s);
			}
		} else if (*fmt == 'c') {
			put_char((char)va_arg(ap, int));
		} else {
			uint64_t v = wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
			put_number(v, *fmt == 'x' ? 16 : 10, width, pad);
		}
	}
	va_end(ap);
}

/* ---- what the loader told us ---- */

static const char *cmdline(void)
{
	uint64_t p;

	if (boot_kind == 0) { /* struct hvm_start_info */
		p = *(const uint64_t *)(boot_info + 24);
	} else if (boot_kind == 1) { /* multiboot information, bit 2: cmdline valid */
		const uint32_t *mb = (const uint32_t *)boot_info;
		p = (mb[0] & 4) ? mb[4] : 0;
	} else {
		p = *(const uint32_t *)(boot_info + 0x228);
	}
	return p ? (const char *)p : "";
}

/* Finds the last "key=" that starts a word; NULL if there is none. */
static const char *arg_find(const char *key)
{
	const char *found = NULL;
	bool word = true;

	for (const char *s = cmdline(); *s; s++) {
		if (word) {
			size_t n = 0;
			while (key[n] && s[n] == key[n]) {
				n++;
			}
			if (!key[n] && s[n] == '=') {
				found = s + n + 1;
			}
		}
		word = *s == ' ';
	}
	return found;
}

uint64_t arg_number(const char *key, uint64_t dflt)
{
	const char *s = arg_find(key);
	uint64_t v = 0;

	if (!s) {
		return dflt;
	}
	while (*s >= '0' && *s <= '9') {
		v = v * 10 + (uint64_t)(*s++ - '0');
	}
	return v;
}

bool arg_is(const char *key, const char *value)
{
	const char *s = arg_find(key);

	if (!s) {
		return false;
	}
	while (*value && *s == *value) {
		s++;
		value++;
	}
	return !*value && (!*s || *s == ' ');
}

static size_t ram_add(struct ram *out, size_t n, size_t max, uint64_t base, uint64_t len)
{
	uint64_t low = ((uint64_t)rt_end + 0x1fffff) & ~0x1fffffull;
	uint64_t end = (base + len) & ~(PAGE - 1);

	base = (base + PAGE - 1) & ~(PAGE - 1);
	if (base < low) {
		base = low;
	}
	if (n < max && base < end) {
		out[n].base = base;
		out[n].end = end;
		n++;
	}
	return n;
}

size_t ram_ranges(struct ram *out, size_t max)
{
	size_t n = 0;

	if (boot_kind == 0) { /* start_info version 1: memmap_paddr, entries of 24 bytes */
		const uint64_t *e = *(const uint64_t *const *)(boot_info + 40);
		uint32_t count = *(const uint32_t *)(boot_info + 48);
		for (uint32_t i = 0; e && i < count; i++, e += 3) {
			if ((uint32_t)e[2] == 1) {
				n = ram_add(out, n, max, e[0], e[1]);
			}
		}
	} else if (boot_kind == 1) { /* mmap_length, mmap_addr; each entry begins with its size */
		const uint32_t *mb = (const uint32_t *)boot_info;
		uint64_t p = mb[12], end = p + mb[11];
		while ((mb[0] & 0x40) && p < end) {
			const uint32_t *e = (const uint32_t *)p;
			uint64_t base, len;
			memcpy(&base, e + 1, 8);
			memcpy(&len, e + 3, 8);
			if (e[5] == 1) {
				n = ram_add(out, n, max, base, len);
			}
			p += e[0] + 4;
		}
	} else { /* boot_params: e820 table of 20-byte entries */
		uint8_t count = *(const uint8_t *)(boot_info + 0x1e8);
		for (uint8_t i = 0; i < count; i++) {
			const char *e = (const char *)boot_info + 0x2d0 + 20 * i;
			uint64_t base, len;
			uint32_t type;
			memcpy(&base, e, 8);
			memcpy(&len, e + 8, 8);
			memcpy(&type, e + 16, 4);
			if (type == 1) {
				n = ram_add(out, n, max, base, len);
			}
		}
	}
	return n;
}

uint64_t rt_map(uint64_t end, uint64_t pool)
{
	/* Entries go from absent to present, which needs no flush. 512 GiB is what one table spans.
	 */
	for (uint64_t g = 4; g < 512 && g << 30 < end; g++) {
		uint64_t *pd = (uint64_t *)pool;
		if (pdpt[g]) {
			continue;
		}
		for (uint64_t i = 0; i < 512; i++) {
			pd[i] = (g << 30) + (i << 21) + 0xe7;
		}
		pdpt[g] = pool + 7;
		pool += PAGE;
	}
	return pool;
}

/* ---- local APIC, 8259, clocks ---- */

uint32_t lapic_get(uint32_t reg)
{
	return *(volatile uint32_t *)(LAPIC_BASE + reg);
}

void lapic_set(uint32_t reg, uint32_t v)
{
	*(volatile uint32_t *)(LAPIC_BASE + reg) = v;
}

void lapic_on(void)
{
	lapic_set(LAPIC_SVR, 0x100 | 0x7f);
}

void lapic_oneshot(unsigned vec, uint64_t ns)
{
	lapic_set(LAPIC_TDCR, 0xb); /* divide by 1 */
	lapic_set(LAPIC_LVTT, vec);
	lapic_set(LAPIC_TMICT, (uint32_t)ns);
}

void pic_init(unsigned base_vec, uint8_t mask_master, uint8_t mask_slave)
{
	outb(0x20, 0x11);
	outb(0x21, (uint8_t)base_vec);
	outb(0x21, 4);
	outb(0x21, 1);
	outb(0xa0, 0x11);
	outb(0xa1, (uint8_t)(base_vec + 8));
	outb(0xa1, 2);
	outb(0xa1, 1);
	outb(0x21, mask_master);
	outb(0xa1, mask_slave);
	lapic_set(LAPIC_LVT0, 0x700); /* ExtINT, as a PC's firmware leaves it */
}

/* Filled by KVM: version, pad, tsc_timestamp, system_time, mul, shift, flags. */
struct pvclock {
	volatile uint32_t version;
	uint32_t pad0;
	volatile uint64_t tsc_timestamp;
	volatile uint64_t system_time;
	volatile uint32_t mul;
	volatile int8_t shift;
	volatile uint8_t flags;
	uint8_t pad[2];
};
static struct pvclock pvclock __attribute__((aligned(64)));
static uint64_t khz;

/* Ticks of the TSC in 20 ms of the PIT's channel 2 (1193182 Hz). */
static uint64_t khz_by_pit(void)
{
	uint64_t t0;

	outb(0x61, (uint8_t)((inb(0x61) & ~2) | 1));
	outb(0x43, 0xb0);
	outb(0x42, (uint8_t)(23864 & 0xff));
	outb(0x42, (uint8_t)(23864 >> 8));
	t0 = rdtsc();
	while (!(inb(0x61) & 0x20)) {
	}
	return (rdtsc() - t0) / 20;
}

uint64_t tsc_khz(void)
{
	if (khz) {
		return khz;
	}
	msr_set(MSR_KVM_SYSTEM_TIME, (uint64_t)&pvclock | 1);
	/* KVM fills the page on the next entry; a port access makes sure that there was one. */
	inb(0x61);
	if (pvclock.mul) {
		uint64_t v = (1000000ull << 32) / pvclock.mul;
		khz = pvclock.shift < 0 ? v << -pvclock.shift : v >> pvclock.shift;
	} else {
		khz = khz_by_pit();
	}
	return khz;
}

uint64_t clock_ns(void)
{
	uint32_t version;
	uint64_t ns;

	tsc_khz();
	do {
		version = pvclock.version & ~1u;
		uint64_t delta = rdtsc() - pvclock.tsc_timestamp;
		delta = pvclock.shift < 0 ? delta >> -pvclock.shift : delta << pvclock.shift;
		ns = pvclock.system_time +
		     (uint64_t)(((unsigned __int128)delta * pvclock.mul) >> 32);
	} while (version != pvclock.version);
	return ns;
}

void delay_ns(uint64_t ns)
{
	uint64_t end = rdtsc() + ns * tsc_khz() / 1000000;

	while ((int64_t)(end - rdtsc()) > 0) {
		cpu_relax();
	}
}

/* ---- sync ---- */

void sync_say(uint8_t stage)
{
	outb(SYNC_PORT, stage);
}

void sync_hold(void)
{
	while (inb(SYNC_PORT) == SYNC_HOLD) {
		cpu_relax();
	}
}

void irq_tick(struct frame *f)
{
	(void)f;
	lapic_set(LAPIC_EOI, 0);
}

/* Idles, and still answers 'r', so that every guest serves reset tests too. */
static void rest(void) __attribute__((noreturn));
static void rest(void)
{
	irq_off();
	lapic_on();
	irq_handler(0x7e, irq_tick);
	for (;;) {
		if (get_char() == 'r') {
			reset_by_i8042();
		}
		lapic_oneshot(0x7e, 20 * NSEC_PER_MSEC);
		halt();
	}
}

void done(void)
{
	print("done\n");
	sync_say(SYNC_DONE);
	rest();
}

void skip(const char *why)
{
	print("skip: %s\n", why);
	sync_say(SYNC_SKIP);
	rest();
}

void fail(const char *why, uint64_t value)
{
	print("FAIL %s (%lx)\n", why, value);
	sync_say(SYNC_FAIL);
	rest();
}

void rt_main(void)
{
	serial_init();
	memcpy((void *)0x8000, ap_start16, (size_t)(ap_start16_end - ap_start16));
	guest_main();
}

void rt_ap_main(void)
{
	guest_ap_main();
}
