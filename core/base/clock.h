/* SPDX-License-Identifier: Apache-2.0 */
/* The only reader of host clocks. Nanoseconds. Any thread. */
#ifndef TORPOR_BASE_CLOCK_H
#define TORPOR_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void); /* CLOCK_MONOTONIC */
uint64_t clock_real_ns(void); /* CLOCK_REALTIME */

#endif
