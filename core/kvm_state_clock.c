/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest time: kvmclock, TSC and local timers, held when the vCPUs stop and set once when they go
 * on; and the part "clock". Called by core and the take or load while all vCPUs are parked.
 *
 * One instant for everything: KVM_GET_CLOCK gives kvmclock and, with the host's TSC as clock
 * source, the host TSC and wall time that belong to it. The guest TSC of every vCPU is stated for
 * that same instant, from one host reading, so vCPUs keep their distance from each other exactly
 * (Linux Documentation/virt/kvm/devices/vcpu.rst, 4.1).
 *
 * Setting, in this order: kvmclock; read back the instant it took; TSC offsets for that instant, so
 * that kvmclock and TSC keep their relation; then the local timers, because KVM turns a TSC
 * deadline into host time when it is written. Last the PIT, which starts its period afresh, without
 * the ticks that piled up.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "core/base/clock.h"
#include "core/kvm_state_internal.h"

enum {
	LVTT_MODE_SHIFT = 17, /* 0 one-shot, 1 periodic, 2 TSC deadline (SDM 3A 11.5.1) */
	LVTT_MODE_MASK = 3,
	LVTT_MODE_DEADLINE = 2,
};

/* KVM_GET_CLOCK; what the host does not give is read right behind it. */
static struct err *read_instant(struct kvm_state *s, struct kvm_clock_state *ret)
{
	TRY(kvm_vm_clock_get(s->vm, ret));
	if (ret->host_tsc == 0) {
		ret->host_tsc = __rdtsc();
	}
	if (ret->realtime_ns == 0) {
		ret->realtime_ns = clock_real_ns();
	}
	return NULL;
}

static struct err *offset_get(const struct vcpu_part *p, uint64_t *ret_offset)
{
	uint64_t offset = 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)&offset,
	};
	if (ioctl(kvm_vcpu_fd(p->vcpu), KVM_GET_DEVICE_ATTR, &attr) < 0) {
		return ERR_ERRNO("vCPU %u: reading the TSC offset", p->index);
	}
	*ret_offset = offset;
	return NULL;
}

static struct err *offset_set(const struct vcpu_part *p, uint64_t offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uint64_t)(uintptr_t)&offset,
	};
	if (ioctl(kvm_vcpu_fd(p->vcpu), KVM_SET_DEVICE_ATTR, &attr) < 0) {
		return ERR_ERRNO("vCPU %u: setting the TSC offset", p->index);
	}
	return NULL;
}

/* value * to / from without overflow in between; from is not 0. */
static uint64_t ratio(uint64_t value, uint64_t to, uint64_t from)
{
	return (uint64_t)((unsigned __int128)value * to / from);
}

/*
 * The host TSC at `host_tsc`, in guest cycles: what KVM's scaling makes of it. Without scaling it
 * is the same number, and that is proved rather than assumed: guest TSC less offset must then lie
 * between two readings around it.
 */
static struct err *scaled_host_tsc(const struct kvm_state *s, uint64_t host_tsc, uint64_t *ret)
{
	const struct vcpu_part *p = &s->vcpu[0];
	uint64_t offset = 0;
	TRY(offset_get(p, &offset));
	uint64_t before = __rdtsc();
	uint64_t guest;
	TRY(kvm_state_msr_get(p->vcpu, MSR_TSC, &guest));
	uint64_t after = __rdtsc();
	uint64_t scaled = guest - offset;
	if (scaled >= before && scaled <= after) {
		*ret = host_tsc;
	} else {
		*ret = ratio(scaled, host_tsc, before + (after - before) / 2);
	}
	return NULL;
}

/* Guest TSC of every vCPU at the instant of host_tsc. */
static struct err *read_tscs(struct kvm_state *s, uint64_t host_tsc)
{
	uint64_t scaled = 0;
	if (s->has_tsc_offset) {
		TRY(scaled_host_tsc(s, host_tsc, &scaled));
	}
	for (unsigned i = 0; i < s->n; i++) {
		const struct vcpu_part *p = &s->vcpu[i];
		if (s->has_tsc_offset) {
			uint64_t offset = 0;
			TRY(offset_get(p, &offset));
			s->clock.tsc[i] = scaled + offset;
			continue;
		}
		/* No attribute (before Linux 5.16): the value itself, moved back to the instant. */
		uint64_t guest;
		TRY(kvm_state_msr_get(p->vcpu, MSR_TSC, &guest));
		s->clock.tsc[i] = guest - (__rdtsc() - host_tsc);
	}
	return NULL;
}

static struct err *get_lapic(const struct vcpu_part *p, struct kvm_lapic_state *ret)
{
	if (ioctl(kvm_vcpu_fd(p->vcpu), KVM_GET_LAPIC, ret) < 0) {
		return ERR_ERRNO("vCPU %u: KVM_GET_LAPIC", p->index);
	}
	return NULL;
}

/* Host timers behind the local timers go on running: note where they stand now. */
static struct err *hold_timers(struct vcpu_part *p)
{
	struct kvm_lapic_state lapic;
	TRY(get_lapic(p, &lapic));
	memcpy(&p->tmcct, lapic.regs + LAPIC_TMCCT, sizeof(p->tmcct));
	/* Expired since the thread looked, right before it parked: an interrupt that KVM has not
	 * delivered and no ioctl shows. The last tick of the count brings it. */
	uint32_t seen = kvm_vcpu_timer_seen(p->vcpu);
	if (seen != 0 && (p->tmcct == 0 || p->tmcct > seen)) {
		p->tmcct = 1;
	}
	p->deadline = 0;
	struct err *e = kvm_state_msr_get(p->vcpu, MSR_TSC_DEADLINE, &p->deadline);
	if (e != NULL && err_class(e) == ERR_INCOMPAT) {
		err_drop(e, "a host without the TSC-deadline timer: none can be armed");
		e = NULL;
	}
	return e;
}

struct err *kvm_state_clock_hold(struct kvm_state *s)
{
	if (s->held != HELD_NO) {
		return NULL; /* guest time stands since the first hold */
	}
	struct kvm_clock_state now;
	TRY(read_instant(s, &now));
	s->clock.clock_ns = now.clock_ns;
	s->clock.realtime_ns = now.realtime_ns;
	s->clock.lag_ns = s->lag_ns;
	s->clock.ncpus = s->n;
	TRY(read_tscs(s, now.host_tsc));
	for (unsigned i = 0; i < s->n; i++) {
		TRY(hold_timers(&s->vcpu[i]));
	}
	s->held_mono_ns = clock_mono_ns();
	s->held = HELD_LIVE;
	return NULL;
}

/*
 * The counting local timer runs on from where it was held. The image is read anew, so interrupts
 * that arrived since stay; KVM starts its timer from the current count.
 */
static struct err *rearm_timers(struct vcpu_part *p)
{
	struct kvm_lapic_state lapic;
	TRY(get_lapic(p, &lapic));
	uint32_t lvtt;
	memcpy(&lvtt, lapic.regs + LAPIC_LVTT, sizeof(lvtt));
	if ((lvtt >> LVTT_MODE_SHIFT & LVTT_MODE_MASK) != LVTT_MODE_DEADLINE) {
		if (p->tmcct == 0) {
			return NULL;
		}
		memcpy(lapic.regs + LAPIC_TMCCT, &p->tmcct, sizeof(p->tmcct));
		if (ioctl(kvm_vcpu_fd(p->vcpu), KVM_SET_LAPIC, &lapic) < 0) {
			return ERR_ERRNO("vCPU %u: KVM_SET_LAPIC", p->index);
		}
		return NULL;
	}
	if (p->due == 0) {
		return NULL;
	}
	return kvm_state_msr_set(p->vcpu, MSR_TSC_DEADLINE, p->due);
}

/*
 * A software KVM takes a TSC and drops it: its guests read the host's. The deadline is an instant
 * on the TSC that the guest should have (`want` now); it moves to the one it has (`have` now), so
 * that the timer still fires when it is due. 0 stays: no timer is armed.
 */
static uint64_t move_deadline(uint64_t deadline, uint64_t want, uint64_t have)
{
	if (deadline == 0 || want == have) {
		return deadline;
	}
	return have + (deadline > want ? deadline - want : 0);
}

/* One vCPU's TSC: guest at the instant when the scaled host TSC is `scaled`. */
static struct err *set_tsc(struct vcpu_part *p, uint64_t guest, uint64_t scaled)
{
	TRY(offset_set(p, guest - scaled));
	uint64_t offset = 0;
	TRY(offset_get(p, &offset));
	p->due = move_deadline(p->deadline, guest, scaled + offset);
	return NULL;
}

/*
 * The same without the attribute (before Linux 5.16): by value. KVM joins vCPUs whose values are
 * within a second of each other into one TSC. What it made of the value is read back.
 */
static struct err *set_tsc_by_value(struct vcpu_part *p, uint64_t guest, uint64_t host_tsc,
				    uint64_t khz)
{
	TRY(kvm_state_msr_set(p->vcpu, MSR_TSC, guest + (__rdtsc() - host_tsc)));
	uint64_t have;
	TRY(kvm_state_msr_get(p->vcpu, MSR_TSC, &have));
	uint64_t want = guest + (__rdtsc() - host_tsc);
	bool taken = have - want + khz < 2 * khz; /* within a millisecond either way */
	p->due = move_deadline(p->deadline, want, taken ? want : have);
	return NULL;
}

/* Guest TSCs such that they were s->clock.tsc[] delta_ns before the instant of host_tsc. */
static struct err *set_tscs(struct kvm_state *s, uint64_t delta_ns, uint64_t host_tsc)
{
	uint64_t scaled = 0;
	if (s->has_tsc_offset) {
		TRY(scaled_host_tsc(s, host_tsc, &scaled));
	}
	for (unsigned i = 0; i < s->n; i++) {
		struct vcpu_part *p = &s->vcpu[i];
		int khz = ioctl(kvm_vcpu_fd(p->vcpu), KVM_GET_TSC_KHZ, 0);
		uint64_t rate = khz > 0 ? (uint64_t)khz : 0;
		uint64_t guest = s->clock.tsc[i] + ratio(delta_ns, rate, 1000000);
		if (s->has_tsc_offset) {
			TRY(set_tsc(p, guest, scaled));
		} else {
			TRY(set_tsc_by_value(p, guest, host_tsc, rate));
		}
	}
	return NULL;
}

/*
 * Tells a Linux guest that it was stopped, so that its watchdogs stay quiet. EINVAL: the guest does
 * not use kvmclock (4.70).
 */
static struct err *tell_stopped(const struct kvm_state *s, const struct vcpu_part *p)
{
	if (s->has_kvmclock_ctrl && ioctl(kvm_vcpu_fd(p->vcpu), KVM_KVMCLOCK_CTRL, 0) < 0 &&
	    errno != EINVAL) {
		return ERR_ERRNO("vCPU %u: KVM_KVMCLOCK_CTRL", p->index);
	}
	return NULL;
}

/* Where kvmclock goes on; moves the lag along. */
static uint64_t target_ns(struct kvm_state *s)
{
	uint64_t real = clock_real_ns();
	/* A host whose wall clock went back must not take the guest back with it. */
	uint64_t elapsed = real > s->clock.realtime_ns ? real - s->clock.realtime_ns : 0;
	if (s->held == HELD_LOADED && s->policy == CLOCK_JUMP) {
		uint64_t behind = s->clock.lag_ns;
		s->lag_ns = 0;
		return s->clock.clock_ns + elapsed + behind;
	}
	/* Before its start a guest has no idea of wall time that could fall behind. */
	s->lag_ns = s->clock.lag_ns + (s->started ? elapsed : 0);
	return s->clock.clock_ns;
}

struct err *kvm_state_clock_release(struct kvm_state *s, bool stopped_time_counts)
{
	if (s->held == HELD_NO) {
		return NULL;
	}
	if (s->held == HELD_LIVE && stopped_time_counts) {
		s->held = HELD_NO; /* KVM's clocks never stopped */
		return NULL;
	}
	TRY(kvm_vm_clock_set(s->vm, target_ns(s)));
	struct kvm_clock_state now;
	TRY(read_instant(s, &now));
	uint64_t delta_ns = now.clock_ns > s->clock.clock_ns ? now.clock_ns - s->clock.clock_ns : 0;
	TRY(set_tscs(s, delta_ns, now.host_tsc));
	if (s->held == HELD_LIVE && s->started) {
		/* Both ends are instants of which KVM gave both clocks. */
		s->stopped_ns += now.realtime_ns - s->clock.realtime_ns - delta_ns;
	}
	for (unsigned i = 0; i < s->n; i++) {
		TRY(rearm_timers(&s->vcpu[i]));
		TRY(tell_stopped(s, &s->vcpu[i]));
	}
	TRY(kvm_state_pit_release(s));
	s->held = HELD_NO;
	s->started = true;
	return NULL;
}

uint64_t kvm_state_clock_stopped_ns(const struct kvm_state *s)
{
	return s->stopped_ns;
}

bool kvm_state_clock_held(const struct kvm_state *s)
{
	return s->held != HELD_NO;
}

void kvm_state_set_clock_policy(struct kvm_state *s, enum clock_policy policy)
{
	s->policy = policy;
}

struct err *kvm_state_vm_time_ns(struct kvm_state *s, uint64_t *ret_ns)
{
	if (s->held != HELD_NO) {
		*ret_ns = s->clock.clock_ns;
		return NULL;
	}
	struct kvm_clock_state now;
	TRY(kvm_vm_clock_get(s->vm, &now));
	*ret_ns = now.clock_ns;
	return NULL;
}

/* The state is what was held. A reading made now would be later than the vCPUs stopped. */
static struct err *clock_fetch(void *self)
{
	struct kvm_state *s = self;
	ENSURE(s->held != HELD_NO, ERR_NOT_NOW, "the clock was not read when the vCPUs stopped");
	return NULL;
}

/* Nothing is set yet: time starts with kvm_state_clock_release, right before the vCPUs go on. */
static struct err *clock_commit(void *self)
{
	struct kvm_state *s = self;
	ENSURE(s->clock.ncpus == s->n, ERR_CORRUPT,
	       "the clock has the TSCs of %u vCPUs, the VM has %u", s->clock.ncpus, s->n);
	s->held = HELD_LOADED;
	s->started = true;
	return NULL;
}

static void clock_probe(void *self, const struct findings *f)
{
	finding(f, "clock", clock_commit(self));
}

const struct snap_part_ops kvm_state_clock_ops = {
	.fetch = clock_fetch,
	.commit = clock_commit,
	.probe = clock_probe,
};
