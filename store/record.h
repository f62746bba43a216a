/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all records of a store have in common: a magic number per kind, a format version, the
 * record's own id, and a checksum that also covers the family's uuid. A record that is damaged,
 * torn, stale or found under another record's key is refused.
 *
 *	0	u32	magic (enum record_kind)
 *	4	u8	version
 *	5	3 bytes	zero
 *	8	u64	id
 *	16	body
 *	len-8	u64	XXH3-64 over bytes [0, len-8), seed record_seed(kind, uuid, id, 0)
 *
 * Frames have a layout of their own (frame.h) with the same first 5 bytes and the same id at 8.
 * Used by all of store/, on any thread; no state.
 */
#ifndef TORPOR_STORE_RECORD_H
#define TORPOR_STORE_RECORD_H

#include "core/base/bytes.h"
#include "core/base/err.h"

#define RECORD_HEAD_BYTES 16u
#define RECORD_TAIL_BYTES 8u
#define RECORD_VERSION 1u

/* The magic numbers; as bytes on disk "TPFR", "TPLF", ... */
#define RECORD_MAGIC(a, b)                                                                         \
	((uint32_t)'T' | (uint32_t)'P' << 8 | (uint32_t)(a) << 16 | (uint32_t)(b) << 24)

enum record_kind {
	RECORD_FRAME = RECORD_MAGIC('F', 'R'), /* compressed pages */
	RECORD_LEAF = RECORD_MAGIC('L', 'F'),  /* where 512 pages are */
	RECORD_NODE = RECORD_MAGIC('N', 'D'),  /* where 64 leaves or nodes are */
	RECORD_BLOB = RECORD_MAGIC('B', 'L'),  /* opaque bytes */
	RECORD_SNAP = RECORD_MAGIC('S', 'N'),  /* one snapshot */
	RECORD_PEND = RECORD_MAGIC('P', 'E'),  /* one writing session */
	RECORD_LEASE = RECORD_MAGIC('L', 'E'), /* one reader's lease */
	RECORD_META = RECORD_MAGIC('M', 'E'),  /* counters and format of an environment */
	RECORD_VM = RECORD_MAGIC('V', 'M'),    /* a registered VM */
	RECORD_NAME = RECORD_MAGIC('N', 'A'),  /* a VM name's holder */
	RECORD_HINT = RECORD_MAGIC('H', 'I'),  /* opaque bytes that nothing depends on */
	RECORD_GUEST = RECORD_MAGIC('G', 'U'), /* what is wanted of a VM, and what became of it */
};

/* "frame", "leaf", ... for messages. */
const char *record_kind_name(enum record_kind kind);

/* Seed that binds a checksum to its place: kind, family, record id, and part within the record. */
uint64_t record_seed(enum record_kind kind, const uint8_t uuid[16], uint64_t id, uint32_t part);

/*
 * Starts a record in an empty *w; the caller then writes the body and calls record_seal. Both only
 * write; wbuf_check reports.
 */
void record_begin(struct wbuf *w, enum record_kind kind, uint64_t id);
void record_seal(struct wbuf *w, enum record_kind kind, const uint8_t uuid[16], uint64_t id);

/*
 * Checks magic, version, reserved bytes, id and checksum; *ret_body then runs over the body alone.
 * Errors: ERR_CORRUPT, ERR_INCOMPAT (another version, checksum or not), both naming kind and id.
 */
MUST_USE struct err *record_open(const void *p, size_t len, enum record_kind kind,
				 const uint8_t uuid[16], uint64_t id, struct rcur *ret_body);

#endif
