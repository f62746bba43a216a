/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goldfish battery and AC adapter: a page of read-only 32-bit registers and an interrupt when one
 * of them changes. What they show comes from the control plane. Threads as in dev.h; the functions
 * that set values may be called from any thread, also while the VM is suspended or saved.
 */
#ifndef TORPOR_DEVICES_BATTERY_H
#define TORPOR_DEVICES_BATTERY_H

#include "devices/dev.h"

#define BATTERY_MMIO_BASE 0xfea00000ull /* as core/battery.asl says */
#define BATTERY_MMIO_BYTES 0x1000u
#define BATTERY_GSI 5u

enum battery_property {
	BATTERY_STATUS,    /* 0 unknown, 1 charging, 2 discharging, 3 not charging, 4 full */
	BATTERY_HEALTH,    /* 0 unknown, 1 good, 2 overheat, 3 dead, 4 overvoltage, 5 unspecified
			      failure,    6 cold, 7 watchdog timer, 8 safety timer, 9 overcurrent */
	BATTERY_PRESENT,   /* 0 or not 0 */
	BATTERY_CAPACITY,  /* percent; more than 100 is 100 */
	BATTERY_AC_ONLINE, /* 0 or not 0 */
	/* While set the adapter reads as unplugged, the battery as discharging, and the capacity as
	 * at most this many percent (more than 100 is 100). */
	BATTERY_FAKE_MAX,
};

struct battery_state {
	uint32_t status;
	uint32_t health;
	uint32_t present;
	uint32_t capacity;
	uint32_t ac_online;
	bool fake;
	bool line; /* as the irqchip's record has it */
	uint8_t pad[2];
	uint32_t fake_max;
	uint32_t int_status; /* changes that the guest has not read */
	uint32_t int_enable;
};

extern const struct state_desc battery_desc;

MUST_USE struct err *battery_new(const struct dev_host *host, struct device **ret_dev);
/* ERR_USAGE for a status or health that does not exist. */
MUST_USE struct err *battery_set(struct device *dev, enum battery_property what, uint32_t value);
void battery_cancel_fake(struct device *dev);

#endif
