/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field tables used to compare two states and to print one as JSON. Called by tests and by
 * `snapshot show`, on any thread.
 */
#include <stdio.h>
#include <string.h>

#include "snapshot/desc.h"
#include "snapshot/desc_internal.h"

/* ---- comparison ---- */

static struct err *compare_fields(const struct state_desc *d, const uint8_t *a, const uint8_t *b);

static struct err *compare_scalar(const uint8_t *a, const uint8_t *b, size_t size)
{
	uint64_t va = desc_scalar_get(a, size);
	uint64_t vb = desc_scalar_get(b, size);
	ENSURE(va == vb, ERR_NOT_NOW, "0x%llx and 0x%llx", (unsigned long long)va,
	       (unsigned long long)vb);
	return NULL;
}

/* Puts one step of the path in front: "cpuid[3]: eax: 0x1 and 0x2". */
static struct err *compare_field(const struct state_field *f, const uint8_t *a, const uint8_t *b)
{
	const uint8_t *ma = a + f->offset;
	const uint8_t *mb = b + f->offset;
	if (desc_scalar_size(f->kind) != 0) {
		return err_wrap(compare_scalar(ma, mb, f->size), "%s", f->name);
	}
	uint32_t na = desc_count(f, a);
	uint32_t nb = desc_count(f, b);
	ENSURE(na == nb && na <= f->max, ERR_NOT_NOW, "%s: %u and %u elements, room for %u",
	       f->name, na, nb, f->max);
	for (uint32_t i = 0; i < na; i++) {
		const uint8_t *ea = ma + i * f->elem_size;
		const uint8_t *eb = mb + i * f->elem_size;
		if (f->kind == FIELD_RECORD) {
			TRY(err_wrap(compare_fields(f->sub, ea, eb), "%s", f->name));
		} else if (f->kind == FIELD_RECORDS) {
			TRY(err_wrap(compare_fields(f->sub, ea, eb), "%s[%u]", f->name, i));
		} else {
			TRY(err_wrap(compare_scalar(ea, eb, f->elem_size), "%s[%u]", f->name, i));
		}
	}
	return NULL;
}

static struct err *compare_fields(const struct state_desc *d, const uint8_t *a, const uint8_t *b)
{
	for (size_t i = 0; i < d->nfields; i++) {
		if (desc_is_saved(&d->fields[i])) {
			TRY(compare_field(&d->fields[i], a, b));
		}
	}
	return NULL;
}

struct err *desc_compare(const struct state_desc *d, const void *a, const void *b)
{
	return err_wrap(compare_fields(d, a, b), "part %s differs", d->name);
}

/* ---- JSON ---- */

static void show_fields(const struct state_desc *d, const uint8_t *state, struct wbuf *out);

/* 64-bit values are hex strings: many JSON readers lose bits above 2^53. */
static void show_scalar(uint8_t kind, const uint8_t *p, struct wbuf *out)
{
	uint64_t v = desc_scalar_get(p, desc_scalar_size(kind));
	if (kind == FIELD_BOOL) {
		desc_text(out, "%s", v != 0 ? "true" : "false");
	} else if (kind == FIELD_U64) {
		desc_text(out, "\"0x%llx\"", (unsigned long long)v);
	} else {
		desc_text(out, "%llu", (unsigned long long)v);
	}
}

static void show_hex(const uint8_t *p, size_t len, struct wbuf *out)
{
	static const char digits[] = "0123456789abcdef";
	wbuf_u8(out, '"');
	for (size_t i = 0; i < len; i++) {
		wbuf_u8(out, (uint8_t)digits[p[i] >> 4]);
		wbuf_u8(out, (uint8_t)digits[p[i] & 15]);
	}
	wbuf_u8(out, '"');
}

static void show_field(const struct state_field *f, const uint8_t *state, struct wbuf *out)
{
	const uint8_t *member = state + f->offset;
	uint32_t count = MIN(desc_count(f, state), f->max);
	switch (f->kind) {
	case FIELD_BYTES:
	case FIELD_VBYTES:
		show_hex(member, count, out);
		return;
	case FIELD_RECORD:
		show_fields(f->sub, member, out);
		return;
	case FIELD_ARRAY:
	case FIELD_RECORDS:
		wbuf_u8(out, '[');
		for (uint32_t i = 0; i < count; i++) {
			if (i > 0) {
				wbuf_u8(out, ',');
			}
			if (f->kind == FIELD_RECORDS) {
				show_fields(f->sub, member + i * f->elem_size, out);
			} else {
				show_scalar(f->elem_kind, member + i * f->elem_size, out);
			}
		}
		wbuf_u8(out, ']');
		return;
	default:
		show_scalar(f->kind, member, out);
		return;
	}
}

static void show_fields(const struct state_desc *d, const uint8_t *state, struct wbuf *out)
{
	bool first = true;
	wbuf_u8(out, '{');
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		if (!desc_is_saved(f)) {
			continue;
		}
		/* Member names are C identifiers, dots and brackets: nothing to escape. */
		desc_text(out, "%s\"%s\":", first ? "" : ",", f->name);
		first = false;
		show_field(f, state, out);
	}
	wbuf_u8(out, '}');
}

void desc_show_json(const struct state_desc *d, const void *state, struct wbuf *out)
{
	show_fields(d, state, out);
}
