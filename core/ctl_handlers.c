/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each request on the control socket does: one handler per variant, each of which answers
 * exactly once. Called by ctl.c on the main loop's thread. Nothing here blocks: a take or a rewind
 * runs as a job and is answered by its end, and what has to wait for an automatic one likewise.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/ctl_internal.h"
#include "devices/acpi_pm.h"
#include "devices/battery.h"

enum { GPE_MAX = 255 };

void ctl_reply_absent(struct call *call, const char *what)
{
	struct err *e = ERR(ERR_NOT_NOW, "%s is not available in this VM: %s",
			    ctl_variant_name(call->req->variant), what);
	ctl_reply_err(call->conn, err_set_errno(e, ENODEV));
}

/* ---- life ---- */

static void do_exit(struct call *call)
{
	/* The answer goes first: after life_stop there may be no loop turn left. "Ok" says that the
	 * end was accepted; that it happened shows by the process. */
	struct life *life = call->ctl->life;
	ctl_reply(call->conn, ctl_answer_ok());
	life_stop(life);
}

/* The VM's life can be changed now, or (e) never more. */
static void take_step(void *arg, struct err *e)
{
	struct pending *p = arg;
	if (e == NULL && p->ctl != NULL) {
		e = p->step(p->ctl->life);
	}
	ctl_pending_end(p, e == NULL ? ctl_answer_ok() : NULL, e);
}

/* The guest sleeps, as far as it can. */
static void after_sleep(void *arg, struct err *e)
{
	struct pending *p = arg;
	p->waiter.fn = take_step;
	if (e != NULL || p->ctl == NULL) {
		take_step(p, e);
	} else if (!life_give_way(p->ctl->life, &p->waiter)) {
		take_step(p, NULL);
	} else if (p->id == 0) {
		ctl_pending_begun(p);
	}
}

/* At once, or (sleeps) when the guest sleeps, and when an automatic take has given way. */
static void change_life(struct call *call, struct err *(*step)(struct life *l), bool sleeps)
{
	struct pending *p =
		ctl_pending_new(call, ctl_variant_name(call->req->variant), LIMIT_STEP_MS);
	if (p == NULL) {
		return;
	}
	p->step = step;
	p->waiter = (struct life_waiter){ .fn = sleeps ? after_sleep : take_step, .arg = p };
	if (sleeps ? life_sleep_first(call->ctl->life, &p->waiter)
		   : life_give_way(call->ctl->life, &p->waiter)) {
		ctl_pending_begun(p);
	} else {
		p->waiter.fn(p, NULL);
	}
}

static void do_suspend_vcpus(struct call *call)
{
	change_life(call, life_suspend_vcpus, true);
}

static void do_resume_vcpus(struct call *call)
{
	change_life(call, life_resume_vcpus, false);
}

static void do_suspend(struct call *call)
{
	change_life(call, life_suspend, true);
}

static void do_resume(struct call *call)
{
	change_life(call, life_resume, false);
}

/* ---- vCPUs ---- */

static void do_vcpu_pid_tid(struct call *call)
{
	const struct config *config = life_config(call->ctl->life);
	json_t *map = json_object();
	for (unsigned i = 0; i < config->ncpus; i++) {
		int tid = 0;
		struct err *e = life_vcpu_tid(call->ctl->life, i, &tid);
		if (e != NULL) {
			json_decref(map);
			ctl_reply_err(call->conn, e);
			return;
		}
		char key[16];
		snprintf(key, sizeof(key), "%u", i);
		json_object_set_new(map, key, json_pack("[ii]", (int)getpid(), tid));
	}
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:{s:o}}", "VcpuPidTidResponse",
							"pid_tid_map", map)));
}

static void do_make_rt(struct call *call)
{
	ctl_reply_result(call->conn, life_make_rt(call->ctl->life));
}

static void do_throttle(struct call *call)
{
	const struct ctl_throttle *t = &call->req->throttle;
	ctl_reply_result(call->conn, life_throttle(call->ctl->life, t->vcpu, t->us));
}

static void do_get_vm_descriptor(struct call *call)
{
	SCOPE(fd_close) struct fd fd = FD_NONE;
	struct err *e = life_vm_fd(call->ctl->life, &fd);
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	ctl_reply_fd(call->conn,
		     ctl_answer_json(json_pack("{s:{s:s,s:i}}", "VmDescriptor", "hypervisor", "Kvm",
					       "vm_fd", 0)),
		     &fd);
}

/* ---- memory of clients ---- */

static void do_register_memory(struct call *call)
{
	/* cache_coherent asks for nothing on x86: all memory is. */
	const struct ctl_memory *m = &call->req->memory;
	struct err *e = life_memory_add(call->ctl->life, call->fds[m->fd].n, m->offset,
					m->range_start, m->range_end);
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:{s:I}}", "RegisterMemory2", "region_id",
							(json_int_t)m->range_start)));
}

static void do_unregister_memory(struct call *call)
{
	ctl_reply_result(call->conn, life_memory_remove(call->ctl->life, call->req->region_id));
}

/* ---- takes ---- */

static void take_done(void *arg, struct err *e, const struct snap_result *result)
{
	struct pending *p = arg;
	char *text = NULL;
	if (e == NULL) {
		text = p->typed ? ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Take",
							    ctl_take_json(p->name, p->tag, result)))
				: ctl_answer_ok();
	}
	ctl_pending_end(p, text, e);
}

static void start_take(struct call *call, const struct ctl_take *take, bool typed)
{
	const char *tag = take->tag;
	struct pending *p = ctl_pending_new(call, "Take", LIMIT_SLOW_MS);
	if (p == NULL) {
		return;
	}
	p->typed = typed;
	snprintf(p->tag, sizeof(p->tag), "%s", tag);
	struct err *e = life_take(call->ctl->life, tag[0] != 0 ? tag : NULL, take->max_pause_us,
				  take_done, p);
	if (e != NULL) { /* take_done will not be called: take its part */
		take_done(p, e, NULL);
	} else {
		ctl_pending_begun(p);
	}
}

static void rewind_done(void *arg, struct err *e, const struct life_rewound *result)
{
	struct pending *p = arg;
	char *text = NULL;
	if (e == NULL) {
		text = ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Rewind",
						 ctl_rewind_json(p->name, result)));
	}
	ctl_pending_end(p, text, e);
}

static void start_rewind(struct call *call)
{
	struct pending *p = ctl_pending_new(call, "Rewind", LIMIT_SLOW_MS);
	if (p == NULL) {
		return;
	}
	struct err *e =
		life_rewind(call->ctl->life, call->req->torpor.cmd.rewind.ref, rewind_done, p);
	if (e != NULL) {
		rewind_done(p, e, NULL);
	} else {
		ctl_pending_begun(p);
	}
}

static void do_snapshot(struct call *call)
{
	start_take(call, &call->req->snapshot.take, false);
}

/* ---- torpor's own ---- */

/* NULL: not restored lazily, or out of memory. */
static json_t *restore_json(const struct life_status *s)
{
	const struct pager_status *p = &s->pages;
	if (!s->lazy) {
		return NULL;
	}
	return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s*}", "mode", "lazy",
			 "state", p->state, "resident", (json_int_t)p->resident, "missing",
			 (json_int_t)(p->bytes - p->resident), "faults", (json_int_t)p->faults,
			 "fault_p50_us", (json_int_t)(p->p50_ns / 1000), "fault_p99_us",
			 (json_int_t)(p->p99_ns / 1000), "fault_max_us",
			 (json_int_t)(p->max_ns / 1000), "demanded", (json_int_t)p->demanded,
			 "known", (json_int_t)p->known, "first", (json_int_t)p->first, "error",
			 p->why[0] != 0 ? p->why : NULL);
}

static void reply_status(struct call *call)
{
	struct life_status s;
	life_status(call->ctl->life, &s);
	const struct config *config = life_config(call->ctl->life);
	char uuid[37];
	char family[37];
	uuid_text(config->uuid, uuid);
	uuid_text(config->family, family);
	json_t *body = json_pack(
		"{s:s,s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:s*,s:o*}", "name", config->name,
		"uuid", uuid, "family", family, "state", s.state, "taking", (int)s.taking, "resets",
		(json_int_t)s.resets, "suspended_ns", (json_int_t)s.suspended_ns, "mem_bytes",
		(json_int_t)s.mem_bytes, "mem_allocated", (json_int_t)s.mem_allocated, "cpus",
		(json_int_t)s.ncpus, "pid", (json_int_t)getpid(), "store",
		life_store_dir(call->ctl->life), "s2idle", s.s2idle, "restore", restore_json(&s));
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Status", body)));
}

static void reply_take_status(struct call *call)
{
	char step[64] = "";
	uint64_t done = 0;
	uint64_t total = 0;
	bool taking = life_take_progress(call->ctl->life, step, sizeof(step), &done, &total);
	json_t *body = taking ? json_pack("{s:b,s:s,s:I,s:I}", "taking", 1, "step", step, "done",
					  (json_int_t)done, "total", (json_int_t)total)
			      : json_pack("{s:b}", "taking", 0);
	ctl_reply(call->conn,
		  ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "TakeStatus", body)));
}

static void reply_checkpoint(struct call *call)
{
	struct life_status s;
	life_status(call->ctl->life, &s);
	const struct checkpoint_status *c = &s.checkpoint;
	char every[CHECKPOINT_TEXT_MAX + 1];
	char keep[CHECKPOINT_TEXT_MAX + 1];
	checkpoint_every_text(c->policy.every_ns, every);
	checkpoint_keep_text(&c->policy.keep, keep);
	json_t *body = json_pack("{s:s,s:s,s:b,s:I,s:I}", "every", every, "keep", keep, "taking",
				 (int)c->taking, "taken", (json_int_t)c->taken, "failed",
				 (json_int_t)c->failed);
	if (c->taken > 0) {
		json_object_set_new(body, "last_number", json_integer((json_int_t)c->last_number));
		json_object_set_new(body, "last_frozen_at_ns",
				    json_integer((json_int_t)c->last_frozen_ns));
	}
	if (c->last_error[0] != 0) {
		json_object_set_new(body, "error", json_string(c->last_error));
	}
	ctl_reply(call->conn,
		  ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Checkpoint", body)));
}

/* What the request leaves out stays as it is. */
static struct err *set_checkpoint(struct life *life, const struct ctl_checkpoint *c)
{
	struct life_status s;
	life_status(life, &s);
	struct checkpoint_policy policy = s.checkpoint.policy;
	if (c->every[0] != 0) {
		TRY(checkpoint_parse_every(c->every, &policy.every_ns));
	}
	if (c->keep[0] != 0) {
		TRY(checkpoint_parse_keep(c->keep, &policy.keep));
	}
	return life_set_checkpoint(life, &policy);
}

static void do_checkpoint_policy(struct call *call)
{
	struct err *e = set_checkpoint(call->ctl->life, &call->req->torpor.cmd.checkpoint);
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	reply_checkpoint(call);
}

static void do_torpor(struct call *call)
{
	const struct ctl_torpor *t = &call->req->torpor;
	switch ((enum ctl_torpor_cmd)t->cmd.cmd) {
	case CTL_TORPOR_STATUS:
		reply_status(call);
		break;
	case CTL_TORPOR_TAKE:
		start_take(call, &t->cmd.take, true);
		break;
	case CTL_TORPOR_TAKE_CANCEL:
		ctl_reply_result(call->conn, life_take_cancel(call->ctl->life));
		break;
	case CTL_TORPOR_TAKE_STATUS:
		reply_take_status(call);
		break;
	case CTL_TORPOR_CHECKPOINT_POLICY:
		do_checkpoint_policy(call);
		break;
	case CTL_TORPOR_CHECKPOINT_STATUS:
		reply_checkpoint(call);
		break;
	case CTL_TORPOR_SUBSCRIBE:
		ctl_reply(call->conn, ctl_answer_ok());
		call->conn->subscribed = true;
		break;
	case CTL_TORPOR_REWIND:
		start_rewind(call);
		break;
	case CTL_TORPOR_JOBS:
	case CTL_TORPOR_JOB:
	case CTL_TORPOR_JOB_WAIT:
	case CTL_TORPOR_JOB_CANCEL:
		ctl_job_request(call);
		break;
	case CTL_TORPOR_SWAP_ENABLE:
	case CTL_TORPOR_SWAP_STATUS:
		ctl_swap_typed(call);
		break;
	case CTL_TORPOR_DISK_ADD:
	case CTL_TORPOR_NET_ADD:
	case CTL_TORPOR_DEVICE_REMOVE:
		ctl_hotplug(call);
		break;
	}
}

/* ---- listeners ---- */

static void do_register_listener(struct call *call)
{
	const struct ctl_listener *l = &call->req->listener;
	ctl_reply_result(call->conn,
			 ctl_listener_add(call->ctl, l->socket_addr, (enum ctl_event)l->event));
}

static void do_unregister_listener(struct call *call)
{
	const struct ctl_listener *l = &call->req->listener;
	ctl_listener_remove(call->ctl, l->socket_addr, 1u << l->event);
	ctl_reply(call->conn, ctl_answer_ok());
}

static void do_unregister(struct call *call)
{
	ctl_listener_remove(call->ctl, call->req->listener.socket_addr, UINT32_MAX);
	ctl_reply(call->conn, ctl_answer_ok());
}

/* ---- devices ---- */

static struct device *acpi_pm(struct call *call)
{
	return life_device(call->ctl->life, "acpi_pm");
}

static void do_powerbtn(struct call *call)
{
	struct device *pm = acpi_pm(call);
	if (pm == NULL) {
		ctl_reply_absent(call, "it has no power button");
		return;
	}
	acpi_pm_powerbtn(pm);
	ctl_reply(call->conn, ctl_answer_ok());
}

static void do_sleepbtn(struct call *call)
{
	struct device *pm = acpi_pm(call);
	if (pm == NULL) {
		ctl_reply_absent(call, "it has no sleep button");
		return;
	}
	acpi_pm_sleepbtn(pm);
	ctl_reply(call->conn, ctl_answer_ok());
}

/* Moves the clear event out of the call, -1 if none was named. Only an eventfd can be one. */
static struct err *take_clear_event(struct call *call, int index, int *ret_fd)
{
	*ret_fd = -1;
	if (index < 0) {
		return NULL;
	}
	static const char want[] = "anon_inode:[eventfd]";
	char path[40];
	char target[sizeof(want)];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", call->fds[index].n);
	ssize_t n = readlink(path, target, sizeof(target));
	ENSURE(n == (ssize_t)sizeof(want) - 1 && memcmp(target, want, sizeof(want) - 1) == 0,
	       ERR_USAGE, "%s.clear_evt: the descriptor is no eventfd",
	       ctl_variant_name(call->req->variant));
	*ret_fd = fd_move(&call->fds[index]).n;
	return NULL;
}

static void do_rtc(struct call *call)
{
	struct device *pm = acpi_pm(call);
	int fd = -1;
	if (pm == NULL) {
		ctl_reply_absent(call, "its RTC has no wake-up event");
		return;
	}
	struct err *e = take_clear_event(call, call->req->rtc.clear_evt, &fd);
	ctl_reply_result(call->conn, e != NULL ? e : err_wrap(acpi_pm_rtc(pm, fd), "Rtc"));
}

static void do_gpe(struct call *call)
{
	const struct ctl_gpe *g = &call->req->gpe;
	struct device *pm = acpi_pm(call);
	int fd = -1;
	if (g->gpe > GPE_MAX) {
		ctl_reply_err(call->conn, ERR(ERR_USAGE, "Gpe: there is no GPE %llu: use 0 to %d",
					      (unsigned long long)g->gpe, GPE_MAX));
		return;
	}
	if (pm == NULL) {
		ctl_reply_absent(call, "it has no general purpose events");
		return;
	}
	struct err *e = take_clear_event(call, g->clear_evt, &fd);
	ctl_reply_result(call->conn,
			 e != NULL ? e : err_wrap(acpi_pm_gpe(pm, (unsigned)g->gpe, fd), "Gpe"));
}

static void do_pci_pme(struct call *call)
{
	ctl_reply_result(call->conn, life_pme(call->ctl->life, (uint16_t)call->req->pme_id));
}

static void do_disk(struct call *call)
{
	const struct ctl_disk *d = &call->req->disk;
	ctl_reply_result(call->conn, life_disk_resize(call->ctl->life, d->disk_index,
						      d->command.resize.new_size));
}

static void do_usb(struct call *call)
{
	ctl_reply_absent(call, "it has no USB controller");
}

static void do_gpu(struct call *call)
{
	ctl_reply_absent(call, "it has no GPU");
}

static struct err *set_battery(struct device *dev, const struct ctl_bat *b)
{
	uint32_t value = (uint32_t)b->set.value;
	switch ((enum ctl_bat_cmd)b->set.cmd) {
	case CTL_BAT_STATUS: /* the protocol's words are in the registers' order */
		return battery_set(dev, BATTERY_STATUS, b->set.word);
	case CTL_BAT_HEALTH:
		return battery_set(dev, BATTERY_HEALTH, b->set.word);
	case CTL_BAT_PRESENT:
		return battery_set(dev, BATTERY_PRESENT, value);
	case CTL_BAT_CAPACITY:
		return battery_set(dev, BATTERY_CAPACITY, value);
	case CTL_BAT_AC:
		return battery_set(dev, BATTERY_AC_ONLINE, value);
	case CTL_BAT_FAKE:
		return battery_set(dev, BATTERY_FAKE_MAX, value);
	case CTL_BAT_CANCEL_FAKE:
		battery_cancel_fake(dev);
		return NULL;
	}
	BUG_ON(true);
	return NULL;
}

static void do_bat(struct call *call)
{
	/* Both cases have answers of their own. */
	struct device *dev = life_device(call->ctl->life, "battery");
	const char *word = "NoBatDevice";
	if (dev != NULL) {
		struct err *e = set_battery(dev, &call->req->bat);
		if (e != NULL) {
			ctl_reply_err(call->conn, e);
			return;
		}
		word = "Ok";
	}
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:s}", "BatResponse", word)));
}

static void do_snd(struct call *call)
{
	ctl_reply_absent(call, "it has no sound device");
}

static void do_vfio(struct call *call)
{
	ctl_reply_absent(call, "PCI devices of the host are not passed through");
}

static void (*const handlers[CTL__COUNT])(struct call *call) = {
	[CTL_EXIT] = do_exit,
	[CTL_POWERBTN] = do_powerbtn,
	[CTL_SLEEPBTN] = do_sleepbtn,
	[CTL_RTC] = do_rtc,
	[CTL_SUSPEND_VCPUS] = do_suspend_vcpus,
	[CTL_SWAP] = ctl_swap,
	[CTL_RESUME_VCPUS] = do_resume_vcpus,
	[CTL_GPE] = do_gpe,
	[CTL_PCI_PME] = do_pci_pme,
	[CTL_MAKE_RT] = do_make_rt,
	[CTL_BALLOON] = ctl_balloon,
	[CTL_DISK] = do_disk,
	[CTL_USB] = do_usb,
	[CTL_GPU] = do_gpu,
	[CTL_BAT] = do_bat,
	[CTL_SND] = do_snd,
	[CTL_HOTPLUG_VFIO] = do_vfio,
	[CTL_HOTPLUG_NET] = ctl_hotplug_net,
	[CTL_SNAPSHOT] = do_snapshot,
	[CTL_REGISTER_LISTENER] = do_register_listener,
	[CTL_UNREGISTER_LISTENER] = do_unregister_listener,
	[CTL_UNREGISTER] = do_unregister,
	[CTL_SUSPEND_VM] = do_suspend,
	[CTL_RESUME_VM] = do_resume,
	[CTL_VCPU_PID_TID] = do_vcpu_pid_tid,
	[CTL_THROTTLE] = do_throttle,
	[CTL_GET_VM_DESCRIPTOR] = do_get_vm_descriptor,
	[CTL_REGISTER_MEMORY] = do_register_memory,
	[CTL_UNREGISTER_MEMORY] = do_unregister_memory,
	[CTL_TORPOR] = do_torpor,
};

void ctl_serve(struct call *call)
{
	BUG_ON(handlers[call->req->variant] == NULL);
	handlers[call->req->variant](call);
}
