/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options of a verb: one table says what is parsed, what --help prints and which values are taken.
 * --store DIR, --json and --help belong to every verb and need no row. Used by cmd_*.c before
 * threads exist.
 *
 * Forms: --name VALUE, --name=VALUE, flags without a value, "--" ends the options. Everything that
 * breaks a rule is ERR_USAGE and names the option.
 */
#ifndef TORPOR_TOOLS_OPTS_H
#define TORPOR_TOOLS_OPTS_H

#include <jansson.h>

#include "core/base/err.h"

/* What a verb is; one per verb, all in main.c. */
struct args;
struct verb {
	const char *name;     /* "snapshot take" */
	const char *synopsis; /* what follows the name: "NAME [--tag TAG]" */
	const char *summary;  /* one line for the list of verbs */
	/* *ret_status is 0 before the call and the exit status after success. */
	struct err *(*run)(struct args *a, int *ret_status);
};

struct args {
	const struct verb *verb;
	int argc; /* what follows the verb's words */
	char **argv;
	/* Filled by opts_parse: */
	const char *store; /* as given, NULL: not given */
	bool json;
	uint64_t given; /* bit i: the verb's i-th option was given */
	bool help; /* --help was given and printed: nothing else is to be done */
	char **pos; /* positional arguments; points into argv */
	int npos;
};

enum opt_kind {
	OPT_FLAG,   /* bool *to */
	OPT_TEXT,   /* const char **to */
	OPT_UINT,   /* unsigned *to */
	OPT_SIZE,   /* uint64_t *to, bytes */
	OPT_CHOICE, /* const char **to, one of the words in `arg` split at '|' */
	OPT_LIST,   /* struct opt_list *to; may be given several times */
};

enum { OPT_LIST_MAX = 32 };
struct opt_list {
	unsigned n;
	const char *v[OPT_LIST_MAX]; /* point into argv */
};

struct opt {
	const char *name; /* without the dashes */
	const char *arg;  /* placeholder in the help; NULL for a flag */
	enum opt_kind kind;
	void *to;
	const char *help; /* lines split by '\n' */
};

/*
 * Parses a->argv. `about` is a paragraph for --help. min_pos..max_pos positional arguments are
 * taken (max_pos < 0: any number).
 */
MUST_USE struct err *opts_parse(struct args *a, const char *about, const struct opt *opts, size_t n,
				int min_pos, int max_pos);

/*
 * Options as typed values by name: true, a number, a text, a list of texts. opts_json takes those
 * whose bit is set in `given`. opts_apply is for what comes from elsewhere: every member must be one
 * of the options and have its type (ERR_CORRUPT); it is stored where the option says, texts borrowed.
 */
json_t *opts_json(const struct opt *opts, size_t n, uint64_t given);
MUST_USE struct err *opts_apply(const json_t *values, const struct opt *opts, size_t n);
/* What would say the same on a command line: "--mem", "536870912", ...; v ends with NULL. */
struct opt_words {
	char *v[160];
	size_t n;
};
void opt_words_done(struct opt_words *w);
MUST_USE struct err *opt_words_add(struct opt_words *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
MUST_USE struct err *opts_words(const json_t *values, struct opt_words *w);

/* The store directory of this call: --store or the default. Absolute; nothing is made. */
MUST_USE struct err *opts_store_dir(const struct args *a, char *ret_dir, size_t len);
/* An absolute path for a path that may not exist (yet): its existing part resolved. */
MUST_USE struct err *opts_absolute(const char *path, char *ret_path, size_t len);

#endif
