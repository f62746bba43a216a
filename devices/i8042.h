/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8042 keyboard controller without keyboard or mouse: answers every command at once so that a
 * guest's probe is short, and resets the machine by command 0xfe or output port bit 0.
 * Called by vCPU threads; see dev.h.
 */
#ifndef TORPOR_DEVICES_I8042_H
#define TORPOR_DEVICES_I8042_H

#include "devices/dev.h"

#define I8042_DATA_PORT 0x60u
#define I8042_CMD_PORT 0x64u
#define I8042_GSI 1u

struct i8042_state {
	uint8_t config;  /* command byte */
	uint8_t outport; /* output port, bit 0 is "no reset" */
	uint8_t command; /* waits for its data byte on port 0x60; 0: none */
	bool full;       /* output buffer holds a byte */
	uint8_t data;
	bool last_was_command; /* status bit 3 */
	uint8_t pad[2];
};

extern const struct state_desc i8042_desc;

MUST_USE struct err *i8042_new(const struct dev_host *host, struct device **ret_dev);

#endif
