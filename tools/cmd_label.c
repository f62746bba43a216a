/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot tag|pin|unpin`: names snapshots and keeps them from being removed. Called by
 * main. */
#include <stdio.h>

#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about_tag[] = "Gives a snapshot another tag, or with --none takes it away. A tag "
				"is unique for the VM and\n"
				"not all digits.";

static const char about_pin[] = "Pins snapshots: 'snapshot prune' passes them over, and 'snapshot "
				"rm' refuses to remove them\n"
				"without --force.";

static const char about_unpin[] = "Takes pins away, so that the snapshots can be removed again.";

/* Applies the label and prints the snapshot as it is then. */
static struct err *label_ref(struct store *s, const char *ref, const struct snap_label *label,
			     json_t *list)
{
	struct store_ref r;
	TRY(store_ref_resolve(s, ref, &r));
	bool found = false;
	struct err *e = family_label(r.family, r.snap.id, label);
	if (e == NULL) {
		e = family_snap_by_id(r.family, r.snap.id, &found, &r.snap);
	}
	if (e == NULL && found && list != NULL) {
		json_array_append_new(list, storecmd_json(&r.vm, &r.snap));
	} else if (e == NULL && found) {
		char text[STORECMD_REF_BYTES];
		storecmd_ref(&r.vm, &r.snap, text, sizeof(text));
		printf("%s: number %llu%s\n", text, (unsigned long long)r.snap.number,
		       r.snap.pinned ? ", pinned" : "");
	}
	store_ref_done(&r);
	return err_wrap(e, "snapshot '%s'", ref);
}

static struct err *label_all(struct args *a, int n, const struct snap_label *label)
{
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s));
	json_t *list = a->json ? json_array() : NULL;
	for (int i = 0; i < n; i++) {
		struct err *e = label_ref(s, a->pos[i], label, list);
		if (e != NULL) {
			json_decref(list);
			return e;
		}
	}
	return a->json ? out_json(list) : NULL;
}

struct err *cmd_tag(struct args *a, int *ret_status)
{
	(void)ret_status;
	bool none = false;
	const struct opt opts[] = {
		{ "none", NULL, OPT_FLAG, &none, "take the tag away" },
	};
	TRY(opts_parse(a, about_tag, opts, ARRAY_LEN(opts), 1, 2));
	if (a->help) {
		return NULL;
	}
	ENSURE(none != (a->npos == 2), ERR_USAGE, "give either a new tag or --none");
	ENSURE(none || a->pos[1][0] != 0, ERR_USAGE, "an empty tag: say --none to take it away");
	return label_all(a, 1, &(struct snap_label){ .tag = none ? "" : a->pos[1] });
}

static struct err *pin(struct args *a, const char *about, bool pinned)
{
	TRY(opts_parse(a, about, NULL, 0, 1, -1));
	if (a->help) {
		return NULL;
	}
	return label_all(a, a->npos, &(struct snap_label){ .set_pin = true, .pinned = pinned });
}

struct err *cmd_pin(struct args *a, int *ret_status)
{
	(void)ret_status;
	return pin(a, about_pin, true);
}

struct err *cmd_unpin(struct args *a, int *ret_status)
{
	(void)ret_status;
	return pin(a, about_unpin, false);
}
