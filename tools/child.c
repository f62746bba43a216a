/* SPDX-License-Identifier: Apache-2.0 */
/* Other torpor processes, started by this one. See child.h. */
#include "tools/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "core/base/clock.h"

enum { CHILDREN_MAX = 64, EXEC_FAILED = 127 };

void child_done(struct child *c)
{
	fd_close(&c->out);
	free(c->text);
	*c = (struct child){ .out = FD_NONE };
}

/* In the child: between fork and exec only what a signal handler may do. */
static _Noreturn void become(const char *program, char *const *argv, int out, int pass_fd)
{
	sigset_t none;
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(out, STDOUT_FILENO) >= 0 && (pass_fd < 0 || fcntl(pass_fd, F_SETFD, 0) == 0)) {
		(void)(program != NULL ? execvp(program, argv) : execv("/proc/self/exe", argv));
	}
	_exit(EXEC_FAILED);
}

struct err *child_start(const char *program, const struct opt_words *w, int pass_fd,
			struct child *ret)
{
	const char *name = program != NULL ? program : "torpor";
	char *argv[ARRAY_LEN(w->v) + 1] = { (char *)(uintptr_t)name };
	memcpy(argv + 1, w->v, w->n * sizeof(argv[0]));
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0) {
		return ERR_ERRNO("making a pipe");
	}
	SCOPE(fd_close) struct fd in = { ends[0] };
	SCOPE(fd_close) struct fd out = { ends[1] };
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0) {
		return ERR_ERRNO("starting '%s %s'", name, w->v[0]);
	}
	if (pid == 0) {
		become(program, argv, out.n, pass_fd);
	}
	*ret = (struct child){ .pid = pid, .out = fd_move(&in) };
	return NULL;
}

static struct err *gather(struct child *c)
{
	char buf[4096];
	ssize_t n = read(c->out.n, buf, sizeof(buf));
	if (n < 0 && errno == EINTR) {
		return NULL;
	}
	if (n <= 0) {
		fd_close(&c->out);
		return NULL;
	}
	ENSURE(c->len + (size_t)n < CHILD_TEXT_MAX, ERR_LIMIT, "a child prints more than %d bytes",
	       CHILD_TEXT_MAX);
	char *text = realloc(c->text, c->len + (size_t)n + 1);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	memcpy(text + c->len, buf, (size_t)n);
	c->text = text;
	c->len += (size_t)n;
	c->text[c->len] = 0;
	return NULL;
}

/* Its stdout is closed: it has ended, or is about to. */
static struct err *reap(struct child *c)
{
	int status = 0;
	pid_t got;
	do {
		got = waitpid(c->pid, &status, 0);
	} while (got < 0 && errno == EINTR);
	if (got < 0) {
		return ERR_ERRNO("waiting for a child");
	}
	c->pid = 0;
	c->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return NULL;
}

static int left_ms(uint64_t end_ns)
{
	uint64_t now = clock_mono_ns();
	return end_ns == UINT64_MAX ? -1 : now >= end_ns ? 0 : (int)((end_ns - now) / 1000000) + 1;
}

struct err *child_wait(struct child *c, size_t n, int timeout_ms, size_t *ret)
{
	uint64_t end =
		timeout_ms < 0 ? UINT64_MAX : clock_mono_ns() + (uint64_t)timeout_ms * 1000000;
	BUG_ON(n > CHILDREN_MAX);
	for (;;) {
		struct pollfd p[CHILDREN_MAX];
		for (size_t i = 0; i < n; i++) {
			if (c[i].pid != 0 && c[i].out.n < 0) {
				*ret = i;
				return reap(&c[i]);
			}
			p[i] = (struct pollfd){ .fd = c[i].out.n, .events = POLLIN };
		}
		int ready = poll(p, n, left_ms(end));
		if (ready < 0 && errno != EINTR) {
			return ERR_ERRNO("waiting for children");
		}
		if (ready <= 0) { /* a signal is the caller's affair */
			*ret = n;
			return NULL;
		}
		for (size_t i = 0; i < n; i++) {
			if (p[i].revents != 0) {
				TRY(gather(&c[i]));
			}
		}
	}
}

static UNUSED void child_donep(struct child *c)
{
	child_done(c);
}

struct err *child_run(const struct opt_words *w, int pass_fd, int *ret_status, json_t **ret_answer)
{
	SCOPE(child_donep) struct child c = { .out = FD_NONE };
	TRY(child_start(NULL, w, pass_fd, &c));
	size_t which = 1;
	while (which != 0) {
		TRY(child_wait(&c, 1, -1, &which));
	}
	*ret_status = c.status;
	*ret_answer = c.text != NULL ? json_loads(c.text, 0, NULL) : NULL;
	return NULL;
}
