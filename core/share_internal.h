/* SPDX-License-Identifier: Apache-2.0 */
/* What share.c (who joins) and share_keeper.c (who keeps) have in common. */
#ifndef TORPOR_CORE_SHARE_INTERNAL_H
#define TORPOR_CORE_SHARE_INTERNAL_H

#include "core/share.h"

enum {
	SHARE_PATH_MAX = 107,    /* of a Unix socket */
	SHARE_ANSWER_MAX = 1000, /* bytes of a message */
	SHARE_ALIVE_MS = 1000,   /* between two SHARE_READS */
};

/* What the keeper says on a hold: the first byte of a message. */
enum {
	SHARE_READS = 'W',  /* it is at work */
	SHARE_MEMORY = 'M', /* with the descriptor */
	SHARE_ERROR = 'E',  /* and why */
};

/* "RUN_DIR-share/ROOT.sock" or ".lock". ERR_USAGE when it is too long for a socket. */
MUST_USE struct err *share_path(const struct share_want *want, const char *suffix,
				char ret_path[SHARE_PATH_MAX + 1]);
/* Takes the lock on who is the keeper; *ret_fd holds it. wait false: *ret_got says whether. */
MUST_USE struct err *share_lock(const struct share_want *want, bool wait, bool *ret_got,
				struct fd *ret_fd);

/* What the spare process does: waits for a struct share_want and keeps. Never returns. */
_Noreturn void share_keeper_run(int wire);

#endif
