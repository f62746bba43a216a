/* SPDX-License-Identifier: Apache-2.0 */
/* Defined guests and their records. See guestdef.h. */
#include "tools/guestdef.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/ctl_wire.h"
#include "core/rundir.h"
#include "tools/run.h"
#include "tools/vmm.h"

const char *const guest_state_names[GUEST__STATES] = {
	[GUEST_NEVER] = "never", [GUEST_RUNNING] = "running", [GUEST_SAVED] = "saved",
	[GUEST_OFF] = "off",     [GUEST_STOPPED] = "stopped", [GUEST_FAILED] = "failed",
};

void guest_done(struct guest *g)
{
	json_decref(g->root);
	*g = (struct guest){ 0 };
}

void guests_free(struct guest *g, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		guest_done(&g[i]);
	}
	free(g);
}

/* ---- the record ---- */

/* Every member of the record's text but "v" and "state". */
static const struct {
	const char *key;
	size_t off;
	size_t size; /* of a text; 0: a u64 */
} record_rows[] = {
#define NUMBER(m)                                                                                  \
	{                                                                                          \
#m, offsetof(struct guest_record, m), 0                                            \
	}
#define TEXT(m)                                                                                    \
	{                                                                                          \
#m, offsetof(struct guest_record, m), sizeof(((struct guest_record *)0)->m)        \
	}
	NUMBER(since_ns), TEXT(end),     NUMBER(clean),    NUMBER(used), TEXT(used_host),
	NUMBER(lived),    NUMBER(again), NUMBER(again_ns), TEXT(report),
#undef NUMBER
#undef TEXT
};

static struct err *record_parse(const char *text, struct guest_record *ret)
{
	struct guest_record r = { 0 };
	if (text[0] == 0) {
		*ret = r;
		return NULL;
	}
	SCOPE(json_put) json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	const char *state = json_string_value(json_object_get(j, "state"));
	ENSURE(json_integer_value(json_object_get(j, "v")) == 1 && state != NULL, ERR_CORRUPT,
	       "its record is not one that this version knows");
	while (r.state < GUEST__STATES && strcmp(guest_state_names[r.state], state) != 0) {
		r.state++;
	}
	ENSURE(r.state < GUEST__STATES, ERR_CORRUPT, "its record has the state '%.20s'", state);
	for (size_t i = 0; i < ARRAY_LEN(record_rows); i++) {
		const json_t *v = json_object_get(j, record_rows[i].key);
		char *to = (char *)&r + record_rows[i].off;
		size_t size = record_rows[i].size;
		ENSURE(size == 0 ? json_is_integer(v) && json_integer_value(v) >= 0
				 : json_is_string(v) && json_string_length(v) < size,
		       ERR_CORRUPT, "its record has no good '%s'", record_rows[i].key);
		if (size == 0) {
			uint64_t n = (uint64_t)json_integer_value(v);
			memcpy(to, &n, sizeof(n));
		} else {
			strcpy(to, json_string_value(v));
		}
	}
	*ret = r;
	return NULL;
}

/* A text that is cut in the middle of a character, or quotes bytes, becomes one that is UTF-8. */
static json_t *safe_text(const char *text)
{
	json_t *j = json_string(text);
	if (j == NULL) {
		char plain[GUEST_REPORT_BYTES];
		snprintf(plain, sizeof(plain), "%s", text);
		for (size_t i = 0; plain[i] != 0; i++) {
			plain[i] = (unsigned char)plain[i] >= 0x80 ? '?' : plain[i];
		}
		j = json_string(plain);
	}
	return j;
}

static char *record_text(const struct guest_record *r)
{
	SCOPE(json_put)
	json_t *j = json_pack("{s:i,s:s}", "v", 1, "state", guest_state_names[r->state]);
	for (size_t i = 0; i < ARRAY_LEN(record_rows); i++) {
		const char *from = (const char *)r + record_rows[i].off;
		uint64_t n;
		memcpy(&n, from, sizeof(n));
		json_object_set_new(j, record_rows[i].key,
				    record_rows[i].size == 0 ? json_integer((json_int_t)n)
							     : safe_text(from));
	}
	return json_dumps(j, JSON_COMPACT);
}

/* ---- what is wanted ---- */

struct err *guest_wanted_text(json_t *vm, json_t *policy, char **ret_text)
{
	SCOPE(json_put) json_t *j = json_pack("{s:i,s:o,s:o}", "v", 1, "vm", vm, "policy", policy);
	ENSURE(j != NULL, ERR_USAGE, "an option has text that is not UTF-8");
	char *text = json_dumps(j, JSON_COMPACT);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	*ret_text = text;
	return NULL;
}

/* The VM's options are checked by their types; what they say is `run`'s affair. */
static struct err *check_vm(const json_t *vm)
{
	struct run r = RUN_DEFAULTS;
	struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = { RUN_OPTS(&r), VMM_OPTS(&v) };
	return opts_apply(vm, opts, ARRAY_LEN(opts));
}

static struct err *wanted_parse(const char *text, struct guest *g)
{
	g->root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	g->vm = json_object_get(g->root, "vm");
	g->p = GUEST_POLICY_DEFAULTS;
	ENSURE(json_integer_value(json_object_get(g->root, "v")) == 1, ERR_CORRUPT,
	       "its definition is not one that this version knows");
	TRY(check_vm(g->vm));
	const struct opt opts[] = { GUEST_POLICY_OPTS(&g->p) };
	return opts_apply(json_object_get(g->root, "policy"), opts, ARRAY_LEN(opts));
}

struct err *guest_parse(const struct store_guest *from, struct guest *ret)
{
	SCOPE(guest_donep) struct guest g = { 0 };
	memcpy(g.name, from->name, sizeof(g.name));
	TRY(err_wrap(wanted_parse(from->wanted, &g), "guest '%s'", g.name));
	TRY(err_wrap(record_parse(from->record, &g.r), "guest '%s'", g.name));
	*ret = g;
	g = (struct guest){ 0 };
	return NULL;
}

static UNUSED void store_guest_donep(struct store_guest *g)
{
	store_guest_done(g);
}

struct err *guest_load(struct store *s, const char *name, struct guest *ret)
{
	SCOPE(store_guest_donep) struct store_guest raw = { 0 };
	bool found = false;
	TRY(store_guest_get(s, name, &found, &raw));
	ENSURE(found, ERR_NOTFOUND,
	       "there is no guest '%s' in store %s: 'torpor define %s --kernel FILE ...' makes one",
	       name, store_dir(s), name);
	return guest_parse(&raw, ret);
}

struct err *guests_load(struct store *s, struct guest **ret, size_t *ret_n)
{
	struct store_guest *raw = NULL;
	size_t n = 0;
	TRY(store_guest_list(s, &raw, &n));
	struct guest *g = calloc(MAX(n, (size_t)1), sizeof(*g));
	struct err *e = g == NULL ? ERR(ERR_SYS, "out of memory") : NULL;
	for (size_t i = 0; i < n && e == NULL; i++) {
		e = guest_parse(&raw[i], &g[i]);
	}
	store_guests_free(raw, n);
	if (e != NULL) {
		guests_free(g, g != NULL ? n : 0);
		return e;
	}
	*ret = g;
	*ret_n = n;
	return NULL;
}

/* ---- changes of the record ---- */

struct note {
	guest_note_fn *fn;
	const void *arg;
};

static struct err *change_record(void *arg, bool found, struct store_guest *g,
				 enum guest_verdict *ret)
{
	const struct note *n = arg;
	struct guest_record r;
	if (!found) {
		return NULL; /* undefined meanwhile: nobody asks any more */
	}
	TRY(record_parse(g->record, &r));
	n->fn(&r, n->arg);
	char *text = record_text(&r);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	free(g->record);
	g->record = text;
	*ret = GUEST_PUT;
	return NULL;
}

struct err *guest_note(struct store *s, const char *name, guest_note_fn *fn, const void *arg)
{
	struct note n = { fn, arg };
	return err_wrap(store_guest_change(s, name, change_record, &n), "record of guest '%s'",
			name);
}

/* ---- the host ---- */

struct err *guest_host(char ret_uuid[37])
{
	char dir[4000];
	char path[4096];
	char made[4096];
	uint8_t uuid[16];
	char text[37];
	TRY(rundir_path(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/host", dir);
	TRY(uuid_make(uuid));
	uuid_text(uuid, text);
	/* Linked under its name only when it is whole: the first one counts. */
	snprintf(made, sizeof(made), "%s/host.%s", dir, text);
	SCOPE(fd_close) struct fd f = FD_NONE;
	SCOPE(freep) uint8_t *got = NULL;
	size_t len = 0;
	TRY(io_open(made, O_WRONLY | O_CREAT | O_EXCL, 0600, &f));
	struct err *e = io_write_full(f.n, text, strlen(text));
	if (e == NULL && link(made, path) != 0 && errno != EEXIST) {
		e = ERR_ERRNO("%s", path);
	}
	(void)unlink(made);
	TRY(e);
	TRY(io_slurp(path, 64, &got, &len));
	TRY(err_wrap(uuid_parse((const char *)got, uuid), "%s", path));
	uuid_text(uuid, ret_uuid);
	return NULL;
}
