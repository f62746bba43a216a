/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of torpor, one file each (cmd_*.c); called by main on the only thread there is. */
#ifndef TORPOR_TOOLS_CMD_H
#define TORPOR_TOOLS_CMD_H

#include "tools/opts.h"

MUST_USE struct err *cmd_run(struct args *a, int *ret_status);
MUST_USE struct err *cmd_restore(struct args *a, int *ret_status);
MUST_USE struct err *cmd_take(struct args *a, int *ret_status);
MUST_USE struct err *cmd_take_cancel(struct args *a, int *ret_status);
MUST_USE struct err *cmd_rewind(struct args *a, int *ret_status);
MUST_USE struct err *cmd_snaps(struct args *a, int *ret_status);
MUST_USE struct err *cmd_show(struct args *a, int *ret_status);
MUST_USE struct err *cmd_verify(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_verify(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_recover(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_stat(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_compact(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_gc(struct args *a, int *ret_status);
MUST_USE struct err *cmd_tag(struct args *a, int *ret_status);
MUST_USE struct err *cmd_pin(struct args *a, int *ret_status);
MUST_USE struct err *cmd_unpin(struct args *a, int *ret_status);
MUST_USE struct err *cmd_prune(struct args *a, int *ret_status);
MUST_USE struct err *cmd_diff(struct args *a, int *ret_status);
MUST_USE struct err *cmd_map(struct args *a, int *ret_status);
MUST_USE struct err *cmd_disk_export(struct args *a, int *ret_status);
MUST_USE struct err *cmd_export(struct args *a, int *ret_status);
MUST_USE struct err *cmd_import(struct args *a, int *ret_status);
MUST_USE struct err *cmd_rm(struct args *a, int *ret_status);
MUST_USE struct err *cmd_define(struct args *a, int *ret_status);
MUST_USE struct err *cmd_edit(struct args *a, int *ret_status);
MUST_USE struct err *cmd_undefine(struct args *a, int *ret_status);
MUST_USE struct err *cmd_autostart(struct args *a, int *ret_status);
MUST_USE struct err *cmd_start(struct args *a, int *ret_status);
MUST_USE struct err *cmd_guests_start(struct args *a, int *ret_status);
MUST_USE struct err *cmd_guests_stop(struct args *a, int *ret_status);
MUST_USE struct err *cmd_guests_status(struct args *a, int *ret_status);
MUST_USE struct err *cmd_suspend(struct args *a, int *ret_status);
MUST_USE struct err *cmd_resume(struct args *a, int *ret_status);
MUST_USE struct err *cmd_stop(struct args *a, int *ret_status);
MUST_USE struct err *cmd_swap_enable(struct args *a, int *ret_status);
MUST_USE struct err *cmd_swap_trim(struct args *a, int *ret_status);
MUST_USE struct err *cmd_swap_out(struct args *a, int *ret_status);
MUST_USE struct err *cmd_swap_disable(struct args *a, int *ret_status);
MUST_USE struct err *cmd_swap_status(struct args *a, int *ret_status);
MUST_USE struct err *cmd_list(struct args *a, int *ret_status);
MUST_USE struct err *cmd_doctor(struct args *a, int *ret_status);

/* The verbs that send one request to a living VM (cmd_live.c); NULL behind the last. */
const struct verb *live_verb(size_t i);

#endif
