/* SPDX-License-Identifier: Apache-2.0 */
/* --detach. See detach.h. */
#include "tools/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "core/base/io.h"

enum {
	KEEP_MAX = 16,
	MESSAGE_MAX = 8192, /* our own child's: an error's text or a few hundred bytes of JSON */
};

static int by_number(const void *a, const void *b)
{
	const int x = *(const int *)a;
	const int y = *(const int *)b;
	return (x > y) - (x < y);
}

/* Closes every descriptor above stderr but those in keep. */
static void close_others(int *keep, size_t n)
{
	qsort(keep, n, sizeof(*keep), by_number);
	unsigned next = STDERR_FILENO + 1;
	for (size_t i = 0; i < n; i++) {
		if (keep[i] < (int)next) {
			continue;
		}
		if ((unsigned)keep[i] > next) {
			close_range(next, (unsigned)keep[i] - 1, 0);
		}
		next = (unsigned)keep[i] + 1;
	}
	close_range(next, ~0u, 0);
}

static struct err *become_child(const int *keep, size_t nkeep, int pipe)
{
	int all[KEEP_MAX];
	size_t n = 0;
	BUG_ON(nkeep + 1 > KEEP_MAX);
	for (size_t i = 0; i < nkeep; i++) {
		if (keep[i] > STDERR_FILENO) {
			all[n++] = keep[i];
		}
	}
	all[n++] = pipe;
	if (setsid() < 0) {
		return ERR_ERRNO("leaving the terminal's session");
	}
	if (chdir("/") != 0) {
		return ERR_ERRNO("leaving the working directory");
	}
	int null = open("/dev/null", O_RDWR);
	if (null < 0) {
		return ERR_ERRNO("opening /dev/null");
	}
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
		if (dup2(null, i) < 0) {
			return ERR_ERRNO("leaving the terminal");
		}
	}
	close_others(all, n);
	return NULL;
}

/* The message: 'R' and text, or 'E', class (one byte) and text. */
static struct err *hear_child(int pipe, pid_t child, char **ret_text)
{
	char buf[MESSAGE_MAX];
	size_t len = 0;
	while (len < sizeof(buf) - 1) {
		ssize_t n = read(pipe, buf + len, sizeof(buf) - 1 - len);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			break;
		}
		len += (size_t)n;
	}
	buf[len] = 0;
	if (len >= 1 && buf[0] == 'R') {
		char *text = strdup(buf + 1);
		ENSURE(text != NULL, ERR_SYS, "out of memory");
		*ret_text = text;
		return NULL;
	}
	int status = 0;
	if (waitpid(child, &status, 0) != child) {
		status = 0;
	}
	if (len >= 2 && buf[0] == 'E' && (unsigned char)buf[1] < ERR__COUNT) {
		return ERR((enum err_class)buf[1], "%s", buf + 2);
	}
	ENSURE(!WIFSIGNALED(status), ERR_SYS,
	       "the VM's process was ended by signal %d (%s) before the guest ran; see its log in "
	       "the run "
	       "folder",
	       WTERMSIG(status), strsignal(WTERMSIG(status)));
	return ERR(ERR_SYS,
		   "the VM's process ended with status %d before the guest ran; see its log in the "
		   "run "
		   "folder",
		   WEXITSTATUS(status));
}

struct err *detach_split(const int *keep, size_t nkeep, bool *ret_parent, struct fd *ret_pipe,
			 char **ret_text)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0) {
		return ERR_ERRNO("making a pipe");
	}
	SCOPE(fd_close) struct fd in = { ends[0] };
	SCOPE(fd_close) struct fd out = { ends[1] };
	fflush(NULL); /* what is buffered is printed once */
	pid_t child = fork();
	if (child < 0) {
		return ERR_ERRNO("starting the VM's process");
	}
	if (child != 0) {
		fd_close(&out);
		*ret_parent = true;
		return hear_child(in.n, child, ret_text);
	}
	fd_close(&in);
	*ret_parent = false;
	struct err *e = become_child(keep, nkeep, out.n);
	if (e != NULL) {
		detach_tell_error(&out, e);
		return e;
	}
	*ret_pipe = fd_move(&out);
	return NULL;
}

void detach_tell_ok(struct fd *pipe, const char *text)
{
	if (pipe->n < 0) {
		return;
	}
	/* Somebody who no longer listens (EPIPE) misses nothing. */
	struct err *e = io_write_full(pipe->n, "R", 1);
	if (e == NULL) {
		e = io_write_full(pipe->n, text, strlen(text));
	}
	err_drop(e, "the starter has left; the VM runs all the same");
	fd_close(pipe);
}

void detach_tell_error(struct fd *pipe, const struct err *e)
{
	if (pipe->n < 0) {
		return;
	}
	const char head[2] = { 'E', (char)err_class(e) };
	struct err *failed = io_write_full(pipe->n, head, sizeof(head));
	if (failed == NULL) {
		failed = io_write_full(pipe->n, err_msg(e), strlen(err_msg(e)));
	}
	err_drop(failed, "the starter has left; the log has the error");
	fd_close(pipe);
}

struct err *detach_log_to(const char *path)
{
	SCOPE(fd_close) struct fd log = FD_NONE;
	TRY(io_open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW, 0600, &log));
	if (dup2(log.n, STDERR_FILENO) < 0) {
		return ERR_ERRNO("writing the log to '%s'", path);
	}
	return NULL;
}
