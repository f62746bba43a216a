/* SPDX-License-Identifier: Apache-2.0 */
/* The words of the control protocol. See ctl_proto.h. Called by ctl.c on the main loop's thread. */
#include "core/ctl_proto.h"

#include <stdio.h>
#include <string.h>

#include "core/config.h"

enum { ERROR_TEXT_MAX = 1000 }; /* as long as an error object's message */

static const struct {
	const char *name;
	const char *why; /* not empty: known, but this VM cannot do it */
} variants[CTL__COUNT] = {
#define X(id, name_, why_) [CTL_##id] = { name_, why_ },
	CTL_VARIANTS(X)
#undef X
};

/* The answer of last resort; never freed. */
static char no_memory[] = "{\"ErrString\":\"out of memory\"}";

const char *ctl_variant_name(enum ctl_variant v)
{
	BUG_ON(v >= CTL__COUNT);
	return variants[v].name;
}

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

/* Splits the externally tagged form: "Name" or {"Name": content}; content NULL for the former. */
static struct err *split_tag(json_t *j, const char *what, const char **ret_name,
			     json_t **ret_content)
{
	if (json_is_string(j)) {
		*ret_name = json_string_value(j);
		*ret_content = NULL;
		return NULL;
	}
	ENSURE(json_is_object(j) && json_object_size(j) == 1, ERR_USAGE,
	       "%s is neither \"Name\" nor {\"Name\":...}", what);
	void *it = json_object_iter(j);
	*ret_name = json_object_iter_key(it);
	*ret_content = json_object_iter_value(it);
	return NULL;
}

/* Refuses keys that are in none of the `keys` (NULL ends them): a typing error is not ignored. */
static struct err *only_keys(json_t *object, const char *what, const char *const *keys)
{
	const char *key;
	json_t *value;
	json_object_foreach(object, key, value)
	{
		bool known = false;
		for (size_t i = 0; keys[i] != NULL; i++) {
			known = known || strcmp(keys[i], key) == 0;
		}
		ENSURE(known, ERR_USAGE, "%s: unknown field '%.40s'", what, key);
	}
	return NULL;
}

static struct err *unit_only(const char *what, const json_t *content)
{
	ENSURE(content == NULL || json_is_null(content), ERR_USAGE, "%s takes nothing: send \"%s\"",
	       what, what);
	return NULL;
}

static struct err *get_flag(json_t *object, const char *what, const char *key, bool *ret)
{
	const json_t *v = json_object_get(object, key);
	ENSURE(v == NULL || json_is_boolean(v), ERR_USAGE, "%s: '%s' is not true or false", what,
	       key);
	*ret = json_is_true(v);
	return NULL;
}

static struct err *get_tag(json_t *object, const char *what, const char *key, char *ret_tag)
{
	const json_t *v = json_object_get(object, key);
	ENSURE(v == NULL || json_is_string(v), ERR_USAGE, "%s: '%s' is no text", what, key);
	const char *tag = v != NULL ? json_string_value(v) : "";
	if (tag[0] != 0) {
		TRY(err_wrap(config_check_tag(tag), "%s: %s", what, key));
	}
	snprintf(ret_tag, NAME_BYTES_MAX + 1, "%s", tag);
	return NULL;
}

static struct err *parse_snapshot(json_t *content, struct ctl_request *r)
{
	static const char *const keys[] = { "snapshot_path", "compress_memory", "encrypt", NULL };
	ENSURE(content != NULL, ERR_USAGE,
	       "Snapshot: a command is missing: {\"Snapshot\":{\"Take\":"
	       "{...}}}");
	const char *name = NULL;
	json_t *take = NULL;
	TRY(split_tag(content, "Snapshot", &name, &take));
	ENSURE(strcmp(name, "Take") == 0, ERR_NOTFOUND, "Snapshot: unknown command '%.40s'", name);
	ENSURE(json_is_object(take), ERR_USAGE, "Snapshot.Take: its content is no object");
	TRY(only_keys(take, "Snapshot.Take", keys));
	ENSURE(json_object_get(take, "snapshot_path") != NULL, ERR_USAGE,
	       "Snapshot.Take: 'snapshot_path' is missing: it is the tag, \"\" for none");
	TRY(get_tag(take, "Snapshot.Take", "snapshot_path", r->tag));
	bool flag = false;
	/* The store compresses always: the wish is granted either way. */
	TRY(get_flag(take, "Snapshot.Take", "compress_memory", &flag));
	TRY(get_flag(take, "Snapshot.Take", "encrypt", &flag));
	ENSURE(!flag, ERR_NOT_NOW,
	       "Snapshot.Take: this version cannot encrypt: send \"encrypt\":false");
	return NULL;
}

static struct err *parse_torpor(json_t *content, struct ctl_request *r)
{
	static const char *const keys[] = { "v", "cmd", NULL };
	static const char *const take_keys[] = { "tag", NULL };
	ENSURE(json_is_object(content), ERR_USAGE,
	       "Torpor: send {\"Torpor\":{\"v\":1,\"cmd\":...}}");
	TRY(only_keys(content, "Torpor", keys));
	const json_t *v = json_object_get(content, "v");
	ENSURE(json_is_integer(v), ERR_USAGE, "Torpor: 'v' is missing or no number");
	ENSURE(json_integer_value(v) == 1, ERR_NOT_NOW,
	       "Torpor: version %lld is not spoken here: use \"v\":1",
	       (long long)json_integer_value(v));
	json_t *cmd = json_object_get(content, "cmd");
	ENSURE(cmd != NULL, ERR_USAGE, "Torpor: 'cmd' is missing");
	const char *name = NULL;
	json_t *arg = NULL;
	TRY(split_tag(cmd, "Torpor: cmd", &name, &arg));
	if (strcmp(name, "Status") == 0) {
		r->torpor = CTL_TORPOR_STATUS;
		return unit_only("Status", arg);
	}
	if (strcmp(name, "TakeStatus") == 0) {
		r->torpor = CTL_TORPOR_TAKE_STATUS;
		return unit_only("TakeStatus", arg);
	}
	ENSURE(strcmp(name, "Take") == 0, ERR_NOTFOUND, "Torpor: unknown cmd '%.40s'", name);
	r->torpor = CTL_TORPOR_TAKE;
	if (arg == NULL) {
		return NULL;
	}
	ENSURE(json_is_object(arg), ERR_USAGE, "Torpor.Take: its content is no object");
	TRY(only_keys(arg, "Torpor.Take", take_keys));
	return get_tag(arg, "Torpor.Take", "tag", r->tag);
}

struct err *ctl_parse(const void *p, size_t len, struct ctl_request *ret_req)
{
	ENSURE(len > 0, ERR_USAGE, "empty packet: send one JSON request");
	json_error_t why;
	SCOPE(json_put)
	json_t *root = json_loadb(p, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	ENSURE(root != NULL, ERR_USAGE, "no JSON: %s at byte %d",
	       json_error_code(&why) == json_error_stack_overflow  ? "nested too deep"
	       : json_error_code(&why) == json_error_duplicate_key ? "repeated key"
								   : "syntax error",
	       why.position);
	const char *name = NULL;
	json_t *content = NULL;
	TRY(split_tag(root, "the request", &name, &content));
	struct ctl_request r = { .variant = CTL__COUNT };
	for (unsigned i = 0; i < CTL__COUNT; i++) {
		if (strcmp(variants[i].name, name) == 0) {
			r.variant = (enum ctl_variant)i;
		}
	}
	ENSURE(r.variant != CTL__COUNT, ERR_NOTFOUND, "unknown request '%.60s'", name);
	ENSURE(variants[r.variant].why[0] == 0, ERR_NOT_NOW, "%s is not available in this VM: %s",
	       name, variants[r.variant].why);
	switch (r.variant) {
	case CTL_SNAPSHOT:
		TRY(parse_snapshot(content, &r));
		break;
	case CTL_TORPOR:
		TRY(parse_torpor(content, &r));
		break;
	default:
		TRY(unit_only(variants[r.variant].name, content));
		break;
	}
	*ret_req = r;
	return NULL;
}

char *ctl_answer_json(json_t *answer)
{
	if (answer == NULL) {
		return no_memory;
	}
	char *text = json_dumps(answer, JSON_COMPACT | JSON_ENCODE_ANY);
	json_decref(answer);
	if (text == NULL) {
		return no_memory;
	}
	if (strlen(text) > CTL_PACKET_BYTES_MAX) {
		free(text);
		return ctl_answer_error("the answer is too long for one packet");
	}
	return text;
}

char *ctl_answer_ok(void)
{
	return ctl_answer_json(json_string("Ok"));
}

char *ctl_answer_error(const char *text)
{
	char clean[ERROR_TEXT_MAX + 1];
	snprintf(clean, sizeof(clean), "%s", text);
	json_t *j = json_string(clean);
	if (j ==
	    NULL) { /* quotes bytes that are no UTF-8, or was cut in the middle of a character */
		for (size_t i = 0; clean[i] != 0; i++) {
			if ((unsigned char)clean[i] >= 0x80) {
				clean[i] = '?';
			}
		}
		j = json_string(clean);
	}
	return ctl_answer_json(json_pack("{s:o}", "ErrString", j));
}

void ctl_answer_free(char *answer)
{
	if (answer != no_memory) {
		free(answer);
	}
}
