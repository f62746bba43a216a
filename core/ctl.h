/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of a VM: SOCK_SEQPACKET, one JSON VmRequest per packet, exactly one JSON
 * VmResponse each, also to garbage. Runs on the main loop; a slow request (a take) does not block
 * the others. The peer's uid must be ours (or root). docs/control.md has every packet.
 */
#ifndef TORPOR_CORE_CTL_H
#define TORPOR_CORE_CTL_H

#include "core/life.h"

struct ctl;

/*
 * listen_fd: a bound, listening socket; moved from. readonly_fd: another one for monitors, who may
 * ask for status and events only; -1: none.
 */
MUST_USE struct err *ctl_new(struct loop *loop, int listen_fd, int readonly_fd, struct life *life,
			     struct ctl **ret_ctl);
void ctl_free(struct ctl *c);
DEFINE_SCOPE(struct ctl, ctl_free)

#endif
