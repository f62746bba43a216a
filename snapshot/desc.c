/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field tables: writing and strict reading of records. See desc.h; the bytes are specified in
 * docs/format.md, "Part record". Called by the snapshot engine and by tests, on any thread.
 *
 * The reader is driven by the table, never by the record: it knows which field comes next and what
 * it must look like, so a record can neither make it recurse nor allocate. The only allocation is
 * the side struct of d->size bytes, which is copied out when everything was right.
 */
#include "snapshot/desc.h"

#include <stdio.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "snapshot/desc_internal.h"

const char *desc_kind_name(uint8_t kind)
{
	switch (kind) {
	case FIELD_BOOL:
		return "bool";
	case FIELD_U8:
		return "u8";
	case FIELD_U16:
		return "u16";
	case FIELD_U32:
		return "u32";
	case FIELD_U64:
		return "u64";
	case FIELD_BYTES:
		return "bytes";
	case FIELD_VBYTES:
		return "vbytes";
	case FIELD_ARRAY:
		return "array";
	case FIELD_RECORD:
		return "record";
	case FIELD_RECORDS:
		return "records";
	case FIELD_OMIT:
		return "omit";
	case FIELD_PAD:
		return "pad";
	default:
		return "?";
	}
}

uint64_t desc_scalar_get(const void *p, size_t size)
{
	uint64_t v = 0;
	BUG_ON(size > sizeof(v));
	memcpy(&v, p, size); /* little-endian host: low bytes first */
	return v;
}

uint32_t desc_count(const struct state_field *f, const void *state)
{
	if (f->count_name == NULL) {
		return f->max;
	}
	return (uint32_t)desc_scalar_get((const uint8_t *)state + f->count_offset, 4);
}

/* The rules of one scalar value, the same before a write and after a read. */
static struct err *scalar_check(const struct state_field *f, uint8_t kind, uint64_t v)
{
	if (kind == FIELD_BOOL) {
		ENSURE(v <= 1, ERR_CORRUPT, "value %llu is no truth value", (unsigned long long)v);
	}
	if (f->ranged) {
		ENSURE(v >= f->lo && v <= f->hi, ERR_CORRUPT,
		       "value 0x%llx is outside 0x%llx..0x%llx", (unsigned long long)v,
		       (unsigned long long)f->lo, (unsigned long long)f->hi);
	}
	return NULL;
}

/* ---- writing ---- */

static struct err *encode_fields(const struct state_desc *d, const uint8_t *state,
				 struct wbuf *out);

static struct err *encode_records(const struct state_field *f, const uint8_t *member,
				  uint32_t count, struct wbuf *out)
{
	wbuf_u32(out, count);
	wbuf_u16(out, f->sub->version);
	for (uint32_t i = 0; i < count; i++) {
		size_t at = out->len;
		wbuf_u32(out, 0);
		struct err *e = encode_fields(f->sub, member + i * f->elem_size, out);
		if (e != NULL) {
			return err_wrap(e, "[%u]", i);
		}
		wbuf_patch_u32(out, at, (uint32_t)(out->len - at - 4));
	}
	return NULL;
}

static struct err *encode_value(const struct state_field *f, const uint8_t *state, struct wbuf *out)
{
	const uint8_t *member = state + f->offset;
	uint32_t count = f->max;
	if (f->kind >= FIELD_BYTES) {
		count = desc_count(f, state);
		ENSURE(count <= f->max, ERR_CORRUPT, "%u elements counted by %s, room for %u",
		       count, f->count_name, f->max);
	}
	switch (f->kind) {
	case FIELD_BOOL:
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
		TRY(scalar_check(f, f->kind, desc_scalar_get(member, f->size)));
		wbuf_put(out, member, f->size);
		return NULL;
	case FIELD_BYTES:
	case FIELD_VBYTES:
		wbuf_put(out, member, count);
		return NULL;
	case FIELD_ARRAY:
		wbuf_u32(out, count);
		for (uint32_t i = 0; i < count; i++) {
			const uint8_t *elem = member + i * f->elem_size;
			TRY(err_wrap(
				scalar_check(f, f->elem_kind, desc_scalar_get(elem, f->elem_size)),
				"[%u]", i));
			wbuf_put(out, elem, f->elem_size);
		}
		return NULL;
	case FIELD_RECORD:
		wbuf_u16(out, f->sub->version);
		return encode_fields(f->sub, member, out);
	case FIELD_RECORDS:
		return encode_records(f, member, count, out);
	default:
		BUG_ON(true);
		return NULL;
	}
}

static struct err *encode_fields(const struct state_desc *d, const uint8_t *state, struct wbuf *out)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		if (!desc_is_saved(f)) {
			continue;
		}
		wbuf_u16(out, f->tag);
		wbuf_u8(out, f->kind);
		wbuf_u8(out, 0);
		size_t at = out->len;
		wbuf_u32(out, 0);
		TRY(err_wrap(encode_value(f, state, out), "field %s (tag %u)", f->name, f->tag));
		wbuf_patch_u32(out, at, (uint32_t)(out->len - at - 4));
	}
	/* Asserted before the write too: our own mistake is found before it is on disk. */
	return d->check != NULL ? d->check(state) : NULL;
}

struct err *desc_encode(const struct state_desc *d, uint32_t instance, const void *state,
			struct wbuf *out)
{
	size_t start = out->len;
	size_t name_len = strlen(d->name);
	BUG_ON(name_len == 0 || name_len > DESC_NAME_MAX);
	wbuf_u32(out, DESC_MAGIC);
	size_t len_at = out->len;
	wbuf_u32(out, 0);
	wbuf_u8(out, (uint8_t)name_len);
	wbuf_put(out, d->name, name_len);
	wbuf_u32(out, instance);
	wbuf_u16(out, d->version);
	TRY(err_wrap(encode_fields(d, state, out), "part %s/%u", d->name, instance));
	TRY(err_wrap(wbuf_check(out), "part %s/%u", d->name, instance));
	size_t len = out->len - start + DESC_SUM_BYTES;
	ENSURE(len <= PART_BYTES_MAX, ERR_LIMIT,
	       "part %s/%u takes %zu bytes, over the limit of %llu", d->name, instance, len,
	       PART_BYTES_MAX);
	wbuf_patch_u32(out, len_at, (uint32_t)len);
	wbuf_u64(out, hash_xxh3_64(out->p + start, len - DESC_SUM_BYTES, 0));
	return err_wrap(wbuf_check(out), "part %s/%u", d->name, instance);
}

/* ---- reading ---- */

static struct err *decode_fields(const struct state_desc *d, uint16_t version, struct rcur *c,
				 uint8_t *state);

/* A member that records of this version do not have yet. The struct is all zero before. */
static void set_default(const struct state_field *f, uint8_t *state)
{
	if (f->kind == FIELD_RECORD || f->kind == FIELD_RECORDS) {
		uint32_t n = f->kind == FIELD_RECORD ? 1 : (f->count_name == NULL ? f->max : 0);
		for (uint32_t i = 0; i < n; i++) {
			for (size_t k = 0; k < f->sub->nfields; k++) {
				set_default(&f->sub->fields[k],
					    state + f->offset + i * f->elem_size);
			}
		}
	} else if (desc_scalar_size(f->kind) != 0) {
		memcpy(state + f->offset, &f->dflt, f->size);
	}
}

static struct err *check_version(const struct state_desc *d, uint16_t version)
{
	ENSURE(version <= d->version, ERR_INCOMPAT,
	       "version %u of %s is newer than this torpor knows (%u): use a newer torpor", version,
	       d->name, d->version);
	ENSURE(version >= d->oldest, ERR_INCOMPAT,
	       "version %u of %s is older than this torpor reads (%u): use an older torpor",
	       version, d->name, d->oldest);
	return NULL;
}

static struct err *decode_scalar(const struct state_field *f, uint8_t kind, size_t size,
				 struct rcur *c, uint8_t *out)
{
	const uint8_t *p;
	TRY(rcur_take(c, size, &p));
	TRY(scalar_check(f, kind, desc_scalar_get(p, size)));
	memcpy(out, p, size);
	return NULL;
}

/* The count that stands before array elements, against the table and the count member. */
static struct err *decode_count(const struct state_field *f, const uint8_t *state, uint32_t count)
{
	ENSURE(count <= f->max, ERR_CORRUPT, "%u elements, room for %u", count, f->max);
	uint32_t want = desc_count(f, state);
	ENSURE(count == want, ERR_CORRUPT, "%u elements where %s says %u", count,
	       f->count_name != NULL ? f->count_name : "the table", want);
	return NULL;
}

static struct err *decode_records(const struct state_field *f, struct rcur *c, uint8_t *state)
{
	uint32_t count;
	uint16_t version;
	TRY(rcur_u32(c, &count));
	TRY(decode_count(f, state, count));
	TRY(rcur_u16(c, &version));
	TRY(check_version(f->sub, version));
	for (uint32_t i = 0; i < count; i++) {
		uint32_t len;
		TRY(rcur_u32(c, &len));
		ENSURE(len <= rcur_left(c), ERR_CORRUPT,
		       "[%u]: %u bytes long where %zu are left at offset %zu", i, len, rcur_left(c),
		       c->pos);
		struct rcur elem = { .p = c->p, .len = c->pos + len, .pos = c->pos };
		TRY(err_wrap(
			decode_fields(f->sub, version, &elem, state + f->offset + i * f->elem_size),
			"[%u]", i));
		c->pos += len;
	}
	return NULL;
}

static struct err *decode_value(const struct state_field *f, struct rcur *c, uint8_t *state)
{
	uint8_t *member = state + f->offset;
	uint32_t count;
	uint16_t version;
	switch (f->kind) {
	case FIELD_BOOL:
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
		return decode_scalar(f, f->kind, f->size, c, member);
	case FIELD_BYTES:
	case FIELD_VBYTES:
		count = rcur_left(c) > UINT32_MAX ? UINT32_MAX : (uint32_t)rcur_left(c);
		TRY(decode_count(f, state, count));
		return rcur_copy(c, member, count);
	case FIELD_ARRAY:
		TRY(rcur_u32(c, &count));
		TRY(decode_count(f, state, count));
		for (uint32_t i = 0; i < count; i++) {
			TRY(err_wrap(decode_scalar(f, f->elem_kind, f->elem_size, c,
						   member + i * f->elem_size),
				     "[%u]", i));
		}
		return NULL;
	case FIELD_RECORD:
		TRY(rcur_u16(c, &version));
		TRY(check_version(f->sub, version));
		return decode_fields(f->sub, version, c, member);
	case FIELD_RECORDS:
		return decode_records(f, c, state);
	default:
		BUG_ON(true);
		return NULL;
	}
}

static bool knows_tag(const struct state_desc *d, uint16_t tag)
{
	for (size_t i = 0; i < d->nfields; i++) {
		if (desc_is_saved(&d->fields[i]) && d->fields[i].tag == tag) {
			return true;
		}
	}
	return false;
}

/* Why the tag that was found is not the one of the field that must come next. */
static struct err *wrong_tag(const struct state_desc *d, const struct state_field *f, uint16_t tag,
			     size_t at)
{
	if (!knows_tag(d, tag)) {
		return ERR(ERR_CORRUPT, "unknown tag %u at offset %zu of %s", tag, at, d->name);
	}
	if (tag < f->tag) {
		return ERR(ERR_CORRUPT, "tag %u at offset %zu of %s is repeated or out of order",
			   tag, at, d->name);
	}
	return ERR(ERR_CORRUPT, "field %s (tag %u) is missing at offset %zu of %s", f->name, f->tag,
		   at, d->name);
}

static struct err *decode_field(const struct state_desc *d, const struct state_field *f,
				struct rcur *c, uint8_t *state)
{
	size_t at = c->pos;
	ENSURE(rcur_left(c) > 0, ERR_CORRUPT, "field %s (tag %u) is missing at offset %zu of %s",
	       f->name, f->tag, at, d->name);
	uint16_t tag;
	uint8_t kind, zero;
	uint32_t len;
	TRY(rcur_u16(c, &tag));
	if (tag != f->tag) {
		return wrong_tag(d, f, tag, at);
	}
	TRY(rcur_u8(c, &kind));
	TRY(rcur_u8(c, &zero));
	TRY(rcur_u32(c, &len));
	ENSURE(kind == f->kind, ERR_CORRUPT,
	       "field %s (tag %u) at offset %zu has kind %u where %u (%s) belongs", f->name, f->tag,
	       at, kind, f->kind, desc_kind_name(f->kind));
	ENSURE(zero == 0, ERR_CORRUPT, "field %s (tag %u) at offset %zu has a reserved byte set",
	       f->name, f->tag, at);
	ENSURE(len <= rcur_left(c), ERR_CORRUPT,
	       "field %s (tag %u) at offset %zu is %u bytes long where %zu are left", f->name,
	       f->tag, at, len, rcur_left(c));
	struct rcur value = { .p = c->p, .len = c->pos + len, .pos = c->pos };
	struct err *e = decode_value(f, &value, state);
	if (e == NULL) {
		e = rcur_end(&value);
	}
	if (e != NULL) {
		return err_wrap(e, "field %s (tag %u) at offset %zu", f->name, f->tag, at);
	}
	c->pos += len;
	return NULL;
}

static struct err *decode_fields(const struct state_desc *d, uint16_t version, struct rcur *c,
				 uint8_t *state)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		if (!desc_is_saved(f)) {
			continue;
		}
		if (desc_since(f) > version) {
			set_default(f, state);
			continue;
		}
		TRY(decode_field(d, f, c, state));
	}
	if (rcur_left(c) >= 2) {
		uint16_t tag;
		size_t at = c->pos;
		TRY(rcur_u16(c, &tag));
		return ERR(ERR_CORRUPT, "%s tag %u at offset %zu, after the last field of %s",
			   knows_tag(d, tag) ? "repeated" : "unknown", tag, at, d->name);
	}
	TRY(rcur_end(c));
	return d->check != NULL ? d->check(state) : NULL;
}

static struct err *read_head(struct rcur *c, size_t len, struct desc_head *ret_head)
{
	struct desc_head h = { 0 };
	uint32_t magic;
	uint8_t name_len;
	TRY(rcur_u32(c, &magic));
	ENSURE(magic == DESC_MAGIC, ERR_CORRUPT, "no part record: magic 0x%08x", magic);
	TRY(rcur_u32(c, &h.len_bytes));
	ENSURE(h.len_bytes == len, ERR_CORRUPT, "record of %zu bytes says that it has %u", len,
	       h.len_bytes);
	uint64_t sum = get_le64(c->p + len - DESC_SUM_BYTES);
	ENSURE(hash_xxh3_64(c->p, len - DESC_SUM_BYTES, 0) == sum, ERR_CORRUPT,
	       "checksum of the record differs");
	c->len = len - DESC_SUM_BYTES;
	TRY(rcur_u8(c, &name_len));
	ENSURE(name_len >= 1 && name_len <= DESC_NAME_MAX, ERR_CORRUPT,
	       "record name of %u bytes, 1..%u are allowed", name_len, DESC_NAME_MAX);
	TRY(rcur_copy(c, h.name, name_len));
	for (unsigned i = 0; i < name_len; i++) {
		/* Names go into messages: nothing but plain visible characters. */
		ENSURE(h.name[i] > 0x20 && h.name[i] < 0x7f, ERR_CORRUPT,
		       "record name holds byte 0x%02x", (unsigned char)h.name[i]);
	}
	TRY(rcur_u32(c, &h.instance));
	TRY(rcur_u16(c, &h.version));
	*ret_head = h;
	return NULL;
}

static struct err *open_record(const void *p, size_t len, struct rcur *ret_cur,
			       struct desc_head *ret_head)
{
	ENSURE(len <= PART_BYTES_MAX, ERR_CORRUPT, "record of %zu bytes, at most %llu are allowed",
	       len, PART_BYTES_MAX);
	ENSURE(len >= DESC_HEAD_MIN + DESC_SUM_BYTES, ERR_CORRUPT,
	       "record of %zu bytes is cut short, at least %u are needed", len,
	       DESC_HEAD_MIN + DESC_SUM_BYTES);
	*ret_cur = rcur_of(p, len);
	return read_head(ret_cur, len, ret_head);
}

struct err *desc_peek(const void *p, size_t len, struct desc_head *ret_head)
{
	struct rcur c;
	return open_record(p, len, &c, ret_head);
}

static struct err *decode_record(const struct state_desc *d, uint32_t instance, const void *p,
				 size_t len, uint8_t *state)
{
	struct rcur c;
	struct desc_head h;
	TRY(open_record(p, len, &c, &h));
	ENSURE(strcmp(h.name, d->name) == 0 && h.instance == instance, ERR_CORRUPT,
	       "record of %s/%u stands in its place", h.name, h.instance);
	TRY(check_version(d, h.version));
	return decode_fields(d, h.version, &c, state);
}

struct err *desc_decode(const struct state_desc *d, uint32_t instance, const void *p, size_t len,
			void *ret_state)
{
	SCOPE(freep) uint8_t *side = calloc(1, d->size);
	ENSURE(side != NULL, ERR_SYS, "part %s/%u: out of memory", d->name, instance);
	TRY(err_wrap(decode_record(d, instance, p, len, side), "part %s/%u", d->name, instance));
	memcpy(ret_state, side, d->size);
	return NULL;
}
