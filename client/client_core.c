/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libtorpor-client: connection, packets, errors. See torpor-client.h. Called by programs that link
 * the library, and by the verbs of torpor.
 *
 * I1: a connection that owes an answer nobody waits for is closed before the next request: answers
 *     come in the order of completion and carry no name.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/client_internal.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/rundir.h"

enum { DEFAULT_TIMEOUT_MS = 30000 };

struct torpor_client {
	int fd;          /* -1: not connected */
	bool owed;       /* a request was sent whose answer has not come */
	bool subscribed; /* packets are events */
	int timeout_ms;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* "": never connected */
	char error[1024];
};

int tc_fail(struct torpor_client *c, int sys, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(c->error, sizeof(c->error), fmt, ap);
	va_end(ap);
	return -sys;
}

struct torpor_client *torpor_new(void)
{
	struct torpor_client *c = calloc(1, sizeof(*c));
	if (c != NULL) {
		c->fd = -1;
		c->timeout_ms = DEFAULT_TIMEOUT_MS;
	}
	return c;
}

static void disconnect(struct torpor_client *c)
{
	if (c->fd >= 0) {
		close(c->fd);
		c->fd = -1;
	}
	c->owed = false;
	c->subscribed = false;
}

void torpor_free(struct torpor_client *c)
{
	if (c != NULL) {
		disconnect(c);
		free(c);
	}
}

void torpor_set_timeout(struct torpor_client *c, int timeout_ms)
{
	c->timeout_ms = timeout_ms;
}

const char *torpor_error(const struct torpor_client *c)
{
	return c->error;
}

/* ---- connecting ---- */

static int reconnect(struct torpor_client *c)
{
	if (c->path[0] == 0) {
		return tc_fail(c, ENOTCONN, "connect to a VM first");
	}
	disconnect(c);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		return tc_fail(c, errno, "making a socket: %s", strerror(errno));
	}
	/* A VM that does not accept (it is being built) fills its queue: wait so long. */
	int ms = c->timeout_ms;
	const struct timeval limit = { ms < 0 ? 0 : ms / 1000, ms < 0 ? 0 : ms % 1000 * 1000 };
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	memcpy(sa.sun_path, c->path, sizeof(sa.sun_path));
	if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) != 0) {
		int sys = errno == EAGAIN ? ETIMEDOUT : errno;
		close(fd);
		return tc_fail(c, sys, "connecting to '%s': %s", c->path, strerror(sys));
	}
	c->fd = fd;
	return 0;
}

static int find_socket(struct torpor_client *c, const char *name, char *ret_path, size_t len)
{
	struct rundir_vm vm;
	bool found = false;
	struct err *e = rundir_find(name, &found, &vm);
	if (e != NULL) {
		int rc = tc_fail(c, err_to_errno(e), "%s", err_msg(e));
		err_free(e);
		return rc;
	}
	if (!found) {
		return tc_fail(c, ENOENT, "VM '%s' is not running: 'torpor list' shows what is",
			       name);
	}
	snprintf(ret_path, len, "%s", vm.socket_path);
	return 0;
}

int torpor_connect(struct torpor_client *c, const char *vm)
{
	char path[sizeof(((struct rundir_vm *)0)->socket_path)];
	c->error[0] = 0;
	const char *where = vm;
	if (strchr(vm, '/') == NULL) {
		int rc = find_socket(c, vm, path, sizeof(path));
		if (rc != 0) {
			return rc;
		}
		where = path;
	}
	if (strlen(where) >= sizeof(c->path)) {
		return tc_fail(c, ENAMETOOLONG, "the control socket's path '%.200s' is too long",
			       where);
	}
	memset(c->path, 0, sizeof(c->path));
	memcpy(c->path, where, strlen(where));
	return reconnect(c);
}

/* ---- packets ---- */

int torpor_send(struct torpor_client *c, const char *json, const int *fds, unsigned nfds)
{
	c->error[0] = 0;
	if (nfds > CTL_FDS_MAX) {
		return tc_fail(c, EINVAL, "%u descriptors are too many: at most %u", nfds,
			       CTL_FDS_MAX);
	}
	if (c->subscribed) {
		return tc_fail(c, EBUSY, "this client gets events: use another one for requests");
	}
	if (c->fd < 0 || c->owed) { /* I1 */
		int rc = reconnect(c);
		if (rc != 0) {
			return rc;
		}
	}
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)json, strlen(json) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (nfds > 0) {
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
		m->cmsg_level = SOL_SOCKET;
		m->cmsg_type = SCM_RIGHTS;
		m->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(m), fds, sizeof(int) * nfds);
	}
	ssize_t n;
	do {
		n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	/* One that turns us away closes, but has said why: receive will tell. */
	if (n < 0 && errno != EPIPE) {
		int sys = errno == EAGAIN ? ETIMEDOUT : errno;
		disconnect(c);
		return tc_fail(c, sys, "asking the VM: %s", strerror(sys));
	}
	c->owed = true;
	return 0;
}

/* 1 when there is something to read, 0 when the time is over. */
static int wait_input(const struct torpor_client *c, int timeout_ms)
{
	uint64_t end = clock_mono_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
	int left = timeout_ms;
	for (;;) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		int n = poll(&p, 1, left);
		if (n > 0) {
			return 1;
		}
		uint64_t now = clock_mono_ns();
		if (timeout_ms >= 0 && (n == 0 || now >= end)) {
			return 0;
		}
		left = timeout_ms < 0 ? -1 : (int)((end - now) / 1000000u) + 1;
	}
}

/* One descriptor is kept, others are closed: no answer has more. */
static int take_fd(struct msghdr *msg)
{
	int kept = -1;
	for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m != NULL; m = CMSG_NXTHDR(msg, m)) {
		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS) {
			continue;
		}
		for (size_t i = 0; i < (m->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(m) + i * sizeof(fd), sizeof(fd));
			if (kept < 0) {
				kept = fd;
			} else {
				close(fd);
			}
		}
	}
	return kept;
}

static int read_packet(struct torpor_client *c, char **ret_text, int *ret_fd)
{
	char *buf = malloc(CTL_PACKET_BYTES_MAX + 1);
	if (buf == NULL) {
		return tc_fail(c, ENOMEM, "out of memory for an answer");
	}
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * CTL_FDS_MAX)];
	} control;
	struct iovec iov = { buf, CTL_PACKET_BYTES_MAX };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;
	do {
		n = recvmsg(c->fd, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n <= 0) {
		int sys = n < 0 ? errno : ECONNRESET;
		free(buf);
		disconnect(c);
		return n < 0 ? tc_fail(c, sys, "waiting for the VM: %s", strerror(sys))
			     : tc_fail(c, sys, "the VM ended before it answered");
	}
	buf[n] = 0;
	*ret_text = buf;
	*ret_fd = take_fd(&msg);
	return 0;
}

/* ---- answers ---- */

/* "sentence (errno 19 ENODEV)" becomes sentence and number. */
static int refused(struct torpor_client *c, const char *text)
{
	const char *tail = NULL;
	for (const char *at = strstr(text, " (errno "); at != NULL;
	     at = strstr(at + 1, " (errno ")) {
		tail = at;
	}
	int sys = tail != NULL ? atoi(tail + strlen(" (errno ")) : 0;
	size_t len = tail != NULL ? (size_t)(tail - text) : strlen(text);
	return tc_fail(c, sys > 0 ? sys : EIO, "%.*s", (int)len, text);
}

/* Refusals that devices have words of their own for. */
static int check_device_answer(struct torpor_client *c, const json_t *j)
{
	static const struct {
		const char *key;
		const char *word;
		int sys;
		const char *text;
	} bad[] = {
		{ "BatResponse", "NoBatDevice", ENODEV, "the VM has no battery" },
		{ "BatResponse", "NoSuchHealth", EINVAL, "the battery knows no such health" },
		{ "BatResponse", "NoSuchProperty", EINVAL, "the battery has no such property" },
		{ "BatResponse", "NoSuchStatus", EINVAL, "the battery knows no such status" },
		{ "BatResponse", "NoSuchBatType", EINVAL, "there is no such type of battery" },
		{ "BatResponse", "StringParseIntErr", EINVAL, "that is no number" },
		{ "BatResponse", "StringParseBoolErr", EINVAL, "that is not true or false" },
		{ "UsbResponse", "NoAvailablePort", ENOSPC, "no USB port is free" },
		{ "UsbResponse", "NoSuchDevice", ENODEV, "there is no such USB device" },
		{ "UsbResponse", "NoSuchPort", ENXIO, "nothing is attached to that USB port" },
		{ "UsbResponse", "FailedToOpenDevice", EIO, "the USB device cannot be opened" },
		{ "UsbResponse", "FailedToInitHostDevice", EIO, "the USB device does not start" },
		{ "GpuResponse", "TooManyDisplays", E2BIG, "that are too many displays" },
		{ "GpuResponse", "NoSuchDisplay", ENODEV, "there is no such display" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const json_t *v = json_object_get(j, bad[i].key);
		const char *word = json_is_string(v) ? json_string_value(v) : "";
		if (strcmp(word, bad[i].word) == 0 || json_object_get(v, bad[i].word) != NULL) {
			return tc_fail(c, bad[i].sys, "%s", bad[i].text);
		}
	}
	const char *gpu =
		json_string_value(json_object_get(json_object_get(j, "GpuResponse"), "ErrString"));
	return gpu != NULL ? tc_fail(c, EIO, "%s", gpu) : 0;
}

static int check_answer(struct torpor_client *c, const json_t *j)
{
	const char *text = json_string_value(json_object_get(j, "ErrString"));
	if (text != NULL) {
		return refused(c, text);
	}
	const json_t *number = json_object_get(j, "Err");
	if (number != NULL) {
		int sys = (int)json_integer_value(number);
		sys = sys > 0 ? sys : EIO;
		return tc_fail(c, sys, "the VM refuses: %s", strerror(sys));
	}
	return check_device_answer(c, j);
}

/* An answer that is no failure; *ret_text may be NULL. */
static int receive(struct torpor_client *c, int timeout_ms, char **ret_text, json_t **ret_json,
		   int *ret_fd)
{
	c->error[0] = 0;
	if (c->fd < 0) {
		return tc_fail(c, ENOTCONN, "there is no connection to a VM");
	}
	if (wait_input(c, timeout_ms) == 0) {
		return tc_fail(c, ETIMEDOUT, "the VM has not answered within %d ms", timeout_ms);
	}
	char *text = NULL;
	int fd = -1;
	int rc = read_packet(c, &text, &fd);
	if (rc != 0) {
		return rc;
	}
	c->owed = false;
	json_error_t why;
	json_t *j = json_loads(text, JSON_DECODE_ANY, &why);
	rc = j == NULL ? tc_fail(c, EPROTO, "the VM gave an answer that is no JSON")
		       : check_answer(c, j);
	if (rc == 0) {
		if (ret_text != NULL) {
			*ret_text = text;
			text = NULL;
		}
		if (ret_json != NULL) {
			*ret_json = json_incref(j);
		}
		if (ret_fd != NULL) {
			*ret_fd = fd;
			fd = -1;
		}
	}
	if (fd >= 0) {
		close(fd);
	}
	json_decref(j);
	free(text);
	return rc;
}

int torpor_receive(struct torpor_client *c, int timeout_ms, char **ret_answer, int *ret_fd)
{
	return receive(c, timeout_ms, ret_answer, NULL, ret_fd);
}

int torpor_request(struct torpor_client *c, const char *json, const int *fds, unsigned nfds,
		   char **ret_answer, int *ret_fd)
{
	int rc = torpor_send(c, json, fds, nfds);
	return rc != 0 ? rc : receive(c, c->timeout_ms, ret_answer, NULL, ret_fd);
}

int tc_ask(struct torpor_client *c, json_t *request, int fd, json_t **ret_answer, int *ret_fd)
{
	char *text = request != NULL ? json_dumps(request, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	json_decref(request);
	if (text == NULL) {
		return tc_fail(c, EINVAL,
			       "the request cannot be made: out of memory, or a text is no UTF-8");
	}
	int rc = torpor_send(c, text, &fd, fd >= 0 ? 1 : 0);
	free(text);
	return rc != 0 ? rc : receive(c, c->timeout_ms, NULL, ret_answer, ret_fd);
}

int tc_do(struct torpor_client *c, json_t *request, int fd)
{
	return tc_ask(c, request, fd, NULL, NULL);
}

/* ---- events ---- */

int torpor_subscribe(struct torpor_client *c)
{
	int rc = tc_do(c, json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "Subscribe"), -1);
	c->subscribed = rc == 0;
	return rc;
}

int torpor_next_event(struct torpor_client *c, int timeout_ms, char **ret_json)
{
	c->error[0] = 0;
	if (!c->subscribed) {
		return tc_fail(c, EINVAL, "subscribe first");
	}
	if (wait_input(c, timeout_ms) == 0) {
		return tc_fail(c, ETIMEDOUT, "no event within %d ms", timeout_ms);
	}
	int fd = -1;
	int rc = read_packet(c, ret_json, &fd);
	if (fd >= 0) {
		close(fd);
	}
	return rc;
}
