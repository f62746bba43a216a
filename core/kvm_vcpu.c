/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One KVM vCPU: creation, run, boot registers. See kvm_vcpu.h. Created by core's VM thread, then
 * used on the vCPU's own thread, or by others while it is parked.
 */
#include "core/kvm_vcpu.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "core/base/bytes.h"

/* Intel SDM volume 4; names as there. */
#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_FAST_STRING 1u
#define MSR_IA32_MTRR_DEF_TYPE 0x2ffu
#define MTRR_ENABLE_WRITE_BACK 0x806u /* enabled, default type write-back */

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_NE (1ull << 5)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_FIXED 2u
#define MULTIBOOT_MAGIC 0x2badb002u
/* __BOOT_CS and __BOOT_DS of Linux's boot protocol; PVH and multiboot leave the choice open. */
#define BOOT_CS 0x10u
#define BOOT_DS 0x18u

struct kvm_vcpu {
	unsigned id;
	struct fd fd;
	struct kvm_run *page; /* MAP_FAILED when there is none */
	size_t page_len;
	uint32_t timer_seen; /* of the local timer at the last look; vCPU's thread, or while parked
			      */
};

enum {
	LVTT = 0x320, /* local timer: entry, initial and current count (SDM 3A 11.5) */
	TMICT = 0x380,
	TMCCT = 0x390,
	LVTT_MODE_SHIFT = 17,
	MODE_ONE_SHOT = 0,
	MODE_PERIODIC = 1,
};

/* Puts this vCPU's APIC id into the leaves that show it (Intel SDM 2A CPUID; AMD APM 3, E.4). */
static void patch_apic_id(struct kvm_cpuid2 *t, unsigned id)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];
		switch (e->function) {
		case 0x1:
			e->ebx = (e->ebx & 0x00ffffffu) | (uint32_t)id << 24;
			break;
		case 0xb:
		case 0x1f:
			e->edx = id;
			break;
		case 0x8000001e:
			e->eax = id;
			e->ebx = (e->ebx & ~0xffu) | (id & 0xffu);
			break;
		default:
			break;
		}
	}
}

/* 4.20 of api.rst. */
static struct err *set_cpuid(const struct kvm_vcpu *v, const struct cpuid_table *cpuid)
{
	ENSURE(cpuid->n <= CPUID_MAX, ERR_LIMIT, "CPUID table of %u entries (at most %u)", cpuid->n,
	       CPUID_MAX);
	SCOPE(freep)
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + cpuid->n * sizeof(t->entries[0]));
	ENSURE(t != NULL, ERR_SYS, "CPUID table: out of memory");
	t->nent = cpuid->n;
	memcpy(t->entries, cpuid->e, cpuid->n * sizeof(t->entries[0]));
	patch_apic_id(t, v->id);
	if (ioctl(v->fd.n, KVM_SET_CPUID2, t) < 0) {
		return ERR_ERRNO("KVM_SET_CPUID2 of %u entries", cpuid->n);
	}
	return NULL;
}

/*
 * What firmware does on every processor before an operating system starts: caches on. Without it
 * Linux takes all memory for uncached.
 */
static struct err *set_firmware_msrs(const struct kvm_vcpu *v)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[2];
	} m;
	memset(&m, 0, sizeof(m));
	m.head.nmsrs = 2;
	m.e[0].index = MSR_IA32_MTRR_DEF_TYPE;
	m.e[0].data = MTRR_ENABLE_WRITE_BACK;
	m.e[1].index = MSR_IA32_MISC_ENABLE;
	m.e[1].data = MISC_ENABLE_FAST_STRING;
	int n = ioctl(v->fd.n, KVM_SET_MSRS, &m);
	if (n < 0) {
		return ERR_ERRNO("KVM_SET_MSRS");
	}
	ENSURE(n == 2, ERR_INCOMPAT, "KVM does not take MSR 0x%x at start", m.e[n].index);
	return NULL;
}

struct err *kvm_vcpu_new(struct kvm_vm *vm, unsigned id, const struct cpuid_table *cpuid,
			 struct kvm_vcpu **ret_vcpu)
{
	SCOPE(kvm_vcpu_freep) struct kvm_vcpu *v = calloc(1, sizeof(*v));
	ENSURE(v != NULL, ERR_SYS, "vCPU %u: out of memory", id);
	v->id = id;
	v->page = MAP_FAILED;
	v->fd.n = ioctl(kvm_vm_fd(vm), KVM_CREATE_VCPU, (unsigned long)id);
	if (v->fd.n < 0) {
		return ERR_ERRNO("vCPU %u: KVM_CREATE_VCPU", id);
	}
	int len = ioctl(kvm_vm_kvm(vm), KVM_GET_VCPU_MMAP_SIZE, 0);
	if (len < 0) {
		return ERR_ERRNO("vCPU %u: KVM_GET_VCPU_MMAP_SIZE", id);
	}
	ENSURE((size_t)len >= sizeof(struct kvm_run), ERR_INCOMPAT,
	       "vCPU %u: the run page has %d bytes, at least %zu are needed", id, len,
	       sizeof(struct kvm_run));
	v->page_len = (size_t)len;
	v->page = mmap(NULL, v->page_len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd.n, 0);
	if (v->page == MAP_FAILED) {
		return ERR_ERRNO("vCPU %u: mapping the run page", id);
	}
	struct err *e = set_cpuid(v, cpuid);
	if (e == NULL) {
		e = set_firmware_msrs(v);
	}
	if (e != NULL) {
		return err_wrap(e, "vCPU %u", id);
	}
	*ret_vcpu = MOVE(v);
	return NULL;
}

void kvm_vcpu_free(struct kvm_vcpu *v)
{
	if (v == NULL) {
		return;
	}
	if (v->page != MAP_FAILED) {
		munmap(v->page, v->page_len);
	}
	fd_close(&v->fd);
	free(v);
}

unsigned kvm_vcpu_id(const struct kvm_vcpu *v)
{
	return v->id;
}

int kvm_vcpu_fd(const struct kvm_vcpu *v)
{
	return v->fd.n;
}

struct kvm_run *kvm_vcpu_page(struct kvm_vcpu *v)
{
	return v->page;
}

void kvm_vcpu_set_immediate_exit(struct kvm_vcpu *v, bool on)
{
	/* KVM reads it after it has seen no signal: the store comes before the caller's kick. */
	__atomic_store_n(&v->page->immediate_exit, (uint8_t)(on ? 1 : 0), __ATOMIC_SEQ_CST);
}

enum kvm_run_result kvm_vcpu_run(struct kvm_vcpu *v, int *ret_errno)
{
	if (ioctl(v->fd.n, KVM_RUN, 0) >= 0) {
		return KVM_RUN_EXIT;
	}
	/* EAGAIN: a processor that waited for its start-up message got it (4.10, mp_state). */
	if (errno == EINTR || errno == EAGAIN) {
		return KVM_RUN_INTERRUPTED;
	}
	*ret_errno = errno;
	return KVM_RUN_FAILED;
}

struct err *kvm_vcpu_run_mask(struct kvm_vcpu *v, int sig)
{
	struct {
		struct kvm_signal_mask head;
		uint8_t set[8];
	} mask = { .head = { .len = sizeof(mask.set) } };
	sigset_t set;
	BUG_ON(pthread_sigmask(SIG_BLOCK, NULL, &set) != 0);
	sigdelset(&set, sig);
	memcpy(mask.set, &set, sizeof(mask.set)); /* KVM takes the kernel's sigset, 64 bits */
	if (ioctl(v->fd.n, KVM_SET_SIGNAL_MASK, &mask) < 0) {
		return ERR_ERRNO("KVM_SET_SIGNAL_MASK");
	}
	return NULL;
}

bool kvm_vcpu_timer_look(struct kvm_vcpu *v, bool first)
{
	struct kvm_lapic_state l;
	uint32_t before = first ? 0 : v->timer_seen;
	v->timer_seen = 0;
	if (ioctl(v->fd.n, KVM_GET_LAPIC, &l) < 0) {
		return false;
	}
	uint32_t mode = get_le32((const uint8_t *)l.regs + LVTT) >> LVTT_MODE_SHIFT & 3;
	if (get_le32((const uint8_t *)l.regs + TMICT) == 0 ||
	    (mode != MODE_ONE_SHOT && mode != MODE_PERIODIC)) {
		return false; /* a TSC deadline tells by itself whether it is over */
	}
	v->timer_seen = get_le32((const uint8_t *)l.regs + TMCCT);
	/* A periodic timer that counts lower than before has not expired in between. */
	return mode == MODE_ONE_SHOT ? v->timer_seen == 0 : before == 0 || v->timer_seen > before;
}

uint32_t kvm_vcpu_timer_seen(const struct kvm_vcpu *v)
{
	return v->timer_seen;
}

enum kvm_run_result kvm_vcpu_run_signalled(struct kvm_vcpu *v, int sig, int *ret_errno)
{
	sigset_t set;
	sigset_t old;
	sigemptyset(&set);
	sigaddset(&set, sig);
	BUG_ON(pthread_sigmask(SIG_BLOCK, &set, &old) != 0);
	BUG_ON(pthread_kill(pthread_self(), sig) != 0);
	enum kvm_run_result res = kvm_vcpu_run(v, ret_errno);
	BUG_ON(pthread_sigmask(SIG_SETMASK, &old, NULL) != 0); /* its handler takes the signal */
	return res;
}

/* Flat segments with the whole address space, as all three entries ask for. */
static void set_segments(struct kvm_sregs *s, bool long_mode)
{
	struct kvm_segment code = {
		.base = 0,
		.limit = 0xffffffffu,
		.selector = BOOT_CS,
		.type = 0xb, /* execute, read, accessed */
		.present = 1,
		.s = 1,
		.g = 1,
		.db = long_mode ? 0 : 1,
		.l = long_mode ? 1 : 0,
	};
	struct kvm_segment data = {
		.base = 0,
		.limit = 0xffffffffu,
		.selector = BOOT_DS,
		.type = 0x3, /* read, write, accessed */
		.present = 1,
		.s = 1,
		.g = 1,
		.db = 1,
	};
	s->cs = code;
	s->ds = data;
	s->es = data;
	s->ss = data;
	/* PVH asks for fs and gs as data too in effect: Linux loads them itself. */
	s->fs = data;
	s->gs = data;
	/* VMX entry checks want a busy TSS (SDM 3C 27.3.1.2). */
	s->tr = (struct kvm_segment){ .limit = 0x67, .type = 0xb, .present = 1 };
	s->ldt = (struct kvm_segment){ .type = 0x2, .unusable = 1 };
	s->gdt = (struct kvm_dtable){ 0 };
	s->idt = (struct kvm_dtable){ 0 };
}

struct err *kvm_vcpu_set_boot(struct kvm_vcpu *v, const struct boot_regs *in)
{
	bool long_mode = in->mode == BOOT_LINUX64;
	struct kvm_sregs s;
	/* From KVM's reset state: apic_base and cr8 stay as they are. */
	if (ioctl(v->fd.n, KVM_GET_SREGS, &s) < 0) {
		return ERR_ERRNO("vCPU %u: KVM_GET_SREGS", v->id);
	}
	set_segments(&s, long_mode);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr2 = 0;
	s.cr3 = 0;
	s.cr4 = 0;
	s.efer = 0;
	if (long_mode) {
		s.cr0 |= CR0_NE | CR0_PG;
		s.cr3 = in->cr3;
		s.cr4 = CR4_PAE;
		s.efer = EFER_LME | EFER_LMA;
		s.gdt.base = in->gdt_base;
		s.gdt.limit = in->gdt_limit;
	}
	if (ioctl(v->fd.n, KVM_SET_SREGS, &s) < 0) {
		return ERR_ERRNO("vCPU %u: KVM_SET_SREGS for boot", v->id);
	}
	struct kvm_regs r = {
		.rip = in->rip,
		.rsp = in->rsp,
		.rbx = in->rbx,
		.rsi = in->rsi,
		.rax = in->mode == BOOT_MULTIBOOT32 ? MULTIBOOT_MAGIC : 0,
		.rflags = RFLAGS_FIXED,
	};
	if (ioctl(v->fd.n, KVM_SET_REGS, &r) < 0) {
		return ERR_ERRNO("vCPU %u: KVM_SET_REGS for boot", v->id);
	}
	struct kvm_fpu f;
	memset(&f, 0, sizeof(f));
	f.fcw = 0x37f;    /* as after fninit */
	f.mxcsr = 0x1f80; /* all exceptions masked, as after reset */
	if (ioctl(v->fd.n, KVM_SET_FPU, &f) < 0) {
		return ERR_ERRNO("vCPU %u: KVM_SET_FPU for boot", v->id);
	}
	return NULL;
}
