/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compression: the only user of zstd. A struct zcodec holds the contexts of one thread; they are
 * made at first use, so one that only decodes costs no compressor.
 *
 * Compressed bytes carry neither their decoded length nor a checksum nor a dictionary id: the
 * record around them has the first two.
 */
#ifndef TORPOR_STORE_ZCODEC_H
#define TORPOR_STORE_ZCODEC_H

#include "core/base/err.h"

#define ZCODEC_LEVEL_DEFAULT 1

struct zcodec;

/* level 0 is the default. Errors: ERR_LIMIT (level out of zstd's range), ERR_SYS (memory). */
MUST_USE struct err *zcodec_new(int level, struct zcodec **ret_z);
void zcodec_free(struct zcodec *z);
DEFINE_SCOPE(struct zcodec, zcodec_free)

/*
 * Compresses len bytes into at most cap. *ret_len is 0 when they do not fit; dst is scratch then.
 * Errors: ERR_SYS (memory).
 */
MUST_USE struct err *zcodec_compress(struct zcodec *z, void *dst, size_t cap, const void *src,
				     size_t len, size_t *ret_len);
/*
 * Decodes exactly want bytes into dst, never more. Errors: ERR_CORRUPT (not zstd, damaged, or
 * another length), ERR_SYS (memory). dst is scratch after an error.
 */
MUST_USE struct err *zcodec_decompress(struct zcodec *z, void *dst, size_t want, const void *src,
				       size_t len);

#endif
