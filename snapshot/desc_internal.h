/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of desc share; for desc*.c and their unit test only. */
#ifndef TORPOR_SNAPSHOT_DESC_INTERNAL_H
#define TORPOR_SNAPSHOT_DESC_INTERNAL_H

#include "snapshot/desc.h"

#define DESC_MAGIC 0x43525054u /* "TPRC" */
#define DESC_NAME_MAX 31u
#define DESC_DEPTH_MAX 8u  /* tables within tables; deeper is a mistake in a table */
#define DESC_SUM_BYTES 8u  /* XXH3-64 at the end of a record */
#define DESC_HEAD_MIN (4u + 4u + 1u + 1u + 4u + 2u)

static inline bool desc_is_saved(const struct state_field *f)
{
	return f->kind != FIELD_OMIT && f->kind != FIELD_PAD;
}

/* First table version that has the field. */
static inline uint16_t desc_since(const struct state_field *f)
{
	return f->since > 1 ? f->since : 1;
}

/* Bytes of a scalar kind on the wire and in memory; 0 for every other kind. */
static inline size_t desc_scalar_size(uint8_t kind)
{
	switch (kind) {
	case FIELD_BOOL:
	case FIELD_U8:
		return 1;
	case FIELD_U16:
		return 2;
	case FIELD_U32:
		return 4;
	case FIELD_U64:
		return 8;
	default:
		return 0;
	}
}

/* "u32", "records", ...; "?" for a number that is no kind. */
const char *desc_kind_name(uint8_t kind);
/* Value of a scalar of that size; a bool is read as its byte. */
uint64_t desc_scalar_get(const void *p, size_t size);
/* Used elements of an array field, from its count member where it has one; may exceed f->max. */
uint32_t desc_count(const struct state_field *f, const void *state);
/* Formatted text at the end of out. */
void desc_text(struct wbuf *out, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
