/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded cursors. See bytes.h. */
#include "core/base/bytes.h"

#include <errno.h>
#include <string.h>

static struct err *need(const struct rcur *c, size_t n)
{
	if (rcur_left(c) < n) {
		return ERR(ERR_CORRUPT, "ends at byte %zu where %zu more are needed at offset %zu",
			   c->len, n, c->pos);
	}
	return NULL;
}

struct err *rcur_take(struct rcur *c, size_t len, const uint8_t **ret)
{
	TRY(need(c, len));
	*ret = c->p + c->pos;
	c->pos += len;
	return NULL;
}

struct err *rcur_skip(struct rcur *c, size_t len)
{
	TRY(need(c, len));
	c->pos += len;
	return NULL;
}

struct err *rcur_copy(struct rcur *c, void *ret, size_t len)
{
	TRY(need(c, len));
	if (len > 0) {
		memcpy(ret, c->p + c->pos, len);
	}
	c->pos += len;
	return NULL;
}

struct err *rcur_u8(struct rcur *c, uint8_t *ret)
{
	return rcur_copy(c, ret, sizeof(*ret));
}

struct err *rcur_u16(struct rcur *c, uint16_t *ret)
{
	return rcur_copy(c, ret, sizeof(*ret));
}

struct err *rcur_u32(struct rcur *c, uint32_t *ret)
{
	return rcur_copy(c, ret, sizeof(*ret));
}

struct err *rcur_u64(struct rcur *c, uint64_t *ret)
{
	return rcur_copy(c, ret, sizeof(*ret));
}

struct err *rcur_varint(struct rcur *c, uint64_t *ret)
{
	uint64_t v = 0;
	size_t pos = c->pos;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		if (pos >= c->len) {
			return ERR(ERR_CORRUPT, "number cut short at offset %zu", c->pos);
		}
		uint8_t b = c->p[pos++];
		if (shift == 63 && b > 1) {
			return ERR(ERR_CORRUPT, "number over 64 bits at offset %zu", c->pos);
		}
		v |= (uint64_t)(b & 0x7f) << shift;
		if ((b & 0x80) == 0) {
			if (b == 0 && shift > 0) {
				return ERR(ERR_CORRUPT, "over-long number at offset %zu", c->pos);
			}
			*ret = v;
			c->pos = pos;
			return NULL;
		}
	}
	return ERR(ERR_CORRUPT, "number over 64 bits at offset %zu", c->pos);
}

struct err *rcur_end(const struct rcur *c)
{
	if (c->pos != c->len) {
		return ERR(ERR_CORRUPT, "%zu bytes left over at offset %zu", rcur_left(c), c->pos);
	}
	return NULL;
}

void wbuf_done(struct wbuf *w)
{
	free(w->p);
	*w = (struct wbuf){ .max = w->max };
}

void wbuf_reset(struct wbuf *w)
{
	w->len = 0;
	w->failed = 0;
}

uint8_t *wbuf_room(struct wbuf *w, size_t len)
{
	size_t want;
	if (w->failed != 0) {
		return NULL;
	}
	if (ADD_OVERFLOWS(w->len, len, &want) || want > w->max) {
		w->failed = E2BIG;
		return NULL;
	}
	if (want > w->cap) {
		size_t cap = w->cap < 256 ? 256 : w->cap;
		while (cap < want) {
			cap = cap > w->max / 2 ? w->max : cap * 2;
		}
		cap = MIN(cap, w->max);
		uint8_t *p = realloc(w->p, cap);
		if (p == NULL) {
			w->failed = ENOMEM;
			return NULL;
		}
		w->p = p;
		w->cap = cap;
	}
	uint8_t *at = w->p + w->len;
	w->len = want;
	return at;
}

void wbuf_put(struct wbuf *w, const void *p, size_t len)
{
	uint8_t *at = wbuf_room(w, len);
	if (at != NULL && len > 0) {
		memcpy(at, p, len);
	}
}

void wbuf_u8(struct wbuf *w, uint8_t v)
{
	wbuf_put(w, &v, sizeof(v));
}

void wbuf_u16(struct wbuf *w, uint16_t v)
{
	wbuf_put(w, &v, sizeof(v));
}

void wbuf_u32(struct wbuf *w, uint32_t v)
{
	wbuf_put(w, &v, sizeof(v));
}

void wbuf_u64(struct wbuf *w, uint64_t v)
{
	wbuf_put(w, &v, sizeof(v));
}

void wbuf_varint(struct wbuf *w, uint64_t v)
{
	while (v >= 0x80) {
		wbuf_u8(w, (uint8_t)(v | 0x80));
		v >>= 7;
	}
	wbuf_u8(w, (uint8_t)v);
}

void wbuf_patch_u32(struct wbuf *w, size_t at, uint32_t v)
{
	if (w->failed == 0) {
		BUG_ON(at > w->len || w->len - at < sizeof(v));
		put_le32(w->p + at, v);
	}
}

struct err *wbuf_check(const struct wbuf *w)
{
	if (w->failed == E2BIG) {
		return ERR(ERR_LIMIT, "record grows past its limit of %zu bytes", w->max);
	}
	if (w->failed != 0) {
		return ERR_SYSNO(w->failed, "writing a record");
	}
	return NULL;
}
