/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A living VM, for the verbs: libtorpor-client (client/torpor-client.h) with error objects, the
 * name in messages, and the VM's process. One request at a time; one thread.
 */
#ifndef TORPOR_TOOLS_CLIENT_H
#define TORPOR_TOOLS_CLIENT_H

#include <jansson.h>

#include "client/torpor-client.h"
#include "core/ctl_wire.h"
#include "core/rundir.h"

struct client;

/*
 * Connects to the VM `name`, which may be the path of its control socket (with a '/'). store_dir is
 * an absolute path or NULL: the VM must use that store, else ERR_USAGE. ERR_NOT_NOW when no such VM
 * is running.
 */
MUST_USE struct err *client_open(const char *name, const char *store_dir,
				 struct client **ret_client);
/* To a VM found by rundir_list or rundir_find. */
MUST_USE struct err *client_connect(const struct rundir_vm *vm, struct client **ret_client);
void client_close(struct client *c);
DEFINE_SCOPE(struct client, client_close)
const struct rundir_vm *client_vm(const struct client *c);
/* The library's handle, and the error that its result rc stands for (NULL for 0). */
struct torpor_client *client_lib(struct client *c);
MUST_USE struct err *client_result(const struct client *c, int rc);

/* Sends a request; takes over the reference. */
MUST_USE struct err *client_send(struct client *c, json_t *request);
/*
 * The answer to it, within timeout_ms (-1: however long). *ret_ready false: none came yet. A
 * refusal becomes an error. *ret_answer: a new reference.
 */
MUST_USE struct err *client_receive(struct client *c, int timeout_ms, bool *ret_ready,
				    json_t **ret_answer);
/* {"Torpor":{"v":1,"cmd":cmd}}; *ret_body is a new reference to what stands under `key`. */
MUST_USE struct err *client_torpor(struct client *c, json_t *cmd, const char *key,
				   json_t **ret_body);
/* Waits until the VM's process has ended. */
MUST_USE struct err *client_wait_gone(struct client *c, int timeout_ms);

#endif
