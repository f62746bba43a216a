/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Facts about this host that a snapshot records and a restore compares: TSC frequency, XSAVE
 * components, kind of KVM. Called by core while a machine is built; opens no file.
 */
#ifndef TORPOR_CORE_KVM_FACTS_H
#define TORPOR_CORE_KVM_FACTS_H

#include "core/kvm_vcpu.h"

struct kvm_facts {
	char cpu_model[49]; /* brand string, informative */
	uint32_t tsc_khz;   /* of the guest; 0 where KVM does not say */
	bool tsc_scaling;   /* KVM_CAP_TSC_CONTROL */
	bool software_kvm;
	uint64_t xcr0_mask; /* XSAVE components that KVM offers to guests */
};

/* v: any vCPU of the machine, not running. */
MUST_USE struct err *kvm_facts_read(struct kvm_vm *vm, struct kvm_vcpu *v,
				    struct kvm_facts *ret_facts);

#endif
