/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON in serde's externally tagged form, decoded by tables: what a type looks like is data, so
 * that the decoder, the JSON Schema and the tests say the same of it. ctl_types.c has the tables.
 * Pure: any thread.
 *
 * How a kind stands in JSON and in C:
 *  BOOL    true                   bool
 *  UINT    5                      uint64_t, at most max
 *  INT     -5                     int64_t
 *  TEXT    "x"                    char[max + 1], no NUL inside
 *  FD      0                      int: index into the packet's descriptors, -1 for none
 *  STRUCT  {"a":1,"b":2}          members at their offsets; every name known, given once
 *  TUPLE   [1,2]                  members at their offsets, all there
 *  ENUM    "A" or {"A":content}   uint32_t index of the member first, content at its offset
 *  LIST    [1,2,3]                uint64_t count first, members from off on, at most max
 *  ARRAY   [1,2]                  exactly max members
 *  MAP     {"0":1,"7":2}          keys are numbers; only checked, not kept
 */
#ifndef TORPOR_CORE_CTL_WIRE_H
#define TORPOR_CORE_CTL_WIRE_H

#include <jansson.h>

#include "core/base/err.h"

enum wire_kind {
	WIRE_BOOL,
	WIRE_UINT,
	WIRE_INT,
	WIRE_TEXT,
	WIRE_FD,
	WIRE_STRUCT,
	WIRE_TUPLE,
	WIRE_ENUM,
	WIRE_LIST,
	WIRE_ARRAY,
	WIRE_MAP,
};

struct wire_type;

struct wire_member {
	const char *name;             /* NULL in a TUPLE */
	const struct wire_type *type; /* NULL: an ENUM's member without content */
	size_t off;
	/* STRUCT: may be missing or null, and is all zero (FD: -1) then. ENUM: so may the content.
	 */
	bool optional;
};

struct wire_type {
	enum wire_kind kind;
	uint64_t max;
	size_t size; /* bytes in C */
	size_t off;  /* LIST: of the first member */
	const struct wire_member *members;
	size_t nmembers;
	const struct wire_type *of; /* LIST, ARRAY, MAP */
	/* What the table cannot say. value is decoded; `where` names it for the message. */
	struct err *(*check)(const void *value, const char *where);
};

/*
 * Decodes j as `type` into ret (type->size bytes; NULL: only checks). nfds: descriptors that came
 * along. ERR_USAGE, ERR_NOTFOUND for an unknown member of an ENUM, or what check says; ret may be
 * half written then.
 */
MUST_USE struct err *wire_decode(const struct wire_type *type, json_t *j, unsigned nfds,
				 const char *where, void *ret);

/* The type as JSON Schema (draft 2020-12); NULL without memory. */
json_t *wire_schema(const struct wire_type *type);

static inline UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

#endif
