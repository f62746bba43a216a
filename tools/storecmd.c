/* SPDX-License-Identifier: Apache-2.0 */
/* What several store verbs share. See storecmd.h. */
#include "tools/storecmd.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct err *storecmd_open(const struct args *a, enum store_mode mode, struct store **ret_store)
{
	char dir[PATH_MAX];
	TRY(opts_store_dir(a, dir, sizeof(dir)));
	struct stat st;
	ENSURE(stat(dir, &st) == 0, ERR_NOTFOUND,
	       "there is no store at '%s': a first snapshot makes one, --store DIR names another",
	       dir);
	return store_open(dir, mode, ret_store);
}

struct err *storecmd_snaps(struct store *s, const struct store_vm *vm, struct snap_info **ret,
			   size_t *ret_n)
{
	SCOPE(family_closep) struct family *f = NULL;
	struct err *e = family_open(s, vm->family, false, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "a family without an environment has no snapshots");
		*ret = NULL;
		*ret_n = 0;
		return NULL;
	}
	TRY(e);
	SCOPE(freep) struct snap_info *all = NULL;
	size_t n = 0;
	TRY(family_snaps(f, &all, &n));
	size_t mine = 0;
	for (size_t i = 0; i < n; i++) {
		if (memcmp(all[i].vm, vm->uuid, sizeof(vm->uuid)) == 0) {
			all[mine++] = all[i];
		}
	}
	*ret = MOVE(all);
	*ret_n = mine;
	return NULL;
}

void storecmd_ref(const struct store_vm *vm, const struct snap_info *snap, char *ret, size_t len)
{
	char uuid[37];
	uuid_text(vm->uuid, uuid);
	const char *name = vm->holds_name ? vm->name : uuid;
	if (snap->tag[0] != 0) {
		snprintf(ret, len, "%s@%s", name, snap->tag);
	} else {
		snprintf(ret, len, "%s@%llu", name, (unsigned long long)snap->number);
	}
}

uint64_t storecmd_memory(const struct snap_info *snap)
{
	for (uint32_t i = 0; i < snap->nmaps && i < STORE_MAPS_MAX; i++) {
		if (strcmp(snap->maps[i].name, "memory") == 0) {
			return snap->maps[i].len_bytes;
		}
	}
	return 0;
}

json_t *storecmd_json(const struct store_vm *vm, const struct snap_info *snap)
{
	char ref[STORECMD_REF_BYTES];
	char uuid[37];
	char family[37];
	char root[65];
	storecmd_ref(vm, snap, ref, sizeof(ref));
	uuid_text(vm->uuid, uuid);
	uuid_text(vm->family, family);
	sha256_hex(&snap->root, root);
	return json_pack("{s:s,s:s,s:s,s:s,s:b,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:s}", "ref",
			 ref, "name", vm->name, "uuid", uuid, "family", family, "holds_name",
			 (int)vm->holds_name, "number", (json_int_t)snap->number, "tag", snap->tag,
			 "id", (json_int_t)snap->id, "parent", (json_int_t)snap->parent,
			 "created_ns", (json_int_t)snap->created_ns, "frozen_at_ns",
			 (json_int_t)snap->frozen_at_ns, "memory_bytes",
			 (json_int_t)storecmd_memory(snap), "pages_stored",
			 (json_int_t)snap->pages_stored, "bytes_stored",
			 (json_int_t)snap->bytes_stored, "pinned", (int)snap->pinned, "root", root);
}
