/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI: the host bridge with its one bus, and what every device on that bus shares: configuration
 * space with capabilities, one or more memory BARs that the guest may move, INTA and MSI-X.
 *
 * A device on the bus embeds struct pci_dev as its first member (which embeds struct device), says
 * in its pci_ops what its BARs do, and keeps struct pci_state in its own saved record. Its slot
 * (device number) comes from the configuration and never changes, so that a guest finds it again
 * after a restore. Function 0 only. Places PCI_BEHIND + n are behind the root port in slot n
 * (pcie_port.h): device 0 of a bus of their own.
 *
 * Threads: configuration space and BARs are accessed by vCPU threads. pci_dev.lock (RANK_DEVICE)
 * guards all of a device, the host bridge's own lock (RANK_BUS) the decoding table and the shared
 * interrupt lines. Functions that say so are called with pci_dev.lock held. The lock of a root port
 * is RANK_PORT: it is taken before that of the device behind it.
 *
 * Source: PCI Local Bus 3.0, chapter 6; PCI Firmware 3.2 (ECAM).
 */
#ifndef TORPOR_DEVICES_PCI_H
#define TORPOR_DEVICES_PCI_H

#include "core/base/lock.h"
#include "devices/dev.h"

/* Where the bus is in the machine; core/acpi.c tells the guest the same. */
#define PCI_ECAM_BASE 0xe0000000ull
#define PCI_ECAM_BUSES 16u
#define PCI_ECAM_BYTES (PCI_ECAM_BUSES << 20)
#define PCI_WIN32_BASE 0xc0000000ull /* GMEM_LOW_END */
#define PCI_WIN32_BYTES 0x20000000ull
/* The 64-bit window lies above all RAM: see pci_win64. */
#define PCI_WIN64_MIN (256ull * GIB)
#define PCI_GSI_BASE 16u /* INTA of slot n is GSI PCI_GSI_BASE + n % PCI_GSIS: IOAPIC pins 16.. */
#define PCI_GSIS 8u

enum {
	PCI_SLOTS = 32,
	PCI_BEHIND = PCI_SLOTS, /* place PCI_BEHIND + n: behind the root port in slot n */
	PCI_PLACES = PCI_BEHIND + PCI_SLOTS,
	PCI_CONFIG_BYTES = 256,
	PCI_BARS = 6,
	PCI_MSIX_MAX = 64,
	PCI_MSIX_ENTRY_BYTES = 16,

	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_HEADER_TYPE = 0x0e,
	PCI_CLASS = 0x09, /* 3 bytes: interface, subclass, class */
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e,
	PCI_CAP_POINTER = 0x34,
	PCI_INT_LINE = 0x3c,
	PCI_INT_PIN = 0x3d,
	PCI_FIRST_CAP = 0x40,

	PCI_CMD_MEMORY = 1 << 1,
	PCI_CMD_MASTER = 1 << 2,
	PCI_CMD_INTX_OFF = 1 << 10,
	PCI_STS_INTX = 1 << 3,
	PCI_STS_CAPS = 1 << 4,

	PCI_CAP_VENDOR = 0x09,
	PCI_CAP_EXPRESS = 0x10,
	PCI_CAP_MSIX = 0x11,
};

struct pci_host;
struct pci_dev;

struct pci_msix_entry {
	uint64_t addr;
	uint32_t data;
	uint32_t control; /* bit 0: masked */
};

/* The part of a device's saved state that belongs to PCI. */
struct pci_state {
	uint8_t config[PCI_CONFIG_BYTES];
	uint32_t nvectors; /* 0: no MSI-X */
	bool intx;         /* the device asserts INTA, whether the line shows it or not */
	uint8_t pad[3];
	struct pci_msix_entry msix[PCI_MSIX_MAX];
	uint64_t msix_pending; /* one bit per vector */
};

extern const struct state_desc pci_dev_desc;

struct pci_ops {
	/* An access to a BAR, without any lock; off + len is inside the BAR, len 1, 2, 4 or 8. */
	void (*bar_read)(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len,
			 uint64_t *data);
	void (*bar_write)(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len,
			  uint64_t data);
	/* After a write that changed the command register or a BAR. With p->lock held. May be NULL.
	 */
	void (*moved)(struct pci_dev *p);
	/* Before a read of, and after a write to, configuration bytes [off, off + len) that lie in
	 * a capability with side effects. With p->lock held. May be NULL. */
	void (*config_before_read)(struct pci_dev *p, unsigned off, unsigned len);
	void (*config_after_write)(struct pci_dev *p, unsigned off, unsigned len);
	/* The device lost its power, or was reset by its port: as the driver's own reset. With p->lock
	 * held. NULL only where no port is above the device. */
	void (*reset)(struct pci_dev *p);
	/* Root ports, else NULL. A device is about to come behind the port: gives it what it needs
	 * there, with its lock held. And it is there from power-on, with that memory. */
	void (*adopt)(struct pci_dev *port, struct pci_dev *behind);
	void (*cold)(struct pci_dev *port, uint64_t mem_base, uint64_t mem_len);
};

struct pci_dev {
	struct device dev; /* dev.ops->read and ->write are not used */
	const struct pci_ops *pci_ops;
	struct pci_host *bus; /* NULL before pci_host_add */
	unsigned slot;
	struct lock lock; /* RANK_DEVICE */
	/* [lock] from here */
	struct pci_state live;
	/* Const after build: bits that the guest may change, that it clears by writing 1, and that
	 * the device changes by itself; and the registers after power-on. */
	uint8_t writable[PCI_CONFIG_BYTES];
	uint8_t clears[PCI_CONFIG_BYTES];
	uint8_t varies[PCI_CONFIG_BYTES];
	uint8_t fresh[PCI_CONFIG_BYTES];
	uint64_t bar_bytes[PCI_BARS];       /* const after build; 0: none */
	unsigned cap_end;                   /* where the next capability goes */
	unsigned cap_last;                  /* where the pointer to it goes */
	unsigned msix_cap;                  /* offset of the MSI-X capability, 0: none */
	unsigned msix_bar;
	uint64_t msix_table;
	uint64_t msix_pba;
};

/* ---- building a device ---- */

struct pci_ids {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint8_t revision;
	uint32_t class; /* 24 bits */
};
void pci_dev_init(struct pci_dev *p, const struct pci_ops *ops, const struct pci_ids *ids);
void pci_dev_done(struct pci_dev *p);
/* Gives its lock another rank than RANK_DEVICE; before anybody uses it. */
void pci_dev_rank(struct pci_dev *p, enum lock_rank rank);
/* A 64-bit memory BAR in registers bar and bar + 1; a power of two of at least a page. */
void pci_add_bar64(struct pci_dev *p, unsigned bar, uint64_t len_bytes);
/* A capability of len bytes, its first two (id, next) included; body and the writable mask start
 * after these two. Returns its offset. */
unsigned pci_add_cap(struct pci_dev *p, uint8_t id, const void *body, const void *writable,
		     unsigned len);
/* n vectors, with table and pending bits in a BAR at page-aligned offsets. */
void pci_add_msix(struct pci_dev *p, unsigned n, unsigned bar, uint64_t table, uint64_t pba);

/* ---- serving it (with p->lock held) ---- */

/* True when the access belongs to the MSI-X table or its pending bits, and was served. */
bool pci_msix_read(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t *data);
bool pci_msix_write(struct pci_dev *p, unsigned bar, uint64_t off, unsigned len, uint64_t data);
bool pci_msix_on(const struct pci_dev *p);
/* Sends vector v, or notes it as pending where the guest masked it. */
void pci_msix_fire(struct pci_dev *p, unsigned v);
/* INTA; shows on the line unless the guest switched it off or uses MSI-X. */
void pci_set_intx(struct pci_dev *p, bool level);
/* The address of a BAR while the guest has it decoded, here and in the port above, else 0. */
uint64_t pci_bar_gpa(const struct pci_dev *p, unsigned bar);
/* The registers as after power-on, addresses forgotten; ops->reset first. */
void pci_reset(struct pci_dev *p);

/* For the device's part operations. commit refuses (ERR_INCOMPAT) what another device saved. */
void pci_fetch(struct pci_dev *p, struct pci_state *ret);
/* Can this device take that state? ERR_INCOMPAT; nothing changes. */
MUST_USE struct err *pci_match(const struct pci_dev *p, const struct pci_state *from);
MUST_USE struct err *pci_commit(struct pci_dev *p, const struct pci_state *from);

/* ---- the host bridge ---- */

struct pci_window {
	uint64_t base;
	uint64_t len;
};
/* The 64-bit window of a machine whose RAM ends at ram_end; the same for ever, as guests keep it.
 */
struct pci_window pci_win64(uint64_t ram_end);

struct pci_host_state {
	uint32_t address; /* the register at 0xcf8 */
};
extern const struct state_desc pci_host_desc;

/* The bridge is itself device 0 of the bus. ret_host is freed with ret_dev. */
MUST_USE struct err *pci_host_new(const struct dev_host *host, struct device **ret_dev,
				  struct pci_host **ret_host);
/*
 * Puts a device into a slot, 1 to 31, or behind a root port that is there. While no vCPU runs. cold:
 * the machine is being built, and its BARs get addresses as a firmware would give them.
 */
MUST_USE struct err *pci_host_add(struct pci_host *h, struct pci_dev *p, unsigned slot, bool cold);
/* Takes a device out again that is behind a port; it is reset. While no vCPU runs. */
void pci_host_remove(struct pci_host *h, struct pci_dev *p);
/* NULL: nothing is there. While no vCPU runs, or on the thread that adds and removes. */
struct pci_dev *pci_host_at(const struct pci_host *h, unsigned slot);
/* Slots in use as a bit mask, for the _PRT. */
uint32_t pci_host_slots(const struct pci_host *h);

/* What a root port lets through to the device behind it. */
struct pci_link {
	bool up;           /* there is a device, it has power and is not held in reset */
	uint8_t bus;       /* the number of the bus behind the port; 0: none yet */
	uint64_t mem_base; /* memory that is forwarded */
	uint64_t mem_len;
};
/*
 * From now on the port in p's slot lets that through. reset: the device behind it is as after
 * power-on from here on. With p->lock held.
 */
void pci_host_link(struct pci_host *h, struct pci_dev *p, const struct pci_link *l, bool reset);
/* Does the port above p, if any, forward all of these addresses to it? With p->lock held. */
bool pci_host_forwards(struct pci_host *h, const struct pci_dev *p, uint64_t base, uint64_t len);

/* For pci.c: the device's decoded BARs changed; its line's level, silently when it was loaded (the
 * interrupt controller has a record of its own). With p->lock held. */
void pci_host_decode(struct pci_host *h, struct pci_dev *p);
void pci_host_line(struct pci_host *h, const struct pci_dev *p, bool level, bool silent);
/* For pci_host.c, with p->lock held: what the BAR's registers say, and the configuration space. */
uint64_t pci_bar_asked(const struct pci_dev *p, unsigned bar);
uint32_t pci_config_read(struct pci_dev *p, unsigned off, unsigned len);
void pci_config_write(struct pci_dev *p, unsigned off, unsigned len, uint32_t v);

#endif
