/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process of one VM, shared by `run` and `restore`: descriptors, --detach, name, control
 * socket, jail, life, signals, exit status. Called on the process's first thread.
 */
#ifndef TORPOR_TOOLS_VMM_H
#define TORPOR_TOOLS_VMM_H

#include "core/checkpoint.h"
#include "core/config.h"
#include "core/host_end.h"
#include "core/kvm_state.h"
#include "snapshot/snapshot.h"
#include "tools/opts.h"

enum { VMM_NET_FDS = 8 };

struct vmm {
	/* From the command line; borrowed texts, NULL: not given. */
	const char *serial;  /* file:PATH, unix:PATH, stdio, null */
	const char *console; /* likewise */
	const char *socket_path;
	const char *socket_readonly;
	const char *vsock_path;
	const char *on_term;                 /* checkpoint, stop */
	const char *checkpoint_every;        /* "30s" */
	const char *checkpoint_keep;         /* "10,hourly=24" */
	struct checkpoint_policy checkpoint; /* of these, by vmm_run */
	const char *watchdog;                /* "30s" */
	uint64_t watchdog_ns;                /* of that, by vmm_run */
	unsigned end_fd_number;              /* 0: none */
	struct fd end_fd;                    /* that, taken over by vmm_run */
	bool paused;
	bool detach;
	bool no_jail;
	bool json;
	char store_dir[4096];    /* absolute */
	char socket_abs[4096];   /* set by vmm_run; "": the default */
	char readonly_abs[4096]; /* set by vmm_run; "": none */
	char vsock_abs[4096];    /* set by vmm_run; "": the default */

	/* What to run, filled in by the verb: files before vmm_run, the rest by prepare. */
	struct fd kernel, initrd;
	struct config config;
	struct store *store;
	struct snap_image *image; /* restore */
	struct opt_list disk_map; /* restore: id=PATH */
	struct opt_list net_map;  /* restore: id=WHERE */
	int net_fds[VMM_NET_FDS]; /* descriptors for network devices, kept over --detach */
	size_t nnet_fds;
	const char *disk_changed; /* refuse, accept */
	bool accept_disks;        /* disks that are not as they were left are taken, by vmm_run */
	struct host_ends ends;    /* opened by vmm_run */
	bool lazy;    /* restore: memory comes while the guest runs, if the host can do it */
	bool no_fill; /* restore: and only what is touched */
	bool share;   /* restore: of memory that is shared with others */
	char ref[REF_BYTES_MAX + 1]; /* with share: what is restored; set by prepare */
	enum clock_policy clock;
	/* Opens the store and fills in config. Runs in the process that will be the VM. */
	struct err *(*prepare)(struct vmm *v, void *arg);
	void *arg;
};

void vmm_init(struct vmm *v);
void vmm_done(struct vmm *v);

/* Rows that both verbs have, for their option tables. */
#define VMM_OPTS(v)                                                                                \
	{ "serial", "WHERE", OPT_TEXT, &(v)->serial,                                               \
	  "the guest's first serial port: stdio (the default), null (the default\n"                \
	  "with --detach), file:PATH (appends), unix:PATH (listens)" },                            \
		{ "console", "WHERE", OPT_TEXT, &(v)->console,                                     \
		  "the guest's virtio console: WHERE as for --serial, whose default is\n"          \
		  "null where this says stdio" },                                                  \
		{ "socket", "PATH", OPT_TEXT, &(v)->socket_path,                                   \
		  "control socket; default NAME.sock in the run folder" },                         \
		{ "socket-readonly", "PATH", OPT_TEXT, &(v)->socket_readonly,                      \
		  "a second socket for monitors: status and events only" },                        \
		{ "vsock-path", "PATH", OPT_TEXT, &(v)->vsock_path,                                \
		  "where the socket device meets the host: PATH for connections to the\n"          \
		  "guest, PATH_P for those of the guest to port P; default NAME.vsock in\n"        \
		  "the run folder" },                                                              \
		{ "disk-changed", "refuse|accept", OPT_CHOICE, &(v)->disk_changed,                 \
		  "what to do with a disk that is not as it was at the snapshot, or when\n"        \
		  "the guest wrote to it last" },                                                  \
		{ "paused", NULL, OPT_FLAG, &(v)->paused,                                          \
		  "do not let the guest run before 'torpor resume NAME'" },                        \
		{ "detach", NULL, OPT_FLAG, &(v)->detach,                                          \
		  "return once the guest runs; the VM goes on in the background" },                \
		{ "checkpoint-every", "TIME", OPT_TEXT, &(v)->checkpoint_every,                    \
		  "take a snapshot every TIME (30s, 5m, 2h, 1d) while the guest runs: no\n"        \
		  "crash loses more; tags auto-..." },                                             \
		{ "checkpoint-keep", "RULES", OPT_TEXT, &(v)->checkpoint_keep,                     \
		  "which of those stay: the newest 10 (the default), or like\n"                    \
		  "5,hourly=24,daily=7, or all; pinned ones always do" },                          \
		{ "on-term", "checkpoint|stop", OPT_CHOICE, &(v)->on_term,                         \
		  "what SIGTERM does: take a snapshot, then end, or end at once (the\n"            \
		  "default)" },                                                                    \
		{ "watchdog", "TIME", OPT_TEXT, &(v)->watchdog,                                    \
		  "end the VM with status 36 when for TIME (1s or more; default off) none\n"       \
		  "of its vCPUs has accessed a device or had interrupts enabled" },                \
		{ "end-fd", "N", OPT_UINT, &(v)->end_fd_number,                                    \
		  "write one line of JSON (end, status, report) to descriptor N, which the\n"      \
		  "caller has opened, when the VM ends" },                                         \
	{                                                                                          \
		"no-jail", NULL, OPT_FLAG, &(v)->no_jail,                                          \
			"run without seccomp and Landlock; for debugging only"                     \
	}

/*
 * Runs the VM to its end; with detach until the guest runs. *ret_status is the exit status that
 * torpor-run(1) tells.
 */
MUST_USE struct err *vmm_run(struct vmm *v, int *ret_status);

#endif
