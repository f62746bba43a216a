/* SPDX-License-Identifier: Apache-2.0 */
/* Between the parts of the load guest: load.c (disk, network, console), load_vsock.c. */
#ifndef TESTS_GUEST_LOAD_H
#define TESTS_GUEST_LOAD_H

#include "vdrv.h"

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);

/* 64 bits that follow from v and look like nothing. */
static inline uint64_t load_mix(uint64_t v)
{
	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ v >> 27) * 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

bool vsock_begin(uint64_t features, unsigned vec); /* false: there is no such device */
bool vsock_turn(void);				   /* did it do anything? */
void vsock_tell(void);				   /* " vsock WORDS BACK CONNECTIONS RESETS" */

#endif
