/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bounded little-endian cursors: the only way to touch bytes that came from outside.
 *
 * struct rcur reads: every call checks the bound first, moves only on success, and a failed call
 * leaves the cursor and the output as they were. The caller keeps the memory alive.
 *
 * struct wbuf writes into memory that it owns and grows up to `max` bytes. Failure is sticky: after
 * one the buffer takes nothing more, and wbuf_check() reports it. Check once, before use.
 *
 * Invariants: I1 rcur.pos <= rcur.len. I2 wbuf.len <= wbuf.cap <= wbuf.max.
 * No locking: one thread at a time.
 */
#ifndef TORPOR_BASE_BYTES_H
#define TORPOR_BASE_BYTES_H

#include "core/base/err.h"

/* A borrowed run of bytes. */
struct bytes {
	const void *p;
	size_t len;
};

struct rcur {
	const uint8_t *p;
	size_t len;
	size_t pos;
};

static inline struct rcur rcur_of(const void *p, size_t len)
{
	return (struct rcur){ .p = p, .len = len, .pos = 0 };
}
static inline size_t rcur_left(const struct rcur *c)
{
	return c->len - c->pos;
}
/* Errors: ERR_CORRUPT, naming the offset, when fewer bytes are left. */
MUST_USE struct err *rcur_u8(struct rcur *c, uint8_t *ret);
MUST_USE struct err *rcur_u16(struct rcur *c, uint16_t *ret);
MUST_USE struct err *rcur_u32(struct rcur *c, uint32_t *ret);
MUST_USE struct err *rcur_u64(struct rcur *c, uint64_t *ret);
/* LEB128, at most 10 bytes, no over-long forms. */
MUST_USE struct err *rcur_varint(struct rcur *c, uint64_t *ret);
/* Copies len bytes out. */
MUST_USE struct err *rcur_copy(struct rcur *c, void *ret, size_t len);
/* Borrows len bytes in place. */
MUST_USE struct err *rcur_take(struct rcur *c, size_t len, const uint8_t **ret);
MUST_USE struct err *rcur_skip(struct rcur *c, size_t len);
/* ERR_CORRUPT when bytes are left over: every decoder ends with it. */
MUST_USE struct err *rcur_end(const struct rcur *c);

struct wbuf {
	uint8_t *p; /* owned */
	size_t len;
	size_t cap;
	size_t max;
	int failed; /* 0, or errno: ENOMEM, E2BIG */
};

static inline struct wbuf wbuf_make(size_t max)
{
	return (struct wbuf){ .max = max };
}
void wbuf_done(struct wbuf *w); /* frees; also for SCOPE(wbuf_done) */
void wbuf_reset(struct wbuf *w); /* empties, keeps the memory, clears the failure */
void wbuf_u8(struct wbuf *w, uint8_t v);
void wbuf_u16(struct wbuf *w, uint16_t v);
void wbuf_u32(struct wbuf *w, uint32_t v);
void wbuf_u64(struct wbuf *w, uint64_t v);
void wbuf_varint(struct wbuf *w, uint64_t v);
void wbuf_put(struct wbuf *w, const void *p, size_t len);
/* Room for len bytes to be filled by the caller; NULL after a failure. */
uint8_t *wbuf_room(struct wbuf *w, size_t len);
/* Overwrites a u32 that was written before at offset `at`. */
void wbuf_patch_u32(struct wbuf *w, size_t at, uint32_t v);
MUST_USE struct err *wbuf_check(const struct wbuf *w);

/* Unaligned little-endian access for memory whose bounds the caller has checked already. */
static inline uint16_t get_le16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}
static inline uint32_t get_le32(const void *p)
{
	uint32_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}
static inline uint64_t get_le64(const void *p)
{
	uint64_t v;
	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}
static inline void put_le16(void *p, uint16_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
static inline void put_le32(void *p, uint32_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
static inline void put_le64(void *p, uint64_t v)
{
	__builtin_memcpy(p, &v, sizeof(v));
}
static inline uint64_t get_be64(const void *p)
{
	return __builtin_bswap64(get_le64(p));
}
static inline void put_be64(void *p, uint64_t v)
{
	put_le64(p, __builtin_bswap64(v));
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "torpor runs on little-endian hosts");

#endif
