/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building and reading frames. See frame.h; the bytes are in docs/format.md. Called by the
 * compressor pool, the readers and verify, on their threads; no state of its own.
 *
 *	head | sub-frame table | page digests | checksum of these three | sub-frames' bytes
 */
#include "store/frame.h"

#include <inttypes.h>
#include <string.h>

#include "core/base/bytes.h"
#include "store/record.h"

#define FRAME_CODEC_ZSTD 1u
#define FRAME_DIGEST_XXH3_128 1u
#define FRAME_SUB_RAW 1u /* flag of a table entry */

/* Offsets in the head. */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_CODEC = 5,
	AT_DIGEST = 6,
	AT_ZERO = 7,
	AT_ID = 8,
	AT_DICT = 16,
	AT_KEY = 20,
	AT_NSLOTS = 24,
	AT_NSUB = 26,
	AT_LEN = 28,
};

/* Offsets in an entry of the sub-frame table. */
enum {
	ENTRY_LEN = 0,
	ENTRY_NPAGES = 2,
	ENTRY_FLAGS = 3,
	ENTRY_SUM = 4,
};

_Static_assert(FRAME_HEAD_BYTES == AT_LEN + 4, "head size");
_Static_assert(FRAME_SUB_ENTRY_BYTES == ENTRY_SUM + 8, "table entry size");
_Static_assert(FRAME_DIGEST_BYTES == sizeof(struct hash128), "digest size");
_Static_assert(FRAME_SUB_BYTES <= UINT16_MAX && FRAME_SLOTS_MAX <= UINT16_MAX, "u16 fields");

/* Bytes in front of the sub-frames. */
static size_t front_bytes(unsigned nsub, unsigned nslots)
{
	return FRAME_HEAD_BYTES + (size_t)nsub * FRAME_SUB_ENTRY_BYTES +
	       (size_t)nslots * FRAME_DIGEST_BYTES + FRAME_SUM_BYTES;
}

/* Part 0 of the seed is the front, part n + 1 is sub-frame n. */
static uint64_t front_sum(const uint8_t *p, size_t front, const uint8_t uuid[16], uint64_t id)
{
	return hash_xxh3_64(p, front - FRAME_SUM_BYTES, record_seed(RECORD_FRAME, uuid, id, 0));
}

static uint64_t sub_sum(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
			unsigned sub)
{
	return hash_xxh3_64(p, len, record_seed(RECORD_FRAME, uuid, id, sub + 1));
}

/* ---- writing ---- */

void frame_builder_begin(struct frame_builder *b, const uint8_t uuid[16], uint64_t id)
{
	BUG_ON(id == 0);
	memcpy(b->uuid, uuid, 16);
	b->id = id;
	b->nslots = 0;
	b->nsub = 0;
	b->payload_len = 0;
}

size_t frame_builder_bytes(const struct frame_builder *b)
{
	return front_bytes(b->nsub, b->nslots) + b->payload_len;
}

bool frame_builder_fits(const struct frame_builder *b, const struct frame_sub_in *in)
{
	BUG_ON(in->npages == 0 || in->npages > FRAME_SUB_PAGES || in->stored_len == 0);
	BUG_ON(in->raw ? in->stored_len != in->npages * PAGE_BYTES
		       : in->stored_len >= in->npages * PAGE_BYTES);
	return b->nsub < FRAME_SUBS_MAX &&
	       front_bytes(b->nsub + 1, b->nslots + in->npages) + b->payload_len + in->stored_len <=
		       FRAME_BYTES_MAX;
}

bool frame_builder_add(struct frame_builder *b, const struct frame_sub_in *in, unsigned *ret_slot)
{
	if (!frame_builder_fits(b, in)) {
		return false;
	}
	memcpy(b->payload + b->payload_len, in->stored, in->stored_len);
	uint8_t *entry = b->table + (size_t)b->nsub * FRAME_SUB_ENTRY_BYTES;
	put_le16(entry + ENTRY_LEN, (uint16_t)in->stored_len);
	entry[ENTRY_NPAGES] = (uint8_t)in->npages;
	entry[ENTRY_FLAGS] = in->raw ? FRAME_SUB_RAW : 0;
	/* Over the copy: what is stored is what is summed, even if the source changed meanwhile. */
	put_le64(entry + ENTRY_SUM,
		 sub_sum(b->payload + b->payload_len, in->stored_len, b->uuid, b->id, b->nsub));
	memcpy(&b->digest[b->nslots], in->digest, in->npages * sizeof(in->digest[0]));
	*ret_slot = b->nslots;
	b->nsub++;
	b->nslots += in->npages;
	b->payload_len += in->stored_len;
	return true;
}

size_t frame_builder_finish(const struct frame_builder *b, uint8_t *out)
{
	BUG_ON(b->nsub == 0);
	size_t front = front_bytes(b->nsub, b->nslots);
	size_t len = front + b->payload_len;
	size_t table_bytes = (size_t)b->nsub * FRAME_SUB_ENTRY_BYTES;

	put_le32(out + AT_MAGIC, RECORD_FRAME);
	out[AT_VERSION] = RECORD_VERSION;
	out[AT_CODEC] = FRAME_CODEC_ZSTD;
	out[AT_DIGEST] = FRAME_DIGEST_XXH3_128;
	out[AT_ZERO] = 0;
	put_le64(out + AT_ID, b->id);
	put_le32(out + AT_DICT, 0);
	put_le32(out + AT_KEY, 0);
	put_le16(out + AT_NSLOTS, (uint16_t)b->nslots);
	put_le16(out + AT_NSUB, (uint16_t)b->nsub);
	put_le32(out + AT_LEN, (uint32_t)len);
	memcpy(out + FRAME_HEAD_BYTES, b->table, table_bytes);
	memcpy(out + FRAME_HEAD_BYTES + table_bytes, b->digest,
	       (size_t)b->nslots * FRAME_DIGEST_BYTES);
	put_le64(out + front - FRAME_SUM_BYTES, front_sum(out, front, b->uuid, b->id));
	memcpy(out + front, b->payload, b->payload_len);
	return len;
}

struct err *frame_sub_pack(struct zcodec *z, const void *pages, unsigned npages,
			   const struct hash128 *digest, uint8_t *scratch,
			   struct frame_sub_in *ret_in)
{
	size_t raw_len = (size_t)npages * PAGE_BYTES;
	size_t len;
	/* Under a sixteenth gained is not worth a decode at every read. */
	TRY(zcodec_compress(z, scratch, raw_len - raw_len / 16, pages, raw_len, &len));
	*ret_in = (struct frame_sub_in){
		.stored = len > 0 ? scratch : pages,
		.stored_len = len > 0 ? len : raw_len,
		.npages = npages,
		.raw = len == 0,
		.digest = digest,
	};
	return NULL;
}

/* ---- reading ---- */

static struct err *check_head(const uint8_t *p, size_t len, uint64_t id)
{
	ENSURE(len >= FRAME_HEAD_BYTES && len <= FRAME_BYTES_MAX, ERR_CORRUPT,
	       "frame %" PRIu64 ": %zu bytes long, not %u..%u", id, len, FRAME_HEAD_BYTES,
	       FRAME_BYTES_MAX);
	ENSURE(get_le32(p + AT_MAGIC) == RECORD_FRAME, ERR_CORRUPT,
	       "frame %" PRIu64 ": magic number is 0x%08" PRIx32 ", not 0x%08" PRIx32, id,
	       get_le32(p + AT_MAGIC), (uint32_t)RECORD_FRAME);
	ENSURE(p[AT_VERSION] == RECORD_VERSION, ERR_INCOMPAT,
	       "frame %" PRIu64 ": format version %u is not known here, only %u", id, p[AT_VERSION],
	       RECORD_VERSION);
	ENSURE(get_le64(p + AT_ID) == id, ERR_CORRUPT, "frame %" PRIu64 ": calls itself %" PRIu64,
	       id, get_le64(p + AT_ID));
	ENSURE(get_le32(p + AT_LEN) == len, ERR_CORRUPT,
	       "frame %" PRIu64 ": calls itself %" PRIu32 " bytes long, has %zu", id,
	       get_le32(p + AT_LEN), len);
	return NULL;
}

/* After the checksum: what is still wrong here was written so. */
static struct err *check_kinds(const uint8_t *p, uint64_t id)
{
	ENSURE(p[AT_CODEC] == FRAME_CODEC_ZSTD, ERR_INCOMPAT,
	       "frame %" PRIu64 ": codec %u is not known here", id, p[AT_CODEC]);
	ENSURE(p[AT_DIGEST] == FRAME_DIGEST_XXH3_128, ERR_INCOMPAT,
	       "frame %" PRIu64 ": digest kind %u is not known here", id, p[AT_DIGEST]);
	ENSURE(p[AT_ZERO] == 0, ERR_CORRUPT, "frame %" PRIu64 ": reserved byte is not zero", id);
	ENSURE(get_le32(p + AT_DICT) == 0, ERR_INCOMPAT,
	       "frame %" PRIu64 ": needs dictionary %" PRIu32 ", dictionaries are not known here",
	       id, get_le32(p + AT_DICT));
	ENSURE(get_le32(p + AT_KEY) == 0, ERR_INCOMPAT,
	       "frame %" PRIu64 ": is encrypted, which is not known here", id);
	return NULL;
}

/* Decodes the table; every sub-frame lies within the record, back to back, all slots covered. */
static struct err *parse_table(struct frame *f, size_t front)
{
	size_t off = front;
	unsigned slot = 0;
	for (unsigned i = 0; i < f->nsub; i++) {
		const uint8_t *entry = f->p + FRAME_HEAD_BYTES + (size_t)i * FRAME_SUB_ENTRY_BYTES;
		unsigned len = get_le16(entry + ENTRY_LEN);
		unsigned npages = entry[ENTRY_NPAGES];
		bool raw = entry[ENTRY_FLAGS] == FRAME_SUB_RAW;
		ENSURE(npages >= 1 && npages <= FRAME_SUB_PAGES && (raw || entry[ENTRY_FLAGS] == 0),
		       ERR_CORRUPT, "frame %" PRIu64 " sub-frame %u: %u pages, flags 0x%x", f->id,
		       i, npages, entry[ENTRY_FLAGS]);
		ENSURE(raw ? len == npages * PAGE_BYTES : len >= 1 && len < npages * PAGE_BYTES,
		       ERR_CORRUPT, "frame %" PRIu64 " sub-frame %u: %u bytes for %u pages%s",
		       f->id, i, len, npages, raw ? " stored raw" : "");
		ENSURE(len <= f->len - off && npages <= f->nslots - slot, ERR_CORRUPT,
		       "frame %" PRIu64 " sub-frame %u: reaches past the end", f->id, i);
		f->sub[i] = (struct frame_sub_at){
			.off = (uint32_t)off,
			.stored_len = (uint16_t)len,
			.first_slot = (uint16_t)slot,
			.npages = (uint8_t)npages,
			.raw = raw,
			.sum = get_le64(entry + ENTRY_SUM),
		};
		off += len;
		slot += npages;
	}
	ENSURE(off == f->len && slot == f->nslots, ERR_CORRUPT,
	       "frame %" PRIu64 ": sub-frames cover %zu of %zu bytes and %u of %u slots", f->id,
	       off, f->len, slot, f->nslots);
	return NULL;
}

struct err *frame_parse(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
			struct frame *ret_frame)
{
	const uint8_t *b = p;
	TRY(check_head(b, len, id));
	unsigned nslots = get_le16(b + AT_NSLOTS);
	unsigned nsub = get_le16(b + AT_NSUB);
	ENSURE(nsub >= 1 && nsub <= FRAME_SUBS_MAX && nslots >= nsub && nslots <= FRAME_SLOTS_MAX,
	       ERR_CORRUPT, "frame %" PRIu64 ": %u slots in %u sub-frames", id, nslots, nsub);
	size_t front = front_bytes(nsub, nslots);
	ENSURE(front < len, ERR_CORRUPT,
	       "frame %" PRIu64 ": %zu bytes are too few for %u slots in %u sub-frames", id, len,
	       nslots, nsub);
	ENSURE(get_le64(b + front - FRAME_SUM_BYTES) == front_sum(b, front, uuid, id), ERR_CORRUPT,
	       "frame %" PRIu64 ": checksum of its head differs", id);
	TRY(check_kinds(b, id));

	struct frame *f = ret_frame;
	f->p = b;
	f->len = len;
	f->id = id;
	memcpy(f->uuid, uuid, 16);
	f->nslots = nslots;
	f->nsub = nsub;
	f->digests = b + front - FRAME_SUM_BYTES - (size_t)nslots * FRAME_DIGEST_BYTES;
	return parse_table(f, front);
}

size_t frame_front_bytes(const void *head)
{
	const uint8_t *p = head;
	return front_bytes(MIN((unsigned)get_le16(p + AT_NSUB), FRAME_SUBS_MAX),
			   MIN((unsigned)get_le16(p + AT_NSLOTS), FRAME_SLOTS_MAX));
}

struct err *frame_sub(const struct frame *f, unsigned sub, struct zcodec *z, uint8_t *out)
{
	BUG_ON(sub >= f->nsub);
	const struct frame_sub_at *at = &f->sub[sub];
	const uint8_t *stored = f->p + at->off;
	size_t want = (size_t)at->npages * PAGE_BYTES;
	ENSURE(sub_sum(stored, at->stored_len, f->uuid, f->id, sub) == at->sum, ERR_CORRUPT,
	       "frame %" PRIu64 " sub-frame %u: checksum differs", f->id, sub);
	if (at->raw) {
		memcpy(out, stored, want);
		return NULL;
	}
	return err_wrap(zcodec_decompress(z, out, want, stored, at->stored_len),
			"frame %" PRIu64 " sub-frame %u", f->id, sub);
}

struct err *frame_sub_digests(const struct frame *f, unsigned sub, const uint8_t *pages)
{
	BUG_ON(sub >= f->nsub);
	const struct frame_sub_at *at = &f->sub[sub];
	for (unsigned i = 0; i < at->npages; i++) {
		struct hash128 have = hash_xxh3_128(pages + (size_t)i * PAGE_BYTES, PAGE_BYTES);
		struct hash128 want = frame_digest(f, at->first_slot + i);
		ENSURE(memcmp(&have, &want, sizeof(have)) == 0, ERR_CORRUPT,
		       "frame %" PRIu64 " sub-frame %u: digest of slot %u differs", f->id, sub,
		       at->first_slot + i);
	}
	return NULL;
}

struct err *frame_slot(const struct frame *f, unsigned slot, unsigned *ret_sub, unsigned *ret_page)
{
	ENSURE(slot < f->nslots, ERR_CORRUPT, "frame %" PRIu64 ": has %u slots, no slot %u", f->id,
	       f->nslots, slot);
	unsigned low = 0;
	unsigned high = f->nsub - 1;
	while (low < high) { /* the last sub-frame that starts at or before slot (I1) */
		unsigned mid = (low + high + 1) / 2;
		if (f->sub[mid].first_slot <= slot) {
			low = mid;
		} else {
			high = mid - 1;
		}
	}
	*ret_sub = low;
	*ret_page = slot - f->sub[low].first_slot;
	return NULL;
}

struct hash128 frame_digest(const struct frame *f, unsigned slot)
{
	BUG_ON(slot >= f->nslots);
	struct hash128 d;
	memcpy(&d, f->digests + (size_t)slot * FRAME_DIGEST_BYTES, sizeof(d));
	return d;
}
