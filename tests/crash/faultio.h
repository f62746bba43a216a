/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that fails when it is told to: linked into a test, in the place of libc's functions. */
#ifndef TORPOR_TEST_FAULTIO_H
#define TORPOR_TEST_FAULTIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum faultio_kind {
	FAULTIO_EIO,    /* the n-th operation fails */
	FAULTIO_ENOSPC, /* the n-th one that may need room */
	FAULTIO_SHORT,  /* the n-th transfer moves half; others fail with EINTR if they may */
	FAULTIO_DEAD,   /* everything from the n-th on fails with EIO */
	FAULTIO_FULL,   /* everything that may need room, from the n-th on */
	FAULTIO_KINDS,
};

/* Only regular files of that device are meant. Counts from 1; n 0: count, fail nothing. */
void faultio_arm(dev_t dev, enum faultio_kind kind, uint64_t n);
/* Ends it; returns how many operations it has seen. *ret_fired: whether one failed. */
uint64_t faultio_disarm(bool *ret_fired);
/* The operation that failed first, e.g. "pwrite". */
const char *faultio_what(void);

#endif
