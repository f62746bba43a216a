/* SPDX-License-Identifier: Apache-2.0 */
/* libtorpor-client: what lasts: rewinds, giving up a take, jobs. See torpor-client.h; the packets
 * are in docs/control.md. */
#include <string.h>

#include "client/client_internal.h"

int torpor_take_cancel(struct torpor_client *c)
{
	return tc_do(c, json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "TakeCancel"), -1);
}

int torpor_rewind(struct torpor_client *c, const char *ref, struct torpor_rewound *ret)
{
	json_t *root = NULL;
	json_t *r = NULL;
	int rc =
		tc_ask_torpor(c, json_pack("{s:{s:s}}", "Rewind", "ref", ref), "Rewind", &root, &r);
	if (rc != 0) {
		return rc;
	}
	if (ret != NULL) {
		memset(ret, 0, sizeof(*ret));
		tc_text(r, "ref", ret->ref, sizeof(ret->ref));
		tc_text(r, "safety", ret->safety, sizeof(ret->safety));
		ret->number = tc_number(r, "number");
		ret->safety_number = tc_number(r, "safety_number");
		ret->pages_written = tc_number(r, "pages_written");
		ret->stopped_us = tc_number(r, "stopped_us");
		ret->elapsed_us = tc_number(r, "elapsed_us");
	}
	json_decref(root);
	return 0;
}

/* ---- jobs ---- */

static void read_job(const json_t *j, struct torpor_job *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->id = tc_number(j, "id");
	tc_text(j, "kind", ret->kind, sizeof(ret->kind));
	tc_text(j, "state", ret->state, sizeof(ret->state));
	tc_text(j, "step", ret->step, sizeof(ret->step));
	tc_text(j, "error", ret->error, sizeof(ret->error));
	ret->begun_at_ns = tc_number(j, "begun_at_ns");
	ret->elapsed_us = tc_number(j, "elapsed_us");
	ret->done = tc_number(j, "done");
	ret->total = tc_number(j, "total");
}

/* cmd is answered by the job that it has begun. */
static int begin(struct torpor_client *c, json_t *cmd, uint64_t *ret_id)
{
	json_t *root = NULL;
	int rc =
		tc_ask(c, json_pack("{s:{s:i,s:b,s:o}}", "Torpor", "v", 1, "detach", 1, "cmd", cmd),
		       -1, &root, NULL);
	if (rc != 0) {
		return rc;
	}
	const json_t *job = json_object_get(json_object_get(root, "Torpor"), "Job");
	rc = job == NULL ? tc_unexpected(c) : 0;
	if (rc == 0) {
		*ret_id = tc_number(job, "id");
	}
	json_decref(root);
	return rc;
}

int torpor_take_begin(struct torpor_client *c, const char *tag, uint64_t max_pause_us,
		      uint64_t *ret_id)
{
	return begin(c,
		     json_pack("{s:{s:s,s:I}}", "Take", "tag", tag != NULL ? tag : "",
			       "max_pause_us", (json_int_t)max_pause_us),
		     ret_id);
}

int torpor_rewind_begin(struct torpor_client *c, const char *ref, uint64_t *ret_id)
{
	return begin(c, json_pack("{s:{s:s}}", "Rewind", "ref", ref), ret_id);
}

static json_t *about_job(const char *what, uint64_t id)
{
	return json_pack("{s:{s:I}}", what, "id", (json_int_t)id);
}

int torpor_job(struct torpor_client *c, uint64_t id, struct torpor_job *ret)
{
	json_t *root = NULL;
	json_t *j = NULL;
	int rc = tc_ask_torpor(c, about_job("Job", id), "Job", &root, &j);
	if (rc == 0) {
		read_job(j, ret);
		json_decref(root);
	}
	return rc;
}

int torpor_jobs(struct torpor_client *c, struct torpor_job *ret, unsigned max, unsigned *ret_n)
{
	json_t *root = NULL;
	int rc = tc_ask(c, json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "Jobs"), -1, &root,
			NULL);
	if (rc != 0) {
		return rc;
	}
	const json_t *list = json_object_get(json_object_get(root, "Torpor"), "Jobs");
	if (!json_is_array(list)) {
		json_decref(root);
		return tc_unexpected(c);
	}
	size_t n = json_array_size(list);
	for (size_t i = 0; i < n && i < max; i++) {
		read_job(json_array_get(list, i), &ret[i]);
	}
	*ret_n = (unsigned)n;
	json_decref(root);
	return 0;
}

int torpor_job_wait(struct torpor_client *c, uint64_t id)
{
	enum { LONGEST_MS = 24 * 3600 * 1000 };
	return tc_do(c,
		     json_pack("{s:{s:i,s:i,s:o}}", "Torpor", "v", 1, "deadline_ms", LONGEST_MS,
			       "cmd", about_job("JobWait", id)),
		     -1);
}

int torpor_job_cancel(struct torpor_client *c, uint64_t id)
{
	return tc_do(
		c, json_pack("{s:{s:i,s:o}}", "Torpor", "v", 1, "cmd", about_job("JobCancel", id)),
		-1);
}
