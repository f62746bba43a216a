/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that take no signals: those are for the main loop; jail and store unblock what they need.
 */
#ifndef TORPOR_BASE_THREAD_H
#define TORPOR_BASE_THREAD_H

#include <pthread.h>

/* As pthread_create: 0 or an errno. */
int thread_start(pthread_t *ret_thread, void *(*fn)(void *arg), void *arg);

#endif
