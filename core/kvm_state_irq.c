/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parts "irqchip" (two PICs, IOAPIC) and "pit". Called by the take or the load while all vCPUs are
 * parked. Ioctls: 4.26, 4.27 (KVM_GET/SET_IRQCHIP) and 4.72, 4.73 (PIT2) of api.rst.
 *
 * Commit order: irqchip after the vCPUs, because setting the IOAPIC delivers what is pending in it
 * to the local APICs, which a later KVM_SET_LAPIC would wipe out; the PIT after the irqchip,
 * because it starts to tick at once.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

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
	X(irr) X(imr) X(isr) X(priority_add) X(irq_base) X(read_reg_select) X(poll)                \
		X(special_mask) X(init_state) X(auto_eoi) X(rotate_on_auto_eoi)                    \
			X(special_fully_nested_mode) X(init4) X(elcr) X(elcr_mask)

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
 * count_load_time is not among them: it is host time, and KVM counts from the moment of the load.
 * The phase of a running count is lost, at most one period.
 */
#define PIT_MEMBERS(X)                                                                             \
	X(count)                                                                                   \
	X(latched_count) X(count_latched) X(status_latched) X(status) X(read_state) X(write_state) \
		X(write_latch) X(rw_mode) X(mode) X(bcd) X(gate)

static struct err *pit_fetch(void *self)
{
	struct kvm_state *s = self;
	struct kvm_pit_state2 k;
	memset(&k, 0, sizeof(k));
	if (ioctl(kvm_vm_fd(s->vm), KVM_GET_PIT2, &k) < 0) {
		return ERR_ERRNO("KVM_GET_PIT2");
	}
	for (unsigned i = 0; i < 3; i++) {
#define X(m) s->pit.channel[i].m = k.channels[i].m;
		PIT_MEMBERS(X)
#undef X
	}
	s->pit.flags = k.flags;
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
	k.flags = s->pit.flags;
	if (ioctl(kvm_vm_fd(s->vm), KVM_SET_PIT2, &k) < 0) {
		return ERR_ERRNO("KVM_SET_PIT2");
	}
	return NULL;
}

const struct snap_part_ops kvm_state_pit_ops = {
	.fetch = pit_fetch,
	.commit = pit_commit,
};

struct err *kvm_state_pit_rearm(struct kvm_vm *vm)
{
	struct kvm_pit_state2 k;
	memset(&k, 0, sizeof(k));
	if (ioctl(kvm_vm_fd(vm), KVM_GET_PIT2, &k) < 0) {
		return ERR_ERRNO("KVM_GET_PIT2");
	}
	/* Modes 2 and 3 repeat; a one-shot that is over would fire a second time. */
	if (k.channels[0].mode != 2 && k.channels[0].mode != 3) {
		return NULL;
	}
	if (ioctl(kvm_vm_fd(vm), KVM_SET_PIT2, &k) < 0) {
		return ERR_ERRNO("KVM_SET_PIT2");
	}
	return NULL;
}
