/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control socket answers later: each such request is a job with a number, which any client
 * may ask about, wait for or give up; its asker is answered at its end or at its deadline,
 * whichever comes first. Called by ctl*.c and the loop's timer, on the main loop's thread.
 *
 * I1: a job's asker gets one answer: by ctl_pending_end, at the deadline, or at once (detached).
 * I2: what a job came to is kept for those who ask later, of the last JOBS_KEPT.
 */
#include <errno.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/ctl_internal.h"

enum { MS_NS = 1000000, US_NS = 1000 };

/* ---- the list ---- */

struct pending *ctl_pending_new(const struct call *call, const char *kind, uint64_t limit_ms)
{
	struct ctl *ctl = call->ctl;
	struct pending *p = calloc(1, sizeof(*p));
	if (p == NULL) {
		ctl_reply(call->conn, ctl_answer_json(NULL));
		return NULL;
	}
	const struct ctl_torpor *t = &call->req->torpor;
	bool torpor = call->req->variant == CTL_TORPOR;
	p->ctl = ctl;
	p->conn = call->conn;
	p->kind = kind;
	p->detach = torpor && t->detach;
	p->since_ns = clock_mono_ns();
	p->begun_at_ns = clock_real_ns();
	p->limit_ms = torpor && t->deadline_ms != 0 ? t->deadline_ms : limit_ms;
	snprintf(p->name, sizeof(p->name), "%s", life_config(ctl->life)->name);
	p->next = ctl->pending;
	ctl->pending = p;
	return p;
}

static void unlink_pending(const struct pending *p)
{
	if (p->ctl == NULL) {
		return;
	}
	for (struct pending **at = &p->ctl->pending; *at != NULL; at = &(*at)->next) {
		if (*at == p) {
			*at = p->next;
			break;
		}
	}
}

static struct pending *find_pending(const struct ctl *ctl, uint64_t id)
{
	struct pending *p = ctl->pending;
	while (p != NULL && p->id != id) {
		p = p->next;
	}
	return p;
}

static struct job_end *find_end(struct ctl *ctl, uint64_t id)
{
	for (unsigned i = 0; i < ARRAY_LEN(ctl->ends); i++) {
		if (ctl->ends[i].id == id) {
			return &ctl->ends[i];
		}
	}
	return NULL;
}

/* ---- deadlines ---- */

static uint64_t deadline_ns(const struct pending *p)
{
	return p->conn != NULL ? p->since_ns + p->limit_ms * MS_NS : UINT64_MAX;
}

static void set_timer(const struct ctl *ctl)
{
	uint64_t first = UINT64_MAX;
	for (const struct pending *p = ctl->pending; p != NULL; p = p->next) {
		first = MIN(first, deadline_ns(p));
	}
	loop_timer_set(ctl->job_timer, first);
}

/* The asker is told; the job goes on without one. A wait ends. */
static void pass_deadline(struct pending *p)
{
	struct conn *conn = MOVE(p->conn);
	unsigned long long ms = p->limit_ms;
	struct err *e =
		p->waits_for != 0
			? ERR(ERR_NOT_NOW, "JobWait: job %llu is not done within %llu ms",
			      (unsigned long long)p->waits_for, ms)
			: ERR(ERR_NOT_NOW,
			      "%s: not done within %llu ms: it goes on as job %llu, which JobWait "
			      "waits for and JobCancel gives up ('torpor job')",
			      p->kind, ms, (unsigned long long)p->id);
	if (p->waits_for != 0) {
		unlink_pending(p);
		free(p);
	}
	ctl_reply_err(conn, err_set_errno(e, ETIMEDOUT));
	ctl_conn_end_if_done(conn);
}

void ctl_job_timer(void *arg)
{
	struct ctl *ctl = arg;
	uint64_t now = clock_mono_ns();
	struct pending *p = ctl->pending;
	while (p != NULL) {
		if (now >= deadline_ns(p)) {
			pass_deadline(p);
			p = ctl->pending; /* the answer may have freed others */
		} else {
			p = p->next;
		}
	}
	set_timer(ctl);
}

/* ---- begin and end ---- */

static json_t *job_json(struct ctl *ctl, const struct pending *p);

static char *job_answer(json_t *job)
{
	return ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Job", job));
}

void ctl_pending_begun(struct pending *p)
{
	struct ctl *ctl = p->ctl;
	p->id = ++ctl->last_job;
	if (p->detach) {
		ctl_reply(MOVE(p->conn), job_answer(job_json(ctl, p)));
	}
	set_timer(ctl);
}

/* I2 */
static void keep(const struct pending *p, const char *text, const struct err *e)
{
	struct job_end *end = &p->ctl->ends[p->id % ARRAY_LEN(p->ctl->ends)];
	free(end->answer);
	*end = (struct job_end){
		.id = p->id,
		.kind = p->kind,
		.state = e == NULL                       ? "done"
			 : err_class(e) == ERR_CANCELLED ? "cancelled"
							 : "failed",
		.begun_at_ns = p->begun_at_ns,
		.elapsed_us = (clock_mono_ns() - p->since_ns) / US_NS,
		.answer = strdup(text),
	};
}

static struct pending *waits_for(const struct ctl *ctl, uint64_t id)
{
	struct pending *p = ctl->pending;
	while (p != NULL && p->waits_for != id) {
		p = p->next;
	}
	return p;
}

/* Answers the connection of p with a copy of text, and frees p. */
static void tell_waiting(struct pending *p, const char *text)
{
	struct conn *conn = p->conn;
	char *copy = strdup(text);
	unlink_pending(p);
	free(p);
	ctl_reply(conn, copy != NULL ? copy : ctl_answer_json(NULL));
	ctl_conn_end_if_done(conn);
}

void ctl_pending_end(struct pending *p, char *text, struct err *e)
{
	struct ctl *ctl = p->ctl;
	if (e != NULL) {
		text = ctl_answer_err(e);
	}
	unlink_pending(p);
	if (ctl != NULL && p->id != 0) {
		keep(p, text, e);
		for (struct pending *w; (w = waits_for(ctl, p->id)) != NULL;) {
			tell_waiting(w, text);
		}
	}
	if (p->conn != NULL) {
		ctl_reply(p->conn, MOVE(text));
		ctl_conn_end_if_done(p->conn);
	} else if (e != NULL && !p->detach) {
		log_err(err_wrap(MOVE(e), "%s of '%s', whose asker waits no more", p->kind,
				 p->name));
	}
	ctl_answer_free(text);
	err_free(e);
	free(p);
}

void ctl_jobs_conn_gone(struct ctl *ctl, const struct conn *c)
{
	for (struct pending *p = ctl->pending; p != NULL;) {
		struct pending *next = p->next;
		if (p->conn == c && p->waits_for != 0) {
			unlink_pending(p);
			free(p);
		} else if (p->conn == c) {
			p->conn = NULL;
		}
		p = next;
	}
}

void ctl_jobs_done(struct ctl *ctl)
{
	loop_timer_del(ctl->job_timer);
	for (struct pending *p = ctl->pending; p != NULL;) {
		struct pending *next = p->next;
		if (p->waits_for != 0 || p->balloon != WAIT_OTHER) {
			unlink_pending(p);
			free(p);
		} else {
			p->ctl = NULL; /* whoever does it tells of its end */
		}
		p = next;
	}
	for (unsigned i = 0; i < ARRAY_LEN(ctl->ends); i++) {
		free(ctl->ends[i].answer);
	}
}

/* ---- requests ---- */

/* One that is under way. */
static json_t *job_json(struct ctl *ctl, const struct pending *p)
{
	json_t *j = json_pack("{s:I,s:s,s:s,s:I}", "id", (json_int_t)p->id, "kind", p->kind,
			      "state", "running", "begun_at_ns", (json_int_t)p->begun_at_ns);
	char step[64] = "";
	uint64_t done = 0;
	uint64_t total = 0;
	if (j != NULL && life_job_is(ctl->life, p) &&
	    life_take_progress(ctl->life, step, sizeof(step), &done, &total)) {
		json_object_set_new(j, "step", json_string(step));
		json_object_set_new(j, "done", json_integer((json_int_t)done));
		json_object_set_new(j, "total", json_integer((json_int_t)total));
	}
	return j;
}

/* One that has ended: with the figures of its answer, or why it failed. */
static json_t *end_json(const struct job_end *end)
{
	static const char *const figures[][2] = { { "Take", "take" }, { "Rewind", "rewind" } };
	json_t *j = json_pack("{s:I,s:s,s:s,s:I,s:I}", "id", (json_int_t)end->id, "kind", end->kind,
			      "state", end->state, "begun_at_ns", (json_int_t)end->begun_at_ns,
			      "elapsed_us", (json_int_t)end->elapsed_us);
	SCOPE(json_put)
	json_t *answer =
		end->answer != NULL ? json_loads(end->answer, JSON_DECODE_ANY, NULL) : NULL;
	json_t *error = json_object_get(answer, "ErrString");
	if (error != NULL) {
		json_object_set(j, "error", error);
	}
	for (size_t i = 0; i < ARRAY_LEN(figures); i++) {
		json_t *f = json_object_get(json_object_get(answer, "Torpor"), figures[i][0]);
		if (f != NULL) {
			json_object_set(j, figures[i][1], f);
		}
	}
	return j;
}

static struct err *no_job(uint64_t id)
{
	return ERR(ERR_NOTFOUND, "there is no job %llu: the last %d that ended are known",
		   (unsigned long long)id, JOBS_KEPT);
}

static void reply_job(const struct call *call, uint64_t id)
{
	struct ctl *ctl = call->ctl;
	const struct pending *p = id != 0 ? find_pending(ctl, id) : NULL;
	const struct job_end *end = id != 0 ? find_end(ctl, id) : NULL;
	if (p == NULL && end == NULL) {
		ctl_reply_err(call->conn, no_job(id));
		return;
	}
	ctl_reply(call->conn, job_answer(p != NULL ? job_json(ctl, p) : end_json(end)));
}

/* By number. */
static void reply_jobs(const struct call *call)
{
	struct ctl *ctl = call->ctl;
	json_t *list = json_array();
	uint64_t last = 0;
	for (;;) {
		const struct pending *next = NULL;
		const struct job_end *end = NULL;
		uint64_t id = UINT64_MAX;
		for (const struct pending *p = ctl->pending; p != NULL; p = p->next) {
			if (p->id > last && p->id < id) {
				id = p->id;
				next = p;
			}
		}
		for (unsigned i = 0; i < ARRAY_LEN(ctl->ends); i++) {
			if (ctl->ends[i].id > last && ctl->ends[i].id < id) {
				id = ctl->ends[i].id;
				end = &ctl->ends[i];
			}
		}
		if (id == UINT64_MAX) {
			break;
		}
		json_array_append_new(list, end != NULL ? end_json(end) : job_json(ctl, next));
		last = id;
	}
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "Jobs", list)));
}

static void wait_job(const struct call *call, uint64_t id)
{
	struct ctl *ctl = call->ctl;
	const struct job_end *end = id != 0 ? find_end(ctl, id) : NULL;
	if (id != 0 && find_pending(ctl, id) != NULL) {
		struct pending *p = ctl_pending_new(call, "JobWait", LIMIT_SLOW_MS);
		if (p != NULL) {
			p->waits_for = id;
			set_timer(ctl);
		}
	} else if (end != NULL) {
		char *copy = end->answer != NULL ? strdup(end->answer) : NULL;
		ctl_reply(call->conn, copy != NULL ? copy : ctl_answer_json(NULL));
	} else {
		ctl_reply_err(call->conn, no_job(id));
	}
}

/* Its own answer says that it was cancelled, soon. */
static struct err *cancel_job(struct ctl *ctl, uint64_t id)
{
	struct pending *p = id != 0 ? find_pending(ctl, id) : NULL;
	if (p == NULL && id != 0 && find_end(ctl, id) != NULL) {
		return err_set_errno(
			ERR(ERR_NOT_NOW, "job %llu has ended already", (unsigned long long)id),
			ESRCH);
	}
	if (p == NULL) {
		return no_job(id);
	}
	if (p->step == NULL && p->balloon == WAIT_OTHER) {
		return life_job_cancel(ctl->life, p);
	}
	if (p->step != NULL) {
		life_withdraw(ctl->life, &p->waiter);
	}
	ctl_pending_end(
		p, NULL,
		ERR(ERR_CANCELLED, "%s: job %llu was cancelled", p->kind, (unsigned long long)id));
	return NULL;
}

void ctl_job_request(const struct call *call)
{
	const struct ctl_torpor *t = &call->req->torpor;
	switch ((enum ctl_torpor_cmd)t->cmd.cmd) {
	case CTL_TORPOR_JOBS:
		reply_jobs(call);
		break;
	case CTL_TORPOR_JOB:
		reply_job(call, t->cmd.job.id);
		break;
	case CTL_TORPOR_JOB_WAIT:
		wait_job(call, t->cmd.job.id);
		break;
	case CTL_TORPOR_JOB_CANCEL: {
		/* The answer to the asker comes first, which may be on the same connection. */
		struct err *e = cancel_job(call->ctl, t->cmd.job.id);
		ctl_reply_result(call->conn, e);
		break;
	}
	default:
		BUG_ON(true);
	}
}
