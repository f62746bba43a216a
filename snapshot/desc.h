/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Field tables: one const table per saved struct gives its encoding, decoding, range checks,
 * description, comparison and version history.
 *
 * A state struct holds what the guest can see: fixed-width members, no pointers, descriptors, locks
 * or host times. Its table lists every member (FIELD...), leaves members out only with a reason
 * (OMIT) and names padding (PAD); desc_check_coverage fails when a byte of the struct is in none of
 * them, so a forgotten member is a red test.
 *
 * Wire form of a record (little-endian; normative text in docs/format.md):
 *	u32 magic 'TPRC', u32 total length, u8 name length, name, u32 instance, u16 version,
 *	then per field in ascending tag order: u16 tag, u8 kind, u8 zero, u32 length, value;
 *	last u64 XXH3-64 over everything before it.
 * Scalars are stored in their own width, a sub-record as u16 version of its table and a nested field
 * list, arrays as u32 count (sub-records: and u16 version, and per element a u32 length) followed by
 * the elements, bytes as they are. Members a record is too old to have get `dflt` (arrays: zeros);
 * unused elements, OMIT and PAD members are zero after a decode. Tags are never reused; a tag's meaning never changes.
 *
 * Decoding is strict: unknown, missing, repeated or out-of-order tags, a wrong kind or length, a
 * value outside its range, trailing bytes: ERR_CORRUPT (ERR_INCOMPAT for a newer version), naming
 * part, field, tag and offset. The output is untouched unless everything is right.
 *
 * No I/O, no locks, any thread.
 */
#ifndef TORPOR_SNAPSHOT_DESC_H
#define TORPOR_SNAPSHOT_DESC_H

#include "core/base/bytes.h"

enum field_kind {
	FIELD_BOOL = 1, /* one byte, 0 or 1; a C bool */
	FIELD_U8 = 2,
	FIELD_U16 = 3,
	FIELD_U32 = 4,
	FIELD_U64 = 5,
	FIELD_BYTES = 6,  /* fixed number of bytes */
	FIELD_VBYTES = 7, /* u8 array of which a count member says how many bytes are used */
	FIELD_ARRAY = 8,  /* array of scalars, count fixed or in a count member */
	FIELD_RECORD = 9, /* nested struct */
	FIELD_RECORDS = 10, /* array of nested structs, count fixed or in a count member */
	FIELD_OMIT = 100, /* not saved; `why` says the reason */
	FIELD_PAD = 101,  /* compiler or UAPI padding, must read as zero after a load */
};

struct state_desc;

struct state_field {
	const char *name;
	uint16_t tag; /* 1.., ascending in the table; 0 for OMIT and PAD */
	uint8_t kind;
	uint8_t elem_kind; /* FIELD_ARRAY: kind of one element */
	uint16_t since;    /* first version that has it; 0 is 1 */
	size_t offset;
	size_t size;      /* bytes of the member in the struct (whole array) */
	size_t elem_size; /* arrays: bytes of one element */
	uint32_t max;     /* arrays: elements in the struct */
	const char *count_name; /* member that counts used elements (a u32 FIELD listed before); NULL: all */
	size_t count_offset;
	bool ranged;
	uint64_t lo, hi; /* inclusive, scalars only */
	uint64_t dflt;   /* scalar value when loading a record older than `since` */
	const struct state_desc *sub;
	const char *why; /* OMIT: the reason */
};

struct state_desc {
	const char *name; /* record name on the wire, 1..31 bytes */
	uint16_t version; /* written */
	uint16_t oldest;  /* oldest that is read */
	size_t size;      /* sizeof the struct */
	const struct state_field *fields;
	size_t nfields;
	/* Cross-field rules after decoding; NULL if none. Returns ERR_CORRUPT. */
	struct err *(*check)(const void *state);
};

/* The kind of a scalar member follows from its C type. */
#define FIELD_KIND_OF(x)                                                                           \
	_Generic((x), bool: FIELD_BOOL, uint8_t: FIELD_U8, uint16_t: FIELD_U16,                    \
		 uint32_t: FIELD_U32, uint64_t: FIELD_U64)
#define FIELD_MEMBER_(type, member)                                                                \
	.name = #member, .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)

/* Scalar member. Extra designators (.ranged = true, .lo =, .hi =, .since =, .dflt =) may follow. */
#define FIELD(type, tag_, member, ...)                                                             \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_KIND_OF(((type *)0)->member),  \
	  __VA_ARGS__ }
#define FIELD_RANGE(lo_, hi_) .ranged = true, .lo = (lo_), .hi = (hi_)
/* uint8_t member[N], all N bytes. */
#define FIELD_BLOB(type, tag_, member, ...)                                                        \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_BYTES, .elem_size = 1,         \
	  .max = sizeof(((type *)0)->member), __VA_ARGS__ }
/* uint8_t member[N] of which `count` (a uint32_t member) bytes are used. */
#define FIELD_VBLOB(type, tag_, member, count, ...)                                                \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_VBYTES, .elem_size = 1,        \
	  .max = sizeof(((type *)0)->member), .count_name = #count,                                \
	  .count_offset = offsetof(type, count), __VA_ARGS__ }
/* Array of scalars, all elements. */
#define FIELD_ARR(type, tag_, member, ...)                                                         \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_ARRAY,                         \
	  .elem_kind = FIELD_KIND_OF(((type *)0)->member[0]),                                      \
	  .elem_size = sizeof(((type *)0)->member[0]),                                             \
	  .max = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]),                     \
	  __VA_ARGS__ }
/* Array of scalars of which `count` (a uint32_t member) are used. */
#define FIELD_VARR(type, tag_, member, count, ...)                                                 \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_ARRAY,                         \
	  .elem_kind = FIELD_KIND_OF(((type *)0)->member[0]),                                      \
	  .elem_size = sizeof(((type *)0)->member[0]),                                             \
	  .max = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]),                     \
	  .count_name = #count, .count_offset = offsetof(type, count), __VA_ARGS__ }
/* Nested struct. */
#define FIELD_SUB(type, tag_, member, desc_, ...)                                                  \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_RECORD, .max = 1,              \
	  .elem_size = sizeof(((type *)0)->member), .sub = (desc_), __VA_ARGS__ }
/* Array of nested structs, all or `count` of them. */
#define FIELD_SUBS(type, tag_, member, desc_, ...)                                                 \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_RECORDS,                       \
	  .elem_size = sizeof(((type *)0)->member[0]),                                             \
	  .max = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]), .sub = (desc_),     \
	  __VA_ARGS__ }
#define FIELD_VSUBS(type, tag_, member, count, desc_, ...)                                         \
	{ FIELD_MEMBER_(type, member), .tag = (tag_), .kind = FIELD_RECORDS,                       \
	  .elem_size = sizeof(((type *)0)->member[0]),                                             \
	  .max = sizeof(((type *)0)->member) / sizeof(((type *)0)->member[0]), .sub = (desc_),     \
	  .count_name = #count, .count_offset = offsetof(type, count), __VA_ARGS__ }
#define OMIT(type, member, reason)                                                                 \
	{ FIELD_MEMBER_(type, member), .kind = FIELD_OMIT, .why = (reason) }
/* A padding member. Padding the compiler adds gets a member instead: no holes in state structs. */
#define PAD(type, member)                                                                          \
	{ FIELD_MEMBER_(type, member), .kind = FIELD_PAD }

/* Writes one record. Errors: ERR_LIMIT (over PART_BYTES_MAX), ERR_CORRUPT when the state breaks
 * its own rules (asserted before write: our own mistake is found before it is on disk). */
MUST_USE struct err *desc_encode(const struct state_desc *d, uint32_t instance, const void *state,
				 struct wbuf *out);
/* What a record says about itself; checks magic, length and checksum only. */
struct desc_head {
	char name[32];
	uint32_t instance;
	uint16_t version;
	uint32_t len_bytes; /* whole record */
};
MUST_USE struct err *desc_peek(const void *p, size_t len, struct desc_head *ret_head);
/* Decodes exactly one record of this desc and instance into *ret_state (d->size bytes). */
MUST_USE struct err *desc_decode(const struct state_desc *d, uint32_t instance, const void *p,
				 size_t len, void *ret_state);
/*
 * Compares two states field by field; ERR_NOT_NOW naming the first field that differs (path, index,
 * both values), NULL when equal. Unused array elements and omitted members do not count.
 */
MUST_USE struct err *desc_compare(const struct state_desc *d, const void *a, const void *b);
/* Checks the table itself: every byte covered exactly once, tags ascending, counts before arrays. */
MUST_USE struct err *desc_check_coverage(const struct state_desc *d);
/* One line per table and per field ("tag kind name ..."), for docs/desc.lock; recursive. */
void desc_dump(const struct state_desc *d, struct wbuf *out);
/* JSON object text of a state, for `snapshot show`. */
void desc_show_json(const struct state_desc *d, const void *state, struct wbuf *out);

#endif
