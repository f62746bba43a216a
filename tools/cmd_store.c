/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor store recover`: saves what is sound of a damaged store. Called by main; `store verify` is
 * in cmd_verify.c. */
#include <limits.h>
#include <stdio.h>

#include "store/salvage.h"
#include "tools/cmd.h"
#include "tools/out.h"

static const char about[] =
	"Makes a new store in NEWDIR with every snapshot of a damaged store that is whole, and "
	"says\n"
	"what was saved and what is lost and why. The damaged store is only read; nothing may use "
	"it\n"
	"meanwhile. Needs room for copies beside NEWDIR. Exit status 1 if anything is lost.";

struct told {
	json_t *list; /* NULL without --json */
};

static void on_report(void *arg, enum salvage_kind kind, const char *what, const char *why)
{
	static const char *const words[] = {
		[SALVAGE_SAVED] = "saved",
		[SALVAGE_LOST] = "lost",
		[SALVAGE_NOTE] = "note",
	};
	struct told *t = arg;
	if (t->list == NULL) {
		printf("%-5s  %s%s%s\n", words[kind], what, why[0] != 0 ? ": " : "", why);
		return;
	}
	json_t *row = json_pack("{s:s,s:s,s:s}", "result", words[kind], "what", what, "why", why);
	if (row != NULL) {
		json_array_append_new(t->list, row);
	}
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

struct err *cmd_store_recover(struct args *a, int *ret_status)
{
	const char *to = NULL;
	const struct opt opts[] = {
		{ "to", "NEWDIR", OPT_TEXT, &to, "the new store; must not exist or be empty" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 0, 0));
	if (a->help) {
		return NULL;
	}
	ENSURE(to != NULL, ERR_USAGE, "--to NEWDIR is needed: where the new store shall be");
	char from[PATH_MAX];
	char dest[PATH_MAX];
	TRY(opts_store_dir(a, from, sizeof(from)));
	TRY(opts_absolute(to, dest, sizeof(dest)));
	SCOPE(json_put) json_t *list = a->json ? json_array() : NULL;
	struct told t = { .list = list };
	struct salvage_result r = { 0 };
	TRY(store_salvage(from, dest, on_report, &t, &r));
	*ret_status = r.lost == 0 ? 0 : 1;
	if (a->json) {
		return out_json(json_pack("{s:s,s:I,s:I,s:O}", "store", dest, "saved",
					  (json_int_t)r.saved, "lost", (json_int_t)r.lost,
					  "results", list));
	}
	printf("%s: %llu saved, %llu lost\n", dest, (unsigned long long)r.saved,
	       (unsigned long long)r.lost);
	return NULL;
}
