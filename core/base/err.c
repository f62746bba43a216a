/* SPDX-License-Identifier: Apache-2.0 */
/* Error objects. See err.h. */
#include "core/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	ERR_MSG_MAX = 1024,
	ERR_TRACE_MAX = 320,
};

struct err {
	enum err_class class;
	int sys;
	char msg[ERR_MSG_MAX];
	char trace[ERR_TRACE_MAX];
};

/* Given out when there is no memory for a real one; never freed. */
static struct err err_nomem = { ERR_SYS, ENOMEM, "out of memory", "" };

static const char *const class_names[ERR__COUNT] = {
	[ERR_USAGE] = "usage",       [ERR_NOT_NOW] = "state",         [ERR_SYS] = "system",
	[ERR_NOSPACE] = "no-space",  [ERR_LIMIT] = "limit",         [ERR_CORRUPT] = "corrupt",
	[ERR_INCOMPAT] = "incompatible", [ERR_GUEST] = "guest",     [ERR_PEER] = "peer",
	[ERR_CANCELLED] = "cancelled", [ERR_NOTFOUND] = "not-found",
};

void bug_report(const char *cond, const char *file, int line)
{
	fprintf(stderr, "torpor: BUG: %s at %s:%d\n", cond, file, line);
	abort();
}

const char *err_class_name(enum err_class class)
{
	return class < ERR__COUNT ? class_names[class] : "unknown";
}

struct err *err_trace(struct err *e, const char *file, int line)
{
	if (e == NULL || e == &err_nomem) {
		return e;
	}
	size_t used = strlen(e->trace);
	const char *base = strrchr(file, '/');
	snprintf(e->trace + used, sizeof(e->trace) - used, "%s%s:%d", used > 0 ? " < " : "",
		 base != NULL ? base + 1 : file, line);
	return e;
}

/* One line, whatever was quoted: control characters from outside must not reach a terminal. */
static void make_plain(char *text)
{
	for (char *p = text; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f) {
			*p = '?';
		}
	}
}

struct err *err_make(enum err_class class, int sys, const char *file, int line, const char *fmt, ...)
{
	struct err *e = calloc(1, sizeof(*e));
	if (e == NULL) {
		return &err_nomem;
	}
	if (sys == ENOSPC || sys == EDQUOT) {
		class = ERR_NOSPACE;
	} else if (sys == ENOENT) {
		class = ERR_NOTFOUND;
	}
	e->class = class;
	e->sys = sys;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	if (sys != 0 && n >= 0 && (size_t)n < sizeof(e->msg)) {
		char text[128];
		snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, ": %s",
			 strerror_r(sys, text, sizeof(text)));
	}
	make_plain(e->msg);
	return err_trace(e, file, line);
}

struct err *err_wrap(struct err *e, const char *fmt, ...)
{
	if (e == NULL || e == &err_nomem) {
		return e;
	}
	char head[ERR_MSG_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(head, sizeof(head), fmt, ap);
	va_end(ap);
	make_plain(head);
	/* "head: old", cut at the end. */
	size_t nhead = strnlen(head, sizeof(head) - 3);
	size_t nold = MIN(strlen(e->msg), sizeof(e->msg) - 3 - nhead);
	memmove(e->msg + nhead + 2, e->msg, nold);
	memcpy(e->msg, head, nhead);
	memcpy(e->msg + nhead, ": ", 2);
	e->msg[nhead + 2 + nold] = '\0';
	return e;
}

struct err *err_reclass(struct err *e, enum err_class class)
{
	if (e != NULL && e != &err_nomem) {
		e->class = class;
	}
	return e;
}

struct err *err_set_errno(struct err *e, int sys)
{
	if (e != NULL && e != &err_nomem) {
		e->sys = sys;
	}
	return e;
}

enum err_class err_class(const struct err *e)
{
	return e->class;
}

int err_errno(const struct err *e)
{
	return e->sys;
}

const char *err_msg(const struct err *e)
{
	return e->msg;
}

const char *err_trace_text(const struct err *e)
{
	return e->trace;
}

int err_to_errno(const struct err *e)
{
	if (e->sys != 0) {
		return e->sys;
	}
	switch (e->class) {
	case ERR_USAGE:
	case ERR_CORRUPT:
	case ERR_INCOMPAT:
		return EINVAL;
	case ERR_NOT_NOW:
		return EBUSY;
	case ERR_NOSPACE:
		return ENOSPC;
	case ERR_LIMIT:
		return E2BIG;
	case ERR_NOTFOUND:
		return ENOENT;
	case ERR_CANCELLED:
		return ECANCELED;
	case ERR_PEER:
		return EPROTO;
	case ERR_SYS:
	case ERR_GUEST:
	case ERR__COUNT:
		break;
	}
	return EIO;
}

void err_free(struct err *e)
{
	if (e != &err_nomem) {
		free(e);
	}
}

void err_drop(struct err *e, const char *why)
{
	(void)why;
	err_free(e);
}

struct err *err_first(struct err *a, struct err *b)
{
	if (a == NULL) {
		return b;
	}
	err_free(b);
	return a;
}
