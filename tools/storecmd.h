/* SPDX-License-Identifier: Apache-2.0 */
/* What several store verbs share. One thread, no VM in this process. */
#ifndef TORPOR_TOOLS_STORECMD_H
#define TORPOR_TOOLS_STORECMD_H

#include <jansson.h>

#include "core/base/limits.h"
#include "store/store.h"
#include "tools/opts.h"

/* Opens this call's store; ERR_NOTFOUND with a remedy when there is none. */
MUST_USE struct err *storecmd_open(const struct args *a, enum store_mode mode,
				   struct store **ret_store);
/* Snapshots of one VM; *ret is malloc'ed. A family that is not there has none. */
MUST_USE struct err *storecmd_snaps(struct store *s, const struct store_vm *vm,
				    struct snap_info **ret, size_t *ret_n);
/* "NAME@TAG", "NAME@NUMBER" without a tag, "UUID@..." for a VM that lost its name. */
enum { STORECMD_REF_BYTES = 2 * NAME_BYTES_MAX + 2 }; /* NAME@TAG, both of any length */
void storecmd_ref(const struct store_vm *vm, const struct snap_info *snap, char *ret, size_t len);
/* Length of the map "memory", 0 if there is none. */
uint64_t storecmd_memory(const struct snap_info *snap);
/* One snapshot as JSON; NULL without memory. */
json_t *storecmd_json(const struct store_vm *vm, const struct snap_info *snap);

#endif
