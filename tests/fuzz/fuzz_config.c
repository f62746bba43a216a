/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: the configuration text of a snapshot, through config_parse. Properties: an error of
 * one line, or a configuration that passes config_check, whose text parses to the same text again.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "core/config.h"
#include "tests/fuzz/fuzz.h"

static void must(struct err *e)
{
	BUG_ON(e != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct config c = { 0 };
	struct err *e = config_parse(data, len, &c);
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		BUG_ON(c.cmdline != NULL || c.name[0] != 0); /* the output is untouched */
		err_drop(e, "hostile input is refused");
		return 0;
	}
	must(config_check(&c));
	SCOPE(freep) char *text = NULL;
	must(config_text(&c, &text));
	struct config again = { 0 };
	must(config_parse(text, strlen(text), &again));
	SCOPE(freep) char *text_again = NULL;
	must(config_text(&again, &text_again));
	BUG_ON(strcmp(text, text_again) != 0);
	struct config copy = { 0 };
	must(config_copy(&c, &copy));
	SCOPE(freep) char *text_copy = NULL;
	must(config_text(&copy, &text_copy));
	BUG_ON(strcmp(text, text_copy) != 0);
	config_done(&c);
	config_done(&again);
	config_done(&copy);
	return 0;
}
