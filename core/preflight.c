/* SPDX-License-Identifier: Apache-2.0 */
/* A machine built for nothing but to be asked. See preflight.h. */
#include "core/preflight.h"

#include <string.h>

#include "core/base/bytes.h"
#include "core/machine.h"
#include "devices/pci.h"
#include "devices/serial_link.h"
#include "devices/virtio_blk.h"

enum { SHOW_BYTES_MAX = 256 << 20 };

/* What is built, in this order; freed from the end. */
struct rig {
	struct fd kvm;
	struct loop *loop;
	struct gmem *gmem;
	struct config config;     /* a copy of the caller's: what it points to is the caller's */
	struct serial_link *link; /* a console with nothing behind it */
	struct host_ends ends;    /* the caller's, and the console's */
	struct machine *machine;
};

static void rig_done(struct rig *r)
{
	machine_free(r->machine);
	serial_link_free(r->link);
	gmem_free(r->gmem);
	loop_free(r->loop);
	fd_close(&r->kvm);
}

/* Disks without a file go from the configuration into parts that can be decoded and no more. */
struct absent {
	struct snap_part part[CONFIG_DEVS_MAX + 1];
	size_t n;
};

static void add_absent(struct absent *a, const struct state_desc *desc, unsigned instance)
{
	static const struct snap_part_ops none = { 0 };
	a->part[a->n++] = (struct snap_part){
		.name = desc->name,
		.instance = instance,
		.park_rank = SNAP_RANK_DEVICE,
		.commit_rank = SNAP_RANK_DEVICE,
		.desc = desc,
		.ops = &none,
	};
}

static void leave_out(struct config_devs *devs, const struct host_ends *ends, struct absent *ret)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < devs->n; i++) {
		const struct config_dev *d = &devs->d[i];
		if (d->kind != CONFIG_DISK || host_end_find(ends, d->id) != NULL) {
			memmove(&devs->d[kept++], d, sizeof(*d));
			continue;
		}
		add_absent(ret, &virtio_blk_desc, d->slot);
	}
	if (kept == 0 && devs->n > 0) {
		add_absent(ret, &pci_host_desc, 0); /* no devices, no bus (machine_pci.c) */
	}
	devs->n = kept;
}

static void on_event(void *arg, enum machine_event ev, char *report)
{
	(void)arg; /* no vCPU runs: nobody asks for anything */
	(void)ev;
	free(report);
}

/* Consoles and socket devices, to nothing. */
static struct err *tie_ends(struct rig *r)
{
	TRY(serial_link_new(-1, -1, -1, &r->link));
	for (unsigned i = 0; i < r->config.devs.n; i++) {
		enum config_kind kind = r->config.devs.d[i].kind;
		if (kind == CONFIG_CONSOLE || kind == CONFIG_VSOCK) {
			host_end_next(&r->ends, r->config.devs.d[i].id)->link = r->link;
			r->ends.n++;
		}
	}
	return NULL;
}

static struct err *build(struct rig *r)
{
	TRY(tie_ends(r));
	const struct machine_opts o = {
		.kvm = r->kvm.n,
		.loop = r->loop,
		.config = &r->config,
		.gmem = r->gmem,
		.serial_in = -1,
		.serial_out = -1,
		.serial_listen = -1,
		.ends = &r->ends,
		.log_dirty = true,
		.on_event = on_event,
	};
	return machine_new(&o, &r->machine);
}

/* False: it was told why there is no machine. */
static bool set_up(struct rig *r, const struct findings *f)
{
	struct err *kvm = kvm_open(&r->kvm);
	struct err *memory = gmem_new(r->config.mem_bytes, &r->gmem);
	struct err *loop = loop_new(&r->loop);
	bool ok = kvm == NULL && memory == NULL && loop == NULL;
	finding(f, "kvm", kvm);
	finding(f, "memory", memory);
	finding(f, "kvm", loop);
	struct err *machine = ok ? build(r) : NULL;
	finding(f, "device", machine);
	return r->machine != NULL;
}

static struct err *ask(struct rig *r, struct snap_image *image, struct absent *absent,
		       const struct findings *f)
{
	struct snap_host here;
	TRY(machine_host_facts(r->machine, &here));
	snap_image_compat_all(image, &here, f);
	size_t n = 0;
	struct snap_part *const *parts = machine_parts(r->machine, &n);
	struct snap_part *all[PARTS_MAX + ARRAY_LEN(absent->part)];
	BUG_ON(n > PARTS_MAX);
	memcpy(all, parts, n * sizeof(parts[0]));
	for (size_t i = 0; i < absent->n; i++) {
		all[n++] = &absent->part[i];
	}
	snap_image_probe(image, r->gmem, all, n, f);
	return NULL;
}

/* Without a machine the records can still be read. */
static struct err *decode_only(struct snap_image *image)
{
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(SHOW_BYTES_MAX);
	return snap_image_show(image, machine_find_desc, &out);
}

void preflight(const struct config *config, struct snap_image *image, const struct host_ends *ends,
	       const struct findings *f)
{
	SCOPE(rig_done) struct rig r = { .kvm = FD_NONE, .config = *config, .ends = *ends };
	struct absent absent = { .n = 0 };
	leave_out(&r.config.devs, ends, &absent);
	if (set_up(&r, f)) {
		finding(f, "kvm", ask(&r, image, &absent, f));
	} else {
		finding(f, "state", decode_only(image));
	}
}
