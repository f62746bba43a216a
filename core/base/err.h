/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error objects: the one way a function says that it failed.
 *
 * A failing function returns an owned struct err *, NULL is success, and the result must be used.
 * Only main, the control dispatcher and thread tops print errors; everything below returns them.
 * Outputs (ret_x, last parameters) are untouched when an error is returned.
 *
 * A message is one line: the thing, the reason, the remedy. Control characters in what it quotes
 * become '?'. Callers add context in front with err_wrap ("store /x: family 3f..: ...").
 *
 * Any thread may make an error; an object belongs to one thread at a time.
 */
#ifndef TORPOR_BASE_ERR_H
#define TORPOR_BASE_ERR_H

#include <stdarg.h>

#include "core/base/check.h"
#include "core/base/scope.h"

/* What the caller can do about it. */
enum err_class {
	ERR_USAGE,     /* the request itself is malformed: exit 2 */
	ERR_NOT_NOW,     /* sound, but not now (not running, already exists, busy) */
	ERR_SYS,       /* the host refused (errno is kept) */
	ERR_NOSPACE,   /* disk or quota full */
	ERR_LIMIT,     /* beyond a limit of ours or of the host */
	ERR_CORRUPT,   /* bytes from outside break their rules */
	ERR_INCOMPAT,  /* sound, but not for this version or this host */
	ERR_GUEST,     /* the guest did something that ends it */
	ERR_PEER,      /* the other end of a socket misbehaved or left */
	ERR_CANCELLED, /* somebody asked for it to stop */
	ERR_NOTFOUND,  /* the named thing does not exist */
	ERR__COUNT,
};

struct err;

struct err *err_make(enum err_class class, int sys, const char *file, int line, const char *fmt, ...)
	PRINTF_LIKE(5, 6) MUST_USE;

/* A new error of a class. */
#define ERR(class, ...) err_make((class), 0, __FILE__, __LINE__, __VA_ARGS__)
/*
 * A new error from errno value `sys`: the text of errno is appended. ENOSPC and EDQUOT become
 * ERR_NOSPACE, ENOENT ERR_NOTFOUND, everything else ERR_SYS.
 */
#define ERR_SYSNO(sys, ...) err_make(ERR_SYS, (sys), __FILE__, __LINE__, __VA_ARGS__)
#define ERR_ERRNO(...) ERR_SYSNO(errno, __VA_ARGS__)

/* Puts "context: " in front of the message. Takes and returns ownership; NULL stays NULL. */
struct err *err_wrap(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3) MUST_USE;
/* Replaces the class (for "absent" turned into "damaged" and the like). */
struct err *err_reclass(struct err *e, enum err_class class) MUST_USE;
/* Adds a hop to the trace; used by TRY. */
struct err *err_trace(struct err *e, const char *file, int line) MUST_USE;

/* Sets what err_to_errno gives, where the class alone says too little. NULL stays NULL. */
struct err *err_set_errno(struct err *e, int sys) MUST_USE;

enum err_class err_class(const struct err *e);
int err_errno(const struct err *e);        /* saved errno, 0 if none */
const char *err_msg(const struct err *e);  /* valid while e lives */
const char *err_trace_text(const struct err *e);
const char *err_class_name(enum err_class class);
/* An errno that stands for the error on the control protocol; never 0. */
int err_to_errno(const struct err *e);

void err_free(struct err *e);
/* The only way to ignore an error. `why` is for the reader of the code. */
void err_drop(struct err *e, const char *why);
/* Keeps the first of two errors, frees the other; for clean-up paths. */
struct err *err_first(struct err *a, struct err *b) MUST_USE;

DEFINE_SCOPE(struct err, err_free)

/* Return from the calling function on error. With ENSURE these are the only macros that return. */
#define TRY(expr)                                                                                  \
	do {                                                                                       \
		struct err *try_e_ = (expr);                                                       \
		if (__builtin_expect(try_e_ != NULL, 0)) {                                         \
			return err_trace(try_e_, __FILE__, __LINE__);                              \
		}                                                                                  \
	} while (0)

#define ENSURE(cond, class, ...)                                                                   \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0)) {                                                \
			return ERR(class, __VA_ARGS__);                                            \
		}                                                                                  \
	} while (0)

#endif
