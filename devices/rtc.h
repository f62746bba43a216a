/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MC146818 real-time clock with 128 bytes of CMOS memory at ports 0x70 and 0x71, IRQ 8.
 *
 * The time is the VM's wall time plus what the guest set it off by. Update, alarm and periodic
 * events are worked out from the time that passed since they were last looked at; a host timer runs
 * only while an interrupt of theirs is enabled. Threads as in dev.h.
 */
#ifndef TORPOR_DEVICES_RTC_H
#define TORPOR_DEVICES_RTC_H

#include "devices/dev.h"

#define RTC_PORT 0x70u
#define RTC_GSI 8u
#define RTC_CENTURY 0x32u /* CMOS index of the century, told in the FADT */
#define RTC_RAM_BYTES 128u

struct rtc_state {
	uint8_t index; /* selected CMOS byte */
	uint8_t reg_a; /* without UIP, which follows from the time */
	uint8_t reg_b;
	uint8_t reg_c;
	uint8_t pad[4];
	/* RTC time minus VM wall time, ns, modulo 2^64. */
	uint64_t offset_ns;
	/* RTC time up to which events are in reg_c, ns since 1970. */
	uint64_t seen_ns;
	/* 0..9 hold alarms, and the time too while SET stops it; 10..13 unused; then NVRAM. */
	uint8_t ram[RTC_RAM_BYTES];
};

extern const struct state_desc rtc_desc;

MUST_USE struct err *rtc_new(const struct dev_host *host, struct device **ret_dev);

#endif
