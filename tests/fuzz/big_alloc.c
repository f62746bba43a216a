/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large buffers of a fuzz target are kept and used again. AddressSanitizer maps and unmaps each
 * block of more than 128 KiB, which was nine tenths of the time of some targets. The linker puts
 * these functions in place of the allocator's for the program's own code (--wrap); libraries and
 * small blocks go on to the sanitizer. A block is used again only for its own size, so its end is
 * guarded as before; between two uses it is poisoned. libFuzzer's programs only; threads of the
 * target may call it.
 */
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/check.h"

#define BIG_BYTES (48 * 1024u)
#define BLOCKS_MAX 64u /* in use or kept: a target that needs more leaks */
/* Of a kept block this much is poisoned at each end: all of it would cost more than it finds. */
#define POISON_BYTES (16 * 1024u)

void *__real_malloc(size_t len);
void *__real_calloc(size_t n, size_t len);
void *__real_realloc(void *p, size_t len);
void __real_free(void *p);
void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t n, size_t len);
void *__wrap_realloc(void *p, size_t len);
void __wrap_free(void *p);

static struct block {
	void *p;
	size_t len;
	bool used;
} blocks[BLOCKS_MAX];    /* [lock] */
static unsigned nblocks; /* [lock] */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void poison(const struct block *b, bool on)
{
	char *p = b->p;
	size_t n = MIN(b->len / 2, (size_t)POISON_BYTES);
	if (on) {
		__asan_poison_memory_region(p, n);
		__asan_poison_memory_region(p + b->len - n, n);
	} else {
		__asan_unpoison_memory_region(p, n);
		__asan_unpoison_memory_region(p + b->len - n, n);
	}
}

/* A block of this size. Where the table is full a kept one of another size makes room. */
static void *big_get(size_t len)
{
	struct block *place = NULL;
	for (unsigned i = 0; i < nblocks; i++) {
		struct block *b = &blocks[i];
		if (!b->used && b->len == len) {
			b->used = true;
			poison(b, false);
			return b->p;
		}
		place = b->used ? place : b;
	}
	if (nblocks < BLOCKS_MAX) {
		place = &blocks[nblocks++];
	} else {
		BUG_ON(place == NULL); /* a leak */
		poison(place, false);
		__real_free(place->p);
	}
	*place = (struct block){ __real_malloc(len), len, true };
	BUG_ON(place->p == NULL);
	return place->p;
}

/* The block that p is; NULL for a small one. */
static struct block *find(const void *p)
{
	for (unsigned i = 0; i < nblocks; i++) {
		if (blocks[i].p == p) {
			return &blocks[i];
		}
	}
	return NULL;
}

void *__wrap_malloc(size_t len)
{
	if (len < BIG_BYTES) {
		return __real_malloc(len);
	}
	pthread_mutex_lock(&lock);
	void *p = big_get(len);
	pthread_mutex_unlock(&lock);
	return p;
}

void *__wrap_calloc(size_t n, size_t len)
{
	size_t all;
	if (__builtin_mul_overflow(n, len, &all) || all < BIG_BYTES) {
		return __real_calloc(n, len);
	}
	void *p = __wrap_malloc(all);
	memset(p, 0, all);
	return p;
}

void __wrap_free(void *p)
{
	pthread_mutex_lock(&lock);
	struct block *b = p != NULL ? find(p) : NULL;
	if (b != NULL) {
		BUG_ON(!b->used); /* freed twice */
		b->used = false;
		poison(b, true);
	}
	pthread_mutex_unlock(&lock);
	if (b == NULL) {
		__real_free(p);
	}
}

void *__wrap_realloc(void *p, size_t len)
{
	pthread_mutex_lock(&lock);
	struct block *b = p != NULL ? find(p) : NULL;
	size_t was = b != NULL ? b->len : 0;
	pthread_mutex_unlock(&lock);
	if (b == NULL) {
		return __real_realloc(p, len);
	}
	void *q = __wrap_malloc(len);
	memcpy(q, p, MIN(was, len));
	__wrap_free(p);
	return q;
}
