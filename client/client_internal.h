/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of libtorpor-client share. One thread per client. */
#ifndef TORPOR_CLIENT_INTERNAL_H
#define TORPOR_CLIENT_INTERNAL_H

#include <jansson.h>

#include "client/torpor-client.h"

/* Sets the error text and returns -sys. */
int tc_fail(struct torpor_client *c, int sys, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/*
 * Sends the request (taken over; NULL: out of memory) with fd (-1: none) and waits. *ret_answer: a
 * new reference to the answer, which is none of a failure.
 */
int tc_ask(struct torpor_client *c, json_t *request, int fd, json_t **ret_answer, int *ret_fd);
/* The same, for a request whose answer says nothing but that it was done. */
int tc_do(struct torpor_client *c, json_t *request, int fd);

#endif
