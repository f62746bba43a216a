/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: the words of a command line, split at line ends, through the option parser with a
 * table that has every kind of option, and each word through the parsers of sizes, names, tags and
 * uuids. Properties: an error of one line, or values that keep to their rules.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/config.h"
#include "tests/fuzz/fuzz.h"
#include "tools/opts.h"

#define WORDS_MAX 16

static void refused(struct err *e)
{
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
}

/* Sizes: what is taken, written as plain bytes, is the same size. */
static void try_size(const char *word)
{
	uint64_t v = 0;
	struct err *e = config_parse_size(word, &v);
	if (e != NULL) {
		refused(e);
		return;
	}
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	uint64_t again = 0;
	e = config_parse_size(text, &again);
	BUG_ON(e != NULL || again != v);
}

static void try_words(const char *word)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t len = strlen(word);
	bool sound = len >= 1 && len <= NAME_BYTES_MAX && strspn(word, allowed) == len &&
		     word[0] != '.' && word[0] != '-';
	struct err *e = config_check_name(word);
	BUG_ON((e == NULL) != sound);
	if (e != NULL) {
		refused(e);
	}
	e = config_check_tag(word);
	BUG_ON((e == NULL) != (sound && strspn(word, "0123456789") != len));
	if (e != NULL) {
		refused(e);
	}
	uint8_t uuid[16];
	e = uuid_parse(word, uuid);
	if (e != NULL) {
		refused(e);
		return;
	}
	char text[37];
	uuid_text(uuid, text);
	BUG_ON(strcasecmp(text, word) != 0);
}

struct values {
	bool flag;
	const char *text;
	const char *choice;
	unsigned number;
	uint64_t size;
};

/* Is p one of the words, or inside one (behind a '=')? */
static bool is_inside(const char *p, const char *text, size_t len)
{
	return p >= text && p <= text + len;
}

static void try_options(char **argv, int argc, const char *text, size_t len)
{
	static const struct verb verb = { .name = "verb", .synopsis = "A [B]", .summary = "" };
	struct values v = { .choice = "one" };
	const struct opt opts[] = {
		{ "flag", NULL, OPT_FLAG, &v.flag, "a flag" },
		{ "text", "TEXT", OPT_TEXT, &v.text, "a text\nof two lines" },
		{ "number", "N", OPT_UINT, &v.number, "a number" },
		{ "size", "SIZE", OPT_SIZE, &v.size, "a size" },
		{ "choice", "one|two|three", OPT_CHOICE, &v.choice, "a choice" },
	};
	struct args a = { .verb = &verb, .argc = argc, .argv = argv };
	struct err *e = opts_parse(&a, "about", opts, ARRAY_LEN(opts), 1, 2);
	if (e != NULL) {
		BUG_ON(err_class(e) != ERR_USAGE);
		refused(e);
		return;
	}
	BUG_ON(a.npos < 0 || a.npos > argc || a.pos == NULL);
	for (int i = 0; i < a.npos; i++) {
		BUG_ON(!is_inside(a.pos[i], text, len));
	}
	BUG_ON(!a.help && (a.npos < 1 || a.npos > 2));
	BUG_ON(v.text != NULL && !is_inside(v.text, text, len));
	BUG_ON(a.store != NULL && !is_inside(a.store, text, len));
	BUG_ON(strcmp(v.choice, "one") != 0 && strcmp(v.choice, "two") != 0 &&
	       strcmp(v.choice, "three") != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static FILE *nowhere; /* where help goes */
	if (nowhere == NULL) {
		nowhere = fopen("/dev/null", "w");
		BUG_ON(nowhere == NULL);
	}
	SCOPE(freep) char *text = malloc(len + 1);
	BUG_ON(text == NULL);
	memcpy(text, data, len);
	text[len] = 0;
	char *argv[WORDS_MAX + 1];
	int argc = 0;
	for (char *p = text; p != NULL && argc < WORDS_MAX;) {
		argv[argc++] = p;
		p = memchr(p, '\n', len - (size_t)(p - text));
		if (p != NULL) {
			*p++ = 0;
		}
	}
	argv[argc] = NULL;
	for (int i = 0; i < argc; i++) {
		try_size(argv[i]);
		try_words(argv[i]);
	}
	FILE *was = stdout;
	stdout = nowhere;
	try_options(argv, argc, text, len);
	stdout = was;
	return 0;
}
