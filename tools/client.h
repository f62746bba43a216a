/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client of a living VM's control socket. One connection, one request at a time. Used by the verbs
 * that speak to living VMs; one thread.
 */
#ifndef TORPOR_TOOLS_CLIENT_H
#define TORPOR_TOOLS_CLIENT_H

#include <jansson.h>

#include "core/rundir.h"

struct client;

/*
 * Connects to the VM `name`. store_dir is an absolute path or NULL: the VM must use that store,
 * else ERR_USAGE. ERR_NOT_NOW when no such VM is running.
 */
MUST_USE struct err *client_open(const char *name, const char *store_dir,
				 struct client **ret_client);
/* To a VM found by rundir_list or rundir_find. */
MUST_USE struct err *client_connect(const struct rundir_vm *vm, struct client **ret_client);
void client_close(struct client *c);
DEFINE_SCOPE(struct client, client_close)
const struct rundir_vm *client_vm(const struct client *c);

/* Sends a request; takes over the reference. */
MUST_USE struct err *client_send(struct client *c, json_t *request);
/* Waits for input at most timeout_ms (-1: for ever). *ret_ready false: nothing came. */
MUST_USE struct err *client_wait(struct client *c, int timeout_ms, bool *ret_ready);
/* One answer; an {"ErrString"} or {"Err"} answer becomes an error. *ret_answer: a new reference. */
MUST_USE struct err *client_receive(struct client *c, json_t **ret_answer);
/* Send, then receive: the answer must be "Ok". */
MUST_USE struct err *client_command(struct client *c, const char *variant);
/* {"Torpor":{"v":1,"cmd":cmd}}; *ret_body is a new reference to what stands under `key`. */
MUST_USE struct err *client_torpor(struct client *c, json_t *cmd, const char *key,
				   json_t **ret_body);
/* Waits until the VM's process has ended. */
MUST_USE struct err *client_wait_gone(struct client *c, int timeout_ms);

static inline UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

#endif
