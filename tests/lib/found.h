/* SPDX-License-Identifier: Apache-2.0 */
/* Collects findings (core/base/finding.h) as lines "area: message", for unit tests. */
#ifndef TORPOR_TESTS_FOUND_H
#define TORPOR_TESTS_FOUND_H

#include <stdio.h>
#include <string.h>

#include "core/base/finding.h"

struct found {
	unsigned n;
	char text[16384];
};

static inline UNUSED void found_add(void *arg, const char *area, struct err *e)
{
	struct found *f = arg;
	size_t used = strlen(f->text);
	f->n++;
	snprintf(f->text + used, sizeof(f->text) - used, "%s: %s\n", area, err_msg(e));
	err_free(e);
}

/* One line has both. */
static inline UNUSED bool found_has(const struct found *f, const char *area, const char *part)
{
	size_t n = strlen(area);
	for (const char *at = f->text; *at != 0; at = strchr(at, '\n') + 1) {
		const char *hit = strstr(at, part);
		if (strncmp(at, area, n) == 0 && at[n] == ':' && hit != NULL &&
		    hit < strchr(at, '\n')) {
			return true;
		}
	}
	return false;
}

#endif
