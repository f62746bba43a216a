/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for store/store_lmdb.c: tables in memory, so that fuzz targets give the store any
 * records at all, thousands of times a second. Linked before the store's library, it takes the
 * place of the real one. One environment, one thread; write transactions take effect at once.
 */
#ifndef TORPOR_TESTS_FAKE_LMDB_H
#define TORPOR_TESTS_FAKE_LMDB_H

#include "store/store_lmdb.h"

/* The only environment; also what lenv_open gives. */
struct lenv *fake_env(void);
/* Forgets all records. */
void fake_clear(void);
/* Adds or replaces a copy of the record. False when the table is full or the key too long. */
bool fake_put(unsigned db, struct bytes key, struct bytes val);

#endif
