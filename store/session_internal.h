/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of a writing session, shared by session.c (life, writer thread, blobs, publish) and
 * session_map.c (maps). Includable only by session*.c.
 */
#ifndef TORPOR_STORE_SESSION_INTERNAL_H
#define TORPOR_STORE_SESSION_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "store/family.h"
#include "store/mapbase.h"
#include "store/mapbuild.h"
#include "store/pack.h"

struct map_out {
	struct snap_map info;
	/*
	 * Owned. [twrite until it is joined], but an element is cleared by the caller's thread
	 * before the first chunk of that leaf is queued. Leaves that get no chunk are the base's.
	 */
	struct node_child *leaf;
	uint64_t nleaves;
	uint64_t shared_from;     /* snapshot id, 0: written by this session */
	struct mapbase *base;     /* owned; what it starts from, NULL: all zero */
	struct pack_leaf **state; /* owned, by leaf; NULL unless pages may be given again */
};

struct blob_out {
	struct snap_blob ref;
	uint8_t *p; /* owned */
};

struct session {
	struct family *f;
	struct session_opts opts;
	struct holder holder;
	struct pend_rec pend;
	bool reserved; /* the pend record may exist */
	bool over;
	atomic_ullong next_id; /* taken by workers (next_id) and by publish, after the workers */

	struct pack *pack; /* NULL before the first map */
	pthread_t writer;
	bool writing;           /* twrite runs and is to be joined */
	struct err *writer_err; /* [twrite until it is joined] */
	uint64_t inside_bytes;  /* [twrite] free pages in the file that are still unused */
	uint64_t ahead_bytes;   /* [twrite] allocated behind the end and not used yet */
	bool grew;              /* [twrite] something was allocated ahead */

	struct map_out map[STORE_MAPS_MAX];
	unsigned nmaps;
	bool map_open; /* the last of map[] */
	uint64_t next_page;
	struct pack_chunk chunk; /* of the open map; its leaf is not queued yet */
	bool chunk_used;
	uint8_t *hold;         /* owned: one leaf's pages, when session_settle falls into a leaf */
	struct blob_out *blob; /* owned */
	unsigned nblobs;
	size_t blob_bytes;
};

/* ERR_NOT_NOW once it has been published or has failed to be. */
MUST_USE struct err *session_check_running(const struct session *s);
/* Starts the pool and twrite, at the first map. */
MUST_USE struct err *session_start_writing(struct session *s);
/* The pool's opts.load. Any thread of the pool. */
MUST_USE struct err *session_map_load(void *arg, const struct pack_chunk *c,
				      struct pack_leaf *ret_leaf);
/* Neither the pool nor twrite run any more. */
void session_map_done(struct map_out *m);

#endif
