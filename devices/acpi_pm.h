/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (ACPI 6.4, chapter 4.8): PM1 event and control blocks, power-management
 * timer, reset register; SCI on GSI 9, level. Always in ACPI mode: there is no SMI command port.
 * Threads as in dev.h.
 */
#ifndef TORPOR_DEVICES_ACPI_PM_H
#define TORPOR_DEVICES_ACPI_PM_H

#include "devices/dev.h"

#define ACPI_PM_EVT_PORT 0x600u
#define ACPI_PM_CNT_PORT 0x604u
#define ACPI_PM_TMR_PORT 0x608u
#define ACPI_PM_RESET_PORT 0xcf9u
#define ACPI_PM_SCI_GSI 9u
#define ACPI_PM_SLP_TYP_S5 5u /* as the DSDT's _S5 says */
#define ACPI_PM_TIMER_HZ 3579545u

struct acpi_pm_state {
	uint16_t pm1_sts;
	uint16_t pm1_en;
	uint16_t pm1_cnt; /* without SCI_EN (always set) and SLP_EN (reads 0) */
	uint8_t reset;    /* last value written to the reset register */
	uint8_t pad;
	uint64_t seen_ticks; /* timer count up to which TMR_STS is worked out, not wrapped */
};

extern const struct state_desc acpi_pm_desc;

MUST_USE struct err *acpi_pm_new(const struct dev_host *host, struct device **ret_dev);
/* Presses the power button: sets PWRBTN_STS, and with it SCI if the guest wants it. Any thread. */
void acpi_pm_power_button(struct device *dev);

#endif
