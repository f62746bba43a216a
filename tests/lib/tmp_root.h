/* SPDX-License-Identifier: Apache-2.0 */
/* Where tests make their temporary folders. Header only; any thread. */
#ifndef TORPOR_TESTS_TMP_ROOT_H
#define TORPOR_TESTS_TMP_ROOT_H

#include <stdlib.h>

static inline const char *tmp_root(void)
{
	const char *tmp = getenv("TMPDIR");
	return tmp != NULL ? tmp : "/tmp";
}

#endif
