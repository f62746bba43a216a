/* SPDX-License-Identifier: Apache-2.0 */
/* Memory slots of others' memory. See kvm_slot.h. */
#include "core/kvm_slot.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

_Static_assert(GMEM_REGIONS_MAX <= KVM_SLOT_FIRST_FREE, "slots of guest RAM come first");

/* 4.35 of Linux Documentation/virt/kvm/api.rst. */
struct err *kvm_slot_set(struct kvm_vm *vm, unsigned slot, uint64_t gpa, uint64_t len_bytes,
			 void *host)
{
	BUG_ON(slot < KVM_SLOT_FIRST_FREE);
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.guest_phys_addr = gpa,
		.memory_size = len_bytes,
		.userspace_addr = (uint64_t)(uintptr_t)host,
	};
	if (ioctl(kvm_vm_fd(vm), KVM_SET_USER_MEMORY_REGION, &r) < 0) {
		return ERR_ERRNO("KVM_SET_USER_MEMORY_REGION of %llu bytes at 0x%llx",
				 (unsigned long long)len_bytes, (unsigned long long)gpa);
	}
	return NULL;
}
