/* SPDX-License-Identifier: Apache-2.0 */
/* --disk and --disk-map. See disks.h. */
#include "tools/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"

/* Up to the next single comma, with doubled ones made single; *at moves behind it. */
static struct err *next_word(const char **at, char *word, size_t size)
{
	size_t n = 0;
	const char *p = *at;
	for (; *p != 0; p++) {
		if (*p == ',' && p[1] == ',') {
			p++;
		} else if (*p == ',') {
			break;
		}
		ENSURE(n + 1 < size, ERR_USAGE, "--disk: '%.40s...' is too long", *at);
		word[n++] = *p;
	}
	word[n] = 0;
	*at = *p == ',' ? p + 1 : p;
	return NULL;
}

static struct err *get_number(const char *word, unsigned *ret)
{
	uint64_t v = 0;
	const char *text = strchr(word, '=') + 1;
	struct err *e = config_parse_size(text, &v);
	if (e != NULL || v > 1000) {
		err_drop(e, "the message below says more");
		return ERR(ERR_USAGE, "--disk: '%.40s' is no small number", word);
	}
	*ret = (unsigned)v;
	return NULL;
}

struct disk_words {
	bool capture_on;
	bool capture_off;
};

static struct err *set_word(const char *word, struct config_dev *d, struct disk_words *w)
{
	if (strcmp(word, "ro") == 0) {
		d->read_only = true;
	} else if (strncmp(word, "id=", 3) == 0) {
		TRY(err_wrap(config_check_name(word + 3), "--disk: id"));
		snprintf(d->id, sizeof(d->id), "%.*s", (int)NAME_BYTES_MAX, word + 3);
	} else if (strncmp(word, "slot=", 5) == 0) {
		TRY(get_number(word, &d->slot));
		ENSURE(d->slot > 0, ERR_USAGE, "--disk: slots count from 1");
	} else if (strncmp(word, "queues=", 7) == 0) {
		TRY(get_number(word, &d->queues));
	} else if (strcmp(word, "capture=off") == 0) {
		w->capture_off = true;
	} else if (strcmp(word, "capture=on") == 0) {
		w->capture_on = true;
	} else {
		return ERR(
			ERR_USAGE,
			"--disk: '%.40s' is not one of ro, id=NAME, slot=N, queues=N, capture=off",
			word);
	}
	return NULL;
}

struct err *disks_add(const char *text, struct config_devs *devs)
{
	struct config_dev d = { .kind = CONFIG_DISK, .queues = 1 };
	struct disk_words w = { 0 };
	char word[CONFIG_PATH_BYTES_MAX + 1];
	const char *at = text;
	TRY(next_word(&at, word, sizeof(word)));
	ENSURE(word[0] != 0, ERR_USAGE, "--disk needs a path: --disk PATH[,ro]...");
	/* The VM's process may have another working folder, and so has a restore. */
	TRY(err_wrap(opts_absolute(word, d.path, sizeof(d.path)), "--disk"));
	while (*at != 0) {
		TRY(next_word(&at, word, sizeof(word)));
		TRY(set_word(word, &d, &w));
	}
	ENSURE(!w.capture_on, ERR_USAGE,
	       "--disk: capture=on is not there yet: give ro, or capture=off and keep disk and "
	       "snapshots together yourself");
	ENSURE(d.read_only || w.capture_off, ERR_USAGE,
	       "--disk: snapshots do not hold the content of disks yet: say ro, or capture=off for "
	       "a writable disk whose snapshots you can restore while it has not moved on");
	return config_dev_add(devs, &d, NULL);
}

/* The path that --disk-map gives for a disk, NULL if none. */
static const char *mapped(const struct opt_list *map, const char *id)
{
	for (unsigned i = 0; i < map->n; i++) {
		size_t n = strlen(id);
		if (strncmp(map->v[i], id, n) == 0 && map->v[i][n] == '=') {
			return map->v[i] + n + 1;
		}
	}
	return NULL;
}

static struct err *check_map(const struct config_devs *devs, const struct opt_list *map)
{
	for (unsigned i = 0; i < map->n; i++) {
		char id[NAME_BYTES_MAX + 1];
		size_t n = strcspn(map->v[i], "=");
		snprintf(id, sizeof(id), "%.*s", (int)MIN(n, (size_t)NAME_BYTES_MAX), map->v[i]);
		const struct config_dev *d = config_dev_find(devs, id);
		ENSURE(map->v[i][n] == '=' && d != NULL && d->kind == CONFIG_DISK, ERR_USAGE,
		       "--disk-map: '%.40s': the VM has no such disk; give ID=PATH", map->v[i]);
	}
	return NULL;
}

/*
 * Two VMs that write to one file destroy it: a writer excludes all others, readers one writer. The
 * lock is the descriptor's and dies with it.
 */
static struct err *lock_disk(const struct config_dev *d, int fd, const char *path)
{
	struct flock l = { .l_type = d->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(fd, F_OFD_SETLK, &l) == 0) {
		return NULL;
	}
	ENSURE(errno != EAGAIN && errno != EACCES, ERR_NOT_NOW,
	       "disk '%s': '%s' is in use by another VM", d->id, path);
	return ERR_ERRNO("disk '%s': locking '%s'", d->id, path);
}

static struct err *open_one(const struct config_dev *d, const char *path, struct fd *ret)
{
	SCOPE(fd_close) struct fd fd = FD_NONE;
	/* Non-blocking, so that a FIFO at the path does not hold us up. */
	int flags = (d->read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY;
	TRY(err_wrap(io_open(path, flags, 0, &fd), "disk '%s'", d->id));
	struct stat st;
	if (fstat(fd.n, &st) != 0) {
		return ERR_ERRNO("disk '%s': looking at '%s'", d->id, path);
	}
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_USAGE,
	       "disk '%s': '%s' is neither a regular file nor a block device", d->id, path);
	TRY(lock_disk(d, fd.n, path));
	/* io_uring takes O_NONBLOCK at its word, also for files. */
	if (fcntl(fd.n, F_SETFL, flags & ~O_NONBLOCK) != 0) {
		return ERR_ERRNO("disk '%s': '%s'", d->id, path);
	}
	*ret = fd_move(&fd);
	return NULL;
}

struct err *disks_open(const struct config_devs *devs, const struct opt_list *map,
		       bool accept_changed, struct host_ends *ret)
{
	TRY(check_map(devs, map));
	for (unsigned i = 0; i < devs->n; i++) {
		const struct config_dev *d = &devs->d[i];
		if (d->kind != CONFIG_DISK) {
			continue;
		}
		const char *path = mapped(map, d->id);
		struct host_end *end = &ret->e[ret->n];
		*end = (struct host_end){
			.fd = FD_NONE,
			.mapped = path != NULL,
			.accept_changed = accept_changed,
		};
		snprintf(end->id, sizeof(end->id), "%s", d->id);
		TRY(open_one(d, path != NULL ? path : d->path, &end->fd));
		ret->n++;
	}
	return NULL;
}
