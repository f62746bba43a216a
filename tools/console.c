/* SPDX-License-Identifier: Apache-2.0 */
/* --serial WHERE and --console WHERE. See console.h. */
#include "tools/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/base/io.h"

void console_init(struct console *c, const char *option)
{
	*c = (struct console){
		.option = option, .in = -1, .out = -1, .file = FD_NONE, .listen = FD_NONE
	};
}

/* Only what can be waited for: a file or /dev/null on stdin means that nobody will type. */
static bool is_interactive(int fd)
{
	struct stat st;
	if (fstat(fd, &st) != 0) {
		return false;
	}
	return S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd) == 1;
}

/* Removes a socket that nobody listens on; anything else at the path is left alone. */
static struct err *remove_stale(const char *option, const char *path,
				const struct sockaddr_un *addr)
{
	struct stat st;
	if (lstat(path, &st) != 0) {
		return errno == ENOENT ? NULL : ERR_ERRNO("%s: looking at '%s'", option, path);
	}
	ENSURE(S_ISSOCK(st.st_mode), ERR_NOT_NOW,
	       "%s: '%s' exists and is no socket: give another path", option, path);
	SCOPE(fd_close)
	struct fd probe = { socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (probe.n < 0) {
		return ERR_ERRNO("making a socket");
	}
	int rc = connect(probe.n, (const struct sockaddr *)addr, sizeof(*addr));
	ENSURE(rc != 0 && errno == ECONNREFUSED, ERR_NOT_NOW,
	       "%s: somebody listens on '%s' already", option, path);
	if (unlink(path) != 0) {
		return ERR_ERRNO("%s: removing the stale socket '%s'", option, path);
	}
	return NULL;
}

static struct err *open_unix(struct console *c, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	ENSURE(path[0] != 0 && strlen(path) < sizeof(addr.sun_path), ERR_USAGE,
	       "%s: the path of a socket has 1 to %zu bytes", c->option, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	TRY(remove_stale(c->option, path, &addr));
	SCOPE(fd_close)
	struct fd fd = { socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (fd.n < 0) {
		return ERR_ERRNO("making a socket");
	}
	mode_t old = umask(0177); /* nobody else gets in between bind and chmod; one thread only */
	int rc = bind(fd.n, (struct sockaddr *)&addr, sizeof(addr));
	int why = errno;
	umask(old);
	if (rc != 0) {
		return ERR_SYSNO(why, "%s: making the socket '%s'", c->option, path);
	}
	if (listen(fd.n, 1) != 0) {
		return ERR_ERRNO("%s: listening on '%s'", c->option, path);
	}
	c->listen = fd_move(&fd);
	return NULL;
}

struct err *console_open(struct console *c, const char *where)
{
	if (strcmp(where, "null") == 0) {
		return NULL;
	}
	if (strcmp(where, "stdio") == 0) {
		c->in = is_interactive(STDIN_FILENO) ? STDIN_FILENO : -1;
		c->out = STDOUT_FILENO;
		return NULL;
	}
	if (strncmp(where, "file:", 5) == 0) {
		ENSURE(where[5] != 0, ERR_USAGE, "%s file: needs a path behind it", c->option);
		TRY(err_wrap(io_open(where + 5, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY, 0600,
				     &c->file),
			     "%s", c->option));
		c->out = c->file.n;
		return NULL;
	}
	if (strncmp(where, "unix:", 5) == 0) {
		return open_unix(c, where + 5);
	}
	return ERR(ERR_USAGE, "%s: '%.40s' is not one of stdio, null, file:PATH, unix:PATH",
		   c->option, where);
}

struct err *console_raw(struct console *c)
{
	if (c->in < 0 || isatty(c->in) != 1) {
		return NULL;
	}
	if (tcgetattr(c->in, &c->saved) != 0) {
		return ERR_ERRNO("reading the terminal's modes");
	}
	struct termios raw = c->saved;
	cfmakeraw(&raw);
	raw.c_oflag = c->saved.c_oflag; /* newlines of our own messages stay newlines */
	if (tcsetattr(c->in, TCSADRAIN, &raw) != 0) {
		return ERR_ERRNO("setting the terminal's modes");
	}
	c->raw = true;
	return NULL;
}

void console_done(struct console *c)
{
	if (c->raw) {
		tcsetattr(c->in, TCSADRAIN, &c->saved);
		c->raw = false;
	}
	fd_close(&c->file);
	fd_close(&c->listen);
}
