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
#include "store/store_lmdb.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/lock.h"

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
/* Below this much free space an EIO of a commit means a full disk. */
#define FULL_BELOW_BYTES (8 * MIB)

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
	bool rdonly;        /* [registry] */
	pid_t pid;          /* [registry] the process that opened env */
	MDB_env *env;       /* changes only under the registry lock while active is 0 */
	int fd;             /* LMDB's */
	const uint8_t *map; /* where the file is mapped; NULL while that is being found out */
	MDB_dbi dbi[LENV_DBS_MAX];
	atomic_bool dead;  /* set by a guard, read before every call into LMDB */
	atomic_bool panic; /* LMDB refuses everything until it is opened again */
};

struct ltxn {
	struct lenv *l;
	MDB_txn *txn;
	bool write;
};

struct lcur {
	struct ltxn *t;
	MDB_cursor *cur;
	unsigned db;
	MDB_val val; /* points into the map or a dirty page */
	size_t key_len;
	uint8_t key[LENV_KEY_MAX];
};

/* ---- the guard ---- */

struct guard {
	sigjmp_buf jmp;
	const uint8_t *map; /* NULL: every address counts */
	uint64_t map_bytes;
};
static __thread struct guard *guard_now;
static __thread bool guard_unblocked;
static __thread bool guard_chaining;
static struct sigaction guard_prev_bus; /* [registry] while written */
static struct sigaction guard_prev_segv;

/* Passes a fault that is not ours to whoever handled it before. */
static void guard_chain(int sig, siginfo_t *si, void *uc)
{
	if (guard_chaining) { /* that handler passes faults back to this one */
		signal(sig, SIG_DFL);
		return;
	}
	guard_chaining = true;
	const struct sigaction *prev = sig == SIGBUS ? &guard_prev_bus : &guard_prev_segv;
	if ((prev->sa_flags & SA_SIGINFO) != 0) {
		prev->sa_sigaction(sig, si, uc);
	} else if (prev->sa_handler == SIG_DFL || prev->sa_handler == SIG_IGN) {
		signal(sig,
		       SIG_DFL); /* returning repeats the access, which then ends the process */
	} else {
		prev->sa_handler(sig);
	}
	guard_chaining = false;
}

static void guard_on_fault(int sig, siginfo_t *si, void *uc)
{
	struct guard *g = guard_now;
	const uint8_t *at = si->si_addr;
	if (g != NULL && si->si_code > 0 &&
	    (g->map == NULL || (at >= g->map && (uint64_t)(at - g->map) < g->map_bytes))) {
		guard_now = NULL;
		siglongjmp(g->jmp, 1);
	}
	guard_chain(sig, si, uc);
}

/* LMDB calls this instead of printing and aborting; outside a guard it goes on to abort. */
static void guard_on_assert(MDB_env *env, const char *msg)
{
	(void)env;
	(void)msg;
	struct guard *g = guard_now;
	if (g != NULL) {
		guard_now = NULL;
		siglongjmp(g->jmp, 1);
	}
}

/* Makes our handler the current one, again if somebody else has put theirs in its place. */
static void guard_install(int sig, struct sigaction *prev)
{
	struct sigaction now;
	BUG_ON(sigaction(sig, NULL, &now) != 0);
	bool ours = (now.sa_flags & SA_SIGINFO) != 0
			    ? now.sa_sigaction == guard_on_fault
			    : (void *)now.sa_handler == (void *)guard_on_fault;
	if (ours && (now.sa_flags & SA_SIGINFO) != 0) {
		return;
	}
	if (!ours) {
		*prev = now;
	}
	/* SA_NODEFER: the handler leaves by siglongjmp, which restores no signal mask. */
	struct sigaction sa = { .sa_sigaction = guard_on_fault,
				.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };
	sigemptyset(&sa.sa_mask);
	BUG_ON(sigaction(sig, &sa, NULL) != 0);
}

/* Arguments of one call into LMDB, in memory that siglongjmp leaves alone. */
struct op {
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

/* Runs fn under the guard; RC_FAULT when it did not come back, and the environment is dead then. */
static int __attribute__((noinline)) guard_run(struct lenv *l, int (*fn)(struct op *), struct op *o)
{
	struct guard g = { .map = l->map, .map_bytes = l->map_bytes };
	if (!guard_unblocked) {
		/* A blocked fault signal would end the process instead of reaching the handler. */
		sigset_t set;
		sigemptyset(&set);
		sigaddset(&set, SIGBUS);
		sigaddset(&set, SIGSEGV);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		guard_unblocked = true;
	}
	if (sigsetjmp(g.jmp, 0) != 0) {
		atomic_store(&l->dead, true);
		return RC_FAULT;
	}
	guard_now = &g;
	int rc = fn(o);
	guard_now = NULL;
	return rc;
}

/* ---- errors ---- */

static struct err *err_dead(const struct lenv *l)
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

/* The error for a return code of LMDB; `what` says what was being done. */
static struct err *err_lmdb(struct lenv *l, int rc, const char *what)
{
	switch (rc) {
	case RC_FAULT:
		return err_dead(l);
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_INVALID:
	case MDB_CURSOR_FULL:
	case MDB_INCOMPATIBLE:
	case MDB_NOTFOUND:
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
	case EIO:
	case ENOSPC:
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

static int op_txn_begin(struct op *o)
{
	return mdb_txn_begin(o->env, NULL, o->flags, o->txn_out);
}

static int op_txn_commit(struct op *o)
{
	return mdb_txn_commit(o->txn);
}

static int op_txn_abort(struct op *o)
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
static struct err *check_length(struct lenv *l)
{
	MDB_envinfo info;
	int rc = mdb_env_info(l->env, &info);
	if (rc != 0) {
		return err_lmdb(l, rc, "opening");
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
static struct err *open_dbs(struct lenv *l, bool create)
{
	MDB_txn *txn = NULL;
	struct op o = { .env = l->env, .txn_out = &txn, .flags = l->rdonly ? MDB_RDONLY : 0 };
	if (!create) {
		o.flags = MDB_RDONLY;
	}
	int rc = guard_run(l, op_txn_begin, &o);
	for (unsigned i = 0; rc == 0 && i < l->ndbs; i++) {
		o = (struct op){ .txn = txn, .name = l->dbs[i], .flags = create ? MDB_CREATE : 0 };
		rc = guard_run(l, op_dbi_open, &o);
		l->dbi[i] = o.dbi;
	}
	o = (struct op){ .txn = txn };
	if (rc == RC_FAULT) {
		return err_dead(l);
	}
	if (rc != 0) {
		if (txn != NULL) {
			mdb_txn_abort(txn);
		}
		ENSURE(rc != MDB_NOTFOUND, ERR_NOTFOUND, "%s: not set up", l->dir);
		return err_lmdb(l, rc, "opening its tables");
	}
	rc = guard_run(l, op_txn_commit, &o);
	return rc == 0 ? NULL : err_lmdb(l, rc, "opening its tables");
}

static struct err *find_map(struct lenv *l)
{
	MDB_txn *txn = NULL;
	struct op o = { .env = l->env, .txn_out = &txn, .flags = MDB_RDONLY };
	int rc = guard_run(l, op_txn_begin, &o);
	if (rc != 0) {
		return err_lmdb(l, rc, "opening");
	}
	o = (struct op){ .txn = txn, .n = l->map_bytes };
	rc = guard_run(l, op_find_map, &o);
	if (rc != RC_FAULT) {
		mdb_txn_abort(txn);
	}
	if (rc != 0) {
		return err_lmdb(l, rc, "finding its map");
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

/* Fills env, fd, dbi and map. On failure env is NULL. */
static struct err *env_start(struct lenv *l, bool create)
{
	MDB_env *env = NULL;
	TRY(fill_lock_file(l));
	int rc = mdb_env_create(&env);
	if (rc != 0) {
		return err_lmdb(l, rc, "opening");
	}
	l->env = env;
	l->map = NULL;
	atomic_store(&l->dead, false);
	atomic_store(&l->panic, false);
	rc = mdb_env_set_mapsize(env, l->map_bytes);
	if (rc == 0) {
		rc = mdb_env_set_maxdbs(env, LENV_DBS_MAX);
	}
	if (rc == 0) {
		rc = mdb_env_set_maxreaders(env, LMDB_READERS_MAX);
	}
	if (rc == 0) {
		rc = mdb_env_set_assert(env, guard_on_assert);
	}
	if (rc == 0) {
		struct op o = { .env = env,
				.name = l->dir,
				.flags = MDB_NORDAHEAD | MDB_NOTLS | (l->rdonly ? MDB_RDONLY : 0) };
		rc = guard_run(l, op_env_open, &o);
	}
	struct err *e = rc != 0 ? err_lmdb(l, rc, "opening") : NULL;
	if (e == NULL) {
		rc = mdb_env_get_fd(env, &l->fd);
		e = rc != 0 ? err_lmdb(l, rc, "opening") : NULL;
	}
	if (e == NULL && fcntl(l->fd, F_SETFD, FD_CLOEXEC) < 0) {
		e = ERR_ERRNO("%s/data.mdb", l->dir);
	}
	if (e == NULL) {
		e = check_length(l);
	}
	int dead_readers;
	if (e == NULL) {
		/* Slots of killed processes would keep freed pages from being used again. */
		rc = mdb_reader_check(env, &dead_readers);
		e = rc != 0 ? err_lmdb(l, rc, "clearing dead readers") : NULL;
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
			mdb_env_close(env);
		}
		l->env = NULL;
		return e;
	}
	l->pid = getpid();
	return NULL;
}

static void env_stop(struct lenv *l)
{
	/* Another process's environment (fork) and a dead one must not be touched. */
	if (l->env != NULL && (l->pid != getpid() || atomic_load(&l->dead))) {
		env_bury(l->env);
	} else if (l->env != NULL) {
		mdb_env_close(l->env);
	}
	l->env = NULL;
}

/* Waits until no transaction runs and opens again. NEEDS(registry_lock). */
static struct err *env_restart(struct lenv *l, bool rdonly)
{
	if (l->pid != getpid()) {
		l->active = 0; /* the parent's */
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
		/* A dead one stays for its users; whoever asks anew is told by env_start. */
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
	guard_install(SIGBUS, &guard_prev_bus);
	guard_install(SIGSEGV, &guard_prev_segv);
	struct lenv *l = registry_find(&st);
	if (l == NULL) {
		return lenv_new(opts, &st, ret_env);
	}
	if (atomic_load(&l->dead)) {
		return err_dead(l);
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
}

/* ---- transactions ---- */

/* Makes sure that env can be used and counts the transaction in. */
static struct err *env_enter(struct lenv *l)
{
	LOCK_SCOPE(&registry_lock);
	if (atomic_load(&l->dead) && l->pid == getpid()) {
		return err_dead(l);
	}
	if (l->pid != getpid() || l->env == NULL || (atomic_load(&l->panic) && l->active == 0)) {
		TRY(env_restart(l, l->rdonly));
	}
	l->active++;
	return NULL;
}

static void env_leave(struct lenv *l)
{
	LOCK_SCOPE(&registry_lock);
	if (l->active > 0 && --l->active == 0) {
		cond_wake_all(&registry_idle);
	}
}

struct err *ltxn_begin(struct lenv *l, bool write, struct ltxn **ret_txn)
{
	ENSURE(!write || !l->rdonly, ERR_NOT_NOW, "%s: opened for reading only", l->dir);
	SCOPE(freep) struct ltxn *t = calloc(1, sizeof(*t));
	ENSURE(t != NULL, ERR_SYS, "out of memory");
	TRY(env_enter(l));
	t->l = l;
	t->write = write;
	struct op o = { .env = l->env, .txn_out = &t->txn, .flags = write ? 0 : MDB_RDONLY };
	int rc = guard_run(l, op_txn_begin, &o);
	if (rc == MDB_BAD_RSLOT || rc == MDB_PANIC) {
		atomic_store(&l->panic, true);
	}
	if (rc != 0) {
		env_leave(l);
		return err_lmdb(l, rc, "starting a transaction");
	}
	if (write) {
		struct err *e = check_length(l);
		if (e != NULL) {
			ltxn_abort(MOVE(t));
			return e;
		}
	}
	*ret_txn = MOVE(t);
	return NULL;
}

struct err *ltxn_commit(struct ltxn *t)
{
	struct lenv *l = t->l;
	int rc = RC_FAULT;
	if (!atomic_load(&l->dead)) {
		struct op o = { .txn = t->txn };
		rc = guard_run(l, op_txn_commit, &o);
	}
	env_leave(l);
	free(t);
	return rc == 0 ? NULL : err_lmdb(l, rc, "committing");
}

void ltxn_abort(struct ltxn *t)
{
	if (t == NULL) {
		return;
	}
	struct lenv *l = t->l;
	/*
	 * Also after a guard fired: faults only happen while LMDB reads the map, never inside
	 * malloc, and an abort reads only the heap. Without it a write transaction would keep the
	 * lock that other processes wait for until this one ends.
	 */
	struct op o = { .txn = t->txn };
	(void)guard_run(l, op_txn_abort, &o);
	env_leave(l);
	free(t);
}

void lbuf_done(struct lbuf *b)
{
	free(b->p);
	*b = (struct lbuf){ 0 };
}

static struct err *lbuf_room(struct lbuf *b, size_t len)
{
	if (len > b->cap) {
		size_t cap = MAX(b->cap * 2, (size_t)4096);
		cap = MAX(cap, len);
		uint8_t *p = realloc(b->p, cap);
		ENSURE(p != NULL, ERR_SYS, "out of memory");
		b->p = p;
		b->cap = cap;
	}
	return NULL;
}

static int op_copy(struct op *o)
{
	memcpy(o->dst, o->val.mv_data, o->n);
	return 0;
}

static bool in_map(const struct lenv *l, const void *p)
{
	return (uintptr_t)p >= (uintptr_t)l->map && (uintptr_t)p - (uintptr_t)l->map < l->map_bytes;
}

static struct err *value_copy(struct lenv *l, const MDB_val *v, size_t max, struct lbuf *buf)
{
	ENSURE(v->mv_size <= max, ERR_CORRUPT,
	       "%s: a record of %zu bytes, at most %zu are possible", l->dir, v->mv_size, max);
	TRY(lbuf_room(buf, v->mv_size));
	if (v->mv_size > INLINE_MAX && in_map(l, v->mv_data)) {
		TRY(lenv_pread(l, buf->p, v->mv_size,
			       (uint64_t)((uintptr_t)v->mv_data - (uintptr_t)l->map)));
	} else {
		struct op o = { .dst = buf->p, .val = *v, .n = v->mv_size };
		int rc = guard_run(l, op_copy, &o);
		if (rc != 0) {
			return err_lmdb(l, rc, "reading a record");
		}
	}
	buf->len = v->mv_size;
	return NULL;
}

static int op_get(struct op *o)
{
	return mdb_get(o->txn, o->dbi, &o->key, &o->val);
}

/* LMDB takes keys and values as pointers to non-const; it does not write through them. */
static MDB_val val_of(struct bytes b)
{
	return (MDB_val){ .mv_data = (void *)(uintptr_t)b.p, .mv_size = b.len };
}

static struct err *txn_find(struct ltxn *t, unsigned db, struct bytes key, MDB_val *ret_val,
			    bool *ret_found)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .key = val_of(key) };
	int rc = guard_run(l, op_get, &o);
	if (rc == MDB_NOTFOUND) {
		*ret_found = false;
		return NULL;
	}
	if (rc != 0) {
		return err_lmdb(l, rc, "looking for a record");
	}
	*ret_val = o.val;
	*ret_found = true;
	return NULL;
}

struct err *ltxn_get(struct ltxn *t, unsigned db, struct bytes key, size_t max, struct lbuf *buf,
		     bool *ret_found)
{
	MDB_val v;
	bool found;
	TRY(txn_find(t, db, key, &v, &found));
	if (found) {
		TRY(value_copy(t->l, &v, max, buf));
	}
	*ret_found = found;
	return NULL;
}

struct err *ltxn_where(struct ltxn *t, unsigned db, struct bytes key, struct lplace *ret_place,
		       bool *ret_found)
{
	BUG_ON(t->write);
	MDB_val v;
	bool found;
	TRY(txn_find(t, db, key, &v, &found));
	if (found) {
		ENSURE(in_map(t->l, v.mv_data), ERR_CORRUPT, "%s: a record lies outside the file",
		       t->l->dir);
		ret_place->off = (uint64_t)((uintptr_t)v.mv_data - (uintptr_t)t->l->map);
		ret_place->len = v.mv_size;
	}
	*ret_found = found;
	return NULL;
}

static int op_put(struct op *o)
{
	/* APPEND fills pages to the end; it fails harmlessly when the key is not the last. */
	int rc = mdb_put(o->txn, o->dbi, &o->key, &o->val, MDB_APPEND);
	if (rc == MDB_KEYEXIST) {
		rc = mdb_put(o->txn, o->dbi, &o->key, &o->val, 0);
	}
	return rc;
}

struct err *ltxn_put(struct ltxn *t, unsigned db, struct bytes key, struct bytes val)
{
	struct lenv *l = t->l;
	BUG_ON(key.len == 0 || key.len > LENV_KEY_MAX);
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .key = val_of(key), .val = val_of(val) };
	int rc = guard_run(l, op_put, &o);
	return rc == 0 ? NULL : err_lmdb(l, rc, "writing a record");
}

static int op_del(struct op *o)
{
	return mdb_del(o->txn, o->dbi, &o->key, NULL);
}

struct err *ltxn_del(struct ltxn *t, unsigned db, struct bytes key, bool *ret_found)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .key = val_of(key) };
	int rc = guard_run(l, op_del, &o);
	if (rc != 0 && rc != MDB_NOTFOUND) {
		return err_lmdb(l, rc, "removing a record");
	}
	*ret_found = rc == 0;
	return NULL;
}

static int op_stat(struct op *o)
{
	return mdb_stat(o->txn, o->dbi, &o->stat);
}

struct err *ltxn_count(struct ltxn *t, unsigned db, uint64_t *ret_n)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	struct op o = { .txn = t->txn, .dbi = l->dbi[db] };
	int rc = guard_run(l, op_stat, &o);
	if (rc != 0) {
		return err_lmdb(l, rc, "counting records");
	}
	*ret_n = o.stat.ms_entries;
	return NULL;
}

/* ---- cursors ---- */

static int op_cur_open(struct op *o)
{
	return mdb_cursor_open(o->txn, o->dbi, o->cur_out);
}

struct err *lcur_open(struct ltxn *t, unsigned db, struct lcur **ret_cur)
{
	struct lenv *l = t->l;
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	SCOPE(freep) struct lcur *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->t = t;
	c->db = db;
	struct op o = { .txn = t->txn, .dbi = l->dbi[db], .cur_out = &c->cur };
	int rc = guard_run(l, op_cur_open, &o);
	if (rc != 0) {
		return err_lmdb(l, rc, "opening a cursor");
	}
	*ret_cur = MOVE(c);
	return NULL;
}

void lcur_close(struct lcur *c)
{
	if (c == NULL) {
		return;
	}
	if (!atomic_load(&c->t->l->dead)) {
		mdb_cursor_close(c->cur); /* touches only the heap */
	}
	free(c);
}

/* Moves and copies the key while still under the guard. */
static int op_cur_get(struct op *o)
{
	int rc = mdb_cursor_get(o->cur, &o->key, &o->val, o->cur_op);
	if (rc == 0) {
		if (o->key.mv_size > LENV_KEY_MAX) {
			return MDB_CORRUPTED;
		}
		memcpy(o->dst, o->key.mv_data, o->key.mv_size);
	}
	return rc;
}

static struct err *cur_move(struct lcur *c, struct bytes key, MDB_cursor_op op, bool *ret_found)
{
	struct lenv *l = c->t->l;
	if (atomic_load(&l->dead)) {
		return err_dead(l);
	}
	struct op o = { .cur = c->cur, .cur_op = op, .key = val_of(key), .dst = c->key };
	int rc = guard_run(l, op_cur_get, &o);
	if (rc == MDB_NOTFOUND) {
		*ret_found = false;
		return NULL;
	}
	if (rc != 0) {
		return err_lmdb(l, rc, "walking records");
	}
	c->key_len = o.key.mv_size;
	c->val = o.val;
	*ret_found = true;
	return NULL;
}

struct err *lcur_seek(struct lcur *c, struct bytes key, bool *ret_found)
{
	return cur_move(c, key, key.len == 0 ? MDB_FIRST : MDB_SET_RANGE, ret_found);
}

struct err *lcur_next(struct lcur *c, bool *ret_found)
{
	return cur_move(c, (struct bytes){ 0 }, MDB_NEXT, ret_found);
}

struct bytes lcur_key(const struct lcur *c)
{
	return (struct bytes){ .p = c->key, .len = c->key_len };
}

size_t lcur_value_len(const struct lcur *c)
{
	return c->val.mv_size;
}

struct err *lcur_value(struct lcur *c, size_t max, struct lbuf *buf)
{
	if (atomic_load(&c->t->l->dead)) {
		return err_dead(c->t->l);
	}
	return value_copy(c->t->l, &c->val, max, buf);
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
	if ((uint64_t)st.st_blocks * 512 > (uint64_t)st.st_size &&
	    ftruncate(l->fd, st.st_size) < 0) {
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
	struct op o = { .txn = t->txn };
	int rc = guard_run(l, op_free_pages, &o);
	if (rc != 0) {
		return err_lmdb(l, rc, "reading the free list");
	}
	struct stat st;
	struct statvfs v;
	if (fstat(l->fd, &st) < 0 || fstatvfs(l->fd, &v) < 0) {
		return ERR_ERRNO("%s/data.mdb", l->dir);
	}
	*ret_space = (struct lenv_space){
		.file_bytes = (uint64_t)st.st_size,
		.allocated_bytes = (uint64_t)st.st_blocks * 512,
		.free_bytes = o.n * (uint64_t)LMDB_PAGE,
		.disk_free_bytes = (uint64_t)v.f_bavail * v.f_frsize,
	};
	return NULL;
}
