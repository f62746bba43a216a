/* SPDX-License-Identifier: Apache-2.0 */
/* Required and optional KVM capabilities. See kvm_cap.h. Called by kvm_vm.c and doctor. */
#include "core/kvm_cap.h"

#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

/* Later than Debian 12's header. */
#ifndef KVM_CAP_X86_TRIPLE_FAULT_EVENT
#define KVM_CAP_X86_TRIPLE_FAULT_EVENT 218
#endif

#define CAP(cap, req, text)                                                                        \
	{                                                                                          \
		.name = #cap, .number = KVM_CAP_##cap, .required = (req), .why = (text)            \
	}

static const struct kvm_cap_info caps[] = {
	CAP(USER_MEMORY, true, "guest memory is this process's memory"),
	CAP(SYNC_MMU, true, "guest memory can change under KVM: reset, lazy restore, swap"),
	CAP(IRQCHIP, true, "PIC, IOAPIC and local APICs inside the kernel"),
	CAP(PIT2, true, "the timer that kernels calibrate with"),
	CAP(PIT_STATE2, true, "saving and loading that timer"),
	CAP(SET_TSS_ADDR, true, "real mode on Intel hosts needs three pages outside guest memory"),
	CAP(SET_IDENTITY_MAP_ADDR, true, "as SET_TSS_ADDR, one page"),
	CAP(EXT_CPUID, true, "CPUID of a guest is chosen, and a record of its snapshots"),
	CAP(MP_STATE, true, "a processor that is halted or not started is saved as such"),
	CAP(XSAVE, true, "saving the vector registers"),
	CAP(XCRS, true, "saving XCR0, which says which of them exist"),
	CAP(VCPU_EVENTS, true, "saving pending exceptions, interrupts and NMIs"),
	CAP(DEBUGREGS, true, "saving debug registers"),
	CAP(ADJUST_CLOCK, true, "kvmclock goes on where it stopped"),
	CAP(GET_TSC_KHZ, true, "a snapshot records how fast its TSC counts"),
	CAP(IMMEDIATE_EXIT, true, "vCPUs are parked without a lost wake-up"),
	CAP(SIGNAL_MSI, true, "interrupts of PCI devices"),
	CAP(IOEVENTFD_ANY_LENGTH, false, "without it each request to a virtio device stops a vCPU"),
	CAP(XSAVE2, false, "without it vector state beyond 4096 bytes (AMX) cannot be saved"),
	CAP(SREGS2, false, "without it PAE page-directory pointers are read again from memory"),
	CAP(GET_MSR_FEATURES, false, "without it feature MSRs are not compared at a restore"),
	CAP(VCPU_ATTRIBUTES, false, "without it the TSC is set by value, a microsecond less exact"),
	CAP(TSC_CONTROL, false,
	    "without it a snapshot from a host whose TSC has another rate is refused"),
	CAP(TSC_DEADLINE_TIMER, false, "without it guests use the slower counting timer"),
	CAP(KVMCLOCK_CTRL, false,
	    "without it a Linux guest may report a soft lockup after a restore"),
	CAP(EXCEPTION_PAYLOAD, false,
	    "without it a page fault about to be delivered is saved less exactly"),
	CAP(X86_TRIPLE_FAULT_EVENT, false,
	    "without it a triple fault about to end the guest is lost"),
	CAP(MANUAL_DIRTY_LOG_PROTECT2, false,
	    "without it taking a running VM costs a longer pause"),
};

const struct kvm_cap_info *kvm_cap_at(unsigned i)
{
	return i < ARRAY_LEN(caps) ? &caps[i] : NULL;
}

int kvm_cap_value(int vm_or_kvm, int number)
{
	int v = ioctl(vm_or_kvm, KVM_CHECK_EXTENSION, (unsigned long)(unsigned)number);
	return v > 0 ? v : 0;
}

struct err *kvm_cap_check(int kvm)
{
	char missing[512] = "";
	for (unsigned i = 0; i < ARRAY_LEN(caps); i++) {
		if (!caps[i].required || kvm_cap_value(kvm, caps[i].number) != 0) {
			continue;
		}
		size_t used = strlen(missing);
		snprintf(missing + used, sizeof(missing) - used, "%s%s (%s)", used > 0 ? ", " : "",
			 caps[i].name, caps[i].why);
	}
	ENSURE(missing[0] == '\0', ERR_INCOMPAT, "/dev/kvm lacks %s: a newer host kernel is needed",
	       missing);
	return NULL;
}
