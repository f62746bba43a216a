/* SPDX-License-Identifier: Apache-2.0 */
/* zstd behind an interface. See zcodec.h. One thread per struct zcodec. */
#include "store/zcodec.h"

#include <errno.h>
#include <zstd.h>
#include <zstd_errors.h>

struct zcodec {
	int level;
	ZSTD_CCtx *c; /* NULL until something is compressed */
	ZSTD_DCtx *d; /* NULL until something is decoded */
};

struct err *zcodec_new(int level, struct zcodec **ret_z)
{
	if (level == 0) {
		level = ZCODEC_LEVEL_DEFAULT;
	}
	ENSURE(level >= ZSTD_minCLevel() && level <= ZSTD_maxCLevel(), ERR_LIMIT,
	       "compression level %d is outside %d..%d", level, ZSTD_minCLevel(), ZSTD_maxCLevel());
	struct zcodec *z = calloc(1, sizeof(*z));
	if (z == NULL) {
		return ERR_SYSNO(ENOMEM, "compression context");
	}
	z->level = level;
	*ret_z = z;
	return NULL;
}

void zcodec_free(struct zcodec *z)
{
	if (z == NULL) {
		return;
	}
	ZSTD_freeCCtx(z->c);
	ZSTD_freeDCtx(z->d);
	free(z);
}

static struct err *make_cctx(struct zcodec *z)
{
	z->c = ZSTD_createCCtx();
	if (z->c == NULL) {
		return ERR_SYSNO(ENOMEM, "compression context");
	}
	const struct {
		ZSTD_cParameter param;
		int value;
	} set[] = {
		{ ZSTD_c_compressionLevel, z->level },
		{ ZSTD_c_contentSizeFlag, 0 },
		{ ZSTD_c_checksumFlag, 0 },
		{ ZSTD_c_dictIDFlag, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(set); i++) {
		size_t rc = ZSTD_CCtx_setParameter(z->c, set[i].param, set[i].value);
		BUG_ON(ZSTD_isError(rc)); /* level checked in zcodec_new, flags are 0 */
	}
	return NULL;
}

struct err *zcodec_compress(struct zcodec *z, void *dst, size_t cap, const void *src, size_t len,
			    size_t *ret_len)
{
	if (z->c == NULL) {
		TRY(make_cctx(z));
	}
	size_t rc = ZSTD_compress2(z->c, dst, cap, src, len);
	if (!ZSTD_isError(rc)) {
		*ret_len = rc;
		return NULL;
	}
	if (ZSTD_getErrorCode(rc) == ZSTD_error_dstSize_tooSmall) {
		*ret_len = 0;
		return NULL;
	}
	return ERR_SYSNO(ENOMEM, "compressing %zu bytes: %s", len, ZSTD_getErrorName(rc));
}

struct err *zcodec_decompress(struct zcodec *z, void *dst, size_t want, const void *src, size_t len)
{
	if (z->d == NULL) {
		z->d = ZSTD_createDCtx();
		if (z->d == NULL) {
			return ERR_SYSNO(ENOMEM, "decompression context");
		}
	}
	size_t rc = ZSTD_decompressDCtx(z->d, dst, want, src, len);
	ENSURE(!ZSTD_isError(rc), ERR_CORRUPT, "%zu compressed bytes do not decode: %s", len,
	       ZSTD_getErrorName(rc));
	ENSURE(rc == want, ERR_CORRUPT, "%zu compressed bytes decode to %zu bytes, not %zu", len,
	       rc, want);
	return NULL;
}
