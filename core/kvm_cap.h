/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which KVM capabilities torpor asks for, which of them it cannot do without, and why. One table
 * serves kvm_open (refuses, naming what is missing) and `torpor doctor` (prints it). Any thread.
 */
#ifndef TORPOR_CORE_KVM_CAP_H
#define TORPOR_CORE_KVM_CAP_H

#include "core/base/err.h"

struct kvm_cap_info {
	const char *name; /* as in linux/kvm.h, without KVM_CAP_ */
	int number;
	bool required;
	const char *why; /* what torpor does with it; optional: what is lost without it */
};

/* NULL from n = count on. */
const struct kvm_cap_info *kvm_cap_at(unsigned i);
/* KVM_CHECK_EXTENSION: 0 is absent, else the capability's own value. vm_or_kvm: either kind of fd.
 */
int kvm_cap_value(int vm_or_kvm, int number);
/* ERR_INCOMPAT naming every required capability that this /dev/kvm lacks. */
MUST_USE struct err *kvm_cap_check(int kvm);

#endif
