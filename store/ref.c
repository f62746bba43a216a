/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "NAME", "NAME@TAG", "NAME@NUMBER" to one snapshot. Implements store_ref_resolve of store.h; any
 * thread.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/family.h"

enum {
	LISTED_MAX = 8, /* snapshots or names in a message */
};

struct ref_text {
	char name[NAME_BYTES_MAX + 1];
	const char *what; /* behind the @, or NULL */
	uint64_t number;  /* of an all-digit `what`, else 0 */
};

static struct err *ref_split(const char *ref, struct ref_text *ret)
{
	const char *at = strchr(ref, '@');
	size_t len = at != NULL ? (size_t)(at - ref) : strlen(ref);
	ENSURE(len > 0 && len <= NAME_BYTES_MAX, ERR_USAGE,
	       "%.80s: not a snapshot; say NAME, NAME@TAG or NAME@NUMBER", ref);
	struct ref_text r = { .what = at != NULL ? at + 1 : NULL };
	memcpy(r.name, ref, len);
	if (r.what != NULL) {
		size_t n = strlen(r.what);
		ENSURE(n > 0 && n <= NAME_BYTES_MAX && strchr(r.what, '@') == NULL, ERR_USAGE,
		       "%.80s: not a snapshot; say NAME, NAME@TAG or NAME@NUMBER", ref);
		if (strspn(r.what, "0123456789") == n) {
			errno = 0;
			r.number = strtoull(r.what, NULL, 10);
			ENSURE(errno == 0 && r.number > 0, ERR_USAGE,
			       "%.80s: snapshot numbers count from 1", ref);
		}
	}
	*ret = r;
	return NULL;
}

static struct err *no_such_vm(struct store *s, const char *name)
{
	struct store_vm *vms;
	size_t n;
	TRY(store_vm_list(s, &vms, &n));
	char list[512] = "";
	size_t len = 0;
	unsigned shown = 0;
	for (size_t i = 0; i < n && shown < LISTED_MAX && len < sizeof(list) - 1; i++) {
		if (vms[i].holds_name) {
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s",
						shown++ > 0 ? ", " : "; it has ", vms[i].name);
		}
	}
	free(vms);
	return ERR(ERR_NOTFOUND, "store %s has no VM %s%s", s->dir, name,
		   shown > 0 ? list : "; it has none at all");
}

/* Does the snapshot match? Later ones win, so plain NAME becomes the newest. */
static bool matches(const struct ref_text *r, const struct snap_info *in)
{
	if (r->what == NULL) {
		return true;
	}
	return r->number != 0 ? in->number == r->number : strcmp(in->tag, r->what) == 0;
}

static struct err *no_such_snap(const struct ref_text *r, const struct store_vm *vm,
				const struct snap_info *infos, size_t n)
{
	char list[512] = "";
	size_t len = 0;
	unsigned shown = 0;
	for (size_t i = n; i > 0 && shown < LISTED_MAX && len < sizeof(list) - 80; i--) {
		const struct snap_info *in = &infos[i - 1];
		if (memcmp(in->vm, vm->uuid, sizeof(in->vm)) != 0) {
			continue;
		}
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%llu%s%s%s",
					shown++ > 0 ? ", " : "; it has ",
					(unsigned long long)in->number, in->tag[0] != 0 ? " (" : "",
					in->tag, in->tag[0] != 0 ? ")" : "");
	}
	if (r->what == NULL || shown == 0) {
		return ERR(ERR_NOTFOUND, "VM %s has no snapshot", r->name);
	}
	return ERR(ERR_NOTFOUND, "VM %s has no snapshot %s%s", r->name, r->what, list);
}

static struct err *pick(const struct ref_text *r, const struct store_vm *vm, struct family *f,
			struct snap_info *ret_snap)
{
	SCOPE(freep) struct snap_info *infos = NULL;
	size_t n;
	SCOPE(err_freep) struct err *damage = NULL;
	TRY(family_snaps_sound(f, &infos, &n, &damage));
	const struct snap_info *best = NULL;
	for (size_t i = 0; i < n; i++) {
		if (memcmp(infos[i].vm, vm->uuid, sizeof(vm->uuid)) == 0 && matches(r, &infos[i])) {
			best = &infos[i];
		}
	}
	/* A damaged record may be the newest, or the one that is meant. */
	if (damage != NULL && (best == NULL || r->what == NULL)) {
		return err_wrap(MOVE(damage), "VM %s", r->name);
	}
	if (best == NULL) {
		return no_such_snap(r, vm, infos, n);
	}
	*ret_snap = *best;
	return NULL;
}

static bool is_uuid(const char *text, uint8_t ret_uuid[16])
{
	struct err *e = uuid_parse(text, ret_uuid);
	if (e != NULL) {
		err_drop(e, "then it is a name");
		return false;
	}
	return true;
}

struct err *store_ref_resolve(struct store *s, const char *ref, struct store_ref *ret_ref)
{
	struct ref_text r;
	TRY(ref_split(ref, &r));
	struct store_ref out = { 0 };
	bool found;
	TRY(store_vm_by_name(s, r.name, &found, &out.vm));
	uint8_t uuid[16];
	if (!found && is_uuid(r.name, uuid)) {
		TRY(store_vm_by_uuid(s, uuid, &found, &out.vm)); /* one that lost its name */
	}
	if (!found) {
		return no_such_vm(s, r.name);
	}
	SCOPE(family_closep) struct family *f = NULL;
	struct err *e = family_open(s, out.vm.family, false, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "a VM without a family directory has never been taken");
		return ERR(ERR_NOTFOUND, "VM %s has no snapshot", r.name);
	}
	TRY(e);
	TRY(pick(&r, &out.vm, f, &out.snap));
	out.family = MOVE(f);
	*ret_ref = out;
	return NULL;
}

void store_ref_done(struct store_ref *r)
{
	family_close(r->family);
	r->family = NULL;
}
