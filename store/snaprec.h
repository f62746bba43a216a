/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The small records of a family: snapshot, blob, pending session, counters. Their bytes are in
 * docs/format.md; each is sealed by record.h with the family's uuid. Pure functions, any thread.
 */
#ifndef TORPOR_STORE_SNAPREC_H
#define TORPOR_STORE_SNAPREC_H

#include "store/record.h"
#include "store/store.h"

#define SNAP_BLOBS_MAX 8192u /* PARTS_MAX and room for the engine's own */
#define SNAP_BYTES_MAX (512 * KIB)
#define BLOB_RECORD_BYTES_MAX (BLOB_BYTES_MAX + 64)
#define SNAP_MAP_BYTES_MAX (16384 * GIB) /* content of one map; bounds tables and walks */
#define SMALL_BYTES_MAX 1024u            /* pend and meta records */

struct snap_blob {
	uint16_t kind;
	uint16_t index;
	uint32_t len;
	struct sha256 digest;
};

struct snap_rec {
	struct snap_info info;
	bool hidden; /* removed, waiting for its leases to end */
	bool moved;  /* hidden, too: only the earlier place of snapshot info.parent's maps, waiting
		      * for that one's leases to end */
	struct snap_blob *blobs; /* owned; info.nblobs of them, ascending by (kind, index) */
};
void snaprec_done(struct snap_rec *r);

/* The root over the snapshot's content; docs/format.md, "Snapshot record". */
struct sha256 snaprec_root(const struct snap_rec *r);
void snaprec_encode(struct wbuf *w, const uint8_t uuid[16], const struct snap_rec *r);
/* Checks structure and limits, not the root (verify does). *ret_rec is to be done. */
MUST_USE struct err *snaprec_decode(const void *p, size_t len, const uint8_t uuid[16], uint64_t id,
				    struct snap_rec *ret_rec);

void blob_encode(struct wbuf *w, const uint8_t uuid[16], uint64_t snap_id, uint16_t kind,
		 uint16_t index, struct bytes data);
/* *ret_data borrows from p. */
MUST_USE struct err *blob_decode(const void *p, size_t len, const uint8_t uuid[16],
				 uint64_t snap_id, uint16_t kind, uint16_t index,
				 struct bytes *ret_data);

/* Beside a snapshot's blobs, under a kind that none has. *ret_data borrows from p. */
#define HINT_KIND 0xffffu
#define HINT_RECORD_BYTES_MAX (STORE_HINT_BYTES_MAX + 64)
void hint_encode(struct wbuf *w, const uint8_t uuid[16], uint64_t snap_id, struct bytes data);
MUST_USE struct err *hint_decode(const void *p, size_t len, const uint8_t uuid[16],
				 uint64_t snap_id, struct bytes *ret_data);

/* A session's own ids are [first, first + count). */
struct pend_rec {
	uint8_t holder[16];
	uint64_t first;
	uint64_t count;
	uint64_t started_ns; /* CLOCK_REALTIME; informative */
};
void pend_encode(struct wbuf *w, const uint8_t uuid[16], const struct pend_rec *r);
MUST_USE struct err *pend_decode(const void *p, size_t len, const uint8_t uuid[16],
				 const uint8_t holder[16], struct pend_rec *ret_rec);

/* A named counter or pair of counters. */
void meta_encode(struct wbuf *w, const uint8_t uuid[16], struct bytes key, uint64_t a, uint64_t b);
MUST_USE struct err *meta_decode(const void *p, size_t len, const uint8_t uuid[16],
				 struct bytes key, uint64_t *ret_a, uint64_t *ret_b);

/* Big-endian keys. */
struct key8 {
	uint8_t b[8];
};
struct key_blob {
	uint8_t b[12];
};
struct key8 key_of_id(uint64_t id);
struct key_blob key_of_blob(uint64_t snap_id, uint16_t kind, uint16_t index);
#define KEY_BYTES(k) ((struct bytes){ .p = (k).b, .len = sizeof((k).b) })
/* ERR_CORRUPT unless the key has the length of an id key. */
MUST_USE struct err *id_of_key(struct bytes key, const char *table, uint64_t *ret_id);

#endif
