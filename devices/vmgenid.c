/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VM generation id. See vmgenid.h. It has no registers: the guest finds the address in an ACPI
 * table and reads memory. Commit puts the new id into memory while no vCPU runs; the event follows
 * from a timer, because a commit raises no interrupt.
 */
#include "devices/vmgenid.h"

#include "core/base/hash.h"

struct vmgenid {
	struct device dev;
	gpa_t at;                   /* const */
	struct vmgenid_state saved; /* part.state; only the thread of a take or load */
};

static struct vmgenid *vmgenid_of(struct device *dev)
{
	return CONTAINER_OF(dev, struct vmgenid, dev);
}

struct err *vmgenid_renew(struct device *dev)
{
	struct vmgenid *g = vmgenid_of(dev);
	uint8_t id[16];
	TRY(random_bytes(id, sizeof(id)));
	return err_wrap(gmem_write(g->dev.host->gmem, g->at, id, sizeof(id)), "VM generation id");
}

static void vmgenid_on_timer(struct device *dev)
{
	dev->host->event(dev->host->self, DEV_EVENT_GENERATION);
}

static void vmgenid_free(struct device *dev)
{
	if (dev != NULL) {
		free(vmgenid_of(dev));
	}
}

static struct err *vmgenid_fetch(void *self)
{
	struct vmgenid *g = self;
	return gmem_read(g->dev.host->gmem, g->at, g->saved.id, sizeof(g->saved.id));
}

static struct err *vmgenid_commit(void *self)
{
	struct vmgenid *g = self;
	TRY(vmgenid_renew(&g->dev));
	g->dev.host->set_timer(g->dev.host->self, &g->dev, 0);
	return NULL;
}

static const struct state_field vmgenid_fields[] = {
	FIELD_BLOB(struct vmgenid_state, 1, id),
};

const struct state_desc vmgenid_desc = {
	.name = "vmgenid",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct vmgenid_state),
	.fields = vmgenid_fields,
	.nfields = ARRAY_LEN(vmgenid_fields),
};

static const struct snap_part_ops vmgenid_part_ops = {
	.fetch = vmgenid_fetch,
	.commit = vmgenid_commit,
};

static const struct dev_ops vmgenid_ops = {
	.name = "vmgenid",
	.on_timer = vmgenid_on_timer,
	.free = vmgenid_free,
};

struct err *vmgenid_new(const struct dev_host *host, gpa_t at, struct device **ret_dev)
{
	struct vmgenid *g = calloc(1, sizeof(*g));
	ENSURE(g != NULL, ERR_SYS, "out of memory");
	g->at = at;
	g->dev = (struct device){
		.ops = &vmgenid_ops,
		.host = host,
		.part = {
			.name = vmgenid_desc.name,
			.park_rank = SNAP_RANK_DEVICE,
			.commit_rank = SNAP_RANK_DEVICE,
			.desc = &vmgenid_desc,
			.state = &g->saved,
			.ops = &vmgenid_part_ops,
			.self = g,
		},
	};
	*ret_dev = &g->dev;
	return NULL;
}
