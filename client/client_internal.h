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

/* {"Torpor":{"v":1,"cmd":cmd}}; *ret is what stands below `key` in the answer, *ret_root its owner.
 */
int tc_ask_torpor(struct torpor_client *c, json_t *cmd, const char *key, json_t **ret_root,
		  json_t **ret);
/* An answer of another form than is known. */
int tc_unexpected(struct torpor_client *c);
/* Members of an object; 0 and "" for those that are not there. */
uint64_t tc_number(const json_t *j, const char *key);
void tc_text(const json_t *j, const char *key, char *ret, size_t len);

#endif
