/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a part record, against every field table a snapshot can hold. The record's checksum
 * is set right first, or nothing behind it would be reached. Properties: what decodes encodes
 * again, to the same bytes when all versions in it are today's, always to the same state; and shows
 * as JSON.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_tables.h"

/* Can a record of the newest version hold an older one? Then there is more than one encoding. */
static bool has_older(const struct state_desc *d)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_desc *sub = d->fields[i].sub;
		if (sub != NULL && (sub->oldest < sub->version || has_older(sub))) {
			return true;
		}
	}
	return false;
}

/* What was written decodes to the same state. */
static void decode_again(const struct state_desc *d, uint32_t instance, const struct wbuf *w,
			 const void *state)
{
	SCOPE(freep) void *again = calloc(1, d->size);
	BUG_ON(again == NULL);
	struct err *e = desc_decode(d, instance, w->p, w->len, again);
	BUG_ON(e != NULL);
	e = desc_compare(d, state, again);
	BUG_ON(e != NULL);
}

static void decode(const struct state_desc *d, uint32_t instance, const uint8_t *p, size_t len)
{
	SCOPE(freep) void *state = calloc(1, d->size);
	BUG_ON(state == NULL);
	struct err *e = desc_decode(d, instance, p, len, state);
	if (e != NULL) {
		fuzz_check_text(err_msg(e));
		err_drop(e, "hostile input is refused");
		return;
	}
	SCOPE(wbuf_done) struct wbuf again = wbuf_make(PART_BYTES_MAX);
	e = desc_encode(d, instance, state, &again);
	BUG_ON(e != NULL);
	struct desc_head head;
	e = desc_peek(p, len, &head);
	BUG_ON(e != NULL);
	bool newest = head.version == d->version && !has_older(d);
	BUG_ON(newest && (again.len != len || memcmp(again.p, p, len) != 0));
	decode_again(d, instance, &again, state);
	SCOPE(wbuf_done) struct wbuf json = wbuf_make(4 * PART_BYTES_MAX);
	desc_show_json(d, state, &json);
	BUG_ON(json.failed != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len > PART_BYTES_MAX) {
		return 0;
	}
	SCOPE(freep) uint8_t *p = malloc(len > 0 ? len : 1);
	BUG_ON(p == NULL);
	memcpy(p, data, len);
	if (len >= 16) {
		put_le64(p + len - 8, hash_xxh3_64(p, len - 8, 0));
	}
	struct desc_head head;
	struct err *e = desc_peek(p, len, &head);
	if (e != NULL) {
		err_drop(e, "hostile input is refused");
		return 0;
	}
	/* By name, as a load does it; and against all others, which must refuse. */
	for (size_t i = 0; i < ARRAY_LEN(fuzz_tables); i++) {
		decode(fuzz_tables[i], head.instance, p, len);
	}
	return 0;
}
