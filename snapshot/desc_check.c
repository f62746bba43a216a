/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field tables checked against themselves, and their dump for docs/desc.lock. Called by unit tests
 * (every table of the tree goes through desc_check_coverage in one), on any thread.
 */
#include <stdio.h>
#include <string.h>

#include "snapshot/desc.h"
#include "snapshot/desc_internal.h"

static struct err *check_table(const struct state_desc *d, unsigned depth);

static struct err *check_range(const struct state_desc *d, const struct state_field *f,
			       size_t scalar)
{
	uint64_t top = scalar == 8 ? UINT64_MAX : (1ull << (scalar * 8)) - 1;
	if (f->ranged) {
		ENSURE(f->lo <= f->hi && f->hi <= top, ERR_CORRUPT, "range is empty or too wide");
	}
	ENSURE(f->dflt <= top, ERR_CORRUPT, "default does not fit the member");
	if (desc_since(f) > d->oldest && f->ranged && desc_scalar_size(f->kind) != 0) {
		ENSURE(f->dflt >= f->lo && f->dflt <= f->hi, ERR_CORRUPT,
		       "default for records before version %u is out of range", f->since);
	}
	return NULL;
}

/* The member that counts must be a u32 field listed before, as old as the array. */
static struct err *check_count(const struct state_desc *d, const struct state_field *f)
{
	if (f->count_name == NULL) {
		return NULL;
	}
	for (const struct state_field *c = d->fields; c < f; c++) {
		if (c->kind == FIELD_U32 && c->offset == f->count_offset &&
		    strcmp(c->name, f->count_name) == 0) {
			ENSURE(desc_since(c) == desc_since(f), ERR_CORRUPT,
			       "since %u, its count %s since %u", desc_since(f), c->name,
			       desc_since(c));
			return NULL;
		}
	}
	return ERR(ERR_CORRUPT, "count %s is no u32 field listed before", f->count_name);
}

static struct err *check_kind(const struct state_desc *d, const struct state_field *f,
			      unsigned depth)
{
	size_t scalar = desc_scalar_size(f->kind);
	if (scalar != 0) {
		ENSURE(f->size == scalar, ERR_CORRUPT, "%zu bytes for kind %s", f->size,
		       desc_kind_name(f->kind));
		return check_range(d, f, scalar);
	}
	ENSURE(f->max >= 1 && f->elem_size >= 1 && f->size == f->max * f->elem_size, ERR_CORRUPT,
	       "%zu bytes are not %u elements of %zu", f->size, f->max, f->elem_size);
	TRY(check_count(d, f));
	switch (f->kind) {
	case FIELD_BYTES:
		ENSURE(f->elem_size == 1 && f->count_name == NULL, ERR_CORRUPT,
		       "fixed bytes need one-byte elements and no count");
		return NULL;
	case FIELD_VBYTES:
		ENSURE(f->elem_size == 1 && f->count_name != NULL, ERR_CORRUPT,
		       "counted bytes need one-byte elements and a count");
		return NULL;
	case FIELD_ARRAY:
		scalar = desc_scalar_size(f->elem_kind);
		ENSURE(scalar != 0 && f->elem_size == scalar, ERR_CORRUPT,
		       "elements of %zu bytes for kind %s", f->elem_size,
		       desc_kind_name(f->elem_kind));
		return check_range(d, f, scalar);
	case FIELD_RECORD:
	case FIELD_RECORDS:
		ENSURE(f->sub != NULL && f->sub->size == f->elem_size, ERR_CORRUPT,
		       "no sub-table, or one of another size");
		return check_table(f->sub, depth + 1);
	default:
		return ERR(ERR_CORRUPT, "unknown kind %u", f->kind);
	}
}

static struct err *check_field(const struct state_desc *d, const struct state_field *f,
			       uint16_t *last_tag, unsigned depth)
{
	ENSURE(f->size > 0 && f->offset <= d->size && f->size <= d->size - f->offset, ERR_CORRUPT,
	       "lies outside the struct");
	if (f->kind == FIELD_OMIT) {
		ENSURE(f->why != NULL && f->why[0] != '\0', ERR_CORRUPT,
		       "left out without a reason");
		return NULL;
	}
	if (f->kind == FIELD_PAD) {
		return NULL;
	}
	ENSURE(f->tag > *last_tag, ERR_CORRUPT, "tag %u does not ascend (%u before)", f->tag,
	       *last_tag);
	*last_tag = f->tag;
	ENSURE(f->since <= d->version, ERR_CORRUPT, "since version %u of a table of version %u",
	       f->since, d->version);
	return check_kind(d, f, depth);
}

/* owner[i]: 1 + index of the entry that covers byte i of the struct, 0 for none. */
static struct err *mark_bytes(const struct state_desc *d, uint32_t *owner)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		for (size_t b = f->offset; b < f->offset + f->size; b++) {
			ENSURE(owner[b] == 0, ERR_CORRUPT,
			       "table %s: byte %zu is in both %s and %s", d->name, b,
			       d->fields[owner[b] - 1].name, f->name);
			owner[b] = (uint32_t)i + 1;
		}
	}
	for (size_t b = 0; b < d->size; b++) {
		if (owner[b] != 0) {
			continue;
		}
		size_t end = b;
		while (end < d->size && owner[end] == 0) {
			end++;
		}
		return ERR(ERR_CORRUPT,
			   "table %s: bytes %zu..%zu (after %s) are in no entry: list the member, "
			   "OMIT it with a reason, or make the padding a member with PAD",
			   d->name, b, end - 1,
			   b > 0 ? d->fields[owner[b - 1] - 1].name : "the start");
	}
	return NULL;
}

static bool name_is_plain(const char *name)
{
	size_t len = strlen(name);
	if (len == 0 || len > DESC_NAME_MAX) {
		return false;
	}
	for (size_t i = 0; i < len; i++) {
		if (name[i] <= 0x20 || name[i] >= 0x7f) {
			return false;
		}
	}
	return true;
}

static struct err *check_table(const struct state_desc *d, unsigned depth)
{
	uint16_t last_tag = 0;
	ENSURE(depth <= DESC_DEPTH_MAX, ERR_CORRUPT, "table %s: more than %u tables deep", d->name,
	       DESC_DEPTH_MAX);
	ENSURE(name_is_plain(d->name), ERR_CORRUPT,
	       "table '%s': a name has 1..%u visible characters", d->name, DESC_NAME_MAX);
	ENSURE(d->oldest >= 1 && d->oldest <= d->version && d->size > 0 && d->nfields > 0,
	       ERR_CORRUPT, "table %s: version %u, oldest %u, %zu bytes, %zu entries", d->name,
	       d->version, d->oldest, d->size, d->nfields);
	for (size_t i = 0; i < d->nfields; i++) {
		TRY(err_wrap(check_field(d, &d->fields[i], &last_tag, depth), "table %s: %s",
			     d->name, d->fields[i].name));
	}
	SCOPE(freep) uint32_t *owner = calloc(d->size, sizeof(*owner));
	ENSURE(owner != NULL, ERR_SYS, "table %s: out of memory", d->name);
	return mark_bytes(d, owner);
}

struct err *desc_check_coverage(const struct state_desc *d)
{
	return check_table(d, 1);
}

void desc_text(struct wbuf *out, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	BUG_ON(n < 0);
	wbuf_put(out, text, MIN((size_t)n, sizeof(text) - 1));
}

static void dump_field(const struct state_field *f, struct wbuf *out)
{
	if (!desc_is_saved(f)) {
		desc_text(out, "- %s %s", desc_kind_name(f->kind), f->name);
		if (f->kind == FIELD_OMIT) {
			desc_text(out, " (%s)", f->why);
		}
		desc_text(out, "\n");
		return;
	}
	desc_text(out, "%u %s %s", f->tag, desc_kind_name(f->kind), f->name);
	if (f->kind == FIELD_ARRAY) {
		desc_text(out, " of %s", desc_kind_name(f->elem_kind));
	}
	if (f->kind >= FIELD_BYTES && f->kind != FIELD_RECORD) {
		desc_text(out, " max %u", f->max);
	}
	if (f->count_name != NULL) {
		desc_text(out, " count %s", f->count_name);
	}
	if (f->ranged) {
		desc_text(out, " range 0x%llx..0x%llx", (unsigned long long)f->lo,
			  (unsigned long long)f->hi);
	}
	if (f->since > 1) {
		desc_text(out, " since %u default 0x%llx", f->since, (unsigned long long)f->dflt);
	}
	desc_text(out, "\n");
}

static void dump_table(const struct state_desc *d, unsigned depth, struct wbuf *out)
{
	desc_text(out, "%*s%s version %u oldest %u\n", (int)depth * 2, "", d->name, d->version,
		  d->oldest);
	for (size_t i = 0; i < d->nfields; i++) {
		desc_text(out, "%*s", (int)depth * 2 + 2, "");
		dump_field(&d->fields[i], out);
		if (d->fields[i].sub != NULL && depth < DESC_DEPTH_MAX) {
			dump_table(d->fields[i].sub, depth + 2, out);
		}
	}
}

void desc_dump(const struct state_desc *d, struct wbuf *out)
{
	dump_table(d, 0, out);
}
