/* SPDX-License-Identifier: Apache-2.0 */
/* --disk and --disk-map. See disks.h. */
#include "tools/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/vdisk.h"
#include "tools/devspec.h"
#include "tools/vmm.h"

struct disk_words {
	bool capture_on;
	bool capture_off;
};

static struct err *set_word(const char *word, struct config_dev *d, struct disk_words *w)
{
	bool known = false;
	TRY(devspec_place("--disk", word, d, &known));
	if (known) {
		return NULL;
	}
	if (strcmp(word, "ro") == 0) {
		d->read_only = true;
	} else if (strncmp(word, "queues=", 7) == 0) {
		TRY(devspec_number("--disk", word, 1000, &d->queues));
	} else if (strncmp(word, "iops=", 5) == 0) {
		TRY(devspec_rate("--disk", word, &d->iops));
	} else if (strncmp(word, "bps=", 4) == 0) {
		TRY(devspec_rate("--disk", word, &d->bps));
	} else if (strcmp(word, "capture=off") == 0) {
		w->capture_off = true;
	} else if (strcmp(word, "capture=on") == 0) {
		w->capture_on = true;
	} else {
		return ERR(ERR_USAGE,
			   "--disk: '%.40s' is not one of ro, id=NAME, slot=N, queues=N, iops=N, "
			   "bps=SIZE, capture=on|off",
			   word);
	}
	return NULL;
}

struct err *disks_parse(const char *text, struct config_dev *ret)
{
	struct config_dev d = { .kind = CONFIG_DISK, .queues = 1 };
	struct disk_words w = { 0 };
	char word[CONFIG_PATH_BYTES_MAX + 1];
	const char *at = text;
	TRY(devspec_word("--disk", &at, word, sizeof(word)));
	ENSURE(word[0] != 0, ERR_USAGE, "--disk needs a path: --disk PATH[,ro]...");
	/* The VM's process may have another working folder, and so has a restore. */
	TRY(err_wrap(opts_absolute(word, d.path, sizeof(d.path)), "--disk"));
	while (*at != 0) {
		TRY(devspec_word("--disk", &at, word, sizeof(word)));
		TRY(set_word(word, &d, &w));
	}
	ENSURE(!w.capture_on || (!d.read_only && !w.capture_off), ERR_USAGE,
	       "--disk: capture=on does not go with ro or capture=off");
	d.capture = !d.read_only && !w.capture_off;
	*ret = d;
	return NULL;
}

struct err *disks_add(const char *text, struct config_devs *devs)
{
	struct config_dev d;
	TRY(disks_parse(text, &d));
	return config_dev_add(devs, &d, NULL);
}

static struct err *in_use(const struct config_dev *d, const char *path)
{
	return ERR(ERR_NOT_NOW, "disk '%s': '%s' is in use by another VM", d->id, path);
}

/* Nobody writes what is below a captured disk. */
static bool is_read(const struct config_dev *d)
{
	return d->read_only || d->capture;
}

/*
 * Two VMs that write to one file destroy it: a writer excludes all others, readers one writer. The
 * lock is the descriptor's and dies with it.
 */
static struct err *lock_disk(const struct config_dev *d, int fd, const char *path)
{
	struct flock l = { .l_type = is_read(d) ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(fd, F_OFD_SETLK, &l) == 0) {
		return NULL;
	}
	if (errno == EAGAIN || errno == EACCES) {
		return in_use(d, path);
	}
	return ERR_ERRNO("disk '%s': locking '%s'", d->id, path);
}

/* The same without locking anything. */
static struct err *ask_lock(const struct config_dev *d, int fd, const char *path)
{
	struct flock l = { .l_type = is_read(d) ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(fd, F_OFD_GETLK, &l) != 0) {
		return ERR_ERRNO("disk '%s': asking who uses '%s'", d->id, path);
	}
	return l.l_type == F_UNLCK ? NULL : in_use(d, path);
}

/* How a disk is opened: for use, or to be looked at. */
struct manner {
	bool look; /* for reading, whatever it will be used for */
	struct err *(*lock)(const struct config_dev *d, int fd, const char *path);
};

static struct err *open_one(const struct config_dev *d, const char *path, const struct manner *how,
			    struct fd *ret)
{
	SCOPE(fd_close) struct fd fd = FD_NONE;
	/* Non-blocking, so that a FIFO at the path does not hold us up. */
	int flags = (is_read(d) || how->look ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY;
	TRY(err_wrap(io_open(path, flags, 0, &fd), "disk '%s'", d->id));
	if (!is_read(d) && how->look && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0) {
		return ERR_ERRNO("disk '%s': '%s' is to be written to", d->id, path);
	}
	struct stat st;
	if (fstat(fd.n, &st) != 0) {
		return ERR_ERRNO("disk '%s': looking at '%s'", d->id, path);
	}
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_USAGE,
	       "disk '%s': '%s' is neither a regular file nor a block device", d->id, path);
	TRY(how->lock(d, fd.n, path));
	/* io_uring takes O_NONBLOCK at its word, also for files. */
	if (fcntl(fd.n, F_SETFL, flags & ~O_NONBLOCK) != 0) {
		return ERR_ERRNO("disk '%s': '%s'", d->id, path);
	}
	*ret = fd_move(&fd);
	return NULL;
}

/* The layer of a captured disk, over the file that is open. */
static struct err *open_layer(struct vmm *v, const struct config_dev *d, const char *path,
			      struct host_end *end)
{
	const struct vdisk_opts o = {
		.id = d->id,
		.vm = v->config.name,
		.family = v->config.family,
		.store_dir = v->store_dir,
		.store = v->store,
		.path = path,
		.base_fd = fd_move(&end->fd).n,
		.image = v->image,
		.accept_changed = end->accept_changed,
		.may_be_copy = end->mapped,
	};
	return vdisk_open(&o, &end->disk);
}

/* v NULL: they are only looked at. */
static void open_all(struct vmm *v, const struct config_devs *devs, const struct opt_list *map,
		     bool accept_changed, const struct manner *how, const struct findings *f,
		     struct host_ends *ret)
{
	finding(f, "disk", devspec_check_map("--disk-map", CONFIG_DISK, devs, map));
	for (unsigned i = 0; i < devs->n; i++) {
		const struct config_dev *d = &devs->d[i];
		if (d->kind != CONFIG_DISK) {
			continue;
		}
		const char *mapped = devspec_mapped(map, d->id);
		const char *path = mapped != NULL ? mapped : d->path;
		struct host_end *end = host_end_next(ret, d->id);
		end->mapped = mapped != NULL;
		end->accept_changed = accept_changed;
		struct err *e = open_one(d, path, how, &end->fd);
		if (e == NULL && v != NULL && d->capture) {
			e = open_layer(v, d, path, end);
		}
		ret->n += e == NULL;
		finding(f, "disk", e);
	}
}

struct err *disks_open_one(const struct config_dev *d, struct fd *ret)
{
	static const struct manner use = { .lock = lock_disk };
	return open_one(d, d->path, &use, ret);
}

struct err *disks_open(struct vmm *v)
{
	static const struct manner use = { .lock = lock_disk };
	struct err *first = NULL;
	open_all(v, &v->config.devs, &v->disk_map, v->accept_disks, &use,
		 &(struct findings){ finding_keep_first, &first }, &v->ends);
	return first;
}

void disks_look(const struct config_devs *devs, const struct opt_list *map, bool accept_changed,
		const struct findings *f, struct host_ends *ret)
{
	static const struct manner look = { .look = true, .lock = ask_lock };
	open_all(NULL, devs, map, accept_changed, &look, f, ret);
}
