/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contracts for the deductive proofs (Frama-C's WP): of the read cursor, for cursors of any length, and
 * of what the decoders call. An error is made of nothing: texts are Eva's and the sanitizers' affair.
 * Included before the source file under proof; parsed by Frama-C only (tests/proofs/run).
 */
#ifndef TORPOR_TESTS_CONTRACTS_H
#define TORPOR_TESTS_CONTRACTS_H

#include "core/base/bytes.h"

/*@ assigns \nothing; ensures \result != \null; */
struct err *proof_err(void);
/*@ assigns \nothing; ensures \result != \null; */
struct err *err_trace(struct err *e, const char *file, int line);

#undef ERR
#define ERR(class, ...) proof_err()
#define err_wrap(e, ...) (e)

/*@ predicate cursor(struct rcur *c) =
      \valid(c) && c->pos <= c->len && \valid_read(c->p + (0 .. c->len - 1));
    predicate apart(struct rcur *c, char *p, integer n) =
      \separated(c, p + (0 .. n - 1)) && \separated(p + (0 .. n - 1), c->p + (0 .. c->len - 1));
*/

/*@ requires cursor(c);
    assigns \nothing;
    ensures \result == c->len - c->pos;
*/
static inline size_t rcur_left(const struct rcur *c);

/*@ requires cursor(c) && \valid(ret) && \separated(c, ret) && \separated(ret, c->p + (0 .. c->len - 1));
    assigns c->pos, *ret;
    ensures cursor(c);
    ensures \result == \null ==>
      c->pos == \old(c->pos) + len && *ret == c->p + \old(c->pos) && \valid_read(*ret + (0 .. len - 1));
    ensures \result != \null ==> c->pos == \old(c->pos) && *ret == \old(*ret);
*/
struct err *rcur_take(struct rcur *c, size_t len, const uint8_t **ret);

/*@ requires cursor(c);
    assigns c->pos;
    ensures cursor(c);
    ensures \result == \null ==> c->pos == \old(c->pos) + len;
    ensures \result != \null ==> c->pos == \old(c->pos);
*/
struct err *rcur_skip(struct rcur *c, size_t len);

/*@ requires cursor(c) && \valid(ret) && \separated(c, ret) && \separated(ret, c->p + (0 .. c->len - 1));
    assigns c->pos, *ret;
    ensures cursor(c);
    ensures \result == \null ==> \old(c->pos) < c->pos <= \old(c->pos) + 10;
    ensures \result != \null ==> c->pos == \old(c->pos) && *ret == \old(*ret);
*/
struct err *rcur_varint(struct rcur *c, uint64_t *ret);

/*@ requires cursor(c);
    assigns \nothing;
    ensures \result == \null <==> c->pos == c->len;
*/
struct err *rcur_end(const struct rcur *c);

/* Of this one only the callers are proved here: its memcpy into an object of another type is Eva's. */
/*@ requires cursor(c) && \valid(ret) && \separated(c, ret) && \separated(ret, c->p + (0 .. c->len - 1));
    assigns c->pos, *ret;
    ensures cursor(c);
    ensures \result == \null ==> c->pos == \old(c->pos) + 8;
    ensures \result != \null ==> c->pos == \old(c->pos) && *ret == \old(*ret);
*/
struct err *rcur_u64(struct rcur *c, uint64_t *ret);

#endif
