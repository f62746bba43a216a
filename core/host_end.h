/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands behind the devices of a VM on this host: descriptors, by the device's name. Opened by
 * the program's start-up before the jail, owned by life, borrowed by each machine that it builds.
 * One thread.
 */
#ifndef TORPOR_CORE_HOST_END_H
#define TORPOR_CORE_HOST_END_H

#include <string.h>

#include "core/config_dev.h"
#include "core/vdisk.h"

enum { HOST_SOCKET_BYTES_MAX = 96 }; /* path of a socket device's socket: its others are longer */

struct serial_link;

struct host_end {
	char id[NAME_BYTES_MAX + 1];
	/* A disk's file; what carries a network device's frames; a socket device's listening
	 * socket. */
	struct fd fd;
	bool header;                          /* frames on fd have virtio's header */
	char path[HOST_SOCKET_BYTES_MAX + 1]; /* of that socket */
	bool mapped;         /* the user named the file; else the configuration did */
	struct vdisk *disk;  /* of a captured disk, owned: what stands behind it instead of fd */
	bool accept_changed; /* a disk that is not as the snapshot left it is taken */
	/* A console: as of a serial port, borrowed; and what life makes of them, which stays over
	 * resets. */
	int in, out, listen;
	struct serial_link *link;
};

struct host_ends {
	unsigned n;
	struct host_end e[CONFIG_DEVS_MAX];
};

static inline void host_ends_done(struct host_ends *h)
{
	for (unsigned i = 0; i < h->n; i++) {
		fd_close(&h->e[i].fd);
		vdisk_free(h->e[i].disk);
	}
	h->n = 0;
}

/* The next one, without anything behind it yet; it counts once the caller raises n. */
static inline struct host_end *host_end_next(struct host_ends *h, const char *id)
{
	struct host_end *end = &h->e[h->n];
	*end = (struct host_end){ .fd = FD_NONE };
	memcpy(end->id, id, strlen(id) + 1);
	return end;
}

/* Nothing is behind a device of that name any more. Others stay where they are. */
static inline void host_end_remove(struct host_ends *h, const char *id)
{
	for (unsigned i = 0; i < h->n; i++) {
		if (strcmp(h->e[i].id, id) == 0) {
			fd_close(&h->e[i].fd);
			h->e[i] = (struct host_end){ .fd = FD_NONE };
		}
	}
}

/* A new one in a place that was given up, or behind the last; NULL: there is no room. */
static inline struct host_end *host_end_add(struct host_ends *h, const char *id)
{
	unsigned i = 0;
	while (i < h->n && h->e[i].id[0] != 0) {
		i++;
	}
	if (i == CONFIG_DEVS_MAX) {
		return NULL;
	}
	h->n = i < h->n ? h->n : i + 1;
	h->e[i] = (struct host_end){ .fd = FD_NONE };
	memcpy(h->e[i].id, id, strlen(id) + 1);
	return &h->e[i];
}

/* NULL if there is none. */
static inline const struct host_end *host_end_find(const struct host_ends *h, const char *id)
{
	for (unsigned i = 0; h != NULL && i < h->n; i++) {
		if (strcmp(h->e[i].id, id) == 0) {
			return &h->e[i];
		}
	}
	return NULL;
}

#endif
