/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of the control protocol: a packet's bytes to a request, and answers to packets. The
 * types are tables (ctl_types.h). docs/control.md has every packet. Pure: no socket, no VM, any
 * thread. Used by ctl*.c and their tests.
 *
 * What comes in is hostile: every parse ends in a request or an error, and every error can be put
 * into an answer.
 */
#ifndef TORPOR_CORE_CTL_PROTO_H
#define TORPOR_CORE_CTL_PROTO_H

#include "core/base/bytes.h"
#include "core/ctl_types.h"

const char *ctl_variant_name(enum ctl_variant v);
const char *ctl_event_name(enum ctl_event ev);

/*
 * One packet, with nfds descriptors beside it. ERR_USAGE for what is no request, ERR_NOTFOUND for
 * an unknown name, ERR_INCOMPAT for another version, ERR_NOT_NOW for what no version does yet.
 */
MUST_USE struct err *ctl_parse(const void *p, size_t len, unsigned nfds,
			       struct ctl_request *ret_req);
/* May a monitor (--socket-readonly) ask for it? Status and events only. */
bool ctl_is_readonly(const struct ctl_request *r);

/*
 * Answers; each is one JSON text in malloc'ed memory, at most CTL_PACKET_BYTES_MAX long. They do
 * not fail: without memory a constant answer is made (ctl_answer_free knows).
 */
char *ctl_answer_ok(void);
/* {"ErrString":"text (errno 19 ENODEV)"}; any bytes: those that JSON cannot carry become '?'. */
char *ctl_answer_error(int sys, const char *text);
char *ctl_answer_err(const struct err *e);
char *ctl_answer_json(json_t *answer); /* takes over the reference; NULL: out of memory */
void ctl_answer_free(char *answer);

#endif
