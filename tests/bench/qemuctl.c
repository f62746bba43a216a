/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Speaks QMP with the QEMU that tests/bench/run compares torpor with.
 *
 *   qemuctl SOCKET stop | cont | quit
 *   qemuctl SOCKET save FILE DOWNTIME_MS    saves the VM to FILE, bandwidth unlimited. A VM that
 * ran runs on as soon as the save is complete. Prints one JSON object: save_us, sync_us,
 * downtime_ms, bytes. QEMU writes to a descriptor that is handed over, not through a pipe, which is
 * its fastest way.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int sock;
static FILE *from_qemu;

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "qemuctl: %s: %s\n", what, why);
	exit(1);
}

/* The next message. The caller releases it. */
static json_t *receive(void)
{
	json_error_t e;
	json_t *m = json_loadf(from_qemu, JSON_DISABLE_EOF_CHECK, &e);

	if (m == NULL) {
		fail("reading", e.text);
	}
	return m;
}

/* Sends text, with descriptor fd if it is not -1. */
static void transmit(const char *text, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} ctl = { 0 };
	struct iovec v = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	if (fd >= 0) {
		m.msg_control = &ctl;
		m.msg_controllen = sizeof(ctl.room);
		ctl.head.cmsg_level = SOL_SOCKET;
		ctl.head.cmsg_type = SCM_RIGHTS;
		ctl.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&ctl.head), &fd, sizeof(fd));
	}
	if (sendmsg(sock, &m, MSG_NOSIGNAL) != (ssize_t)v.iov_len) {
		fail("sending", strerror(errno));
	}
}

/* One command and its answer, "return" or "error"; events in between are dropped. The caller
 * releases the answer. */
static json_t *ask(const char *text, int fd)
{
	transmit(text, fd);
	for (;;) {
		json_t *m = receive();
		if (json_object_get(m, "return") != NULL || json_object_get(m, "error") != NULL) {
			return m;
		}
		json_decref(m);
	}
}

/* The same, of a command that must not fail. */
static json_t *command(const char *text, int fd)
{
	json_t *m = ask(text, fd);
	json_t *error = json_object_get(m, "error");

	if (error != NULL) {
		fail(text, json_string_value(json_object_get(error, "desc")));
	}
	return m;
}

static void order(const char *text)
{
	json_decref(command(text, -1));
}

static void open_socket(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(a.sun_path)) {
		fail(path, "too long for a socket");
	}
	strcpy(a.sun_path, path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int i = 0; connect(sock, (struct sockaddr *)&a, sizeof(a)) != 0; i++) {
		if (i == 1000) {
			fail(path, strerror(errno));
		}
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	}
	from_qemu = fdopen(sock, "r");
	if (from_qemu == NULL) {
		fail(path, strerror(errno));
	}
	json_decref(receive()); /* the greeting */
	order("{\"execute\":\"qmp_capabilities\"}");
}

static bool is_running(void)
{
	json_t *m = command("{\"execute\":\"query-status\"}", -1);
	bool running = json_is_true(json_object_get(json_object_get(m, "return"), "running"));

	json_decref(m);
	return running;
}

/* The VM cannot go on in the first moments after the end of a save. */
static void go_on(void)
{
	for (int i = 0; i < 5000; i++) {
		json_t *m = ask("{\"execute\":\"cont\"}", -1);
		bool done = json_object_get(m, "return") != NULL;
		json_decref(m);
		if (done) {
			return;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
	}
	fail("cont", "refused for a second");
}

static void wait_saved(void)
{
	for (;;) {
		json_t *m = receive();
		const char *event = json_string_value(json_object_get(m, "event"));
		if (event != NULL && strcmp(event, "MIGRATION") == 0) {
			const char *status = json_string_value(
				json_object_get(json_object_get(m, "data"), "status"));
			if (strcmp(status, "failed") == 0) {
				fail("save", "failed");
			}
			if (strcmp(status, "completed") == 0) {
				json_decref(m);
				return;
			}
		}
		json_decref(m);
	}
}

static void save(const char *path, long downtime_ms)
{
	char text[256];
	bool running = is_running();
	struct stat st;

	order("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":"
	      "[{\"capability\":\"events\",\"state\":true}]}}");
	snprintf(text, sizeof(text),
		 "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
		 "{\"max-bandwidth\":1099511627776,\"downtime-limit\":%ld}}",
		 downtime_ms);
	order(text);
	uint64_t begin = now_us();
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) {
		fail(path, strerror(errno));
	}
	json_decref(command("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"save\"}}", fd));
	/* Its answer may come after the first event, which command() would drop; the last event
	 * comes far later than the answer. */
	order("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:save\"}}");
	wait_saved();
	uint64_t saved = now_us();
	if (running) {
		go_on();
	}
	uint64_t sync_from = now_us();
	if (fsync(fd) != 0 || fstat(fd, &st) != 0) {
		fail(path, strerror(errno));
	}
	uint64_t end = now_us();
	json_t *m = command("{\"execute\":\"query-migrate\"}", -1);
	json_t *info = json_object_get(m, "return");
	printf("{\"save_us\":%llu,\"sync_us\":%llu,\"downtime_ms\":%lld,\"bytes\":%lld}\n",
	       (unsigned long long)(saved - begin), (unsigned long long)(end - sync_from),
	       (long long)json_integer_value(json_object_get(info, "downtime")),
	       (long long)st.st_blocks * 512);
	json_decref(m);
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: qemuctl SOCKET stop|cont|quit|save FILE DOWNTIME_MS\n");
		return 2;
	}
	open_socket(argv[1]);
	if (strcmp(argv[2], "save") == 0 && argc == 5) {
		save(argv[3], strtol(argv[4], NULL, 10));
	} else if (strcmp(argv[2], "stop") == 0) {
		order("{\"execute\":\"stop\"}");
	} else if (strcmp(argv[2], "cont") == 0) {
		go_on();
	} else if (strcmp(argv[2], "quit") == 0) {
		order("{\"execute\":\"quit\"}");
	} else {
		fail(argv[2], "unknown");
	}
	return 0;
}
