/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --detach: the process splits early, before any thread or database exists. The child becomes the
 * VM; the parent waits for one message and ends with it. The child holds nothing of the caller's:
 * no descriptor, no terminal, no working directory. Used by vmm.c.
 */
#ifndef TORPOR_TOOLS_DETACH_H
#define TORPOR_TOOLS_DETACH_H

#include "core/base/err.h"

/*
 * Splits. keep: descriptors that the child goes on with (negative ones are skipped). In the child
 * *ret_parent is false and *ret_pipe takes its message. In the parent *ret_parent is true, the
 * message has come, and *ret_text (malloc'ed) is what detach_tell_ok gave; the child's error is
 * returned as an error.
 */
MUST_USE struct err *detach_split(const int *keep, size_t nkeep, bool *ret_parent,
				  struct fd *ret_pipe, char **ret_text);
/* Child: the guest runs. Closes the pipe. */
void detach_tell_ok(struct fd *pipe, const char *text);
/* Child: it failed. Closes the pipe; e stays the caller's. */
void detach_tell_error(struct fd *pipe, const struct err *e);
/* Child: from now on stderr is this file; made anew. */
MUST_USE struct err *detach_log_to(const char *path);

#endif
