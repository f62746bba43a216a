/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI Express root port with one hot-plug slot: bus numbers and a memory window for the device
 * behind it, link, slot and root registers, interrupts for hot-plug and PME.
 *
 * The slot has an attention button, a power controller and both indicators. A device that is put in
 * is there (presence) but silent until the guest switches the slot's power on; from then on it
 * answers in configuration space. To take one out the button is pressed, and the guest switches the
 * power off when it is done with the device; `leaving` notes that somebody waits for that.
 *
 * Threads as in dev.h. What changes a slot from outside (pcie_port_plug and the like) is called on
 * the main loop, when neither a take nor a suspend keeps devices still; pcie_port_pme any time.
 *
 * Source: PCI Express Base 4.0, 6.7 (hot-plug), 6.1.6 (PME), 7.5.3 (capability); PCI-to-PCI Bridge
 * Architecture 1.2, chapter 3.
 */
#ifndef TORPOR_DEVICES_PCIE_PORT_H
#define TORPOR_DEVICES_PCIE_PORT_H

#include "devices/pci.h"

enum { PCIE_PMES_MAX = 8 }; /* that wait for the guest to clear the one before */

/* Offsets in the Express capability, and the bits used by tests as well. */
enum {
	PCIE_CAPS = 0x02,
	PCIE_DEV_CAP = 0x04,
	PCIE_DEV_CTL = 0x08,
	PCIE_LINK_CAP = 0x0c,
	PCIE_LINK_CTL = 0x10,
	PCIE_LINK_STS = 0x12,
	PCIE_SLOT_CAP = 0x14,
	PCIE_SLOT_CTL = 0x18,
	PCIE_SLOT_STS = 0x1a,
	PCIE_ROOT_CTL = 0x1c,
	PCIE_ROOT_STS = 0x20,
	PCIE_LINK_CAP2 = 0x2c,
	PCIE_CAP_BYTES = 0x3c,

	PCIE_LINK_DISABLE = 1 << 4, /* control */
	PCIE_LINK_ACTIVE = 1 << 13, /* status */

	PCIE_SLOT_BUTTON = 1 << 0, /* status, and control: its interrupt */
	PCIE_SLOT_PRESENCE_CHANGED = 1 << 3,
	PCIE_SLOT_COMPLETED = 1 << 4,
	PCIE_SLOT_PRESENT = 1 << 6,      /* status only */
	PCIE_SLOT_IRQ = 1 << 5,          /* control only: hot-plug interrupts on */
	PCIE_SLOT_LINK_CHANGED = 1 << 8, /* status */
	PCIE_SLOT_LINK_IRQ = 1 << 12,    /* control: its interrupt */
	PCIE_SLOT_OFF = 1 << 10,         /* control: the power controller */
	PCIE_SLOT_LAMP_SHIFT = 8,        /* control: the power indicator */
	PCIE_SLOT_ATTENTION_SHIFT = 6,
	PCIE_LAMP_ON = 1,
	PCIE_LAMP_OFF = 3,

	PCIE_ROOT_PME_IRQ = 1 << 3, /* control */
};
#define PCIE_ROOT_PME (1u << 16) /* status */
#define PCIE_ROOT_PME_MORE (1u << 17)

struct pcie_port_state {
	struct pci_state pci;
	bool leaving; /* somebody waits for the guest to give the device up */
	uint8_t pad[3];
	uint32_t npmes;
	uint16_t pmes[PCIE_PMES_MAX]; /* requesters that the root status does not show yet */
};
extern const struct state_desc pcie_port_desc;

/* bus: the number of the bus behind it, as a firmware would give it. */
MUST_USE struct err *pcie_port_new(const struct dev_host *host, unsigned bus,
				   struct pci_dev **ret_dev);
bool pcie_port_is(const struct pci_dev *p);

/* A device was put into the slot (pci_host_add comes before), and the button pressed. */
void pcie_port_plug(struct pci_dev *port);
/* It is out (pci_host_remove comes before): a surprise if the slot had power. */
void pcie_port_pull(struct pci_dev *port);
/* Presses the attention button: the guest is asked to give the device up. */
void pcie_port_press(struct pci_dev *port);

struct pcie_port_look {
	bool present;
	bool powered;
	bool leaving;
	unsigned bus; /* behind it, as the guest numbers it; 0: not yet */
};
struct pcie_port_look pcie_port_look(struct pci_dev *port);

/* The device `requester` (bus, device, function) asks for power management attention. ERR_LIMIT:
 * too many wait. Any time, any thread. */
MUST_USE struct err *pcie_port_pme(struct pci_dev *port, uint16_t requester);

#endif
