/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor suspend`, `resume` and `stop`: one request to a living VM each. Called by main. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"

enum { STOP_TIMEOUT_MS = 60000 }; /* a take under way is given up first */

static struct err *open_named(struct args *a, struct client **ret_client)
{
	char store[PATH_MAX];
	if (a->store != NULL) {
		TRY(opts_store_dir(a, store, sizeof(store)));
	}
	return client_open(a->pos[0], a->store != NULL ? store : NULL, ret_client);
}

static struct err *tell_state(struct args *a, const char *state)
{
	if (!a->json) {
		return NULL;
	}
	return out_json(json_pack("{s:s,s:s}", "name", a->pos[0], "state", state));
}

/* One verb with two depths: the whole VM, or its vCPUs only. */
static struct err *change(struct args *a, const char *about, const char *help,
			  int (*whole)(struct torpor_client *),
			  int (*vcpus_only)(struct torpor_client *))
{
	bool vcpus = false;
	const struct opt opts[] = { { "vcpus", NULL, OPT_FLAG, &vcpus, help } };
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_named(a, &c));
	TRY(client_result(c, (vcpus ? vcpus_only : whole)(client_lib(c))));
	SCOPE(json_put) json_t *status = NULL;
	TRY(client_torpor(c, json_string("Status"), "Status", &status));
	const json_t *state = json_object_get(status, "state");
	const json_t *sleep = json_object_get(status, "s2idle");
	if (whole == torpor_suspend_vm && json_is_string(sleep) &&
	    strcmp(json_string_value(sleep), "ignored") == 0) {
		LOG_W("the guest of '%s' did not sleep within 15 s of its sleep button: it was "
		      "suspended as it stood",
		      a->pos[0]);
	}
	return tell_state(a, json_is_string(state) ? json_string_value(state) : "?");
}

struct err *cmd_suspend(struct args *a, int *ret_status)
{
	(void)ret_status;
	return change(a,
		      "Stops a VM: vCPUs, clock and devices. Its time stands still until 'torpor\n"
		      "resume'. Suspending a suspended VM changes nothing.",
		      "stop the vCPUs only: devices and the guest's clock go on", torpor_suspend_vm,
		      torpor_suspend_vcpus);
}

struct err *cmd_resume(struct args *a, int *ret_status)
{
	(void)ret_status;
	return change(a, "Lets a suspended VM go on. Resuming a running VM changes nothing.",
		      "let vCPUs go on that 'torpor suspend --vcpus' stopped", torpor_resume_vm,
		      torpor_resume_vcpus);
}

struct err *cmd_stop(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a,
		       "Ends a VM at once, without asking the guest: like pulling the plug. Its\n"
		       "snapshots stay. Returns when the VM's process has ended.",
		       NULL, 0, 1, 1));
	if (a->help) {
		return NULL;
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_named(a, &c));
	TRY(client_result(c, torpor_exit(client_lib(c))));
	TRY(client_wait_gone(c, STOP_TIMEOUT_MS));
	return tell_state(a, "stopped");
}
