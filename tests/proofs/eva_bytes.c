/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proof of the read cursor: any sequence of its calls over any bytes of 0 to BYTES_MAX, with any
 * lengths, has no undefined behaviour and keeps I1. The bytes end where their object ends, so that
 * a read of one more is an alarm. Parsed by Frama-C only (tests/proofs/run).
 */
#include "__fc_builtin.h"
#include "core/base/bytes.h"

#define BYTES_MAX 16

static uint8_t bytes[BYTES_MAX];

static void one_call(struct rcur *c, unsigned what, size_t n)
{
	const uint8_t *p;
	uint8_t out[BYTES_MAX];
	uint8_t v8;
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;
	struct err *e;
	switch (what) {
	case 0:
		e = rcur_u8(c, &v8);
		break;
	case 1:
		e = rcur_u16(c, &v16);
		break;
	case 2:
		e = rcur_u32(c, &v32);
		break;
	case 3:
		e = rcur_u64(c, &v64);
		break;
	case 4:
		e = rcur_varint(c, &v64);
		break;
	case 5:
		e = rcur_take(c, n, &p);
		if (e == NULL && n > 0) {
			volatile uint8_t first = p[0];
		}
		break;
	case 6:
		e = rcur_skip(c, n);
		break;
	case 7:
		/* The caller's promise: the output has room for what it asks for. */
		e = rcur_copy(c, out, n <= BYTES_MAX ? n : BYTES_MAX);
		break;
	default:
		e = rcur_end(c);
		break;
	}
	/*@ assert I1: c->pos <= c->len; */
}

/* From any state that keeps I1, one call: so any number of calls. */
void main(void)
{
	for (size_t len = 0; len <= BYTES_MAX; len++) {
		Frama_C_make_unknown((char *)bytes, sizeof(bytes));
		for (size_t pos = 0; pos <= len; pos++) {
			for (unsigned what = 0; what <= 8; what++) {
				struct rcur c = rcur_of(bytes + (BYTES_MAX - len), len);
				c.pos = pos;
				one_call(&c, what, Frama_C_unsigned_long_interval(0, UINT64_MAX));
			}
		}
	}
}
