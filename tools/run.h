/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What describes a VM on the command line, for `torpor run` and for `torpor define`, which keeps
 * it. One thread.
 */
#ifndef TORPOR_TOOLS_RUN_H
#define TORPOR_TOOLS_RUN_H

#include "core/config.h"
#include "tools/opts.h"

struct run {
	const char *name;
	const char *kernel;
	const char *initrd;
	const char *cmdline;
	const char *cpu;
	unsigned cpus;
	uint64_t mem;
	bool no_reboot;
	bool battery;
	bool s2idle;
	bool gpe_methods;
	bool exit_device;
	bool replace;
	bool again;
	bool rng;
	unsigned vsock; /* CID, 0: none */
	bool balloon;
	unsigned ports;
	struct opt_list disks;
	struct opt_list nets;
};

#define RUN_DEFAULTS ((struct run){ .cmdline = "", .cpu = "host", .cpus = 1, .mem = 512 * MIB })

/* Rows of the option table; the name, and what is asked of the store, are the verb's own. */
#define RUN_OPTS(r)                                                                                \
	{ "kernel", "FILE", OPT_TEXT, &(r)->kernel, "the kernel to boot" },                        \
		{ "initrd", "FILE", OPT_TEXT, &(r)->initrd, "its initial RAM disk" },              \
		{ "cmdline", "TEXT", OPT_TEXT, &(r)->cmdline, "its command line" },                \
		{ "cpus", "N", OPT_UINT, &(r)->cpus, "virtual CPUs, 1 to 64; default 1" },         \
		{ "mem", "SIZE", OPT_SIZE, &(r)->mem, "memory, at least 16M; default 512M" },      \
		{ "cpu", "MODEL", OPT_TEXT, &(r)->cpu,                                             \
		  "host (the default), x86-64-v2 or x86-64-v3" },                                  \
		{ "disk", "PATH[,ro]...", OPT_LIST, &(r)->disks,                                   \
		  "a virtio disk over a file or block device; may be given several times.\n"       \
		  "What the guest writes goes to the store, not to PATH, and is in the\n"          \
		  "VM's snapshots; ro; capture=off (writes go to PATH, and snapshots do\n"         \
		  "not hold them); id=NAME, queues=N, slot=N; a comma in PATH is doubled" },       \
		{ "net", "WHERE[,mac=MAC]...", OPT_LIST, &(r)->nets,                               \
		  "a virtio network device; may be given several times. WHERE is\n"                \
		  "tap=NAME (an interface that exists), user (user networking:\n"                  \
		  "hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT, restrict, loopback), fd=N\n"         \
		  "(a tap or socket that the caller opened) or none; mac=MAC, mtu=N,\n"            \
		  "id=NAME, slot=N" },                                                             \
		{ "rng", NULL, OPT_FLAG, &(r)->rng, "a virtio entropy device" },                   \
		{ "vsock", "CID", OPT_UINT, &(r)->vsock,                                           \
		  "a virtio socket device: programs of the guest, which has that number\n"         \
		  "(from 3), and of the host meet at Unix sockets, see --vsock-path" },            \
		{ "balloon", NULL, OPT_FLAG, &(r)->balloon,                                        \
		  "a virtio balloon: the guest's unused memory goes back to the host, by\n"        \
		  "itself and on 'torpor balloon'" },                                              \
		{ "ports", "N", OPT_UINT, &(r)->ports,                                             \
		  "PCI Express root ports, up to 15: slots for 'torpor disk add' and\n"            \
		  "'torpor net add'; default 0" },                                                 \
		{ "no-reboot", NULL, OPT_FLAG, &(r)->no_reboot,                                    \
		  "a reset by the guest ends the VM with status 32" },                             \
		{ "battery", NULL, OPT_FLAG, &(r)->battery, "a battery and an AC adapter" },       \
		{ "s2idle", NULL, OPT_FLAG, &(r)->s2idle,                                          \
		  "a suspend sends the guest to sleep first, by its sleep button, for at\n"        \
		  "most 15 s; a resume wakes it" },                                                \
		{ "gpe-methods", NULL, OPT_FLAG, &(r)->gpe_methods,                                \
		  "ACPI methods for all general-purpose events, so that the guest\n"               \
		  "enables and counts them" },                                                     \
	{                                                                                          \
		"exit-device", NULL, OPT_FLAG, &(r)->exit_device,                                  \
			"let the guest end the VM with status 64 + N by writing N (0 to 31)\n"     \
			"to port 0x501; for tests"                                                 \
	}

/* All but the kernel's files, checked. console: there is a virtio console. */
MUST_USE struct err *run_config(const struct run *r, bool console, struct config *c);
/* Opens a kernel or initrd; `option` is for messages. */
MUST_USE struct err *run_open(const char *option, const char *path, struct fd *ret);

#endif
