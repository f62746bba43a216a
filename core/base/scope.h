/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scope-bound release of what a function acquired.
 *
 *	SCOPE(store_closep) struct store *s = NULL;
 *	TRY(store_open(dir, 0, &s));
 *	...
 *	*ret_store = MOVE(s);
 *
 * A SCOPE variable stands directly above the call that fills it, so release order is the reverse
 * of acquisition. A function that uses SCOPE uses no goto. DEFINE_SCOPE(type, name, free) makes
 * name##p for SCOPE from a destructor that accepts NULL.
 */
#ifndef TORPOR_BASE_SCOPE_H
#define TORPOR_BASE_SCOPE_H

#include <stdlib.h>
#include <unistd.h>

#include "core/base/check.h"

#define SCOPE(fn) __attribute__((cleanup(fn)))

/* Hands the pointer over and forgets it here. */
#define MOVE(p)                                                                                    \
	({                                                                                         \
		__typeof__(p) move_p_ = (p);                                                       \
		(p) = NULL;                                                                        \
		move_p_;                                                                           \
	})

#define DEFINE_SCOPE(type, fn)                                                                     \
	static inline UNUSED void fn##p(type **p)                                                  \
	{                                                                                          \
		fn(*p);                                                                            \
	}

static inline UNUSED void freep(void *p)
{
	free(*(void **)p);
}

/* An owned descriptor; n < 0 means none. Always O_CLOEXEC. */
struct fd {
	int n;
};
#define FD_NONE ((struct fd){ .n = -1 })

static inline UNUSED void fd_close(struct fd *f)
{
	if (f->n >= 0) {
		close(f->n);
		f->n = -1;
	}
}

/* Hands the descriptor over: the caller of fd_move owns the result. */
static inline UNUSED struct fd fd_move(struct fd *f)
{
	struct fd out = *f;
	f->n = -1;
	return out;
}

#endif
