/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All KVM parts of one VM: what this host can save, the list of parts. See kvm_state.h. Built and
 * freed by core on its VM thread.
 */
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/kvm_cap.h"
#include "core/kvm_state_internal.h"

/*
 * Park ranks as in part.h. Commit ranks: local APICs, then the IOAPIC that delivers into them, then
 * the PIT that ticks into the IOAPIC, then time.
 */
enum {
	COMMIT_VCPU = SNAP_RANK_VCPU,
	COMMIT_IRQCHIP = SNAP_RANK_VCPU + 20,
	COMMIT_PIT = SNAP_RANK_VCPU + 40,
	COMMIT_CLOCK = SNAP_RANK_CLOCK,
};

static struct err *find_host_facts(struct kvm_state *s)
{
	int kvm = kvm_vm_kvm(s->vm);
	int vm = kvm_vm_fd(s->vm);
	s->has_sregs2 = kvm_cap_value(kvm, KVM_CAP_SREGS2) != 0;
	s->has_payload = kvm_cap_value(vm, KVM_CAP_EXCEPTION_PAYLOAD) != 0;
	s->has_triple_fault = kvm_cap_value(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT) != 0;
	s->has_tsc_control = kvm_cap_value(kvm, KVM_CAP_TSC_CONTROL) != 0;
	s->has_kvmclock_ctrl = kvm_cap_value(kvm, KVM_CAP_KVMCLOCK_CTRL) != 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
	};
	s->has_tsc_offset = ioctl(kvm_vcpu_fd(s->vcpu[0].vcpu), KVM_HAS_DEVICE_ATTR, &attr) == 0;
	/* The VM's answer counts: dynamically enabled state (AMX) makes it grow. */
	int len = kvm_cap_value(vm, KVM_CAP_XSAVE2);
	s->xsave_len = MAX((uint32_t)len, (uint32_t)sizeof(struct kvm_xsave));
	ENSURE(s->xsave_len <= XSAVE_BYTES_MAX, ERR_LIMIT,
	       "this host's XSAVE area has %u bytes, more than %llu", s->xsave_len,
	       (unsigned long long)XSAVE_BYTES_MAX);
	return kvm_state_msr_find(s);
}

static void set_part(struct snap_part *p, const struct state_desc *desc, uint32_t instance,
		     int park_rank, int commit_rank, void *state, const struct snap_part_ops *ops,
		     void *self)
{
	*p = (struct snap_part){
		.name = desc->name,
		.instance = instance,
		.park_rank = park_rank,
		.commit_rank = commit_rank,
		.desc = desc,
		.state = state,
		.ops = ops,
		.self = self,
	};
}

struct err *kvm_state_new(struct kvm_vm *vm, struct kvm_vcpu *const *vcpus, unsigned n,
			  struct kvm_state **ret_state)
{
	BUG_ON(n < 1 || n > VCPUS_MAX);
	SCOPE(kvm_state_freep) struct kvm_state *s = calloc(1, sizeof(*s));
	ENSURE(s != NULL, ERR_SYS, "KVM state: out of memory");
	s->vm = vm;
	s->n = n;
	for (unsigned i = 0; i < n; i++) {
		s->vcpu[i] = (struct vcpu_part){ .all = s, .vcpu = vcpus[i], .index = i };
		s->vcpu[i].state = calloc(1, sizeof(*s->vcpu[i].state));
		ENSURE(s->vcpu[i].state != NULL, ERR_SYS, "KVM state: out of memory");
		set_part(&s->parts[i], &kvm_vcpu_desc, i, SNAP_RANK_VCPU, COMMIT_VCPU,
			 s->vcpu[i].state, &kvm_state_vcpu_ops, &s->vcpu[i]);
	}
	set_part(&s->parts[n], &kvm_irqchip_desc, 0, SNAP_RANK_IRQCHIP, COMMIT_IRQCHIP, &s->irqchip,
		 &kvm_state_irqchip_ops, s);
	set_part(&s->parts[n + 1], &kvm_pit_desc, 0, SNAP_RANK_IRQCHIP, COMMIT_PIT, &s->pit,
		 &kvm_state_pit_ops, s);
	set_part(&s->parts[n + 2], &kvm_clock_desc, 0, SNAP_RANK_CLOCK, COMMIT_CLOCK, &s->clock,
		 &kvm_state_clock_ops, s);
	TRY(find_host_facts(s));
	*ret_state = MOVE(s);
	return NULL;
}

void kvm_state_free(struct kvm_state *s)
{
	if (s == NULL) {
		return;
	}
	for (unsigned i = 0; i < s->n; i++) {
		free(s->vcpu[i].state);
	}
	free(s);
}

unsigned kvm_state_nparts(const struct kvm_state *s)
{
	return s->n + 3;
}

struct snap_part *kvm_state_part(struct kvm_state *s, unsigned i)
{
	BUG_ON(i >= kvm_state_nparts(s));
	return &s->parts[i];
}
