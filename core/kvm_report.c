/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report of a vCPU that cannot go on. See kvm_vcpu.h. Called by core when a VM crashed, on the
 * vCPU's thread or while it is parked. Nothing here fails: what cannot be read says so.
 */
#include "core/kvm_vcpu.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	REPORT_BYTES = 8192,
	CODE_BYTES = 16, /* one more than the longest x86 instruction */
};

struct text {
	char *p;
	size_t len;
	size_t cap;
};

PRINTF_LIKE(2, 3) static void add(struct text *t, const char *fmt, ...)
{
	if (t->p == NULL || t->len >= t->cap) {
		return;
	}
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(t->p + t->len, t->cap - t->len, fmt, ap);
	va_end(ap);
	if (n > 0) {
		t->len = MIN(t->len + (size_t)n, t->cap - 1);
	}
}

static const char *const exit_names[] = {
	[KVM_EXIT_UNKNOWN] = "UNKNOWN",
	[KVM_EXIT_EXCEPTION] = "EXCEPTION",
	[KVM_EXIT_IO] = "IO",
	[KVM_EXIT_HYPERCALL] = "HYPERCALL",
	[KVM_EXIT_DEBUG] = "DEBUG",
	[KVM_EXIT_HLT] = "HLT",
	[KVM_EXIT_MMIO] = "MMIO",
	[KVM_EXIT_IRQ_WINDOW_OPEN] = "IRQ_WINDOW_OPEN",
	[KVM_EXIT_SHUTDOWN] = "SHUTDOWN (triple fault)",
	[KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY",
	[KVM_EXIT_INTR] = "INTR",
	[KVM_EXIT_SET_TPR] = "SET_TPR",
	[KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS",
	[KVM_EXIT_NMI] = "NMI",
	[KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR",
	[KVM_EXIT_OSI] = "OSI",
	[KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT",
	[KVM_EXIT_IOAPIC_EOI] = "IOAPIC_EOI",
	[KVM_EXIT_HYPERV] = "HYPERV",
	[KVM_EXIT_X86_RDMSR] = "X86_RDMSR",
	[KVM_EXIT_X86_WRMSR] = "X86_WRMSR",
	[KVM_EXIT_DIRTY_RING_FULL] = "DIRTY_RING_FULL",
	[KVM_EXIT_X86_BUS_LOCK] = "X86_BUS_LOCK",
	[KVM_EXIT_XEN] = "XEN",
};

const char *kvm_exit_name(uint32_t exit_reason)
{
	const char *name = NULL;
	if (exit_reason < ARRAY_LEN(exit_names)) {
		name = exit_names[exit_reason];
	}
	return name != NULL ? name : "of a kind this version does not know";
}

static const char *suberror_name(uint32_t suberror)
{
	switch (suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "an instruction that KVM cannot emulate";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "an exception while another was delivered";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit while an event was delivered";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an exit of the CPU that KVM does not know";
	default:
		return "of a kind this version does not know";
	}
}

static void add_internal(struct text *t, const struct kvm_run *run)
{
	add(t, "  suberror %u: %s\n", run->internal.suberror,
	    suberror_name(run->internal.suberror));
	uint32_t n = MIN(run->internal.ndata, (uint32_t)ARRAY_LEN(run->internal.data));
	for (uint32_t i = 0; i < n; i++) {
		add(t, "  data[%u] = 0x%llx\n", i, (unsigned long long)run->internal.data[i]);
	}
}

static void add_exit(struct text *t, unsigned id, const struct kvm_run *run)
{
	add(t, "vCPU %u: exit reason %u, %s\n", id, run->exit_reason,
	    kvm_exit_name(run->exit_reason));
	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		add_internal(t, run);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		add(t, "  hardware reason 0x%llx on host CPU %u\n",
		    (unsigned long long)run->fail_entry.hardware_entry_failure_reason,
		    run->fail_entry.cpu);
		break;
	case KVM_EXIT_UNKNOWN:
		add(t, "  hardware reason 0x%llx\n",
		    (unsigned long long)run->hw.hardware_exit_reason);
		break;
	case KVM_EXIT_EXCEPTION:
		add(t, "  vector %u, error code 0x%x\n", run->ex.exception, run->ex.error_code);
		break;
	case KVM_EXIT_IO:
		add(t, "  %s port 0x%x, %u x %u bytes\n",
		    run->io.direction == KVM_EXIT_IO_OUT ? "out" : "in", run->io.port,
		    run->io.count, run->io.size);
		break;
	case KVM_EXIT_MMIO:
		add(t, "  %s of %u bytes at 0x%llx\n", run->mmio.is_write ? "write" : "read",
		    run->mmio.len, (unsigned long long)run->mmio.phys_addr);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		add(t, "  type %u\n", run->system_event.type);
		break;
	default:
		break;
	}
}

static void add_regs(struct text *t, const struct kvm_regs *r)
{
	const struct {
		const char *name;
		uint64_t v;
	} regs[] = {
		{ "rax", r->rax }, { "rbx", r->rbx },    { "rcx", r->rcx }, { "rdx", r->rdx },
		{ "rsi", r->rsi }, { "rdi", r->rdi },    { "rbp", r->rbp }, { "rsp", r->rsp },
		{ "r8 ", r->r8 },  { "r9 ", r->r9 },     { "r10", r->r10 }, { "r11", r->r11 },
		{ "r12", r->r12 }, { "r13", r->r13 },    { "r14", r->r14 }, { "r15", r->r15 },
		{ "rip", r->rip }, { "rfl", r->rflags },
	};
	for (size_t i = 0; i < ARRAY_LEN(regs); i++) {
		add(t, "%s%s %016llx%s", i % 4 == 0 ? "  " : "", regs[i].name,
		    (unsigned long long)regs[i].v,
		    i % 4 == 3 || i == ARRAY_LEN(regs) - 1 ? "\n" : "  ");
	}
}

static void add_segment(struct text *t, const char *name, const struct kvm_segment *s)
{
	add(t, "  %s %04x base %016llx limit %08x type %x s %u dpl %u p %u db %u l %u g %u%s\n",
	    name, s->selector, (unsigned long long)s->base, s->limit, s->type, s->s, s->dpl,
	    s->present, s->db, s->l, s->g, s->unusable ? " unusable" : "");
}

static void add_sregs(struct text *t, const struct kvm_sregs *s)
{
	add(t, "  cr0 %016llx  cr2 %016llx  cr3 %016llx  cr4 %016llx\n", (unsigned long long)s->cr0,
	    (unsigned long long)s->cr2, (unsigned long long)s->cr3, (unsigned long long)s->cr4);
	add(t, "  cr8 %016llx  efer %016llx  apic base %016llx\n", (unsigned long long)s->cr8,
	    (unsigned long long)s->efer, (unsigned long long)s->apic_base);
	add_segment(t, "cs", &s->cs);
	add_segment(t, "ss", &s->ss);
	add_segment(t, "ds", &s->ds);
	add_segment(t, "es", &s->es);
	add_segment(t, "fs", &s->fs);
	add_segment(t, "gs", &s->gs);
	add_segment(t, "tr", &s->tr);
	add_segment(t, "ld", &s->ldt);
	add(t, "  gdt base %016llx limit %04x  idt base %016llx limit %04x\n",
	    (unsigned long long)s->gdt.base, s->gdt.limit, (unsigned long long)s->idt.base,
	    s->idt.limit);
}

static bool read_entry(const struct gmem *g, uint64_t gpa, unsigned len, uint64_t *ret)
{
	uint64_t v = 0;
	const void *p = gmem_at(g, GPA(gpa), len);
	if (p == NULL) {
		return false;
	}
	memcpy(&v, p, len);
	*ret = v;
	return true;
}

#define PTE_PRESENT 1ull
#define PTE_LARGE (1ull << 7)
#define PTE_ADDR 0x000ffffffffff000ull
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LMA (1ull << 10)

/* Paging without PAE: two levels of 4-byte entries (SDM 3A 4.3). */
static bool walk32(const struct gmem *g, const struct kvm_sregs *s, uint64_t va, uint64_t *ret)
{
	uint64_t e;
	if (!read_entry(g, (s->cr3 & 0xfffff000u) + ((va >> 22) & 0x3ff) * 4, 4, &e) ||
	    (e & PTE_PRESENT) == 0) {
		return false;
	}
	if ((e & PTE_LARGE) != 0) {
		*ret = (e & 0xffc00000u) | (va & 0x3fffff);
		return true;
	}
	if (!read_entry(g, (e & 0xfffff000u) + ((va >> 12) & 0x3ff) * 4, 4, &e) ||
	    (e & PTE_PRESENT) == 0) {
		return false;
	}
	*ret = (e & 0xfffff000u) | (va & 0xfff);
	return true;
}

/* PAE, 4-level and 5-level paging: 8-byte entries, 9 bits a level (SDM 3A 4.4, 4.5). */
static bool walk64(const struct gmem *g, const struct kvm_sregs *s, uint64_t va, uint64_t *ret)
{
	bool lma = (s->efer & EFER_LMA) != 0;
	unsigned top = 3;
	if (lma) {
		top = (s->cr4 & CR4_LA57) != 0 ? 5 : 4;
	}
	uint64_t table = lma ? s->cr3 & PTE_ADDR : s->cr3 & 0xffffffe0u;
	for (unsigned level = top; level >= 1; level--) {
		unsigned shift = 12 + 9 * (level - 1);
		uint64_t mask = !lma && level == 3 ? 3 : 0x1ff;
		uint64_t e;
		if (!read_entry(g, table + ((va >> shift) & mask) * 8, 8, &e) ||
		    (e & PTE_PRESENT) == 0) {
			return false;
		}
		bool leaf = level == 1 || (level == 2 && (e & PTE_LARGE) != 0) ||
			    (lma && level == 3 && (e & PTE_LARGE) != 0);
		if (leaf) {
			uint64_t low = (1ull << shift) - 1;
			*ret = (e & PTE_ADDR & ~low) | (va & low);
			return true;
		}
		table = e & PTE_ADDR;
	}
	return false;
}

static bool walk(const struct gmem *g, const struct kvm_sregs *s, uint64_t va, uint64_t *ret)
{
	if ((s->cr0 & CR0_PG) == 0) {
		*ret = va;
		return true;
	}
	return (s->cr4 & CR4_PAE) != 0 ? walk64(g, s, va, ret) : walk32(g, s, va, ret);
}

/* KVM's own translation first: it knows shadow paging; then the tables as they are in memory. */
static bool translate(int fd, const struct gmem *g, const struct kvm_sregs *s, bool have_sregs,
		      uint64_t va, uint64_t *ret)
{
	struct kvm_translation tr = { .linear_address = va };
	if (ioctl(fd, KVM_TRANSLATE, &tr) == 0 && tr.valid &&
	    gmem_at(g, GPA(tr.physical_address), 1) != NULL) {
		*ret = tr.physical_address;
		return true;
	}
	return have_sregs && walk(g, s, va, ret);
}

/* An instruction may cross a page, so the second page is looked up for itself. */
static void add_code(struct text *t, int fd, const struct gmem *g, const struct kvm_sregs *s,
		     bool have_sregs, uint64_t rip)
{
	uint64_t va = rip;
	if (have_sregs && (s->efer & EFER_LMA) == 0) {
		va = (s->cs.base + rip) & 0xffffffffu;
	}
	add(t, "  code at rip");
	for (unsigned i = 0; i < CODE_BYTES; i++) {
		uint64_t gpa;
		const uint8_t *p = NULL;
		if (g != NULL && translate(fd, g, s, have_sregs, va + i, &gpa)) {
			p = gmem_at(g, GPA(gpa), 1);
		}
		if (p == NULL) {
			add(t, i == 0 ? " (linear 0x%llx): not readable" : " (0x%llx: end)",
			    (unsigned long long)(va + i));
			break;
		}
		if (i == 0) {
			add(t, " (linear 0x%llx, physical 0x%llx):", (unsigned long long)va,
			    (unsigned long long)gpa);
		}
		add(t, " %02x", *p);
	}
	add(t, "\n");
}

static void add_events(struct text *t, int fd)
{
	struct kvm_vcpu_events ev;
	memset(&ev, 0, sizeof(ev));
	if (ioctl(fd, KVM_GET_VCPU_EVENTS, &ev) < 0) {
		return;
	}
	add(t,
	    "  exception vector %u injected %u pending %u error code 0x%x; interrupt %u/%u; "
	    "nmi injected %u pending %u\n",
	    ev.exception.nr, ev.exception.injected, ev.exception.pending, ev.exception.error_code,
	    ev.interrupt.injected, ev.interrupt.nr, ev.nmi.injected, ev.nmi.pending);
}

void kvm_vcpu_report(struct kvm_vcpu *v, const struct gmem *gmem, char **ret_text)
{
	struct text t = { .p = malloc(REPORT_BYTES), .cap = REPORT_BYTES };
	int fd = kvm_vcpu_fd(v);
	add_exit(&t, kvm_vcpu_id(v), kvm_vcpu_page(v));

	struct kvm_sregs s;
	memset(&s, 0, sizeof(s));
	bool have_sregs = ioctl(fd, KVM_GET_SREGS, &s) == 0;
	int sregs_errno = errno;
	struct kvm_regs r;
	if (ioctl(fd, KVM_GET_REGS, &r) == 0) {
		add_regs(&t, &r);
		add_code(&t, fd, gmem, &s, have_sregs, r.rip);
	} else {
		add(&t, "  registers: KVM does not give them (errno %d)\n", errno);
	}
	if (have_sregs) {
		add_sregs(&t, &s);
	} else {
		add(&t, "  control registers: KVM does not give them (errno %d)\n", sregs_errno);
	}
	add_events(&t, fd);
	*ret_text = t.p;
}
