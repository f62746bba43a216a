/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The services that devices get (struct dev_host): interrupt lines, VM time, timers and descriptors
 * on the main loop, requests of the guest. See devices/dev.h for who may call them.
 *
 * Timers and descriptors live on the main loop; devices ask for them from any thread, so each
 * request is stored in the device's slot and applied by a call posted to the loop.
 */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "core/acpi.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/jail.h"
#include "core/kvm_facts.h"
#include "core/machine_internal.h"
#include "devices/acpi_pm.h"

/* ---- calls into the main loop that survive the machine ---- */

struct machine_call {
	struct machine_anchor *anchor;
	void (*fn)(struct machine *m, struct machine_call *c);
	struct dev_slot *slot;
	enum machine_event event;
	char *report;
	char *id; /* of a device */
};

static void anchor_drop(struct machine_anchor *a)
{
	if (atomic_fetch_sub(&a->refs, 1) == 1) {
		free(a);
	}
}

static void call_run(void *arg)
{
	struct machine_call *c = arg;
	if (c->anchor->m != NULL) {
		c->fn(c->anchor->m, c);
	}
	anchor_drop(c->anchor);
	free(c->report);
	free(c->id);
	free(c);
}

static void call_post(struct machine *m, const struct machine_call *call)
{
	struct machine_call *c = malloc(sizeof(*c));
	BUG_ON(c == NULL);
	*c = *call;
	c->anchor = m->anchor;
	atomic_fetch_add(&m->anchor->refs, 1);
	loop_post(m->loop, call_run, c);
}

static void run_event(struct machine *m, struct machine_call *c)
{
	m->on_event(m->arg, c->event, MOVE(c->report));
}

void machine_tell(struct machine *m, enum machine_event ev, char *report)
{
	vcpu_group_park_nowait(m->group, PARK_REQUEST);
	call_post(m, &(struct machine_call){ .fn = run_event, .event = ev, .report = report });
}

/* ---- services ---- */

static void host_set_irq(void *self, unsigned gsi, bool level)
{
	struct machine *m = self;
	struct err *e = kvm_vm_irq_line(m->vm, gsi, level);
	if (e != NULL) {
		log_err(err_wrap(e, "interrupt line %u", gsi));
	}
}

static void host_request(void *self, unsigned what)
{
	struct machine *m = self;
	switch (what) {
	case DEV_RESET:
		machine_tell(m, MACHINE_RESET, NULL);
		break;
	case DEV_POWEROFF:
		machine_tell(m, MACHINE_POWEROFF, NULL);
		break;
	case DEV_PANIC:
		machine_tell(m, MACHINE_PANIC, NULL);
		break;
	default:
		BUG_ON(what - DEV_EXIT >= DEV_EXITS);
		machine_tell(m, (enum machine_event)(MACHINE_EXIT + (what - DEV_EXIT)), NULL);
		break;
	}
}

static void run_balloon(struct machine *m, struct machine_call *c)
{
	(void)c;
	atomic_store(&m->balloon_posted, false); /* before anybody looks: later news post again */
	if (m->on_balloon != NULL) {
		m->on_balloon(m->arg);
	}
}

static void run_s2idle(struct machine *m, struct machine_call *c)
{
	(void)c;
	if (m->on_s2idle != NULL) {
		m->on_s2idle(m->arg);
	}
}

static void run_needs_reset(struct machine *m, struct machine_call *c)
{
	if (m->on_needs_reset != NULL && c->id != NULL && c->report != NULL) {
		m->on_needs_reset(m->arg, c->id, c->report);
	}
}

/* Once per reset of the device, which costs its driver many exits: calls do not pile up. */
static void host_needs_reset(void *self, const char *id, const char *why)
{
	call_post(self, &(struct machine_call){
				.fn = run_needs_reset, .id = strdup(id), .report = strdup(why) });
}

static void run_slot(struct machine *m, struct machine_call *c)
{
	(void)c;
	atomic_store(&m->slot_posted, false); /* as for the balloon */
	if (m->on_slot != NULL) {
		m->on_slot(m->arg);
	}
}

static void host_event(void *self, enum dev_event what)
{
	struct machine *m = self;
	switch (what) {
	case DEV_EVENT_RTC: {
		struct err *e = acpi_pm_rtc(m->pm, -1);
		BUG_ON(e != NULL); /* without a clear event there is nothing to run out of */
		break;
	}
	case DEV_EVENT_PCIE_WAKE:
		acpi_pm_pme(m->pm);
		break;
	case DEV_EVENT_BALLOON:
		/* One call at a time, as for timers. */
		if (!atomic_exchange(&m->balloon_posted, true)) {
			call_post(m, &(struct machine_call){ .fn = run_balloon });
		}
		break;
	case DEV_EVENT_S2IDLE:
		call_post(m, &(struct machine_call){ .fn = run_s2idle });
		break;
	case DEV_EVENT_SLOT:
		if (!atomic_exchange(&m->slot_posted, true)) {
			call_post(m, &(struct machine_call){ .fn = run_slot });
		}
		break;
	case DEV_EVENT_GENERATION: {
		struct err *e = acpi_pm_gpe(m->pm, ACPI_VMGENID_GPE, -1);
		BUG_ON(e != NULL); /* as above */
		break;
	}
	}
}

static uint64_t host_vm_time(void *self)
{
	struct machine *m = self;
	uint64_t ns = 0;
	struct err *e = kvm_state_vm_time_ns(m->kvm_state, &ns);
	if (e != NULL) {
		log_err(e);
	}
	return ns;
}

static uint64_t host_wall_time(void *self)
{
	struct machine *m = self;
	return host_vm_time(self) + atomic_load(&m->wall_offset_ns);
}

/* ---- timers ---- */

static void slot_arm(struct machine *m, struct dev_slot *slot)
{
	uint64_t at = atomic_load(&slot->at_ns);
	if (at == UINT64_MAX) {
		loop_timer_set(slot->timer, UINT64_MAX);
		return;
	}
	uint64_t vm_now = host_vm_time(m);
	uint64_t wait = at > vm_now ? at - vm_now : 0;
	uint64_t when;
	if (ADD_OVERFLOWS(clock_mono_ns(), wait, &when)) {
		when = UINT64_MAX - 1;
	}
	loop_timer_set(slot->timer, when);
}

static void run_arm(struct machine *m, struct machine_call *c)
{
	atomic_store(&c->slot->arm_posted,
		     false); /* before at_ns is read: a later wish posts again */
	LOCK_SCOPE(&m->gate);
	if (!m->closed) {
		slot_arm(m, c->slot);
	}
}

static void on_slot_timer(void *arg)
{
	struct dev_slot *slot = arg;
	struct machine *m = slot->dev->host->self;
	LOCK_SCOPE(&m->gate);
	uint64_t at = atomic_load(&slot->at_ns);
	if (m->closed || at == UINT64_MAX) {
		return; /* armed again when the gate opens */
	}
	if (host_vm_time(m) < at) {
		slot_arm(m, slot);
		return;
	}
	if (atomic_compare_exchange_strong(&slot->at_ns, &at, UINT64_MAX)) {
		slot->dev->ops->on_timer(slot->dev);
	}
}

static void host_set_timer(void *self, struct device *dev, uint64_t at_vm_ns)
{
	struct machine *m = self;
	struct dev_slot *slot = dev->core;
	/* One call at a time, so that a guest cannot fill memory with them faster than they run. */
	if (atomic_exchange(&slot->at_ns, at_vm_ns) != at_vm_ns &&
	    !atomic_exchange(&slot->arm_posted, true)) {
		call_post(m, &(struct machine_call){ .fn = run_arm, .slot = slot });
	}
}

/* ---- descriptors ---- */

static void on_slot_fd(void *arg, uint32_t events)
{
	struct dev_slot *slot = arg;
	struct machine *m = slot->dev->host->self;
	LOCK_SCOPE(&m->gate);
	if (m->closed) {
		/* Level-triggered: silence it until the gate opens. */
		err_drop(loop_fd_events(slot->fd, 0), "the gate reopens it; a spin is the worst");
		return;
	}
	slot->dev->ops->on_fd(slot->dev, events);
}

static void slot_watch(struct machine *m, struct dev_slot *slot)
{
	int want = atomic_load(&slot->want_fd);
	uint32_t events = atomic_load(&slot->want_events);
	if (slot->fd != NULL && (slot->fd_n != want || events == 0)) {
		loop_fd_del(MOVE(slot->fd));
	}
	if (want < 0 || events == 0) {
		return;
	}
	struct err *e = NULL;
	if (slot->fd == NULL) {
		slot->fd_n = want;
		e = loop_fd_add(m->loop, want, events, on_slot_fd, slot, &slot->fd);
	} else {
		e = loop_fd_events(slot->fd, events);
	}
	if (e != NULL) {
		log_err(err_wrap(e, "%s: watching descriptor %d", slot->dev->ops->name, want));
	}
}

/* Calls that are on their way find nothing to do. */
void machine_host_forget(struct machine *m, struct dev_slot *slot)
{
	LOCK_SCOPE(&m->gate);
	atomic_store(&slot->at_ns, UINT64_MAX);
	loop_timer_set(slot->timer, UINT64_MAX);
	atomic_store(&slot->want_fd, -1);
	atomic_store(&slot->want_events, 0);
	loop_fd_del(MOVE(slot->fd));
}

static void run_watch(struct machine *m, struct machine_call *c)
{
	atomic_store(&c->slot->watch_posted, false);
	LOCK_SCOPE(&m->gate);
	if (!m->closed) {
		slot_watch(m, c->slot);
	}
}

static void host_watch_fd(void *self, struct device *dev, int fd, uint32_t epoll_events)
{
	struct machine *m = self;
	struct dev_slot *slot = dev->core;
	atomic_store(&slot->want_fd, fd);
	atomic_store(&slot->want_events, epoll_events);
	if (!atomic_exchange(&slot->watch_posted, true)) {
		call_post(m, &(struct machine_call){ .fn = run_watch, .slot = slot });
	}
}

/* ---- interrupts by message, doorbells ---- */

static void host_send_msi(void *self, uint64_t addr, uint32_t data)
{
	struct machine *m = self;
	struct err *e = kvm_vm_msi(m->vm, addr, data);
	if (e != NULL) {
		/* The guest chose address and data: nonsense there is its own loss, not log space.
		 */
		LOG_D("%s", err_msg(e));
		err_drop(e, "told above");
	}
}

static bool host_doorbell(void *self, int fd, uint64_t gpa, bool on)
{
	struct machine *m = self;
	struct err *e = kvm_vm_ioeventfd(m->vm, fd, gpa, on);
	if (e == NULL) {
		return true;
	}
	LOG_D("%s", err_msg(e));
	err_drop(e, "writes come to the device instead");
	return false;
}

static void host_give_back(void *self, uint64_t gpa, uint64_t len)
{
	struct machine *m = self;
	struct err *e = m->give_back != NULL ? m->give_back(m->arg, GPA(gpa), len)
					     : gmem_give_back(m->gmem, GPA(gpa), len);
	if (e != NULL && !m->give_back_failed) {
		m->give_back_failed = true; /* the VM runs on, with more of the host's memory */
		log_err(err_wrap(e, "balloon"));
	} else {
		err_drop(e, "told before");
	}
}

static struct err *host_enter_thread(void *self)
{
	(void)self;
	return jail_thread(JAIL_IO);
}

/* ---- the gate ---- */

static void run_reopen(struct machine *m, struct machine_call *c)
{
	(void)c;
	LOCK_SCOPE(&m->gate);
	if (m->closed) {
		return;
	}
	for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
		slot_watch(m, &m->slots[i]);
		slot_arm(m, &m->slots[i]);
	}
}

void machine_gate_devices(struct machine *m, bool closed)
{
	lock_take(&m->gate);
	m->closed = closed;
	lock_drop(&m->gate);
	/* Devices' own threads, without the lock: they may have to wait for the host's disk. */
	for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
		struct device *dev = m->slots[i].dev;
		if (dev != NULL && dev->ops->gate != NULL) {
			dev->ops->gate(dev, closed);
		}
	}
	if (!closed) {
		call_post(m, &(struct machine_call){ .fn = run_reopen });
	}
}

/* ---- set-up ---- */

struct err *machine_host_init(struct machine *m)
{
	m->anchor = calloc(1, sizeof(*m->anchor));
	ENSURE(m->anchor != NULL, ERR_SYS, "out of memory");
	atomic_store(&m->anchor->refs, 1);
	m->anchor->m = m;
	m->host = (struct dev_host){
		.self = m,
		.gmem = m->gmem,
		.set_irq = host_set_irq,
		.request = host_request,
		.event = host_event,
		.vm_time_ns = host_vm_time,
		.wall_time_ns = host_wall_time,
		.set_timer = host_set_timer,
		.watch_fd = host_watch_fd,
		.send_msi = host_send_msi,
		.doorbell = host_doorbell,
		.give_back = host_give_back,
		.needs_reset = host_needs_reset,
		.enter_thread = host_enter_thread,
	};
	for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
		struct dev_slot *slot = &m->slots[i];
		atomic_store(&slot->at_ns, UINT64_MAX);
		atomic_store(&slot->want_fd, -1);
		slot->fd_n = -1;
		TRY(loop_timer_add(m->loop, on_slot_timer, slot, &slot->timer));
	}
	return NULL;
}

void machine_host_done(struct machine *m)
{
	for (unsigned i = 0; i < ARRAY_LEN(m->slots); i++) {
		loop_fd_del(m->slots[i].fd);
		loop_timer_del(m->slots[i].timer);
	}
	if (m->anchor != NULL) {
		m->anchor->m = NULL;
		anchor_drop(m->anchor);
	}
}

struct err *machine_host_facts(struct machine *m, struct snap_host *ret)
{
	struct kvm_facts f;
	TRY(kvm_facts_read(m->vm, m->vcpus[0], &f));
	struct snap_host h = {
		.tsc_khz = f.tsc_khz,
		.tsc_scaling = f.tsc_scaling,
		.software_kvm = f.software_kvm,
		.xcr0_mask = f.xcr0_mask,
	};
	struct utsname u;
	if (uname(&u) == 0) {
		snprintf(h.kernel, sizeof(h.kernel), "%.64s", u.release);
	}
	snprintf(h.cpu_model, sizeof(h.cpu_model), "%s", f.cpu_model);
	*ret = h;
	return NULL;
}
