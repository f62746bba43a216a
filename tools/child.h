/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other torpor processes, started by this one: their stdout is gathered, their stderr is ours. Used
 * by guest_start.c and cmd_guests.c on their one thread.
 */
#ifndef TORPOR_TOOLS_CHILD_H
#define TORPOR_TOOLS_CHILD_H

#include <sys/types.h>

#include "tools/opts.h"

enum { CHILD_TEXT_MAX = 256 * 1024 };

struct child {
	pid_t pid; /* 0: none, or it has ended and been waited for */
	struct fd out;
	char *text; /* owned; what it printed so far, with a NUL behind it */
	size_t len;
	int status; /* exit status, once it has ended; 128 + the signal that ended it */
};

/* program with those words; NULL: this binary, the verb first. pass_fd: a descriptor that it gets,
 * too; -1: none. */
MUST_USE struct err *child_start(const char *program, const struct opt_words *w, int pass_fd,
				 struct child *ret);
/*
 * Waits until one of n children has ended or timeout_ms (-1: for ever) is over, gathering what all
 * print. *ret: its index, or n.
 */
MUST_USE struct err *child_wait(struct child *c, size_t n, int timeout_ms, size_t *ret);
void child_done(struct child *c); /* does not end it */
/* One of this binary from start to end, and what it printed as JSON: NULL if it is none. */
MUST_USE struct err *child_run(const struct opt_words *w, int pass_fd, int *ret_status,
			       json_t **ret_answer);

#endif
