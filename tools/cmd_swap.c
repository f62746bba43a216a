/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torpor swap: moves an idle guest's memory out of the host's, and back. Each verb returns when the
 * state that it names is reached, or says why that did not come. Called by main.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/config.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/out.h"

enum {
	ENABLE_MS = 3600000, /* bringing in what a lazy restore has left out may come first */
	REFUSED_MS = 200,    /* what is refused is refused at once */
	POLL_NS = 20000000,
};

static const char about_enable[] =
	"Unmaps all memory of the guest beside the running guest, which is not stopped. What it\n"
	"touches from then on comes back; what it does not can be moved out.\n";
static const char about_trim[] = "Gives back to the host the staged pages that are zero, or as the "
				 "store has them already.\n";
static const char about_out[] =
	"Writes the staged pages to the store, compressed, and gives them back to the host. Who\n"
	"touches one finds it as it was.\n";
static const char about_disable[] =
	"Brings everything back, and frees what the store has kept of it.\n";
static const char about_status[] =
	"Tells the state, where the pages are, and what faults have cost.\n";

/* What a verb does after its request: waits while the VM is in `busy`, and wants `goal`. */
struct verb_plan {
	const char *about;
	const char *request; /* of "Swap"; NULL: none */
	const char *busy;    /* NULL: the answer says it all */
	const char *goal;
};

static struct err *open_vm(struct args *a, struct client **ret_client)
{
	char store[PATH_MAX];
	TRY(config_check_name(a->pos[0]));
	if (a->store != NULL) {
		TRY(opts_store_dir(a, store, sizeof(store)));
	}
	return client_open(a->pos[0], a->store != NULL ? store : NULL, ret_client);
}

static uint64_t number(const json_t *j, const char *group, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(json_object_get(j, group), key));
}

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s != NULL ? s : "";
}

static struct err *show(const struct args *a, json_t *status)
{
	if (a->json) {
		json_t *doc = json_pack("{s:s}", "name", a->pos[0]);
		json_object_update(doc, status);
		return out_json(doc);
	}
	char memory[16];
	char before[16];
	char after[16];
	printf("%s: %s in memory", text(status, "state"),
	       out_size(number(status, "bytes", "memory"), memory));
	printf("; pages: %llu resident, %llu staged, %llu swapped",
	       (unsigned long long)number(status, "pages", "resident"),
	       (unsigned long long)number(status, "pages", "staged"),
	       (unsigned long long)number(status, "pages", "swapped"));
	printf("; written: %s as %s", out_size(number(status, "bytes", "before"), before),
	       out_size(number(status, "bytes", "after"), after));
	printf("; faults: %llu, %llu us at most\n",
	       (unsigned long long)number(status, "faults", "count"),
	       (unsigned long long)number(status, "faults", "max_us"));
	if (text(status, "error")[0] != 0) {
		printf("error: %s\n", text(status, "error"));
	}
	return NULL;
}

/* Polls: what comes between is short, and the answer never waits. */
static struct err *wait_for(struct client *c, const struct verb_plan *p, json_t **ret_status)
{
	for (;;) {
		SCOPE(json_put) json_t *s = NULL;
		TRY(client_torpor(c, json_string("SwapStatus"), "SwapStatus", &s));
		if (p->busy == NULL || strcmp(text(s, "state"), p->busy) != 0) {
			ENSURE(p->goal == NULL || strcmp(text(s, "state"), p->goal) == 0,
			       ERR_NOT_NOW, "swap is %s%s%s", text(s, "state"),
			       text(s, "error")[0] != 0 ? ": " : " instead", text(s, "error"));
			*ret_status = MOVE(s);
			return NULL;
		}
		struct timespec ts = { .tv_nsec = POLL_NS };
		nanosleep(&ts, NULL);
	}
}

static struct err *after(const struct args *a, struct client *c, const struct verb_plan *p,
			 bool no_wait)
{
	const struct verb_plan now = { .about = "" };
	SCOPE(json_put) json_t *status = NULL;
	TRY(wait_for(c, no_wait ? &now : p, &status));
	return a->json || p->request == NULL ? show(a, status) : NULL;
}

/* One of the requests that are answered at once. */
static struct err *request(struct args *a, const struct verb_plan *p, const struct opt *opts,
			   size_t nopts, const bool *no_wait, const bool *slow)
{
	TRY(opts_parse(a, p->about, opts, nopts, 1, 1));
	if (a->help) {
		return NULL;
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_vm(a, &c));
	struct torpor_client *lib = client_lib(c);
	if (p->request != NULL) {
		int rc = strcmp(p->request, "Trim") == 0      ? torpor_swap_trim(lib)
			 : strcmp(p->request, "SwapOut") == 0 ? torpor_swap_out(lib)
							      : torpor_swap_disable(lib, *slow);
		TRY(client_result(c, rc));
	}
	return after(a, c, p, *no_wait);
}

#define NO_WAIT                                                                                    \
	{                                                                                          \
		"no-wait", NULL, OPT_FLAG, &no_wait,                                               \
			"return when it has begun, not when it is done"                            \
	}

struct err *cmd_swap_trim(struct args *a, int *ret_status)
{
	bool no_wait = false;
	(void)ret_status;
	const struct opt opts[] = { NO_WAIT };
	const struct verb_plan p = { about_trim, "Trim", "TrimInProgress", "Pending" };
	return request(a, &p, opts, ARRAY_LEN(opts), &no_wait, NULL);
}

struct err *cmd_swap_out(struct args *a, int *ret_status)
{
	bool no_wait = false;
	(void)ret_status;
	const struct opt opts[] = { NO_WAIT };
	const struct verb_plan p = { about_out, "SwapOut", "SwapOutInProgress", "Active" };
	return request(a, &p, opts, ARRAY_LEN(opts), &no_wait, NULL);
}

struct err *cmd_swap_disable(struct args *a, int *ret_status)
{
	bool no_wait = false;
	bool slow = false;
	(void)ret_status;
	const struct opt opts[] = {
		NO_WAIT,
		{ "slow-file-cleanup", NULL, OPT_FLAG, &slow,
		  "what the store has kept goes some seconds later" },
	};
	const struct verb_plan p = { about_disable, "Disable", "SwapInInProgress", "Ready" };
	return request(a, &p, opts, ARRAY_LEN(opts), &no_wait, &slow);
}

struct err *cmd_swap_status(struct args *a, int *ret_status)
{
	const bool no_wait = true;
	(void)ret_status;
	const struct verb_plan p = { .about = about_status };
	return request(a, &p, NULL, 0, &no_wait, NULL);
}

struct err *cmd_swap_enable(struct args *a, int *ret_status)
{
	const char *tag = NULL;
	bool no_wait = false;
	(void)ret_status;
	const struct opt opts[] = {
		{ "as-snapshot", "TAG", OPT_TEXT, &tag,
		  "take a snapshot first: what does not change from then on is in the store" },
		NO_WAIT,
	};
	TRY(opts_parse(a, about_enable, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	if (tag != NULL) {
		TRY(config_check_tag(tag));
	}
	SCOPE(client_closep) struct client *c = NULL;
	TRY(open_vm(a, &c));
	json_t *args = tag != NULL ? json_pack("{s:s}", "as_snapshot", tag) : json_object();
	TRY(client_send(
		c, json_pack("{s:{s:i,s:{s:o}}}", "Torpor", "v", 1, "cmd", "SwapEnable", args)));
	SCOPE(json_put) json_t *answer = NULL;
	bool ready = false;
	TRY(client_receive(c, no_wait ? REFUSED_MS : ENABLE_MS, &ready, &answer));
	if (no_wait) {
		return NULL;
	}
	ENSURE(ready, ERR_PEER, "VM '%s' does not answer", a->pos[0]);
	json_t *status = json_object_get(json_object_get(answer, "Torpor"), "SwapStatus");
	ENSURE(json_is_object(status), ERR_PEER, "VM '%s' gave an unexpected answer", a->pos[0]);
	return a->json ? show(a, status) : NULL;
}
