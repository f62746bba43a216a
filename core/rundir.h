/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run folder: where living VMs have their sockets and name locks.
 * $XDG_RUNTIME_DIR/torpor if that is set (root too), else /run/torpor for root.
 * NAME.lock carries an OFD lock as long as the VM's process lives; a socket whose lock is free is
 * stale and is replaced. Called by main and the tools, before threads start.
 */
#ifndef TORPOR_CORE_RUNDIR_H
#define TORPOR_CORE_RUNDIR_H

#include "core/base/err.h"

/* Its name; touches nothing, it may not be there. */
MUST_USE struct err *rundir_name(char *ret_path, size_t len);
/* Makes the folder (0700) if needed. */
MUST_USE struct err *rundir_path(char *ret_path, size_t len);
/* Claims a VM name: ERR_NOT_NOW "already running (pid N)" if another process has it. The lock file
 * holds pid, store directory and socket path as one JSON line. Lives until the fd closes. */
MUST_USE struct err *rundir_claim(const char *name, const char *store_dir, const char *socket_path,
				  struct fd *ret_lock);
/* Binds and listens on the control socket (0600), replacing a stale one. socket_path NULL: the
 * default in the run folder; ret_path gets the path used. */
MUST_USE struct err *rundir_listen(const char *name, const char *socket_path, struct fd *ret_fd,
				   char *ret_path, size_t len);

struct rundir_vm {
	char name[65];
	int pid;
	char store_dir[4096];
	char socket_path[256];
};
/* Living VMs by name; *ret is malloc'ed. */
MUST_USE struct err *rundir_list(struct rundir_vm **ret, size_t *ret_n);
MUST_USE struct err *rundir_find(const char *name, bool *ret_found, struct rundir_vm *ret);
void rundir_unlink(const char *name, const char *socket_path); /* at a clean end */

#endif
