/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices that come and go while the VM lives: disks and network devices behind root ports. See
 * life.h. Main loop's thread only.
 *
 * The configuration has what is plugged in, so a take, a restore and a reset find it by the one
 * wiring path. It changes only while no take is under way, with the vCPUs parked for the moment:
 * then nobody is inside the device or looks at the list.
 *
 * H1: a device is behind a port in the machine if and only if the configuration has it there.
 * H2: a device that was asked for back leaves as soon as the guest has switched its slot off and no
 *     take is under way: at the port's news, at a take's end, at the start of a restored VM, at a
 * reset.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/life_internal.h"
#include "devices/pcie_port.h"

enum { RETRY_MS = 500 }; /* a vCPU could not be parked: it waits for memory */

static struct err *may_plug(const struct life *l)
{
	ENSURE(l->machine != NULL && l->fsm.state != LIFE_ENDED, ERR_NOT_NOW, "'%s' has ended",
	       l->config.name);
	ENSURE(l->job == NULL, ERR_NOT_NOW, "'%s' is being %s: try again when that is done",
	       l->config.name, l->job->rewind != NULL ? "rewound" : "snapshotted");
	ENSURE(l->fsm.state != LIFE_SUSPENDED, ERR_NOT_NOW,
	       "'%s' is suspended, its devices too: resume it with 'torpor resume' (ResumeVm)",
	       l->config.name);
	return NULL;
}

/* Nobody is inside of a device from here to let_go. */
static struct err *stand_still(struct life *l)
{
	return machine_park_vcpus(l->machine);
}

static void let_go(struct life *l)
{
	if (l->fsm.state == LIFE_RUNNING) {
		machine_unpark_vcpus(l->machine);
	}
}

static void forget(struct life *l, unsigned slot)
{
	const struct config_dev *d = config_dev_in(&l->config.devs, slot);
	host_end_remove(&l->ends, d->id);
	config_dev_remove(&l->config.devs, slot);
}

/* ---- in ---- */

struct err *life_plug(struct life *l, const struct config_dev *dev, struct host_end *end,
		      const struct config_dev **ret_dev)
{
	TRY(may_plug(l));
	struct config_dev d = *dev;
	struct config_dev *added = NULL;
	if (config_dev_count(&l->config.devs, CONFIG_PORT) == 0) {
		return err_set_errno(ERR(ERR_NOT_NOW,
					 "'%s' has no PCI Express port: start it with --ports N",
					 l->config.name),
				     ENODEV);
	}
	d.slot = config_dev_free_port(&l->config.devs);
	ENSURE(d.slot != 0, ERR_LIMIT, "all root ports of '%s' are taken: unplug something",
	       l->config.name);
	TRY(config_dev_add(&l->config.devs, &d, &added));
	struct host_end *place = host_end_add(&l->ends, added->id);
	BUG_ON(place == NULL); /* as many as devices */
	place->fd = fd_move(&end->fd);
	place->header = end->header;
	struct err *e = stand_still(l);
	if (e == NULL) {
		e = machine_plug(l->machine, added);
		let_go(l);
	}
	if (e != NULL) {
		forget(l, d.slot);
		return e;
	}
	*ret_dev = added;
	return NULL;
}

/* ---- out ---- */

static void arm(struct life *l, uint64_t retry_ns)
{
	uint64_t at = retry_ns;
	for (const struct life_unplug *u = l->unplugs; u != NULL; u = u->next) {
		at = MIN(at, u->until_ns);
	}
	if (l->unplug_timer != NULL) {
		loop_timer_set(l->unplug_timer, at);
	}
}

static void on_unplug_timer(void *arg)
{
	life_slots_look(arg);
}

/* Ends the waits for a device (NULL: all) for which `over` holds. */
static void tell_unplugs(struct life *l, const char *id, uint64_t now_ns, const char *why)
{
	struct life_unplug **at = &l->unplugs;
	while (*at != NULL) {
		struct life_unplug *u = *at;
		if ((id != NULL && strcmp(u->id, id) != 0) || now_ns < u->until_ns) {
			at = &u->next;
			continue;
		}
		*at = u->next;
		u->fn(u->arg, why != NULL ? ERR(ERR_NOT_NOW, "%s", why) : NULL);
	}
}

static struct err *take_out(struct life *l, unsigned slot)
{
	char id[NAME_BYTES_MAX + 1];
	snprintf(id, sizeof(id), "%s", config_dev_in(&l->config.devs, slot)->id);
	TRY(stand_still(l));
	machine_pull(l->machine, slot);
	let_go(l);
	forget(l, slot);
	tell_unplugs(l, id, UINT64_MAX, NULL);
	return NULL;
}

static bool is_behind(const struct config_dev *d)
{
	return d->slot > CONFIG_SLOT_MAX;
}

static bool given_up(const struct life *l, const struct config_dev *d)
{
	if (!is_behind(d)) {
		return false;
	}
	const struct pcie_port_look k = pcie_port_look(machine_port(l->machine, d->slot));
	return k.leaving && !k.powered;
}

void life_slots_look(struct life *l)
{
	uint64_t retry_ns = UINT64_MAX;
	if (l->machine == NULL || l->job != NULL || l->fsm.state == LIFE_ENDED) {
		return; /* job_done looks again */
	}
	for (unsigned i = l->config.devs.n; i > 0; i--) {
		if (!given_up(l, &l->config.devs.d[i - 1])) {
			continue;
		}
		struct err *e = take_out(l, l->config.devs.d[i - 1].slot);
		if (e != NULL) {
			LOG_D("a device cannot be taken out now: %s", err_msg(e));
			err_drop(e, "it is tried again");
			retry_ns = clock_mono_ns() + RETRY_MS * 1000000ull;
		}
	}
	tell_unplugs(l, NULL, clock_mono_ns(),
		     "the guest has not given it up in time; it may still do so, and --force takes "
		     "it away");
	arm(l, retry_ns);
}

void life_slots_reset(struct life *l)
{
	for (unsigned i = l->config.devs.n; i > 0; i--) {
		const struct config_dev *d = &l->config.devs.d[i - 1];
		if (is_behind(d) && pcie_port_look(machine_port(l->machine, d->slot)).leaving) {
			char id[NAME_BYTES_MAX + 1];
			snprintf(id, sizeof(id), "%s", d->id);
			machine_pull(l->machine, d->slot); /* its file is closed behind it */
			forget(l, d->slot);
			tell_unplugs(l, id, UINT64_MAX, NULL);
		}
	}
}

void life_slots_end(struct life *l)
{
	tell_unplugs(l, NULL, UINT64_MAX, "the VM has ended");
	loop_timer_del(MOVE(l->unplug_timer));
}

static bool waited_for(const struct life *l, const char *id)
{
	for (const struct life_unplug *u = l->unplugs; u != NULL; u = u->next) {
		if (strcmp(u->id, id) == 0) {
			return true;
		}
	}
	return false;
}

struct err *life_unplug(struct life *l, struct life_unplug *u, bool force, uint64_t timeout_ms,
			bool *ret_waits)
{
	TRY(may_plug(l));
	const struct config_dev *d = config_dev_find(&l->config.devs, u->id);
	ENSURE(d != NULL, ERR_NOTFOUND, "'%s' has no device '%.64s'", l->config.name, u->id);
	ENSURE(is_behind(d), ERR_USAGE,
	       "device '%s' is built in: only what was plugged in can be taken out", d->id);
	struct pci_dev *port = machine_port(l->machine, d->slot);
	bool off = !pcie_port_look(port).powered;
	ENSURE(force || off || l->fsm.state == LIFE_RUNNING, ERR_NOT_NOW,
	       "the vCPUs of '%s' are suspended, so it cannot give '%s' up: resume it, or take the "
	       "device with --force",
	       l->config.name, d->id);
	u->until_ns = clock_mono_ns() + timeout_ms * 1000000u;
	if (l->unplug_timer == NULL) {
		TRY(loop_timer_add(l->loop, on_unplug_timer, l, &l->unplug_timer));
	}
	if (force || off) {
		return take_out(l, d->slot);
	}
	/* Twice within some seconds takes the wish back. */
	if (!waited_for(l, d->id)) {
		pcie_port_press(port);
	}
	u->next = l->unplugs;
	l->unplugs = u;
	*ret_waits = true;
	arm(l, UINT64_MAX);
	return NULL;
}

/* ---- looking, PME ---- */

unsigned life_bus_of(struct life *l, const struct config_dev *dev)
{
	return is_behind(dev) ? pcie_port_look(machine_port(l->machine, dev->slot)).bus : 0;
}

static struct err *port_of_bus(struct life *l, const char *what, unsigned bus, struct pci_dev **ret)
{
	ENSURE(l->machine != NULL && l->fsm.state != LIFE_ENDED, ERR_NOT_NOW, "'%s' has ended",
	       l->config.name);
	*ret = machine_port_of_bus(l->machine, bus);
	if (*ret == NULL) {
		return err_set_errno(ERR(ERR_NOT_NOW,
					 "%s is not available in this VM: it has no PCI Express "
					 "port for bus %u",
					 what, bus),
				     ENODEV);
	}
	return NULL;
}

struct err *life_dev_on_bus(struct life *l, unsigned bus, const struct config_dev **ret)
{
	struct pci_dev *port = NULL;
	TRY(port_of_bus(l, "HotPlugNetCommand", bus, &port));
	const struct config_dev *d = config_dev_in(&l->config.devs, CONFIG_BEHIND + port->slot);
	ENSURE(d != NULL, ERR_NOTFOUND, "nothing is plugged in on bus %u", bus);
	*ret = d;
	return NULL;
}

struct err *life_pme(struct life *l, uint16_t requester)
{
	struct pci_dev *port = NULL;
	TRY(port_of_bus(l, "PciPme", requester >> 8, &port));
	return err_wrap(pcie_port_pme(port, requester), "PciPme");
}
