/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port at which the guest says that it goes to sleep (s2idle: all processors halted, no timer
 * runs) and that it is awake again. ACPI guests are shown it by core/s2idle.asl, as firmware shows
 * a low-power idle state. Core hears of each change by DEV_EVENT_S2IDLE. Threads as in dev.h.
 */
#ifndef TORPOR_DEVICES_S2IDLE_H
#define TORPOR_DEVICES_S2IDLE_H

#include "devices/dev.h"

#define S2IDLE_PORT 0x610u /* one byte: 1 asleep, 0 awake; as core/s2idle.asl says */

struct s2idle_state {
	bool asleep;
	uint8_t pad[7];
};
extern const struct state_desc s2idle_desc;

MUST_USE struct err *s2idle_new(const struct dev_host *host, struct device **ret_dev);

/* For core, any thread. */
bool s2idle_asleep(struct device *dev);
/* True once per sleep: the caller is to wake the guest. */
MUST_USE bool s2idle_wake(struct device *dev);

#endif
