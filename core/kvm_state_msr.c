/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSRs of a vCPU: which to save, reading, setting. Called by kvm_state_vcpu.c and kvm_state_clock.c
 * while all vCPUs are parked. See kvm_state_internal.h.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/kvm_state_internal.h"

#define MSR_KVM_WALL_CLOCK_OLD 0x11u
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u
#define MSR_MCG_CAP 0x179u
#define MSR_MC0_CTL 0x400u
#define MCE_BANKS_MAX 32u
enum { WALL_CLOCK_BYTES = 12 }; /* struct pvclock_wall_clock */

/*
 * MSRs that guests use and KVM_GET_MSR_INDEX_LIST of some kernels leaves out. Each is tried once:
 * what reads is saved.
 */
static const struct {
	uint32_t first, last;
} gaps[] = {
	{ 0x3b, 0x3b },   /* TSC_ADJUST: guests compare it with what they wrote */
	{ 0x48, 0x48 },   /* SPEC_CTRL: mitigations switched on by the guest */
	{ 0xe1, 0xe1 },   /* UMWAIT_CONTROL */
	{ 0x122, 0x122 }, /* TSX_CTRL */
	{ 0x174, 0x176 }, /* SYSENTER */
	{ 0x17a, 0x17b }, /* MCG_STATUS, MCG_CTL */
	{ 0x1a0, 0x1a0 }, /* MISC_ENABLE: fast strings, XD disable */
	{ 0x1c4, 0x1c5 }, /* XFD, XFD_ERR: AMX on demand */
	{ 0x1d9, 0x1d9 }, /* DEBUGCTL */
	{ 0x200, 0x20f }, /* variable MTRRs: without them memory types differ after a restore */
	{ 0x250, 0x250 }, /* fixed MTRRs */
	{ 0x258, 0x259 },
	{ 0x268, 0x26f },
	{ 0x277, 0x277 }, /* PAT */
	{ 0x2ff, 0x2ff }, /* MTRR default type */
	{ 0x4d0, 0x4d0 }, /* MCG_EXT_CTL */
	{ 0x6a0, 0x6a0 }, /* CET: U_CET, S_CET, PL0..3_SSP, interrupt SSP table */
	{ 0x6a2, 0x6a2 },
	{ 0x6a4, 0x6a8 },
	{ 0x6e1, 0x6e1 }, /* PKRS */
	{ 0xda0, 0xda0 }, /* XSS: the next XRSTORS of the guest faults without it */
	{ 0x4b564d00,
	  0x4b564d07 }, /* kvmclock, async page faults, steal time, PV EOI, poll control */
	{ 0xc0000081, 0xc0000084 }, /* STAR, LSTAR, CSTAR, FMASK */
	{ 0xc0000102, 0xc0000103 }, /* KERNEL_GS_BASE; TSC_AUX: RDTSCP and RDPID give it */
	{ 0xc0010015, 0xc0010015 }, /* HWCR */
	{ 0xc001011f, 0xc001011f }, /* VIRT_SPEC_CTRL */
	{ 0xc0010140, 0xc0010141 }, /* OSVW */
	{ 0xc0011029, 0xc0011029 }, /* DE_CFG: LFENCE serializes */
};

/* Not saved although KVM lists them. */
static bool excluded(uint32_t msr)
{
	return msr == MSR_TSC             /* the clock part: one host reading for all vCPUs */
	       || msr == MSR_TSC_DEADLINE /* has a field; set after the TSC */
	       /* VMX capabilities: VMX is hidden, and they name the host's. */
	       || (msr >= 0x480 && msr <= 0x493)
	       /* Hyper-V: never shown to a guest; one of them counts time and takes no value. */
	       || (msr >= 0x40000000 && msr <= 0x400001ff)
	       /* SVM of a nested guest: hidden */
	       || msr == 0xc0010117 || msr == 0xc0000104;
}

struct msr_block {
	struct kvm_msrs head;
	struct kvm_msr_entry e[MSRS_MAX];
};

static int cmp_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a;
	uint32_t y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static struct err *add(uint32_t *list, uint32_t *n, uint32_t msr)
{
	if (excluded(msr)) {
		return NULL;
	}
	ENSURE(*n < MSRS_MAX, ERR_LIMIT, "more than %u MSRs to save", MSRS_MAX);
	list[(*n)++] = msr;
	return NULL;
}

/* 4.3 of api.rst; then the gaps, then machine-check banks. May hold an index twice. */
static struct err *candidates(const struct kvm_state *s, uint32_t *list, uint32_t *ret_n)
{
	SCOPE(freep)
	struct kvm_msr_list *l = calloc(1, sizeof(*l) + MSRS_MAX * sizeof(l->indices[0]));
	ENSURE(l != NULL, ERR_SYS, "MSR list: out of memory");
	l->nmsrs = MSRS_MAX;
	if (ioctl(kvm_vm_kvm(s->vm), KVM_GET_MSR_INDEX_LIST, l) < 0) {
		return ERR_ERRNO("KVM_GET_MSR_INDEX_LIST");
	}
	uint32_t n = 0;
	for (uint32_t i = 0; i < l->nmsrs; i++) {
		TRY(add(list, &n, l->indices[i]));
	}
	for (size_t i = 0; i < ARRAY_LEN(gaps); i++) {
		for (uint32_t m = gaps[i].first; m <= gaps[i].last; m++) {
			TRY(add(list, &n, m));
		}
	}
	uint64_t cap = 0;
	err_drop(kvm_state_msr_get(s->vcpu[0].vcpu, MSR_MCG_CAP, &cap),
		 "no machine-check banks then");
	uint32_t banks = MIN((uint32_t)(cap & 0xff), MCE_BANKS_MAX);
	for (uint32_t i = 0; i < banks * 4; i++) {
		TRY(add(list, &n, MSR_MC0_CTL + i));
	}
	*ret_n = n;
	return NULL;
}

/* KVM_GET_MSRS stops at the first MSR that does not read: leave that one out, go on behind it. */
static struct err *keep_readable(struct kvm_state *s, const uint32_t *list, uint32_t n)
{
	SCOPE(freep) struct msr_block *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "MSRs: out of memory");
	int fd = kvm_vcpu_fd(s->vcpu[0].vcpu);
	s->nmsrs = 0;
	for (uint32_t at = 0; at < n;) {
		uint32_t m = n - at;
		for (uint32_t i = 0; i < m; i++) {
			b->e[i] = (struct kvm_msr_entry){ .index = list[at + i] };
		}
		b->head.nmsrs = m;
		int got = ioctl(fd, KVM_GET_MSRS, b);
		if (got < 0) {
			return ERR_ERRNO("KVM_GET_MSRS");
		}
		memcpy(&s->msrs[s->nmsrs], &list[at], (uint32_t)got * sizeof(list[0]));
		s->nmsrs += (uint32_t)got;
		at += (uint32_t)got + 1;
	}
	return NULL;
}

struct err *kvm_state_msr_find(struct kvm_state *s)
{
	uint32_t list[MSRS_MAX];
	uint32_t n = 0;
	TRY(candidates(s, list, &n));
	qsort(list, n, sizeof(list[0]), cmp_u32);
	uint32_t out = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (out == 0 || list[out - 1] != list[i]) {
			list[out++] = list[i];
		}
	}
	return keep_readable(s, list, out);
}

struct err *kvm_state_msr_get(const struct kvm_vcpu *v, uint32_t msr, uint64_t *ret)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} b;
	memset(&b, 0, sizeof(b));
	b.head.nmsrs = 1;
	b.e[0].index = msr;
	int n = ioctl(kvm_vcpu_fd(v), KVM_GET_MSRS, &b);
	if (n < 0) {
		return ERR_ERRNO("KVM_GET_MSRS");
	}
	ENSURE(n == 1, ERR_INCOMPAT, "KVM does not give MSR 0x%x", msr);
	*ret = b.e[0].data;
	return NULL;
}

struct err *kvm_state_msr_set(const struct kvm_vcpu *v, uint32_t msr, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[1];
	} b;
	memset(&b, 0, sizeof(b));
	b.head.nmsrs = 1;
	b.e[0].index = msr;
	b.e[0].data = value;
	int n = ioctl(kvm_vcpu_fd(v), KVM_SET_MSRS, &b);
	if (n < 0) {
		return ERR_ERRNO("KVM_SET_MSRS");
	}
	ENSURE(n == 1, ERR_INCOMPAT, "this host's KVM does not take value 0x%llx in MSR 0x%x",
	       (unsigned long long)value, msr);
	return NULL;
}

struct err *kvm_state_msr_fetch(const struct kvm_state *s, struct vcpu_part *p)
{
	SCOPE(freep) struct msr_block *b = malloc(sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "MSRs: out of memory");
	b->head.nmsrs = s->nmsrs;
	b->head.pad = 0;
	for (uint32_t i = 0; i < s->nmsrs; i++) {
		b->e[i] = (struct kvm_msr_entry){ .index = s->msrs[i] };
	}
	int n = ioctl(kvm_vcpu_fd(p->vcpu), KVM_GET_MSRS, b);
	if (n < 0) {
		return ERR_ERRNO("KVM_GET_MSRS");
	}
	ENSURE((uint32_t)n == s->nmsrs, ERR_SYS, "KVM gave MSR 0x%x before and does not now",
	       s->msrs[n]);
	p->state->nmsrs = s->nmsrs;
	for (uint32_t i = 0; i < s->nmsrs; i++) {
		p->state->msr_index[i] = b->e[i].index;
		p->state->msr_value[i] = b->e[i].data;
	}
	return NULL;
}

/*
 * One MSR that KVM_SET_MSRS refused. If it holds the saved value already, or the guest never gave
 * it a value and the host does not know it, nothing is lost.
 */
static struct err *check_refused(const struct vcpu_part *p, uint32_t msr, uint64_t value)
{
	uint64_t now;
	struct err *e = kvm_state_msr_get(p->vcpu, msr, &now);
	if (e != NULL) {
		err_drop(e, "an MSR the host does not have");
		ENSURE(value == 0, ERR_INCOMPAT,
		       "MSR 0x%x holds 0x%llx in the guest, and this host has no such MSR", msr,
		       (unsigned long long)value);
		return NULL;
	}
	ENSURE(now == value, ERR_INCOMPAT,
	       "MSR 0x%x holds 0x%llx in the guest; this host's KVM has 0x%llx there and refuses "
	       "to change it",
	       msr, (unsigned long long)value, (unsigned long long)now);
	return NULL;
}

static bool is_wall_clock(uint32_t msr)
{
	return msr == MSR_KVM_WALL_CLOCK_OLD || msr == MSR_KVM_WALL_CLOCK_NEW;
}

/*
 * Setting the wall-clock MSR makes KVM write the time into guest memory at once. The guest may use
 * that memory for something else since it asked, so the bytes are put back. Returns the place, or
 * NULL when there is nothing to keep.
 */
static uint8_t *keep_wall_clock(const struct kvm_state *s, const struct kvm_vcpu_state *st,
				uint8_t *ret_bytes)
{
	for (uint32_t i = 0; i < st->nmsrs; i++) {
		if (!is_wall_clock(st->msr_index[i]) || st->msr_value[i] == 0) {
			continue;
		}
		uint8_t *at = gmem_at(kvm_vm_gmem(s->vm), GPA(st->msr_value[i]), WALL_CLOCK_BYTES);
		if (at != NULL) {
			memcpy(ret_bytes, at, WALL_CLOCK_BYTES);
			return at;
		}
	}
	return NULL;
}

struct err *kvm_state_msr_commit(const struct kvm_state *s, struct vcpu_part *p,
				 const struct findings *f)
{
	SCOPE(freep) struct msr_block *b = malloc(sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "MSRs: out of memory");
	const struct kvm_vcpu_state *st = p->state;
	uint8_t kept[WALL_CLOCK_BYTES];
	uint8_t *at = keep_wall_clock(s, st, kept);
	struct err *e = NULL;
	for (uint32_t done = 0; done < st->nmsrs && e == NULL;) {
		uint32_t m = st->nmsrs - done;
		b->head.nmsrs = m;
		b->head.pad = 0;
		for (uint32_t i = 0; i < m; i++) {
			b->e[i] = (struct kvm_msr_entry){
				.index = st->msr_index[done + i],
				.data = st->msr_value[done + i],
			};
		}
		int n = ioctl(kvm_vcpu_fd(p->vcpu), KVM_SET_MSRS, b);
		if (n < 0) {
			e = ERR_ERRNO("KVM_SET_MSRS");
			break;
		}
		done += (uint32_t)n;
		if (done < st->nmsrs) {
			e = check_refused(p, st->msr_index[done], st->msr_value[done]);
			done++;
			if (f != NULL) {
				finding(f, "msr", err_wrap(MOVE(e), "vCPU %u", p->index));
			}
		}
	}
	if (at != NULL) {
		memcpy(at, kept, sizeof(kept));
	}
	return e;
}
