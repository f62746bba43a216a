/* SPDX-License-Identifier: Apache-2.0 */
/*
 * States and events of a VM's life; the table is in life.c, its picture in docs/life.md. For
 * life.c, its unit test and the drawing tool.
 */
#ifndef TORPOR_CORE_LIFE_FSM_H
#define TORPOR_CORE_LIFE_FSM_H

#include "core/base/fsm.h"

enum life_state { LIFE_BUILT, LIFE_RUNNING, LIFE_VCPUS, LIFE_SUSPENDED, LIFE_ENDED, LIFE__STATES };

enum life_event {
	LIFE_EV_START,
	LIFE_EV_START_VCPUS, /* after a reset that found the vCPUs suspended */
	LIFE_EV_START_PAUSED,
	LIFE_EV_SUSPEND_VCPUS,
	LIFE_EV_RESUME_VCPUS,
	LIFE_EV_SUSPEND,
	LIFE_EV_RESUME,
	LIFE_EV_RESET,
	LIFE_EV_END,
	LIFE__EVENTS,
};

extern const struct fsm_desc life_fsm_desc;

#endif
