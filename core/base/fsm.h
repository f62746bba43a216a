/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runner for table-driven state machines. A machine is one const table [state][event] of
 * {next, action, on_fail}; an empty cell (legal == false) is an error that names state and event.
 * Only fsm_step assigns the state. Called with the lock of the machine's owner held, if any.
 */
#ifndef TORPOR_BASE_FSM_H
#define TORPOR_BASE_FSM_H

#include "core/base/err.h"

struct fsm_cell {
	bool legal;
	uint8_t next;    /* state after the action succeeded */
	uint8_t on_fail; /* state after the action failed */
	/* May be NULL. Runs before the state changes. */
	struct err *(*action)(void *self, void *arg);
};

struct fsm_desc {
	const char *name; /* "vm" */
	unsigned nstates;
	unsigned nevents;
	const char *const *state_names;
	const char *const *event_names;
	const struct fsm_cell *cells; /* nstates * nevents, state-major */
};

struct fsm {
	const struct fsm_desc *desc;
	uint8_t state;
};

static inline const struct fsm_cell *fsm_cell(const struct fsm_desc *d, unsigned s, unsigned e)
{
	BUG_ON(s >= d->nstates || e >= d->nevents);
	return &d->cells[s * d->nevents + e];
}
/* ERR_NOT_NOW for an empty cell; the action's own error otherwise. */
MUST_USE struct err *fsm_step(struct fsm *m, unsigned event, void *self, void *arg);
static inline bool fsm_allows(const struct fsm *m, unsigned event)
{
	return fsm_cell(m->desc, m->state, event)->legal;
}

#endif
