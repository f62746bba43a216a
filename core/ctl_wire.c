/* SPDX-License-Identifier: Apache-2.0 */
/* The table-driven decoder of the control protocol's JSON. See ctl_wire.h. */
#include "core/ctl_wire.h"

#include <stdio.h>
#include <string.h>

enum { WHERE_MAX = 96 };

/* Where a value stands, for messages: "Gpe.clear_evt". */
struct where {
	char text[WHERE_MAX];
};

static struct where below(const char *where, const char *name)
{
	struct where w;
	snprintf(w.text, sizeof(w.text), "%s.%s", where, name);
	return w;
}

static struct where member_no(const char *where, size_t i)
{
	struct where w;
	snprintf(w.text, sizeof(w.text), "%s[%zu]", where, i);
	return w;
}

static void *at(void *base, size_t off)
{
	return base != NULL ? (char *)base + off : NULL;
}

static void store(void *ret, const void *value, size_t len)
{
	if (ret != NULL) {
		memcpy(ret, value, len);
	}
}

/* ---- plain values ---- */

static struct err *decode_bool(const json_t *j, const char *where, void *ret)
{
	ENSURE(json_is_boolean(j), ERR_USAGE, "%s is not true or false", where);
	bool v = json_is_true(j);
	store(ret, &v, sizeof(v));
	return NULL;
}

static struct err *decode_uint(const struct wire_type *t, const json_t *j, const char *where,
			       void *ret)
{
	ENSURE(json_is_integer(j) && json_integer_value(j) >= 0, ERR_USAGE,
	       "%s is no number from 0 on", where);
	uint64_t v = (uint64_t)json_integer_value(j);
	ENSURE(v <= t->max, ERR_USAGE, "%s: %llu is more than %llu", where, (unsigned long long)v,
	       (unsigned long long)t->max);
	store(ret, &v, sizeof(v));
	return NULL;
}

static struct err *decode_int(const json_t *j, const char *where, void *ret)
{
	ENSURE(json_is_integer(j), ERR_USAGE, "%s is no number", where);
	int64_t v = json_integer_value(j);
	store(ret, &v, sizeof(v));
	return NULL;
}

static struct err *decode_text(const struct wire_type *t, const json_t *j, const char *where,
			       void *ret)
{
	ENSURE(json_is_string(j), ERR_USAGE, "%s is no text", where);
	/* The parser let no NUL through. */
	size_t len = json_string_length(j);
	ENSURE(len <= t->max, ERR_USAGE, "%s is too long: at most %llu bytes", where,
	       (unsigned long long)t->max);
	store(ret, json_string_value(j), len + 1);
	return NULL;
}

static struct err *decode_fd(const json_t *j, unsigned nfds, const char *where, void *ret)
{
	ENSURE(json_is_integer(j), ERR_USAGE, "%s is no index of a descriptor", where);
	json_int_t v = json_integer_value(j);
	ENSURE(v >= 0 && v < (json_int_t)nfds, ERR_USAGE,
	       "%s: descriptor %lld was not sent: %u came with the packet (SCM_RIGHTS)", where,
	       (long long)v, nfds);
	int n = (int)v;
	store(ret, &n, sizeof(n));
	return NULL;
}

/* ---- composed values ---- */

/* A member that is left out: all zero, but no descriptor is -1. */
static void store_absent(const struct wire_type *t, void *ret)
{
	const int none = -1;
	if (ret == NULL) {
		return;
	}
	if (t->kind == WIRE_FD) {
		store(ret, &none, sizeof(none));
	} else {
		memset(ret, 0, t->size);
	}
}

static struct err *decode_struct(const struct wire_type *t, json_t *j, unsigned nfds,
				 const char *where, void *ret)
{
	ENSURE(json_is_object(j), ERR_USAGE, "%s is no object", where);
	const char *key;
	json_t *value;
	json_object_foreach(j, key, value)
	{
		bool known = false;
		for (size_t i = 0; i < t->nmembers; i++) {
			known = known || strcmp(t->members[i].name, key) == 0;
		}
		/* A typing error is not ignored. */
		ENSURE(known, ERR_USAGE, "%s: unknown field '%.40s'", where, key);
	}
	for (size_t i = 0; i < t->nmembers; i++) {
		const struct wire_member *m = &t->members[i];
		json_t *v = json_object_get(j, m->name);
		if (m->optional && (v == NULL || json_is_null(v))) {
			store_absent(m->type, at(ret, m->off));
			continue;
		}
		ENSURE(v != NULL, ERR_USAGE, "%s: '%s' is missing", where, m->name);
		TRY(wire_decode(m->type, v, nfds, below(where, m->name).text, at(ret, m->off)));
	}
	return NULL;
}

static struct err *decode_tuple(const struct wire_type *t, json_t *j, unsigned nfds,
				const char *where, void *ret)
{
	ENSURE(json_is_array(j) && json_array_size(j) == t->nmembers, ERR_USAGE,
	       "%s is no list of %zu", where, t->nmembers);
	for (size_t i = 0; i < t->nmembers; i++) {
		const struct wire_member *m = &t->members[i];
		TRY(wire_decode(m->type, json_array_get(j, i), nfds, member_no(where, i).text,
				at(ret, m->off)));
	}
	return NULL;
}

/* Splits "Name" or {"Name": content}; content NULL for the former and for null. */
static struct err *split_tag(json_t *j, const char *where, const char **ret_name,
			     json_t **ret_content)
{
	if (json_is_string(j)) {
		*ret_name = json_string_value(j);
		*ret_content = NULL;
		return NULL;
	}
	ENSURE(json_is_object(j) && json_object_size(j) == 1, ERR_USAGE,
	       "%s is neither \"Name\" nor {\"Name\":...}", where);
	void *it = json_object_iter(j);
	*ret_name = json_object_iter_key(it);
	json_t *content = json_object_iter_value(it);
	*ret_content = json_is_null(content) ? NULL : content;
	return NULL;
}

static struct err *decode_enum(const struct wire_type *t, json_t *j, unsigned nfds,
			       const char *where, void *ret)
{
	const char *name = NULL;
	json_t *content = NULL;
	TRY(split_tag(j, where, &name, &content));
	uint32_t tag = 0;
	while (tag < t->nmembers && strcmp(t->members[tag].name, name) != 0) {
		tag++;
	}
	ENSURE(tag < t->nmembers, ERR_NOTFOUND, "%s: unknown '%.60s'", where, name);
	const struct wire_member *m = &t->members[tag];
	store(ret, &tag, sizeof(tag));
	/* The outermost one is the packet itself: its members stand alone in messages. */
	struct where w = below(where, m->name);
	const char *inner = strcmp(where, "the request") == 0 ? m->name : w.text;
	if (m->type == NULL) {
		ENSURE(content == NULL, ERR_USAGE, "%s takes nothing: send \"%s\"", inner, m->name);
		return NULL;
	}
	if (content == NULL) {
		ENSURE(m->optional, ERR_USAGE, "%s: its content is missing: send {\"%s\":...}",
		       inner, m->name);
		store_absent(m->type, at(ret, m->off));
		return NULL;
	}
	return wire_decode(m->type, content, nfds, inner, at(ret, m->off));
}

static struct err *decode_list(const struct wire_type *t, json_t *j, unsigned nfds,
			       const char *where, void *ret)
{
	ENSURE(json_is_array(j), ERR_USAGE, "%s is no list", where);
	uint64_t n = json_array_size(j);
	if (t->kind == WIRE_ARRAY) {
		ENSURE(n == t->max, ERR_USAGE, "%s has %llu members, not %llu", where,
		       (unsigned long long)n, (unsigned long long)t->max);
	} else {
		ENSURE(n <= t->max, ERR_USAGE, "%s has %llu members, more than %llu", where,
		       (unsigned long long)n, (unsigned long long)t->max);
		store(ret, &n, sizeof(n));
	}
	for (size_t i = 0; i < n; i++) {
		TRY(wire_decode(t->of, json_array_get(j, i), nfds, member_no(where, i).text,
				at(ret, t->off + i * t->of->size)));
	}
	return NULL;
}

static struct err *decode_map(const struct wire_type *t, json_t *j, unsigned nfds,
			      const char *where)
{
	ENSURE(json_is_object(j), ERR_USAGE, "%s is no object", where);
	const char *key;
	json_t *value;
	json_object_foreach(j, key, value)
	{
		ENSURE(key[0] != 0 && strspn(key, "0123456789") == strlen(key), ERR_USAGE,
		       "%s: the key '%.40s' is no number", where, key);
		TRY(wire_decode(t->of, value, nfds, below(where, key).text, NULL));
	}
	return NULL;
}

static struct err *decode(const struct wire_type *t, json_t *j, unsigned nfds, const char *where,
			  void *ret)
{
	switch (t->kind) {
	case WIRE_BOOL:
		return decode_bool(j, where, ret);
	case WIRE_UINT:
		return decode_uint(t, j, where, ret);
	case WIRE_INT:
		return decode_int(j, where, ret);
	case WIRE_TEXT:
		return decode_text(t, j, where, ret);
	case WIRE_FD:
		return decode_fd(j, nfds, where, ret);
	case WIRE_STRUCT:
		return decode_struct(t, j, nfds, where, ret);
	case WIRE_TUPLE:
		return decode_tuple(t, j, nfds, where, ret);
	case WIRE_ENUM:
		return decode_enum(t, j, nfds, where, ret);
	case WIRE_LIST:
	case WIRE_ARRAY:
		return decode_list(t, j, nfds, where, ret);
	case WIRE_MAP:
		return decode_map(t, j, nfds, where);
	}
	BUG_ON(true);
	return NULL;
}

struct err *wire_decode(const struct wire_type *type, json_t *j, unsigned nfds, const char *where,
			void *ret)
{
	TRY(decode(type, j, nfds, where, ret));
	return type->check != NULL && ret != NULL ? type->check(ret, where) : NULL;
}

/* ---- schema ---- */

static json_t *schema_struct(const struct wire_type *t)
{
	json_t *props = json_object();
	json_t *required = json_array();
	for (size_t i = 0; i < t->nmembers; i++) {
		const struct wire_member *m = &t->members[i];
		json_t *s = wire_schema(m->type);
		if (m->optional) {
			s = json_pack("{s:[o,{s:s}]}", "anyOf", s, "type", "null");
		} else {
			json_array_append_new(required, json_string(m->name));
		}
		json_object_set_new(props, m->name, s);
	}
	return json_pack("{s:s,s:o,s:o,s:b}", "type", "object", "properties", props, "required",
			 required, "additionalProperties", 0);
}

static json_t *schema_enum(const struct wire_type *t)
{
	json_t *names = json_array();
	json_t *any = json_array();
	for (size_t i = 0; i < t->nmembers; i++) {
		const struct wire_member *m = &t->members[i];
		if (m->type == NULL || m->optional) {
			json_array_append_new(names, json_string(m->name));
		}
		if (m->type != NULL) {
			json_array_append_new(any, json_pack("{s:s,s:{s:o},s:[s],s:b}", "type",
							     "object", "properties", m->name,
							     wire_schema(m->type), "required",
							     m->name, "additionalProperties", 0));
		}
	}
	if (json_array_size(names) > 0) {
		json_array_insert_new(any, 0, json_pack("{s:O}", "enum", names));
	}
	json_decref(names);
	return json_pack("{s:o}", "anyOf", any);
}

static json_t *schema_tuple(const struct wire_type *t)
{
	json_t *items = json_array();
	for (size_t i = 0; i < t->nmembers; i++) {
		json_array_append_new(items, wire_schema(t->members[i].type));
	}
	return json_pack("{s:s,s:o,s:b,s:I}", "type", "array", "prefixItems", items, "items", 0,
			 "minItems", (json_int_t)t->nmembers);
}

json_t *wire_schema(const struct wire_type *t)
{
	switch (t->kind) {
	case WIRE_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case WIRE_UINT:
		return json_pack("{s:s,s:i,s:I}", "type", "integer", "minimum", 0, "maximum",
				 (json_int_t)t->max);
	case WIRE_INT:
		return json_pack("{s:s}", "type", "integer");
	case WIRE_TEXT:
		return json_pack("{s:s,s:I}", "type", "string", "maxLength", (json_int_t)t->max);
	case WIRE_FD:
		return json_pack("{s:s,s:i,s:s}", "type", "integer", "minimum", 0, "description",
				 "index of a descriptor sent with the packet");
	case WIRE_STRUCT:
		return schema_struct(t);
	case WIRE_TUPLE:
		return schema_tuple(t);
	case WIRE_ENUM:
		return schema_enum(t);
	case WIRE_LIST:
		return json_pack("{s:s,s:o,s:I}", "type", "array", "items", wire_schema(t->of),
				 "maxItems", (json_int_t)t->max);
	case WIRE_ARRAY:
		return json_pack("{s:s,s:o,s:I,s:I}", "type", "array", "items", wire_schema(t->of),
				 "minItems", (json_int_t)t->max, "maxItems", (json_int_t)t->max);
	case WIRE_MAP:
		return json_pack("{s:s,s:{s:s},s:o}", "type", "object", "propertyNames", "pattern",
				 "^[0-9]+$", "additionalProperties", wire_schema(t->of));
	}
	return NULL;
}
