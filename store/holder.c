/* SPDX-License-Identifier: Apache-2.0 */
/* Lock files of sessions, leases and directories. See holder.h; called by store/ on any thread. */
#include "store/holder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"

enum {
	HEX_LEN = 2 * HOLDER_ID_BYTES,
	HOLDER_WAIT_MS = 60000, /* far longer than anybody keeps such a lock who is not stopped */
	POLL_NS = 1000000,
	LOCK_TRIES_MAX = 1000, /* each try means that somebody removed the file just then */
};

/* DIR/<id>-<text> */
static struct err *holder_path(const char *dir, const uint8_t id[HOLDER_ID_BYTES], const char *text,
			       char out[4096])
{
	char hex[HEX_LEN + 1];
	for (size_t i = 0; i < HOLDER_ID_BYTES; i++) {
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	}
	int n = snprintf(out, 4096, "%s/%s-%s", dir, hex, text);
	ENSURE(n > 0 && n < 4096, ERR_USAGE, "path too long: %.64s...", dir);
	return NULL;
}

/* The other way round; *ret_text points into name. False: not a holder's name. */
static bool holder_parse(const char *name, uint8_t id[HOLDER_ID_BYTES], const char **ret_text)
{
	if (strspn(name, "0123456789abcdef") != HEX_LEN || name[HEX_LEN] != '-' ||
	    strlen(name) > HEX_LEN + 1 + HOLDER_TEXT_MAX) {
		return false;
	}
	for (size_t i = 0; i < HOLDER_ID_BYTES; i++) {
		unsigned v;
		sscanf(name + 2 * i, "%2x", &v);
		id[i] = (uint8_t)v;
	}
	*ret_text = name + HEX_LEN + 1;
	return true;
}

/* 0, EAGAIN when somebody else has it, or another errno. */
static int try_lock(int fd, const struct flock *l)
{
	while (fcntl(fd, F_OFD_SETLK, l) < 0) {
		if (errno == EACCES) {
			return EAGAIN;
		}
		if (errno != EINTR) {
			return errno;
		}
	}
	return 0;
}

/* One attempt; *ret_gone: the file was removed between opening and locking. */
static struct err *lock_once(const char *path, enum holder_lock how, bool create, uint64_t deadline,
			     struct fd *ret_file, bool *ret_got, bool *ret_gone)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	/* A shared lock needs no more than reading: it is also taken on a read-only file system. */
	int flags = create ? O_RDWR | O_CREAT : how == HOLDER_SHARED ? O_RDONLY : O_RDWR;
	TRY(io_open(path, flags, 0600, &f));
	struct flock l = { .l_type = how == HOLDER_SHARED ? F_RDLCK : F_WRLCK,
			   .l_whence = SEEK_SET };
	int rc = try_lock(f.n, &l);
	while (rc == EAGAIN && how != HOLDER_TRY && clock_mono_ns() < deadline) {
		struct timespec ts = { .tv_nsec = POLL_NS };
		nanosleep(&ts, NULL);
		rc = try_lock(f.n, &l);
	}
	if (rc == EAGAIN && how == HOLDER_TRY) {
		*ret_got = false;
		*ret_gone = false;
		return NULL;
	}
	ENSURE(rc != EAGAIN, ERR_NOT_NOW,
	       "%s: locked by another process for too long; if a torpor process is stopped, "
	       "continue or end it",
	       path);
	if (rc != 0) {
		return ERR_SYSNO(rc, "locking %s", path);
	}
	struct stat mine;
	struct stat there;
	if (fstat(f.n, &mine) < 0) {
		return ERR_ERRNO("%s", path);
	}
	if (stat(path, &there) < 0 || mine.st_ino != there.st_ino || mine.st_dev != there.st_dev) {
		*ret_gone = true;
		return NULL;
	}
	*ret_file = fd_move(&f);
	*ret_got = true;
	*ret_gone = false;
	return NULL;
}

struct err *holder_lock_file_for(const char *path, enum holder_lock how, bool create,
				 unsigned wait_ms, struct fd *ret_file, bool *ret_got)
{
	uint64_t deadline = clock_mono_ns() + wait_ms * 1000000ull;
	for (int i = 0; i < LOCK_TRIES_MAX; i++) {
		bool gone;
		TRY(lock_once(path, how, create, deadline, ret_file, ret_got, &gone));
		if (!gone) {
			return NULL;
		}
	}
	return ERR(ERR_NOT_NOW, "%s: is removed again and again", path);
}

struct err *holder_lock_file(const char *path, enum holder_lock how, bool create,
			     struct fd *ret_file, bool *ret_got)
{
	return holder_lock_file_for(path, how, create, HOLDER_WAIT_MS, ret_file, ret_got);
}

struct err *holder_take(const char *dir, const char *text, struct holder *ret_holder)
{
	struct holder h = { .file = FD_NONE };
	int n = snprintf(h.dir, sizeof(h.dir), "%s", dir);
	ENSURE(n > 0 && (size_t)n < sizeof(h.dir), ERR_USAGE, "path too long: %.64s...", dir);
	n = snprintf(h.text, sizeof(h.text), "%s", text);
	BUG_ON(n <= 0 || (size_t)n >= sizeof(h.text));
	TRY(uuid_make(h.id));
	char path[4096];
	TRY(holder_path(dir, h.id, text, path));
	bool got;
	TRY(holder_lock_file(path, HOLDER_ALONE, true, &h.file, &got));
	*ret_holder = h;
	return NULL;
}

void holder_drop(struct holder *h)
{
	if (h->file.n < 0) {
		return;
	}
	char path[4096];
	struct err *e = holder_path(h->dir, h->id, h->text, path);
	BUG_ON(e != NULL); /* holder_take made the same one */
	unlink(path);      /* a file left behind is cleared by the next collection */
	fd_close(&h->file);
}

/* Is that the file behind the name? Another collector may have removed it, and a new holder made
 * one of the same name, since it was opened. */
static bool is_at(const struct fd *f, const char *path)
{
	struct stat mine;
	struct stat there;
	return fstat(f->n, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
	       mine.st_dev == there.st_dev;
}

/*
 * Opens and asks, once. A dead holder's file is removed while its lock is ours, see
 * holder_lock_file. *ret_gone: it was removed in between; what is there now is to be asked.
 */
static struct err *probe_once(const char *path, bool clear, struct fd *ret_file, bool *ret_alive,
			      bool *ret_gone)
{
	SCOPE(fd_close) struct fd f = FD_NONE;
	*ret_gone = false;
	struct err *e = io_open(path, clear ? O_RDWR : O_RDONLY, 0, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "an absent file is a dead holder");
		*ret_alive = false;
		return NULL;
	}
	TRY(e);
	bool locked;
	if (clear) {
		bool got;
		TRY(io_try_lock(f.n, &got));
		locked = !got;
	} else {
		TRY(io_is_locked(f.n, &locked));
	}
	if (!locked && !is_at(&f, path)) {
		*ret_gone = true;
		return NULL;
	}
	if (!locked && clear) {
		unlink(path);
	}
	*ret_alive = locked;
	*ret_file = fd_move(&f);
	return NULL;
}

static struct err *probe(const char *path, bool clear, struct fd *ret_file, bool *ret_alive)
{
	for (int i = 0; i < LOCK_TRIES_MAX; i++) {
		bool gone;
		TRY(probe_once(path, clear, ret_file, ret_alive, &gone));
		if (!gone) {
			return NULL;
		}
	}
	return ERR(ERR_NOT_NOW, "%s: is removed again and again", path);
}

struct err *holder_alive(const char *dir, const uint8_t id[HOLDER_ID_BYTES], const char *text,
			 bool clear, bool *ret_alive)
{
	char path[4096];
	TRY(holder_path(dir, id, text, path));
	SCOPE(fd_close) struct fd f = FD_NONE;
	return probe(path, clear, &f, ret_alive);
}

static void dir_closep(DIR **d)
{
	if (*d != NULL) {
		closedir(*d);
	}
}

struct err *holder_each(const char *dir, bool clear,
			struct err *(*fn)(void *arg, const uint8_t id[HOLDER_ID_BYTES],
					  const char *text),
			void *arg)
{
	SCOPE(dir_closep) DIR *d = opendir(dir);
	if (d == NULL) {
		return ERR_ERRNO("%s", dir);
	}
	for (;;) {
		errno = 0;
		const struct dirent *ent = readdir(d);
		if (ent == NULL) {
			return errno == 0 ? NULL : ERR_ERRNO("%s", dir);
		}
		uint8_t id[HOLDER_ID_BYTES];
		const char *text;
		if (!holder_parse(ent->d_name, id, &text)) {
			continue;
		}
		char path[4096];
		TRY(holder_path(dir, id, text, path));
		SCOPE(fd_close) struct fd f = FD_NONE;
		bool alive;
		TRY(probe(path, clear, &f, &alive));
		if (alive) {
			TRY(fn(arg, id, text));
		}
	}
}
