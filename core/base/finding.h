/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Findings: what a check that does not stop at the first mismatch tells its caller, one by one. A
 * check that only has to say yes or no runs the same code and keeps the first. Any thread.
 */
#ifndef TORPOR_BASE_FINDING_H
#define TORPOR_BASE_FINDING_H

#include "core/base/err.h"

struct findings {
	/* area: one word, what it is about ("cpu", "disk"). e is owned by the callee. */
	void (*fn)(void *arg, const char *area, struct err *e);
	void *arg;
};

/* NULL is no finding. */
static inline void finding(const struct findings *f, const char *area, struct err *e)
{
	if (e != NULL) {
		f->fn(f->arg, area, e);
	}
}

/* A findings.fn: arg is a struct err **, NULL to begin with. */
static inline void finding_keep_first(void *arg, const char *area, struct err *e)
{
	struct err **first = arg;
	(void)area;
	*first = err_first(*first, e);
}

#endif
