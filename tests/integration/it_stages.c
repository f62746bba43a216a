/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Freestanding guests at their stages (tests/guest/free/stages*.c, lowmode.S): run to the stage,
 * take a snapshot, check in the stored record that the machine really stands there, destroy the
 * whole machine, build a new one from the snapshot, take again before anything runs, compare every
 * part field by field and the memory, then let the guest run on to its own assertion. Then the
 * guest from the start once more, but only suspended at its stages, in the same machine.
 *
 * Usage: it_stages GUEST_DIR [STAGE]. Exit 77 without /dev/kvm. A stage that this host's KVM cannot
 * bring about is told with the reason and counted as skipped.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/jail.h"
#include "core/kvm_cap.h"
#include "devices/battery.h"
#include "tests/lib/stage_vm.h"
#include "tests/lib/tmp_root.h"

struct stage;
struct run {
	const struct stage *s;
	struct vm vm;
	unsigned hold;
	char ref[128]; /* the first take at this hold */
	size_t nparts;
	int pipe_out; /* of the guest's serial input; -1: none */
};

struct stage {
	const char *name;
	unsigned ncpus;
	unsigned holds;     /* how many times the guest stands at a hold; 0: it only says that it is
			       done */
	unsigned wait_ms;   /* after the guest's word, until it is where it says */
	unsigned late_ms;   /* between the park and the reading of the clock */
	unsigned frozen_ms; /* between that and the take */
	unsigned away_ms;   /* after the load, before anything runs */
	struct err *(*before)(struct run *r); /* before the freeze */
	struct err *(*away)(struct run *r);   /* while nothing runs */
	struct err *(*check)(struct run *r);  /* the saved record */
	struct err *(*end)(struct run *r);    /* after the guest was done */
	const char *guest;                    /* default: stages.pvh */
	uint64_t mem_bytes;                   /* default: 32 MiB */
	bool input;                           /* the guest has serial input */
	bool battery;
	unsigned stop_sink, stop_feed;
};

/* ---- what must be in the saved record ---- */

#define WANT(cond, fmt, ...) ENSURE(cond, ERR_GUEST, "not at its stage: " fmt, __VA_ARGS__)

static struct err *saved_vcpu(struct run *r, unsigned i, struct kvm_vcpu_state **ret)
{
	void *p = NULL;
	TRY(vm_saved(r->ref, "vcpu", i, &p));
	*ret = p;
	return NULL;
}

static uint32_t lapic_reg(const struct kvm_vcpu_state *v, unsigned reg)
{
	return get_le32(v->lapic + reg);
}

static bool lapic_bit(const struct kvm_vcpu_state *v, unsigned reg, unsigned vec)
{
	return (lapic_reg(v, reg + vec / 32 * 0x10) >> (vec % 32) & 1) != 0;
}

enum { ISR = LAPIC_ISR, IRR = 0x200, TPR = LAPIC_TPR };
enum { VEC_TIMER = 0x40, VEC_SELF = 0x51, VEC_LEVEL = 0x58 };

/*
 * A software KVM ends an interrupt the moment it delivers it, so none is ever in service. The guest
 * finds the same and asks to be counted as skipped after all else held.
 */
static bool no_service(const struct kvm_vcpu_state *v)
{
	for (unsigned vec = 0; vec < 256; vec++) {
		if (lapic_bit(v, ISR, vec)) {
			return false;
		}
	}
	return kvm_is_software(stage_env.kvm_fd);
}

static struct err *check_counting(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	uint32_t left = lapic_reg(v, LAPIC_TMCCT);
	WANT(left != 0, "the local timer stands at %u", left);
	return NULL;
}

static struct err *check_periodic(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((lapic_reg(v, LAPIC_LVTT) >> 17 & 3) == 1, "LVTT is 0x%x", lapic_reg(v, LAPIC_LVTT));
	return check_counting(r);
}

static struct err *check_deadline(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(v->tsc_deadline != 0, "deadline %llu", (unsigned long long)v->tsc_deadline);
	return NULL;
}

static struct err *check_pending(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	SCOPE(freep) void *p = NULL;
	TRY(saved_vcpu(r, 0, &v));
	TRY(vm_saved(r->ref, "irqchip", 0, &p));
	const struct kvm_irqchip_state *c = p;
	WANT(lapic_bit(v, IRR, VEC_SELF), "IRR 0x%x", lapic_reg(v, IRR + VEC_SELF / 32 * 0x10));
	WANT((c->master.irr & 1) != 0, "the 8259 has IRR 0x%x", c->master.irr);
	return NULL;
}

static struct err *check_halted(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(v->mp_state == KVM_MP_STATE_HALTED, "mp_state is %u, not halted", v->mp_state);
	return NULL;
}

static struct err *check_halted_if0(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->regs.rflags & 0x200) == 0 && lapic_bit(v, IRR, VEC_SELF), "rflags 0x%llx",
	     (unsigned long long)v->regs.rflags);
	return check_halted(r);
}

static struct err *check_handler(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(lapic_bit(v, IRR, VEC_TIMER), "IRR 0x%x", lapic_reg(v, IRR + 0x20));
	WANT(lapic_bit(v, ISR, VEC_TIMER) || no_service(v), "ISR 0x%x", lapic_reg(v, ISR + 0x20));
	return NULL;
}

static struct err *check_nested(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	if (no_service(v)) {
		return NULL;
	}
	WANT(lapic_bit(v, ISR, VEC_TIMER) && lapic_bit(v, ISR, 0x61), "ISR 0x%x and 0x%x",
	     lapic_reg(v, ISR + 0x20), lapic_reg(v, ISR + 0x30));
	return NULL;
}

static struct err *check_nmi(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(v->events.nmi_pending == 1 && v->events.nmi_masked == 1, "pending %u, masked %u",
	     v->events.nmi_pending, v->events.nmi_masked);
	return NULL;
}

static struct err *check_fault(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	const struct vcpu_events_state *e = &v->events;
	WANT((e->exception_pending || e->exception_injected) && e->exception_nr == 14,
	     "exception %u, pending %u, injected %u", e->exception_nr, e->exception_pending,
	     e->exception_injected);
	return NULL;
}

/* The saved PIT's channel, which must be in the mode. */
static struct err *pit_mode(struct run *r, unsigned channel, unsigned mode)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "pit", 0, &p));
	const struct pit_channel_state *c = &((struct kvm_pit_saved *)p)->channel[channel];
	WANT(c->mode == mode && c->count > 1000, "mode %u, count %u", c->mode, c->count);
	WANT(channel != 2 || (c->gate == 1 && c->count_latched != 0), "gate %u, latched %u",
	     c->gate, c->count_latched);
	return NULL;
}

static struct err *check_pit0(struct run *r)
{
	return pit_mode(r, 0, 0);
}

static struct err *check_pit2(struct run *r)
{
	return pit_mode(r, 0, 2);
}

static struct err *check_pit3(struct run *r)
{
	return pit_mode(r, 0, 3);
}

static struct err *check_gate(struct run *r)
{
	return pit_mode(r, 2, 0);
}

static struct err *check_pic(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "irqchip", 0, &p));
	const struct kvm_irqchip_state *c = p;
	WANT(c->master.isr == 1 && c->master.elcr == 0x20 && c->slave.elcr == 8,
	     "ISR 0x%x, ELCR 0x%x", c->master.isr, c->master.elcr);
	return NULL;
}

/* The pin's line is up and the IOAPIC waits for an EOI. */
static struct err *remote_irr(struct run *r, unsigned pin)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "irqchip", 0, &p));
	const struct kvm_irqchip_state *c = p;
	WANT((c->ioapic_redirect[pin] & 0x4000) != 0 && (c->ioapic_irr >> pin & 1) != 0,
	     "entry 0x%llx, lines 0x%x", (unsigned long long)c->ioapic_redirect[pin],
	     c->ioapic_irr);
	return NULL;
}

static struct err *check_level(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	SCOPE(freep) void *p = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(lapic_bit(v, ISR, VEC_LEVEL) || no_service(v), "ISR 0x%x", lapic_reg(v, ISR + 0x20));
	TRY(vm_saved(r->ref, "rtc", 0, &p));
	WANT((((struct rtc_state *)p)->reg_c & 0xc0) == 0xc0, "RTC C 0x%x",
	     ((struct rtc_state *)p)->reg_c);
	return remote_irr(r, 8);
}

static struct err *check_sci(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	SCOPE(freep) void *p = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(lapic_bit(v, IRR, VEC_LEVEL), "IRR 0x%x", lapic_reg(v, IRR + 0x20));
	TRY(vm_saved(r->ref, "acpi_pm", 0, &p));
	WANT((((struct acpi_pm_state *)p)->pm1_sts & 0x100) != 0, "PM1 status 0x%x",
	     ((struct acpi_pm_state *)p)->pm1_sts);
	return remote_irr(r, 9);
}

enum { GPE_OFF = 37, GPE_ON = 200 }; /* as in stages_acpi.c */

static struct err *saved_pm(struct run *r, struct acpi_pm_state *ret)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "acpi_pm", 0, &p));
	memcpy(ret, p, sizeof(*ret));
	return NULL;
}

static struct err *check_sleepbtn(struct run *r)
{
	struct acpi_pm_state st;
	TRY(saved_pm(r, &st));
	WANT(st.pm1_sts == 0x200 && st.pm1_en == 0x200, "PM1 0x%x, 0x%x", st.pm1_sts, st.pm1_en);
	return remote_irr(r, 9);
}

static struct err *check_gpe(struct run *r)
{
	struct acpi_pm_state st;
	TRY(saved_pm(r, &st));
	WANT((st.gpe_sts[GPE_ON / 8] & st.gpe_en[GPE_ON / 8]) == 1 << GPE_ON % 8, "GPE 0x%x, 0x%x",
	     st.gpe_sts[GPE_ON / 8], st.gpe_en[GPE_ON / 8]);
	return remote_irr(r, 9);
}

static struct err *check_gpe_off(struct run *r)
{
	struct acpi_pm_state st;
	TRY(saved_pm(r, &st));
	WANT(st.gpe_sts[GPE_OFF / 8] == 1 << GPE_OFF % 8 && st.gpe_en[GPE_OFF / 8] == 0,
	     "GPE 0x%x, 0x%x", st.gpe_sts[GPE_OFF / 8], st.gpe_en[GPE_OFF / 8]);
	return NULL;
}

static struct err *check_sci_service(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(lapic_bit(v, ISR, VEC_LEVEL) || no_service(v), "ISR 0x%x", lapic_reg(v, ISR + 0x20));
	struct acpi_pm_state st;
	TRY(saved_pm(r, &st));
	WANT((st.pm1_sts & st.pm1_en) == 0x400, "PM1 0x%x, 0x%x", st.pm1_sts, st.pm1_en);
	return NULL;
}

static struct err *check_alarm_set(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "rtc", 0, &p));
	const struct rtc_state *st = p;
	WANT((st->reg_b & 0x20) != 0 && (st->reg_c & 0x20) == 0, "B 0x%x, C 0x%x", st->reg_b,
	     st->reg_c);
	return NULL;
}

static struct err *check_battery(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "battery", 0, &p));
	const struct battery_state *st = p;
	WANT(st->capacity == 42 && st->int_status == 3 && st->line, "capacity %u, changes %u",
	     st->capacity, st->int_status);
	return NULL;
}

static struct err *check_x2apic(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->sregs.apic_base & 0xc00) == 0xc00, "APIC base 0x%llx",
	     (unsigned long long)v->sregs.apic_base);
	WANT(lapic_bit(v, IRR, VEC_SELF), "IRR 0x%x", lapic_reg(v, IRR + 0x20));
	return check_counting(r);
}

static struct err *check_xapic(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->sregs.apic_base & 0xc00) == 0x800, "APIC base 0x%llx",
	     (unsigned long long)v->sregs.apic_base);
	WANT(lapic_bit(v, IRR, VEC_SELF) && v->sregs.cr8 == 6 && lapic_reg(v, TPR) == 0x65,
	     "CR8 %llu, TPR 0x%x", (unsigned long long)v->sregs.cr8, lapic_reg(v, TPR));
	return NULL;
}

static struct err *check_alarm(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "rtc", 0, &p));
	const struct rtc_state *st = p;
	WANT((st->reg_b & 0x20) != 0 && (st->reg_c & 0x20) == 0 && st->index == 0x40,
	     "B 0x%x, C 0x%x, index 0x%x", st->reg_b, st->reg_c, st->index);
	return NULL;
}

static struct err *check_kvmclock(struct run *r)
{
	uint64_t gpa;
	TRY(vm_clock_gpa(&r->vm, &gpa));
	WANT(gpa != 0, "kvmclock at 0x%llx", (unsigned long long)gpa);
	return NULL;
}

static struct err *check_break(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->debug.dr7 & 0xd0001) == 0xd0001 && v->debug.db[0] != 0, "DR7 0x%llx",
	     (unsigned long long)v->debug.dr7);
	return NULL;
}

static struct err *check_running(struct run *r)
{
	for (unsigned i = 0; i < r->s->ncpus; i++) {
		SCOPE(freep) struct kvm_vcpu_state *v = NULL;
		TRY(saved_vcpu(r, i, &v));
		WANT(v->mp_state == KVM_MP_STATE_RUNNABLE, "vCPU %u has mp_state %u", i,
		     v->mp_state);
	}
	return NULL;
}

static struct err *check_init(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 1, &v));
	WANT(v->mp_state == KVM_MP_STATE_INIT_RECEIVED, "mp_state is %u", v->mp_state);
	return NULL;
}

static struct err *check_waiting(struct run *r)
{
	for (unsigned i = 1; i < r->s->ncpus; i++) {
		SCOPE(freep) struct kvm_vcpu_state *v = NULL;
		TRY(saved_vcpu(r, i, &v));
		WANT(v->mp_state == KVM_MP_STATE_UNINITIALIZED, "vCPU %u has mp_state %u", i,
		     v->mp_state);
	}
	return NULL;
}

static struct err *check_ap(struct run *r)
{
	return r->hold == 1 ? check_waiting(r) : check_running(r);
}

/* In the midst of a string instruction of at most n rounds. */
static struct err *in_string(struct run *r, uint64_t n)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT(v->regs.rcx > 0 && v->regs.rcx < n, "%llu rounds of %llu are left",
	     (unsigned long long)v->regs.rcx, (unsigned long long)n);
	return NULL;
}

static struct err *check_outs(struct run *r)
{
	return in_string(r, 64);
}

static struct err *check_ins(struct run *r)
{
	return in_string(r, 3000);
}

static struct err *check_input(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "serial", 0, &p));
	const struct serial_state *st = p;
	WANT(st->rx_count == 3, "%u bytes in the receive FIFO", st->rx_count);
	return NULL;
}

static struct err *check_prot32(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->sregs.cr0 & 0x80000001) == 1 && v->sregs.efer == 0 && v->sregs.cs.db == 1,
	     "CR0 0x%llx", (unsigned long long)v->sregs.cr0);
	return NULL;
}

static struct err *check_real16(struct run *r)
{
	SCOPE(freep) struct kvm_vcpu_state *v = NULL;
	TRY(saved_vcpu(r, 0, &v));
	WANT((v->sregs.cr0 & 0x80000001) == 0 && v->sregs.es.base == 0x23450,
	     "CR0 0x%llx, ES base 0x%llx", (unsigned long long)v->sregs.cr0,
	     (unsigned long long)v->sregs.es.base);
	return NULL;
}

static struct err *check_serial(struct run *r)
{
	SCOPE(freep) void *p = NULL;
	TRY(vm_saved(r->ref, "serial", 0, &p));
	const struct serial_state *st = p;
	WANT(st->ier == 2 && st->thre_pending, "IER 0x%x", st->ier);
	return NULL;
}

/* ---- what the harness does at a stage ---- */

static struct device *pm(struct run *r)
{
	return machine_device(r->vm.machine, "acpi_pm");
}

static struct err *press_power(struct run *r)
{
	acpi_pm_powerbtn(pm(r));
	return vm_run_ms(&r->vm, 20);
}

static struct err *press_sleep(struct run *r)
{
	acpi_pm_sleepbtn(pm(r));
	return vm_run_ms(&r->vm, 20);
}

static struct err *gpe_on(struct run *r)
{
	TRY(acpi_pm_gpe(pm(r), GPE_ON, -1));
	return vm_run_ms(&r->vm, 20);
}

static struct err *gpe_off(struct run *r)
{
	TRY(acpi_pm_gpe(pm(r), GPE_OFF, -1));
	return vm_run_ms(&r->vm, 20);
}

/* Held for a while, then its clear event fires. */
static struct err *gpe_held(struct run *r)
{
	SCOPE(fd_close) struct fd fd = { eventfd(0, EFD_CLOEXEC) };
	ENSURE(fd.n >= 0, ERR_SYS, "eventfd");
	TRY(acpi_pm_gpe(pm(r), GPE_ON, dup(fd.n)));
	TRY(vm_run_ms(&r->vm, 50));
	uint64_t one = 1;
	TRY(io_write_full(fd.n, &one, sizeof(one)));
	return vm_run_ms(&r->vm, 50);
}

static struct err *set_battery(struct run *r)
{
	struct device *dev = machine_device(r->vm.machine, "battery");
	TRY(battery_set(dev, BATTERY_CAPACITY, 42));
	TRY(battery_set(dev, BATTERY_AC_ONLINE, 0));
	TRY(battery_set(dev, BATTERY_HEALTH, 2));
	TRY(battery_set(dev, BATTERY_STATUS, 2));
	return vm_run_ms(&r->vm, 20);
}

static struct err *type(struct run *r, const char *text)
{
	ENSURE(write(r->pipe_out, text, strlen(text)) == (ssize_t)strlen(text), ERR_SYS,
	       "writing to the serial input");
	return NULL;
}

static struct err *type_before(struct run *r)
{
	TRY(type(r, "abc"));
	return vm_run_ms(&r->vm, 50);
}

static struct err *type_away(struct run *r)
{
	return type(r, "def");
}

static struct err *end_serial(struct run *r)
{
	/* Half the line before the snapshot, half after: all of it, once, in order. */
	char buf[4096] = "";
	(void)r;
	ENSURE(pread(stage_env.serial_out, buf, sizeof(buf) - 1, 0) > 0 &&
		       strstr(buf, "serial:abcdefghijklmnopqrstuvwxyz0123456789\n") != NULL,
	       ERR_GUEST, "the serial line is not whole");
	return NULL;
}

static struct err *end_outs(struct run *r)
{
	(void)r;
	return vm_sink_check(64);
}

static struct err *end_mmio(struct run *r)
{
	(void)r;
	return vm_mmio_check();
}

/* ---- the stages ---- */

static const struct stage stages[] = {
	{ "timer", 1, 1, .check = check_counting },
	{ "pending", 1, 1, .check = check_pending },
	{ "halted", 1, 1, .wait_ms = 50, .check = check_halted },
	{ "avx", 1, 1 },
	{ "handler", 1, 1, .check = check_handler },
	{ "serial", 1, 1, .check = check_serial, .end = end_serial },
	{ "ap", 2, 2, .check = check_ap },
	{ "deadline", 1, 1, .check = check_deadline },
	{ "registers", 1, 1 },
	{ "nested", 1, 1, .check = check_nested },
	{ "nmi", 1, 1, .check = check_nmi },
	{ "fault", 1, 1, .check = check_fault },
	{ "periodic", 1, 1, .check = check_periodic },
	{ "frozen", 1, 1, .frozen_ms = 200, .check = check_counting },
	{ "late", 1, 12, .late_ms = 3 },
	{ "pit0", 1, 1, .away_ms = 150, .check = check_pit0 },
	{ "pit0-over", 1, 1, .away_ms = 50, .check = check_pit0 },
	{ "pit2", 1, 1, .away_ms = 100, .check = check_pit2 },
	{ "pit3", 1, 1, .away_ms = 100, .check = check_pit3 },
	{ "gate", 1, 1, .check = check_gate },
	{ "pic", 1, 1, .check = check_pic },
	{ "level", 1, 1, .check = check_level },
	{ "sci", 1, 1, .before = press_power, .check = check_sci },
	{ "x2apic", 1, 1, .check = check_x2apic },
	{ "xapic", 1, 1, .check = check_xapic },
	{ "alarm", 1, 1, .check = check_alarm },
	{ "sleepbtn", 1, 1, .before = press_sleep, .check = check_sleepbtn },
	{ "gpe", 1, 1, .before = gpe_on, .check = check_gpe },
	{ "gpe-off", 1, 1, .before = gpe_off, .check = check_gpe_off },
	{ "gpe-held", 1, 1, .before = gpe_held },
	{ "sci-service", 1, 1, .check = check_sci_service },
	{ "rtc-sci", 1, 1, .check = check_alarm_set },
	{ "battery", 1, 1, .before = set_battery, .check = check_battery, .battery = true },
	{ "kvmclock", 1, 1, .away_ms = 2000, .check = check_kvmclock },
	{ "msrs", 1, 1 },
	{ "break", 1, 1, .check = check_break },
	{ "fpu", 1, 1 },
	{ "cr3", 1, 1 },
	{ "outs", 1, 1, .stop_sink = 20, .check = check_outs, .end = end_outs },
	{ "ins", 1, 1, .stop_feed = 20, .check = check_ins },
	{ "pio", 1, 1, .wait_ms = 5 },
	{ "mmio", 1, 1, .wait_ms = 5, .end = end_mmio },
	{ "bigmem", 1, 1, .mem_bytes = 3 * GIB + 64 * MIB },
	{ "input", 1, 1, .input = true, .before = type_before, .away = type_away,
	  .check = check_input },
	{ "barrier2", 2, 1, .wait_ms = 5, .check = check_running },
	{ "barrier4", 4, 1, .wait_ms = 5, .check = check_running },
	{ "init", 2, 2, .check = check_init },
	{ "hlt-if0", 2, 1, .check = check_halted_if0 },
	{ "alone", 64, 1, .check = check_waiting },
	{ "prot32", 1, 1, .check = check_prot32, .guest = "lowmode.pvh" },
	{ "real16", 1, 1, .check = check_real16, .guest = "lowmode.pvh" },
};

/* ---- one stage ---- */

static struct err *take(struct run *r, const char *suffix, char *ret_ref, size_t len)
{
	char tag[32];
	snprintf(tag, sizeof(tag), "s%u-%s", r->hold, suffix);
	snprintf(ret_ref, len, "%s@%s", stage_env.config.name, tag);
	return vm_take(&r->vm, tag);
}

static struct err *to_hold(struct run *r, unsigned hold)
{
	const struct stage *s = r->s;
	r->hold = hold;
	TRY(vm_run_to(&r->vm, hold));
	if (vm_skipped(&r->vm)) {
		return NULL;
	}
	sleep_ms(s->wait_ms);
	if (s->before != NULL) {
		TRY(s->before(r));
	}
	TRY(err_wrap(vm_freeze(&r->vm, s->late_ms), "freeze"));
	sleep_ms(s->frozen_ms);
	return NULL;
}

/* Saved, destroyed, built anew from the snapshot, saved again, compared, let go. */
static struct err *cycle_restore(struct run *r)
{
	const struct stage *s = r->s;
	char ref_b[128];
	TRY(err_wrap(take(r, "a", r->ref, sizeof(r->ref)), "first take"));
	if (s->check != NULL) {
		TRY(s->check(r));
	}
	vm_destroy(&r->vm);
	if (s->away != NULL) {
		TRY(s->away(r));
	}
	TRY(err_wrap(vm_load(&r->vm, r->ref, r->hold), "load"));
	sleep_ms(s->away_ms);
	/* Before the vCPU threads exist: their first entry makes KVM write its clock page. */
	TRY(err_wrap(take(r, "b", ref_b, sizeof(ref_b)), "second take"));
	uint64_t clock_gpa;
	TRY(vm_clock_gpa(&r->vm, &clock_gpa));
	TRY(err_wrap(vm_compare(r->ref, ref_b, clock_gpa, &r->nparts),
		     "hold %u, saved and saved again", r->hold));
	TRY(err_wrap(machine_start(r->vm.machine), "start"));
	return vm_go(&r->vm);
}

/* The same machine goes on. */
static struct err *cycle_suspend(struct run *r)
{
	if (r->s->away != NULL) {
		TRY(r->s->away(r));
	}
	sleep_ms(r->s->away_ms);
	vm_let_go(&r->vm, r->hold);
	return vm_go(&r->vm);
}

static struct err *stage_run(struct run *r, bool restore)
{
	TRY(vm_boot(&r->vm));
	TRY(machine_start(r->vm.machine));
	TRY(vm_go(&r->vm));
	for (unsigned hold = 1; hold <= r->s->holds; hold++) {
		TRY(to_hold(r, hold));
		if (vm_skipped(&r->vm)) {
			return NULL;
		}
		TRY(restore ? cycle_restore(r) : cycle_suspend(r));
	}
	TRY(err_wrap(vm_run_to(&r->vm, SYNC_DONE), "running on"));
	if (!vm_skipped(&r->vm) && r->s->end != NULL) {
		return r->s->end(r);
	}
	return NULL;
}

static void show_serial(void)
{
	char buf[4096];
	ssize_t n = pread(stage_env.serial_out, buf, sizeof(buf) - 1, 0);

	if (n > 0) {
		buf[n] = '\0';
		fprintf(stderr, "--- console\n%s---\n", buf);
	}
}

static struct err *set_config(const struct stage *s, const char *mode)
{
	struct config *c = &stage_env.config;
	char text[128];

	snprintf(c->name, sizeof(c->name), "%s-%s", s->name, mode);
	memset(c->uuid, 0, sizeof(c->uuid));
	memcpy(c->uuid, c->name, MIN(strlen(c->name), sizeof(c->uuid)));
	c->uuid[6] = 0x40;
	c->uuid[8] = 0x80;
	memcpy(c->family, c->uuid, sizeof(c->family));
	c->ncpus = s->ncpus;
	c->battery = s->battery;
	c->mem_bytes = s->mem_bytes != 0 ? s->mem_bytes : 32 * MIB;
	snprintf(c->cpu_model, sizeof(c->cpu_model), "host");
	free(c->cmdline);
	free(c->kernel_name);
	snprintf(text, sizeof(text), "stage=%s ncpus=%u softkvm=%d", s->name, s->ncpus,
		 kvm_is_software(stage_env.kvm_fd));
	c->cmdline = strdup(text);
	c->kernel_name = strdup("stages.pvh");
	ENSURE(c->cmdline != NULL && c->kernel_name != NULL, ERR_SYS, "out of memory");
	return NULL;
}

static struct err *set_up(struct run *r, const char *guest_dir, const char *mode)
{
	const struct stage *s = r->s;
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", guest_dir, s->guest ? s->guest : "stages.pvh");
	stage_env.kernel_fd = open(path, O_RDONLY | O_CLOEXEC);
	ENSURE(stage_env.kernel_fd >= 0, ERR_SYS, "no guest %s: build the target 'guests'", path);
	stage_env.serial_out = memfd_create("serial", MFD_CLOEXEC);
	ENSURE(stage_env.serial_out >= 0, ERR_SYS, "memfd_create");
	if (s->input) {
		int p[2];
		ENSURE(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0, ERR_SYS, "pipe");
		stage_env.serial_in = p[0];
		r->pipe_out = p[1];
	}
	stage_env.stop_sink = s->stop_sink;
	stage_env.stop_feed = s->stop_feed;
	return set_config(s, mode);
}

static void close_one(int *fd)
{
	if (*fd >= 0) {
		close(*fd);
	}
	*fd = -1;
}

enum outcome { OK, FAILED, SKIPPED };

static enum outcome stage_test(const struct stage *s, const char *guest_dir, bool restore)
{
	const char *mode = restore ? "restore" : "suspend";
	struct run r = { .s = s, .pipe_out = -1 };
	struct err *e = set_up(&r, guest_dir, mode);
	enum outcome out = OK;

	if (e == NULL) {
		e = stage_run(&r, restore);
	}
	if (e != NULL) {
		out = FAILED;
		printf("FAILED  %s %-10s %s\n", mode, s->name, err_msg(e));
	} else if (vm_skipped(&r.vm)) {
		out = SKIPPED;
	}
	vm_destroy(&r.vm);
	if (out == SKIPPED) {
		char buf[4096] = "";
		ssize_t n = pread(stage_env.serial_out, buf, sizeof(buf) - 1, 0);
		const char *why = n > 0 ? strstr(buf, "skip: ") : NULL;
		printf("skipped %s %-10s %.*s\n", mode, s->name,
		       why != NULL ? (int)strcspn(why + 6, "\n") : 9,
		       why != NULL ? why + 6 : "no reason");
	} else if (out == OK && restore) {
		printf("ok      %s %-10s %zu parts equal\n", mode, s->name, r.nparts);
	} else if (out == OK) {
		printf("ok      %s %s\n", mode, s->name);
	}
	fflush(stdout);
	if (out == FAILED) {
		show_serial();
	}
	err_free(e);
	close_one(&stage_env.serial_out);
	close_one(&stage_env.serial_in);
	close_one(&stage_env.kernel_fd);
	close_one(&r.pipe_out);
	return out;
}

/* Stages that need what a host may not have at all. */
static unsigned absent(void)
{
	printf("skipped restore %-10s %s\n", "smm",
	       kvm_cap_value(stage_env.kvm_fd, KVM_CAP_X86_SMM) != 0
		       ? "torpor gives guests no system-management mode"
		       : "this KVM has no system-management mode, and torpor gives guests none");
	return 1;
}

int main(int argc, char **argv)
{
	unsigned count[3] = { 0 };
	char store_path[128], command[160];

	if (argc < 2) {
		fprintf(stderr, "usage: it_stages GUEST_DIR [STAGE]\n");
		return 2;
	}
	stage_env.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (stage_env.kvm_fd < 0) {
		printf("skipped: /dev/kvm cannot be opened\n");
		return 77;
	}
	jail_disable(); /* the filters allow no test harness; they are tested with the binary */
	snprintf(store_path, sizeof(store_path), "%.80s/it_stages.XXXXXX", tmp_root());
	if (mkdtemp(store_path) == NULL) {
		perror(store_path);
		return 1;
	}
	struct err *e = store_open(store_path, STORE_CREATE, &stage_env.store);
	if (e != NULL) {
		fprintf(stderr, "store: %s\n", err_msg(e));
		err_free(e);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
		if (argc > 2 && strcmp(argv[2], stages[i].name) != 0) {
			continue;
		}
		count[stage_test(&stages[i], argv[1], true)]++;
		count[stage_test(&stages[i], argv[1], false)]++;
	}
	if (argc == 2) {
		count[SKIPPED] += absent();
	}
	store_close(stage_env.store);
	config_done(&stage_env.config);
	snprintf(command, sizeof(command), "rm -rf '%s'", store_path);
	if (system(command) != 0) {
		count[FAILED]++;
	}
	printf("%u passed, %u failed, %u skipped\n", count[OK], count[FAILED], count[SKIPPED]);
	return count[FAILED] != 0 || count[OK] == 0;
}
