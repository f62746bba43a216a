/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts "irqchip" (two PICs, IOAPIC) and "pit". Called by the take or the load while all vCPUs are
 * parked. Ioctls: 4.26, 4.27 (KVM_GET/SET_IRQCHIP) and 4.72, 4.73 (PIT2) of api.rst.
 *
 * Commit order: irqchip after the vCPUs, because setting the IOAPIC delivers what is pending in it
 * to the local APICs, which a later KVM_SET_LAPIC would wipe out; the PIT after the irqchip that it
 * ticks into. It stands until time is released.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "core/base/clock.h"
#include "core/kvm_state_internal.h"

_Static_assert(IOAPIC_PINS == KVM_IOAPIC_NUM_PINS, "the IOAPIC has 24 pins");

static struct err *get_chip(const struct kvm_state *s, uint32_t id, struct kvm_irqchip *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->chip_id = id;
	if (ioctl(kvm_vm_fd(s->vm), KVM_GET_IRQCHIP, ret) < 0) {
		return ERR_ERRNO("KVM_GET_IRQCHIP %u", id);
	}
	return NULL;
}

static struct err *set_chip(const struct kvm_state *s, struct kvm_irqchip *chip)
{
	if (ioctl(kvm_vm_fd(s->vm), KVM_SET_IRQCHIP, chip) < 0) {
		return ERR_ERRNO("KVM_SET_IRQCHIP %u", chip->chip_id);
	}
	return NULL;
}

/* X(member): the same name on both sides. */
#define PIC_MEMBERS(X)                                                                             \
	X(last_irr)                                                                                \
	X(irr)                                                                                     \
	X(imr)                                                                                     \
	X(isr)                                                                                     \
	X(priority_add)                                                                            \
	X(irq_base) X(read_reg_select) X(poll) X(special_mask) X(init_state) X(auto_eoi)           \
		X(rotate_on_auto_eoi) X(special_fully_nested_mode) X(init4) X(elcr) X(elcr_mask)

static void pic_from_kvm(const struct kvm_pic_state *k, struct pic_state *ret)
{
#define X(m) ret->m = k->m;
	PIC_MEMBERS(X)
#undef X
}

static void pic_to_kvm(const struct pic_state *p, struct kvm_pic_state *ret)
{
#define X(m) ret->m = p->m;
	PIC_MEMBERS(X)
#undef X
}

static struct err *irqchip_fetch(void *self)
{
	struct kvm_state *s = self;
	struct kvm_irqchip_state *st = &s->irqchip;
	struct kvm_irqchip chip;
	TRY(get_chip(s, KVM_IRQCHIP_PIC_MASTER, &chip));
	pic_from_kvm(&chip.chip.pic, &st->master);
	TRY(get_chip(s, KVM_IRQCHIP_PIC_SLAVE, &chip));
	pic_from_kvm(&chip.chip.pic, &st->slave);
	TRY(get_chip(s, KVM_IRQCHIP_IOAPIC, &chip));
	const struct kvm_ioapic_state *io = &chip.chip.ioapic;
	st->ioapic_base = io->base_address;
	st->ioapic_ioregsel = io->ioregsel;
	st->ioapic_id = io->id;
	st->ioapic_irr = io->irr;
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		st->ioapic_redirect[i] = io->redirtbl[i].bits;
	}
	return NULL;
}

static struct err *irqchip_commit(void *self)
{
	struct kvm_state *s = self;
	const struct kvm_irqchip_state *st = &s->irqchip;
	struct kvm_irqchip chip;
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_PIC_MASTER;
	pic_to_kvm(&st->master, &chip.chip.pic);
	TRY(set_chip(s, &chip));
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	pic_to_kvm(&st->slave, &chip.chip.pic);
	TRY(set_chip(s, &chip));
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	struct kvm_ioapic_state *io = &chip.chip.ioapic;
	io->base_address = st->ioapic_base;
	io->ioregsel = st->ioapic_ioregsel;
	io->id = st->ioapic_id;
	io->irr = st->ioapic_irr;
	for (unsigned i = 0; i < IOAPIC_PINS; i++) {
		io->redirtbl[i].bits = st->ioapic_redirect[i];
	}
	return set_chip(s, &chip);
}

const struct snap_part_ops kvm_state_irqchip_ops = {
	.fetch = irqchip_fetch,
	.commit = irqchip_commit,
};

/*
 * count_load_time is not among them: it is host time (CLOCK_MONOTONIC), and the record has the time
 * since then. For channel 0 KVM keeps neither: a count under way begins anew, and a one-shot that
 * is over ticks once more, unless its tick still waits: nothing else tells it from one that
 * is not. While the vCPUs stand it counts in the host's time.
 */
#define PIT_MEMBERS(X)                                                                             \
	X(count)                                                                                   \
	X(latched_count)                                                                           \
	X(count_latched)                                                                           \
	X(status_latched)                                                                          \
	X(status) X(read_state) X(write_state) X(write_latch) X(rw_mode) X(mode) X(bcd) X(gate)

/*
 * With this flag KVM stops channel 0 and keeps its mode (it is meant for an HPET that takes the
 * PIT's place; torpor has none). It holds the PIT between a load and the release of time, so that
 * no tick comes before.
 */
#define PIT_STANDS ((uint32_t)KVM_PIT_FLAGS_HPET_LEGACY)

static struct err *pit_get(const struct kvm_state *s, struct kvm_pit_state2 *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ioctl(kvm_vm_fd(s->vm), KVM_GET_PIT2, ret) < 0) {
		return ERR_ERRNO("KVM_GET_PIT2");
	}
	return NULL;
}

static struct err *pit_set(const struct kvm_state *s, const struct kvm_pit_state2 *k)
{
	if (ioctl(kvm_vm_fd(s->vm), KVM_SET_PIT2, k) < 0) {
		return ERR_ERRNO("KVM_SET_PIT2");
	}
	return NULL;
}

static struct err *pit_fetch(void *self)
{
	struct kvm_state *s = self;
	struct kvm_pit_state2 k;
	TRY(pit_get(s, &k));
	for (unsigned i = 0; i < 3; i++) {
#define X(m) s->pit.channel[i].m = k.channels[i].m;
		PIT_MEMBERS(X)
#undef X
		if (s->held == HELD_LOADED) {
			continue; /* it stands where the loaded record says */
		}
		uint64_t now = s->held == HELD_LIVE ? s->held_mono_ns : clock_mono_ns();
		uint64_t loaded = (uint64_t)k.channels[i].count_load_time;
		bool known = i > 0 && k.channels[i].count_load_time > 0 && loaded <= now;
		s->pit.channel[i].elapsed_ns = known ? now - loaded : 0;
	}
	s->pit.flags = k.flags & ~PIT_STANDS;
	return NULL;
}

static struct err *pit_commit(void *self)
{
	struct kvm_state *s = self;
	struct kvm_pit_state2 k;
	memset(&k, 0, sizeof(k));
	for (unsigned i = 0; i < 3; i++) {
#define X(m) k.channels[i].m = s->pit.channel[i].m;
		PIT_MEMBERS(X)
#undef X
	}
	k.flags = s->pit.flags | PIT_STANDS;
	return pit_set(s, &k);
}

const struct snap_part_ops kvm_state_pit_ops = {
	.fetch = pit_fetch,
	.commit = pit_commit,
};

/* Where a channel's count began, on the host's clock, so that it goes on where it stood. */
static void pit_move(const struct kvm_state *s, struct kvm_pit_state2 *k)
{
	uint64_t now = clock_mono_ns();
	for (unsigned i = 1; i < 3; i++) {
		uint64_t began = (uint64_t)k->channels[i].count_load_time;
		if (s->held == HELD_LOADED) {
			began = now - MIN(now, s->pit.channel[i].elapsed_ns);
		} else if (began != 0 && began <= s->held_mono_ns) {
			began += now - s->held_mono_ns;
		}
		k->channels[i].count_load_time = (int64_t)began;
	}
}

/* The loaded one-shot is over for sure: its tick waits in the 8259 that delivers it. */
static bool tick_waits(const struct kvm_state *s)
{
	const struct pic_state *pic = &s->irqchip.master;
	return s->held == HELD_LOADED && (pic->irr & ~pic->imr & 1) != 0;
}

struct err *kvm_state_pit_release(const struct kvm_state *s)
{
	struct kvm_pit_state2 k;
	TRY(pit_get(s, &k));
	pit_move(s, &k);
	bool stands = (k.flags & PIT_STANDS) != 0;
	k.flags &= ~PIT_STANDS;
	/*
	 * Setting begins channel 0's count anew. In modes 2 and 3 that drops what piled up; a
	 * one-shot that is over would tick a second time, so it keeps the others from moving too.
	 */
	uint8_t mode = k.channels[0].mode;
	bool one_shot = mode == 0 || mode == 1 || mode == 4;
	if (!stands && one_shot) {
		return NULL;
	}
	if (one_shot && tick_waits(s)) {
		k.channels[0].mode = 5; /* counts as the other one-shots do, and KVM never ticks */
	}
	return pit_set(s, &k);
}
