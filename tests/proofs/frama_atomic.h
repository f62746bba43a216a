/* SPDX-License-Identifier: Apache-2.0 */
/* C11's atomics, which Frama-C does not know, as plain accesses: of one thread they are just that. What the
 * guest changes meanwhile is in tests/proofs/eva_virtq.c. Included before everything else. */
#ifndef TORPOR_TESTS_FRAMA_ATOMIC_H
#define TORPOR_TESTS_FRAMA_ATOMIC_H

#define __FC_STDATOMIC
#define _Atomic
typedef int memory_order;
enum { memory_order_relaxed, memory_order_acquire, memory_order_release, memory_order_seq_cst };
#define atomic_load_explicit(p, order) (*(p))
#define atomic_store_explicit(p, v, order) ((void)(*(p) = (v)))
#define atomic_thread_fence(order) ((void)0)

#endif
