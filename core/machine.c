/* SPDX-License-Identifier: Apache-2.0 */
/* The wiring of one machine. See machine.h; the services devices get are in machine_host.c. */
#include "core/machine.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/utsname.h>

#include "core/acpi.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/boot.h"
#include "core/jail.h"
#include "core/machine_internal.h"
#include "devices/acpi_pm.h"
#include "devices/battery.h"
#include "devices/i8042.h"
#include "devices/pcie_port.h"
#include "devices/pvpanic.h"
#include "devices/rtc.h"
#include "devices/s2idle.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "devices/vmgenid.h"

enum {
	SERIAL_PORT = 0x3f8,
	SERIAL_GSI = 4,
	VCPU_RT_PRIORITY = 6, /* above what shares the host by default, below its own threads */
	PARK_MS = 10000,      /* a page of memory that takes longer is as good as absent */
};

/* ---- the machine's own state: what belongs to no device ---- */

static struct err *own_fetch(void *self)
{
	struct machine *m = self;
	m->own.wall_offset_ns = atomic_load(&m->wall_offset_ns);
	return NULL;
}

static struct err *own_commit(void *self)
{
	struct machine *m = self;
	atomic_store(&m->wall_offset_ns, m->own.wall_offset_ns);
	return NULL;
}

static const struct state_field machine_fields[] = {
	FIELD(struct machine_state, 1, wall_offset_ns),
};

const struct state_desc machine_desc = {
	.name = "machine",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct machine_state),
	.fields = machine_fields,
	.nfields = ARRAY_LEN(machine_fields),
};

static const struct snap_part_ops own_ops = {
	.fetch = own_fetch,
	.commit = own_commit,
};

/* ---- fates of vCPUs ---- */

static enum machine_event event_of(enum vcpu_fate fate)
{
	switch (fate) {
	case VCPU_SYSTEM_OFF:
		return MACHINE_POWEROFF;
	case VCPU_SYSTEM_RESET:
		return MACHINE_RESET;
	case VCPU_PANIC:
		return MACHINE_PANIC;
	case VCPU_TRIPLE_FAULT:
	case VCPU_KVM_ERROR:
		break;
	}
	return MACHINE_CRASH;
}

static void on_fate(void *arg, unsigned vcpu, enum vcpu_fate fate, char *report)
{
	(void)vcpu;
	machine_tell(arg, event_of(fate), report);
}

static struct err *vcpu_thread_init(void *arg)
{
	(void)arg;
	return jail_thread(JAIL_VCPU);
}

/* ---- building ---- */

struct err *machine_add_device(struct machine *m, struct device *dev)
{
	struct dev_slot *slot = m->slots;
	while (slot->dev != NULL) {
		slot++;
		BUG_ON(slot == m->slots + ARRAY_LEN(m->slots));
	}
	slot->dev = dev;
	dev->core = slot;
	TRY(bus_add(m->bus, dev));
	if (dev->part.desc != NULL) {
		m->parts[m->nparts++] = &dev->part;
	}
	return NULL;
}

void machine_remove_device(struct machine *m, struct device *dev)
{
	struct dev_slot *slot = dev->core;
	size_t kept = 0;
	for (size_t i = 0; i < m->nparts; i++) {
		if (m->parts[i] != &dev->part) {
			m->parts[kept++] = m->parts[i];
		}
	}
	m->nparts = kept;
	machine_host_forget(m, slot);
	slot->dev = NULL;
	dev->ops->free(dev);
}

static struct err *build_devices(struct machine *m, const struct machine_opts *o)
{
	struct device *dev = NULL;
	TRY(acpi_pm_new(&m->host, &m->pm));
	TRY(machine_add_device(m, m->pm));
	if (o->serial != NULL) {
		TRY(serial_new_on(&m->host, SERIAL_PORT, SERIAL_GSI, o->serial, &dev));
	} else {
		TRY(serial_new(&m->host, SERIAL_PORT, SERIAL_GSI, o->serial_in, o->serial_out,
			       o->serial_listen, &dev));
	}
	TRY(machine_add_device(m, dev));
	TRY(rtc_new(&m->host, &dev));
	TRY(machine_add_device(m, dev));
	TRY(i8042_new(&m->host, &dev));
	TRY(machine_add_device(m, dev));
	TRY(pvpanic_new(&m->host, &dev));
	TRY(machine_add_device(m, dev));
	if (m->config->battery) {
		TRY(battery_new(&m->host, &dev));
		TRY(machine_add_device(m, dev));
	}
	if (m->config->s2idle) {
		TRY(s2idle_new(&m->host, &dev));
		TRY(machine_add_device(m, dev));
	}
	if (m->config->exit_device) {
		TRY(exit_device_new(&m->host, &dev));
		TRY(machine_add_device(m, dev));
	}
	if (m->config->vmgenid) {
		TRY(vmgenid_new(&m->host, GPA(ACPI_VMGENID_GPA), &dev));
		m->vmgenid = dev;
		TRY(machine_add_device(m, dev));
	}
	return machine_build_pci(m);
}

static struct err *build_vcpus(struct machine *m, const struct machine_opts *o)
{
	SCOPE(freep) struct cpuid_table *cpuid = calloc(1, sizeof(*cpuid));
	ENSURE(cpuid != NULL, ERR_SYS, "out of memory");
	TRY(cpuid_make(o->kvm, o->config->cpu_model, o->config->ncpus, cpuid));
	for (unsigned i = 0; i < o->config->ncpus; i++) {
		TRY(kvm_vcpu_new(m->vm, i, cpuid, &m->vcpus[i]));
		m->nvcpus++;
	}
	const struct vcpu_group_opts group = {
		.bus = m->bus,
		.gmem = m->gmem,
		.on_fate = on_fate,
		.thread_init = vcpu_thread_init,
		.arg = m,
	};
	return vcpu_group_new(m->vcpus, m->nvcpus, &group, &m->group);
}

static struct err *build_parts(struct machine *m)
{
	m->own_part = (struct snap_part){
		.name = machine_desc.name,
		.park_rank = SNAP_RANK_DEVICE,
		.commit_rank = SNAP_RANK_DEVICE,
		.desc = &machine_desc,
		.state = &m->own,
		.ops = &own_ops,
		.self = m,
	};
	m->parts[m->nparts++] = &m->own_part;
	TRY(kvm_state_new(m->vm, m->vcpus, m->nvcpus, &m->kvm_state));
	for (unsigned i = 0; i < kvm_state_nparts(m->kvm_state); i++) {
		BUG_ON(m->nparts == ARRAY_LEN(m->parts));
		m->parts[m->nparts++] = kvm_state_part(m->kvm_state, i);
	}
	return NULL;
}

struct err *machine_new(const struct machine_opts *opts, struct machine **ret_machine)
{
	SCOPE(machine_freep) struct machine *m = calloc(1, sizeof(*m));
	ENSURE(m != NULL, ERR_SYS, "out of memory");
	m->loop = opts->loop;
	m->gmem = opts->gmem;
	m->config = opts->config;
	m->ends = opts->ends;
	m->on_event = opts->on_event;
	m->on_balloon = opts->on_balloon;
	m->give_back = opts->give_back;
	m->on_slot = opts->on_slot;
	m->on_needs_reset = opts->on_needs_reset;
	m->on_s2idle = opts->on_s2idle;
	m->arg = opts->arg;
	lock_init(&m->gate, RANK_GATE);
	TRY(machine_host_init(m));
	TRY(opts->log_dirty ? kvm_vm_new_logged(opts->kvm, opts->gmem, &m->vm)
			    : kvm_vm_new(opts->kvm, opts->gmem, &m->vm));
	TRY(bus_new(&m->bus));
	TRY(build_vcpus(m, opts));
	TRY(build_parts(m));
	struct kvm_clock_state now;
	TRY(kvm_vm_clock_get(m->vm, &now));
	atomic_store(&m->wall_offset_ns, clock_real_ns() - now.clock_ns);
	TRY(build_devices(m, opts));
	*ret_machine = MOVE(m);
	return NULL;
}

void machine_free(struct machine *m)
{
	if (m == NULL) {
		return;
	}
	vcpu_group_free(m->group);
	machine_host_done(m);
	for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
		if (m->slots[i].dev != NULL) {
			m->slots[i].dev->ops->free(m->slots[i].dev);
		}
	}
	kvm_state_free(m->kvm_state);
	for (unsigned i = 0; i < m->nvcpus; i++) {
		kvm_vcpu_free(m->vcpus[i]);
	}
	bus_free(m->bus);
	kvm_vm_free(m->vm);
	lock_done(&m->gate);
	free(m);
}

struct err *machine_boot(struct machine *m, int kernel_fd, int initrd_fd)
{
	gpa_t rsdp;
	const struct acpi_opts acpi = {
		.ncpus = m->config->ncpus,
		.pci_slots = m->pci != NULL ? pci_host_slots(m->pci) : 0,
		.pcie_ports = config_dev_count(&m->config->devs, CONFIG_PORT) > 0,
		.vmgenid = m->vmgenid != NULL,
		.battery = m->config->battery,
		.s2idle = m->config->s2idle,
		.gpe_methods = m->config->gpe_methods,
	};
	TRY(acpi_build(m->gmem, &acpi, &rsdp));
	if (m->vmgenid != NULL) {
		TRY(vmgenid_renew(m->vmgenid));
	}
	const struct boot_input in = {
		.kernel_name = m->config->kernel_name,
		.kernel_fd = kernel_fd,
		.initrd_name = "initrd",
		.initrd_fd = initrd_fd,
		.cmdline = m->config->cmdline,
		.rsdp = rsdp,
		.acpi_base = GPA(ACPI_BASE),
		.acpi_len = ACPI_LEN,
	};
	struct boot_regs regs;
	TRY(boot_load(m->gmem, &in, &regs));
	return kvm_vcpu_set_boot(m->vcpus[0], &regs);
}

struct err *machine_start(struct machine *m)
{
	return vcpu_group_start(m->group);
}

struct err *machine_park_vcpus(struct machine *m)
{
	uint64_t limit = atomic_load(&m->park_ms);
	if (vcpu_group_park(m->group, PARK_LIFE, limit != 0 ? limit : PARK_MS)) {
		return NULL;
	}
	vcpu_group_unpark(m->group, PARK_LIFE);
	return ERR(ERR_NOT_NOW, "a vCPU waits for a page of its memory, which does not come");
}

void machine_park_limit(struct machine *m, uint64_t timeout_ms)
{
	atomic_store(&m->park_ms, timeout_ms);
}

void machine_end_vcpus(struct machine *m, uint64_t timeout_ms)
{
	if (!vcpu_group_park(m->group, PARK_LIFE, timeout_ms)) {
		LOG_W("a vCPU waits for a page of its memory until the end");
	}
}

bool machine_stop(struct machine *m, uint64_t timeout_ms)
{
	return vcpu_group_stop(m->group, timeout_ms);
}

struct err *machine_park_vcpus_and(struct machine *m, struct vcpu_stop *stop)
{
	ENSURE(vcpu_group_park_and(m->group, PARK_LIFE, stop, PARK_MS), ERR_NOT_NOW,
	       "a vCPU waits for a page of its memory, which does not come");
	return NULL;
}

void machine_unpark_vcpus(struct machine *m)
{
	vcpu_group_unpark(m->group, PARK_LIFE);
	vcpu_group_unpark(m->group, PARK_START);
}

bool machine_vcpus_parked(const struct machine *m)
{
	return vcpu_group_has_reason(m->group, PARK_LIFE) ||
	       vcpu_group_has_reason(m->group, PARK_START);
}

bool machine_has_request(struct machine *m)
{
	return vcpu_group_has_reason(m->group, PARK_REQUEST);
}

struct kvm_state *machine_kvm_state(struct machine *m)
{
	return m->kvm_state;
}

struct snap_part *const *machine_parts(struct machine *m, size_t *ret_n)
{
	*ret_n = m->nparts;
	return m->parts;
}

unsigned machine_nvcpus(const struct machine *m)
{
	return m->nvcpus;
}

bool machine_look_vcpus(struct machine *m)
{
	return vcpu_group_look(m->group);
}

void machine_throttle(struct machine *m, unsigned vcpu, uint64_t us)
{
	vcpu_group_throttle(m->group, vcpu, us);
}

struct err *machine_make_rt(struct machine *m)
{
	/* Children of the threads (there are none) would not inherit it. */
	const struct sched_param rr = { .sched_priority = VCPU_RT_PRIORITY };
	const struct sched_param other = { .sched_priority = 0 };
	for (unsigned i = 0; i < m->nvcpus; i++) {
		int tid = vcpu_group_tid(m->group, i);
		if (tid != 0 && sched_setscheduler(tid, SCHED_RR | SCHED_RESET_ON_FORK, &rr) == 0) {
			continue;
		}
		struct err *e =
			ERR_ERRNO("MakeRT: the thread of vCPU %u cannot get SCHED_RR "
				  "priority %d: start the VM with CAP_SYS_NICE or a real-time "
				  "limit (ulimit -r %d), in a cgroup with real-time run time",
				  i, VCPU_RT_PRIORITY, VCPU_RT_PRIORITY);
		while (i > 0) {
			i--;
			(void)sched_setscheduler(vcpu_group_tid(m->group, i), SCHED_OTHER, &other);
		}
		return e;
	}
	return NULL;
}

struct kvm_vm *machine_vm(struct machine *m)
{
	return m->vm;
}

int machine_vcpu_tid(const struct machine *m, unsigned i)
{
	return vcpu_group_tid(m->group, i);
}

struct device *machine_device_nth(const struct machine *m, const char *name, uint64_t n)
{
	struct device *last = NULL;
	/* By rising instance: what was plugged in lies where there was room. */
	do {
		struct device *next = NULL;
		for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
			struct device *dev = m->slots[i].dev;
			bool match = dev != NULL && strcmp(dev->ops->name, name) == 0 &&
				     (last == NULL || dev->part.instance > last->part.instance);
			if (match && (next == NULL || dev->part.instance < next->part.instance)) {
				next = dev;
			}
		}
		last = next;
	} while (last != NULL && n-- > 0);
	return last;
}

struct device *machine_device(const struct machine *m, const char *name)
{
	return machine_device_nth(m, name, 0);
}

/* ---- tables by name ---- */

const struct state_desc *const *machine_descs(size_t *ret_n)
{
	static const struct state_desc *const descs[] = {
		&machine_desc,     &serial_desc,       &rtc_desc,
		&i8042_desc,       &acpi_pm_desc,      &kvm_vcpu_desc,
		&kvm_irqchip_desc, &kvm_pit_desc,      &kvm_clock_desc,
		&pci_host_desc,    &vmgenid_desc,      &virtio_rng_desc,
		&battery_desc,     &virtio_blk_desc,   &virtio_console_desc,
		&virtio_net_desc,  &virtio_vsock_desc, &virtio_balloon_desc,
		&s2idle_desc,      &pcie_port_desc,
	};
	*ret_n = ARRAY_LEN(descs);
	return descs;
}

const struct state_desc *machine_find_desc(const char *part_name)
{
	size_t n;
	const struct state_desc *const *descs = machine_descs(&n);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(descs[i]->name, part_name) == 0) {
			return descs[i];
		}
	}
	return NULL;
}
