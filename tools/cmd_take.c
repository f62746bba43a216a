/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot take`: asks a living VM to save itself, and shows how far it is. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/config.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"

static const char about[] =
	"Saves a living VM into its store. A running VM goes on as soon as its memory has been "
	"read;\n"
	"a suspended one stays suspended. The command returns when the snapshot is durable.";

enum { POLL_MS = 200 };

/*
 * Waits for the take's answer; meanwhile a second connection asks how far it is, because answers on
 * one connection come in the order of completion.
 */
static struct err *wait_for_take(struct client *take)
{
	bool ready = false;
	if (isatty(STDERR_FILENO) != 1) {
		return client_wait(take, -1, &ready);
	}
	SCOPE(progress_freep) struct progress *progress = progress_new();
	SCOPE(client_closep) struct client *ask = NULL;
	TRY(client_connect(client_vm(take), &ask));
	for (;;) {
		TRY(client_wait(take, POLL_MS, &ready));
		if (ready) {
			return NULL;
		}
		SCOPE(json_put) json_t *s = NULL;
		TRY(client_torpor(ask, json_string("TakeStatus"), "TakeStatus", &s));
		const json_t *step = json_object_get(s, "step");
		if (json_is_string(step)) {
			progress_show(progress, json_string_value(step),
				      (uint64_t)json_integer_value(json_object_get(s, "done")),
				      (uint64_t)json_integer_value(json_object_get(s, "total")));
		}
	}
}

static uint64_t number(const json_t *j, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(j, key));
}

static void print_result(const json_t *j)
{
	char stored[16];
	const json_t *ref = json_object_get(j, "ref");
	printf("%s: %s stored (%llu pages), guest paused %.1f ms, done after %.2f s\n",
	       json_is_string(ref) ? json_string_value(ref) : "?",
	       out_size(number(j, "bytes_stored"), stored),
	       (unsigned long long)number(j, "pages_stored"), (double)number(j, "pause_us") / 1e3,
	       (double)number(j, "elapsed_us") / 1e6);
}

struct err *cmd_take(struct args *a, int *ret_status)
{
	(void)ret_status;
	const char *tag = NULL;
	const struct opt opts[] = {
		{ "tag", "TAG", OPT_TEXT, &tag,
		  "a name for the snapshot, for use as NAME@TAG; not all digits" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	TRY(config_check_name(a->pos[0]));
	if (tag != NULL) {
		TRY(config_check_tag(tag));
	}
	char store[PATH_MAX];
	if (a->store != NULL) {
		TRY(opts_store_dir(a, store, sizeof(store)));
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(client_open(a->pos[0], a->store != NULL ? store : NULL, &c));
	TRY(client_send(c, json_pack("{s:{s:i,s:{s:{s:s}}}}", "Torpor", "v", 1, "cmd", "Take",
				     "tag", tag != NULL ? tag : "")));
	TRY(wait_for_take(c));
	SCOPE(json_put) json_t *answer = NULL;
	TRY(client_receive(c, &answer));
	json_t *result = json_object_get(json_object_get(answer, "Torpor"), "Take");
	ENSURE(json_is_object(result), ERR_PEER, "VM '%s' gave an unexpected answer", a->pos[0]);
	if (a->json) {
		return out_json(json_incref(result));
	}
	print_result(result);
	return NULL;
}
