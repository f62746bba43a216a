/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proof of the record decoder: desc_decode over any bytes of BYTES_MIN to BYTES_MAX, by a small
 * table that has every kind of field (-DFLAT: all but arrays of records), has no undefined
 * behaviour, whatever the checksum. The bytes end where their object ends. Parsed by Frama-C only
 * (tests/proofs/run).
 */
#include "__fc_builtin.h"
#include "snapshot/desc.h"

/* Frama-C has no _Generic: the kind by the size, which does for all but bool. */
#undef FIELD_KIND_OF
#define FIELD_KIND_OF(x)                                                                           \
	(sizeof(x) == 1   ? FIELD_U8                                                               \
	 : sizeof(x) == 2 ? FIELD_U16                                                              \
	 : sizeof(x) == 4 ? FIELD_U32                                                              \
			  : FIELD_U64)

#ifndef BYTES_MAX
#define BYTES_MAX 160
#endif
#ifndef BYTES_MIN
#define BYTES_MIN 0
#endif

struct inner {
	uint16_t a;
	uint8_t pad[2];
};
static const struct state_field inner_fields[] = {
	FIELD(struct inner, 1, a),
	PAD(struct inner, pad),
};
static const struct state_desc inner_desc = {
	.name = "inner",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct inner),
	.fields = inner_fields,
	.nfields = ARRAY_LEN(inner_fields),
};

struct outer {
	uint32_t n;
	uint32_t m;
	uint64_t u64;
	uint8_t u8;
	uint8_t fixed[3];
	uint8_t counted[4];
	uint16_t array[2];
	struct inner one;
	struct inner many[2];
};
static const struct state_field outer_fields[] = {
	FIELD(struct outer, 1, n),
	FIELD(struct outer, 2, m, FIELD_RANGE(0, 2)),
	FIELD(struct outer, 3, u64, .since = 2, .dflt = 5),
	FIELD(struct outer, 4, u8),
	FIELD_BLOB(struct outer, 5, fixed),
	FIELD_VBLOB(struct outer, 6, counted, n),
	FIELD_ARR(struct outer, 7, array),
	FIELD_SUB(struct outer, 8, one, &inner_desc),
#ifndef FLAT
	FIELD_VSUBS(struct outer, 9, many, m, &inner_desc),
#endif
};
static const struct state_desc outer_desc = {
	.name = "o",
	.version = 2,
	.oldest = 1,
	.size = sizeof(struct outer),
	.fields = outer_fields,
	.nfields = ARRAY_LEN(outer_fields),
};

#ifndef NAME_MAX
#define NAME_MIN 0
#define NAME_MAX 255
#endif

static uint8_t bytes[BYTES_MAX];

/* The name's length decides where everything behind it lies: one analysis for each. */
void main(void)
{
	for (size_t len = BYTES_MIN; len <= BYTES_MAX; len++) {
		for (unsigned name_len = NAME_MIN; name_len <= NAME_MAX; name_len++) {
			struct outer state;
			struct desc_head head;
			Frama_C_make_unknown((char *)bytes, sizeof(bytes));
			uint8_t *p = bytes + (BYTES_MAX - len);
			if (len > 8) {
				p[8] = name_len;
			}
			struct err *e = desc_peek(p, len, &head);
			e = desc_decode(&outer_desc, 0, p, len, &state);
			if (e == NULL) {
				Frama_C_show_each_decoded(state.n, state.m);
			}
		}
	}
}
