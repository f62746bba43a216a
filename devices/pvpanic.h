/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pvpanic: one port at which a guest says that it panicked, and the exit device: one port at which
 * a test guest ends its VM with a status of its choice. Neither has state. Called by vCPU threads.
 */
#ifndef TORPOR_DEVICES_PVPANIC_H
#define TORPOR_DEVICES_PVPANIC_H

#include "devices/dev.h"

#define PVPANIC_PORT 0x505u
#define PVPANIC_PANICKED 0x01u

#define EXIT_DEVICE_PORT 0x501u

MUST_USE struct err *pvpanic_new(const struct dev_host *host, struct device **ret_dev);
MUST_USE struct err *exit_device_new(const struct dev_host *host, struct device **ret_dev);

#endif
