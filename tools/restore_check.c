/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor restore --check`: everything that stands against a restore, told at once. Called by
 * cmd_restore.c on the only thread there is.
 *
 * Nothing is written: the store is opened for reading (without a lease, so that somebody may remove
 * the snapshot meanwhile), disks are opened for reading and not locked, the machine that asks KVM
 * is built over empty memory and never runs (core/preflight.h).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/preflight.h"
#include "core/rundir.h"
#include "core/uffd.h"
#include "tools/disks.h"
#include "tools/nets.h"
#include "tools/out.h"
#include "tools/restore.h"

/* For the lease, the lock file, the log and the first pages of the catalog. */
#define ROOM_BYTES (1ull << 20)

struct check {
	const struct restore *r;
	struct vmm *v;
	json_t *list;  /* findings; NULL without --json */
	json_t *notes; /* what does not stand against it */
	unsigned n;
};

static void tell(json_t *list, const char *area, const struct err *e)
{
	if (list == NULL) {
		printf("%s: %s\n", area, err_msg(e));
		return;
	}
	json_t *row = json_pack("{s:s,s:s}", "area", area, "finding", err_msg(e));
	if (row != NULL) {
		json_array_append_new(list, row);
	}
}

static void on_finding(void *arg, const char *area, struct err *e)
{
	struct check *c = arg;
	c->n++;
	tell(c->list, area, e);
	err_free(e);
}

/* It would be restored all the same. */
static void note(const struct check *c, struct err *e)
{
	if (e != NULL) {
		tell(c->notes, "note", e);
		err_free(e);
	}
}

/* ---- the snapshot's bytes ---- */

static void on_damage(void *arg, const char *text)
{
	finding(arg, "store", ERR(ERR_CORRUPT, "%s", text));
}

/* Every byte up to the root, the map of memory and what it points to included. */
static struct err *verify(struct check *c, struct findings *f)
{
	struct store_ref r;
	TRY(store_ref_resolve(c->v->store, c->r->ref, &r));
	uint64_t n = 0;
	struct err *e = family_verify_snap(r.family, r.snap.id, on_damage, f, &n);
	store_ref_done(&r);
	return err_wrap(e, "verifying '%s'", c->r->ref);
}

/* ---- the host ---- */

static struct err *alive(const char *name)
{
	char dir[4096];
	struct stat st;
	struct rundir_vm vm;
	bool found = false;
	TRY(rundir_name(dir, sizeof(dir)));
	if (stat(dir, &st) != 0) {
		return NULL; /* nobody ever made it; looking for a VM would */
	}
	TRY(rundir_find(name, &found, &vm));
	ENSURE(!found, ERR_NOT_NOW,
	       "'%s' is running (pid %d): stop it first, or give another --name", name, vm.pid);
	return NULL;
}

/* The folder, or the nearest above it that is there. */
static struct err *room(const char *what, const char *path)
{
	char dir[4096];
	struct statvfs v;
	snprintf(dir, sizeof(dir), "%s", path);
	while (statvfs(dir, &v) != 0) {
		char *slash = strrchr(dir, '/');
		ENSURE(slash != NULL && slash != dir, ERR_NOTFOUND, "%s %s: no such folder", what,
		       path);
		*slash = 0;
	}
	ENSURE(faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) == 0, ERR_SYS,
	       "%s %s: it is to be written to, and may not be", what, path);
	uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
	ENSURE(have >= ROOM_BYTES && (v.f_files == 0 || v.f_favail > 0), ERR_NOSPACE,
	       "%s %s: the disk is full: %llu KiB and %llu files are free", what, path,
	       (unsigned long long)(have >> 10), (unsigned long long)v.f_favail);
	return NULL;
}

static void check_room(const struct check *c, const struct findings *f)
{
	char dir[4096];
	struct err *e = rundir_name(dir, sizeof(dir));
	finding(f, "space", e == NULL ? room("run folder", dir) : e);
	finding(f, "space", room("store", c->v->store_dir));
}

/* Lines of /proc/meminfo, in bytes; 0 for what is not there. */
static uint64_t meminfo(const char *key)
{
	FILE *in = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned long long kib = 0;
	size_t n = strlen(key);
	while (in != NULL && fgets(line, sizeof(line), in) != NULL) {
		if (strncmp(line, key, n) == 0 && line[n] == ':' &&
		    sscanf(line + n + 1, "%llu", &kib) == 1) {
			break;
		}
		kib = 0;
	}
	if (in != NULL) {
		fclose(in);
	}
	return (uint64_t)kib << 10;
}

static struct err *enough_memory(const struct config *config)
{
	uint64_t have = meminfo("MemAvailable") + meminfo("SwapFree");
	ENSURE(have == 0 || have >= config->mem_bytes, ERR_LIMIT,
	       "the guest has %llu MiB of memory, this host has %llu MiB available: if the guest "
	       "touches all of it, somebody runs out",
	       (unsigned long long)(config->mem_bytes >> 20), (unsigned long long)(have >> 20));
	return NULL;
}

static struct err *lazy_possible(const struct vmm *v)
{
	SCOPE(fd_close) struct fd fd = FD_NONE;
	return v->lazy ? err_wrap(uffd_open(&fd), "all memory would be read before the guest runs")
		       : NULL;
}

static struct err *clock_forward(const struct vmm *v)
{
	uint64_t then = snap_image_info(v->image)->frozen_at_ns;
	char text[24];
	ENSURE(v->clock != CLOCK_JUMP || clock_real_ns() >= then, ERR_INCOMPAT,
	       "this host's clock is behind the snapshot (%s): the guest's wall time would go back",
	       out_time(then, text));
	return NULL;
}

/* ---- all of it ---- */

/* With the image and its configuration. */
static void check_vm(struct check *c, const struct findings *f)
{
	struct vmm *v = c->v;
	finding(f, "name", restore_name_free(v->store, &v->config));
	finding(f, "name", alive(v->config.name));
	finding(f, "memory", config_check(&v->config));
	disks_look(&v->config.devs, &v->disk_map, v->accept_disks, f, &v->ends);
	nets_look(&v->config.devs, &v->net_map, f, &v->ends);
	preflight(&v->config, v->image, &v->ends, f);
	note(c, enough_memory(&v->config));
	note(c, lazy_possible(v));
	note(c, clock_forward(v));
}

static struct err *open_image(struct check *c)
{
	TRY(snap_image_open(c->v->store, c->r->ref, &c->v->image));
	return restore_config(c->v, c->r);
}

static void check_all(struct check *c, struct findings *f)
{
	struct err *e = store_open(c->v->store_dir, STORE_READ, &c->v->store);
	if (e != NULL) {
		finding(f, "store", e);
		return;
	}
	check_room(c, f);
	e = verify(c, f);
	bool absent = e != NULL && err_class(e) == ERR_NOTFOUND;
	finding(f, "store", e);
	if (absent) {
		return;
	}
	e = open_image(c);
	finding(f, "snapshot", e);
	if (e == NULL) {
		check_vm(c, f);
	}
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

struct err *restore_check(struct vmm *v, const struct restore *r, int *ret_status)
{
	SCOPE(json_put) json_t *list = v->json ? json_array() : NULL;
	SCOPE(json_put) json_t *notes = v->json ? json_array() : NULL;
	struct check c = { .r = r, .v = v, .list = list, .notes = notes };
	check_all(&c, &(struct findings){ on_finding, &c });
	*ret_status = c.n == 0 ? 0 : 1;
	if (v->json) {
		return out_json(json_pack("{s:s,s:b,s:O,s:O}", "ref", r->ref, "ok", (int)(c.n == 0),
					  "findings", list, "notes", notes));
	}
	if (c.n == 0) {
		printf("%s: nothing stands against a restore\n", r->ref);
	} else {
		printf("%s: %u finding%s\n", r->ref, c.n, c.n == 1 ? "" : "s");
	}
	return NULL;
}
