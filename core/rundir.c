/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run folder. See rundir.h. Called by main and the tools before threads start.
 *
 * Who lives is told by the OFD lock on NAME.lock alone: never by the pid in it, never by a socket
 * that is there. The lock file is never removed while its lock could be wanted: unlinking it would
 * let two processes hold "the" lock, on two inodes.
 */
#include "core/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/base/io.h"
#include "core/config.h"

enum {
	PATH_BYTES = 4096,
	LOCK_FILE_BYTES_MAX = 16384, /* one line with two paths */
	SOCKET_BACKLOG = 16,
	CLAIM_TRIES = 8,
};

#define LOCK_SUFFIX ".lock"
#define SOCKET_SUFFIX ".sock"

/* Also asked for inside the jail. */
struct err *rundir_name(char *ret_path, size_t len)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;
	if (xdg != NULL && xdg[0] != '\0') {
		ENSURE(xdg[0] == '/', ERR_USAGE,
		       "XDG_RUNTIME_DIR is %s, which is no absolute path; set it to one", xdg);
		n = snprintf(ret_path, len, "%s/torpor", xdg);
	} else {
		ENSURE(geteuid() == 0, ERR_NOT_NOW,
		       "XDG_RUNTIME_DIR is not set, so there is no folder for control sockets; set "
		       "it "
		       "to a private directory such as /run/user/%u",
		       (unsigned)geteuid());
		n = snprintf(ret_path, len, "/run/torpor");
	}
	ENSURE(n > 0 && (size_t)n < len, ERR_USAGE, "run folder: path of %d bytes is too long", n);
	return NULL;
}

struct err *rundir_path(char *ret_path, size_t len)
{
	char path[PATH_BYTES];
	TRY(rundir_name(path, sizeof(path)));
	size_t n = strlen(path);
	ENSURE(n < len, ERR_USAGE, "run folder: path of %zu bytes is too long", n);
	TRY(err_wrap(io_mkdirs(path), "run folder"));
	struct stat st;
	if (stat(path, &st) < 0) {
		return ERR_ERRNO("run folder %s", path);
	}
	/* Whoever may write here may pose as a VM. */
	ENSURE(st.st_uid == geteuid(), ERR_NOT_NOW,
	       "run folder %s belongs to user %u, not to %u; remove it or set XDG_RUNTIME_DIR",
	       path, (unsigned)st.st_uid, (unsigned)geteuid());
	if ((st.st_mode & 077) != 0 && chmod(path, 0700) < 0) {
		return ERR_ERRNO("run folder %s: making it private", path);
	}
	memcpy(ret_path, path, n + 1);
	return NULL;
}

/* Path of a file of a VM in the run folder. */
static struct err *file_path(const char *name, const char *suffix, char *ret_path, size_t len)
{
	char dir[PATH_BYTES];
	TRY(config_check_name(name));
	TRY(rundir_path(dir, sizeof(dir)));
	int n = snprintf(ret_path, len, "%s/%s%s", dir, name, suffix);
	ENSURE(n > 0 && (size_t)n < len, ERR_USAGE, "run folder: path of %d bytes is too long", n);
	return NULL;
}

/* ---- lock files ---- */

/* Reads what a lock file says. Its own user wrote it, yet it may be half-written or of another
 * version: *ret_ok says whether it could be used. */
static struct err *read_lock_file(int fd, struct rundir_vm *ret, bool *ret_ok)
{
	*ret_ok = false;
	SCOPE(freep) char *text = malloc(LOCK_FILE_BYTES_MAX);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	ssize_t n;
	do {
		n = pread(fd, text, LOCK_FILE_BYTES_MAX, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return ERR_ERRNO("reading a lock file");
	}
	json_t *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
	json_int_t pid = 0;
	const char *store = NULL;
	const char *sock = NULL;
	if (root != NULL &&
	    json_unpack(root, "{s:I,s:s,s:s}", "pid", &pid, "store", &store, "socket", &sock) ==
		    0 &&
	    pid > 0 && pid <= INT32_MAX && strlen(store) < sizeof(ret->store_dir) &&
	    strlen(sock) < sizeof(ret->socket_path)) {
		ret->pid = (int)pid;
		strcpy(ret->store_dir, store);
		strcpy(ret->socket_path, sock);
		*ret_ok = true;
	}
	json_decref(root);
	return NULL;
}

/* Who reads the lock file has another working directory. */
static struct err *absolute(const char *path, char *ret_path, size_t len)
{
	char cwd[PATH_BYTES] = "";
	if (path[0] != '/' && getcwd(cwd, sizeof(cwd)) == NULL) {
		return ERR_ERRNO("working directory");
	}
	int n = snprintf(ret_path, len, "%s%s%s", cwd, path[0] != '/' ? "/" : "", path);
	ENSURE(n > 0 && (size_t)n < len, ERR_USAGE, "path of %d bytes is too long: %s", n, path);
	return NULL;
}

static struct err *write_lock_file(int fd, const char *store_dir, const char *socket_path)
{
	json_t *root = json_pack("{s:i,s:s,s:s}", "pid", (int)getpid(), "store", store_dir,
				 "socket", socket_path);
	ENSURE(root != NULL, ERR_USAGE, "a path is no valid UTF-8: %s, %s", store_dir, socket_path);
	SCOPE(freep) char *text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	size_t len = strlen(text);
	ENSURE(len + 1 < LOCK_FILE_BYTES_MAX, ERR_USAGE, "paths of %zu bytes are too long", len);
	text[len] = '\n'; /* in the place of the NUL */
	/* Written over the old text first and cut after: a reader never finds it empty. */
	TRY(io_pwrite_full(fd, text, len + 1, 0));
	if (ftruncate(fd, (off_t)len + 1) < 0) {
		return ERR_ERRNO("cutting the lock file");
	}
	return NULL;
}

/* Is fd still the file that the path names? */
static bool same_file(int fd, const char *path)
{
	struct stat a;
	struct stat b;
	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static struct err *claim_refused(const char *name, int fd)
{
	struct rundir_vm vm = { 0 };
	bool ok;
	TRY(read_lock_file(fd, &vm, &ok));
	if (!ok) {
		return ERR(ERR_NOT_NOW, "VM %s is just being started by another process", name);
	}
	return ERR(ERR_NOT_NOW,
		   "VM %s: already running (pid %d); stop it first or use another name", name,
		   vm.pid);
}

struct err *rundir_claim(const char *name, const char *store_dir, const char *socket_path,
			 struct fd *ret_lock)
{
	char path[PATH_BYTES];
	struct rundir_vm me;
	TRY(file_path(name, LOCK_SUFFIX, path, sizeof(path)));
	TRY(absolute(store_dir, me.store_dir, sizeof(me.store_dir)));
	if (socket_path != NULL) {
		TRY(absolute(socket_path, me.socket_path, sizeof(me.socket_path)));
	} else {
		TRY(file_path(name, SOCKET_SUFFIX, me.socket_path, sizeof(me.socket_path)));
	}
	for (unsigned i = 0; i < CLAIM_TRIES; i++) {
		SCOPE(fd_close) struct fd f = FD_NONE;
		TRY(io_open(path, O_RDWR | O_CREAT, 0600, &f));
		bool got;
		TRY(err_wrap(io_try_lock(f.n, &got), "%s", path));
		if (!got) {
			return claim_refused(name, f.n);
		}
		/* The holder before us may have removed the file between our open and our lock. */
		if (!same_file(f.n, path)) {
			continue;
		}
		TRY(err_wrap(write_lock_file(f.n, me.store_dir, me.socket_path), "%s", path));
		*ret_lock = fd_move(&f);
		return NULL;
	}
	return ERR(ERR_NOT_NOW, "%s changes all the time; try again", path);
}

/* ---- sockets ---- */

/* Removes a socket that nobody listens on any more. Called by the holder of the name's lock, so for
 * the default path nobody can be behind it; a path given by the user may be somebody else's. */
static struct err *remove_stale(const char *path, const struct sockaddr_un *addr, socklen_t len)
{
	struct stat st;
	if (lstat(path, &st) < 0) {
		return errno == ENOENT ? NULL : ERR_ERRNO("control socket %s", path);
	}
	ENSURE(S_ISSOCK(st.st_mode), ERR_NOT_NOW,
	       "control socket %s: there is a file that is no socket; remove it or give --socket "
	       "another path",
	       path);
	/* Same type as our listener: a living one of another type refuses with EPROTOTYPE. */
	SCOPE(fd_close)
	struct fd f = { .n = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (f.n < 0) {
		return ERR_ERRNO("socket");
	}
	int rc = connect(f.n, (const struct sockaddr *)addr, len);
	ENSURE(rc < 0 && errno == ECONNREFUSED, ERR_NOT_NOW,
	       "control socket %s is in use by another process; give --socket another path", path);
	if (unlink(path) < 0 && errno != ENOENT) {
		return ERR_ERRNO("control socket %s: removing the stale one", path);
	}
	return NULL;
}

struct err *rundir_listen(const char *name, const char *socket_path, struct fd *ret_fd,
			  char *ret_path, size_t len)
{
	char path[PATH_BYTES];
	if (socket_path == NULL) {
		TRY(file_path(name, SOCKET_SUFFIX, path, sizeof(path)));
	} else {
		int n = snprintf(path, sizeof(path), "%s", socket_path);
		ENSURE(n > 0 && (size_t)n < sizeof(path), ERR_USAGE,
		       "control socket: path of %d bytes", n);
	}
	size_t path_len = strlen(path);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	ENSURE(path_len < sizeof(addr.sun_path), ERR_USAGE,
	       "control socket %s: the path has %zu bytes, a socket takes %zu; use a shorter name, "
	       "--socket PATH or another XDG_RUNTIME_DIR",
	       path, path_len, sizeof(addr.sun_path) - 1);
	ENSURE(path_len < len, ERR_USAGE, "control socket %s: path too long", path);
	memcpy(addr.sun_path, path, path_len + 1);
	socklen_t addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len + 1);
	TRY(remove_stale(path, &addr, addr_len));

	SCOPE(fd_close) struct fd f = { .n = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0) };
	if (f.n < 0) {
		return ERR_ERRNO("socket");
	}
	/* The mode is made by bind from the descriptor's, so nobody can connect in between. */
	if (fchmod(f.n, 0600) < 0) {
		return ERR_ERRNO("control socket %s: mode", path);
	}
	if (bind(f.n, (const struct sockaddr *)&addr, addr_len) < 0) {
		return ERR_ERRNO("control socket %s", path);
	}
	if (chmod(path, 0600) < 0 || listen(f.n, SOCKET_BACKLOG) < 0) {
		struct err *e = ERR_ERRNO("control socket %s", path);
		unlink(path);
		return e;
	}
	memcpy(ret_path, path, path_len + 1);
	*ret_fd = fd_move(&f);
	return NULL;
}

/* ---- listing ---- */

/* Looks at one lock file: *ret_found only if its VM lives and says who it is. */
static struct err *probe(const char *name, const char *path, bool *ret_found, struct rundir_vm *ret)
{
	*ret_found = false;
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct err *e = io_open(path, O_RDONLY, 0, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "no lock file: no such VM");
		return NULL;
	}
	TRY(e);
	bool locked;
	TRY(err_wrap(io_is_locked(f.n, &locked), "%s", path));
	if (!locked) {
		return NULL;
	}
	struct rundir_vm vm = { 0 };
	bool ok;
	TRY(err_wrap(read_lock_file(f.n, &vm, &ok), "%s", path));
	if (!ok) {
		return NULL; /* is being started: not yet one that could be spoken to */
	}
	strcpy(vm.name, name);
	*ret = vm;
	*ret_found = true;
	return NULL;
}

struct err *rundir_find(const char *name, bool *ret_found, struct rundir_vm *ret)
{
	char path[PATH_BYTES];
	TRY(file_path(name, LOCK_SUFFIX, path, sizeof(path)));
	return probe(name, path, ret_found, ret);
}

/* The VM name in a lock file's name; false for other files. */
static bool name_of(const char *file, char ret_name[NAME_BYTES_MAX + 1])
{
	size_t len = strlen(file);
	size_t suffix = strlen(LOCK_SUFFIX);
	if (len <= suffix || len - suffix > NAME_BYTES_MAX ||
	    strcmp(file + len - suffix, LOCK_SUFFIX) != 0) {
		return false;
	}
	memcpy(ret_name, file, len - suffix);
	ret_name[len - suffix] = '\0';
	struct err *e = config_check_name(ret_name);
	bool ok = e == NULL;
	err_drop(e, "some other file in the run folder");
	return ok;
}

static void closedirp(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

static int by_name(const void *a, const void *b)
{
	const struct rundir_vm *x = a;
	const struct rundir_vm *y = b;
	return strcmp(x->name, y->name);
}

struct err *rundir_list(struct rundir_vm **ret, size_t *ret_n)
{
	char dir[PATH_BYTES];
	TRY(rundir_path(dir, sizeof(dir)));
	SCOPE(closedirp) DIR *d = opendir(dir);
	if (d == NULL) {
		return ERR_ERRNO("run folder %s", dir);
	}
	SCOPE(freep) struct rundir_vm *vms = NULL;
	size_t n = 0;
	for (;;) {
		errno = 0;
		const struct dirent *ent = readdir(d);
		if (ent == NULL) {
			break;
		}
		char name[NAME_BYTES_MAX + 1];
		char path[PATH_BYTES + 256];
		if (!name_of(ent->d_name, name)) {
			continue;
		}
		snprintf(path, sizeof(path), "%s/%s", dir, ent->d_name);
		struct rundir_vm vm;
		bool found;
		TRY(probe(name, path, &found, &vm));
		if (!found) {
			continue;
		}
		struct rundir_vm *grown = reallocarray(vms, n + 1, sizeof(*vms));
		ENSURE(grown != NULL, ERR_SYS, "out of memory");
		vms = grown;
		vms[n++] = vm;
	}
	if (errno != 0) {
		return ERR_ERRNO("run folder %s", dir);
	}
	if (n > 0) {
		qsort(vms, n, sizeof(*vms), by_name);
	}
	*ret = MOVE(vms);
	*ret_n = n;
	return NULL;
}

/*
 * The caller still holds the lock. Removing the lock file is safe: who opened it before finds after
 * locking that the path names another file, and starts over (rundir_claim). Failures leave a stale
 * file, which the next start replaces.
 */
void rundir_unlink(const char *name, const char *socket_path)
{
	char dir[PATH_BYTES];
	char path[PATH_BYTES + NAME_BYTES_MAX + sizeof(LOCK_SUFFIX)];
	if (socket_path != NULL) {
		(void)unlink(socket_path);
	}
	struct err *e = rundir_name(dir, sizeof(dir));
	if (e == NULL) {
		snprintf(path, sizeof(path), "%s/%.64s" LOCK_SUFFIX, dir, name);
		(void)unlink(path);
	}
	err_drop(e, "a stale lock file is harmless");
}
