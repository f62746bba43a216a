/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of torpor, one file each (cmd_*.c); called by main on the only thread there is. */
#ifndef TORPOR_TOOLS_CMD_H
#define TORPOR_TOOLS_CMD_H

#include "tools/opts.h"

MUST_USE struct err *cmd_run(struct args *a, int *ret_status);
MUST_USE struct err *cmd_restore(struct args *a, int *ret_status);
MUST_USE struct err *cmd_take(struct args *a, int *ret_status);
MUST_USE struct err *cmd_snaps(struct args *a, int *ret_status);
MUST_USE struct err *cmd_show(struct args *a, int *ret_status);
MUST_USE struct err *cmd_verify(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_verify(struct args *a, int *ret_status);
MUST_USE struct err *cmd_store_recover(struct args *a, int *ret_status);
MUST_USE struct err *cmd_rm(struct args *a, int *ret_status);
MUST_USE struct err *cmd_suspend(struct args *a, int *ret_status);
MUST_USE struct err *cmd_resume(struct args *a, int *ret_status);
MUST_USE struct err *cmd_stop(struct args *a, int *ret_status);
MUST_USE struct err *cmd_list(struct args *a, int *ret_status);
MUST_USE struct err *cmd_doctor(struct args *a, int *ret_status);

#endif
