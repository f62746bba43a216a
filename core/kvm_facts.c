/* SPDX-License-Identifier: Apache-2.0 */
/* Facts about the host. See kvm_facts.h. */
#include "core/kvm_facts.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/kvm_cap.h"

/* CPUID 0x80000002..4 (AMD APM 3, E.4.2; SDM 2A, CPUID): 48 bytes of text. */
static void brand_string(char out[49])
{
	unsigned top = __get_cpuid_max(0x80000000u, NULL);
	memset(out, 0, 49);
	if (top < 0x80000004u) {
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		uint32_t r[4];
		__cpuid(0x80000002u + i, r[0], r[1], r[2], r[3]);
		memcpy(out + (size_t)i * sizeof(r), r, sizeof(r));
	}
	size_t lead = strspn(out, " ");
	memmove(out, out + lead, 49 - lead);
}

/* CPUID 0xd.0 EDX:EAX of what KVM supports: the bits that XCR0 may have in a guest. */
static struct err *xcr0_mask(int kvm, uint64_t *ret_mask)
{
	SCOPE(freep)
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + CPUID_MAX * sizeof(t->entries[0]));
	ENSURE(t != NULL, ERR_SYS, "out of memory");
	t->nent = CPUID_MAX;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, t) < 0) {
		return ERR_ERRNO("KVM_GET_SUPPORTED_CPUID");
	}
	uint64_t mask = 0;
	for (uint32_t i = 0; i < t->nent; i++) {
		if (t->entries[i].function == 0xd && t->entries[i].index == 0) {
			mask = t->entries[i].eax | (uint64_t)t->entries[i].edx << 32;
		}
	}
	*ret_mask = mask;
	return NULL;
}

struct err *kvm_facts_read(struct kvm_vm *vm, struct kvm_vcpu *v, struct kvm_facts *ret_facts)
{
	struct kvm_facts f = { 0 };
	brand_string(f.cpu_model);
	TRY(xcr0_mask(kvm_vm_kvm(vm), &f.xcr0_mask));
	int khz = ioctl(kvm_vcpu_fd(v), KVM_GET_TSC_KHZ, 0);
	f.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	f.tsc_scaling = kvm_cap_value(kvm_vm_kvm(vm), KVM_CAP_TSC_CONTROL) > 0;
	f.software_kvm = kvm_is_software(kvm_vm_kvm(vm));
	*ret_facts = f;
	return NULL;
}
