/* SPDX-License-Identifier: Apache-2.0 */
/* What the two files of the corpus maker share. One thread. */
#ifndef TORPOR_TESTS_MAKE_CORPUS_H
#define TORPOR_TESTS_MAKE_CORPUS_H

#include "core/base/bytes.h"

/* Writes ROOT/DIR/NAME. */
MUST_USE struct err *corpus_put(const char *root, const char *dir, const char *name,
				const struct wbuf *w);
/* Everything that store/ reads. */
MUST_USE struct err *corpus_store(const char *root);

#endif
