/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which CPU the guest is shown, and whether this host can show it. See kvm_vcpu.h. Called by core
 * when a VM is built and by the vCPU part when one is loaded. Any thread.
 *
 * Hidden on purpose, in every model:
 *  - VMX, SVM: the state of a nested guest is not saved.
 *  - the PMU, PT, debug store, SGX, SEV: counters of host hardware and host-bound secrets do not
 *    survive a move.
 *  - CET: the shadow stack pointer can be read only by KVM_GET_ONE_REG of very new kernels; hidden
 *    until every host that shows it can also save it.
 *  - asynchronous page faults: KVM keeps the list of faults under way to itself. A guest task that
 *    was put to sleep before a take would wait for ever for its wake-up after a restore.
 * Kept of KVM's own leaves: both kvmclocks and the stable bit, steal time, PV EOI, kick, TLB flush,
 * IPI, poll control, yield: their state is MSRs, which are saved, and guest memory.
 *
 * A guest of a software KVM sees the host's feature leaves (1, 7, 0xd) whatever is set here; the
 * record is kept all the same, because it says what the VM was built for.
 */
#include "core/kvm_vcpu.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/base/bytes.h"
#include "core/kvm_cap.h"

enum reg { EAX, EBX, ECX, EDX, REG__COUNT };
static const char *const reg_names[REG__COUNT] = { "EAX", "EBX", "ECX", "EDX" };

#define BIT(n) (1u << (n))
/* Not a feature of the CPU but of this moment: KVM derives them from CR4 (SDM 2A, CPUID 1 and 7).
 */
#define L1_ECX_OSXSAVE BIT(27)
#define L7_ECX_OSPKE BIT(4)
#define L1_ECX_HYPERVISOR BIT(31)
#define L1_ECX_TSC_DEADLINE BIT(24)
#define L1_ECX_X2APIC BIT(21)
#define L87_EDX_INVARIANT_TSC BIT(8)

/* XCR0 states (SDM 1, 13.1). */
#define XCR0_V2 0x3u
#define XCR0_V3 0x7u
/* IA32_XSS: CET_U, CET_S and PT (hidden above). */
#define XSS_HIDDEN (BIT(8) | BIT(11) | BIT(12))

/*
 * Every register whose bits are features. `hide`: never shown. v2, v3: what a model may show, which
 * is the psABI level and what a kernel of its time needs to run well.
 * `dynamic`: ignored in comparisons.
 */
struct feature_word {
	uint32_t leaf;
	uint32_t sub;
	enum reg reg;
	uint32_t hide;
	uint32_t dynamic;
	uint32_t v2;
	uint32_t v3;
};

/* 1.ECX: SSE3 PCLMUL SSSE3 CX16 PCID SSE4.1 SSE4.2 x2APIC POPCNT TSC-deadline AES RDRAND HV */
#define V2_1_ECX                                                                                   \
	(BIT(0) | BIT(1) | BIT(9) | BIT(13) | BIT(17) | BIT(19) | BIT(20) | BIT(21) | BIT(23) |    \
	 BIT(24) | BIT(25) | BIT(30) | BIT(31))
/* and FMA MOVBE XSAVE OSXSAVE AVX F16C */
#define V3_1_ECX (V2_1_ECX | BIT(12) | BIT(22) | BIT(26) | BIT(27) | BIT(28) | BIT(29))
/* FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP CLFLUSHOPT; then BMI1 AVX2 BMI2 */
#define V2_7_EBX (BIT(0) | BIT(1) | BIT(7) | BIT(9) | BIT(10) | BIT(20) | BIT(23))
#define V3_7_EBX (V2_7_EBX | BIT(3) | BIT(5) | BIT(8))
/* Speculation controls a kernel must see to protect itself: MD_CLEAR, IBRS, STIBP, ARCH_CAP, SSBD
 */
#define ANY_7_EDX (BIT(10) | BIT(26) | BIT(27) | BIT(29) | BIT(31))
/* LAHF CMP_LEGACY CR8; LZCNT; TOPOEXT */
#define V2_81_ECX (BIT(0) | BIT(1) | BIT(4) | BIT(22))
#define V3_81_ECX (V2_81_ECX | BIT(5))
#define ALL 0xffffffffu

static const struct feature_word words[] = {
	/* hidden: DTES64, DS-CPL, VMX, SMX, PDCM; MONITOR: KVM's emulation is a no-op */
	{ 0x1, 0, ECX, BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(15), L1_ECX_OSXSAVE,
	  V2_1_ECX, V3_1_ECX },
	/* hidden: DS (debug store) */
	{ 0x1, 0, EDX, BIT(21), 0, ALL, ALL },
	/* hidden: SGX, PT; bits 6 and 13 say how the FPU behaves and stay */
	{ 0x7, 0, EBX, BIT(2) | BIT(25), 0, V2_7_EBX | BIT(6) | BIT(13),
	  V3_7_EBX | BIT(6) | BIT(13) },
	/* hidden: SHSTK, SGX_LC */
	{ 0x7, 0, ECX, BIT(7) | BIT(30), L7_ECX_OSPKE, BIT(2), BIT(2) },
	/* hidden: IBT */
	{ 0x7, 0, EDX, BIT(20), 0, ANY_7_EDX, ANY_7_EDX },
	{ 0x7, 1, EAX, 0, 0, 0, 0 },
	{ 0x7, 1, EDX, BIT(18), 0, 0, 0 }, /* hidden: CET_SSS */
	{ 0x7, 2, EDX, 0, 0, ALL, ALL },   /* speculation controls */
	{ 0xd, 0, EAX, 0, 0, 0, XCR0_V3 },
	{ 0xd, 0, EDX, 0, 0, 0, 0 },
	{ 0xd, 1, EAX, 0, 0, 0, BIT(0) | BIT(1) | BIT(2) },
	{ 0xd, 1, ECX, XSS_HIDDEN, 0, 0, 0 },
	{ 0xd, 1, EDX, 0, 0, 0, 0 },
	{ 0x14, 0, EBX, ALL, 0, 0, 0 },
	/* hidden: SVM, IBS, SKINIT, WDT, LWP, NODEID, PERFCTR core, NB, LLC, MWAITX */
	{ 0x80000001, 0, ECX,
	  BIT(2) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(28) |
		  BIT(29),
	  0, V2_81_ECX, V3_81_ECX },
	{ 0x80000001, 0, EDX, 0, 0, ALL & ~(BIT(30) | BIT(31)), ALL & ~(BIT(30) | BIT(31)) },
	{ 0x80000007, 0, EDX, 0, 0, L87_EDX_INVARIANT_TSC, L87_EDX_INVARIANT_TSC },
	{ 0x80000008, 0, EBX, 0, 0, ALL & ~BIT(0), ALL & ~BIT(0) },
	{ 0x80000021, 0, EAX, 0, 0, ALL, ALL },
	/* KVM's own; see the head of the file */
	{ 0x40000001, 0, EAX,
	  ~(BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) |
	    BIT(13) | BIT(24)),
	  0, ALL, ALL },
	{ 0x40000001, 0, EDX, ALL, 0, 0, 0 }, /* hints: nothing is promised */
};

struct feature {
	uint32_t leaf;
	uint32_t sub;
	enum reg reg;
	unsigned bit;
	unsigned level; /* 2, 3: a psABI level needs it; 0: only for messages */
	const char *name;
};

static const struct feature features[] = {
	{ 0x1, 0, ECX, 0, 2, "SSE3" },
	{ 0x1, 0, ECX, 1, 0, "PCLMULQDQ" },
	{ 0x1, 0, ECX, 9, 2, "SSSE3" },
	{ 0x1, 0, ECX, 12, 3, "FMA" },
	{ 0x1, 0, ECX, 13, 2, "CMPXCHG16B" },
	{ 0x1, 0, ECX, 17, 0, "PCID" },
	{ 0x1, 0, ECX, 19, 2, "SSE4.1" },
	{ 0x1, 0, ECX, 20, 2, "SSE4.2" },
	{ 0x1, 0, ECX, 21, 0, "x2APIC" },
	{ 0x1, 0, ECX, 22, 3, "MOVBE" },
	{ 0x1, 0, ECX, 23, 2, "POPCNT" },
	{ 0x1, 0, ECX, 24, 0, "TSC-deadline timer" },
	{ 0x1, 0, ECX, 25, 0, "AES" },
	{ 0x1, 0, ECX, 26, 3, "XSAVE" },
	{ 0x1, 0, ECX, 28, 3, "AVX" },
	{ 0x1, 0, ECX, 29, 3, "F16C" },
	{ 0x1, 0, ECX, 30, 0, "RDRAND" },
	{ 0x7, 0, EBX, 1, 0, "TSC_ADJUST" },
	{ 0x7, 0, EBX, 3, 3, "BMI1" },
	{ 0x7, 0, EBX, 5, 3, "AVX2" },
	{ 0x7, 0, EBX, 7, 0, "SMEP" },
	{ 0x7, 0, EBX, 8, 3, "BMI2" },
	{ 0x7, 0, EBX, 10, 0, "INVPCID" },
	{ 0x7, 0, EBX, 16, 0, "AVX512F" },
	{ 0x7, 0, EBX, 17, 0, "AVX512DQ" },
	{ 0x7, 0, EBX, 18, 0, "RDSEED" },
	{ 0x7, 0, EBX, 20, 0, "SMAP" },
	{ 0x7, 0, EBX, 29, 0, "SHA" },
	{ 0x7, 0, EBX, 30, 0, "AVX512BW" },
	{ 0x7, 0, EBX, 31, 0, "AVX512VL" },
	{ 0x7, 0, ECX, 2, 0, "UMIP" },
	{ 0x7, 0, ECX, 3, 0, "PKU" },
	{ 0x7, 0, ECX, 8, 0, "GFNI" },
	{ 0x7, 0, ECX, 9, 0, "VAES" },
	{ 0x7, 0, ECX, 16, 0, "LA57" },
	{ 0x7, 0, EDX, 24, 0, "AMX-TILE" },
	{ 0x7, 0, EDX, 26, 0, "IBRS" },
	{ 0x7, 0, EDX, 29, 0, "ARCH_CAPABILITIES" },
	{ 0x80000001, 0, ECX, 0, 2, "LAHF in 64-bit mode" },
	{ 0x80000001, 0, ECX, 5, 3, "LZCNT" },
	{ 0x80000001, 0, EDX, 20, 0, "NX" },
	{ 0x80000001, 0, EDX, 26, 0, "1 GiB pages" },
	{ 0x80000001, 0, EDX, 29, 0, "long mode" },
	{ 0x40000001, 0, EAX, 3, 0, "kvmclock" },
	{ 0x40000001, 0, EAX, 5, 0, "KVM steal time" },
	{ 0x40000001, 0, EAX, 6, 0, "KVM PV EOI" },
	{ 0x40000001, 0, EAX, 24, 0, "stable kvmclock" },
};

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	switch (reg) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

/* First entry of a leaf and subleaf; NULL when the table has none. */
static struct kvm_cpuid_entry2 *find(struct cpuid_table *t, uint32_t leaf, uint32_t sub)
{
	for (uint32_t i = 0; i < t->n; i++) {
		struct kvm_cpuid_entry2 *e = &t->e[i];
		bool indexed = (e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
		if (e->function == leaf && (!indexed || e->index == sub)) {
			return e;
		}
	}
	return NULL;
}

static uint32_t value_of(const struct cpuid_table *t, uint32_t leaf, uint32_t sub, enum reg reg)
{
	for (uint32_t i = 0; i < t->n; i++) {
		struct kvm_cpuid_entry2 e = t->e[i];
		bool indexed = (e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
		if (e.function == leaf && (!indexed || e.index == sub)) {
			return *reg_of(&e, reg);
		}
	}
	return 0;
}

static void drop_leaf(struct cpuid_table *t, uint32_t leaf)
{
	uint32_t out = 0;
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->e[i].function != leaf) {
			t->e[out++] = t->e[i];
		}
	}
	t->n = out;
}

static struct err *add_entry(struct cpuid_table *t, const struct kvm_cpuid_entry2 *e)
{
	ENSURE(t->n < CPUID_MAX, ERR_LIMIT, "CPUID table is full (%u entries)", CPUID_MAX);
	t->e[t->n++] = *e;
	return NULL;
}

/* 4.46 of api.rst, and the bits that the in-kernel irqchip adds to what it says. */
static struct err *supported(int kvm, struct cpuid_table *ret)
{
	SCOPE(freep)
	struct kvm_cpuid2 *k = calloc(1, sizeof(*k) + CPUID_MAX * sizeof(k->entries[0]));
	ENSURE(k != NULL, ERR_SYS, "CPUID: out of memory");
	k->nent = CPUID_MAX;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, k) < 0) {
		return ERR_ERRNO("KVM_GET_SUPPORTED_CPUID");
	}
	memset(ret, 0, sizeof(*ret));
	ret->n = k->nent;
	memcpy(ret->e, k->entries, k->nent * sizeof(k->entries[0]));
	struct kvm_cpuid_entry2 *e = find(ret, 1, 0);
	ENSURE(e != NULL, ERR_INCOMPAT, "KVM supports no CPUID leaf 1");
	e->ecx |= L1_ECX_HYPERVISOR | L1_ECX_X2APIC;
	if (kvm_cap_value(kvm, KVM_CAP_TSC_DEADLINE_TIMER) != 0) {
		e->ecx |= L1_ECX_TSC_DEADLINE;
	}
	return NULL;
}

/*
 * Hardware KVM needs VMX or SVM in this CPU, so a CPU without both can only have a software KVM.
 * Where the CPU has one of them but KVM was loaded without kvm_intel and kvm_amd, another back end
 * runs the guests. /sys may be out of sight (chroot, jail): then the CPU decides.
 */
bool kvm_is_software(int kvm)
{
	(void)kvm;
	uint32_t a;
	uint32_t b;
	uint32_t c;
	uint32_t d;
	bool vmx = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & BIT(5)) != 0;
	bool svm = __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & BIT(2)) != 0;
	if (!vmx && !svm) {
		return true;
	}
	return access("/sys/module/kvm", F_OK) == 0 && access("/sys/module/kvm_intel", F_OK) != 0 &&
	       access("/sys/module/kvm_amd", F_OK) != 0;
}

static struct err *model_level(int kvm, const char *model, unsigned *ret_level)
{
	unsigned level;
	if (strcmp(model, "host") == 0) {
		level = 0;
	} else if (strcmp(model, "x86-64-v2") == 0) {
		level = 2;
	} else if (strcmp(model, "x86-64-v3") == 0) {
		level = 3;
	} else {
		return ERR(ERR_USAGE,
			   "CPU model \"%s\" is not known: use host, x86-64-v2 or "
			   "x86-64-v3",
			   model);
	}
	ENSURE(level == 0 || !kvm_is_software(kvm), ERR_INCOMPAT,
	       "CPU model %s: this host has a software KVM, whose guests see the host's CPUID "
	       "whatever is set: use --cpu host",
	       model);
	*ret_level = level;
	return NULL;
}

static void apply_features(struct cpuid_table *t, unsigned level)
{
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		const struct feature_word *w = &words[i];
		struct kvm_cpuid_entry2 *e = find(t, w->leaf, w->sub);
		if (e == NULL) {
			continue;
		}
		uint32_t *v = reg_of(e, w->reg);
		*v &= ~(w->hide | w->dynamic);
		if (level == 2) {
			*v &= w->v2;
		} else if (level == 3) {
			*v &= w->v3;
		}
	}
}

/* The subleaf of each state component goes with its bit in XCR0 or IA32_XSS. */
static void prune_xsave(struct cpuid_table *t)
{
	uint64_t have = value_of(t, 0xd, 0, EAX) | (uint64_t)value_of(t, 0xd, 0, EDX) << 32;
	have |= value_of(t, 0xd, 1, ECX) | (uint64_t)value_of(t, 0xd, 1, EDX) << 32;
	uint32_t out = 0;
	uint32_t need = 576; /* legacy area and header (SDM 1, 13.4) */
	for (uint32_t i = 0; i < t->n; i++) {
		struct kvm_cpuid_entry2 e = t->e[i];
		if (e.function == 0xd && e.index >= 2) {
			if (e.index >= 63 || (have >> e.index & 1) == 0) {
				continue;
			}
			if ((e.ecx & 1) == 0) {
				need = MAX(need, e.ebx + e.eax);
			}
		}
		t->e[out++] = e;
	}
	t->n = out;
	struct kvm_cpuid_entry2 *e = find(t, 0xd, 0);
	if (e != NULL) {
		e->ecx = need;
		e->ebx = 576; /* for XCR0 = 1 as after reset; KVM keeps it up to date */
	}
	e = find(t, 0xd, 1);
	if (e != NULL) {
		e->ebx = 0;
	}
}

static unsigned id_bits(unsigned ncpus)
{
	unsigned bits = 0;
	while ((1u << bits) < ncpus) {
		bits++;
	}
	return bits;
}

/* Leaf 0xb: one thread per core, ncpus cores in one package (SDM 2A, CPUID 0BH). */
static struct err *topology_0b(struct cpuid_table *t, unsigned ncpus)
{
	drop_leaf(t, 0xb);
	/* 0x1f and its AMD counterpart tell the same with more levels: absent, 0xb is used. */
	drop_leaf(t, 0x1f);
	drop_leaf(t, 0x80000026);
	if (value_of(t, 0, 0, EAX) < 0xb) {
		return NULL;
	}
	for (uint32_t sub = 0; sub < 3; sub++) {
		struct kvm_cpuid_entry2 e = {
			.function = 0xb,
			.index = sub,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = sub == 1 ? id_bits(ncpus) : 0,
			.ebx = sub == 0 ? 1 : (sub == 1 ? ncpus : 0),
			.ecx = sub | (sub < 2 ? (sub + 1) << 8 : 0),
		};
		TRY(add_entry(t, &e));
	}
	return NULL;
}

static struct err *topology(struct cpuid_table *t, unsigned ncpus)
{
	unsigned slots = 1u << id_bits(ncpus);
	struct kvm_cpuid_entry2 *e = find(t, 1, 0);
	e->ebx = (e->ebx & 0x0000ffffu) | slots << 16;
	e->edx = ncpus > 1 ? e->edx | BIT(28) : e->edx & ~BIT(28); /* HTT: EBX is valid */
	for (uint32_t i = 0; i < t->n; i++) {
		e = &t->e[i];
		if ((e->function == 0x4 || e->function == 0x8000001d) && (e->eax & 0x1f) != 0) {
			/* Levels 1 and 2 belong to a core, level 3 to the package. */
			unsigned sharing = (e->eax >> 5 & 7) >= 3 ? slots : 1;
			e->eax = (e->eax & 0x00003fffu) | (sharing - 1) << 14;
			if (e->function == 0x4) {
				e->eax |= (slots - 1) << 26;
			}
		}
	}
	e = find(t, 0x80000008, 0);
	if (e != NULL) {
		e->ecx = (e->ecx & ~0xf0ffu) | id_bits(ncpus) << 12 | (ncpus - 1);
	}
	e = find(t, 0x80000001, 0);
	if (e != NULL && ncpus == 1) {
		e->ecx &= ~BIT(1); /* CMP_LEGACY: more than one core */
	}
	e = find(t, 0x8000001e, 0);
	if (e != NULL) {
		e->eax = 0; /* APIC id and core id: kvm_vcpu_new */
		e->ebx = 0; /* one thread per core */
		e->ecx = 0; /* one node */
	}
	return topology_0b(t, ncpus);
}

static struct err *require_level(const struct cpuid_table *t, const char *model, unsigned level)
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature *f = &features[i];
		if (f->level == 0 || f->level > level) {
			continue;
		}
		ENSURE((value_of(t, f->leaf, f->sub, f->reg) >> f->bit & 1) != 0, ERR_INCOMPAT,
		       "CPU model %s needs %s, which this host lacks: use --cpu host", model,
		       f->name);
	}
	ENSURE(level < 3 || (value_of(t, 0xd, 0, EAX) & XCR0_V3) == XCR0_V3, ERR_INCOMPAT,
	       "CPU model %s needs AVX state, which this host lacks: use --cpu host", model);
	return NULL;
}

struct err *cpuid_make(int kvm, const char *model, unsigned ncpus, struct cpuid_table *ret_table)
{
	BUG_ON(ncpus < 1 || ncpus > VCPUS_MAX);
	unsigned level;
	TRY(model_level(kvm, model, &level));
	SCOPE(freep) struct cpuid_table *t = calloc(1, sizeof(*t));
	ENSURE(t != NULL, ERR_SYS, "CPUID: out of memory");
	TRY(supported(kvm, t));
	apply_features(t, level);
	/* Hidden features lose their leaves as well: PMU, SGX, PT, SVM, AMD PMU and SEV. */
	static const uint32_t hidden[] = { 0xa, 0x12, 0x14, 0x8000000a, 0x8000001f, 0x80000022 };
	for (size_t i = 0; i < ARRAY_LEN(hidden); i++) {
		drop_leaf(t, hidden[i]);
	}
	/*
	 * A software KVM cannot hold a guest's TSC or set it back. Not called invariant, Linux
	 * takes kvmclock for its time instead, which can.
	 */
	struct kvm_cpuid_entry2 *e = find(t, 0x80000007, 0);
	if (e != NULL && kvm_is_software(kvm)) {
		e->edx &= ~L87_EDX_INVARIANT_TSC;
	}
	prune_xsave(t);
	TRY(topology(t, ncpus));
	TRY(require_level(t, model, level));
	*ret_table = *t;
	return NULL;
}

static const char *feature_name(const struct feature_word *w, unsigned bit)
{
	for (size_t i = 0; i < ARRAY_LEN(features); i++) {
		const struct feature *f = &features[i];
		if (f->leaf == w->leaf && f->sub == w->sub && f->reg == w->reg && f->bit == bit) {
			return f->name;
		}
	}
	return "a feature";
}

static struct err *check_vendor(const struct cpuid_table *want, const struct cpuid_table *have)
{
	char name[2][13] = { "", "" };
	const struct cpuid_table *t[2] = { want, have };
	for (size_t i = 0; i < 2; i++) {
		put_le32(name[i], value_of(t[i], 0, 0, EBX));
		put_le32(name[i] + 4, value_of(t[i], 0, 0, EDX));
		put_le32(name[i] + 8, value_of(t[i], 0, 0, ECX));
	}
	/* A guest patches itself for its vendor (hypercalls, mitigations, system call entry). */
	ENSURE(strcmp(name[0], name[1]) == 0, ERR_INCOMPAT,
	       "the guest was started on a CPU of vendor \"%.12s\", this host's is \"%.12s\"",
	       name[0], name[1]);
	return NULL;
}

/*
 * What a guest can have here: what KVM supports, and on a software KVM also what the CPU has, since
 * the guest sees and runs that whatever is set. KVM_GET_CPUID2 tells so too: the record of a guest
 * that ran on such a host holds the host's features.
 */
static struct err *available(int kvm, struct cpuid_table *ret)
{
	TRY(supported(kvm, ret));
	if (!kvm_is_software(kvm)) {
		return NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		const struct feature_word *w = &words[i];
		struct kvm_cpuid_entry2 e = { 0 };
		if ((w->leaf & 0xffff0000u) == 0x40000000u ||
		    __get_cpuid_count(w->leaf, w->sub, &e.eax, &e.ebx, &e.ecx, &e.edx) == 0) {
			continue;
		}
		struct kvm_cpuid_entry2 *have = find(ret, w->leaf, w->sub);
		if (have == NULL) {
			e.function = w->leaf;
			e.index = w->sub;
			e.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
			TRY(add_entry(ret, &e));
		} else {
			*reg_of(have, w->reg) |= *reg_of(&e, w->reg);
		}
	}
	return NULL;
}

/* Every bit of one word that the guest was shown and this host cannot give. */
static void check_word(const struct feature_word *w, const struct cpuid_table *want,
		       const struct cpuid_table *have, const struct findings *f)
{
	uint32_t lack = value_of(want, w->leaf, w->sub, w->reg) &
			~value_of(have, w->leaf, w->sub, w->reg) & ~w->dynamic;
	/* Says "several cores", which is ours to say: topology(). */
	if (w->leaf == 1 && w->reg == EDX) {
		lack &= ~BIT(28);
	}
	for (unsigned bit = 0; bit < 32; bit++) {
		if ((lack >> bit & 1) != 0) {
			finding(f, "cpu",
				ERR(ERR_INCOMPAT,
				    "the guest uses %s (CPUID 0x%x.%u %s bit %u), which this host "
				    "lacks: restore it on a host that has it",
				    feature_name(w, bit), w->leaf, w->sub, reg_names[w->reg], bit));
		}
	}
}

static struct err *check_width(const struct cpuid_table *want, const struct cpuid_table *have)
{
	unsigned want_bits = value_of(want, 0x80000008, 0, EAX) & 0xff;
	unsigned have_bits = value_of(have, 0x80000008, 0, EAX) & 0xff;
	ENSURE(want_bits <= have_bits, ERR_INCOMPAT,
	       "the guest uses %u bits of physical address, this host has %u", want_bits,
	       have_bits);
	return NULL;
}

struct err *cpuid_check_all(int kvm, const struct cpuid_table *want, const struct findings *f)
{
	ENSURE(want->n <= CPUID_MAX, ERR_CORRUPT, "CPUID table of %u entries (at most %u)", want->n,
	       CPUID_MAX);
	SCOPE(freep) struct cpuid_table *have = calloc(1, sizeof(*have));
	ENSURE(have != NULL, ERR_SYS, "CPUID: out of memory");
	TRY(available(kvm, have));
	finding(f, "cpu", check_vendor(want, have));
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		check_word(&words[i], want, have, f);
	}
	finding(f, "cpu", check_width(want, have));
	return NULL;
}

struct err *cpuid_check(int kvm, const struct cpuid_table *want)
{
	struct err *first = NULL;
	struct err *e =
		cpuid_check_all(kvm, want, &(struct findings){ finding_keep_first, &first });
	return err_first(e, first);
}
