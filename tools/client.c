/* SPDX-License-Identifier: Apache-2.0 */
/* A living VM, for the verbs. See client.h. */
#include "tools/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "core/config.h"

enum { ANSWER_MS = 60000 }; /* for an answer that comes at once from a VM that is well */

struct client {
	struct rundir_vm vm;
	struct torpor_client *lib;
	struct fd
		process; /* pidfd, for client_wait_gone; none where the process has ended already */
};

struct torpor_client *client_lib(struct client *c)
{
	return c->lib;
}

struct err *client_result(const struct client *c, int rc)
{
	if (rc == 0) {
		return NULL;
	}
	struct err *e = ERR(ERR_PEER, "VM '%s': %s", c->vm.name, torpor_error(c->lib));
	return err_set_errno(e, -rc);
}

static struct err *client_new(const struct rundir_vm *vm, struct client **ret_client)
{
	SCOPE(client_closep) struct client *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->vm = *vm;
	c->process = FD_NONE;
	c->lib = torpor_new();
	ENSURE(c->lib != NULL, ERR_SYS, "out of memory");
	torpor_set_timeout(c->lib, ANSWER_MS);
	TRY(client_result(c, torpor_connect(c->lib, vm->socket_path)));
	*ret_client = MOVE(c);
	return NULL;
}

static void find_process(struct client *c)
{
	c->process = (struct fd){ (int)syscall(SYS_pidfd_open, c->vm.pid, 0) };
}

struct err *client_connect(const struct rundir_vm *vm, struct client **ret_client)
{
	TRY(client_new(vm, ret_client));
	find_process(*ret_client);
	return NULL;
}

/* By socket: who it is, the VM says. */
static struct err *open_path(const char *path, struct client **ret_client)
{
	struct rundir_vm vm = { 0 };
	ENSURE(strlen(path) < sizeof(vm.socket_path), ERR_USAGE, "the path '%.200s' is too long",
	       path);
	snprintf(vm.socket_path, sizeof(vm.socket_path), "%s", path);
	const char *base = strrchr(path, '/');
	snprintf(vm.name, sizeof(vm.name), "%s", base[1] != 0 ? base + 1 : path);
	SCOPE(client_closep) struct client *c = NULL;
	TRY(client_new(&vm, &c));
	struct torpor_status status;
	TRY(client_result(c, torpor_status(c->lib, &status)));
	snprintf(c->vm.name, sizeof(c->vm.name), "%s", status.name);
	snprintf(c->vm.store_dir, sizeof(c->vm.store_dir), "%s", status.store);
	c->vm.pid = status.pid;
	find_process(c);
	*ret_client = MOVE(c);
	return NULL;
}

struct err *client_open(const char *name, const char *store_dir, struct client **ret_client)
{
	SCOPE(client_closep) struct client *c = NULL;
	if (strchr(name, '/') != NULL) {
		TRY(open_path(name, &c));
	} else {
		struct rundir_vm vm;
		bool found = false;
		TRY(config_check_name(name));
		TRY(rundir_find(name, &found, &vm));
		ENSURE(found, ERR_NOT_NOW, "VM '%s' is not running: 'torpor list' shows what is",
		       name);
		TRY(client_connect(&vm, &c));
	}
	ENSURE(store_dir == NULL || strcmp(store_dir, c->vm.store_dir) == 0, ERR_USAGE,
	       "VM '%s' uses the store '%s', not '%s': leave --store out or give that", name,
	       c->vm.store_dir, store_dir);
	*ret_client = MOVE(c);
	return NULL;
}

void client_close(struct client *c)
{
	if (c != NULL) {
		torpor_free(c->lib);
		fd_close(&c->process);
		free(c);
	}
}

const struct rundir_vm *client_vm(const struct client *c)
{
	return &c->vm;
}

struct err *client_send(struct client *c, json_t *request)
{
	SCOPE(json_put) json_t *held = request;
	ENSURE(request != NULL, ERR_SYS, "out of memory for a request");
	SCOPE(freep) char *text = json_dumps(request, JSON_COMPACT | JSON_ENCODE_ANY);
	ENSURE(text != NULL, ERR_SYS, "out of memory for a request");
	return client_result(c, torpor_send(c->lib, text, NULL, 0));
}

struct err *client_receive(struct client *c, int timeout_ms, bool *ret_ready, json_t **ret_answer)
{
	SCOPE(freep) char *text = NULL;
	int rc = torpor_receive(c->lib, timeout_ms, &text, NULL);
	if (rc == -ETIMEDOUT) {
		*ret_ready = false;
		return NULL;
	}
	TRY(client_result(c, rc));
	json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
	ENSURE(j != NULL, ERR_SYS, "out of memory for an answer");
	*ret_ready = true;
	*ret_answer = j;
	return NULL;
}

struct err *client_torpor(struct client *c, json_t *cmd, const char *key, json_t **ret_body)
{
	TRY(client_send(c, json_pack("{s:{s:i,s:o}}", "Torpor", "v", 1, "cmd", cmd)));
	SCOPE(json_put) json_t *j = NULL;
	bool ready = false;
	TRY(client_receive(c, ANSWER_MS, &ready, &j));
	ENSURE(ready, ERR_PEER, "VM '%s' has not answered within %d s", c->vm.name,
	       ANSWER_MS / 1000);
	json_t *body = json_object_get(json_object_get(j, "Torpor"), key);
	ENSURE(json_is_object(body), ERR_PEER, "VM '%s' gave an unexpected answer to %s",
	       c->vm.name, key);
	*ret_body = json_incref(body);
	return NULL;
}

struct err *client_wait_gone(struct client *c, int timeout_ms)
{
	if (c->process.n < 0) {
		return NULL;
	}
	struct pollfd p = { .fd = c->process.n, .events = POLLIN };
	int n;
	do {
		n = poll(&p, 1, timeout_ms);
	} while (n < 0 && errno == EINTR);
	ENSURE(n != 0, ERR_NOT_NOW, "VM '%s' (pid %d) has not ended after %d s", c->vm.name,
	       c->vm.pid, timeout_ms / 1000);
	return NULL;
}
