/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What network devices are tied to: opens taps, and checks descriptors that the caller opened.
 * Called by the program's start-up before the jail, on its one thread.
 */
#ifndef TORPOR_CORE_NET_END_H
#define TORPOR_CORE_NET_END_H

#include "core/host_end.h"

/* Is there an interface of that name? ERR_NOTFOUND. */
MUST_USE struct err *net_end_there(const char *name);
/* The tap of that name, which exists: fills in end->fd and end->header. */
MUST_USE struct err *net_end_tap(const char *name, struct host_end *end);
/* An open descriptor, owned by end from now on: a tap, or a socket that keeps messages apart. */
MUST_USE struct err *net_end_fd(int n, struct host_end *end);
/* Has it a header, at first sight? Changes nothing, and leaves end->fd alone. */
MUST_USE struct err *net_end_fd_look(int n, struct host_end *end);

#endif
