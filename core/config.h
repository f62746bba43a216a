/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration of a VM: a checked value that everything is built from, and its JSON text that
 * goes into every snapshot. Boot and restore build from the same struct.
 * config_parse is given bytes from a snapshot: strict, every member checked, unknown keys refused.
 */
#ifndef TORPOR_CORE_CONFIG_H
#define TORPOR_CORE_CONFIG_H

#include "core/base/err.h"
#include "core/base/limits.h"
#include "core/config_dev.h"

struct config {
	char name[NAME_BYTES_MAX + 1];
	uint8_t uuid[16];
	uint8_t family[16];
	unsigned ncpus;
	uint64_t mem_bytes;
	char cpu_model[32]; /* "host", "x86-64-v2", "x86-64-v3" */
	char *cmdline;      /* owned, never NULL */
	char *kernel_name;  /* base name, for messages; owned */
	bool has_initrd;
	bool no_reboot; /* a guest reset ends the VM with exit status 32 */
	bool battery;   /* a goldfish battery and AC */
	bool s2idle;    /* the guest tells when it sleeps, and is sent to sleep before a suspend */
	bool gpe_methods;        /* an ACPI method for each general-purpose event */
	bool exit_device;        /* a port at which a test guest ends the VM */
	bool vmgenid;            /* the VM generation id device; absent in VMs of older versions */
	struct config_devs devs; /* if there are any, there is a PCI bus */
};

void config_done(struct config *c); /* frees members, not c */
MUST_USE struct err *config_copy(const struct config *from, struct config *ret);
/* Names: 1..NAME_BYTES_MAX of [A-Za-z0-9._-], not starting with '.' or '-', no '@' or '/'. */
MUST_USE struct err *config_check_name(const char *name);
/* As a name, and not all digits. */
MUST_USE struct err *config_check_tag(const char *tag);
/* All limits: 1..64 vCPUs, memory between GMEM_MIN_BYTES and what the host has, known model. */
MUST_USE struct err *config_check(const struct config *c);
/* "512M", "2G", "1048576K", bytes without suffix. ERR_USAGE. */
MUST_USE struct err *config_parse_size(const char *text, uint64_t *ret_bytes);
/* Canonical JSON text; *ret_text is malloc'ed. */
MUST_USE struct err *config_text(const struct config *c, char **ret_text);
MUST_USE struct err *config_parse(const void *p, size_t len, struct config *ret);

#endif
