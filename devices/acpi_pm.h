/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI fixed hardware (ACPI 6.4, chapter 4.8): PM1 event and control blocks, general-purpose event
 * block 0 with 256 events, power-management timer, reset register; SCI on GSI 9, level. Always in
 * ACPI mode: there is no SMI command port.
 *
 * Threads as in dev.h. The functions that bring events in may be called from any thread, also with
 * another device's lock held and while the VM is suspended or saved: what they bring is noted at
 * once, is part of a state saved from then on, and reaches the registers once callbacks run.
 */
#ifndef TORPOR_DEVICES_ACPI_PM_H
#define TORPOR_DEVICES_ACPI_PM_H

#include "devices/dev.h"

#define ACPI_PM_EVT_PORT 0x600u
#define ACPI_PM_CNT_PORT 0x604u
#define ACPI_PM_TMR_PORT 0x608u
#define ACPI_PM_GPE_PORT 0x620u
#define ACPI_PM_RESET_PORT 0xcf9u
#define ACPI_PM_SCI_GSI 9u
#define ACPI_PM_SLP_TYP_S5 5u /* as the DSDT's _S5 says */
#define ACPI_PM_TIMER_HZ 3579545u
#define ACPI_PM_GPES 256u
#define ACPI_PM_GPE_BYTES (ACPI_PM_GPES / 8) /* of status; as many of enable bits behind */
#define ACPI_PM_CLEARS_MAX 32u               /* clear events waited for at a time */

/* The SCI line, as the irqchip's record has it. */
enum acpi_pm_sci {
	ACPI_PM_SCI_LOW,
	ACPI_PM_SCI_HIGH,
	ACPI_PM_SCI_FOLLOWS, /* records of version 1: what the registers say */
};

struct acpi_pm_state {
	uint16_t pm1_sts;
	uint16_t pm1_en;
	uint16_t pm1_cnt; /* without SCI_EN (always set) and SLP_EN (reads 0) */
	uint8_t reset;    /* last value written to the reset register */
	uint8_t sci;      /* enum acpi_pm_sci */
	uint64_t seen_ticks; /* timer count up to which TMR_STS is worked out, not wrapped */
	uint8_t gpe_sts[ACPI_PM_GPE_BYTES];
	uint8_t gpe_en[ACPI_PM_GPE_BYTES];
};

extern const struct state_desc acpi_pm_desc;

MUST_USE struct err *acpi_pm_new(const struct dev_host *host, struct device **ret_dev);

/* Presses the power or the sleep button. */
void acpi_pm_powerbtn(struct device *dev);
void acpi_pm_sleepbtn(struct device *dev);
/*
 * A general-purpose event, and the RTC's fixed event. With clear_fd >= 0 (an eventfd, taken over in
 * any case) the event is a level: whenever the guest clears its status it is set again, so that
 * SCI comes back at the end of the interrupt, until clear_fd is readable. A newer clear event takes
 * the place of an older one of the same source. Errors: ERR_USAGE for a number out of range,
 * ERR_LIMIT when ACPI_PM_CLEARS_MAX are waited for.
 */
MUST_USE struct err *acpi_pm_gpe(struct device *dev, unsigned gpe, int clear_fd);
MUST_USE struct err *acpi_pm_rtc(struct device *dev, int clear_fd);
/* A PCI Express device asks to wake the system (WAKE#): PCIEXP_WAKE_STS; no SCI by itself. */
void acpi_pm_pme(struct device *dev);

#endif
