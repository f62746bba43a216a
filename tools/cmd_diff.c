/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor snapshot diff`: what differs between two snapshots, pages of each map by class and device
 * fields by name. Called by main; reads only, under leases.
 */
#include <stdio.h>
#include <string.h>

#include "core/machine.h"
#include "snapshot/snapshot.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Says what differs from snapshot A to snapshot B: of each map how many pages are equal,\n"
	"changed, zero now, or new (zero before), and which fields of devices and processors have\n"
	"another value. Exit status 0 also if they differ.";

enum {
	SHOW_BYTES_MAX = 256 * 1024 * 1024, /* 64 vCPUs with all fields as text */
	SHOWN_MAX = 40,                     /* fields on a terminal; --json has all */
};

static UNUSED void json_put(json_t **j)
{
	json_decref(*j);
}

/* ---- fields ---- */

static struct err *add_field(json_t *list, const char *path, const json_t *a, const json_t *b)
{
	json_t *row = json_pack("{s:s,s:O?,s:O?}", "field", path, "a", a, "b", b);
	ENSURE(row != NULL && json_array_append_new(list, row) == 0, ERR_SYS, "out of memory");
	return NULL;
}

static struct err *diff_json(json_t *list, const char *path, json_t *a, json_t *b);

static struct err *diff_objects(json_t *list, const char *path, json_t *a, json_t *b)
{
	const char *key;
	json_t *v;
	char deeper[512];
	json_object_foreach(a, key, v)
	{
		snprintf(deeper, sizeof(deeper), "%s.%s", path, key);
		TRY(diff_json(list, deeper, v, json_object_get(b, key)));
	}
	json_object_foreach(b, key, v)
	{
		if (json_object_get(a, key) == NULL) {
			snprintf(deeper, sizeof(deeper), "%s.%s", path, key);
			TRY(add_field(list, deeper, NULL, v));
		}
	}
	return NULL;
}

static struct err *diff_arrays(json_t *list, const char *path, json_t *a, json_t *b)
{
	size_t n = MAX(json_array_size(a), json_array_size(b));
	for (size_t i = 0; i < n; i++) {
		char deeper[512];
		snprintf(deeper, sizeof(deeper), "%s[%zu]", path, i);
		TRY(diff_json(list, deeper, json_array_get(a, i), json_array_get(b, i)));
	}
	return NULL;
}

/* Either may be NULL: it is not there. Depth is that of the field tables. */
static struct err *diff_json(json_t *list, const char *path, json_t *a, json_t *b)
{
	if (a != NULL && b != NULL && json_equal(a, b)) {
		return NULL;
	}
	if (json_is_object(a) && json_is_object(b)) {
		return diff_objects(list, path, a, b);
	}
	if (json_is_array(a) && json_is_array(b)) {
		return diff_arrays(list, path, a, b);
	}
	return add_field(list, path, a, b);
}

static struct err *show(struct store *s, const char *ref, json_t **ret_doc)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	SCOPE(wbuf_done) struct wbuf text = wbuf_make(SHOW_BYTES_MAX);
	TRY(snap_image_open(s, ref, &img));
	TRY(snap_image_show(img, machine_find_desc, &text));
	TRY(wbuf_check(&text));
	*ret_doc = json_loadb((const char *)text.p, text.len, 0, NULL);
	ENSURE(*ret_doc != NULL, ERR_CORRUPT, "snapshot '%s' has text that is no JSON", ref);
	return NULL;
}

/* "vcpu 0": parts are told apart by name and instance. */
static void part_name(json_t *part, char out[64])
{
	snprintf(out, 64, "%s %lld", json_string_value(json_object_get(part, "name")),
		 (long long)json_integer_value(json_object_get(part, "instance")));
}

static json_t *part_named(json_t *parts, const char *name)
{
	size_t i;
	json_t *part;
	json_array_foreach(parts, i, part)
	{
		char have[64];
		part_name(part, have);
		if (strcmp(have, name) == 0) {
			return part;
		}
	}
	return NULL;
}

static struct err *diff_parts(json_t *list, json_t *a, json_t *b)
{
	size_t i;
	json_t *part;
	char name[64];
	json_array_foreach(a, i, part)
	{
		part_name(part, name);
		json_t *other = part_named(b, name);
		if (other == NULL) {
			TRY(add_field(list, name, json_object_get(part, "version"), NULL));
		} else {
			TRY(diff_json(list, name, json_object_get(part, "state"),
				      json_object_get(other, "state")));
		}
	}
	json_array_foreach(b, i, part)
	{
		part_name(part, name);
		if (part_named(a, name) == NULL) {
			TRY(add_field(list, name, NULL, json_object_get(part, "version")));
		}
	}
	return NULL;
}

static struct err *diff_fields(struct store *s, struct args *a, json_t *list)
{
	SCOPE(json_put) json_t *first = NULL;
	SCOPE(json_put) json_t *second = NULL;
	TRY(show(s, a->pos[0], &first));
	TRY(show(s, a->pos[1], &second));
	TRY(diff_json(list, "config", json_object_get(first, "config"),
		      json_object_get(second, "config")));
	return diff_parts(list, json_object_get(first, "parts"), json_object_get(second, "parts"));
}

/* ---- pages ---- */

struct classes {
	uint64_t equal, changed, zero_now, fresh;
};

struct side {
	struct store_ref ref;
	bool have_ref;
	struct reader *r;
	struct piece_reader *p;
};

static void side_done(struct side *s)
{
	piece_reader_free(s->p);
	reader_close(s->r);
	if (s->have_ref) {
		store_ref_done(&s->ref);
	}
}

static const struct snap_map *map_named(const struct side *s, const char *name)
{
	const struct snap_info *info = reader_info(s->r);
	for (uint32_t i = 0; i < info->nmaps; i++) {
		if (strcmp(info->maps[i].name, name) == 0) {
			return &info->maps[i];
		}
	}
	return NULL;
}

static uint64_t pages_of(const struct snap_map *m)
{
	return m == NULL ? 0 : m->len_bytes / PAGE_BYTES + (m->len_bytes % PAGE_BYTES != 0);
}

static void add_page(struct classes *c, const uint8_t *a, const uint8_t *b)
{
	static const uint8_t zero[PAGE_BYTES];
	if (memcmp(a, b, PAGE_BYTES) == 0) {
		c->equal++;
	} else if (memcmp(b, zero, PAGE_BYTES) == 0) {
		c->zero_now++;
	} else if (memcmp(a, zero, PAGE_BYTES) == 0) {
		c->fresh++;
	} else {
		c->changed++;
	}
}

static struct err *compare(struct side s[2], const struct snap_map *m[2], struct progress *show_to,
			   struct classes *c)
{
	static const uint8_t zeros[STORE_PIECE_PAGES * PAGE_BYTES];
	uint64_t n[2] = { pages_of(m[0]), pages_of(m[1]) };
	uint64_t total = MAX(n[0], n[1]);
	for (int i = 0; i < 2; i++) {
		if (m[i] != NULL) {
			TRY(piece_reader_new(s[i].r, m[i]->name, &s[i].p));
		}
	}
	for (uint64_t at = 0; at < total; at += STORE_PIECE_PAGES) {
		const uint8_t *pages[2] = { zeros, zeros };
		struct piece p[2] = { 0 };
		uint64_t here = MIN(total - at, (uint64_t)STORE_PIECE_PAGES);
		for (int i = 0; i < 2; i++) {
			if (at < n[i]) {
				TRY(piece_read(s[i].p, at, &p[i]));
				/* The last piece of the shorter one may lack pages. */
				pages[i] = p[i].npages == here ? p[i].pages : NULL;
			}
		}
		for (uint64_t k = 0; k < here; k++) {
			const uint8_t *page[2];
			for (int i = 0; i < 2; i++) {
				page[i] = pages[i] != NULL  ? pages[i] + k * PAGE_BYTES
					  : k < p[i].npages ? p[i].pages + k * PAGE_BYTES
							    : zeros;
			}
			add_page(c, page[0], page[1]);
		}
		progress_show(show_to, "comparing", at * PAGE_BYTES, total * PAGE_BYTES);
	}
	for (int i = 0; i < 2; i++) {
		piece_reader_free(s[i].p);
		s[i].p = NULL;
	}
	return NULL;
}

static struct err *diff_map(struct side s[2], const char *name, struct progress *show_to,
			    json_t *list)
{
	const struct snap_map *m[2] = { map_named(&s[0], name), map_named(&s[1], name) };
	struct classes c = { 0 };
	if (m[0] != NULL && m[1] != NULL && m[0]->len_bytes == m[1]->len_bytes &&
	    sha256_equal(&m[0]->digest, &m[1]->digest)) {
		c.equal = pages_of(m[0]);
	} else {
		TRY(err_wrap(compare(s, m, show_to, &c), "map %s", name));
	}
	json_t *row = json_pack("{s:s,s:I,s:I,s:I,s:I}", "name", name, "equal", (json_int_t)c.equal,
				"changed", (json_int_t)c.changed, "zero_now",
				(json_int_t)c.zero_now, "new", (json_int_t)c.fresh);
	ENSURE(row != NULL && json_array_append_new(list, row) == 0, ERR_SYS, "out of memory");
	return NULL;
}

static struct err *diff_maps(struct store *st, struct args *a, json_t *list)
{
	SCOPE(side_done) struct side first = { 0 };
	SCOPE(side_done) struct side second = { 0 };
	SCOPE(progress_freep) struct progress *p = progress_new();
	struct side *each[2] = { &first, &second };
	for (int i = 0; i < 2; i++) {
		TRY(store_ref_resolve(st, a->pos[i], &each[i]->ref));
		each[i]->have_ref = true;
		TRY(reader_open(each[i]->ref.family, each[i]->ref.snap.id, &each[i]->r));
	}
	struct side s[2] = { first, second };
	struct err *e = NULL;
	const struct snap_info *info = reader_info(first.r);
	for (uint32_t i = 0; e == NULL && i < info->nmaps; i++) {
		e = diff_map(s, info->maps[i].name, p, list);
	}
	info = reader_info(second.r);
	for (uint32_t i = 0; e == NULL && i < info->nmaps; i++) {
		if (map_named(&first, info->maps[i].name) == NULL) {
			e = diff_map(s, info->maps[i].name, p, list);
		}
	}
	first.p = s[0].p; /* left open by an error */
	second.p = s[1].p;
	return e;
}

/* ---- the verb ---- */

static void print_field(json_t *row)
{
	char *a = json_dumps(json_object_get(row, "a"), JSON_ENCODE_ANY | JSON_COMPACT);
	char *b = json_dumps(json_object_get(row, "b"), JSON_ENCODE_ANY | JSON_COMPACT);
	printf("%s: %.80s -> %.80s\n", json_string_value(json_object_get(row, "field")),
	       a != NULL ? a : "?", b != NULL ? b : "?");
	free(a);
	free(b);
}

static void print_all(json_t *maps, json_t *fields)
{
	size_t i;
	json_t *row;
	SCOPE(table_freep) struct table *t = table_new(5);
	static const char *const keys[] = { "equal", "changed", "zero_now", "new" };
	static const char *const head[] = { "MAP", "EQUAL", "CHANGED", "ZERO NOW", "NEW" };
	for (i = 0; i < ARRAY_LEN(head); i++) {
		table_cell(t, "%s", head[i]);
	}
	json_array_foreach(maps, i, row)
	{
		table_cell(t, "%s", json_string_value(json_object_get(row, "name")));
		for (size_t k = 0; k < ARRAY_LEN(keys); k++) {
			table_cell(t, "%lld",
				   (long long)json_integer_value(json_object_get(row, keys[k])));
		}
	}
	table_print(t);
	printf("\n");
	json_array_foreach(fields, i, row)
	{
		if (i < SHOWN_MAX) {
			print_field(row);
		}
	}
	size_t n = json_array_size(fields);
	if (n > SHOWN_MAX) {
		printf("and %zu more fields: see --json\n", n - SHOWN_MAX);
	} else if (n == 0) {
		printf("no field differs\n");
	}
}

struct err *cmd_diff(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about, NULL, 0, 2, 2));
	if (a->help) {
		return NULL;
	}
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s)); /* for the leases */
	SCOPE(json_put) json_t *maps = json_array();
	SCOPE(json_put) json_t *fields = json_array();
	ENSURE(maps != NULL && fields != NULL, ERR_SYS, "out of memory");
	TRY(diff_maps(s, a, maps));
	TRY(diff_fields(s, a, fields));
	if (a->json) {
		return out_json(json_pack("{s:O,s:O}", "maps", maps, "fields", fields));
	}
	print_all(maps, fields);
	return NULL;
}
