/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VM generation id: 16 random bytes in guest memory, new at boot and at every restore before the
 * first guest instruction, and an ACPI event that says so. A guest mixes them into its entropy, so
 * that two restores of one snapshot do not draw the same random numbers.
 * Called by core at boot; otherwise as dev.h says.
 */
#ifndef TORPOR_DEVICES_VMGENID_H
#define TORPOR_DEVICES_VMGENID_H

#include "devices/dev.h"

struct vmgenid_state {
	uint8_t id[16]; /* as of the snapshot; a load makes another */
};
extern const struct state_desc vmgenid_desc;

/* at: where the id lies in guest memory. */
MUST_USE struct err *vmgenid_new(const struct dev_host *host, gpa_t at, struct device **ret_dev);
/* A new id, without the event: for a guest that boots. */
MUST_USE struct err *vmgenid_renew(struct device *dev);

#endif
