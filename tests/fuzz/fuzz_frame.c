/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a frame as read from a store: metadata, then every sub-frame is decoded. Checksums
 * are set right first. Property: every slot of a parsed frame lies in the sub-frame that is named.
 */
#include <string.h>

#include "core/base/bytes.h"
#include "store/frame.h"
#include "store/record.h"
#include "tests/fuzz/fuzz.h"

#define ID 7u
/* Offsets in the head, docs/format.md. */
#define AT_NSLOTS 24u
#define AT_NSUB 26u
#define AT_LEN 28u

static const uint8_t uuid[16];

static void refused(struct err *e)
{
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
}

static void fix_head_sum(uint8_t *p, size_t len)
{
	if (len < FRAME_HEAD_BYTES) {
		return;
	}
	put_le32(p + AT_LEN, (uint32_t)len);
	size_t end = FRAME_HEAD_BYTES + (size_t)get_le16(p + AT_NSUB) * FRAME_SUB_ENTRY_BYTES +
		     (size_t)get_le16(p + AT_NSLOTS) * FRAME_DIGEST_BYTES;
	if (end + FRAME_SUM_BYTES <= len) {
		put_le64(p + end, hash_xxh3_64(p, end, record_seed(RECORD_FRAME, uuid, ID, 0)));
	}
}

static void run_sub(struct frame *f, unsigned s, struct zcodec *z)
{
	static uint8_t pages[FRAME_SUB_BYTES];
	struct frame_sub_at *at = &f->sub[s];
	BUG_ON(at->off > f->len || at->stored_len > f->len - at->off);
	at->sum = hash_xxh3_64(f->p + at->off, at->stored_len,
			       record_seed(RECORD_FRAME, uuid, ID, s + 1));
	struct err *e = frame_sub(f, s, z, pages);
	if (e != NULL) {
		refused(e);
		return;
	}
	e = frame_sub_digests(f, s, pages);
	if (e != NULL) {
		refused(e);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct zcodec *z;
	static struct frame f;
	if (z == NULL) {
		struct err *e = zcodec_new(0, &z);
		BUG_ON(e != NULL);
	}
	SCOPE(freep) uint8_t *p = malloc(len > 0 ? len : 1);
	BUG_ON(p == NULL);
	memcpy(p, data, len);
	fix_head_sum(p, len);
	struct err *e = frame_parse(p, len, uuid, ID, &f);
	if (e != NULL) {
		refused(e);
		return 0;
	}
	for (unsigned s = 0; s < f.nsub; s++) {
		run_sub(&f, s, z);
	}
	for (unsigned slot = 0; slot < f.nslots; slot++) {
		unsigned s = 0;
		unsigned page = 0;
		e = frame_slot(&f, slot, &s, &page);
		BUG_ON(e != NULL);
		BUG_ON(s >= f.nsub || page >= f.sub[s].npages ||
		       f.sub[s].first_slot + page != slot);
	}
	e = frame_slot(&f, f.nslots, &(unsigned){ 0 }, &(unsigned){ 0 });
	BUG_ON(e == NULL);
	err_free(e);
	return 0;
}
