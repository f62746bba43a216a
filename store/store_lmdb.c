/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LMDB behind error objects. See store_lmdb.h; called by all of store/, on any thread.
 *
 * Measured facts that this file rests on (liblmdb 0.9.24):
 *  - a commit on a full disk fails with EIO, since its short write has no errno;
 *  - a truncated file is SIGBUS, and some damaged pages are assertions;
 *  - two opens of one environment in a process drop each other's locks;
 *  - a DBI opened in an aborted transaction is closed with it;
 *  - the data file is opened without O_CLOEXEC.
 */
#include "store/store_lmdb_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/lock.h"
#include "store/fault_guard.h"

/* A smaller map is not tried. */
#define MAP_BYTES_MIN (4 * GIB)
/* A transaction is at most 32 MiB: far longer than any disk that is not stuck needs for several. */
#define WRITE_WAIT_MS 60000u
/* Below this much free space an EIO of a commit means a full disk. */
#define FULL_BELOW_BYTES (8 * MIB)

/* ---- guarded calls ---- */

/* LMDB calls this instead of printing and aborting; outside a guard it goes on to abort. */
static void on_assert(MDB_env *env, const char *msg)
{
	(void)env;
	(void)msg;
	fault_guard_trip();
}

static int guard_fn(void *arg)
{
	struct op *o = arg;
	return o->fn(o);
}

int store_lmdb_run(struct lenv *l, int (*fn)(struct op *), struct op *o)
{
	int rc;
	o->fn = fn;
	if (!fault_guard_run(l->map, l->map_bytes, guard_fn, o, &rc)) {
		atomic_store(&l->dead, true);
		return RC_FAULT;
	}
	return rc;
}

/* ---- errors ---- */

struct err *store_lmdb_dead(const struct lenv *l)
{
	return ERR(
		ERR_CORRUPT,
		"%s: the data file is damaged or truncated; stop using it and run verify on a copy",
		l->dir);
}

static bool disk_is_full(const struct lenv *l)
{
	struct statvfs v;
	return statvfs(l->dir, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < FULL_BELOW_BYTES;
}

/* Has the file come to the process's own limit? A write over it is short, which LMDB calls EIO. */
static bool file_is_limited(const struct lenv *l)
{
	struct rlimit lim;
	struct stat st;
	return getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur != RLIM_INFINITY &&
	       fstat(l->fd, &st) == 0 && (uint64_t)st.st_size + LMDB_PAGE > lim.rlim_cur;
}

/* The error for a return code of LMDB; `what` says what was being done. */
struct err *store_lmdb_err(struct lenv *l, int rc, const char *what)
{
	switch (rc) {
	case RC_FAULT:
		return store_lmdb_dead(l);
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_CURSOR_FULL:
	case MDB_INCOMPATIBLE:
	case MDB_NOTFOUND:
	case MDB_BAD_TXN: /* an earlier call of this transaction has met the damage */
		return ERR(ERR_CORRUPT, "%s: %s: the data file is damaged (%s)", l->dir, what,
			   mdb_strerror(rc));
	case MDB_VERSION_MISMATCH:
		return ERR(ERR_INCOMPAT, "%s: %s: made by another version of LMDB", l->dir, what);
	case MDB_MAP_FULL:
		return ERR(ERR_NOSPACE, "%s: %s: the family has reached its limit of %llu bytes",
			   l->dir, what, (unsigned long long)l->map_bytes);
	case MDB_READERS_FULL:
		return ERR(ERR_LIMIT, "%s: %s: more than %d readers at once", l->dir, what,
			   LMDB_READERS_MAX);
	case MDB_PANIC:
		atomic_store(&l->panic, true);
		return ERR(ERR_SYS, "%s: %s: an earlier write failed; it is opened again next time",
			   l->dir, what);
	case EFBIG:
	case EIO:
	case ENOSPC:
		if (rc != ENOSPC && file_is_limited(l)) {
			return ERR(ERR_NOSPACE,
				   "%s: %s: the limit on the size of files is reached: raise it "
				   "(ulimit -f), or remove snapshots",
				   l->dir, what);
		}
		if (rc == ENOSPC || disk_is_full(l)) {
			return ERR_SYSNO(ENOSPC,
					 "%s: %s: the disk is full, remove snapshots or files",
					 l->dir, what);
		}
		return ERR_SYSNO(EIO, "%s: %s", l->dir, what);
	default:
		if (rc > 0) {
			return ERR_SYSNO(rc, "%s: %s", l->dir, what);
		}
		return ERR(ERR_SYS, "%s: %s: %s", l->dir, what, mdb_strerror(rc));
	}
}

/* ---- opening ---- */

/* Process-wide by nature: LMDB allows one open per process. Guards the [registry] fields. */
static struct lenv *registry;
static struct lock registry_lock;
static struct cond registry_idle; /* some environment's active became 0 */
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;

static void registry_init(void)
{
	lock_init(&registry_lock, RANK_STORE);
	cond_init(&registry_idle);
}

static int op_env_open(struct op *o)
{
	return mdb_env_open(o->env, o->name, o->flags, 0600);
}

int op_txn_begin(struct op *o)
{
	return mdb_txn_begin(o->env, NULL, o->flags, o->txn_out);
}

int op_txn_commit(struct op *o)
{
	return mdb_txn_commit(o->txn);
}

int op_txn_abort(struct op *o)
{
	mdb_txn_abort(o->txn);
	return 0;
}

static int op_dbi_open(struct op *o)
{
	return mdb_dbi_open(o->txn, o->name, o->flags, &o->dbi);
}

/*
 * Finds the address of the map: LMDB does not tell it. The page of any clean key starts with its
 * own page number, and page 0 with its magic.
 */
static int op_find_map(struct op *o)
{
	MDB_cursor *c = NULL;
	MDB_dbi main_dbi;
	int rc = mdb_dbi_open(o->txn, NULL, 0, &main_dbi);
	if (rc == 0) {
		rc = mdb_cursor_open(o->txn, main_dbi, &c);
	}
	if (rc == 0) {
		rc = mdb_cursor_get(c, &o->key, &o->val, MDB_FIRST);
	}
	if (rc == 0) {
		const uint8_t *page =
			(const uint8_t *)((uintptr_t)o->key.mv_data & ~(uintptr_t)(LMDB_PAGE - 1));
		uint64_t pgno = get_le64(page);
		o->base = page - pgno * LMDB_PAGE;
		rc = pgno * LMDB_PAGE < o->n && get_le64(o->base) == 0 &&
				     get_le32(o->base + LMDB_PAGE_HEAD) == 0xBEEFC0DEu
			     ? 0
			     : MDB_CORRUPTED;
	}
	if (c != NULL) {
		mdb_cursor_close(c);
	}
	return rc;
}

/* LMDB checks neither at open nor later that the file is as long as its meta page says. */
struct err *store_lmdb_check_length(struct lenv *l)
{
	MDB_envinfo info;
	int rc = mdb_env_info(l->env, &info);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "opening");
	}
	struct stat st;
	if (fstat(l->fd, &st) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	uint64_t need;
	ENSURE(!MUL_OVERFLOWS((uint64_t)info.me_last_pgno + 1, (uint64_t)LMDB_PAGE, &need) &&
		       (uint64_t)st.st_size >= need,
	       ERR_CORRUPT, "%s: the data file is damaged or truncated: %llu bytes, but %llu pages",
	       l->dir, (unsigned long long)st.st_size, (unsigned long long)info.me_last_pgno + 1);
	return NULL;
}

/* Opens (and with `create` makes) the dbs in one committed transaction. */
static int open_dbs_once(struct lenv *l, bool create)
{
	MDB_txn *txn = NULL;
	struct op o = { .env = l->env, .txn_out = &txn, .flags = create ? 0 : MDB_RDONLY };
	int rc = store_lmdb_run(l, op_txn_begin, &o);
	for (unsigned i = 0; rc == 0 && i < l->ndbs; i++) {
		o = (struct op){ .txn = txn, .name = l->dbs[i], .flags = create ? MDB_CREATE : 0 };
		rc = store_lmdb_run(l, op_dbi_open, &o);
		l->dbi[i] = o.dbi;
	}
	o = (struct op){ .txn = txn };
	if (rc != 0) {
		if (txn != NULL && rc != RC_FAULT) {
			mdb_txn_abort(txn);
		}
		return rc;
	}
	return store_lmdb_run(l, op_txn_commit, &o);
}

/* Only a missing one is made, which needs the turn: opening must not wait for writers. */
static struct err *open_dbs(struct lenv *l, bool create)
{
	int rc = open_dbs_once(l, false);
	if (rc == MDB_NOTFOUND && create && !l->rdonly) {
		TRY(store_lmdb_turn_take_opener(l));
		rc = open_dbs_once(l, true);
		store_lmdb_turn_drop_opener(l);
	}
	ENSURE(rc != MDB_NOTFOUND, ERR_NOTFOUND, "%s: not set up", l->dir);
	return rc == 0 ? NULL : store_lmdb_err(l, rc, "opening its tables");
}

static struct err *find_map(struct lenv *l)
{
	MDB_txn *txn = NULL;
	struct op o = { .env = l->env, .txn_out = &txn, .flags = MDB_RDONLY };
	int rc = store_lmdb_run(l, op_txn_begin, &o);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "opening");
	}
	o = (struct op){ .txn = txn, .n = l->map_bytes };
	rc = store_lmdb_run(l, op_find_map, &o);
	if (rc != RC_FAULT) {
		mdb_txn_abort(txn);
	}
	if (rc != 0) {
		return store_lmdb_err(l, rc, "finding its map");
	}
	l->map = o.base;
	return NULL;
}

/*
 * Gives lock.mdb all its blocks. LMDB maps it writable and sparse: on a full disk, writing a
 * reader's slot would be a SIGBUS. Must run before LMDB opens the file: closing ours drops this
 * process's locks on it.
 */
static struct err *fill_lock_file(const struct lenv *l)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/lock.mdb", l->dir);
	SCOPE(fd_close) struct fd f = FD_NONE;
	struct err *e = io_open(path, O_RDWR | (l->rdonly ? 0 : O_CREAT), 0600, &f);
	if (e != NULL && l->rdonly) {
		err_drop(e, "absent, or a read-only file system: LMDB decides");
		return NULL;
	}
	TRY(e);
	if (fallocate(f.n, FALLOC_FL_KEEP_SIZE, 0, LOCK_FILE_BYTES) < 0 && errno != EOPNOTSUPP) {
		return ERR_ERRNO("%s", path);
	}
	return NULL;
}

/*
 * Dead environments: never used or freed again. Kept in a list only so that leak checkers see them
 * for what they are. NEEDS(registry_lock).
 */
struct grave {
	struct grave *next;
	MDB_env *env;
};
static struct grave *graves;

static void env_bury(MDB_env *env)
{
	struct grave *g = malloc(sizeof(*g));
	if (g != NULL) {
		*g = (struct grave){ .next = graves, .env = env };
		graves = g;
	}
}

/* Checks what every reader relies on, before LMDB follows any pointer of the file. */
static struct err *check_lists(struct lenv *l)
{
	for (int i = 0;; i++) {
		MDB_txn *txn = NULL;
		struct op o = { .env = l->env, .txn_out = &txn, .flags = MDB_RDONLY };
		int rc = store_lmdb_run(l, op_txn_begin, &o);
		if (rc != 0) {
			return store_lmdb_err(l, rc, "opening");
		}
		uint64_t lost;
		struct err *e = store_lmdb_check(l, mdb_txn_id(txn), LCHECK_LISTS, &lost);
		mdb_txn_abort(txn);
		if (e == NULL || err_class(e) != ERR_NOT_NOW || i == CHECK_TRIES) {
			return e;
		}
		err_drop(e, "tried again with the newest state");
	}
}

/*
 * One at a time makes a data file, opens or closes the environment. LMDB's own lock for that has a
 * gap: the first opener sets lock.mdb up under an exclusive lock while others wait for a shared
 * one, and when it is killed (or a last closer leaves) they get theirs and take the file for set
 * up.
 */
static struct err *dir_lock(const struct lenv *l, struct fd *ret_lock)
{
	SCOPE(fd_close) struct fd dir = FD_NONE;
	uint64_t deadline = clock_mono_ns() + l->turn_ms * 1000000ull;
	TRY(io_open(l->dir, O_RDONLY | O_DIRECTORY, 0, &dir));
	while (flock(dir.n, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR) {
			return ERR_ERRNO("locking %s", l->dir);
		}
		ENSURE(clock_mono_ns() < deadline, ERR_NOT_NOW,
		       "%s: another process has been opening or closing it for %llu s; if a torpor "
		       "process is stopped, continue or end it",
		       l->dir, (unsigned long long)l->turn_ms / 1000);
		usleep(1000);
	}
	*ret_lock = fd_move(&dir);
	return NULL;
}

static void env_shut(const struct lenv *l, MDB_env *env)
{
	SCOPE(fd_close) struct fd lock = FD_NONE;
	err_drop(dir_lock(l, &lock), "then without it: see lock_file_settle");
	mdb_env_close(env);
}

/* The newest transaction of the meta pages, and the one that lock.mdb gives to who starts now. */
static struct err *newest_txns(struct lenv *l, bool write, uint64_t *ret_meta, uint64_t *ret_given)
{
	MDB_envinfo info;
	MDB_txn *txn = NULL;
	int rc = mdb_env_info(l->env, &info);
	struct op o = { .env = l->env, .txn_out = &txn, .flags = write ? 0 : MDB_RDONLY };
	if (rc == 0) {
		rc = store_lmdb_run(l, op_txn_begin, &o);
	}
	if (rc != 0) {
		return store_lmdb_err(l, rc, "opening");
	}
	*ret_meta = info.me_last_txnid;
	*ret_given = mdb_txn_id(txn) - write;
	mdb_txn_abort(txn);
	return NULL;
}

/*
 * lock.mdb must not be behind the meta pages: a write would go on from the older page and overwrite
 * the newer one. It is behind when a writer was killed between the two, which the next to take the
 * write lock mends, or when its set-up was cut off: *ret_again, once it has been closed.
 */
static struct err *lock_file_settle(struct lenv *l, bool *ret_again)
{
	uint64_t meta = 0;
	uint64_t given = 0;
	TRY(newest_txns(l, false, &meta, &given));
	if (given < meta && !l->rdonly) {
		TRY(store_lmdb_turn_take_opener(l));
		struct err *e = newest_txns(l, true, &meta, &given);
		store_lmdb_turn_drop_opener(l);
		TRY(e);
	}
	/* One behind is a whole older state, good enough for a reader. */
	*ret_again = given + (l->rdonly ? 1 : 0) < meta;
	return NULL;
}

/* Makes the tables of a new data file, in one durable transaction. */
static int make_tables(struct lenv *l, MDB_env *env, const char *path)
{
	MDB_txn *txn = NULL;
	/* Nobody else knows the file: no lock file, whose map could meet a full disk. */
	struct op o = { .env = env, .name = path, .flags = MDB_NOSUBDIR | MDB_NOLOCK };
	int rc = store_lmdb_run(l, op_env_open, &o);
	if (rc == 0) {
		o = (struct op){ .env = env, .txn_out = &txn };
		rc = store_lmdb_run(l, op_txn_begin, &o);
	}
	for (unsigned i = 0; rc == 0 && i < l->ndbs; i++) {
		o = (struct op){ .txn = txn, .name = l->dbs[i], .flags = MDB_CREATE };
		rc = store_lmdb_run(l, op_dbi_open, &o);
	}
	if (rc != 0 && rc != RC_FAULT && txn != NULL) {
		mdb_txn_abort(txn);
	}
	if (rc == 0) {
		o = (struct op){ .txn = txn };
		rc = store_lmdb_run(l, op_txn_commit, &o);
	}
	return rc;
}

/*
 * LMDB keeps MDB_NOSUBDIR, which it needs for a file of another name, in both meta pages. Without
 * it the file is byte by byte what LMDB makes under the final name.
 */
static struct err *clear_nosubdir(const char *path)
{
	enum {
		FLAGS_AT = LMDB_PAGE_HEAD + 28, /* of the free list's description */
	};
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(path, O_RDWR, 0, &f));
	for (uint64_t at = FLAGS_AT; at < 2 * LMDB_PAGE; at += LMDB_PAGE) {
		uint8_t flags[2];
		TRY(io_pread_full(f.n, flags, sizeof(flags), at));
		ENSURE(get_le16(flags) == (MDB_NOSUBDIR | MDB_INTEGERKEY), ERR_INCOMPAT,
		       "%s: liblmdb makes files that this torpor does not know", path);
		put_le16(flags, MDB_INTEGERKEY);
		TRY(io_pwrite_full(f.n, flags, sizeof(flags), at));
	}
	return io_sync_file(f.n);
}

/*
 * Makes data.mdb if it is absent: as data.new, which gets its name when it is whole and durable.
 * LMDB itself writes the first pages of a new file under its final name and without a sync, and
 * what a power cut then leaves it takes for a damaged file for ever. The directory's flock keeps
 * makers apart; a data.new that is there is a dead one's.
 */
static struct err *env_make(struct lenv *l)
{
	char path[4096];
	char made[4096];
	snprintf(path, sizeof(path), "%s/data.mdb", l->dir);
	snprintf(made, sizeof(made), "%s/data.new", l->dir);
	SCOPE(fd_close) struct fd dir = FD_NONE;
	TRY(dir_lock(l, &dir));
	struct stat st;
	if (stat(path, &st) == 0) {
		return NULL;
	}
	MDB_env *env = NULL;
	unlink(made);
	int rc = mdb_env_create(&env);
	if (rc == 0) {
		rc = mdb_env_set_maxdbs(env, LENV_DBS_MAX);
	}
	if (rc == 0) {
		rc = make_tables(l, env, made);
	}
	if (rc == RC_FAULT) {
		env_bury(env);
	} else if (env != NULL) {
		mdb_env_close(env);
	}
	struct err *e = rc != 0 ? store_lmdb_err(l, rc, "making its tables") : NULL;
	if (e == NULL) {
		e = clear_nosubdir(made);
	}
	if (e == NULL && rename(made, path) < 0) {
		e = ERR_ERRNO("naming %s", path);
	}
	if (e != NULL) {
		unlink(made);
		return e;
	}
	return io_sync_file(dir.n);
}

/* Fills env, fd, dbi and map. On failure env is NULL; *ret_again: it may do soon. */
static struct err *env_try(struct lenv *l, bool create, bool *ret_again)
{
	MDB_env *env = NULL;
	struct err *e = NULL;
	SCOPE(fd_close) struct fd lock = FD_NONE;
	TRY(store_lmdb_check_metas(l->dir));
	TRY(fill_lock_file(l));
	int rc = mdb_env_create(&env);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "opening");
	}
	l->env = env;
	l->map = NULL;
	atomic_store(&l->dead, false);
	atomic_store(&l->panic, false);
	atomic_store(&l->checked, false);
	rc = mdb_env_set_mapsize(env, l->map_bytes);
	if (rc == 0) {
		rc = mdb_env_set_maxdbs(env, LENV_DBS_MAX);
	}
	if (rc == 0) {
		rc = mdb_env_set_maxreaders(env, LMDB_READERS_MAX);
	}
	if (rc == 0) {
		rc = mdb_env_set_assert(env, on_assert);
	}
	if (rc == 0) {
		struct op o = { .env = env,
				.name = l->dir,
				.flags = MDB_NORDAHEAD | MDB_NOTLS | (l->rdonly ? MDB_RDONLY : 0) };
		e = dir_lock(l, &lock);
		rc = e == NULL ? store_lmdb_run(l, op_env_open, &o) : 0;
	}
	fd_close(&lock);
	if (e == NULL && rc != 0) {
		e = store_lmdb_err(l, rc, "opening");
	}
	if (e == NULL) {
		rc = mdb_env_get_fd(env, &l->fd);
		e = rc != 0 ? store_lmdb_err(l, rc, "opening") : NULL;
	}
	if (e == NULL && fcntl(l->fd, F_SETFD, FD_CLOEXEC) < 0) {
		e = ERR_ERRNO("%s/data.mdb", l->dir);
	}
	if (e == NULL && !l->rdonly) {
		e = store_lmdb_turn_open(l);
	}
	if (e == NULL) {
		e = store_lmdb_check_length(l);
	}
	MDB_envinfo info;
	if (e == NULL && mdb_env_info(env, &info) == 0) {
		l->map_bytes = info.me_mapsize; /* LMDB makes it at least as large as the file */
	}
	int dead_readers;
	if (e == NULL) {
		/* Slots of killed processes would keep freed pages from being used again. */
		rc = mdb_reader_check(env, &dead_readers);
		e = rc != 0 ? store_lmdb_err(l, rc, "clearing dead readers") : NULL;
	}
	if (e == NULL) {
		e = lock_file_settle(l, ret_again);
	}
	if (e == NULL && *ret_again) {
		e = ERR(ERR_NOT_NOW, "%s: its lock file cannot be set up", l->dir);
	}
	if (e == NULL) {
		e = check_lists(l);
	}
	if (e == NULL) {
		e = open_dbs(l, create);
	}
	if (e == NULL) {
		e = find_map(l);
	}
	if (e != NULL) {
		if (atomic_load(&l->dead)) {
			env_bury(env);
		} else {
			env_shut(l, env);
		}
		store_lmdb_turn_close(l);
		l->env = NULL;
		return e;
	}
	l->pid = getpid();
	return NULL;
}

enum {
	SETTLE_TRIES = 1000, /* a millisecond apart, until all others have closed the lock file */
};

/* With less address space (RLIMIT_AS, sanitizers) a smaller map does; the file must fit in it. */
static struct err *env_start(struct lenv *l, bool create)
{
	if (create) {
		TRY(env_make(l));
	}
	for (int i = 0;;) {
		bool again = false;
		struct err *e = env_try(l, create, &again);
		if (e != NULL && again && i++ < SETTLE_TRIES) {
			err_drop(e, "the last to close it lets the next one set it up");
			usleep(1000);
			continue;
		}
		if (e == NULL || err_errno(e) != ENOMEM || l->map_bytes <= MAP_BYTES_MIN) {
			return e;
		}
		err_drop(e, "tried again with a smaller map");
		l->map_bytes /= 8;
	}
}

static void env_stop(struct lenv *l)
{
	/* Another process's environment (fork) and a dead one must not be touched. */
	if (l->env != NULL && (l->pid != getpid() || atomic_load(&l->dead))) {
		env_bury(l->env);
	} else if (l->env != NULL) {
		env_shut(l, l->env);
	}
	store_lmdb_turn_close(l);
	l->env = NULL;
}

/* Waits until no transaction runs and opens again. NEEDS(registry_lock). */
static struct err *env_restart(struct lenv *l, bool rdonly)
{
	if (l->pid != getpid()) {
		l->active = 0; /* the parent's, as is the turn */
		store_lmdb_turn_init(l);
	}
	while (l->active > 0) {
		cond_wait(&registry_idle, &registry_lock);
	}
	env_stop(l);
	l->rdonly = rdonly;
	return env_start(l, false);
}

static struct lenv *registry_find(const struct stat *st)
{
	for (struct lenv *l = registry; l != NULL; l = l->next) {
		if (l->dev == st->st_dev && l->ino == st->st_ino) {
			return l;
		}
	}
	return NULL;
}

static struct err *lenv_new(const struct lenv_opts *opts, const struct stat *st,
			    struct lenv **ret_env)
{
	SCOPE(freep) struct lenv *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	int n = snprintf(l->dir, sizeof(l->dir), "%s", opts->dir);
	ENSURE(n > 0 && (size_t)n < sizeof(l->dir), ERR_USAGE, "path too long: %.64s...",
	       opts->dir);
	char path[4096];
	snprintf(path, sizeof(path), "%s/data.mdb", l->dir);
	struct stat data;
	ENSURE(opts->create || stat(path, &data) == 0, ERR_NOTFOUND, "%s does not exist", path);
	l->dev = st->st_dev;
	l->ino = st->st_ino;
	l->dbs = opts->dbs;
	l->ndbs = opts->ndbs;
	l->map_bytes = opts->map_bytes;
	l->lists = opts->lists;
	l->turn_ms = opts->write_wait_ms != 0 ? opts->write_wait_ms : WRITE_WAIT_MS;
	l->turn_file = FD_NONE;
	store_lmdb_turn_init(l);
	l->rdonly = opts->rdonly;
	TRY(env_start(l, opts->create));
	l->refs = 1;
	l->next = registry;
	registry = l;
	*ret_env = MOVE(l);
	return NULL;
}

struct err *lenv_open(const struct lenv_opts *opts, struct lenv **ret_env)
{
	BUG_ON(opts->ndbs > LENV_DBS_MAX || (opts->create && opts->rdonly));
	pthread_once(&registry_once, registry_init);
	struct stat st;
	if (stat(opts->dir, &st) < 0) {
		return ERR_ERRNO("%s", opts->dir);
	}
	LOCK_SCOPE(&registry_lock);
	fault_guard_install();
	struct lenv *l = registry_find(&st);
	if (l == NULL) {
		return lenv_new(opts, &st, ret_env);
	}
	if (atomic_load(&l->dead)) {
		return store_lmdb_dead(l);
	}
	if (l->rdonly && !opts->rdonly) {
		TRY(env_restart(l, false));
	}
	l->refs++;
	*ret_env = l;
	return NULL;
}

void lenv_close(struct lenv *l)
{
	if (l == NULL) {
		return;
	}
	LOCK_SCOPE(&registry_lock);
	BUG_ON(l->refs == 0);
	if (--l->refs > 0) {
		return;
	}
	for (struct lenv **at = &registry; *at != NULL; at = &(*at)->next) {
		if (*at == l) {
			*at = l->next;
			break;
		}
	}
	env_stop(l);
	free(l);
	malloc_trim(0); /* LMDB's buffers of a large transaction */
}

void lenv_rest(struct lenv *l)
{
	LOCK_SCOPE(&registry_lock); /* no restart meanwhile: the map stays where it is */
	if (l->env != NULL && l->map != NULL && l->pid == getpid()) {
		/* A shared mapping of a file, never written through: a page is read again when it
		 * is touched. */
		(void)madvise((void *)(uintptr_t)l->map, l->map_bytes, MADV_DONTNEED);
	}
	malloc_trim(0);
}

/* Makes sure that env can be used and counts the transaction in. */
struct err *store_lmdb_enter(struct lenv *l)
{
	LOCK_SCOPE(&registry_lock);
	if (atomic_load(&l->dead) && l->pid == getpid()) {
		return store_lmdb_dead(l);
	}
	if (l->pid != getpid() || l->env == NULL || (atomic_load(&l->panic) && l->active == 0)) {
		TRY(env_restart(l, l->rdonly));
	}
	l->active++;
	return NULL;
}

void store_lmdb_leave(struct lenv *l)
{
	LOCK_SCOPE(&registry_lock);
	if (l->active > 0 && --l->active == 0) {
		cond_wake_all(&registry_idle);
	}
}

/* ---- the data file ---- */

struct err *lenv_pread(struct lenv *l, void *ret, size_t len, uint64_t off)
{
	return err_wrap(io_pread_full(l->fd, ret, len, off), "%s/data.mdb at offset %llu", l->dir,
			(unsigned long long)off);
}

void lenv_will_need(struct lenv *l, uint64_t off, uint64_t len_bytes)
{
	(void)posix_fadvise(l->fd, (off_t)off, (off_t)len_bytes, POSIX_FADV_WILLNEED);
}

void lenv_prealloc(struct lenv *l, uint64_t len_bytes)
{
	struct stat st;
	if (fstat(l->fd, &st) == 0) {
		/* Failure is no error: free pages inside the file may be enough, and the commit
		 * tells. */
		(void)fallocate(l->fd, FALLOC_FL_KEEP_SIZE, st.st_size, (off_t)len_bytes);
	}
}

struct err *lenv_trim(struct lenv *l)
{
	/* The write lock keeps the file's length still: truncating to it frees what lies behind. */
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(l, true, &t));
	struct stat st;
	if (fstat(l->fd, &st) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	/* Whether there is something cannot be told from the number of blocks: there may be holes.
	 */
	if (ftruncate(l->fd, st.st_size) < 0) {
		return ERR_ERRNO("%s/data.mdb: giving back unused space", l->dir);
	}
	return NULL;
}

/* Sums the page counts of the free list: table 0, readable in read transactions only. */
static int op_free_pages(struct op *o)
{
	MDB_cursor *c = NULL;
	int rc = mdb_cursor_open(o->txn, 0, &c);
	uint64_t pages = 0;
	for (MDB_cursor_op op = MDB_FIRST; rc == 0; op = MDB_NEXT) {
		rc = mdb_cursor_get(c, &o->key, &o->val, op);
		if (rc == 0 && o->val.mv_size >= 8) {
			pages += get_le64(o->val.mv_data);
		}
	}
	if (c != NULL) {
		mdb_cursor_close(c);
	}
	o->n = pages;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

struct err *lenv_space(struct lenv *l, struct lenv_space *ret_space)
{
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(l, false, &t));
	/* A reader that was killed while this process had the environment open would keep pages
	 * from being used again until the last one closes it. A failure only postpones that. */
	int dead_readers;
	(void)mdb_reader_check(l->env, &dead_readers);
	struct op o = { .txn = t->txn };
	int rc = store_lmdb_run(l, op_free_pages, &o);
	if (rc != 0) {
		return store_lmdb_err(l, rc, "reading the free list");
	}
	struct stat st;
	struct statvfs v;
	if (fstat(l->fd, &st) < 0 || fstatvfs(l->fd, &v) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	uint64_t free_bytes = o.n * (uint64_t)LMDB_PAGE;
	uint64_t allocated = (uint64_t)st.st_blocks * 512;
	uint64_t used = (uint64_t)st.st_size - MIN(free_bytes, (uint64_t)st.st_size);
	*ret_space = (struct lenv_space){
		.file_bytes = (uint64_t)st.st_size,
		.allocated_bytes = allocated,
		.free_bytes = free_bytes,
		.backed_bytes = allocated > used ? MIN(free_bytes, allocated - used) : 0,
		.disk_free_bytes = (uint64_t)v.f_bavail * v.f_frsize,
	};
	return NULL;
}
