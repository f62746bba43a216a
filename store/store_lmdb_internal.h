/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What store_lmdb.c (environments), store_lmdb_txn.c (transactions, cursors) and store_lmdb_check.c
 * (the structure of the file) share; for these only. They are the only includers of lmdb.h.
 */
#ifndef TORPOR_STORE_STORE_LMDB_INTERNAL_H
#define TORPOR_STORE_STORE_LMDB_INTERNAL_H

#include <lmdb.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "core/base/lock.h"
#include "store/store_lmdb.h"

enum {
	LMDB_PAGE = 4096,
	LMDB_PAGE_HEAD = 16,
	/* Values up to here may share a B-tree page with others; longer ones have pages of their
	 * own (exact bound 2022 with 8-byte keys; below it only decides how bytes are copied). */
	INLINE_MAX = 2038,
	LMDB_READERS_MAX = 510,
	LOCK_FILE_BYTES = 64 * 1024, /* more than 510 reader slots of 64 bytes and the head */
	RC_FAULT = -40000,           /* a guard fired; outside LMDB's and errno's codes */
};

struct lenv {
	struct lenv *next; /* [registry] */
	unsigned refs;     /* [registry] */
	unsigned active;   /* [registry] transactions begun and not over */
	dev_t dev;         /* of the directory; const */
	ino_t ino;
	char dir[3584];
	const char *const *dbs;
	unsigned ndbs;
	uint64_t map_bytes;
	unsigned lists;     /* const */
	bool rdonly;        /* [registry] */
	pid_t pid;          /* [registry] the process that opened env */
	MDB_env *env;       /* changes only under the registry lock while active is 0 */
	int fd;             /* LMDB's */
	const uint8_t *map; /* where the file is mapped; NULL while that is being found out */
	MDB_dbi dbi[LENV_DBS_MAX];
	struct lock turn_lock;
	struct cond turn_free;
	bool turn_taken;  /* [turn_lock] a thread of this process writes or is the next to */
	bool turn_queued; /* [turn_lock] a thread is the next to have turn_taken */
	bool turn_kept;   /* LMDB's lock was lost with a fault: other processes must not try it */
	struct fd turn_file; /* DIR/data.mdb, for its locks; none when reading only */
	uint64_t turn_ms;    /* const: how long a writer waits for others */
	atomic_bool dead;    /* set by a guard, read before every call into LMDB */
	atomic_bool checked; /* LCHECK_ALL was passed since env was opened */
	atomic_bool panic;   /* LMDB refuses everything until it is opened again */
};

struct ltxn {
	struct lenv *l;
	MDB_txn *txn;
	bool write;
	pid_t pid; /* the process that began it: after a fork it is nobody else's */
};

/* Arguments of one call into LMDB, in memory that siglongjmp leaves alone. */
struct op {
	int (*fn)(struct op *);
	MDB_env *env;
	MDB_txn *txn;
	MDB_txn **txn_out;
	MDB_cursor *cur;
	MDB_cursor **cur_out;
	MDB_cursor_op cur_op;
	MDB_dbi dbi;
	MDB_val key;
	MDB_val val;
	unsigned flags;
	const char *name;
	void *dst;
	size_t n;
	MDB_stat stat;
	const uint8_t *base;
};

/* Runs fn under the guard; RC_FAULT when it did not come back: the environment is dead then. */
int store_lmdb_run(struct lenv *l, int (*fn)(struct op *), struct op *o);
int op_txn_begin(struct op *o);
int op_txn_commit(struct op *o);
int op_txn_abort(struct op *o);

/* The error for a return code of LMDB; `what` says what was being done. */
MUST_USE struct err *store_lmdb_err(struct lenv *l, int rc, const char *what);
MUST_USE struct err *store_lmdb_dead(const struct lenv *l);
/* LMDB checks neither at open nor later that the file is as long as its meta page says. */
MUST_USE struct err *store_lmdb_check_length(struct lenv *l);

/* Both meta pages, before LMDB believes them. An absent or empty file is fine. */
MUST_USE struct err *store_lmdb_check_metas(const char *dir);
/* lenv_check for an open read transaction; ERR_NOT_NOW when others have committed twice since. */
MUST_USE struct err *store_lmdb_check(struct lenv *l, uint64_t txnid, enum lcheck how,
				      uint64_t *ret_lost);
/*
 * After a commit that failed: LMDB may have left the new trees under an old transaction's number in
 * the older meta page, which could not be told from rot. They are taken out. NEEDS(the turn).
 */
MUST_USE struct err *store_lmdb_mend_meta(struct lenv *l);

/* The turn to write. Forked processes open the file anew. */
void store_lmdb_turn_init(struct lenv *l);
/* Once LMDB has its data file open. */
MUST_USE struct err *store_lmdb_turn_open(struct lenv *l);
/* Waits for at most turn_ms: ERR_NOT_NOW. */
MUST_USE struct err *store_lmdb_turn_take(struct lenv *l);
/* keep: LMDB's own lock could not be given back, so this process keeps the turn until it ends. */
void store_lmdb_turn_drop(struct lenv *l, bool keep);
/* The same for who opens the environment, while no other thread knows it. */
MUST_USE struct err *store_lmdb_turn_take_opener(struct lenv *l);
void store_lmdb_turn_drop_opener(struct lenv *l);
void store_lmdb_turn_close(struct lenv *l);

enum {
	CHECK_TRIES = 20, /* each means two commits between two of our system calls */
};
/* Pages that a value of that length has when it has its own. */
static inline uint64_t store_lmdb_big_pages(uint64_t len)
{
	return (len + LMDB_PAGE_HEAD - 1) / LMDB_PAGE + 1;
}
/* Does a node with such a key and value give the value pages of its own? */
static inline bool store_lmdb_is_big(uint64_t key_len, uint64_t len)
{
	return 8 + key_len + len > 2038;
}

/* Makes sure that env can be used, and counts a transaction in; store_lmdb_leave counts it out. */
MUST_USE struct err *store_lmdb_enter(struct lenv *l);
void store_lmdb_leave(struct lenv *l);

#endif
