/* SPDX-License-Identifier: Apache-2.0 */
/* The field tables of everything a snapshot holds; for the fuzz target and its corpus maker. */
#ifndef TORPOR_TESTS_FUZZ_TABLES_H
#define TORPOR_TESTS_FUZZ_TABLES_H

#include "core/kvm_state.h"
#include "devices/acpi_pm.h"
#include "devices/battery.h"
#include "devices/i8042.h"
#include "devices/pcie_port.h"
#include "devices/rtc.h"
#include "devices/s2idle.h"
#include "devices/serial.h"
#include "devices/virtio_balloon.h"
#include "devices/virtio_blk.h"
#include "devices/virtio_console.h"
#include "devices/virtio_net.h"
#include "devices/virtio_rng.h"
#include "devices/virtio_vsock.h"
#include "devices/vmgenid.h"
#include "snapshot/desc.h"
#include "snapshot/manifest.h"

static const struct state_desc *const fuzz_tables[] = {
	&kvm_vcpu_desc,   &kvm_irqchip_desc,  &kvm_pit_desc,
	&kvm_clock_desc,  &serial_desc,       &rtc_desc,
	&i8042_desc,      &acpi_pm_desc,      &manifest_desc,
	&pci_host_desc,   &vmgenid_desc,      &virtio_rng_desc,
	&battery_desc,    &virtio_blk_desc,   &virtio_console_desc,
	&virtio_net_desc, &virtio_vsock_desc, &virtio_balloon_desc,
	&s2idle_desc,
	&pcie_port_desc,
};

#endif
