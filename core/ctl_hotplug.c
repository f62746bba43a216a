/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that plug devices in and take them out. Called by ctl_handlers.c on the main loop's
 * thread. The client opens what is behind a device and sends the descriptor along: this process
 * opens no file or interface any more. Nothing here blocks: an automatic take gives way first, and
 * the guest takes its time to give a device up.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/ctl_internal.h"

enum { UNPLUG_MS = 30000 }; /* Linux alone waits five seconds for a second press */

/* One request on its way. Freed with its answer. */
struct plug_req {
	struct pending *p;
	struct life *life;
	struct life_waiter waiter;
	bool add;
	bool bus_answer; /* in crosvm's form */
	/* In. */
	struct config_dev dev;
	struct host_end end;
	/* Out. */
	enum config_kind kind;
	unsigned bus; /* instead of unplug.id; 0: that counts */
	bool force;
	uint64_t timeout_ms;
	struct life_unplug unplug;
};

/* ---- the answer ---- */

static void plug_end(struct plug_req *r, char *text, struct err *e)
{
	fd_close(&r->end.fd);
	ctl_pending_end(r->p, text, e);
	free(r);
}

static char *added_text(struct plug_req *r, const struct config_dev *d)
{
	int bus = (int)life_bus_of(r->life, d);
	json_t *body = r->bus_answer ? json_pack("{s:{s:i}}", "PciHotPlugResponse", "bus", bus)
				     : json_pack("{s:{s:{s:s,s:i,s:i}}}", "Torpor", "DeviceAdded",
						 "id", d->id, "slot", (int)d->slot, "bus", bus);
	return ctl_answer_json(body);
}

static void on_unplugged(void *arg, struct err *e)
{
	struct plug_req *r = arg;
	plug_end(r, e == NULL ? ctl_answer_ok() : NULL, err_wrap(e, "device '%s'", r->unplug.id));
}

/* ---- doing it ---- */

static struct err *unplug(struct plug_req *r, bool *ret_waits)
{
	const struct config_dev *d = NULL;
	if (r->bus != 0) {
		TRY(life_dev_on_bus(r->life, r->bus, &d));
		memcpy(r->unplug.id, d->id, sizeof(r->unplug.id));
	} else {
		d = config_dev_find(&life_config(r->life)->devs, r->unplug.id);
	}
	ENSURE(d == NULL || d->kind == r->kind, ERR_USAGE, "device '%s' is a %s, no %s", d->id,
	       config_kind_name(d->kind), config_kind_name(r->kind));
	r->unplug.fn = on_unplugged;
	r->unplug.arg = r;
	return life_unplug(r->life, &r->unplug, r->force, r->timeout_ms, ret_waits);
}

/* The VM can be changed now, or (e) never more. */
static void plug_now(void *arg, struct err *e)
{
	struct plug_req *r = arg;
	const struct config_dev *d = NULL;
	bool waits = false;
	if (e == NULL && r->p->ctl == NULL) {
		e = ERR(ERR_CANCELLED, "the VM ends");
	}
	if (e == NULL) {
		e = r->add ? life_plug(r->life, &r->dev, &r->end, &d) : unplug(r, &waits);
	}
	if (waits) {
		if (r->p->id == 0) {
			ctl_pending_begun(r->p);
		}
		return; /* on_unplugged answers */
	}
	plug_end(r, e != NULL ? NULL : r->add ? added_text(r, d) : ctl_answer_ok(), e);
}

static void submit(struct call *call, const struct plug_req *from)
{
	struct plug_req *r = malloc(sizeof(*r));
	const char *kind = !from->add                      ? "DeviceRemove"
			   : from->dev.kind == CONFIG_DISK ? "DiskAdd"
							   : "NetAdd";
	struct pending *p =
		r != NULL ? ctl_pending_new(call, kind, from->timeout_ms + LIMIT_STEP_MS) : NULL;
	if (p == NULL) {
		if (r == NULL) {
			ctl_reply(call->conn, ctl_answer_json(NULL));
		}
		fd_close(&(struct fd){ from->end.fd.n });
		free(r);
		return;
	}
	*r = *from;
	r->p = p;
	r->life = call->ctl->life;
	r->waiter = (struct life_waiter){ .fn = plug_now, .arg = r };
	if (life_give_way(call->ctl->life, &r->waiter)) {
		ctl_pending_begun(p);
	} else {
		plug_now(r, NULL);
	}
}

/* ---- what is asked for ---- */

static struct err *check_disk_fd(int fd, bool read_only)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, &st) != 0) {
		return ERR_ERRNO("DiskAdd.fd");
	}
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_USAGE,
	       "DiskAdd.fd: it is neither a regular file nor a block device");
	int mode = flags & O_ACCMODE;
	ENSURE((flags & O_PATH) == 0 && (mode == O_RDWR || (read_only && mode == O_RDONLY)),
	       ERR_USAGE, "DiskAdd.fd: it is not open for reading%s",
	       read_only ? "" : " and writing");
	return NULL;
}

static struct err *check_net_fd(int fd)
{
	struct stat st;
	if (fstat(fd, &st) != 0) {
		return ERR_ERRNO("the device's descriptor");
	}
	ENSURE(S_ISCHR(st.st_mode) || S_ISSOCK(st.st_mode), ERR_USAGE,
	       "the device's descriptor is neither a tap nor a socket");
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
		return ERR_ERRNO("the device's descriptor");
	}
	return NULL;
}

static struct err *read_disk(struct call *call, struct plug_req *r)
{
	const struct ctl_disk_add *a = &call->req->torpor.cmd.disk_add;
	TRY(check_disk_fd(call->fds[a->fd].n, a->ro));
	r->add = true;
	r->dev = (struct config_dev){
		.kind = CONFIG_DISK,
		.read_only = a->ro,
		.queues = a->queues != 0 ? (unsigned)a->queues : 1,
	};
	memcpy(r->dev.id, a->id, sizeof(r->dev.id));
	memcpy(r->dev.path, a->path, sizeof(r->dev.path));
	r->end.fd = fd_move(&call->fds[a->fd]);
	return NULL;
}

static struct err *read_net(struct call *call, struct plug_req *r)
{
	const struct ctl_net_add *a = &call->req->torpor.cmd.net_add;
	r->add = true;
	r->dev = (struct config_dev){ .kind = CONFIG_NET, .mtu = (unsigned)a->mtu };
	memcpy(r->dev.id, a->id, sizeof(r->dev.id));
	memcpy(r->dev.path, a->end, sizeof(r->dev.path));
	r->dev.mac_chosen = a->mac[0] != 0;
	TRY(r->dev.mac_chosen ? config_mac_parse(a->mac, r->dev.mac) : config_mac_make(r->dev.mac));
	r->end.header = a->header;
	if (a->fd >= 0) {
		TRY(check_net_fd(call->fds[a->fd].n));
		r->end.fd = fd_move(&call->fds[a->fd]);
	}
	return NULL;
}

void ctl_hotplug(struct call *call)
{
	const struct ctl_torpor *t = &call->req->torpor;
	struct plug_req r = { .end.fd = FD_NONE, .timeout_ms = UNPLUG_MS };
	struct err *e = NULL;
	if (t->cmd.cmd == CTL_TORPOR_DISK_ADD) {
		e = read_disk(call, &r);
	} else if (t->cmd.cmd == CTL_TORPOR_NET_ADD) {
		e = read_net(call, &r);
	} else {
		const struct ctl_device_remove *d = &t->cmd.device_remove;
		memcpy(r.unplug.id, d->id, sizeof(r.unplug.id));
		r.kind = d->kind == 0 ? CONFIG_DISK : CONFIG_NET;
		r.force = d->force;
		r.timeout_ms = d->timeout_ms != 0 ? d->timeout_ms : UNPLUG_MS;
	}
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	submit(call, &r);
}

/* The tap comes along as the packet's only descriptor, open and with virtio's header. */
static struct err *read_tap(struct call *call, struct plug_req *r)
{
	const char *tap = call->req->net.tap;
	ENSURE(call->nfds == 1, ERR_USAGE,
	       "HotPlugNetCommand: send one descriptor along, of the open tap '%s' (with virtio's "
	       "header): the VM's process opens no interface",
	       tap);
	r->add = true;
	r->bus_answer = true;
	r->dev = (struct config_dev){ .kind = CONFIG_NET };
	snprintf(r->dev.path, sizeof(r->dev.path), "tap=%s", tap);
	TRY(config_mac_make(r->dev.mac));
	TRY(check_net_fd(call->fds[0].n));
	r->end.header = true;
	r->end.fd = fd_move(&call->fds[0]);
	return NULL;
}

void ctl_hotplug_net(struct call *call)
{
	const struct ctl_net *n = &call->req->net;
	struct plug_req r = { .end.fd = FD_NONE, .timeout_ms = UNPLUG_MS, .kind = CONFIG_NET };
	if (n->cmd == CTL_NET_ADD) {
		struct err *e = read_tap(call, &r);
		if (e != NULL) {
			ctl_reply_err(call->conn, e);
			return;
		}
	} else if (n->bus == 0) {
		ctl_reply_err(call->conn, ERR(ERR_USAGE, "HotPlugNetCommand: bus 0 has no port"));
		return;
	} else {
		r.bus = (unsigned)n->bus;
	}
	submit(call, &r);
}
