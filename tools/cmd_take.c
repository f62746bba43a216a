/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor snapshot take`: asks a living VM to save itself, and shows how far it is. `torpor
 * snapshot cancel`: asks it to leave that. `torpor snapshot rewind`: asks it to go back to a
 * snapshot. One thread.
 */
#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/config.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"

static const char about[] =
	"Saves a living VM into its store. A running VM is copied while it runs and stands still "
	"for a\n"
	"moment at the end; a suspended one stays suspended. After the first snapshot only what "
	"changed\n"
	"is read and stored. The command returns when the snapshot is durable.";
static const char about_cancel[] =
	"Gives up the snapshot of a VM that is being taken. The VM goes on, and nothing is listed. "
	"What has\n"
	"changed since its last snapshot stays known.";

static const char about_rewind[] =
	"Brings a living VM back to a snapshot of its family, within its process: name, socket, "
	"console and\n"
	"clients stay. REF is NAME@TAG or NAME@NUMBER. What the VM is now is saved first, tagged "
	"auto-rewind-TIME; the\n"
	"way forward is a rewind to that. Everything is checked before anything changes. A VM "
	"that was suspended\n"
	"stays so.";

enum { POLL_MS = 200, CANCEL_MS = 10000, DEADLINE_MS = 24 * 3600 * 1000 };

/*
 * Waits for the take's answer; meanwhile a second connection asks how far it is, because answers on
 * one connection come in the order of completion.
 */
static struct err *wait_for_take(struct client *take, json_t **ret_answer)
{
	bool ready = false;
	if (isatty(STDERR_FILENO) != 1) {
		return client_receive(take, -1, &ready, ret_answer);
	}
	SCOPE(progress_freep) struct progress *progress = progress_new();
	SCOPE(client_closep) struct client *ask = NULL;
	TRY(client_connect(client_vm(take), &ask));
	for (;;) {
		TRY(client_receive(take, POLL_MS, &ready, ret_answer));
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
	printf("%s: %s stored (%llu pages), guest paused %.2f ms, done after %.2f s\n",
	       json_is_string(ref) ? json_string_value(ref) : "?",
	       out_size(number(j, "bytes_stored"), stored),
	       (unsigned long long)number(j, "pages_stored"), (double)number(j, "pause_us") / 1e3,
	       (double)number(j, "elapsed_us") / 1e6);
	const json_t *missed = json_object_get(j, "pause_bound_missed");
	if (json_is_string(missed)) {
		printf("the pause is above its bound: %s\n", json_string_value(missed));
	}
}

/* "10ms", "500us", "2s": microseconds. */
static struct err *parse_pause(const char *text, uint64_t *ret_us)
{
	static const struct {
		const char *unit;
		uint64_t us;
	} units[] = { { "us", 1 }, { "ms", 1000 }, { "s", 1000000 } };
	char *end = NULL;
	unsigned long n = isdigit((unsigned char)text[0]) ? strtoul(text, &end, 10) : 0;
	for (size_t i = 0; end != NULL && i < ARRAY_LEN(units); i++) {
		if (strcmp(end, units[i].unit) == 0 && n >= 1 && n <= 60000000 / units[i].us) {
			*ret_us = n * units[i].us;
			return NULL;
		}
	}
	return ERR(ERR_USAGE, "--max-pause %s: give a time from 1us to 60s, like 10ms", text);
}

/* The living VM that the first word names. */
static struct err *open_vm(struct args *a, struct client **ret_client)
{
	char store[PATH_MAX];
	if (a->store != NULL) {
		TRY(opts_store_dir(a, store, sizeof(store)));
	}
	return client_open(a->pos[0], a->store != NULL ? store : NULL, ret_client);
}

struct err *cmd_take_cancel(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_cancel, NULL, 0, 1, 1));
	if (a->help) {
		return NULL;
	}
	TRY(config_check_name(a->pos[0]));
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_vm(a, &c));
	TRY(client_send(c, json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "TakeCancel")));
	SCOPE(json_put) json_t *unused = NULL;
	bool ready = false;
	TRY(client_receive(c, CANCEL_MS, &ready, &unused));
	ENSURE(ready, ERR_PEER, "VM '%s' does not answer", a->pos[0]);
	if (a->json) {
		return out_json(json_pack("{s:s}", "cancelled", a->pos[0]));
	}
	return NULL;
}

static struct err *begin_take(const struct args *a, struct client *c, const char *tag,
			      uint64_t max_us)
{
	uint64_t id = 0;
	TRY(client_result(c, torpor_take_begin(client_lib(c), tag, max_us, &id)));
	if (a->json) {
		return out_json(
			json_pack("{s:s,s:I}", "name", client_vm(c)->name, "job", (json_int_t)id));
	}
	printf("job %llu\n", (unsigned long long)id);
	return NULL;
}

struct err *cmd_take(struct args *a, int *ret_status)
{
	(void)ret_status;
	const char *tag = NULL;
	const char *max_pause = "10ms";
	uint64_t max_us = 0;
	bool no_wait = false;
	const struct opt opts[] = {
		{ "tag", "TAG", OPT_TEXT, &tag,
		  "a name for the snapshot, for use as NAME@TAG; not all digits" },
		{ "max-pause", "TIME", OPT_TEXT, &max_pause,
		  "how long a running VM may stand still (default 10ms); if it cannot be kept, "
		  "the result says why" },
		{ "no-wait", NULL, OPT_FLAG, &no_wait,
		  "return when it has begun, and print its number for 'torpor job'" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	if (tag != NULL) {
		TRY(config_check_tag(tag));
	}
	TRY(parse_pause(max_pause, &max_us));
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_vm(a, &c));
	if (no_wait) {
		return begin_take(a, c, tag, max_us);
	}
	TRY(client_send(c, json_pack("{s:{s:i,s:i,s:{s:{s:s,s:I}}}}", "Torpor", "v", 1,
				     "deadline_ms", DEADLINE_MS, "cmd", "Take", "tag",
				     tag != NULL ? tag : "", "max_pause_us", (json_int_t)max_us)));
	SCOPE(json_put) json_t *answer = NULL;
	TRY(wait_for_take(c, &answer));
	json_t *result = json_object_get(json_object_get(answer, "Torpor"), "Take");
	ENSURE(json_is_object(result), ERR_PEER, "VM '%s' gave an unexpected answer", a->pos[0]);
	if (a->json) {
		return out_json(json_incref(result));
	}
	print_result(result);
	return NULL;
}

static void print_rewound(const json_t *j)
{
	const json_t *ref = json_object_get(j, "ref");
	const json_t *safety = json_object_get(j, "safety");
	printf("%s: %llu pages written, guest stopped %.2f ms, done after %.2f s; it was %s\n",
	       json_is_string(ref) ? json_string_value(ref) : "?",
	       (unsigned long long)number(j, "pages_written"),
	       (double)number(j, "stopped_us") / 1e3, (double)number(j, "elapsed_us") / 1e6,
	       json_is_string(safety) ? json_string_value(safety) : "?");
}

struct err *cmd_rewind(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_rewind, NULL, 0, 2, 2));
	if (a->help) {
		return NULL;
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_vm(a, &c));
	TRY(client_send(c, json_pack("{s:{s:i,s:i,s:{s:{s:s}}}}", "Torpor", "v", 1, "deadline_ms",
				     DEADLINE_MS, "cmd", "Rewind", "ref", a->pos[1])));
	SCOPE(json_put) json_t *answer = NULL;
	TRY(wait_for_take(c, &answer));
	json_t *result = json_object_get(json_object_get(answer, "Torpor"), "Rewind");
	ENSURE(json_is_object(result), ERR_PEER, "VM '%s' gave an unexpected answer", a->pos[0]);
	if (a->json) {
		return out_json(json_incref(result));
	}
	print_rewound(result);
	return NULL;
}
