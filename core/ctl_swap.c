/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Swap requests: crosvm's five, and torpor's own forms of two. Called by ctl_handlers.c on the main
 * loop's thread. An enable is answered when all memory has been unmapped; trim, out and disable
 * when they have begun; status at once.
 */
#include <errno.h>

#include "core/ctl_internal.h"

static json_t *metrics(const struct swap_status *s)
{
	const struct swap_mem_status *m = &s->mem;
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "resident_pages", (json_int_t)m->resident,
			 "copied_from_file_pages", (json_int_t)m->from_store,
			 "copied_from_staging_pages", (json_int_t)m->from_staging, "zeroed_pages",
			 (json_int_t)m->zeroed, "redundant_pages", (json_int_t)m->redundant,
			 "staging_pages", (json_int_t)m->staged, "swap_pages", (json_int_t)m->out);
}

static json_t *transition(const struct swap_status *s)
{
	return json_pack("{s:I,s:I}", "pages", (json_int_t)s->moved_pages, "time_ms",
			 (json_int_t)s->moved_ms);
}

static char *typed_status(struct life *life)
{
	struct swap_status s;
	life_swap_status(life, &s);
	const struct swap_mem_status *m = &s.mem;
	json_t *pages = json_pack(
		"{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "resident", (json_int_t)m->resident,
		"staged", (json_int_t)m->staged, "swapped", (json_int_t)m->out, "from_store",
		(json_int_t)m->from_store, "from_staging", (json_int_t)m->from_staging, "zeroed",
		(json_int_t)m->zeroed, "redundant", (json_int_t)m->redundant, "trimmed_zero",
		(json_int_t)s.zero, "trimmed_same", (json_int_t)s.same);
	json_t *bytes = json_pack("{s:I,s:I,s:I}", "memory",
				  (json_int_t)((m->resident + m->staged) * PAGE_BYTES), "before",
				  (json_int_t)(s.stored_pages * PAGE_BYTES), "after",
				  (json_int_t)s.stored_bytes);
	json_t *faults =
		json_pack("{s:I,s:I,s:I,s:I}", "count", (json_int_t)m->faults, "p50_us",
			  (json_int_t)(m->p50_ns / 1000), "p99_us", (json_int_t)(m->p99_ns / 1000),
			  "max_us", (json_int_t)(m->max_ns / 1000));
	json_t *body = json_pack("{s:s,s:o,s:o,s:o,s:o,s:s*}", "state", s.state, "pages", pages,
				 "bytes", bytes, "faults", faults, "transition", transition(&s),
				 "error", s.error[0] != 0 ? s.error : NULL);
	return ctl_answer_json(json_pack("{s:{s:o}}", "Torpor", "SwapStatus", body));
}

static void reply_status(struct call *call)
{
	struct swap_status s;
	struct err *e = life_swap_possible(call->ctl->life);
	if (e != NULL) {
		ctl_reply_err(call->conn, e);
		return;
	}
	life_swap_status(call->ctl->life, &s);
	ctl_reply(call->conn, ctl_answer_json(json_pack("{s:{s:s,s:o,s:o}}", "SwapStatus", "state",
							s.state, "metrics", metrics(&s),
							"state_transition", transition(&s))));
}

static void enabled(void *arg, struct err *e, const struct snap_result *take)
{
	struct pending *p = arg;
	(void)take; /* it was told by an event */
	char *text = NULL;
	if (e == NULL) {
		text = p->typed && p->ctl != NULL ? typed_status(p->ctl->life) : ctl_answer_ok();
	}
	ctl_pending_end(p, text, e);
}

static void enable(struct call *call, const char *tag, bool typed)
{
	struct pending *p = ctl_pending_new(call, "SwapEnable", LIMIT_SLOW_MS);
	if (p == NULL) {
		return;
	}
	p->typed = typed;
	struct err *e = life_swap_enable(call->ctl->life, tag, enabled, p);
	if (e != NULL) { /* enabled will not be called: take its part */
		enabled(p, e, NULL);
	} else {
		ctl_pending_begun(p);
	}
}

void ctl_swap(struct call *call)
{
	struct life *life = call->ctl->life;
	const struct ctl_swap *s = &call->req->swap;
	switch ((enum ctl_swap_cmd)s->cmd) {
	case CTL_SWAP_ENABLE:
		enable(call, "", false);
		break;
	case CTL_SWAP_TRIM:
		ctl_reply_result(call->conn, life_swap_trim(life));
		break;
	case CTL_SWAP_OUT:
		ctl_reply_result(call->conn, life_swap_out(life));
		break;
	case CTL_SWAP_DISABLE:
		ctl_reply_result(call->conn, life_swap_disable(life, s->disable.slow_file_cleanup));
		break;
	case CTL_SWAP_STATUS:
		reply_status(call);
		break;
	}
}

void ctl_swap_typed(struct call *call)
{
	const struct ctl_torpor *t = &call->req->torpor;
	if (t->cmd.cmd == CTL_TORPOR_SWAP_ENABLE) {
		enable(call, t->cmd.swap_enable.as_snapshot, true);
	} else {
		ctl_reply(call->conn, typed_status(call->ctl->life));
	}
}
