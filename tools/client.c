/* SPDX-License-Identifier: Apache-2.0 */
/* Client of a control socket. See client.h. */
#include "tools/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "core/base/limits.h"

struct client {
	struct rundir_vm vm;
	struct fd fd;
	struct fd
		process; /* pidfd, for client_wait_gone; none where the process has ended already */
};

struct err *client_connect(const struct rundir_vm *vm, struct client **ret_client)
{
	SCOPE(client_closep) struct client *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->vm = *vm;
	c->process = (struct fd){ (int)syscall(SYS_pidfd_open, vm->pid, 0) };
	c->fd = (struct fd){ socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) };
	if (c->fd.n < 0) {
		return ERR_ERRNO("making a socket");
	}
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	ENSURE(strlen(vm->socket_path) < sizeof(addr.sun_path), ERR_LIMIT,
	       "the control socket's path '%s' is too long", vm->socket_path);
	memcpy(addr.sun_path, vm->socket_path, strlen(vm->socket_path) + 1);
	if (connect(c->fd.n, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
		return err_reclass(
			ERR_ERRNO("connecting to VM '%s' at '%s'", vm->name, vm->socket_path),
			ERR_PEER);
	}
	*ret_client = MOVE(c);
	return NULL;
}

struct err *client_open(const char *name, const char *store_dir, struct client **ret_client)
{
	struct rundir_vm vm;
	bool found = false;
	TRY(rundir_find(name, &found, &vm));
	ENSURE(found, ERR_NOT_NOW, "VM '%s' is not running: 'torpor list' shows what is", name);
	ENSURE(store_dir == NULL || strcmp(store_dir, vm.store_dir) == 0, ERR_USAGE,
	       "VM '%s' uses the store '%s', not '%s': leave --store out or give that", name,
	       vm.store_dir, store_dir);
	return client_connect(&vm, ret_client);
}

void client_close(struct client *c)
{
	if (c != NULL) {
		fd_close(&c->fd);
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
	ssize_t n;
	do {
		n = send(c->fd.n, text, strlen(text), MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return err_reclass(ERR_ERRNO("asking VM '%s'", c->vm.name), ERR_PEER);
	}
	return NULL;
}

struct err *client_wait(struct client *c, int timeout_ms, bool *ret_ready)
{
	struct pollfd p = { .fd = c->fd.n, .events = POLLIN };
	int n = poll(&p, 1, timeout_ms);
	if (n < 0 && errno != EINTR) {
		return ERR_ERRNO("waiting for VM '%s'", c->vm.name);
	}
	*ret_ready = n > 0;
	return NULL;
}

struct err *client_receive(struct client *c, json_t **ret_answer)
{
	SCOPE(freep) char *buf = malloc(CTL_PACKET_BYTES_MAX);
	ENSURE(buf != NULL, ERR_SYS, "out of memory for an answer");
	ssize_t n;
	do {
		n = recv(c->fd.n, buf, CTL_PACKET_BYTES_MAX, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return err_reclass(ERR_ERRNO("waiting for VM '%s'", c->vm.name), ERR_PEER);
	}
	ENSURE(n > 0, ERR_PEER, "VM '%s' ended before it answered", c->vm.name);
	json_error_t why;
	SCOPE(json_put) json_t *j = json_loadb(buf, (size_t)n, JSON_DECODE_ANY, &why);
	ENSURE(j != NULL, ERR_PEER, "VM '%s' gave an answer that is no JSON", c->vm.name);
	const json_t *text = json_object_get(j, "ErrString");
	ENSURE(text == NULL, ERR_PEER, "VM '%s': %s", c->vm.name,
	       json_is_string(text) ? json_string_value(text) : "it failed");
	const json_t *sys = json_object_get(j, "Err");
	ENSURE(sys == NULL, ERR_PEER, "VM '%s': %s", c->vm.name,
	       strerror((int)json_integer_value(sys)));
	*ret_answer = MOVE(j);
	return NULL;
}

struct err *client_command(struct client *c, const char *variant)
{
	TRY(client_send(c, json_string(variant)));
	SCOPE(json_put) json_t *j = NULL;
	TRY(client_receive(c, &j));
	ENSURE(json_is_string(j) && strcmp(json_string_value(j), "Ok") == 0, ERR_PEER,
	       "VM '%s' gave an unexpected answer to %s", c->vm.name, variant);
	return NULL;
}

struct err *client_torpor(struct client *c, json_t *cmd, const char *key, json_t **ret_body)
{
	TRY(client_send(c, json_pack("{s:{s:i,s:o}}", "Torpor", "v", 1, "cmd", cmd)));
	SCOPE(json_put) json_t *j = NULL;
	TRY(client_receive(c, &j));
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
