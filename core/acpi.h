/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables for the guest: RSDP, XSDT, FADT (reduced hardware off, reset register, PM1 block),
 * MADT, DSDT (compiled by iasl at build time from core/dsdt.asl), and for a machine that has them
 * MCFG and SSDT of the PCI bus, an SSDT of its root ports and one of the VM generation id. ACPI 6.4, sections 5.2.x.
 * A small DSDT is boot time. Called by core when a VM is built or rebuilt.
 */
#ifndef TORPOR_CORE_ACPI_H
#define TORPOR_CORE_ACPI_H

#include "core/gmem.h"

/* I/O ports of fixed hardware; the devices that answer there are in devices/acpi_pm.c. */
#define ACPI_PM1_EVT_PORT 0x600u /* status 2, enable 2 bytes */
#define ACPI_PM1_CNT_PORT 0x604u /* 2 bytes: SLP_TYP/SLP_EN (S5 = power off), SCI_EN */
#define ACPI_RESET_PORT 0xcf9u   /* write 6: reset */
#define ACPI_SCI_GSI 9u
/* The tables live in [ACPI_BASE, ACPI_BASE + ACPI_LEN), below 1 MiB, RSDP first. */
#define ACPI_BASE 0xe0000u
#define ACPI_LEN 0x10000u

/* The VM generation id's page, the last of them. */
#define ACPI_VMGENID_GPA (ACPI_BASE + ACPI_LEN - PAGE_BYTES)
#define ACPI_VMGENID_GPE 0u /* the method _E00 of core/vmgenid.asl */

struct acpi_opts {
	unsigned ncpus;
	uint32_t pci_slots; /* bit n: slot n has a device; 0: there is no PCI bus */
	bool pcie_ports; /* some of these are root ports */
	bool vmgenid;
	bool battery;
	bool s2idle;      /* the guest's sleep is told at a port */
	bool gpe_methods; /* for every event that has none yet */
};
MUST_USE struct err *acpi_build(struct gmem *gmem, const struct acpi_opts *opts, gpa_t *ret_rsdp);

#endif
