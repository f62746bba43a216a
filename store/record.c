/* SPDX-License-Identifier: Apache-2.0 */
/* Record heads and checksums. See record.h. Any thread, no state. */
#include "store/record.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/hash.h"

const char *record_kind_name(enum record_kind kind)
{
	switch (kind) {
	case RECORD_FRAME:
		return "frame";
	case RECORD_LEAF:
		return "leaf";
	case RECORD_NODE:
		return "node";
	case RECORD_BLOB:
		return "blob";
	case RECORD_SNAP:
		return "snapshot record";
	case RECORD_PEND:
		return "session record";
	case RECORD_LEASE:
		return "lease";
	case RECORD_META:
		return "family record";
	case RECORD_VM:
		return "VM record";
	case RECORD_NAME:
		return "name record";
	case RECORD_HINT:
		return "hint";
	case RECORD_GUEST:
		return "guest record";
	}
	return "record";
}

uint64_t record_seed(enum record_kind kind, const uint8_t uuid[16], uint64_t id, uint32_t part)
{
	uint8_t place[32];
	put_le32(place, (uint32_t)kind);
	put_le32(place + 4, part);
	put_le64(place + 8, id);
	memcpy(place + 16, uuid, 16);
	return hash_xxh3_64(place, sizeof(place), 0);
}

void record_begin(struct wbuf *w, enum record_kind kind, uint64_t id)
{
	BUG_ON(w->len != 0);
	wbuf_u32(w, (uint32_t)kind);
	wbuf_u32(w, RECORD_VERSION); /* and three zero bytes */
	wbuf_u64(w, id);
}

void record_seal(struct wbuf *w, enum record_kind kind, const uint8_t uuid[16], uint64_t id)
{
	if (w->failed != 0) {
		return; /* sticky: wbuf_check tells */
	}
	BUG_ON(w->len < RECORD_HEAD_BYTES);
	wbuf_u64(w, hash_xxh3_64(w->p, w->len, record_seed(kind, uuid, id, 0)));
}

struct err *record_open(const void *p, size_t len, enum record_kind kind, const uint8_t uuid[16],
			uint64_t id, struct rcur *ret_body)
{
	const char *name = record_kind_name(kind);
	const uint8_t *b = p;
	ENSURE(len >= RECORD_HEAD_BYTES + RECORD_TAIL_BYTES, ERR_CORRUPT,
	       "%s %" PRIu64 ": only %zu bytes long", name, id, len);
	ENSURE(get_le32(b) == (uint32_t)kind, ERR_CORRUPT,
	       "%s %" PRIu64 ": magic number is 0x%08" PRIx32 ", not 0x%08" PRIx32, name, id,
	       get_le32(b), (uint32_t)kind);
	ENSURE(b[4] == RECORD_VERSION, ERR_INCOMPAT,
	       "%s %" PRIu64 ": format version %u is not known here, only %u", name, id, b[4],
	       RECORD_VERSION);
	uint64_t sum = hash_xxh3_64(b, len - RECORD_TAIL_BYTES, record_seed(kind, uuid, id, 0));
	ENSURE(get_le64(b + len - RECORD_TAIL_BYTES) == sum, ERR_CORRUPT,
	       "%s %" PRIu64 ": checksum differs (%zu bytes)", name, id, len);
	ENSURE(b[5] == 0 && b[6] == 0 && b[7] == 0, ERR_CORRUPT,
	       "%s %" PRIu64 ": reserved bytes at offset 5 are not zero", name, id);
	ENSURE(get_le64(b + 8) == id, ERR_CORRUPT, "%s %" PRIu64 ": calls itself %" PRIu64, name,
	       id, get_le64(b + 8));
	*ret_body = rcur_of(b + RECORD_HEAD_BYTES, len - RECORD_HEAD_BYTES - RECORD_TAIL_BYTES);
	return NULL;
}
