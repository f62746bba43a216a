/* SPDX-License-Identifier: Apache-2.0 */
/* Removes sockets after the end of a VM. See sweep.h. */
#include "tools/sweep.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct socket_file {
	const char *path;
	struct stat st;
};

static ssize_t read_byte(int fd)
{
	char byte;
	ssize_t n;
	do {
		n = read(fd, &byte, 1);
	} while (n < 0 && errno == EINTR);
	return n;
}

/* The process: it has nothing open but fd, and a signal to the group is the VM's affair. */
static void __attribute__((noreturn)) run(int fd, const struct socket_file *files, unsigned n)
{
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	(void)prctl(PR_SET_NAME, "sweep");
	if (chdir("/") != 0 || dup2(fd, 0) != 0 || close_range(1, ~0u, 0) != 0) {
		_exit(1);
	}
	while (read_byte(0) > 0) {
	}
	for (unsigned i = 0; i < n; i++) {
		struct stat now;
		if (lstat(files[i].path, &now) == 0 && now.st_ino == files[i].st.st_ino &&
		    now.st_dev == files[i].st.st_dev) {
			(void)unlink(files[i].path);
		}
	}
	_exit(0);
}

struct err *sweep_begin(const char *const *paths, unsigned n, struct sweep *s)
{
	struct socket_file files[SWEEP_PATHS_MAX];
	int pair[2];
	BUG_ON(n > SWEEP_PATHS_MAX);
	for (unsigned i = 0; i < n; i++) {
		files[i].path = paths[i];
		if (lstat(paths[i], &files[i].st) != 0) {
			return ERR_ERRNO("looking at '%s'", paths[i]);
		}
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
		return ERR_ERRNO("making sockets");
	}
	SCOPE(fd_close) struct fd ours = { pair[0] };
	SCOPE(fd_close) struct fd theirs = { pair[1] };
	pid_t child = fork();
	if (child < 0) {
		return ERR_ERRNO("starting the process that removes sockets");
	}
	if (child == 0) { /* twice: init waits for it, not the VM */
		pid_t grandchild = fork();
		if (grandchild == 0) {
			run(theirs.n, files, n);
		}
		_exit(grandchild < 0);
	}
	int status = 1;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
	}
	ENSURE(status == 0, ERR_SYS, "starting the process that removes sockets failed");
	s->end = (struct fd){ fd_move(&ours).n };
	return NULL;
}

void sweep_end(struct sweep *s)
{
	if (s->end.n < 0) {
		return;
	}
	(void)shutdown(s->end.n, SHUT_WR); /* copies of the descriptor do not matter */
	(void)read_byte(s->end.n);
	fd_close(&s->end);
}
