/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proof of the map decoders: leaf_decode and node_decode over any bytes of 0 to BYTES_MAX have no
 * undefined behaviour, whatever the checksum. The bytes end where their object ends. Parsed by
 * Frama-C only (tests/proofs/run).
 */
#include "__fc_builtin.h"
#include "store/mapcodec.h"

#ifndef BYTES_MAX
#define BYTES_MAX 96
#endif
#ifndef BYTES_MIN
#define BYTES_MIN 0
#endif

static uint8_t bytes[BYTES_MAX];
static uint8_t uuid[16];
static struct leaf leaf;
static struct node node;
static struct map_zero zero;

void main(void)
{
	Frama_C_make_unknown((char *)uuid, sizeof(uuid));
	Frama_C_make_unknown((char *)&zero, sizeof(zero));
	for (size_t len = BYTES_MIN; len <= BYTES_MAX; len++) {
		Frama_C_make_unknown((char *)bytes, sizeof(bytes));
		const uint8_t *p = bytes + (BYTES_MAX - len);
		uint64_t id = Frama_C_unsigned_long_interval(0, UINT64_MAX);
		struct err *e = leaf_decode(p, len, uuid, id, &leaf);
		unsigned level = Frama_C_unsigned_int_interval(1, NODE_LEVEL_MAX);
		e = node_decode(p, len, uuid, id, level, &zero, &node);
	}
}
