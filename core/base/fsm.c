/* SPDX-License-Identifier: Apache-2.0 */
/* State machine runner. See fsm.h. */
#include "core/base/fsm.h"

struct err *fsm_step(struct fsm *m, unsigned event, void *self, void *arg)
{
	const struct fsm_cell *c = fsm_cell(m->desc, m->state, event);
	if (!c->legal) {
		return ERR(ERR_NOT_NOW, "%s is %s: '%s' is not possible now", m->desc->name,
			   m->desc->state_names[m->state], m->desc->event_names[event]);
	}
	if (c->action != NULL) {
		struct err *e = c->action(self, arg);
		if (e != NULL) {
			m->state = c->on_fail;
			return e;
		}
	}
	m->state = c->next;
	return NULL;
}
