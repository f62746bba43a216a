/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LMDB for the rest of store/: environments, transactions and cursors with error objects.
 * store_lmdb.c and store_lmdb_txn.c are the only includers of lmdb.h; docs/store.md, "LMDB rules",
 * has the reasons.
 *
 * An environment is opened once per process however often it is asked for (LMDB forbids two opens
 * of one environment), so struct lenv is counted. A process that came from fork opens it anew.
 *
 * Every call into LMDB runs under a guard: a SIGBUS or SIGSEGV inside the map, or an assertion of
 * LMDB's own, becomes ERR_CORRUPT. The environment is then dead: no call enters LMDB with it again
 * in this process, and its memory and map are leaked on purpose, since LMDB's state is unknown.
 *
 * Values are only given out as copies. Those that do not fit in a B-tree page are copied with
 * pread, never through the map, so a failing disk is ERR_SYS and a truncated file ERR_CORRUPT.
 *
 * Threads: an lenv may be used by all; a transaction, its cursors and a buffer by one at a time. A
 * thread has at most one write transaction open.
 */
#ifndef TORPOR_STORE_STORE_LMDB_H
#define TORPOR_STORE_STORE_LMDB_H

#include "core/base/bytes.h"
#include "core/base/err.h"

#define LENV_DBS_MAX 8u
#define LENV_KEY_MAX 96u /* our longest key is a name of 64 bytes */

struct lenv;
struct ltxn;
struct lcur;

struct lenv_opts {
	const char *dir;        /* must exist */
	const char *const *dbs; /* names, static; db numbers below are indices into it */
	unsigned ndbs;
	uint64_t map_bytes;     /* largest size that the file can ever get; virtual memory only */
	bool create;            /* make files and missing dbs */
	bool rdonly;            /* no write transaction through this handle's environment */
	unsigned write_wait_ms; /* how long a writer waits for others; 0: a minute */
	unsigned lists; /* bits of the dbs whose records nothing else refers to: their trees are
			 * checked at every open, since a record hidden by damage would be missed */
};
/* Errors: ERR_NOTFOUND (no data file, not create), ERR_CORRUPT (damaged, truncated), ERR_SYS. */
MUST_USE struct err *lenv_open(const struct lenv_opts *opts, struct lenv **ret_env);
void lenv_close(struct lenv *l);
DEFINE_SCOPE(struct lenv, lenv_close)
/* To be called when much has been read or written and nothing more is expected for now: unmaps what
 * LMDB has touched of the file (the page cache keeps it) and gives freed memory back to the host.
 * Any thread, also while others use the environment. */
void lenv_rest(struct lenv *l);

/* ---- transactions ---- */

/* A write transaction waits for other writers, also those of other processes; ERR_NOT_NOW when one
 * of them does not end within opts.write_wait_ms. */
MUST_USE struct err *ltxn_begin(struct lenv *l, bool write, struct ltxn **ret_txn);
/* Durable when it returns success. *t is over in any case, and all its cursors must be closed. */
MUST_USE struct err *ltxn_commit(struct ltxn *t);
void ltxn_abort(struct ltxn *t);
DEFINE_SCOPE(struct ltxn, ltxn_abort)

/* A buffer that grows and is used again. */
struct lbuf {
	uint8_t *p; /* owned */
	size_t len;
	size_t cap;
};
void lbuf_done(struct lbuf *b);

/* Copies a value of at most max bytes; longer ones are ERR_CORRUPT. */
MUST_USE struct err *ltxn_get(struct ltxn *t, unsigned db, struct bytes key, size_t max,
			      struct lbuf *buf, bool *ret_found);
/*
 * Where a value's bytes are in the data file. For read transactions: the place holds while the
 * transaction is open, and after it as long as nobody removes the record.
 */
struct lplace {
	uint64_t off;
	size_t len;
};
MUST_USE struct err *ltxn_where(struct ltxn *t, unsigned db, struct bytes key,
				struct lplace *ret_place, bool *ret_found);
/* Adds or replaces. Ascending keys fill pages best. */
MUST_USE struct err *ltxn_put(struct ltxn *t, unsigned db, struct bytes key, struct bytes val);
MUST_USE struct err *ltxn_del(struct ltxn *t, unsigned db, struct bytes key, bool *ret_found);
MUST_USE struct err *ltxn_count(struct ltxn *t, unsigned db, uint64_t *ret_n);

/* ---- cursors ---- */

MUST_USE struct err *lcur_open(struct ltxn *t, unsigned db, struct lcur **ret_cur);
void lcur_close(struct lcur *c);
DEFINE_SCOPE(struct lcur, lcur_close)
/* To the first record whose key is not below `key` (an empty key: the first of all). */
MUST_USE struct err *lcur_seek(struct lcur *c, struct bytes key, bool *ret_found);
MUST_USE struct err *lcur_next(struct lcur *c, bool *ret_found);
/* Key and value length at the cursor; the key is a copy, good until the cursor moves. */
struct bytes lcur_key(const struct lcur *c);
size_t lcur_value_len(const struct lcur *c);
MUST_USE struct err *lcur_value(struct lcur *c, size_t max, struct lbuf *buf);

/* ---- the data file ---- */

/*
 * Checks the structure of the data file, which LMDB takes on trust (store_lmdb_check.c). LISTS:
 * meta pages, free list and the tables of opts.lists, at every open. ALL: every tree and who owns
 * each page, before the first write transaction of a process. DEEP: the heads of big values, too.
 * *ret_lost: pages that belong to nothing; harmless, but LMDB leaves none.
 */
enum lcheck {
	LCHECK_LISTS,
	LCHECK_ALL,
	LCHECK_DEEP,
};
MUST_USE struct err *lenv_check(struct lenv *l, enum lcheck how, uint64_t *ret_lost);

/* Reads bytes of the data file; ERR_CORRUPT when it ends before, ERR_SYS when the disk fails. */
MUST_USE struct err *lenv_pread(struct lenv *l, void *ret, size_t len, uint64_t off);
/* Asks the kernel to read that range soon. */
void lenv_will_need(struct lenv *l, uint64_t off, uint64_t len_bytes);
/* Allocates room behind the end of the file; only to make later commits faster, may do nothing. */
void lenv_prealloc(struct lenv *l, uint64_t len_bytes);
/* Gives back what lenv_prealloc allocated and nobody used. */
MUST_USE struct err *lenv_trim(struct lenv *l);
/*
 * Gives the blocks of free pages back to the file system (store_lmdb_punch.c); using such a page again
 * needs a block again. Takes the write lock for about a tenth of a second at a time. A file system
 * without holes is no error. *ret_bytes: blocks that the file has less, if nobody else writes.
 */
MUST_USE struct err *lenv_punch(struct lenv *l, uint64_t *ret_bytes);
struct lenv_space {
	uint64_t file_bytes;      /* length */
	uint64_t allocated_bytes; /* blocks */
	uint64_t free_bytes;      /* free pages inside the file */
	uint64_t backed_bytes;    /* of them: about what has blocks, the others are holes */
	uint64_t disk_free_bytes; /* available to us in the file system */
};
MUST_USE struct err *lenv_space(struct lenv *l, struct lenv_space *ret_space);

#endif
