/* SPDX-License-Identifier: Apache-2.0 */
/* Options of a verb: parsing, help text, the store directory. See opts.h. */
#include "tools/opts.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/config.h"

static void print_row(const char *left, const char *help)
{
	printf("  %s", left);
	int col = (int)strlen(left) + 2;
	if (col > 26) {
		printf("\n");
		col = 0;
	}
	while (help != NULL) {
		const char *end = strchr(help, '\n');
		int len = end != NULL ? (int)(end - help) : (int)strlen(help);
		printf("%*s%.*s\n", 28 - col, "", len, help);
		col = 0;
		help = end != NULL ? end + 1 : NULL;
	}
}

static void print_help(const struct args *a, const char *about, const struct opt *opts, size_t n)
{
	printf("usage: torpor %s%s%s\n\n%s\n\nOptions:\n", a->verb->name,
	       a->verb->synopsis[0] != 0 ? " " : "", a->verb->synopsis, about);
	for (size_t i = 0; i < n; i++) {
		char left[80];
		snprintf(left, sizeof(left), "--%s%s%s", opts[i].name,
			 opts[i].arg != NULL ? " " : "", opts[i].arg != NULL ? opts[i].arg : "");
		print_row(left, opts[i].help);
	}
	print_row("--store DIR",
		  "the store; default ${XDG_STATE_HOME:-~/.local/state}/torpor/store");
	print_row("--json", "print one JSON document on stdout");
	print_row("--help", "this text");
}

static struct err *parse_uint(const char *name, const char *text, unsigned *ret)
{
	char *end = NULL;
	errno = 0;
	unsigned long v = strtoul(text, &end, 10);
	ENSURE(text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0 && v <= UINT_MAX,
	       ERR_USAGE, "--%s: '%.40s' is no number", name, text);
	*ret = (unsigned)v;
	return NULL;
}

static bool is_choice(const char *words, const char *text)
{
	size_t len = strlen(text);
	for (const char *p = words; p != NULL;) {
		size_t word = strcspn(p, "|");
		if (word == len && strncmp(p, text, len) == 0) {
			return true;
		}
		p = p[word] == '|' ? p + word + 1 : NULL;
	}
	return false;
}

static struct err *set_opt(const struct opt *o, const char *value)
{
	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)o->to = true;
		return NULL;
	case OPT_TEXT:
		*(const char **)o->to = value;
		return NULL;
	case OPT_UINT:
		return parse_uint(o->name, value, o->to);
	case OPT_SIZE:
		return err_wrap(config_parse_size(value, o->to), "--%s", o->name);
	case OPT_LIST: {
		struct opt_list *l = o->to;
		ENSURE(l->n < OPT_LIST_MAX, ERR_USAGE, "--%s: given more than %d times", o->name,
		       OPT_LIST_MAX);
		l->v[l->n++] = value;
		return NULL;
	}
	case OPT_CHOICE:
		ENSURE(is_choice(o->arg, value), ERR_USAGE, "--%s: '%.40s' is not one of %s",
		       o->name, value, o->arg);
		*(const char **)o->to = value;
		return NULL;
	}
	BUG_ON(true);
	return NULL;
}

/* Parses the option at a->argv[*i] and steps past it. */
static struct err *parse_opt(struct args *a, int *i, const struct opt *opts, size_t n)
{
	const char *word = a->argv[*i] + 2;
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	const struct opt common[] = {
		{ "store", "DIR", OPT_TEXT, &a->store, NULL },
		{ "json", NULL, OPT_FLAG, &a->json, NULL },
		{ "help", NULL, OPT_FLAG, &a->help, NULL },
	};
	const struct opt *o = NULL;
	for (size_t k = 0; k < n + ARRAY_LEN(common); k++) {
		const struct opt *c = k < n ? &opts[k] : &common[k - n];
		if (strlen(c->name) == len && strncmp(c->name, word, len) == 0) {
			o = c;
			a->given |= k < n ? 1ull << k : 0;
		}
	}
	ENSURE(o != NULL, ERR_USAGE, "unknown option '--%.*s': see 'torpor %s --help'", (int)len,
	       word, a->verb->name);
	(*i)++;
	if (o->kind == OPT_FLAG) {
		ENSURE(value == NULL, ERR_USAGE, "--%s takes no value", o->name);
		return set_opt(o, NULL);
	}
	if (value == NULL) {
		ENSURE(*i < a->argc, ERR_USAGE, "--%s needs a value: --%s %s", o->name, o->name,
		       o->arg);
		value = a->argv[(*i)++];
	}
	return set_opt(o, value);
}

struct err *opts_parse(struct args *a, const char *about, const struct opt *opts, size_t n,
		       int min_pos, int max_pos)
{
	/* Positional arguments are gathered at the front of argv: never past the read position. */
	bool options_over = false;
	BUG_ON(n > 64); /* bits of a->given */
	a->pos = a->argv;
	a->npos = 0;
	for (int i = 0; i < a->argc;) {
		char *word = a->argv[i];
		if (!options_over && strcmp(word, "--") == 0) {
			options_over = true;
			i++;
		} else if (!options_over && strcmp(word, "-h") == 0) {
			a->help = true;
			i++;
		} else if (!options_over && strncmp(word, "--", 2) == 0) {
			TRY(parse_opt(a, &i, opts, n));
		} else {
			ENSURE(options_over || word[0] != '-' || word[1] == 0, ERR_USAGE,
			       "unknown option '%.40s': see 'torpor %s --help'", word,
			       a->verb->name);
			a->pos[a->npos++] = word;
			i++;
		}
	}
	if (a->help) {
		print_help(a, about, opts, n);
		return NULL;
	}
	ENSURE(max_pos < 0 || a->npos <= max_pos, ERR_USAGE,
	       "unexpected argument '%.40s': usage: torpor %s %s",
	       a->pos[max_pos < 0 ? 0 : max_pos], a->verb->name, a->verb->synopsis);
	ENSURE(a->npos >= min_pos, ERR_USAGE, "an argument is missing: usage: torpor %s %s",
	       a->verb->name, a->verb->synopsis);
	return NULL;
}

static json_t *list_json(const struct opt_list *l)
{
	json_t *list = json_array();
	for (unsigned i = 0; i < l->n; i++) {
		json_array_append_new(list, json_string(l->v[i]));
	}
	return list;
}

json_t *opts_json(const struct opt *opts, size_t n, uint64_t given)
{
	json_t *j = json_object();
	for (size_t i = 0; i < n; i++) {
		json_t *v = NULL;
		if ((given & 1ull << i) == 0) {
			continue;
		}
		switch (opts[i].kind) {
		case OPT_FLAG:
			v = json_true();
			break;
		case OPT_TEXT:
		case OPT_CHOICE:
			v = json_string(*(const char **)opts[i].to);
			break;
		case OPT_UINT:
			v = json_integer(*(unsigned *)opts[i].to);
			break;
		case OPT_SIZE:
			v = json_integer((json_int_t) * (uint64_t *)opts[i].to);
			break;
		case OPT_LIST:
			v = list_json(opts[i].to);
			break;
		}
		json_object_set_new(j, opts[i].name, v);
	}
	return j;
}

static bool is_list(const json_t *v)
{
	bool good = json_is_array(v) && json_array_size(v) <= OPT_LIST_MAX;
	for (size_t i = 0; good && i < json_array_size(v); i++) {
		good = json_is_string(json_array_get(v, i));
	}
	return good;
}

static bool fits(const struct opt *o, const json_t *v)
{
	switch (o->kind) {
	case OPT_FLAG:
		return json_is_true(v);
	case OPT_TEXT:
		return json_is_string(v);
	case OPT_CHOICE:
		return json_is_string(v) && is_choice(o->arg, json_string_value(v));
	case OPT_UINT:
		return json_is_integer(v) && json_integer_value(v) >= 0 &&
		       json_integer_value(v) <= UINT_MAX;
	case OPT_SIZE:
		return json_is_integer(v) && json_integer_value(v) >= 0;
	case OPT_LIST:
		return is_list(v);
	}
	return false;
}

/* v fits. */
static void apply(const struct opt *o, const json_t *v)
{
	struct opt_list *l = o->to;
	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)o->to = true;
		break;
	case OPT_TEXT:
	case OPT_CHOICE:
		*(const char **)o->to = json_string_value(v);
		break;
	case OPT_UINT:
		*(unsigned *)o->to = (unsigned)json_integer_value(v);
		break;
	case OPT_SIZE:
		*(uint64_t *)o->to = (uint64_t)json_integer_value(v);
		break;
	case OPT_LIST:
		l->n = (unsigned)json_array_size(v);
		for (unsigned i = 0; i < l->n; i++) {
			l->v[i] = json_string_value(json_array_get(v, i));
		}
		break;
	}
}

struct err *opts_apply(const json_t *values, const struct opt *opts, size_t n)
{
	const char *key;
	json_t *v;
	ENSURE(json_is_object(values), ERR_CORRUPT, "options that are no object");
	json_object_foreach((json_t *)(uintptr_t)values, key, v)
	{
		size_t i = 0;
		while (i < n && strcmp(opts[i].name, key) != 0) {
			i++;
		}
		ENSURE(i < n && fits(&opts[i], v), ERR_CORRUPT,
		       "'%.40s' is no option, or has a value of another type", key);
		apply(&opts[i], v);
	}
	return NULL;
}

void opt_words_done(struct opt_words *w)
{
	for (size_t i = 0; i < w->n; i++) {
		free(w->v[i]);
	}
	w->n = 0;
}

struct err *opt_words_add(struct opt_words *w, const char *fmt, ...)
{
	ENSURE(w->n + 1 < ARRAY_LEN(w->v), ERR_LIMIT, "more than %zu words of options",
	       ARRAY_LEN(w->v) - 1);
	char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	ENSURE(n >= 0, ERR_SYS, "out of memory");
	w->v[w->n++] = text;
	w->v[w->n] = NULL;
	return NULL;
}

static struct err *value_words(const char *key, const json_t *v, struct opt_words *w)
{
	TRY(opt_words_add(w, "--%s", key));
	if (json_is_true(v)) {
		return NULL;
	}
	if (json_is_string(v)) {
		return opt_words_add(w, "%s", json_string_value(v));
	}
	return opt_words_add(w, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
}

struct err *opts_words(const json_t *values, struct opt_words *w)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)values, key, v)
	{
		if (!json_is_array(v)) {
			TRY(value_words(key, v, w));
		}
		for (size_t i = 0; json_is_array(v) && i < json_array_size(v); i++) {
			TRY(value_words(key, json_array_get(v, i), w));
		}
	}
	return NULL;
}

struct err *opts_absolute(const char *path, char *ret_path, size_t len)
{
	ENSURE(path[0] != 0, ERR_USAGE, "an empty path was given");
	SCOPE(freep) char *head = strdup(path);
	ENSURE(head != NULL, ERR_SYS, "out of memory");
	/* Cut components off the end until what is left exists, then put them behind it again. */
	size_t cut = strlen(head);
	char *real = realpath(head, NULL);
	while (real == NULL && errno == ENOENT && cut > 0) {
		while (cut > 0 && head[cut - 1] == '/') {
			cut--;
		}
		while (cut > 0 && head[cut - 1] != '/') {
			cut--;
		}
		head[cut] = 0;
		real = realpath(cut == 0 ? "." : head, NULL);
	}
	if (real == NULL) {
		return ERR_ERRNO("resolving '%s'", path);
	}
	const char *rest = path + cut;
	bool root = strcmp(real, "/") == 0;
	int n = snprintf(ret_path, len, "%s%s%s", real, rest[0] == 0 || root ? "" : "/", rest);
	free(real);
	ENSURE(n > 0 && (size_t)n < len, ERR_LIMIT, "path '%.60s...' is too long", path);
	return NULL;
}

struct err *opts_store_dir(const struct args *a, char *ret_dir, size_t len)
{
	char dir[PATH_MAX];
	int n = 0;
	const char *state = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	if (a->store != NULL) {
		n = snprintf(dir, sizeof(dir), "%s", a->store);
	} else if (state != NULL && state[0] == '/') {
		n = snprintf(dir, sizeof(dir), "%s/torpor/store", state);
	} else {
		if (home == NULL || home[0] != '/') {
			const struct passwd *pw = getpwuid(geteuid());
			home = pw != NULL ? pw->pw_dir : NULL;
		}
		ENSURE(home != NULL, ERR_NOTFOUND,
		       "there is no home directory for the default store: give --store DIR");
		n = snprintf(dir, sizeof(dir), "%s/.local/state/torpor/store", home);
	}
	ENSURE(n >= 0 && (size_t)n < sizeof(dir), ERR_LIMIT, "the store's path is too long");
	return err_wrap(opts_absolute(dir, ret_dir, len), "store");
}
