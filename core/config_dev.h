/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices of a VM beyond those every machine has: which, by what name, in which PCI slot, and
 * what the guest sees of them. Part of the configuration (config.h), so a restore builds the same
 * set; what stands behind a device on the host is not in it (host_end.h).
 *
 * The order of the list is by slot. No state, any thread.
 */
#ifndef TORPOR_CORE_CONFIG_DEV_H
#define TORPOR_CORE_CONFIG_DEV_H

#include <jansson.h>

#include "core/base/err.h"
#include "core/base/limits.h"

enum config_kind {
	CONFIG_RNG,
	CONFIG_CONSOLE,
	CONFIG_BALLOON,
	CONFIG_DISK,
	CONFIG_NET,
	CONFIG_VSOCK,
	CONFIG_PORT, /* a PCI Express root port, with a slot for a device that comes and goes */
	CONFIG__KINDS,
};

enum {
	CONFIG_SLOT_MAX = 31,  /* slots of the PCI bus but the bridge's own */
	CONFIG_PORTS_MAX = 15, /* each has a bus of its own */
	CONFIG_BEHIND = 32,    /* slot CONFIG_BEHIND + n: behind the root port in slot n */
	CONFIG_DEVS_MAX = CONFIG_SLOT_MAX + CONFIG_PORTS_MAX,
	CONFIG_QUEUES_MAX = 16,
	CONFIG_CID_MIN = 3, /* lower ones have a meaning of their own */
	CONFIG_CID_MAX = INT32_MAX,
	CONFIG_PATH_BYTES_MAX = 1023,
	CONFIG_MAC_BYTES = 6,
	CONFIG_MTU_MIN = 68,
	CONFIG_MTU_MAX = 65535,
};
#define CONFIG_RATE_MAX (1ull << 40)

struct config_dev {
	enum config_kind kind;
	char id[NAME_BYTES_MAX + 1]; /* unique in the VM; the rule of names */
	unsigned slot;               /* 1..31, or behind a port; unique */
	unsigned cid;                /* of a socket device: the guest's */
	/* Disks. */
	bool read_only;
	bool capture; /* its content is in the VM's snapshots; never of a read-only one */
	unsigned queues;
	uint64_t iops; /* at most so many requests, */
	uint64_t bps;  /* and bytes, a second; 0: as many as go */
	/* Network devices. */
	uint8_t mac[CONFIG_MAC_BYTES];
	bool mac_chosen; /* by the user: clones keep it */
	unsigned mtu;    /* told to the guest; 0: nothing is */
	/*
	 * What stood behind the device when the VM was made; a restore takes that unless told
	 * otherwise. Of a disk its path, absolute; of a network device like "tap=NAME" (nets.h).
	 */
	char path[CONFIG_PATH_BYTES_MAX + 1];
};

struct config_devs {
	unsigned n;
	struct config_dev d[CONFIG_DEVS_MAX];
};

const char *config_kind_name(enum config_kind kind);
/* NULL if there is none of that name, or in that slot. */
const struct config_dev *config_dev_find(const struct config_devs *l, const char *id);
const struct config_dev *config_dev_in(const struct config_devs *l, unsigned slot);
unsigned config_dev_count(const struct config_devs *l, enum config_kind kind);
/*
 * Adds a device. Slot 0: the first free one; an empty id: the kind and a number. *ret is the entry,
 * valid until the next call. ERR_USAGE for what clashes.
 */
MUST_USE struct err *config_dev_add(struct config_devs *l, const struct config_dev *dev,
				    struct config_dev **ret);

/* The first place behind a root port with nothing in it, 0: there is none. And takes out what is in a
 * slot. */
unsigned config_dev_free_port(const struct config_devs *l);
void config_dev_remove(struct config_devs *l, unsigned slot);

/* A MAC address that nobody else has, by chance; and new ones for a clone's network devices, but
 * for those that the user chose. */
MUST_USE struct err *config_mac_make(uint8_t ret_mac[CONFIG_MAC_BYTES]);
MUST_USE struct err *config_devs_new_macs(struct config_devs *l);
void config_mac_text(const uint8_t mac[CONFIG_MAC_BYTES], char out[3 * CONFIG_MAC_BYTES]);
/* ERR_USAGE for what is no address of one device. */
MUST_USE struct err *config_mac_parse(const char *text, uint8_t ret_mac[CONFIG_MAC_BYTES]);

/* A JSON array of them, NULL for lack of memory; and back, strictly. */
json_t *config_devs_json(const struct config_devs *l);
MUST_USE struct err *config_devs_parse(const json_t *array, struct config_devs *ret);

#endif
